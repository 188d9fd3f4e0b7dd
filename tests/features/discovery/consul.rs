//! Consul, against a stateful fake of `/v1/health/service` written from its documentation:
//! <https://developer.hashicorp.com/consul/api-docs/health> and …/features/blocking.

use super::fake::{Call, respond, serve};
use super::secure;
use super::source::Source;
use parking_lot::{Condvar, Mutex};
use serde_json::{Value as Json, json};
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tcplb::base::Address;
use tcplb::discovery::Value;
use testkit::{Conn, Server, eventually, let_pass};

/// What the fake does instead of answering well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Well,
    /// As servers do during an election.
    NoLeader,
    Garbage,
    /// As for a token that has expired.
    Filtered,
    /// The fault of old versions: the index is 0, and no query waits.
    IndexZero,
}

struct State {
    mode: Mode,
    index: u64,
    /// Counts changes of any kind: each ends the queries that wait.
    changes: u64,
    instances: Vec<(Json, bool)>,
    token: Option<String>,
    /// The indexes of the queries; `None`: one that did not wait.
    queries: Vec<Option<u64>>,
}

/// A fake of Consul.
pub(super) struct Consul {
    pub(super) server: Server,
    shared: Arc<(Mutex<State>, Condvar)>,
}

fn instance(id: &str, address: &str) -> Json {
    json!({
        "Node": {"Node": "n1", "Address": "10.0.0.9", "Datacenter": "dc1"},
        "Service": {"ID": id, "Service": "web", "Tags": [], "Address": address, "Port": 80, "Weights": {"Passing": 3, "Warning": 1}},
        "Checks": [],
    })
}

impl Consul {
    pub(super) fn start() -> Consul {
        let state = State { mode: Mode::Well, index: 10, changes: 0, instances: vec![], token: None, queries: vec![] };
        let shared = Arc::new((Mutex::new(state), Condvar::new()));
        let serving = shared.clone();
        Consul { server: serve(move |call, conn| answer(&serving, call, conn)), shared }
    }

    fn url(&self) -> Value {
        Value::Text(format!("http://{}", self.server.at()))
    }

    fn source(&self) -> Source {
        Source::start("consul", &[("address", self.url()), ("service", Value::Text("web".to_owned()))])
    }

    /// Changes something, and ends the queries that wait.
    fn change(&self, change: impl FnOnce(&mut State)) {
        let mut state = self.shared.0.lock();
        state.index += 1;
        state.changes += 1;
        change(&mut state);
        self.shared.1.notify_all();
    }

    /// One instance, here.
    pub(super) fn has_at(&self, id: &str, at: SocketAddr) {
        let mut new = instance(id, &at.ip().to_string());
        new["Service"]["Port"] = at.port().into();
        self.change(|state| state.instances = vec![(new, true)]);
    }

    fn has(&self, ids: &[&str]) {
        self.change(|state| state.instances = ids.iter().map(|id| (instance(id, "10.0.0.1"), true)).collect());
    }
}

fn answer(shared: &(Mutex<State>, Condvar), call: &Call, conn: &Conn) -> io::Result<()> {
    let mut state = shared.0.lock();
    assert_eq!(call.query["passing"], "true");
    let service = call.path.strip_prefix("/v1/health/service/").expect("a service");
    let index = call.query.get("index").map(|index| index.parse().unwrap());
    state.queries.push(index);
    if state.token.is_some() && state.token.as_ref() != call.headers.get("x-consul-token") {
        drop(state);
        return respond(conn, "403 Forbidden", "", "Permission denied: token lacks permission 'service:read'");
    }
    if let Some(index) = index.filter(|index| *index >= state.index && state.mode != Mode::IndexZero) {
        let seconds: u64 = call.query["wait"].strip_suffix('s').unwrap().parse().unwrap();
        let (changes, until) = (state.changes, Instant::now() + Duration::from_secs(seconds));
        while state.changes == changes && index >= state.index {
            if shared.1.wait_until(&mut state, until).timed_out() {
                break;
            }
        }
    }
    let is_asked_for = |it: &Json| {
        let has = |tag: &String| it["Service"]["Tags"].as_array().unwrap().iter().any(|one| one == tag);
        let datacenter = call.query.get("dc").map_or("dc1", String::as_str);
        it["Service"]["Service"] == service
            && it["Node"]["Datacenter"] == datacenter
            && call.query.get("tag").is_none_or(has)
    };
    let passing: Vec<&Json> =
        state.instances.iter().filter(|(it, passes)| *passes && is_asked_for(it)).map(|(it, _)| it).collect();
    let body = json!(passing).to_string();
    let (mode, index) = (state.mode, state.index);
    drop(state);
    match mode {
        Mode::Well => respond(conn, "200 OK", &format!("X-Consul-Index: {index}\r\n"), &body),
        Mode::NoLeader => respond(conn, "500 Internal Server Error", "", "No cluster leader"),
        Mode::Garbage => respond(conn, "200 OK", "X-Consul-Index: 99\r\n", "<html>"),
        Mode::Filtered => {
            respond(conn, "200 OK", "X-Consul-Index: 99\r\nX-Consul-Results-Filtered-By-ACLs: true\r\n", "[]")
        }
        Mode::IndexZero => respond(conn, "200 OK", "X-Consul-Index: 0\r\n", &body),
    }
}

#[test]
fn passing_instances_come_and_go_by_blocking_queries() {
    let consul = Consul::start();
    consul.has(&["web1"]);
    let mut source = consul.source();
    source.wait_for(&["web1"]);
    consul.has(&["web1", "web2"]);
    source.wait_for(&["web1", "web2"]);
    consul.change(|state| state.instances[0].1 = false);
    source.wait_for(&["web2"]);
    consul.change(|state| state.instances.push((instance("web3", ""), true)));
    source.wait_for(&["web2", "web3"]);
    let set = source.set();
    let found = &set["web3@n1"];
    assert_eq!((&found.address, found.weight), (&Address::parse_backend("10.0.0.9:80").unwrap(), Some(3)));
    let queries = consul.shared.0.lock().queries.clone();
    assert_eq!(queries[..2], [None, Some(11)], "{queries:?}");
    assert!(queries.len() < 8, "{queries:?}");
}

#[test]
fn an_index_that_goes_backwards_starts_again_without_one() {
    let consul = Consul::start();
    consul.has(&["web1"]);
    let mut source = consul.source();
    source.wait_for(&["web1"]);
    // A query that came after the restore would wait for its whole time.
    eventually("a query that waits", || consul.shared.0.lock().queries.ends_with(&[Some(11)]));
    // A snapshot with older data is restored.
    consul.change(|state| {
        state.index = 3;
        state.instances = vec![(instance("web2", "10.0.0.2"), true)];
    });
    source.wait_for(&["web2"]);
    eventually("a query without an index, then one with the new one", || {
        consul.shared.0.lock().queries.ends_with(&[None, Some(3)])
    });
    consul.has(&["web3"]);
    source.wait_for(&["web3"]);
}

#[test]
fn an_index_of_zero_makes_no_busy_loop() {
    let consul = Consul::start();
    consul.change(|state| state.mode = Mode::IndexZero);
    consul.has(&["web1"]);
    let mut source = consul.source();
    source.wait_for(&["web1"]);
    let_pass(Duration::from_secs(2));
    let queries = consul.shared.0.lock().queries.clone();
    assert!(queries.len() < 20, "{queries:?}");
    consul.has(&["web2"]);
    source.wait_for(&["web2"]);
}

#[test]
fn no_failure_of_consul_removes_a_backend() {
    let mut consul = Consul::start();
    consul.has(&["web1"]);
    let server = Value::Text("web".to_owned());
    let mut source = Source::clearing("consul", &[("address", consul.url()), ("service", server)]);
    source.wait_for(&["web1"]);
    for (mode, why) in [
        (Mode::NoLeader, "HTTP 500: No cluster leader"),
        (Mode::Garbage, "expected a list"),
        (Mode::Filtered, "the token may not read the instances"),
    ] {
        consul.change(|state| state.mode = mode);
        source.wait_for_error(why);
        assert_eq!(source.names(), ["web1"], "{mode:?}");
        consul.change(|state| state.mode = Mode::Well);
        eventually("it answers again", || source.standing().is_well());
    }
    consul.server.stop();
    source.wait_for_error("connection refused");
    consul.has(&["web1", "web2"]);
    assert_eq!(source.names(), ["web1"]);
    consul.server.start_again();
    source.wait_for(&["web1", "web2"]);
    // The last ones may go, since it clears.
    consul.has(&[]);
    source.wait_for(&[]);
}

#[test]
fn a_token_is_read_for_each_query_and_stands_in_no_error() {
    let (consul, place) = (Consul::start(), tempfile::tempdir().unwrap());
    let file = place.path().join("token");
    std::fs::write(&file, "old-secret\n").unwrap();
    consul.change(|state| state.token = Some("old-secret".to_owned()));
    consul.has(&["web1"]);
    let settings = |file: &Path| {
        [
            ("address", consul.url()),
            ("service", Value::Text("web".to_owned())),
            ("token_file", Value::File(file.into())),
        ]
    };
    let mut source = Source::start("consul", &settings(&file));
    source.wait_for(&["web1"]);
    consul.change(|state| state.token = Some("new-secret".to_owned()));
    source.wait_for_error("HTTP 403: Permission denied");
    let (_, why) = source.standing().last_error.unwrap();
    assert!(!why.contains("secret"), "{why}");
    std::fs::write(&file, "new-secret\n").unwrap();
    consul.has(&["web2"]);
    source.wait_for(&["web2"]);
}

#[test]
fn address_service_tag_and_datacenter_decide_which_instances_are_found() {
    let (consul, other) = (Consul::start(), Consul::start());
    other.has(&["web4"]);
    consul.change(|state| {
        for (id, service, tags, datacenter) in [
            ("db1", "db", json!(["primary"]), "dc1"),
            ("web1", "web", json!(["new", "primary"]), "dc1"),
            ("web2", "web", json!([]), "dc1"),
            ("web3", "web", json!(["primary"]), "dc2"),
        ] {
            let mut new = instance(id, "10.0.0.1");
            new["Service"]["Service"] = service.into();
            new["Service"]["Tags"] = tags;
            new["Node"]["Datacenter"] = datacenter.into();
            state.instances.push((new, true));
        }
    });
    for (from, service, more, names) in [
        (&consul, "web", &[][..], &["web1", "web2"][..]),
        (&other, "web", &[], &["web4"]),
        (&consul, "db", &[], &["db1"]),
        (&consul, "web", &[("tag", "primary")], &["web1"]),
        (&consul, "web", &[("datacenter", "dc2")], &["web3"]),
    ] {
        let mut settings = vec![("address", from.url()), ("service", Value::Text(service.to_owned()))];
        settings.extend(more.iter().map(|(key, value)| (*key, Value::Text((*value).to_owned()))));
        Source::start("consul", &settings).wait_for(names);
    }
}

#[test]
fn consul_is_asked_by_https_if_the_ca_file_has_signed_for_it() {
    let consul = Consul::start();
    let Some((server, made)) = secure::before(consul.server.at().tcp()) else { return };
    consul.has(&["web1"]);
    let with = |ca: &str| {
        let (address, service) = (format!("https://{}", server.at()), "web".to_owned());
        let settings = [("address", address), ("service", service)].map(|(key, text)| (key, Value::Text(text)));
        Source::start("consul", &[&settings[..], &[("ca_file", Value::File(made.path(ca)))]].concat())
    };
    let mut good = with("ca.pem");
    good.wait_for(&["web1"]);
    consul.has(&["web1", "web2"]);
    good.wait_for(&["web1", "web2"]);
    let mut bad = with("other.pem");
    bad.wait_for_error("invalid peer certificate");
    assert!(bad.names().is_empty());
}
