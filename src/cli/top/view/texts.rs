//! Texts of the details above a table.

use crate::admin::api::{BackendView, Explained, PoolView, Status, Urgency};
use crate::admin::figures::{self, age, conns, percentiles};
use crate::cli::remote::explain;
use ratatui::text::Span;

/// Joins parts into lines of this width; a part that does not fit begins the next line.
pub fn flow(parts: Vec<String>, width: u16) -> Vec<String> {
    const BETWEEN: &str = " · ";
    let mut lines: Vec<String> = Vec::new();
    for part in parts {
        match lines.last_mut() {
            Some(line) if Span::raw(&*line).width() + 3 + Span::raw(&part).width() <= usize::from(width) => {
                line.push_str(BETWEEN);
                line.push_str(&part);
            }
            _ => lines.push(part),
        }
    }
    lines
}

/// The process and its limits.
pub fn process(status: &Status) -> Vec<String> {
    let process = &status.process;
    let count = |count: Option<u64>, limit| figures::shown(count.map(|count| conns(count, limit)));
    let lost = process.log_lines_lost_total + process.access_log_lines_lost_total;
    let lag = figures::shown(percentiles(&process.loop_lag_ms).map(|lag| format!("{lag} ms")));
    let mut parts = vec![
        format!("connections {}", conns(process.connections, Some(process.connections_limit))),
        format!("descriptors {}", count(process.descriptors, process.descriptors_limit)),
        format!("local ports {}", conns(process.ports_used, process.ports_limit)),
        format!("loop lag p50/p99 {lag}"),
        format!("lost log lines {lost}"),
    ];
    // A reload that has worked is of interest for an hour.
    if let Some(reload) = process.last_reload.as_ref().filter(|reload| !reload.success || reload.age_seconds < 3600) {
        let word = if reload.success { "ok" } else { "failed" };
        parts.push(format!("last reload {word} {} ago", age(reload.age_seconds)));
    }
    parts.push(format!("{} {}, up {}", status.version, status.state, age(status.uptime_seconds)));
    parts
}

/// `pools 3 · backends 12: 10 up, 1 down, 1 draining`; of those that are up, some may fail.
pub fn counts(status: &Status) -> String {
    let backends = || status.pools.iter().flat_map(|pool| &pool.backends);
    let of = |state: &str| backends().filter(|backend| backend.state == state).count();
    let failing = backends().filter(|backend| backend.urgency == Urgency::Failing).count();
    let states =
        [("down", of("down")), ("failing", failing), ("draining", of("draining")), ("disabled", of("disabled"))];
    let others = states.into_iter().filter(|(_, count)| *count > 0).map(|(word, count)| format!(", {count} {word}"));
    let others: String = others.collect();
    format!("pools {} · backends {}: {} up{others}", status.pools.len(), backends().count(), of("up"))
}

/// Where a client would go, and what chooses.
pub fn explained(client: &str, answer: Option<&Result<Box<Explained>, String>>) -> Vec<String> {
    match answer {
        Some(Ok(explained)) => vec![explain::outcome(client, explained), explain::choice(explained)],
        _ => Vec::new(),
    }
}

/// A backend in detail.
pub fn backend(status: &Status, pool: &str, name: &str) -> Vec<String> {
    let found = status.pools.iter().find(|one| one.name == pool);
    let found = found.and_then(|pool| Some((pool, pool.backends.iter().find(|one| one.name == name)?)));
    found.map_or_else(|| vec![format!("{pool}/{name} is gone")], |(pool, backend)| of_backend(pool, backend))
}

fn of_backend(pool: &PoolView, backend: &BackendView) -> Vec<String> {
    let cell = |head: &str| {
        let mut columns = figures::LIVE.iter().chain(figures::TRAFFIC);
        let column = columns.find(|column| column.head == head);
        figures::shown(column.map(|column| column.text(backend)))
    };
    let weight = figures::both_weights(backend);
    let mut parts = vec![format!("{} at {}", cell("state"), backend.address), format!("weight {weight}")];
    if let Some(since) = &backend.health.since {
        parts.push(format!("since {since}"));
    }
    parts.extend(backend.health.last_result.as_ref().map(|result| format!("last probe {result}")));
    parts.push(format!("connections {}, {} in all", cell("conns"), backend.connections_total));
    parts.push(format!("{} failed", backend.connect_failures_total));
    parts.push(format!("connect {} ms", cell("connect")));
    parts.push(format!("first byte {} ms", cell("first byte")));
    if let Some(rtt) = backend.rtt_ms {
        parts.push(format!("rtt {rtt:.1} ms"));
    }
    parts.push(format!("{} retransmits", backend.retransmits_total));
    let closed: Vec<String> = backend.closed.iter().map(|(reason, count)| format!("{reason} {count}")).collect();
    if !closed.is_empty() {
        parts.push(format!("closed: {}", closed.join(", ")));
    }
    if pool.waiting > 0 {
        parts.push(format!("{} clients wait in the pool", pool.waiting));
    }
    parts
}
