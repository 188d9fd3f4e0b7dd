use super::*;
use crate::base::{Address, Listen};
use crate::config::diff;
use crate::config::model::{Global, Health, HealthKind};
use crate::discovery::{Kind, Settings, Takes, Value};
use proptest::prelude::*;

static TEST: Kind = Kind {
    name: "test",
    doc: "",
    keys: &[crate::discovery::Key { name: "at", takes: Takes::Text, doc: "", absent: "", example: "" }],
    watches: &["at"],
    reads: |_| Vec::new(),
    check: |_| Ok(()),
    run: |_, _| Ok(()),
};

fn at(port: u16) -> Address {
    Address::Inet(([10, 0, 0, 1], port).into())
}

fn own(name: &str, port: u16, weight: u16) -> Backend {
    Backend { name: name.to_owned(), weight, ..Backend::at(at(port)) }
}

fn found(name: &str, port: u16) -> Found {
    let state = AdminState::Enabled;
    Found { name: name.to_owned(), address: at(port), weight: None, max_connections: None, backup: None, state }
}

fn set(entries: &[Found]) -> Arc<Set> {
    Arc::new(entries.iter().map(|found| (found.name.clone(), found.clone())).collect())
}

fn discover(at: &str) -> Discover {
    let mut settings = Settings::new(&TEST);
    settings.set("at", Value::Text(at.to_owned()));
    Discover { settings, ..Discover::of(&TEST) }
}

fn id(label: &str) -> SourceId {
    SourceId { pool: "web".to_owned(), label: label.to_owned() }
}

fn model(backends: Vec<Backend>, discover: Vec<Discover>) -> Model {
    let pool = Pool { name: "web".to_owned(), backends, discover, ..Pool::default() };
    Model { global: Global::default(), listeners: Vec::new(), pools: vec![pool] }
}

fn names(model: &Model) -> Vec<(&str, u16)> {
    model.pools[0].backends.iter().map(|backend| (backend.name.as_str(), backend.weight)).collect()
}

fn extend(discovered: &mut Discovered, model: &mut Model) -> Extended {
    discovered.extend(model, |_, _| Ok(()))
}

fn state(extended: &Extended, name: &str) -> Option<AdminState> {
    // All others are enabled.
    Some(extended.states.get(&("web".to_owned(), name.to_owned())).copied().unwrap_or_default())
}

#[test]
fn the_file_the_api_and_an_earlier_source_win_a_name() {
    let api = Backend { origin: Origin::Api, ..own("b", 2, 1) };
    let mut running = model(vec![own("a", 1, 1), api], vec![discover("1"), discover("2")]);
    let mut discovered = Discovered::default();
    let first = [found("a", 11), found("b", 12), found("c", 13)];
    discovered.sets.insert(id("test"), set(&first));
    discovered.sets.insert(id("test-2"), set(&[found("c", 23), found("d", 24)]));
    let extended = extend(&mut discovered, &mut running);
    let shown: Vec<String> =
        running.pools[0].backends.iter().map(|it| format!("{} {} {}", it.name, it.address, it.origin)).collect();
    assert_eq!(
        shown,
        ["a 10.0.0.1:1 file", "b 10.0.0.1:2 api", "c 10.0.0.1:13 discovery:test", "d 10.0.0.1:24 discovery:test-2"]
    );
    let reasons = |label| extended.refused[&id(label)].reasons.clone();
    let text = "a backend of the same name is there already, by";
    assert_eq!(reasons("test"), [format!("a: {text} file"), format!("b: {text} api")]);
    assert_eq!(reasons("test-2"), [format!("c: {text} discovery:test")]);
}

#[test]
fn defaults_of_the_source_apply_where_an_entry_is_silent() {
    let source = Discover { weight: 7, max_connections: Some(9), backup: true, ..discover("1") };
    let mut running = model(Vec::new(), vec![source]);
    let mut discovered = Discovered::default();
    let own = Found { weight: Some(3), max_connections: Some(4), backup: Some(false), ..found("b", 2) };
    discovered.sets.insert(id("test"), set(&[found("a", 1), own]));
    extend(&mut discovered, &mut running);
    let shown: Vec<_> = running.pools[0].backends.iter().map(|it| (it.weight, it.max_connections, it.backup)).collect();
    assert_eq!(shown, [(7, Some(9), true), (3, Some(4), false)]);
}

#[test]
fn a_backend_whose_port_no_client_can_have_is_left_out() {
    let mut running = model(Vec::new(), vec![discover("1")]);
    running.pools[0].health = Health { kind: HealthKind::Off, ..Health::default() };
    let bind = |text: &str| vec![Listen::parse(text).unwrap()];
    let other = Listener { bind: bind("unix:/a"), pool: "other".to_owned(), ..Listener::default() };
    running.listeners = vec![Listener { bind: bind(":64536"), pool: "web".to_owned(), ..Listener::default() }, other];
    let at = |name: &str, at: &str| Found { address: Address::parse_backend(at).unwrap(), ..found(name, 1) };
    let entries = set(&[at("far", "10.0.0.1:+1000"), at("near", "10.0.0.1:+999")]);
    let mut discovered = Discovered { sets: [(id("test"), entries)].into(), ..Discovered::default() };
    let extended = extend(&mut discovered, &mut running);
    assert_eq!(names(&running), [("near", 1)]);
    let reasons = &extended.refused[&id("test")].reasons;
    assert_eq!(reasons[..], ["far: `10.0.0.1:+1000` leads beyond port 65535 for listener default at `:64536`"]);
}

#[test]
fn what_can_t_be_in_the_pool_is_left_out_and_harms_no_other() {
    let mut running = model(Vec::new(), vec![discover("1")]);
    running.pools[0].health.port = Some(80);
    let unix = Found { address: Address::parse_backend("unix:/a").unwrap(), ..found("unix", 1) };
    let none = Found { max_connections: Some(0), ..found("none", 1) };
    let twice = ("key".to_owned(), found("good", 9));
    let mut entries = Set::clone(&set(&[found("a b", 1), unix, none, found("good", 1), found("own", 2)]));
    entries.insert(twice.0, twice.1);
    let mut discovered = Discovered { sets: [(id("test"), Arc::new(entries))].into(), ..Discovered::default() };
    let extended = discovered.extend(&mut running, |_, backend| match backend.address {
        ref address if *address == at(2) => Err("is an own listener".to_owned()),
        _ => Ok(()),
    });
    assert_eq!(names(&running), [("good", 1)]);
    let left_out = &extended.refused[&id("test")];
    assert_eq!(left_out.count, 5);
    let text = left_out.reasons.join("\n");
    for part in
        ["a b: name: ", "key: another entry", "none: max_connections", "own: is an own", "unix: a probe of port 80"]
    {
        assert!(text.contains(part), "{text}");
    }
}

#[test]
fn what_the_api_changed_wins_until_the_backend_leaves() {
    let running = || model(Vec::new(), vec![discover("1")]);
    let mut discovered = Discovered::default();
    let says = |weight, state| set(&[Found { weight: Some(weight), state, ..found("a", 1) }]);
    discovered.sets.insert(id("test"), says(5, AdminState::Enabled));
    let mut now = running();
    assert_eq!(state(&extend(&mut discovered, &mut now), "a"), Some(AdminState::Enabled));
    discovered.change("web", "a", Some(3), None);
    // The source says the same as the operator for a while: the operator's value still wins.
    for weight in [3, 9] {
        discovered.sets.insert(id("test"), says(weight, AdminState::Draining));
        now = running();
        assert_eq!(state(&extend(&mut discovered, &mut now), "a"), Some(AdminState::Draining));
        assert_eq!(names(&now), [("a", 3)]);
    }
    discovered.change("web", "a", None, Some(AdminState::Enabled));
    now = running();
    assert_eq!(state(&extend(&mut discovered, &mut now), "a"), Some(AdminState::Enabled));
    discovered.sets.insert(id("test"), set(&[]));
    extend(&mut discovered, &mut running());
    discovered.sets.insert(id("test"), says(9, AdminState::Draining));
    now = running();
    assert_eq!(state(&extend(&mut discovered, &mut now), "a"), Some(AdminState::Draining));
    assert_eq!(names(&now), [("a", 9)], "it had left");
}

#[test]
fn a_source_keeps_its_set_over_a_reload_though_its_label_changes() {
    let (one, two, three) = (set(&[found("a", 1)]), set(&[found("b", 2)]), set(&[found("c", 3)]));
    let sets = [(id("test"), one.clone()), (id("test-2"), two.clone()), (id("test-3"), three.clone())];
    let before = Discovered { sets: sets.into(), ..Discovered::default() };
    let old = model(Vec::new(), vec![discover("1"), discover("2"), discover("3")]);
    let sets = |new: Vec<Discover>| before.carried(&old, &model(Vec::new(), new)).sets.into_iter().collect::<Vec<_>>();
    assert_eq!(sets(vec![discover("2"), discover("3")]), [(id("test"), two.clone()), (id("test-2"), three.clone())]);
    let changed = vec![discover("1"), discover("other"), discover("3")];
    let want = [(id("test"), one.clone()), (id("test-2"), two), (id("test-3"), three)];
    assert_eq!(sets(changed), want, "other settings keep the set until the first answer");
    assert_eq!(sets(vec![discover("1")]), [(id("test"), one)]);
    assert_eq!(sets(Vec::new()), []);
    let wanted = before.wanted(&old);
    assert_eq!(wanted.iter().map(|wanted| wanted.set.len()).collect::<Vec<_>>(), [1, 1, 1]);
}

type Entries = BTreeMap<u8, (u16, u16)>;

fn entries() -> impl Strategy<Value = Entries> {
    proptest::collection::btree_map(0u8..8, (1u16..4, 0u16..4), 0..8)
}

proptest! {
    /// Whatever sources say, the backends of the file and of the API are as without a source.
    #[test]
    fn no_source_removes_or_changes_a_backend_of_the_file_or_the_api(
        old in entries(),
        new in entries(),
        api in entries(),
        removed in proptest::collection::btree_set(0u8..8, 0..4),
        first in proptest::collection::vec(entries(), 1..4),
        second in proptest::collection::vec(entries(), 1..4),
    ) {
        let of_file = |entries: &Entries| {
            let backends = entries.iter().map(|(name, (port, weight))| own(&name.to_string(), *port, *weight));
            model(backends.collect(), vec![discover("1"), discover("2")])
        };
        let (old, new) = (of_file(&old), of_file(&new));
        let mut running = old.clone();
        let backends = &mut running.pools[0].backends;
        backends.retain(|backend| !removed.contains(&backend.name.parse::<u8>().unwrap()));
        for (name, (port, weight)) in &api {
            let name = name.to_string();
            match backends.iter_mut().find(|backend| backend.name == name) {
                Some(backend) => backend.weight = *weight,
                None => backends.push(Backend { origin: Origin::Api, ..own(&name, *port, *weight) }),
            }
        }
        let mut discovered = Discovered::default();
        let take = |discovered: &mut Discovered, sets: &[Entries]| {
            for (number, entries) in sets.iter().enumerate() {
                let entries: Vec<Found> = entries.iter().map(|(name, (port, weight))| {
                    Found { weight: Some(*weight), ..found(&name.to_string(), 100 + port) }
                }).collect();
                let label = if number % 2 == 0 { "test" } else { "test-2" };
                discovered.sets.insert(id(label), set(&entries));
            }
        };
        take(&mut discovered, &first);
        let mut now = running.clone();
        extend(&mut discovered, &mut now);
        prop_assert_eq!(&without(&now), &running);
        take(&mut discovered, &second);
        let mut now = without(&now);
        extend(&mut discovered, &mut now);
        prop_assert_eq!(&without(&now), &running);
        let mut unique: Vec<&str> = now.pools[0].backends.iter().map(|it| it.name.as_str()).collect();
        unique.sort_unstable();
        let all = unique.len();
        unique.dedup();
        prop_assert_eq!(unique.len(), all, "names are unique");
        // A reload does to them what it does without sources.
        let plain = diff::merge(&old, &new, &running);
        let mut reloaded = diff::merge(&old, &new, &without(&now));
        let mut discovered = discovered.carried(&old, &new);
        extend(&mut discovered, &mut reloaded);
        prop_assert_eq!(without(&reloaded), plain);
    }
}
