//! The routes of a listener in a snapshot: which pool each client gets.
//!
//! What the routes ask for, and how they are called, is compiled into a table. All snapshots with the same routes share it: a
//! change of a backend must not compile ten thousand names again. Each snapshot has its own pools beside it.

use super::next::without_backends;
use super::{Listener, Pool, Snapshot};
use crate::config::model::{self, SILENT};
use crate::policy::routes::Routes;
use crate::proto::sniff::{Protocols, Sniffed};
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

/// How logs, metrics and the API call a route: by its name, or else by its number from 1. A client that says nothing, and goes to
/// `silent_pool`, has the label `silent`.
pub type RouteLabel = Arc<str>;

/// Where a client goes.
#[derive(Clone, Copy, Debug)]
pub struct Target<'a> {
    /// The route that it takes; `None`: it takes none.
    pub route: Option<&'a RouteLabel>,
    /// The pool of that route, or else the one of the listener.
    pub pool: &'a Arc<Pool>,
}

/// The routes of a listener, and the pools that they lead to.
#[derive(Debug, Default)]
pub struct Routing {
    table: Arc<RouteTable>,
    /// In the order of the table's pools.
    pools: Vec<Arc<Pool>>,
    silent: Option<(RouteLabel, Arc<Pool>)>,
}

/// What does not depend on a snapshot.
#[derive(Debug, Default)]
struct RouteTable {
    routes: Routes,
    /// The label of each route, and the index of its pool.
    targets: Vec<(RouteLabel, usize)>,
    /// The names of their pools, each once.
    pools: Vec<String>,
}

impl RouteTable {
    fn new(settings: &model::Listener) -> RouteTable {
        let (mut targets, mut pools, mut known) = (Vec::new(), Vec::new(), HashMap::new());
        for (label, route) in settings.labelled_routes() {
            let index = *known.entry(route.pool.as_str()).or_insert_with(|| {
                pools.push(route.pool.clone());
                pools.len() - 1
            });
            targets.push((label.into(), index));
        }
        RouteTable { routes: Routes::new(settings.routes.iter().map(|route| &route.conditions)), targets, pools }
    }
}

impl Routing {
    /// The routes of these settings. `before` is the listener of this name in the snapshot before. `None`: a pool does not exist.
    pub(super) fn next(
        settings: &model::Listener,
        before: Option<&Listener>,
        pool: impl Fn(&str) -> Option<Arc<Pool>>,
    ) -> Option<Routing> {
        let same = before.filter(|before| before.settings.routes == settings.routes);
        let table = same.map_or_else(|| Arc::new(RouteTable::new(settings)), |before| before.routing.table.clone());
        let pools = table.pools.iter().map(|name| pool(name)).collect::<Option<_>>()?;
        let silent = match &settings.silent_pool {
            Some(name) => Some((SILENT.into(), pool(name)?)),
            None => None,
        };
        Some(Routing { table, pools, silent })
    }
}

impl Listener {
    /// The protocols that its routes look for in a client's first bytes. Without one, no byte is needed for a choice.
    pub fn wanted(&self) -> Protocols {
        self.routing.table.routes.wanted()
    }

    /// Has it any route?
    pub fn has_routes(&self) -> bool {
        !self.routing.table.targets.is_empty()
    }

    /// Where a client goes. `sniffed` is what its first bytes say, if they are those of a wanted protocol.
    pub fn route(&self, sniffed: Option<&Sniffed>, source: Option<IpAddr>) -> Target<'_> {
        let Routing { table, pools, .. } = &self.routing;
        let found = table.routes.find(sniffed, source).and_then(|index| {
            let (label, pool) = table.targets.get(index)?;
            Some(Target { route: Some(label), pool: pools.get(*pool)? })
        });
        found.unwrap_or(Target { route: None, pool: &self.pool })
    }

    /// Where a client goes that says nothing; `None`: it is reset.
    pub fn silent(&self) -> Option<Target<'_>> {
        let (label, pool) = self.routing.silent.as_ref()?;
        Some(Target { route: Some(label), pool })
    }

    /// For its clients that have no pool yet, once a new snapshot has it no more. Its routes lead to the pools that have the same
    /// names there. Where a pool is gone too, its clients find no backend.
    pub fn removed_in(&self, snapshot: &Snapshot) -> Listener {
        let successor = |pool: &Arc<Pool>| {
            let name = &pool.settings.name;
            snapshot.pool(name).cloned().unwrap_or_else(|| without_backends(name.clone()))
        };
        let Routing { table, pools, silent } = &self.routing;
        Listener {
            name: self.name.clone(),
            settings: model::Listener {
                name: self.name.clone(),
                sniff_timeout: self.settings.sniff_timeout,
                ..model::Listener::default()
            },
            pool: successor(&self.pool),
            routing: Routing {
                table: table.clone(),
                pools: pools.iter().map(successor).collect(),
                silent: silent.as_ref().map(|(label, pool)| (label.clone(), successor(pool))),
            },
            addresses: Vec::new(),
            totals: self.totals.clone(),
            admission: self.admission.clone(),
        }
    }
}
