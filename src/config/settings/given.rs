//! A value as the user gave it, in the file or behind a flag, and where a mistake in it is noted.
//!
//! One reader serves both. A mistake in the file is noted with its place, one in a flag with the flag's name.

use crate::config::check;
use crate::config::file::table::{Notes, Table};
use std::cell::RefCell;
use std::ops::RangeInclusive;
use toml::Spanned;
use toml::de::DeValue;

/// Where the settings of a section come from.
#[derive(Clone, Copy)]
pub enum Source<'a> {
    /// A table of the file.
    File(Table<'a>),
    /// Flags.
    Flags {
        /// What was typed.
        typed: &'a Typed,
        /// The flag of a key.
        flag_of: fn(&str) -> Option<&'static str>,
    },
}

/// Flags and their values, as typed, and what is wrong with them.
#[derive(Clone, Debug, Default)]
pub struct Typed {
    /// What a message puts before the name of a flag.
    prefix: &'static str,
    values: Vec<(&'static str, Vec<String>)>,
    mistakes: RefCell<Vec<String>>,
}

impl Typed {
    /// These flags, without their dashes. A switch has no values.
    pub fn new(prefix: &'static str, values: Vec<(&'static str, Vec<String>)>) -> Typed {
        Typed { prefix, values, mistakes: RefCell::default() }
    }

    /// The values of a flag; `None` if it was not given.
    pub fn values(&self, flag: &str) -> Option<&[String]> {
        self.values.iter().find(|(name, _)| *name == flag).map(|(_, values)| values.as_slice())
    }

    /// The flags that were given.
    pub fn flags(&self) -> impl Iterator<Item = &'static str> {
        self.values.iter().map(|(flag, _)| *flag)
    }

    /// Notes a mistake.
    pub fn note(&self, message: impl AsRef<str>) {
        self.mistakes.borrow_mut().push(check::shown(message.as_ref()));
    }

    /// Every mistake that was noted.
    pub fn into_mistakes(self) -> Vec<String> {
        self.mistakes.into_inner()
    }
}

impl<'a> Source<'a> {
    /// What was given for a key.
    pub fn given(&self, key: &'static str) -> Option<Given<'a>> {
        match *self {
            Source::File(table) => {
                Some(Given { name: key, from: From::File { value: table.value(key)?, notes: table.notes() } })
            }
            Source::Flags { typed, flag_of } => {
                let name = flag_of(key)?;
                Some(Given { name, from: From::Flag { texts: typed.values(name)?, typed } })
            }
        }
    }

    /// Was anything given?
    pub fn has(&self, key: &'static str) -> bool {
        self.given(key).is_some()
    }

    /// What the user calls a key.
    pub fn name(&self, key: &str) -> String {
        match self {
            Source::File(_) => key.to_owned(),
            Source::Flags { typed, flag_of } => format!("{}{}", typed.prefix, flag_of(key).unwrap_or_default()),
        }
    }

    /// The text that was given for a key.
    pub fn raw(&self, key: &'static str) -> Option<&'a str> {
        match self.given(key)?.from {
            From::File { value, .. } => value.get_ref().as_str(),
            From::Flag { texts, .. } => Some(first(texts)),
        }
    }

    /// Notes what is wrong with a key that was given.
    pub fn wrong(&self, key: &'static str, why: impl AsRef<str>) {
        if let Some(given) = self.given(key) {
            given.wrong(why.as_ref());
        }
    }
}

/// A value as it was given.
#[derive(Clone, Copy)]
pub struct Given<'a> {
    /// The key, or the flag without its dashes.
    name: &'static str,
    from: From<'a>,
}

#[derive(Clone, Copy)]
enum From<'a> {
    File { value: &'a Spanned<DeValue<'a>>, notes: &'a Notes<'a> },
    Flag { texts: &'a [String], typed: &'a Typed },
}

impl Given<'_> {
    /// Is it a flag's?
    pub fn is_flag(&self) -> bool {
        matches!(self.from, From::Flag { .. })
    }

    /// A text with a meaning. What is wrong with it is noted.
    pub fn text<T>(&self, parse: impl Fn(&str) -> Result<T, String>) -> Option<T> {
        let result = match self.from {
            From::File { value, notes } => parsed(value, notes, parse),
            From::Flag { texts, .. } => parse(first(texts)),
        };
        result.map_err(|why| self.wrong(&why)).ok()
    }

    /// A whole number: digits only in a flag.
    pub fn number<T: TryFrom<u64>>(&self, range: RangeInclusive<u64>) -> Option<T> {
        let number = match self.from {
            From::File { value, .. } => match value.get_ref() {
                DeValue::Integer(digits) => u64::from_str_radix(digits.as_str(), digits.radix()).ok(),
                _ => None,
            },
            // `parse` takes a leading `+` too.
            From::Flag { texts, .. } => first(texts).parse().ok().filter(|_| !first(texts).starts_with('+')),
        };
        let number = number.filter(|number| range.contains(number)).and_then(|number| T::try_from(number).ok());
        if number.is_none() {
            let (min, max) = range.into_inner();
            self.wrong(&format!("expected a number from {min} to {max}, got {}", self.shown()));
        }
        number
    }

    /// `true` or `false`; a flag that is given means `true`.
    pub fn switch(&self) -> Option<bool> {
        let From::File { value, .. } = self.from else { return Some(true) };
        let answer = value.get_ref().as_bool();
        if answer.is_none() {
            self.wrong(&format!("expected true or false without quotes, got {}", self.shown()));
        }
        answer
    }

    /// A list of texts, or a flag that is repeated: those that are good.
    pub fn list<T>(&self, parse: impl Fn(&str) -> Result<T, String>) -> Option<Vec<T>> {
        match self.from {
            From::File { value, notes } => {
                let Some(items) = value.get_ref().as_array() else {
                    self.wrong(&format!("expected a list, like [\"…\", \"…\"], got {}", self.shown()));
                    return None;
                };
                let wrong = |at, why| notes.wrong(at, format!("{}: {why}", self.name));
                let good = items
                    .iter()
                    .filter_map(|item| parsed(item, notes, &parse).map_err(|why| wrong(item.span().start, why)).ok());
                Some(good.collect())
            }
            From::Flag { texts, .. } => {
                let good = texts.iter().filter_map(|text| parse(text).map_err(|why| self.wrong(&why)).ok());
                Some(good.collect())
            }
        }
    }

    /// A list of tables with these keys: those that are good. A flag has none.
    pub fn tables<T>(&self, keys: &[&str], read: impl Fn(&Source<'_>) -> Result<Option<T>, String>) -> Option<Vec<T>> {
        let From::File { value, notes } = self.from else { return None };
        let Some(items) = value.get_ref().as_array() else {
            self.wrong(&format!("expected a list of tables, like [{{ … }}, {{ … }}], got {}", self.shown()));
            return None;
        };
        let item = |item: &Spanned<DeValue<'_>>| {
            let at = item.span().start;
            let read = match item.get_ref().as_table() {
                Some(table) => read(&Source::File(Table::new(table, at, keys, notes))),
                None => Err(format!("expected a table, like {{ … }}, got {}", notes.shown(item))),
            };
            read.unwrap_or_else(|why| {
                notes.wrong(at, format!("{}: {why}", self.name));
                None
            })
        };
        Some(items.iter().filter_map(item).collect())
    }

    /// Is it a list of the file?
    pub fn is_list(&self) -> bool {
        matches!(self.from, From::File { value, .. } if value.get_ref().is_array())
    }

    /// Is it a list without items?
    pub fn is_empty_list(&self) -> bool {
        matches!(self.from, From::File { value, .. } if value.get_ref().as_array().is_some_and(|items| items.is_empty()))
    }

    /// Notes what is wrong with it.
    pub fn wrong(&self, why: &str) {
        match self.from {
            From::File { value, notes } => notes.wrong(value.span().start, format!("{}: {why}", self.name)),
            From::Flag { typed, .. } => typed.note(format!("{}{}: {why}", typed.prefix, self.name)),
        }
    }

    fn shown(&self) -> String {
        match self.from {
            From::File { value, notes } => notes.shown(value),
            From::Flag { texts, .. } => format!("`{}`", first(texts)),
        }
    }
}

fn first(texts: &[String]) -> &str {
    texts.first().map_or("", String::as_str)
}

fn parsed<T>(
    value: &Spanned<DeValue<'_>>,
    notes: &Notes<'_>,
    parse: impl Fn(&str) -> Result<T, String>,
) -> Result<T, String> {
    match value.get_ref() {
        DeValue::String(text) => parse(text),
        DeValue::Array(_) | DeValue::Table(_) => Err(format!("expected a text, got {}", notes.shown(value))),
        // What the parser says about `5` is more to the point than that a number is no text.
        _ => match parse(notes.source(value)) {
            Ok(_) => Err(format!("expected a text in quotes, got {}", notes.shown(value))),
            Err(why) => Err(why),
        },
    }
}
