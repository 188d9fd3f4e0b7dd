//! Whether a limit on connections is reached, as it was last reported.
//!
//! Workers mark that a limit was met, which costs them nothing below it. Control looks at the mark every second, so it
//! sees a peak between two looks too. A limit counts as left after [`CALM`] looks in a row with fewer than nine tenths of its
//! connections. So connections that come and go near it cannot flood the log.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

/// Looks in a row with clearly fewer connections than the limit.
const CALM: u32 = 2;

/// See the module.
#[derive(Debug, Default)]
pub struct LimitReport {
    met: AtomicBool,
    reached: AtomicBool,
    calm: AtomicU32,
}

/// What is to be reported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LimitChange {
    /// The limit is reached.
    Reached,
    /// There are clearly fewer connections again, or there is no limit any more.
    Left,
}

impl LimitReport {
    /// The last place was taken, or a connection found none.
    pub fn meet(&self) {
        self.met.store(true, Ordering::Relaxed);
    }

    /// Control's regular look.
    pub fn look(&self, active: usize, limit: Option<usize>) -> Option<LimitChange> {
        let met = self.met.load(Ordering::Relaxed) && self.met.swap(false, Ordering::Relaxed);
        let was_reached = self.reached.load(Ordering::Relaxed);
        if limit.is_some_and(|limit| met || active >= limit) {
            self.calm.store(0, Ordering::Relaxed);
            self.reached.store(true, Ordering::Relaxed);
            return (!was_reached).then_some(LimitChange::Reached);
        }
        if !was_reached {
            return None;
        }
        let is_calm = limit.is_none_or(|limit| active.saturating_mul(10) < limit.saturating_mul(9));
        let calm = if is_calm { self.calm.load(Ordering::Relaxed) + 1 } else { 0 };
        self.calm.store(calm, Ordering::Relaxed);
        if calm < CALM {
            return None;
        }
        self.reached.store(false, Ordering::Relaxed);
        self.calm.store(0, Ordering::Relaxed);
        Some(LimitChange::Left)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use LimitChange::{Left, Reached};
    use proptest::prelude::*;

    #[test]
    fn a_limit_is_reached_once_and_left_once_there_are_clearly_fewer() {
        let report = LimitReport::default();
        let looks =
            [(9, None), (10, Some(Reached)), (11, None), (9, None), (8, None), (9, None), (8, None), (7, Some(Left))];
        for (active, want) in looks {
            assert_eq!(report.look(active, Some(10)), want, "{active}");
        }
        assert_eq!(report.look(0, Some(10)), None);
    }

    #[test]
    fn a_peak_between_two_looks_is_seen() {
        let report = LimitReport::default();
        report.meet();
        assert_eq!(report.look(0, Some(1)), Some(Reached));
        report.meet();
        assert_eq!(
            [report.look(0, Some(1)), report.look(0, Some(1)), report.look(0, Some(1))],
            [None, None, Some(Left)]
        );
    }

    #[test]
    fn a_limit_that_is_gone_is_left() {
        let report = LimitReport::default();
        assert_eq!(report.look(5, Some(5)), Some(Reached));
        assert_eq!((report.look(5, None), report.look(5, None)), (None, Some(Left)));
        report.meet();
        assert_eq!(report.look(5, None), None);
    }

    proptest! {
        #[test]
        fn reports_alternate(looks in prop::collection::vec((0usize..20, any::<bool>()), 0..100), limit in 1usize..15) {
            let report = LimitReport::default();
            let mut next = Reached;
            for (active, met) in looks {
                if met {
                    report.meet();
                }
                if let Some(change) = report.look(active, Some(limit)) {
                    prop_assert_eq!(change, next);
                    prop_assert_eq!(change == Reached, met || active >= limit);
                    next = if next == Reached { Left } else { Reached };
                }
            }
        }
    }
}
