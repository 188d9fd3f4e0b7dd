//! haproxy.cfg → the model.
//!
//! | module      | part                                                                  |
//! |-------------|-----------------------------------------------------------------------|
//! | `words`     | text → lines of words: quotes, escapes, comments, variables            |
//! | `sections`  | lines → sections                                                      |
//! | `tables`    | what becomes of each keyword                                          |
//! | `proxy`     | a section on top of its defaults                                      |
//! | `listener`  | a proxy → a listener, with its lists and routes                        |
//! | `condition` | ACLs and conditions of rules                                          |
//! | `pool`      | a proxy → a pool                                                      |
//! | `server`    | the options of a server                                               |
//! | `check`     | the checks of a proxy → probes                                        |
//! | `value`     | times and addresses                                                   |
//!
//! Only sections of mode tcp are taken. A section of mode http keeps its place in HAProxy and is reported.

mod check;
mod condition;
mod listener;
mod pool;
mod proxy;
mod sections;
mod server;
pub(super) mod tables;
mod value;
mod words;

use super::Mistakes;
use super::keywords::find;
use super::model::{Config, Global, Origin, Pool, Section as Written};
use super::note::Notes;
use super::routing::{self, REFUSING};
use crate::base::Listen;
use listener::Tables;
use pool::Front;
use proxy::{Proxy, is_unknown};
use sections::Section;
pub use sections::begins_section;
use std::collections::{BTreeSet, HashMap};
use tables::{GLOBAL, GLOBAL_ELSE};
use words::Line;

/// Reads a file.
pub fn read(text: &str, notes: &mut Notes) -> Result<Config, Mistakes> {
    let sections = sections::sections(words::lines(text)?, notes)?;
    let mut config = Config::default();
    let (mut resolvers, mut proxies) = (HashMap::new(), Vec::new());
    let mut defaults: Vec<Proxy> = Vec::new();
    let mut logs = false;
    for section in &sections {
        match section.kind.as_str() {
            "global" => logs |= global(section, &mut config.global, notes),
            "defaults" => {
                let proxy = proxy(section, &defaults, notes);
                defaults.push(proxy);
            }
            "frontend" | "backend" | "listen" => {
                let proxy = proxy(section, &defaults, notes);
                if is_taken(&proxy, notes) {
                    proxies.push(proxy);
                }
            }
            "resolvers" => drop(resolvers.insert(section.name.clone(), name_servers(section, notes))),
            "userlist" | "http-errors" | "cache" | "fcgi-app" => {
                notes.dropped(section.line, format!("section {}: it concerns HTTP only", section.kind));
            }
            "peers" => notes.dropped(section.line, "section peers: tcplb shares no tables".to_owned()),
            "crt-store" => notes.dropped(section.line, "section crt-store: tcplb does not end TLS".to_owned()),
            "mailers" | "ring" => {
                notes.dropped(section.line, format!("section {}: tcplb logs to a file or stdout", section.kind));
            }
            kind => notes.refused(section.line, format!("section {kind}: tcplb has no counterpart")),
        }
    }
    repeated(&mut proxies, notes);
    log(&proxies, logs, &mut config.global, notes);
    sections_of(&proxies, &resolvers, &mut config, notes);
    Ok(config)
}

/// A section on top of its defaults. In mode http only that it is, and what it serves, matters.
fn proxy(section: &Section, defaults: &[Proxy], notes: &mut Notes) -> Proxy {
    let empty = Proxy::default();
    let from = match &section.from {
        // The last one of this name.
        Some(name) => defaults.iter().rfind(|proxy| proxy.name == *name).unwrap_or_else(|| {
            notes.refused(section.line, format!("from {name}: no defaults section before it has this name"));
            &empty
        }),
        // A defaults section begins anew, all others with the last defaults.
        None if section.kind == "defaults" => &empty,
        None => defaults.last().unwrap_or(&empty),
    };
    let mut proxy = Proxy::begin(from, &section.kind, &section.name, section.line);
    proxy.extra.clone_from(&section.extra);
    let mode = section.lines.iter().rfind(|line| line.word(0) == "mode");
    proxy.http = mode.map_or(proxy.http, |line| line.word(1) == "http");
    if proxy.http && section.kind != "defaults" {
        let mut silent = Notes::default();
        section.lines.iter().for_each(|line| proxy.read(line, &mut silent));
        return proxy;
    }
    for line in &section.lines {
        proxy.read(line, notes);
    }
    proxy
}

/// Whether a section becomes part of the new file.
fn is_taken(proxy: &Proxy, notes: &mut Notes) -> bool {
    let shown = proxy.shown();
    if proxy.http && proxy.has_stats && proxy.servers.is_empty() && proxy.use_backend.is_empty() {
        notes.dropped(proxy.line, format!("{shown}: the status page is the key admin of [global]"));
    } else if proxy.http {
        notes.dropped(proxy.line, format!("{shown}: mode http; tcplb balances TCP only"));
    } else if proxy.disabled {
        notes.changed(proxy.line, format!("{shown}: it is disabled, so it is left out"));
    } else if proxy.name.is_empty() {
        notes.refused(proxy.line, format!("{shown}: expected a name"));
    } else {
        if let Some(extra) = &proxy.extra {
            let why = "HAProxy 2.6 takes an address in a line bind only";
            notes.refused(proxy.line, format!("{shown}: expected a name alone, got `{extra}`: {why}"));
        }
        return true;
    }
    false
}

/// HAProxy refuses two sections of a name that overlap. tcplb has one name space for listeners, and one for pools.
fn repeated(proxies: &mut Vec<Proxy>, notes: &mut Notes) {
    let (mut fronts, mut backs) = (BTreeSet::new(), BTreeSet::new());
    proxies.retain(|proxy| {
        let front = proxy.kind == "backend" || fronts.insert(proxy.name.clone());
        let back = proxy.kind == "frontend" || backs.insert(proxy.name.clone());
        if !(front && back) {
            notes.refused(proxy.line, format!("{}: another section has this name", proxy.shown()));
        }
        front && back
    });
}

/// Reads `global`. Returns whether it logs.
fn global(section: &Section, global: &mut Global, notes: &mut Notes) -> bool {
    let mut logs = false;
    for line in &section.lines {
        let two = format!("{} {}", line.word(0), line.word(1));
        let Some(keyword) = find(GLOBAL, &two).or_else(|| find(GLOBAL, line.word(0))) else {
            notes.dropped(line.number, format!("{}: {GLOBAL_ELSE}", line.word(0)));
            continue;
        };
        if keyword.is_lost(line.number, notes) || is_unknown(line, notes) {
            continue;
        }
        let value = line.word(1);
        let mut wrong = |expected: &str| {
            notes.refused(line.number, format!("{}: expected {expected}, got `{value}`", keyword.name));
        };
        let number = value.parse::<u64>().ok();
        match keyword.name {
            "maxconn" | "nbthread" if number.is_none() => wrong("a number"),
            "maxconn" => global.max_connections = number.filter(|number| *number > 0),
            "nbthread" => global.workers = number.filter(|number| *number > 0).map(|number| number.min(1024)),
            "hard-stop-after" if value::time(value).is_none() => wrong("a time"),
            "user" | "uid" => global.user = Some(value.to_owned()),
            "group" | "gid" => global.group = Some(value.to_owned()),
            "hard-stop-after" => global.shutdown_timeout = value::time(value),
            "log" => logs = true,
            "stats socket" => stats_socket(line, global, notes),
            _ => {}
        }
    }
    if global.user.is_none() && global.group.take().is_some() {
        notes.dropped(section.line, "group: a group goes with a user".to_owned());
    }
    logs
}

fn stats_socket(line: &Line, global: &mut Global, notes: &mut Notes) {
    let at = line.word(2);
    let path = at.strip_prefix("unix@").unwrap_or(at);
    if !path.starts_with('/') {
        return notes
            .dropped(line.number, "stats socket: the key admin of [global] is the address of tcplb's API".to_owned());
    }
    let path = std::path::Path::new(path).with_file_name("tcplb.sock");
    global.admin = Some(format!("unix:{}", path.display()));
    notes.changed(line.number, "stats socket: the admin API of tcplb has a socket and commands of its own".to_owned());
    if line.from(3).any(|word| matches!(word, "mode" | "user" | "uid" | "group" | "gid")) {
        notes.dropped(
            line.number,
            "stats socket: mode, user, group: only the user of tcplb can open its socket".to_owned(),
        );
    }
}

/// Sets the access log, where a section logs connections.
fn log(proxies: &[Proxy], global_logs: bool, global: &mut Global, notes: &mut Notes) {
    let line = proxies.iter().filter_map(|proxy| proxy.options.get("option tcplog").filter(|_| proxy.logs)).min();
    if let Some(line) = line {
        global.access_log = Some("-".to_owned());
        global.log_format = Some("haproxy");
        let where_to =
            if global_logs { "stdout, not to syslog, and every listener" } else { "stdout, and every listener" };
        notes.changed(*line, format!("option tcplog: the access log goes to {where_to} has it"));
    }
}

fn name_servers(section: &Section, notes: &mut Notes) -> Vec<String> {
    let mut servers = Vec::new();
    for line in &section.lines {
        match line.word(0) {
            "nameserver" if is_unknown(line, notes) => {}
            "nameserver" => {
                let at = line.word(2);
                let at = at.strip_prefix("udp@").unwrap_or(at);
                match at.parse::<std::net::SocketAddr>() {
                    Ok(at) => servers.push(at.to_string()),
                    Err(_) => notes.dropped(line.number, format!("nameserver {at}: a name server of tcplb is IP:PORT")),
                }
            }
            "parse-resolv-conf" => {}
            name => notes.dropped(line.number, format!("{name}: tcplb looks names up by their time to live")),
        }
    }
    servers
}

/// Writes listeners and pools, in the order of the file.
fn sections_of(proxies: &[Proxy], resolvers: &HashMap<String, Vec<String>>, config: &mut Config, notes: &mut Notes) {
    let is_pool = |proxy: &Proxy| match proxy.kind.as_str() {
        // Some only hold a stick table.
        "backend" => !proxy.servers.is_empty() || proxy.dispatch.is_some() || proxy.stick_table.is_none(),
        "listen" => !proxy.servers.is_empty() || proxy.dispatch.is_some(),
        _ => false,
    };
    let pools: HashMap<&str, &Proxy> =
        proxies.iter().filter(|proxy| is_pool(proxy)).map(|proxy| (proxy.name.as_str(), proxy)).collect();
    let tables: Tables = proxies.iter().filter_map(|proxy| Some((proxy.name.clone(), rate_period(proxy)?))).collect();
    sticks(proxies, notes);
    let find_pool = |name: &str| pools.get(name).copied();
    let listeners: Vec<_> = proxies
        .iter()
        .filter(|proxy| proxy.kind != "backend")
        .map(|proxy| (proxy, listener::listener(proxy, &tables, &find_pool, notes)))
        .filter(|(_, listener)| !listener.bind.is_empty())
        .collect();
    for proxy in proxies.iter().filter(|proxy| proxy.kind != "backend") {
        match listeners.iter().find(|(other, _)| std::ptr::eq(*other, proxy)) {
            // A default_backend that is not there is reported already.
            Some((_, listener))
                if listener.pool == REFUSING && listener.routes.is_empty() && proxy.default_backend.is_none() =>
            {
                notes.refused(proxy.line, format!("{}: it leads to no pool", proxy.shown()));
            }
            Some(_) => {}
            None => notes.refused(proxy.line, format!("{}: it has no address to listen on", proxy.shown())),
        }
    }
    let refuses = listeners.iter().find(|(_, listener)| routing::leads_to(listener, REFUSING));
    for proxy in proxies {
        if let Some((_, listener)) = listeners.iter().find(|(other, _)| std::ptr::eq(*other, proxy)) {
            config.sections.push(Written::Listener(listener.clone()));
        }
        if is_pool(proxy) {
            let mut front = Front::default();
            for (from, listener) in listeners.iter().filter(|(_, listener)| routing::leads_to(listener, &proxy.name)) {
                front.clients.push(from.timeouts.get("client").cloned());
                front.fins.extend(from.timeouts.get("client-fin").cloned());
                front.ports.extend(listener.bind.iter().map(Listen::port));
                front.accept_proxy |= listener.accept_proxy;
                front.routes |= !listener.routes.is_empty();
            }
            config.sections.push(Written::Pool(pool::pool(proxy, &front, resolvers, notes)));
        }
    }
    if let Some((proxy, _)) = refuses {
        let origin = Origin(proxy.line, "a pool without backends, which resets its clients".to_owned());
        config.sections.push(Written::Pool(Pool { origin, name: REFUSING.to_owned(), ..Pool::default() }));
    }
}

/// Reports the stick tables that keep clients at their backends.
fn sticks(proxies: &[Proxy], notes: &mut Notes) {
    for proxy in proxies {
        for line in &proxy.stick {
            let name = line.from(3).skip_while(|word| *word != "table").nth(1).unwrap_or(&proxy.name);
            let mut tables = proxies.iter().filter(|other| other.name == name);
            if let Some(table) = tables.find_map(|other| other.stick_table.as_ref()) {
                let why = "a pool remembers up to 262144 clients without a time limit; size and expire do not count";
                notes.changed(table.number, format!("stick-table: {why}"));
            }
        }
    }
}

/// The period of `conn_rate` in the stick table of a proxy, if it has a table.
fn rate_period(proxy: &Proxy) -> Option<Option<std::time::Duration>> {
    let line = proxy.stick_table.as_ref()?;
    let stored = line.from(1).flat_map(|word| word.split(','));
    let period = stored.filter_map(|item| item.strip_prefix("conn_rate(")?.strip_suffix(')')).next();
    Some(period.and_then(value::time))
}
