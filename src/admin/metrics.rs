//! `GET /metrics`: the Prometheus text format, version 0.0.4.
//!
//! Every family is always present, with zeros before the first event, because an alert on an absent series never fires.
//! [`families`] declares them.

pub mod families;

use super::process::Process;
use crate::base::Tick;
use crate::logger;
use crate::pool::{Backend, BackendAddress, Member, Pool, Published};
use crate::telemetry::Counters;
use crate::telemetry::histogram::Reading;
use families::{About, BACKENDS, Family, LISTENERS, POOLS, PROCESS};
use std::fmt::{Display, Write};
use std::sync::Arc;

/// The media type of the answer.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// The text being built.
struct Text(String);

/// The source of a backend's series, or of a pool's where backends have none.
pub struct Row {
    of: Of,
    up: u64,
    active: u64,
    now: Tick,
}

enum Of {
    Backend(Arc<Backend>),
    Pool(Arc<Pool>),
}

/// What the families about backends have series of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Detail {
    /// Each backend.
    PerBackend,
    /// Each pool: the sums of its backends.
    PerPool,
}

/// What the families about the process read.
pub struct Scope {
    /// Reloads that were applied, and those that failed.
    reloads: (u64, u64),
    generation: u64,
    access_log_lost: u64,
    log_lines_lost: u64,
    process: Process,
}

/// All metrics.
pub fn text(published: &Published, detail: Detail, now: Tick) -> String {
    let mut text = Text(String::with_capacity(16 * 1024));
    let snapshot = published.snapshot();
    text.families(LISTENERS, &labelled(&snapshot.listeners, |listener| labels(&[("listener", &listener.name)])));
    text.pools(&snapshot.pools, detail, now);
    let scope = Scope {
        reloads: published.reloads(),
        generation: snapshot.generation,
        access_log_lost: published.log().lost(),
        log_lines_lost: logger::lines_lost(),
        process: Process::read(),
    };
    text.families(PROCESS, &[(String::new(), scope)]);
    text.0
}

/// The metrics of one pool.
pub fn of_pool(pool: &Arc<Pool>, detail: Detail, now: Tick) -> String {
    let mut text = Text(String::with_capacity(16 * 1024));
    text.pools(std::slice::from_ref(pool), detail, now);
    text.0
}

impl Row {
    fn of_backend(pool: &Pool, member: &Member, now: Tick) -> Row {
        Row {
            of: Of::Backend(member.backend.clone()),
            up: u64::from(pool.is_usable(member)),
            active: u64::from(member.backend.active()),
            now,
        }
    }

    fn sums(pool: &Arc<Pool>, now: Tick) -> Row {
        Row {
            of: Of::Pool(pool.clone()),
            up: pool.members.iter().filter(|member| pool.is_usable(member)).count() as u64,
            active: pool.members.iter().map(|member| u64::from(member.backend.active())).sum(),
            now,
        }
    }

    fn counters(&self) -> &Counters {
        match &self.of {
            Of::Backend(backend) => &backend.counters,
            Of::Pool(pool) => &pool.totals.counters,
        }
    }

    /// Those of a backend that has several.
    fn addresses(&self) -> impl Iterator<Item = &BackendAddress> {
        let several = match &self.of {
            Of::Backend(backend) => Some(&backend.addresses).filter(|addresses| addresses.len() > 1),
            Of::Pool(_) => None,
        };
        several.into_iter().flat_map(|addresses| addresses.iter())
    }
}

/// Where a family's samples of one listener, backend or pool go.
pub struct Samples<'a> {
    text: &'a mut Text,
    name: &'static str,
    labels: &'a str,
}

impl Samples<'_> {
    /// The only sample.
    pub fn one(&mut self, value: impl Display) {
        self.text.line(self.name, self.labels, None, value);
    }

    /// A sample with one more label.
    pub fn with(&mut self, label: &str, label_value: &str, value: impl Display) {
        self.text.line(self.name, self.labels, Some((label, label_value)), value);
    }

    /// A sample that is absent where the system does not say.
    pub fn known(&mut self, value: Option<f64>) {
        if let Some(value) = value {
            self.one(value);
        }
    }

    /// The buckets, the sum and the count.
    pub fn histogram(&mut self, reading: &Reading) {
        let bucket = format!("{}_bucket", self.name);
        let mut below = 0;
        for (bound, count) in reading.bounds.iter().zip(&reading.counts) {
            below += count;
            self.text.line(&bucket, self.labels, Some(("le", &bound.as_secs_f64().to_string())), below);
        }
        self.text.line(&bucket, self.labels, Some(("le", "+Inf")), reading.count());
        self.text.line(&format!("{}_sum", self.name), self.labels, None, reading.sum.as_secs_f64());
        self.text.line(&format!("{}_count", self.name), self.labels, None, reading.count());
    }
}

impl Text {
    fn pools(&mut self, pools: &[Arc<Pool>], detail: Detail, now: Tick) {
        let sources = labelled(pools, |pool| labels(&[("pool", &pool.settings.name)]));
        let of_backend = |pool: &Pool, member: &Member| {
            let labels = labels(&[("pool", &pool.settings.name), ("backend", &member.backend.name)]);
            (labels, Row::of_backend(pool, member, now))
        };
        let rows = sources.iter().flat_map(|(labels, pool)| -> Vec<(String, Row)> {
            match detail {
                Detail::PerBackend => pool.members.iter().map(|member| of_backend(pool, member)).collect(),
                Detail::PerPool => vec![(labels.clone(), Row::sums(pool, now))],
            }
        });
        self.families(BACKENDS, &rows.collect::<Vec<_>>());
        self.families(POOLS, &sources);
    }

    /// Each family with the samples of each source. The sources have their labels.
    fn families<S>(&mut self, families: &[Family<S>], sources: &[(String, S)]) {
        for Family { about: About { name, kind, help, .. }, samples } in families {
            self.push(format_args!("# HELP {name} {help}\n# TYPE {name} {kind}\n"));
            for (labels, source) in sources {
                samples(source, &mut Samples { text: self, name, labels });
            }
        }
    }

    /// Writes a sample. `labels` are escaped already.
    fn line(&mut self, name: &str, labels: &str, more: Option<(&str, &str)>, value: impl Display) {
        self.0.push_str(name);
        if !labels.is_empty() || more.is_some() {
            self.0.push('{');
            self.0.push_str(labels);
            if let Some((key, value)) = more {
                self.0.push_str(if labels.is_empty() { "" } else { "," });
                label(&mut self.0, key, value);
            }
            self.0.push('}');
        }
        self.push(format_args!(" {value}\n"));
    }

    fn push(&mut self, part: std::fmt::Arguments<'_>) {
        // Writing to a string can't fail.
        let _ = self.0.write_fmt(part);
    }
}

/// Each source with its labels, which all of its families share.
fn labelled<S: Clone>(sources: &[S], labels: impl Fn(&S) -> String) -> Vec<(String, S)> {
    sources.iter().map(|source| (labels(source), source.clone())).collect()
}

/// Labels as they stand between the braces.
fn labels(pairs: &[(&str, &str)]) -> String {
    let mut text = String::new();
    for (index, (key, value)) in pairs.iter().enumerate() {
        text.push_str(if index == 0 { "" } else { "," });
        label(&mut text, key, value);
    }
    text
}

fn label(text: &mut String, key: &str, value: &str) {
    text.push_str(key);
    text.push_str("=\"");
    for letter in value.chars() {
        match letter {
            '\\' => text.push_str("\\\\"),
            '"' => text.push_str("\\\""),
            '\n' => text.push_str("\\n"),
            other => text.push(other),
        }
    }
    text.push('"');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn label_values_are_escaped() {
        let mut text = Text(String::new());
        text.line("m", &labels(&[("a", "x\"y\\z\n")]), Some(("b", "é")), 1.5);
        assert_eq!(text.0, "m{a=\"x\\\"y\\\\z\\n\",b=\"é\"} 1.5\n");
    }
}
