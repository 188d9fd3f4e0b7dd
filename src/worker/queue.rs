//! Clients that wait for a backend: a queue per pool, at each worker.
//!
//! With `no_backend = "wait D"`, a client without a backend is not reset. It waits here until a backend is usable or its
//! time has passed (the session's deadline, not the queue's). While a client waits for a pool at any worker, no later client chooses a
//! backend there.
//!
//! # Turns
//!
//! Clients are served in the order of their arrival: within a worker exactly, and among workers within
//! a few milliseconds ([`crate::pool::queue_order`]). A worker looks at its queue
//!
//! * as soon as a connection of this worker and pool has ended: there may be room;
//! * as soon as one has been connected: a backend may serve again;
//! * as soon as another worker that finds one of both calls it, because its client waits longer;
//! * when the pool gets a successor, or the listener another pool, for which the clients then wait;
//! * every [`LOOK`] otherwise. So it finds a backend that came up. A look costs one choice per pool, and no thread has to know which
//!   client waits where.
//!
//! A [`Look`] serves the clients in front until one finds no backend again (it stays in front): the others would find none
//! either. It ends as well where a client of another worker waits longer. It serves at most [`SERVED`] clients, so that a thousand of
//! them do not all dial a dead backend at once. The next ones follow when the first are connected, or at the next look.
//!
//! # The bound
//!
//! At most `max_queue` clients wait per worker and pool; the next one is reset. Each holds a descriptor and a session, as any
//! other client does. A client that waited before keeps its place, or gets one behind the others if a snapshot moved it.

use crate::base::Tick;
use crate::base::slots::Key;
use crate::pool::Pool;
use crate::pool::queue_order::Turn;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// How often the worker looks at a queue without an event.
const LOOK: Duration = Duration::from_millis(50);

/// Clients of a pool that one look serves.
const SERVED: usize = 32;

/// All queues of a worker; only those with a client in them exist.
#[derive(Debug, Default)]
pub(super) struct Queues {
    /// The number of the worker.
    worker: usize,
    queues: Vec<Queue>,
    /// The client that has left its queue for a moment, and may come back.
    returning: Option<(Waiter, Position)>,
    /// Workers to be woken: their clients wait longer.
    called: Vec<usize>,
}

/// A client that waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Waiter {
    pub key: Key,
    /// When it came into a queue.
    pub since: Tick,
}

/// Where a client goes in its queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Position {
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
    waiters: VecDeque<Waiter>,
    /// When the worker looks at it next.
    look: Tick,
}

/// A look at the queues that are due: [`Queues::next_turn`] names the clients that it serves.
#[derive(Debug)]
pub(super) struct Look {
    pools: VecDeque<Arc<Pool>>,
    /// Clients of the first pool that have had their turns.
    served: usize,
    now: Tick,
}

impl Queues {
    /// Those of the worker with this number.
    pub fn new(worker: usize) -> Queues {
        Queues { worker, ..Queues::default() }
    }

    /// Whether this client may choose a backend: it has its turn, or no other client waits for this pool.
    pub fn may_choose(&self, pool: &Arc<Pool>, key: Key) -> bool {
        let has_turn = |(waiter, position): (Waiter, _)| waiter.key == key && position == Position::Front;
        self.returning.is_some_and(has_turn) || pool.totals.waiting.load(Ordering::Relaxed) == 0
    }

    /// Puts a client into the queue of this pool; how many of this worker are before it. `None`: the queue is full.
    pub fn join(&mut self, pool: &Arc<Pool>, key: Key, now: Tick) -> Option<u32> {
        let returning = self.returning.filter(|(waiter, _)| waiter.key == key);
        let (waiter, position) = returning.unwrap_or((Waiter { key, since: now }, Position::Back));
        if position == Position::Back && self.waiting(pool) >= pool.settings.max_queue as usize {
            return None;
        }
        let mut ahead = 0;
        match self.of(pool) {
            None => {
                let waiters = VecDeque::from([waiter]);
                self.queues.push(Queue { pool: pool.clone(), waiters, look: now + LOOK });
            }
            Some(queue) if position == Position::Front => queue.waiters.push_front(waiter),
            Some(queue) => {
                ahead = u32::try_from(queue.waiters.len()).unwrap_or(u32::MAX);
                queue.waiters.push_back(waiter);
            }
        }
        pool.totals.waiting.fetch_add(1, Ordering::Relaxed);
        self.state_front(pool);
        Some(ahead)
    }

    /// How many clients wait for this pool, its predecessors and its successors: the next reload may bring them together.
    fn waiting(&self, pool: &Pool) -> usize {
        self.same(pool).map(|queue| queue.waiters.len()).sum()
    }

    fn same(&self, pool: &Pool) -> impl Iterator<Item = &Queue> {
        self.queues.iter().filter(|queue| queue.is_of(pool))
    }

    /// All clients, those of a queue in the order in which they wait.
    pub fn keys(&self) -> impl Iterator<Item = Key> {
        self.queues.iter().flat_map(|queue| queue.waiters.iter().map(|waiter| waiter.key))
    }

    /// Removes a client whose connection has ended or leaves the worker.
    pub fn leave(&mut self, pool: &Arc<Pool>, key: Key) {
        let Some(queue) = self.of(pool) else { return };
        let before = queue.waiters.len();
        queue.waiters.retain(|waiter| waiter.key != key);
        queue.left(before - queue.waiters.len());
        self.changed(pool);
    }

    /// Clients have left the queue of this pool.
    fn changed(&mut self, pool: &Pool) {
        self.queues.retain(|queue| !queue.waiters.is_empty());
        self.state_front(pool);
    }

    /// Other workers see how long the client in front waits.
    fn state_front(&self, pool: &Pool) {
        let front = self.same(pool).filter_map(|queue| queue.waiters.front()).map(|waiter| waiter.since).min();
        pool.queue_order.state(self.worker, front);
    }

    /// There may be a backend for the clients of this pool, or for those of its successor. A relay keeps the pool that it
    /// began with.
    pub fn hint(&mut self, pool: &Pool, now: Tick) {
        if pool.totals.waiting.load(Ordering::Relaxed) == 0 || !self.has_turn(pool, now) {
            return;
        }
        self.queues.iter_mut().filter(|queue| queue.is_of(pool)).for_each(|queue| queue.look = Tick(0));
    }

    /// Whether the client in front of this worker's queue is the next one. Otherwise that worker is called whose client is.
    fn has_turn(&mut self, pool: &Pool, now: Tick) -> bool {
        match pool.queue_order.turn(self.worker, now) {
            Turn::Own => true,
            Turn::Wake(worker) => {
                self.called.push(worker);
                false
            }
            Turn::Called | Turn::None => false,
        }
    }

    /// The workers to be woken since the last call.
    pub fn take_called(&mut self) -> impl Iterator<Item = usize> {
        self.called.drain(..)
    }

    /// The same as [`Queues::hint`], for all pools.
    pub fn hint_all(&mut self) {
        self.queues.iter_mut().for_each(|queue| queue.look = Tick(0));
    }

    /// When the next queue is due for a look.
    pub fn next_look(&self) -> Option<Tick> {
        self.queues.iter().map(|queue| queue.look).min()
    }

    /// Begins a look at the queues that are due now; the next one is in [`LOOK`].
    pub fn look(&mut self, now: Tick) -> Look {
        let mut pools = VecDeque::new();
        for queue in self.queues.iter_mut().filter(|queue| queue.look <= now) {
            queue.look = now + LOOK;
            queue.pool.queue_order.looks(self.worker);
            pools.push_back(queue.pool.clone());
        }
        Look { pools, served: 0, now }
    }

    /// Ends the last client's turn, and takes the next client out of its queue for its turn.
    pub fn next_turn(&mut self, look: &mut Look) -> Option<Key> {
        let last = self.returning.take().map(|(waiter, _)| waiter.key);
        while let Some(pool) = look.pools.front() {
            let front = self.of(pool).and_then(|queue| queue.waiters.front()).map(|waiter| waiter.key);
            let found_none = front.is_some() && front == last;
            if look.served < SERVED
                && !found_none
                && self.has_turn(pool, look.now)
                && let Some(waiter) = self.pop(pool)
            {
                look.served += 1;
                self.returning = Some((waiter, Position::Front));
                return Some(waiter.key);
            }
            look.pools.pop_front();
            look.served = 0;
        }
        None
    }

    fn pop(&mut self, pool: &Arc<Pool>) -> Option<Waiter> {
        let queue = self.of(pool)?;
        let waiter = queue.waiters.pop_front();
        queue.left(usize::from(waiter.is_some()));
        self.changed(pool);
        waiter
    }

    /// Removes all clients, in the order in which they wait: the next snapshot decides where they go.
    pub fn take_all(&mut self) -> VecDeque<Waiter> {
        let queues = std::mem::take(&mut self.queues);
        for queue in &queues {
            queue.left(queue.waiters.len());
            queue.pool.queue_order.state(self.worker, None);
        }
        queues.into_iter().flat_map(|queue| queue.waiters).collect()
    }

    /// The next of the clients that [`Queues::take_all`] gave. It has a place in any queue until the next call.
    pub fn next_moved(&mut self, clients: &mut VecDeque<Waiter>) -> Option<Key> {
        let waiter = clients.pop_front();
        self.returning = waiter.map(|waiter| (waiter, Position::Moved));
        waiter.map(|waiter| waiter.key)
    }

    fn of(&mut self, pool: &Arc<Pool>) -> Option<&mut Queue> {
        self.queues.iter_mut().find(|queue| Arc::ptr_eq(&queue.pool, pool))
    }
}

impl Queue {
    /// Its pool is this one, a predecessor or a successor.
    fn is_of(&self, pool: &Pool) -> bool {
        self.pool.settings.name == pool.settings.name
    }

    /// So many of its clients do not wait any more.
    fn left(&self, clients: usize) {
        self.pool.totals.waiting.fetch_sub(clients, Ordering::Relaxed);
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

    fn waiter(slot: u32) -> Waiter {
        Waiter { key: key(slot), since: Tick(0) }
    }

    fn waiting(pool: &Pool) -> usize {
        pool.totals.waiting.load(Ordering::Relaxed)
    }

    fn queued(pool: &Arc<Pool>, clients: u32) -> Queues {
        let mut queues = Queues::default();
        for slot in 0..clients {
            assert_eq!(queues.join(pool, key(slot), Tick(0)), Some(slot), "its place");
        }
        queues
    }

    /// The clients that one look serves, of which this one finds no backend.
    fn served(queues: &mut Queues, pool: &Arc<Pool>, in_vain: Option<u32>) -> Vec<u32> {
        let (now, mut served) = (Tick(0) + LOOK, Vec::new());
        let mut look = queues.look(now);
        while let Some(client) = queues.next_turn(&mut look) {
            assert!(queues.may_choose(pool, client), "it has its turn");
            served.push(client.slot);
            if in_vain == Some(client.slot) {
                assert!(queues.join(pool, client, now).is_some(), "it keeps its place");
            }
        }
        served
    }

    #[test]
    fn clients_are_served_in_order_and_one_without_a_backend_stays_in_front() {
        let pool = pool();
        let mut queues = queued(&pool, 4);
        (0..2).for_each(|_| queues.leave(&pool, key(2)));
        assert_eq!((served(&mut queues, &pool, Some(1)), waiting(&pool)), (vec![0, 1], 2));
        queues.hint_all();
        assert_eq!((served(&mut queues, &pool, None), waiting(&pool)), (vec![1, 3], 0));
        assert_eq!(queues.next_look(), None);
    }

    #[test]
    fn a_client_chooses_only_if_no_other_waits_for_the_pool() {
        let (pool, other) = (pool(), pool());
        let mut queues = queued(&pool, 2);
        assert!(!queues.may_choose(&pool, key(7)) && queues.may_choose(&other, key(7)));
        let mut look = queues.look(Tick(0) + LOOK);
        assert_eq!(queues.next_turn(&mut look), Some(key(0)));
        assert!(queues.may_choose(&pool, key(0)) && !queues.may_choose(&pool, key(7)));
        assert_eq!(queues.next_turn(&mut look), Some(key(1)));
        assert!(queues.join(&pool, key(7), Tick(0)).is_some());
        assert!(queues.may_choose(&pool, key(1)) && !queues.may_choose(&pool, key(0)), "its turn is over");
    }

    #[test]
    fn a_look_serves_a_bounded_number_of_each_pool_s_clients() {
        let pools = [pool(), pool()];
        let mut queues = queued(&pools[0], 2 * SERVED as u32);
        assert!(queues.join(&pools[1], key(1_000), Tick(0)).is_some());
        let mut look = queues.look(Tick(0) + LOOK);
        let turns: Vec<u32> = std::iter::from_fn(|| queues.next_turn(&mut look)).map(|client| client.slot).collect();
        assert_eq!(turns, (0..SERVED as u32).chain([1_000]).collect::<Vec<_>>());
    }

    #[test]
    fn a_queue_is_looked_at_now_and_then_and_at_once_after_a_hint() {
        let pool = pool();
        let mut queues = queued(&pool, 1);
        assert!(queues.look(Tick(0)).pools.is_empty());
        assert_eq!(queues.look(Tick(0) + LOOK).pools.len(), 1);
        assert!(queues.look(Tick(0) + LOOK).pools.is_empty());
        queues.hint(&pool, Tick(0) + LOOK);
        assert_eq!(queues.look(Tick(0) + LOOK).pools.len(), 1);
    }

    #[test]
    fn a_snapshot_moves_all_clients_in_the_order_in_which_they_wait() {
        let (mut queues, pools) = (Queues::default(), [pool(), pool()]);
        for (pool, slot) in [(0, 1), (1, 2), (0, 3)] {
            queues.join(&pools[pool], key(slot), Tick(0));
        }
        let mut clients = queues.take_all();
        assert_eq!(clients.iter().map(|waiter| waiter.key).collect::<Vec<_>>(), [key(1), key(3), key(2)]);
        assert!(pools.iter().all(|pool| queues.may_choose(pool, key(9))) && queues.next_look().is_none());
        while let Some(client) = queues.next_moved(&mut clients) {
            assert!(queues.join(&pools[1], client, Tick(0)).is_some());
        }
        assert_eq!(served(&mut queues, &pools[1], None), [1, 3, 2]);
    }

    #[test]
    fn a_full_queue_takes_only_connections_that_waited_before() {
        let pool = pool();
        let most = pool.settings.max_queue;
        let mut queues = queued(&pool, most);
        assert!(queues.join(&pool, key(u32::MAX), Tick(0)).is_none());
        assert_eq!(queues.next_moved(&mut [waiter(u32::MAX - 1)].into()), Some(key(u32::MAX - 1)));
        assert!(queues.join(&pool, key(u32::MAX), Tick(0)).is_none(), "another client");
        assert!(queues.join(&pool, key(u32::MAX - 1), Tick(0)).is_some());
        let mut look = queues.look(Tick(0) + LOOK);
        let first = queues.next_turn(&mut look).expect("a client");
        assert!(
            queues.join(&pool, key(u32::MAX), Tick(0)).is_none(),
            "the queue has its most without the client in front"
        );
        assert!(queues.join(&pool, first, Tick(0)).is_some());
        assert_eq!(queues.next_turn(&mut look), None);
        // A pool of the same name, from before a reload or after: the next one may bring their queues together.
        let other = self::pool();
        assert!(queues.join(&other, key(u32::MAX), Tick(0)).is_none());
    }
}
