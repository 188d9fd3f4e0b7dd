//! The one clock that threads share.
//!
//! Ticks of different clocks must not be compared. But threads share timed state. One worker fills a source's token
//! bucket, and another one empties it. Workers give a growing share to a backend that the prober brought up. So all
//! shared state uses this clock.

use crate::base::Tick;
use std::sync::LazyLock;
use std::time::Instant;

static START: LazyLock<Instant> = LazyLock::new(Instant::now);

/// The current time. Never decreases, and is never 0, which some callers use for "not yet".
pub fn now() -> Tick {
    Tick(Tick::after_start(START.elapsed()).0.saturating_add(1))
}
