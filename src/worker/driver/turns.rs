//! Turns: which connection moves bytes next, and how many a loop of the worker moves.
//!
//! | connection | moves bytes |
//! |---|---|
//! | it carries small messages | at its event, up to a [`CHUNK`], until the events of the loop have moved a turn |
//! | its event comes behind that | in this loop or a later one, in the order of the events |
//! | it carries bulk, or had more than a [`CHUNK`] | behind those, one turn after the other, each in its order |
//!
//! Each of the two queues moves about a turn in a loop, so neither waits for the other. The poll is looked at again after a bounded
//! number of bytes, whatever the number of connections.
//!
//! # How long a turn is
//!
//! Bulk alone has turns of [`ALONE`]: each wakes both peers once, and a quarter of that costs a third more CPU for each byte. A small message that
//! comes in such a turn waits for its end, 0.2 ms on a slow machine. So beside small messages a turn is [`BESIDE`], for
//! [`LIVELY`] after the last one.

use super::{Driver, Net};
use crate::base::slots::Key;
use crate::net::PIPE_SIZE;
use crate::relay::CHUNK;
use crate::session::Ledger;
use std::collections::VecDeque;
use std::time::Duration;

/// The bytes of a turn without small messages beside it: what a pipe holds.
pub const ALONE: usize = PIPE_SIZE;

/// The same beside small messages.
pub const BESIDE: usize = 2 * CHUNK;

/// How long after a small message the next one is expected.
const LIVELY: Duration = Duration::from_millis(100);

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
    /// The bytes of a turn as of now.
    pub(super) fn turn(&self) -> usize {
        let is_lively = self.small_at.get().is_some_and(|at| self.now - at < LIVELY);
        if is_lively { BESIDE } else { ALONE }
    }

    /// Gives turns to connections that want them, until each queue has moved about as many bytes as a turn has.
    pub fn run_turns(&mut self) {
        let most = self.turn();
        for queue in [Queue::PutOff, Queue::Bulk] {
            let (mut left, waiting) = (most as u64, self.turns.of(queue).len());
            for _ in 0..waiting {
                let Some(key) = self.turns.of(queue).pop_front() else { break };
                if let Some(connection) = self.connections.get_mut(key) {
                    (connection.runnable, connection.sockets.wants_turn) = (false, false);
                    left = left.saturating_sub(self.relay(key, most));
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
