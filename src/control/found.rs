//! What sources have found, as a part of the next state.

use super::bind;
use super::config_state::{ConfigState, Members, Next, asked, connections, listen_at, state_changed};
use crate::base::{Address, Listen};
use crate::config::by_name;
use crate::config::check::OwnListeners;
use crate::config::diff::{self, Changes};
use crate::config::discovered::{self, Discovered, is_discovered};
use crate::config::model::Model;
use crate::discovery::{Set, SourceId};
use crate::pool::AdminState;
use crate::preflight;
use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

impl ConfigState {
    /// What new sets of sources change: the next running model, and the changes.
    pub fn found(&self, sets: BTreeMap<SourceId, Arc<Set>>) -> (Next, Changes) {
        let mut discovered = Discovered::clone(&self.discovered);
        discovered.sets.extend(sets);
        let next = self.with_found(discovered::without(&self.running), discovered);
        let mut changes = diff::between(&self.running, &next.model);
        let members = Members::of(&self.snapshot);
        for change in &mut changes.0 {
            change.connections = connections(&self.snapshot, &change.subject, &members);
        }
        for (pool, name, state) in &next.states {
            let Some(member) = members.find(pool, name).filter(|member| member.state != *state) else { continue };
            let settings = next.model.pools.iter().find(|other| other.name == *pool);
            let origin = settings.and_then(|pool| pool.backends.iter().find(|backend| backend.name == *name));
            changes.0.push(state_changed(pool, member, member.state, *state, origin));
        }
        (next, changes)
    }

    /// Adds the backends of sources to a model without them.
    pub(super) fn with_found(&self, mut model: Model, mut discovered: Discovered) -> Next {
        let same_listeners = model.listeners == self.running.listeners;
        let running = self.running.pools.iter().flat_map(|pool| &pool.backends);
        // A pair that runs already is not checked again.
        let known: HashSet<&Address> =
            if same_listeners { running.map(|backend| &backend.address).collect() } else { HashSet::new() };
        let bound: Vec<(&str, Listen)> = (self.snapshot.listeners.iter())
            .flat_map(|it| it.addresses.iter().map(|address| (&*it.name, listen_at(&address.endpoint))))
            .collect();
        let listeners = Model { pools: Vec::new(), global: model.global.clone(), listeners: model.listeners.clone() };
        let own = OwnListeners::new(bound.iter().map(|(name, listen)| (*name, listen)).chain(asked(&listeners)));
        let own = own.with_admin(&self.admin);
        let extended = discovered.extend(&mut model, |_, backend| {
            if known.contains(&backend.address) {
                return Ok(());
            }
            bind::reachable(&backend.address)?;
            own.refuse(&backend.address, preflight::is_ours)
        });
        let members = Members::of(&self.snapshot);
        let differs = |pool: &str, name: &str, state: AdminState| {
            state != AdminState::Enabled || members.find(pool, name).is_some_and(|member| member.state != state)
        };
        let states = extended.states.into_iter().map(|((pool, name), state)| (pool, name, state));
        let mut states: Vec<_> = states.filter(|(pool, name, state)| differs(pool, name, *state)).collect();
        states.extend(self.taken_over(&model, &members));
        Next { model, discovered: Arc::new(discovered), refused: extended.refused, states }
    }

    /// Backends of sources that the file takes over: they are enabled as the file has them.
    fn taken_over(&self, model: &Model, members: &Members<'_>) -> Vec<(String, String, AdminState)> {
        let before = by_name(&self.running.pools);
        let mut taken = Vec::new();
        for pool in model.pools.iter().filter(|pool| !pool.discover.is_empty()) {
            let Some(before) = before.get(pool.name.as_str()) else { continue };
            let found = before.backends.iter().filter(|backend| is_discovered(backend));
            let found: HashSet<&str> = found.map(|backend| backend.name.as_str()).collect();
            let own = pool.backends.iter().filter(|backend| !is_discovered(backend) && found.contains(&*backend.name));
            let set_aside = own.filter(|backend| {
                members.find(&pool.name, &backend.name).is_some_and(|member| member.state != AdminState::Enabled)
            });
            taken.extend(set_aside.map(|backend| (pool.name.clone(), backend.name.clone(), AdminState::Enabled)));
        }
        taken
    }
}
