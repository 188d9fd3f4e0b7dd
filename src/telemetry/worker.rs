//! How long the turns of a worker's event loop take.

use super::histogram::{Histogram, Reading, TURNS};
use super::recent::Series;
use super::tally::Counted;
use crate::base::Tick;
use std::sync::atomic::AtomicU64;

/// Totals of one worker.
#[derive(Debug)]
pub struct WorkerTotals {
    /// Turns of the loop, without the sleep: an event that becomes ready may wait for as long.
    pub turns: Histogram,
    series: Series<Reading>,
}

impl Default for WorkerTotals {
    fn default() -> Self {
        WorkerTotals { turns: Histogram::new(TURNS), series: Series::default() }
    }
}

impl Counted for WorkerTotals {
    fn counters(&self) -> Vec<(&'static str, &[AtomicU64])> {
        let (turns, turns_sum) = self.turns.counters();
        vec![("turns", turns), ("turns_sum", turns_sum)]
    }
}

impl WorkerTotals {
    /// Control's: notes the turns until this moment.
    pub fn sample(&self, now: Tick) {
        let turns = self.turns.read();
        self.series.sample(turns, turns.count(), now);
    }

    /// The turns of the last minute.
    pub fn recent(&self, now: Tick) -> Reading {
        let turns = self.turns.read();
        self.series.recent(now, |before| turns.since(before)).figures
    }
}
