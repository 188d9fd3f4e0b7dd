//! What a process has counted and learnt, for its successor.
//!
//! | what | passed on | why |
//! |---|---|---|
//! | counters of listeners, routes, pools, backends, workers, logs, reloads, changes of the kernel's rules | yes | no metric goes back |
//! | the health of each backend | up or down | a backend that is down gets no client until its first probe |
//! | the addresses of names | yes | a backend whose name does not resolve at the start is not down |
//! | the averages of least-time, the clients of sticky-round-robin | yes | the next choice is as the last one |
//! | events, with their numbers | yes | a caller that follows them goes on; those of the hand-over itself get new numbers |
//! | results in a row, back-offs, ejections, what agents have reported | no | the next probes find them out again |
//! | the last minutes | no | they begin anew |
//!
//! Backends, pools and listeners go by their names: the successor may have another configuration.

use crate::base::{Address, Endpoint, Tick};
use crate::clock;
use crate::control::Found;
use crate::events::SavedEvent;
use crate::pool::{Listener, Member, Pool, Published};
use crate::telemetry::tally::Tally;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

/// All of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Memory {
    /// How long the balancer has run, and since when by the system's clock. The first process of a chain has begun it.
    pub age: Duration,
    /// See `age`.
    pub started_at: SystemTime,
    listeners: BTreeMap<String, Tally>,
    /// Of the routes of each listener, by label.
    #[serde(default)]
    routes: BTreeMap<String, BTreeMap<String, Tally>>,
    pools: BTreeMap<String, PoolMemory>,
    /// The addresses of each name, with port 0.
    #[serde(default)]
    names: BTreeMap<String, Vec<SocketAddr>>,
    workers: Vec<Tally>,
    log: Tally,
    upgrades: Tally,
    #[serde(default)]
    kernel: Tally,
    /// Where the numbers of new connections begin.
    pub first_sequence: u64,
    reloads: (u64, u64),
    events: Vec<SavedEvent>,
    /// The number of the last event.
    last_event: u64,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct PoolMemory {
    totals: Tally,
    /// What all its backends have counted.
    counters: Tally,
    backends: BTreeMap<String, BackendMemory>,
    /// The clients of its primary backends, and of its backups.
    clients: [Vec<(u128, u64)>; 2],
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct BackendMemory {
    counters: Tally,
    healthy: bool,
    /// The average of least-time, in µs.
    latency: Option<u32>,
}

impl Memory {
    /// What this process knows now, with the events after `since`. `first_sequence` is where the numbers of new connections begin.
    pub fn of(published: &Published, since: u64, first_sequence: u64) -> Memory {
        let (snapshot, now) = (published.snapshot(), clock::now());
        let routes = snapshot.listeners.iter().map(|listener| (listener.name.clone(), of_routes(listener)));
        let listeners = snapshot.listeners.iter();
        let listeners = listeners.map(|listener| (listener.name.clone(), Tally::of(&*listener.totals)));
        let pools = snapshot.pools.iter().map(|pool| (pool.settings.name.clone(), PoolMemory::of(pool, now)));
        let (events, last_event) = published.events().since(since, usize::MAX);
        Memory {
            age: now - published.started(),
            started_at: published.started_at(),
            listeners: listeners.collect(),
            routes: routes.filter(|(_, routes)| !routes.is_empty()).collect(),
            pools: pools.collect(),
            names: snapshot.pools.iter().flat_map(|pool| names(pool)).collect(),
            workers: published.workers().iter().map(Tally::of).collect(),
            log: Tally::of(&**published.log()),
            upgrades: Tally::of(published.upgrades()),
            kernel: Tally::of(&**published.kernel()),
            first_sequence,
            reloads: published.reloads(),
            events: events.iter().map(|event| SavedEvent::from(&**event)).collect(),
            last_event,
        }
    }

    /// The number of the last event.
    pub fn last_event(&self) -> u64 {
        self.last_event
    }

    /// Gives names that do not resolve now the addresses that they had.
    pub fn complete(&self, found: &mut Found) {
        for (name, addresses) in &self.names {
            if !matches!(found.get(name), Some(Ok(_))) {
                found.insert(name.clone(), Ok(addresses.clone()));
            }
        }
    }

    /// Makes it what this process knows, before its threads run.
    pub fn restore(&self, published: &Published) {
        let now = clock::now();
        published.events().restore(&self.events, self.last_event);
        for pool in &published.snapshot().pools {
            let Some(memory) = self.pools.get(&pool.settings.name) else { continue };
            for Member { backend, .. } in &pool.members {
                if let Some(known) = memory.backends.get(&backend.name) {
                    backend.set_healthy(known.healthy);
                    if let Some(latency) = known.latency {
                        backend.remember_latency(latency, now);
                    }
                }
            }
        }
        self.count(published, None);
    }

    /// Adds what was counted and learnt after `before`, when the predecessor ends.
    pub fn add_since(&self, before: &Memory, published: &Published) {
        published.events().append(&self.events);
        self.count(published, Some(before));
    }

    /// Adds the counters, or what they have more than `before`, and the clients of sticky-round-robin.
    fn count(&self, published: &Published, before: Option<&Memory>) {
        let snapshot = published.snapshot();
        for listener in &snapshot.listeners {
            if let Some(tally) = self.listeners.get(&listener.name) {
                let before = before.and_then(|before| before.listeners.get(&listener.name));
                more(tally, before).add_to(&*listener.totals);
                listener.totals.all_are_logged();
            }
            let Some(routes) = self.routes.get(&listener.name) else { continue };
            let before = before.and_then(|before| before.routes.get(&listener.name));
            for (label, totals) in listener.route_totals() {
                if let Some(tally) = routes.get(label) {
                    more(tally, before.and_then(|before| before.get(label))).add_to(totals);
                }
            }
        }
        for pool in &snapshot.pools {
            let name = &pool.settings.name;
            let Some(memory) = self.pools.get(name) else { continue };
            pool.remember(&memory.clients);
            let before = before.and_then(|before| before.pools.get(name));
            more(&memory.totals, before.map(|before| &before.totals)).add_to(&*pool.totals);
            more(&memory.counters, before.map(|before| &before.counters)).add_to(&*pool.totals.counters);
            for Member { backend, .. } in &pool.members {
                if let Some(of) = memory.backends.get(&backend.name) {
                    let before = before.and_then(|before| before.backends.get(&backend.name));
                    more(&of.counters, before.map(|before| &before.counters)).add_to(&backend.counters);
                }
            }
        }
        // A process may have fewer workers than the one before.
        let workers = published.workers();
        for (number, tally) in self.workers.iter().enumerate() {
            let before = before.and_then(|before| before.workers.get(number));
            if let Some(worker) = workers.get(number % workers.len().max(1)) {
                more(tally, before).add_to(worker);
            }
        }
        more(&self.log, before.map(|before| &before.log)).add_to(&**published.log());
        published.log().unlogged();
        more(&self.upgrades, before.map(|before| &before.upgrades)).add_to(published.upgrades());
        more(&self.kernel, before.map(|before| &before.kernel)).add_to(&**published.kernel());
        let (done, failed) = before.map_or((0, 0), |before| before.reloads);
        published.add_reloads(self.reloads.0.saturating_sub(done), self.reloads.1.saturating_sub(failed));
    }
}

/// The names of a pool's backends that have addresses.
fn names(pool: &Pool) -> impl Iterator<Item = (String, Vec<SocketAddr>)> {
    let both = pool.settings.backends.iter().zip(&pool.members);
    both.filter_map(|(settings, Member { backend, .. })| {
        let Address::Name(name, _) = &settings.address else { return None };
        let address = |endpoint: Endpoint| match endpoint {
            Endpoint::Inet(mut at) => {
                at.set_port(0);
                Some(at)
            }
            Endpoint::Unix(_) => None,
        };
        let addresses: Vec<SocketAddr> = backend.endpoints().into_iter().filter_map(address).collect();
        (!addresses.is_empty()).then(|| (name.clone(), addresses))
    })
}

/// What the routes of a listener have counted.
fn of_routes(listener: &Listener) -> BTreeMap<String, Tally> {
    let routes = listener.route_totals().map(|(label, totals)| (label.to_owned(), Tally::of(totals)));
    routes.filter(|(_, tally)| !tally.is_empty()).collect()
}

/// What a tally has more than an earlier one.
fn more(tally: &Tally, before: Option<&Tally>) -> Tally {
    before.map_or_else(|| tally.clone(), |before| tally.since(before))
}

impl PoolMemory {
    fn of(pool: &Pool, now: Tick) -> PoolMemory {
        let of_member = |Member { backend, .. }: &Member| {
            let (counters, healthy) = (Tally::of(&backend.counters), backend.is_healthy());
            (backend.name.clone(), BackendMemory { counters, healthy, latency: backend.latency_us(now) })
        };
        PoolMemory {
            totals: Tally::of(&*pool.totals),
            counters: Tally::of(&*pool.totals.counters),
            backends: pool.members.iter().map(of_member).collect(),
            clients: pool.clients(),
        }
    }
}
