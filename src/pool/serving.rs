//! Whether a pool has a usable backend, as it was last reported.
//!
//! The prober looks after health has changed, and control after a change of the configuration. All generations of a pool
//! share the report, so each loss and each return is reported once. Each looks and reports under a lock: the last report is of
//! the newest health that either has set.

use super::Pool;
use crate::config::model::HealthKind;
use crate::events::{By, Event, Events, Kind};
use parking_lot::Mutex;
use std::fmt::Display;

/// Whether the pool had a usable backend when that was last reported. `None`: the pool is new, and its first state is no change.
#[derive(Debug, Default)]
pub(super) struct Serving(Mutex<Option<bool>>);

impl Pool {
    /// Reports that the last usable backend is lost, or that there is one again: an event and a line of the log. Says
    /// nothing if neither is so. `why` is what changed.
    pub fn report_serving(&self, events: &Events, by: By, why: impl Display) {
        let mut reported = self.serving.0.lock();
        let now = self.serves();
        if reported.replace(now).is_none_or(|before| before == now) {
            return;
        }
        let name = &self.settings.name;
        let kind = if now {
            log::info!("pool {name} has a usable backend again");
            Kind::PoolServes
        } else {
            log::warn!("pool {name} has no usable backend left");
            Kind::PoolEmpty
        };
        events.record(Event::new(kind, by).of_pool(name).because(why));
    }

    /// Backends that are tried as a last resort do not count, except where health is `off`: a back-off proves nothing.
    fn serves(&self) -> bool {
        let off = self.settings.health.kind == HealthKind::Off;
        self.has_up() || (off && self.has_usable())
    }

    /// Notes the first state of a new pool.
    pub fn begin_serving(&self) {
        self.serving.0.lock().get_or_insert_with(|| self.serves());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::Address;
    use crate::config::model::{self, AllDown, Global, Model};
    use crate::pool::{AdminState, Resolved, Standing, build};

    fn standing(healthy: bool) -> Standing {
        Standing { state: AdminState::Enabled, resolved: true, healthy, ejected: false, drained: false, admitted: true }
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

    /// The bits settle before the last report of either thread, so the last event is the state at the end.
    #[test]
    fn the_last_event_is_right_though_two_threads_report() {
        let backends = vec![model::Backend::at(Address::parse_backend("127.0.0.1:1").unwrap())];
        let settings = model::Pool { backends, ..model::Pool::default() };
        let model = Model { global: Global::default(), listeners: Vec::new(), pools: vec![settings] };
        let snapshot = build(&model, &Resolved::new());
        let pool = &snapshot.pools[0];
        for round in 0..200 {
            let events = Events::default();
            pool.show(0, standing(round % 2 == 0));
            pool.report_serving(&events, By::Health, "begin");
            std::thread::scope(|scope| {
                for by in [By::Health, By::Api] {
                    let events = &events;
                    scope.spawn(move || {
                        for turn in 0..20 {
                            pool.show(0, standing(turn % 2 == round % 2));
                            pool.report_serving(events, by.clone(), "a change");
                        }
                    });
                }
            });
            let reported: Vec<Kind> = events.since(0, usize::MAX).0.iter().map(|event| event.event.kind).collect();
            let serves = |kind: Kind| kind == Kind::PoolServes;
            assert!(reported.windows(2).all(|two| two[0] != two[1]), "each event is a change: {reported:?}");
            if let Some(last) = reported.last() {
                assert_eq!(serves(*last), pool.serves());
            }
        }
    }
}
