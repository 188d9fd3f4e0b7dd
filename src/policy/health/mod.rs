//! Health decisions: is a backend up, when is it probed next, how long is it kept out.
//!
//! [`state`] turns results into up and down, and [`schedule`] decides when to probe. [`backoff`] replaces both where
//! health is `off`. [`outlier`] excludes backends that pass probes but fail clients, and [`outcome`] is the type of a
//! result. [`agent`] is what an agent reports. None of them uses a socket or a clock: only the prober thread calls them, with the time and a random
//! generator.

pub mod agent;
pub mod backoff;
pub mod outcome;
pub mod outlier;
pub mod schedule;
pub mod state;

pub use agent::{AgentReport, AgentState};
pub use backoff::Backoff;
pub use outcome::{Class, ConnectFailure, Outcome};
pub use outlier::Outlier;
pub use state::{HealthState, Rules};
