//! What each input does to the state.

use super::rows::{self, Only};
use super::snapshots::{
    BEGIN, answer, backend, connection, discovered, drawn, event, explained, idle, one_down, press, status, thousand,
};
use super::state::{Answer, Flow, Input, Mode, Pane, Query, State, VERDICT};
use crate::admin::api::{Connection, Events, PoolView, Status};
use crate::admin::figures;
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use std::time::Duration;

fn state(status: Status) -> State {
    let mut state = State::new(status.clone(), (80, 24), false);
    answer(&mut state, Answer::Status(Box::new(status)), BEGIN);
    state
}

fn keys(state: &mut State, codes: &[KeyCode]) {
    for code in codes {
        assert_eq!(press(state, *code, BEGIN), Flow::Go, "{code:?}");
    }
}

fn text(state: &mut State, text: &str) {
    for letter in text.chars() {
        press(state, KeyCode::Char(letter), BEGIN);
    }
}

/// The names of the rows, without their kind.
fn names(state: &State) -> Vec<String> {
    rows::rows(state).iter().map(|row| row.name().split('\t').next_back().unwrap().to_owned()).collect()
}

fn selected(state: &State) -> Option<String> {
    let rows = rows::rows(state);
    state.selected(&rows).map(|at| rows[at].name().split('\t').next_back().unwrap().to_owned())
}

#[test]
fn numbers_show_panes_and_quit_keys_quit() {
    let mut state = state(idle());
    for (key, pane) in [
        ('2', Pane::Backends { pool: None }),
        ('3', Pane::Connections { of: None }),
        ('4', Pane::Events),
        ('5', Pane::Findings),
        ('6', Pane::Listeners),
        ('1', Pane::Overview),
    ] {
        keys(&mut state, &[KeyCode::Char(key)]);
        assert_eq!(state.view().pane, pane);
    }
    assert_eq!(press(&mut state, KeyCode::Char('q'), BEGIN), Flow::Quit);
    assert_eq!(state.update(Input::End, BEGIN), Flow::Quit);
    // Ctrl-C quits in every mode.
    for key in ['/', '?'] {
        keys(&mut state, &[KeyCode::Char(key)]);
        let interrupt = KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL);
        assert_eq!(state.update(Input::Key(interrupt), BEGIN), Flow::Quit);
        keys(&mut state, &[KeyCode::Esc]);
    }
}

#[test]
fn the_worst_comes_first_and_s_changes_the_order() {
    let mut state = state(one_down());
    assert_eq!(names(&state), ["db", "db2", "db1", "db3", "web", "web10", "web1", "web2"]);
    keys(&mut state, &[KeyCode::Char('s')]);
    assert_eq!(names(&state), ["db", "db1", "db2", "db3", "web", "web1", "web2", "web10"]);
    keys(&mut state, &[KeyCode::Char('s')]);
    assert_eq!(names(&state), ["db", "db3", "db2", "db1", "web", "web2", "web1", "web10"]);
    keys(&mut state, &[KeyCode::Char('2')]);
    assert_eq!(names(&state), ["db2", "web10", "db1", "db3", "web1", "web2"]);
}

#[test]
fn enter_goes_down_and_escape_comes_back() {
    let mut state = state(one_down());
    keys(&mut state, &[KeyCode::Enter]);
    assert_eq!(state.view().pane, Pane::Backends { pool: Some("db".into()) });
    assert_eq!(names(&state), ["db2", "db1", "db3"]);
    keys(&mut state, &[KeyCode::Down, KeyCode::Down, KeyCode::Enter]);
    let of = Some(("db".to_owned(), "db1".to_owned()));
    assert_eq!(state.view().pane, Pane::Connections { of: of.clone() });
    assert_eq!(state.want().query, Some(Query::Connections { of, client: None, sort: "age" }));
    keys(&mut state, &[KeyCode::Esc]);
    // The selection is still there.
    assert_eq!(selected(&state).as_deref(), Some("db1"));
    keys(&mut state, &[KeyCode::Backspace, KeyCode::Esc, KeyCode::Esc]);
    assert_eq!(state.view().pane, Pane::Overview);
    assert_eq!(state.want().query, None);
    keys(&mut state, &[KeyCode::Char('5'), KeyCode::Enter]);
    assert_eq!(state.view().pane, Pane::Connections { of: Some(("db".into(), "db2".into())) });
}

#[test]
fn sources_are_rows_below_their_pool_unless_a_filter_chooses_backends() {
    let mut state = state(discovered());
    assert_eq!(names(&state), ["db", "db1", "web", "etcd", "dns", "web1", "web2", "web3"]);
    keys(&mut state, &[KeyCode::End, KeyCode::Up, KeyCode::Up, KeyCode::Up, KeyCode::Enter]);
    assert_eq!(state.view().pane, Pane::Backends { pool: Some("web".into()) });
    assert_eq!(names(&state), ["etcd", "dns", "web1", "web2", "web3"]);
    keys(&mut state, &[KeyCode::Char('/')]);
    text(&mut state, "web2");
    assert_eq!(names(&state), ["web2"]);
    keys(&mut state, &[KeyCode::Enter, KeyCode::Char('2')]);
    assert_eq!(names(&state).len(), 4, "all pools together show no sources");
}

#[test]
fn a_filter_is_typed_kept_and_cleared() {
    let mut state = state(one_down());
    keys(&mut state, &[KeyCode::Char('/')]);
    // Keys are letters now, whatever the table says.
    text(&mut state, "qB2");
    assert_eq!((state.view().filter.as_str(), state.mode), ("qb2", Mode::Typing));
    keys(&mut state, &[KeyCode::Backspace, KeyCode::Backspace, KeyCode::Backspace]);
    text(&mut state, "DB2");
    keys(&mut state, &[KeyCode::Enter]);
    assert_eq!((names(&state), state.mode), (vec!["db".to_owned(), "db2".to_owned()], Mode::Keys));
    keys(&mut state, &[KeyCode::Esc]);
    assert_eq!(names(&state).len(), 8);
    keys(&mut state, &[KeyCode::Char('/'), KeyCode::Char('x'), KeyCode::Esc]);
    assert_eq!((state.view().filter.as_str(), state.mode), ("", Mode::Keys));
}

#[test]
fn f_shows_backends_in_one_state() {
    let mut state = state(one_down());
    let mut shown = Vec::new();
    for _ in 0..6 {
        keys(&mut state, &[KeyCode::Char('f')]);
        shown.push((state.view().only, names(&state).len()));
    }
    use Only::{All, Disabled, Down, Draining, Failing, Up};
    assert_eq!(shown, [(Down, 2), (Failing, 0), (Draining, 2), (Disabled, 0), (Up, 6), (All, 8)]);
    keys(&mut state, &[KeyCode::Char('4'), KeyCode::Char('f')]);
    assert_eq!(state.view().only, All);
}

#[test]
fn the_selection_stays_on_its_row_when_the_order_changes() {
    let mut state = state(idle());
    assert_eq!(selected(&state), None);
    keys(&mut state, &[KeyCode::Char('2'), KeyCode::Down, KeyCode::Down, KeyCode::Down]);
    assert_eq!(selected(&state).as_deref(), Some("web1"));
    let mut changed = idle();
    changed.pools[0].backends[2].state = "down".into();
    figures::judge(&mut changed.pools[0].backends[2]);
    answer(&mut state, Answer::Status(Box::new(changed.clone())), BEGIN);
    assert_eq!((names(&state)[0].as_str(), selected(&state).as_deref()), ("web3", Some("web1")));
    // A row that is gone leaves the selection at its place.
    changed.pools[0].backends.remove(0);
    answer(&mut state, Answer::Status(Box::new(changed)), BEGIN);
    assert_eq!(selected(&state).as_deref(), Some("web2"));
}

#[test]
fn moves_end_at_the_first_and_the_last_row() {
    let mut state = state(thousand());
    keys(&mut state, &[KeyCode::Char('2')]);
    for (code, want) in [
        (KeyCode::Up, "app1000"),
        (KeyCode::End, "web2"),
        (KeyCode::Down, "web2"),
        (KeyCode::Home, "app1000"),
        (KeyCode::PageDown, "app19"),
        (KeyCode::PageUp, "app1000"),
    ] {
        keys(&mut state, &[code]);
        assert_eq!(selected(&state).as_deref(), Some(want), "{code:?}");
    }
    keys(&mut state, &[KeyCode::Char('5'), KeyCode::Down, KeyCode::PageDown, KeyCode::Enter]);
    assert_eq!(selected(&state), None);
}

#[test]
fn the_overview_leaves_room_for_every_pool() {
    let mut state = state(thousand());
    let shown = names(&state);
    assert_eq!((shown.len(), shown[0].as_str()), (13, "app"));
    assert_eq!(shown[10..], ["web", "web1", "web2"]);
    assert!(drawn(&state).contains("and 992 more: Enter lists them"), "{}", drawn(&state));
    keys(&mut state, &[KeyCode::End, KeyCode::Up, KeyCode::Up, KeyCode::Up, KeyCode::Enter]);
    assert_eq!(state.view().pane, Pane::Backends { pool: Some("app".into()) });
    let many = (0..30).map(|number| PoolView { name: format!("pool{number}"), ..idle().pools.remove(0) }).collect();
    answer(&mut state, Answer::Status(Box::new(status(many))), BEGIN);
    keys(&mut state, &[KeyCode::Char('1')]);
    assert_eq!(names(&state).len(), 30 * 4);
}

#[test]
fn changes_pulse_for_a_moment() {
    let mut state = state(idle());
    let row = "backend\tweb\tweb2";
    assert!(!state.pulses(row) && !state.pulses(VERDICT));
    let mut changed = idle();
    changed.pools[0].backends[1].state = "down".into();
    changed.verdict.text = "web: 1 of 3 down".into();
    answer(&mut state, Answer::Status(Box::new(changed.clone())), 2 * BEGIN);
    assert!(state.pulses(row) && state.pulses(VERDICT) && !state.pulses("backend\tweb\tweb1"));
    answer(&mut state, Answer::Status(Box::new(changed)), 3 * BEGIN);
    assert!(state.pulses(row));
    state.update(Input::Tick, 4 * BEGIN);
    assert!(!state.pulses(row) && !state.pulses(VERDICT));
}

#[test]
fn events_are_appended_once_and_begin_again_after_a_restart() {
    let mut state = state(idle());
    let from = |state: &mut State, started: &str, numbers: &[u64], next| {
        let events = numbers.iter().map(|number| event(*number, "up")).collect();
        answer(state, Answer::Events(Ok(Events { started: started.to_owned(), events, next })), BEGIN);
        state.events.iter().map(|event| event.seq).collect::<Vec<u64>>()
    };
    let give = |state: &mut State, numbers: &[u64], next| from(state, "one", numbers, next);
    assert_eq!(give(&mut state, &[7, 8], 8), [7, 8]);
    assert!(!state.pulses("event\t8"));
    assert_eq!(give(&mut state, &[8, 9], 9), [7, 8, 9]);
    assert!(state.pulses("event\t9"));
    assert_eq!(give(&mut state, &[], 9), [7, 8, 9]);
    assert_eq!(from(&mut state, "two", &[1, 2], 2), [1, 2]);
    // A new process may have more events than the old one had.
    assert_eq!(from(&mut state, "three", &[1, 2, 3], 3), [1, 2, 3]);
    answer(&mut state, Answer::Events(Err("tcplb answers 404: no such call".into())), BEGIN);
    keys(&mut state, &[KeyCode::Char('4')]);
    assert_eq!(names(&state), ["3", "2", "1"]);
}

#[test]
fn a_silent_tcplb_is_reported_and_recovers() {
    let mut state = state(idle());
    answer(&mut state, Answer::Trouble("connection refused".into()), BEGIN + Duration::from_secs(2));
    assert_eq!(state.silence(), None);
    state.update(Input::Tick, BEGIN + Duration::from_secs(12));
    assert_eq!(state.silence().as_deref(), Some("no answer since 12 s: connection refused"));
    answer(&mut state, Answer::Status(Box::new(idle())), BEGIN + Duration::from_secs(13));
    assert_eq!(state.silence(), None);
}

#[test]
fn a_pause_stops_the_poll_and_the_figures() {
    let mut state = state(idle());
    keys(&mut state, &[KeyCode::Char('p')]);
    assert!(state.want().paused);
    answer(&mut state, Answer::Status(Box::new(one_down())), 2 * BEGIN);
    assert_eq!(state.status.verdict.text, idle().verdict.text);
    state.update(Input::Tick, 100 * BEGIN);
    assert_eq!(state.silence(), None);
    assert!(drawn(&state).starts_with("PAUSED"));
    press(&mut state, KeyCode::Char('p'), 100 * BEGIN);
    assert!(!state.want().paused);
    assert_eq!(state.silence(), None);
}

#[test]
fn connections_of_another_screen_are_dropped() {
    let mut state = state(idle());
    keys(&mut state, &[KeyCode::Char('3')]);
    let all = state.want().query.unwrap();
    answer(&mut state, Answer::Connections(all.clone(), Ok(vec![connection(1), connection(2)])), BEGIN);
    assert_eq!(names(&state), ["1", "2"]);
    keys(&mut state, &[KeyCode::Char('s')]);
    // They are in the old order.
    answer(&mut state, Answer::Connections(all, Ok(vec![connection(1)])), BEGIN);
    assert_eq!(names(&state), [""; 0]);
    let sorted = state.want().query.unwrap();
    assert_eq!(sorted, Query::Connections { of: None, client: None, sort: "bytes" });
    answer(&mut state, Answer::Connections(sorted, Err("tcplb answers 503: worker-0".into())), BEGIN);
    assert!(drawn(&state).contains("worker-0"));
}

#[test]
fn a_routed_connection_shows_its_name_and_is_explained_with_it() {
    let mut state = state(one_down());
    keys(&mut state, &[KeyCode::Char('3')]);
    let sni = Some("db.example.com".to_owned());
    let query = state.want().query.unwrap();
    let protocol = Some("postgres".to_owned());
    let route = Some("db".to_owned());
    let routed = Connection { protocol: protocol.clone(), sni: sni.clone(), route, ..connection(1) };
    answer(&mut state, Answer::Connections(query, Ok(vec![routed])), BEGIN);
    assert!(drawn(&state).contains("db     db.example.com"), "{}", drawn(&state));
    keys(&mut state, &[KeyCode::Enter]);
    let query = state.want().query.unwrap();
    assert_eq!(query, Query::Explain { client: "192.0.2.1:51000".into(), listener: "web".into(), protocol, sni });
}

#[test]
fn a_connection_leads_to_its_explanation() {
    let mut state = state(one_down());
    keys(&mut state, &[KeyCode::Char('3')]);
    let unix = Connection { client: None, ..connection(1) };
    let query = state.want().query.unwrap();
    answer(&mut state, Answer::Connections(query, Ok(vec![unix, connection(2)])), BEGIN);
    // A unix client has no address to explain.
    keys(&mut state, &[KeyCode::Enter]);
    assert_eq!(state.view().pane, Pane::Connections { of: None });
    keys(&mut state, &[KeyCode::End, KeyCode::Enter]);
    let query = state.want().query.unwrap();
    let (client, listener) = ("192.0.2.2:51000".into(), "web".into());
    assert_eq!(query, Query::Explain { client, listener, protocol: None, sni: None });
    assert!(drawn(&state).contains("asking"));
    answer(&mut state, Answer::Explained(query, Ok(explained().into())), BEGIN);
    assert_eq!(names(&state), ["db1", "db2", "db3"]);
    assert!(drawn(&state).contains("192.0.2.2:51000 goes to db1"), "{}", drawn(&state));
    keys(&mut state, &[KeyCode::Esc]);
    assert_eq!(selected(&state).as_deref(), Some("2"));
}

#[test]
fn a_filter_that_is_an_address_is_asked_of_the_workers() {
    let mut state = state(idle());
    keys(&mut state, &[KeyCode::Char('3'), KeyCode::Char('/')]);
    text(&mut state, "192.0.2.0/24");
    let query = state.want().query.unwrap();
    assert_eq!(query, Query::Connections { of: None, client: Some("192.0.2.0/24".into()), sort: "age" });
    answer(&mut state, Answer::Connections(query, Ok(vec![connection(1)])), BEGIN);
    assert_eq!(names(&state), ["1"]);
    keys(&mut state, &[KeyCode::Esc, KeyCode::Char('/')]);
    text(&mut state, "db2");
    assert_eq!(state.want().query, Some(Query::Connections { of: None, client: None, sort: "age" }));
}

#[test]
fn names_with_the_same_text_sort_by_their_number() {
    let backends = ["web10", "web2", "web1", "a"].map(backend).into();
    let mut state = state(status(vec![PoolView { name: "web".into(), backends, ..PoolView::default() }]));
    keys(&mut state, &[KeyCode::Char('2'), KeyCode::Char('s')]);
    assert_eq!(names(&state), ["a", "web1", "web2", "web10"]);
}
