//! Keeping a backend out for a moment, where health is `off`.
//!
//! Nothing probes there and nothing marks a backend down. A client that could not connect is still a hint worth a second:
//! the next clients go elsewhere first. The end of the second or a client that gets through brings the backend back, and
//! a pool whose backends are all out uses them all the same (`Pool::pick`).

use crate::base::Tick;
use std::time::Duration;

/// How long a failed connect keeps a backend out. Long enough to spare the next clients a futile attempt, short enough
/// that a backend which restarts is missed by nobody.
pub const BACK_OFF: Duration = Duration::from_secs(1);

/// Is one backend out, and until when.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Backoff {
    until: Option<Tick>,
}

impl Backoff {
    /// A client could not connect: out from now on, for the full time however long it has been out. True if it was in.
    pub fn failed(&mut self, now: Tick) -> bool {
        self.until.replace(now + BACK_OFF).is_none()
    }

    /// A client got through. True if that brought the backend back.
    pub fn succeeded(&mut self) -> bool {
        self.until.take().is_some()
    }

    /// Time has passed. True if that brought the backend back.
    pub fn elapsed(&mut self, now: Tick) -> bool {
        self.until.take_if(|until| *until <= now).is_some()
    }

    /// When it comes back; `None` if it is in.
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
    fn a_failure_keeps_out_for_the_back_off_and_another_prolongs_it() {
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
    fn a_success_brings_it_back_at_once() {
        let mut backoff = Backoff::default();
        assert!(!backoff.succeeded());
        backoff.failed(at(0));
        assert!(backoff.succeeded());
        assert_eq!(backoff.until(), None);
    }
}
