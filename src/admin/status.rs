//! The balancer's state for the API, from the newest snapshot. It reads atomics only, so a call costs the workers
//! nothing.

use super::api;
use crate::base::Tick;
use crate::config::model;
use crate::pool::{AdminState, Backend, BackendAddress, HealthReport, Member, Pool, Published, Snapshot};
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

/// `GET /v1/status`.
pub fn status(published: &Published, now: Tick) -> api::Status {
    let snapshot = published.snapshot();
    api::Status {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        uptime_seconds: (now - published.started()).as_secs(),
        generation: snapshot.generation,
        state: if published.is_draining() { "draining" } else { "running" }.to_owned(),
        listeners: listeners(&snapshot),
        pools: snapshot.pools.iter().map(|pool| self::pool(pool, now)).collect(),
    }
}

fn listeners(snapshot: &Snapshot) -> Vec<api::Listener> {
    let listener = |listener: &std::sync::Arc<crate::pool::Listener>| {
        let addresses: Vec<String> = listener.addresses.iter().map(|address| address.endpoint.to_string()).collect();
        api::Listener {
            name: listener.name.clone(),
            address: addresses.join(", "),
            pool: listener.pool.settings.name.clone(),
            active_connections: listener.totals.active() as u64,
            accepted_total: listener.totals.accepted(),
            refused_total: listener.totals.refused_total(),
        }
    };
    snapshot.listeners.iter().map(listener).collect()
}

fn pool(pool: &Pool, now: Tick) -> api::PoolView {
    let settings = &pool.settings;
    api::PoolView {
        name: settings.name.clone(),
        algorithm: settings.algorithm.name.to_owned(),
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
    let millis = |time: Duration| (time.as_secs_f64() * 1e6).round() / 1e3;
    api::BackendView {
        name: settings.name.clone(),
        address: settings.address.to_string(),
        weight: member.weight,
        backup: member.backup,
        state: state(pool, member).to_owned(),
        active_connections: u64::from(backend.active()),
        connections_total: counters.connections.load(Relaxed),
        connect_failures_total: counters.connect_failures_total(),
        bytes_to_backend_total: counters.bytes_to_backend.load(Relaxed),
        bytes_to_client_total: counters.bytes_to_client.load(Relaxed),
        connect_ms: api::ConnectMs {
            p50: connects.quantile(0.5).map(millis),
            p99: connects.quantile(0.99).map(millis),
        },
        health: api::Health {
            last_result: backend.unresolved().or_else(|| health.last_result.map(|outcome| outcome.to_string())),
            last_change_seconds: health.last_change.map(|at| (now - at).as_secs()),
        },
        addresses: addresses(backend, &health, now),
    }
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
