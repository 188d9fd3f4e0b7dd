//! What listeners and pools have done so far. As with backends, these objects outlive snapshots: a reload that keeps
//! the name keeps the counts.

use super::Counters;
use super::histogram::{CONNECTIONS, Histogram};
use crate::base::Tick;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

/// How often the log tells of the same thing while it goes on.
const TELL_EVERY: Duration = Duration::from_secs(10);

/// Totals of one listener. Workers add, everyone reads; all relaxed.
#[derive(Debug)]
pub struct ListenerTotals {
    /// The listener's name.
    pub name: String,
    accepted: AtomicU64,
    refused: [AtomicU64; Refusal::ALL.len()],
    told: [Told; Refusal::ALL.len()],
    active: AtomicUsize,
}

/// What has been told of something that is counted, such as the refusals for one reason.
#[derive(Debug, Default)]
struct Told {
    /// When it was last told; 0: never.
    at: AtomicU64,
    /// How many there had been by then.
    count: AtomicU64,
    /// How many there had been when somebody last looked whether it goes on.
    seen: AtomicU64,
}

impl Told {
    /// How many of `count` are new, if there are any and that is to be told now.
    fn take(&self, count: u64, now: Tick) -> Option<u64> {
        let last = self.at.load(Ordering::Relaxed);
        let lately = last != 0 && now - Tick(last) < TELL_EVERY;
        if lately || count <= self.count.load(Ordering::Relaxed) {
            return None;
        }
        // Of several threads one tells.
        self.at.compare_exchange(last, now.0, Ordering::Relaxed, Ordering::Relaxed).ok()?;
        self.rest(count)
    }

    /// The same once it has come to rest: nothing has been added since the last look.
    fn take_settled(&self, count: u64, now: Tick) -> Option<u64> {
        let settled = self.seen.swap(count, Ordering::Relaxed) == count;
        settled.then(|| self.take(count, now)).flatten()
    }

    /// How many of `count` are new, if there are any: for the end.
    fn rest(&self, count: u64) -> Option<u64> {
        // Another thread may have told a later count already.
        Some(count.saturating_sub(self.count.fetch_max(count, Ordering::Relaxed))).filter(|new| *new > 0)
    }
}

/// What became of the access log's lines. Workers and its thread add, everyone reads; all relaxed.
#[derive(Debug, Default)]
pub struct LogTotals {
    lost: AtomicU64,
    told: Told,
}

impl LogTotals {
    /// Counts lines that were not written.
    pub fn lose(&self, lines: u64) {
        self.lost.fetch_add(lines, Ordering::Relaxed);
    }

    /// Lines that were not written.
    pub fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }

    /// How many were lost since that was last told, if it is to be told again; as [`ListenerTotals::to_tell`].
    pub fn to_tell(&self, now: Tick) -> Option<u64> {
        self.told.take(self.lost(), now)
    }

    /// How many were lost since that was last told, if any: for the end.
    pub fn untold(&self) -> Option<u64> {
        self.told.rest(self.lost())
    }
}

/// Why a client was not served.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Refusal {
    /// An access list says so.
    Denied,
    /// Its source has as many connections as it may.
    SourceLimit,
    /// Its source connects too often.
    SourceRate,
    /// There was no backend.
    NoBackend,
    /// Its PROXY header was missing, broken, late or not its to send.
    BadProxyHeader,
}

impl Refusal {
    /// All of them, in the order in which they are counted.
    pub const ALL: [Refusal; 5] =
        [Refusal::Denied, Refusal::SourceLimit, Refusal::SourceRate, Refusal::NoBackend, Refusal::BadProxyHeader];

    /// Its value of the metric label `reason`.
    pub fn label(self) -> &'static str {
        match self {
            Refusal::Denied => "denied",
            Refusal::SourceLimit => "source_limit",
            Refusal::SourceRate => "source_rate",
            Refusal::NoBackend => "no_backend",
            Refusal::BadProxyHeader => "bad_proxy_header",
        }
    }
}

impl ListenerTotals {
    /// Nothing counted yet.
    pub fn new(name: String) -> Arc<ListenerTotals> {
        let (accepted, refused, told, active) = Default::default();
        Arc::new(ListenerTotals { name, accepted, refused, told, active })
    }

    /// Counts a client that was accepted; its connection counts as active until the visit is dropped.
    pub fn enter(self: &Arc<ListenerTotals>) -> Visit {
        self.accepted.fetch_add(1, Ordering::Relaxed);
        self.active.fetch_add(1, Ordering::Relaxed);
        Visit(self.clone())
    }

    /// Counts one that was then refused.
    pub fn refuse(&self, why: Refusal) {
        self.refused[why as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// How many clients were refused for this reason since that was last told, if it is to be told again: the first at
    /// once, the others together, so that a flood does not become one of the log. `now` is of [`super::clock`].
    pub fn to_tell(&self, why: Refusal, now: Tick) -> Option<u64> {
        self.told[why as usize].take(self.refused(why), now)
    }

    /// The same for one who looks now and then, since the last of a flood may come too early to be told of. None as long as
    /// it goes on: who refuses can say more about the client.
    pub fn left_to_tell(&self, why: Refusal, now: Tick) -> Option<u64> {
        self.told[why as usize].take_settled(self.refused(why), now)
    }

    /// How many clients were refused for this reason since that was last told, if any: for the end.
    pub fn untold(&self, why: Refusal) -> Option<u64> {
        self.told[why as usize].rest(self.refused(why))
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

    /// Connections that came in here and are open.
    pub fn active(&self) -> usize {
        self.active.load(Ordering::Relaxed)
    }
}

/// One client at one listener, counted while it lives.
#[derive(Debug)]
pub struct Visit(Arc<ListenerTotals>);

impl Drop for Visit {
    fn drop(&mut self) {
        self.0.active.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What became of the connections that were open when the end of the process began, at one worker or all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EndCounts {
    /// Those that ended by themselves.
    pub finished: u64,
    /// Those that the end cut.
    pub reset: u64,
}

/// Totals of one pool. Workers add, everyone reads; all relaxed.
#[derive(Debug)]
pub struct PoolTotals {
    /// Attempts with another backend after one had failed.
    pub connect_retries: AtomicU64,
    /// How long connections lasted, from accept to the end.
    pub durations: Histogram,
    /// All that its backends counted, those that have left too.
    pub counters: Arc<Counters>,
}

impl Default for PoolTotals {
    fn default() -> Self {
        PoolTotals {
            connect_retries: AtomicU64::new(0),
            durations: Histogram::new(CONNECTIONS),
            counters: Arc::default(),
        }
    }
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
    fn the_first_refusal_is_told_at_once_and_the_others_together() {
        let totals = ListenerTotals::new("web".into());
        let refuse = |now| {
            totals.refuse(Refusal::Denied);
            totals.to_tell(Refusal::Denied, now)
        };
        assert_eq!(refuse(Tick(1)), Some(1));
        assert_eq!([refuse(Tick(2)), refuse(Tick(9_999_999))], [None, None]);
        totals.refuse(Refusal::NoBackend);
        assert_eq!(totals.to_tell(Refusal::NoBackend, Tick(2)), Some(1), "another reason");
        assert_eq!(refuse(Tick(10_000_001)), Some(3));
    }

    #[test]
    fn who_looks_now_and_then_tells_of_those_that_came_last() {
        let totals = ListenerTotals::new("web".into());
        let look = |seconds: u64| totals.left_to_tell(Refusal::Denied, Tick(seconds * 1_000_000));
        totals.refuse(Refusal::Denied);
        assert_eq!(look(10), None, "whoever refused it is about to tell");
        assert_eq!(totals.to_tell(Refusal::Denied, Tick(11_000_000)), Some(1));
        assert_eq!(look(30), None, "nothing new");
        totals.refuse(Refusal::Denied);
        totals.refuse(Refusal::Denied);
        assert_eq!(look(31), None, "it goes on");
        assert_eq!([look(32), look(33), look(99)], [Some(2), None, None]);
        totals.refuse(Refusal::Denied);
        assert_eq!([look(100), look(101)], [None, Some(1)]);
        totals.refuse(Refusal::Denied);
        assert_eq!([look(102), look(103), look(110), look(111)], [None, None, None, Some(1)]);
        totals.refuse(Refusal::Denied);
        assert_eq!([totals.untold(Refusal::Denied), totals.untold(Refusal::Denied)], [Some(1), None]);
    }

    #[test]
    fn a_visit_counts_while_it_lives() {
        let totals = ListenerTotals::new("web".into());
        let (one, two) = (totals.enter(), totals.enter());
        drop(one);
        totals.refuse(Refusal::NoBackend);
        assert_eq!((totals.accepted(), totals.active(), totals.refused_total()), (2, 1, 1));
        drop(two);
        assert_eq!(totals.active(), 0);
    }
}
