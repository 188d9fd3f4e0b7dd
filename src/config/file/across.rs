//! What must hold between the sections of a file: names are unique, pools exist, no two listeners want one port.

use super::table::{Found, Table};
use crate::base::{Listen, nearest};
use crate::config::check;
use crate::config::model::{Backend, Global, Listener, Pool};
use std::collections::HashMap;
use std::collections::hash_map::Entry;

/// A listener, the addresses that it binds, and the table it was read from.
pub type Listening<'a> = ((Listener, Vec<Found<Listen>>), Table<'a>);

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
    unique("listener", listeners.iter().map(|((listener, _), at)| (listener.name.as_str(), *at)));
    unique("pool", pools.iter().map(|(pool, at)| (pool.name.as_str(), *at)));
    for ((listener, _), at) in listeners {
        pool_of(listener, at, pools);
    }
    addresses(global, listeners);
}

/// The listeners, each with its pool: one that names none has the only one.
pub fn with_pools(listeners: Vec<Listening<'_>>, pools: &[(Pool, Table<'_>)]) -> Vec<Listener> {
    let with_pool = |((mut listener, _), at): Listening<'_>| {
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
        // A name that is wrong is noted already, and what stands in for it is nobody's name.
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

fn pool_of(listener: &Listener, at: &Table<'_>, pools: &[(Pool, Table<'_>)]) {
    // Pools whose own name is wrong count with it, so that the mistake is told once.
    let names = || pools.iter().map(|(pool, at)| at.raw("name").unwrap_or(&pool.name));
    let Some(wanted) = at.raw("pool") else {
        if pools.len() > 1 && !at.has("pool") {
            let name = &listener.name;
            at.missing(format!("listener `{name}` needs a pool: with several pools it must say which is its own"));
        }
        return;
    };
    if check::name(wanted).is_ok() && !pools.is_empty() && names().all(|name| name != wanted) {
        let hint = nearest::hint(wanted, names());
        let listed = || format!(", there is {}", names().collect::<Vec<_>>().join(", "));
        let hint = if hint.is_empty() { listed() } else { hint };
        at.notes().missing(at.place("pool"), format!("pool: there is no pool called `{wanted}`{hint}"));
    }
}

/// The admin API is a listener like the others as far as the kernel is concerned.
fn addresses(global: Option<(&Global, &Table<'_>)>, listeners: &[Listening<'_>]) {
    let admin = global.and_then(|(global, at)| Some((global.admin.as_ref()?, at.place("admin"), at)));
    let bound = listeners.iter().flat_map(|((_, bind), at)| bind.iter().map(move |found| (&found.value, found.at, at)));
    let mut seen: Vec<(&Listen, usize)> = Vec::new();
    for (listen, here, at) in admin.into_iter().chain(bound) {
        if let Some((other, line)) = seen.iter().find(|(other, _)| check::overlap(other, listen)) {
            let line = at.notes().line(*line);
            let message = if *other == listen {
                format!("`{listen}` is given already, on line {line}")
            } else {
                format!("`{listen}` overlaps `{other}` on line {line}: only one of them can have the port")
            };
            at.notes().wrong(here, message);
        }
        seen.push((listen, here));
    }
}
