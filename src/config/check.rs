//! Checks of settings that hold for flags and the file alike: one rule, one message.
//!
//! Each function checks a value or a pair; the caller adds the place (flag, or file and line).

use super::by_name;
use super::in_kernel;
use super::model::{Health, Listener, Model, Pool, Probe, SourceAddress};
use crate::base::address::abstract_name;
use crate::base::text::{self, Escaped};
use crate::base::{Address, Listen};
use std::cell::OnceCell;
use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Component, Path, PathBuf};

/// The longest name of a listener, pool or backend.
const NAME_MAX: usize = 128;

/// More threads than any machine has cores for.
pub const WORKERS_MAX: usize = 1024;

/// The message about a group without a user, which would have no effect.
pub const GROUP_ALONE: &str = "expected a user that it goes with";

/// A name as it may stand in a log line, a metric label and a URL. It is not empty and has no white space and no invisible
/// character.
pub fn name(text: &str) -> Result<(), String> {
    let why = if text.is_empty() {
        "it is empty".to_owned()
    } else if text.len() > NAME_MAX {
        "it is longer than 128 bytes".to_owned()
    } else if text.chars().any(|letter| letter.is_whitespace() || letter.is_control()) {
        "it contains white space or control characters".to_owned()
    } else if let Some(letter) = text::hidden_in(text) {
        format!("it contains the hidden character `{letter}`")
    } else {
        return Ok(());
    };
    let (shown, more) = text.char_indices().nth(NAME_MAX).map_or((text, ""), |(end, _)| (&text[..end], "…"));
    Err(format!("expected a name without spaces, got `{}{more}`: {why}", Escaped(shown)))
}

/// The path of an HTTP probe, as it stands in a request line: `/` first, then visible ASCII.
pub fn health_path(text: &str) -> Result<(), String> {
    let why = if !text.starts_with('/') {
        "it does not begin with /"
    } else if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
        "it contains spaces, control characters or letters outside ASCII (write them as %20 …)"
    } else {
        return Ok(());
    };
    Err(format!("expected a path like /healthz, got `{text}`: {why}"))
}

/// The `Host` of an HTTP probe, as it stands in a header.
pub fn health_host(text: &str) -> Result<(), String> {
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Ok(());
    }
    Err(format!("expected a host like web.internal or web.internal:8080, got `{text}`"))
}

/// Can a pool have a backend at this address: do its probes and its source address fit?
pub fn fits(pool: &Pool, backend: &Address) -> Result<(), String> {
    probe_port(&pool.health, backend)?;
    if backend.port_offset().is_some() && pool.warm_connections > 0 {
        return Err(format!(
            "expected warm_connections = 0: the port of `{backend}` is the client's, and a warm connection has no client yet"
        ));
    }
    source_address(&pool.source, backend)
}

/// Does each address of a listener have a port that leads to a port of this backend?
pub fn maps(listener: &Listener, backend: &Address) -> Result<(), String> {
    let Some(offset) = backend.port_offset() else { return Ok(()) };
    let name = &listener.name;
    for listen in &listener.bind {
        match listen.port() {
            None => {
                return Err(format!("`{backend}` needs a port of the listener, but listener {name} binds `{listen}`"));
            }
            Some(port) if port.checked_add(offset).is_none() => {
                return Err(format!("`{backend}` leads beyond port 65535 for listener {name} at `{listen}`"));
            }
            Some(_) => {}
        }
    }
    Ok(())
}

/// The same for all listeners that lead to this pool.
pub fn maps_all(listeners: &[Listener], pool: &str, backend: &Address) -> Result<(), String> {
    if backend.port_offset().is_none() {
        return Ok(());
    }
    let mut its = listeners.iter().filter(|listener| listener.pools().any(|name| name == pool));
    its.try_for_each(|listener| maps(listener, backend))
}

/// Can a connection to this backend come from there?
fn source_address(source: &SourceAddress, backend: &Address) -> Result<(), String> {
    match (source, backend) {
        (SourceAddress::Client | SourceAddress::Of(_), Address::Unix(_)) => {
            Err(format!("source = {source} needs an IP address or a name, but the backend is `{backend}`"))
        }
        (SourceAddress::Of(from), _) => match backend.endpoint().and_then(|to| to.ip()) {
            Some(to) if !from.iter().any(|from| from.is_ipv4() == to.is_ipv4()) => {
                let family = if to.is_ipv4() { "IPv4" } else { "IPv6" };
                Err(format!("source = {source} has no {family} address, but the backend is `{backend}`"))
            }
            _ => Ok(()),
        },
        _ => Ok(()),
    }
}

/// Can the port that a pool's probes go to be applied to this backend of it?
fn probe_port(health: &Health, backend: &Address) -> Result<(), String> {
    match (health.port, backend) {
        (Some(port), Address::Unix(_)) => {
            Err(format!("a probe of port {port} needs an IP address or a name, but the backend is `{backend}`"))
        }
        (None, Address::Mapped(..)) if health.kind.probe() != Probe::Off => Err(format!(
            "a probe needs a port, and that of `{backend}` is the client's: set health.port, or health.kind = \"off\""
        )),
        _ => Ok(()),
    }
}

/// Checks [`fits`] and [`maps`] for each backend of a model: one that the API added may not fit to what the file says now.
pub fn all_fit(model: &Model) -> Result<(), Vec<String>> {
    let backends = model.pools.iter().flat_map(|pool| pool.backends.iter().map(move |backend| (pool, backend)));
    let wrong = backends.filter_map(|(pool, backend)| {
        let maps = || maps_all(&model.listeners, &pool.name, &backend.address);
        let why = fits(pool, &backend.address).and_then(|()| maps()).err()?;
        Some(format!("pool {}: backend {}: {why}", pool.name, backend.name))
    });
    let pools = by_name(&model.pools);
    let of_kernel = model.kernel_listeners();
    let of_kernel = of_kernel.flat_map(|it| in_kernel::of_both(it, pools.get(it.pool.as_str()).copied()));
    let used: HashSet<&str> = model.kernel_listeners().map(|listener| listener.pool.as_str()).collect();
    let approximate = model.pools.iter().filter_map(|pool| {
        let (key, why) = in_kernel::of_approximate(pool, used.contains(pool.name.as_str()))?;
        Some(format!("pool {}: {key}: {why}", pool.name))
    });
    let mut wrong: Vec<String> = wrong.chain(of_kernel).chain(approximate).collect();
    // A pool of several listeners is noted once.
    let mut seen = HashSet::new();
    wrong.retain(|line| seen.insert(line.clone()));
    if wrong.is_empty() { Ok(()) } else { Err(wrong) }
}

/// Whether the admin API may listen there without a token: only where no other machine reaches it, since callers can
/// remove every backend.
pub fn is_local(listen: &Listen) -> bool {
    match &listen.0 {
        Address::Inet(at) => at.ip().to_canonical().is_loopback(),
        Address::Any(_) | Address::Mapped(..) => false,
        Address::Name(name, _) => name.eq_ignore_ascii_case("localhost"),
        Address::Unix(_) => true,
    }
}

/// The longest file of an admin token.
pub const TOKEN_MAX: u64 = 4096;

/// A message with the values as they were typed. Characters that would break the line, drive the terminal or change the
/// direction of the text are escaped.
pub fn shown(text: &str) -> String {
    Escaped(text).to_string()
}

/// Would the kernel refuse to listen on both? Two listeners on port 0 never meet: each gets a port of its own.
///
/// A name is compared as a name: whether it resolves to another listener's address shows when it is bound.
pub fn overlap(one: &Listen, other: &Listen) -> bool {
    match (&one.0, &other.0) {
        (Address::Unix(_), Address::Unix(_)) => AddressKey::of(&one.0) == AddressKey::of(&other.0),
        (Address::Name(a, p), Address::Name(b, q)) => p == q && *p != 0 && a.eq_ignore_ascii_case(b),
        // Every address that a name can resolve to is one of ours, or can't be bound at all.
        (Address::Name(_, p), b) => inet(b).is_some_and(|b| b.port() == *p && *p != 0 && is_every_interface(b.ip())),
        (_, Address::Name(..)) => overlap(other, one),
        (a, b) => match (inet(a), inet(b)) {
            (Some(a), Some(b)) => a.port() == b.port() && a.port() != 0 && covers_same(a.ip(), b.ip()),
            _ => false,
        },
    }
}

/// Is the other one `0.0.0.0`, whose clients come to this one too? Other balancers have one address for each family.
pub fn takes_all_of(one: &Listen, other: &Listen) -> bool {
    let is_every_v4 = |at: SocketAddr| at.ip() == IpAddr::V4(Ipv4Addr::UNSPECIFIED);
    inet(&one.0).is_some_and(|one| is_every_interface(one.ip())) && inet(&other.0).is_some_and(is_every_v4)
}

/// The listeners and the other sockets of a tcplb, to find backends that are among them. There may be many backends, so a check compares only
/// listeners with the backend's port or path.
pub struct OwnListeners<'a> {
    places: HashMap<AddressKey<'a>, Vec<(Owner<'a>, &'a Listen)>>,
    /// The ports of each listener.
    ports: HashMap<&'a str, Vec<u16>>,
    /// The listeners of each pool, by name.
    of_pools: HashMap<&'a str, HashSet<&'a str>>,
}

/// What listens at an address.
enum Owner<'a> {
    Listener(&'a str),
    Admin,
    TakeOver,
}

/// What two addresses must have in common to be the same place.
#[derive(PartialEq, Eq, Hash)]
pub enum AddressKey<'a> {
    /// A port.
    Port(u16),
    /// The name of an abstract socket. Its bytes are compared as they are.
    Abstract(&'a [u8]),
    /// The path of a unix socket, normalised.
    Path(PathBuf),
}

impl<'a> AddressKey<'a> {
    /// Of an address.
    pub fn of(address: &'a Address) -> AddressKey<'a> {
        match address {
            Address::Inet(at) => AddressKey::Port(at.port()),
            // No one port.
            Address::Mapped(..) => AddressKey::Port(0),
            Address::Any(port) | Address::Name(_, port) => AddressKey::Port(*port),
            Address::Unix(path) => {
                abstract_name(path).map_or_else(|| AddressKey::Path(normalised(path)), AddressKey::Abstract)
            }
        }
    }
}

impl<'a> OwnListeners<'a> {
    /// Listeners by their names.
    pub fn new(listeners: impl IntoIterator<Item = (&'a str, &'a Listen)>) -> OwnListeners<'a> {
        let mut places: HashMap<AddressKey<'a>, Vec<_>> = HashMap::new();
        let mut ports: HashMap<&'a str, Vec<u16>> = HashMap::new();
        for (name, listen) in listeners {
            places.entry(AddressKey::of(&listen.0)).or_default().push((Owner::Listener(name), listen));
            ports.entry(name).or_default().extend(listen.port().filter(|port| *port > 0));
        }
        OwnListeners { places, ports, of_pools: HashMap::new() }
    }

    /// And which pools they lead to: pairs of a pool and a listener.
    pub fn with_pools(mut self, pairs: impl IntoIterator<Item = (&'a str, &'a str)>) -> OwnListeners<'a> {
        for (pool, listener) in pairs {
            self.of_pools.entry(pool).or_default().insert(listener);
        }
        self
    }

    /// And where the admin API listens.
    pub fn with_admin(mut self, admin: impl IntoIterator<Item = &'a Listen>) -> OwnListeners<'a> {
        for listen in admin {
            self.places.entry(AddressKey::of(&listen.0)).or_default().push((Owner::Admin, listen));
        }
        self
    }

    /// And where processes take over.
    pub fn with_take_over(mut self, take_over: impl IntoIterator<Item = &'a Listen>) -> OwnListeners<'a> {
        for listen in take_over {
            self.places.entry(AddressKey::of(&listen.0)).or_default().push((Owner::TakeOver, listen));
        }
        self
    }

    /// What is wrong with this backend of a pool, if it is one of them. `is_ours`: is an address one of this machine's? Loopback is.
    pub fn refuse(&self, pool: &str, backend: &Address, is_ours: impl Fn(IpAddr) -> bool) -> Result<(), String> {
        let Address::Mapped(ip, offset) = backend else { return self.refuse_at(backend, is_ours) };
        // There may be thousands of ports, and the answer costs system calls.
        let answer = OnceCell::new();
        let is_ours = |ip| *answer.get_or_init(|| is_ours(ip));
        // Each port that a client of this pool can connect to.
        let ports = self.of_pools.get(pool).into_iter().flatten().filter_map(|name| self.ports.get(name)).flatten();
        let mut ports = ports.filter_map(|port| port.checked_add(*offset));
        ports.try_for_each(|port| self.refuse_at(&Address::Inet(SocketAddr::new(*ip, port)), is_ours))
    }

    /// The same for an address with a port of its own.
    pub fn refuse_at(&self, backend: &Address, is_ours: impl Fn(IpAddr) -> bool) -> Result<(), String> {
        let candidates = self.places.get(&AddressKey::of(backend)).into_iter().flatten();
        match candidates.into_iter().find(|(_, listen)| leads_to(listen, backend, &is_ours)) {
            None => Ok(()),
            Some((Owner::Admin, listen)) => Err(format!(
                "this is where the admin API listens (`{listen}`), so each client would reach the admin API"
            )),
            Some((Owner::TakeOver, listen)) => {
                Err(format!("this is the socket of take_over (`{listen}`), which serves no clients"))
            }
            Some((Owner::Listener(name), listen)) => Err(format!(
                "this is where listener {name} listens (`{listen}`), so each connection would come back to tcplb"
            )),
        }
    }
}

/// Would a connection to this backend arrive at this listener? Port 0 leads nowhere yet.
fn leads_to(listen: &Listen, backend: &Address, is_ours: &dyn Fn(IpAddr) -> bool) -> bool {
    match (&listen.0, backend) {
        (Address::Unix(_), Address::Unix(_)) => return AddressKey::of(&listen.0) == AddressKey::of(backend),
        (Address::Name(a, p), Address::Name(b, q)) if a.eq_ignore_ascii_case(b) => return p == q && *p != 0,
        _ => {}
    }
    let (there, here) = (literals(&listen.0), literals(backend));
    let meets = |listen: &SocketAddr, backend: &SocketAddr| {
        // The kernel connects the unspecified address to loopback.
        let ip = match backend.ip().to_canonical() {
            IpAddr::V4(Ipv4Addr::UNSPECIFIED) => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(Ipv6Addr::UNSPECIFIED) => Ipv6Addr::LOCALHOST.into(),
            ip => ip,
        };
        let wide = listen.ip().to_canonical();
        let family = wide.is_ipv6() || ip.is_ipv4();
        let here = || ip.is_loopback() || is_ours(ip);
        listen.port() == backend.port()
            && listen.port() != 0
            && (wide == ip || wide.is_unspecified() && family && here())
    };
    there.iter().any(|listen| here.iter().any(|backend| meets(listen, backend)))
}

/// A path without `.`, `..` and doubled slashes, by its text alone: a configuration is checked without its file system. A `..`
/// after a symbolic link may lead elsewhere, and the paths then count as the same.
fn normalised(path: &Path) -> PathBuf {
    let mut normal = PathBuf::new();
    for part in path.components() {
        match (part, normal.components().next_back()) {
            (Component::CurDir, _) | (Component::ParentDir, Some(Component::RootDir)) => {}
            (Component::ParentDir, Some(Component::Normal(_))) => drop(normal.pop()),
            (part, _) => normal.push(part),
        }
    }
    normal
}

/// What an address is without asking a resolver.
fn literals(address: &Address) -> Vec<SocketAddr> {
    match address {
        Address::Name(host, port) if host.eq_ignore_ascii_case("localhost") => {
            vec![(Ipv4Addr::LOCALHOST, *port).into(), (Ipv6Addr::LOCALHOST, *port).into()]
        }
        other => inet(other).into_iter().collect(),
    }
}

fn inet(address: &Address) -> Option<SocketAddr> {
    match address {
        Address::Inet(at) => Some(SocketAddr::new(at.ip().to_canonical(), at.port())),
        Address::Any(port) => Some(SocketAddr::from((Ipv6Addr::UNSPECIFIED, *port))),
        Address::Name(..) | Address::Mapped(..) | Address::Unix(_) => None,
    }
}

/// `[::]` is bound dual-stack, so it is IPv4 too.
fn is_every_interface(ip: IpAddr) -> bool {
    ip == IpAddr::V6(Ipv6Addr::UNSPECIFIED)
}

fn covers_same(a: IpAddr, b: IpAddr) -> bool {
    let every_v4 = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
    a == b
        || is_every_interface(a)
        || is_every_interface(b)
        || (a == every_v4 && b.is_ipv4())
        || (b == every_v4 && a.is_ipv4())
}

#[cfg(test)]
mod tests;
