//! Each family of metrics, declared once: a row in the table of what it is about.
//!
//! A row holds the name, the type, the labels, the meaning, an example of a query, and its samples. `GET /metrics` and the tables
//! of docs/metrics.md come from these tables. Label values come from the configuration and from short fixed lists, never from
//! clients.
//!
//! A new metric is a row here, the place that counts it (in `telemetry`, by `worker::ledger`) and its test.

mod kernel;

pub use kernel::KERNEL;

use super::{Ended, Row, Samples, Scope, unix_time};
use crate::discovery::{NameStanding, Standing};
use crate::policy::health::{Class, ConnectFailure};
use crate::pool::{AddressState, Listener, Pool};
use crate::session::CloseReason;
use crate::telemetry::{Refusal, WorkerTotals};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

/// A family of metrics about each `S`.
pub struct Family<S: 'static> {
    /// Everything but its samples.
    pub about: About,
    /// Writes the samples of one `S`.
    pub samples: fn(&S, &mut Samples<'_>),
}

/// What a family is.
#[derive(Clone, Copy, Debug)]
pub struct About {
    /// Its name.
    pub name: &'static str,
    /// `counter`, `gauge` or `histogram`.
    pub kind: &'static str,
    /// The labels of its samples, separated by commas.
    pub labels: &'static str,
    /// What it counts or shows: one sentence.
    pub help: &'static str,
    /// A PromQL expression that uses it.
    pub query: &'static str,
}

/// The tables by their headings in docs/metrics.md.
pub fn tables() -> [(&'static str, Vec<About>); 8] {
    fn of<S>(families: &[Family<S>]) -> Vec<About> {
        families.iter().map(|family| family.about).collect()
    }
    [
        ("listeners", of(LISTENERS)),
        ("backends", [of(BACKENDS), of(ENDED)].concat()),
        ("pools", of(POOLS)),
        ("sources", of(SOURCES)),
        ("names", of(NAMES)),
        ("workers", of(WORKERS)),
        ("kernel", of(KERNEL)),
        ("process", of(PROCESS)),
    ]
}

const fn family<S>(
    kind: &'static str,
    name: &'static str,
    labels: &'static str,
    help: &'static str,
    query: &'static str,
    samples: fn(&S, &mut Samples<'_>),
) -> Family<S> {
    Family { about: About { name, kind, labels, help, query }, samples }
}

/// About each listener.
pub const LISTENERS: &[Family<Arc<Listener>>] = &[
    family(
        "gauge",
        "tcplb_listener_engine",
        "listener,engine",
        "1 for what carries the listener's connections: `proxy` or `kernel`.",
        "count by (engine) (tcplb_listener_engine)",
        |listener, samples| samples.with("engine", listener.settings.engine.word(), 1),
    ),
    family(
        "counter",
        "tcplb_connections_accepted_total",
        "listener",
        "Clients accepted, refused ones included.",
        "rate(tcplb_connections_accepted_total[5m])",
        |listener, samples| samples.one(listener.totals.accepted()),
    ),
    family(
        "gauge",
        "tcplb_connections_active",
        "listener",
        "Clients connected now.",
        "sum(tcplb_connections_active)",
        |listener, samples| samples.one(listener.totals.active()),
    ),
    family(
        "gauge",
        "tcplb_connections_limit",
        "listener",
        "The most clients connected at once; absent without a limit of its own.",
        "tcplb_connections_active / tcplb_connections_limit > 0.8",
        |listener, samples| samples.known(listener.settings.max_connections),
    ),
    family(
        "counter",
        "tcplb_connections_refused_total",
        "listener,reason",
        "Clients refused after they were accepted.",
        "sum by (reason) (rate(tcplb_connections_refused_total[5m]))",
        |listener, samples| {
            for why in Refusal::ALL {
                samples.with("reason", why.label(), listener.totals.refused(why));
            }
        },
    ),
    family(
        "counter",
        "tcplb_connections_would_refuse_total",
        "listener,reason",
        "Clients admitted under `limits = \"count\"` that `\"enforce\"` would have refused.",
        "increase(tcplb_connections_would_refuse_total[1h])",
        |listener, samples| {
            for why in [Refusal::Denied, Refusal::SourceLimit, Refusal::SourceRate] {
                samples.with("reason", why.label(), listener.admission.would_refuse(why));
            }
        },
    ),
    family(
        "counter",
        "tcplb_connections_untracked_total",
        "listener",
        "Clients admitted past the limits per source, because the table of sources was full.",
        "increase(tcplb_connections_untracked_total[1h]) > 0",
        |listener, samples| samples.one(listener.admission.untracked()),
    ),
    family(
        "counter",
        "tcplb_route_connections_total",
        "listener,route",
        "Clients by their route: its name or number, `none` for the listener's own pool, `silent` for `silent_pool`. Absent \
         without routes.",
        "sum by (listener, route) (rate(tcplb_route_connections_total[5m]))",
        |listener, samples| {
            for (label, totals) in listener.route_totals() {
                samples.with("route", label, totals.connections.load(Relaxed));
            }
        },
    ),
    family(
        "histogram",
        "tcplb_sniff_duration_seconds",
        "listener",
        "How long the first bytes took that choose the route, from the admission on. Absent where no route needs them.",
        "histogram_quantile(0.99, sum by (le, listener) (rate(tcplb_sniff_duration_seconds_bucket[5m])))",
        |listener, samples| {
            if listener.settings.reads_first_bytes() {
                samples.histogram(&listener.totals.sniff_times.read());
            }
        },
    ),
];

/// About each backend, or about each pool as the sums of its backends.
pub const BACKENDS: &[Family<Row>] = &[
    family(
        "gauge",
        "tcplb_backend_up",
        "pool,backend",
        "1 if the health state is up, whatever an operator has decided.",
        "count by (pool) (tcplb_backend_up == 0)",
        |row, samples| samples.one(row.up),
    ),
    family(
        "gauge",
        "tcplb_backend_state",
        "pool,backend,state",
        "1 for the state that holds. Only a backend that is `up` takes new connections.",
        "count by (pool, state) (tcplb_backend_state == 1)",
        |row, samples| {
            for (state, count) in &row.states {
                samples.with("state", state.word(), count);
            }
        },
    ),
    family(
        "gauge",
        "tcplb_backend_weight",
        "pool,backend",
        "The weight that choices give the backend now; during a slow start, a part of its own. With `approximate`, that of the kernel's rules.",
        "tcplb_backend_weight == 0",
        |row, samples| samples.one(row.weight),
    ),
    family(
        "gauge",
        "tcplb_backend_address_up",
        "pool,backend,address",
        "Of a backend with several addresses: 1 if this one takes its turn.",
        "tcplb_backend_address_up == 0",
        |row, samples| {
            for address in row.addresses() {
                let up = address.state(row.now) == AddressState::Up;
                samples.with("address", &address.endpoint.to_string(), u64::from(up));
            }
        },
    ),
    family(
        "counter",
        "tcplb_backend_connections_total",
        "pool,backend",
        "Connections that reached the backend.",
        "rate(tcplb_backend_connections_total[5m])",
        |row, samples| samples.one(row.counters().connections.load(Relaxed)),
    ),
    family(
        "gauge",
        "tcplb_backend_connections_active",
        "pool,backend",
        "Connections open to the backend now, or being dialled.",
        "topk(5, tcplb_backend_connections_active)",
        |row, samples| samples.one(row.active),
    ),
    family(
        "gauge",
        "tcplb_backend_connections_limit",
        "pool,backend",
        "The most connections at once; absent without a limit.",
        "tcplb_backend_connections_active / tcplb_backend_connections_limit > 0.8",
        |row, samples| samples.known(row.limit),
    ),
    family(
        "gauge",
        "tcplb_warm_connections",
        "pool,backend",
        "Connections that are established ahead of need; absent without `warm_connections`.",
        "tcplb_warm_connections == 0",
        |row, samples| samples.known(row.warm),
    ),
    family(
        "counter",
        "tcplb_backend_connect_failures_total",
        "pool,backend,reason",
        "Connection attempts that failed.",
        "sum by (backend, reason) (rate(tcplb_backend_connect_failures_total[5m]))",
        |row, samples| {
            for (reason, count) in ConnectFailure::LABELS.iter().zip(&row.counters().connect_failures) {
                samples.with("reason", reason, count.load(Relaxed));
            }
        },
    ),
    family(
        "counter",
        "tcplb_backend_bytes_total",
        "pool,backend,direction",
        "Bytes relayed, also of open connections.",
        "8 * sum by (direction) (rate(tcplb_backend_bytes_total[1m]))",
        |row, samples| {
            samples.with("direction", "to_backend", row.counters().bytes_to_backend.load(Relaxed));
            samples.with("direction", "to_client", row.counters().bytes_to_client.load(Relaxed));
        },
    ),
    family(
        "histogram",
        "tcplb_backend_connect_duration_seconds",
        "pool,backend",
        "How long connecting took.",
        "histogram_quantile(0.99, sum by (le, pool) (rate(tcplb_backend_connect_duration_seconds_bucket[5m])))",
        |row, samples| samples.histogram(&row.counters().connect_times.read()),
    ),
    family(
        "histogram",
        "tcplb_backend_first_byte_seconds",
        "pool,backend",
        "How long the backend's first byte took, from the client's first bytes, connecting included.",
        "histogram_quantile(0.99, sum by (le, backend) (rate(tcplb_backend_first_byte_seconds_bucket[5m])))",
        |row, samples| samples.histogram(&row.counters().first_byte_times.read()),
    ),
    family(
        "counter",
        "tcplb_backend_resets_before_byte_total",
        "pool,backend",
        "Connections that the backend reset before it sent a byte.",
        "rate(tcplb_backend_resets_before_byte_total[5m]) > 0.5 * rate(tcplb_backend_connections_total[5m])",
        |row, samples| samples.one(row.counters().resets_before_byte.load(Relaxed)),
    ),
    family(
        "gauge",
        "tcplb_backend_rtt_seconds",
        "pool,backend",
        "The kernel's smoothed round-trip time at the end of a connection, averaged over about eight of them. Absent before \
         the first, and for unix sockets.",
        "topk(5, tcplb_backend_rtt_seconds)",
        |row, samples| samples.known(row.counters().rtt().map(|rtt| rtt.as_secs_f64())),
    ),
    family(
        "counter",
        "tcplb_backend_retransmits_total",
        "pool,backend",
        "Segments that were sent to the backend more than once. A connection is counted when it ends.",
        "sum by (backend) (rate(tcplb_backend_retransmits_total[5m]))",
        |row, samples| samples.one(row.counters().retransmits.load(Relaxed)),
    ),
    family(
        "counter",
        "tcplb_health_probes_total",
        "pool,backend,result",
        "Health probes by their result.",
        "sum by (backend) (rate(tcplb_health_probes_total{result!=\"success\"}[5m]))",
        |row, samples| {
            for (class, count) in Class::ALL.iter().zip(&row.counters().probes) {
                samples.with("result", class.label(), count.load(Relaxed));
            }
        },
    ),
];

/// About the connections that ended at a backend, or without one.
pub const ENDED: &[Family<Ended>] = &[family(
    "counter",
    "tcplb_connections_closed_total",
    "pool,backend,reason",
    "Connections that ended, by the reason that the access log has. Without a backend, its name is empty.",
    "sum by (backend, reason) (rate(tcplb_connections_closed_total{reason=~\".*_reset|.*_timeout\"}[5m]))",
    |ended, samples| {
        let counts = CloseReason::ALL.iter().zip(ended.counts());
        // A client that was refused has no backend.
        let occurs = |reason: &CloseReason| !ended.is_at_a_backend() || reason.refusal().is_none();
        for (reason, count) in counts.filter(|(reason, count)| occurs(reason) || *count > 0) {
            samples.with("reason", reason.word(), count);
        }
    },
)];

/// About each pool.
pub const POOLS: &[Family<Arc<Pool>>] = &[
    family(
        "histogram",
        "tcplb_connection_duration_seconds",
        "pool",
        "How long connections lasted, from accept to the end.",
        "histogram_quantile(0.5, sum by (le, pool) (rate(tcplb_connection_duration_seconds_bucket[5m])))",
        |pool, samples| samples.histogram(&pool.totals.durations.read()),
    ),
    family(
        "counter",
        "tcplb_connect_retries_total",
        "pool",
        "Attempts with another backend after one had failed.",
        "rate(tcplb_connect_retries_total[5m]) > 1",
        |pool, samples| samples.one(pool.totals.connect_retries.load(Relaxed)),
    ),
    family(
        "gauge",
        "tcplb_pool_waiting",
        "pool",
        "Clients that wait for a backend.",
        "tcplb_pool_waiting > 0",
        |pool, samples| samples.one(pool.totals.waiting.load(Relaxed)),
    ),
    family(
        "gauge",
        "tcplb_source_ports_used",
        "pool,source",
        "Connections to backends from this address of the pool's `source`; absent without a list of addresses.",
        "max by (pool) (tcplb_source_ports_used)",
        |pool, samples| {
            for source in pool.sources.iter() {
                samples.with("source", &source.ip.to_string(), source.ports_used());
            }
        },
    ),
];

/// About each source of backends.
pub const SOURCES: &[Family<Standing>] = &[
    family(
        "gauge",
        "tcplb_discovery_last_success_timestamp_seconds",
        "pool,source",
        "When the source last answered; 0 before the first answer.",
        "time() - tcplb_discovery_last_success_timestamp_seconds > 120",
        |standing, samples| samples.one(standing.last_success.map_or(0.0, unix_time)),
    ),
    family(
        "counter",
        "tcplb_discovery_errors_total",
        "pool,source",
        "Failures of the source, entries that were not understood, backends that the pool can't have.",
        "increase(tcplb_discovery_errors_total[5m]) > 0",
        |standing, samples| samples.one(standing.errors),
    ),
    family(
        "gauge",
        "tcplb_discovery_backends",
        "pool,source",
        "Backends of the source's newest set.",
        "sum by (pool) (tcplb_discovery_backends)",
        |standing, samples| samples.one(standing.backends),
    ),
];

/// About each name of backends that is looked up again.
pub const NAMES: &[Family<NameStanding>] = &[family(
    "gauge",
    "tcplb_name_last_success_timestamp_seconds",
    "name",
    "When the name was last looked up with success; 0 before the first time after the start.",
    "time() - tcplb_name_last_success_timestamp_seconds > 600",
    |standing, samples| samples.one(standing.last_success.map_or(0.0, unix_time)),
)];

/// About each worker.
pub const WORKERS: &[Family<WorkerTotals>] = &[family(
    "histogram",
    "tcplb_worker_loop_lag_seconds",
    "worker",
    "How long a turn of the event loop took, without the sleep: an event that becomes ready may wait for as long.",
    "histogram_quantile(0.99, sum by (le, worker) (rate(tcplb_worker_loop_lag_seconds_bucket[5m])))",
    |worker, samples| samples.histogram(&worker.turns.read()),
)];

/// About the process.
pub const PROCESS: &[Family<Scope>] = &[
    family(
        "gauge",
        "tcplb_build_info",
        "version",
        "The version; the value is always 1.",
        "count by (version) (tcplb_build_info)",
        |_, samples| samples.with("version", env!("CARGO_PKG_VERSION"), 1),
    ),
    family(
        "counter",
        "tcplb_config_reloads_total",
        "result",
        "Reloads of the configuration file, by `success` and `failure`.",
        "increase(tcplb_config_reloads_total{result=\"failure\"}[10m]) > 0",
        |scope, samples| {
            samples.with("result", "success", scope.reloads.0);
            samples.with("result", "failure", scope.reloads.1);
        },
    ),
    family(
        "counter",
        "tcplb_upgrade_total",
        "result",
        "Upgrades of the balancer, by `success` and `failure`. The count goes on in the new process.",
        "increase(tcplb_upgrade_total{result=\"failure\"}[10m]) > 0",
        |scope, samples| {
            samples.with("result", "success", scope.upgrades.0);
            samples.with("result", "failure", scope.upgrades.1);
        },
    ),
    family(
        "histogram",
        "tcplb_upgrade_pause_seconds",
        "",
        "How long connections stood still while a new process took them over.",
        "histogram_quantile(0.99, sum by (le) (rate(tcplb_upgrade_pause_seconds_bucket[5m])))",
        |scope, samples| samples.histogram(&scope.upgrade_pauses),
    ),
    family(
        "gauge",
        "tcplb_config_generation",
        "",
        "Counts changes of the configuration in force, from 1.",
        "changes(tcplb_config_generation[1h])",
        |scope, samples| samples.one(scope.generation),
    ),
    family(
        "gauge",
        "tcplb_config_last_reload_success",
        "",
        "1 if the last reload of the configuration file was applied, or there was none; else 0.",
        "tcplb_config_last_reload_success == 0",
        |scope, samples| samples.one(u64::from(scope.last_reload_success)),
    ),
    family(
        "gauge",
        "tcplb_config_last_reload_timestamp_seconds",
        "",
        "When the configuration file was last applied, by a reload or by the start, since the Unix epoch.",
        "time() - tcplb_config_last_reload_timestamp_seconds",
        |scope, samples| samples.one(unix_time(scope.configured)),
    ),
    family(
        "gauge",
        "tcplb_process_connections_active",
        "",
        "Clients that count towards the limit of the process.",
        "",
        |scope, samples| samples.one(scope.connections),
    ),
    family(
        "gauge",
        "tcplb_process_connections_limit",
        "",
        "The most clients connected at once, at all listeners.",
        "tcplb_process_connections_active / tcplb_process_connections_limit > 0.8",
        |scope, samples| samples.one(scope.connections_limit),
    ),
    family(
        "gauge",
        "tcplb_local_ports_used",
        "",
        "Local ports in use towards the backend address with the most connections.",
        "tcplb_local_ports_used / tcplb_local_ports_limit > 0.8",
        |scope, samples| samples.one(scope.ports_used),
    ),
    family(
        "gauge",
        "tcplb_local_ports_limit",
        "",
        "The local ports that the kernel has for connections to one address.",
        "",
        |scope, samples| samples.known(scope.ports_limit),
    ),
    family(
        "counter",
        "tcplb_access_log_lost_total",
        "",
        "Lines of the access log that were not written.",
        "increase(tcplb_access_log_lost_total[10m]) > 0",
        |scope, samples| samples.one(scope.access_log_lost),
    ),
    family(
        "counter",
        "tcplb_log_lines_lost_total",
        "",
        "Lines of the log on stderr that were not written.",
        "increase(tcplb_log_lines_lost_total[10m]) > 0",
        |scope, samples| samples.one(scope.log_lines_lost),
    ),
    family(
        "counter",
        "process_cpu_seconds_total",
        "",
        "User and system CPU time.",
        "rate(process_cpu_seconds_total{job=\"tcplb\"}[1m])",
        |scope, samples| samples.known(scope.process.cpu_seconds),
    ),
    family(
        "gauge",
        "process_open_fds",
        "",
        "Open file descriptors.",
        "process_open_fds / process_max_fds > 0.8",
        |scope, samples| samples.known(scope.process.open_fds),
    ),
    family("gauge", "process_max_fds", "", "The limit on open file descriptors.", "", |scope, samples| {
        samples.known(scope.process.max_fds);
    }),
    family("gauge", "process_virtual_memory_bytes", "", "Virtual memory.", "", |scope, samples| {
        samples.known(scope.process.virtual_bytes);
    }),
    family("gauge", "process_virtual_memory_max_bytes", "", "The limit on virtual memory.", "", |scope, samples| {
        samples.known(scope.process.max_virtual_bytes);
    }),
    family(
        "gauge",
        "process_resident_memory_bytes",
        "",
        "Resident memory.",
        "process_resident_memory_bytes{job=\"tcplb\"}",
        |scope, samples| samples.known(scope.process.resident_bytes),
    ),
    family(
        "gauge",
        "process_start_time_seconds",
        "",
        "When the process started, since the Unix epoch.",
        "time() - process_start_time_seconds{job=\"tcplb\"} < 300",
        |scope, samples| samples.known(scope.process.started),
    ),
];
