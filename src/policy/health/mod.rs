//! Health decisions: is a backend up, when is it probed next, how long is it kept out.
//!
//! [`state`] turns results into up and down, [`schedule`] says when to probe, [`backoff`] stands in for both where
//! health is `off`, [`outlier`] leaves out whoever passes probes and fails clients, and [`outcome`] is what a result is. None
//! of them knows a socket or a clock: the prober thread calls them with the time and a random generator, and is the only one
//! that does.

pub mod backoff;
pub mod outcome;
pub mod outlier;
pub mod schedule;
pub mod state;

pub use backoff::Backoff;
pub use outcome::{Class, ConnectFailure, Outcome};
pub use outlier::Outlier;
pub use state::{HealthState, Rules};
