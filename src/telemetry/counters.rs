//! Totals of backends and pools.

use super::histogram::{CONNECTIONS, CONNECTS, Histogram};
use crate::policy::health::{Class, ConnectFailure};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Totals of a backend since it was added, or of a pool.
#[derive(Debug)]
pub struct Counters {
    /// Connections that reached the backend.
    pub connections: AtomicU64,
    /// How long it took to connect, of those.
    pub connect_times: Histogram,
    /// Connection attempts that failed, by [`ConnectFailure::label`], in the order of [`ConnectFailure::LABELS`].
    pub connect_failures: [AtomicU64; ConnectFailure::LABELS.len()],
    /// Bytes relayed from clients to the backend.
    pub bytes_to_backend: AtomicU64,
    /// Bytes relayed from the backend to clients.
    pub bytes_to_client: AtomicU64,
    /// Probes by [`Class`], in the order of [`Class::ALL`].
    pub probes: [AtomicU64; Class::ALL.len()],
    /// The pool's totals, which count everything too. A sum over the backends would fall when one leaves.
    of_pool: Option<Arc<Counters>>,
}

impl Default for Counters {
    fn default() -> Self {
        Counters {
            connections: AtomicU64::new(0),
            connect_times: Histogram::new(CONNECTS),
            connect_failures: Default::default(),
            bytes_to_backend: AtomicU64::new(0),
            bytes_to_client: AtomicU64::new(0),
            probes: Default::default(),
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

    /// Counts a probe.
    pub fn probed(&self, class: Class) {
        for counters in self.and_of_pool() {
            counters.probes[class as usize].fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Connection attempts that failed, whatever the reason.
    pub fn connect_failures_total(&self) -> u64 {
        self.connect_failures.iter().map(|count| count.load(Ordering::Relaxed)).sum()
    }

    fn and_of_pool(&self) -> impl Iterator<Item = &Counters> {
        std::iter::once(self).chain(self.of_pool.as_deref())
    }
}

/// How many reasons a connection can end for: those of `session::CloseReason`.
pub const CLOSE_REASONS: usize = 14;

/// Totals of one pool.
#[derive(Debug)]
pub struct PoolTotals {
    /// Connections that ended, by `session::CloseReason`.
    pub closed: [AtomicU64; CLOSE_REASONS],
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
            closed: Default::default(),
            connect_retries: AtomicU64::new(0),
            durations: Histogram::new(CONNECTIONS),
            counters: Arc::default(),
        }
    }
}
