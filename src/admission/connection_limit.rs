//! How many clients there may be at once, in the process or at a listener. It is a count with a limit, and a mark of a
//! waiting worker.
//!
//! A worker reserves a place before it accepts. Without room, it marks the limit and leaves clients in the kernel's backlog.
//! The next worker whose client leaves sees the mark and wakes all workers. No worker polls.

use super::{LimitChange, LimitReport};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// A limit, and the count of clients against it.
#[derive(Debug)]
pub struct ConnectionLimit {
    limit: AtomicUsize,
    count: Arc<Count>,
}

/// What a limit and its successors share.
#[derive(Debug, Default)]
pub(super) struct Count {
    active: AtomicUsize,
    waiting: AtomicBool,
    /// Of the process: a client has left a listener at which a worker waits.
    left_listener: AtomicBool,
    report: LimitReport,
}

impl ConnectionLimit {
    /// A limit of `limit` clients at once.
    pub fn new(limit: usize) -> Arc<ConnectionLimit> {
        Arc::new(ConnectionLimit { limit: limit.into(), count: Arc::default() })
    }

    /// The same count under another limit.
    pub fn successor(&self, limit: usize) -> Arc<ConnectionLimit> {
        Arc::new(ConnectionLimit { limit: limit.into(), count: self.count.clone() })
    }

    /// Counts one more client. False: there is no room, and a worker waits for some.
    pub(super) fn enter(&self) -> bool {
        if self.try_enter() {
            return true;
        }
        // Mark first, then look again: either this look finds a place freed in between, or the worker that freed it sees the mark.
        self.count.waiting.store(true, Ordering::SeqCst);
        let entered = self.try_enter();
        if !entered {
            self.count.report.meet();
        }
        entered
    }

    fn try_enter(&self) -> bool {
        // Never counted beyond the limit, not even for a moment: another worker would find the place of a client that has
        // just left taken.
        let limit = self.limit();
        let one_more = |active: usize| (active < limit).then(|| active + 1);
        self.count.active.fetch_update(Ordering::SeqCst, Ordering::SeqCst, one_more).is_ok()
    }

    /// Counts one more client, whatever the limit.
    pub(super) fn enter_anyway(&self) {
        self.count.active.fetch_add(1, Ordering::SeqCst);
    }

    pub(super) fn count(&self) -> &Arc<Count> {
        &self.count
    }

    /// Does a worker wait although there is room again? A worker calls it after dropping a guard; it is
    /// true once per wait.
    pub fn should_wake(&self) -> bool {
        self.count.waiting.load(Ordering::SeqCst) && self.has_room() && self.count.waiting.swap(false, Ordering::SeqCst)
    }

    /// Whether a look at the listeners is due: since the last call, a client has left one at which a worker waits. Workers
    /// call it once per turn, so that they need not ask each of thousands of listeners.
    pub fn should_look_at_listeners(&self) -> bool {
        self.count.left_listener.load(Ordering::SeqCst) && self.count.left_listener.swap(false, Ordering::SeqCst)
    }

    /// Makes a look at the listeners due.
    pub fn look_at_listeners(&self) {
        self.count.left_listener.store(true, Ordering::SeqCst);
    }

    /// Is there room for one more client?
    pub fn has_room(&self) -> bool {
        self.count.active.load(Ordering::SeqCst) < self.limit()
    }

    /// Control's regular look: whether the limit was reached or left.
    pub fn look(&self) -> Option<LimitChange> {
        let limit = self.limit();
        self.count.report.look(self.active(), (limit < usize::MAX).then_some(limit))
    }

    /// Clients now served.
    pub fn active(&self) -> usize {
        self.count.active.load(Ordering::Relaxed)
    }

    /// The most there may be.
    pub fn limit(&self) -> usize {
        self.limit.load(Ordering::SeqCst)
    }

    /// Changes it. Clients beyond a lower limit stay; no further one is admitted until there are fewer.
    pub fn set_limit(&self, limit: usize) {
        self.limit.store(limit, Ordering::SeqCst);
    }
}

impl Count {
    /// One client less.
    pub(super) fn leave(&self) {
        self.active.fetch_sub(1, Ordering::SeqCst);
    }

    /// One client less at a listener of `process`.
    pub(super) fn leave_listener(&self, process: &Count) {
        self.leave();
        // After leaving: a worker that finds no place has set its mark before its last look.
        if self.waiting.load(Ordering::SeqCst) {
            process.left_listener.store(true, Ordering::SeqCst);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread;

    #[test]
    fn the_limit_holds_and_a_waiter_is_woken_once() {
        let limit = ConnectionLimit::new(2);
        assert!(limit.enter() && limit.enter());
        assert!(!limit.should_wake());
        assert!(!limit.enter());
        assert!(!limit.should_wake(), "there is no room yet");
        limit.count().leave();
        assert!(limit.should_wake());
        assert!(!limit.should_wake());
        assert_eq!(limit.active(), 1);
    }

    #[test]
    fn a_refusal_never_takes_a_free_place_from_another_one() {
        let (limit, over) = (ConnectionLimit::new(1), AtomicBool::new(false));
        let never = limit.successor(0);
        thread::scope(|scope| {
            // Both are at it all the time: neither ends before the other has begun.
            scope.spawn(|| {
                (0..1_000_000).for_each(|_| assert!(!never.try_enter()));
                over.store(true, Ordering::Relaxed);
            });
            let mut refused = 0;
            while !over.load(Ordering::Relaxed) {
                if limit.try_enter() {
                    limit.count().leave();
                } else {
                    refused += 1;
                }
            }
            assert_eq!(refused, 0, "the place was free each time");
        });
    }

    #[test]
    fn a_limit_can_change_while_clients_are_in() {
        let limit = ConnectionLimit::new(2);
        assert!(limit.enter() && limit.enter());
        limit.set_limit(1);
        assert!(!limit.enter());
        limit.count().leave();
        assert!(!limit.enter() && !limit.should_wake(), "one is still in");
        limit.set_limit(2);
        assert!(limit.should_wake() && limit.enter());
    }

    #[test]
    fn clients_that_are_in_count_under_another_limit() {
        let limit = ConnectionLimit::new(2);
        assert!(limit.enter() && limit.enter());
        assert!(!limit.enter());
        assert!(!limit.successor(1).enter());
        let wider = limit.successor(3);
        assert!(wider.should_wake(), "the worker that waits has room now");
        assert!(wider.enter());
    }
}
