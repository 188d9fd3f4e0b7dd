//! `GET /metrics`: the Prometheus text format, version 0.0.4.
//!
//! Every family is always there, with zeros before anything happened: an alert on an absent series never fires. Label
//! values come from the configuration and from small fixed lists, never from clients.

use super::process::Process;
use super::status;
use crate::logger;
use crate::policy::health::{Class, ConnectFailure};
use crate::pool::histogram::Reading;
use crate::pool::{Member, Pool, Published, Refusal, Snapshot};
use std::fmt::{Display, Write};
use std::sync::atomic::Ordering::Relaxed;

/// The media type of the answer.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// The text under construction.
struct Text(String);

/// Everything there is to count.
pub fn text(published: &Published) -> String {
    let mut text = Text(String::with_capacity(16 * 1024));
    let snapshot = published.snapshot();
    text.family("tcplb_build_info", "gauge", "The version; the value is always 1.");
    text.sample("tcplb_build_info", &[("version", env!("CARGO_PKG_VERSION"))], 1);
    listeners(&mut text, &snapshot);
    backends(&mut text, &snapshot);
    pools(&mut text, &snapshot);
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
    let what = "Clients let in that limits would have refused, had they been enforced.";
    text.family("tcplb_connections_would_refuse_total", "counter", what);
    for listener in &snapshot.listeners {
        for why in [Refusal::Denied, Refusal::SourceLimit, Refusal::SourceRate] {
            let labels = [("listener", listener.name.as_str()), ("reason", why.label())];
            text.sample("tcplb_connections_would_refuse_total", &labels, listener.gate.would_refuse(why));
        }
    }
    let what = "Clients let in past the limits per source, because the table of sources was full.";
    text.family("tcplb_connections_untracked_total", "counter", what);
    for listener in &snapshot.listeners {
        text.sample("tcplb_connections_untracked_total", &[("listener", &listener.name)], listener.gate.untracked());
    }
}

fn backends(text: &mut Text, snapshot: &Snapshot) {
    let all = || snapshot.pools.iter().flat_map(|pool| pool.members.iter().map(move |member| (&**pool, member)));
    let labels = |pool: &Pool, member: &Member| [pool.settings.name.clone(), member.backend.name.clone()];
    let mut each = |name: &str, kind: &str, help: &str, value: &dyn Fn(&Pool, &Member) -> u64| {
        text.family(name, kind, help);
        for (pool, member) in all() {
            let [pool_name, backend] = labels(pool, member);
            text.sample(name, &[("pool", &pool_name), ("backend", &backend)], value(pool, member));
        }
    };
    each("tcplb_backend_up", "gauge", "1 if it takes new connections: healthy and enabled.", &|pool, member| {
        u64::from(status::is_up(pool, member))
    });
    each("tcplb_backend_connections_total", "counter", "Connections that reached it.", &|_, member| {
        member.backend.counters.connections.load(Relaxed)
    });
    each("tcplb_backend_connections_active", "gauge", "Connections open to it now, or being dialled.", &|_, member| {
        u64::from(member.backend.active())
    });
    text.family("tcplb_backend_connect_failures_total", "counter", "Connection attempts that failed.");
    for (pool, member) in all() {
        let [pool_name, backend] = labels(pool, member);
        for (reason, count) in ConnectFailure::LABELS.iter().zip(&member.backend.counters.connect_failures) {
            let labels = [("pool", pool_name.as_str()), ("backend", &backend), ("reason", reason)];
            text.sample("tcplb_backend_connect_failures_total", &labels, count.load(Relaxed));
        }
    }
    text.family("tcplb_backend_bytes_total", "counter", "Bytes relayed.");
    for (pool, member) in all() {
        let [pool_name, backend] = labels(pool, member);
        let counters = &member.backend.counters;
        for (direction, count) in [("to_backend", &counters.bytes_to_backend), ("to_client", &counters.bytes_to_client)]
        {
            let labels = [("pool", pool_name.as_str()), ("backend", &backend), ("direction", direction)];
            text.sample("tcplb_backend_bytes_total", &labels, count.load(Relaxed));
        }
    }
    text.family("tcplb_backend_connect_duration_seconds", "histogram", "How long connecting took.");
    for (pool, member) in all() {
        let [pool_name, backend] = labels(pool, member);
        let reading = member.backend.counters.connect_times.read();
        let labels = [("pool", pool_name.as_str()), ("backend", &backend)];
        text.histogram("tcplb_backend_connect_duration_seconds", &labels, &reading);
    }
    text.family("tcplb_health_probes_total", "counter", "Health probes by their result.");
    for (pool, member) in all() {
        let [pool_name, backend] = labels(pool, member);
        let probes = member.backend.health.lock().probes;
        for (class, count) in Class::ALL.iter().zip(probes) {
            let labels = [("pool", pool_name.as_str()), ("backend", &backend), ("result", class.label())];
            text.sample("tcplb_health_probes_total", &labels, count);
        }
    }
}

fn pools(text: &mut Text, snapshot: &Snapshot) {
    let help = "How long connections lasted, from accept to the end.";
    text.family("tcplb_connection_duration_seconds", "histogram", help);
    for pool in &snapshot.pools {
        let reading = pool.totals.durations.read();
        text.histogram("tcplb_connection_duration_seconds", &[("pool", &pool.settings.name)], &reading);
    }
    text.family("tcplb_connect_retries_total", "counter", "Attempts with another backend after one had failed.");
    for pool in &snapshot.pools {
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

    fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: impl Display) {
        self.0.push_str(name);
        for (index, (key, label)) in labels.iter().enumerate() {
            self.push(format_args!("{}{key}=\"", if index == 0 { '{' } else { ',' }));
            for letter in label.chars() {
                match letter {
                    '\\' => self.0.push_str("\\\\"),
                    '"' => self.0.push_str("\\\""),
                    '\n' => self.0.push_str("\\n"),
                    other => self.0.push(other),
                }
            }
            self.0.push('"');
        }
        if !labels.is_empty() {
            self.0.push('}');
        }
        self.push(format_args!(" {value}\n"));
    }

    fn histogram(&mut self, name: &str, labels: &[(&str, &str)], reading: &Reading) {
        let bucket = format!("{name}_bucket");
        let mut below = 0;
        for (bound, count) in reading.bounds.iter().zip(&reading.counts) {
            below += count;
            let bound = bound.as_secs_f64().to_string();
            self.sample(&bucket, &[labels, &[("le", bound.as_str())]].concat(), below);
        }
        self.sample(&bucket, &[labels, &[("le", "+Inf")]].concat(), reading.count());
        self.sample(&format!("{name}_sum"), labels, reading.sum.as_secs_f64());
        self.sample(&format!("{name}_count"), labels, reading.count());
    }

    fn push(&mut self, part: std::fmt::Arguments<'_>) {
        // Writing to a string can't fail.
        let _ = self.0.write_fmt(part);
    }
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
