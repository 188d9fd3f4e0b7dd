//! One health probe, described once: its target, the bytes that it sends, the answer that passes.
//!
//! | file       | what                                                                            |
//! |------------|---------------------------------------------------------------------------------|
//! | `target`   | what the settings of a pool make of one address of a backend                    |
//! | `exchange` | a probe under way: bytes to send, bytes received, an outcome                    |
//! | `agent`    | the line of an agent, in pieces                                                 |
//! | `script`   | the steps of a script                                                           |
//! | `transcript` | what a probe sent, expected and received, for `tcplb probe`                   |
//!
//! The prober, the aliveness check of `/register` and `tcplb probe` run what stands here, over [`crate::net::probe_socket`]. None
//! decides for itself which port it dials or whether a PROXY header goes first. No I/O and no clock in here.

mod agent;
mod exchange;
mod script;
mod target;
mod transcript;

pub use exchange::{Probe, STATUS_LINE_MAX};
pub use target::ProbeTarget;
pub use transcript::{Said, Transcript};
