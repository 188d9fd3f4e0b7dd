//! The balancer's state for the API, from the newest snapshot. It reads atomics, and locks that no worker takes, so a call
//! costs the workers nothing.

use super::findings;
use super::{api, process};
use crate::base::{Endpoint, Tick};
use crate::config::model;
use crate::logger;
use crate::pool::{AdminState, Backend, BackendAddress, HealthReport, Listener, Member, Pool, Published, Snapshot};
use crate::telemetry::Refusal;
use crate::telemetry::histogram::Reading;
use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, SystemTime};

/// `GET /v1/status`.
pub fn status(published: &Published, now: Tick) -> api::Status {
    let snapshot = published.snapshot();
    let mut status = api::Status {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        uptime_seconds: (now - published.started()).as_secs(),
        generation: snapshot.generation,
        state: if published.is_draining() { "draining" } else { "running" }.to_owned(),
        verdict: api::Verdict::default(),
        findings: Vec::new(),
        process: process(published, &snapshot),
        listeners: snapshot.listeners.iter().map(|listener| self::listener(listener)).collect(),
        pools: snapshot.pools.iter().map(|pool| self::pool(pool, now)).collect(),
    };
    findings::judge(&mut status);
    status
}

fn process(published: &Published, snapshot: &Snapshot) -> api::ProcessView {
    let limit = published.connection_limit();
    let (descriptors, descriptors_limit) = process::descriptors();
    api::ProcessView {
        connections: limit.active() as u64,
        connections_limit: limit.limit() as u64,
        descriptors,
        descriptors_limit,
        ports_used: ports_used(snapshot),
        ports_limit: process::local_ports(),
        loop_lag_ms: api::Millis::default(),
        log_lines_lost_total: logger::lines_lost(),
        access_log_lines_lost_total: published.log().lost(),
        stuck_threads: published.stuck(),
        last_reload: None,
    }
}

/// The most connections to one backend address. Several backends may have the same address; the connections of a backend
/// with several are taken to be spread evenly.
fn ports_used(snapshot: &Snapshot) -> u64 {
    let mut used: HashMap<&Endpoint, u64> = HashMap::new();
    let members = snapshot.pools.iter().flat_map(|pool| &pool.members);
    for backend in members.map(|member| &member.backend).filter(|backend| backend.active() > 0) {
        let each = u64::from(backend.active()).div_ceil(backend.addresses.len().max(1) as u64);
        for address in backend.addresses.iter().filter(|address| matches!(address.endpoint, Endpoint::Inet(_))) {
            *used.entry(&address.endpoint).or_default() += each;
        }
    }
    used.into_values().max().unwrap_or(0)
}

fn listener(listener: &Listener) -> api::Listener {
    let addresses: Vec<String> = listener.addresses.iter().map(|address| address.endpoint.to_string()).collect();
    let refused = Refusal::ALL.into_iter().map(|why| (why.label().to_owned(), listener.totals.refused(why)));
    api::Listener {
        name: listener.name.clone(),
        address: addresses.join(", "),
        pool: listener.pool.settings.name.clone(),
        active_connections: listener.totals.active() as u64,
        accepted_total: listener.totals.accepted(),
        refused_total: listener.totals.refused_total(),
        connections_limit: listener.settings.max_connections.map(u64::from),
        refused: refused.filter(|(_, count)| *count > 0).collect(),
        recent: api::RecentClients::default(),
        history: Vec::new(),
    }
}

fn pool(pool: &Pool, now: Tick) -> api::PoolView {
    let settings = &pool.settings;
    let enabled = || pool.members.iter().filter(|member| member.state == AdminState::Enabled);
    let state = match pool.has_usable() {
        false => "down",
        true if enabled().any(|member| !pool.is_usable(member)) => "degraded",
        true => "up",
    };
    api::PoolView {
        name: settings.name.clone(),
        algorithm: settings.algorithm.name.to_owned(),
        state: state.to_owned(),
        waiting: 0,
        recent: api::Recent::default(),
        history: Vec::new(),
        backends: backends(pool, now),
    }
}

/// `GET /v1/pools/P/backends`.
pub fn backends(pool: &Pool, now: Tick) -> Vec<api::BackendView> {
    let both = pool.members.iter().zip(&pool.settings.backends);
    both.map(|(member, settings)| backend(pool, member, settings, now)).collect()
}

/// The backend of this name.
pub fn find(pool: &Pool, name: &str, now: Tick) -> Option<api::BackendView> {
    let mut both = pool.members.iter().zip(&pool.settings.backends);
    both.find(|(_, settings)| settings.name == name).map(|(member, settings)| backend(pool, member, settings, now))
}

fn backend(pool: &Pool, member: &Member, settings: &model::Backend, now: Tick) -> api::BackendView {
    let (backend, counters) = (&member.backend, &member.backend.counters);
    let connects = counters.connect_times.read();
    let health = backend.health.lock().clone();
    api::BackendView {
        name: settings.name.clone(),
        address: settings.address.to_string(),
        weight: member.weight,
        effective_weight: (pool.effective_weight(member) * 1e3).round() / 1e3,
        backup: member.backup,
        state: state(pool, member).to_owned(),
        active_connections: u64::from(backend.active()),
        connections_limit: settings.max_connections.map(u64::from),
        connections_total: counters.connections.load(Relaxed),
        connect_failures_total: counters.connect_failures_total(),
        bytes_to_backend_total: counters.bytes_to_backend.load(Relaxed),
        bytes_to_client_total: counters.bytes_to_client.load(Relaxed),
        connect_ms: millis(&connects),
        first_byte_ms: api::Millis::default(),
        rtt_ms: None,
        retransmits_total: 0,
        closed: BTreeMap::new(),
        recent: api::Recent::default(),
        history: Vec::new(),
        health: api::Health {
            last_result: backend.unresolved().or_else(|| health.last_result.map(|outcome| outcome.to_string())),
            last_change_seconds: health.last_change.map(|at| (now - at).as_secs()),
            since: health.last_change.and_then(|at| utc(now - at)),
            transition: None,
        },
        addresses: addresses(backend, &health, now),
    }
}

fn millis(reading: &Reading) -> api::Millis {
    let millis = |time: Duration| (time.as_secs_f64() * 1e6).round() / 1e3;
    api::Millis { p50: reading.quantile(0.5).map(millis), p99: reading.quantile(0.99).map(millis) }
}

/// The time so long ago, as RFC 3339 writes it.
fn utc(ago: Duration) -> Option<String> {
    Some(humantime::format_rfc3339_seconds(SystemTime::now().checked_sub(ago)?).to_string())
}

fn addresses(backend: &Backend, health: &HealthReport, now: Tick) -> Vec<api::BackendAddress> {
    let address = |(number, address): (usize, &BackendAddress)| api::BackendAddress {
        address: address.endpoint.to_string(),
        state: address.state(now).word().to_owned(),
        connections_total: backend.connections_at(number),
        last_result: health.addresses.get(number).copied().flatten().map(|outcome| outcome.to_string()),
    };
    backend.addresses.iter().enumerate().map(address).collect()
}

fn state(pool: &Pool, member: &Member) -> &'static str {
    match member.state {
        AdminState::Enabled if pool.is_usable(member) => "up",
        AdminState::Enabled => "down",
        state => state.word(),
    }
}
