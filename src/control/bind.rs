//! Binds the addresses of the model's listeners that are not bound yet.

use super::config_state::ConfigState;
use super::found;
use super::lookup::Found;
use super::own_places::OwnPlaces;
use super::resolve;
use crate::base::address::abstract_name;
use crate::base::{Address, Endpoint, Listen};
use crate::config::check;
use crate::config::descriptors::{self, Share};
use crate::config::model::{self, Backend, ListenerEngine, Model, Pool, SocketFile};
use crate::confine;
use crate::net::TcpTuning;
use crate::net::listen::{self, BoundFiles, Claimant, Listening, Permissions, Sharing};
use crate::pool::{BoundAddress, BoundAddressId, Snapshot};
use crate::preflight;
use std::collections::{HashMap, HashSet};
use std::io;
use std::net::{Ipv6Addr, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

/// The pause before an address that is being closed is tried again.
const TRY_AGAIN: Duration = Duration::from_millis(10);

impl ConfigState {
    /// Binds the addresses that the model asks for and that are not bound yet. On an error, none of them stays bound.
    pub(super) fn bind(&mut self, model: &Model, found: &Found) -> Result<Binding, String> {
        let backends = model.pools.iter().flat_map(|pool| &pool.backends);
        for backend in backends {
            reachable(&backend.address).map_err(|why| format!("backend {}: {why}", backend.name))?;
        }
        if let Some(bound) = self.bound(model) {
            return bound;
        }
        descriptors::divide(self.limit, model, descriptors::listening_sockets(model))?;
        let permissions: Vec<Permissions> = model.listeners.iter().map(permissions).collect::<Result<_, _>>()?;
        let mut free = Free::of(&self.snapshot);
        let mut bound = Binding { addresses: vec![Vec::new(); model.listeners.len()], ..Binding::default() };
        let asked = model.listeners.iter().enumerate().flat_map(|(index, listener)| {
            listener.bind.iter().enumerate().map(move |(place, listen)| (index, place, listen))
        });
        let mut missing: Vec<(usize, usize, &Listen)> = asked.collect();
        // A listener keeps its own sockets before another listener gets them: both may ask for port 0.
        for own in [true, false] {
            missing.retain(|&(index, _, listen)| {
                let listener = &model.listeners[index];
                let owner = own.then_some(listener.name.as_str());
                let kept = free.take(listen, listener.engine, owner);
                bound.addresses[index].extend_from_slice(&kept);
                kept.is_empty()
            });
        }
        let global = &self.running.global;
        let tuning = TcpTuning::of(global);
        for (index, place, listen) in missing {
            if model.listeners[index].is_of_kernel() {
                let group = BoundAddressId(self.unused_address);
                for endpoint in forwarded(listen, found).map_err(|error| self.why_not(listen, &error))? {
                    self.refuse_taken(&endpoint).map_err(|error| self.why_not(listen, &error))?;
                    let id = BoundAddressId(self.unused_address);
                    self.unused_address += 1;
                    bound.addresses[index].push(BoundAddress { id, group, asked: listen.clone(), endpoint });
                }
                continue;
            }
            let claimant = Claimant::Listener { name: model.listeners[index].name.clone(), place };
            let sharing = Sharing { workers: global.workers, tuning: &tuning, claimant: Some(&claimant) };
            let sockets = self
                .listen(listen, found, sharing, &permissions[index])
                .map_err(|error| self.why_not(listen, &error))?;
            let group = BoundAddressId(self.unused_address);
            for listen::ListeningSockets { endpoint, sockets } in sockets {
                let id = BoundAddressId(self.unused_address);
                self.unused_address += 1;
                bound.files.add(&endpoint);
                bound.addresses[index].push(BoundAddress { id, group, asked: listen.clone(), endpoint });
                bound.sockets.push((id, sockets));
            }
        }
        for (listener, addresses) in model.listeners.iter().zip(&mut bound.addresses) {
            addresses.sort_by_cached_key(|address| listener.bind.iter().position(|listen| *listen == address.asked));
        }
        bound.unused = free.rest();
        // A name may have resolved to several addresses.
        let of_listeners = model.listeners.iter().zip(&bound.addresses);
        let listening = of_listeners.map(|(listener, addresses)| sockets(listener, addresses, global.workers)).sum();
        bound.share = Some(descriptors::divide(self.limit, model, listening)?);
        self.refuse_loops(model, &bound)?;
        self.permit(model, &permissions, &bound)?;
        Ok(bound)
    }

    /// What is bound already, if the model has the same listeners as the running one.
    fn bound(&self, model: &Model) -> Option<Result<Binding, String>> {
        let same = model.listeners == self.running.listeners && model.listeners.len() == self.snapshot.listeners.len();
        let bind = || {
            let addresses: Vec<_> = self.snapshot.listeners.iter().map(|listener| listener.addresses.clone()).collect();
            let of_listeners = model.listeners.iter().zip(&addresses);
            let workers = self.running.global.workers;
            let listening = of_listeners.map(|(listener, addresses)| sockets(listener, addresses, workers)).sum();
            let share = Some(descriptors::divide(self.limit, model, listening)?);
            let bound = Binding { addresses, share, ..Binding::default() };
            self.refuse_loops(model, &bound)?;
            Ok(bound)
        };
        same.then(bind)
    }

    /// Refuses a backend that is one of our own listeners, by the bound addresses. A pair that runs already is not checked
    /// again: other changes must not fail because this machine has a new address.
    fn refuse_loops(&self, model: &Model, bound: &Binding) -> Result<(), String> {
        let known = if bound.sockets.is_empty() { found::addresses(&self.running) } else { HashSet::new() };
        // Where a backend with the client's port is depends on the listeners that lead to it.
        let same_listeners = model.listeners == self.running.listeners;
        let runs = |pool: &Pool, backend: &Backend| {
            known.contains(&(pool.name.as_str(), &backend.address))
                && (same_listeners || backend.address.port_offset().is_none())
        };
        let own = OwnPlaces::new(&model.listeners, bound.named(model), &self.admin);
        let own = own.listeners();
        for pool in &model.pools {
            for backend in pool.backends.iter().filter(|backend| !runs(pool, backend)) {
                own.refuse(&pool.name, &backend.address, preflight::is_ours)
                    .map_err(|why| format!("pool {}: backend {}: {why}", pool.name, backend.name))?;
            }
        }
        Ok(())
    }

    /// Refuses an address of the kernel engine at which another program listens: rules would take its clients away. A proxy listener
    /// that becomes one of the kernel has its sockets until then.
    fn refuse_taken(&self, endpoint: &Endpoint) -> io::Result<()> {
        let Some(at) = endpoint.inet() else { return Ok(()) };
        let proxies = self.snapshot.listeners.iter().filter(|listener| !listener.settings.is_of_kernel());
        let bound = proxies.flat_map(|listener| &listener.addresses).map(|address| &address.endpoint);
        let closing = self.closing.iter().filter(|(_, until)| *until > Instant::now()).map(|(endpoint, _)| endpoint);
        let own = bound.chain(closing).filter_map(Endpoint::inet).any(|own| listen::overlap(own, at));
        if own || listen::holds(at) { Ok(()) } else { listen::refuse_taken(at) }
    }

    /// Binds an address. One that a worker is about to close is retried until it is closed.
    fn listen(
        &self,
        listen: &Listen,
        found: &Found,
        sharing: Sharing<'_>,
        permissions: &Permissions,
    ) -> io::Result<Vec<listen::ListeningSockets>> {
        let port = listen.port();
        let same = |endpoint: &Endpoint| matches!(endpoint, Endpoint::Inet(at) if Some(at.port()) == port);
        let until = self.closing.iter().filter(|(endpoint, _)| same(endpoint)).map(|(_, until)| *until).max();
        loop {
            let bound = match resolve::known(&listen.0, found) {
                Some(Ok(addresses)) => sharing.bind_each(&addresses),
                Some(Err(why)) => Err(io::Error::other(why)),
                None => sharing.bind(listen, permissions),
            };
            match bound {
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

    /// Applies the model's permissions to socket files that stay. On an error the files get their old permissions back.
    fn permit(&self, model: &Model, permissions: &[Permissions], bound: &Binding) -> Result<(), String> {
        let mut given: Vec<(&Path, Permissions)> = Vec::new();
        self.give(model, permissions, bound, &mut given).inspect_err(|_| {
            for (path, before) in &given {
                if let Err(error) = before.apply(path) {
                    log::error!("can't restore the permissions of {}: {error}", path.display());
                }
            }
        })
    }

    /// Adds each changed file to `given`, with its old permissions.
    fn give<'a>(
        &self,
        model: &Model,
        permissions: &[Permissions],
        bound: &'a Binding,
        given: &mut Vec<(&'a Path, Permissions)>,
    ) -> Result<(), String> {
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
                        "listener {name}: {key} can't be taken out while it runs: set another value, or restart"
                    ));
                }
                let before = permissions.apply(path).map_err(|error| {
                    let hint = match error.kind() {
                        io::ErrorKind::PermissionDenied => {
                            " (tcplb has no right to change it any more: a restart as root applies the setting)"
                        }
                        _ => "",
                    };
                    format!("listener {}: can't change {}: {error}{hint}", listener.name, path.display())
                })?;
                given.push((path, before));
            }
        }
        Ok(())
    }

    fn why_not(&self, listen: &Listen, error: &io::Error) -> String {
        let mut addresses = self.snapshot.listeners.iter().flat_map(|listener| &listener.addresses);
        let own = addresses.find(|address| check::overlap(&address.asked, listen));
        // The old address stays bound until the new one is, so an overlap fails.
        let remedy = confine::hint_to_binding(listen, error);
        let hint = own.map_or(String::new(), |own| {
            format!(" (tcplb listens on {} itself: remove that address first, then add this one)", own.asked)
        });
        format!("can't listen on {listen}: {error}{remedy}{hint}")
    }
}

/// The sockets of a listener's addresses. The kernel's have none.
fn sockets(listener: &model::Listener, addresses: &[BoundAddress], workers: usize) -> u64 {
    let of_address = |address: &BoundAddress| match address.endpoint {
        Endpoint::Inet(_) => workers as u64,
        Endpoint::Unix(_) => 1,
    };
    if listener.is_of_kernel() { 0 } else { addresses.iter().map(of_address).sum() }
}

/// The addresses of a listener whose connections the kernel forwards. No socket listens there.
fn forwarded(listen: &Listen, found: &Found) -> io::Result<Vec<Endpoint>> {
    let mut addresses = match (&listen.0, resolve::known(&listen.0, found)) {
        (_, Some(known)) => known.map_err(io::Error::other)?,
        (Address::Inet(at), None) => vec![*at],
        (Address::Any(port), None) => vec![(Ipv6Addr::UNSPECIFIED, *port).into()],
        (Address::Name(host, port), None) => (host.as_str(), *port).to_socket_addrs()?.collect(),
        (Address::Mapped(..) | Address::Unix(_), None) => return Err(io::ErrorKind::InvalidInput.into()),
    };
    addresses.dedup();
    Ok(addresses.into_iter().map(Endpoint::Inet).collect())
}

/// The sandbox (Landlock) cuts off abstract sockets of other processes, unless the configuration had one at the start.
pub(super) fn reachable(backend: &Address) -> Result<(), String> {
    if backend.is_abstract() && confine::shuts_out_abstract_sockets() {
        return Err(format!(
            "{backend} is an abstract socket, which the sandbox reaches only if the configuration has one at the start; \
             restart tcplb with it, or use a socket file"
        ));
    }
    Ok(())
}

/// The permissions of a listener's socket files, with users and groups looked up. Files that the service manager opened
/// keep theirs, so settings for them are an error.
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

/// The result of [`ConfigState::bind`].
#[derive(Default)]
pub(super) struct Binding {
    /// The files of the new addresses.
    pub files: BoundFiles,
    /// Per listener of the model: its kept and new addresses.
    pub addresses: Vec<Vec<BoundAddress>>,
    /// The sockets of the new addresses.
    pub sockets: Vec<(BoundAddressId, Vec<Listening>)>,
    /// Endpoints that no listener uses any more.
    pub unused: Vec<Endpoint>,
    /// The division of the descriptor limit with all of them open.
    pub share: Option<Share>,
}

impl Binding {
    /// Its addresses, with the names of their listeners.
    pub(super) fn named<'a>(&'a self, model: &'a Model) -> impl Iterator<Item = (&'a str, &'a BoundAddress)> {
        let both = model.listeners.iter().zip(&self.addresses);
        both.flat_map(|(listener, addresses)| addresses.iter().map(|address| (&*listener.name, address)))
    }
}

/// The bound addresses of a snapshot that no listener of the next one has taken yet, by the configured address.
struct Free<'a>(HashMap<(&'a Listen, ListenerEngine), Vec<(&'a str, &'a BoundAddress)>>);

impl<'a> Free<'a> {
    fn of(snapshot: &'a Snapshot) -> Free<'a> {
        let mut free: HashMap<_, Vec<_>> = HashMap::new();
        for listener in &snapshot.listeners {
            for address in &listener.addresses {
                let key = (&address.asked, listener.settings.engine);
                free.entry(key).or_default().push((listener.name.as_str(), address));
            }
        }
        Free(free)
    }

    /// Takes the bound addresses for `listen`: those of `owner`, or of the first listener that has some. A name has
    /// several, as one group. A listener that asks for port 0 twice has two groups. With another engine it is another address.
    fn take(&mut self, listen: &'a Listen, engine: ListenerEngine, owner: Option<&str>) -> Vec<BoundAddress> {
        let Some(free) = self.0.get_mut(&(listen, engine)) else { return Vec::new() };
        let fits = |(name, _): &&(&str, &BoundAddress)| owner.is_none_or(|owner| owner == *name);
        let Some(group) = free.iter().find(fits).map(|(_, address)| address.group) else { return Vec::new() };
        free.extract_if(.., |(_, address)| address.group == group).map(|taken| taken.1.clone()).collect()
    }

    fn rest(self) -> Vec<Endpoint> {
        self.0.into_values().flatten().map(|(_, address)| address.endpoint.clone()).collect()
    }
}
