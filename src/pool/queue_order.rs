//! Which worker's queue has the client that waits longest for a backend of a pool.
//!
//! Each worker has a queue of its own. A place becomes free at one worker, and the client whose turn it is may wait at another. So
//! each worker states here since when the client in front of its queue waits, and a worker with an older client is *called*.
//!
//! | a worker | event | next |
//! |---|---|---|
//! | without a client | the first one joins its queue | stated |
//! | stated | another one finds that it is first, while a place may be free | called |
//! | stated | its last client has left the queue | without a client |
//! | called | it looks at its queue | stated |
//! | called | it has not looked for [`IGNORED_AFTER`] | left out, until it looks |
//!
//! The lock is taken only while clients wait, and for a few steps. All generations of a pool share it.

use crate::base::Tick;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::time::Duration;

/// A worker that was called and has not looked for so long stands still: clients of the others do not wait for it.
const IGNORED_AFTER: Duration = Duration::from_millis(100);

/// A client may go before one of another worker that came only so much earlier: calling that worker takes as long.
const SLACK: Duration = Duration::from_millis(10);

/// The queues of all workers for one pool, by the number of the worker.
#[derive(Debug, Default)]
pub struct QueueOrder(Mutex<BTreeMap<usize, Front>>);

#[derive(Debug)]
struct Front {
    since: Tick,
    called: Option<Tick>,
}

/// What a worker may do with a place that may be free.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// It serves the client in front of its queue.
    Own,
    /// This worker's client waits longer. It was called before, and has not looked yet.
    Called,
    /// This worker's client waits longer, and the worker must be woken.
    Wake(usize),
    /// No client waits.
    None,
}

impl QueueOrder {
    /// Since when the client in front of this worker's queue waits; `None`: there is none.
    pub fn state(&self, worker: usize, since: Option<Tick>) {
        let mut fronts = self.0.lock();
        match since {
            Some(since) => fronts.entry(worker).or_insert(Front { since, called: None }).since = since,
            None => drop(fronts.remove(&worker)),
        }
    }

    /// This worker looks at its queue.
    pub fn looks(&self, worker: usize) {
        if let Some(front) = self.0.lock().get_mut(&worker) {
            front.called = None;
        }
    }

    /// Which worker has its turn, as this one finds a place that may be free. Another worker counts as called from now on.
    pub fn turn(&self, worker: usize, now: Tick) -> Turn {
        let mut fronts = self.0.lock();
        let own = fronts.get(&worker).map(|front| front.since);
        let looks = |front: &Front| front.called.is_none_or(|called| now - called <= IGNORED_AFTER);
        let others = fronts.iter_mut().filter(|(other, front)| **other != worker && looks(front));
        let Some((other, front)) = others.min_by_key(|(_, front)| front.since) else {
            return if own.is_some() { Turn::Own } else { Turn::None };
        };
        if own.is_some_and(|own| own - front.since <= SLACK) {
            return Turn::Own;
        }
        if front.called.is_some() {
            return Turn::Called;
        }
        front.called = Some(now);
        Turn::Wake(*other)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Tick {
        Tick(1_000_000) + Duration::from_millis(millis)
    }

    #[test]
    fn the_worker_whose_client_waits_longest_is_called_once() {
        let order = QueueOrder::default();
        assert_eq!(order.turn(0, at(0)), Turn::None);
        order.state(0, Some(at(100)));
        order.state(1, Some(at(50)));
        order.state(2, Some(at(60)));
        assert_eq!(order.turn(0, at(200)), Turn::Wake(1));
        assert_eq!(order.turn(0, at(201)), Turn::Called);
        assert_eq!(order.turn(7, at(201)), Turn::Called, "a worker without a client");
        assert_eq!(order.turn(1, at(202)), Turn::Own);
        order.looks(1);
        assert_eq!(order.turn(2, at(203)), Turn::Own, "it is only 10 ms younger");
        order.state(1, None);
        assert_eq!(order.turn(0, at(204)), Turn::Wake(2));
        order.state(2, Some(at(150)));
        assert_eq!(order.turn(0, at(205)), Turn::Own);
    }

    #[test]
    fn a_worker_that_was_called_in_vain_is_left_out_until_it_looks() {
        let order = QueueOrder::default();
        order.state(0, Some(at(100)));
        order.state(1, Some(at(0)));
        assert_eq!(order.turn(0, at(200)), Turn::Wake(1));
        assert_eq!(order.turn(0, at(300)), Turn::Called);
        assert_eq!(order.turn(0, at(301)), Turn::Own);
        assert_eq!(order.turn(3, at(301)), Turn::Wake(0));
        order.looks(1);
        assert_eq!(order.turn(0, at(302)), Turn::Wake(1));
    }
}
