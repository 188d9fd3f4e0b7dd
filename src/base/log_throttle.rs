//! Limits on how often one condition is logged: a line that repeats many times a second hides the others.
//!
//! | type | threads | what | at most every |
//! |---|---|---|---|
//! | [`LogThrottle`] | one thread | a lasting condition | [`REPEAT_INTERVAL`] |
//! | [`SharedLogThrottle`] | any thread | a growing count; a line reports the increase | [`COUNT_INTERVAL`] |

use super::Tick;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// The shortest time between two lines about a lasting condition.
pub const REPEAT_INTERVAL: Duration = Duration::from_secs(60);

/// The shortest time between two lines about a growing count.
pub const COUNT_INTERVAL: Duration = Duration::from_secs(10);

/// When a condition was last logged. All its ticks come from one clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct LogThrottle {
    logged: Option<Tick>,
}

impl LogThrottle {
    /// Whether the condition is to be logged now. If so, it counts as logged for [`REPEAT_INTERVAL`].
    pub fn is_due(&mut self, now: Tick) -> bool {
        let due = self.logged.is_none_or(|logged| now - logged >= REPEAT_INTERVAL);
        if due {
            self.logged = Some(now);
        }
        due
    }

    /// Marks the condition as over. If it begins again, it is logged at once.
    pub fn reset(&mut self) {
        self.logged = None;
    }
}

/// The logged part of a count. Several threads share it; their ticks come from one clock. All accesses are relaxed.
#[derive(Debug, Default)]
pub struct SharedLogThrottle {
    /// When it was last logged; 0: never.
    at: AtomicU64,
    /// The count that was logged then.
    count: AtomicU64,
    /// The count at the last call of [`SharedLogThrottle::due_once_settled`].
    seen: AtomicU64,
}

impl SharedLogThrottle {
    /// The increase of `count` since the last line, if there is one and a line is due. It then counts as logged.
    pub fn due(&self, count: u64, now: Tick) -> Option<u64> {
        let last = self.at.load(Ordering::Relaxed);
        let lately = last != 0 && now - Tick(last) < COUNT_INTERVAL;
        if lately || count <= self.count.load(Ordering::Relaxed) {
            return None;
        }
        // Of several threads, one logs.
        self.at.compare_exchange(last, now.0, Ordering::Relaxed, Ordering::Relaxed).ok()?;
        self.rest(count)
    }

    /// As [`SharedLogThrottle::due`], once the count has not grown since the last call.
    pub fn due_once_settled(&self, count: u64, now: Tick) -> Option<u64> {
        let settled = self.seen.swap(count, Ordering::Relaxed) == count;
        settled.then(|| self.due(count, now)).flatten()
    }

    /// The increase of `count` since the last line, if there is one, whether or not a line is due.
    pub fn rest(&self, count: u64) -> Option<u64> {
        // Another thread may have logged a later count already.
        Some(count.saturating_sub(self.count.fetch_max(count, Ordering::Relaxed))).filter(|new| *new > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_condition_is_logged_at_once_then_every_minute_and_at_once_after_a_reset() {
        let mut throttle = LogThrottle::default();
        let start = Tick(7);
        assert!(throttle.is_due(start));
        assert!(!throttle.is_due(start));
        assert!(!throttle.is_due(Tick((start + REPEAT_INTERVAL).0 - 1)));
        assert!(throttle.is_due(start + REPEAT_INTERVAL));
        assert!(!throttle.is_due(start + REPEAT_INTERVAL));
        throttle.reset();
        assert!(throttle.is_due(start + REPEAT_INTERVAL));
    }

    #[test]
    fn the_first_of_a_count_is_logged_at_once_and_the_others_together() {
        let throttle = SharedLogThrottle::default();
        assert_eq!(throttle.due(0, Tick(1)), None);
        assert_eq!(throttle.due(1, Tick(1)), Some(1));
        assert_eq!([throttle.due(2, Tick(2)), throttle.due(3, Tick(9_999_999))], [None, None]);
        assert_eq!(throttle.due(4, Tick(10_000_001)), Some(3));
    }

    #[test]
    fn a_thread_that_looks_now_and_then_logs_what_came_last() {
        let throttle = SharedLogThrottle::default();
        let look = |count, seconds: u64| throttle.due_once_settled(count, Tick(seconds * 1_000_000));
        assert_eq!(look(1, 10), None, "the thread that counted it is about to log it");
        assert_eq!(throttle.due(1, Tick(11_000_000)), Some(1));
        assert_eq!(look(1, 30), None, "nothing new");
        assert_eq!(look(3, 31), None, "it goes on");
        assert_eq!([look(3, 32), look(3, 33), look(3, 99)], [Some(2), None, None]);
        assert_eq!([look(4, 100), look(4, 101)], [None, Some(1)]);
        assert_eq!([look(5, 102), look(5, 103), look(5, 110), look(5, 111)], [None, None, None, Some(1)]);
        assert_eq!([throttle.rest(6), throttle.rest(6)], [Some(1), None]);
    }
}
