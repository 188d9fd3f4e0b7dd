//! The sections of the file: which keys each has, what they become, and the rules within one section.
//!
//! A key that is missing or wrong leaves the default of the model.

use super::across;
use super::table::{Found, Table};
use super::{Parsed, values};
use crate::base::{Address, Listen, duration};
use crate::config::check::{self, WORKERS_MAX};
use crate::config::model::{
    Abandoned, AllDown, Backend, Engine, Global, Health, HealthKind, InitialHealth, Listener, LogFormat, LogTo, Model,
    Names, Pool, PrefixFile, Sandbox, SendProxy, SocketFile, defaults,
};
use crate::config::words;
use std::path::PathBuf;
use std::sync::Arc;

/// What stands in no section.
pub const ROOT: &[&str] = &["global", "listener", "pool"];

const GLOBAL: &[&str] = &[
    "workers",
    "max_connections",
    "shutdown_delay",
    "shutdown_timeout",
    "dead_peer_timeout",
    "socket_buffer",
    "relay",
    "names",
    "admin",
    "admin_token_file",
    "user",
    "group",
    "sandbox",
    "access_log",
    "log_format",
    "metrics_per_backend",
];

const LISTENER: &[&str] = &[
    "name",
    "bind",
    "pool",
    "accept_proxy",
    "trusted_proxies",
    "allow",
    "deny",
    "allow_file",
    "deny_file",
    "max_connections",
    "max_connections_per_source",
    "connection_rate_per_source",
    "limits",
    "mode",
    "owner",
    "group",
];

const POOL: &[&str] = &[
    "name",
    "algorithm",
    "send_proxy",
    "connect_timeout",
    "connect_attempts",
    "idle_timeout",
    "half_close_timeout",
    "max_lifetime",
    "on_down",
    "on_remove",
    "slow_start",
    "warm_connections",
    "no_backend",
    "abandoned",
    "all_down",
    "outlier_failures",
    "health",
    "backend",
    "discover",
];

const HEALTH: &[&str] =
    &["kind", "initial", "path", "host", "expect_status", "port", "interval", "timeout", "rise", "fall"];

/// Why a setting of probes is refused beside `kind = "off"`.
const OFF_HAS_NONE: &str = "expected probes, but kind is `off`";

/// Those that only an HTTP probe has a use for.
const HTTP_ONLY: [&str; 3] = ["path", "host", "expect_status"];

const BACKEND: &[&str] = &["name", "address", "weight", "max_connections", "backup", "send_proxy"];

const DISCOVER: &[&str] = &["kind", "name"];

/// Every key there is, by section.
pub const KEYS: [(&str, &[&str]); 6] = [
    ("global", GLOBAL),
    ("listener", LISTENER),
    ("pool", POOL),
    ("pool.health", HEALTH),
    ("pool.backend", BACKEND),
    ("pool.discover", DISCOVER),
];

const NOT_YET: &str = "is not in this version yet";

/// Counts that a limit of zero would make nonsense of.
const COUNT: std::ops::RangeInclusive<u64> = 1..=u32::MAX as u64;

/// The whole file.
pub fn file(root: &Table<'_>) -> Parsed {
    let section = root.table("global", GLOBAL);
    let global = section.as_ref().map(global).unwrap_or_default();
    let workers_per_core = !section.is_some_and(|table| table.has("workers"));
    let listeners: Vec<_> = root.tables("listener", LISTENER).into_iter().map(|at| (listener(&at), at)).collect();
    let pools: Vec<_> = root.tables("pool", POOL).into_iter().map(|at| (pool(&at), at)).collect();
    across::check(root, section.as_ref().map(|at| (&global, at)), &listeners, &pools);
    let model = Model {
        global,
        listeners: across::with_pools(listeners, &pools),
        pools: pools.into_iter().map(|(pool, _)| pool).collect(),
    };
    Parsed { model, workers_per_core }
}

fn global(at: &Table<'_>) -> Global {
    let default = Global::default();
    let admin = at.text("admin", Listen::parse);
    let token = at.text("admin_token_file", path);
    if let Some(admin) = admin.as_ref().filter(|admin| !check::is_local(admin) && !at.has("admin_token_file")) {
        at.wrong("admin", format!("`{admin}` can be reached from elsewhere, so it needs an admin_token_file"));
    }
    let (user, group) = (at.text("user", name), at.text("group", name));
    if group.is_some() && !at.has("user") {
        at.wrong("group", check::GROUP_ALONE);
    }
    Global {
        workers: at.number("workers", 1..=WORKERS_MAX as u64).unwrap_or(default.workers),
        max_connections: at.number("max_connections", COUNT),
        shutdown_delay: at.text("shutdown_delay", values::zero_or_more).unwrap_or(default.shutdown_delay),
        // No time at all is a setting here: reset what is open at once.
        shutdown_timeout: at.text("shutdown_timeout", duration::parse).unwrap_or(default.shutdown_timeout),
        dead_peer_timeout: at.text("dead_peer_timeout", values::dead_peer_timeout).unwrap_or(default.dead_peer_timeout),
        socket_buffer: at.text("socket_buffer", values::socket_buffer),
        relay: at.text("relay", |text| words::one_of(text, &Engine::NAMES)).unwrap_or(default.relay),
        names: at.text("names", |text| words::one_of(text, &Names::NAMES)).unwrap_or(default.names),
        admin,
        admin_token_file: token,
        user,
        group,
        sandbox: at.text("sandbox", |text| words::one_of(text, &Sandbox::NAMES)).unwrap_or(default.sandbox),
        access_log: at.text("access_log", path).map(LogTo::from),
        log_format: at.text("log_format", |text| words::one_of(text, &LogFormat::NAMES)).unwrap_or(default.log_format),
        metrics_per_backend: at.yes_or_no("metrics_per_backend").unwrap_or(default.metrics_per_backend),
    }
}

fn listener(at: &Table<'_>) -> (Listener, Vec<Found<Listen>>) {
    let default = Listener::default();
    if !at.has("bind") {
        at.missing("a listener needs bind, like bind = [\":8080\"]".to_owned());
    }
    let bind = at.filled_list("bind", "say where clients connect, like [\":8080\"]", Listen::parse).unwrap_or_default();
    let prefixes = |list: Option<Vec<Found<_>>>| values_of(&list.unwrap_or_default());
    let anybody = "leave the key out to let anybody in";
    let listener = Listener {
        name: at.text("name", name).unwrap_or(default.name),
        bind: values_of(&bind),
        pool: at.text("pool", name).unwrap_or(default.pool),
        accept_proxy: at.yes_or_no("accept_proxy").unwrap_or(default.accept_proxy),
        trusted_proxies: prefixes(at.filled_list(
            "trusted_proxies",
            "leave the key out to trust anybody",
            values::prefix,
        )),
        allow: prefixes(at.filled_list("allow", anybody, values::prefix)),
        deny: prefixes(at.list("deny", values::prefix)),
        allow_file: at.text("allow_file", prefix_file),
        deny_file: at.text("deny_file", prefix_file),
        max_connections: at.number("max_connections", COUNT),
        max_connections_per_source: at.number("max_connections_per_source", COUNT),
        connection_rate_per_source: at.text("connection_rate_per_source", values::rate),
        limits_dry_run: at
            .text("limits", |text| words::one_of(text, &Listener::LIMITS))
            .unwrap_or(default.limits_dry_run),
        socket_file: SocketFile {
            mode: at.text("mode", values::mode),
            owner: at.text("owner", values::account),
            group: at.text("group", values::account),
        },
    };
    if !bind.is_empty() && listener.socket_files().next().is_none() {
        let SocketFile { mode, owner, group } = &listener.socket_file;
        let given = [("mode", mode.is_some()), ("owner", owner.is_some()), ("group", group.is_some())];
        for (key, _) in given.into_iter().filter(|(_, given)| *given) {
            let addresses = listener.bind.iter().map(Listen::to_string).collect::<Vec<_>>().join(", ");
            at.wrong(key, format!("only a socket file (unix:/path) has one, and this listener binds {addresses}"));
        }
    }
    (listener, bind)
}

fn pool(at: &Table<'_>) -> Pool {
    let default = Pool::default();
    let time = |key, default| at.text(key, duration::parse_positive).unwrap_or(default);
    if at.number("warm_connections", 0..=u64::from(u32::MAX)).is_some_and(|spare: u64| spare > 0) {
        at.wrong("warm_connections", format!("more than 0 {NOT_YET}"));
    }
    for discover in at.tables("discover", DISCOVER) {
        discover.notes().wrong(discover.start(), format!("[[pool.discover]] {NOT_YET}: list the backends"));
    }
    let lifetime = at.text("max_lifetime", values::zero_or_more);
    let backends: Vec<_> = at.tables("backend", BACKEND).iter().filter_map(|at| Some((backend(at)?, *at))).collect();
    across::backends(&backends);
    let health = at.table("health", HEALTH).map_or(default.health, |at| health(&at));
    for (backend, at) in &backends {
        if let Err(why) = check::probe_port(&health, &backend.address) {
            at.wrong("address", why);
        }
    }
    Pool {
        name: at.text("name", name).unwrap_or(default.name),
        algorithm: at.text("algorithm", words::algorithm).unwrap_or(default.algorithm),
        connect_timeout: time("connect_timeout", default.connect_timeout),
        connect_attempts: at.number("connect_attempts", COUNT).unwrap_or(default.connect_attempts),
        idle_timeout: time("idle_timeout", default.idle_timeout),
        half_close_timeout: time("half_close_timeout", default.half_close_timeout),
        max_lifetime: lifetime.map_or(default.max_lifetime, |time| Some(time).filter(|time| !time.is_zero())),
        on_down: at.text("on_down", values::on_down).unwrap_or(default.on_down),
        on_remove: at.text("on_remove", values::on_remove).unwrap_or(default.on_remove),
        slow_start: at.text("slow_start", values::zero_or_more).unwrap_or(default.slow_start),
        no_backend: at.text("no_backend", values::no_backend).unwrap_or(default.no_backend),
        abandoned: at.text("abandoned", |text| words::one_of(text, &Abandoned::NAMES)).unwrap_or(default.abandoned),
        all_down: at.text("all_down", |text| words::one_of(text, &AllDown::NAMES)).unwrap_or(default.all_down),
        outlier_failures: at.number("outlier_failures", 0..=u64::from(u32::MAX)).unwrap_or(default.outlier_failures),
        send_proxy: at.text("send_proxy", values::proxy).and_then(SendProxy::version),
        health,
        backends: backends.into_iter().map(|(backend, _)| backend).collect(),
    }
}

fn health(at: &Table<'_>) -> Health {
    let default = Health::default();
    let interval = at.text("interval", duration::parse_positive);
    let timeout = at.text("timeout", duration::parse_positive);
    // With a mistaken interval there is nothing to compare with.
    let known = interval.is_some() || !at.has("interval");
    let interval = interval.unwrap_or(default.interval);
    if let Some(timeout) = timeout.filter(|timeout| known && *timeout > interval) {
        let (timeout, interval) = (duration::written(timeout), duration::written(interval));
        at.wrong(
            "timeout",
            format!("expected at most the interval of {interval}, got `{timeout}`: a probe must end before the next"),
        );
    }
    let (kind, port) = (health_kind(at), at.number("port", 1..=u64::from(u16::MAX)));
    if is_off(at) && at.has("port") {
        at.wrong("port", format!("{OFF_HAS_NONE}: leave one of the two out"));
    }
    let initial = at.text("initial", |text| words::one_of(text, &InitialHealth::NAMES)).unwrap_or(default.initial);
    if is_off(at) && initial == InitialHealth::Down {
        at.wrong("initial", format!("{OFF_HAS_NONE}: no probe would ever let a client in"));
    }
    Health {
        kind,
        initial,
        port,
        interval,
        timeout: timeout.unwrap_or(default.timeout.min(interval)),
        rise: at.number("rise", COUNT).unwrap_or(default.rise),
        fall: at.number("fall", COUNT).unwrap_or(default.fall),
    }
}

/// A kind that is wrong counts as `off` in the model, but the file does not say so.
fn is_off(at: &Table<'_>) -> bool {
    at.raw("kind").is_some_and(|kind| kind.eq_ignore_ascii_case("off"))
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Tcp,
    Http,
    Agent,
    Off,
}

fn health_kind(at: &Table<'_>) -> HealthKind {
    const KINDS: [(&str, Kind); 4] =
        [("tcp", Kind::Tcp), ("http", Kind::Http), ("agent", Kind::Agent), ("off", Kind::Off)];
    // All of them are read in any case, so that what is wrong with them is told in one go with a wrong kind.
    let path = at.text("path", |text| check::health_path(text).map(|()| text.to_owned()));
    let host = at.text("host", |text| check::health_host(text).map(|()| text.to_owned()));
    let expect = at.filled_list("expect_status", "no answer would do", values::status);
    let http = HealthKind::Http {
        path: path.unwrap_or_else(|| defaults::HEALTH_PATH.to_owned()),
        host,
        expect: expect.map_or_else(|| vec![defaults::EXPECT_STATUS], |list| values_of(&list)),
    };
    if !at.has("kind") {
        // As with --health-path: who names a path wants it asked for.
        return if HTTP_ONLY.iter().any(|key| at.has(key)) { http } else { HealthKind::Tcp };
    }
    let Some(kind) = at.text("kind", |text| words::one_of(text, &KINDS)) else { return HealthKind::Tcp };
    let chosen = match kind {
        Kind::Http => return http,
        Kind::Tcp => HealthKind::Tcp,
        Kind::Off => HealthKind::Off,
        Kind::Agent => {
            at.wrong("kind", format!("`agent` {NOT_YET}: tcp, http and off are"));
            return HealthKind::Off;
        }
    };
    for key in HTTP_ONLY.iter().filter(|key| at.has(key)) {
        let kind = at.raw("kind").unwrap_or_default();
        at.wrong(key, format!("only an HTTP probe has a use for it, but kind is `{kind}`: leave one of the two out"));
    }
    chosen
}

fn backend(at: &Table<'_>) -> Option<Backend> {
    if !at.has("address") {
        at.missing("a backend needs an address, like address = \"127.0.0.1:8081\"".to_owned());
    }
    // Every key is read, even without an address: all mistakes at once.
    let address = at.text("address", Address::parse_backend);
    let (given, weight) = (at.text("name", name), at.number("weight", 0..=u64::from(u16::MAX)));
    let (max_connections, backup) = (at.number("max_connections", COUNT), at.yes_or_no("backup"));
    let send_proxy = at.text("send_proxy", values::proxy);
    let default = Backend::at(address?);
    Some(Backend {
        name: given.unwrap_or(default.name),
        weight: weight.unwrap_or(default.weight),
        max_connections,
        backup: backup.unwrap_or(default.backup),
        send_proxy,
        ..default
    })
}

fn name(text: &str) -> Result<String, String> {
    check::name(text).map(|()| text.to_owned())
}

/// What it holds is read by whoever read this file ([`super::list`]).
fn prefix_file(text: &str) -> Result<PrefixFile, String> {
    Ok(PrefixFile { path: path(text)?, prefixes: Arc::default() })
}

fn path(text: &str) -> Result<PathBuf, String> {
    if text.is_empty() || text.contains('\0') {
        return Err(format!("expected the path of a file, got `{text}`"));
    }
    Ok(PathBuf::from(text))
}

fn values_of<T: Clone>(list: &[Found<T>]) -> Vec<T> {
    list.iter().map(|found| found.value.clone()).collect()
}
