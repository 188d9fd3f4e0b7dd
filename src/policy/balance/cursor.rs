//! A turn that all workers share: whose turn it is, counted without a lock.

use std::sync::atomic::{AtomicU64, Ordering};

/// Positions handed out so far on a circle of fixed length; the remainder is where the next turn begins.
pub struct Cursor {
    handed_out: AtomicU64,
    len: u64,
}

impl Cursor {
    /// A circle of `len` positions. `start` is any number.
    pub fn new(len: usize, start: u64) -> Cursor {
        let len = len as u64;
        // Reduced, so that the counter, which moves by less than `len` a turn, does not wrap in any lifetime.
        Cursor { handed_out: AtomicU64::new(start.checked_rem(len).unwrap_or(0)), len }
    }

    /// Takes a turn: `find` is told where it begins and says how many positions it passes over and what it found.
    /// Every position is handed out or passed over exactly once a round, whoever asks; `find` runs again if another
    /// worker took a turn meanwhile. What it finds nothing at moves nothing.
    pub fn take(&self, find: impl Fn(usize) -> Option<(usize, usize)>) -> Option<usize> {
        let mut cursor = self.handed_out.load(Ordering::Relaxed);
        loop {
            let (passed, found) = find(cursor.checked_rem(self.len)? as usize)?;
            // Whoever moves the cursor owns the position; the others look again from where it is now.
            let next = cursor.wrapping_add(passed as u64 + 1);
            match self.handed_out.compare_exchange_weak(cursor, next, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return Some(found),
                Err(now) => cursor = now,
            }
        }
    }
}
