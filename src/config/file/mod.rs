//! The configuration file: its text in, a valid [`Model`] or every mistake in it out.
//!
//! | module     | part                                                            |
//! |------------|-----------------------------------------------------------------|
//! | `table`    | one table, and what is wrong in the file                        |
//! | `sections` | the sections, put together                                      |
//! | `across`   | what must hold between sections: names, addresses, pools        |
//! | `list`     | the text of a file of prefixes                                  |
//! | `place`    | the line of what is said about a model                          |
//!
//! Pure: the caller reads the file and looks up the number of cores. It reports all mistakes at once, so that an
//! operator fixes a file in one go.

mod across;
pub mod list;
pub mod place;
mod sections;
pub mod table;

use crate::config::check::WORKERS_MAX;
use crate::config::model::Model;
use crate::config::settings;
use std::fmt;
use table::{Notes, Table};
use toml::Spanned;
use toml::de::DeTable;

/// The configuration in a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parsed {
    /// What to run; with a single worker if the file does not say how many.
    pub model: Model,
    /// The file leaves the number of workers to the machine: one per core.
    pub workers_per_core: bool,
}

impl Parsed {
    /// The model for a machine with this number of cores.
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

/// Mistakes that are reported one by one. A file given by mistake may have one in each of a million lines.
pub const MISTAKES_MAX: usize = 100;

/// Where the text is not TOML, mistakes are looked for so far behind the first one. The parser keeps every one that it finds.
const LOOK: usize = 64 * 1024;

/// Reads a file's text; `name` is what messages call the file.
pub fn parse(text: &str, name: &str) -> Result<Parsed, Mistakes> {
    match DeTable::parse(text) {
        Ok(document) => read(&document, Notes::new(text), name, false),
        Err(first) => broken(text, name, &first),
    }
}

/// The line of a key of the listener at this position in a file.
pub fn line_in_listener(text: &str, listener: usize, key: &str) -> Option<usize> {
    let document = DeTable::parse(text).ok()?;
    let listeners = document.get_ref().get(settings::LISTENER.name)?.get_ref().as_array()?;
    let value = listeners.get(listener)?.get_ref().as_table()?.get(key)?;
    Some(Notes::new(text).line(value.span().start))
}

/// Finds the mistakes of a text that is not TOML.
fn broken(text: &str, name: &str, first: &toml::de::Error) -> Result<Parsed, Mistakes> {
    let start = first.span().map_or(0, |span| span.start);
    let part = until(text, start.saturating_add(LOOK));
    let notes = Notes::new(part);
    let (document, mut errors) = DeTable::parse_recoverable(part);
    if errors.is_empty() {
        errors.push(first.clone());
    }
    for error in errors {
        let at = error.span().map_or(part.len(), |span| span.start);
        // Permissions are written like this elsewhere.
        let zero = error.message().contains("leading zero");
        let remedy = if zero { ": write the value in quotes, like \"0660\"" } else { "" };
        let what = if zero { "a number has a leading zero" } else { error.message() };
        notes.syntax(at, format!("not TOML: {what}{remedy}"));
    }
    read(&document, notes, name, part.len() < text.len())
}

/// About as much of the text as [`LOOK`] says, from its begin on. It ends before a header if there is one near, since no value
/// is cut there, or else behind a line.
fn until(text: &str, from: usize) -> &str {
    let near = from.min(text.len())..from.saturating_add(LOOK).min(text.len());
    if near.end == text.len() {
        return text;
    }
    let bytes = &text.as_bytes()[near.clone()];
    let header = bytes.windows(2).position(|two| two == b"\n[");
    let line = header.or_else(|| bytes.iter().position(|byte| *byte == b'\n'));
    let mut end = line.map_or(near.end, |line| near.start + line + 1);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

fn read(document: &Spanned<DeTable<'_>>, notes: Notes<'_>, name: &str, cut: bool) -> Result<Parsed, Mistakes> {
    let parsed = sections::file(&Table::new(document.get_ref(), 0, &settings::ROOT, &notes));
    let lines = notes.lines(name);
    if lines.is_empty() { Ok(parsed) } else { Err(Mistakes(readable(lines, name, cut))) }
}

/// The first [`MISTAKES_MAX`] mistakes, and whether there are more.
pub fn readable(mut mistakes: Vec<String>, name: &str, cut: bool) -> Vec<String> {
    if cut || mistakes.len() > MISTAKES_MAX {
        mistakes.truncate(MISTAKES_MAX);
        mistakes.push(format!("{name}: … and more"));
    }
    mistakes
}

#[cfg(test)]
mod tests;
