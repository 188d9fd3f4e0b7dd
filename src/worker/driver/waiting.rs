//! Choosing a backend, and waiting for one: who stands in a queue, who has its turn, and that nobody jumps it.

use super::{Driver, Net, Observer};
use crate::base::slots::Key;
use crate::pool::{Lease, NoBackend};
use crate::session::Input;
use crate::worker::queue::SERVED;
use std::sync::atomic::Ordering;

impl<N: Net, O: Observer> Driver<N, O> {
    /// A backend for this connection, unless others waited for one before it.
    pub(super) fn pick(&mut self, key: Key) -> Result<Lease, NoBackend> {
        let Some(connection) = self.connections.get(key) else { return Err(NoBackend::AllFull) };
        let session = &connection.session;
        if self.served != Some(key) && self.queues.is_waited_for(session.pool()) {
            return Err(NoBackend::AllFull);
        }
        let choice = session.pool().pick(session.policy_client(), session.tried(), self.now, &mut self.random);
        if choice.is_ok() && !session.tried().is_empty() {
            session.pool().totals.connect_retries.fetch_add(1, Ordering::Relaxed);
        }
        choice
    }

    /// Puts a connection into its pool's queue: in front if it had its turn in vain. False if there is no room.
    pub(super) fn queue_up(&mut self, key: Key) -> bool {
        let Some(connection) = self.connections.get(key) else { return false };
        self.queues.join(connection.session.pool(), key, self.served == Some(key), self.now)
    }

    /// Has a session that waits in a queue know that its client has left.
    pub(super) fn report_left(&mut self, key: Key) {
        let Some(connection) = self.connections.get(key).filter(|connection| connection.session.is_waiting()) else {
            return;
        };
        if let Some(left) = connection.left {
            self.feed(key, Input::Left(left));
        }
    }

    /// Gives those who wait their turns, until one finds no backend.
    pub(super) fn serve_queues(&mut self) {
        for pool in self.queues.due(self.now) {
            for _ in 0..SERVED {
                let Some(key) = self.queues.pop(&pool) else { break };
                self.served = Some(key);
                self.feed(key, Input::Turn);
                self.served = None;
                if self.connections.get(key).is_some_and(|connection| connection.session.is_waiting()) {
                    break;
                }
            }
        }
    }
}
