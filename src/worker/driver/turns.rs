//! Turns: which connection moves bytes next, and how many a loop of the worker moves.
//!
//! | connection | moves bytes |
//! |---|---|
//! | it carries small messages | at its event, up to a [`CHUNK`], until the events of the loop have moved [`TURN`] |
//! | its event comes behind that | in this loop or a later one, in the order of the events |
//! | it carries bulk, or had more than a [`CHUNK`] | behind those, one [`TURN`] after the other, each in its turn |
//!
//! Each of the two queues moves about [`TURN`] in a loop, so neither waits for the other. The poll is looked at again after a bounded
//! number of bytes, whatever the number of connections.

use super::{Driver, Net};
use crate::base::slots::Key;
use crate::relay::TURN;
use crate::session::Ledger;
use std::collections::VecDeque;

/// Connections that want a turn; each is in one queue.
#[derive(Debug, Default)]
pub(super) struct Turns {
    /// Those whose events came when the loop had moved enough.
    put_off: VecDeque<Key>,
    /// Those that carry bulk, or stopped at the end of a turn.
    bulk: VecDeque<Key>,
}

/// One of the queues.
#[derive(Clone, Copy)]
pub(super) enum Queue {
    PutOff,
    Bulk,
}

impl Turns {
    /// Whether none wants one.
    pub(super) fn is_empty(&self) -> bool {
        self.put_off.is_empty() && self.bulk.is_empty()
    }

    pub(super) fn of(&mut self, queue: Queue) -> &mut VecDeque<Key> {
        match queue {
            Queue::PutOff => &mut self.put_off,
            Queue::Bulk => &mut self.bulk,
        }
    }
}

impl<N: Net, L: Ledger> Driver<N, L> {
    /// Gives turns to connections that want them, until about [`TURN`] bytes of each queue have moved.
    pub fn run_turns(&mut self) {
        for queue in [Queue::PutOff, Queue::Bulk] {
            let (mut left, waiting) = (TURN, self.turns.of(queue).len());
            for _ in 0..waiting {
                let Some(key) = self.turns.of(queue).pop_front() else { break };
                if let Some(connection) = self.connections.get_mut(key) {
                    (connection.runnable, connection.sockets.wants_turn) = (false, false);
                    left = left.saturating_sub(self.relay(key, TURN));
                }
                if left == 0 {
                    break;
                }
            }
        }
    }

    /// Puts a connection that wants a turn into a queue, unless it is in one.
    pub(super) fn put_into(&mut self, queue: Queue, key: Key) {
        if let Some(connection) = self.connections.get_mut(key)
            && connection.sockets.wants_turn
            && !std::mem::replace(&mut connection.runnable, true)
        {
            self.turns.of(queue).push_back(key);
        }
    }
}
