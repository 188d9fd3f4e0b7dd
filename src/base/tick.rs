//! Time as the pure layers see it: microseconds since some moment that the caller chose.
//!
//! The shells read the clock once per batch of events and hand the value down, so that a connection's whole life
//! can be replayed in memory. Ticks of different clocks (two workers) must not be compared.

use std::ops::{Add, Sub};
use std::time::Duration;

/// Microseconds since the owner's start. 64 bits of them do not wrap in 500 000 years.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
pub struct Tick(pub u64);

impl Tick {
    /// The moment of `elapsed` after the start, rounded down.
    pub fn after_start(elapsed: Duration) -> Tick {
        Tick(micros(elapsed))
    }

    /// How long ago `earlier` was; zero if it lies ahead.
    pub fn since(self, earlier: Tick) -> Duration {
        Duration::from_micros(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Duration> for Tick {
    type Output = Tick;
    /// Saturates: "for ever" added to now stays for ever.
    fn add(self, by: Duration) -> Tick {
        Tick(self.0.saturating_add(micros(by)))
    }
}

impl Sub<Tick> for Tick {
    type Output = Duration;
    fn sub(self, earlier: Tick) -> Duration {
        self.since(earlier)
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn adding_for_ever_saturates_and_differences_never_go_negative() {
        assert_eq!(Tick(5) + Duration::MAX, Tick(u64::MAX));
        assert_eq!(Tick(5) - Tick(9), Duration::ZERO);
        assert_eq!(Tick(9) - Tick(5), Duration::from_micros(4));
    }
}
