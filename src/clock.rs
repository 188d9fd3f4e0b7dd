//! The one clock that threads share.
//!
//! Ticks of different clocks must not be compared. But threads share timed state. One worker fills a source's token
//! bucket, and another one empties it. Workers give a growing share to a backend that the prober brought up. So all
//! shared state uses this clock.

use crate::base::Tick;
use std::sync::LazyLock;
use std::time::{Duration, Instant};

/// What the clock shows at the start of the process. A connection that comes from another process began before, and that moment
/// needs a tick here, too. 397 days: times that wrap at 32 bits of milliseconds begin as they would at 0.
const ORIGIN: Duration = Duration::from_millis(8 << 32);

static START: LazyLock<Instant> = LazyLock::new(Instant::now);

/// The current time. Never decreases, and is never 0, which some callers use for "not yet".
pub fn now() -> Tick {
    Tick::after_start(ORIGIN + Duration::from_micros(1) + START.elapsed())
}
