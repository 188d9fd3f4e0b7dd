//! What was changed at run time against the file, as a text that a restart reads.
//!
//! The text holds each changed backend twice: as the file had it, and as it runs. So a start under a changed file does what
//! a reload does ([`diff::merge`]). What the file does not change stays as it ran.
//!
//! The text also holds the newest sets of all sources, so that a start without them serves what they found last.
//!
//! Pure. The thread of `state_file` writes the text.

mod sources;

use super::by_name;
use super::diff;
use super::discovered::{Discovered, is_discovered};
use super::file::table::{Keys, Notes, Table};
use super::file::{Mistakes, readable};
use super::model::{Backend, Model, Origin, Pool};
use super::settings::kinds::quoted;
use super::settings::{self, BACKEND, Source};
use crate::base::AdminState;
use crate::discovery::SourceId;
use std::collections::{HashMap, HashSet};
use std::fmt::Write;
use std::sync::Arc;
use toml::de::{DeTable, DeValue};

/// The version of the text.
const VERSION: &str = "1";

/// What stands before it.
const HEAD: &str = "\
# tcplb writes this file. It holds what was changed at run time, and is read at the start.
# To drop the changes, stop tcplb and remove the file.
";

/// The changes at run time: those of the API to backends of the file and of its own, and what sources have found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RuntimeChanges(Vec<RuntimeChange>, Arc<Discovered>);

/// The change of one backend.
#[derive(Clone, Debug, PartialEq, Eq)]
struct RuntimeChange {
    pool: String,
    /// As the file had it; `None`: it was added at run time.
    file: Option<Backend>,
    /// As it ran; `None`: it was removed.
    runs: Option<Backend>,
    state: AdminState,
}

/// The states of backends by the names of pool and backend.
pub type States<'a> = HashMap<(&'a str, &'a str), AdminState>;

impl RuntimeChanges {
    /// The difference between the file and what runs. `states` has the backends that are not enabled.
    pub fn of(file: &Model, running: &Model, states: &States<'_>) -> RuntimeChanges {
        let mut changes = Vec::new();
        let of_file = by_name(&file.pools);
        for pool in &running.pools {
            let before = of_file.get(pool.name.as_str()).map_or(&[][..], |pool| &pool.backends);
            let own = || pool.backends.iter().filter(|backend| !is_discovered(backend));
            let old = by_name(before);
            let now: HashSet<&str> = own().map(|backend| backend.name.as_str()).collect();
            let change = |file: Option<&Backend>, runs: Option<&Backend>, state| RuntimeChange {
                pool: pool.name.clone(),
                file: file.cloned(),
                runs: runs.cloned(),
                state,
            };
            for backend in own() {
                let state = states.get(&(pool.name.as_str(), backend.name.as_str())).copied().unwrap_or_default();
                let file = old.get(backend.name.as_str()).copied();
                if file != Some(backend) || state != AdminState::Enabled {
                    changes.push(change(file, Some(backend), state));
                }
            }
            let gone = before.iter().filter(|backend| !now.contains(backend.name.as_str()));
            changes.extend(gone.map(|backend| change(Some(backend), None, AdminState::Enabled)));
        }
        RuntimeChanges(changes, Arc::default())
    }

    /// With what sources have found.
    #[must_use]
    pub fn with(self, discovered: Arc<Discovered>) -> RuntimeChanges {
        RuntimeChanges(self.0, discovered)
    }

    /// What sources have found.
    pub fn discovered(&self) -> &Arc<Discovered> {
        &self.1
    }

    /// The text.
    pub fn print(&self) -> String {
        let mut out = format!("{HEAD}version = {VERSION}\n");
        for RuntimeChange { pool, file, runs, state } in &self.0 {
            // Writing to a string can't fail.
            let _ = writeln!(out, "\n[[backend]]\npool = {}", quoted(pool));
            for (key, backend) in [("file", file), ("runs", runs)] {
                if let Some(backend) = backend {
                    let _ = writeln!(out, "{key} = {{ {} }}", inline(backend));
                }
            }
            if *state != AdminState::Enabled {
                let _ = writeln!(out, "state = \"{}\"", state.word());
            }
        }
        sources::print(&self.1, &mut out);
        out
    }

    /// Reads the text; `name` is what messages call the file.
    pub fn parse(text: &str, name: &str) -> Result<RuntimeChanges, Mistakes> {
        let notes = Notes::new(text);
        let mut changes = RuntimeChanges::default();
        match DeTable::parse(text) {
            Ok(document) => {
                let keys = [&["version", "backend"][..], &sources::KEYS].concat();
                let root = Table::new(document.get_ref(), 0, &keys, &notes);
                changes = RuntimeChanges(read(&root), Arc::new(sources::read(&root)));
            }
            Err(error) => notes
                .syntax(error.span().map_or(text.len(), |span| span.start), format!("not TOML: {}", error.message())),
        }
        let lines = notes.lines(name);
        if lines.is_empty() { Ok(changes) } else { Err(Mistakes(readable(lines, name, false))) }
    }

    /// What runs under a file, maybe a newer one, and the backends (pool, name) that are not enabled; without those of sources.
    pub fn apply(&self, file: &Model) -> (Model, Vec<(&str, &str, AdminState)>) {
        if self.0.is_empty() {
            return (file.clone(), Vec::new());
        }
        let side = |side: fn(&RuntimeChange) -> Option<&Backend>| {
            let mut pools: HashMap<&str, Vec<Backend>> = HashMap::new();
            for change in &self.0 {
                pools.entry(&change.pool).or_default().extend(side(change).cloned());
            }
            let pool = |(name, backends): (&str, _)| Pool { name: name.to_owned(), backends, ..Pool::default() };
            Model { global: file.global.clone(), listeners: Vec::new(), pools: pools.into_iter().map(pool).collect() }
        };
        let running = diff::merge(&side(|change| change.file.as_ref()), file, &side(|change| change.runs.as_ref()));
        let merged: HashMap<(&str, &str), &Backend> = running
            .pools
            .iter()
            .flat_map(|pool| pool.backends.iter().map(|backend| ((pool.name.as_str(), backend.name.as_str()), backend)))
            .collect();
        // A backend at another address is another one.
        let states = self.0.iter().filter(|change| change.state != AdminState::Enabled).filter_map(|change| {
            let runs = change.runs.as_ref()?;
            let (pool, name) = (change.pool.as_str(), runs.name.as_str());
            let same = merged.get(&(pool, name)).is_some_and(|now| now.address == runs.address);
            same.then_some((pool, name, change.state))
        });
        let states = states.collect();
        (running, states)
    }

    /// What [`RuntimeChanges::apply`] drops, since the file has no place for it any more. One line for each backend.
    pub fn dropped(&self, file: &Model) -> Vec<String> {
        let pools = by_name(&file.pools);
        let dropped = self.0.iter().filter_map(|change| {
            let RuntimeChange { pool, file: before, runs, state } = change;
            let name = &before.as_ref().or(runs.as_ref())?.name;
            let why = match (pools.get(pool.as_str()), before) {
                (None, _) => "the file has no such pool".to_owned(),
                // The file gives up what was removed at run time.
                (Some(_), Some(_)) if runs.is_none() => return None,
                (Some(now), _) => match now.backends.iter().find(|backend| backend.name == *name) {
                    None if before.is_some() => "the file has no such backend".to_owned(),
                    Some(now)
                        if *state != AdminState::Enabled
                            && before.as_ref().or(runs.as_ref())?.address != now.address =>
                    {
                        format!("the file has another address for it, so it is not {}", state.word())
                    }
                    _ => return None,
                },
            };
            Some(format!("pool {pool}: backend {name}: its change at run time is dropped: {why}"))
        });
        let has = |id: &SourceId| {
            let pool = pools.get(id.pool.as_str());
            pool.is_some_and(|pool| pool.sources().iter().any(|(label, _)| *label == id.label))
        };
        let gone = self.1.sets.keys().filter(|id| !has(id)).map(|SourceId { pool, label }| {
            format!("pool {pool}: the backends of discovery by {label} are dropped: the file has no such source")
        });
        dropped.chain(gone).collect()
    }
}

/// A backend's settings in a line.
fn inline(backend: &Backend) -> String {
    let settings = BACKEND.settings.iter();
    let written = settings.filter_map(|setting| Some(format!("{} = {}", setting.about.key, setting.write(backend)?)));
    written.collect::<Vec<_>>().join(", ")
}

fn read(root: &Table<'_>) -> Vec<RuntimeChange> {
    match root.value("version").map(|value| value.get_ref()) {
        Some(DeValue::Integer(digits)) if digits.as_str() == VERSION => {}
        Some(_) => root.wrong("version", format!("expected {VERSION}: another version of tcplb wrote this file")),
        None => root.missing(format!("expected version = {VERSION}: tcplb did not write this file")),
    }
    let keys = BACKEND.keys();
    let mut known = HashSet::new();
    let tables = root.tables("backend", &["pool", "file", "runs", "state"]);
    let mut changes = Vec::new();
    for table in &tables {
        let Some(change) = backend(table, &keys) else { continue };
        let name = change.file.as_ref().or(change.runs.as_ref()).map(|backend| backend.name.clone());
        if !known.insert((change.pool.clone(), name.clone())) {
            table.missing(format!("a second entry of {} in pool {}", name.unwrap_or_default(), change.pool));
        }
        changes.push(change);
    }
    changes
}

fn backend(at: &Table<'_>, keys: &Keys) -> Option<RuntimeChange> {
    let side = |key| {
        let table = at.table(key, keys)?;
        if !table.has("address") {
            table.missing(format!("{key}: expected an address"));
        }
        settings::read_backend(&Source::File(table))
    };
    let (file, mut runs) = (side("file"), side("runs"));
    if file.is_none() {
        runs.iter_mut().for_each(|runs| runs.origin = Origin::Api);
    }
    let same = file.as_ref().zip(runs.as_ref()).is_none_or(|(file, runs)| file.name == runs.name);
    if !same {
        at.wrong("runs", "expected the name of `file`");
    }
    let Some(pool) = at.raw("pool") else {
        at.missing("expected pool = \"NAME\"".to_owned());
        return None;
    };
    if !at.has("file") && !at.has("runs") {
        at.missing("expected `file`, `runs` or both: tables with an address".to_owned());
    }
    let state = sources::state(at).unwrap_or_default();
    (file.is_some() || runs.is_some()).then(|| RuntimeChange { pool: pool.to_owned(), file, runs, state })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::Address;
    use crate::discovery::Found;

    fn backend(name: &str, port: u16, weight: u16) -> Backend {
        let address = Address::Inet(([10, 0, 0, 1], port).into());
        Backend { name: name.to_owned(), weight, ..Backend::at(address) }
    }

    fn model(backends: &[Backend]) -> Model {
        let pool = Pool { name: "web \"1\"".to_owned(), backends: backends.to_vec(), ..Pool::default() };
        Model { global: Default::default(), listeners: Vec::new(), pools: vec![pool] }
    }

    fn weights(model: &Model) -> Vec<(&str, u16)> {
        model.pools[0].backends.iter().map(|backend| (backend.name.as_str(), backend.weight)).collect()
    }

    /// a is as in the file, b has another weight, c is removed, d drains, e is added.
    fn changed() -> (Model, Model, RuntimeChanges) {
        let [a, b, c, d] = [backend("a", 1, 1), backend("b", 2, 1), backend("c", 3, 1), backend("d", 4, 1)];
        let file = model(&[a.clone(), b, c, d.clone()]);
        let runs =
            model(&[a, backend("b", 2, 7), d, Backend { backup: true, origin: Origin::Api, ..backend("e", 5, 2) }]);
        let states = States::from([(("web \"1\"", "d"), AdminState::Draining)]);
        let changes = RuntimeChanges::of(&file, &runs, &states);
        (file, runs, changes)
    }

    #[test]
    fn what_is_written_is_read_and_gives_what_ran() {
        let (file, runs, changes) = changed();
        assert_eq!(changes.0.len(), 4);
        let read = RuntimeChanges::parse(&changes.print(), "state").unwrap();
        assert_eq!(read, changes);
        assert_eq!(read.apply(&file), (runs, vec![("web \"1\"", "d", AdminState::Draining)]));
        let nothing = RuntimeChanges::of(&file, &file, &States::new());
        assert_eq!(RuntimeChanges::parse(&nothing.print(), "state").unwrap(), RuntimeChanges::default());
        assert_eq!(nothing.apply(&file), (file, Vec::new()));
    }

    #[test]
    fn sets_of_sources_and_what_the_api_changed_on_them_are_read_again() {
        let found = |name: &str| Found {
            name: name.to_owned(),
            address: Address::parse_backend("web.internal:80").unwrap(),
            weight: Some(5),
            max_connections: None,
            backup: Some(false),
            state: AdminState::Draining,
        };
        let plain = Found { weight: None, backup: None, state: AdminState::Enabled, ..found("b") };
        // A name that no pool can have is no reason to refuse the file.
        let set = [("k \"1\"".to_owned(), found("a b")), ("k2".to_owned(), plain)];
        let id = SourceId { pool: "web \"1\"".to_owned(), label: "etcd".to_owned() };
        let mut discovered = Discovered::default();
        discovered.sets.insert(id, Arc::new(set.into()));
        discovered.change("web \"1\"", "b", Some(3), None);
        discovered.change("web \"1\"", "c", None, Some(AdminState::Enabled));
        let (file, _, changes) = changed();
        let changes = changes.with(Arc::new(discovered));
        let read = RuntimeChanges::parse(&changes.print(), "state").unwrap();
        assert_eq!(read, changes);
        let lines = read.dropped(&file);
        assert_eq!(
            lines,
            ["pool web \"1\": the backends of discovery by etcd are dropped: the file has no such source"]
        );
    }

    #[test]
    fn a_file_that_has_changed_since_wins_as_in_a_reload() {
        let (_, _, changes) = changed();
        // b has another weight, c another port, d another address; e is there now, and f is new.
        let new = model(&[
            backend("a", 1, 3),
            backend("b", 2, 5),
            backend("c", 33, 1),
            backend("d", 44, 1),
            backend("f", 6, 1),
        ]);
        let (running, states) = changes.apply(&new);
        assert_eq!(weights(&running), [("a", 3), ("b", 5), ("c", 1), ("d", 1), ("f", 1), ("e", 2)]);
        assert_eq!(states, [], "at another address it is another backend");
        let (running, _) = changes.apply(&model(&[backend("a", 1, 1)]));
        assert_eq!(weights(&running), [("a", 1), ("e", 2)], "what the file does not have any more is gone");
        let dropped = |file: &Model| changes.dropped(file);
        let change = "its change at run time is dropped: the file has";
        assert_eq!(
            dropped(&new),
            [format!("pool web \"1\": backend d: {change} another address for it, so it is not draining")]
        );
        assert_eq!(
            dropped(&model(&[backend("a", 1, 1)])),
            ["b", "d"].map(|name| format!("pool web \"1\": backend {name}: {change} no such backend"))
        );
        assert_eq!(dropped(&changed().0), [""; 0]);
        let other_pool = Model { pools: vec![Pool { name: "db".to_owned(), ..Pool::default() }], ..model(&[]) };
        assert_eq!(changes.apply(&other_pool), (other_pool.clone(), Vec::new()));
        let lines = dropped(&other_pool);
        assert!(lines.len() == 4 && lines.iter().all(|line| line.ends_with("no such pool")), "{lines:?}");
    }

    #[test]
    fn mistakes_name_the_line_and_what_was_expected() {
        let entry = "version = 1\n[[backend]]\npool = 'web'\n";
        for (text, want) in [
            ("", "state:1: expected version = 1: tcplb did not write this file"),
            ("version = 2", "state:1: version: expected 1: another version of tcplb wrote this file"),
            ("version = 1\n[[backend]]\n", "state:2: expected pool"),
            ("version = 1\n[[backend", "state:2: not TOML"),
            (entry, "state:2: expected `file`, `runs` or both"),
            (&format!("{entry}runs = {{ weight = 1 }}"), "state:4: runs: expected an address"),
            (&format!("{entry}runs = {{ address = 'a:1', wieght = 1 }}"), "state:4: unknown key `wieght`"),
            (&format!("{entry}runs = {{ address = 'a:1', weight = -1 }}"), "state:4: weight: expected a number"),
            (
                &format!("{entry}runs = {{ address = 'a:1' }}\nstate = 'up'"),
                "state:5: state: expected enabled, draining or disabled",
            ),
            (
                &format!("{entry}file = {{ address = 'a:1' }}\nruns = {{ address = 'a:2' }}"),
                "state:5: runs: expected the name",
            ),
            (
                &format!(
                    "{entry}runs = {{ address = 'a:1' }}\n[[backend]]\npool = 'web'\nruns = {{ address = 'a:1' }}"
                ),
                "state:5: a second entry of a:1",
            ),
            ("version = 1\n[[backends]]", "state:2: unknown key `backends`, did you mean `backend`?"),
        ] {
            let mistakes = RuntimeChanges::parse(text, "state").unwrap_err();
            assert!(mistakes.0[0].starts_with(want), "{text}: {mistakes}");
        }
    }
}
