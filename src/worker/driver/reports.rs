//! Reports open connections, for the access log: when they begin to relay, and then now and then.

use super::{Driver, Net};
use crate::base::Tick;
use crate::base::slots::Key;
use crate::session::{Fact, Ledger};

impl<N: Net, L: Ledger> Driver<N, L> {
    /// Reports a connection that begins to relay. The first report after that comes at a random moment within the interval.
    /// So clients that connected together (all of them, after a restart) are not reported together.
    pub(super) fn report_open(&mut self, key: Key) {
        let Some(connection) = self.connections.get_mut(key) else { return };
        // It has relayed before, if it had a warm connection that is replaced.
        if std::mem::replace(&mut connection.is_reported, true) {
            return;
        }
        if let Some(live) = connection.session.live() {
            self.ledger.record(Fact::Opened(&live), self.now);
        }
        let first = self.first_report();
        if let Some(connection) = self.connections.get_mut(key) {
            connection.report_at = first;
        }
    }

    /// When a connection is reported that relays from now on, if it is.
    pub(super) fn first_report(&mut self) -> Option<Tick> {
        let first = self.ledger.report_interval()?.mul_f64(1.0 - self.random.f64());
        Some(self.now + first)
    }

    /// Reports a connection if it is time.
    pub(super) fn report_ongoing(&mut self, key: Key) {
        let Some(connection) = self.connections.get_mut(key) else { return };
        if connection.report_at.is_none_or(|at| at > self.now) {
            return;
        }
        connection.report_at = self.ledger.report_interval().map(|interval| self.now + interval);
        let interval = connection.session.report(self.now);
        if let Some(live) = connection.session.live() {
            self.ledger.record(Fact::Ongoing { live: &live, interval }, self.now);
        }
    }
}
