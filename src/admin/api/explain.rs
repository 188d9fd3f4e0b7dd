//! `GET /v1/explain`.

use serde::{Deserialize, Serialize};

/// Where a client would go now, and why.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Explained {
    /// The listener.
    pub listener: String,
    /// Whether tcplb serves the client.
    pub verdict: Acceptance,
    /// Why it is refused, why it waits, or what a dry run would refuse. Absent if there is nothing to say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The name or number of the route that the client takes. Absent if it takes none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub route: Option<String>,
    /// The pool.
    pub pool: String,
    /// The pool's algorithm.
    pub algorithm: String,
    /// Whether weights that follow load stand for it, since the kernel chooses. Absent if not.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub approximate: bool,
    /// The backend that the next choice gives; null where a draw decides, or where the client gets none.
    pub pick: Option<String>,
    /// The pool's backends, in the order of the configuration.
    pub candidates: Vec<Candidate>,
}

/// Whether tcplb serves a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Acceptance {
    /// It does, now or after a wait.
    Accept,
    /// It resets the client.
    Refuse,
}

/// A backend that a choice considers.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Candidate {
    /// Its name.
    pub backend: String,
    /// Whether the algorithm may choose it.
    pub usable: bool,
    /// The reason.
    pub why: String,
    /// Its weight.
    pub weight: u16,
    /// Connections open now.
    pub active: u32,
    /// Its chance, where a draw decides; the shares of all candidates add up to 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub share: Option<f64>,
}
