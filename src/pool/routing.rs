//! The routes of a listener in a snapshot: which pool each client gets.
//!
//! What the routes ask for, and how they are called, is compiled into a table. All snapshots with the same routes share it: a
//! change of a backend must not compile ten thousand names again. Each snapshot has its own pools beside it. A route that keeps its
//! label keeps its totals.

use super::next::without_backends;
use super::{Listener, Pool, Snapshot};
use crate::config::model::{self, NO_ROUTE, SILENT};
use crate::policy::routes::Routes;
use crate::proto::sniff::{Protocols, Sniffed};
use crate::telemetry::RouteTotals;
use parking_lot::Mutex;
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
    /// The totals of that route, or of the clients that take none.
    pub totals: &'a RouteTotals,
}

/// The routes of a listener, and the pools that they lead to.
#[derive(Debug, Default)]
pub struct Routing {
    table: Arc<RouteTable>,
    /// In the order of the table's pools.
    pools: Vec<Arc<Pool>>,
    silent: Option<(RouteLabel, Arc<Pool>)>,
    /// What [`Listener::removed_in`] has made last, and the generation of that snapshot.
    removed: Mutex<Option<(u64, Arc<Listener>)>>,
}

/// What does not depend on a snapshot.
#[derive(Debug, Default)]
struct RouteTable {
    routes: Routes,
    targets: Vec<RouteTarget>,
    /// The names of their pools, each once.
    pools: Vec<String>,
    /// Of the clients that take no route.
    unrouted: Arc<RouteTotals>,
    /// Of the clients that say nothing.
    silent: Arc<RouteTotals>,
}

/// What follows from a route.
#[derive(Debug)]
struct RouteTarget {
    label: RouteLabel,
    /// The index of its pool.
    pool: usize,
    totals: Arc<RouteTotals>,
}

impl RouteTable {
    fn new(settings: &model::Listener, before: Option<&RouteTable>) -> RouteTable {
        let known_totals: HashMap<&str, &Arc<RouteTotals>> = before
            .map(|before| before.targets.iter().map(|target| (&*target.label, &target.totals)).collect())
            .unwrap_or_default();
        let (mut targets, mut pools, mut known) = (Vec::new(), Vec::new(), HashMap::new());
        for (label, route) in settings.labelled_routes() {
            let index = *known.entry(route.pool.as_str()).or_insert_with(|| {
                pools.push(route.pool.clone());
                pools.len() - 1
            });
            let totals = known_totals.get(label.as_str()).map(|totals| Arc::clone(totals)).unwrap_or_default();
            targets.push(RouteTarget { label: label.into(), pool: index, totals });
        }
        let routes = Routes::new(settings.routes.iter().map(|route| &route.conditions));
        let (unrouted, silent) =
            before.map(|before| (before.unrouted.clone(), before.silent.clone())).unwrap_or_default();
        RouteTable { routes, targets, pools, unrouted, silent }
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
        let table = match (same, before) {
            (Some(same), _) => same.routing.table.clone(),
            (None, before) => Arc::new(RouteTable::new(settings, before.map(|before| &*before.routing.table))),
        };
        let pools = table.pools.iter().map(|name| pool(name)).collect::<Option<_>>()?;
        let silent = match &settings.silent_pool {
            Some(name) => Some((SILENT.into(), pool(name)?)),
            None => None,
        };
        Some(Routing { table, pools, silent, removed: Mutex::default() })
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
            let RouteTarget { label, pool, totals } = table.targets.get(index)?;
            Some(Target { route: Some(label), pool: pools.get(*pool)?, totals })
        });
        found.unwrap_or(Target { route: None, pool: &self.pool, totals: &table.unrouted })
    }

    /// Where a client goes that says nothing; `None`: it is reset.
    pub fn silent(&self) -> Option<Target<'_>> {
        let (label, pool) = self.routing.silent.as_ref()?;
        Some(Target { route: Some(label), pool, totals: &self.routing.table.silent })
    }

    /// The totals of its routes by their labels, and of the clients that take none. Without routes there are none.
    pub fn route_totals(&self) -> impl Iterator<Item = (&str, &RouteTotals)> {
        let Routing { table, silent, .. } = &self.routing;
        let unrouted = self.has_routes().then_some((NO_ROUTE, &*table.unrouted));
        let silent = silent.as_ref().filter(|_| self.has_routes()).map(|(label, _)| (&**label, &*table.silent));
        let of_routes = table.targets.iter().map(|target| (&*target.label, &*target.totals));
        unrouted.into_iter().chain(silent).chain(of_routes)
    }

    /// For its clients that have no pool yet, once a new snapshot has it no more. Its routes lead to the pools that have the same
    /// names there. Where a pool is gone too, its clients find no backend. All of its clients share what their first one has made.
    pub fn removed_in(&self, snapshot: &Snapshot) -> Arc<Listener> {
        let mut removed = self.routing.removed.lock();
        match &*removed {
            Some((generation, listener)) if *generation == snapshot.generation => listener.clone(),
            _ => removed.insert((snapshot.generation, Arc::new(self.make_removed_in(snapshot)))).1.clone(),
        }
    }

    fn make_removed_in(&self, snapshot: &Snapshot) -> Listener {
        let successor = |pool: &Arc<Pool>| {
            let name = &pool.settings.name;
            snapshot.pool(name).cloned().unwrap_or_else(|| without_backends(name.clone()))
        };
        let Routing { table, pools, silent, .. } = &self.routing;
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
                removed: Mutex::default(),
            },
            addresses: Vec::new(),
            totals: self.totals.clone(),
            admission: self.admission.clone(),
        }
    }
}
