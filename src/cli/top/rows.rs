//! The rows of a screen: what the filter leaves, in the order that the user chose.

use super::layout::Layout;
use super::state::{Pane, State, View};
use crate::admin::api::{
    BackendView, Candidate, Connection, Event, Finding, Listener, Millis, PoolView, SourceView, Urgency,
};
use crate::admin::figures::failures;
use ipnet::IpNet;
use std::cmp::Ordering;
use std::net::IpAddr;

/// The fewest backends of a pool that the overview shows, where there are as many.
const FEWEST: usize = 3;

/// A row.
#[derive(Clone, Copy, Debug)]
pub enum Row<'a> {
    /// A pool.
    Pool(&'a PoolView),
    /// A source of a pool.
    Source(&'a PoolView, &'a SourceView),
    /// A backend of a pool.
    Backend(&'a PoolView, &'a BackendView),
    /// So many more backends of a pool, which the overview has no room for.
    More(&'a PoolView, usize),
    /// A connection.
    Connection(&'a Connection),
    /// An event.
    Event(&'a Event),
    /// A finding.
    Finding(&'a Finding),
    /// A listener.
    Listener(&'a Listener),
    /// A backend that a choice considers.
    Candidate(&'a Candidate),
}

impl Row<'_> {
    /// A name that no other row of the screen has, and that the row keeps over time.
    pub fn name(&self) -> String {
        match self {
            Row::Pool(pool) => format!("pool\t{}", pool.name),
            Row::Source(pool, source) => format!("source\t{}\t{}", pool.name, source.source),
            Row::Backend(pool, backend) => format!("backend\t{}\t{}", pool.name, backend.name),
            Row::More(pool, _) => format!("more\t{}", pool.name),
            Row::Connection(connection) => format!("connection\t{}", connection.id),
            Row::Event(event) => format!("event\t{}", event.seq),
            Row::Finding(finding) => format!("finding\t{}", finding.text),
            Row::Listener(listener) => format!("listener\t{}", listener.name),
            Row::Candidate(candidate) => format!("candidate\t{}", candidate.backend),
        }
    }

    /// What Enter leads to.
    pub fn below(&self) -> Option<Pane> {
        let of = |pool: &str, backend: &str| Pane::Connections { of: Some((pool.to_owned(), backend.to_owned())) };
        match self {
            Row::Pool(pool) | Row::Source(pool, _) | Row::More(pool, _) => {
                Some(Pane::Backends { pool: Some(pool.name.clone()) })
            }
            Row::Backend(pool, backend) => Some(of(&pool.name, &backend.name)),
            Row::Connection(connection) => {
                let Connection { client, listener, protocol, sni, .. } = connection;
                let (client, listener) = (client.clone()?, listener.clone());
                Some(Pane::Explain { client, listener, protocol: protocol.clone(), sni: sni.clone() })
            }
            Row::Finding(finding) => match (&finding.pool, &finding.backend) {
                (Some(pool), Some(backend)) => Some(of(pool, backend)),
                (Some(pool), None) => Some(Pane::Backends { pool: Some(pool.clone()) }),
                _ => None,
            },
            Row::Event(_) | Row::Listener(_) | Row::Candidate(_) => None,
        }
    }

    /// Whether a part of it has this text, which is in lower case.
    fn has(&self, text: &str) -> bool {
        let any = |parts: &[&str]| parts.iter().any(|part| part.to_lowercase().contains(text));
        let some = |part: &Option<String>| part.as_ref().is_some_and(|part| part.to_lowercase().contains(text));
        match self {
            Row::Pool(pool) | Row::More(pool, _) => any(&[&pool.name]),
            Row::Source(pool, source) => any(&[&pool.name, &source.source]),
            Row::Backend(pool, backend) => any(&[&backend.name, &backend.address, &pool.name, &backend.state]),
            Row::Connection(connection) => {
                let Connection { listener, pool, backend, client, state, sni, route, .. } = connection;
                any(&[listener, pool, state]) || [backend, client, sni, route].into_iter().any(some)
            }
            Row::Event(event) => {
                let Event { time, kind, pool, backend, from, to, reason, by, .. } = event;
                any(&[time, kind, by]) || [pool, backend, from, to, reason].into_iter().any(some)
            }
            Row::Finding(finding) => any(&[&finding.text]),
            Row::Listener(listener) => any(&[&listener.name, &listener.address, &listener.pool]),
            Row::Candidate(candidate) => any(&[&candidate.backend, &candidate.why]),
        }
    }
}

/// Which backends are shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Only {
    /// All of them.
    All,
    /// Those that are down.
    Down,
    /// Those that are up, and fail.
    Failing,
    /// Those that drain.
    Draining,
    /// Those that an operator disabled.
    Disabled,
    /// Those that are up.
    Up,
}

impl Only {
    /// The next choice.
    pub fn next(self) -> Only {
        match self {
            Only::All => Only::Down,
            Only::Down => Only::Failing,
            Only::Failing => Only::Draining,
            Only::Draining => Only::Disabled,
            Only::Disabled => Only::Up,
            Only::Up => Only::All,
        }
    }

    /// Its word.
    pub fn word(self) -> &'static str {
        match self {
            Only::All => "all",
            Only::Down => "down",
            Only::Failing => "failing",
            Only::Draining => "draining",
            Only::Disabled => "disabled",
            Only::Up => "up",
        }
    }

    fn shows(self, backend: &BackendView) -> bool {
        match self {
            Only::All => true,
            Only::Failing => backend.urgency == Urgency::Failing,
            state => backend.state == state.word(),
        }
    }
}

/// An order of rows.
pub struct Order {
    /// The word for it, in the API if the API sorts.
    pub key: &'static str,
    /// In words.
    pub shown: &'static str,
    compare: fn(&BackendView, &BackendView) -> Ordering,
}

const fn by(key: &'static str, shown: &'static str, compare: fn(&BackendView, &BackendView) -> Ordering) -> Order {
    Order { key, shown, compare }
}

const OF_BACKENDS: &[Order] = &[
    by("worst", "worst first", |one, other| one.urgency.cmp(&other.urgency)),
    by("name", "by name", |_, _| Ordering::Equal),
    by("connections", "most connections first", |one, other| other.active_connections.cmp(&one.active_connections)),
    by("rate", "most conn/s first", |one, other| {
        other.recent.connections_per_second.total_cmp(&one.recent.connections_per_second)
    }),
    by("out", "most out/s first", |one, other| {
        other.recent.bytes_to_client_per_second.total_cmp(&one.recent.bytes_to_client_per_second)
    }),
    by("connect", "slowest connect first", |one, other| {
        slowness(&other.recent.connect_ms).total_cmp(&slowness(&one.recent.connect_ms))
    }),
    by("first byte", "slowest first byte first", |one, other| {
        slowness(&other.recent.first_byte_ms).total_cmp(&slowness(&one.recent.first_byte_ms))
    }),
    by("failures", "most failures first", |one, other| failures(&other.recent).cmp(&failures(&one.recent))),
];

/// The API sorts connections.
const OF_CONNECTIONS: &[Order] = &[
    by("age", "oldest first", |_, _| Ordering::Equal),
    by("bytes", "most bytes first", |_, _| Ordering::Equal),
    by("idle", "longest idle first", |_, _| Ordering::Equal),
];

fn slowness(times: &Millis) -> f64 {
    times.p99.unwrap_or(-1.0)
}

/// The orders of a pane; the first is the default.
pub fn orders(pane: &Pane) -> &'static [Order] {
    match pane {
        Pane::Overview | Pane::Backends { .. } => OF_BACKENDS,
        Pane::Connections { .. } => OF_CONNECTIONS,
        _ => &[],
    }
}

/// Whether a pane shows backends, so that their state can be a filter.
pub fn has_states(pane: &Pane) -> bool {
    matches!(pane, Pane::Overview | Pane::Backends { .. })
}

/// The client's address or prefix that a filter is, if it is one. The workers then look for it among all connections.
pub fn prefix(filter: &str) -> Option<String> {
    let is = filter.parse::<IpAddr>().is_ok() || filter.parse::<IpNet>().is_ok();
    is.then(|| filter.to_owned())
}

/// The rows of the current screen.
pub fn rows(state: &State) -> Vec<Row<'_>> {
    let view = state.view();
    let matching = |row: &Row<'_>| view.filter.is_empty() || row.has(&view.filter);
    match &view.pane {
        Pane::Overview => overview(state, view),
        Pane::Backends { pool: only } => {
            let pools = state.status.pools.iter().filter(|pool| only.as_ref().is_none_or(|only| *only == pool.name));
            let mut all: Vec<(&PoolView, &BackendView)> =
                pools.flat_map(|pool| backends(pool, view).map(move |backend| (pool, backend))).collect();
            let order = order(view);
            all.sort_by(|(pool, one), (others, other)| {
                order(one, other)
                    .then_with(|| by_name(&one.name, &other.name))
                    .then_with(|| pool.name.cmp(&others.name))
            });
            let pools = state.status.pools.iter().filter(|pool| only.as_ref() == Some(&pool.name));
            let sources = pools.flat_map(|pool| sources(pool, view));
            sources.chain(all.into_iter().map(|(pool, backend)| Row::Backend(pool, backend))).collect()
        }
        Pane::Connections { .. } => match state.listed() {
            Some(Ok(connections)) => {
                let by_workers = prefix(&view.filter).is_some();
                connections.iter().map(Row::Connection).filter(|row| by_workers || matching(row)).collect()
            }
            _ => Vec::new(),
        },
        Pane::Events => state.events.iter().rev().map(Row::Event).filter(matching).collect(),
        Pane::Findings => state.status.findings.iter().map(Row::Finding).filter(matching).collect(),
        Pane::Explain { .. } => match state.explanation() {
            Some(Ok(explained)) => explained.candidates.iter().map(Row::Candidate).filter(matching).collect(),
            _ => Vec::new(),
        },
        Pane::Listeners => state.status.listeners.iter().map(Row::Listener).filter(matching).collect(),
    }
}

fn backends<'a>(pool: &'a PoolView, view: &'a View) -> impl Iterator<Item = &'a BackendView> {
    let matching = move |backend: &&BackendView| {
        view.only.shows(backend) && (view.filter.is_empty() || Row::Backend(pool, backend).has(&view.filter))
    };
    pool.backends.iter().filter(matching)
}

/// The sources of a pool, where nothing chooses among its backends.
fn sources<'a>(pool: &'a PoolView, view: &View) -> impl Iterator<Item = Row<'a>> {
    let shown: &[SourceView] = if is_filtered(view) { &[] } else { &pool.discovery };
    shown.iter().map(move |source| Row::Source(pool, source))
}

fn is_filtered(view: &View) -> bool {
    !view.filter.is_empty() || view.only != Only::All
}

fn order(view: &View) -> fn(&BackendView, &BackendView) -> Ordering {
    OF_BACKENDS.get(view.order).map_or(|_, _| Ordering::Equal, |order| order.compare)
}

/// Pools, worst first, and in each its backends. A pool shows as many of them as leave room for the other pools.
fn overview<'a>(state: &'a State, view: &'a View) -> Vec<Row<'a>> {
    let order = order(view);
    let mut pools: Vec<(&PoolView, Vec<&BackendView>)> = Vec::new();
    for pool in &state.status.pools {
        let mut shown: Vec<&BackendView> = backends(pool, view).collect();
        shown.sort_by(|one, other| order(one, other).then_with(|| by_name(&one.name, &other.name)));
        if !is_filtered(view) || !shown.is_empty() {
            pools.push((pool, shown));
        }
    }
    pools.sort_by_cached_key(|(pool, _)| (urgency(pool), pool.name.clone()));
    let room = usize::from(Layout::of(state).rows);
    let lines = |most: usize| -> usize {
        let of = |pool: &PoolView, all: &[&BackendView]| {
            1 + sources(pool, view).count() + all.len().min(most) + usize::from(all.len() > most)
        };
        pools.iter().map(|(pool, all)| of(pool, all)).sum()
    };
    let longest = pools.iter().map(|(_, all)| all.len()).max().unwrap_or(0);
    let fits = |most: &usize| lines(*most) <= room;
    let most = (FEWEST..=longest.min(room).max(FEWEST)).rev().find(fits).unwrap_or(FEWEST);
    let mut rows = Vec::new();
    for (pool, all) in &pools {
        rows.push(Row::Pool(pool));
        rows.extend(sources(pool, view));
        rows.extend(all.iter().take(most).map(|backend| Row::Backend(pool, backend)));
        if all.len() > most {
            rows.push(Row::More(pool, all.len() - most));
        }
    }
    rows
}

/// How bad a pool is: its own state, its waiting clients, then its worst backend.
fn urgency(pool: &PoolView) -> (u8, bool, Urgency) {
    let state = match pool.state.as_str() {
        "down" => 0,
        "degraded" => 1,
        _ => 2,
    };
    let worst = pool.backends.iter().map(|backend| backend.urgency).min().unwrap_or(Urgency::Up);
    (state, pool.waiting == 0, worst)
}

/// `web2` before `web10`.
fn by_name(one: &str, other: &str) -> Ordering {
    fn parts(name: &str) -> (&str, u64) {
        let text = name.trim_end_matches(|letter: char| letter.is_ascii_digit());
        (text, name[text.len()..].parse().unwrap_or(0))
    }
    parts(one).cmp(&parts(other)).then_with(|| one.cmp(other))
}
