//! `GET /metrics`: the Prometheus text format, version 0.0.4.
//!
//! Every family is always present, with zeros before the first event, because an alert on an absent series never fires.
//! Label values come from the configuration and from short fixed lists, never from clients.

use super::process::Process;
use crate::base::Tick;
use crate::logger;
use crate::policy::health::{Class, ConnectFailure};
use crate::pool::{AddressState, Member, Pool, Published, Snapshot};
use crate::telemetry::histogram::Reading;
use crate::telemetry::{Counters, Refusal};
use std::fmt::{Display, Write};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

/// The media type of the answer.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// The text being built.
struct Text(String);

/// The values of a backend's series, or of a pool's where backends have none.
struct Row<'a> {
    /// The labels as they stand between the braces.
    labels: String,
    counters: &'a Counters,
    up: u64,
    active: u64,
}

/// What the families about backends have series of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Detail {
    /// Each backend.
    PerBackend,
    /// Each pool: the sums of its backends.
    PerPool,
}

/// All metrics.
pub fn text(published: &Published, detail: Detail, now: Tick) -> String {
    let mut text = Text(String::with_capacity(16 * 1024));
    let snapshot = published.snapshot();
    text.family("tcplb_build_info", "gauge", "The version; the value is always 1.");
    text.sample("tcplb_build_info", &[("version", env!("CARGO_PKG_VERSION"))], 1);
    listeners(&mut text, &snapshot);
    part(&mut text, &snapshot.pools, detail, now);
    let (worked, failed) = published.reloads();
    text.family("tcplb_config_reloads_total", "counter", "Reloads of the configuration file by their result.");
    text.sample("tcplb_config_reloads_total", &[("result", "success")], worked);
    text.sample("tcplb_config_reloads_total", &[("result", "failure")], failed);
    text.family("tcplb_config_generation", "gauge", "Counts changes of the configuration in force, from 1.");
    text.sample("tcplb_config_generation", &[], snapshot.generation);
    text.family("tcplb_access_log_lost_total", "counter", "Lines of the access log that were not written.");
    text.sample("tcplb_access_log_lost_total", &[], published.log().lost());
    let what = "Lines of the log on stderr that were not written.";
    text.family("tcplb_log_lines_lost_total", "counter", what);
    text.sample("tcplb_log_lines_lost_total", &[], logger::lines_lost());
    process(&mut text, &Process::read());
    text.0
}

/// The metrics of one pool.
pub fn of_pool(pool: &Arc<Pool>, detail: Detail, now: Tick) -> String {
    let mut text = Text(String::with_capacity(16 * 1024));
    part(&mut text, std::slice::from_ref(pool), detail, now);
    text.0
}

fn part(text: &mut Text, pools: &[Arc<Pool>], detail: Detail, now: Tick) {
    let rows: Vec<Row<'_>> = if detail == Detail::PerBackend {
        pools.iter().flat_map(|pool| pool.members.iter().map(|member| of_backend(pool, member))).collect()
    } else {
        pools.iter().map(|pool| sums(pool)).collect()
    };
    backends(text, &rows);
    if detail == Detail::PerBackend {
        addresses(text, pools, now);
    }
    self::pools(text, pools);
}

fn of_backend<'a>(pool: &Pool, member: &'a Member) -> Row<'a> {
    Row {
        labels: labels(&[("pool", &pool.settings.name), ("backend", &member.backend.name)]),
        counters: &member.backend.counters,
        up: u64::from(pool.is_usable(member)),
        active: u64::from(member.backend.active()),
    }
}

fn sums(pool: &Pool) -> Row<'_> {
    Row {
        labels: labels(&[("pool", &pool.settings.name)]),
        counters: &pool.totals.counters,
        up: pool.members.iter().filter(|member| pool.is_usable(member)).count() as u64,
        active: pool.members.iter().map(|member| u64::from(member.backend.active())).sum(),
    }
}

fn listeners(text: &mut Text, snapshot: &Snapshot) {
    let all = || snapshot.listeners.iter().map(|listener| (listener.name.as_str(), &listener.totals));
    text.family("tcplb_connections_accepted_total", "counter", "Clients accepted, refused ones included.");
    for (name, totals) in all() {
        text.sample("tcplb_connections_accepted_total", &[("listener", name)], totals.accepted());
    }
    text.family("tcplb_connections_active", "gauge", "Clients connected now.");
    for (name, totals) in all() {
        text.sample("tcplb_connections_active", &[("listener", name)], totals.active());
    }
    text.family("tcplb_connections_refused_total", "counter", "Clients refused after they were accepted.");
    for (name, totals) in all() {
        for why in Refusal::ALL {
            let labels = [("listener", name), ("reason", why.label())];
            text.sample("tcplb_connections_refused_total", &labels, totals.refused(why));
        }
    }
    let what = "Clients admitted under limits = \"count\" that \"enforce\" would have refused.";
    text.family("tcplb_connections_would_refuse_total", "counter", what);
    for listener in &snapshot.listeners {
        for why in [Refusal::Denied, Refusal::SourceLimit, Refusal::SourceRate] {
            let labels = [("listener", listener.name.as_str()), ("reason", why.label())];
            text.sample("tcplb_connections_would_refuse_total", &labels, listener.admission.would_refuse(why));
        }
    }
    let what = "Clients admitted without the limits per source, because the table of sources was full.";
    text.family("tcplb_connections_untracked_total", "counter", what);
    for listener in &snapshot.listeners {
        text.sample(
            "tcplb_connections_untracked_total",
            &[("listener", &listener.name)],
            listener.admission.untracked(),
        );
    }
}

/// Series of the addresses of backends that have several; backends with one address have `tcplb_backend_up`.
fn addresses(text: &mut Text, pools: &[Arc<Pool>], now: Tick) {
    let name = "tcplb_backend_address_up";
    text.family(name, "gauge", "Of a backend with several addresses: 1 if this one takes its turn.");
    for pool in pools {
        for backend in pool.members.iter().map(|member| &member.backend).filter(|backend| backend.addresses.len() > 1) {
            for address in backend.addresses.iter() {
                let (at, up) = (address.endpoint.to_string(), address.state(now) == AddressState::Up);
                let labels = [("pool", pool.settings.name.as_str()), ("backend", &backend.name), ("address", &at)];
                text.sample(name, &labels, u64::from(up));
            }
        }
    }
}

fn backends(text: &mut Text, rows: &[Row<'_>]) {
    let mut each = |name: &str, kind: &str, help: &str, value: &dyn Fn(&Row<'_>) -> u64| {
        text.family(name, kind, help);
        rows.iter().for_each(|row| text.line(name, &row.labels, &[], value(row)));
    };
    each("tcplb_backend_up", "gauge", "1 if it takes new connections: healthy and enabled.", &|row| row.up);
    each("tcplb_backend_connections_total", "counter", "Connections that reached it.", &|row| {
        row.counters.connections.load(Relaxed)
    });
    each("tcplb_backend_connections_active", "gauge", "Connections open to it now, or being dialled.", &|row| {
        row.active
    });
    text.family("tcplb_backend_connect_failures_total", "counter", "Connection attempts that failed.");
    for row in rows {
        for (reason, count) in ConnectFailure::LABELS.iter().zip(&row.counters.connect_failures) {
            let count = count.load(Relaxed);
            text.line("tcplb_backend_connect_failures_total", &row.labels, &[("reason", reason)], count);
        }
    }
    text.family("tcplb_backend_bytes_total", "counter", "Bytes relayed.");
    for row in rows {
        let counters = row.counters;
        for (direction, count) in [("to_backend", &counters.bytes_to_backend), ("to_client", &counters.bytes_to_client)]
        {
            let more = [("direction", direction)];
            text.line("tcplb_backend_bytes_total", &row.labels, &more, count.load(Relaxed));
        }
    }
    text.family("tcplb_backend_connect_duration_seconds", "histogram", "How long connecting took.");
    for row in rows {
        text.histogram("tcplb_backend_connect_duration_seconds", &row.labels, &row.counters.connect_times.read());
    }
    text.family("tcplb_health_probes_total", "counter", "Health probes by their result.");
    for row in rows {
        for (class, count) in Class::ALL.iter().zip(&row.counters.probes) {
            text.line("tcplb_health_probes_total", &row.labels, &[("result", class.label())], count.load(Relaxed));
        }
    }
}

fn pools(text: &mut Text, pools: &[Arc<Pool>]) {
    let help = "How long connections lasted, from accept to the end.";
    text.family("tcplb_connection_duration_seconds", "histogram", help);
    for pool in pools {
        let labels = labels(&[("pool", &pool.settings.name)]);
        text.histogram("tcplb_connection_duration_seconds", &labels, &pool.totals.durations.read());
    }
    text.family("tcplb_connect_retries_total", "counter", "Attempts with another backend after one had failed.");
    for pool in pools {
        let retries = pool.totals.connect_retries.load(Relaxed);
        text.sample("tcplb_connect_retries_total", &[("pool", &pool.settings.name)], retries);
    }
}

fn process(text: &mut Text, process: &Process) {
    let mut one = |name: &str, kind: &str, help: &str, value: Option<f64>| {
        if let Some(value) = value {
            text.family(name, kind, help);
            text.sample(name, &[], value);
        }
    };
    let gauge = "gauge";
    one("process_cpu_seconds_total", "counter", "User and system CPU time.", process.cpu_seconds);
    one("process_open_fds", gauge, "Open file descriptors.", process.open_fds);
    one("process_max_fds", gauge, "Most file descriptors that may be open.", process.max_fds);
    one("process_virtual_memory_bytes", gauge, "Virtual memory.", process.virtual_bytes);
    one("process_virtual_memory_max_bytes", gauge, "Most virtual memory there may be.", process.max_virtual_bytes);
    one("process_resident_memory_bytes", gauge, "Resident memory.", process.resident_bytes);
    one("process_start_time_seconds", gauge, "When it started, since the Unix epoch.", process.started);
}

impl Text {
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        self.push(format_args!("# HELP {name} {help}\n# TYPE {name} {kind}\n"));
    }

    fn sample(&mut self, name: &str, more: &[(&str, &str)], value: impl Display) {
        self.line(name, &labels(more), &[], value);
    }

    /// Writes a sample: `labels` are escaped already; the values of `more` need no escape.
    fn line(&mut self, name: &str, labels: &str, more: &[(&str, &str)], value: impl Display) {
        self.0.push_str(name);
        if !(labels.is_empty() && more.is_empty()) {
            self.0.push('{');
            self.0.push_str(labels);
            for (index, (key, value)) in more.iter().enumerate() {
                let comma = if index == 0 && labels.is_empty() { "" } else { "," };
                self.push(format_args!("{comma}{key}=\"{value}\""));
            }
            self.0.push('}');
        }
        self.push(format_args!(" {value}\n"));
    }

    fn histogram(&mut self, name: &str, labels: &str, reading: &Reading) {
        let bucket = format!("{name}_bucket");
        let mut below = 0;
        for (bound, count) in reading.bounds.iter().zip(&reading.counts) {
            below += count;
            let bound = bound.as_secs_f64().to_string();
            self.line(&bucket, labels, &[("le", bound.as_str())], below);
        }
        self.line(&bucket, labels, &[("le", "+Inf")], reading.count());
        self.line(&format!("{name}_sum"), labels, &[], reading.sum.as_secs_f64());
        self.line(&format!("{name}_count"), labels, &[], reading.count());
    }

    fn push(&mut self, part: std::fmt::Arguments<'_>) {
        // Writing to a string can't fail.
        let _ = self.0.write_fmt(part);
    }
}

/// Labels as they stand between the braces.
fn labels(pairs: &[(&str, &str)]) -> String {
    let mut text = String::new();
    for (index, (key, value)) in pairs.iter().enumerate() {
        text.push_str(if index == 0 { "" } else { "," });
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
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn label_values_are_escaped() {
        let mut text = Text(String::new());
        text.sample("m", &[("a", "x\"y\\z\n"), ("b", "é")], 1.5);
        assert_eq!(text.0, "m{a=\"x\\\"y\\\\z\\n\",b=\"é\"} 1.5\n");
    }
}
