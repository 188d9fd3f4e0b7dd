//! What a kind of source is.

use super::feed::Feed;
use crate::base::duration;
use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A kind of source.
pub struct Kind {
    /// As `kind = "…"` names it.
    pub name: &'static str,
    /// What it finds, in one sentence, in Markdown.
    pub doc: &'static str,
    /// Its keys, beside those that every source has.
    pub keys: &'static [Key],
    /// The keys that say what it watches, for people. None of them holds a secret.
    pub watches: &'static [&'static str],
    /// The files that it reads although no key names them; the sandbox lets it.
    pub reads: fn(&Settings) -> Vec<PathBuf>,
    /// The rules between its keys, and of their values.
    pub check: fn(&Settings) -> Result<(), Wrong>,
    /// Finds backends until the feed is stopped (`Ok`), or until something fails. Then it is called again after a pause.
    pub run: fn(&Settings, &mut Feed) -> Result<(), String>,
}

/// A key of a kind of source.
pub struct Key {
    /// As the file has it.
    pub name: &'static str,
    /// The values it takes.
    pub takes: Takes,
    /// One sentence, in Markdown.
    pub doc: &'static str,
    /// What happens without the key: a value as TOML, which the source then gets, or words; `required`: it must be there.
    pub absent: &'static str,
    /// An example of a value, as TOML.
    pub example: &'static str,
}

/// The values that a key takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Takes {
    /// A text.
    Text,
    /// A list of texts.
    Texts,
    /// A duration with a unit.
    Time,
    /// The path of a file that the source reads; the sandbox lets it.
    File,
}

/// A value of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// Of [`Takes::Text`].
    Text(String),
    /// Of [`Takes::Texts`].
    Texts(Vec<String>),
    /// Of [`Takes::Time`].
    Time(Duration),
    /// Of [`Takes::File`].
    File(PathBuf),
}

/// The settings of one source: its kind and the values of its keys. Equal settings find the same.
#[derive(Clone)]
pub struct Settings {
    /// The kind.
    pub kind: &'static Kind,
    values: BTreeMap<&'static str, Value>,
}

/// A mistake in the settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wrong {
    /// The key; empty: the source as a whole.
    pub key: &'static str,
    /// What is wrong, and what was expected.
    pub why: String,
}

impl Kind {
    /// Whether every value must be given.
    pub fn required(&self) -> impl Iterator<Item = &'static Key> {
        self.keys.iter().filter(|key| key.is_required())
    }
}

impl Key {
    /// Whether a source without it is refused.
    pub fn is_required(&self) -> bool {
        self.absent == "required"
    }

    /// The value without the key; `None` if there is none.
    pub fn default(&self) -> Option<Value> {
        let mut table: toml::Table = format!("value = {}", self.absent).parse().ok()?;
        match (self.takes, table.remove("value")?) {
            (Takes::Text, toml::Value::String(text)) => Some(Value::Text(text)),
            (Takes::Texts, toml::Value::Array(items)) => {
                let texts = items.into_iter().map(|item| item.as_str().map(str::to_owned));
                texts.collect::<Option<_>>().map(Value::Texts)
            }
            (Takes::Time, toml::Value::String(time)) => duration::parse(&time).ok().map(Value::Time),
            (Takes::File, toml::Value::String(path)) => Some(Value::File(path.into())),
            _ => None,
        }
    }
}

impl Settings {
    /// The keys with a default have it, the others have no value.
    pub fn new(kind: &'static Kind) -> Settings {
        let values = kind.keys.iter().filter_map(|key| Some((key.name, key.default()?))).collect();
        Settings { kind, values }
    }

    /// Sets a value.
    pub fn set(&mut self, key: &'static str, value: Value) {
        self.values.insert(key, value);
    }

    /// The value of a key; `None` if it was not given and has no default.
    pub fn value(&self, key: &str) -> Option<&Value> {
        self.values.get(key)
    }

    /// A text; `None` if there is none.
    pub fn text(&self, key: &str) -> Option<&str> {
        if let Some(Value::Text(text)) = self.value(key) { Some(text) } else { None }
    }

    /// A list; empty if there is none.
    pub fn texts(&self, key: &str) -> &[String] {
        if let Some(Value::Texts(texts)) = self.value(key) { texts } else { &[] }
    }

    /// A duration; `None` if there is none.
    pub fn time(&self, key: &str) -> Option<Duration> {
        if let Some(Value::Time(time)) = self.value(key) { Some(*time) } else { None }
    }

    /// A path; `None` if there is none.
    pub fn file(&self, key: &str) -> Option<&Path> {
        if let Some(Value::File(path)) = self.value(key) { Some(path) } else { None }
    }

    /// What it watches: the values of [`Kind::watches`] that it has.
    pub fn watched(&self) -> String {
        let text = |key: &&str| {
            Some(match self.value(key)? {
                Value::Text(text) => text.clone(),
                Value::Texts(texts) => texts.join(", "),
                Value::Time(time) => duration::written(*time),
                Value::File(path) => path.display().to_string(),
            })
        };
        self.kind.watches.iter().filter_map(text).collect::<Vec<_>>().join(" ")
    }

    /// All files that keys name.
    pub fn files(&self) -> impl Iterator<Item = &Path> {
        self.values.values().filter_map(|value| if let Value::File(path) = value { Some(path.as_path()) } else { None })
    }
}

impl PartialEq for Settings {
    fn eq(&self, other: &Settings) -> bool {
        self.kind.name == other.kind.name && self.values == other.values
    }
}

impl Eq for Settings {}

impl fmt::Debug for Settings {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Settings").field("kind", &self.kind.name).field("values", &self.values).finish()
    }
}

impl Wrong {
    /// A mistake in the value of a key.
    pub fn new(key: &'static str, why: impl Into<String>) -> Wrong {
        Wrong { key, why: why.into() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::discovery::KINDS;

    #[test]
    fn a_source_says_what_it_watches_and_no_secret() {
        for kind in KINDS {
            assert!(!kind.watches.is_empty(), "{}", kind.name);
            for name in kind.watches {
                assert!(kind.keys.iter().any(|key| key.name == *name), "{} has no key {name}", kind.name);
                assert!(!["user", "password_file", "token_file"].contains(name), "{}: {name}", kind.name);
            }
        }
        let etcd = KINDS.iter().find(|kind| kind.name == "etcd").expect("it is there");
        let mut settings = Settings::new(etcd);
        settings.set("prefix", Value::Text("/web/".into()));
        settings.set("endpoints", Value::Texts(vec!["http://a:1".into(), "http://b:1".into()]));
        settings.set("user", Value::Text("tcplb".into()));
        assert_eq!(settings.watched(), "/web/ http://a:1, http://b:1");
    }
}
