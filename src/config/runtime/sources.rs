//! The sets of sources in the text of [`super`], and what the API changed on their backends.

use crate::base::{Address, AdminState};
use crate::config::discovered::{Discovered, Override};
use crate::config::file::table::Table;
use crate::config::settings::kinds::quoted;
use crate::config::words;
use crate::discovery::{Found, Set, SourceId};
use std::fmt::Write;
use std::str::FromStr;
use std::sync::Arc;
use toml::de::DeValue;

/// The keys of the text that hold them.
pub const KEYS: [&str; 2] = ["source", "override"];

/// Appends the text.
pub fn print(discovered: &Discovered, out: &mut String) {
    for (SourceId { pool, label }, set) in &discovered.sets {
        // Writing to a string can't fail.
        let _ = write!(out, "\n[[source]]\npool = {}\nlabel = {}\nfound = [\n", quoted(pool), quoted(label));
        for (key, found) in set.iter() {
            let Found { name, address, weight, max_connections, backup, state } = found;
            let _ = write!(out, "  {{ key = {}, name = {}", quoted(key), quoted(name));
            let _ = write!(out, ", address = {}", quoted(address.to_string()));
            let numbers = [("weight", weight.map(u32::from)), ("max_connections", *max_connections)];
            for (key, number) in numbers.into_iter().filter_map(|(key, number)| Some((key, number?))) {
                let _ = write!(out, ", {key} = {number}");
            }
            if let Some(backup) = backup {
                let _ = write!(out, ", backup = {backup}");
            }
            if *state != AdminState::Enabled {
                let _ = write!(out, ", state = \"{}\"", state.word());
            }
            out.push_str(" },\n");
        }
        out.push_str("]\n");
    }
    for ((pool, name), Override { weight, state }) in &discovered.overrides {
        let _ = write!(out, "\n[[override]]\npool = {}\nname = {}\n", quoted(pool), quoted(name));
        if let Some(weight) = weight {
            let _ = writeln!(out, "weight = {weight}");
        }
        if let Some(state) = state {
            let _ = writeln!(out, "state = \"{}\"", state.word());
        }
    }
}

/// Reads it from the text's root.
pub fn read(root: &Table<'_>) -> Discovered {
    let mut discovered = Discovered::default();
    for table in root.tables("source", &["pool", "label", "found"]) {
        let Some(id) = two(&table, "label").map(|(pool, label)| SourceId { pool, label }) else { continue };
        if discovered.sets.insert(id.clone(), Arc::new(set(&table))).is_some() {
            table.missing(format!("a second entry of source {} of pool {}", id.label, id.pool));
        }
    }
    for table in root.tables("override", &["pool", "name", "weight", "state"]) {
        let Some(key) = two(&table, "name") else { continue };
        let of_backend = Override { weight: number(&table, "weight"), state: state(&table) };
        if table.has("weight") && of_backend.weight.is_none() {
            table.wrong("weight", "expected a number from 0 to 65535");
        }
        if discovered.overrides.insert(key.clone(), of_backend).is_some() {
            table.missing(format!("a second entry of {} in pool {}", key.1, key.0));
        }
    }
    discovered
}

/// An entry that can't be read is left out: its source gives it anew.
fn set(at: &Table<'_>) -> Set {
    let keys = ["key", "name", "address", "weight", "max_connections", "backup", "state"];
    let mut set = Set::new();
    for table in at.tables("found", &keys) {
        let texts = [table.raw("key"), table.raw("name"), table.raw("address")];
        let [Some(key), Some(name), Some(address)] = texts else { continue };
        let Ok(address) = Address::parse_backend(address) else { continue };
        let found = Found {
            name: name.to_owned(),
            address,
            weight: number(&table, "weight"),
            max_connections: number(&table, "max_connections"),
            backup: table.value("backup").and_then(|value| value.get_ref().as_bool()),
            state: state(&table).unwrap_or_default(),
        };
        set.insert(key.to_owned(), found);
    }
    set
}

fn number<T: FromStr>(table: &Table<'_>, key: &str) -> Option<T> {
    match table.value(key)?.get_ref() {
        DeValue::Integer(digits) => digits.as_str().parse().ok(),
        _ => None,
    }
}

/// The pool, and another text.
fn two(table: &Table<'_>, key: &str) -> Option<(String, String)> {
    let both = table.raw("pool").zip(table.raw(key));
    if both.is_none() {
        table.missing(format!("expected pool = \"NAME\" and {key} = \"NAME\""));
    }
    both.map(|(pool, other)| (pool.to_owned(), other.to_owned()))
}

/// The state, if there is one.
pub fn state(table: &Table<'_>) -> Option<AdminState> {
    table.value("state")?;
    match words::one_of(table.raw("state").unwrap_or_default(), &AdminState::NAMES) {
        Ok(state) => Some(state),
        Err(why) => {
            table.wrong("state", why);
            None
        }
    }
}
