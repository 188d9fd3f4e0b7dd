//! Lines that the access log lost.

use super::tally::{self, Counted};
use crate::base::{SharedLogThrottle, Tick};
use std::sync::atomic::{AtomicU64, Ordering};

/// Lines that both logs have lost, at one moment or in a span.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LostLines {
    /// Of the log on stderr.
    pub log: u64,
    /// Of the access log.
    pub access_log: u64,
}

impl LostLines {
    /// Those that were lost after `before`.
    #[must_use]
    pub fn since(self, before: &LostLines) -> LostLines {
        LostLines {
            log: self.log.saturating_sub(before.log),
            access_log: self.access_log.saturating_sub(before.access_log),
        }
    }
}

/// Lines that were lost.
#[derive(Debug, Default)]
pub struct AccessLogTotals {
    lost: AtomicU64,
    logged: SharedLogThrottle,
}

impl Counted for AccessLogTotals {
    fn counters(&self) -> Vec<(&'static str, &[AtomicU64])> {
        vec![("lost", tally::one(&self.lost))]
    }
}

impl AccessLogTotals {
    /// Counts lines that were not written.
    pub fn lose(&self, lines: u64) {
        self.lost.fetch_add(lines, Ordering::Relaxed);
    }

    /// Lines that were not written.
    pub fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }

    /// How many lines were lost since that was last logged, if it is due to be logged.
    pub fn to_log(&self, now: Tick) -> Option<u64> {
        self.logged.due(self.lost(), now)
    }

    /// How many lines were lost since that was last logged, if any: for the end.
    pub fn unlogged(&self) -> Option<u64> {
        self.logged.rest(self.lost())
    }
}
