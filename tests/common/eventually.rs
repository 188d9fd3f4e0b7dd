//! Waiting for what a balancer in the test's own process does.

use std::thread;
use std::time::{Duration, Instant};

/// What only a bug or a stopped machine takes.
const PATIENCE: Duration = Duration::from_secs(30);

/// Waits until `seen` is true; fails when that takes too long.
#[track_caller]
pub fn eventually(what: &str, mut seen: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !seen() {
        assert!(Instant::now() < deadline, "never: {what}");
        thread::park_timeout(Duration::from_millis(2));
    }
}
