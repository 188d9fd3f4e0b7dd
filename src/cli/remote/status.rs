//! `tcplb status`: the verdict, the findings, the process, then a table of the listeners and one of each pool.

use super::args::Status as Arguments;
use super::client::Client;
use super::{REFUSED, Trouble, done, get, read, show, show_json, table};
use crate::admin::api::{Finding, Level, PoolView, ProcessView, SourceView, Status};
use crate::admin::figures;
use crate::base::text::Escaped;
use std::process::ExitCode;
use std::time::Duration;

/// Findings that are shown below the verdict.
const SHOWN: usize = 10;

/// Runs the command.
pub fn run(arguments: &Arguments) -> ExitCode {
    done(|| {
        let client = Client::new(&arguments.reach)?;
        let body = get(&client, "GET", "/v1/status", None)?;
        if arguments.json && arguments.pool.is_none() {
            return show_json::<Status>(&body);
        }
        let status: Status = read(&body)?;
        let Some(name) = &arguments.pool else { return show(text(&status)) };
        let pool = status.pools.iter().find(|pool| pool.name == *name);
        let pool = pool.ok_or_else(|| Trouble(REFUSED, format!("there is no pool `{name}`")))?;
        if arguments.json {
            return show(serde_json::to_string_pretty(pool).unwrap_or_default());
        }
        let about = |finding: &&Finding| finding.pool.as_ref() == Some(name);
        let findings = status.findings.iter().filter(about).map(|finding| line(finding.level, &finding.text));
        show(findings.chain([self::pool(pool)]).collect::<Vec<_>>().join("\n"))
    })
}

/// Everything.
fn text(status: &Status) -> String {
    let mut lines = vec![line(status.verdict.level, &status.verdict.text)];
    // The verdict is the first finding.
    let others = status.findings.iter().skip(1);
    lines.extend(others.take(SHOWN).map(|finding| format!("  {}", line(finding.level, &finding.text))));
    let Status { version, state, uptime_seconds, generation, .. } = status;
    let uptime = humantime::format_duration(Duration::from_secs(*uptime_seconds));
    lines.push(format!("tcplb {version} {state}, up {uptime}, generation {generation}"));
    lines.extend(process(&status.process));
    lines.extend([String::new(), table::listeners(&status.listeners)]);
    for pool in &status.pools {
        lines.extend([String::new(), self::pool(pool)]);
    }
    lines.extend([String::new(), figures::TIMES.to_owned()]);
    lines.join("\n")
}

fn line(level: Level, text: &str) -> String {
    let level = match level {
        Level::Ok => "ok",
        Level::Warning => "warning",
        Level::Critical => "critical",
    };
    format!("{level}: {text}")
}

/// Two lines.
fn process(process: &ProcessView) -> [String; 2] {
    let of = |used: Option<u64>, limit: Option<u64>| {
        let [used, limit] =
            [used, limit].map(|figure| figure.map_or_else(|| "?".to_owned(), |figure| figure.to_string()));
        format!("{used} of {limit}")
    };
    let clients = of(Some(process.connections), Some(process.connections_limit));
    let descriptors = of(process.descriptors, process.descriptors_limit);
    let ports = of(Some(process.ports_used), process.ports_limit);
    let lag = process.loop_lag_ms.p99.map_or_else(|| "not measured".to_owned(), |lag| format!("p99 {lag:.1} ms"));
    [
        format!("clients {clients}, descriptors {descriptors}, local ports {ports}"),
        format!(
            "loop lag {lag}, lines lost: log {}, access log {}",
            process.log_lines_lost_total, process.access_log_lines_lost_total
        ),
    ]
}

fn pool(pool: &PoolView) -> String {
    let waiting = match pool.waiting {
        0 => String::new(),
        1 => ", 1 client waits".to_owned(),
        count => format!(", {count} clients wait"),
    };
    let PoolView { name, algorithm, state, backends, discovery, .. } = pool;
    let sources: String = discovery.iter().map(source).collect();
    format!("pool {name}: {state}, {algorithm}{waiting}\n{}{sources}", table::traffic(backends))
}

/// A line, and one for each of the entries that were left out.
fn source(source: &SourceView) -> String {
    // The last error is the only one already.
    let left_out = if source.entries_left_out > 1 { figures::left_out(source, usize::MAX) } else { Vec::new() };
    let left_out = left_out.into_iter().map(|line| format!("\n  {}", Escaped(line)));
    format!("\n{}{}", Escaped(figures::source(source)), left_out.collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::api::{BackendView, Health, Listener, Millis, Recent, RecentClients, Verdict};
    use crate::telemetry::Resets;

    fn backend(name: &str) -> BackendView {
        let busy = Millis { p50: Some(5_000.0), p99: Some(5_000.0) };
        BackendView {
            name: name.into(),
            state: "draining".into(),
            weight: 1,
            effective_weight: 1.0,
            active_connections: 100,
            connections_limit: Some(200),
            recent: Recent {
                connections_per_second: 12_345.6,
                bytes_to_backend_per_second: 1e9,
                bytes_to_client_per_second: 1.5e9,
                connect_ms: busy.clone(),
                first_byte_ms: Millis { p50: Some(20_000.0), ..busy },
                ..Recent::default()
            },
            ..BackendView::default()
        }
    }

    fn status() -> Status {
        let listener = Listener {
            name: "web".into(),
            address: "127.0.0.1:8080".into(),
            pool: "web".into(),
            active_connections: 9_999,
            connections_limit: Some(10_000),
            accepted_total: 123_456_789,
            recent: RecentClients { accepted_per_second: 12_345.6, ..RecentClients::default() },
            ..Listener::default()
        };
        let mut down = backend("10.200.30.40:80");
        let health = Health {
            since: Some("2026-11-26T13:02:11Z".into()),
            transition: Some("down, 1 of 2 successes".into()),
            ..Health::default()
        };
        (down.state, down.reason, down.health) = ("down".into(), Some("connection refused".into()), health);
        down.resets = Some(Resets { resets: 40, ended: 40 });
        down.recent.connect_failures = 3;
        let mut slow = backend("web2");
        (slow.weight, slow.effective_weight) = (10, 2.5);
        let pool = PoolView {
            name: "web".into(),
            algorithm: "least-connections".into(),
            state: "degraded".into(),
            waiting: 2,
            backends: vec![down, slow],
            ..PoolView::default()
        };
        let finding = |text: &str| Finding { level: Level::Warning, text: text.into(), ..Finding::default() };
        Status {
            version: "0.1.0".into(),
            state: "running".into(),
            verdict: Verdict { level: Level::Critical, text: "the worst (and 1 more)".into() },
            findings: vec![finding("the worst"), finding("another one")],
            process: ProcessView { connections: 9_999, connections_limit: 100_000, ..ProcessView::default() },
            listeners: vec![listener],
            pools: vec![pool],
            ..Status::default()
        }
    }

    #[test]
    fn the_verdict_comes_first_and_eighty_columns_are_enough() {
        let text = text(&status());
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[..2], ["critical: the worst (and 1 more)", "  warning: another one"]);
        let wide: Vec<&&str> = lines.iter().filter(|line| line.chars().count() > 80).collect();
        assert!(wide.is_empty(), "{wide:#?}");
    }

    #[test]
    fn sources_stand_below_their_pool_and_each_backend_has_its_origin() {
        let mut status = status();
        assert!(!text(&status).contains("ORIGIN"), "of the file alone");
        let web = &mut status.pools[0];
        web.backends[0].origin = "file".into();
        web.backends[1].origin = "discovery:etcd".into();
        let etcd = SourceView {
            source: "etcd".into(),
            watches: "/web/ http://127.0.0.1:2379".into(),
            ok: true,
            last_success_seconds: Some(3),
            backends: 1,
            ..SourceView::default()
        };
        let late = SourceView {
            ok: false,
            last_success_seconds: Some(150),
            backends: 12,
            errors_total: 4,
            last_error: Some("connection\x1b refused".into()),
            ..etcd.clone()
        };
        let odd = SourceView { ok: true, last_success_seconds: Some(0), ..late.clone() };
        let new = SourceView { source: "dns".into(), watches: String::new(), ..SourceView::default() };
        web.discovery = vec![etcd, late, odd, new];
        let text = text(&status);
        let lines: Vec<&str> = text.lines().collect();
        let head = lines.iter().find(|line| line.starts_with("BACKEND")).expect("the table");
        assert!(head.ends_with("  ORIGIN"), "{head}");
        let row = lines.iter().find(|line| line.starts_with("web2 ")).expect("a backend");
        assert_eq!(row.find("discovery:etcd"), head.find("ORIGIN"), "{text}");
        let at = lines.iter().position(|line| line.starts_with("source ")).expect("a source");
        let want = [
            "source etcd (/web/ http://127.0.0.1:2379): 1 backend, answered 3s ago",
            "source etcd (/web/ http://127.0.0.1:2379): 12 backends, answered 2m ago, error: connection\\u{1b} refused",
            "source etcd (/web/ http://127.0.0.1:2379): 12 backends, answered 0s ago, 4 errors, the last: connection\\u{1b} refused",
            "source dns: 0 backends, no answer yet",
        ];
        assert_eq!(lines[at..at + 4], want);
        assert_eq!(lines[at - 1], "  weight 2.5 of 10", "below the table");
    }

    #[test]
    fn a_source_shows_what_it_leaves_out_and_what_it_keeps() {
        let odd = SourceView {
            source: "file".into(),
            last_success_seconds: Some(3),
            backends: 4,
            errors_total: 7,
            last_error: Some("entry 7: no name".into()),
            entries_left_out: 7,
            left_out: vec!["entry 1: no\u{1b}[2J name".into(), "web1: no address".into()],
            kept: 1,
            kept_because: Some("no entry of the answer is understood".into()),
            ..SourceView::default()
        };
        let want = "\nsource file: 4 backends, answered 3s ago, error: entry 7: no name, 7 entries left out, 1 backend stays: no \
                    entry of the answer is understood\n  entry 1: no\\u{1b}[2J name\n  web1: no address\n  and 5 more";
        assert_eq!(source(&odd), want);
    }

    #[test]
    fn remarks_stand_below_their_backend() {
        let text = text(&status());
        let lines: Vec<&str> = text.lines().collect();
        let at = lines.iter().position(|line| line.starts_with("10.200.30.40:80")).expect("a backend");
        let want = [
            "  connection refused, since 2026-11-26T13:02:11Z",
            "  down, 1 of 2 successes",
            "  40 of the last 40 connections were reset by the backend before a byte",
            "  3 connects failed in the last minute",
        ];
        assert_eq!(lines[at + 1..at + 5], want);
        assert!(lines[at + 5].starts_with("web2 "), "{text}");
        assert_eq!(lines[at + 6], "  weight 2.5 of 10");
        assert!(lines[at - 2].ends_with("pool web: degraded, least-connections, 2 clients wait"), "{text}");
    }
}
