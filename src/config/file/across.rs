//! What must hold between the sections of a file: names are unique, pools exist, no two listeners want one port.

use super::table::Table;
use crate::base::{Address, Listen, nearest};
use crate::config::check::{self, AddressKey};
use crate::config::in_kernel;
use crate::config::model::{Backend, Global, Listener, Pool};
use crate::config::settings;
use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};

/// A listener, and the table it was read from.
pub type Listening<'a> = (Listener, Table<'a>);

/// Pools that a message lists.
const LISTED: usize = 20;

/// Notes what does not fit together.
pub fn check(
    root: &Table<'_>,
    global: Option<(&Global, &Table<'_>)>,
    listeners: &[Listening<'_>],
    pools: &[(Pool, Table<'_>)],
) {
    if listeners.is_empty() {
        root.missing("no listener: say where clients connect, like [[listener]] and bind = [\":8080\"]".to_owned());
    }
    if pools.is_empty() {
        root.missing("no pool: say which servers there are, in a [[pool]] with a [[pool.backend]] for each".to_owned());
    }
    unique("listener", listeners.iter().map(|(listener, at)| (listener.name.as_str(), *at)));
    unique("pool", pools.iter().map(|(pool, at)| (pool.name.as_str(), *at)));
    // Pools whose own name is wrong count with it, so that the mistake is reported once.
    let names: Vec<&str> = pools.iter().map(|(pool, at)| at.raw("name").unwrap_or(&pool.name)).collect();
    let known = Pools { known: names.iter().copied().collect(), names };
    for (listener, at) in listeners {
        if known.names.len() > 1 && !at.has("pool") {
            let name = &listener.name;
            at.missing(format!("listener `{name}` needs a pool: with several pools it must say which is its own"));
        }
        known.must_have(at, "pool");
        known.must_have(at, "silent_pool");
        let routes = at.entries("route");
        routes.iter().for_each(|at| known.must_have(at, "pool"));
        let named = routes.into_iter().filter_map(|at| Some((at.raw("name")?, at)));
        // A wrong name is reported already.
        unique("route", named.filter(|(name, _)| settings::route_name(name).is_ok()));
    }
    addresses(global, listeners);
    own_listeners(global.map(|(global, _)| global), listeners, pools);
    mapped(listeners, pools);
    in_kernel(listeners, pools);
}

/// Notes backends whose port is the client's, for listeners without a port that leads to one.
fn mapped(listeners: &[Listening<'_>], pools: &[(Pool, Table<'_>)]) {
    for (pool, at) in pools {
        let is_its = |at: &Table<'_>, listener: &Listener| leads_to(listener, at, pool, pools);
        for at in at.entries("backend") {
            let Some(Ok(address @ Address::Mapped(..))) = at.raw("address").map(Address::parse_backend) else {
                continue;
            };
            let its = listeners.iter().filter(|(listener, at)| is_its(at, listener));
            if let Some(why) = its.map(|(listener, _)| check::maps(listener, &address)).find_map(Result::err) {
                at.wrong("address", why);
            }
        }
    }
}

/// A listener without a pool has the only one.
fn has_the_only(pools: &[(Pool, Table<'_>)], listener: &Table<'_>) -> bool {
    pools.len() == 1 && !listener.has("pool")
}

/// Whether a listener leads to this pool.
fn leads_to(listener: &Listener, at: &Table<'_>, pool: &Pool, pools: &[(Pool, Table<'_>)]) -> bool {
    listener.pools().any(|name| name == pool.name) || has_the_only(pools, at)
}

/// Notes what the kernel can't do for the listeners that it carries, at their keys and at those of their pools.
fn in_kernel(listeners: &[Listening<'_>], pools: &[(Pool, Table<'_>)]) {
    let note = |at: &Table<'_>, refusals: Vec<in_kernel::Refusal>| {
        refusals.into_iter().for_each(|(key, why)| at.wrong(key, why));
    };
    let of_kernel: Vec<_> = listeners.iter().filter(|(listener, _)| listener.is_of_kernel()).collect();
    for (listener, at) in &of_kernel {
        note(at, in_kernel::of_listener(listener));
        let its = pools.iter().filter(|(pool, _)| leads_to(listener, at, pool, pools));
        its.filter_map(|(pool, _)| in_kernel::of_families(listener, pool)).for_each(|(key, why)| at.wrong(key, why));
    }
    // A pool of several listeners is noted once.
    for (pool, at) in pools {
        let is_used = of_kernel.iter().any(|(listener, of_listener)| leads_to(listener, of_listener, pool, pools));
        note(at, in_kernel::of_approximate(pool, is_used).into_iter().collect());
        if is_used {
            note(at, in_kernel::of_pool(pool));
            // Those that are wrong otherwise are not in the model.
            let named =
                pool.backends.iter().map(|backend| (backend.address.to_string(), backend)).collect::<HashMap<_, _>>();
            for at in at.entries("backend") {
                let address = at.raw("address").and_then(|text| Address::parse_backend(text).ok());
                let backend = address.and_then(|address| named.get(&address.to_string()));
                backend.iter().for_each(|backend| note(&at, in_kernel::of_backend(backend)));
            }
        }
    }
}

/// Notes backends that are listeners or other sockets of the file. Which other addresses are this machine's, a start finds out.
fn own_listeners(global: Option<&Global>, listeners: &[Listening<'_>], pools: &[(Pool, Table<'_>)]) {
    let binds = listeners.iter().flat_map(|(listener, _)| listener.bind.iter().map(|listen| (&*listener.name, listen)));
    let take_over = global.and_then(Global::take_over_address);
    let only = |at| pools.first().filter(|_| has_the_only(pools, at)).map(|(pool, _)| pool.name.as_str());
    let pairs = listeners
        .iter()
        .flat_map(|(listener, at)| listener.pools().chain(only(at)).map(|pool| (pool, listener.name.as_str())));
    let own = check::OwnListeners::new(binds)
        .with_pools(pairs)
        .with_admin(global.and_then(|global| global.admin.as_ref()))
        .with_take_over(&take_over);
    for (pool, at) in pools.iter().flat_map(|(pool, at)| at.entries("backend").into_iter().map(move |at| (pool, at))) {
        let Some(Ok(address)) = at.raw("address").map(Address::parse_backend) else { continue };
        if let Err(why) = own.refuse(&pool.name, &address, |_| false) {
            at.wrong("address", why);
        }
    }
}

/// The listeners, each with its pool: one that names none has the only one.
pub fn with_pools(listeners: Vec<Listening<'_>>, pools: &[(Pool, Table<'_>)]) -> Vec<Listener> {
    let with_pool = |(mut listener, at): Listening<'_>| {
        if let ([(only, _)], false) = (pools, at.has("pool")) {
            listener.pool.clone_from(&only.name);
        }
        listener
    };
    listeners.into_iter().map(with_pool).collect()
}

/// Notes backends of one pool that have one name.
pub fn backends(backends: &[(Backend, Table<'_>)]) {
    unique("backend", backends.iter().map(|(backend, at)| (backend.name.as_str(), *at)));
}

fn unique<'a>(what: &str, named: impl Iterator<Item = (&'a str, Table<'a>)>) {
    let mut seen: HashMap<&str, usize> = HashMap::new();
    for (name, at) in named {
        // A wrong name is reported already, and its replacement identifies nothing.
        if at.has("name") && at.raw("name") != Some(name) {
            continue;
        }
        let here = at.place(if at.has("name") { "name" } else { "address" });
        match seen.entry(name) {
            Entry::Occupied(first) => {
                let line = at.notes().line(*first.get());
                at.notes().wrong(here, format!("a second {what} called `{name}`, after the one on line {line}"));
            }
            Entry::Vacant(free) => {
                free.insert(here);
            }
        }
    }
}

/// The names of the file's pools, in its order and for look-ups.
struct Pools<'a> {
    names: Vec<&'a str>,
    known: HashSet<&'a str>,
}

impl Pools<'_> {
    /// Notes a pool that a key names and that does not exist.
    fn must_have(&self, at: &Table<'_>, key: &str) {
        let Some(wanted) = at.raw(key) else { return };
        if check::name(wanted).is_err() || self.known.is_empty() || self.known.contains(wanted) {
            return;
        }
        let names = || self.names.iter().copied();
        // Among many pools, looking for the nearest name takes long.
        let hint = if at.notes().is_full() { String::new() } else { nearest::hint(wanted, names()) };
        let listed = || {
            let mut listed = HashSet::new();
            let distinct: Vec<&str> = names().filter(|name| listed.insert(*name)).collect();
            let more = if distinct.len() > LISTED { ", …" } else { "" };
            let some = &distinct[..distinct.len().min(LISTED)];
            format!(", there is {}{more}", some.join(", "))
        };
        let hint = if hint.is_empty() { listed() } else { hint };
        at.notes().missing(at.place(key), format!("{key}: there is no pool called `{wanted}`{hint}"));
    }
}

/// The admin API and the socket of `take_over` are listeners like the others as far as the kernel is concerned.
fn addresses(global: Option<(&Global, &Table<'_>)>, listeners: &[Listening<'_>]) {
    let admin = global.and_then(|(global, at)| Some((global.admin.as_ref()?, at.place("admin"), at)));
    let take_over = global.and_then(|(global, at)| Some((global.take_over_address()?, at.place("take_over"), at)));
    let take_over = take_over.as_ref().map(|(listen, here, at)| (listen, *here, *at));
    let bound = listeners.iter().flat_map(|(listener, at)| {
        // Those of the list that are no addresses are not in the model.
        let good = at.items("bind").flat_map(|(text, here)| {
            Listen::parse_all(text).unwrap_or_default().into_iter().map(move |_| (text, here))
        });
        listener.bind.iter().zip(good).map(move |(listen, (_, here))| (listen, here, at))
    });
    // There may be thousands of listeners: only those that can overlap are compared.
    let mut seen: HashMap<AddressKey<'_>, Vec<(&Listen, usize)>> = HashMap::new();
    // Two ranges may have many ports in common, which is one mistake.
    let mut noted = HashSet::new();
    for (listen, here, at) in admin.into_iter().chain(take_over).chain(bound) {
        let contested = AddressKey::of(&listen.0);
        if contested == AddressKey::Port(0) {
            // The kernel picks a free port each time.
            continue;
        }
        let seen = seen.entry(contested).or_default();
        if let Some((other, line)) = seen.iter().find(|(other, _)| check::overlap(other, listen))
            && noted.insert((here, *line))
        {
            let line = at.notes().line(*line);
            let message = if *other == listen {
                format!("`{listen}` is given already, on line {line}")
            } else {
                let hint = match check::takes_all_of(listen, other) {
                    true => format!("; `{listen}` takes IPv4 clients too, so leave `{other}` out"),
                    false if check::takes_all_of(other, listen) => {
                        format!("; `{other}` takes IPv4 clients too, so leave `{listen}` out")
                    }
                    false => String::new(),
                };
                format!("`{listen}` overlaps `{other}` on line {line}: only one of them can have the port{hint}")
            };
            at.notes().wrong(here, message);
        }
        seen.push((listen, here));
    }
}
