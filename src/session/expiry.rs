//! The time-outs of a relay: its lifetime, and silence.

use super::relaying::Relay;
use super::{CloseReason, Ending, Next, Session, State};
use crate::base::Tick;
use std::time::Duration;

/// A connection whose lifetime has ended counts as between two messages after this long without a byte, with nothing held.
pub const QUIET: Duration = Duration::from_millis(100);

/// When a lifetime ends.
#[derive(Clone, Copy, Debug)]
pub(super) struct Expiry {
    /// From here on the connection ends in a quiet moment,
    pub(super) from: Tick,
    /// and here in any.
    pub(super) until: Tick,
    /// When to look for one next.
    pub(super) look: Tick,
}

impl Expiry {
    /// Of a lifetime that began at `started`. `jitter` shortens it by up to a tenth, in 65536ths of that.
    pub(super) fn new(lifetime: Duration, jitter: u16, started: Tick) -> Expiry {
        let grace = lifetime / 10;
        let from = started + (lifetime - grace.mul_f64(f64::from(jitter) / 65_536.0));
        Expiry { from, until: from + grace, look: from }
    }

    pub(super) fn deadline(&self, relay: &Relay) -> Tick {
        match &relay.failed {
            // It has a deadline of its own, and a reset to deliver.
            Some(_) => self.until,
            None => self.look.max(relay.last_byte + QUIET).min(self.until),
        }
    }
}

impl Relay {
    fn holds(&self) -> bool {
        self.up.held || self.down.held
    }
}

impl Session {
    pub(super) fn relay_deadline_reached(&mut self, now: Tick) -> Next {
        let State::Relaying(relay) = &self.state else { return Next::Wait };
        let silence = relay.silence(&self.route.pool().settings);
        let ending = if relay.holds() { Ending::Reset } else { Ending::Fin };
        let is_quiet = !relay.holds() && now >= relay.last_byte + QUIET;
        let failed = relay.failed.is_some();
        let is_silent = !failed && now >= relay.last_byte + silence.limit;
        match &mut self.expires {
            Some(expiry) if now >= expiry.from && is_quiet && !failed => {
                self.end(Ending::Fin, CloseReason::Forced, now)
            }
            Some(expiry) if now >= expiry.until => self.end(Ending::Reset, CloseReason::Forced, now),
            _ if failed => self.failure_deadline_reached(),
            _ if is_silent => self.end(ending, silence.close, now),
            Some(expiry) => {
                // What is held may be delivered without another look at the deadline.
                expiry.look = now + QUIET;
                Next::Wait
            }
            None => Next::Wait,
        }
    }
}
