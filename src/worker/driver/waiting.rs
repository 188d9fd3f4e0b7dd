//! Clients that wait for a backend get their turns.

use super::{Driver, Net};
use crate::session::{Input, Ledger};

impl<N: Net, L: Ledger> Driver<N, L> {
    /// Gives waiting clients their turns.
    pub(super) fn serve_queues(&mut self) {
        let mut look = self.queues.look(self.now);
        while let Some(key) = self.queues.next_turn(&mut look) {
            self.step(key, Input::Turn);
        }
    }
}
