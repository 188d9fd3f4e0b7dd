//! What the screens look like: each is drawn from a fixed state and compared with a file in `tests/data/top`.
//!
//! Below the text, a file lists the cells that stand out. `TCPLB_WRITE=1` writes the files anew.

use super::state::{Answer, Input, Pane, State};
use super::{keys, view};
use crate::admin::api::{
    Acceptance, BackendView, Candidate, Connection, Event, Events, Explained, Finding, Health, LastReload, Level,
    Listener, Millis, PoolView, ProcessView, Recent, RecentClients, SourceView, Status, Verdict,
};
use crate::admin::figures;
use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::buffer::Buffer;
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use ratatui::style::{Color, Modifier};
use std::path::Path;
use std::time::Duration;

/// Both sizes that the screens are made for.
const SIZES: [(u16, u16); 2] = [(80, 24), (160, 50)];

/// The time of the first answers.
pub const BEGIN: Duration = Duration::from_secs(1);

fn times(p50: f64, p99: f64) -> Millis {
    Millis { p50: Some(p50), p99: Some(p99) }
}

/// A backend that is up, without traffic.
pub fn backend(name: &str) -> BackendView {
    BackendView {
        name: name.into(),
        address: format!("{name}.internal:80"),
        weight: 1,
        effective_weight: 1.0,
        state: "up".into(),
        history: vec![0.0; 36],
        health: Health { last_result: Some("passed".into()), ..Health::default() },
        ..BackendView::default()
    }
}

fn busy(name: &str, number: u64) -> BackendView {
    let rate = 20.0 + number as f64;
    BackendView {
        active_connections: 40 + number,
        connections_limit: Some(200),
        connections_total: 10_000 + number,
        recent: Recent {
            seconds: 60.0,
            connections_per_second: rate,
            bytes_to_backend_per_second: 1e4 * rate,
            bytes_to_client_per_second: 1e6 * rate,
            ended: 1200,
            connect_ms: times(0.3, 1.2),
            first_byte_ms: times(4.4, 31.0 + number as f64),
            ..Recent::default()
        },
        history: (0..36).map(|at| rate + f64::from((at * 7 + number as u32) % 11)).collect(),
        ..backend(name)
    }
}

fn pool(name: &str, mut backends: Vec<BackendView>) -> PoolView {
    backends.iter_mut().for_each(figures::judge);
    let sum = |figure: fn(&Recent) -> f64| backends.iter().map(|backend| figure(&backend.recent)).sum();
    let recent = Recent {
        seconds: 60.0,
        connections_per_second: sum(|recent| recent.connections_per_second),
        bytes_to_backend_per_second: sum(|recent| recent.bytes_to_backend_per_second),
        bytes_to_client_per_second: sum(|recent| recent.bytes_to_client_per_second),
        connect_failures: backends.iter().map(|backend| backend.recent.connect_failures).sum(),
        ..Recent::default()
    };
    let history = (0..36).map(|at| backends.iter().map(|backend| backend.history[at]).sum()).collect();
    let up = backends.iter().filter(|backend| backend.state == "up").count();
    let state = if up == backends.len() { "up" } else { "degraded" };
    let (name, algorithm) = (name.into(), "least-connections".into());
    PoolView { name, algorithm, state: state.into(), recent, history, backends, ..PoolView::default() }
}

/// A tcplb with these pools, in which nothing is wrong.
pub fn status(pools: Vec<PoolView>) -> Status {
    let connections = pools.iter().flat_map(|pool| &pool.backends).map(|backend| backend.active_connections).sum();
    let listener = Listener {
        name: "web".into(),
        address: "[::]:8080".into(),
        pool: "web".into(),
        active_connections: connections,
        connections_limit: Some(5000),
        refused_total: 3,
        refused: [("denied".into(), 2), ("source_limit".into(), 1)].into(),
        recent: RecentClients { seconds: 60.0, accepted_per_second: 61.5, refused_per_second: 0.05 },
        history: (0..36).map(f64::from).collect(),
        ..Listener::default()
    };
    Status {
        version: "0.1.0".into(),
        started: "2026-11-23T09:12:11.000Z".into(),
        uptime_seconds: 273_000,
        generation: 7,
        state: "running".into(),
        verdict: Verdict { level: Level::Ok, text: "nothing is wrong".into() },
        findings: Vec::new(),
        process: ProcessView {
            connections,
            connections_limit: 10_000,
            descriptors: Some(64 + 2 * connections),
            descriptors_limit: Some(20_480),
            ports_used: connections / 2,
            ports_limit: Some(28_232),
            loop_lag_ms: times(0.1, 0.4),
            last_reload: Some(LastReload { success: true, age_seconds: 4000, error: None }),
            ..ProcessView::default()
        },
        listeners: vec![listener],
        pools,
    }
}

pub fn idle() -> Status {
    status(vec![
        pool("web", vec![backend("web1"), backend("web2"), backend("web3")]),
        pool("db", vec![backend("db1"), BackendView { backup: true, ..backend("db2") }]),
    ])
}

pub fn under_load() -> Status {
    let mut slow = busy("web2", 9);
    slow.recent.first_byte_ms = times(310.0, 2104.0);
    let mut full = busy("web3", 190);
    full.connections_limit = Some(240);
    status(vec![
        pool("web", vec![busy("web1", 5), slow, full]),
        pool("db", vec![busy("db1", 2), BackendView { backup: true, ..backend("db2") }]),
    ])
}

pub fn one_down() -> Status {
    let mut down = busy("db2", 3);
    down.state = "down".into();
    down.reason = Some("connection refused".into());
    down.recent = Recent { seconds: 60.0, connect_failures: 17, ..Recent::default() };
    down.health = Health {
        last_result: Some("connection refused".into()),
        last_change_seconds: Some(130),
        since: Some("2026-11-26T13:02:11Z".into()),
        transition: Some("down, 1 of 2 successes".into()),
    };
    down.closed = [("client_fin".into(), 9817), ("backend_reset".into(), 3)].into();
    let draining = BackendView { state: "draining".into(), active_connections: 4, ..busy("web10", 1) };
    let text = "db: 1 of 3 down, db2 since 13:02 UTC, connection refused";
    let finding = Finding {
        level: Level::Warning,
        pool: Some("db".into()),
        backend: Some("db2".into()),
        text: text.into(),
        ..Finding::default()
    };
    let mut status = status(vec![
        pool("web", vec![busy("web1", 5), busy("web2", 9), draining]),
        pool("db", vec![busy("db1", 2), down, busy("db3", 4)]),
    ]);
    status.verdict = Verdict { level: Level::Warning, text: text.into() };
    status.findings = vec![finding];
    status
}

/// A pool with two sources, of which one fails.
pub fn discovered() -> Status {
    let found = |name: &str| BackendView { origin: "discovery:etcd".into(), ..busy(name, 4) };
    let mut status = status(vec![
        pool("web", vec![found("web1"), BackendView { origin: "api".into(), ..busy("web2", 5) }, busy("web3", 6)]),
        pool("db", vec![backend("db1")]),
    ]);
    let etcd = SourceView {
        source: "etcd".into(),
        watches: "/web/ http://127.0.0.1:2379".into(),
        ok: true,
        last_success_seconds: Some(3),
        backends: 1,
        ..SourceView::default()
    };
    let dns = SourceView {
        source: "dns".into(),
        ok: false,
        last_success_seconds: Some(130),
        errors_total: 2,
        last_error: Some("127.0.0.53:53: SERVFAIL\u{1b}[2J".into()),
        ..etcd.clone()
    };
    status.pools[0].discovery = vec![etcd, dns];
    status
}

pub fn thousand() -> Status {
    let mut all: Vec<BackendView> = (1..=1000).map(|number| busy(&format!("app{number}"), number % 20)).collect();
    all[499].state = "disabled".into();
    all[999].recent.connect_failures = 2;
    status(vec![pool("app", all), pool("web", vec![backend("web1"), backend("web2")])])
}

pub fn event(seq: u64, to: &str) -> Event {
    Event {
        seq,
        time: format!("2026-11-26T13:{:02}:11.250Z", seq % 60),
        kind: "backend_state".into(),
        pool: Some("db".into()),
        backend: Some("db2".into()),
        from: Some(if to == "up" { "down" } else { "up" }.into()),
        to: Some(to.into()),
        reason: (to == "down").then(|| "connection refused".into()),
        by: "health".into(),
    }
}

pub fn connection(id: u64) -> Connection {
    Connection {
        id,
        listener: "web".into(),
        pool: "db".into(),
        backend: Some("db2".into()),
        backend_port: None,
        client: Some(format!("192.0.2.{}:51000", id % 200)),
        engine: "proxy".into(),
        age_seconds: Some(90_000 - id),
        idle_seconds: Some(id),
        bytes_to_backend: 1000 * id,
        bytes_to_client: 900_000 * id,
        state: "relaying".into(),
        protocol: None,
        sni: None,
        route: None,
        rtt_ms: Some(0.25 * id as f64),
    }
}

pub fn explained() -> Explained {
    let candidate = |backend: &str, usable, why: &str, active| Candidate {
        backend: backend.into(),
        usable,
        why: why.into(),
        weight: 1,
        active,
        share: None,
    };
    Explained {
        listener: "web".into(),
        verdict: Acceptance::Accept,
        reason: None,
        route: None,
        pool: "db".into(),
        algorithm: "least-connections".into(),
        approximate: false,
        pick: Some("db1".into()),
        candidates: vec![
            candidate("db1", true, "fewest connections", 42),
            candidate("db2", false, "down: connection refused", 43),
            candidate("db3", true, "44 connections", 44),
        ],
    }
}

fn state(status: Status, size: (u16, u16)) -> State {
    let mut state = State::new(status.clone(), size, true);
    answer(&mut state, Answer::Status(Box::new(status)), BEGIN);
    let started = Event { kind: "start".into(), pool: None, backend: None, from: None, to: None, ..event(1, "up") };
    let events = vec![Event { by: "tcplb".into(), ..started }, event(2, "down"), event(3, "up"), event(4, "down")];
    answer(&mut state, Answer::Events(Ok(Events { started: "one".into(), events, next: 4 })), BEGIN);
    state
}

/// Gives the state an answer.
pub fn answer(state: &mut State, answer: Answer, at: Duration) {
    state.update(Input::Answer(answer), at);
}

/// Presses a key.
pub fn press(state: &mut State, code: KeyCode, at: Duration) -> super::state::Flow {
    state.update(Input::Key(KeyEvent::new(code, KeyModifiers::NONE)), at)
}

/// The screen as text: its lines, then the cells that stand out.
pub fn drawn(state: &State) -> String {
    let (width, height) = state.size;
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    terminal.draw(|frame| view::draw(state, frame.buffer_mut())).unwrap();
    let cells = terminal.backend().buffer();
    let mut text = String::new();
    for y in 0..height {
        let row: String = (0..width).map(|x| cells[(x, y)].symbol()).collect();
        text.push_str(row.trim_end());
        text.push('\n');
    }
    text.push_str("\nstyles\n");
    for y in 0..height {
        text.extend(styles(cells, y).into_iter().map(|style| format!("{style}\n")));
    }
    text
}

/// `3: 0-2 red bold`, for each run of cells with a style.
fn styles(cells: &Buffer, y: u16) -> Vec<String> {
    let mut runs: Vec<(u16, u16, String)> = Vec::new();
    for x in 0..cells.area.width {
        let cell = &cells[(x, y)];
        let mut words: Vec<String> = Vec::new();
        if cell.fg != Color::Reset {
            words.push(cell.fg.to_string().to_lowercase());
        }
        for (modifier, word) in [(Modifier::BOLD, "bold"), (Modifier::REVERSED, "reversed")] {
            words.extend(cell.modifier.contains(modifier).then(|| word.to_owned()));
        }
        let style = words.join(" ");
        match runs.last_mut() {
            Some((_, end, same)) if *same == style => *end = x,
            _ => runs.push((x, x, style)),
        }
    }
    runs.retain(|(_, _, style)| !style.is_empty());
    runs.into_iter().map(|(from, to, style)| format!("{y}: {from}-{to} {style}")).collect()
}

#[track_caller]
fn compare(name: &str, state: &State) {
    let (width, height) = state.size;
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/data/top/{name}-{width}x{height}.txt"));
    let now = drawn(state);
    if std::env::var_os("TCPLB_WRITE").is_some() {
        std::fs::write(&path, &now).unwrap();
    }
    let kept = std::fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(now, kept, "{} differs; TCPLB_WRITE=1 writes it anew", path.display());
}

#[test]
fn the_overview_looks_as_in_the_files() {
    for size in SIZES {
        compare("idle", &state(idle(), size));
        compare("load", &state(under_load(), size));
        compare("down", &state(one_down(), size));
        compare("thousand", &state(thousand(), size));
        compare("sources", &state(discovered(), size));
    }
}

#[test]
fn the_other_screens_look_as_in_the_files() {
    for size in SIZES {
        let mut state = state(one_down(), size);
        for (key, name) in [('2', "backends"), ('4', "events"), ('5', "findings"), ('6', "listeners"), ('?', "keys")] {
            press(&mut state, KeyCode::Char(key), BEGIN);
            compare(name, &state);
        }
        press(&mut state, KeyCode::Esc, BEGIN);
        press(&mut state, KeyCode::Char('1'), BEGIN);
        // Of pool db the first row is the pool, the second its worst backend.
        press(&mut state, KeyCode::Down, BEGIN);
        press(&mut state, KeyCode::Down, BEGIN);
        press(&mut state, KeyCode::Enter, BEGIN);
        assert_eq!(state.view().pane, Pane::Connections { of: Some(("db".into(), "db2".into())) });
        let query = state.want().query.unwrap();
        answer(&mut state, Answer::Connections(query, Ok((1..=30).map(connection).collect())), BEGIN);
        press(&mut state, KeyCode::Down, BEGIN);
        compare("connections", &state);
        press(&mut state, KeyCode::Enter, BEGIN);
        let query = state.want().query.unwrap();
        answer(&mut state, Answer::Explained(query, Ok(explained().into())), BEGIN);
        compare("explain", &state);
    }
}

#[test]
fn a_change_and_a_silence_look_as_in_the_files() {
    let mut state = state(idle(), SIZES[0]);
    let mut now = idle();
    now.verdict = one_down().verdict;
    now.pools[0].backends[1].state = "down".into();
    figures::judge(&mut now.pools[0].backends[1]);
    answer(&mut state, Answer::Status(Box::new(now)), 2 * BEGIN);
    answer(
        &mut state,
        Answer::Events(Ok(Events { started: "one".into(), events: vec![event(5, "down")], next: 5 })),
        2 * BEGIN,
    );
    compare("pulse", &state);
    answer(&mut state, Answer::Trouble("can't reach tcplb at 127.0.0.1:9900: Connection refused".into()), 3 * BEGIN);
    state.update(Input::Tick, 14 * BEGIN);
    compare("silent", &state);
}

#[test]
fn without_colours_all_words_stay() {
    let coloured = state(one_down(), SIZES[0]);
    let mut plain = state(one_down(), SIZES[0]);
    plain.colours = false;
    let text = |state: &State| drawn(state).split("\nstyles\n").next().unwrap().to_owned();
    assert_eq!(text(&plain), text(&coloured));
    let styles = drawn(&plain);
    for colour in ["red", "green", "yellow", "cyan"] {
        assert!(!styles.split("\nstyles\n").nth(1).unwrap().contains(colour), "{styles}");
    }
    assert!(text(&plain).contains("WARNING") && text(&plain).contains("down, connection re"), "{}", text(&plain));
}

#[test]
fn every_size_is_drawn_and_a_small_one_names_what_it_needs() {
    let mut state = state(thousand(), SIZES[0]);
    for (width, height) in [(1, 1), (10, 100), (59, 12), (60, 11)] {
        state.update(Input::Size(width, height), BEGIN);
        drawn(&state);
    }
    assert!(drawn(&state).starts_with("tcplb top needs 60x12, this is 60x11\n"), "{}", drawn(&state));
    for size in [(60, 12), (61, 13), (100, 30), (400, 12), (60, 200)] {
        state.update(Input::Size(size.0, size.1), BEGIN);
        for key in keys::KEYS.iter().filter_map(|key| key.shown.chars().next()) {
            press(&mut state, KeyCode::Char(key), BEGIN);
            drawn(&state);
        }
        press(&mut state, KeyCode::Esc, BEGIN);
    }
}

#[test]
fn text_from_outside_controls_no_terminal() {
    let mut status = idle();
    status.verdict.text = "evil\u{1b}[2J\u{7}name".into();
    status.pools[0].backends[0].name = "a\u{1b}]0;title\u{7}".into();
    let screen = drawn(&state(status, SIZES[0]));
    assert!(!screen.chars().any(|letter| letter.is_control() && letter != '\n'), "{screen}");
}
