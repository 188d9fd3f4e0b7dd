//! Totals of a listener and of its routes, and the reasons for which it refused clients.

use super::histogram::{FIRST_BYTES, Histogram};
use super::recent::{Recent, Series};
use super::tally::{self, Counted};
use crate::base::{SharedLogThrottle, Tick};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// Totals of one listener.
#[derive(Debug)]
pub struct ListenerTotals {
    /// The listener's name.
    pub name: String,
    accepted: AtomicU64,
    refused: [AtomicU64; Refusal::ALL.len()],
    logged: [SharedLogThrottle; Refusal::ALL.len()],
    /// How long the first bytes took that routes need, from the admission on.
    pub sniff_times: Histogram,
    active: AtomicUsize,
    series: Series<Clients>,
}

/// The counters that [`ListenerTotals::recent`] compares, at one moment or as a difference.
#[derive(Clone, Copy, Debug, Default)]
pub struct Clients {
    /// Clients accepted, refused ones included.
    pub accepted: u64,
    /// Clients refused.
    pub refused: u64,
}

/// Why a client was not served.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Refusal {
    /// An access list denies it.
    Denied,
    /// Its source is at its limit of connections.
    SourceLimit,
    /// Its source connects too often.
    SourceRate,
    /// There was no backend.
    NoBackend,
    /// Its PROXY header was missing, broken or late, or it may not send one.
    BadProxyHeader,
    /// Its first bytes, which routes need, were broken, cut short or late.
    SniffFailed,
}

impl Refusal {
    /// All of them, in the order in which they are counted.
    pub const ALL: [Refusal; 6] = [
        Refusal::Denied,
        Refusal::SourceLimit,
        Refusal::SourceRate,
        Refusal::NoBackend,
        Refusal::BadProxyHeader,
        Refusal::SniffFailed,
    ];

    /// Its value of the metric label `reason`.
    pub fn label(self) -> &'static str {
        match self {
            Refusal::Denied => "denied",
            Refusal::SourceLimit => "source_limit",
            Refusal::SourceRate => "source_rate",
            Refusal::NoBackend => "no_backend",
            Refusal::BadProxyHeader => "bad_proxy_header",
            Refusal::SniffFailed => "sniff_failed",
        }
    }
}

impl Counted for ListenerTotals {
    fn counters(&self) -> Vec<(&'static str, &[AtomicU64])> {
        let (sniff_times, sniff_times_sum) = self.sniff_times.counters();
        vec![
            ("accepted", tally::one(&self.accepted)),
            ("refused", &self.refused),
            ("sniff_times", sniff_times),
            ("sniff_times_sum", sniff_times_sum),
        ]
    }
}

/// Totals of one route of a listener, or of the clients that take none.
#[derive(Debug, Default)]
pub struct RouteTotals {
    /// Clients that took it.
    pub connections: AtomicU64,
}

impl Counted for RouteTotals {
    fn counters(&self) -> Vec<(&'static str, &[AtomicU64])> {
        vec![("connections", tally::one(&self.connections))]
    }
}

impl ListenerTotals {
    /// Nothing counted yet.
    pub fn new(name: String) -> Arc<ListenerTotals> {
        Arc::new(ListenerTotals {
            name,
            accepted: AtomicU64::new(0),
            refused: Default::default(),
            logged: Default::default(),
            sniff_times: Histogram::new(FIRST_BYTES),
            active: AtomicUsize::new(0),
            series: Series::default(),
        })
    }

    /// Control's: begins to note the counters.
    pub fn begin(&self, now: Tick) {
        self.series.begin(now);
    }

    /// Control's: notes the counters of this moment.
    pub fn sample(&self, now: Tick) {
        let clients = self.clients();
        self.series.sample(clients, clients.accepted, now);
    }

    /// The clients of the last minute.
    pub fn recent(&self, now: Tick) -> Recent<Clients> {
        let clients = self.clients();
        self.series.recent(now, |before| Clients {
            accepted: clients.accepted.saturating_sub(before.accepted),
            refused: clients.refused.saturating_sub(before.refused),
        })
    }

    /// Clients accepted per second, over the last three minutes.
    pub fn history(&self) -> Vec<f64> {
        self.series.history()
    }

    fn clients(&self) -> Clients {
        Clients { accepted: self.accepted(), refused: self.refused_total() }
    }

    /// Counts a client that was accepted.
    pub fn accept(&self) {
        self.accepted.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts clients whose connections the kernel forwards: so many more, and from `before` active ones to `now`.
    pub fn forward(&self, accepted: u64, before: usize, now: usize) {
        self.accepted.fetch_add(accepted, Ordering::Relaxed);
        self.active.fetch_add(now.wrapping_sub(before), Ordering::Relaxed);
    }

    /// A client is active until [`ListenerTotals::leave`].
    pub fn enter(&self) {
        self.active.fetch_add(1, Ordering::Relaxed);
    }

    /// The connection of an active client has ended.
    pub fn leave(&self) {
        self.active.fetch_sub(1, Ordering::Relaxed);
    }

    /// Counts a client that was refused after it was accepted.
    pub fn refuse(&self, why: Refusal) {
        self.refused[why as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// How many clients were refused for this reason since the last log line about it, if a line is due. The first
    /// refusal is logged at once and the others together, so that a flood of clients does not flood the log.
    pub fn to_log(&self, why: Refusal, now: Tick) -> Option<u64> {
        self.logged[why as usize].due(self.refused(why), now)
    }

    /// The same for a thread that looks now and then, since the last refusals of a flood may come too early to be logged.
    /// `None` while the flood goes on: the worker that refuses can say more about the client.
    pub fn settled_to_log(&self, why: Refusal, now: Tick) -> Option<u64> {
        self.logged[why as usize].due_once_settled(self.refused(why), now)
    }

    /// All refusals so far are logged: the process before has done so.
    pub fn all_are_logged(&self) {
        for why in Refusal::ALL {
            self.unlogged(why);
        }
    }

    /// How many clients were refused for this reason since that was last logged, if any: for the end.
    pub fn unlogged(&self, why: Refusal) -> Option<u64> {
        self.logged[why as usize].rest(self.refused(why))
    }

    /// Clients accepted, refused ones included.
    pub fn accepted(&self) -> u64 {
        self.accepted.load(Ordering::Relaxed)
    }

    /// Clients refused for this reason.
    pub fn refused(&self, why: Refusal) -> u64 {
        self.refused[why as usize].load(Ordering::Relaxed)
    }

    /// Clients refused, whatever the reason.
    pub fn refused_total(&self) -> u64 {
        Refusal::ALL.into_iter().map(|why| self.refused(why)).sum()
    }

    /// Open connections of this listener.
    pub fn active(&self) -> usize {
        self.active.load(Ordering::Relaxed)
    }
}

/// How the connections ended that were open when the drain began, at one worker or all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EndCounts {
    /// Those that ended by themselves.
    pub finished: u64,
    /// Those that the process reset.
    pub reset: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_are_counted_in_the_order_of_their_list() {
        for (index, why) in Refusal::ALL.into_iter().enumerate() {
            assert_eq!(why as usize, index);
        }
    }

    #[test]
    fn each_reason_is_logged_by_itself() {
        let totals = ListenerTotals::new("web".into());
        totals.refuse(Refusal::Denied);
        totals.refuse(Refusal::Denied);
        assert_eq!(totals.to_log(Refusal::Denied, Tick(1)), Some(2));
        totals.refuse(Refusal::Denied);
        totals.refuse(Refusal::NoBackend);
        let log = |why| totals.to_log(why, Tick(2));
        assert_eq!([log(Refusal::Denied), log(Refusal::NoBackend)], [None, Some(1)]);
        assert_eq!(totals.settled_to_log(Refusal::Denied, Tick(99_000_000)), None);
        assert_eq!(totals.unlogged(Refusal::Denied), Some(1));
    }

    #[test]
    fn a_client_is_active_until_it_leaves() {
        let totals = ListenerTotals::new("web".into());
        totals.enter();
        totals.enter();
        totals.leave();
        totals.accept();
        totals.refuse(Refusal::NoBackend);
        assert_eq!((totals.accepted(), totals.active(), totals.refused_total()), (1, 1, 1));
        totals.leave();
        assert_eq!(totals.active(), 0);
    }
}
