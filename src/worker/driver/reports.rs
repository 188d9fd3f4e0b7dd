//! Reports open connections, for the access log: when they begin to relay, and then now and then.

use super::{Driver, Net};
use crate::base::OptionalTick;
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
    pub(super) fn first_report(&mut self) -> OptionalTick {
        let interval = self.ledger.report_interval();
        interval.map(|interval| self.now + interval.mul_f64(1.0 - self.random.f64())).into()
    }

    /// Reports a connection if it is time.
    pub(super) fn report_ongoing(&mut self, key: Key) {
        let Some(connection) = self.connections.get_mut(key) else { return };
        if connection.report_at.take_if_due(self.now).is_none() {
            return;
        }
        connection.report_at = self.ledger.report_interval().map(|interval| self.now + interval).into();
        let interval = connection.session.report(self.now);
        if let Some(live) = connection.session.live() {
            self.ledger.record(Fact::Ongoing { live: &live, interval }, self.now);
        }
    }
}
