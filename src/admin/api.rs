//! What goes over the wire, both ways: the server writes what the command line's clients read, and the other way round.
//!
//! Requests are strict: an unknown field is a mistake, not noise. Answers are read leniently, so that a client understands
//! a newer server.

use serde::{Deserialize, Serialize};

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
    pub pools: Vec<Pool>,
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
pub struct Pool {
    /// Its name.
    pub name: String,
    /// How a backend is chosen.
    pub algorithm: String,
    /// Its backends.
    pub backends: Vec<Backend>,
}

/// A backend.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Backend {
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
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight: Option<u16>,
    /// Its name; its address if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Most connections at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_connections: Option<u32>,
    /// Serves only when no primary can.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backup: Option<bool>,
}

/// `PATCH /v1/pools/P/backends/B`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Change {
    /// Its share.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight: Option<u16>,
    /// May it be used?
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<Wish>,
}

/// What an operator may say of a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Wish {
    /// As its health allows.
    Enabled,
    /// No new connections.
    Draining,
    /// No new connections, no probes.
    Disabled,
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
    #[serde(default)]
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
