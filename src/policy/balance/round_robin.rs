//! Round robin: each usable backend in turn.
//!
//! One cursor, shared by all workers, counts positions handed out; a position that falls on an unusable backend is
//! passed over. So the turns are the full round with the unusable left out, which is exactly the round of those that are
//! left, whichever worker asks.

use super::{Balance, Client, Member, View};
use crate::base::bits::WORD;
use std::sync::atomic::{AtomicU64, Ordering};

struct RoundRobin {
    /// Backends with weight, a bit each.
    candidates: Vec<u64>,
    len: usize,
    cursor: AtomicU64,
}

/// See the module.
pub fn build(members: &[Member], start: u64) -> Box<dyn Balance> {
    let mut candidates = vec![0; members.len().div_ceil(WORD)];
    for (index, _) in members.iter().enumerate().filter(|(_, member)| member.weight > 0) {
        candidates[index / WORD] |= 1 << (index % WORD);
    }
    Box::new(RoundRobin { candidates, len: members.len(), cursor: AtomicU64::new(start) })
}

impl Balance for RoundRobin {
    fn pick(&self, _: Client, view: &View<'_>, _: &mut fastrand::Rng) -> Option<usize> {
        let len = self.len as u64;
        let mut cursor = self.cursor.load(Ordering::Relaxed);
        loop {
            let start = (cursor.checked_rem(len)?) as usize;
            let index = self.next_usable(start, view)?;
            let passed = (index + self.len - start) % self.len;
            // Whoever moves the cursor owns the position; the others look again from where it is now.
            let next = cursor.wrapping_add(passed as u64 + 1);
            match self.cursor.compare_exchange_weak(cursor, next, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return Some(index),
                Err(now) => cursor = now,
            }
        }
    }
}

impl RoundRobin {
    /// The first usable index at or after `start`, going round once; 64 at a look.
    fn next_usable(&self, start: usize, view: &View<'_>) -> Option<usize> {
        let words = self.candidates.len();
        for step in 0..=words {
            let word = (start / WORD + step) % words;
            let mut bits = self.candidates[word] & view.up.word(word);
            if step == 0 {
                bits &= u64::MAX << (start % WORD);
            } else if step == words {
                // Round once: what lies before the start in its own word.
                bits &= !(u64::MAX << (start % WORD));
            }
            while bits != 0 {
                let index = word * WORD + bits.trailing_zeros() as usize;
                if view.has_room(index) {
                    return Some(index);
                }
                bits &= bits - 1;
            }
        }
        None
    }
}
