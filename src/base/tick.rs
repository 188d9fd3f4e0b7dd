//! Time for the pure layers: microseconds since a moment that the caller chose.
//!
//! Threads read the clock once per batch of events and pass the value down, so that a whole connection can be replayed
//! in memory. Ticks of different clocks must not be compared.

use std::fmt;
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

/// A tick or none, in the size of a tick: each connection has several. The last tick, which no clock reaches, stands for none.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct OptionalTick(Tick);

impl OptionalTick {
    /// None.
    pub const NONE: OptionalTick = OptionalTick(Tick(u64::MAX));

    /// The tick, if there is one.
    pub fn get(self) -> Option<Tick> {
        (self != OptionalTick::NONE).then_some(self.0)
    }

    /// Is there none?
    pub fn is_none(self) -> bool {
        self == OptionalTick::NONE
    }

    /// Takes the tick, and leaves none.
    pub fn take(&mut self) -> Option<Tick> {
        std::mem::take(self).get()
    }

    /// Takes the tick if it has come.
    pub fn take_if_due(&mut self, now: Tick) -> Option<Tick> {
        if self.0 <= now { self.take() } else { None }
    }
}

impl Default for OptionalTick {
    fn default() -> OptionalTick {
        OptionalTick::NONE
    }
}

impl From<Tick> for OptionalTick {
    fn from(tick: Tick) -> OptionalTick {
        OptionalTick(tick)
    }
}

impl From<Option<Tick>> for OptionalTick {
    fn from(tick: Option<Tick>) -> OptionalTick {
        tick.map_or(OptionalTick::NONE, OptionalTick)
    }
}

impl fmt::Debug for OptionalTick {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.get().fmt(out)
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

    #[test]
    fn an_optional_tick_is_taken_once_and_when_it_is_due() {
        let mut at = OptionalTick::from(Tick(5));
        assert_eq!((at.get(), at.take_if_due(Tick(4)), at.is_none()), (Some(Tick(5)), None, false));
        assert_eq!((at.take_if_due(Tick(5)), at), (Some(Tick(5)), OptionalTick::NONE));
        assert_eq!((at.take_if_due(Tick(u64::MAX - 1)), at.take(), at.get()), (None, None, None));
        assert_eq!((OptionalTick::from(None), OptionalTick::from(Some(Tick(0))).get()), (at, Some(Tick(0))));
        assert_eq!(size_of::<OptionalTick>(), size_of::<Tick>());
    }
}
