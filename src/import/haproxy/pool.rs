//! `backend`, and the same part of `listen` → a pool.

use super::check;
use super::proxy::{At, Proxy, is_unknown};
use super::server::Options;
use super::value::{self, Place, Port};
use super::words::Line;
use crate::base::duration;
use crate::import::model::{Backend, Check, Discover, Health, Origin, Pool};
use crate::import::note::Notes;
use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

/// What HAProxy does without a line that says otherwise.
const RETRIES: u64 = 3;
const INTER: Duration = Duration::from_secs(2);
const RISE: u64 = 2;
const FALL: u64 = 3;
const ERROR_LIMIT: u64 = 10;

/// What a pool takes from the listeners that lead to it.
#[derive(Debug, Default)]
pub struct Front {
    /// The `timeout client` of each; `None` is without an end.
    pub clients: Vec<Option<At<Duration>>>,
    /// The `timeout client-fin`, where one is set.
    pub fins: Vec<At<Duration>>,
    /// All ports that they listen on; `None` is a unix socket.
    pub ports: BTreeSet<Option<u16>>,
    /// Whether one of them expects a PROXY header.
    pub accept_proxy: bool,
    /// Whether one of them leads elsewhere too. Then it can't take over rules of the pool.
    pub routes: bool,
}

/// A server with its options.
struct Server<'a> {
    line: &'a Line,
    options: Options,
}

/// The pool of a proxy. `resolvers` has the name servers of each section `resolvers`.
pub fn pool(proxy: &Proxy, front: &Front, resolvers: &HashMap<String, Vec<String>>, notes: &mut Notes) -> Pool {
    let mut pool = Pool {
        origin: Origin(proxy.line, proxy.shown()),
        name: proxy.name.clone(),
        algorithm: Some(algorithm(proxy, notes)),
        connect: Some(proxy.timeout("connect").unwrap_or(duration::MAX)),
        connect_attempts: Some(proxy.retries.unwrap_or(RETRIES).saturating_add(1).min(u64::from(u32::MAX))),
        abandoned_drop: proxy.has("option abortonclose"),
        ..Pool::default()
    };
    times(proxy, front, &mut pool, notes);
    let servers = servers(proxy, notes);
    pool.source = source(proxy, &servers, notes);
    if proxy.kind == "backend" && front.routes {
        for line in proxy.rules.iter().filter(|line| matches!(line.word(2), "reject" | "silent-drop")) {
            notes.refused(
                line.number,
                format!("{}: a listener refuses clients, and one with routes has no list for each", line.shown()),
            );
        }
    }
    for server in &servers {
        backend(server, front, resolvers, &mut pool, notes);
    }
    if let Some(line) = &proxy.dispatch {
        match value::place(line.word(1)) {
            Ok(Place::Host(host, Port::Fixed(port))) => {
                pool.backends.push(Backend { address: value::joined(&host, port), ..Backend::default() });
            }
            _ => {
                notes.refused(line.number, format!("dispatch: expected an address with a port, got `{}`", line.word(1)))
            }
        }
    }
    let backups: Vec<_> = servers.iter().filter(|server| server.options.backup).collect();
    if let ([_, second, ..], false) = (&backups[..], proxy.has("option allbackups")) {
        notes.changed(second.line.number, "backup: all backups share, as with option allbackups".to_owned());
    }
    whole_pool(proxy, &servers, &mut pool, notes);
    pool.health = health(proxy, &servers, notes);
    if pool.drop_port_of_unix() {
        notes.refused(proxy.line, format!("{}: the probes have a port, but a server is a unix socket", proxy.shown()));
    }
    if let Some(backend) = pool.drop_probes_without_port() {
        let server = servers.iter().find(|server| backend.name.as_deref() == Some(server.line.word(1)));
        notes.refused(
            server.map_or(proxy.line, |server| server.line.number),
            format!(
                "check: a probe has no client, so expected `port` for {}, whose port is the client's",
                backend.address
            ),
        );
    }
    // Neither has an effect alone.
    pool.abandoned_drop &= pool.wait.is_some();
    pool.on_down_reset &= pool.health.check != Check::Off;
    pool
}

fn algorithm(proxy: &Proxy, notes: &mut Notes) -> &'static str {
    let stick: Vec<&Line> = proxy.stick.iter().collect();
    let by_source = |line: &&&Line| line.word(2) == "src" && !line.from(3).any(|word| matches!(word, "if" | "unless"));
    for line in stick.iter().filter(|line| !by_source(line)) {
        notes
            .refused(line.number, format!("{}: only the client's address keeps a client at its backend", line.shown()));
    }
    let sticky = stick.iter().find(|line| matches!(line.word(1), "on" | "match") && by_source(line));
    let Some(line) = &proxy.balance else {
        return sticky.map_or("weighted-round-robin", |line| stuck(line, notes));
    };
    if is_unknown(line, notes) {
        return "weighted-round-robin";
    }
    let (method, rest) = line.word(1).split_once('(').unwrap_or((line.word(1), ""));
    let algorithm = match method {
        "roundrobin" | "static-rr" => "weighted-round-robin",
        "leastconn" => "least-connections",
        "first" => "first",
        "random" => match rest.trim_end_matches(')') {
            "" | "2" => "power-of-two",
            "1" => "random",
            draws => {
                notes.changed(line.number, format!("balance random: power-of-two draws two backends, not {draws}"));
                "power-of-two"
            }
        },
        "source" | "hash" if method == "source" || line.word(2) == "src" => {
            notes.changed(
                line.number,
                "balance source: source-hash sends a client to the same backend each time, but to another one than HAProxy".to_owned(),
            );
            "source-hash"
        }
        _ => {
            notes.refused(line.number, format!("{}: tcplb has no such algorithm", line.shown()));
            "weighted-round-robin"
        }
    };
    sticky.map_or(algorithm, |line| stuck(line, notes))
}

fn stuck(line: &Line, notes: &mut Notes) -> &'static str {
    notes.changed(
        line.number,
        "stick: the first connection of a client goes to each backend in turn; weights and balance do not count"
            .to_owned(),
    );
    "sticky-round-robin"
}

/// One time for both sides and all listeners: HAProxy closes as soon as one of them is over, or `timeout tunnel` alone.
fn times(proxy: &Proxy, front: &Front, pool: &mut Pool, notes: &mut Notes) {
    let endless = duration::MAX;
    let server = proxy.timeouts.get("server");
    let length = |At(_, time): &At<Duration>| if time.is_zero() { endless } else { *time };
    let of = |time: Option<&At<Duration>>| time.map_or(endless, length);
    let client = front.clients.iter().map(|time| of(time.as_ref())).max().unwrap_or(endless);
    let idle = proxy.timeout("tunnel").unwrap_or(of(server).min(client));
    pool.idle = Some(idle);
    let sides = front.clients.iter().flatten().map(|time| ("client", time)).chain(server.map(|time| ("server", time)));
    for (side, time) in sides.filter(|(_, time)| proxy.timeout("tunnel").is_none() && length(time) != idle) {
        notes.changed(
            time.0,
            format!(
                "timeout {side}: pool {} has one idle_timeout for both sides and all listeners, {}",
                proxy.name,
                duration::written(idle)
            ),
        );
    }
    let fins = front.fins.iter().map(|time| ("client-fin", time));
    let fins = fins.chain(proxy.timeouts.get("server-fin").map(|time| ("server-fin", time)));
    // Zero is as good as no line.
    let fins: Vec<_> = fins.filter(|(_, At(_, time))| !time.is_zero()).collect();
    let half_close = fins.iter().map(|(_, At(_, time))| *time).max().unwrap_or(idle);
    pool.half_close = Some(half_close);
    for (name, At(line, _)) in fins.iter().filter(|(_, At(_, time))| *time != half_close) {
        notes.changed(
            *line,
            format!(
                "timeout {name}: pool {} has one half_close_timeout for both sides and all listeners, {}",
                proxy.name,
                duration::written(half_close)
            ),
        );
    }
}

/// The source that all servers have.
fn source(proxy: &Proxy, servers: &[Server<'_>], notes: &mut Notes) -> Option<String> {
    let first = &servers.first().map_or(&proxy.server_options, |server| &server.options).source;
    if let Some(other) = servers.iter().find(|server| server.options.source != *first) {
        notes.refused(other.line.number, "source: all backends of a pool have one source".to_owned());
    }
    first.clone().filter(|source| !source.is_empty())
}

fn servers<'a>(proxy: &'a Proxy, notes: &mut Notes) -> Vec<Server<'a>> {
    let mut servers = Vec::new();
    for line in &proxy.servers {
        let mut options = proxy.server_options.clone();
        options.read(line, if line.word(0) == "server" { 3 } else { 4 }, notes);
        servers.push(Server { line, options });
    }
    servers
}

/// Adds a server, or a source of servers, to the pool.
fn backend(
    server: &Server<'_>,
    front: &Front,
    resolvers: &HashMap<String, Vec<String>>,
    pool: &mut Pool,
    notes: &mut Notes,
) {
    let Server { line, options } = server;
    let refused = |notes: &mut Notes, why: &str| notes.refused(line.number, format!("{}: {why}", line.word(0)));
    let template = line.word(0) == "server-template";
    let at = if template { 3 } else { 2 };
    let (weight, max_connections) = (options.weight(), options.max_connections);
    if options.disabled {
        notes.changed(
            line.number,
            "disabled: weight = 0 takes no new clients; `tcplb backends weight` sets it".to_owned(),
        );
    }
    let place = match value::place(line.word(at)) {
        Ok(place) => place,
        Err(why) => return refused(notes, &why),
    };
    if template {
        let Place::Host(host, port) = place else { return refused(notes, "a unix socket has no template") };
        if host.parse::<std::net::IpAddr>().is_ok() {
            return refused(notes, &format!("expected a name, got {host}; write each server as a line"));
        }
        let service = host.starts_with('_');
        let (name, srv) = match (service, port) {
            (true, _) => (None, Some(host)),
            (false, Port::Fixed(port)) => (Some(format!("{host}:{port}")), None),
            (false, _) => return refused(notes, "a name of a source needs its port"),
        };
        notes.changed(
            line.number,
            format!(
                "server-template: every address of the name becomes a backend, whatever the number {}",
                line.word(2)
            ),
        );
        let resolvers = options.resolvers.as_ref().and_then(|name| resolvers.get(name)).cloned().unwrap_or_default();
        let backup = options.backup;
        pool.discover.push(Discover { name, srv, resolvers, weight, max_connections, backup });
        return;
    }
    let address = match place {
        Place::Unix(address) => address,
        Place::Host(host, Port::Fixed(port)) => value::joined(&host, port),
        Place::Host(host, Port::OfClient(added)) => match with_port_of_client(&host, added, front) {
            Ok(address) => address,
            Err(why) => return refused(notes, &why),
        },
    };
    if let Err(why) = crate::base::Address::parse_backend(&address) {
        return refused(notes, &why);
    }
    pool.backends.push(Backend {
        name: Some(line.word(1).to_owned()),
        address,
        weight,
        max_connections,
        backup: options.backup,
        send_proxy: options.send_proxy,
    });
}

/// The address of a server whose port is the client's, with this added. Where that is one port, it is written.
fn with_port_of_client(host: &str, added: i32, front: &Front) -> Result<String, String> {
    if front.accept_proxy {
        return Err(
            "HAProxy takes the port from the PROXY header, tcplb from the client's socket; write the port".to_owned()
        );
    }
    let mut ports = BTreeSet::new();
    for port in &front.ports {
        let port = port.ok_or("a client of a unix socket has no port; write the port")?;
        let to = u16::try_from(i32::from(port).saturating_add(added)).ok().filter(|to| *to > 0);
        ports.insert(to.ok_or_else(|| format!("expected a port from 1 to 65535, got port {port} with {added:+}"))?);
    }
    match ports.first() {
        Some(port) if ports.len() == 1 => Ok(value::joined(host, port)),
        _ if host.parse::<std::net::IpAddr>().is_err() => {
            Err(format!("the port of the client needs an IP address, got {host}; write each port as a listener"))
        }
        _ if added < 0 => {
            Err(format!("tcplb adds to the port of the client, got {added}; write each port as a listener"))
        }
        _ if added == 0 => Ok(value::joined(host, "same")),
        _ => Ok(value::joined(host, format_args!("+{added}"))),
    }
}

/// The value that servers have, where tcplb has one for the pool. A difference is reported.
fn shared<T: Clone + PartialEq>(
    servers: &[&Server<'_>],
    name: &str,
    of: impl Fn(&Options) -> T,
    notes: &mut Notes,
) -> Option<T> {
    let first = servers.first().map(|server| of(&server.options))?;
    if let Some(other) = servers.iter().find(|server| of(&server.options) != first) {
        notes.changed(other.line.number, format!("{name}: all backends of a pool have that of the first"));
    }
    Some(first)
}

/// What HAProxy has for each server, and tcplb for the pool.
fn whole_pool(proxy: &Proxy, servers: &[Server<'_>], pool: &mut Pool, notes: &mut Notes) {
    let all: Vec<&Server<'_>> = servers.iter().collect();
    pool.on_down_reset = shared(&all, "on-marked-down", |options| options.resets, notes).unwrap_or_default();
    pool.slow_start = shared(&all, "slowstart", |options| options.slow_start, notes).flatten();
    if let Some(server) = servers.iter().find(|server| server.options.max_queue.is_some()) {
        pool.max_queue = server.options.max_queue.map(|number| number.min(1_000_000));
        notes.changed(server.line.number, "maxqueue: max_queue is for the whole pool, at each worker".to_owned());
    }
    if let Some(server) = servers.iter().find(|server| server.options.observes) {
        pool.outlier_failures = Some(server.options.error_limit.unwrap_or(ERROR_LIMIT));
        notes.changed(
            server.line.number,
            "observe: outlier_failures leaves a backend out for a second up to a minute".to_owned(),
        );
    }
    // HAProxy queues where all servers are full.
    if let Some(server) = servers.iter().find(|server| server.options.max_connections.is_some()) {
        pool.wait = proxy.timeout("queue").or(proxy.timeout("connect"));
        if pool.wait.is_some() {
            notes.changed(
                server.line.number,
                "maxconn: clients wait not only while all backends are full, but also while all are down".to_owned(),
            );
        }
    }
}

/// The interval and the time-out of the probes. A probe ends before the next one begins.
fn pace(proxy: &Proxy, inter: Duration, notes: &mut Notes) -> (Duration, Duration) {
    match proxy.timeouts.get("check") {
        Some(At(line, time)) if *time > inter => {
            let (longer, shorter) = (duration::written(*time), duration::written(inter));
            notes.changed(
                *line,
                format!(
                    "timeout check: interval of pool {} is {longer}, not {shorter}: a probe ends before the next one",
                    proxy.name
                ),
            );
            (*time, *time)
        }
        Some(At(_, time)) if !time.is_zero() => (inter, *time),
        // A check may take until the next one.
        _ => (inter, inter),
    }
}

fn health(proxy: &Proxy, servers: &[Server<'_>], notes: &mut Notes) -> Health {
    let checked: Vec<&Server<'_>> = servers.iter().filter(|server| server.options.check).collect();
    let agents: Vec<&Server<'_>> = servers.iter().filter(|server| server.options.agent).collect();
    if let (true, [server, ..]) = (checked.is_empty(), &agents[..]) {
        let options = &server.options;
        notes.changed(server.line.number, "agent-check: a probe that the agent does not answer has failed".to_owned());
        if options.agent_port.is_none() {
            notes.refused(server.line.number, "agent-check: expected agent-port".to_owned());
            return Health::default();
        }
        let (interval, timeout) = pace(proxy, options.agent_inter.unwrap_or(INTER), notes);
        let port = shared(&agents, "agent-port", |options| options.agent_port, notes).flatten();
        return Health {
            check: Check::Agent,
            initial_down: false,
            port,
            interval: Some(interval),
            timeout: Some(timeout),
            rise: Some(RISE),
            fall: Some(FALL),
        };
    }
    if let Some(server) = agents.first() {
        notes.refused(server.line.number, "agent-check: a pool has one kind of probe, and check is another".to_owned());
    }
    if checked.is_empty() {
        return Health::default();
    }
    if let Some(server) = servers.iter().find(|server| !server.options.check) {
        notes.changed(server.line.number, "server without check: all backends of a pool are probed".to_owned());
    }
    let (check, port) = check::check(proxy, notes);
    let own = checked.first().and_then(|server| server.options.port);
    if let Some(other) = checked.iter().find(|server| server.options.port != own) {
        notes.refused(other.line.number, "port: the probes of a pool go to one port".to_owned());
    }
    let inter = shared(&checked, "inter", |options| options.inter, notes).flatten().unwrap_or(INTER);
    let (interval, timeout) = pace(proxy, inter, notes);
    Health {
        check,
        initial_down: false,
        port: port.or(own),
        interval: Some(interval),
        timeout: Some(timeout),
        rise: Some(shared(&checked, "rise", |options| options.rise, notes).flatten().unwrap_or(RISE).max(1)),
        fall: Some(shared(&checked, "fall", |options| options.fall, notes).flatten().unwrap_or(FALL).max(1)),
    }
}
