//! One health probe, described once: its target, the bytes that it sends, the answer that passes.
//!
//! | file       | what                                                                            |
//! |------------|---------------------------------------------------------------------------------|
//! | `target`   | what the settings of a pool make of one address of a backend                    |
//! | `exchange` | a probe under way: bytes to send, bytes received, an outcome                    |
//!
//! The prober and the aliveness check of `/register` both run what stands here, each over its own kind of socket. Neither
//! decides for itself which port it dials or whether a PROXY header goes first. No I/O and no clock in here.

mod exchange;
mod target;

pub use exchange::{Probe, STATUS_LINE_MAX};
pub use target::ProbeTarget;
