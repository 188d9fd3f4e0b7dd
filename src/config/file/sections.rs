//! The sections of the file, put together to a model. What stands in each is read by its table in `config::settings`.

use super::table::{Keys, Table};
use super::{Parsed, across};
use crate::config::check;
use crate::config::model::{Backend, Listener, Model, Pool};
use crate::config::settings::{self, BACKEND, GLOBAL, HEALTH, LISTENER, POOL, ROUTE, Source};

/// The whole file.
pub fn file(root: &Table<'_>) -> Parsed {
    let section = root.table("global", &GLOBAL.keys());
    let global = section.map(|at| settings::read_global(&Source::File(at))).unwrap_or_default();
    let workers_per_core = !section.is_some_and(|at| at.has("workers"));
    let route_keys = ROUTE.keys();
    let tables = root.tables("listener", &LISTENER.keys());
    let listeners: Vec<_> = tables.into_iter().map(|at| (listener(&at, &route_keys), at)).collect();
    let keys = PoolKeys { backend: BACKEND.keys(), health: HEALTH.keys() };
    let pools: Vec<_> = root.tables("pool", &POOL.keys()).into_iter().map(|at| (pool(&at, &keys), at)).collect();
    across::check(root, section.as_ref().map(|at| (&global, at)), &listeners, &pools);
    let model = Model {
        global,
        listeners: across::with_pools(listeners, &pools),
        pools: pools.into_iter().map(|(pool, _)| pool).collect(),
    };
    Parsed { model, workers_per_core }
}

fn listener(at: &Table<'_>, route_keys: &Keys) -> Listener {
    if !at.has("bind") {
        at.missing("a listener needs bind, like bind = [\":8080\"]".to_owned());
    }
    let mut listener = settings::read_listener(&Source::File(*at));
    listener.routes = at.tables("route", route_keys).iter().map(settings::read_route).collect();
    listener
}

/// What may stand in the sections within a pool.
struct PoolKeys {
    backend: Keys,
    health: Keys,
}

fn pool(at: &Table<'_>, keys: &PoolKeys) -> Pool {
    let sources = at.tables_by("discover", settings::discover_keys);
    let tables = at.tables("backend", &keys.backend);
    let backends: Vec<_> = tables.iter().filter_map(|at| Some((backend(at)?, *at))).collect();
    across::backends(&backends);
    let mut pool = settings::read_pool(&Source::File(*at));
    if let Some(at) = at.table("health", &keys.health) {
        pool.health = settings::read_health(&Source::File(at), pool.health);
    }
    for (backend, at) in &backends {
        if let Err(why) = check::fits(&pool, &backend.address) {
            at.wrong("address", why);
        }
    }
    pool.discover = sources.iter().filter_map(settings::read_discover).collect();
    pool.backends = backends.into_iter().map(|(backend, _)| backend).collect();
    pool
}

fn backend(at: &Table<'_>) -> Option<Backend> {
    if !at.has("address") {
        at.missing("a backend needs an address, like address = \"127.0.0.1:8081\"".to_owned());
    }
    settings::read_backend(&Source::File(*at))
}
