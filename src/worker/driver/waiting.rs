//! Choosing a backend, and waiting for one: who stands in a queue, who has its turn, and that nobody jumps it.

use super::{Driver, Net, Observer};
use crate::base::slots::Key;
use crate::pool::{Lease, PickError, Snapshot};
use crate::session::Input;
use crate::worker::queue::SERVED;
use std::sync::Arc;
use std::sync::atomic::Ordering;

impl<N: Net, O: Observer> Driver<N, O> {
    /// A backend for this connection, unless others waited for one before it.
    pub(super) fn pick(&mut self, key: Key) -> Result<Lease, PickError> {
        let Some(connection) = self.connections.get(key) else { return Err(PickError::AllFull) };
        let session = &connection.session;
        if self.served != Some(key) && self.queues.is_waited_for(session.pool()) {
            return Err(PickError::AllFull);
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

    /// Goes over to `snapshot`: who does not relay yet, to the pool that its listener has there; who relays, to the successor
    /// of its pool, as far as it concerns it.
    pub fn adopt(&mut self, snapshot: &Snapshot) {
        let waiting = self.queues.take_all();
        for key in self.connections.keys() {
            let Some(connection) = self.connections.get_mut(key) else { continue };
            let session = &mut connection.session;
            let old = session.pool().clone();
            let next = if session.is_relaying() {
                snapshot.pool(&old.settings.name)
            } else {
                snapshot.pool_for(&connection.guard.listener().totals.name, &old)
            };
            match next {
                Some(pool) if Arc::ptr_eq(pool, &old) => {}
                Some(pool) => {
                    session.adopt(pool);
                    // A dial may have less time now.
                    self.arm(key);
                }
                None if session.is_relaying() => {}
                None => {
                    let effect = session.orphan(self.now);
                    self.carry_out(key, effect);
                }
            }
        }
        for key in waiting {
            let Some(connection) = self.connections.get(key) else { continue };
            let pool = connection.session.pool().clone();
            if self.queues.join(&pool, key, false, self.now) {
                // There may be new backends; and the new settings may not let it wait for an answer any more.
                self.queues.hint(&pool);
                self.report_left(key);
            } else {
                self.feed(key, Input::NoPlace);
            }
        }
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
