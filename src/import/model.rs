//! What tcplb can express of another balancer's configuration, and its text.
//!
//! A `None` is not written, and tcplb's default holds. Each section names the line that it comes from.

use crate::base::bytes::escaped;
use crate::base::{Address, Listen, duration};
use crate::config::settings::kinds::quoted;
use std::fmt::Display;
use std::time::Duration;

/// Where a section comes from: a line, and what begins there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Origin(pub usize, pub String);

/// A file.
#[derive(Debug, Default)]
pub struct Config {
    pub global: Global,
    /// In the order of the file.
    pub sections: Vec<Section>,
}

/// A section that may be repeated.
#[derive(Debug)]
pub enum Section {
    Listener(Listener),
    Pool(Pool),
}

/// `[global]`.
#[derive(Debug, Default)]
pub struct Global {
    pub workers: Option<u64>,
    pub max_connections: Option<u64>,
    pub shutdown_timeout: Option<Duration>,
    pub user: Option<String>,
    pub group: Option<String>,
    pub admin: Option<String>,
    pub access_log: Option<String>,
    pub log_format: Option<&'static str>,
}

/// `[[listener]]`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listener {
    pub origin: Origin,
    pub name: String,
    pub bind: Vec<Listen>,
    pub pool: String,
    pub accept_proxy: bool,
    pub trusted_proxies: Vec<String>,
    pub allow: Vec<String>,
    pub deny: Vec<String>,
    pub allow_file: Option<String>,
    pub deny_file: Option<String>,
    pub max_connections: Option<u64>,
    pub max_connections_per_source: Option<u64>,
    /// Per second.
    pub connection_rate_per_source: Option<u64>,
    /// Limits only count.
    pub counts: bool,
    pub mode: Option<String>,
    pub owner: Option<String>,
    pub group: Option<String>,
    pub sniff_timeout: Option<Duration>,
    pub silent_pool: Option<String>,
    pub routes: Vec<Route>,
}

/// `[[listener.route]]`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Route {
    pub protocol: Option<&'static str>,
    pub sni: Vec<String>,
    pub source: Vec<String>,
    pub pool: String,
}

/// `[[pool]]`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pool {
    pub origin: Origin,
    pub name: String,
    pub algorithm: Option<&'static str>,
    /// `client`, or an address. Without it the kernel chooses.
    pub source: Option<String>,
    pub connect: Option<Duration>,
    pub connect_attempts: Option<u64>,
    pub idle: Option<Duration>,
    pub half_close: Option<Duration>,
    pub on_down_reset: bool,
    pub on_remove_reset: bool,
    pub slow_start: Option<Duration>,
    /// How long a client waits for a backend.
    pub wait: Option<Duration>,
    pub abandoned_drop: bool,
    pub max_queue: Option<u64>,
    pub outlier_failures: Option<u64>,
    pub health: Health,
    pub backends: Vec<Backend>,
    pub discover: Vec<Discover>,
}

/// `[pool.health]`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Health {
    pub check: Check,
    /// No client before the first probe has passed.
    pub initial_down: bool,
    pub port: Option<u64>,
    pub interval: Option<Duration>,
    pub timeout: Option<Duration>,
    pub rise: Option<u64>,
    pub fall: Option<u64>,
}

/// What a probe does.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Check {
    #[default]
    Off,
    Tcp,
    Http {
        path: String,
        host: Option<String>,
        expect_status: Vec<String>,
    },
    Agent,
    Script(Vec<Step>),
}

/// A step of a script.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    Send(Vec<u8>),
    Expect(Vec<u8>),
    ExpectRegex(String),
}

/// `[[pool.backend]]`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Backend {
    pub name: Option<String>,
    pub address: String,
    pub weight: Option<u64>,
    pub max_connections: Option<u64>,
    pub backup: bool,
    pub send_proxy: Option<&'static str>,
}

/// `[[pool.discover]]` of kind `dns`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Discover {
    pub name: Option<String>,
    pub srv: Option<String>,
    pub resolvers: Vec<String>,
    pub weight: Option<u64>,
    pub max_connections: Option<u64>,
    pub backup: bool,
}

impl Config {
    /// Its listeners.
    pub fn listeners(&self) -> impl Iterator<Item = &Listener> {
        self.sections.iter().filter_map(|section| match section {
            Section::Listener(listener) => Some(listener),
            Section::Pool(_) => None,
        })
    }

    /// The file. `from` is the name of the file that it was made from.
    pub fn toml(&self, from: &str) -> String {
        // A name with a line feed must not end the comment.
        let from: String = from.chars().map(|letter| if letter.is_control() { '?' } else { letter }).collect();
        let mut out = Out { text: format!("# Made by tcplb import from {from}.\n"), indent: "", from: &from };
        self.global.write(&mut out);
        for section in &self.sections {
            match section {
                Section::Listener(listener) => listener.write(&mut out),
                Section::Pool(pool) => pool.write(&mut out),
            }
        }
        out.text
    }
}

/// The text so far.
struct Out<'a> {
    text: String,
    indent: &'static str,
    from: &'a str,
}

impl Out<'_> {
    fn head(&mut self, indent: &'static str, head: &str, origin: Option<&Origin>) {
        self.indent = indent;
        self.text.push('\n');
        if let Some(Origin(line, what)) = origin {
            self.line(&format!("# {}:{line}: {}", self.from, what.replace(char::is_control, "?")));
        }
        self.line(head);
    }

    fn line(&mut self, line: &str) {
        self.text.push_str(self.indent);
        self.text.push_str(line);
        self.text.push('\n');
    }

    fn bare(&mut self, key: &str, value: Option<impl Display>) {
        if let Some(value) = value {
            self.line(&format!("{key} = {value}"));
        }
    }

    fn text(&mut self, key: &str, value: Option<impl AsRef<str>>) {
        self.bare(key, value.map(quoted));
    }

    fn time(&mut self, key: &str, value: Option<Duration>) {
        self.text(key, value.map(duration::written));
    }

    fn list(&mut self, key: &str, values: &[String]) {
        let values: Vec<String> = values.iter().map(quoted).collect();
        let line = format!("{key} = [{}]", values.join(", "));
        match values.len() {
            0 => {}
            _ if line.len() <= 110 => self.line(&line),
            _ => {
                self.line(&format!("{key} = ["));
                values.iter().for_each(|value| self.line(&format!("  {value},")));
                self.line("]");
            }
        }
    }

    fn switch(&mut self, key: &str, value: bool) {
        self.bare(key, value.then_some(true));
    }
}

impl Global {
    fn write(&self, out: &mut Out<'_>) {
        let before = out.text.len();
        out.head("", "[global]", None);
        let empty = out.text.len();
        out.bare("workers", self.workers);
        out.bare("max_connections", self.max_connections);
        out.time("shutdown_timeout", self.shutdown_timeout);
        out.text("user", self.user.as_ref());
        out.text("group", self.group.as_ref());
        out.text("admin", self.admin.as_ref());
        out.text("access_log", self.access_log.as_ref());
        out.text("log_format", self.log_format);
        if out.text.len() == empty {
            out.text.truncate(before);
        }
    }
}

impl Listener {
    fn write(&self, out: &mut Out<'_>) {
        out.head("", "[[listener]]", Some(&self.origin));
        out.text("name", Some(&self.name));
        out.list("bind", &Listen::shown(&self.bind));
        out.text("pool", Some(&self.pool));
        out.switch("accept_proxy", self.accept_proxy);
        out.list("trusted_proxies", &self.trusted_proxies);
        out.list("allow", &self.allow);
        out.list("deny", &self.deny);
        out.text("allow_file", self.allow_file.as_ref());
        out.text("deny_file", self.deny_file.as_ref());
        out.bare("max_connections", self.max_connections);
        out.bare("max_connections_per_source", self.max_connections_per_source);
        out.text("connection_rate_per_source", self.connection_rate_per_source.map(|rate| format!("{rate}/s")));
        out.text("limits", self.counts.then_some("count"));
        out.text("mode", self.mode.as_ref());
        out.text("owner", self.owner.as_ref());
        out.text("group", self.group.as_ref());
        out.time("sniff_timeout", self.sniff_timeout);
        out.text("silent_pool", self.silent_pool.as_ref());
        for route in &self.routes {
            out.head("  ", "[[listener.route]]", None);
            out.text("protocol", route.protocol);
            out.list("sni", &route.sni);
            out.list("source", &route.source);
            out.text("pool", Some(&route.pool));
        }
    }
}

impl Pool {
    /// Takes the port of the probes out where a backend is a unix socket, which has none. Returns whether it did.
    pub fn drop_port_of_unix(&mut self) -> bool {
        let found =
            self.health.port.is_some() && self.backends.iter().any(|backend| backend.address.starts_with("unix:"));
        if found {
            self.health.port = None;
            // An agent has nothing but its port.
            if self.health.check == Check::Agent {
                self.health = Health::default();
            }
        }
        found
    }

    /// Turns the probes off where they have no port for a backend with the client's. Returns the backend.
    pub fn drop_probes_without_port(&mut self) -> Option<Backend> {
        let is_mapped = |backend: &&Backend| {
            Address::parse_backend(&backend.address).is_ok_and(|address| address.port_offset().is_some())
        };
        let needs = self.health.check != Check::Off && self.health.port.is_none();
        let backend = self.backends.iter().find(is_mapped).filter(|_| needs)?.clone();
        self.health = Health::default();
        Some(backend)
    }

    fn write(&self, out: &mut Out<'_>) {
        out.head("", "[[pool]]", Some(&self.origin));
        out.text("name", Some(&self.name));
        out.text("algorithm", self.algorithm);
        out.text("source", self.source.as_ref());
        out.time("connect_timeout", self.connect);
        out.bare("connect_attempts", self.connect_attempts);
        out.time("idle_timeout", self.idle);
        out.time("half_close_timeout", self.half_close);
        out.text("on_down", self.on_down_reset.then_some("reset"));
        out.text("on_remove", self.on_remove_reset.then_some("reset"));
        out.time("slow_start", self.slow_start);
        out.text("no_backend", self.wait.map(|time| format!("wait {}", duration::written(time))));
        out.text("abandoned", self.abandoned_drop.then_some("drop"));
        out.bare("max_queue", self.max_queue);
        out.bare("outlier_failures", self.outlier_failures);
        if !self.backends.is_empty() || !self.discover.is_empty() {
            self.health.write(out);
        }
        for backend in &self.backends {
            out.head("  ", "[[pool.backend]]", None);
            out.text("name", backend.name.as_ref());
            out.text("address", Some(&backend.address));
            out.bare("weight", backend.weight);
            out.bare("max_connections", backend.max_connections);
            out.switch("backup", backend.backup);
            out.text("send_proxy", backend.send_proxy);
        }
        for discover in &self.discover {
            out.head("  ", "[[pool.discover]]", None);
            out.text("kind", Some("dns"));
            out.text("name", discover.name.as_ref());
            out.text("srv", discover.srv.as_ref());
            out.list("resolvers", &discover.resolvers);
            out.bare("weight", discover.weight);
            out.bare("max_connections", discover.max_connections);
            out.switch("backup", discover.backup);
        }
    }
}

impl Health {
    fn write(&self, out: &mut Out<'_>) {
        out.head("  ", "[pool.health]", None);
        let kind = match &self.check {
            Check::Off => "off",
            Check::Tcp => "tcp",
            Check::Http { .. } => "http",
            Check::Agent => "agent",
            Check::Script(_) => "script",
        };
        out.text("kind", Some(kind));
        match &self.check {
            Check::Http { path, host, expect_status } => {
                out.text("path", Some(path));
                out.text("host", host.as_ref());
                out.list("expect_status", expect_status);
            }
            Check::Script(steps) => {
                out.line("steps = [");
                for step in steps {
                    let line = match step {
                        Step::Send(bytes) => format!("send = {}", quoted(escaped(bytes))),
                        Step::Expect(bytes) => format!("expect = {}", quoted(escaped(bytes))),
                        Step::ExpectRegex(pattern) => format!("expect_regex = {}", quoted(pattern)),
                    };
                    out.line(&format!("  {{ {line} }},"));
                }
                out.line("]");
            }
            Check::Off | Check::Tcp | Check::Agent => {}
        }
        if self.check != Check::Off {
            out.text("initial", self.initial_down.then_some("down"));
            out.bare("port", self.port);
            out.time("interval", self.interval);
            out.time("timeout", self.timeout);
            out.bare("rise", self.rise);
            out.bare("fall", self.fall);
        }
    }
}
