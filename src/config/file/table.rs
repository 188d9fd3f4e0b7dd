//! A table of the file, and the notes of all mistakes in the file. A mistake ends nothing: the next key is read.

use super::MISTAKES_MAX;
use crate::base::nearest;
use crate::config::check;
use std::cell::RefCell;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// The mistakes so far. All tables of a file share them, hence the cell.
pub struct Notes<'a> {
    text: &'a str,
    /// Where each line but the first begins.
    line_starts: Vec<usize>,
    noted: RefCell<Vec<Note>>,
}

struct Note {
    at: usize,
    about: About,
    message: String,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum About {
    /// The text is not TOML here.
    Syntax,
    /// What stands here is wrong.
    Value,
    /// Something is not there.
    Absence,
}

impl<'a> Notes<'a> {
    /// About this text.
    pub fn new(text: &'a str) -> Notes<'a> {
        let line_starts = text.match_indices('\n').map(|(at, _)| at + 1).collect();
        Notes { text, line_starts, noted: RefCell::new(Vec::new()) }
    }

    /// The text is not TOML at this offset.
    pub fn syntax(&self, at: usize, message: String) {
        self.push(at, About::Syntax, message);
    }

    /// What stands at this offset is wrong.
    pub fn wrong(&self, at: usize, message: String) {
        self.push(at, About::Value, message);
    }

    /// The text at this offset lacks a key, or refers to something that does not exist.
    pub fn missing(&self, at: usize, message: String) {
        self.push(at, About::Absence, message);
    }

    /// The line, from 1, that an offset is on.
    pub fn line(&self, at: usize) -> usize {
        self.line_starts.partition_point(|start| *start <= at) + 1
    }

    /// Every mistake as `name:line: message`, in the order of the file; one more than [`MISTAKES_MAX`] at most.
    ///
    /// Where the text is not TOML, the broken line's content is a guess, and a missing key may have been lost there:
    /// neither is reported. An unclosed bracket swallows the rest of the file: then only the first broken line is
    /// reported.
    pub fn lines(self, name: &str) -> Vec<String> {
        let mut notes = self.noted.take();
        notes.sort_by_key(|note| note.at);
        let syntax = || notes.iter().filter(|note| note.about == About::Syntax);
        let mut broken: Vec<usize> = syntax().map(|note| self.line(note.at)).collect();
        broken.dedup();
        let end = self.text.trim_end().len();
        let swallowed = if syntax().any(|note| note.at >= end) { broken.first().copied() } else { None };
        let mut reported = None;
        let mut lines = Vec::new();
        for note in notes {
            let line = self.line(note.at);
            let sure = match note.about {
                About::Syntax => reported.replace(line) != Some(line),
                About::Value => broken.binary_search(&line).is_err(),
                About::Absence => broken.is_empty(),
            };
            if sure && swallowed.is_none_or(|last| line <= last) {
                lines.push(check::shown(&format!("{name}:{line}: {}", note.message)));
            }
            if lines.len() > MISTAKES_MAX {
                break;
            }
        }
        lines
    }

    /// Are there more mistakes already than are reported? Then no hint needs to be looked for any more.
    pub fn is_full(&self) -> bool {
        self.noted.borrow().len() > MISTAKES_MAX
    }

    /// A value, as a message shows it.
    pub fn shown(&self, value: &Spanned<DeValue<'_>>) -> String {
        match value.get_ref() {
            DeValue::Array(_) => "a list".to_owned(),
            DeValue::Table(_) => "a table".to_owned(),
            _ => format!("`{}`", self.source(value)),
        }
    }

    /// A value as it is written in the file.
    pub fn source(&self, value: &Spanned<DeValue<'_>>) -> &'a str {
        self.text.get(value.span()).unwrap_or_default()
    }

    fn push(&self, at: usize, about: About, message: String) {
        self.noted.borrow_mut().push(Note { at, about, message });
    }
}

/// What may stand in a table.
pub type Keys = Vec<&'static str>;

/// A table.
#[derive(Clone, Copy)]
pub struct Table<'a> {
    table: &'a DeTable<'a>,
    at: usize,
    notes: &'a Notes<'a>,
}

impl<'a> Table<'a> {
    /// The table that begins at this offset. A key that is not among `keys` is noted.
    pub fn new(table: &'a DeTable<'a>, at: usize, keys: &[&str], notes: &'a Notes<'a>) -> Table<'a> {
        for key in table.keys() {
            let name = key.get_ref();
            if !keys.contains(&name.as_ref()) {
                let hint = nearest::hint(name, keys.iter().copied());
                let listed = if hint.is_empty() { format!("; known here: {}", keys.join(", ")) } else { hint };
                notes.wrong(key.span().start, format!("unknown key `{name}`{listed}"));
            }
        }
        Table { table, at, notes }
    }

    /// What stands behind a key.
    pub fn value(&self, key: &str) -> Option<&'a Spanned<DeValue<'a>>> {
        self.table.get(key)
    }

    /// Is there such a key?
    pub fn has(&self, key: &str) -> bool {
        self.table.contains_key(key)
    }

    /// Where the table begins.
    pub fn start(&self) -> usize {
        self.at
    }

    /// The texts of a list and where they stand.
    pub fn items(&self, key: &str) -> impl Iterator<Item = (&'a str, usize)> {
        let items = self.table.get(key).and_then(|value| value.get_ref().as_array()).into_iter().flatten();
        items.filter_map(|item| Some((item.get_ref().as_str()?, item.span().start)))
    }

    /// Where a key's value stands; where the table begins if there is none.
    pub fn place(&self, key: &str) -> usize {
        self.table.get(key).map_or(self.at, |value| value.span().start)
    }

    /// The text of a key, whether or not it is a good one.
    pub fn raw(&self, key: &str) -> Option<&'a str> {
        self.table.get(key)?.get_ref().as_str()
    }

    /// Notes what is wrong with a key that is there.
    pub fn wrong(&self, key: &str, why: impl AsRef<str>) {
        self.notes.wrong(self.place(key), format!("{key}: {}", why.as_ref()));
    }

    /// Notes what the table lacks.
    pub fn missing(&self, message: String) {
        self.notes.missing(self.at, message);
    }

    /// Where everything that is wrong is noted.
    pub fn notes(&self) -> &'a Notes<'a> {
        self.notes
    }

    /// A table within this one: `[name]`.
    pub fn table(&self, key: &str, keys: &[&str]) -> Option<Table<'a>> {
        let value = self.table.get(key)?;
        let Some(table) = value.get_ref().as_table() else {
            self.wrong(key, format!("expected a table with one pair of brackets, got {}", self.notes.shown(value)));
            return None;
        };
        Some(Table::new(table, value.span().start, keys, self.notes))
    }

    /// The tables of a list within this one: `[[name]]`, each time.
    pub fn tables(&self, key: &str, keys: &[&str]) -> Vec<Table<'a>> {
        self.tables_by(key, |_| keys)
    }

    /// The same, where what may stand in a table depends on the table.
    pub fn tables_by<'k, K: AsRef<[&'k str]>>(&self, key: &str, keys: impl Fn(&Table<'a>) -> K) -> Vec<Table<'a>> {
        let Some(value) = self.table.get(key) else { return Vec::new() };
        let open = |value: &'a Spanned<DeValue<'a>>| match value.get_ref() {
            DeValue::Table(table) => {
                let (at, notes) = (value.span().start, self.notes);
                Some(Table::new(table, at, keys(&Table { table, at, notes }).as_ref(), notes))
            }
            _ => {
                self.notes
                    .wrong(value.span().start, format!("{key}: expected a table, got {}", self.notes.shown(value)));
                None
            }
        };
        match value.get_ref() {
            DeValue::Array(items) => items.iter().filter_map(open).collect(),
            DeValue::Table(_) => {
                self.wrong(key, "there may be several, so the header has two pairs of brackets");
                open(value).into_iter().collect()
            }
            _ => open(value).into_iter().collect(),
        }
    }

    /// The same once more, noting nothing.
    pub fn entries(&self, key: &str) -> Vec<Table<'a>> {
        let items = self.table.get(key).and_then(|value| value.get_ref().as_array()).into_iter().flatten();
        let open = |item: &'a Spanned<DeValue<'a>>| {
            Some(Table { table: item.get_ref().as_table()?, at: item.span().start, notes: self.notes })
        };
        items.filter_map(open).collect()
    }
}
