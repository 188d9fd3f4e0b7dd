//! What sources have found, as part of the configuration in force.
//!
//! The running model has two parts. One follows from the file and the changes of the API ([`super::diff::merge`]). The other one
//! is added here, anew for each change: the backends of all sources. So no answer of a source can remove or change a backend
//! of the file or of the API.
//!
//! | a backend that a source found | then |
//! |---|---|
//! | has the name of one of the file, of the API, or of a source before it in the pool | the source's is left out |
//! | can't be in its pool: its name, its limit, its probe, its port, an own listener | it is left out |
//! | its weight or its state was changed by the API | the API's stays, until the backend leaves |
//! | its source has no answer yet | it is as in the source's last set |
//!
//! Pure.

use super::check;
use super::in_kernel;
use super::model::{Backend, Discover, Listener, Model, OnEmpty, Origin, Pool};
use crate::base::AdminState;
use crate::discovery::{Found, Set, SourceId, Wanted, entry};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

/// Backends that were left out, and whose reasons are kept.
const REASONS: usize = 5;

/// The sets of all sources, and what the API changed on their backends.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Discovered {
    /// The newest set of each source.
    pub sets: BTreeMap<SourceId, Arc<Set>>,
    /// What the API changed, by pool and backend.
    pub overrides: BTreeMap<(String, String), Override>,
}

/// What the API changed on a backend.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Override {
    /// The weight, if it was changed.
    pub weight: Option<u16>,
    /// The state, if it was changed.
    pub state: Option<AdminState>,
}

/// What became of the backends of all sources.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Extended {
    /// The states of those in the model that are not enabled, by pool and backend.
    pub states: HashMap<(String, String), AdminState>,
    /// Those that were left out; a source without one is absent.
    pub refused: BTreeMap<SourceId, LeftOut>,
}

/// The backends of a source that were left out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LeftOut {
    /// How many.
    pub count: usize,
    /// Why, for the first of them, each with its key.
    pub reasons: Vec<String>,
}

impl LeftOut {
    fn add(&mut self, key: &str, why: &str) {
        self.count += 1;
        if self.reasons.len() < REASONS {
            self.reasons.push(format!("{}: {why}", entry::shown(key)));
        }
    }
}

/// Is this backend from a source?
pub fn is_discovered(backend: &Backend) -> bool {
    matches!(backend.origin, Origin::Source(_))
}

/// A model without the backends of sources.
pub fn without(model: &Model) -> Model {
    let own = |pool: &Pool| pool.backends.iter().filter(|backend| !is_discovered(backend)).cloned().collect();
    let pools = model.pools.iter().map(|pool| pool.with_backends(own(pool))).collect();
    Model { global: model.global.clone(), listeners: model.listeners.clone(), pools }
}

impl Discovered {
    /// Adds the backends of all sources to a model that has none of them. `refuse` says why a backend can't be in its pool, beyond
    /// what the model shows. What the API changed on a backend that has left is forgotten.
    pub fn extend(
        &mut self,
        model: &mut Model,
        mut refuse: impl FnMut(&Pool, &Backend) -> Result<(), String>,
    ) -> Extended {
        let mut extended = Extended::default();
        let mut overridden = HashSet::new();
        let Model { listeners, pools, .. } = model;
        for pool in pools.iter_mut().filter(|pool| !pool.discover.is_empty()) {
            let is_of_kernel = listeners.iter().any(|it| it.is_of_kernel() && it.pool == pool.name);
            let mut found = Vec::new();
            {
                let origins = pool.backends.iter().map(|backend| (backend.name.as_str(), &backend.origin));
                let (mut ids, mut count) = (Vec::new(), pool.backends.len());
                for (label, discover) in pool.sources() {
                    let id = SourceId { pool: pool.name.clone(), label };
                    let Some((id, set)) = self.sets.get_key_value(&id) else { continue };
                    count += set.len();
                    ids.push((id, discover, set, Origin::Source(id.label.as_str().into())));
                }
                let mut taken: HashMap<&str, &Origin> = HashMap::with_capacity(count);
                taken.extend(origins);
                found.reserve(count);
                for (id, discover, set, origin) in &ids {
                    let mut left_out = LeftOut::default();
                    for (key, entry) in set.iter() {
                        let backend = backend(entry, discover, origin);
                        let why = match taken.get(entry.name.as_str()) {
                            Some(other) if *other == origin => Err("another entry has the same name".to_owned()),
                            Some(other) => Err(format!("a backend of the same name is there already, by {other}")),
                            None => allowed(listeners, pool, &backend)
                                .and_then(|()| if is_of_kernel { in_kernel::may_have(&backend) } else { Ok(()) })
                                .and_then(|()| refuse(pool, &backend)),
                        };
                        match why {
                            Ok(()) => {
                                taken.insert(&entry.name, origin);
                                found.push((backend, entry.state));
                            }
                            Err(why) => left_out.add(key, &why),
                        }
                    }
                    if left_out.count > 0 {
                        extended.refused.insert((*id).clone(), left_out);
                    }
                }
            }
            for (mut backend, mut state) in found {
                let key = || (pool.name.clone(), backend.name.clone());
                if !self.overrides.is_empty()
                    && let Some((key, changed)) = self.overrides.get_key_value(&key())
                    && *changed != Override::default()
                {
                    overridden.insert(key.clone());
                    (backend.weight, state) =
                        (changed.weight.unwrap_or(backend.weight), changed.state.unwrap_or(state));
                }
                if state != AdminState::Enabled {
                    extended.states.insert(key(), state);
                }
                pool.backends.push(backend);
            }
        }
        self.overrides.retain(|key, _| overridden.contains(key));
        extended
    }

    /// Notes what the API changed on a backend of a source.
    pub fn change(&mut self, pool: &str, name: &str, weight: Option<u16>, state: Option<AdminState>) {
        let changed = self.overrides.entry((pool.to_owned(), name.to_owned())).or_default();
        changed.weight = weight.or(changed.weight);
        changed.state = state.or(changed.state);
    }

    /// Whether the API set the state of this backend of a source.
    pub fn sets_state(&self, pool: &str, name: &str) -> bool {
        let key = (pool.to_owned(), name.to_owned());
        self.overrides.get(&key).is_some_and(|changed| changed.state.is_some())
    }

    /// The backends whose weight the API changed, each with its pool and the weight of its source.
    pub fn reweighted<'a>(&'a self, model: &'a Model) -> impl Iterator<Item = (&'a Pool, &'a Backend, u16)> {
        let changed = self.overrides.iter().filter(|(_, changed)| changed.weight.is_some());
        let found = changed.filter_map(|((pool, name), _)| {
            let pool = model.pools.iter().find(|other| other.name == *pool)?;
            let backend = pool.backends.iter().find(|backend| backend.name == *name)?;
            let Origin::Source(label) = &backend.origin else { return None };
            let (label, discover) = pool.sources().into_iter().find(|(other, _)| **other == **label)?;
            let set = self.sets.get(&SourceId { pool: pool.name.clone(), label })?;
            let found = set.values().find(|found| found.name == *name)?;
            Some((pool, backend, found.weight.unwrap_or(discover.weight)))
        });
        found.filter(|(_, backend, weight)| backend.weight != *weight)
    }

    /// What a new model has of it, with sources that may be others. A source that is there in both keeps its set, though its
    /// label may be another one; one with other settings keeps the set of its label until its first answer.
    pub fn carried(&self, old: &Model, new: &Model) -> Discovered {
        let mut sets = BTreeMap::new();
        for pool in new.pools.iter().filter(|pool| !pool.discover.is_empty()) {
            let before = old.pools.iter().find(|before| before.name == pool.name);
            let mut before = before.map_or(Vec::new(), Pool::sources);
            let id = |label: &str| SourceId { pool: pool.name.clone(), label: label.to_owned() };
            let mut changed = Vec::new();
            for (label, discover) in pool.sources() {
                match before.iter().position(|(_, other)| other.settings == discover.settings) {
                    Some(same) => {
                        let (was, _) = before.remove(same);
                        sets.extend(self.sets.get(&id(&was)).map(|set| (id(&label), set.clone())));
                    }
                    None => changed.push(label),
                }
            }
            for label in changed.into_iter().filter(|label| before.iter().any(|(other, _)| other == label)) {
                sets.extend(self.sets.get(&id(&label)).map(|set| (id(&label), set.clone())));
            }
        }
        Discovered { sets, overrides: self.overrides.clone() }
    }

    /// The sources that a model wants, each with its newest set.
    pub fn wanted(&self, model: &Model) -> Vec<Wanted> {
        let sources = model.pools.iter().flat_map(|pool| {
            pool.sources().into_iter().map(|(label, discover)| (SourceId { pool: pool.name.clone(), label }, discover))
        });
        let wanted = sources.map(|(id, discover)| Wanted {
            settings: discover.settings.clone(),
            clears: discover.on_empty == OnEmpty::Clear,
            set: self.sets.get(&id).cloned().unwrap_or_default(),
            id,
        });
        wanted.collect()
    }
}

fn backend(found: &Found, discover: &Discover, origin: &Origin) -> Backend {
    Backend {
        name: found.name.clone(),
        address: found.address.clone(),
        send_proxy: None,
        weight: found.weight.unwrap_or(discover.weight),
        max_connections: found.max_connections.or(discover.max_connections),
        backup: found.backup.unwrap_or(discover.backup),
        origin: origin.clone(),
    }
}

/// The rules for a backend that the file has too.
fn allowed(listeners: &[Listener], pool: &Pool, backend: &Backend) -> Result<(), String> {
    check::name(&backend.name).map_err(|why| format!("name: {why}"))?;
    if backend.max_connections == Some(0) {
        return Err("max_connections: expected a number, at least 1, got 0".to_owned());
    }
    check::fits(pool, &backend.address)?;
    check::maps_all(listeners, &pool.name, &backend.address)
}

#[cfg(test)]
mod tests;
