//! nginx.conf → the model.
//!
//! | module     | part                                                                   |
//! |------------|------------------------------------------------------------------------|
//! | `words`    | text → directives with blocks: quotes, escapes, comments                |
//! | `table`    | what becomes of each directive and parameter                           |
//! | `server`   | a `server` → a listener, with its lists and routes                      |
//! | `upstream` | an `upstream`, or an address, with the time-outs of a server → a pool    |
//! | `variable` | maps that pick the target of a `proxy_pass`                             |
//! | `value`    | times and addresses                                                    |
//!
//! A file without the blocks `stream` and `http` counts as the inside of a block `stream`, as included files are.

mod server;
pub(super) mod table;
mod upstream;
mod value;
mod variable;
mod words;

use super::Mistakes;
use super::keywords::find;
use super::model::{Config, Global, Listener, Origin, Pool, Section};
use super::note::Notes;
use super::routing::{self, REFUSING};
use crate::base::Listen;
use std::collections::BTreeSet;
use std::time::Duration;
use table::{CORE, STREAM};
use variable::Variables;
use words::Directive;

/// Reads a file.
pub fn read(text: &str, notes: &mut Notes) -> Result<Config, Mistakes> {
    let file = words::directives(text)?;
    let mut config = Config::default();
    let is_whole = file.iter().any(|directive| matches!(directive.name(), "stream" | "http" | "events" | "mail"));
    if !is_whole {
        stream(&file, &mut config, notes);
        return Ok(config);
    }
    global(&file, &mut config.global, notes);
    for directive in &file {
        match directive.name() {
            "stream" => stream(directive.inner(), &mut config, notes),
            "http" | "mail" => {
                notes.dropped(directive.line, format!("block {}: tcplb balances TCP only", directive.name()));
            }
            _ => {}
        }
    }
    Ok(config)
}

/// Reads the directives outside of blocks, and `events`.
fn global(file: &[Directive], global: &mut Global, notes: &mut Notes) {
    let events = file.iter().filter(|directive| directive.name() == "events").flat_map(Directive::inner);
    let mut connections = None;
    for directive in file.iter().chain(events) {
        let value = directive.word(1);
        let number = || value.parse::<u64>().ok().filter(|number| *number > 0);
        let Some(keyword) = find(CORE, directive.name()) else {
            if !matches!(directive.name(), "stream" | "http" | "mail") {
                notes.dropped(directive.line, format!("{}: it concerns a module of nginx", directive.name()));
            }
            continue;
        };
        if keyword.is_lost(directive.line, notes) {
            continue;
        }
        match keyword.name {
            "worker_processes" if value == "auto" => {}
            "worker_processes" | "worker_connections" if number().is_none() => {
                notes.refused(directive.line, format!("{}: expected a number, got `{value}`", keyword.name));
            }
            "worker_shutdown_timeout" if value::time(value).is_none() => {
                notes.refused(directive.line, format!("{}: expected a time, got `{value}`", keyword.name));
            }
            "worker_processes" => global.workers = number().map(|number| number.min(1024)),
            "worker_shutdown_timeout" => global.shutdown_timeout = value::time(value),
            "worker_connections" => connections = number().map(|number| (directive.line, number)),
            "user" => {
                global.user = Some(value.to_owned());
                global.group = Some(directive.word(2).to_owned()).filter(|group| !group.is_empty());
            }
            _ => {}
        }
    }
    if let Some((line, connections)) = connections {
        // A client and its server take one each.
        let all = global.workers.map(|workers| workers.saturating_mul(connections) / 2);
        global.max_connections = all.map(|all| all.clamp(1, u64::from(u32::MAX)));
        notes.changed(
            line,
            match global.max_connections {
                Some(all) => format!("worker_connections: max_connections = {all} counts the clients of all workers"),
                None => "worker_connections: the limit on open files bounds the clients of all workers".to_owned(),
            },
        );
    }
}

/// The directives that hold for a server: its own, or else those of the block `stream`.
pub struct Level<'a> {
    own: &'a [Directive],
    stream: &'a [Directive],
}

impl<'a> Level<'a> {
    /// The directives of any of these names at the innermost level that has one.
    fn either(&self, names: &[&str]) -> Vec<&'a Directive> {
        let of = |level: &'a [Directive]| {
            level.iter().filter(|directive| names.contains(&directive.name())).collect::<Vec<_>>()
        };
        match of(self.own) {
            own if own.is_empty() => of(self.stream),
            own => own,
        }
    }

    fn all(&self, name: &str) -> Vec<&'a Directive> {
        self.either(&[name])
    }

    fn one(&self, name: &str) -> Option<&'a Directive> {
        self.all(name).pop()
    }

    /// A number, where the directive stands.
    fn number(&self, name: &str, notes: &mut Notes) -> Option<u64> {
        let directive = self.one(name)?;
        let number = directive.word(1).parse().ok();
        if number.is_none() {
            notes.refused(directive.line, format!("{name}: expected a number, got `{}`", directive.word(1)));
        }
        number
    }

    /// A time-out; what nginx does without one.
    fn time(&self, name: &str, default: Duration, notes: &mut Notes) -> Duration {
        let Some(directive) = self.one(name) else { return default };
        match value::time(directive.word(1)).filter(|time| !time.is_zero()) {
            Some(time) => time,
            None => {
                notes.refused(directive.line, format!("{name}: expected a time, got `{}`", directive.word(1)));
                default
            }
        }
    }
}

/// The pools so far.
pub struct Pools<'a> {
    upstreams: Vec<&'a Directive>,
    made: Vec<Made>,
}

/// A pool, and the target that it stands for.
struct Made {
    target: String,
    pool: Pool,
}

impl Pools<'_> {
    /// The name of the pool for this target and the time-outs of a server. Pools of one upstream differ by `port` in their names.
    fn of(&mut self, text: &str, level: &Level<'_>, port: &str, notes: &mut Notes) -> Result<String, String> {
        let upstream = self.upstreams.iter().find(|upstream| upstream.word(1) == text);
        let (pool, origin) = match upstream {
            Some(upstream) => {
                (upstream::of_upstream(upstream, level, notes), Origin(upstream.line, format!("upstream {text}")))
            }
            None => {
                let line =
                    level.own.iter().find(|directive| directive.name() == "proxy_pass").map_or(1, |pass| pass.line);
                let pool = upstream::of_address(text, level, notes);
                let pool = pool.map_err(|why| format!("no upstream is called {text}, and as an address: {why}"))?;
                (pool, Origin(line, format!("proxy_pass {text}")))
            }
        };
        let same = |made: &&Made| {
            let bare = Pool { name: String::new(), origin: Origin::default(), ..made.pool.clone() };
            made.target == text && bare == pool
        };
        if let Some(made) = self.made.iter().find(same) {
            return Ok(made.pool.name.clone());
        }
        let taken: BTreeSet<&str> = self.made.iter().map(|made| made.pool.name.as_str()).collect();
        let base = text.replace(value::SERVER_PORT, "same");
        let names = [base.clone(), format!("{base}-{port}")].into_iter();
        let mut names = names.chain((2..).map(|number| format!("{base}-{port}-{number}")));
        let name = names.find(|name| !taken.contains(name.as_str())).unwrap_or_default();
        if name != base {
            notes.changed(
                origin.0,
                format!(
                    "upstream {text}: servers use it with different settings of connections, so {name} is a second pool"
                ),
            );
        }
        self.made.push(Made { target: text.to_owned(), pool: Pool { name: name.clone(), origin, ..pool } });
        Ok(name)
    }
}

/// What the name of a listener has of its first address: a port, the ports of a range, or the path of a unix socket.
fn name_of_ports(listener: &Listener) -> String {
    let first = Listen::shown(&listener.bind).into_iter().next().unwrap_or_default();
    first.rsplit(':').next().unwrap_or_default().to_owned()
}

/// Reads the inside of a block `stream`.
fn stream(stream: &[Directive], config: &mut Config, notes: &mut Notes) {
    for directive in stream {
        report(directive, notes);
        if matches!(directive.name(), "server" | "upstream") {
            directive.inner().iter().for_each(|inner| report(inner, notes));
        }
    }
    let variables = Variables::new(stream);
    let upstreams = stream.iter().filter(|directive| directive.name() == "upstream").collect();
    let mut pools = Pools { upstreams, made: Vec::new() };
    let mut listeners = Vec::new();
    for directive in stream.iter().filter(|directive| directive.name() == "server") {
        let level = Level { own: directive.inner(), stream };
        log(&level, &mut config.global, notes);
        listeners.extend(server::listener(directive, &level, &variables, &mut pools, notes));
    }
    let mut taken = BTreeSet::new();
    let mut sections = Vec::new();
    let refuses = listeners.iter().any(|listener| routing::leads_to(listener, REFUSING));
    for mut listener in listeners {
        let port = name_of_ports(&listener);
        let base = if listener.routes.is_empty() && listener.pool != REFUSING {
            listener.pool.clone()
        } else {
            format!("listen-{port}")
        };
        let names = [base.clone(), format!("{base}-{port}")].into_iter();
        let mut names = names.chain((2..).map(|number| format!("{base}-{port}-{number}")));
        listener.name = names.find(|name| !taken.contains(name)).unwrap_or_default();
        taken.insert(listener.name.clone());
        sections.push((listener.origin.0, Section::Listener(listener)));
    }
    sections.extend(pools.made.into_iter().map(|Made { pool, .. }| (pool.origin.0, Section::Pool(pool))));
    sections.sort_by_key(|(line, _)| *line);
    config.sections.extend(sections.into_iter().map(|(_, section)| section));
    if refuses {
        let origin = Origin(1, "a pool without backends, which resets its clients".to_owned());
        config.sections.push(Section::Pool(Pool { origin, name: REFUSING.to_owned(), ..Pool::default() }));
    }
    for unused in stream.iter().filter(|directive| directive.name() == "upstream") {
        let used = config
            .sections
            .iter()
            .any(|section| matches!(section, Section::Pool(pool) if pool.origin.0 == unused.line));
        if !used {
            notes.dropped(unused.line, format!("{}: no listener leads to it", unused.shown()));
        }
    }
}

/// Reports a directive that is lost.
fn report(directive: &Directive, notes: &mut Notes) {
    let name = directive.name();
    if name == "include" {
        let why = "the file is not read; put its text in place of the directive";
        return notes.refused(directive.line, format!("{}: {why}", directive.shown()));
    }
    // `off` is what tcplb does.
    if matches!(name, "proxy_ssl" | "mqtt" | "js_access" | "js_filter" | "js_preread") && directive.word(1) == "off" {
        return;
    }
    match find(STREAM, name).or_else(|| find(CORE, name).filter(|_| name == "error_log")) {
        Some(keyword) => drop(keyword.is_lost(directive.line, notes)),
        None => notes.refused(directive.line, format!("{name}: nginx's stream modules have no such directive")),
    }
}

/// Takes the first access log.
fn log(level: &Level<'_>, global: &mut Global, notes: &mut Notes) {
    let Some(log) = level.all("access_log").into_iter().find(|log| log.word(1) != "off") else { return };
    let path = log.word(1);
    let is_file = path.starts_with('/') && !path.contains('$');
    let to = if is_file { path } else { "-" };
    if global.access_log.is_none() {
        global.access_log = Some(to.to_owned());
    }
    notes.changed(
        log.line,
        format!("access_log {path}: one file has the connections of all listeners, in a format of tcplb"),
    );
}
