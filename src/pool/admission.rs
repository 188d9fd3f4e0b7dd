//! How many clients the process serves at once: a counter with a limit, and who waits for it.
//!
//! A worker asks before it accepts. Refused, it marks itself as waiting and leaves clients in the kernel's backlog;
//! the permit that is dropped next says so, and its dropper wakes the workers. Nothing polls.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// The gate.
#[derive(Debug)]
pub struct Admission {
    limit: usize,
    count: Arc<Count>,
}

/// What a gate and its successors share.
#[derive(Debug, Default)]
struct Count {
    active: AtomicUsize,
    waiting: AtomicBool,
}

/// One client's place; dropped when its connection ends.
#[derive(Debug)]
pub struct Permit(Arc<Count>);

impl Admission {
    /// A gate for `limit` clients at once.
    pub fn new(limit: usize) -> Arc<Admission> {
        Arc::new(Admission { limit, count: Arc::default() })
    }

    /// One with another limit, where those who are in count too.
    pub fn successor(&self, limit: usize) -> Arc<Admission> {
        Arc::new(Admission { limit, count: self.count.clone() })
    }

    /// A place for one more client, or `None` after noting that somebody waits for one.
    pub fn enter(&self) -> Option<Permit> {
        if let Some(permit) = self.try_enter() {
            return Some(permit);
        }
        // Mark first, then look again: a place freed in between either is seen here or sees the mark.
        self.count.waiting.store(true, Ordering::SeqCst);
        self.try_enter()
    }

    fn try_enter(&self) -> Option<Permit> {
        let before = self.count.active.fetch_add(1, Ordering::SeqCst);
        if before < self.limit {
            return Some(Permit(self.count.clone()));
        }
        self.count.active.fetch_sub(1, Ordering::SeqCst);
        None
    }

    /// Does somebody wait although there is room again? Asked after dropping a permit; true once per wait.
    pub fn should_wake(&self) -> bool {
        self.count.waiting.load(Ordering::SeqCst)
            && self.count.active.load(Ordering::SeqCst) < self.limit
            && self.count.waiting.swap(false, Ordering::SeqCst)
    }

    /// Clients now served.
    pub fn active(&self) -> usize {
        self.count.active.load(Ordering::Relaxed)
    }

    /// The most there may be.
    pub fn limit(&self) -> usize {
        self.limit
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.active.fetch_sub(1, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_holds_and_a_waiter_is_told_once() {
        let gate = Admission::new(2);
        let first = gate.enter().unwrap();
        let _second = gate.enter().unwrap();
        assert!(!gate.should_wake());
        assert!(gate.enter().is_none());
        assert!(!gate.should_wake(), "there is no room yet");
        drop(first);
        assert!(gate.should_wake());
        assert!(!gate.should_wake());
        assert_eq!(gate.active(), 1);
    }

    #[test]
    fn who_is_in_counts_under_another_limit() {
        let gate = Admission::new(2);
        let _both = (gate.enter().unwrap(), gate.enter().unwrap());
        assert!(gate.enter().is_none());
        assert!(gate.successor(1).enter().is_none());
        let wider = gate.successor(3);
        assert!(wider.should_wake(), "the one who waits has room now");
        assert!(wider.enter().is_some());
    }
}
