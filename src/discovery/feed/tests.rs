use super::*;
use crossbeam_channel::bounded;
use proptest::prelude::*;

struct Harness {
    feed: Feed,
    standing: Arc<Mutex<Standing>>,
    handed: Arc<Mutex<Vec<Arc<Set>>>>,
    _stop: crossbeam_channel::Sender<()>,
}

fn harness(clears: bool) -> Harness {
    let (stop, stopped) = bounded(0);
    let (standing, handed) = (Arc::<Mutex<Standing>>::default(), Arc::<Mutex<Vec<_>>>::default());
    let of_feed = handed.clone();
    let hand_over = Box::new(move |set: &Arc<Set>| of_feed.lock().push(set.clone()));
    let name = ("pool web: discovery by test".to_owned(), "/web/".to_owned());
    let feed = Feed::new(name, clears, Arc::default(), standing.clone(), stopped, hand_over);
    Harness { feed, standing, handed, _stop: stop }
}

fn found(port: u16) -> Found {
    let address = Address::Inet(([10, 0, 0, 1], port).into());
    let state = AdminState::Enabled;
    Found { name: format!("web{port}"), address, weight: None, max_connections: None, backup: None, state }
}

fn good(key: &str, port: u16) -> Item {
    Item::new(key, Ok(found(port)))
}

fn bad(key: &str) -> Item {
    Item::new(key, Err("expected an address".to_owned()))
}

fn ports(set: &Set) -> Vec<(&str, String)> {
    set.iter().map(|(key, found)| (key.as_str(), found.address.to_string().replace("10.0.0.1:", ""))).collect()
}

impl Harness {
    fn has(&self, want: &[(&str, &str)]) {
        let want: Vec<(&str, String)> = want.iter().map(|(key, port)| (*key, (*port).to_owned())).collect();
        assert_eq!(ports(self.feed.set()), want);
        let handed = self.handed.lock();
        assert_eq!(handed.last().map_or(Vec::new(), |set| ports(set)), want, "what was handed over");
        assert_eq!(self.standing.lock().backends, want.len());
    }

    fn handed(&self) -> usize {
        self.handed.lock().len()
    }
}

#[test]
fn an_item_that_is_not_understood_keeps_what_its_key_said_and_harms_no_other() {
    let mut it = harness(false);
    it.feed.replace(vec![good("a", 1), good("b", 2), bad("c")]).unwrap();
    it.has(&[("a", "1"), ("b", "2")]);
    it.feed.replace(vec![bad("a"), good("b", 22), good("c", 3)]).unwrap();
    it.has(&[("a", "1"), ("b", "22"), ("c", "3")]);
    {
        let standing = it.standing.lock();
        assert_eq!((standing.errors, standing.misunderstood, standing.is_well()), (2, 1, false));
        assert_eq!(standing.last_error.as_ref().unwrap().1, "a: expected an address");
    }
    it.feed.change(vec![bad("b"), bad("d")], &["c".to_owned()]).unwrap();
    it.has(&[("a", "1"), ("b", "22")]);
    it.feed.replace(vec![good("a", 1), good("b", 2)]).unwrap();
    assert!(it.standing.lock().is_well(), "every item is understood again");
}

#[test]
fn an_empty_answer_follows_on_empty() {
    let mut keeps = harness(false);
    keeps.feed.replace(vec![good("a", 1), good("b", 2)]).unwrap();
    keeps.feed.replace(Vec::new()).unwrap();
    keeps.has(&[("a", "1"), ("b", "2")]);
    keeps.feed.change(Vec::new(), &["a".to_owned(), "b".to_owned()]).unwrap();
    keeps.has(&[("a", "1"), ("b", "2")]);
    assert!(keeps.standing.lock().is_well(), "it has answered");
    keeps.feed.change(vec![good("c", 3)], &[]).unwrap();
    keeps.has(&[("c", "3")]);
    let mut clears = harness(true);
    clears.feed.replace(vec![good("a", 1)]).unwrap();
    clears.feed.replace(Vec::new()).unwrap();
    clears.has(&[]);
    clears.feed.replace(vec![good("a", 1)]).unwrap();
    clears.feed.change(Vec::new(), &["a".to_owned()]).unwrap();
    clears.has(&[]);
}

#[test]
fn an_answer_that_is_all_garbage_is_not_an_empty_one() {
    for clears in [false, true] {
        let mut it = harness(clears);
        it.feed.replace(vec![good("a", 1), good("b", 2)]).unwrap();
        it.feed.replace(vec![bad("x"), bad("y")]).unwrap();
        it.has(&[("a", "1"), ("b", "2")]);
        it.feed.change(vec![bad("z")], &["a".to_owned(), "b".to_owned()]).unwrap();
        it.has(&[("a", "1"), ("b", "2")]);
        it.feed.replace(vec![good("x", 3), bad("y")]).unwrap();
        it.has(&[("x", "3")]);
    }
}

#[test]
fn an_answer_without_an_entry_that_is_understood_removes_none() {
    for clears in [false, true] {
        let mut it = harness(clears);
        it.feed.replace(vec![good("a", 1), good("b", 2)]).unwrap();
        it.feed.replace(vec![bad("b")]).unwrap();
        it.has(&[("a", "1"), ("b", "2")]);
        assert_eq!(it.standing.lock().kept, Some((1, NOT_UNDERSTOOD)));
        it.feed.change(vec![bad("c")], &[]).unwrap();
        it.has(&[("a", "1"), ("b", "2")]);
        it.feed.change(vec![good("c", 3)], &[]).unwrap();
        it.has(&[("b", "2"), ("c", "3")]);
        assert_eq!(it.standing.lock().kept, None);
    }
}

#[test]
fn an_entry_that_names_no_backend_may_be_any_of_them() {
    for clears in [false, true] {
        let mut it = harness(clears);
        let unnamed = || Item::unnamed("entry 1", "no name".to_owned());
        it.feed.replace(vec![good("a", 1), good("b", 2), good("c", 3)]).unwrap();
        it.feed.replace(vec![unnamed(), good("b", 22), good("d", 4)]).unwrap();
        it.has(&[("a", "1"), ("b", "22"), ("c", "3"), ("d", "4")]);
        {
            let standing = it.standing.lock();
            assert_eq!((standing.kept, standing.misunderstood), (Some((2, UNNAMED)), 1));
            assert_eq!(standing.left_out().collect::<Vec<_>>(), ["entry 1: no name"]);
        }
        let many = (0..BACKENDS_MAX - 1).map(|key| good(&format!("{key:06}"), 1)).chain([unnamed()]);
        assert!(it.feed.replace(many.collect()).unwrap_err().contains("has more than 50000 backends"));
        it.has(&[("a", "1"), ("b", "22"), ("c", "3"), ("d", "4")]);
        it.feed.replace(vec![good("b", 2)]).unwrap();
        it.has(&[("b", "2")]);
        assert!(it.standing.lock().is_well());
    }
    let mut it = harness(false);
    it.feed.replace(vec![good("a", 1)]).unwrap();
    it.feed.replace(Vec::new()).unwrap();
    assert_eq!(it.standing.lock().kept, Some((1, EMPTY)));
    it.feed.replace(vec![Item::unnamed("entry 1", "no name".to_owned()), good("c", 3)]).unwrap();
    it.has(&[("a", "1"), ("c", "3")]);
}

#[test]
fn the_status_has_the_first_entries_that_were_left_out() {
    let mut it = harness(false);
    it.feed.replace((0..9).map(|number| bad(&number.to_string())).collect()).unwrap();
    let standing = it.standing.lock();
    assert_eq!((standing.misunderstood, standing.left_out().count()), (9, LOGGED));
    assert_eq!(standing.left_out().next().unwrap(), "0: expected an address");
}

#[test]
fn a_key_is_shown_on_one_line_and_not_endless() {
    let mut it = harness(false);
    let key = format!("a\n\u{1b}[2J\u{202e}{}", "x".repeat(1 << 20));
    it.feed.replace(vec![bad(&key)]).unwrap();
    let shown = it.standing.lock().last_error.clone().unwrap().1;
    assert!(shown.starts_with("a\\n\\u{1b}[2J\\u{202e}xxx") && shown.len() < 1000, "{}", shown.len());
}

#[test]
fn a_set_is_handed_over_only_if_it_differs() {
    let mut it = harness(false);
    for _ in 0..3 {
        it.feed.replace(vec![good("a", 1), good("b", 2)]).unwrap();
    }
    it.feed.change(vec![good("a", 1)], &["x".to_owned()]).unwrap();
    it.feed.answered();
    assert_eq!(it.handed(), 1);
    it.feed.change(vec![good("a", 9)], &[]).unwrap();
    assert_eq!(it.handed(), 2);
    assert_eq!(ports(&it.handed.lock()[0]), [("a", "1".to_owned()), ("b", "2".to_owned())], "a set never changes");
}

#[test]
fn more_backends_than_the_limit_are_an_error_and_change_nothing() {
    let mut it = harness(false);
    let many = |from: usize, count: usize| (from..from + count).map(|key| good(&format!("{key:06}"), 1)).collect();
    it.feed.replace(vec![good("a", 1)]).unwrap();
    assert!(it.feed.replace(many(0, BACKENDS_MAX + 1)).unwrap_err().contains("50001 backends; at most 50000"));
    it.has(&[("a", "1")]);
    it.feed.replace(many(0, BACKENDS_MAX)).unwrap();
    it.feed.change(vec![good("000000", 2)], &[]).unwrap();
    assert!(it.feed.change(vec![good("x", 1)], &[]).is_err());
    it.feed.change(vec![good("x", 1)], &["000001".to_owned()]).unwrap();
    assert_eq!(it.feed.set().len(), BACKENDS_MAX);
}

proptest! {
    /// Compared with a plain map of what the source has, and of what each key said last that was understood.
    #[test]
    fn the_set_is_what_the_source_has(
        clears: bool,
        steps in proptest::collection::vec((any::<bool>(), proptest::collection::btree_map(0u8..6, 0u16..4, 0..5), proptest::collection::btree_set(0u8..6, 0..4)), 0..12),
    ) {
        let mut it = harness(clears);
        // Port 0 stands for an item that is not understood. `lacking`: what the source has no more, and the set still has.
        let (mut has, mut shown) = (BTreeMap::<u8, u16>::new(), BTreeMap::<u8, u16>::new());
        let mut lacking = BTreeSet::<u8>::new();
        for (whole, items, gone) in steps {
            let sent = items.iter().map(|(key, port)| if *port == 0 { bad(&key.to_string()) } else { good(&key.to_string(), *port) }).collect();
            let is_understood = items.values().any(|port| *port != 0);
            if whole {
                has = items.clone();
                lacking = shown.keys().filter(|key| !is_understood && !has.contains_key(key)).copied().collect();
                it.feed.replace(sent).unwrap();
            } else {
                has.retain(|key, _| !gone.contains(key));
                has.extend(items.clone());
                lacking.retain(|key| !is_understood && !items.contains_key(key));
                it.feed.change(sent, &gone.iter().map(u8::to_string).collect::<Vec<_>>()).unwrap();
            }
            let now: BTreeMap<u8, u16> = has
                .iter()
                .filter_map(|(key, port)| if *port == 0 { Some((*key, *shown.get(key)?)) } else { Some((*key, *port)) })
                .collect();
            if now.is_empty() && !(clears && has.is_empty()) {
                lacking = shown.keys().copied().collect();
            } else {
                lacking.retain(|_| !has.is_empty());
                shown.retain(|key, _| lacking.contains(key));
                shown.extend(now);
            }
            let set: BTreeMap<u8, u16> = it.feed.set().iter().map(|(key, found)| {
                (key.parse().unwrap(), found.name.trim_start_matches("web").parse().unwrap())
            }).collect();
            prop_assert_eq!(&set, &shown);
            let standing = it.standing.lock();
            prop_assert_eq!(standing.misunderstood, has.values().filter(|port| **port == 0).count());
            prop_assert_eq!(standing.kept.map_or(0, |(count, _)| count), lacking.len());
        }
    }
}
