//! Excludes a backend for a moment after a failed connect, where health is `off`.
//!
//! Nothing probes there, and nothing marks a backend down. After a failed connect, the next clients go to other
//! backends first, for one second or until a client connects. A pool whose backends are all excluded uses them all
//! (`Pool::pick`).

use crate::base::Tick;
use std::time::Duration;

/// How long a failed connect excludes a backend. It saves the next clients a futile attempt, and is short enough for a
/// backend that restarts.
pub const BACK_OFF: Duration = Duration::from_secs(1);

/// Whether one backend is excluded, and until when.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Backoff {
    until: Option<Tick>,
}

impl Backoff {
    /// A connect failed: excludes the backend for the full time from now on. True if it was not excluded.
    pub fn failed(&mut self, now: Tick) -> bool {
        self.until.replace(now + BACK_OFF).is_none()
    }

    /// A connect succeeded. True if that ends an exclusion.
    pub fn succeeded(&mut self) -> bool {
        self.until.take().is_some()
    }

    /// Time has passed. True if that ends an exclusion.
    pub fn elapsed(&mut self, now: Tick) -> bool {
        self.until.take_if(|until| *until <= now).is_some()
    }

    /// When the exclusion ends; `None` if there is none.
    pub fn until(&self) -> Option<Tick> {
        self.until
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Tick {
        Tick::after_start(Duration::from_millis(millis))
    }

    #[test]
    fn a_failure_excludes_and_another_prolongs_it() {
        let mut backoff = Backoff::default();
        assert!(backoff.failed(at(100)));
        assert!(!backoff.failed(at(600)), "it was out already");
        assert!(!backoff.elapsed(at(1_100)));
        assert_eq!(backoff.until(), Some(at(1_600)));
        assert!(backoff.elapsed(at(1_600)));
        assert!(!backoff.elapsed(at(1_600)));
        assert_eq!(backoff.until(), None);
    }

    #[test]
    fn a_success_ends_the_exclusion_at_once() {
        let mut backoff = Backoff::default();
        assert!(!backoff.succeeded());
        backoff.failed(at(0));
        assert!(backoff.succeeded());
        assert_eq!(backoff.until(), None);
    }
}
