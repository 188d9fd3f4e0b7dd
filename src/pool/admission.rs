//! How many clients the process serves at once: a counter with a limit, and who waits for it.
//!
//! A worker asks before it accepts. Refused, it marks itself as waiting and leaves clients in the kernel's backlog;
//! the permit that is dropped next says so, and its dropper wakes the workers. Nothing polls.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// The gate.
#[derive(Debug)]
pub struct Admission {
    limit: AtomicUsize,
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
        Arc::new(Admission { limit: limit.into(), count: Arc::default() })
    }

    /// One with another limit, where those who are in count too.
    pub fn successor(&self, limit: usize) -> Arc<Admission> {
        Arc::new(Admission { limit: limit.into(), count: self.count.clone() })
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
        // Never counted beyond the limit, not even for a moment: another worker would find the place of a client that has
        // just left taken.
        let limit = self.limit();
        let one_more = |active: usize| (active < limit).then(|| active + 1);
        let entered = self.count.active.fetch_update(Ordering::SeqCst, Ordering::SeqCst, one_more);
        entered.is_ok().then(|| Permit(self.count.clone()))
    }

    /// Does somebody wait although there is room again? Asked after dropping a permit; true once per wait.
    pub fn should_wake(&self) -> bool {
        self.count.waiting.load(Ordering::SeqCst)
            && self.count.active.load(Ordering::SeqCst) < self.limit()
            && self.count.waiting.swap(false, Ordering::SeqCst)
    }

    /// Clients now served.
    pub fn active(&self) -> usize {
        self.count.active.load(Ordering::Relaxed)
    }

    /// The most there may be.
    pub fn limit(&self) -> usize {
        self.limit.load(Ordering::SeqCst)
    }

    /// Changes it. More clients than that may be in already: they stay, and no further one comes in before they are fewer.
    pub fn set_limit(&self, limit: usize) {
        self.limit.store(limit, Ordering::SeqCst);
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
    use std::thread;

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
    fn a_refusal_never_takes_a_free_place_from_another_one() {
        let (gate, over) = (Admission::new(1), AtomicBool::new(false));
        let never = gate.successor(0);
        thread::scope(|scope| {
            // Both are at it all the time: neither ends before the other has begun.
            scope.spawn(|| {
                (0..1_000_000).for_each(|_| assert!(never.try_enter().is_none()));
                over.store(true, Ordering::Relaxed);
            });
            let mut refused = 0;
            while !over.load(Ordering::Relaxed) {
                refused += u32::from(gate.try_enter().is_none());
            }
            assert_eq!(refused, 0, "the place was free each time");
        });
    }

    #[test]
    fn a_limit_can_change_while_clients_are_in() {
        let gate = Admission::new(2);
        let both = (gate.enter().unwrap(), gate.enter().unwrap());
        gate.set_limit(1);
        assert!(gate.enter().is_none());
        drop(both.0);
        assert!(gate.enter().is_none() && !gate.should_wake(), "one is still in");
        gate.set_limit(2);
        assert!(gate.should_wake() && gate.enter().is_some());
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
