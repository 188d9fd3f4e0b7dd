//! Listeners whose connections the kernel carries: its table, and the changes of it.

use super::histogram::{Histogram, TURNS};
use super::tally::{self, Counted};
use parking_lot::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Totals of the kernel's engine.
#[derive(Debug)]
pub struct KernelTotals {
    changes: AtomicU64,
    failures: AtomicU64,
    /// How long a change of the table took.
    pub change_times: Histogram,
    tracked: Mutex<Option<Tracked>>,
    /// Why the table is not as it should be.
    problem: Mutex<Option<String>>,
    /// What the system lacks.
    lacks: Mutex<Vec<String>>,
}

/// The kernel's table of connections, as it was last seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tracked {
    /// Entries of tcplb's connections.
    pub entries: u64,
    /// All entries.
    pub table_entries: u64,
    /// The most entries.
    pub table_max: u64,
    /// Whether the kernel counts bytes.
    pub counts_bytes: bool,
}

impl Default for KernelTotals {
    fn default() -> Self {
        KernelTotals {
            changes: AtomicU64::new(0),
            failures: AtomicU64::new(0),
            change_times: Histogram::new(TURNS),
            tracked: Mutex::default(),
            problem: Mutex::default(),
            lacks: Mutex::default(),
        }
    }
}

impl KernelTotals {
    /// Counts a transaction of so many changes.
    pub fn changed(&self, changes: usize, took: Duration) {
        self.changes.fetch_add(changes as u64, Ordering::Relaxed);
        self.change_times.add(took);
    }

    /// The table is as it should be. True: it was not.
    pub fn is_right(&self) -> bool {
        self.problem.lock().take().is_some()
    }

    /// Counts one that failed. True: the one before did not fail for this reason.
    pub fn failed(&self, why: &str) -> bool {
        self.failures.fetch_add(1, Ordering::Relaxed);
        let mut problem = self.problem.lock();
        let is_new = problem.as_deref() != Some(why);
        *problem = Some(why.to_owned());
        is_new
    }

    /// Changes of elements, chains and maps, and transactions that failed.
    pub fn changes(&self) -> (u64, u64) {
        (self.changes.load(Ordering::Relaxed), self.failures.load(Ordering::Relaxed))
    }

    /// Why the table is not as it should be, if it is not.
    pub fn problem(&self) -> Option<String> {
        self.problem.lock().clone()
    }

    /// The kernel's table of connections; `None`: no listener has the kernel's engine.
    pub fn tracked(&self) -> Option<Tracked> {
        *self.tracked.lock()
    }

    /// Notes the kernel's table of connections.
    pub fn set_tracked(&self, tracked: Option<Tracked>) {
        *self.tracked.lock() = tracked;
    }

    /// What the system lacks for its listeners, each a sentence.
    pub fn lacks(&self) -> Vec<String> {
        self.lacks.lock().clone()
    }

    /// Notes what the system lacks. True: something else than before.
    pub fn set_lacks(&self, lacks: Vec<String>) -> bool {
        let mut before = self.lacks.lock();
        let is_new = *before != lacks;
        *before = lacks;
        is_new
    }
}

impl Counted for KernelTotals {
    fn counters(&self) -> Vec<(&'static str, &[AtomicU64])> {
        let (times, times_sum) = self.change_times.counters();
        vec![
            ("changes", tally::one(&self.changes)),
            ("failures", tally::one(&self.failures)),
            ("change_times", times),
            ("change_times_sum", times_sum),
        ]
    }
}
