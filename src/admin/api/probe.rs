//! `POST /v1/pools/P/backends/B/probe`.

use serde::{Deserialize, Serialize};

/// One probe of each address of a backend. It does not change the health state.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Probed {
    /// The pool.
    pub pool: String,
    /// The backend.
    pub backend: String,
    /// The pool's kind of probe: `tcp`, `http`, `agent` or `script`; with `off` the probe only connects.
    pub kind: String,
    /// Whether the probe of an address passed.
    pub passed: bool,
    /// What the prober would make of this result, in one sentence.
    pub meaning: String,
    /// The addresses; empty while the backend's name is not resolved, and where no port is known without a client.
    pub addresses: Vec<ProbedAddress>,
}

/// The probe of one address.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ProbedAddress {
    /// The address, with the port that was probed.
    pub address: String,
    /// Whether the probe passed.
    pub passed: bool,
    /// Its result, in the words of the log.
    pub outcome: String,
    /// How long the connect took; null if there was no connection.
    pub connect_ms: Option<f64>,
    /// How long all of it took.
    pub total_ms: f64,
    /// What was sent, expected and received, in this order.
    pub steps: Vec<ProbeStep>,
    /// Bytes that `steps` leaves out, since there were too many.
    pub bytes_left_out: u64,
}

/// A part of a probe.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ProbeStep {
    /// What happened.
    pub kind: ProbeStepKind,
    /// The bytes, with the escapes `\r`, `\n`, `\t`, `\xHH` and `\\`; or what was expected, in words.
    pub text: String,
}

/// The kinds of parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ProbeStepKind {
    /// The probe sent the bytes.
    Sent,
    /// The probe waited for this.
    Expected,
    /// The backend sent the bytes.
    Received,
}
