//! A limit on how often a lasting condition is logged: a line that repeats many times a second hides the others.

use super::Tick;
use std::time::Duration;

/// The shortest time between two lines about one condition.
pub const REPEAT_INTERVAL: Duration = Duration::from_secs(60);

/// When a condition was last logged. All its ticks come from one clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct LogThrottle {
    logged: Option<Tick>,
}

impl LogThrottle {
    /// True if the condition is to be logged now. It then counts as logged for [`REPEAT_INTERVAL`].
    pub fn is_due(&mut self, now: Tick) -> bool {
        let due = self.logged.is_none_or(|logged| now - logged >= REPEAT_INTERVAL);
        if due {
            self.logged = Some(now);
        }
        due
    }

    /// The condition is over. If it begins again, it is logged at once.
    pub fn reset(&mut self) {
        self.logged = None;
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
}
