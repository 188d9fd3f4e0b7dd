//! Questions about open connections: which are there, and the order to close some.
//!
//! A caller asks every worker ([`ask()`]). Each goes through its own table in slices and answers once; no thread looks into the
//! table of another. The caller joins the answers.
//!
//! | file | what |
//! |---|---|
//! | `ask` | the caller's side: asks, waits, joins |
//! | `inspection` | the worker's side: how far it has come, and what it keeps |
//!
//! # What bounds it
//!
//! A worker keeps at most [`QUESTIONS_MAX`] questions, and at most [`LIMIT_MAX`] connections of each. It drops a question that
//! no caller waits for any more. A worker that takes no slice for [`PATIENCE`], or has not answered after
//! [`PATIENCE_IN_ALL`], is silent. The caller then gets the numbers of the silent workers, and what the others answered.

mod ask;
mod inspection;

#[cfg(test)]
mod tests;

pub use ask::{Forwards, Inspect, Joined, KERNEL, PATIENCE, PATIENCE_IN_ALL, ask};
pub use inspection::{Inspection, Inspections, QUESTIONS_MAX};

use crate::base::{Endpoint, Tick};
use crate::config::model::ListenerEngine;
use crate::pool::{Backend, Pool, RouteLabel};
use crate::proto::sniff::Protocol;
use crate::session::{ConnectionId, Live};
use crate::telemetry::ListenerTotals;
use ipnet::IpNet;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// The most connections that one question lists.
pub const LIMIT_MAX: usize = 100_000;

/// What is asked of the workers.
#[derive(Clone, Debug)]
pub struct Question {
    /// About which connections.
    pub filter: Filter,
    /// What to do with them.
    pub action: Action,
}

/// What a worker does with the connections that a question is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// List them.
    List {
        /// The first ones by this order,
        sort: Sort,
        /// and at most so many.
        limit: usize,
    },
    /// Reset both sides, reason `forced`.
    Close,
}

/// Which connections are meant: those for which all that is given holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// The number.
    pub id: Option<ConnectionId>,
    /// The listener's name.
    pub listener: Option<String>,
    /// The pool's name.
    pub pool: Option<String>,
    /// The backend's name.
    pub backend: Option<String>,
    /// Where the client's address lies.
    pub client: Option<IpNet>,
}

/// The order of a list.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Sort {
    /// The oldest first.
    #[default]
    Age,
    /// Those that moved the most bytes first.
    Bytes,
    /// Those that have been silent the longest first.
    Idle,
}

/// A connection, as a worker lists it.
#[derive(Clone, Debug)]
pub struct Row {
    /// Its number.
    pub id: ConnectionId,
    /// The listener that accepted it.
    pub listener: Arc<ListenerTotals>,
    /// Its pool.
    pub pool: Arc<Pool>,
    /// The backend that is connected or dialled.
    pub backend: Option<Arc<Backend>>,
    /// The port there, if it depends on the client's.
    pub backend_port: Option<u16>,
    /// The client's address; `None` for a unix client.
    pub client: Option<Endpoint>,
    /// What carries it.
    pub engine: ListenerEngine,
    /// When it was accepted; `None` where the kernel carries it and does not say.
    pub since: Option<Tick>,
    /// When a byte last passed; `None` for the same reason.
    pub last_byte: Option<Tick>,
    /// The client's bytes delivered to the backend.
    pub bytes_to_backend: u64,
    /// Bytes delivered to the client.
    pub bytes_to_client: u64,
    /// The protocol of its first bytes, if routes look for it.
    pub protocol: Option<Protocol>,
    /// The name that the client asked for.
    pub server_name: Option<Box<str>>,
    /// The route that it took.
    pub route: Option<RouteLabel>,
    /// One of [`Live::STATES`].
    pub state: &'static str,
    /// The round-trip time to the client, as the kernel measures it; `None` for a unix client.
    pub round_trip: Option<Duration>,
}

impl Filter {
    /// Does it mean this connection?
    pub fn matches(&self, live: &Live<'_>) -> bool {
        let Filter { id, listener, pool, backend, client } = self;
        let is = |wanted: &Option<String>, name: Option<&str>| {
            wanted.as_deref().is_none_or(|wanted| name.is_some_and(|name| name == wanted))
        };
        id.is_none_or(|id| id == live.id)
            && is(listener, Some(&live.listener.name))
            && is(pool, Some(&live.pool.settings.name))
            && is(backend, live.backend.map(|backend| backend.name.as_str()))
            && client.is_none_or(|net| live.client.and_then(Endpoint::ip).is_some_and(|ip| net.contains(&ip)))
    }
}

/// `pool web, client 192.0.2.0/24`.
impl fmt::Display for Filter {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Filter { id, listener, pool, backend, client } = self;
        let parts = [
            ("number", id.map(|id| id.to_string())),
            ("listener", listener.clone()),
            ("pool", pool.clone()),
            ("backend", backend.clone()),
            ("client", client.map(|net| net.to_string())),
        ];
        let given: Vec<String> =
            parts.into_iter().filter_map(|(name, value)| value.map(|value| format!("{name} {value}"))).collect();
        out.write_str(&given.join(", "))
    }
}

impl Sort {
    /// All of them, by their words.
    pub const NAMES: [(&'static str, Sort); 3] = [("age", Sort::Age), ("bytes", Sort::Bytes), ("idle", Sort::Idle)];

    /// The higher, the further in front.
    fn rank(self, since: Tick, last_byte: Tick, to_backend: u64, to_client: u64) -> u64 {
        match self {
            Sort::Age => u64::MAX - since.0,
            Sort::Bytes => to_backend.saturating_add(to_client),
            Sort::Idle => u64::MAX - last_byte.0,
        }
    }
}

impl Row {
    fn new(live: &Live<'_>, round_trip: Option<Duration>) -> Row {
        Row {
            id: live.id,
            listener: live.listener.clone(),
            pool: live.pool.clone(),
            backend: live.backend.cloned(),
            backend_port: live.backend_port,
            client: live.client.cloned(),
            engine: ListenerEngine::Proxy,
            since: Some(live.since),
            last_byte: Some(live.last_byte),
            bytes_to_backend: live.bytes_to_backend,
            bytes_to_client: live.bytes_to_client,
            protocol: live.first.and_then(|first| first.protocol()),
            server_name: live.server_name().map(Box::from),
            route: live.first.and_then(|first| first.route.clone()),
            state: live.state,
            round_trip,
        }
    }

    fn rank(&self, sort: Sort) -> u64 {
        let now = Tick(u64::MAX);
        let (since, last_byte) = (self.since.unwrap_or(now), self.last_byte.unwrap_or(now));
        sort.rank(since, last_byte, self.bytes_to_backend, self.bytes_to_client)
    }
}
