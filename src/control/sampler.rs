//! Notes the counters of all listeners, pools, backends and workers every [`recent::EVERY`], where the admin API is on: the
//! status shows the differences. Reports a backend that resets its clients.
//!
//! [`recent::EVERY`]: crate::telemetry::recent::EVERY

use crate::base::Tick;
use crate::clock;
use crate::events::{By, Event, Kind};
use crate::logger;
use crate::pool::{BackendId, Published};
use crate::telemetry::{Counters, LostLines, Resets};
use std::collections::HashSet;

/// See the module.
pub(super) struct Sampler {
    is_on: bool,
    /// Backends that are reported and have not been better since.
    resetting: HashSet<BackendId>,
}

impl Sampler {
    pub(super) fn new(is_on: bool) -> Sampler {
        Sampler { is_on, resetting: HashSet::new() }
    }

    pub(super) fn is_on(&self) -> bool {
        self.is_on
    }

    /// Begins the series of what is new in the newest snapshot.
    pub(super) fn begin(&self, published: &Published) {
        if !self.is_on {
            return;
        }
        let (snapshot, now) = (published.snapshot(), clock::now());
        snapshot.listeners.iter().for_each(|listener| listener.totals.begin(now));
        for pool in &snapshot.pools {
            pool.totals.counters.series.begin(now);
            pool.members.iter().for_each(|member| member.backend.counters.series.begin(now));
        }
    }

    /// Notes all counters, and logs what they show.
    pub(super) fn sample(&mut self, published: &Published) {
        let (snapshot, now) = (published.snapshot(), clock::now());
        snapshot.listeners.iter().for_each(|listener| listener.totals.sample(now));
        published.workers().iter().for_each(|worker| worker.sample(now));
        let lost = LostLines { log: logger::lines_lost(), access_log: published.log().lost() };
        published.lost_lines.sample(lost, 0, now);
        for pool in &snapshot.pools {
            pool.totals.counters.sample(now);
            for backend in pool.members.iter().map(|member| &member.backend) {
                if let Some(resets) = self.begins_to_reset(backend.id, &backend.counters, now) {
                    let suffix = match snapshot.pools.len() {
                        1 => String::new(),
                        _ => format!(" (pool {})", pool.settings.name),
                    };
                    log::warn!("{}: {resets}{suffix}", backend.name);
                    let event =
                        Event::new(Kind::BackendState, By::Tcplb).of_backend(&pool.settings.name, &backend.name);
                    published.events().record(event.because(resets));
                }
                backend.counters.sample(now);
            }
        }
        if !self.resetting.is_empty() {
            let members = snapshot.pools.iter().flat_map(|pool| &pool.members);
            let present: HashSet<BackendId> = members.map(|member| member.backend.id).collect();
            self.resetting.retain(|backend| present.contains(backend));
        }
    }

    /// What to report; nothing more until it was better.
    fn begins_to_reset(&mut self, backend: BackendId, counters: &Counters, now: Tick) -> Option<Resets> {
        let resets = counters.resets(now);
        if resets.is_some() {
            return resets.filter(|_| self.resetting.insert(backend));
        }
        if counters.is_better(now) {
            self.resetting.remove(&backend);
        }
        None
    }
}
