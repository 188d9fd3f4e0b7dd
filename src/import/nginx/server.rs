//! A `server` of the block `stream` → a listener.

use super::table::LISTEN;
use super::value::{self, SERVER_PORT};
use super::variable::{Geo, Known, Variables, geo};
use super::words::Directive;
use super::{Level, Pools};
use crate::base::Listen;
use crate::import::access::{self, Lists};
use crate::import::keywords::{Fate, find};
use crate::import::listen::{self, Binds};
use crate::import::model::{Listener, Origin, Route};
use crate::import::note::Notes;
use crate::import::routing::{self, Named, Region, Target};
use ipnet::IpNet;
use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

/// The versions of TLS that a map may look at. Routes of tcplb do not know them.
const VERSIONS: [&str; 2] = ["TLSv1.3", "TLSv1.2"];

/// How long nginx waits for the first bytes.
const PREREAD: Duration = Duration::from_secs(30);

/// The listener of a server; `None` if none is left.
pub fn listener(
    server: &Directive,
    level: &Level<'_>,
    variables: &Variables<'_>,
    pools: &mut Pools<'_>,
    notes: &mut Notes,
) -> Option<Listener> {
    let mut listener = Listener { origin: Origin(server.line, "server".to_owned()), ..Listener::default() };
    if !binds(server, &mut listener, notes) {
        return None;
    }
    let Some(pass) = server.inner().iter().find(|directive| directive.name() == "proxy_pass") else {
        if !server.inner().iter().any(|directive| matches!(directive.name(), "return" | "pass" | "js_preread")) {
            notes.dropped(server.line, "server: it has no proxy_pass".to_owned());
        }
        return None;
    };
    access(level, &mut listener, notes);
    limits(level, &mut listener, notes);
    let (name, port) = (super::name_of_ports(&listener), port_of_client(&listener));
    Pass { directive: pass, level, variables, name: &name, port: &port }.route(pools, &mut listener, notes);
    Some(listener)
}

/// What the variable of the client's port holds: the port, or the variable itself where there are several. It is empty where a
/// client may have none.
fn port_of_client(listener: &Listener) -> String {
    let ports: BTreeSet<Option<u16>> = listener.bind.iter().map(Listen::port).collect();
    match (ports.first(), ports.len()) {
        (Some(Some(port)), 1) => port.to_string(),
        // `None` is the smallest.
        (Some(Some(_)), _) => SERVER_PORT.to_owned(),
        _ => String::new(),
    }
}

/// Sets the addresses. Returns whether there is one of TCP.
fn binds(server: &Directive, listener: &mut Listener, notes: &mut Notes) -> bool {
    let mut all = Binds::default();
    let listens: Vec<&Directive> = server.inner().iter().filter(|directive| directive.name() == "listen").collect();
    if listens.is_empty() {
        notes.refused(server.line, "server: it has no listen".to_owned());
        return false;
    }
    let is_udp = |line: &Directive| line.words.iter().skip(2).any(|word| word == "udp" || word == "quic");
    let expects = |line: &Directive| line.words.iter().skip(2).any(|word| word == "proxy_protocol");
    let mut tcp = listens.iter().filter(|line| !is_udp(line));
    let mixed = tcp.clone().any(|line| expects(line)) && !tcp.all(|line| expects(line));
    for line in &listens {
        if is_udp(line) {
            notes.dropped(line.line, format!("{}: tcplb balances TCP only", line.shown()));
            continue;
        }
        if mixed && expects(line) {
            notes.refused(line.line, format!("{}: {}", line.shown(), listen::mixed("server")));
            continue;
        }
        let addresses = match value::listens(line.word(1)) {
            Ok(addresses) => addresses,
            Err(why) => {
                notes.refused(line.line, format!("listen: {why}"));
                continue;
            }
        };
        let mut only_v6 = true;
        for word in line.arguments().iter().skip(1) {
            let (name, value) = word.split_once('=').unwrap_or((word, ""));
            let Some(parameter) = find(LISTEN, name) else {
                notes.refused(line.line, format!("{word}: nginx has no such parameter of listen"));
                continue;
            };
            if parameter.fate != Fate::Kept && parameter.is_lost(line.line, notes) {
                continue;
            }
            match name {
                "proxy_protocol" => listener.accept_proxy = true,
                "ipv6only" => only_v6 = value::is_on(value),
                _ => {}
            }
        }
        if let Err(why) = all.add(addresses, only_v6) {
            notes.refused(line.line, format!("listen: {why}"));
        }
    }
    if let Err(why) = all.set(listener) {
        notes.refused(server.line, format!("server: listen: {why}"));
    }
    !listener.bind.is_empty()
}

/// Sets the lists, and the proxies that are trusted.
fn access(level: &Level<'_>, listener: &mut Listener, notes: &mut Notes) {
    let mut rules: Vec<(bool, IpNet)> = Vec::new();
    for rule in level.either(&["allow", "deny"]) {
        let allows = rule.name() == "allow";
        match rule.word(1) {
            "all" => rules.extend([(allows, access::every_v4()), (allows, access::every_v6())]),
            "unix:" if allows => {}
            text => match access::prefix(text) {
                Some(net) => rules.push((allows, net)),
                None => notes.refused(rule.line, format!("{}: expected a prefix", rule.shown())),
            },
        }
    }
    // The first rule for a prefix.
    let mut first: HashMap<IpNet, (usize, bool)> = HashMap::new();
    for (number, (allows, net)) in rules.iter().enumerate() {
        first.entry(*net).or_insert((number, *allows));
    }
    let admits =
        |net: &IpNet| access::around(net).filter_map(|wider| first.get(&wider)).min().is_none_or(|(_, allows)| *allows);
    let decided =
        access::decisions(rules.iter().map(|(_, net)| *net), |net| Ok::<_, ()>(admits(net))).unwrap_or_default();
    let Lists { allow, deny } = access::lists(&decided);
    let real = level.all("set_real_ip_from");
    let line = level.either(&["allow", "deny"]).first().map_or(1, |rule| rule.line);
    if listener.accept_proxy && real.is_empty() {
        // nginx looks at the address of the proxy.
        if deny.is_empty() {
            listener.trusted_proxies = allow;
        } else {
            let why =
                "with proxy_protocol and without set_real_ip_from it is about proxies, and trusted_proxies only admits";
            notes.refused(line, format!("deny: {why}"));
        }
        return;
    }
    listener.allow = allow;
    // `ipv6only` may have put the same prefix there.
    let wide = listener.deny.first().cloned();
    listener.deny.extend(deny.into_iter().filter(|net| wide.as_ref() != Some(net)));
    if let (true, [from, ..]) = (listener.accept_proxy, &real[..]) {
        for line in &real {
            match access::prefix(line.word(1)) {
                Some(net) => listener.trusted_proxies.push(access::shown(&net)),
                None => notes.refused(line.line, format!("{}: expected a prefix", line.shown())),
            }
        }
        notes.changed(from.line, "set_real_ip_from: other peers are refused, not taken as they are".to_owned());
    }
}

fn limits(level: &Level<'_>, listener: &mut Listener, notes: &mut Notes) {
    let dry = level.one("limit_conn_dry_run").filter(|directive| value::is_on(directive.word(1)));
    for limit in level.all("limit_conn") {
        let (zone, number) = (limit.word(1), limit.word(2).parse::<u64>().ok().filter(|number| *number > 0));
        let of_zone = |block: &&Directive| {
            block.name() == "limit_conn_zone"
                && block
                    .arguments()
                    .iter()
                    .any(|word| word.strip_prefix("zone=").is_some_and(|rest| rest.split(':').next() == Some(zone)))
        };
        let key = level.stream.iter().find(of_zone).map_or("", |block| block.word(1));
        let Some(number) = number else {
            notes.refused(limit.line, format!("{}: expected a number", limit.shown()));
            continue;
        };
        match key {
            "$binary_remote_addr" | "$remote_addr"
                if dry.is_some() && !(listener.allow.is_empty() && listener.deny.is_empty()) =>
            {
                notes.dropped(
                    limit.line,
                    "limit_conn: with limits = \"count\" the lists would only count too".to_owned(),
                );
            }
            "$binary_remote_addr" | "$remote_addr" => {
                listener.max_connections_per_source = Some(number);
                listener.counts = dry.is_some();
            }
            "$server_addr" | "$server_port" if dry.is_none() => {
                listener.max_connections = Some(number);
                notes.changed(limit.line, "limit_conn: further clients wait instead of being refused".to_owned());
            }
            key => notes.refused(limit.line, format!("limit_conn by `{key}`: tcplb counts by the client's address")),
        }
    }
}

/// A `proxy_pass` with what it means there.
struct Pass<'a> {
    directive: &'a Directive,
    level: &'a Level<'a>,
    variables: &'a Variables<'a>,
    /// What pools of one upstream differ by in their names.
    name: &'a str,
    /// The port that the client connected to.
    port: &'a str,
}

impl Pass<'_> {
    /// The pool of a target.
    fn target(&self, text: &str, pools: &mut Pools<'_>, notes: &mut Notes) -> Result<Target, String> {
        match text {
            "" => Ok(Target::Refuse),
            text => pools.of(text, self.level, self.name, notes).map(Target::Pool),
        }
    }

    /// The routes, and where a client goes that fits none.
    fn routes(&self, pools: &mut Pools<'_>, notes: &mut Notes) -> Result<(Vec<Route>, Target), String> {
        let text = self.directive.word(1);
        if !text.contains('$') {
            return Ok((Vec::new(), self.target(text, pools, notes)?));
        }
        if let Some(block) = self.variables.geo(text) {
            let Geo { nets, default } = geo(block)?;
            let mut targets = Vec::new();
            for (net, value) in nets {
                targets.push((net, self.target(value, pools, notes)?));
            }
            let default = self.target(default, pools, notes)?;
            return Ok(routing::by_source(targets.iter().map(|(net, _)| *net), |net| {
                let fit =
                    targets.iter().filter(|(wider, _)| wider.contains(net)).max_by_key(|(wider, _)| wider.prefix_len());
                fit.map_or_else(|| default.clone(), |(_, target)| target.clone())
            }));
        }
        let sniffs = self.level.one("ssl_preread").is_some_and(|directive| value::is_on(directive.word(1)));
        let mut named = Named::default();
        self.variables.names(text, &mut named, notes);
        routing::routes(&named, |region| {
            // Without ssl_preread, the variables are empty.
            let region = if sniffs { region } else { &Region::Other };
            let [new, old] =
                VERSIONS.map(|version| self.variables.text(text, &Known { region, version, port: self.port }));
            match (new?, old?) {
                (new, old) if new == old => self.target(&new, pools, notes),
                _ => Err("tcplb can't route by the version of TLS".to_owned()),
            }
        })
    }

    /// Sets the pool and the routes of the listener.
    fn route(&self, pools: &mut Pools<'_>, listener: &mut Listener, notes: &mut Notes) {
        let (line, text) = (self.directive.line, self.directive.word(1));
        let (routes, rest) = match self.routes(pools, notes) {
            Ok(found) => found,
            Err(why) => {
                listener.pool = routing::REFUSING.to_owned();
                return notes
                    .refused(line, format!("proxy_pass {text}: {why}; the listener can only refuse its clients"));
            }
        };
        listener.pool = rest.pool();
        if routes.iter().any(|route| route.protocol.is_some()) {
            listener.sniff_timeout = Some(self.level.time("preread_timeout", PREREAD, notes));
        }
        listener.routes = routes;
    }
}
