//! The one clock that threads share.
//!
//! Ticks of different clocks must not be compared, but a source's token bucket is filled by one worker and emptied by
//! another, and a backend that the prober brings up is given a growing share by the workers. So whatever threads share is
//! timed by this.

use crate::base::Tick;
use std::sync::LazyLock;
use std::time::Instant;

static START: LazyLock<Instant> = LazyLock::new(Instant::now);

/// Now. Never less than it was, and never 0, which some use for "not yet".
pub fn now() -> Tick {
    Tick(Tick::after_start(START.elapsed()).0.saturating_add(1))
}
