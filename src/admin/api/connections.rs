//! The JSON of open connections.

use serde::{Deserialize, Serialize};

/// Connections in a list whose call names no limit.
pub const LISTED: usize = 1000;

/// An open connection. `GET /v1/connections` lists them.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Connection {
    /// Its number, unique in the process.
    pub id: u64,
    /// The listener that accepted it.
    pub listener: String,
    /// Its pool; until one is chosen, the one that its listener leads to now.
    pub pool: String,
    /// The backend that is connected or dialled; null without one.
    pub backend: Option<String>,
    /// The port there, where the backend's address leaves it to the client's (`same`, `+1000`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backend_port: Option<u16>,
    /// The client's address and port, announced ones if it announced them; null for a unix client.
    pub client: Option<String>,
    /// What carries it: `proxy` or `kernel`.
    #[serde(default)]
    pub engine: String,
    /// Seconds since it was accepted; null where the kernel carries it.
    pub age_seconds: Option<u64>,
    /// Seconds since a byte last passed; before the first one, since it was connected or else accepted. Null where the kernel carries
    /// it.
    pub idle_seconds: Option<u64>,
    /// The client's bytes delivered to the backend.
    pub bytes_to_backend: u64,
    /// Bytes delivered to the client.
    pub bytes_to_client: u64,
    /// `preamble`, `sniffing`, `waiting`, `dialing`, `relaying`, `half_closed` or `resetting`. Of those that the kernel carries, `dialing`,
    /// `relaying` or `half_closed`.
    pub state: String,
    /// The protocol of the client's first bytes, where a route looks for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protocol: Option<String>,
    /// The server name that the client asked for; null without one, and where no route looks for one.
    pub sni: Option<String>,
    /// The name or number of the route that it took; null if it took none.
    pub route: Option<String>,
    /// The round-trip time to the client in milliseconds, as the kernel measures it; null for a unix client.
    pub rtt_ms: Option<f64>,
}

/// What a list has while a worker does not respond: 503.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SomeConnections {
    /// Which worker it is.
    pub error: String,
    /// The connections of the others.
    pub connections: Vec<Connection>,
}

/// `DELETE /v1/connections`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Closed {
    /// How many were closed.
    pub closed: u64,
}

/// The same while a worker does not respond: 503.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SomeClosed {
    /// Which worker it is.
    pub error: String,
    /// How many the others closed.
    pub closed: u64,
}
