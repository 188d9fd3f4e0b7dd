//! Telling what lasts, but not all the time: a log that repeats itself many times a second hides the rest.

use super::Tick;
use std::time::Duration;

/// What lasts is told this often.
pub const TELL_AGAIN: Duration = Duration::from_secs(60);

/// When something was last told. All its ticks must be of one clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct Seldom {
    told: Option<Tick>,
}

impl Seldom {
    /// Is it to be told now? If so it counts as told, and is not to be again for [`TELL_AGAIN`].
    pub fn is_due(&mut self, now: Tick) -> bool {
        let due = self.told.is_none_or(|told| now - told >= TELL_AGAIN);
        if due {
            self.told = Some(now);
        }
        due
    }

    /// It is over: should it begin anew, it is told at once.
    pub fn forget(&mut self) {
        self.told = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_told_at_once_then_once_a_minute_and_at_once_when_it_begins_anew() {
        let mut seldom = Seldom::default();
        let start = Tick(7);
        assert!(seldom.is_due(start));
        assert!(!seldom.is_due(start));
        assert!(!seldom.is_due(Tick((start + TELL_AGAIN).0 - 1)));
        assert!(seldom.is_due(start + TELL_AGAIN));
        assert!(!seldom.is_due(start + TELL_AGAIN));
        seldom.forget();
        assert!(seldom.is_due(start + TELL_AGAIN));
    }
}
