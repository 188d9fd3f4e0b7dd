//! Answers questions about the open connections, slice by slice.

use super::{Driver, Net};
use crate::base::slots::Key;
use crate::inspect::Inspection;
use crate::session::{CloseReason, Input, Ledger};

impl<N: Net, L: Ledger> Driver<N, L> {
    /// Goes on with an inspection until it is complete or the slice `is_over`, which is asked before each step. True: it is
    /// complete. A step looks at one connection, closes one, or asks the kernel about one.
    pub fn inspect(&mut self, inspection: &mut Inspection, mut is_over: impl FnMut() -> bool) -> bool {
        inspection.begin_slice(self.connections.slots());
        while !is_over() {
            if let Some(slot) = inspection.next_slot() {
                self.visit(slot, inspection);
            } else if let Some(key) = inspection.next_kept() {
                self.describe(key, inspection);
            } else {
                return true;
            }
        }
        false
    }

    fn visit(&mut self, slot: u32, inspection: &mut Inspection) {
        let Some(key) = self.connections.key_of(slot) else { return };
        let Some(live) = self.connections.get(key).and_then(|connection| connection.session.live()) else { return };
        if inspection.visit(key, &live) {
            self.step(key, Input::Stop(CloseReason::Forced));
        }
    }

    fn describe(&mut self, key: Key, inspection: &mut Inspection) {
        let Some(connection) = self.connections.get(key) else { return };
        let path = self.net.path_info(&connection.sockets.client.end.socket);
        if let Some(live) = connection.session.live() {
            inspection.describe(&live, path.and_then(|path| path.rtt));
        }
    }
}
