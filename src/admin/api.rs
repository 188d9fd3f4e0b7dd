//! What goes over the wire, both ways: the server writes what the command line's clients read, and the other way round.
//!
//! Requests are strict: an unknown field is a mistake, not noise. Answers are read leniently, so that a client understands
//! a newer server.

use crate::pool::AdminState;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};

/// `{"error": "…"}`: every answer that is not a success, but for `/register`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Error {
    /// What was wrong and what would have been right.
    pub error: String,
}

/// `GET /v1/status`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Status {
    /// Of the program.
    pub version: String,
    /// Since the start.
    pub uptime_seconds: u64,
    /// Counts changes of the configuration.
    pub generation: u64,
    /// `running` or `draining`.
    pub state: String,
    /// Where clients come in.
    pub listeners: Vec<Listener>,
    /// What they are balanced over.
    pub pools: Vec<PoolView>,
}

/// A listener.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Listener {
    /// Its name.
    pub name: String,
    /// Where it listens, with the real port; several are separated by a comma and a space.
    pub address: String,
    /// The name of its pool.
    pub pool: String,
    /// Open now.
    pub active_connections: u64,
    /// Since the start, refused ones included.
    pub accepted_total: u64,
    /// Since the start.
    pub refused_total: u64,
}

/// A pool.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PoolView {
    /// Its name.
    pub name: String,
    /// How a backend is chosen.
    pub algorithm: String,
    /// Its backends.
    pub backends: Vec<BackendView>,
}

/// A backend.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct BackendView {
    /// Its name; its address if it was given none.
    pub name: String,
    /// As configured.
    pub address: String,
    /// Its share.
    pub weight: u16,
    /// Serves only when no primary can.
    pub backup: bool,
    /// `up`, `down`, `draining` or `disabled`.
    pub state: String,
    /// Open now, or being dialled.
    pub active_connections: u64,
    /// Since it was added.
    pub connections_total: u64,
    /// Attempts that failed.
    pub connect_failures_total: u64,
    /// Bytes.
    pub bytes_to_backend_total: u64,
    /// Bytes.
    pub bytes_to_client_total: u64,
    /// How long connecting takes.
    pub connect_ms: ConnectMs,
    /// What probes say.
    pub health: Health,
    /// Where its name leads; empty while the name is not resolved.
    pub addresses: Vec<BackendAddress>,
}

/// One address of a backend.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct BackendAddress {
    /// Where it is.
    pub address: String,
    /// `up`: it takes its turn. `backoff`: clients failed there, and it is left out for a while. `down`: probes fail there.
    pub state: String,
    /// Connections that reached it.
    pub connections_total: u64,
    /// Of the last probe, in words; null before the first.
    pub last_result: Option<String>,
}

/// A backend that was added or changed.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Changed {
    /// As it is now.
    #[serde(flatten)]
    pub backend: BackendView,
    /// What the operator may not have meant, a line each: weights that the algorithm ignores, for one. Absent if there is none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}

/// How long connecting takes, in milliseconds: estimates from a histogram, null before the first connection.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct ConnectMs {
    /// Half of all are faster.
    pub p50: Option<f64>,
    /// All but a hundredth are.
    pub p99: Option<f64>,
}

/// What probes say of a backend.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Health {
    /// Of the last probe, in words; null before the first.
    pub last_result: Option<String>,
    /// How long ago it last came up or went down; null if it never did.
    pub last_change_seconds: Option<u64>,
}

/// `POST /v1/pools/P/backends`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewBackend {
    /// Where it is.
    pub address: String,
    /// Its share; 1 if absent.
    #[serde(default, deserialize_with = "count", skip_serializing_if = "Option::is_none")]
    pub weight: Option<u16>,
    /// Its name; its address if absent.
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Most connections at once.
    #[serde(default, deserialize_with = "count", skip_serializing_if = "Option::is_none")]
    pub max_connections: Option<u32>,
    /// Serves only when no primary can.
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    pub backup: Option<bool>,
}

/// `PATCH /v1/pools/P/backends/B`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Change {
    /// Its share.
    #[serde(default, deserialize_with = "count", skip_serializing_if = "Option::is_none")]
    pub weight: Option<u16>,
    /// May it be used?
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    pub state: Option<AdminState>,
}

/// `POST /v1/reload`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Reloaded {
    /// Was it only tried?
    pub dry_run: bool,
    /// The generation in force afterwards.
    pub generation: u64,
    /// What changed, a line each; empty if nothing did.
    pub changes: Vec<String>,
    /// What the operator may not have meant, a line each; empty if there is none.
    #[serde(default)]
    pub warnings: Vec<String>,
}

/// A reload that was refused: 400.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct NotReloaded {
    /// All mistakes in one text.
    pub error: String,
    /// Every mistake, a line each.
    pub mistakes: Vec<String>,
}

/// `POST /register`. Unknown fields are told apart from other mistakes, so they are collected instead of refused.
#[derive(Clone, Debug, Deserialize)]
pub struct Registration {
    /// Where the backend is.
    pub address: String,
    /// Its share.
    #[serde(default, deserialize_with = "count")]
    pub weight: Option<u16>,
}

/// What `/register` answers: JSend.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Registered {
    /// `success` or `fail`.
    pub status: String,
    /// What is registered now, or why it is not.
    pub data: RegisteredData,
}

/// See [`Registered`].
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(untagged)]
pub enum RegisteredData {
    /// It is registered.
    Success {
        /// Its address.
        server: String,
        /// Its share.
        weight: u16,
    },
    /// It is not.
    Fail {
        /// Why.
        title: String,
    },
}

/// A field that may be absent but not null: a client that sends null has lost a value.
fn present<'de, D: Deserializer<'de>, T: Deserialize<'de>>(from: D) -> Result<Option<T>, D::Error> {
    T::deserialize(from).map(Some)
}

/// As [`present`] for a whole number, however it is written (JSON has but one kind of number), with a message in the user's
/// words.
fn count<'de, D: Deserializer<'de>, T: TryFrom<u64> + Bounded>(from: D) -> Result<Option<T>, D::Error> {
    let number = serde_json::Number::deserialize(from)?;
    let whole = |float: &f64| float.fract() == 0.0 && (0.0..=T::MAX as f64).contains(float);
    let value = number.as_u64().or_else(|| number.as_f64().filter(whole).map(|float| float as u64));
    let wrong = || D::Error::custom(format!("expected a number from 0 to {}, got {number}", T::MAX));
    value.and_then(|value| T::try_from(value).ok()).map(Some).ok_or_else(wrong)
}

/// Numbers that know their end.
trait Bounded {
    const MAX: u64;
}

impl Bounded for u16 {
    const MAX: u64 = u16::MAX as u64;
}

impl Bounded for u32 {
    const MAX: u64 = u32::MAX as u64;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_strict_and_say_what_would_be_right() {
        let read = |body: &str| serde_json::from_str::<NewBackend>(body).map_err(|error| error.to_string());
        let good = read(r#"{"address":"a:1","weight":5.0,"max_connections":7,"backup":true,"name":"x"}"#).unwrap();
        assert_eq!((good.weight, good.max_connections, good.backup), (Some(5), Some(7), Some(true)));
        for (body, want) in [
            (r#"{"address":"a:1","weight":70000}"#, "expected a number from 0 to 65535, got 70000"),
            (r#"{"address":"a:1","weight":-1}"#, "expected a number from 0 to 65535, got -1"),
            (r#"{"address":"a:1","weight":1.5}"#, "got 1.5"),
            (r#"{"address":"a:1","weight":1e99}"#, "expected a number from 0 to 65535"),
            (r#"{"address":"a:1","weight":null}"#, "null"),
            (r#"{"address":"a:1","weight":"5"}"#, "string"),
            (r#"{"address":"a:1","name":null}"#, "null"),
            (r#"{"address":"a:1","max_connections":4294967296}"#, "4294967295"),
            (r#"{"address":"a:1","wieght":5}"#, "unknown field `wieght`"),
            (r#"{"weight":5}"#, "missing field `address`"),
        ] {
            let message = read(body).unwrap_err();
            assert!(message.contains(want), "{body}: {message}");
        }
        assert!(serde_json::from_str::<Change>(r#"{"state":"up"}"#).is_err());
    }
}
