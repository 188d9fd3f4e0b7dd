//! What is: the file's model, the running model, and the snapshot made from it. Only the control thread has it.
//!
//! A change is a [`Step`]: prepared without touching anything (names resolved, new addresses bound, the next snapshot
//! built), so that what fails leaves nothing half-done, and then taken.

use super::command::Edit;
use super::remote::Refused;
use super::resolve;
use crate::base::address::abstract_name;
use crate::base::{Address, Endpoint, Listen};
use crate::config::descriptors::{self, Share};
use crate::config::diff::{self, Changes, Setting, Subject, What};
use crate::config::model::{self, Model, OnRemove, SocketFile};
use crate::config::{by_name, check};
use crate::confine;
use crate::net::TcpTuning;
use crate::net::listen::{self, Listening, Permissions};
use crate::pool::{
    self, AdminState, BackendId, BoundAddress, BoundAddressId, Listener, Member, Plan, Pool, Resolved, Snapshot,
    same_endpoints,
};
use crate::preflight;
use std::collections::{HashMap, HashSet};
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

/// See the module.
pub struct Truth {
    /// The limit on open files.
    limit: u64,
    share: Share,
    /// What the file said when it was last read; the flags if there is none.
    file: Model,
    running: Arc<Model>,
    snapshot: Arc<Snapshot>,
    unused_address: u32,
    /// Addresses of removed listeners, and until when a worker may keep one for clients that wait there. As many as are
    /// removed within [`CLOSING`].
    closing: Vec<(Endpoint, Instant)>,
}

/// A worker keeps the socket of a removed listener no longer than this, and only if it has no room for the clients there.
const CLOSING: Duration = Duration::from_secs(3);

/// How often an address that is being closed is tried again.
const TRY_AGAIN: Duration = Duration::from_millis(10);

/// Listening sockets that the workers do not have yet.
#[derive(Debug)]
pub struct NewSockets {
    /// Which address.
    pub address: BoundAddressId,
    /// Its listener.
    pub listener: Arc<Listener>,
    /// One a worker; for a unix socket exactly one.
    pub sockets: Vec<Listening>,
}

/// A change that is prepared: nothing can go wrong any more.
pub struct Step {
    /// The model as it will run.
    pub model: Arc<Model>,
    /// The next snapshot.
    pub snapshot: Arc<Snapshot>,
    /// What the workers are to listen on beside what they have.
    pub opened: Vec<NewSockets>,
    /// Backends that leave, and what becomes of their connections.
    pub leaving: Vec<(BackendId, OnRemove)>,
    /// Where nobody listens any more.
    pub closing: Vec<Endpoint>,
    /// How the limit on open files is divided.
    pub share: Share,
}

impl Truth {
    /// Resolves, binds and builds for the first time.
    pub fn new(model: Model, limit: u64) -> Result<(Truth, Vec<NewSockets>), String> {
        let share = descriptors::divide(limit, &model, descriptors::listening_sockets(&model))?;
        let resolved = resolve::model(&model, None).map_err(|mistakes| mistakes.join("\n"))?;
        let running = Arc::new(model.clone());
        let nothing = Model { listeners: Vec::new(), pools: Vec::new(), ..model.clone() };
        let snapshot = Arc::new(pool::build(&nothing, &Resolved::new()));
        let mut truth = Truth {
            limit,
            share,
            file: model,
            running: running.clone(),
            snapshot,
            unused_address: 0,
            closing: Vec::new(),
        };
        let bound = truth.bind(&running)?;
        truth.share = bound.share.unwrap_or(share);
        let addresses = bound.addresses;
        let plan = Plan { model: &running, resolved: &resolved, addresses: &addresses, state: None };
        truth.snapshot = Arc::new(pool::next(None, &plan));
        let opened = opened(bound.sockets, &truth.snapshot);
        Ok((truth, opened))
    }

    /// The newest snapshot.
    pub fn snapshot(&self) -> &Arc<Snapshot> {
        &self.snapshot
    }

    /// How the limit on open files is divided.
    pub fn share(&self) -> Share {
        self.share
    }

    /// The running model.
    pub fn running(&self) -> &Arc<Model> {
        &self.running
    }

    /// What a new file changes: the model as it would run, and the changes with the connections that each concerns.
    pub fn merge(&self, file: &Model) -> (Model, Changes) {
        let merged = diff::merge(&self.file, file, &self.running);
        let mut changes = diff::between(&self.running, &merged);
        let members = Members::of(&self.snapshot);
        for change in &mut changes.0 {
            change.connections = self.connections(&change.subject, &members);
        }
        (diff::in_force(merged, &self.running), changes)
    }

    /// Prepares a step to `model`. `resolved` holds the endpoints of backends that are new or may have moved. The error
    /// says what could not be listened on, and why.
    pub fn step(
        &mut self,
        model: Model,
        resolved: &Resolved,
        state: Option<(&str, &str, AdminState)>,
    ) -> Result<Step, String> {
        let bound = self.bind(&model)?;
        let plan = Plan { model: &model, resolved, addresses: &bound.addresses, state };
        let snapshot = Arc::new(pool::next(Some(&self.snapshot), &plan));
        let opened = opened(bound.sockets, &snapshot);
        let leaving = self.leaving(&snapshot);
        Ok(Step {
            model: Arc::new(model),
            snapshot,
            opened,
            leaving,
            closing: bound.unused,
            share: bound.share.unwrap_or(self.share),
        })
    }

    /// From now on this is what is.
    pub fn take(&mut self, step: &Step) {
        (self.running, self.snapshot, self.share) = (step.model.clone(), step.snapshot.clone(), step.share);
        let now = Instant::now();
        self.closing.retain(|(_, until)| *until > now);
        self.closing.extend(step.closing.iter().map(|endpoint| (endpoint.clone(), now + CLOSING)));
    }

    /// From now on this is what the file says.
    pub fn filed(&mut self, file: Model) {
        self.file = file;
    }

    /// Notes backends that are elsewhere now although their address reads as before.
    pub fn note_moved(&self, model: &Model, resolved: &Resolved, changes: &mut Changes) {
        let wanted = by_name(&model.pools);
        for pool in &self.snapshot.pools {
            let Some(wanted) = wanted.get(pool.settings.name.as_str()) else { continue };
            let wanted = by_name(&wanted.backends);
            for (settings, member) in pool.settings.backends.iter().zip(&pool.members) {
                if wanted.get(settings.name.as_str()).is_none_or(|other| other.address != settings.address) {
                    continue;
                }
                let key = (pool.settings.name.clone(), settings.name.clone());
                let Some(now) = resolved.get(&key) else { continue };
                if !same_endpoints(now, &member.backend.endpoints()) {
                    let text = |endpoints: &[Endpoint]| {
                        endpoints.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
                    };
                    let (from, to) = (text(&member.backend.endpoints()), text(now));
                    let subject = Subject::Backend { pool: key.0, name: key.1 };
                    let connections = member.backend.active().into();
                    let what = What::Changed(vec![Setting { key: "resolved address", from, to }]);
                    changes.0.push(diff::Change { subject, what, connections });
                }
            }
        }
    }

    /// Prepares a change of one backend.
    pub fn edit(&mut self, edit: &Edit) -> Result<Step, Refused> {
        let mut model = Model::clone(&self.running);
        let (Edit::Add { pool, .. } | Edit::Change { pool, .. } | Edit::Remove { pool, .. }) = edit;
        let Some(settings) = model.pools.iter_mut().find(|other| other.name == *pool) else {
            return Err(Refused::NoPool(pool.clone()));
        };
        let find = |backends: &[model::Backend], name: &String| {
            let position = backends.iter().position(|backend| backend.name == *name);
            position.ok_or_else(|| Refused::NoBackend { pool: pool.clone(), name: name.clone() })
        };
        let mut resolved = Resolved::new();
        let mut new_state = None;
        match edit {
            Edit::Add { backend, .. } => {
                check::name(&backend.name).map_err(Refused::Invalid)?;
                check::probe_port(&settings.health, &backend.address).map_err(Refused::Invalid)?;
                let bound: Vec<(&str, Listen)> = self.snapshot.listeners.iter().flat_map(bound).collect();
                let own = check::OwnListeners::new(bound.iter().map(|(listener, listen)| (*listener, listen)));
                own.refuse(&backend.address, preflight::is_ours).map_err(Refused::Invalid)?;
                if settings.backends.iter().any(|other| other.name == backend.name) {
                    return Err(Refused::Exists { pool: pool.clone(), name: backend.name.clone() });
                }
                resolved = resolve::backend(pool, backend).map_err(Refused::Invalid)?;
                settings.backends.push(backend.clone());
            }
            Edit::Change { name, weight, state, .. } => {
                let position = find(&settings.backends, name)?;
                if let (Some(backend), Some(weight)) = (settings.backends.get_mut(position), weight) {
                    backend.weight = *weight;
                }
                new_state = state.map(|state| (pool.as_str(), name.as_str(), state));
            }
            Edit::Remove { name, .. } => {
                let position = find(&settings.backends, name)?;
                settings.backends.remove(position);
            }
        }
        self.step(model, &resolved, new_state).map_err(Refused::Invalid)
    }

    fn connections(&self, subject: &Subject, members: &Members<'_>) -> u64 {
        let of_pool = |pool: &Arc<Pool>| pool.members.iter().map(|member| u64::from(member.backend.active())).sum();
        match subject {
            Subject::Global => self.snapshot.pools.iter().map(of_pool).sum(),
            Subject::Listener(name) => {
                self.snapshot.listener(name).map_or(0, |listener| listener.totals.active() as u64)
            }
            Subject::Pool(name) => self.snapshot.pool(name).map_or(0, of_pool),
            Subject::Backend { pool, name } => members.find(pool, name).map_or(0, |it| it.backend.active().into()),
        }
    }

    fn leaving(&self, next: &Snapshot) -> Vec<(BackendId, OnRemove)> {
        let members = next.pools.iter().flat_map(|pool| &pool.members);
        let staying: HashSet<BackendId> = members.map(|member| member.backend.id).collect();
        let mut leaving = Vec::new();
        for pool in &self.snapshot.pools {
            // What the new settings say is what is done; a pool that is gone goes by its own.
            let settings = next.pool(&pool.settings.name).map_or(&pool.settings, |next| &next.settings);
            let gone = pool.members.iter().map(|member| member.backend.id).filter(|id| !staying.contains(id));
            leaving.extend(gone.map(|id| (id, settings.on_remove)));
        }
        leaving
    }

    /// Binds what the model's listeners ask for and is not bound yet. On an error nothing of it stays bound.
    fn bind(&mut self, model: &Model) -> Result<Bound, String> {
        descriptors::divide(self.limit, model, descriptors::listening_sockets(model))?;
        self.within_reach(model)?;
        let permissions: Vec<Permissions> = model.listeners.iter().map(permissions).collect::<Result<_, _>>()?;
        let mut free = Free::of(&self.snapshot);
        let mut bound = Bound { addresses: vec![Vec::new(); model.listeners.len()], ..Bound::default() };
        let asked = model.listeners.iter().enumerate();
        let mut missing: Vec<(usize, &Listen)> =
            asked.flat_map(|(index, listener)| listener.bind.iter().map(move |listen| (index, listen))).collect();
        // A listener keeps its own sockets before another one may have them: with port 0 both may ask for the same.
        for own in [true, false] {
            missing.retain(|&(index, listen)| {
                let owner = own.then_some(model.listeners[index].name.as_str());
                let kept = free.take(listen, owner);
                bound.addresses[index].extend_from_slice(&kept);
                kept.is_empty()
            });
        }
        let global = &self.running.global;
        let tuning = TcpTuning::of(global);
        for (index, listen) in missing {
            let permissions = permissions[index];
            let sockets = match self.listen(listen, global.workers, &tuning, &permissions) {
                Ok(sockets) => sockets,
                Err(error) => {
                    remove_files(bound.new_endpoints());
                    return Err(self.why_not(listen, &error));
                }
            };
            let group = BoundAddressId(self.unused_address);
            for listen::Bound { endpoint, sockets } in sockets {
                let id = BoundAddressId(self.unused_address);
                self.unused_address += 1;
                bound.addresses[index].push(BoundAddress { id, group, asked: listen.clone(), endpoint });
                bound.sockets.push((id, sockets));
            }
        }
        for (listener, addresses) in model.listeners.iter().zip(&mut bound.addresses) {
            addresses.sort_by_key(|address| listener.bind.iter().position(|listen| *listen == address.asked));
        }
        bound.unused = free.rest();
        // A name may have had several addresses.
        let sockets = |address: &BoundAddress| match address.endpoint {
            Endpoint::Inet(_) => global.workers as u64,
            Endpoint::Unix(_) => 1,
        };
        let listening = bound.addresses.iter().flatten().map(sockets).sum();
        let share = descriptors::divide(self.limit, model, listening);
        bound.share = Some(share.inspect_err(|_| remove_files(bound.new_endpoints()))?);
        self.permit(model, &permissions, &bound).inspect_err(|_| remove_files(bound.new_endpoints()))?;
        Ok(bound)
    }

    /// Binds an address; one that a worker is about to close, as soon as it is closed.
    fn listen(
        &self,
        listen: &Listen,
        workers: usize,
        tuning: &TcpTuning,
        permissions: &Permissions,
    ) -> io::Result<Vec<listen::Bound>> {
        let port = match &listen.0 {
            Address::Inet(at) => Some(at.port()),
            Address::Any(port) | Address::Name(_, port) => Some(*port),
            Address::Unix(_) => None,
        };
        let same = |endpoint: &Endpoint| matches!(endpoint, Endpoint::Inet(at) if Some(at.port()) == port);
        let until = self.closing.iter().filter(|(endpoint, _)| same(endpoint)).map(|(_, until)| *until).max();
        loop {
            match listen::bind_permitting(listen, workers, tuning, permissions) {
                Err(error)
                    if error.kind() == io::ErrorKind::AddrInUse
                        && until.is_some_and(|until| Instant::now() < until) =>
                {
                    thread::sleep(TRY_AGAIN);
                }
                outcome => return outcome,
            }
        }
    }

    /// Gives socket files that stay the permissions that the model names now.
    fn permit(&self, model: &Model, permissions: &[Permissions], bound: &Bound) -> Result<(), String> {
        for ((listener, permissions), addresses) in model.listeners.iter().zip(permissions).zip(&bound.addresses) {
            for address in addresses {
                let Some(old) = self.snapshot.listener_of(address.id).map(|old| &old.settings.socket_file) else {
                    continue;
                };
                let Endpoint::Unix(path) = &address.endpoint else { continue };
                let new = &listener.socket_file;
                if old == new || abstract_name(path).is_some() {
                    continue;
                }
                let lost = [("mode", old.mode.is_some() && new.mode.is_none())];
                let lost = lost.into_iter().chain([("owner", old.owner.is_some() && new.owner.is_none())]);
                let mut lost = lost.chain([("group", old.group.is_some() && new.group.is_none())]);
                if let Some((key, _)) = lost.find(|(_, lost)| *lost) {
                    let name = &listener.name;
                    return Err(format!(
                        "listener {name}: {key} can't be taken out while it runs: name another, or restart"
                    ));
                }
                permissions
                    .apply(path)
                    .map_err(|error| format!("listener {}: can't change {}: {error}", listener.name, path.display()))?;
            }
        }
        Ok(())
    }

    /// Abstract sockets of other processes are out of reach in the sandbox, unless the start knew of one.
    fn within_reach(&self, model: &Model) -> Result<(), String> {
        if !confine::shuts_out_abstract_sockets() {
            return Ok(());
        }
        let backends = model.pools.iter().flat_map(|pool| &pool.backends);
        let mut out_of_reach = backends.filter(|backend| backend.address.is_abstract());
        out_of_reach.next().map_or(Ok(()), |backend| {
            Err(format!(
                "backend {}: {} is an abstract socket, which the sandbox reaches only if the configuration has one at the \
                 start: restart tcplb with it, or use a socket file",
                backend.name, backend.address
            ))
        })
    }

    fn why_not(&self, listen: &Listen, error: &io::Error) -> String {
        let mut addresses = self.snapshot.listeners.iter().flat_map(|listener| &listener.addresses);
        let own = addresses.find(|address| check::overlap(&address.asked, listen));
        // The old address is given up only once the new one is bound.
        let locked = match &listen.0 {
            Address::Unix(path) => confine::hint_to_binding(path, error),
            _ => "",
        };
        let hint = own.map_or(String::new(), |own| {
            format!(" (tcplb listens on {} itself: take that out first, then put this in)", own.asked)
        });
        format!("can't listen on {listen}: {error}{locked}{hint}")
    }
}

/// The members of a snapshot by the names of pool and backend.
struct Members<'a>(HashMap<(&'a str, &'a str), &'a Member>);

impl<'a> Members<'a> {
    fn of(snapshot: &'a Snapshot) -> Members<'a> {
        let pools = snapshot.pools.iter();
        let named = pools.flat_map(|pool| {
            pool.members.iter().map(|member| ((pool.settings.name.as_str(), member.backend.name.as_str()), member))
        });
        Members(named.collect())
    }

    fn find(&self, pool: &str, name: &str) -> Option<&'a Member> {
        self.0.get(&(pool, name)).copied()
    }
}

/// Where a listener listens, with the real ports.
fn bound(listener: &Arc<Listener>) -> impl Iterator<Item = (&str, Listen)> {
    let at = |endpoint: &Endpoint| match endpoint {
        Endpoint::Inet(at) => Listen(Address::Inet(*at)),
        Endpoint::Unix(path) => Listen(Address::Unix(path.to_path_buf())),
    };
    listener.addresses.iter().map(move |address| (listener.name.as_str(), at(&address.endpoint)))
}

/// The permissions of a listener's socket files, with users and groups looked up. Those of the service manager's files are its
/// own business.
fn permissions(listener: &model::Listener) -> Result<Permissions, String> {
    let file = &listener.socket_file;
    let owners = confine::owners(file).map_err(|why| format!("listener {}: {why}", listener.name))?;
    let inherited = |path: &&PathBuf| listen::is_offered(&Endpoint::Unix(path.as_path().into()));
    if let Some(path) = listener.socket_files().find(inherited).filter(|_| *file != SocketFile::default()) {
        let path = path.display();
        return Err(format!(
            "listener {}: mode, owner and group of {path} are set by the service manager (SocketMode=, SocketUser=, \
             SocketGroup=), which opened it",
            listener.name
        ));
    }
    Ok(Permissions { mode: file.mode, owner: owners.0, group: owners.1 })
}

/// What [`Truth::bind`] did.
#[derive(Default)]
struct Bound {
    /// Per listener of the model: kept ones and new ones.
    addresses: Vec<Vec<BoundAddress>>,
    /// Of the new ones.
    sockets: Vec<(BoundAddressId, Vec<Listening>)>,
    /// Who is not wanted any more.
    unused: Vec<Endpoint>,
    /// With all of them open.
    share: Option<Share>,
}

impl Bound {
    fn new_endpoints(&self) -> impl Iterator<Item = &Endpoint> {
        let ids: HashSet<BoundAddressId> = self.sockets.iter().map(|(id, _)| *id).collect();
        let new = move |address: &&BoundAddress| ids.contains(&address.id);
        self.addresses.iter().flatten().filter(new).map(|address| &address.endpoint)
    }
}

/// The files of unix sockets where nobody listens any more: left behind, they would look like a server that does not
/// answer.
pub fn remove_files<'a>(endpoints: impl IntoIterator<Item = &'a Endpoint>) {
    for endpoint in endpoints {
        if let Endpoint::Unix(path) = endpoint
            && abstract_name(path).is_none()
            && !listen::is_inherited(endpoint)
            && let Err(error) = std::fs::remove_file(path)
            && error.kind() != io::ErrorKind::NotFound
        {
            log::warn!("can't remove {}: {error}", path.display());
        }
    }
}

/// The bound addresses of a snapshot that no listener of the next one has taken yet, by what was asked for.
struct Free<'a>(HashMap<&'a Listen, Vec<(&'a str, &'a BoundAddress)>>);

impl<'a> Free<'a> {
    fn of(snapshot: &'a Snapshot) -> Free<'a> {
        let mut free: HashMap<_, Vec<_>> = HashMap::new();
        for listener in &snapshot.listeners {
            for address in &listener.addresses {
                free.entry(&address.asked).or_default().push((listener.name.as_str(), address));
            }
        }
        Free(free)
    }

    /// The bound addresses (all addresses of the name) that were once bound for `listen`, of `owner` or of the first listener
    /// that has some. One that asks twice for a port of the kernel's choice has two groups of them.
    fn take(&mut self, listen: &Listen, owner: Option<&str>) -> Vec<BoundAddress> {
        let Some(free) = self.0.get_mut(listen) else { return Vec::new() };
        let fits = |(name, _): &&(&str, &BoundAddress)| owner.is_none_or(|owner| owner == *name);
        let Some(group) = free.iter().find(fits).map(|(_, address)| address.group) else { return Vec::new() };
        free.extract_if(.., |(_, address)| address.group == group).map(|taken| taken.1.clone()).collect()
    }

    fn rest(self) -> Vec<Endpoint> {
        self.0.into_values().flatten().map(|(_, address)| address.endpoint.clone()).collect()
    }
}

fn opened(sockets: Vec<(BoundAddressId, Vec<Listening>)>, snapshot: &Snapshot) -> Vec<NewSockets> {
    let opened = sockets.into_iter().filter_map(|(address, sockets)| {
        Some(NewSockets { address, listener: snapshot.listener_of(address)?.clone(), sockets })
    });
    opened.collect()
}
