//! `upstream`, or the address of `proxy_pass` → a pool.
//!
//! The time-outs stand in the `server` that leads there, so a pool is an upstream together with these.

use super::Level;
use super::table::SERVER;
use super::value::{self, bytes, is_on, source, time};
use super::words::Directive;
use crate::base::duration;
use crate::config::model::Pattern;
use crate::import::keywords::find;
use crate::import::model::{Backend, Check, Discover, Health, Pool, Step};
use crate::import::note::Notes;
use std::time::Duration;

/// What nginx does without a directive that says otherwise.
const CONNECT: Duration = Duration::from_secs(60);
const IDLE: Duration = Duration::from_secs(10 * 60);
const CHECK_INTERVAL: Duration = Duration::from_secs(5);
const CHECK_TIMEOUT: Duration = Duration::from_secs(5);

/// The pool of an upstream for a server.
pub fn of_upstream(upstream: &Directive, level: &Level<'_>, notes: &mut Notes) -> Pool {
    let mut pool = Pool { algorithm: Some(algorithm(upstream, notes)), ..Pool::default() };
    let resolvers = resolvers(upstream, level);
    let mut fails: Vec<u64> = Vec::new();
    for server in upstream.inner().iter().filter(|directive| directive.name() == "server") {
        fails.extend(backend(server, &resolvers, &mut pool, notes));
    }
    if !fails.is_empty() && pool.backends.len() > 1 {
        // Of several, the most patient one.
        pool.outlier_failures = fails.into_iter().max();
    }
    of_server(level, &mut pool, notes);
    pool
}

/// The pool of an address. The error says what is wrong with it.
pub fn of_address(address: &str, level: &Level<'_>, notes: &mut Notes) -> Result<Pool, String> {
    let address = value::target(address.trim_end_matches(':'))?.to_string();
    let backend = Backend { address, ..Backend::default() };
    let mut pool = Pool { algorithm: Some("weighted-round-robin"), backends: vec![backend], ..Pool::default() };
    of_server(level, &mut pool, notes);
    Ok(pool)
}

fn algorithm(upstream: &Directive, notes: &mut Notes) -> &'static str {
    let mut algorithm = "weighted-round-robin";
    for method in upstream.inner() {
        let changed = |notes: &mut Notes, what: &str| notes.changed(method.line, format!("{}: {what}", method.shown()));
        algorithm = match method.name() {
            "least_conn" => "least-connections",
            "random" => match (method.word(1), method.word(2)) {
                ("", _) => "random",
                ("two", "" | "least_conn") => "power-of-two",
                ("two", by) if by.starts_with("least_time") => {
                    changed(notes, "power-of-two compares connections, not times");
                    "power-of-two"
                }
                _ => {
                    notes.refused(method.line, format!("{}: tcplb has no such algorithm", method.shown()));
                    algorithm
                }
            },
            "least_time" => {
                changed(notes, "least-time always measures up to the first byte");
                "least-time"
            }
            "hash" => match method.word(1) {
                "$remote_addr" | "$binary_remote_addr" => {
                    changed(
                        notes,
                        "source-hash sends a client to the same backend each time, but to another one than nginx",
                    );
                    "source-hash"
                }
                _ => {
                    let why = "only the client's address can be hashed";
                    notes.refused(method.line, format!("{}: {why}", method.shown()));
                    algorithm
                }
            },
            _ => continue,
        };
    }
    algorithm
}

/// Name servers as `IP:PORT`, of the upstream or of a level around it.
fn resolvers(upstream: &Directive, level: &Level<'_>) -> Vec<String> {
    let own: Vec<&Directive> = upstream.inner().iter().filter(|directive| directive.name() == "resolver").collect();
    let all = if own.is_empty() { level.all("resolver") } else { own };
    let words = all.into_iter().flat_map(Directive::arguments).filter(|word| !word.contains('='));
    words
        .filter(|word| word.parse::<std::net::SocketAddr>().is_ok() || word.parse::<std::net::IpAddr>().is_ok())
        .cloned()
        .collect()
}

/// Adds a server to the pool. Returns the number of failures that it may have, if that is more than one.
fn backend(server: &Directive, resolvers: &[String], pool: &mut Pool, notes: &mut Notes) -> Option<u64> {
    let mut backend = Backend { address: server.word(1).to_owned(), ..Backend::default() };
    let (mut fails, mut service) = (None, None);
    for word in server.arguments().iter().skip(1) {
        let (name, value) = word.split_once('=').unwrap_or((word, ""));
        let Some(parameter) = find(SERVER, name) else {
            notes.refused(server.line, format!("{word}: nginx has no such parameter of a server"));
            continue;
        };
        let number = value.parse::<u64>().ok();
        let wrong = |notes: &mut Notes, expected: &str| {
            notes.refused(server.line, format!("{name}: expected {expected}, got `{value}`"));
        };
        match name {
            "weight" | "max_conns" | "max_fails" if number.is_none() => wrong(notes, "a number"),
            "slow_start" if time(value).is_none() => wrong(notes, "a time"),
            "weight" => backend.weight = number.map(|weight| weight.min(65_535)),
            "max_conns" => backend.max_connections = number.filter(|number| *number > 0),
            "backup" => backend.backup = true,
            "slow_start" => pool.slow_start = time(value),
            "max_fails" => {
                fails = number;
                match number {
                    // One failed connect keeps a backend out for a moment in any case.
                    Some(1) => {}
                    Some(0) => notes.changed(server.line, "max_fails=0: a failed connect keeps a backend out for a moment".to_owned()),
                    _ => notes.changed(
                        server.line,
                        format!("{word}: outlier_failures counts failed clients in a row, also those that are reset within a second"),
                    ),
                }
            }
            "fail_timeout" => notes.changed(server.line, format!("{word}: {}", parameter.why)),
            "down" => {
                backend.weight = Some(0);
                notes.changed(
                    server.line,
                    "down: weight = 0 takes no new clients; `tcplb backends weight` sets it".to_owned(),
                );
            }
            "service" => service = Some(value.to_owned()),
            _ => {}
        }
    }
    if let Some(service) = service {
        let service = if service.contains('.') { service } else { format!("_{service}._tcp") };
        pool.discover.push(Discover {
            srv: Some(format!("{service}.{}", backend.address)),
            resolvers: resolvers.to_vec(),
            weight: backend.weight,
            max_connections: backend.max_connections,
            backup: backend.backup,
            ..Discover::default()
        });
        return None;
    }
    match value::server(&backend.address) {
        Ok(_) => {
            let same = pool.backends.iter().filter(|other| other.address == backend.address).count();
            // A backend without a name is called by its address.
            backend.name = (same > 0).then(|| format!("{}-{}", backend.address, same + 1));
            pool.backends.push(backend);
        }
        Err(why) => notes.refused(server.line, format!("server: {why}")),
    }
    fails.filter(|fails| *fails > 1)
}

/// What the server says about its connections to the pool.
fn of_server(level: &Level<'_>, pool: &mut Pool, notes: &mut Notes) {
    let on = |name: &str| level.one(name).is_some_and(|directive| is_on(directive.word(1)));
    pool.connect = Some(level.time("proxy_connect_timeout", CONNECT, notes));
    pool.idle = Some(level.time("proxy_timeout", IDLE, notes));
    pool.half_close = pool.idle;
    let tries = level.number("proxy_next_upstream_tries", notes);
    let next = level.one("proxy_next_upstream").is_none_or(|directive| is_on(directive.word(1)));
    let all = (pool.backends.len() as u64).max(1);
    pool.connect_attempts = Some(match (next, tries) {
        (false, _) => 1,
        (true, Some(tries)) if tries > 0 => tries.min(u64::from(u32::MAX)),
        // Each server once. What a source will find is not known.
        (true, _) if pool.discover.is_empty() => all,
        (true, _) => all.max(3),
    });
    if on("proxy_protocol") {
        pool.backends.iter_mut().for_each(|backend| backend.send_proxy = Some("v1"));
        if let (false, Some(directive)) = (pool.discover.is_empty(), level.one("proxy_protocol")) {
            notes.refused(directive.line, "proxy_protocol: a pool with a source needs send_proxy by hand".to_owned());
        }
    }
    if let Some(directive) = level.one("proxy_bind") {
        match source(directive.arguments()) {
            Ok(source) => pool.source = source,
            Err(why) => notes.refused(directive.line, format!("proxy_bind: {why}")),
        }
    }
    pool.health = health(level, notes);
    if let (true, Some(directive)) = (pool.drop_port_of_unix(), level.one("health_check")) {
        notes.refused(directive.line, "health_check port: a server is a unix socket, which has no port".to_owned());
    }
    if let (Some(_), Some(directive)) = (pool.drop_probes_without_port(), level.one("health_check")) {
        let why = "a probe has no client, so a server with $server_port needs port=";
        notes.refused(directive.line, format!("health_check: {why}"));
    }
    if let Some(directive) = level.one("proxy_session_drop").filter(|directive| is_on(directive.word(1))) {
        (pool.on_down_reset, pool.on_remove_reset) = (pool.health.check != Check::Off, true);
        notes.changed(directive.line, "proxy_session_drop: connections are reset, not closed".to_owned());
    }
}

/// Without `health_check` nginx sends no probes.
fn health(level: &Level<'_>, notes: &mut Notes) -> Health {
    let Some(directive) = level.one("health_check") else { return Health::default() };
    let mut health = Health {
        check: Check::Tcp,
        interval: Some(CHECK_INTERVAL),
        timeout: None,
        rise: Some(1),
        fall: Some(1),
        ..Health::default()
    };
    for word in directive.arguments() {
        let (name, value) = word.split_once('=').unwrap_or((word, ""));
        let number = value.parse::<u64>().ok().filter(|number| *number > 0);
        let pause = time(value).filter(|time| !time.is_zero());
        let mut wrong = |expected: &str| {
            notes.refused(directive.line, format!("health_check {name}: expected {expected}, got `{value}`"));
        };
        match name {
            "interval" if pause.is_none() => wrong("a time"),
            "fails" | "passes" if number.is_none() => wrong("a number"),
            "port" if number.is_none_or(|port| port > 65_535) => wrong("a port"),
            "interval" => health.interval = pause,
            "jitter" => {}
            "fails" => health.fall = number,
            "passes" => health.rise = number,
            "port" => health.port = number,
            "mandatory" => health.initial_down = true,
            "persistent" => notes.dropped(directive.line, "persistent: a reload keeps the health state".to_owned()),
            "match" => match level.stream.iter().find(|block| block.name() == "match" && block.word(1) == value) {
                Some(block) => health.check = script(block, notes),
                None => notes.refused(directive.line, format!("match={value}: there is no such block")),
            },
            _ => notes.refused(directive.line, format!("health_check {word}: tcplb has no such probe")),
        }
    }
    let interval = health.interval.unwrap_or(CHECK_INTERVAL);
    let timeout = level.time("health_check_timeout", CHECK_TIMEOUT, notes);
    if timeout > interval {
        let line = level.one("health_check_timeout").unwrap_or(directive).line;
        let (longer, shorter) = (duration::written(timeout), duration::written(interval));
        notes.changed(
            line,
            format!("health_check_timeout: interval is {longer}, not {shorter}: a probe ends before the next one"),
        );
    }
    (health.interval, health.timeout) = (Some(interval.max(timeout)), Some(timeout));
    health
}

fn script(block: &Directive, notes: &mut Notes) -> Check {
    let mut steps = Vec::new();
    for row in block.inner() {
        match row.name() {
            "send" => steps.push(Step::Send(bytes(row.word(1)))),
            "expect" => {
                let pattern = match row.word(1) {
                    "~" => row.word(2).to_owned(),
                    "~*" => format!("(?i){}", row.word(2)),
                    text => bytes(text)
                        .iter()
                        .map(|byte| {
                            let letter = char::from(*byte);
                            if letter.is_ascii_alphanumeric() || letter == ' ' {
                                letter.to_string()
                            } else {
                                format!("\\x{byte:02x}")
                            }
                        })
                        .collect(),
                };
                match Pattern::new(&pattern) {
                    Ok(_) => steps.push(Step::ExpectRegex(pattern)),
                    Err(why) => notes.refused(row.line, format!("expect: {why}")),
                }
            }
            _ => notes.refused(row.line, format!("{}: a script sends and expects bytes only", row.shown())),
        }
    }
    // The bytes to send go out first, wherever they stand.
    steps.sort_by_key(|step| !matches!(step, Step::Send(_)));
    if steps.is_empty() { Check::Tcp } else { Check::Script(steps) }
}
