//! What the access log has besides the end of a connection: lines of open ones, attempts that failed, the number.

use rustix::process::Signal;
use serde_json::Value;
use std::fs;
use std::path::PathBuf;
use testkit::{Admin, At, ConfigFile, Conn, Server, Started, eventually, eventually_some, peers, refusing};

/// A tcplb with a JSON access log and these lines of `[global]`.
fn logging(backends: &[&At], global: &str) -> (Started, PathBuf) {
    let file = ConfigFile::over(backends.iter().copied());
    let log = file.path("access.log");
    let file = file.global(&format!("access_log = {log:?}\nlog_format = \"json\"\nadmin = \"127.0.0.1:0\"\n{global}"));
    (file.start(), log)
}

fn lines(log: &PathBuf) -> Vec<Value> {
    let text = fs::read_to_string(log).unwrap_or_default();
    // The last line may not be whole yet.
    let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
    whole.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))).collect()
}

fn of_event(log: &PathBuf, event: &str) -> Vec<Value> {
    lines(log).into_iter().filter(|line| line["event"] == event).collect()
}

fn number(line: &Value, key: &str) -> u64 {
    line[key].as_u64().unwrap_or_else(|| panic!("{key} of {line}"))
}

#[test]
fn lines_of_an_open_connection_add_up_to_its_traffic() {
    let server = Server::start(peers::echo);
    let (tcplb, log) = logging(&[server.at()], "log_events = [\"open\", \"interval 1s\", \"close\"]");
    let client = tcplb.connect();
    client.assert_echoes("12345");
    let open = eventually_some("it is open", || of_event(&log, "open").pop());
    assert!(open["close"].is_null() && open["interval_ms"].is_null(), "{open}");
    assert_eq!((open["attempts"].as_u64(), open["failed_attempts"].as_array().map(Vec::len)), (Some(1), Some(0)));
    let first = eventually_some("a while has passed", || of_event(&log, "interval").pop());
    assert_eq!(number(&first, "interval_bytes_to_backend"), 5, "{first}");
    client.assert_echoes("123");
    eventually("two more have passed", || of_event(&log, "interval").len() >= 3);
    client.assert_echoes("1");
    drop(client);
    eventually("it has ended", || !of_event(&log, "close").is_empty());
    let lines = lines(&log);
    for key in ["bytes_to_backend", "bytes_to_client"] {
        let deltas: u64 = lines.iter().filter_map(|line| line[format!("interval_{key}")].as_u64()).sum();
        let totals: Vec<u64> = lines.iter().map(|line| number(line, key)).collect();
        assert_eq!((deltas, totals.last()), (9, Some(&9)), "{lines:?}");
        assert!(totals.is_sorted(), "{totals:?}");
    }
    let (whole, spans) = (number(&lines[lines.len() - 1], "duration_ms"), lines[1..].iter());
    let spans: u64 = spans.map(|line| number(line, "interval_ms")).sum();
    // Each is rounded down.
    assert!((whole - lines.len() as u64..=whole).contains(&spans), "{lines:?}");
    let ids: Vec<u64> = lines.iter().map(|line| number(line, "id")).collect();
    assert!(ids.iter().all(|id| *id == ids[0]), "{ids:?}");
}

#[test]
fn the_number_of_a_line_is_that_of_the_open_connection() {
    let server = Server::start(peers::echo);
    let (tcplb, log) = logging(&[server.at()], "log_events = [\"open\"]");
    let client = tcplb.connect();
    client.assert_echoes("hello");
    let open = eventually_some("it is open", || of_event(&log, "open").pop());
    let listed = Admin::of(&tcplb).get("/v1/connections").json(200);
    assert_eq!(listed[0]["id"], open["id"], "{listed}");
    drop(client);
    let next = tcplb.connect();
    next.assert_echoes("next");
    eventually("the next one is open", || of_event(&log, "open").len() == 2);
    assert_eq!(lines(&log).len(), 2, "only the events that are named leave lines");
}

#[test]
fn connections_that_began_together_are_logged_apart() {
    let server = Server::start(peers::echo);
    let (tcplb, log) = logging(&[server.at()], "log_events = [\"interval 2s\"]");
    let clients: Vec<Conn> = (0..64).map(|_| tcplb.connect()).collect();
    clients.iter().for_each(|client| client.assert_echoes("x"));
    eventually("each has a line", || of_event(&log, "interval").len() >= 64);
    let first = of_event(&log, "interval").into_iter().take(64).map(|line| number(&line, "interval_ms"));
    let first: Vec<u64> = first.collect();
    let (soonest, latest) = (first.iter().min().unwrap(), first.iter().max().unwrap());
    // A whole second between them is missed once in 2^50 times.
    assert!(latest - soonest > 500, "{first:?}");
}

#[test]
fn each_attempt_that_failed_is_in_the_line_and_in_the_debug_log() {
    let (server, dead) = (Server::start(peers::echo), refusing());
    let file = ConfigFile::empty().backend(&dead, "name = \"dead\"").backend(server.at(), "name = \"alive\"");
    let log = file.path("access.log");
    let file = file
        .global(&format!("access_log = {log:?}\nlog_format = \"json\""))
        .listener("bind = [\"127.0.0.1:0\"]")
        .pool("algorithm = \"first\"")
        .health("kind = \"off\"");
    let tcplb = testkit::Tcplb::from_file(&file.write()).args(["--log-level", "debug"]).start();
    tcplb.connect().assert_echoes("hello");
    let line = eventually_some("there is a line", || of_event(&log, "close").pop());
    let failed = line["failed_attempts"].as_array().expect("a list");
    assert_eq!((failed.len(), line["attempts"].as_u64(), line["backend"].as_str()), (1, Some(2), Some("alive")));
    let want =
        [("backend", "dead"), ("address", &dead.to_string()), ("reason", "refused"), ("error", "connection refused")];
    want.into_iter().for_each(|(key, value)| assert_eq!(failed[0][key], value, "{line}"));
    let logged = tcplb.wait_for_line(&format!("connection {}: ", line["id"]));
    assert!(logged.contains(", dead failed: connection refused"), "{logged}");
}

#[test]
fn a_change_of_log_events_needs_a_restart() {
    let server = Server::start(peers::echo);
    let (tcplb, log) = logging(&[server.at()], "log_events = [\"close\"]");
    tcplb.reload(&tcplb.file().text().replace("[\"close\"]", "[\"open\", \"close\"]"));
    let line = tcplb.wait_for_line("log_events");
    assert!(line.contains("needs a restart"), "{line}");
    tcplb.connect().assert_echoes("hello");
    eventually("there is a line", || !lines(&log).is_empty());
    assert!(of_event(&log, "open").is_empty());
    tcplb.signal(Signal::TERM);
}
