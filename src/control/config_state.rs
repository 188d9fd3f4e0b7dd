//! The state that only control has: the file's model, the running model, and the snapshot made from it.
//!
//! A change is a [`Transition`]. It is prepared without side effects on the running state: names resolved, new
//! addresses bound, the next snapshot built. A failure leaves nothing half-applied.

use super::bind::Binding;
use super::command::Edit;
use super::lookup::Found;
use super::own_places::{OwnPlaces, asked, listen_at};
use super::remote::Refused;
use super::resolve::{self, Endpoints};
use crate::base::{Endpoint, Listen};
use crate::clock;
use crate::config::by_name;
use crate::config::check::{self, OwnListeners};
use crate::config::descriptors::{self, Share};
use crate::config::diff::{self, Changes, Difference, Subject, What};
use crate::config::discovered::{self, Discovered, LeftOut};
use crate::config::in_kernel;
use crate::config::model::{self, Backend, Model, OnRemove, Origin};
use crate::config::runtime::RuntimeChanges;
use crate::confine;
use crate::discovery::SourceId;
use crate::net::listen::{BoundFiles, Listening};
use crate::pool::{
    self, AdminState, BoundAddressId, Listener, Member, Pool, Resolved, Snapshot, SnapshotPlan, same_endpoints,
};
use crate::preflight;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The current configuration; see the module.
pub struct ConfigState {
    /// The limit on open file descriptors.
    pub(super) limit: u64,
    share: Share,
    /// The model of the file when it was last read; of the flags if there is no file.
    file: Arc<Model>,
    /// What sources have found.
    pub(super) discovered: Arc<Discovered>,
    refused: BTreeMap<SourceId, LeftOut>,
    pub(super) running: Arc<Model>,
    pub(super) snapshot: Arc<Snapshot>,
    pub(super) unused_address: u32,
    /// Where the admin API listens, with the real port.
    pub(super) admin: Vec<Listen>,
    /// There is a process that changes the kernel's rules.
    has_kernel: bool,
    /// Addresses of removed listeners, and until when a worker may keep a socket for clients that wait there. Bounded
    /// by the removals within [`CLOSING`].
    pub(super) closing: Vec<(Endpoint, Instant)>,
}

/// How long a worker may keep the socket of a removed listener. It does so only if it has no room for the clients that
/// wait.
const CLOSING: Duration = Duration::from_secs(3);

/// New listening sockets that the workers do not have yet.
#[derive(Debug)]
pub struct NewSockets {
    /// The bound address.
    pub address: BoundAddressId,
    /// The listener.
    pub listener: Arc<Listener>,
    /// One socket per worker; for a unix socket exactly one.
    pub sockets: Vec<Listening>,
}

/// A backend that leaves its pool.
pub struct Leaving {
    /// The last snapshot of its pool that has it.
    pub pool: Arc<Pool>,
    /// Its slot there.
    pub slot: usize,
    /// The backend.
    pub backend: Arc<pool::Backend>,
    /// The backend that takes its place, with some of its addresses.
    pub successor: Option<Arc<pool::Backend>>,
    /// How its connections end.
    pub on_remove: OnRemove,
}

/// A prepared change; applying it can't fail.
pub struct Transition {
    /// The next running model.
    pub model: Arc<Model>,
    /// The next snapshot.
    pub snapshot: Arc<Snapshot>,
    /// New sockets for the workers.
    pub opened: Vec<NewSockets>,
    /// Backends that leave.
    pub leaving: Vec<Leaving>,
    /// Endpoints that are closed.
    pub closing: Vec<Endpoint>,
    /// The division of the limit on open descriptors.
    pub share: Share,
    /// What sources have found.
    pub discovered: Arc<Discovered>,
    /// Backends of sources that the model can't have.
    pub refused: BTreeMap<SourceId, LeftOut>,
}

/// A model that may run next, and what belongs to it.
pub struct Next {
    /// The model.
    pub model: Model,
    /// What sources have found.
    pub discovered: Arc<Discovered>,
    /// Backends of sources that the model can't have.
    pub refused: BTreeMap<SourceId, LeftOut>,
    /// Backends (pool, name) whose states change.
    pub states: Vec<(String, String, AdminState)>,
}

impl ConfigState {
    /// Binds for the first time; resolves listeners' names itself. `restored` was changed at run time, before a restart.
    /// Fails with the backends that do not fit to the file, or the address that can't be bound.
    pub fn bind_first(file: Model, restored: &RuntimeChanges, limit: u64) -> Result<BoundState, String> {
        let (mut model, states) = restored.apply(&file);
        check::all_fit(&model).map_err(|mistakes| mistakes.join("\n"))?;
        let owned = |(pool, name, state): (&str, &str, AdminState)| (pool.to_owned(), name.to_owned(), state);
        let mut states: Vec<_> = states.into_iter().map(owned).collect();
        // Sources by other settings keep their sets until their first answers.
        let mut discovered = restored.discovered().carried(&model, &model);
        let listens: Vec<(&str, &Listen)> = asked(&model.listeners).collect();
        let own = OwnListeners::new(listens.iter().map(|(name, listen)| (*name, *listen)));
        let own = own.with_pools(model::Listener::pairs(&model.listeners));
        let mut extended_model = model.clone();
        let extended = discovered
            .extend(&mut extended_model, |pool, backend| own.refuse(&pool.name, &backend.address, preflight::is_ours));
        drop(listens);
        model = extended_model;
        states.extend(extended.states.into_iter().map(|((pool, name), state)| (pool, name, state)));
        let share = descriptors::divide(limit, &model, descriptors::listening_sockets(&model))?;
        let running = Arc::new(model.clone());
        let nothing = Model { listeners: Vec::new(), pools: Vec::new(), ..model.clone() };
        let snapshot = Arc::new(pool::build(&nothing, &Resolved::new()));
        let mut config_state = ConfigState {
            limit,
            share,
            file: Arc::new(file),
            discovered: Arc::new(discovered),
            refused: extended.refused,
            running: running.clone(),
            snapshot,
            unused_address: 0,
            admin: Vec::new(),
            has_kernel: false,
            closing: Vec::new(),
        };
        let bound = config_state.bind(&running, &Found::new())?;
        config_state.share = bound.share.unwrap_or(share);
        Ok(BoundState { config_state, bound, states })
    }

    /// The names that a change to `model` waits for: those of its backends, and of listeners that are not bound yet.
    pub fn names(&self, model: &Model) -> BTreeSet<String> {
        let bound = self.snapshot.listeners.iter().flat_map(|listener| &listener.addresses);
        let bound: HashSet<String> = bound.map(|address| address.asked.to_string()).collect();
        let wanted = model.listeners.iter().flat_map(|listener| &listener.bind);
        let new = wanted.filter(|listen| !bound.contains(&listen.to_string()));
        let new = new.filter_map(|listen| resolve::name(&listen.0)).map(str::to_owned);
        resolve::names(model).into_iter().chain(new).collect()
    }

    /// The newest snapshot.
    pub fn snapshot(&self) -> &Arc<Snapshot> {
        &self.snapshot
    }

    /// The division of the limit on open descriptors.
    pub fn share(&self) -> Share {
        self.share
    }

    /// The running model.
    pub fn running(&self) -> &Arc<Model> {
        &self.running
    }

    /// What a new file changes: the next running model, and the changes with the number of connections each concerns. Fails
    /// with the backends that were added at run time and do not fit to it.
    pub fn merge(&self, file: &Model) -> Result<(Next, Changes), Vec<String>> {
        let merged = diff::merge(&self.file, file, &discovered::without(&self.running));
        check::all_fit(&merged)?;
        confine::check_transparent(&merged).map_err(|why| {
            vec![format!(
                "{why}; it is kept only if a pool needs it at the start: an upgrade or a restart takes this over"
            )]
        })?;
        if let Some(listener) = merged.kernel_listeners().next().filter(|_| !self.has_kernel) {
            return Err(vec![format!(
                "listener {}: engine = \"kernel\" needs a helper process, which starts only with tcplb: an upgrade or a \
                 restart takes this over",
                listener.name
            )]);
        }
        let mut next = self.with_found(merged, self.discovered.carried(&self.file, file));
        let mut changes = diff::between(&self.running, &next.model);
        let members = Members::of(&self.snapshot);
        for change in &mut changes.0 {
            change.connections = connections(&self.snapshot, &change.subject, &members);
        }
        next.model = diff::in_force(next.model, &self.running);
        Ok((next, changes))
    }

    /// Backends of sources that the running model can't have.
    pub fn refused(&self) -> &BTreeMap<SourceId, LeftOut> {
        &self.refused
    }

    /// The running model, unchanged.
    pub fn as_it_runs(&self) -> Next {
        let (model, discovered) = (Model::clone(&self.running), self.discovered.clone());
        Next { model, discovered, refused: self.refused.clone(), states: Vec::new() }
    }

    /// What sources have found.
    pub fn discovered(&self) -> &Arc<Discovered> {
        &self.discovered
    }

    /// Prepares a change. `resolved` holds the endpoints of backends that are new or may have moved, `found` the outcomes for
    /// names of listeners that are not bound yet. Fails with the address that can't be bound.
    pub fn prepare(&mut self, next: Next, resolved: &Resolved, found: &Found) -> Result<Transition, String> {
        let Next { model, discovered, refused, states } = next;
        let bound = self.bind(&model, found)?;
        let states: Vec<_> = states.iter().map(|(pool, name, state)| (pool.as_str(), name.as_str(), *state)).collect();
        let (addresses, states) = (&bound.addresses, &states[..]);
        let plan = SnapshotPlan { model: &model, resolved, addresses, states, now: clock::now() };
        let snapshot = Arc::new(pool::next(Some(&self.snapshot), &plan));
        let opened = opened(bound.sockets, &snapshot);
        bound.files.keep();
        let leaving = self.leaving(&snapshot);
        Ok(Transition {
            model: Arc::new(model),
            snapshot,
            opened,
            leaving,
            closing: bound.unused,
            share: bound.share.unwrap_or(self.share),
            discovered,
            refused,
        })
    }

    /// Makes a prepared change the current state.
    pub fn commit(&mut self, transition: &Transition) {
        (self.running, self.snapshot, self.share) =
            (transition.model.clone(), transition.snapshot.clone(), transition.share);
        (self.discovered, self.refused) = (transition.discovered.clone(), transition.refused.clone());
        let now = Instant::now();
        self.closing.retain(|(_, until)| *until > now);
        self.closing.extend(transition.closing.iter().map(|endpoint| (endpoint.clone(), now + CLOSING)));
    }

    /// Stores the model of the file.
    pub fn set_file(&mut self, file: Model) {
        self.file = Arc::new(file);
    }

    /// The model of the file when it was last read and applied.
    pub fn file(&self) -> &Arc<Model> {
        &self.file
    }

    /// Adds a change for each backend whose name resolves to other addresses than before.
    pub fn note_moved(&self, model: &Model, resolved: &Resolved, changes: &mut Changes) {
        let wanted = by_name(&model.pools);
        for pool in &self.snapshot.pools {
            if let Some(wanted) = wanted.get(pool.settings.name.as_str()) {
                changes.0.extend(moved(pool, wanted, resolved));
            }
        }
    }

    /// Checks a change before names are looked up.
    pub fn check(&self, edit: &Edit) -> Result<(), Refused> {
        let name = edit.pool();
        let pool = self.running.pools.iter().find(|pool| pool.name == name);
        let Some(settings) = pool else { return Err(Refused::NoPool(name.to_owned())) };
        let has = |name: &str| settings.backends.iter().any(|backend| backend.name == name);
        match edit {
            Edit::Add { backend, .. } => {
                check::name(&backend.name).map_err(Refused::Invalid)?;
                check::fits(settings, &backend.address).map_err(Refused::Invalid)?;
                check::maps_all(&self.running.listeners, name, &backend.address).map_err(Refused::Invalid)?;
                let mut of_kernel = self.running.kernel_listeners();
                if of_kernel.any(|listener| listener.pool == name) {
                    in_kernel::may_have(backend).map_err(Refused::Invalid)?;
                }
                if has(&backend.name) {
                    return Err(Refused::Exists { pool: name.to_owned(), name: backend.name.clone() });
                }
            }
            Edit::Change { name: backend, .. } | Edit::Remove { name: backend, .. } => {
                if !has(backend) {
                    return Err(Refused::NoBackend { pool: name.to_owned(), name: backend.clone() });
                }
                let of_source = settings.backends.iter().find(|it| it.name == *backend).map(|it| &it.origin);
                if let (Edit::Remove { .. }, Some(Origin::Source(source))) = (edit, of_source) {
                    let (pool, name, source) = (name.to_owned(), backend.clone(), source.to_string());
                    return Err(Refused::Discovered { pool, name, source });
                }
            }
        }
        Ok(())
    }

    /// Prepares changes of backends, which [`ConfigState::check`] allows. `found` has the outcome for a new backend's name.
    pub fn edit(&mut self, edits: &[Edit], found: &Found) -> Result<Transition, Refused> {
        let mut model = discovered::without(&self.running);
        let mut discovered = Discovered::clone(&self.discovered);
        let mut resolved = Resolved::new();
        let mut states = Vec::new();
        for edit in edits {
            self.check(edit)?;
            states.extend(self.apply(edit, found, &mut model, &mut discovered, &mut resolved)?);
        }
        let mut next = self.with_found(model, discovered);
        // A source's backend may take the name of a removed one.
        let own = OwnListeners::new([]);
        let endpoints = resolve::model(&next.model, &Found::new(), &own, Some(&self.snapshot));
        for (key, at) in endpoints.resolved {
            resolved.entry(key).or_insert(at);
        }
        next.states.extend(states);
        self.prepare(next, &resolved, &Found::new()).map_err(Refused::Invalid)
    }

    /// Makes a change in these parts of the next state. Returns the backend's new state, if that changes.
    fn apply(
        &self,
        edit: &Edit,
        found: &Found,
        model: &mut Model,
        discovered: &mut Discovered,
        resolved: &mut Resolved,
    ) -> Result<Option<(String, String, AdminState)>, Refused> {
        let pool = edit.pool();
        let Some(settings) = model.pools.iter_mut().find(|other| other.name == pool) else {
            return Err(Refused::NoPool(pool.to_owned()));
        };
        match edit {
            Edit::Add { backend, .. } => {
                let own = self.own_places(&self.running.listeners);
                let endpoints = resolve::one(backend, found, &own.listeners()).map_err(Refused::Invalid)?;
                resolved.insert((pool.to_owned(), backend.name.clone()), endpoints);
                settings.backends.push(Backend { origin: Origin::Api, ..backend.clone() });
            }
            Edit::Change { name, weight, state, .. } => {
                match settings.backends.iter_mut().find(|backend| backend.name == *name) {
                    Some(backend) => {
                        backend.weight = weight.unwrap_or(backend.weight);
                        return Ok(state.map(|state| (pool.to_owned(), name.clone(), state)));
                    }
                    None => discovered.change(pool, name, *weight, *state),
                }
            }
            Edit::Remove { name, .. } => settings.backends.retain(|backend| backend.name != *name),
        }
        Ok(None)
    }

    fn leaving(&self, next: &Snapshot) -> Vec<Leaving> {
        let mut leaving = Vec::new();
        for pool in &self.snapshot.pools {
            // The new settings of a pool decide; a pool that is gone uses its old ones.
            let next = next.pool(&pool.settings.name);
            let settings = next.map_or(&pool.settings, |next| &next.settings);
            let at = |slot: usize| next.and_then(|next| next.member(slot)).map(|member| &member.backend);
            let gone = pool.members.iter().filter(|it| at(it.slot).is_none_or(|next| next.id != it.backend.id));
            leaving.extend(gone.map(|member| Leaving {
                pool: pool.clone(),
                slot: member.slot,
                backend: member.backend.clone(),
                successor: at(member.slot).filter(|next| next.continues(&member.backend)).cloned(),
                on_remove: settings.on_remove,
            }));
        }
        leaving
    }
}

/// The open connections of a part of the configuration.
pub(super) fn connections(snapshot: &Snapshot, subject: &Subject, members: &Members<'_>) -> u64 {
    let of_pool = |pool: &Arc<Pool>| pool.members.iter().map(|member| u64::from(member.backend.active())).sum();
    match subject {
        Subject::Source { .. } | Subject::Route { .. } => 0,
        Subject::Global => snapshot.pools.iter().map(of_pool).sum(),
        Subject::Listener(name) => snapshot.listener(name).map_or(0, |listener| listener.totals.active() as u64),
        Subject::Pool(name) => snapshot.pool(name).map_or(0, of_pool),
        Subject::Backend { pool, name } => members.find(pool, name).map_or(0, |it| it.backend.active().into()),
    }
}

/// A change for each backend that keeps its address in `wanted`, but resolves to other endpoints.
fn moved(pool: &Pool, wanted: &model::Pool, resolved: &Resolved) -> Vec<diff::Change> {
    let wanted = by_name(&wanted.backends);
    let moved = pool.settings.backends.iter().zip(&pool.members).filter_map(|(settings, member)| {
        wanted.get(settings.name.as_str()).filter(|wanted| wanted.address == settings.address)?;
        let key = (pool.settings.name.clone(), settings.name.clone());
        let (from, to) = (member.backend.endpoints(), resolved.get(&key)?);
        if same_endpoints(to, &from) {
            return None;
        }
        let (key, (pool, name)) = ("resolved address".to_owned(), key);
        let what = What::Changed(vec![Difference { key, from: written(&from), to: written(to) }]);
        let connections = member.backend.active().into();
        let origin = settings.origin.clone();
        Some(diff::Change { subject: Subject::Backend { pool, name }, what, connections, origin })
    });
    moved.collect()
}

fn written(endpoints: &[Endpoint]) -> String {
    if endpoints.is_empty() {
        return "none".to_owned();
    }
    endpoints.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// The members of a snapshot by the names of pool and backend.
pub(super) struct Members<'a>(HashMap<(&'a str, &'a str), &'a Member>);

impl<'a> Members<'a> {
    pub(super) fn of(snapshot: &'a Snapshot) -> Members<'a> {
        let pools = snapshot.pools.iter();
        let named = pools.flat_map(|pool| {
            pool.members.iter().map(|member| ((pool.settings.name.as_str(), member.backend.name.as_str()), member))
        });
        Members(named.collect())
    }

    /// Those of these names alone, which takes less long.
    pub(super) fn named(snapshot: &'a Snapshot, names: &HashSet<String>) -> Members<'a> {
        let pools = snapshot.pools.iter().map(|pool| (pool.settings.name.as_str(), &pool.members));
        let named = pools.flat_map(|(pool, members)| {
            let wanted = members.iter().filter(|member| names.contains(&member.backend.name));
            wanted.map(move |member| ((pool, member.backend.name.as_str()), member))
        });
        Members(named.collect())
    }

    pub(super) fn find(&self, pool: &str, name: &str) -> Option<&'a Member> {
        self.0.get(&(pool, name)).copied()
    }
}

/// The listeners bound at the start, before the names of backends are resolved. Dropping it removes the socket files.
pub struct BoundState {
    config_state: ConfigState,
    bound: Binding,
    /// Backends (pool, name) that are not enabled.
    states: Vec<(String, String, AdminState)>,
}

/// The first state, with a snapshot.
pub struct FirstState {
    /// The state.
    pub config_state: ConfigState,
    /// The sockets of the listeners.
    pub opened: Vec<NewSockets>,
    /// The files of the listeners.
    pub files: BoundFiles,
}

impl BoundState {
    /// The running model.
    pub fn running(&self) -> &Arc<Model> {
        &self.config_state.running
    }

    /// Listeners may have the kernel's engine.
    pub fn allow_kernel(&mut self) {
        self.config_state.has_kernel = true;
    }

    /// Stores where the admin API listens, since a backend must not be there.
    pub fn serve_admin_at(&mut self, endpoints: &[Endpoint]) {
        self.config_state.admin = endpoints.iter().map(listen_at).collect();
    }

    /// The listeners' endpoints.
    pub fn endpoints(&self) -> impl Iterator<Item = &Endpoint> {
        self.bound.addresses.iter().flatten().map(|address| &address.endpoint)
    }

    /// Builds the first snapshot from the outcomes for the names of backends. Fails with each unresolved name, if the
    /// model requires all names.
    pub fn build(self, found: &Found) -> Result<FirstState, String> {
        let BoundState { mut config_state, bound, states } = self;
        let states: Vec<_> = states.iter().map(|(pool, name, state)| (pool.as_str(), name.as_str(), *state)).collect();
        let model = config_state.running.clone();
        let own = OwnPlaces::new(&model.listeners, bound.named(&model), &config_state.admin);
        let endpoints = resolve::model(&model, found, &own.listeners(), None);
        let lacking: Vec<String> = endpoints.lacking(&model).into_iter().map(|it| it.why.clone()).collect();
        if !lacking.is_empty() {
            return Err(lacking.join("\n"));
        }
        let Endpoints { resolved, unresolved, .. } = endpoints;
        let plan = SnapshotPlan {
            model: &model,
            resolved: &resolved,
            addresses: &bound.addresses,
            states: &states,
            now: clock::now(),
        };
        config_state.snapshot = Arc::new(pool::next(None, &plan));
        resolve::note(&config_state.snapshot, &unresolved);
        let opened = opened(bound.sockets, &config_state.snapshot);
        Ok(FirstState { config_state, opened, files: bound.files })
    }
}

fn opened(sockets: Vec<(BoundAddressId, Vec<Listening>)>, snapshot: &Snapshot) -> Vec<NewSockets> {
    let opened = sockets.into_iter().filter_map(|(address, sockets)| {
        Some(NewSockets { address, listener: snapshot.listener_of(address)?.clone(), sockets })
    });
    opened.collect()
}
