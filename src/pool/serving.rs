//! Whether a pool has a usable backend, as it was last reported.
//!
//! The prober looks after health has changed, and control after a change of the configuration. All generations of a pool
//! share the report, so each loss and each return is reported once.

use super::{Member, Pool};
use crate::config::model::HealthKind;
use crate::events::{By, Event, Events, Kind};
use std::fmt::Display;
use std::sync::atomic::{AtomicU8, Ordering};

/// What was last reported.
#[derive(Debug, Default)]
pub(super) struct Serving(AtomicU8);

/// The pool is new: its first state is no change.
const UNKNOWN: u8 = 0;
const SERVES: u8 = 1;
const EMPTY: u8 = 2;

impl Pool {
    /// Reports that the last usable backend is lost, or that there is one again: an event and a line of the log. Says
    /// nothing if neither is so. `why` is what changed.
    pub fn report_serving(&self, events: &Events, by: By, why: impl Display) {
        let now = self.serving();
        let before = self.serving.0.swap(now, Ordering::Relaxed);
        if before == UNKNOWN || before == now {
            return;
        }
        let name = &self.settings.name;
        if now == EMPTY {
            log::warn!("pool {name} has no usable backend left");
        } else {
            log::info!("pool {name} has a usable backend again");
        }
        let kind = if now == EMPTY { Kind::PoolEmpty } else { Kind::PoolServes };
        events.record(Event::new(kind, by).of_pool(name).because(why));
    }

    /// Backends that are tried as a last resort do not count, except where health is `off`: a back-off proves nothing.
    fn serving(&self) -> u8 {
        let is_up = |member: &Member| member.weight > 0 && self.up.get(member.slot);
        let off = self.settings.health.kind == HealthKind::Off;
        if self.members.iter().any(is_up) || (off && self.has_usable()) { SERVES } else { EMPTY }
    }

    /// Notes the first state of a new pool.
    pub fn begin_serving(&self) {
        let now = self.serving();
        let _ = self.serving.0.compare_exchange(UNKNOWN, now, Ordering::Relaxed, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::Address;
    use crate::config::model::{self, AllDown, Global, Model};
    use crate::pool::{AdminState, Resolved, Standing, build};

    fn standing(healthy: bool) -> Standing {
        Standing { state: AdminState::Enabled, resolved: true, healthy, ejected: false, admitted: true }
    }

    #[test]
    fn each_loss_and_each_return_is_reported_once() {
        let backends = ["127.0.0.1:1", "127.0.0.1:2"].map(|at| model::Backend::at(Address::parse_backend(at).unwrap()));
        let settings = model::Pool { backends: backends.into(), all_down: AllDown::TryAll, ..model::Pool::default() };
        let model = Model { global: Global::default(), listeners: Vec::new(), pools: vec![settings] };
        let snapshot = build(&model, &Resolved::new());
        let (pool, events) = (&snapshot.pools[0], Events::default());
        let show = |first: bool, second: bool| {
            pool.show(0, standing(first));
            pool.show(1, standing(second));
            pool.report_serving(&events, By::Health, "a probe");
            events.since(0, usize::MAX).0.iter().map(|event| event.event.kind).collect::<Vec<_>>()
        };
        assert_eq!(show(false, true), [], "the first state is no change");
        assert_eq!(show(true, true), []);
        assert_eq!(show(false, false), [Kind::PoolEmpty]);
        assert_eq!(show(false, false), [Kind::PoolEmpty]);
        assert_eq!(show(false, true), [Kind::PoolEmpty, Kind::PoolServes]);
        let event = events.since(1, 1).0[0].event.clone();
        assert_eq!((event.pool.as_deref(), event.reason.as_deref()), (Some("default"), Some("a probe")));
    }
}
