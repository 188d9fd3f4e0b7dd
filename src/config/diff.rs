//! What changes from one model to another, and what of a new file applies to a model that was changed at run time.
//!
//! Pure. Each setting has one line here, which says how it is shown; the patterns that take a struct apart name every
//! field, so that a new setting can't be forgotten.
//!
//! # A reload when something was changed at run time
//!
//! The running model is the last file's plus what was changed since. [`merge`] applies the difference between the last
//! file and the new one to it: what the file does not change stays as it runs.
//!
//! | a backend is | and in the new file | then it |
//! |---|---|---|
//! | as in the last file | whatever | is as in the new file |
//! | changed at run time | the same as in the last file | stays as it runs |
//! | changed at run time | changed | takes the changed settings from the file, keeps the others |
//! | taken out at run time | the same as in the last file | stays out |
//! | taken out at run time | changed | is back, as in the file |
//! | added at run time | not there | stays |
//! | added at run time | there, but not in the last file | is as in the file |
//! | whatever | gone, but in the last file | is taken out |
//!
//! Listeners, pools and what concerns the process can't be changed at run time: they are as in the new file.

use super::by_name;
use super::model::{self, Backend, HealthKind, Model, OnDown, OnRemove, Pool, PrefixFile, SendProxy};
use super::words;
use crate::base::duration;
use std::fmt::{self, Display};
use std::hash::{DefaultHasher, Hash, Hasher};

/// All that changes, in the order of the configuration: what is gone last within its kind.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes(pub Vec<Change>);

/// One thing that changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Whom it concerns.
    pub subject: Subject,
    /// What becomes of it.
    pub what: What,
    /// How many open connections it has. [`between`] does not know: whoever does fills it in.
    pub connections: u64,
}

/// Whom a change concerns, by name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Subject {
    /// The process.
    Global,
    /// A listener.
    Listener(String),
    /// A pool.
    Pool(String),
    /// A backend of a pool.
    Backend {
        /// The pool.
        pool: String,
        /// The backend.
        name: String,
    },
}

/// What becomes of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// It is new.
    Added,
    /// It is gone; this becomes of its connections.
    Removed(OnRemove),
    /// These settings are other ones.
    Changed(Vec<Setting>),
    /// These settings are other ones in the file, but take effect only when tcplb starts.
    NeedsRestart(Vec<Setting>),
}

/// A setting with its old and its new value, as text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting {
    /// As the file calls it.
    pub key: &'static str,
    /// What it was.
    pub from: String,
    /// What it is.
    pub to: String,
}

impl Display for Changes {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return out.write_str("nothing changed");
        }
        for (index, change) in self.0.iter().enumerate() {
            if index > 0 {
                out.write_str("\n")?;
            }
            change.fmt(out)?;
        }
        Ok(())
    }
}

impl Display for Change {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.subject {
            Subject::Global => out.write_str("global")?,
            Subject::Listener(name) => write!(out, "listener {name}")?,
            Subject::Pool(name) => write!(out, "pool {name}")?,
            Subject::Backend { pool, name } => write!(out, "pool {pool}: backend {name}")?,
        }
        let connections = Connections(self.connections);
        match &self.what {
            What::Added => write!(out, " added ({connections})"),
            What::Removed(OnRemove::Keep) if self.connections == 1 => write!(out, " removed ({connections} goes on)"),
            What::Removed(OnRemove::Keep) => write!(out, " removed ({connections} go on)"),
            What::Removed(OnRemove::Reset) => write!(out, " removed ({connections} reset)"),
            What::Removed(OnRemove::Drain(time)) => {
                write!(out, " removed ({connections} may finish within {})", duration::written(*time))
            }
            What::Changed(settings) => write!(out, " changed: {} ({connections})", Settings(settings)),
            What::NeedsRestart(settings) => write!(out, ": {} needs a restart", Settings(settings)),
        }
    }
}

struct Connections(u64);

impl Display for Connections {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} connection{}", self.0, if self.0 == 1 { "" } else { "s" })
    }
}

struct Settings<'a>(&'a [Setting]);

impl Display for Settings<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, Setting { key, from, to }) in self.0.iter().enumerate() {
            write!(out, "{}{key} {from} → {to}", if index > 0 { ", " } else { "" })?;
        }
        Ok(())
    }
}

/// What changes from `old` to `new`.
pub fn between(old: &Model, new: &Model) -> Changes {
    let mut changes = Vec::new();
    let mut note = |subject, what| changes.push(Change { subject, what, connections: 0 });
    if let Some(settings) = differing(live(&old.global), live(&new.global)) {
        note(Subject::Global, What::Changed(settings));
    }
    if let Some(settings) = differing(fixed(&old.global), fixed(&new.global)) {
        note(Subject::Global, What::NeedsRestart(settings));
    }
    let (old_listeners, new_listeners) = (by_name(&old.listeners), by_name(&new.listeners));
    for listener in &new.listeners {
        let subject = Subject::Listener(listener.name.clone());
        match old_listeners.get(listener.name.as_str()) {
            None => note(subject, What::Added),
            // Turning a long list of prefixes into text takes long.
            Some(other) if *other == listener => {}
            Some(other) => {
                if let Some(settings) = differing(of_listener(other), of_listener(listener)) {
                    note(subject, What::Changed(settings));
                }
            }
        }
    }
    for gone in old.listeners.iter().filter(|old| !new_listeners.contains_key(old.name.as_str())) {
        note(Subject::Listener(gone.name.clone()), What::Removed(OnRemove::Keep));
    }
    let (old_pools, new_pools) = (by_name(&old.pools), by_name(&new.pools));
    for pool in &new.pools {
        let subject = Subject::Pool(pool.name.clone());
        match old_pools.get(pool.name.as_str()) {
            None => note(subject, What::Added),
            Some(other) if *other == pool => {}
            Some(other) => {
                if let Some(settings) = differing(of_pool(other), of_pool(pool)) {
                    note(subject, What::Changed(settings));
                }
                backends(other, pool, &mut note);
            }
        }
    }
    for gone in old.pools.iter().filter(|old| !new_pools.contains_key(old.name.as_str())) {
        note(Subject::Pool(gone.name.clone()), What::Removed(gone.on_remove));
    }
    Changes(changes)
}

fn backends(old: &Pool, new: &Pool, note: &mut impl FnMut(Subject, What)) {
    let subject = |backend: &Backend| Subject::Backend { pool: new.name.clone(), name: backend.name.clone() };
    let (olds, news) = (by_name(&old.backends), by_name(&new.backends));
    for backend in &new.backends {
        match olds.get(backend.name.as_str()) {
            None => note(subject(backend), What::Added),
            Some(other) if *other == backend => {}
            Some(other) => {
                if let Some(settings) = differing(of_backend(other), of_backend(backend)) {
                    note(subject(backend), What::Changed(settings));
                }
            }
        }
    }
    for gone in old.backends.iter().filter(|old| !news.contains_key(old.name.as_str())) {
        // What the new settings say is what is done.
        note(subject(gone), What::Removed(new.on_remove));
    }
}

/// The running model after a reload: see the module.
pub fn merge(old_file: &Model, new_file: &Model, running: &Model) -> Model {
    let (old_pools, running_pools) = (by_name(&old_file.pools), by_name(&running.pools));
    let pools = new_file.pools.iter().map(|new| {
        match (old_pools.get(new.name.as_str()), running_pools.get(new.name.as_str())) {
            (Some(old), Some(running)) => {
                let backends = merge_backends(old, new, running);
                Pool { backends, ..new.clone() }
            }
            _ => new.clone(),
        }
    });
    Model { global: new_file.global.clone(), listeners: new_file.listeners.clone(), pools: pools.collect() }
}

/// A merged model without what takes effect only at the start, which stays as it runs.
pub fn in_force(merged: Model, running: &Model) -> Model {
    let model::Global { shutdown_delay, shutdown_timeout, names, metrics_per_backend, .. } = merged.global;
    let live = model::Global { shutdown_delay, shutdown_timeout, names, metrics_per_backend, ..running.global.clone() };
    Model { global: live, ..merged }
}

fn merge_backends(old: &Pool, new: &Pool, running: &Pool) -> Vec<Backend> {
    let (olds, news, runs) = (by_name(&old.backends), by_name(&new.backends), by_name(&running.backends));
    let of_file = new.backends.iter().filter_map(|new| match (olds.get(&*new.name), runs.get(&*new.name)) {
        (Some(old), Some(running)) => Some(merge_backend(old, new, running)),
        // Taken out at run time; only a changed entry brings it back.
        (Some(old), None) => (*old != new).then(|| new.clone()),
        (None, _) => Some(new.clone()),
    });
    let added = |backend: &&Backend| !olds.contains_key(&*backend.name) && !news.contains_key(&*backend.name);
    of_file.chain(running.backends.iter().filter(added).cloned()).collect()
}

fn merge_backend(old: &Backend, new: &Backend, running: &Backend) -> Backend {
    fn choose<T: PartialEq + Clone>(old: &T, new: &T, running: &T) -> T {
        if old == new { running.clone() } else { new.clone() }
    }
    let Backend { name, address, weight, max_connections, backup, send_proxy } = new;
    Backend {
        name: name.clone(),
        address: choose(&old.address, address, &running.address),
        weight: choose(&old.weight, weight, &running.weight),
        max_connections: choose(&old.max_connections, max_connections, &running.max_connections),
        backup: choose(&old.backup, backup, &running.backup),
        send_proxy: choose(&old.send_proxy, send_proxy, &running.send_proxy),
    }
}

/// A setting and its value as text.
type Shown = (&'static str, String);

fn differing(old: Vec<Shown>, new: Vec<Shown>) -> Option<Vec<Setting>> {
    let both = old.into_iter().zip(new).filter(|((_, from), (_, to))| from != to);
    let settings: Vec<Setting> = both.map(|((key, from), (_, to))| Setting { key, from, to }).collect();
    (!settings.is_empty()).then_some(settings)
}

/// What of the process's settings takes effect at once.
fn live(global: &model::Global) -> Vec<Shown> {
    vec![
        ("shutdown_delay", duration::written(global.shutdown_delay)),
        ("shutdown_timeout", duration::written(global.shutdown_timeout)),
        ("names", words::of(&global.names, &model::Names::NAMES)),
        ("metrics_per_backend", global.metrics_per_backend.to_string()),
    ]
}

/// What of them takes effect only at the start.
fn fixed(global: &model::Global) -> Vec<Shown> {
    let model::Global {
        workers,
        max_connections,
        shutdown_delay: _,
        shutdown_timeout: _,
        names: _,
        metrics_per_backend: _,
        dead_peer_timeout,
        socket_buffer,
        relay,
        admin,
        admin_token_file,
        user,
        group,
        sandbox,
        access_log,
        log_format,
    } = global;
    let sandbox = model::Sandbox::NAMES.iter().find(|(_, other)| other == sandbox).map(|(name, _)| name);
    let relay = model::Engine::NAMES.iter().find(|(_, engine)| engine == relay).map(|(name, _)| name);
    vec![
        ("workers", workers.to_string()),
        ("max_connections", option(max_connections)),
        ("dead_peer_timeout", duration::written(*dead_peer_timeout)),
        ("socket_buffer", option(socket_buffer)),
        ("relay", option(&relay)),
        ("admin", option(admin)),
        ("admin_token_file", option(&admin_token_file.as_ref().map(|path| path.display()))),
        ("user", option(user)),
        ("group", option(group)),
        ("sandbox", option(&sandbox)),
        ("access_log", option(access_log)),
        ("log_format", words::of(log_format, &model::LogFormat::NAMES)),
    ]
}

fn of_listener(listener: &model::Listener) -> Vec<Shown> {
    let model::Listener {
        name: _,
        bind,
        pool,
        accept_proxy,
        trusted_proxies,
        allow,
        deny,
        allow_file,
        deny_file,
        max_connections,
        max_connections_per_source,
        connection_rate_per_source,
        limits_dry_run,
        socket_file: model::SocketFile { mode, owner, group },
    } = listener;
    vec![
        ("bind", list(bind)),
        ("pool", pool.clone()),
        ("accept_proxy", accept_proxy.to_string()),
        ("trusted_proxies", list(trusted_proxies)),
        ("allow", list(allow)),
        ("deny", list(deny)),
        ("allow_file", prefix_file(allow_file)),
        ("deny_file", prefix_file(deny_file)),
        ("max_connections", option(max_connections)),
        ("max_connections_per_source", option(max_connections_per_source)),
        (
            "connection_rate_per_source",
            option(&connection_rate_per_source.map(|rate| format!("{}/s", rate.per_second))),
        ),
        ("mode", option(&mode.map(|mode| format!("{mode:04o}")))),
        ("owner", option(owner)),
        ("group", option(group)),
        ("limits", words::of(limits_dry_run, &model::Listener::LIMITS)),
    ]
}

fn of_pool(pool: &Pool) -> Vec<Shown> {
    let Pool {
        name: _,
        algorithm,
        connect_timeout,
        connect_attempts,
        idle_timeout,
        half_close_timeout,
        max_lifetime,
        on_down,
        on_remove,
        slow_start,
        no_backend,
        abandoned,
        all_down,
        outlier_failures,
        send_proxy,
        health,
        backends: _,
    } = pool;
    let model::Health { kind, initial, port, interval, timeout, rise, fall } = health;
    let (kind, path, host, expect) = match kind {
        HealthKind::Tcp => ("tcp", None, None, None),
        HealthKind::Http { path, host, expect } => ("http", Some(path), host.as_ref(), Some(expect)),
        HealthKind::Off => ("off", None, None, None),
    };
    let expect = expect.map(|ranges| list(ranges.iter().map(|(low, high)| format!("{low}-{high}"))));
    vec![
        ("algorithm", algorithm.name.to_owned()),
        ("connect_timeout", duration::written(*connect_timeout)),
        ("connect_attempts", connect_attempts.to_string()),
        ("idle_timeout", duration::written(*idle_timeout)),
        ("half_close_timeout", duration::written(*half_close_timeout)),
        ("max_lifetime", option(&max_lifetime.map(duration::written))),
        ("on_down", if *on_down == OnDown::Keep { "keep" } else { "reset" }.to_owned()),
        (
            "on_remove",
            match on_remove {
                OnRemove::Keep => "keep".to_owned(),
                OnRemove::Reset => "reset".to_owned(),
                OnRemove::Drain(after) => format!("drain {}", duration::written(*after)),
            },
        ),
        ("slow_start", duration::written(*slow_start)),
        (
            "no_backend",
            match no_backend {
                model::NoBackend::Reset => "reset".to_owned(),
                model::NoBackend::Wait(most) => format!("wait {}", duration::written(*most)),
            },
        ),
        ("abandoned", words::of(abandoned, &model::Abandoned::NAMES)),
        ("all_down", words::of(all_down, &model::AllDown::NAMES)),
        ("outlier_failures", outlier_failures.to_string()),
        ("send_proxy", option(&send_proxy.map(|version| words::of(&SendProxy::As(version), &SendProxy::NAMES)))),
        ("health.kind", kind.to_owned()),
        ("health.path", option(&path)),
        ("health.host", option(&host)),
        ("health.expect_status", option(&expect)),
        ("health.initial", words::of(initial, &model::InitialHealth::NAMES)),
        ("health.port", option(port)),
        ("health.interval", duration::written(*interval)),
        ("health.timeout", duration::written(*timeout)),
        ("health.rise", rise.to_string()),
        ("health.fall", fall.to_string()),
    ]
}

fn of_backend(backend: &Backend) -> Vec<Shown> {
    let Backend { name: _, address, weight, max_connections, backup, send_proxy } = backend;
    vec![
        ("address", address.to_string()),
        ("weight", weight.to_string()),
        ("max_connections", option(max_connections)),
        ("backup", backup.to_string()),
        ("send_proxy", option(&send_proxy.map(|send| words::of(&send, &SendProxy::NAMES)))),
    ]
}

/// Nobody wants to see a hundred thousand prefixes: how many there are, and what tells one content from another.
fn prefix_file(file: &Option<PrefixFile>) -> String {
    let digest = |file: &PrefixFile| {
        let mut hasher = DefaultHasher::new();
        file.prefixes.hash(&mut hasher);
        hasher.finish()
    };
    let shown = |file: &PrefixFile| {
        format!("{} ({} prefixes, {:016x})", file.path.display(), file.prefixes.len(), digest(file))
    };
    option(&file.as_ref().map(shown))
}

fn option(value: &Option<impl Display>) -> String {
    value.as_ref().map_or_else(|| "none".to_owned(), ToString::to_string)
}

fn list(items: impl IntoIterator<Item = impl Display>) -> String {
    let items: Vec<String> = items.into_iter().map(|item| item.to_string()).collect();
    if items.is_empty() { "none".to_owned() } else { items.join(", ") }
}

#[cfg(test)]
mod tests;
