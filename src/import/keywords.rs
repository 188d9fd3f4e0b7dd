//! A row in the table of a dialect's keywords: what becomes of the keyword, and why.

use super::note::{Kind, Notes};

/// What becomes of a keyword.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It means the same in the new file, or tcplb always does what it asks for.
    Kept,
    /// It is kept as far as tcplb has a counterpart; a message says what differs.
    Changed,
    /// It has no counterpart. No client is let in by that, and no traffic goes elsewhere.
    Dropped,
    /// It has no counterpart, and can't be left out.
    Refused,
}

/// A keyword.
#[derive(Debug)]
pub struct Keyword {
    /// As it is written; several words are separated by a space.
    pub name: &'static str,
    /// The number of values that follow it, for an option among others of a line.
    pub values: usize,
    /// What becomes of it.
    pub fate: Fate,
    /// The counterpart, or why there is none.
    pub why: &'static str,
}

/// A keyword with its counterpart.
pub const fn kept(name: &'static str, values: usize, why: &'static str) -> Keyword {
    Keyword { name, values, fate: Fate::Kept, why }
}

/// A keyword with a counterpart that differs.
pub const fn changed(name: &'static str, values: usize, why: &'static str) -> Keyword {
    Keyword { name, values, fate: Fate::Changed, why }
}

/// A keyword that needs no counterpart.
pub const fn dropped(name: &'static str, values: usize, why: &'static str) -> Keyword {
    Keyword { name, values, fate: Fate::Dropped, why }
}

/// A keyword that can't be left out.
pub const fn refused(name: &'static str, values: usize, why: &'static str) -> Keyword {
    Keyword { name, values, fate: Fate::Refused, why }
}

impl Keyword {
    /// Reports a keyword that is lost. Returns whether it is.
    pub fn is_lost(&self, line: usize, notes: &mut Notes) -> bool {
        let kind = match self.fate {
            Fate::Kept | Fate::Changed => return false,
            Fate::Dropped => Kind::Dropped,
            Fate::Refused => Kind::Refused,
        };
        notes.add(line, kind, format!("{}: {}", self.name, self.why));
        true
    }
}

/// The keyword of this name.
pub fn find(table: &'static [Keyword], name: &str) -> Option<&'static Keyword> {
    table.iter().find(|keyword| keyword.name == name)
}
