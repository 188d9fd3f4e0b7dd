//! A turn that all workers share, counted without a lock.

use std::sync::atomic::{AtomicU64, Ordering};

/// Positions handed out so far on a circle; the remainder is where the next turn begins.
pub struct Cursor {
    handed_out: AtomicU64,
    len: u64,
}

impl Cursor {
    /// A circle of `len` positions; `start` may be any number.
    pub fn new(len: usize, start: u64) -> Cursor {
        let len = len as u64;
        // Reduced, so that the counter, which grows by less than `len` per turn, never wraps.
        Cursor { handed_out: AtomicU64::new(start.checked_rem(len).unwrap_or(0)), len }
    }

    /// What [`Cursor::take`] would give.
    pub fn peek(&self, find: impl Fn(usize) -> Option<(usize, usize)>) -> Option<usize> {
        let cursor = self.handed_out.load(Ordering::Relaxed);
        find(cursor.checked_rem(self.len)? as usize).map(|(_, found)| found)
    }

    /// Takes a turn. `find` gets the position where it begins, and returns how many positions it skips and its result.
    /// Every position is handed out or skipped exactly once per round, whichever worker calls; `find` runs again if
    /// another worker took a turn meanwhile. A turn without a result does not move the cursor.
    pub fn take(&self, find: impl Fn(usize) -> Option<(usize, usize)>) -> Option<usize> {
        let mut cursor = self.handed_out.load(Ordering::Relaxed);
        loop {
            let (passed, found) = find(cursor.checked_rem(self.len)? as usize)?;
            // The worker that moves the cursor owns the position; the others search again from the new one.
            let next = cursor.wrapping_add(passed as u64 + 1);
            match self.handed_out.compare_exchange_weak(cursor, next, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return Some(found),
                Err(now) => cursor = now,
            }
        }
    }
}
