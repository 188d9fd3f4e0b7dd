//! What a reader of the new file must know: a line for each keyword that is not kept as it was.

use crate::base::text::Escaped;
use std::collections::HashSet;
use std::fmt;

/// What became of a keyword.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It is kept, with a difference.
    Changed,
    /// It has no counterpart and needs none.
    Dropped,
    /// Its loss lets clients in, or sends traffic elsewhere.
    Refused,
}

/// A message about a line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    /// The line, from 1.
    pub line: usize,
    /// What became of the keyword.
    pub kind: Kind,
    /// The keyword, and the reason.
    pub text: String,
}

impl fmt::Display for Note {
    /// `LINE: KIND: TEXT`, to stand behind the name of the file.
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.kind {
            Kind::Changed => "changed",
            Kind::Dropped => "dropped",
            Kind::Refused => "error",
        };
        write!(out, "{}: {kind}: {}", self.line, self.text)
    }
}

/// The messages so far.
#[derive(Debug, Default)]
pub struct Notes {
    all: Vec<Note>,
    /// The same, to find one that is there already.
    known: HashSet<(usize, String)>,
}

impl Notes {
    /// A keyword is kept, with a difference.
    pub fn changed(&mut self, line: usize, text: String) {
        self.add(line, Kind::Changed, text);
    }

    /// A keyword has no counterpart.
    pub fn dropped(&mut self, line: usize, text: String) {
        self.add(line, Kind::Dropped, text);
    }

    /// A keyword can't be kept, and can't be left out.
    pub fn refused(&mut self, line: usize, text: String) {
        self.add(line, Kind::Refused, text);
    }

    /// In any of the three ways. What is inherited by several sections is reported once.
    pub fn add(&mut self, line: usize, kind: Kind, text: String) {
        // Words of the file may hold any character.
        let note = Note { line, kind, text: Escaped(&text).to_string() };
        if self.known.insert((line, note.text.clone())) {
            self.all.push(note);
        }
    }

    /// All of them, in the order of the lines.
    pub fn sorted(mut self) -> Vec<Note> {
        self.all.sort_by_key(|note| note.line);
        self.all
    }
}
