//! Names of backends that lead elsewhere: those that resolve at last, and those whose servers give other addresses.
//!
//! A backend that gets further addresses stays. Where one has left, a new backend takes the place of the old one, as at a reload. The
//! state that an operator has set stays, and the connections of the old one follow the pool's `on_remove`. A name that leads to where tcplb itself
//! listens leads nowhere: its backends stay where they are, and the name has an error.

use super::change::Reply;
use super::lookup::Found;
use super::resolve::{self, with_settings};
use super::{ControlLoop, DataPlane};
use crate::base::Endpoint;
use crate::config::diff::Changes;
use crate::discovery::WantedNames;
use crate::events::By;
use crate::pool::{Resolved, same_endpoints};
use crossbeam_channel::{Receiver, at, never};
use std::collections::HashMap;
use std::time::Instant;

impl<C: DataPlane> ControlLoop<C> {
    /// Has the names of the newest snapshot looked up again. Names without an address are retried instead.
    pub(super) fn plan_renewals(&mut self) {
        let mut wanted = WantedNames::new();
        if !self.draining {
            for (_, settings, backend) in with_settings(self.parts.config_state.snapshot()) {
                if let Some(name) = resolve::name(&settings.address).filter(|_| !backend.addresses.is_empty()) {
                    let set = backend.addresses.iter().filter_map(|it| without_port(&it.endpoint)).collect();
                    wanted.entry(name.to_owned()).or_default().insert(set);
                }
            }
        }
        self.renewals.want(wanted, Instant::now());
    }

    /// Receives once names lead elsewhere and this may be applied, and when the pause after the last such change is over.
    pub(super) fn renewed(&self) -> (Receiver<()>, Receiver<Instant>) {
        match self.change {
            Some(_) => (never(), never()),
            None if self.renewals_pace.due() > Instant::now() => (never(), at(self.renewals_pace.due())),
            None => (self.renewals.wakes().clone(), never()),
        }
    }

    /// Takes the names that lead elsewhere.
    pub(super) fn take_renewed(&mut self) {
        if !self.draining {
            self.renewals_pace.changed(Instant::now());
            self.late.extend(self.renewals.take().into_iter().map(|(name, found)| (name, Ok(found))));
        }
    }

    /// Gives backends the addresses that their names have now.
    pub(super) fn apply_late(&mut self) {
        let late = std::mem::take(&mut self.late);
        if late.is_empty() {
            return;
        }
        let begun = Instant::now();
        let (mut resolved, mut moved) = (Resolved::new(), Resolved::new());
        let mut refused: HashMap<&str, Option<String>> = late.keys().map(|name| (name.as_str(), None)).collect();
        let own = self.parts.config_state.own_places(&self.parts.config_state.running().listeners);
        let own = own.listeners();
        for (pool, settings, backend) in with_settings(self.parts.config_state.snapshot()) {
            let Some(name) = resolve::name(&settings.address).filter(|name| late.contains_key(*name)) else { continue };
            let key = (pool.to_owned(), settings.name.clone());
            match resolve::one(settings, &late, &own) {
                Ok(endpoints) if backend.addresses.is_empty() => {
                    let shown: Vec<String> = endpoints.iter().map(ToString::to_string).collect();
                    log::info!("pool {pool}: backend {} is resolved: {}", settings.name, shown.join(", "));
                    self.record_resolved(pool, &settings.name, &endpoints);
                    resolved.insert(key, endpoints);
                }
                Ok(endpoints) if !same_endpoints(&endpoints, &backend.endpoints()) => {
                    moved.insert(key, endpoints);
                }
                Ok(_) => {}
                Err(why) if backend.addresses.is_empty() => resolve::note_one(pool, backend, &why),
                Err(why) => drop(refused.insert(name, Some(why))),
            }
        }
        self.renewals.refuse(refused, begun);
        let config_state = &mut self.parts.config_state;
        let mut changes = Changes::default();
        config_state.note_moved(&config_state.running, &moved, &mut changes);
        resolved.extend(moved);
        if resolved.is_empty() {
            return;
        }
        let next = config_state.as_it_runs();
        match config_state.prepare(next, &resolved, &Found::new()) {
            Ok(transition) => {
                changes.0.iter().for_each(|change| log::info!("names: {change}"));
                self.record_moved(&changes);
                self.begin(transition, false, Reply::None(By::Names));
                self.renewals_pace.changed(begun);
            }
            Err(why) => log::error!("can't apply resolved names: {why}"),
        }
    }
}

fn without_port(endpoint: &Endpoint) -> Option<std::net::SocketAddr> {
    match endpoint {
        Endpoint::Inet(at) => {
            let mut at = *at;
            at.set_port(0);
            Some(at)
        }
        Endpoint::Unix(_) => None,
    }
}
