//! Clients that wait for a backend: a queue per pool, at each worker.
//!
//! With `no_backend = "wait D"`, a client without a backend is not reset. It waits here until a backend is usable or its
//! time has passed (the session's deadline, not the queue's).
//!
//! # Turns
//!
//! Within a worker, clients are served in the order of their arrival. The worker looks at the queue
//!
//! * as soon as a connection of this worker and pool has ended or has been connected: there may be room, or a backend may
//!   serve again;
//! * when the pool gets a successor, or the listener another pool, for which the clients then wait;
//! * every [`LOOK`] otherwise. So it finds a backend that came up, or that has room since another worker's connection ended.
//!   A look costs one choice per pool, and no thread has to know which client waits where.
//!
//! A look serves the clients in front until one finds no backend again (it stays in front): the others would find none
//! either. It serves at most [`SERVED`] clients, so that a thousand of them do not all dial a dead backend at once. The next
//! ones follow when the first are connected, or at the next look.
//!
//! # The bound
//!
//! At most `max_queue` clients wait per worker and pool; the next one is reset. Each holds a descriptor and a session, as any
//! other client does.

use crate::base::Tick;
use crate::base::slots::Key;
use crate::pool::Pool;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

/// How often the worker looks at a queue without an event.
pub const LOOK: Duration = Duration::from_millis(50);

/// Clients served by one look.
pub const SERVED: usize = 32;

/// All queues of a worker; only those with a client in them exist.
#[derive(Debug, Default)]
pub(super) struct Queues(Vec<Queue>);

/// Where a connection goes in its queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Position {
    /// In front: it was there, and its turn found no backend.
    Front,
    /// At the end, however many wait there: it waited before a snapshot brought it here.
    Moved,
    /// At the end, if there is room.
    Back,
}

#[derive(Debug)]
struct Queue {
    pool: Arc<Pool>,
    keys: VecDeque<Key>,
    /// When the worker looks at it next.
    look: Tick,
}

impl Queues {
    /// Puts a connection into the queue of this pool. False: the queue is full.
    pub fn join(&mut self, pool: &Arc<Pool>, key: Key, position: Position, now: Tick) -> bool {
        if position == Position::Back && self.waiting(pool) >= pool.settings.max_queue as usize {
            return false;
        }
        match self.of(pool) {
            None => self.0.push(Queue { pool: pool.clone(), keys: VecDeque::from([key]), look: now + LOOK }),
            Some(queue) if position == Position::Front => queue.keys.push_front(key),
            Some(queue) => queue.keys.push_back(key),
        }
        true
    }

    /// How many clients wait for this pool, its predecessors and its successors: the next reload may bring them together.
    fn waiting(&self, pool: &Pool) -> usize {
        let same = self.0.iter().filter(|queue| queue.pool.settings.name == pool.settings.name);
        same.map(|queue| queue.keys.len()).sum()
    }

    /// Removes a connection that has ended.
    pub fn leave(&mut self, pool: &Arc<Pool>, key: Key) {
        if let Some(queue) = self.of(pool) {
            queue.keys.retain(|other| *other != key);
        }
        self.0.retain(|queue| !queue.keys.is_empty());
    }

    /// Does a client wait for this pool?
    pub fn is_waited_for(&self, pool: &Arc<Pool>) -> bool {
        self.0.iter().any(|queue| Arc::ptr_eq(&queue.pool, pool))
    }

    /// There may be a backend for the clients of this pool, or for its successor: a relay holds on to the pool that it
    /// began with.
    pub fn hint(&mut self, pool: &Pool) {
        for queue in self.0.iter_mut().filter(|queue| queue.pool.settings.name == pool.settings.name) {
            queue.look = Tick(0);
        }
    }

    /// The same for all pools.
    pub fn hint_all(&mut self) {
        self.0.iter_mut().for_each(|queue| queue.look = Tick(0));
    }

    /// Removes all connections, in the order in which they wait: the next snapshot decides where they go.
    pub fn take_all(&mut self) -> Vec<Key> {
        std::mem::take(&mut self.0).into_iter().flat_map(|queue| queue.keys).collect()
    }

    /// When the next queue is due for a look.
    pub fn next_look(&self) -> Option<Tick> {
        self.0.iter().map(|queue| queue.look).min()
    }

    /// The pools whose queues are due now; the next look is in [`LOOK`].
    pub fn due(&mut self, now: Tick) -> Vec<Arc<Pool>> {
        let mut due = Vec::new();
        for queue in self.0.iter_mut().filter(|queue| queue.look <= now) {
            queue.look = now + LOOK;
            due.push(queue.pool.clone());
        }
        due
    }

    /// Removes the connection in front.
    pub fn pop(&mut self, pool: &Arc<Pool>) -> Option<Key> {
        let key = self.of(pool)?.keys.pop_front();
        self.0.retain(|queue| !queue.keys.is_empty());
        key
    }

    fn of(&mut self, pool: &Arc<Pool>) -> Option<&mut Queue> {
        self.0.iter_mut().find(|queue| Arc::ptr_eq(&queue.pool, pool))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::model::{Global, Model, Pool as Settings};
    use std::collections::HashMap;

    fn pool() -> Arc<Pool> {
        let model = Model { global: Global::default(), listeners: Vec::new(), pools: vec![Settings::default()] };
        crate::pool::build(&model, &HashMap::new()).pools[0].clone()
    }

    fn key(slot: u32) -> Key {
        Key { slot, generation: 0 }
    }

    #[test]
    fn clients_are_served_in_order_and_one_without_a_backend_stays_in_front() {
        let (mut queues, pool, other) = (Queues::default(), pool(), pool());
        for slot in 0..3 {
            assert!(queues.join(&pool, key(slot), Position::Back, Tick(0)));
        }
        assert!(queues.is_waited_for(&pool) && !queues.is_waited_for(&other));
        assert_eq!(queues.pop(&pool), Some(key(0)));
        assert!(queues.join(&pool, key(0), Position::Front, Tick(0)));
        queues.leave(&pool, key(1));
        assert_eq!([queues.pop(&pool), queues.pop(&pool), queues.pop(&pool)], [Some(key(0)), Some(key(2)), None]);
        assert_eq!(queues.next_look(), None);
    }

    #[test]
    fn a_queue_is_looked_at_now_and_then_and_at_once_after_a_hint() {
        let (mut queues, pool) = (Queues::default(), pool());
        queues.join(&pool, key(1), Position::Back, Tick(0));
        assert!(queues.due(Tick(0)).is_empty());
        assert_eq!(queues.due(Tick(0) + LOOK).len(), 1);
        assert!(queues.due(Tick(0) + LOOK).is_empty());
        queues.hint(&pool);
        assert_eq!(queues.due(Tick(0) + LOOK).len(), 1);
    }

    #[test]
    fn all_are_taken_out_in_the_order_in_which_they_wait() {
        let (mut queues, pools) = (Queues::default(), [pool(), pool()]);
        for (pool, slot) in [(0, 1), (1, 2), (0, 3)] {
            queues.join(&pools[pool], key(slot), Position::Back, Tick(0));
        }
        assert_eq!(queues.take_all(), [key(1), key(3), key(2)]);
        assert!(pools.iter().all(|pool| !queues.is_waited_for(pool)) && queues.next_look().is_none());
    }

    #[test]
    fn a_full_queue_takes_only_connections_that_waited_before() {
        let (mut queues, pool) = (Queues::default(), pool());
        for slot in 0..pool.settings.max_queue {
            assert!(queues.join(&pool, key(slot), Position::Back, Tick(0)));
        }
        assert!(!queues.join(&pool, key(u32::MAX), Position::Back, Tick(0)));
        assert!(queues.join(&pool, key(u32::MAX - 1), Position::Moved, Tick(0)));
        assert!(queues.join(&pool, key(u32::MAX), Position::Front, Tick(0)));
        // A pool of the same name, from before a reload or after: the next one may bring their queues together.
        let other = self::pool();
        assert!(!queues.join(&other, key(u32::MAX), Position::Back, Tick(0)));
    }
}
