//! Totals of backends and pools.

use super::histogram::{CONNECTIONS, CONNECTS, FIRST_BYTES, Histogram, Reading};
use super::recent::{Recent, Series};
use super::tally::{self, Counted};
use crate::base::Tick;
use crate::policy::health::{Class, ConnectFailure};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

/// How many reasons a connection can end for: those of `session::CloseReason`.
pub const CLOSE_REASONS: usize = 15;

/// Ended connections, by `session::CloseReason`.
pub type Closed = [AtomicU64; CLOSE_REASONS];

/// Totals of a backend since it was added, or of a pool.
#[derive(Debug)]
pub struct Counters {
    /// Connections that reached the backend.
    pub connections: AtomicU64,
    /// How long it took to connect, of those.
    pub connect_times: Histogram,
    /// How long the first byte took, connect included.
    pub first_byte_times: Histogram,
    /// Connection attempts that failed, by [`ConnectFailure::label`], in the order of [`ConnectFailure::LABELS`].
    pub connect_failures: [AtomicU64; ConnectFailure::LABELS.len()],
    /// Bytes relayed from clients to the backend.
    pub bytes_to_backend: AtomicU64,
    /// Bytes relayed from the backend to clients.
    pub bytes_to_client: AtomicU64,
    /// Connections that ended at the backend, or while it was dialled.
    pub closed: Closed,
    /// Connections that the backend reset before it sent a byte.
    pub resets_before_byte: AtomicU64,
    /// Segments that were sent to the backend more than once, on connections that have ended.
    pub retransmits: AtomicU64,
    /// The average of the last round-trip times, in microseconds; 0 before the first.
    rtt_us: AtomicU32,
    /// Probes by [`Class`], in the order of [`Class::ALL`].
    pub probes: [AtomicU64; Class::ALL.len()],
    /// What they were before.
    pub series: Series<Sample>,
    /// The pool's totals, which count everything too. A sum over the backends would fall when one leaves.
    of_pool: Option<Arc<Counters>>,
}

/// The counters that [`Counters::recent`] compares, at one moment or as a difference.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sample {
    /// Connections that reached a backend.
    pub connections: u64,
    /// Connections that ended.
    pub ended: u64,
    /// Connections that the backend reset before it sent a byte.
    pub resets_before_byte: u64,
    /// Connection attempts that failed.
    pub connect_failures: u64,
    /// Bytes from clients.
    pub to_backend: u64,
    /// Bytes to clients.
    pub to_client: u64,
    /// Connect times.
    pub connects: Reading,
    /// Times of the first byte.
    pub first_bytes: Reading,
}

/// What the kernel knows of the path to a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PathInfo {
    /// The smoothed round-trip time; `None` before the first measurement.
    pub rtt: Option<Duration>,
    /// Segments that were sent more than once.
    pub retransmits: u32,
}

/// How many of a backend's last connections it has reset before it sent a byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resets {
    /// Those that it has reset.
    pub resets: u64,
    /// All that ended.
    pub ended: u64,
}

impl Resets {
    /// The fewest connections that prove something.
    const LEAST: u64 = 20;

    /// `None` if too few ended, or if the backend has reset less than nine tenths of them.
    fn of(sample: &Sample) -> Option<Resets> {
        let Sample { resets_before_byte: resets, ended, .. } = *sample;
        (ended >= Resets::LEAST && resets * 10 >= ended * 9).then_some(Resets { resets, ended })
    }
}

/// `40 of the last 40 connections were reset by the backend before a byte`.
impl fmt::Display for Resets {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Resets { resets, ended } = self;
        write!(out, "{resets} of the last {ended} connections were reset by the backend before a byte")
    }
}

impl Default for Counters {
    fn default() -> Self {
        Counters {
            connections: AtomicU64::new(0),
            connect_times: Histogram::new(CONNECTS),
            first_byte_times: Histogram::new(FIRST_BYTES),
            connect_failures: Default::default(),
            bytes_to_backend: AtomicU64::new(0),
            bytes_to_client: AtomicU64::new(0),
            closed: Default::default(),
            resets_before_byte: AtomicU64::new(0),
            retransmits: AtomicU64::new(0),
            rtt_us: AtomicU32::new(0),
            probes: Default::default(),
            series: Series::default(),
            of_pool: None,
        }
    }
}

impl Counters {
    /// Totals of zero. Everything counted here counts for the pool, too.
    pub fn counted_in(pool: &Arc<Counters>) -> Counters {
        Counters { of_pool: Some(pool.clone()), ..Counters::default() }
    }

    /// Counts a connection that reached the backend, and how long that took.
    pub fn connected(&self, took: Duration) {
        for counters in self.and_of_pool() {
            counters.connections.fetch_add(1, Ordering::Relaxed);
            counters.connect_times.add(took);
        }
    }

    /// Counts a connection attempt that failed.
    pub fn connect_failed(&self, failure: ConnectFailure) {
        let label = failure.label();
        let Some(reason) = ConnectFailure::LABELS.iter().position(|name| *name == label) else { return };
        for counters in self.and_of_pool() {
            counters.connect_failures[reason].fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Counts relayed bytes.
    pub fn relayed(&self, to_backend: u64, to_client: u64) {
        for counters in self.and_of_pool() {
            counters.bytes_to_backend.fetch_add(to_backend, Ordering::Relaxed);
            counters.bytes_to_client.fetch_add(to_client, Ordering::Relaxed);
        }
    }

    /// Counts what the kernel has forwarded.
    pub fn forwarded(&self, connections: u64, failed: u64, to_backend: u64, to_client: u64) {
        // Whether a backend refused them or was silent is not known.
        let other = ConnectFailure::LABELS.iter().position(|label| *label == "other");
        for counters in self.and_of_pool() {
            counters.connections.fetch_add(connections, Ordering::Relaxed);
            if let Some(other) = other {
                counters.connect_failures[other].fetch_add(failed, Ordering::Relaxed);
            }
        }
        self.relayed(to_backend, to_client);
    }

    /// Counts a probe.
    pub fn probed(&self, class: Class) {
        for counters in self.and_of_pool() {
            counters.probes[class as usize].fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Counts the first byte of a connection, and how long it took, connect included.
    pub fn answered(&self, took: Duration) {
        self.and_of_pool().for_each(|counters| counters.first_byte_times.add(took));
    }

    /// Counts a connection that has ended, by the number of the reason.
    pub fn closed(&self, reason: usize, reset_before_byte: bool) {
        for counters in self.and_of_pool() {
            count(&counters.closed, reason);
            if reset_before_byte {
                counters.resets_before_byte.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    /// Notes the path to the backend, at the end of a connection.
    pub fn measured(&self, PathInfo { rtt, retransmits }: PathInfo) {
        let rtt = rtt.map_or(0, |rtt| u32::try_from(rtt.as_micros()).unwrap_or(u32::MAX));
        for counters in self.and_of_pool() {
            if retransmits > 0 {
                counters.retransmits.fetch_add(retransmits.into(), Ordering::Relaxed);
            }
            // A sample that another worker overwrites is lost, which an average tolerates.
            if rtt > 0 {
                let before = counters.rtt_us.load(Ordering::Relaxed);
                let average = if before == 0 { rtt } else { before - before / 8 + rtt / 8 };
                counters.rtt_us.store(average, Ordering::Relaxed);
            }
        }
    }

    /// The average of the last round-trip times, of which the newest counts an eighth; `None` before the first.
    pub fn rtt(&self) -> Option<Duration> {
        let average = self.rtt_us.load(Ordering::Relaxed);
        (average > 0).then(|| Duration::from_micros(average.into()))
    }

    /// Control's: notes the counters of this moment.
    pub fn sample(&self, now: Tick) {
        let sample = self.now();
        self.series.sample(sample, sample.connections, now);
    }

    /// What was counted in the last minute.
    pub fn recent(&self, now: Tick) -> Recent<Sample> {
        self.series.recent(now, |before| self.now().since(before))
    }

    /// Set while the backend resets its clients: the longest part of the last minute of which that holds.
    pub fn resets(&self, now: Tick) -> Option<Resets> {
        let sample = self.now();
        self.series.find(now, |before| Resets::of(&sample.since(before)))
    }

    /// Has a backend that has reset its clients stopped to do so, or does it have none any more?
    pub fn is_better(&self, now: Tick) -> bool {
        let sample = self.now();
        let serves = |before: &Sample| {
            let Sample { ended, resets_before_byte: resets, .. } = sample.since(before);
            (ended > 0 && resets * 2 < ended).then_some(())
        };
        self.recent(now).figures.ended == 0 || self.series.find(now, serves).is_some()
    }

    fn now(&self) -> Sample {
        Sample {
            connections: self.connections.load(Ordering::Relaxed),
            ended: total(&self.closed),
            resets_before_byte: self.resets_before_byte.load(Ordering::Relaxed),
            connect_failures: self.connect_failures_total(),
            to_backend: self.bytes_to_backend.load(Ordering::Relaxed),
            to_client: self.bytes_to_client.load(Ordering::Relaxed),
            connects: self.connect_times.read(),
            first_bytes: self.first_byte_times.read(),
        }
    }

    /// Connection attempts that failed, whatever the reason.
    pub fn connect_failures_total(&self) -> u64 {
        total(&self.connect_failures)
    }

    fn and_of_pool(&self) -> impl Iterator<Item = &Counters> {
        std::iter::once(self).chain(self.of_pool.as_deref())
    }
}

impl Counted for Counters {
    fn counters(&self) -> Vec<(&'static str, &[AtomicU64])> {
        let ((connects, connects_sum), (first_bytes, first_bytes_sum)) =
            (self.connect_times.counters(), self.first_byte_times.counters());
        vec![
            ("connections", tally::one(&self.connections)),
            ("connect_times", connects),
            ("connect_times_sum", connects_sum),
            ("first_byte_times", first_bytes),
            ("first_byte_times_sum", first_bytes_sum),
            ("connect_failures", &self.connect_failures),
            ("bytes_to_backend", tally::one(&self.bytes_to_backend)),
            ("bytes_to_client", tally::one(&self.bytes_to_client)),
            ("closed", &self.closed),
            ("resets_before_byte", tally::one(&self.resets_before_byte)),
            ("retransmits", tally::one(&self.retransmits)),
            ("probes", &self.probes),
        ]
    }
}

impl Sample {
    /// What was counted after `before`.
    fn since(&self, before: &Sample) -> Sample {
        // Counters are read one after the other, so one of them may be behind the others.
        Sample {
            connections: self.connections.saturating_sub(before.connections),
            ended: self.ended.saturating_sub(before.ended),
            resets_before_byte: self.resets_before_byte.saturating_sub(before.resets_before_byte),
            connect_failures: self.connect_failures.saturating_sub(before.connect_failures),
            to_backend: self.to_backend.saturating_sub(before.to_backend),
            to_client: self.to_client.saturating_sub(before.to_client),
            connects: self.connects.since(&before.connects),
            first_bytes: self.first_bytes.since(&before.first_bytes),
        }
    }
}

/// Adds one to the count of this number.
fn count(counts: &[AtomicU64], number: usize) {
    if let Some(count) = counts.get(number) {
        count.fetch_add(1, Ordering::Relaxed);
    }
}

fn total(counts: &[AtomicU64]) -> u64 {
    counts.iter().map(|count| count.load(Ordering::Relaxed)).sum()
}

/// Totals of one pool.
#[derive(Debug)]
pub struct PoolTotals {
    /// Connections that ended without a backend.
    pub closed: Closed,
    /// Attempts with another backend after one had failed.
    pub connect_retries: AtomicU64,
    /// How long connections lasted, from accept to the end.
    pub durations: Histogram,
    /// Clients that wait for a backend now, at all workers.
    pub waiting: AtomicUsize,
    /// One of its backends has sent bytes before the client did: it gets no warm connections. Their keeper writes it.
    pub speaks_first: AtomicBool,
    /// Connections of its backends now, also of those that have left.
    pub active: Arc<AtomicUsize>,
    /// All that its backends counted, those that have left too.
    pub counters: Arc<Counters>,
}

impl Default for PoolTotals {
    fn default() -> Self {
        PoolTotals {
            closed: Default::default(),
            connect_retries: AtomicU64::new(0),
            durations: Histogram::new(CONNECTIONS),
            waiting: AtomicUsize::new(0),
            speaks_first: AtomicBool::new(false),
            active: Arc::default(),
            counters: Arc::default(),
        }
    }
}

impl Counted for PoolTotals {
    fn counters(&self) -> Vec<(&'static str, &[AtomicU64])> {
        let (durations, durations_sum) = self.durations.counters();
        vec![
            ("closed", &self.closed),
            ("connect_retries", tally::one(&self.connect_retries)),
            ("durations", durations),
            ("durations_sum", durations_sum),
        ]
    }
}

impl PoolTotals {
    /// Counts a connection that has ended without a backend, by the number of the reason.
    pub fn closed_without_backend(&self, reason: usize) {
        count(&self.closed, reason);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RESET: usize = 3;

    #[test]
    fn what_a_backend_counts_its_pool_counts_too_and_without_a_backend_the_pool_alone() {
        let pool = PoolTotals::default();
        let backend = Counters::counted_in(&pool.counters);
        backend.closed(RESET, true);
        backend.answered(Duration::from_millis(1));
        backend.measured(PathInfo { rtt: Some(Duration::from_micros(80)), retransmits: 2 });
        pool.closed_without_backend(RESET);
        for counters in [&backend, &*pool.counters] {
            let one = [&counters.closed[RESET], &counters.resets_before_byte];
            assert_eq!(one.map(|count| count.load(Ordering::Relaxed)), [1, 1]);
            assert_eq!(counters.retransmits.load(Ordering::Relaxed), 2);
            assert_eq!(
                (counters.first_byte_times.read().count(), counters.rtt()),
                (1, Some(Duration::from_micros(80)))
            );
        }
        assert_eq!(pool.closed[RESET].load(Ordering::Relaxed), 1);
    }

    #[test]
    fn the_round_trip_time_follows_its_samples_and_zero_is_none() {
        let counters = Counters::default();
        let measured = |micros| {
            counters.measured(PathInfo { rtt: Some(Duration::from_micros(micros)), retransmits: 0 });
            counters.rtt().map(|rtt| rtt.as_micros())
        };
        assert_eq!(measured(0), None);
        assert_eq!(measured(800), Some(800));
        assert_eq!(measured(1_600), Some(900));
        let later: Vec<_> = (0..100).map(|_| measured(1_600)).collect();
        assert!(later.is_sorted() && later[99] > Some(1_590), "{later:?}");
    }

    #[test]
    fn the_last_minute_is_what_was_counted_since() {
        let counters = Counters::default();
        counters.series.begin(Tick(1));
        counters.connected(Duration::from_millis(3));
        counters.relayed(1_000, 2_000);
        let at = |seconds| Tick(1) + Duration::from_secs(seconds);
        let Recent { span, figures } = counters.recent(at(10));
        assert_eq!((span.as_secs(), figures.connections, figures.to_backend, figures.to_client), (10, 1, 1_000, 2_000));
        (1..=30).for_each(|tick| counters.sample(at(5 * tick)));
        counters.connected(Duration::from_millis(3));
        let Recent { span, figures } = counters.recent(at(150));
        assert!((60..=75).contains(&span.as_secs()), "{span:?}");
        assert_eq!((figures.connections, figures.to_backend, figures.connects.count()), (1, 0, 1));
    }

    #[test]
    fn a_backend_that_resets_its_last_clients_is_found_whatever_came_before() {
        let counters = Counters::default();
        let at = |seconds| Tick(1) + Duration::from_secs(seconds);
        counters.series.begin(at(0));
        (0..10_000).for_each(|_| counters.closed(0, false));
        (0..4).for_each(|second| counters.sample(at(5 * second)));
        (0..19).for_each(|_| counters.closed(RESET, true));
        assert_eq!(counters.resets(at(16)), None, "too few");
        counters.closed(RESET, true);
        assert_eq!(counters.resets(at(16)), Some(Resets { resets: 20, ended: 20 }));
        (0..2).for_each(|_| counters.closed(0, false));
        assert_eq!(counters.resets(at(16)), Some(Resets { resets: 20, ended: 22 }));
        counters.closed(0, false);
        assert_eq!(counters.resets(at(16)), None, "one in ten is served");
    }
}
