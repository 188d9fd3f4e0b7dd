//! The balancer's state for the API, from the newest snapshot. It reads atomics, and locks that no worker takes, so a call
//! costs the workers nothing.

use super::{api, process};
use super::{figures, findings};
use crate::base::{Address, Endpoint, Tick};
use crate::config::model::{self, SourceAddress};
use crate::discovery::{NameStanding, NameTable, SourceId, Standing};
use crate::logger;
use crate::pool::{
    AdminState, Backend, BackendAddress, BackendState, HealthReport, LastReload, Listener, Member, Pool, Published,
    Snapshot,
};
use crate::session::CloseReason;
use crate::telemetry::histogram::Reading;
use crate::telemetry::{Closed, Counters, LostLines, Refusal, Sample, Tracked};
use std::cmp::Ordering::Equal;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, SystemTime};

/// `GET /v1/status`.
pub fn status(published: &Published, now: Tick) -> api::Status {
    let snapshot = published.snapshot();
    let mut status = api::Status {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        started: started(published),
        uptime_seconds: (now - published.started()).as_secs(),
        generation: snapshot.generation,
        state: if published.is_draining() { "draining" } else { "running" }.to_owned(),
        verdict: api::Verdict::default(),
        findings: Vec::new(),
        process: process(published, &snapshot, now),
        listeners: snapshot.listeners.iter().map(|listener| self::listener(listener, now)).collect(),
        pools: snapshot.pools.iter().map(|pool| self::pool(pool, published, now)).collect(),
    };
    findings::judge(&mut status);
    status
}

/// When the process started. Another process has another time.
pub(super) fn started(published: &Published) -> String {
    humantime::format_rfc3339_millis(published.started_at()).to_string()
}

fn process(published: &Published, snapshot: &Snapshot, now: Tick) -> api::ProcessView {
    let limit = published.connection_limit();
    let lost = LostLines { log: logger::lines_lost(), access_log: published.log().lost() };
    let recently_lost = published.lost_lines.recent(now, |before| lost.since(before)).figures;
    // The slowest worker: its clients do not gain from the others.
    let lags = published.workers().iter().map(|worker| millis(&worker.recent(now)));
    let reload = |reload: LastReload| api::LastReload {
        success: reload.error.is_none(),
        age_seconds: (now - reload.at).as_secs(),
        error: reload.error,
    };
    let (descriptors, descriptors_limit) = process::descriptors();
    api::ProcessView {
        connections: limit.active() as u64,
        connections_limit: limit.limit() as u64,
        descriptors,
        descriptors_limit,
        ports_used: ports_used(snapshot),
        ports_limit: process::local_ports(),
        loop_lag_ms: lags.max_by(|one, other| one.p99.partial_cmp(&other.p99).unwrap_or(Equal)).unwrap_or_default(),
        log_lines_lost_total: lost.log,
        log_lines_lost_recently: recently_lost.log,
        access_log_lines_lost_total: lost.access_log,
        access_log_lines_lost_recently: recently_lost.access_log,
        stuck_threads: published.stuck(),
        kernel: kernel(published),
        last_reload: published.last_reload().map(reload),
    }
}

fn kernel(published: &Published) -> Option<api::KernelView> {
    let totals = published.kernel();
    let Tracked { entries, table_entries, table_max, .. } = totals.tracked()?;
    let (changes_total, failures_total) = totals.changes();
    let (problem, lacks) = (totals.problem(), totals.lacks());
    Some(api::KernelView { entries, table_entries, table_max, changes_total, failures_total, problem, lacks })
}

/// The most connections to one backend address. Several backends may have the same address; the connections of a backend
/// with several are taken to be spread evenly, and so are those of a pool over its source addresses. Where each client's address
/// is the source, each has ports of its own.
pub(super) fn ports_used(snapshot: &Snapshot) -> u64 {
    let mut used: HashMap<&Endpoint, u64> = HashMap::new();
    let pools = snapshot.pools.iter().filter(|pool| pool.settings.source != SourceAddress::Client);
    let members =
        pools.flat_map(|pool| pool.members.iter().map(move |member| (&pool.settings.source, &member.backend)));
    let open = |backend: &Backend| u64::from(backend.dialled()) + u64::from(backend.warm.open());
    for (source, backend) in members.filter(|(_, backend)| open(backend) > 0) {
        let each = open(backend).div_ceil(backend.addresses.len().max(1) as u64);
        for address in backend.addresses.iter() {
            // With the client's port, each of its ports is a destination of its own.
            if let Endpoint::Inet(at) = &address.endpoint
                && at.port() > 0
            {
                let sources = source.listed().iter().filter(|from| from.is_ipv4() == at.is_ipv4()).count().max(1);
                *used.entry(&address.endpoint).or_default() += each.div_ceil(sources as u64);
            }
        }
    }
    used.into_values().max().unwrap_or(0)
}

fn listener(listener: &Listener, now: Tick) -> api::Listener {
    let addresses: Vec<String> = listener.addresses.iter().map(|address| address.endpoint.to_string()).collect();
    let refused = Refusal::ALL.into_iter().map(|why| (why.label().to_owned(), listener.totals.refused(why)));
    let recent = listener.totals.recent(now);
    api::Listener {
        name: listener.name.clone(),
        engine: listener.settings.engine.word().to_owned(),
        address: addresses.join(", "),
        pool: listener.pool.settings.name.clone(),
        active_connections: listener.totals.active() as u64,
        accepted_total: listener.totals.accepted(),
        refused_total: listener.totals.refused_total(),
        connections_limit: listener.settings.max_connections.map(u64::from),
        refused: refused.filter(|(_, count)| *count > 0).collect(),
        recent: api::RecentClients {
            seconds: rounded(recent.span.as_secs_f64(), 10.0),
            accepted_per_second: rounded(recent.per_second(recent.figures.accepted), 1e3),
            refused_per_second: rounded(recent.per_second(recent.figures.refused), 1e3),
        },
        history: listener.totals.history(),
    }
}

fn pool(pool: &Pool, published: &Published, now: Tick) -> api::PoolView {
    let (settings, sources) = (&pool.settings, published.sources());
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
        waiting: pool.totals.waiting.load(Relaxed) as u64,
        speaks_first: pool.totals.speaks_first.load(Relaxed),
        recent: recent(&pool.totals.counters, now),
        history: pool.totals.counters.series.history(),
        discovery: (settings.sources().into_iter())
            .filter_map(|(label, discover)| {
                let id = SourceId { pool: settings.name.clone(), label };
                Some(source(&id, discover.settings.watched(), &sources.get(&id)?.lock()))
            })
            .collect(),
        names: names(pool, published.names()),
        backends: backends(pool, now),
    }
}

fn source(id: &SourceId, watches: String, standing: &Standing) -> api::SourceView {
    api::SourceView {
        source: id.label.clone(),
        watches,
        ok: standing.is_well() && standing.last_success.is_some(),
        last_success_seconds: standing.last_success.map(seconds_since),
        backends: standing.backends as u64,
        errors_total: standing.errors,
        last_error: standing.last_error.as_ref().map(|(_, why)| why.clone()),
        entries_left_out: (standing.misunderstood + standing.refused) as u64,
        left_out: standing.left_out().cloned().collect(),
        kept: standing.kept.map_or(0, |(count, _)| count as u64),
        kept_because: standing.kept.map(|(_, why)| why.to_owned()),
    }
}

fn names(pool: &Pool, table: &NameTable) -> Vec<api::NameView> {
    let names = pool.settings.backends.iter().filter_map(|backend| match &backend.address {
        Address::Name(host, _) => Some(host.as_str()),
        Address::Inet(_) | Address::Unix(_) | Address::Any(_) | Address::Mapped(..) => None,
    });
    let names: BTreeSet<&str> = names.collect();
    let view = |name: &str| {
        let NameStanding { last_success, errors, last_error, failing_since } = table.standing(name)?;
        Some(api::NameView {
            name: name.to_owned(),
            ok: failing_since.is_none(),
            last_success_seconds: last_success.map(seconds_since),
            failing_seconds: failing_since.map(seconds_since),
            errors_total: errors,
            last_error,
        })
    };
    names.into_iter().filter_map(view).collect()
}

fn seconds_since(time: SystemTime) -> u64 {
    time.elapsed().unwrap_or_default().as_secs()
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
    let (backend, counters, state) = (&member.backend, &member.backend.counters, BackendState::of(pool, member));
    let connects = counters.connect_times.read();
    let health = backend.health.lock().clone();
    let last_result = backend.unresolved().or_else(|| health.last_result.as_ref().map(ToString::to_string));
    let mut view = api::BackendView {
        summary: String::new(),
        urgency: api::Urgency::default(),
        name: settings.name.clone(),
        address: settings.address.to_string(),
        origin: settings.origin.to_string(),
        weight: settings.weight,
        effective_weight: rounded(pool.effective_weight(member), 1e3),
        backup: member.backup,
        state: state.word().to_owned(),
        reason: match state {
            BackendState::Down => Some(pool.why_down(member)),
            BackendState::Draining if member.state == AdminState::Enabled => Some("its agent drains it".to_owned()),
            _ => None,
        },
        active_connections: match member.state {
            AdminState::Enabled => backend.active().into(),
            AdminState::Draining | AdminState::Disabled => backend.left().into(),
        },
        connections_limit: settings.max_connections.map(u64::from),
        warm_connections: warm(pool, backend),
        connections_total: counters.connections.load(Relaxed),
        connect_failures_total: counters.connect_failures_total(),
        bytes_to_backend_total: counters.bytes_to_backend.load(Relaxed),
        bytes_to_client_total: counters.bytes_to_client.load(Relaxed),
        connect_ms: millis(&connects),
        first_byte_ms: millis(&counters.first_byte_times.read()),
        rtt_ms: counters.rtt().map(in_millis),
        retransmits_total: counters.retransmits.load(Relaxed),
        closed: closed(&counters.closed),
        resets: counters.resets(now),
        recent: recent(counters, now),
        history: counters.series.history(),
        health: api::Health {
            last_result,
            last_change_seconds: health.last_change.map(|at| (now - at).as_secs()),
            since: health.last_change.and_then(|at| utc(now - at)),
            transition: health.transition.map(|transition| transition.to_string()),
        },
        addresses: addresses(backend, &health, now),
    };
    figures::judge(&mut view);
    view
}

/// The warm connections of a backend; `None`: its pool has none.
pub(super) fn warm(pool: &Pool, backend: &Backend) -> Option<u64> {
    (pool.settings.warm_connections > 0).then(|| u64::from(backend.warm.ready()))
}

fn recent(counters: &Counters, now: Tick) -> api::Recent {
    let recent = counters.recent(now);
    let per_second = |count| rounded(recent.per_second(count), 1e3);
    let Sample { connections, ended, resets_before_byte, connect_failures, to_backend, to_client, .. } = recent.figures;
    api::Recent {
        seconds: rounded(recent.span.as_secs_f64(), 10.0),
        connections_per_second: per_second(connections),
        bytes_to_backend_per_second: per_second(to_backend),
        bytes_to_client_per_second: per_second(to_client),
        connect_failures,
        resets_before_byte,
        ended,
        connect_ms: millis(&recent.figures.connects),
        first_byte_ms: millis(&recent.figures.first_bytes),
    }
}

/// The reasons that occurred.
fn closed(counts: &Closed) -> BTreeMap<String, u64> {
    let counts = CloseReason::ALL.iter().zip(counts).map(|(reason, count)| (reason, count.load(Relaxed)));
    counts.filter(|(_, count)| *count > 0).map(|(reason, count)| (reason.word().to_owned(), count)).collect()
}

fn millis(reading: &Reading) -> api::Millis {
    api::Millis { p50: reading.quantile(0.5).map(in_millis), p99: reading.quantile(0.99).map(in_millis) }
}

pub(super) fn in_millis(time: Duration) -> f64 {
    rounded(time.as_secs_f64() * 1e3, 1e3)
}

/// Rounded to a part of one.
fn rounded(value: f64, part: f64) -> f64 {
    (value * part).round() / part
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
        last_result: health.addresses.get(number).and_then(Option::as_ref).map(ToString::to_string),
    };
    backend.addresses.iter().enumerate().map(address).collect()
}
