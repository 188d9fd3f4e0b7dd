//! How often control makes changes that come by themselves: the first at once, further ones after a pause.
//!
//! Changes that come within the pause become one. The pause grows with the time that a change takes. So such changes take about a
//! hundredth of a core, whatever the size of a pool. On a machine without a spare core, a worker waits while control runs: a client in
//! a hundred, at most, meets such a change.

use std::time::{Duration, Instant};

/// The least and the longest pause.
const PAUSE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(1));

/// How many times as long as the change before a pause is.
const TIMES: u32 = 100;

/// When the next change may be made.
pub struct Pace {
    due: Instant,
}

impl Pace {
    /// The first change may be made at once.
    pub fn new() -> Pace {
        Pace { due: Instant::now() }
    }

    /// When the next change may be made.
    pub fn due(&self) -> Instant {
        self.due
    }

    /// A change was made, and control began with it at this time.
    pub fn changed(&mut self, begun: Instant) {
        let now = Instant::now();
        self.due = now + pause(now - begun);
    }

    /// No change for this time.
    pub fn rest(&mut self, time: Duration) {
        self.due = Instant::now() + time;
    }
}

fn pause(took: Duration) -> Duration {
    took.saturating_mul(TIMES).clamp(PAUSE.0, PAUSE.1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_that_takes_long_is_followed_by_a_longer_pause_within_bounds() {
        let ms = Duration::from_millis;
        for (took, then) in [(0, 100), (1, 100), (4, 400), (11, 1000), (u64::MAX, 1000)] {
            assert_eq!(pause(ms(took)), ms(then));
        }
    }
}
