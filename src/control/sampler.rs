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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::CloseReason;
    use std::time::Duration;

    #[test]
    fn resets_are_reported_once_until_the_backend_was_better() {
        let (mut sampler, counters) = (Sampler::new(true), Counters::default());
        let at = |seconds| Tick(1) + Duration::from_secs(seconds);
        counters.series.begin(at(0));
        let reset = |count| (0..count).for_each(|_| counters.closed(CloseReason::BackendReset as usize, true));
        let mut begins = |seconds| {
            let resets = sampler.begins_to_reset(BackendId(7), &counters, at(seconds));
            counters.sample(at(seconds));
            resets.is_some()
        };
        reset(20);
        assert!(begins(5));
        reset(20);
        assert!(!begins(10), "it is reported already");
        (0..10).for_each(|_| counters.closed(CloseReason::ClientFin as usize, false));
        assert!(!begins(15), "it serves some again");
        (0..40).for_each(|_| counters.closed(CloseReason::ClientFin as usize, false));
        assert!(!begins(20));
        reset(400);
        assert!(begins(35), "it was better");
        assert!(!begins(200), "no client was there for long");
        reset(20);
        assert!(begins(205));
    }
}
