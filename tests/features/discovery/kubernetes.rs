//! Kubernetes, against a stateful fake of its list and watch written from its documentation:
//! <https://kubernetes.io/docs/reference/using-api/api-concepts/>.

use super::fake::{Call, respond, serve};
use super::secure;
use super::source::Source;
use parking_lot::{Condvar, Mutex};
use serde_json::{Value as Json, json};
use std::collections::BTreeMap;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tcplb::base::AdminState;
use tcplb::discovery::Value;
use testkit::{Conn, Server, eventually};

/// How the fake says that a version is too old.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Gone {
    Status,
    Event,
}

/// The label with a slice's Service.
const LABEL: &str = "kubernetes.io/service-name";

struct State {
    version: u64,
    slices: BTreeMap<String, Json>,
    /// What happened, with its version.
    history: Vec<(u64, Json)>,
    /// A watch from before this version is too old.
    oldest: u64,
    gone: Gone,
    /// Counts the orders to end all watches.
    drops: u64,
    token: Option<String>,
    page: usize,
    lists: usize,
    /// The versions that watches began from.
    watches: Vec<u64>,
}

/// A fake of the API.
pub(super) struct Cluster {
    pub(super) server: Server,
    shared: Arc<(Mutex<State>, Condvar)>,
}

fn slice(name: &str, endpoints: &[(&str, &str, Json)]) -> Json {
    let endpoint = |(pod, address, conditions): &(&str, &str, Json)| json!({"addresses": [address], "conditions": conditions, "targetRef": {"kind": "Pod", "name": pod}});
    let endpoints: Vec<Json> = endpoints.iter().map(endpoint).collect();
    json!({"metadata": {"name": name, "namespace": "shop", "labels": {LABEL: "web"}}, "addressType": "IPv4", "endpoints": endpoints,
        "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}]})
}

fn ready(pod: &'static str) -> (&'static str, &'static str, Json) {
    (pod, "10.1.0.1", json!({"ready": true}))
}

impl Cluster {
    pub(super) fn start() -> Cluster {
        let state = State {
            version: 100,
            slices: BTreeMap::new(),
            history: vec![],
            oldest: 0,
            gone: Gone::Status,
            drops: 0,
            token: None,
            page: 500,
            lists: 0,
            watches: vec![],
        };
        let shared = Arc::new((Mutex::new(state), Condvar::new()));
        let serving = shared.clone();
        Cluster { server: serve(move |call, conn| answer(&serving, call, conn)), shared }
    }

    fn settings(&self) -> Vec<(&'static str, Value)> {
        let text = |text: &str| Value::Text(text.to_owned());
        let api = Value::Text(format!("http://{}", self.server.at()));
        vec![("api", api), ("namespace", text("shop")), ("service", text("web")), ("port", text("http"))]
    }

    fn source(&self) -> Source {
        Source::start("kubernetes", &self.settings())
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.shared.0.lock());
        self.shared.1.notify_all();
    }

    fn put(&self, slice: Json) {
        self.change(|state| state.put(slice));
    }

    /// A slice with the pod of its name, here.
    pub(super) fn put_at(&self, name: &'static str, at: SocketAddr) {
        let mut new = slice(name, &[(name, &at.ip().to_string(), json!({"ready": true}))]);
        new["ports"][0]["port"] = at.port().into();
        self.put(new);
    }

    pub(super) fn delete(&self, name: &str) {
        self.change(|state| {
            let mut slice = state.slices.remove(name).expect("a slice");
            state.record("DELETED", &mut slice);
        });
    }

    fn queries(&self) -> (usize, Vec<u64>) {
        let state = self.shared.0.lock();
        (state.lists, state.watches.clone())
    }
}

impl State {
    fn put(&mut self, mut slice: Json) {
        let name = slice["metadata"]["name"].as_str().expect("a name").to_owned();
        let kind = if self.slices.contains_key(&name) { "MODIFIED" } else { "ADDED" };
        self.record(kind, &mut slice);
        self.slices.insert(name, slice);
    }

    fn record(&mut self, kind: &str, object: &mut Json) {
        self.version += 1;
        object["metadata"]["resourceVersion"] = self.version.to_string().into();
        self.history.push((self.version, json!({"type": kind, "object": object})));
    }
}

fn status(code: u16, message: &str) -> Json {
    json!({"kind": "Status", "status": "Failure", "message": message, "code": code})
}

fn answer(shared: &(Mutex<State>, Condvar), call: &Call, conn: &Conn) -> io::Result<()> {
    let mut state = shared.0.lock();
    let place = call.path.strip_prefix("/apis/discovery.k8s.io/v1/namespaces/").expect("a namespace");
    let namespace = place.strip_suffix("/endpointslices").expect("slices");
    let service = call.query["labelSelector"].strip_prefix("kubernetes.io%2Fservice-name%3D").expect("a service");
    let is_asked_for = |slice: &Json| {
        let metadata = &slice["metadata"];
        // What is no slice, like a bookmark, has no namespace.
        metadata["namespace"].is_null() || (metadata["namespace"] == namespace && metadata["labels"][LABEL] == service)
    };
    let wanted = state.token.as_ref().map(|token| format!("Bearer {token}"));
    if wanted.is_some() && wanted.as_ref() != call.headers.get("authorization") {
        drop(state);
        return respond(conn, "401 Unauthorized", "", &status(401, "Unauthorized").to_string());
    }
    if call.query.get("watch").is_some_and(|watch| watch == "true") {
        return watch(shared, state, call, conn, is_asked_for);
    }
    state.lists += 1;
    let from: usize = call.query.get("continue").map_or(0, |token| token.parse().unwrap());
    let slices: Vec<&Json> = state.slices.values().filter(|slice| is_asked_for(slice)).collect();
    let to = (from + state.page.min(call.query["limit"].parse().unwrap())).min(slices.len());
    let items = &slices[from..to];
    let more = if to < slices.len() { to.to_string() } else { String::new() };
    let metadata = json!({"resourceVersion": state.version.to_string(), "continue": more});
    let body = json!({"kind": "EndpointSliceList", "metadata": metadata, "items": items}).to_string();
    drop(state);
    respond(conn, "200 OK", "Content-Type: application/json\r\n", &body)
}

fn watch(
    shared: &(Mutex<State>, Condvar),
    mut state: parking_lot::MutexGuard<'_, State>,
    call: &Call,
    mut conn: &Conn,
    is_asked_for: impl Fn(&Json) -> bool,
) -> io::Result<()> {
    let mut seen: u64 = call.query["resourceVersion"].parse().unwrap();
    let seconds: u64 = call.query["timeoutSeconds"].parse().unwrap();
    assert_eq!(call.query["allowWatchBookmarks"], "true");
    state.watches.push(seen);
    let too_old = seen < state.oldest;
    if too_old && state.gone == Gone::Status {
        drop(state);
        return respond(conn, "410 Gone", "", &status(410, "too old resource version").to_string());
    }
    conn.write_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n")?;
    let chunk = |text: &str| format!("{:x}\r\n{text}\r\n", text.len());
    if too_old {
        let event = json!({"type": "ERROR", "object": status(410, "too old resource version")});
        return conn.write_all(format!("{}0\r\n\r\n", chunk(&event.to_string())).as_bytes());
    }
    let (until, drops) = (Instant::now() + Duration::from_secs(seconds), state.drops);
    loop {
        let new: Vec<(u64, Json)> = state.history.iter().filter(|(version, _)| *version > seen).cloned().collect();
        for (version, event) in new {
            seen = version;
            if !is_asked_for(&event["object"]) {
                continue;
            }
            // Cut anywhere: a chunk is no event.
            let text = format!("{event}\n");
            let (one, two) = text.split_at(text.len() / 2);
            conn.write_all((chunk(one) + &chunk(two)).as_bytes())?;
        }
        if state.drops != drops || shared.1.wait_until(&mut state, until).timed_out() {
            return conn.write_all(b"0\r\n\r\n");
        }
    }
}

#[test]
fn slices_come_change_and_go() {
    let cluster = Cluster::start();
    cluster.put(slice("web-a", &[ready("p1")]));
    let mut source = cluster.source();
    source.wait_for(&["p1"]);
    cluster.put(slice("web-b", &[ready("p2"), ("p3", "10.1.0.3", json!({"ready": false}))]));
    source.wait_for(&["p1", "p2", "p3"]);
    assert_eq!(source.set()["p3"].state, AdminState::Disabled);
    cluster.put(slice("web-b", &[ready("p2")]));
    source.wait_for(&["p1", "p2"]);
    cluster.delete("web-a");
    source.wait_for(&["p2"]);
    // The last one ends, and serves until then.
    let conditions = json!({"ready": false, "serving": true, "terminating": true});
    cluster.put(slice("web-b", &[("p4", "10.1.0.4", conditions)]));
    source.wait_for(&["p4"]);
    assert_eq!(source.set()["p4"].state, AdminState::Enabled);
    let (lists, watches) = cluster.queries();
    assert!(lists <= 2 && watches.len() <= 2, "{lists} {watches:?}");
}

#[test]
fn a_version_that_is_gone_is_listed_again() {
    for gone in [Gone::Status, Gone::Event] {
        let cluster = Cluster::start();
        cluster.put(slice("web-a", &[ready("p1")]));
        let mut source = cluster.source();
        source.wait_for(&["p1"]);
        eventually("a watch", || !cluster.queries().1.is_empty());
        // The change is compacted away before the next watch can see it.
        cluster.change(|state| {
            state.gone = gone;
            state.put(slice("web-a", &[ready("p2")]));
            state.history.clear();
            state.oldest = state.version;
            state.drops += 1;
        });
        source.wait_for(&["p2"]);
        assert_eq!((source.standing().errors, cluster.queries().0), (0, 2), "{gone:?}");
        cluster.put(slice("web-a", &[ready("p3")]));
        source.wait_for(&["p3"]);
    }
}

#[test]
fn a_dropped_watch_goes_on_from_its_bookmark() {
    let cluster = Cluster::start();
    cluster.put(slice("web-a", &[ready("p1")]));
    let mut source = cluster.source();
    source.wait_for(&["p1"]);
    eventually("a watch", || !cluster.queries().1.is_empty());
    let before = source.standing().last_success;
    cluster.change(|state| {
        state.version = 500;
        let object = json!({"kind": "EndpointSlice", "metadata": {"resourceVersion": "500"}});
        state.history.push((500, json!({"type": "BOOKMARK", "object": object})));
    });
    eventually("the bookmark counts as an answer", || source.standing().last_success != before);
    cluster.change(|state| state.drops += 1);
    eventually("a watch from the bookmark", || cluster.queries().1.last() == Some(&500));
    cluster.put(slice("web-a", &[ready("p2")]));
    source.wait_for(&["p2"]);
    assert_eq!(cluster.queries().0, 1, "no further list");
}

#[test]
fn no_failure_of_the_api_removes_a_backend() {
    let mut cluster = Cluster::start();
    cluster.put(slice("web-a", &[ready("p1")]));
    cluster.put(slice("web-b", &[ready("p2")]));
    cluster.change(|state| state.page = 1);
    let mut source = Source::clearing("kubernetes", &cluster.settings());
    source.wait_for(&["p1", "p2"]);
    // A slice that is not understood keeps its endpoints.
    cluster.put(
        json!({"metadata": {"name": "web-a", "namespace": "shop", "labels": {LABEL: "web"}}, "addressType": "IPv9"}),
    );
    source.wait_for_error("slice web-a: unknown variant");
    assert_eq!(source.names(), ["p1", "p2"]);
    cluster.put(slice("web-a", &[ready("p3")]));
    source.wait_for(&["p2", "p3"]);
    assert!(source.standing().is_well());
    // Garbage instead of an event.
    cluster.change(|state| state.history.push((state.version + 1, json!("rubbish"))));
    source.wait_for_error("the answer is not understood");
    cluster.change(|state| state.history.clear());
    eventually("it answers again", || source.standing().is_well());
    cluster.server.stop();
    cluster.put(slice("web-b", &[ready("p4")]));
    source.wait_for_error("refused");
    assert_eq!(source.names(), ["p2", "p3"]);
    cluster.server.start_again();
    source.wait_for(&["p3", "p4"]);
    cluster.delete("web-a");
    cluster.delete("web-b");
    source.wait_for(&[]);
}

#[test]
fn a_token_that_is_renewed_is_read_again() {
    let (cluster, place) = (Cluster::start(), tempfile::tempdir().unwrap());
    let file = place.path().join("token");
    std::fs::write(&file, "old-secret").unwrap();
    cluster.change(|state| state.token = Some("old-secret".to_owned()));
    cluster.put(slice("web-a", &[ready("p1")]));
    let mut settings = cluster.settings();
    settings.push(("token_file", Value::File(file.clone())));
    let mut source = Source::start("kubernetes", &settings);
    source.wait_for(&["p1"]);
    cluster.change(|state| {
        state.token = Some("new-secret".to_owned());
        state.drops += 1;
    });
    source.wait_for_error("HTTP 401: Unauthorized");
    std::fs::write(&file, "new-secret").unwrap();
    cluster.put(slice("web-a", &[ready("p2")]));
    source.wait_for(&["p2"]);
    let (_, why) = source.standing().last_error.unwrap();
    assert!(!why.contains("secret"), "{why}");
}

#[test]
fn api_namespace_service_and_port_decide_which_endpoints_are_found() {
    let (cluster, other) = (Cluster::start(), Cluster::start());
    other.put(slice("web-a", &[ready("p4")]));
    for (name, namespace, service, pod) in
        [("web-a", "shop", "web", "p1"), ("db-a", "shop", "db", "p2"), ("web-b", "bank", "web", "p3")]
    {
        let mut new = slice(name, &[ready(pod)]);
        new["metadata"]["namespace"] = namespace.into();
        new["metadata"]["labels"][LABEL] = service.into();
        new["ports"] = json!([{"name": "http", "port": 8080}, {"name": "admin", "port": 9900}]);
        cluster.put(new);
    }
    for (from, namespace, service, port, want) in [
        (&cluster, "shop", "web", "http", ("p1", "10.1.0.1:8080")),
        (&other, "shop", "web", "http", ("p4", "10.1.0.1:8080")),
        (&cluster, "bank", "web", "http", ("p3", "10.1.0.1:8080")),
        (&cluster, "shop", "db", "http", ("p2", "10.1.0.1:8080")),
        (&cluster, "shop", "web", "admin", ("p1", "10.1.0.1:9900")),
    ] {
        let api = format!("http://{}", from.server.at());
        let texts = [("api", api.as_str()), ("namespace", namespace), ("service", service), ("port", port)];
        let mut source = Source::start("kubernetes", &texts.map(|(key, text)| (key, Value::Text(text.to_owned()))));
        source.wait_for(&[want.0]);
        assert_eq!(source.found(want.0).address.to_string(), want.1);
    }
}

#[test]
fn the_api_is_asked_by_https_if_the_ca_file_has_signed_for_it() {
    let cluster = Cluster::start();
    let Some((server, made)) = secure::before(cluster.server.at().tcp()) else { return };
    cluster.put(slice("web-a", &[ready("p1")]));
    let with = |ca: &str| {
        let mut settings = cluster.settings();
        settings[0] = ("api", Value::Text(format!("https://{}", server.at())));
        settings.push(("ca_file", Value::File(made.path(ca))));
        Source::start("kubernetes", &settings)
    };
    let mut good = with("ca.pem");
    good.wait_for(&["p1"]);
    cluster.put(slice("web-a", &[ready("p2")]));
    good.wait_for(&["p2"]);
    let mut bad = with("other.pem");
    bad.wait_for_error("invalid peer certificate");
    assert!(bad.names().is_empty());
}

#[test]
fn a_list_of_another_kind_is_an_error_and_no_empty_list() {
    let server =
        serve(|_: &Call, conn| respond(conn, "200 OK", "", r#"{"kind": "PodList", "metadata": {}, "items": []}"#));
    let text = |text: &str| Value::Text(text.to_owned());
    let api = text(&format!("http://{}", server.at()));
    let settings = [("api", api), ("namespace", text("shop")), ("service", text("web"))];
    let source = Source::clearing("kubernetes", &settings);
    source.wait_for_error("expected a list of kind EndpointSliceList, got `PodList`");
}
