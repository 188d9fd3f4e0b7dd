//! Events: each change is recorded once, in order, with its originator; and callers wait for the next one without holding up others.

use crate::admin::support::{Answer, Balancer, PATIENCE, answer, ask, backend};
use rustix::process::Signal;
use serde_json::{Value, json};
use std::fs;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use tcplb::config::descriptors::AdminShare;
use testkit::{Process, Server, eventually, eventually_some, peers};

/// The events after this one.
fn since(balancer: &Balancer, seq: u64) -> (Vec<Value>, u64) {
    let answer = balancer.get(&format!("/v1/events?since={seq}")).json(200);
    (answer["events"].as_array().expect("events").clone(), answer["next"].as_u64().expect("a number"))
}

/// Waits until the events after `seq` are as wanted.
#[track_caller]
fn wait(balancer: &Balancer, seq: u64, what: &str, wanted: impl Fn(&[Value]) -> bool) -> Vec<Value> {
    eventually_some(what, || Some(since(balancer, seq).0).filter(|events| wanted(events)))
}

/// An event without its number and time, as `kind pool/backend from→to by`.
fn shown(event: &Value) -> String {
    let text = |field: &str| event[field].as_str().unwrap_or("-").to_owned();
    let (kind, from, to, by) = (text("kind"), text("from"), text("to"), text("by"));
    format!("{kind} {}/{} {from}→{to} {by}", text("pool"), text("backend"))
}

fn all(events: &[Value]) -> Vec<String> {
    events.iter().map(shown).collect()
}

#[track_caller]
fn connected(to: &str) -> TcpStream {
    let stream = TcpStream::connect(to).expect("it listens");
    stream.set_read_timeout(Some(PATIENCE)).expect("a socket");
    stream
}

/// A caller that has sent its request.
#[track_caller]
fn caller(balancer: &Balancer, path: &str) -> TcpStream {
    let mut stream = connected(&balancer.admin);
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n");
    stream.write_all(request.as_bytes()).expect("it takes a request");
    stream
}

fn is_answered(stream: &TcpStream) -> bool {
    stream.set_nonblocking(true).expect("a socket");
    let answered = stream.peek(&mut [0]).is_ok();
    stream.set_nonblocking(false).expect("a socket");
    answered
}

#[track_caller]
fn next_of(answer: &Answer) -> u64 {
    answer.json(200)["next"].as_u64().expect("a number")
}

#[test]
fn a_backend_that_is_killed_and_comes_back_is_recorded_with_its_pool() {
    let (web1, at) = backend("web1", &[]);
    let flags = ["-b", &format!("{at},name=web1"), "-t", "500ms", "--health-rise", "2", "--health-fall", "2"];
    let balancer = Balancer::start(&flags);
    let (first, next) = since(&balancer, 0);
    assert_eq!(all(&first), ["start -/- -→- tcplb"]);
    assert_eq!((first[0]["seq"].as_u64(), next), (Some(1), 1));
    balancer.wait("probed", |status| status["pools"][0]["backends"][0]["health"]["last_result"] == "connected");
    drop(web1);
    let transition = |status: &Value| status["pools"][0]["backends"][0]["health"]["transition"].clone();
    balancer.wait("in transition", |status| transition(status) == "up, 1 of 2 failures");
    let lost = wait(&balancer, 1, "the loss", |events| events.len() >= 2);
    assert_eq!(all(&lost), ["backend_state default/web1 up→down health", "pool_empty default/- -→- health"]);
    assert_eq!(lost[0]["reason"], "connection refused");
    assert_eq!(lost[1]["reason"], "web1 is down: connection refused");
    balancer.process.wait_for_line("pool default has no usable backend left");
    let _again = Process::start(&["backend", "--listen", &at, "--name", "web1"]);
    balancer.wait("in transition", |status| transition(status) == "down, 1 of 2 successes");
    let back = wait(&balancer, 3, "the return", |events| events.len() >= 2);
    assert_eq!(all(&back), ["backend_state default/web1 down→up health", "pool_serves default/- -→- health"]);
    balancer.process.wait_for_line("pool default has a usable backend again");
    balancer.wait("settled", |status| transition(status).is_null());
    // Times are in UTC and ascend like the numbers.
    let (every, _) = since(&balancer, 0);
    let times: Vec<_> = every.iter().map(|event| event["time"].as_str().expect("a time")).collect();
    assert!(times.is_sorted() && times.iter().all(|time| time.len() == 24 && time.ends_with('Z')), "{times:?}");
}

#[test]
fn changes_by_the_api_are_recorded_in_order() {
    let balancer = Balancer::idle();
    let backends = "/v1/pools/default/backends";
    let (_, start) = since(&balancer, 0);
    balancer.call("POST", backends, r#"{"address":"127.0.0.1:2","name":"b","weight":3}"#).json(201);
    balancer.call("PATCH", &format!("{backends}/b"), r#"{"weight":5}"#).json(200);
    balancer.call("PATCH", &format!("{backends}/b"), r#"{"state":"disabled"}"#).json(200);
    balancer.call("PATCH", &format!("{backends}/b"), r#"{"weight":70000}"#).error(400);
    balancer.call("PATCH", &format!("{backends}/b"), r#"{"state":"enabled","weight":1}"#).json(200);
    balancer.call("DELETE", &format!("{backends}/b"), "").json(200);
    balancer.call("PATCH", &format!("{backends}/web1"), r#"{"state":"disabled"}"#).json(200);
    let (events, next) = since(&balancer, start);
    let want = [
        "config default/b -→- api",
        "config default/b 3→5 api",
        "config default/b enabled→disabled api",
        "backend_state default/b up→disabled api",
        "config default/b -→- api",
        "backend_state default/b disabled→up api",
        "config default/b -→- api",
        "config default/web1 enabled→disabled api",
        "backend_state default/web1 up→disabled api",
        "pool_empty default/- -→- api",
    ];
    assert_eq!(all(&events), want);
    let numbers: Vec<u64> = events.iter().filter_map(|event| event["seq"].as_u64()).collect();
    assert_eq!(numbers, (start + 1..=next).collect::<Vec<_>>());
    let reasons: Vec<_> = events.iter().filter_map(|event| event["reason"].as_str()).collect();
    assert_eq!(reasons[0], "added: 127.0.0.1:2, weight 3");
    assert_eq!(reasons[1], "changed: weight 3 → 5 (0 connections)");
    assert_eq!(reasons[3], "changed: weight 5 → 1, state disabled → enabled (0 connections)");
    assert_eq!(since(&balancer, next - 1).0, events[want.len() - 1..]);
    // A number beyond the last one is from an earlier process.
    assert_eq!(since(&balancer, next + 1).0.len() as u64, next);
}

/// A file with an admin API.
fn file(rest: &str) -> String {
    format!("[global]\nadmin = '127.0.0.1:0'\nsandbox = 'off'\nworkers = 2\n{rest}")
}

#[test]
fn a_reload_records_each_change_and_a_refused_one_its_mistakes() {
    let listener = "[[listener]]\nname = 'web'\nbind = ['127.0.0.1:0']\npool = 'web'\n";
    let pool = "[[pool]]\nname = 'web'\nhealth.kind = 'off'\n";
    let backend =
        |name: &str, rest: &str| format!("[[pool.backend]]\nname = '{name}'\naddress = '127.0.0.1:1'\n{rest}");
    let balancer = Balancer::from_text(file(&format!("{listener}{pool}{}{}", backend("a", ""), backend("b", ""))));
    let (_, start) = since(&balancer, 0);
    balancer.call("POST", "/v1/reload", "").json(200);
    assert_eq!(since(&balancer, start).0, [] as [Value; 0], "nothing changed");

    let changed =
        format!("{listener}max_connections = 7\n{pool}connect_attempts = 2\n{}", backend("a", "weight = 9\n"));
    balancer.process.file().rewrite(&file(&format!("{changed}{}", backend("c", ""))));
    balancer.process.signal(Signal::HUP);
    let events = wait(&balancer, start, "the reload", |events| events.len() >= 5);
    let want = [
        "config -/- none→7 file",
        "config web/- 3→2 file",
        "config web/a 1→9 file",
        "config web/c -→- file",
        "config web/b -→- file",
    ];
    assert_eq!(all(&events), want);
    assert_eq!(events[0]["reason"], "listener web changed: max_connections none → 7 (0 connections)");
    assert_eq!(events[4]["reason"], "removed (0 connections go on)");

    let (_, next) = since(&balancer, 0);
    let refused = balancer.reload("nonsense = 1\n").json(400);
    balancer.call("POST", "/v1/reload?dry_run=true", "").json(400);
    let (events, _) = since(&balancer, next);
    assert_eq!(all(&events), ["reload_failed -/- -→- file"]);
    assert_eq!(events[0]["reason"], refused["error"]);
}

#[test]
fn limits_are_reported_when_they_are_reached_and_when_they_are_left() {
    let server = Server::start(peers::echo);
    let at = server.at().to_string();
    let text = file(&format!(
        "[[listener]]\nname = 'web'\nbind = ['127.0.0.1:0']\nmax_connections = 2\n[[pool]]\nhealth.kind = 'off'\n\
         [[pool.backend]]\nname = 'web1'\naddress = '{at}'\nmax_connections = 1\n\
         [[pool.backend]]\nname = 'web2'\naddress = '{at}'\n"
    ));
    let balancer = Balancer::from_text(text);
    balancer.process.wait_for_line("listener web: at most 2 connections");
    balancer.process.wait_for_line("max-connections 1");
    let (_, start) = since(&balancer, 0);
    let talk = |mut stream: TcpStream| {
        stream.write_all(b"x").expect("a byte");
        stream.read_exact(&mut [0]).expect("its echo");
        stream
    };
    let clients: Vec<TcpStream> = (0..2).map(|_| talk(connected(&balancer.listen))).collect();
    let waiting = connected(&balancer.listen);
    let reached = wait(&balancer, start, "reached", |events| events.len() >= 2);
    let mut kinds = all(&reached);
    kinds.sort();
    assert_eq!(kinds, ["limit_reached -/- -→- tcplb", "limit_reached default/web1 -→- tcplb"]);
    balancer.process.wait_for_line("listener web has reached its limit of 2 connections");
    balancer.process.wait_for_line("backend web1 of pool default has reached its limit of 1 connection");
    drop((clients, waiting));
    let left = wait(&balancer, start + 2, "left", |events| events.len() >= 2);
    assert!(left.iter().all(|event| event["kind"] == "limit_left"), "{left:?}");
    balancer.process.wait_for_line("listener web is below its limit of 2 connections again");
    balancer.process.wait_for_line("backend web1 of pool default is below its limit of 1 connection again");
}

#[test]
fn the_process_reports_its_own_limit() {
    let server = Server::start(peers::echo);
    let at = server.at().to_string();
    let balancer = Balancer::start(&["-b", &at, "--max-connections", "1"]);
    let client = connected(&balancer.listen);
    balancer.process.wait_for_line("tcplb has reached its limit of 1 connection");
    drop(client);
    balancer.process.wait_for_line("tcplb is below its limit of 1 connection again");
}

#[test]
fn a_drain_is_reported_when_its_last_connection_ends() {
    let server = Server::start(peers::echo);
    let at = server.at().to_string();
    let balancer = Balancer::start(&["-b", &format!("{at},name=web1")]);
    let client = connected(&balancer.listen);
    balancer.wait("connected", |status| status["pools"][0]["backends"][0]["active_connections"] == 1);
    let (_, start) = since(&balancer, 0);
    balancer.call("PATCH", "/v1/pools/default/backends/web1", r#"{"state":"draining"}"#).json(200);
    let draining = wait(&balancer, start, "draining", |events| events.len() >= 3);
    let want = ["config default/web1 enabled→draining api", "backend_state default/web1 up→draining api"];
    assert_eq!(all(&draining[..2]), want);
    assert_eq!(shown(&draining[2]), "pool_empty default/- -→- api");
    drop(client);
    let done = wait(&balancer, start + 3, "drained", |events| !events.is_empty());
    assert_eq!(all(&done), ["drain default/web1 draining→drained tcplb"]);
    balancer.process.wait_for_line("backend web1 of pool default is drained: no connection is left");
    balancer.call("PATCH", "/v1/pools/default/backends/web1", r#"{"state":"enabled"}"#).json(200);
    let back = wait(&balancer, start + 4, "enabled", |events| events.len() >= 3);
    assert_eq!(shown(&back[1]), "backend_state default/web1 draining→up api");
    assert_eq!(shown(&back[2]), "pool_serves default/- -→- api");
}

#[test]
fn a_stop_ends_every_wait() {
    let server = Server::start(peers::echo);
    let at = server.at().to_string();
    let mut balancer = Balancer::start(&["-b", &at]);
    let open = connected(&balancer.listen);
    balancer.wait("connected", |status| status["pools"][0]["backends"][0]["active_connections"] == 1);
    let (_, start) = since(&balancer, 0);
    let waiting: Vec<TcpStream> =
        (0..5).map(|_| caller(&balancer, &format!("/v1/events?since={start}&wait=5m"))).collect();
    balancer.process.signal(Signal::TERM);
    for stream in waiting {
        let events = answer(stream).json(200)["events"].clone();
        assert_eq!(shown(&events[0]), "drain -/- running→draining signal");
    }
    let last = caller(&balancer, &format!("/v1/events?since={}&wait=5m", start + 1));
    // The caller before this one has its request read by now.
    assert_eq!(balancer.get("/healthz").status, 200);
    assert!(!is_answered(&last));
    drop(open);
    let ended = answer(last).json(200);
    assert_eq!(shown(&ended["events"][0]), "drain -/- draining→stopped tcplb");
    assert!(balancer.process.wait_exit().success());
}

#[test]
fn a_hundred_waiting_callers_hold_up_no_other() {
    let balancer = Balancer::idle();
    let (_, start) = since(&balancer, 0);
    let path = format!("/v1/events?since={start}&wait=5m");
    let most = AdminShare::of(u64::MAX).waiting();
    assert_eq!(most, 64);
    let mut waiting: Vec<TcpStream> = (0..100).map(|_| caller(&balancer, &path)).collect();
    // Those beyond the bound are answered at once, as if they had not asked to wait.
    eventually("the others are answered", || waiting.iter().filter(|stream| is_answered(stream)).count() == 100 - most);
    for stream in waiting.extract_if(.., |stream| is_answered(stream)) {
        let answer = answer(stream).json(200);
        assert_eq!(answer, json!({ "started": answer["started"], "events": [], "next": start }));
    }
    for _ in 0..10 {
        assert_eq!(balancer.get("/healthz").status, 200);
        balancer.status();
    }
    assert!(balancer.process.threads() < 16 + 10, "no caller that waits has a thread");
    // Those that leave make place: one by finishing, one by a reset.
    let gone = waiting.pop().expect("a caller");
    gone.shutdown(Shutdown::Write).expect("a socket");
    assert_eq!(next_of(&answer(gone)), start);
    drop(waiting.pop());
    let places = eventually_some("two places are free", || {
        let new = [caller(&balancer, &path), caller(&balancer, &path)];
        balancer.status();
        (!new.iter().any(is_answered)).then_some(new)
    });
    balancer.call("PATCH", "/v1/pools/default/backends/web1", r#"{"weight":2}"#).json(200);
    for stream in waiting.into_iter().chain(places) {
        let events = answer(stream).json(200)["events"].clone();
        assert_eq!(shown(&events[0]), "config default/web1 1→2 api");
    }
}

#[test]
fn a_caller_may_ask_for_the_last_events_only() {
    let balancer = Balancer::idle();
    let (_, start) = since(&balancer, 0);
    for weight in 2..=4 {
        let change = json!({ "weight": weight }).to_string();
        balancer.call("PATCH", "/v1/pools/default/backends/web1", &change).json(200);
    }
    let all = since(&balancer, 0).0;
    let started = balancer.status()["started"].clone();
    for (query, want) in [
        ("last=2".to_owned(), &all[all.len() - 2..]),
        ("last=10000".to_owned(), &all),
        (format!("since={start}&last=1&wait=5m"), &all[all.len() - 1..]),
        (format!("since={}&last=2", start + 2), &all[all.len() - 1..]),
    ] {
        let answer = balancer.get(&format!("/v1/events?{query}"));
        assert!(!answer.body.contains('\n'), "answers for machines have no spaces: {}", answer.body);
        assert_eq!(answer.json(200), json!({ "started": started, "events": want, "next": start + 3 }), "{query}");
    }
}

#[test]
fn a_wait_ends_with_its_time_and_bad_values_are_refused() {
    let balancer = Balancer::idle();
    let (_, start) = since(&balancer, 0);
    for wait in ["0s", "1ms", "300ms"] {
        let answer = balancer.get(&format!("/v1/events?since={start}&wait={wait}")).json(200);
        let started = balancer.status()["started"].clone();
        assert_eq!(answer, json!({ "started": started, "events": [], "next": start }));
    }
    let head = ask(&balancer.admin, "HEAD", &format!("/v1/events?since={start}&wait=1ms"), &[], "");
    assert_eq!((head.status, head.body.as_str()), (200, ""));
    assert_eq!(next_of(&balancer.get("/v1/events?wait=5m")), start, "there is news");
    for (query, want) in [
        ("since=x", "since: expected the number of an event, got `x`"),
        ("since=-1", "got `-1`"),
        ("last=0", "last: expected a number from 1 to 10000, got `0`"),
        ("last=10001", "got `10001`"),
        ("last=few", "got `few`"),
        ("wait=30", "wait: expected a number with a unit"),
        ("wait=301s", "wait: expected at most 5m, got 5m 1s"),
        ("since=1&since=2", "since: expected one value"),
        ("sinse=1", "unknown parameter `sinse`"),
    ] {
        let error = balancer.get(&format!("/v1/events?{query}")).error(400);
        assert!(error.contains(want), "{query}: {error}");
    }
}

#[test]
fn a_caller_without_the_token_never_waits() {
    let place = tempfile::tempdir().unwrap();
    let token = place.path().join("token");
    fs::write(&token, "s3cret").unwrap();
    let balancer = Balancer::start(&["-b", "127.0.0.1:1", "--admin-token-file", token.to_str().unwrap()]);
    balancer.get("/v1/events?since=1&wait=5m").error(401);
    let right = ask(&balancer.admin, "GET", "/v1/events", &["Authorization: Bearer s3cret"], "");
    assert_eq!(right.json(200)["events"][0]["kind"], "start");
}

#[test]
fn a_limit_that_is_met_again_and_again_does_not_flood() {
    let server = Server::start(peers::echo);
    let at = server.at().to_string();
    let balancer = Balancer::start(&["-b", &format!("{at},max-connections=1"), "--health", "off"]);
    let (_, start) = since(&balancer, 0);
    // The limit is met again and again. A client that comes too early is reset.
    for _ in 0..50 {
        let mut client = connected(&balancer.listen);
        let _ = client.write_all(b"x").and_then(|()| client.read_exact(&mut [0]));
    }
    let events = wait(&balancer, start, "left", |events| events.iter().any(|event| event["kind"] == "limit_left"));
    assert!(events.len() <= 4, "{events:?}");
    assert_eq!(events[0]["kind"], "limit_reached");
}
