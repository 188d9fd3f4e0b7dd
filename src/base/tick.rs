//! Time for the pure layers: microseconds since a moment that the caller chose.
//!
//! Threads read the clock once per batch of events and pass the value down, so that a whole connection can be replayed
//! in memory. Ticks of different clocks must not be compared.

use std::ops::{Add, Sub};
use std::time::Duration;

/// Microseconds since the owner's start. 64 bits of them do not wrap in 500 000 years.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
pub struct Tick(pub u64);

impl Tick {
    /// The tick at `elapsed` after the start, rounded down to microseconds.
    pub fn after_start(elapsed: Duration) -> Tick {
        Tick(micros(elapsed))
    }

    /// The tick that was this long ago; 0 if it lies before the clock's start.
    pub fn before(self, age: Duration) -> Tick {
        Tick(self.0.saturating_sub(micros(age)))
    }

    /// The time since `earlier`; zero if it lies ahead.
    pub fn since(self, earlier: Tick) -> Duration {
        Duration::from_micros(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Duration> for Tick {
    type Output = Tick;
    /// Saturates: a sum beyond the end stays at the end.
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
    fn sums_saturate_and_differences_are_never_negative() {
        assert_eq!(Tick(5) + Duration::MAX, Tick(u64::MAX));
        assert_eq!(Tick(5) - Tick(9), Duration::ZERO);
        assert_eq!(Tick(5).before(Duration::from_micros(4)), Tick(1));
        assert_eq!(Tick(5).before(Duration::MAX), Tick(0));
        assert_eq!(Tick(9) - Tick(5), Duration::from_micros(4));
    }
}
