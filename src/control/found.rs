//! What sources have found, as a part of the next state.

use super::bind;
use super::config_state::{ConfigState, Members, Next, connections};
use super::drift::state_changed;
use crate::base::Address;
use crate::config::diff::{self, Changes, Subject};
use crate::config::discovered::{self, Discovered, is_discovered};
use crate::config::model::{Backend, Model};
use crate::discovery::{Set, SourceId};
use crate::pool::AdminState;
use crate::preflight;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

/// The addresses of all backends, each with its pool.
pub(super) fn addresses(model: &Model) -> HashSet<(&str, &Address)> {
    let pairs =
        model.pools.iter().flat_map(|pool| pool.backends.iter().map(move |it| (pool.name.as_str(), &it.address)));
    pairs.collect()
}

impl ConfigState {
    /// What new sets of sources change: the next running model, and the changes.
    pub fn found(&self, sets: BTreeMap<SourceId, Arc<Set>>) -> (Next, Changes) {
        let mut discovered = Discovered::clone(&self.discovered);
        discovered.sets.extend(sets);
        let next = self.with_found(discovered::without(&self.running), discovered);
        let mut changes = diff::between(&self.running, &next.model);
        let of_backends = changes.0.iter().filter_map(|change| match &change.subject {
            Subject::Backend { name, .. } => Some(name),
            _ => None,
        });
        let names = of_backends.chain(next.states.iter().map(|(_, name, _)| name)).cloned().collect();
        let members = Members::named(&self.snapshot, &names);
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
        // A pair that runs already is not checked again.
        let known = if same_listeners { addresses(&self.running) } else { HashSet::new() };
        let listeners = model.listeners.clone();
        let own = self.own_places(&listeners);
        let own = own.listeners();
        let extended = discovered.extend(&mut model, |pool, backend| {
            if known.contains(&(pool.name.as_str(), &backend.address)) {
                return Ok(());
            }
            bind::reachable(&backend.address)?;
            own.refuse(&pool.name, &backend.address, preflight::is_ours)
        });
        let mut states = self.enabled_again(&model, &extended.states);
        states.extend(extended.states.into_iter().map(|((pool, name), state)| (pool, name, state)));
        Next { model, discovered: Arc::new(discovered), refused: extended.refused, states }
    }

    /// Backends that are not enabled now and will be: their source says so, or the file takes them over from a source. `states`
    /// has those of sources that will not be enabled.
    fn enabled_again(
        &self,
        model: &Model,
        states: &HashMap<(String, String), AdminState>,
    ) -> Vec<(String, String, AdminState)> {
        let mut again = Vec::new();
        for pool in model.pools.iter().filter(|pool| !pool.discover.is_empty()) {
            let Some(before) = self.snapshot.pool(&pool.name) else { continue };
            let both = before.settings.backends.iter().zip(&before.members);
            let set_aside = both.filter(|(_, member)| member.state != AdminState::Enabled);
            let set_aside: HashMap<&str, &Backend> = set_aside.map(|(it, _)| (it.name.as_str(), it)).collect();
            for backend in &pool.backends {
                let Some(before) = set_aside.get(backend.name.as_str()) else { continue };
                let key = (pool.name.clone(), backend.name.clone());
                let is_enabled =
                    if is_discovered(backend) { !states.contains_key(&key) } else { is_discovered(before) };
                if is_enabled {
                    again.push((key.0, key.1, AdminState::Enabled));
                }
            }
        }
        again
    }
}
