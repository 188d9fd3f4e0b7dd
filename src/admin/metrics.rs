//! `GET /metrics`: the Prometheus text format, version 0.0.4.
//!
//! Every family is always present, with zeros before the first event, because an alert on an absent series never fires.
//! [`families`] declares them.

pub mod families;

use super::process::{self, Process};
use super::status;
use crate::base::Tick;
use crate::logger;
use crate::pool::{Backend, BackendAddress, BackendState, Member, Pool, Published};
use crate::telemetry::histogram::Reading;
use crate::telemetry::{CLOSE_REASONS, Closed, Counters, WorkerTotals};
use families::{About, BACKENDS, ENDED, Family, KERNEL, LISTENERS, NAMES, POOLS, PROCESS, SOURCES, WORKERS};
use std::borrow::Borrow;
use std::fmt::{Display, Write};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::SystemTime;

/// The media type of the answer.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// The text being built.
struct Text(String);

/// The source of a backend's series, or of a pool's where backends have none.
pub struct Row {
    of: Of,
    up: u64,
    states: [(BackendState, u64); BackendState::ALL.len()],
    weight: f64,
    active: u64,
    limit: Option<u64>,
    warm: Option<u64>,
    now: Tick,
}

enum Of {
    Backend(Arc<Backend>),
    Pool(Arc<Pool>),
}

/// The connections that ended at one backend or without one, or all of a pool.
pub enum Ended {
    /// At this backend.
    At(Arc<Backend>),
    /// Without a backend.
    Without(Arc<Pool>),
    /// All of the pool.
    All(Arc<Pool>),
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
    /// Upgrades that succeeded, and those that failed; and how long connections stood still.
    upgrades: (u64, u64),
    upgrade_pauses: Reading,
    generation: u64,
    last_reload_success: bool,
    configured: SystemTime,
    connections: usize,
    connections_limit: usize,
    ports_used: u64,
    ports_limit: Option<u64>,
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
    let sources = published.sources().into_iter();
    let sources =
        sources.map(|(id, standing)| (labels(&[("pool", &id.pool), ("source", &id.label)]), standing.lock().clone()));
    text.families(SOURCES, &sources.collect::<Vec<_>>());
    let names = published.names().standings().into_iter();
    text.families(NAMES, &names.map(|(name, standing)| (labels(&[("name", &name)]), standing)).collect::<Vec<_>>());
    text.workers(published.workers());
    text.families(KERNEL, &[(String::new(), published.kernel().clone())]);
    let scope = Scope {
        reloads: published.reloads(),
        upgrades: published.upgrades().results(),
        upgrade_pauses: published.upgrades().pauses.read(),
        generation: snapshot.generation,
        last_reload_success: published.last_reload().is_none_or(|reload| reload.error.is_none()),
        configured: published.configured(),
        connections: published.connection_limit().active(),
        connections_limit: published.connection_limit().limit(),
        ports_used: status::ports_used(&snapshot),
        ports_limit: process::local_ports(),
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

impl Ended {
    fn is_at_a_backend(&self) -> bool {
        matches!(self, Ended::At(_))
    }

    /// By the number of the reason.
    fn counts(&self) -> [u64; CLOSE_REASONS] {
        let of = |closed: &Closed| closed.each_ref().map(|count| count.load(Relaxed));
        match self {
            Ended::At(backend) => of(&backend.counters.closed),
            Ended::Without(pool) => of(&pool.totals.closed),
            Ended::All(pool) => {
                let (at, without) = (of(&pool.totals.counters.closed), of(&pool.totals.closed));
                std::array::from_fn(|reason| at[reason] + without[reason])
            }
        }
    }
}

impl Row {
    fn of_backend(pool: &Pool, position: usize, member: &Member, now: Tick) -> Row {
        let state = BackendState::of(pool, member);
        let limit = pool.settings.backends.get(position).and_then(|settings| settings.max_connections);
        Row {
            of: Of::Backend(member.backend.clone()),
            up: u64::from(member.backend.is_healthy()),
            states: BackendState::ALL.map(|other| (other, u64::from(other == state))),
            weight: pool.effective_weight(member),
            active: u64::from(member.backend.active()),
            limit: limit.map(u64::from),
            warm: status::warm(pool, &member.backend),
            now,
        }
    }

    /// Without a limit of any backend there is none of the sum.
    fn sums(pool: &Arc<Pool>, now: Tick) -> Row {
        let rows = pool.members.iter().enumerate();
        let rows = rows.map(|(position, member)| Row::of_backend(pool, position, member, now));
        let none = Row {
            of: Of::Pool(pool.clone()),
            up: 0,
            states: BackendState::ALL.map(|state| (state, 0)),
            weight: 0.0,
            active: 0,
            limit: Some(0),
            warm: (pool.settings.warm_connections > 0).then_some(0),
            now,
        };
        let mut sums = rows.fold(none, |mut sums, row| {
            sums.states.iter_mut().zip(row.states).for_each(|((_, sum), (_, count))| *sum += count);
            Row {
                up: sums.up + row.up,
                weight: sums.weight + row.weight,
                active: sums.active + row.active,
                warm: sums.warm.zip(row.warm).map(|(sum, warm)| sum + warm),
                limit: sums.limit.zip(row.limit).map(|(sum, limit)| sum + limit),
                ..sums
            }
        });
        sums.limit = sums.limit.filter(|limit| *limit > 0);
        sums
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

    /// A sample that is absent where there is no value.
    pub fn known(&mut self, value: Option<impl Display>) {
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
        let of_backend = |pool: &Pool, name: &str| labels(&[("pool", &pool.settings.name), ("backend", name)]);
        let (mut rows, mut ended) = (Vec::new(), Vec::new());
        for (labels, pool) in &sources {
            match detail {
                Detail::PerBackend => {
                    for (position, member) in pool.members.iter().enumerate() {
                        let labels = of_backend(pool, &member.backend.name);
                        ended.push((labels.clone(), Ended::At(member.backend.clone())));
                        rows.push((labels, Row::of_backend(pool, position, member, now)));
                    }
                    ended.push((of_backend(pool, ""), Ended::Without(pool.clone())));
                }
                Detail::PerPool => {
                    rows.push((labels.clone(), Row::sums(pool, now)));
                    ended.push((labels.clone(), Ended::All(pool.clone())));
                }
            }
        }
        self.families(BACKENDS, &rows);
        self.families(ENDED, &ended);
        self.families(POOLS, &sources);
    }

    fn workers(&mut self, workers: &[WorkerTotals]) {
        let labels = (0..workers.len()).map(|number| labels(&[("worker", &number.to_string())]));
        self.families(WORKERS, &labels.zip(workers).collect::<Vec<_>>());
    }

    /// Each family with the samples of each source. The sources have their labels.
    fn families<S: 'static>(&mut self, families: &[Family<S>], sources: &[(String, impl Borrow<S>)]) {
        for Family { about: About { name, kind, help, .. }, samples } in families {
            self.push(format_args!("# HELP {name} {help}\n# TYPE {name} {kind}\n"));
            for (labels, source) in sources {
                samples(source.borrow(), &mut Samples { text: self, name, labels });
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

/// Seconds since the Unix epoch.
fn unix_time(time: SystemTime) -> f64 {
    time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs_f64()
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
