//! Warm connections: how many a backend is to have, how long one lives, and the pause after one that failed.
//!
//! [`crate::warm`] keeps them and says what they are.

use crate::base::Tick;
use std::time::Duration;

/// The longest life of a warm connection. Servers close a connection without a request after 20 to 60 s; a client that gets the
/// oldest one must still have time for its first byte.
pub const MAX_AGE: Duration = Duration::from_secs(30);

/// A connection that the backend closes sooner than this was of no use. The next one waits, as after a failed dial.
pub const SHORT_LIVED: Duration = Duration::from_secs(1);

/// How long bytes may come before their FIN. A server that closes an idle connection may explain itself first, as HTTP does with
/// 408. Bytes without a FIN are a greeting.
pub const FAREWELL: Duration = Duration::from_secs(1);

/// Connections to one backend that are being established at once. So a backend that comes back gets no storm.
pub const DIALS_AT_ONCE: usize = 16;

/// The pause after a failure, and at most; it doubles while failures follow each other.
const PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// How many a backend is to have: what the pool sets, as far as the backend's part of its weight and its limit allow.
/// `share` is below 1 during a slow start.
pub fn wanted(setting: u32, share: f64, room: u32) -> usize {
    let part = (f64::from(setting) * share.clamp(0.0, 1.0)).ceil();
    (part as u32).min(room) as usize
}

/// The life of a connection: `random` shortens it by up to a quarter, so that those of a start are not replaced together.
pub fn lifetime(random: u16) -> Duration {
    MAX_AGE - MAX_AGE / 4 * u32::from(random) / u32::from(u16::MAX)
}

/// When a backend may be dialled again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pause {
    failures: u32,
    until: Option<Tick>,
}

impl Pause {
    /// A dial failed, or its connection was short-lived. Those that were under way together count once. One that comes long after
    /// the last pause is the first. All connections since then may have been handed out, and their ends are not seen here.
    pub fn failed(&mut self, now: Tick) {
        if self.is_over(now) {
            if self.until.is_some_and(|until| now - until >= LONGEST_PAUSE) {
                self.succeeded();
            }
            let time = PAUSE.saturating_mul(1 << self.failures.min(16)).min(LONGEST_PAUSE);
            (self.failures, self.until) = (self.failures.saturating_add(1), Some(now + time));
        }
    }

    /// A connection lived long enough.
    pub fn succeeded(&mut self) {
        *self = Pause::default();
    }

    /// May the next dial begin?
    pub fn is_over(&self, now: Tick) -> bool {
        self.until.is_none_or(|until| until <= now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(millis: u64) -> Tick {
        Tick::after_start(Duration::from_millis(millis))
    }

    #[test]
    fn a_slow_start_and_a_limit_leave_a_part() {
        assert_eq!((wanted(10, 1.0, u32::MAX), wanted(10, 0.0, u32::MAX)), (10, 0));
        assert_eq!(wanted(10, 1.0 / 64.0, u32::MAX), 1, "rounded up: a share has one from the first step on");
        assert_eq!((wanted(10, 1.0, 3), wanted(10, 0.5, 3), wanted(10, 1.0, 0)), (3, 3, 0));
    }

    #[test]
    fn a_pause_doubles_up_to_a_minute_and_ends_with_a_success() {
        let (mut pause, mut now, mut lengths) = (Pause::default(), at(1_000), Vec::new());
        for _ in 0..9 {
            assert!(pause.is_over(now));
            pause.failed(now);
            let begun = now;
            while !pause.is_over(now) {
                pause.failed(now);
                now = now + Duration::from_millis(500);
            }
            lengths.push((now - begun).as_secs());
        }
        assert_eq!(lengths, [1, 2, 4, 8, 16, 32, 60, 60, 60]);
        pause.succeeded();
        pause.failed(now);
        assert!(pause.is_over(now + PAUSE));
    }

    #[test]
    fn a_failure_long_after_the_last_pause_is_the_first_one() {
        let mut pause = Pause::default();
        pause.failed(at(1_000));
        pause.failed(at(2_000));
        assert!(!pause.is_over(at(3_000)) && pause.is_over(at(4_000)));
        let later = at(4_000) + LONGEST_PAUSE;
        pause.failed(later);
        assert!(pause.is_over(later + PAUSE), "as after the first failure");
    }

    proptest! {
        #[test]
        fn a_life_is_at_most_the_longest_and_at_least_three_quarters(random: u16) {
            prop_assert!((MAX_AGE * 3 / 4..=MAX_AGE).contains(&lifetime(random)));
        }
    }
}
