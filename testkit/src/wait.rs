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

/// Waits until `look` finds something, and returns it.
#[track_caller]
pub fn eventually_some<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let mut seen = None;
    eventually(what, || {
        seen = look();
        seen.is_some()
    });
    seen.expect("it was waited for")
}

/// Lets `time` pass where the test is about nothing happening meanwhile.
pub fn let_pass(time: Duration) {
    let end = Instant::now() + time;
    // A park may end early.
    while let Some(left) = end.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) {
        thread::park_timeout(left);
    }
}
