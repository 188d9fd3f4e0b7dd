//! Presets: several keys of a pool, set by one.
//!
//! A preset is what a file would say about the pool. The readers of the sections read it before the pool's own keys, so those win,
//! key by key. The model holds what a preset sets and not its name: `config show` prints what came out.

use super::given::{Given, Source};
use super::kinds::{Values, Written};
use super::{HEALTH, POOL, Place, health, pool};
use crate::config::file::table::{Notes, Table};
use crate::config::model::{Health, Pool};
use crate::config::words;
use std::fmt::Write;
use std::mem;
use toml::de::DeTable;

/// Several keys of a pool under one name.
struct Preset {
    name: &'static str,
    /// What it is for, in Markdown.
    doc: &'static str,
    /// The keys, as in a file.
    text: &'static str,
}

static PRESETS: [Preset; 5] = [
    Preset {
        name: "patroni-primary",
        doc: "PostgreSQL under Patroni: the primary",
        text: r#"
            on_down = "reset"
            no_backend = "wait 10s"
            [health]
            kind = "http"
            initial = "down"
            path = "/primary"
            port = 8008
        "#,
    },
    Preset {
        name: "patroni-replica",
        doc: "PostgreSQL under Patroni: the replicas",
        text: r#"
            on_down = "reset"
            no_backend = "wait 10s"
            [health]
            kind = "http"
            initial = "down"
            path = "/replica"
            port = 8008
        "#,
    },
    Preset {
        name: "redis-primary",
        doc: "Redis or Valkey: the primary",
        // Each answer fails at once that is not a primary's. An expression for all of it would wait for more bytes.
        text: r#"
            on_down = "reset"
            no_backend = "wait 10s"
            [health]
            kind = "script"
            initial = "down"
            steps = [{ send = 'INFO replication\r\n' }, { expect = "$" }, { expect_regex = "role:" }, { expect = "master" }]
        "#,
    },
    Preset {
        name: "galera",
        doc: "Galera Cluster: the nodes that `clustercheck` reports as synced",
        text: r#"
            on_down = "reset"
            [health]
            kind = "http"
            initial = "down"
            port = 9200
        "#,
    },
    Preset {
        name: "mqtt",
        // The longest keep-alive of MQTT is 65535 s, that is 18 h 12 min.
        doc: "MQTT brokers: clients that are silent for as long as MQTT permits, and that spread anew each day",
        text: r#"
            algorithm = "least-connections"
            idle_timeout = "20h"
            max_lifetime = "24h"
        "#,
    },
];

impl Preset {
    /// A pool with what it sets.
    fn pool(&self) -> Result<Pool, String> {
        let document = DeTable::parse(self.text).map_err(|error| error.message().to_owned())?;
        let notes = Notes::new(self.text);
        let table = Table::new(document.get_ref(), 0, &POOL.keys(), &notes);
        let mut pool = pool::read(&Source::File(table));
        if let Some(table) = table.table("health", &HEALTH.keys()) {
            pool.health = health::read(&Source::File(table), Health::default());
        }
        let mistakes = notes.lines(self.name);
        if mistakes.is_empty() { Ok(pool) } else { Err(mistakes.join("; ")) }
    }

    /// The keys, for a cell of a table.
    fn cell(&self) -> String {
        let mut section = "";
        let mut keys = Vec::new();
        for line in self.text.lines().map(str::trim).filter(|line| !line.is_empty()) {
            match line {
                "[health]" => section = "health.",
                line => keys.push(format!("`{section}{line}`")),
            }
        }
        keys.join(", ")
    }
}

/// Where the key `preset` is in the model: wherever its keys are.
pub(super) struct Applied;

const VALUES: Values = Values::Words(|| PRESETS.iter().map(|preset| preset.name).collect());

impl Place<Pool> for Applied {
    fn read(&self, into: &mut Pool, given: &Given<'_>) -> bool {
        let words = PRESETS.each_ref().map(|preset| (preset.name, preset));
        let set = given.text(|text| words::one_of(text, &words)?.pool());
        set.map(|set| *into = Pool { name: mem::take(&mut into.name), ..set }).is_some()
    }

    fn write(&self, _: &Pool) -> Option<Written> {
        None
    }

    fn copy(&self, _: &mut Pool, _: &Pool) {}

    fn values(&self) -> &Values {
        &VALUES
    }
}

/// Each preset and what it sets, in Markdown.
pub(super) fn table() -> String {
    let mut page = "### Presets\n\nA pool's own keys win over those of its `preset`, key by key.\n\n".to_owned();
    page += "| preset | for | sets |\n|---|---|---|\n";
    for preset in &PRESETS {
        // Writing to a string can't fail.
        let _ = writeln!(page, "| `{}` | {} | {} |", preset.name, preset.doc, preset.cell());
    }
    page
}

#[cfg(test)]
mod tests;
