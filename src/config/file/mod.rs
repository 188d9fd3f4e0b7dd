//! The configuration file: its text in, a proven [`Model`] or every mistake in it out.
//!
//! | module     | part                                                            |
//! |------------|-----------------------------------------------------------------|
//! | `table`    | one table, key by key; collects what is wrong                   |
//! | `values`   | single values that only the file has                            |
//! | `sections` | `[global]`, `[[listener]]`, `[[pool]]` and what is inside them  |
//! | `across`   | what must hold between sections: names, addresses, pools        |
//! | `list`     | the text of a file of prefixes                                  |
//!
//! Pure: reading the file, and looking up how many cores there are, is for the caller. It does not stop at the first
//! mistake: an operator mends a file in one go, not in ten. What this version can't do yet is understood and refused, so
//! that nobody believes it to be in force.

mod across;
pub mod list;
mod sections;
mod table;
mod values;

pub use sections::KEYS;

use crate::config::check::WORKERS_MAX;
use crate::config::model::Model;
use std::fmt;
use table::{Notes, Table};
use toml::de::DeTable;

/// What a file asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parsed {
    /// What to run; with a single worker if the file does not say how many.
    pub model: Model,
    /// The file leaves the number of workers to the machine: one per core.
    pub workers_per_core: bool,
}

impl Parsed {
    /// The model for a machine with so many cores.
    pub fn on(self, cores: usize) -> Model {
        let mut model = self.model;
        if self.workers_per_core {
            model.global.workers = cores.clamp(1, WORKERS_MAX);
        }
        model
    }
}

/// Every mistake in a file, each as `file:line: message`, in the order of the lines.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mistakes(pub Vec<String>);

impl fmt::Display for Mistakes {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.0.join("\n"))
    }
}

impl std::error::Error for Mistakes {}

/// Reads a file's text; `name` is what messages call the file.
pub fn parse(text: &str, name: &str) -> Result<Parsed, Mistakes> {
    let notes = Notes::new(text);
    let (document, errors) = DeTable::parse_recoverable(text);
    for error in errors {
        let at = error.span().map_or(text.len(), |span| span.start);
        notes.syntax(at, format!("not TOML: {}", error.message()));
    }
    let parsed = sections::file(&Table::new(document.get_ref(), 0, sections::ROOT, &notes));
    let lines = notes.lines(name);
    if lines.is_empty() { Ok(parsed) } else { Err(Mistakes(lines)) }
}

#[cfg(test)]
mod tests;
