//! How closely the calls of a source may follow each other.

use super::Feed;
use std::time::{Duration, Instant};

/// Calls that may follow each other at once.
const BURST: u32 = 5;

/// Slows a loop down to a round a second, once [`BURST`] rounds have followed each other at once.
pub struct Pace {
    full_at: Instant,
}

impl Default for Pace {
    fn default() -> Pace {
        Pace { full_at: Instant::now() }
    }
}

impl Pace {
    /// Waits until the next round may begin; false: the source is removed.
    pub fn wait(&mut self, feed: &Feed) -> bool {
        let (now, second) = (Instant::now(), Duration::from_secs(1));
        self.full_at = self.full_at.max(now) + second;
        feed.wait((self.full_at - now).saturating_sub(BURST * second))
    }
}
