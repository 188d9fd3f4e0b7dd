//! Sources of backends, and where a backend comes from.

use super::defaults;
use crate::config::file::place::Within;
use crate::config::words::Words;
use crate::discovery::{Kind, Settings};
use std::collections::HashMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A source of backends. Equal ones find the same, so a reload that brings an equal one leaves it alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Discover {
    /// Its kind, and what that needs to know.
    pub settings: Settings,
    /// What an answer without a backend means.
    pub on_empty: OnEmpty,
    /// The weight of a backend whose weight the source does not say.
    pub weight: u16,
    /// The limit of a backend whose limit the source does not say.
    pub max_connections: Option<u32>,
    /// Whether a backend is a backup, if the source does not say it.
    pub backup: bool,
}

impl Discover {
    /// A source of this kind with the defaults.
    pub fn of(kind: &'static Kind) -> Discover {
        Discover {
            settings: Settings::new(kind),
            on_empty: OnEmpty::Keep,
            weight: defaults::WEIGHT,
            max_connections: None,
            backup: false,
        }
    }
}

/// What an answer without a backend means.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnEmpty {
    /// A fault of the source: its backends stay.
    #[default]
    Keep,
    /// No backend is there any more.
    Clear,
}

impl Words for OnEmpty {
    const NAMES: &'static [(&'static str, OnEmpty)] = &[("keep", OnEmpty::Keep), ("clear", OnEmpty::Clear)];
}

impl super::Pool {
    /// Its sources with their labels: the kind; from the second of a kind on with a number, like `dns-2`.
    pub fn sources(&self) -> Vec<(String, &Discover)> {
        let mut counts = HashMap::new();
        let labelled = self.discover.iter().map(|discover| {
            let kind = discover.settings.kind.name;
            let count = counts.entry(kind).or_insert(0);
            *count += 1;
            let label = if *count == 1 { kind.to_owned() } else { format!("{kind}-{count}") };
            (label, discover)
        });
        labelled.collect()
    }
}

impl super::Model {
    /// The files that keys of sources name, each with its source, for messages.
    pub fn source_files(&self) -> Vec<(Within, String, &Path)> {
        let files = self.named_sources().flat_map(|(place, source, settings)| {
            settings.files().map(move |file| (place.clone(), source.clone(), file))
        });
        files.collect()
    }

    /// The files that sources read although no key names them.
    pub fn further_source_files(&self) -> Vec<(String, PathBuf)> {
        let files = self.named_sources().flat_map(|(_, source, settings)| {
            (settings.kind.reads)(settings).into_iter().map(move |file| (source.clone(), file))
        });
        files.collect()
    }

    fn named_sources(&self) -> impl Iterator<Item = (Within, String, &Settings)> {
        let sources = self
            .pools
            .iter()
            .flat_map(|pool| pool.sources().into_iter().enumerate().map(move |(index, source)| (pool, index, source)));
        sources.map(|(pool, index, (label, discover))| {
            let source = format!("pool {}: discovery by {label}", pool.name);
            (Within::Discover(pool.name.clone(), index), source, &discover.settings)
        })
    }
}

/// What added a backend.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Origin {
    /// The file, or a flag.
    #[default]
    File,
    /// The API.
    Api,
    /// The source with this label in its pool.
    Source(Arc<str>),
}

impl fmt::Display for Origin {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::File => out.write_str("file"),
            Origin::Api => out.write_str("api"),
            Origin::Source(label) => write!(out, "discovery:{label}"),
        }
    }
}
