//! Clients that wait for a backend: new snapshots, clients that leave, and turns.

use super::{Driver, Net};
use crate::base::slots::Key;
use crate::pool::Snapshot;
use crate::session::{Input, Ledger, Stage};
use crate::worker::queue::{Position, SERVED};

impl<N: Net, L: Ledger> Driver<N, L> {
    /// Takes `snapshot`. Waiting clients go into the queues of their pools there, in their order, and get turns at once: there
    /// may be new backends.
    pub fn adopt(&mut self, snapshot: &Snapshot) {
        for key in self.queues.take_all() {
            self.returning = Some((key, Position::Moved));
            self.step(key, Input::Adopt(snapshot));
        }
        self.returning = None;
        for key in self.connections.keys() {
            if !self.is_waiting(key) {
                self.step(key, Input::Adopt(snapshot));
            }
        }
        self.queues.hint_all();
    }

    fn is_waiting(&self, key: Key) -> bool {
        self.connections.get(key).is_some_and(|connection| connection.session.stage() == Stage::Waiting)
    }

    /// Gives waiting connections their turns, until one finds no backend.
    pub(super) fn serve_queues(&mut self) {
        for pool in self.queues.due(self.now) {
            for _ in 0..SERVED {
                let Some(key) = self.queues.pop(&pool) else { break };
                self.returning = Some((key, Position::Front));
                self.step(key, Input::Turn);
                self.returning = None;
                if self.is_waiting(key) {
                    break;
                }
            }
        }
    }
}
