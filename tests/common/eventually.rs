//! Waiting for what can be observed.

use std::thread;
use std::time::{Duration, Instant};

/// How long anything that must happen may take before the test fails: far more than it needs on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Waits until `condition` holds, looking again every few milliseconds.
#[track_caller]
pub fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < end, "still not so after {PATIENCE:?}: {what}");
        thread::park_timeout(Duration::from_millis(2));
    }
}
