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

    /// Another worker may have called this one.
    pub fn look_at_queues(&mut self) {
        self.queues.hint_all();
    }

    /// The workers to be woken: their clients wait longer for a backend than those here.
    pub fn take_called(&mut self) -> impl Iterator<Item = usize> {
        self.queues.take_called()
    }
}
