//! What an operator should know, worst first: one pure function over the status.
//!
//! The page, `top` and `tcplb status` show the same findings. Each is one line that names what it is about.

mod kernel;
mod sources;

use super::api::{BackendView, FINDINGS_MAX, Finding, Level, Listener, PoolView, ProcessView, Status, Verdict};
use super::figures;
use crate::base::text::counted;
use std::cmp::Reverse;

/// Connects that fail in a minute are a finding from this number on, if they are this percentage of all.
const FAILED: u64 = 3;
const FAILED_PERCENT: u64 = 10;

/// So many connects, all failed, are critical.
const FAILED_ALL: u64 = 20;

/// Backends that a finding about a pool names.
const NAMED: usize = 3;

/// Fills in the findings and the verdict of a status that is otherwise complete.
pub fn judge(status: &mut Status) {
    let mut findings = all(status);
    // Of the same level, what comes first in `all` is worse.
    findings.sort_by_key(|finding| Reverse(finding.level));
    status.verdict = verdict(&findings, status);
    findings.truncate(FINDINGS_MAX);
    status.findings = findings;
}

fn verdict(findings: &[Finding], status: &Status) -> Verdict {
    match findings {
        [] => Verdict { level: Level::Ok, text: format!("nothing is wrong: {}", counts(status)) },
        [only] => Verdict { level: only.level, text: only.text.clone() },
        [worst, others @ ..] => {
            Verdict { level: worst.level, text: format!("{} (and {} more)", worst.text, others.len()) }
        }
    }
}

/// `10 backends up, 1 draining`.
fn counts(status: &Status) -> String {
    let backends = || status.pools.iter().flat_map(|pool| &pool.backends);
    let of = |state: &str| backends().filter(|backend| backend.state == state).count();
    let up = of("up");
    let others = ["draining", "disabled"].map(|state| (of(state), state)).into_iter().filter(|(count, _)| *count > 0);
    let others: String = others.map(|(count, state)| format!(", {count} {state}")).collect();
    format!("{} up{others}", counted(up, "backend"))
}

fn all(status: &Status) -> Vec<Finding> {
    let Status { process, pools, listeners, .. } = status;
    let several = pools.len() > 1;
    let backends = || pools.iter().flat_map(|pool| pool.backends.iter().map(move |backend| (pool, backend)));
    let stuck = process.stuck_threads.iter().map(|thread| critical(format!("{thread} does not respond")));
    let mut findings: Vec<Finding> = stuck.collect();
    findings.extend(pools.iter().filter_map(pool_down));
    findings.extend(backends().filter_map(|(pool, backend)| resets(pool, backend, several)));
    findings.extend(backends().filter_map(|(pool, backend)| failed_connects(pool, backend, several)));
    findings.extend(pools.iter().filter_map(waiting));
    findings.extend(pools.iter().filter_map(some_down));
    findings.extend(pools.iter().flat_map(|pool| pool.discovery.iter().filter_map(|it| sources::source(pool, it))));
    findings.extend(pools.iter().flat_map(|pool| pool.names.iter().filter_map(|it| sources::name(pool, it))));
    findings.extend(pools.iter().filter_map(speaks_first));
    findings.extend(clients(process));
    findings.extend(listeners.iter().filter_map(listener_limit));
    findings.extend(backends().filter_map(|(pool, backend)| backend_limit(pool, backend, several)));
    findings.extend(resources(process));
    findings.extend(kernel::all(process));
    findings.extend(reload(process));
    findings.extend(lost(process));
    if status.state == "draining" {
        findings.push(warning("tcplb drains: it accepts no new clients".to_owned()));
    }
    findings
}

fn warning(text: String) -> Finding {
    Finding { level: Level::Warning, text, ..Finding::default() }
}

fn critical(text: String) -> Finding {
    Finding { level: Level::Critical, text, ..Finding::default() }
}

impl Finding {
    fn of_pool(self, pool: &PoolView) -> Finding {
        Finding { pool: Some(pool.name.clone()), ..self }
    }

    fn of_backend(self, pool: &PoolView, backend: &BackendView) -> Finding {
        Finding { backend: Some(backend.name.clone()), ..self.of_pool(pool) }
    }
}

/// The backends of a pool that are down, those that went down last first.
fn down(pool: &PoolView) -> Vec<&BackendView> {
    let mut down: Vec<&BackendView> = pool.backends.iter().filter(|backend| backend.state == "down").collect();
    down.sort_by_key(|backend| backend.health.last_change_seconds.unwrap_or(u64::MAX));
    down
}

fn pool_down(pool: &PoolView) -> Option<Finding> {
    if pool.state != "down" {
        return None;
    }
    let (down, name) = (down(pool), &pool.name);
    let text = match pool.backends.len() {
        0 => format!("{name}: it has no backends"),
        all if all == down.len() => format!("{name}: all {all} down{}", details(&down)),
        all => {
            let weightless = pool.backends.iter().filter(|backend| backend.weight == 0).count();
            let of = |state: &str| pool.backends.iter().filter(|backend| backend.state == state).count();
            let counts = [(down.len(), "down"), (of("draining"), "draining"), (of("disabled"), "disabled")];
            let counts = counts.into_iter().chain([(weightless, "of weight 0")]).filter(|(count, _)| *count > 0);
            let counts: Vec<String> = counts.map(|(count, what)| format!("{count} {what}")).collect();
            format!("{name}: none of {all} takes connections: {}{}", counts.join(", "), details(&down))
        }
    };
    Some(about(critical(text), pool, &down))
}

fn some_down(pool: &PoolView) -> Option<Finding> {
    let down = down(pool);
    if down.is_empty() || pool.state == "down" {
        return None;
    }
    let text = format!("{}: {} of {} down{}", pool.name, down.len(), pool.backends.len(), details(&down));
    Some(about(warning(text), pool, &down))
}

/// A finding about one backend names it.
fn about(finding: Finding, pool: &PoolView, down: &[&BackendView]) -> Finding {
    match down {
        [only] => finding.of_backend(pool, only),
        _ => finding.of_pool(pool),
    }
}

/// `, db2 since 13:02 UTC, connection refused; db1 …`.
fn details(down: &[&BackendView]) -> String {
    let detail = |backend: &&BackendView| {
        let since = figures::since(&backend.health).map_or(String::new(), |since| format!(" since {since}"));
        let reason = backend.reason.as_ref().map_or(String::new(), |reason| format!(", {reason}"));
        format!("{}{since}{reason}", backend.name)
    };
    let named: Vec<String> = down.iter().take(NAMED).map(detail).collect();
    let more = if down.len() > NAMED { format!("; and {} more", down.len() - NAMED) } else { String::new() };
    if named.is_empty() { String::new() } else { format!(", {}{more}", named.join("; ")) }
}

/// Where there are several pools, a backend's name is not enough.
fn suffix(pool: &PoolView, several: bool) -> String {
    if several { format!(" (pool {})", pool.name) } else { String::new() }
}

fn resets(pool: &PoolView, backend: &BackendView, several: bool) -> Option<Finding> {
    let text = format!("{}: {}{}", backend.name, backend.resets?, suffix(pool, several));
    Some(critical(text).of_backend(pool, backend))
}

/// A backend without probes is up although no client reaches it. One that is down has its own finding.
fn failed_connects(pool: &PoolView, backend: &BackendView, several: bool) -> Option<Finding> {
    let recent = &backend.recent;
    let failed = recent.connect_failures;
    let tried = failed.saturating_add((recent.connections_per_second * recent.seconds).round() as u64);
    let share = failed.saturating_mul(100) / tried.max(1);
    if backend.state != "up" || failed < FAILED || share < FAILED_PERCENT {
        return None;
    }
    let text =
        format!("{}: {failed} of {tried} connects failed in the last minute{}", backend.name, suffix(pool, several));
    let finding = if failed == tried && failed >= FAILED_ALL { critical(text) } else { warning(text) };
    Some(finding.of_backend(pool, backend))
}

fn speaks_first(pool: &PoolView) -> Option<Finding> {
    let name = &pool.name;
    let text = format!("{name}: it keeps no warm connections, since a backend sends bytes before the client does");
    pool.speaks_first.then(|| warning(text).of_pool(pool))
}

fn waiting(pool: &PoolView) -> Option<Finding> {
    let text = match pool.waiting {
        0 => return None,
        1 => format!("{}: 1 client waits for a backend", pool.name),
        count => format!("{}: {count} clients wait for a backend", pool.name),
    };
    Some(warning(text).of_pool(pool))
}

/// `85 % of 200`, where that is near the limit.
fn near(used: u64, limit: Option<u64>) -> Option<String> {
    let limit = limit.filter(|limit| *limit > 0)?;
    let percent = figures::percent(used, limit);
    (percent >= figures::NEAR).then(|| format!("{percent} % of {limit}"))
}

fn clients(process: &ProcessView) -> Option<Finding> {
    let ProcessView { connections, connections_limit, .. } = *process;
    let near = near(connections, Some(connections_limit))?;
    Some(if connections >= connections_limit {
        critical(format!("tcplb serves {connections} clients, its limit: further ones wait"))
    } else {
        warning(format!("tcplb serves {connections} clients: {near}, its limit"))
    })
}

fn listener_limit(listener: &Listener) -> Option<Finding> {
    let Listener { name, active_connections: active, connections_limit: limit, .. } = listener;
    let near = near(*active, *limit)?;
    let finding = if *limit <= Some(*active) {
        critical(format!("listener {name} has {active} clients, its limit: further ones wait"))
    } else {
        warning(format!("listener {name} has {active} clients: {near}, its limit"))
    };
    Some(Finding { listener: Some(name.clone()), ..finding })
}

fn backend_limit(pool: &PoolView, backend: &BackendView, several: bool) -> Option<Finding> {
    let BackendView { name, active_connections: active, connections_limit, .. } = backend;
    let near = near(*active, *connections_limit)?;
    let text = format!("{name} has {active} connections: {near}, its limit{}", suffix(pool, several));
    Some(warning(text).of_backend(pool, backend))
}

fn resources(process: &ProcessView) -> impl Iterator<Item = Finding> {
    let descriptors = process.descriptors.and_then(|open| {
        let near = near(open, process.descriptors_limit)?;
        Some(warning(format!("{open} file descriptors are open: {near}, the limit of the process")))
    });
    let ports = near(process.ports_used, process.ports_limit).map(|near| {
        warning(format!("{} local ports are in use towards one address: {near} that there are", process.ports_used))
    });
    descriptors.into_iter().chain(ports)
}

fn reload(process: &ProcessView) -> Option<Finding> {
    let reload = process.last_reload.as_ref().filter(|reload| !reload.success)?;
    let why = reload.error.as_deref().unwrap_or("no reason is known");
    Some(warning(format!("the last reload was refused {} ago: {why}", ago(reload.age_seconds))))
}

/// `12 s`, `5 min`, `3 h`.
fn ago(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7_200 => format!("{} min", seconds / 60),
        _ => format!("{} h", seconds / 3_600),
    }
}

fn lost(process: &ProcessView) -> impl Iterator<Item = Finding> {
    let logs =
        [("the log", process.log_lines_lost_recently), ("the access log", process.access_log_lines_lost_recently)];
    let lost = logs.into_iter().filter(|(_, lines)| *lines > 0);
    lost.map(|(log, lines)| warning(format!("{log} has lost {lines} lines in the last minute")))
}

#[cfg(test)]
mod tests {
    use super::super::api::{Health, LastReload, Recent};
    use super::*;
    use crate::telemetry::Resets;

    fn backend(name: &str, state: &str) -> BackendView {
        let reason = (state == "down").then(|| "connection refused".to_owned());
        let since = Some("2026-11-26T13:02:11Z".to_owned()).filter(|_| state == "down");
        let health = Health { last_change_seconds: Some(300), since, ..Health::default() };
        BackendView { name: name.into(), state: state.into(), weight: 1, reason, health, ..BackendView::default() }
    }

    fn pool(name: &str, state: &str, backends: &[(&str, &str)]) -> PoolView {
        let backends = backends.iter().map(|(name, state)| backend(name, state)).collect();
        PoolView { name: name.into(), state: state.into(), backends, ..PoolView::default() }
    }

    fn judged(pools: Vec<PoolView>) -> Status {
        let mut status = Status { pools, ..Status::default() };
        judge(&mut status);
        status
    }

    /// The only finding of a process.
    fn of_process(process: ProcessView) -> (Level, String) {
        let mut status = Status { process, ..Status::default() };
        judge(&mut status);
        assert_eq!(status.findings.len(), 1, "{:?}", status.findings);
        (status.verdict.level, status.verdict.text)
    }

    #[test]
    fn without_a_finding_the_verdict_counts_the_backends() {
        let status = judged(vec![pool("web", "up", &[("a", "up"), ("b", "up"), ("c", "draining")])]);
        assert_eq!((status.verdict.level, status.findings.len()), (Level::Ok, 0));
        assert_eq!(status.verdict.text, "nothing is wrong: 2 backends up, 1 draining");
    }

    #[test]
    fn a_backend_that_is_down_is_a_warning_with_time_and_reason() {
        let status = judged(vec![pool("web", "degraded", &[("db1", "up"), ("db2", "down"), ("db3", "up")])]);
        assert_eq!(status.verdict.level, Level::Warning);
        assert_eq!(status.verdict.text, "web: 1 of 3 down, db2 since 13:02 UTC, connection refused");
        assert_eq!(
            (status.findings[0].pool.as_deref(), status.findings[0].backend.as_deref()),
            (Some("web"), Some("db2"))
        );
        let mut old = pool("web", "degraded", &[("db2", "down")]);
        old.backends[0].health.last_change_seconds = Some(90_000);
        assert!(judged(vec![old]).verdict.text.contains("db2 since 2026-11-26 13:02 UTC"));
    }

    #[test]
    fn a_pool_that_is_down_comes_first_and_the_verdict_counts_the_others() {
        let some = pool("api", "degraded", &[("a", "up"), ("b", "down")]);
        let five = [("a", "down"), ("b", "down"), ("c", "down"), ("d", "down"), ("e", "down")];
        let status = judged(vec![some, pool("web", "down", &five)]);
        assert_eq!(status.verdict.level, Level::Critical);
        let text = &status.verdict.text;
        assert!(text.starts_with("web: all 5 down, a since 13:02 UTC, connection refused; b "), "{text}");
        assert!(text.ends_with("; and 2 more (and 1 more)"), "{text}");
        assert_eq!(status.findings.len(), 2);
    }

    #[test]
    fn a_pool_is_down_for_what_its_operator_decided_too() {
        let mixed = pool("web", "down", &[("a", "draining"), ("b", "disabled"), ("c", "down")]);
        let text = judged(vec![mixed]).verdict.text;
        let want =
            "web: none of 3 takes connections: 1 down, 1 draining, 1 disabled, c since 13:02 UTC, connection refused";
        assert_eq!(text, want);
        assert_eq!(judged(vec![pool("web", "down", &[])]).verdict.text, "web: it has no backends");
        let mut weightless = pool("web", "down", &[("a", "up")]);
        weightless.backends[0].weight = 0;
        assert_eq!(judged(vec![weightless]).verdict.text, "web: none of 1 takes connections: 1 of weight 0");
    }

    #[test]
    fn a_backend_that_resets_its_clients_is_critical() {
        let mut web = pool("web", "up", &[("web1", "up")]);
        web.backends[0].resets = Some(Resets { resets: 40, ended: 40 });
        let text = "web1: 40 of the last 40 connections were reset by the backend before a byte";
        let status = judged(vec![web.clone()]);
        assert_eq!((status.verdict.level, status.verdict.text.as_str()), (Level::Critical, text));
        let status = judged(vec![web, pool("api", "up", &[])]);
        assert_eq!(status.verdict.text, format!("{text} (pool web)"));
    }

    #[test]
    fn connects_that_fail_are_a_finding_although_the_backend_is_up() {
        let of = |state: &str, connect_failures, connected: f64| {
            let mut web = pool("web", "up", &[("web1", state)]);
            let connections_per_second = connected / 60.0;
            web.backends[0].recent =
                Recent { seconds: 60.0, connect_failures, connections_per_second, ..Recent::default() };
            let verdict = judged(vec![web]).verdict;
            (verdict.level, verdict.text)
        };
        assert_eq!(of("up", 50, 0.0), (Level::Critical, "web1: 50 of 50 connects failed in the last minute".into()));
        assert_eq!(of("up", 3, 7.0), (Level::Warning, "web1: 3 of 10 connects failed in the last minute".into()));
        for (state, failed, connected) in [("up", 2, 0.0), ("up", 3, 97.0), ("up", 0, 0.0), ("draining", 50, 0.0)] {
            assert_eq!(of(state, failed, connected).0, Level::Ok, "{state}: {failed} failed, {connected} connected");
        }
        assert!(!of("down", 50, 0.0).1.contains("connects failed"), "it has a finding already");
    }

    #[test]
    fn clients_that_wait_are_a_warning() {
        for (waiting, want) in [(1, "web: 1 client waits for a backend"), (12, "web: 12 clients wait for a backend")] {
            let status = judged(vec![PoolView { waiting, ..pool("web", "up", &[]) }]);
            assert_eq!((status.verdict.level, status.verdict.text.as_str()), (Level::Warning, want));
        }
    }

    #[test]
    fn a_pool_whose_warm_connections_are_of_no_use_is_a_warning() {
        let status = judged(vec![PoolView { speaks_first: true, ..pool("smtp", "up", &[]) }]);
        let want = "smtp: it keeps no warm connections, since a backend sends bytes before the client does";
        assert_eq!((status.verdict.level, status.verdict.text.as_str()), (Level::Warning, want));
    }

    #[test]
    fn limits_are_findings_from_eighty_percent_on() {
        let listener = |active_connections, limit| {
            let listener =
                Listener { name: "web".into(), active_connections, connections_limit: limit, ..Listener::default() };
            let mut status = Status { listeners: vec![listener], ..Status::default() };
            judge(&mut status);
            (status.verdict.level, status.verdict.text)
        };
        assert_eq!(listener(79, Some(100)).0, Level::Ok);
        assert_eq!(listener(1_000, None).0, Level::Ok);
        assert_eq!(
            listener(85, Some(100)),
            (Level::Warning, "listener web has 85 clients: 85 % of 100, its limit".into())
        );
        let full = (Level::Critical, "listener web has 100 clients, its limit: further ones wait".into());
        assert_eq!(listener(100, Some(100)), full);

        let mut web = pool("web", "up", &[("web1", "up")]);
        (web.backends[0].active_connections, web.backends[0].connections_limit) = (180, Some(200));
        let status = judged(vec![web]);
        assert_eq!(status.verdict.text, "web1 has 180 connections: 90 % of 200, its limit");

        let process = |connections| ProcessView { connections, connections_limit: 1_000, ..ProcessView::default() };
        assert_eq!(
            of_process(process(900)),
            (Level::Warning, "tcplb serves 900 clients: 90 % of 1000, its limit".into())
        );
        assert_eq!(of_process(process(1_000)).0, Level::Critical);
        let descriptors = ProcessView { descriptors: Some(85), descriptors_limit: Some(100), ..ProcessView::default() };
        assert_eq!(of_process(descriptors).1, "85 file descriptors are open: 85 % of 100, the limit of the process");
        let ports = ProcessView { ports_used: 27_000, ports_limit: Some(28_232), ..ProcessView::default() };
        assert_eq!(
            of_process(ports).1,
            "27000 local ports are in use towards one address: 95 % of 28232 that there are"
        );
    }

    #[test]
    fn what_concerns_the_process_is_found() {
        let lost =
            ProcessView { access_log_lines_lost_recently: 7, access_log_lines_lost_total: 9, ..ProcessView::default() };
        assert_eq!(of_process(lost), (Level::Warning, "the access log has lost 7 lines in the last minute".into()));
        let before = ProcessView { log_lines_lost_total: 9, ..ProcessView::default() };
        let mut status = Status { process: before, ..Status::default() };
        judge(&mut status);
        assert_eq!(status.verdict.level, Level::Ok, "that is over");
        let error = Some("tcplb.toml:3: unknown key `wieght`".to_owned());
        let reload = LastReload { success: false, age_seconds: 320, error };
        let refused = ProcessView { last_reload: Some(reload), ..ProcessView::default() };
        let want = "the last reload was refused 5 min ago: tcplb.toml:3: unknown key `wieght`";
        assert_eq!(of_process(refused), (Level::Warning, want.into()));
        let stuck = ProcessView { stuck_threads: vec!["worker-1".into()], ..ProcessView::default() };
        assert_eq!(of_process(stuck), (Level::Critical, "worker-1 does not respond".into()));
        let mut draining = Status { state: "draining".into(), ..Status::default() };
        judge(&mut draining);
        assert_eq!(draining.verdict.text, "tcplb drains: it accepts no new clients");
    }

    #[test]
    fn findings_are_bounded_and_the_verdict_counts_them_all() {
        let pools = (0..FINDINGS_MAX + 50).map(|number| pool(&number.to_string(), "down", &[])).collect();
        let status = judged(pools);
        assert_eq!(status.findings.len(), FINDINGS_MAX);
        assert_eq!(status.verdict.text, "0: it has no backends (and 149 more)");
    }
}
