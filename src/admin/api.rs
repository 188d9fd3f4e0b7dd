//! The JSON types of the API, shared by the server and the command line's clients.
//!
//! Requests are strict: an unknown field is an error. Clients ignore unknown fields of answers, so that they understand
//! a newer server.

use crate::pool::AdminState;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};

/// `{"error": "…"}`: every failure, except those of `/register`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Error {
    /// What is wrong and what was expected.
    pub error: String,
}

/// `GET /v1/status`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Status {
    /// The program's version.
    pub version: String,
    /// Seconds since the start.
    pub uptime_seconds: u64,
    /// Counts changes of the configuration.
    pub generation: u64,
    /// `running` or `draining`.
    pub state: String,
    /// All listeners.
    pub listeners: Vec<Listener>,
    /// All pools.
    pub pools: Vec<PoolView>,
}

/// A listener.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Listener {
    /// The listener's name.
    pub name: String,
    /// Where it listens, with the real port. A comma and a space separate several addresses.
    pub address: String,
    /// The pool's name.
    pub pool: String,
    /// Connections open now.
    pub active_connections: u64,
    /// Connections accepted since the start, refused ones included.
    pub accepted_total: u64,
    /// Connections refused since the start.
    pub refused_total: u64,
}

/// A pool.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PoolView {
    /// The pool's name.
    pub name: String,
    /// The balancing algorithm.
    pub algorithm: String,
    /// The pool's backends.
    pub backends: Vec<BackendView>,
}

/// A backend.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct BackendView {
    /// Its name; the default is its address.
    pub name: String,
    /// The address, as configured.
    pub address: String,
    /// Its share of new connections, relative to other backends.
    pub weight: u16,
    /// Whether it serves only when no primary can.
    pub backup: bool,
    /// `up`, `down`, `draining` or `disabled`.
    pub state: String,
    /// Connections open now, or being dialled.
    pub active_connections: u64,
    /// Connections since it was added.
    pub connections_total: u64,
    /// Connection attempts that failed.
    pub connect_failures_total: u64,
    /// Bytes that clients sent to it.
    pub bytes_to_backend_total: u64,
    /// Bytes that it sent to clients.
    pub bytes_to_client_total: u64,
    /// How long connecting takes.
    pub connect_ms: ConnectMs,
    /// Results of health probes.
    pub health: Health,
    /// The addresses of its name; empty while the name is not resolved.
    pub addresses: Vec<BackendAddress>,
}

/// One address of a backend.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct BackendAddress {
    /// The address and port.
    pub address: String,
    /// `up`: it takes its turn. `backoff`: connections of clients failed, so it is skipped for a while. `down`: probes
    /// fail.
    pub state: String,
    /// Connections that reached it.
    pub connections_total: u64,
    /// The result of its last probe; null before the first.
    pub last_result: Option<String>,
}

/// A backend that was added or changed.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Changed {
    /// The backend's current state.
    #[serde(flatten)]
    pub backend: BackendView,
    /// Likely mistakes, one a line, such as weights that the algorithm ignores. Absent if there is none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}

/// Time to connect, in milliseconds: estimates from a histogram, null before the first connection.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct ConnectMs {
    /// The median.
    pub p50: Option<f64>,
    /// The 99th percentile.
    pub p99: Option<f64>,
}

/// Results of a backend's health probes.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Health {
    /// The result of the last probe; null before the first.
    pub last_result: Option<String>,
    /// Seconds since it last went up or down; null if it never did.
    pub last_change_seconds: Option<u64>,
}

/// `POST /v1/pools/P/backends`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewBackend {
    /// The address and port.
    pub address: String,
    /// Its weight; the default is 1.
    #[serde(default, deserialize_with = "count", skip_serializing_if = "Option::is_none")]
    pub weight: Option<u16>,
    /// Its name; the default is its address.
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Most connections at once; the default is no limit.
    #[serde(default, deserialize_with = "count", skip_serializing_if = "Option::is_none")]
    pub max_connections: Option<u32>,
    /// Whether it serves only when no primary can.
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    pub backup: Option<bool>,
}

/// `PATCH /v1/pools/P/backends/B`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Change {
    /// The new weight.
    #[serde(default, deserialize_with = "count", skip_serializing_if = "Option::is_none")]
    pub weight: Option<u16>,
    /// The new administrative state.
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    pub state: Option<AdminState>,
}

/// `POST /v1/reload`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Reloaded {
    /// Whether nothing was applied.
    pub dry_run: bool,
    /// The generation in force afterwards.
    pub generation: u64,
    /// What changed, one change a line; empty if nothing did.
    pub changes: Vec<String>,
    /// Likely mistakes, one a line; empty if there is none.
    #[serde(default)]
    pub warnings: Vec<String>,
}

/// A reload that was refused: 400.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct NotReloaded {
    /// All mistakes in one text.
    pub error: String,
    /// All mistakes, one a line.
    pub mistakes: Vec<String>,
}

/// `POST /register`. An unknown field has its own status, so `register` checks for it.
#[derive(Clone, Debug, Deserialize)]
pub struct Registration {
    /// The backend's address.
    pub address: String,
    /// Its weight.
    #[serde(default, deserialize_with = "count")]
    pub weight: Option<u16>,
}

/// The answer of `/register`, in JSend's form.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Registered {
    /// `success` or `fail`.
    pub status: String,
    /// What is registered, or why it failed.
    pub data: RegisteredData,
}

/// The `data` of [`Registered`].
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(untagged)]
pub enum RegisteredData {
    /// The backend is registered.
    Success {
        /// The backend's address.
        server: String,
        /// Its weight.
        weight: u16,
    },
    /// The backend is not registered.
    Fail {
        /// The reason.
        title: String,
    },
}

/// Accepts an absent field but not null: a client that sends null has lost a value.
fn present<'de, D: Deserializer<'de>, T: Deserialize<'de>>(from: D) -> Result<Option<T>, D::Error> {
    T::deserialize(from).map(Some)
}

/// As [`present`], for a whole number in any notation, since JSON has one number type. The error gives the range.
fn count<'de, D: Deserializer<'de>, T: TryFrom<u64> + Bounded>(from: D) -> Result<Option<T>, D::Error> {
    let number = serde_json::Number::deserialize(from)?;
    let whole = |float: &f64| float.fract() == 0.0 && (0.0..=T::MAX as f64).contains(float);
    let value = number.as_u64().or_else(|| number.as_f64().filter(whole).map(|float| float as u64));
    let wrong = || D::Error::custom(format!("expected a number from 0 to {}, got {number}", T::MAX));
    value.and_then(|value| T::try_from(value).ok()).map(Some).ok_or_else(wrong)
}

/// Number types with a largest value.
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
    fn requests_are_strict_and_errors_say_what_is_expected() {
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
