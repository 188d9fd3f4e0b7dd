//! Clients that wait for a backend: new snapshots, clients that leave, and turns.

use super::{Driver, Net};
use crate::pool::Snapshot;
use crate::session::{Input, Ledger, Stage};

impl<N: Net, L: Ledger> Driver<N, L> {
    /// Takes `snapshot`. Waiting clients go into the queues of their pools there, in their order, and get turns at once: there
    /// may be new backends.
    pub fn adopt(&mut self, snapshot: &Snapshot) {
        let mut waiting = self.queues.take_all();
        while let Some(key) = self.queues.next_moved(&mut waiting) {
            self.step(key, Input::Adopt(snapshot));
        }
        for key in self.connections.keys() {
            let stage = self.connections.get(key).map(|connection| connection.session.stage());
            if stage != Some(Stage::Waiting) {
                self.step(key, Input::Adopt(snapshot));
            }
        }
        self.queues.hint_all();
    }

    /// Gives waiting clients their turns.
    pub(super) fn serve_queues(&mut self) {
        let mut look = self.queues.look(self.now);
        while let Some(key) = self.queues.next_turn(&mut look) {
            self.step(key, Input::Turn);
        }
    }
}
