//! Upgrades of the balancer, over all its processes.

use super::histogram::{Histogram, PAUSES};
use super::tally::{self, Counted};
use std::sync::atomic::{AtomicU64, Ordering};

/// How they ended, and how long connections stood still.
#[derive(Debug)]
pub struct UpgradeTotals {
    done: AtomicU64,
    failed: AtomicU64,
    /// How long each connection that moved stood still.
    pub pauses: Histogram,
}

impl Default for UpgradeTotals {
    fn default() -> Self {
        UpgradeTotals { done: AtomicU64::new(0), failed: AtomicU64::new(0), pauses: Histogram::new(PAUSES) }
    }
}

impl UpgradeTotals {
    /// Counts an upgrade.
    pub fn ended(&self, done: bool) {
        let count = if done { &self.done } else { &self.failed };
        count.fetch_add(1, Ordering::Relaxed);
    }

    /// Upgrades that succeeded, and those that failed.
    pub fn results(&self) -> (u64, u64) {
        (self.done.load(Ordering::Relaxed), self.failed.load(Ordering::Relaxed))
    }
}

impl Counted for UpgradeTotals {
    fn counters(&self) -> Vec<(&'static str, &[AtomicU64])> {
        let (pauses, pauses_sum) = self.pauses.counters();
        vec![
            ("done", tally::one(&self.done)),
            ("failed", tally::one(&self.failed)),
            ("pauses", pauses),
            ("pauses_sum", pauses_sum),
        ]
    }
}
