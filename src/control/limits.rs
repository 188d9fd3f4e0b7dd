//! Control's regular look at connections: limits that are reached and left, and backends whose drain is over.

use super::{ControlLoop, DataPlane};
use crate::admission::LimitChange;
use crate::events::{By, Event, Kind};
use crate::pool::{AdminState, Snapshot};
use std::collections::BTreeSet;
use std::fmt::Display;

impl<C: DataPlane> ControlLoop<C> {
    /// Reports limits that were reached or left since the last look.
    pub(super) fn look_at_limits(&self) {
        let process = &self.parts.published.connection_limit();
        if let Some(change) = process.look() {
            self.record_event(limit_event(change, "tcplb", Some(process.limit())));
        }
        let snapshot = self.parts.config_state.snapshot();
        for listener in &snapshot.listeners {
            if let Some(change) = listener.admission.look() {
                let limit = listener.settings.max_connections.map(|limit| limit as usize);
                self.record_event(limit_event(change, format_args!("listener {}", listener.name), limit));
            }
        }
        for pool in &snapshot.pools {
            for (member, settings) in pool.members.iter().zip(&pool.settings.backends) {
                let (backend, limit) = (&member.backend, settings.max_connections.map(|limit| limit as usize));
                if let Some(change) = backend.limit_report.look(backend.active() as usize, limit) {
                    let (pool, name) = (&pool.settings.name, &backend.name);
                    let event = limit_event(change, format_args!("backend {name} of pool {pool}"), limit);
                    self.record_event(event.of_backend(pool, name));
                }
            }
        }
    }

    /// Reports backends whose drain is over: their last connection has ended since the last look.
    pub(super) fn look_at_drains(&mut self) {
        let drained = drained(self.parts.config_state.snapshot());
        for (pool, name) in drained.difference(&self.drained) {
            log::info!("backend {name} of pool {pool} is drained: no connection is left");
            let event = Event::new(Kind::Drain, By::Tcplb).of_backend(pool, name);
            self.record_event(event.changed("draining", "drained").because("no connection is left"));
        }
        self.drained = drained;
    }
}

/// The backends of a snapshot whose drain is over, as pool and name: the id changes when an address leaves.
pub(super) fn drained(snapshot: &Snapshot) -> BTreeSet<(String, String)> {
    let members = snapshot.pools.iter().flat_map(|pool| pool.members.iter().map(move |member| (pool, member)));
    let drained = members.filter(|(_, it)| it.state == AdminState::Draining && it.backend.left() == 0);
    drained.map(|(pool, member)| (pool.settings.name.clone(), member.backend.name.clone())).collect()
}

/// Logs that a limit was reached or left; the event of it. `None`: there is no limit any more.
fn limit_event(change: LimitChange, of: impl Display, limit: Option<usize>) -> Event {
    let limit = limit.map(|limit| format!("its limit of {limit} connection{}", if limit == 1 { "" } else { "s" }));
    match (change, limit) {
        (LimitChange::Reached, limit) => {
            let text = format!("{of} has reached {}", limit.unwrap_or_default());
            log::warn!("{text}");
            Event::new(Kind::LimitReached, By::Tcplb).because(text)
        }
        (LimitChange::Left, limit) => {
            let text = match limit {
                Some(limit) => format!("{of} is below {limit} again"),
                None => format!("{of} has no limit any more"),
            };
            log::info!("{text}");
            Event::new(Kind::LimitLeft, By::Tcplb).because(text)
        }
    }
}
