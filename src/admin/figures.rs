//! The figures of listeners and backends as people read them: one list of columns for the status page and the command line.

use super::api::{
    BackendAddress, BackendView, Candidate, Connection, Health, Listener, Millis, PoolView, Recent, SourceView, Urgency,
};
use crate::base::text::counted;
use crate::telemetry::Resets;

/// One column.
pub struct Column<T> {
    /// Its name.
    pub head: &'static str,
    /// Where its text stands.
    pub align: Align,
    /// The text; `None` where there is nothing to show.
    pub cell: fn(&T) -> Option<String>,
}

impl<T> Column<T> {
    /// The text; `-` where there is nothing to show.
    pub fn text(&self, of: &T) -> String {
        shown((self.cell)(of))
    }
}

/// A cell's text.
pub fn shown(cell: Option<String>) -> String {
    cell.unwrap_or_else(|| "-".to_owned())
}

/// Text to the left, numbers to the right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Align {
    /// Text.
    Left,
    /// A number.
    Right,
}

const fn text<T>(head: &'static str, cell: fn(&T) -> Option<String>) -> Column<T> {
    Column { head, align: Align::Left, cell }
}

const fn number<T>(head: &'static str, cell: fn(&T) -> Option<String>) -> Column<T> {
    Column { head, align: Align::Right, cell }
}

/// Of a listener.
pub const LISTENERS: &[Column<Listener>] = &[
    text("listener", |listener| Some(listener.name.clone())),
    text("address", |listener| Some(listener.address.clone())),
    text("pool", |listener| Some(listener.pool.clone())),
    text("engine", |listener| Some(listener.engine.clone())),
    number("conns", |listener| Some(conns(listener.active_connections, listener.connections_limit))),
    number("conn/s", |listener| Some(rate(listener.recent.accepted_per_second))),
    number("accepted", |listener| Some(listener.accepted_total.to_string())),
    number("refused", |listener| Some(listener.refused_total.to_string())),
];

/// Of a backend: how it is set, and its totals.
pub const BACKENDS: &[Column<BackendView>] = &[
    text("backend", |backend| Some(backend.name.clone())),
    text("address", |backend| Some(backend.address.clone())),
    text("state", |backend| Some(format!("{}{}", backend.state, if backend.backup { " (backup)" } else { "" }))),
    number("weight", |backend| Some(both_weights(backend))),
    number("active", |backend| Some(active(backend))),
    number("total", |backend| Some(backend.connections_total.to_string())),
    number("failed", |backend| Some(backend.connect_failures_total.to_string())),
    number("to backend", |backend| Some(size(backend.bytes_to_backend_total))),
    number("to client", |backend| Some(size(backend.bytes_to_client_total))),
    number("connect p50/p99", |backend| {
        let connect = &backend.connect_ms;
        Some(format!("{:.1}/{:.1} ms", connect.p50?, connect.p99?))
    }),
    text("health", |backend| backend.health.last_result.clone()),
];

/// Of a connection. Narrow, so that a line of a terminal holds them.
pub const CONNECTIONS: &[Column<Connection>] = &[
    number("id", |connection| Some(connection.id.to_string())),
    text("client", |connection| connection.client.clone()),
    text("backend", |connection| connection.backend.clone()),
    text("state", |connection| Some(connection.state.clone())),
    number("age", |connection| connection.age_seconds.map(age)),
    number("idle", |connection| connection.idle_seconds.map(age)),
    number("in", |connection| Some(short_size(connection.bytes_to_backend))),
    number("out", |connection| Some(short_size(connection.bytes_to_client))),
    number("rtt", |connection| connection.rtt_ms.map(millis)),
];

/// Of a connection of a listener with routes, besides [`CONNECTIONS`].
pub const ROUTES: &[Column<Connection>] =
    &[text("route", |connection| connection.route.clone()), text("sni", |connection| connection.sni.clone())];

/// Of a backend: what it does now, and in the last minute. Eighty columns hold a backend that is named by its address.
pub const TRAFFIC: &[Column<BackendView>] = &[
    text("backend", |backend| Some(backend.name.clone())),
    text("state", |backend| Some(format!("{}{}", backend.state, if backend.backup { " backup" } else { "" }))),
    number("conns", |backend| Some(with_warm(conns(backend.active_connections, backend.connections_limit), backend))),
    number("conn/s", |backend| Some(rate(backend.recent.connections_per_second))),
    number("in/s", |backend| Some(short_size(backend.recent.bytes_to_backend_per_second as u64))),
    number("out/s", |backend| Some(short_size(backend.recent.bytes_to_client_per_second as u64))),
    number("connect", |backend| percentiles(&backend.recent.connect_ms)),
    number("first byte", |backend| percentiles(&backend.recent.first_byte_ms)),
];

/// What added a backend, beside its other columns where one does not come from the file.
pub const ORIGIN: &Column<BackendView> = &text("origin", origin);

/// What `tcplb top` shows of a backend besides [`TRAFFIC`]; its state has the reason.
pub const LIVE: &[Column<BackendView>] = &[
    text("state", |backend| Some(state(backend))),
    number("failures", |backend| Some(failures(&backend.recent).to_string())),
];

/// Of a pool, under the heads of [`TRAFFIC`] and [`LIVE`].
pub const POOLS: &[Column<PoolView>] = &[
    text("backend", |pool| Some(pool.name.clone())),
    text("state", |pool| Some(state_of_pool(pool))),
    number("conns", |pool| {
        Some(pool.backends.iter().map(|backend| backend.active_connections).sum::<u64>().to_string())
    }),
    number("conn/s", |pool| Some(rate(pool.recent.connections_per_second))),
    number("in/s", |pool| Some(short_size(pool.recent.bytes_to_backend_per_second as u64))),
    number("out/s", |pool| Some(short_size(pool.recent.bytes_to_client_per_second as u64))),
    number("connect", |pool| percentiles(&pool.recent.connect_ms)),
    number("first byte", |pool| percentiles(&pool.recent.first_byte_ms)),
    number("failures", |pool| Some(failures(&pool.recent).to_string())),
];

/// Of a backend that a choice considers.
pub const CANDIDATES: &[Column<Candidate>] = &[
    text("backend", |candidate| Some(candidate.backend.clone())),
    text("usable", |candidate| Some(if candidate.usable { "yes" } else { "no" }.to_owned())),
    number("weight", |candidate| Some(candidate.weight.to_string())),
    number("active", |candidate| Some(candidate.active.to_string())),
    number(SHARE, |candidate| candidate.share.map(|share| format!("{:.1} %", share * 100.0))),
    text("why", |candidate| Some(candidate.why.clone())),
];

/// The head of the column that only an algorithm that draws has.
pub const SHARE: &str = "share";

/// `12`, with warm connections `12 (+4 warm)`.
fn active(backend: &BackendView) -> String {
    with_warm(backend.active_connections.to_string(), backend)
}

fn with_warm(active: String, backend: &BackendView) -> String {
    match backend.warm_connections {
        Some(warm) => format!("{active} (+{warm} warm)"),
        None => active,
    }
}

/// The percentage of a limit from which on it is near.
pub const NEAR: u64 = 80;

/// How much of a limit is used.
pub fn percent(used: u64, limit: u64) -> u64 {
    used.saturating_mul(100) / limit.max(1)
}

impl Urgency {
    /// The urgency of this backend.
    pub fn of(backend: &BackendView) -> Urgency {
        let (active, limit) = (backend.active_connections, backend.connections_limit.unwrap_or(u64::MAX));
        match backend.state.as_str() {
            "down" if active > 0 => Urgency::DownWithClients,
            "down" => Urgency::Down,
            "up" if failures(&backend.recent) > 0 || backend.resets.is_some() => Urgency::Failing,
            "up" if active >= limit => Urgency::AtLimit,
            "up" if percent(active, limit) >= NEAR => Urgency::NearLimit,
            "up" => Urgency::Up,
            _ => Urgency::SetAside,
        }
    }
}

/// The attempts of the last minute that failed, and the connections that were reset before a byte.
pub fn failures(recent: &Recent) -> u64 {
    recent.connect_failures + recent.resets_before_byte
}

/// `discovery:etcd` or `api`; nothing for a backend of the file.
fn origin(backend: &BackendView) -> Option<String> {
    (!["", "file"].contains(&backend.origin.as_str())).then(|| backend.origin.clone())
}

/// `source etcd (/web/ http://127.0.0.1:2379): 12 backends, answered 3s ago`.
pub fn source(source: &SourceView) -> String {
    let watches = if source.watches.is_empty() { String::new() } else { format!(" ({})", source.watches) };
    format!("source {}{watches}: {}", source.source, found(source))
}

/// `12 backends, answered 3s ago, error: connection refused`.
pub fn found(source: &SourceView) -> String {
    let SourceView { ok, last_success_seconds, backends, errors_total, last_error, entries_left_out, .. } = source;
    let answered = last_success_seconds
        .map_or_else(|| "no answer yet".to_owned(), |seconds| format!("answered {} ago", age(seconds)));
    let error = last_error.as_ref().map_or_else(String::new, |why| match ok {
        true => format!(", {}, the last: {why}", counted(*errors_total, "error")),
        false => format!(", error: {why}"),
    });
    let left_out = match entries_left_out {
        0 => String::new(),
        1 => ", 1 entry left out".to_owned(),
        count => format!(", {count} entries left out"),
    };
    format!("{}, {answered}{error}{left_out}{}", counted(*backends, "backend"), kept(source).unwrap_or_default())
}

/// `, 4 backends stay: the answer is empty, and on_empty is keep`.
fn kept(source: &SourceView) -> Option<String> {
    let why = source.kept_because.as_ref()?;
    let stay = if source.kept == 1 { "stays" } else { "stay" };
    Some(format!(", {} {stay}: {why}", counted(source.kept, "backend")))
}

/// The first entries that were left out, at most `most`, a line each, and how many more there are.
pub fn left_out(source: &SourceView, most: usize) -> Vec<String> {
    let mut lines: Vec<String> = source.left_out.iter().take(most).cloned().collect();
    let more = source.entries_left_out.saturating_sub(lines.len() as u64);
    lines.extend((more > 0).then(|| format!("and {more} more")));
    lines
}

/// `down, connection refused, 1 of 2 successes, since 13:02 UTC, source etcd`.
fn state(backend: &BackendView) -> String {
    let origin = origin(backend).map(|origin| origin.replace("discovery:", "source "));
    [backend.state.clone(), backend.summary.clone()]
        .into_iter()
        .chain(origin)
        .filter(|part| !part.is_empty())
        .collect::<Vec<_>>()
        .join(", ")
}

/// Fills in what the other fields of a backend say together.
pub fn judge(backend: &mut BackendView) {
    backend.summary = summary(backend);
    backend.urgency = Urgency::of(backend);
}

/// Why a backend is in its state, and what is special about it.
fn summary(backend: &BackendView) -> String {
    let BackendView { active_connections: active, health, .. } = backend;
    let left = (*active > 0).then(|| format!("{} left", counted(*active, "connection")));
    let count =
        |transition: &String| transition.split_once(", ").map_or(transition.as_str(), |(_, count)| count).to_owned();
    let transition = health.transition.as_ref().map(count);
    let resets = |resets: Resets| format!("reset {} of the last {} before a byte", resets.resets, resets.ended);
    let why = match backend.state.as_str() {
        "down" => vec![backend.reason.clone(), transition, since(health).map(|since| format!("since {since}"))],
        "draining" => vec![left.or_else(|| Some("no connection left".to_owned()))],
        "disabled" => vec![left],
        _ => vec![backend.resets.map(resets), transition],
    };
    let special = [(backend.backup, "backup"), (backend.weight == 0, "weight 0")];
    let special = special.into_iter().filter(|(is, _)| *is).map(|(_, what)| what.to_owned());
    why.into_iter().flatten().chain(special).collect::<Vec<String>>().join(", ")
}

/// `13:02 UTC`; with the date if that is not within the last day.
pub fn since(health: &Health) -> Option<String> {
    let (date, time) = health.since.as_ref()?.split_once('T')?;
    let minute = time.get(..5)?;
    let today = health.last_change_seconds.is_some_and(|seconds| seconds < 24 * 60 * 60);
    Some(if today { format!("{minute} UTC") } else { format!("{date} {minute} UTC") })
}

/// `degraded, 2 of 3 up, 4 waiting`.
fn state_of_pool(pool: &PoolView) -> String {
    let up = pool.backends.iter().filter(|backend| backend.state == "up").count();
    let waiting = if pool.waiting > 0 { format!(", {} waiting", pool.waiting) } else { String::new() };
    format!("{}, {up} of {} up{waiting}", pool.state, pool.backends.len())
}

/// The times in [`TRAFFIC`].
pub const TIMES: &str = "connect, first byte: milliseconds of the last minute, p50/p99";

/// What an operator should know of a backend besides its figures, each a phrase.
pub fn remarks(backend: &BackendView) -> Vec<String> {
    let recent = &backend.recent;
    let since = backend.health.since.as_ref().filter(|_| backend.state == "down");
    let down =
        backend.reason.iter().map(|why| since.map_or_else(|| why.clone(), |since| format!("{why}, since {since}")));
    let failures = match recent.connect_failures {
        0 => None,
        1 => Some("1 connect failed in the last minute".to_owned()),
        count => Some(format!("{count} connects failed in the last minute")),
    };
    let now = weight(backend.effective_weight);
    let weight = match backend.effective_weight - f64::from(backend.weight) {
        differs if differs.abs() < 0.01 => None,
        less if less < 0.0 => Some(format!("weight {now} of {}", backend.weight)),
        _ => Some(format!("weight {now} instead of {}", backend.weight)),
    };
    let resets = backend.resets.map(|resets| resets.to_string());
    let addresses = backend.addresses.iter().filter(|address| backend.addresses.len() > 1 && address.state != "up");
    let addresses = addresses.map(|BackendAddress { address, state, last_result, .. }| {
        let why = last_result.iter().map(|why| format!(", {why}"));
        std::iter::once(format!("{address} {state}")).chain(why).collect()
    });
    let remarks = down.chain(backend.health.transition.clone()).chain(resets).chain(failures).chain(weight);
    remarks.chain(addresses).collect()
}

/// `12/200`, or `12` without a limit.
pub fn conns(active: u64, limit: Option<u64>) -> String {
    limit.map_or_else(|| active.to_string(), |limit| format!("{active}/{limit}"))
}

/// `5`, or `5 (now 2.5)`.
pub fn both_weights(backend: &BackendView) -> String {
    let differs = (backend.effective_weight - f64::from(backend.weight)).abs() >= 0.01;
    let now = || format!("{} (now {})", backend.weight, weight(backend.effective_weight));
    if differs { now() } else { backend.weight.to_string() }
}

/// With decimals only where they say something.
pub fn weight(weight: f64) -> String {
    let text = format!("{weight:.2}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// With a decimal only where that says something.
fn rate(value: f64) -> String {
    if value > 0.0 && value < 99.95 { format!("{value:.1}") } else { format!("{value:.0}") }
}

/// `0.4/12`.
pub fn percentiles(Millis { p50, p99 }: &Millis) -> Option<String> {
    Some(format!("{}/{}", time((*p50)?), time((*p99)?)))
}

/// Two digits are enough.
fn time(millis: f64) -> String {
    if millis < 9.95 { format!("{millis:.1}") } else { format!("{millis:.0}") }
}

/// What the column of this head shows of one address of a backend that has several.
pub fn of_address(head: &str, address: &BackendAddress) -> Option<String> {
    match head {
        "address" => Some(address.address.clone()),
        "state" => Some(address.state.clone()),
        "total" => Some(address.connections_total.to_string()),
        "health" => address.last_result.clone(),
        _ => Some(String::new()),
    }
}

/// Three digits and a unit are what a reader takes in at a glance.
fn size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    let mut value = bytes as f64;
    let mut unit = "B";
    for next in UNITS {
        if value < 1024.0 {
            break;
        }
        value /= 1024.0;
        unit = next;
    }
    if unit == "B" || value >= 100.0 { format!("{value:.0} {unit}") } else { format!("{value:.1} {unit}") }
}

/// The same in at most five letters.
fn short_size(bytes: u64) -> String {
    size(bytes).replace([' ', 'i', 'B'], "")
}

/// A time in at most four letters, up to 27 years.
pub fn age(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m", seconds / 60),
        3600..86_400 => format!("{}h", seconds / 3600),
        _ => format!("{}d", seconds / 86_400),
    }
}

/// Milliseconds in about five letters.
fn millis(time: f64) -> String {
    format!("{}ms", self::time(time))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_of_connections_are_narrow() {
        for (bytes, want) in [(0, "0"), (1023, "1023"), (1024, "1.0K"), (200 << 20, "200M"), (1_048_575, "1024K")] {
            assert_eq!(short_size(bytes), want);
        }
        for (seconds, want) in [(0, "0s"), (59, "59s"), (60, "1m"), (7_199, "1h"), (86_400, "1d"), (31_536_000, "365d")]
        {
            assert_eq!(age(seconds), want);
        }
        assert_eq!([0.04, 9.94, 9.96, 250.2].map(millis), ["0.0ms", "9.9ms", "10ms", "250ms"]);
    }

    #[test]
    fn figures_of_the_last_minute_are_short() {
        assert_eq!([0.0, 0.25, 99.0, 123.4].map(rate), ["0", "0.2", "99.0", "123"]);
        assert_eq!(percentiles(&Millis { p50: Some(0.44), p99: Some(5_000.0) }).as_deref(), Some("0.4/5000"));
        assert_eq!(percentiles(&Millis::default()), None);
        assert_eq!([conns(3, None), conns(3, Some(9))], ["3", "3/9"]);
        let with = |warm_connections| BackendView { active_connections: 3, warm_connections, ..BackendView::default() };
        assert_eq!([active(&with(None)), active(&with(Some(2)))], ["3", "3 (+2 warm)"]);
    }

    #[test]
    fn sizes_are_short() {
        for (bytes, want) in
            [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (5 << 30, "5.0 GiB"), (200 << 20, "200 MiB")]
        {
            assert_eq!(size(bytes), want);
        }
        assert_eq!(size(u64::MAX), "16384 PiB");
    }

    #[test]
    fn the_worst_backend_is_the_most_urgent() {
        let backend = |state: &str, active_connections, connections_limit| BackendView {
            state: state.to_owned(),
            active_connections,
            connections_limit,
            ..BackendView::default()
        };
        let failing =
            BackendView { recent: Recent { resets_before_byte: 1, ..Recent::default() }, ..backend("up", 0, None) };
        let ordered = [
            backend("down", 1, None),
            backend("down", 0, None),
            failing,
            backend("up", 10, Some(10)),
            backend("up", 8, Some(10)),
            backend("draining", 1, None),
            backend("up", 7, Some(10)),
        ];
        assert!(ordered.is_sorted_by(|one, other| Urgency::of(one) < Urgency::of(other)));
    }

    #[test]
    fn a_state_names_its_reason() {
        let mut backend = BackendView { state: "down".into(), weight: 1, backup: true, ..BackendView::default() };
        backend.health.transition = Some("down, 1 of 2 successes".into());
        backend.reason = Some("connection refused".into());
        judge(&mut backend);
        assert_eq!(state(&backend), "down, connection refused, 1 of 2 successes, backup");
    }
}
