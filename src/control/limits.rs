//! Control's regular look at connections: limits that are reached and left, and backends whose drain is over.

use super::{ControlLoop, DataPlane};
use crate::admission::LimitChange;
use crate::events::{By, Event, Kind};
use crate::pool::AdminState;
use std::collections::BTreeSet;
use std::fmt::Display;

impl<C: DataPlane> ControlLoop<C> {
    /// Reports limits that were reached or left since the last look.
    pub(super) fn look_at_limits(&self) {
        let process = &self.parts.published.connection_limit();
        if let Some(change) = process.look() {
            self.report_limit(change, Event::new, "tcplb", process.limit());
        }
        let snapshot = self.parts.config_state.snapshot();
        for listener in &snapshot.listeners {
            if let Some(change) = listener.admission.look() {
                let of = format_args!("listener {}", listener.name);
                self.report_limit(
                    change,
                    Event::new,
                    of,
                    listener.settings.max_connections.map_or(usize::MAX, |limit| limit as usize),
                );
            }
        }
        for pool in &snapshot.pools {
            for (member, settings) in pool.members.iter().zip(&pool.settings.backends) {
                let (backend, limit) = (&member.backend, settings.max_connections.map(|limit| limit as usize));
                if let Some(change) = backend.limit_report.look(backend.active() as usize, limit) {
                    let (pool, name) = (&pool.settings.name, &backend.name);
                    let event = |kind, by| Event::new(kind, by).of_backend(pool, name);
                    let of = format_args!("backend {name} of pool {pool}");
                    self.report_limit(change, event, of, limit.unwrap_or(usize::MAX));
                }
            }
        }
    }

    fn report_limit(&self, change: LimitChange, event: impl Fn(Kind, By) -> Event, of: impl Display, limit: usize) {
        let plural = if limit == 1 { "" } else { "s" };
        let (kind, text) = match change {
            LimitChange::Reached => {
                (Kind::LimitReached, format!("{of} has reached its limit of {limit} connection{plural}"))
            }
            LimitChange::Left if limit == usize::MAX => (Kind::LimitLeft, format!("{of} has no limit any more")),
            LimitChange::Left => {
                (Kind::LimitLeft, format!("{of} is below its limit of {limit} connection{plural} again"))
            }
        };
        match change {
            LimitChange::Reached => log::warn!("{text}"),
            LimitChange::Left => log::info!("{text}"),
        }
        self.record_event(event(kind, By::Tcplb).because(text));
    }

    /// Reports backends whose drain is over: their last connection has ended since the last look.
    pub(super) fn look_at_drains(&mut self) {
        let mut drained = BTreeSet::new();
        for pool in &self.parts.config_state.snapshot().pools {
            for member in &pool.members {
                let backend = &member.backend;
                if member.state != AdminState::Draining || backend.active() > 0 {
                    continue;
                }
                drained.insert(backend.id);
                if !self.drained.contains(&backend.id) {
                    let (pool, name) = (&pool.settings.name, &backend.name);
                    log::info!("backend {name} of pool {pool} is drained: no connection is left");
                    let event = Event::new(Kind::Drain, By::Tcplb).of_backend(pool, name);
                    self.record_event(event.changed("draining", "drained").because("no connection is left"));
                }
            }
        }
        self.drained = drained;
    }
}
