//! The JSON types of the API, shared by the server and the command line's clients.
//!
//! Requests are strict: an unknown field is an error. Clients ignore unknown fields of answers, so that they understand
//! a newer server.

mod connections;
mod explain;
mod probe;

use crate::pool::AdminState;
use crate::telemetry::Resets;
pub use connections::{Closed, Connection, LISTED, SomeClosed, SomeConnections};
pub use explain::{Acceptance, Candidate, Explained};
pub use probe::{ProbeStep, ProbeStepKind, Probed, ProbedAddress};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};
use std::collections::BTreeMap;

/// `{"error": "…"}`: every failure, except those of `/register`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Error {
    /// What is wrong and what was expected.
    pub error: String,
}

/// `GET /v1/status`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Status {
    /// The program's version.
    pub version: String,
    /// When the process started, in UTC, as RFC 3339 writes it. Another time is another process.
    pub started: String,
    /// Seconds since the start.
    pub uptime_seconds: u64,
    /// Counts changes of the configuration.
    pub generation: u64,
    /// `running` or `draining`.
    pub state: String,
    /// All of it in one line.
    pub verdict: Verdict,
    /// What an operator should know, worst first; at most [`FINDINGS_MAX`].
    pub findings: Vec<Finding>,
    /// The process and its limits.
    pub process: ProcessView,
    /// All listeners.
    pub listeners: Vec<Listener>,
    /// All pools.
    pub pools: Vec<PoolView>,
}

/// The most findings that a status lists. The verdict counts all of them.
pub const FINDINGS_MAX: usize = 100;

/// How bad a finding is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// Nothing is wrong.
    #[default]
    Ok,
    /// Clients are served, but something fails or is near a limit.
    Warning,
    /// Clients fail.
    Critical,
}

/// One line on the whole state.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Verdict {
    /// The level of the worst finding.
    pub level: Level,
    /// The worst finding, and how many more there are.
    pub text: String,
}

/// Something that an operator should know.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// How bad it is: `warning` or `critical`.
    pub level: Level,
    /// The pool that it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pool: Option<String>,
    /// The backend of that pool that it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backend: Option<String>,
    /// The listener that it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub listener: Option<String>,
    /// One line; it names what it is about.
    pub text: String,
}

/// The process and its limits. A figure that the system does not give is null.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct ProcessView {
    /// Clients connected now, at all listeners.
    pub connections: u64,
    /// The most there may be; clients beyond it wait in the kernel's backlog.
    pub connections_limit: u64,
    /// Open file descriptors.
    pub descriptors: Option<u64>,
    /// The limit on open file descriptors.
    pub descriptors_limit: Option<u64>,
    /// Local ports in use towards the backend address with the most connections. The limit is one per backend address.
    pub ports_used: u64,
    /// Local ports that the kernel gives out.
    pub ports_limit: Option<u64>,
    /// How long a worker's events wait for their turn, over the last minute; null before the first.
    pub loop_lag_ms: Millis,
    /// Lines of the log on stderr that were not written.
    pub log_lines_lost_total: u64,
    /// Those of the last minute.
    pub log_lines_lost_recently: u64,
    /// Lines of the access log that were not written.
    pub access_log_lines_lost_total: u64,
    /// Those of the last minute.
    pub access_log_lines_lost_recently: u64,
    /// Threads that do not respond.
    pub stuck_threads: Vec<String>,
    /// The listeners whose connections the kernel carries. Absent without such a listener.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kernel: Option<KernelView>,
    /// The last reload; null before the first.
    pub last_reload: Option<LastReload>,
}

/// The state of the kernel's engine.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct KernelView {
    /// Entries of these connections in the kernel's table of connections.
    pub entries: u64,
    /// All entries of that table.
    pub table_entries: u64,
    /// The most entries that it holds.
    pub table_max: u64,
    /// Changes of the rules since the start.
    pub changes_total: u64,
    /// Transactions of such changes that failed.
    pub failures_total: u64,
    /// Why the rules are not as they should be. Absent if they are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
    /// What the system lacks, each a sentence.
    pub lacks: Vec<String>,
}

/// The last attempt to reload the configuration.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct LastReload {
    /// Whether it was applied.
    pub success: bool,
    /// Seconds since its end.
    pub age_seconds: u64,
    /// The first mistake, where it was refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// A listener.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Listener {
    /// The listener's name.
    pub name: String,
    /// What carries its connections: `proxy` or `kernel`.
    #[serde(default)]
    pub engine: String,
    /// Where it listens, with the real port. A comma and a space separate several addresses.
    pub address: String,
    /// The pool's name.
    pub pool: String,
    /// Connections open now.
    pub active_connections: u64,
    /// Connections accepted since the start, refused ones included.
    pub accepted_total: u64,
    /// Connections refused since the start.
    pub refused_total: u64,
    /// The most connections at once; null without a limit of its own.
    pub connections_limit: Option<u64>,
    /// Connections refused, by the reasons that occurred.
    pub refused: BTreeMap<String, u64>,
    /// The last minute.
    pub recent: RecentClients,
    /// New clients per second, one number per five seconds, the newest last; at most 36.
    pub history: Vec<f64>,
}

/// A listener over the last minute.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct RecentClients {
    /// How many seconds the figures cover: 60 to 75, less after the start.
    pub seconds: f64,
    /// Clients accepted, refused ones included.
    pub accepted_per_second: f64,
    /// Clients refused.
    pub refused_per_second: f64,
}

/// A backend or a pool over the last minute.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Recent {
    /// How many seconds the figures cover: 60 to 75, less after the start or after a backend was added.
    pub seconds: f64,
    /// Connections that reached a backend.
    pub connections_per_second: f64,
    /// Bytes that clients sent.
    pub bytes_to_backend_per_second: f64,
    /// Bytes that clients received.
    pub bytes_to_client_per_second: f64,
    /// Connection attempts that failed.
    pub connect_failures: u64,
    /// Connections that the backend reset before it sent a byte.
    pub resets_before_byte: u64,
    /// Connections that ended.
    pub ended: u64,
    /// How long connecting took; null if nothing connected.
    pub connect_ms: Millis,
    /// How long the first byte took, connect included; null if none came.
    pub first_byte_ms: Millis,
}

/// A pool.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct PoolView {
    /// The pool's name.
    pub name: String,
    /// The balancing algorithm.
    pub algorithm: String,
    /// `up`; `degraded`: an enabled backend takes no connections; `down`: none takes any.
    pub state: String,
    /// Clients that wait for a backend.
    pub waiting: u64,
    /// A backend has sent bytes before the client did. The pool keeps no warm connections, although `warm_connections` asks for them.
    #[serde(default)]
    pub speaks_first: bool,
    /// The last minute, over all backends.
    pub recent: Recent,
    /// New connections per second, one number per five seconds, the newest last; at most 36.
    pub history: Vec<f64>,
    /// The sources that find backends of the pool.
    #[serde(default)]
    pub discovery: Vec<SourceView>,
    /// The names of its backends that are looked up again.
    #[serde(default)]
    pub names: Vec<NameView>,
    /// The pool's backends.
    pub backends: Vec<BackendView>,
}

/// A source that finds backends.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceView {
    /// Its kind; from the second of a kind in the pool on with a number, like `dns-2`.
    pub source: String,
    /// What it watches: a key, a name, a path, and where.
    #[serde(default)]
    pub watches: String,
    /// Whether its last answer is understood, and no error has followed.
    pub ok: bool,
    /// Seconds since its last answer; null before the first.
    pub last_success_seconds: Option<u64>,
    /// The backends that it has found. A failing source keeps those of its last answer.
    pub backends: u64,
    /// Errors since the start or since its settings changed: failures, entries that were not understood, backends that the pool
    /// can't have.
    pub errors_total: u64,
    /// The last of them; null before the first.
    pub last_error: Option<String>,
    /// Entries of its last answer that were not understood, and backends that the pool can't have.
    #[serde(default)]
    pub entries_left_out: u64,
    /// Why, for the first five of them.
    #[serde(default)]
    pub left_out: Vec<String>,
    /// Backends that stay although the last answer lacks them.
    #[serde(default)]
    pub kept: u64,
    /// Why they stay; null if there are none.
    #[serde(default)]
    pub kept_because: Option<String>,
}

/// The name of one or more backends, which is looked up again.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NameView {
    /// The host name.
    pub name: String,
    /// Whether the last look-up worked.
    pub ok: bool,
    /// Seconds since the last one that worked; null before the first after the start.
    pub last_success_seconds: Option<u64>,
    /// Since when look-ups fail, in seconds; null while they work.
    pub failing_seconds: Option<u64>,
    /// Look-ups that failed.
    pub errors_total: u64,
    /// The last error; null before the first.
    pub last_error: Option<String>,
}

/// A backend.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct BackendView {
    /// Its name; the default is its address.
    pub name: String,
    /// The address, as configured.
    pub address: String,
    /// What added it: `file`, `api`, or a source like `discovery:etcd`.
    #[serde(default)]
    pub origin: String,
    /// Its share of new connections, relative to other backends.
    pub weight: u16,
    /// The weight that choices use now: smaller than `weight` during a slow start. With `approximate`, that of the kernel's rules.
    pub effective_weight: f64,
    /// Whether it serves only when no primary can.
    pub backup: bool,
    /// `up`, `down`, `draining` or `disabled`.
    pub state: String,
    /// Why it is down; null in any other state.
    pub reason: Option<String>,
    /// What an operator should know of its state, in one line; empty if there is nothing.
    pub summary: String,
    /// How urgent it is for an operator.
    pub urgency: Urgency,
    /// Connections open now, or being dialled.
    pub active_connections: u64,
    /// The most connections at once; null without a limit.
    pub connections_limit: Option<u64>,
    /// Connections that are established ahead of need; null where the pool has no `warm_connections`.
    #[serde(default)]
    pub warm_connections: Option<u64>,
    /// Connections since it was added.
    pub connections_total: u64,
    /// Connection attempts that failed.
    pub connect_failures_total: u64,
    /// Bytes that clients sent to it.
    pub bytes_to_backend_total: u64,
    /// Bytes that it sent to clients.
    pub bytes_to_client_total: u64,
    /// How long connecting took, of all connections since it was added.
    pub connect_ms: Millis,
    /// How long the first byte took, connect included, of all connections since it was added.
    pub first_byte_ms: Millis,
    /// The kernel's round-trip time at the end of a connection, averaged over about eight connections; null before the first.
    pub rtt_ms: Option<f64>,
    /// Segments that were sent to it more than once, on connections that have ended.
    pub retransmits_total: u64,
    /// Connections that ended, by the reasons that occurred; the reasons are those of the access log.
    pub closed: BTreeMap<String, u64>,
    /// Set while the backend resets its clients: nine tenths of the last connections, twenty at least, before it sent a byte.
    pub resets: Option<Resets>,
    /// The last minute.
    pub recent: Recent,
    /// New connections per second, one number per five seconds, the newest last; at most 36.
    pub history: Vec<f64>,
    /// Results of health probes.
    pub health: Health,
    /// The addresses of its name; empty while the name is not resolved.
    pub addresses: Vec<BackendAddress>,
}

/// How urgent a backend is for an operator, the worst first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Urgency {
    /// It is down and clients are still connected to it.
    DownWithClients,
    /// It is down.
    Down,
    /// Connects to it fail, or it resets clients before a byte.
    Failing,
    /// It has as many connections as it may have.
    AtLimit,
    /// It has at least four fifths of them.
    NearLimit,
    /// An operator set it aside: it is draining or disabled.
    SetAside,
    /// It is up.
    #[default]
    Up,
}

/// One address of a backend.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct BackendAddress {
    /// The address and port.
    pub address: String,
    /// `up`: it takes its turn. `backoff`: connections of clients failed, so it is skipped for a while. `down`: probes
    /// fail.
    pub state: String,
    /// Connections that reached it.
    pub connections_total: u64,
    /// The result of its last probe; null before the first.
    pub last_result: Option<String>,
}

/// A backend that was added or changed.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Changed {
    /// The backend's current state.
    #[serde(flatten)]
    pub backend: BackendView,
    /// Likely mistakes, one a line, such as weights that the algorithm ignores. Absent if there is none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}

/// A time in milliseconds: interpolated estimates from a histogram, null where nothing was measured.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Millis {
    /// The median.
    pub p50: Option<f64>,
    /// The 99th percentile.
    pub p99: Option<f64>,
}

/// Results of a backend's health probes.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Health {
    /// The result of the last probe; null before the first.
    pub last_result: Option<String>,
    /// Seconds since it last went up or down; null if it never did.
    pub last_change_seconds: Option<u64>,
    /// When that was, in UTC, as RFC 3339 writes it; null if it never did.
    pub since: Option<String>,
    /// Results that count towards a change, such as `down, 1 of 2 successes`; null where none do.
    pub transition: Option<String>,
}

/// `POST /v1/pools/P/backends`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewBackend {
    /// The address and port.
    pub address: String,
    /// Its weight; the default is 1.
    #[serde(default, deserialize_with = "count", skip_serializing_if = "Option::is_none")]
    pub weight: Option<u16>,
    /// Its name; the default is its address.
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Most connections at once; the default is no limit.
    #[serde(default, deserialize_with = "count", skip_serializing_if = "Option::is_none")]
    pub max_connections: Option<u32>,
    /// Whether it serves only when no primary can.
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    pub backup: Option<bool>,
}

/// `PATCH /v1/pools/P/backends/B`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Change {
    /// The new weight.
    #[serde(default, deserialize_with = "count", skip_serializing_if = "Option::is_none")]
    pub weight: Option<u16>,
    /// The new administrative state.
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    pub state: Option<AdminState>,
}

/// `POST /v1/reload`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Reloaded {
    /// Whether nothing was applied.
    pub dry_run: bool,
    /// The generation in force afterwards.
    pub generation: u64,
    /// What changed, one change a line; empty if nothing did.
    pub changes: Vec<String>,
    /// Likely mistakes, one a line; empty if there is none.
    #[serde(default)]
    pub warnings: Vec<String>,
}

/// A reload that was refused: 400.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct NotReloaded {
    /// All mistakes in one text.
    pub error: String,
    /// All mistakes, one a line.
    pub mistakes: Vec<String>,
}

/// `GET /v1/events`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Events {
    /// When the process started, as in [`Status`]. Another process numbers its events anew.
    pub started: String,
    /// The events after `since` that are still kept, oldest first; with `last` at most so many.
    pub events: Vec<Event>,
    /// The number of the last event: the next call's `since`.
    pub next: u64,
}

/// What changed, when, and by what.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// Its number: 1, 2, 3 … since the start of the process.
    pub seq: u64,
    /// When, in UTC (RFC 3339, milliseconds).
    pub time: String,
    /// What happened, as [`crate::events::Kind::word`] says.
    pub kind: String,
    /// The pool it concerns.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pool: Option<String>,
    /// The backend it concerns.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backend: Option<String>,
    /// The state or value before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// The state or value after.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
    /// Why, or what in particular.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The originator, as [`crate::events::By::word`] says.
    pub by: String,
}

/// `POST /register`. An unknown field has its own status, so `register` checks for it.
#[derive(Clone, Debug, Deserialize)]
pub struct Registration {
    /// The backend's address.
    pub address: String,
    /// Its weight.
    #[serde(default, deserialize_with = "count")]
    pub weight: Option<u16>,
}

/// The answer of `/register`, in JSend's form.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Registered {
    /// `success` or `fail`.
    pub status: String,
    /// What is registered, or why it failed.
    pub data: RegisteredData,
}

/// The `data` of [`Registered`].
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(untagged)]
pub enum RegisteredData {
    /// The backend is registered.
    Success {
        /// The backend's address.
        server: String,
        /// Its weight.
        weight: u16,
    },
    /// The backend is not registered.
    Fail {
        /// The reason.
        title: String,
    },
}

/// Accepts an absent field but not null: a client that sends null has lost a value.
fn present<'de, D: Deserializer<'de>, T: Deserialize<'de>>(from: D) -> Result<Option<T>, D::Error> {
    T::deserialize(from).map(Some)
}

/// As [`present`], for a whole number in any notation, since JSON has one number type. The error gives the range.
fn count<'de, D: Deserializer<'de>, T: TryFrom<u64> + Bounded>(from: D) -> Result<Option<T>, D::Error> {
    let number = serde_json::Number::deserialize(from)?;
    let whole = |float: &f64| float.fract() == 0.0 && (0.0..=T::MAX as f64).contains(float);
    let value = number.as_u64().or_else(|| number.as_f64().filter(whole).map(|float| float as u64));
    let wrong = || D::Error::custom(format!("expected a number from 0 to {}, got {number}", T::MAX));
    value.and_then(|value| T::try_from(value).ok()).map(Some).ok_or_else(wrong)
}

/// Number types with a largest value.
trait Bounded {
    const MAX: u64;
}

impl Bounded for u16 {
    const MAX: u64 = u16::MAX as u64;
}

impl Bounded for u32 {
    const MAX: u64 = u32::MAX as u64;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_strict_and_errors_say_what_is_expected() {
        let read = |body: &str| serde_json::from_str::<NewBackend>(body).map_err(|error| error.to_string());
        let good = read(r#"{"address":"a:1","weight":5.0,"max_connections":7,"backup":true,"name":"x"}"#).unwrap();
        assert_eq!((good.weight, good.max_connections, good.backup), (Some(5), Some(7), Some(true)));
        for (body, want) in [
            (r#"{"address":"a:1","weight":70000}"#, "expected a number from 0 to 65535, got 70000"),
            (r#"{"address":"a:1","weight":-1}"#, "expected a number from 0 to 65535, got -1"),
            (r#"{"address":"a:1","weight":1.5}"#, "got 1.5"),
            (r#"{"address":"a:1","weight":1e99}"#, "expected a number from 0 to 65535"),
            (r#"{"address":"a:1","weight":null}"#, "null"),
            (r#"{"address":"a:1","weight":"5"}"#, "string"),
            (r#"{"address":"a:1","name":null}"#, "null"),
            (r#"{"address":"a:1","max_connections":4294967296}"#, "4294967295"),
            (r#"{"address":"a:1","wieght":5}"#, "unknown field `wieght`"),
            (r#"{"weight":5}"#, "missing field `address`"),
        ] {
            let message = read(body).unwrap_err();
            assert!(message.contains(want), "{body}: {message}");
        }
        assert!(serde_json::from_str::<Change>(r#"{"state":"up"}"#).is_err());
    }
}
