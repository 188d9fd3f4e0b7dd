//! What control makes of the sets of sources: a source here says what the test makes it say.

use crate::balancer::Balancer;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tcplb::app::Refused;
use tcplb::base::{Address, AdminState, Endpoint, Listen};
use tcplb::config::model::{self, Backend, Discover, Global, Health, HealthKind, Model};
use tcplb::discovery::{Feed, Found, Item, Kind, Settings, Takes, Value};
use tcplb::events::Kind as EventKind;
use tcplb::pool::Member;
use testkit::{Server, eventually, peers};

/// What the sources say, by the value of their key `at`, and how often that changed.
static SAID: Mutex<Option<HashMap<String, (u64, Answer)>>> = Mutex::new(None);

type Answer = Result<Vec<Item>, String>;

static TEST: Kind = Kind {
    name: "test",
    doc: "",
    keys: &[tcplb::discovery::Key { name: "at", takes: Takes::Text, doc: "", absent: "", example: "" }],
    watches: &["at"],
    reads: |_| Vec::new(),
    check: |_| Ok(()),
    run,
};

fn run(settings: &Settings, feed: &mut Feed) -> Result<(), String> {
    let at = settings.text("at").unwrap().to_owned();
    let mut seen = 0;
    while feed.wait(Duration::from_millis(2)) {
        let said = SAID.lock().as_ref().and_then(|said| said.get(&at).cloned());
        if let Some((version, answer)) = said.filter(|(version, _)| *version != seen) {
            seen = version;
            feed.replace(answer?)?;
        }
    }
    Ok(())
}

fn say(at: &str, answer: Answer) {
    let mut said = SAID.lock();
    let entry = said.get_or_insert_default().entry(at.to_owned()).or_insert((0, Ok(Vec::new())));
    *entry = (entry.0 + 1, answer);
}

fn item(name: &str, address: Address) -> Item {
    let state = AdminState::Enabled;
    let found = Found { name: name.to_owned(), address, weight: None, max_connections: None, backup: None, state };
    Item::new(name, Ok(found))
}

fn at(port: u16) -> Address {
    Address::Inet(([10, 0, 0, 1], port).into())
}

fn with(mut item: Item, change: impl FnOnce(&mut Found)) -> Item {
    change(item.found.as_mut().unwrap());
    item
}

fn discover(at: &str) -> Discover {
    let mut discover = Discover::of(&TEST);
    discover.settings.set("at", Value::Text(at.to_owned()));
    discover
}

fn model(backends: Vec<Backend>, sources: &[&str]) -> Model {
    let listener = model::Listener {
        pool: "web".to_owned(),
        bind: vec![Listen::parse("127.0.0.1:0").unwrap()],
        ..model::Listener::default()
    };
    let pool = model::Pool {
        name: "web".to_owned(),
        backends,
        discover: sources.iter().map(|at| discover(at)).collect(),
        health: Health { kind: HealthKind::Off, ..Health::default() },
        ..model::Pool::default()
    };
    Model { global: Global { workers: 2, ..Global::default() }, listeners: vec![listener], pools: vec![pool] }
}

/// Name, weight and origin of each backend.
fn backends(balancer: &Balancer) -> Vec<String> {
    let snapshot = balancer.published.snapshot();
    let pool = &snapshot.pool("web").unwrap().settings;
    pool.backends.iter().map(|it| format!("{} {} {}", it.name, it.weight, it.origin)).collect()
}

#[track_caller]
fn wait_for(balancer: &Balancer, want: &[&str]) {
    eventually(&format!("the backends are {want:?}"), || backends(balancer) == want);
}

fn member<T>(balancer: &Balancer, name: &str, of: impl Fn(&Member) -> T) -> T {
    let snapshot = balancer.published.snapshot();
    let pool = snapshot.pool("web").unwrap();
    of(pool.members.iter().find(|member| *member.backend.name == *name).unwrap())
}

fn standing(balancer: &Balancer) -> tcplb::discovery::Standing {
    balancer.published.sources().values().next().unwrap().lock().clone()
}

#[test]
fn backends_that_a_source_finds_serve_and_leave_with_its_answer_alone() {
    let (one, two) = (Server::start(peers::named("one")), Server::start(peers::named("two")));
    let address = |server: &Server| Address::parse_backend(&server.at().to_string()).unwrap();
    let balancer = Balancer::start(model(Vec::new(), &["serve"]));
    say("serve", Ok(vec![item("one", address(&one))]));
    wait_for(&balancer, &["one 1 discovery:test"]);
    let client = balancer.connect();
    assert_eq!(client.hear_line(), "one");
    for answer in [Err("is gone".to_owned()), Ok(Vec::new()), Ok(vec![Item::new("x", Err("?".into()))])] {
        let errors = standing(&balancer).errors;
        let fails = !matches!(&answer, Ok(items) if items.is_empty());
        say("serve", answer);
        eventually("the error shows", || !fails || standing(&balancer).errors > errors);
        assert_eq!(backends(&balancer), ["one 1 discovery:test"]);
    }
    say("serve", Ok(vec![item("two", address(&two))]));
    wait_for(&balancer, &["two 1 discovery:test"]);
    assert_eq!(balancer.connect().hear_line(), "two");
    client.assert_echoes("its connection goes on");
    let events = balancer.published.events().since(0, 1000).0;
    let config = events.iter().filter(|it| it.event.kind == EventKind::Config);
    let shown: Vec<String> =
        config.map(|it| format!("{} {}", it.event.backend.as_deref().unwrap(), it.event.by.word())).collect();
    assert_eq!(shown, ["one discovery:test", "two discovery:test", "one discovery:test"]);
}

#[test]
fn an_operators_change_of_a_discovered_backend_stays_until_it_leaves() {
    let balancer = Balancer::start(model(vec![Backend { name: "own".into(), ..Backend::at(at(9)) }], &["operator"]));
    say("operator", Ok(vec![item("a", at(1)), item("b", at(2))]));
    wait_for(&balancer, &["own 1 file", "a 1 discovery:test", "b 1 discovery:test"]);
    balancer.remote.change_backend("web", "a", Some(7), Some(AdminState::Draining)).unwrap();
    say("operator", Ok(vec![with(item("a", at(1)), |found| found.weight = Some(3)), item("c", at(3))]));
    wait_for(&balancer, &["own 1 file", "a 7 discovery:test", "c 1 discovery:test"]);
    assert_eq!(member(&balancer, "a", |it| it.state), AdminState::Draining);
    let refused = balancer.remote.remove_backend("web", "a", false).unwrap_err();
    assert!(matches!(&refused, Refused::Discovered { source, .. } if source == "test"), "{refused}");
    balancer.remote.remove_backend("web", "own", false).unwrap();
    let added = Backend { name: "c".into(), ..Backend::at(at(4)) };
    assert!(matches!(balancer.remote.add_backend("web", added), Err(Refused::Exists { .. })));
    // A reload of an unchanged file changes none of it.
    assert_eq!(balancer.reload(|_| {}).0, []);
    assert_eq!(backends(&balancer), ["a 7 discovery:test", "c 1 discovery:test"]);
    say("operator", Ok(vec![item("c", at(3))]));
    wait_for(&balancer, &["c 1 discovery:test"]);
    say("operator", Ok(vec![item("a", at(1)), item("c", at(3))]));
    wait_for(&balancer, &["a 1 discovery:test", "c 1 discovery:test"]);
    assert_eq!(member(&balancer, "a", |it| it.state), AdminState::Enabled);
    let disabled = with(item("a", at(1)), |found| found.state = AdminState::Disabled);
    say("operator", Ok(vec![disabled, item("c", at(3))]));
    eventually("the source's state holds", || member(&balancer, "a", |it| it.state) == AdminState::Disabled);
}

#[test]
fn what_a_pool_cannot_have_is_an_error_of_the_source() {
    let balancer = Balancer::start(model(vec![Backend { name: "own".into(), ..Backend::at(at(9)) }], &["refused"]));
    let own = Address::parse_backend(&balancer.at().to_string()).unwrap();
    say("refused", Ok(vec![item("own", at(1)), item("loop", own), item("good", at(2))]));
    wait_for(&balancer, &["own 1 file", "good 1 discovery:test"]);
    eventually("the errors show", || standing(&balancer).refused == 2);
    assert_eq!((standing(&balancer).errors, standing(&balancer).is_well()), (2, false));
    balancer.remote.remove_backend("web", "own", false).unwrap();
    assert_eq!(backends(&balancer), ["good 1 discovery:test", "own 1 discovery:test"]);
    let endpoints = member(&balancer, "own", |it| it.backend.endpoints());
    assert_eq!(endpoints, [Endpoint::Inet(([10, 0, 0, 1], 1).into())], "the source's backend is where the source says");
    assert_eq!(standing(&balancer).refused, 1);
}

#[test]
fn what_a_source_finds_is_applied_though_it_leaves_fewer_clients_than_max_connections() {
    let most = |balancer: &Balancer| balancer.published.connection_limit().limit();
    let fits = most(&Balancer::start(model(Vec::new(), &["descriptors"])));
    let mut full = model(Vec::new(), &["descriptors"]);
    full.global.max_connections = Some(fits);
    // More than the share of the limit that is kept anyway.
    full.pools[0].warm_connections = 1_000;
    let balancer = Balancer::start(full);
    assert_eq!(most(&balancer), fits);
    // A disabled backend has its descriptors set aside, and nothing dials it.
    let disabled = |name, port| with(item(name, at(port)), |found| found.state = AdminState::Disabled);
    say("descriptors", Ok(vec![disabled("a", 1)]));
    wait_for(&balancer, &["a 1 discovery:test"]);
    assert!(most(&balancer) < fits, "{} of {fits}", most(&balancer));
    say("descriptors", Ok(vec![disabled("b", 2)]));
    wait_for(&balancer, &["b 1 discovery:test"]);
    balancer.reload(|file| file.pools[0].warm_connections = 0);
    assert_eq!(most(&balancer), fits);
}

#[test]
fn a_reload_leaves_equal_sources_alone_and_takes_the_backends_of_a_removed_one() {
    let balancer = Balancer::start(model(Vec::new(), &["first", "second"]));
    say("first", Ok(vec![item("a", at(1))]));
    say("second", Ok(vec![item("b", at(2))]));
    wait_for(&balancer, &["a 1 discovery:test", "b 1 discovery:test-2"]);
    let id = member(&balancer, "b", |it| it.backend.id);
    balancer.reload(|file| drop(file.pools[0].discover.remove(0)));
    assert_eq!(backends(&balancer), ["b 1 discovery:test"], "it keeps its set under another label");
    assert_eq!(member(&balancer, "b", |it| it.backend.id), id);
    balancer.break_file(&["a mistake"]);
    assert!(balancer.remote.reload(false).is_err());
    assert_eq!(backends(&balancer), ["b 1 discovery:test"]);
    // Other settings: the old set stays until the first answer.
    balancer.reload(|file| file.pools[0].discover[0] = discover("third"));
    assert_eq!(backends(&balancer), ["b 1 discovery:test"]);
    say("third", Ok(vec![item("c", at(3))]));
    wait_for(&balancer, &["c 1 discovery:test"]);
    balancer.reload(|file| file.pools[0].discover.clear());
    assert_eq!(backends(&balancer), [""; 0]);
}

#[test]
fn ten_thousand_backends_in_one_answer_are_live_at_once() {
    let balancer = Balancer::start(model(Vec::new(), &["many"]));
    let many = (0..10_000u32).map(|number| {
        let [_, _, high, low] = number.to_be_bytes();
        item(&format!("b{number:05}"), Address::Inet(([10, 1, high, low], 80).into()))
    });
    let many: Vec<Item> = many.collect();
    let begun = Instant::now();
    say("many", Ok(many.clone()));
    eventually("all are there", || backends(&balancer).len() == 10_000);
    println!("10 000 backends are live after {:?}", begun.elapsed());
    let events = balancer.published.events().since(0, 100_000).0;
    assert!(events.len() <= 1003, "{} events", events.len());
    let before: Vec<_> =
        balancer.published.snapshot().pools[0].members.iter().map(|it| Arc::as_ptr(&it.backend)).collect();
    say("many", Ok(many[..9_999].to_vec()));
    eventually("one has left", || backends(&balancer).len() == 9_999);
    let after: Vec<_> =
        balancer.published.snapshot().pools[0].members.iter().map(|it| Arc::as_ptr(&it.backend)).collect();
    assert_eq!(after, before[..9_999], "the others stay");
}
