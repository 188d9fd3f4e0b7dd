//! What changes from one model to another, and which parts of a new file apply to a model that was changed at run time.
//!
//! Pure. The tables of `config::settings` list the settings, and which of them take effect at once.
//!
//! # A reload when something was changed at run time
//!
//! The running model is the last file's plus the changes since. [`merge`] applies the difference between the last
//! file and the new one to it: what the file does not change stays as it runs.
//!
//! | a backend is | and in the new file | then it |
//! |---|---|---|
//! | as in the last file | in any state | is as in the new file |
//! | changed at run time | the same as in the last file | stays as it runs |
//! | changed at run time | changed | takes the changed settings from the file, keeps the others |
//! | removed at run time | the same as in the last file | stays removed |
//! | removed at run time | changed | is added, as in the file |
//! | added at run time | not there | stays |
//! | added at run time | there, but not in the last file | is as in the file |
//! | in any state | gone, but in the last file | is removed |
//!
//! Listeners, their routes, pools and what concerns the process can't be changed at run time: they are as in the new file.

mod routes;

use super::by_name;
use super::model::{Backend, Discover, Model, OnRemove, Origin, Pool};
use super::settings::kinds::Written;
use super::settings::{BACKEND, DISCOVER, GLOBAL, HEALTH, LISTENER, POOL, Reload, Section, written_of_kind};
use crate::base::duration;
use crate::base::text::counted;
use std::fmt::{self, Display};

/// All changes, in the order of the configuration. Within a kind, removals come last.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes(pub Vec<Change>);

/// One thing that changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// The part of the configuration that changes.
    pub subject: Subject,
    /// What becomes of it.
    pub what: What,
    /// Its open connections. [`between`] leaves it 0; the caller fills it in.
    pub connections: u64,
    /// What added it, where it is a backend.
    pub origin: Origin,
}

/// The part of the configuration that a change concerns, by name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Subject {
    /// The process.
    Global,
    /// A listener.
    Listener(String),
    /// A route of a listener.
    Route {
        /// The listener.
        listener: String,
        /// The route's name, or its number.
        label: String,
    },
    /// A pool.
    Pool(String),
    /// A source of a pool.
    Source {
        /// The pool.
        pool: String,
        /// The label of the source.
        label: String,
    },
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
    /// It is removed, and this happens to its connections. `None`: the changes of its pool decide.
    Removed(Option<OnRemove>),
    /// These settings differ.
    Changed(Vec<Difference>),
    /// These settings differ in the file, but take effect only when tcplb starts.
    NeedsRestart(Vec<Difference>),
}

/// How many changes there are of each sort.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Added.
    pub added: u64,
    /// Removed.
    pub removed: u64,
    /// Changed, or to be changed by a restart.
    pub changed: u64,
}

impl Tally {
    /// Counts one more.
    pub fn count(&mut self, what: &What) {
        let count = match what {
            What::Added => &mut self.added,
            What::Removed(_) => &mut self.removed,
            What::Changed(_) | What::NeedsRestart(_) => &mut self.changed,
        };
        *count += 1;
    }
}

/// A setting with its old and its new value, as text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// As the file calls it.
    pub key: String,
    /// The old value.
    pub from: String,
    /// The new value.
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
            Subject::Route { listener, label } => write!(out, "listener {listener}: route {label}")?,
            Subject::Pool(name) => write!(out, "pool {name}")?,
            Subject::Source { pool, label } => write!(out, "pool {pool}: discovery by {label}")?,
            Subject::Backend { pool, name } => write!(out, "pool {pool}: backend {name}")?,
        }
        out.write_str(if matches!(self.what, What::NeedsRestart(_)) { ": " } else { " " })?;
        self.fate().fmt(out)
    }
}

impl Change {
    /// The text, with the source of a backend that one has found.
    pub fn with_source(&self) -> String {
        match &self.origin {
            Origin::Source(_) => format!("{self}, by {}", self.origin),
            Origin::File | Origin::Api => self.to_string(),
        }
    }

    /// What becomes of the subject, without its name.
    pub fn fate(&self) -> impl Display {
        Fate(self)
    }
}

struct Fate<'a>(&'a Change);

impl Display for Fate<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Fate(Change { what, connections: count, .. }) = self;
        let connections = Connections(*count);
        let is_uncounted = matches!(self.0.subject, Subject::Source { .. } | Subject::Route { .. });
        match what {
            // Backends have the connections.
            What::Added if is_uncounted => out.write_str("added"),
            What::Removed(_) if is_uncounted => out.write_str("removed"),
            What::Changed(settings) if is_uncounted => write!(out, "changed: {}", Differences(settings)),
            What::Added => write!(out, "added ({connections})"),
            What::Removed(Some(OnRemove::Keep)) if *count == 1 => write!(out, "removed ({connections} goes on)"),
            What::Removed(Some(OnRemove::Keep)) => write!(out, "removed ({connections} go on)"),
            What::Removed(Some(OnRemove::Reset)) => write!(out, "removed ({connections} reset)"),
            What::Removed(Some(OnRemove::Drain(time))) => {
                write!(out, "removed ({connections} may finish within {})", duration::written(*time))
            }
            What::Removed(None) => write!(out, "removed ({connections})"),
            What::Changed(settings) => write!(out, "changed: {} ({connections})", Differences(settings)),
            What::NeedsRestart(settings) => write!(out, "{} needs a restart", Differences(settings)),
        }
    }
}

struct Connections(u64);

impl Display for Connections {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&counted(self.0, "connection"))
    }
}

struct Differences<'a>(&'a [Difference]);

impl Display for Differences<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, Difference { key, from, to }) in self.0.iter().enumerate() {
            write!(out, "{}{key} {from} → {to}", if index > 0 { ", " } else { "" })?;
        }
        Ok(())
    }
}

/// What changes from `old` to `new`.
pub fn between(old: &Model, new: &Model) -> Changes {
    let mut changes = Vec::new();
    let mut note = |subject, what: What, origin: &Origin| {
        if !matches!(&what, What::Changed(settings) | What::NeedsRestart(settings) if settings.is_empty()) {
            changes.push(Change { subject, what, connections: 0, origin: origin.clone() });
        }
    };
    let file = &Origin::File;
    note(Subject::Global, What::Changed(differing(&GLOBAL, Reload::Live, &old.global, &new.global)), file);
    note(Subject::Global, What::NeedsRestart(differing(&GLOBAL, Reload::Restart, &old.global, &new.global)), file);
    let (old_pools, new_pools) = (by_name(&old.pools), by_name(&new.pools));
    let (old_listeners, new_listeners) = (by_name(&old.listeners), by_name(&new.listeners));
    for listener in &new.listeners {
        let subject = Subject::Listener(listener.name.clone());
        match old_listeners.get(listener.name.as_str()) {
            None => note(subject, What::Added, file),
            // Turning a long list of prefixes into text takes long.
            Some(other) if *other == listener => {}
            Some(other) => {
                let (order, of_routes) = routes::between(other, listener);
                let own = differing(&LISTENER, Reload::Live, other, listener);
                note(subject, What::Changed(own.into_iter().chain(order).collect()), file);
                of_routes.into_iter().for_each(|(subject, what)| note(subject, what, file));
            }
        }
    }
    for gone in old.listeners.iter().filter(|old| !new_listeners.contains_key(old.name.as_str())) {
        // Without its pool, a client that waits for a backend is reset, and the pool's `on_remove` decides about the others.
        let fate = new_pools.contains_key(gone.pool.as_str()).then_some(OnRemove::Keep);
        note(Subject::Listener(gone.name.clone()), What::Removed(fate), file);
    }
    for pool in &new.pools {
        let subject = Subject::Pool(pool.name.clone());
        match old_pools.get(pool.name.as_str()) {
            None => note(subject, What::Added, file),
            Some(other) if *other == pool => {}
            Some(other) => {
                note(subject, What::Changed(of_pool(other, pool)), file);
                sources(other, pool, &mut note);
                backends(other, pool, &mut note);
            }
        }
    }
    for gone in old.pools.iter().filter(|old| !new_pools.contains_key(old.name.as_str())) {
        note(Subject::Pool(gone.name.clone()), What::Removed(Some(gone.on_remove)), file);
    }
    Changes(changes)
}

/// Equal sources are the same. Of the others, those with the same label are.
fn sources(old: &Pool, new: &Pool, note: &mut impl FnMut(Subject, What, &Origin)) {
    let subject = |label| Subject::Source { pool: new.name.clone(), label };
    let mut olds = old.sources();
    let mut others = new.sources();
    others.retain(|(_, source)| match olds.iter().position(|(_, old)| old == source) {
        Some(same) => {
            olds.remove(same);
            false
        }
        None => true,
    });
    for (label, source) in others {
        match olds.iter().position(|(old, _)| *old == label) {
            Some(before) => {
                note(subject(label), What::Changed(of_source(olds.remove(before).1, source)), &Origin::File)
            }
            None => note(subject(label), What::Added, &Origin::File),
        }
    }
    olds.into_iter().for_each(|(label, _)| note(subject(label), What::Removed(None), &Origin::File));
}

fn backends(old: &Pool, new: &Pool, note: &mut impl FnMut(Subject, What, &Origin)) {
    let subject = |backend: &Backend| Subject::Backend { pool: new.name.clone(), name: backend.name.clone() };
    let (olds, news) = (by_name(&old.backends), by_name(&new.backends));
    for backend in &new.backends {
        match olds.get(backend.name.as_str()) {
            None => note(subject(backend), What::Added, &backend.origin),
            Some(other) if *other == backend => {}
            Some(other) => {
                let differing = differing(&BACKEND, Reload::Live, other, backend);
                note(subject(backend), What::Changed(differing), &backend.origin);
            }
        }
    }
    for gone in old.backends.iter().filter(|old| !news.contains_key(old.name.as_str())) {
        // The new settings decide.
        note(subject(gone), What::Removed(Some(new.on_remove)), &gone.origin);
    }
}

/// The running model after a reload: see the module.
pub fn merge(old_file: &Model, new_file: &Model, running: &Model) -> Model {
    let (old_pools, running_pools) = (by_name(&old_file.pools), by_name(&running.pools));
    let pools = new_file.pools.iter().map(|new| {
        match (old_pools.get(new.name.as_str()), running_pools.get(new.name.as_str())) {
            (Some(old), Some(running)) => new.with_backends(merge_backends(old, new, running)),
            _ => new.clone(),
        }
    });
    Model { global: new_file.global.clone(), listeners: new_file.listeners.clone(), pools: pools.collect() }
}

/// A merged model without what takes effect only at the start, which stays as it runs.
pub fn in_force(merged: Model, running: &Model) -> Model {
    let mut global = running.global.clone();
    for setting in GLOBAL.settings.iter().filter(|setting| setting.about.reload == Reload::Live) {
        setting.copy(&mut global, &merged.global);
    }
    Model { global, ..merged }
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
    let mut merged = running.clone();
    // As long as most of tens of thousands stay as they are, there is little to turn into text.
    if old != new {
        for setting in BACKEND.settings.iter().filter(|setting| setting.write(old) != setting.write(new)) {
            setting.copy(&mut merged, new);
        }
    }
    merged
}

/// What stands in the place of a value that may have passwords in it.
const HIDDEN: &str = "(not shown)";

/// The settings of a section whose values differ and that a reload treats like this.
fn differing<S>(section: &Section<S>, reload: Reload, old: &S, new: &S) -> Vec<Difference> {
    let settings = section.settings.iter().filter(|setting| setting.about.reload == reload);
    let differences = settings.filter_map(|setting| {
        let (from, to) = (setting.write(old), setting.write(new));
        let shown = |written: Option<Written>| match written {
            Some(_) if setting.about.is_secret => HIDDEN.to_owned(),
            written => plain(written),
        };
        (from != to).then(|| Difference { key: setting.about.key.to_owned(), from: shown(from), to: shown(to) })
    });
    differences.collect()
}

fn of_pool(old: &Pool, new: &Pool) -> Vec<Difference> {
    let of_health = differing(&HEALTH, Reload::Live, &old.health, &new.health).into_iter();
    let of_health = of_health.map(|it| Difference { key: format!("health.{}", it.key), ..it });
    differing(&POOL, Reload::Live, old, new).into_iter().chain(of_health).collect()
}

/// Both have the same kind.
fn of_source(old: &Discover, new: &Discover) -> Vec<Difference> {
    let value = |source, key| written_of_kind(source).find(|(name, _)| *name == key).map(|(_, value)| value);
    let of_kind = new.settings.kind.keys.iter().map(|key| (key.name, value(old, key.name), value(new, key.name)));
    let of_kind = of_kind.filter(|(_, from, to)| from != to);
    let of_kind = of_kind.map(|(key, from, to)| Difference { key: key.to_owned(), from: plain(from), to: plain(to) });
    of_kind.chain(differing(&DISCOVER, Reload::Live, old, new)).collect()
}

fn plain(written: Option<Written>) -> String {
    written.map_or_else(|| "none".to_owned(), |written| written.plain())
}

#[cfg(test)]
mod tests;
