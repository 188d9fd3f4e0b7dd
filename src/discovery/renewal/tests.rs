use super::*;
use proptest::prelude::*;
use std::net::IpAddr;

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn at(text: &str) -> SocketAddr {
    SocketAddr::new(ip(text), 0)
}

fn sets(addresses: &[&str]) -> BTreeSet<AddressSet> {
    BTreeSet::from([addresses.iter().map(|text| at(text)).collect()])
}

fn wanted(names: &[&str], addresses: &[&str]) -> Wanted {
    names.iter().map(|name| ((*name).to_owned(), sets(addresses))).collect()
}

fn found(addresses: &[&str], ttl: u64) -> Result<Addresses, String> {
    let list = addresses.iter().map(|text| ip(text)).collect();
    Ok(Addresses { list, ttl: Some(Duration::from_secs(ttl)), incomplete: None })
}

/// What DNS and the system answer.
struct Fake {
    dns: Result<Addresses, String>,
    system: Result<Vec<SocketAddr>, String>,
    asked: Vec<&'static str>,
}

impl Fake {
    fn new(dns: Result<Addresses, String>, system: Result<&[&str], &str>) -> Fake {
        let system = system.map(|list| list.iter().map(|text| at(text)).collect()).map_err(str::to_owned);
        Fake { dns, system, asked: Vec::new() }
    }
}

impl Ask for Fake {
    fn dns(&mut self, _: &str) -> Result<Addresses, String> {
        self.asked.push("dns");
        self.dns.clone()
    }

    fn system(&mut self, _: &str) -> Result<Vec<SocketAddr>, String> {
        self.asked.push("system");
        self.system.clone()
    }
}

/// What knows the name, its addresses or the error, and what was asked.
#[track_caller]
fn after(known_by: KnownBy, present: &[&str], mut ask: Fake) -> (KnownBy, String, String) {
    let (known_by, outcome) = look_up("db.test", known_by, &sets(present), &mut ask);
    let shown = match outcome {
        Ok(Answer { list, hold, .. }) => {
            let list: Vec<String> = list.iter().map(|at| at.ip().to_string()).collect();
            format!("{} for {}s", list.join(" "), hold.as_secs())
        }
        Err(why) => why,
    };
    (known_by, shown, ask.asked.join(" "))
}

fn row(known_by: KnownBy, shown: &str, asked: &str) -> (KnownBy, String, String) {
    (known_by, shown.to_owned(), asked.to_owned())
}

#[test]
fn the_first_look_ups_decide_whether_a_name_is_of_dns_or_of_the_system() {
    use KnownBy::{Dns, System};
    const NEW: KnownBy = KnownBy::Unsettled(0);
    let (one, two, three) = ("10.0.0.1", "10.0.0.2", "10.0.0.3");
    fn first(
        present: &[&str],
        dns: Result<Addresses, String>,
        system: Result<&[&str], &str>,
    ) -> (KnownBy, String, String) {
        after(NEW, present, Fake::new(dns, system))
    }
    fn then(
        known_by: KnownBy,
        dns: Result<Addresses, String>,
        system: Result<&[&str], &str>,
    ) -> (KnownBy, String, String) {
        after(known_by, &["10.0.0.1"], Fake::new(dns, system))
    }
    // The table of the module, row by row.
    assert_eq!(first(&[one, two], found(&[two, one], 60), Err("?")), row(Dns, "10.0.0.2 10.0.0.1 for 60s", "dns"));
    let disagreed = KnownBy::Unsettled;
    assert_eq!(first(&[one], found(&[two], 60), Ok(&[one])), row(disagreed(1), "10.0.0.1 for 30s", "dns system"));
    assert_eq!(then(disagreed(1), found(&[two], 5), Ok(&[one])), row(disagreed(2), "10.0.0.1 for 5s", "dns system"));
    assert_eq!(then(disagreed(2), found(&[two], 60), Ok(&[one])), row(System, "10.0.0.1 for 30s", "dns system"));
    assert_eq!(then(disagreed(2), found(&[one], 60), Err("?")), row(Dns, "10.0.0.1 for 60s", "dns"));
    assert_eq!(then(disagreed(2), found(&[two], 60), Ok(&[three])), row(Dns, "10.0.0.2 for 60s", "dns system"));
    assert_eq!(then(disagreed(2), found(&[two], 60), Err("?")), row(disagreed(2), "?", "dns system"));
    assert_eq!(then(disagreed(2), Err("silence".to_owned()), Ok(&[one])), row(disagreed(2), "silence", "dns"));
    assert_eq!(first(&[one], found(&[], 60), Ok(&[one])), row(System, "10.0.0.1 for 30s", "dns system"));
    assert_eq!(first(&[one], found(&[], 60), Ok(&[two])), row(System, "10.0.0.2 for 30s", "dns system"));
    assert_eq!(first(&[one], found(&[two], 60), Ok(&[three])), row(Dns, "10.0.0.2 for 60s", "dns system"));
    assert_eq!(first(&[one], found(&[two], 60), Err("?")), row(Dns, "10.0.0.2 for 60s", "dns system"));
    assert_eq!(first(&[one], found(&[], 60), Err("gone")), row(NEW, "gone", "dns system"));
    assert_eq!(first(&[one], Err("SERVFAIL".to_owned()), Ok(&[two])), row(NEW, "SERVFAIL", "dns"));
    assert_eq!(then(Dns, found(&[two], 60), Ok(&[one])), row(Dns, "10.0.0.2 for 60s", "dns"));
    assert_eq!(then(Dns, found(&[], 60), Ok(&[one])), row(Dns, "the name has no address", "dns"));
    assert_eq!(then(Dns, Err("silence".to_owned()), Ok(&[one])), row(Dns, "silence", "dns"));
    assert_eq!(then(System, found(&[two], 60), Ok(&[three])), row(System, "10.0.0.3 for 30s", "system"));
    assert_eq!(then(System, found(&[two], 60), Err("gone")), row(System, "gone", "system"));
    let mut ask = Fake::new(found(&[two], 60), Ok(&[one]));
    let (known_by, _) = look_up("fe80::1%eth0", NEW, &sets(&[one]), &mut ask);
    assert_eq!((known_by, ask.asked), (System, vec!["system"]), "DNS is not asked for it");
}

#[test]
fn a_family_that_fails_keeps_its_addresses() {
    let mut answer = found(&["10.0.0.2"], 60);
    answer.as_mut().unwrap().incomplete = Some("SERVFAIL".to_owned());
    let present = ["10.0.0.1", "fd00::1"];
    let (_, outcome) = look_up("db.test", KnownBy::Dns, &sets(&present), &mut Fake::new(answer, Err("?")));
    let answer = outcome.unwrap();
    assert_eq!((answer.list.as_slice(), answer.incomplete.is_some()), (&[at("10.0.0.2"), at("fd00::1")][..], true));
    let of_one_family = Addresses { incomplete: answer.incomplete.clone(), ..found(&["10.0.0.2"], 60).unwrap() };
    let plain = of_dns(of_one_family, &sets(&["10.0.0.1"]));
    assert_eq!((plain.list.as_slice(), plain.incomplete), (&[at("10.0.0.2")][..], None), "there is nothing to keep");
    let (mut names, now) = (Names::default(), Instant::now());
    names.want(wanted(&["db.test"], &present), now);
    assert!(names.settle("db.test", KnownBy::Dns, Ok(answer), now), "the other family is taken");
    assert!(names.by_name["db.test"].standing.failing_since.is_some(), "and it is an error");
}

#[test]
fn a_time_to_live_counts_within_bounds_and_pauses_after_errors_grow() {
    for (ttl, hold) in [(Some(0), 5), (Some(4), 5), (Some(77), 77), (Some(301), 300), (Some(86_400), 300), (None, 5)] {
        let ttl = ttl.map(Duration::from_secs);
        let answer = of_dns(Addresses { list: vec![ip("10.0.0.1")], ttl, incomplete: None }, &BTreeSet::new());
        assert_eq!(answer.hold.as_secs(), hold, "{ttl:?}");
    }
    let (mut names, mut now) = (Names::default(), Instant::now());
    names.want(wanted(&["db.test"], &["10.0.0.1"]), now);
    assert_eq!(names.next(now), Next::Wait(Some(now + LEAST)));
    let mut pauses = Vec::new();
    for outcome in ["silence", "SERVFAIL", "silence", "silence", "", "silence"] {
        let good = || Answer { list: vec![at("10.0.0.1")], hold: MOST, incomplete: None };
        let outcome = if outcome.is_empty() { Ok(good()) } else { Err(outcome.to_owned()) };
        assert!(!names.settle("db.test", KnownBy::Dns, outcome, now), "nothing has changed");
        let due = names.by_name["db.test"].due;
        pauses.push((due - now).as_secs());
        now = due;
    }
    assert_eq!(pauses, [5, 10, 10, 10, 300, 5]);
    assert_eq!(names.by_name["db.test"].standing.errors, 5);
}

#[test]
fn names_that_fail_wait_behind_the_others() {
    let (mut names, now) = (Names::default(), Instant::now());
    names.want(wanted(&["a.test", "b.test", "silent.test"], &["10.0.0.1"]), now);
    names.settle("silent.test", KnownBy::Unsettled(0), Err("silence".to_owned()), now);
    let later = now + Duration::from_secs(100);
    let mut order = Vec::new();
    for _ in 0..3 {
        let Next::Ask(name, ..) = names.next(later) else { panic!("a name is due") };
        let outcome = Ok(Answer { list: vec![at("10.0.0.1")], hold: MOST, incomplete: None });
        names.settle(&name, KnownBy::Dns, outcome, later);
        order.push(name);
    }
    assert_eq!(order, ["a.test", "b.test", "silent.test"]);
    assert_eq!(names.next(later), Next::Wait(Some(later + MOST)));
    names.want(Wanted::new(), later);
    assert_eq!(names.next(later + MOST), Next::Wait(None));
    assert!(!names.settle("a.test", KnownBy::Dns, Err("late".to_owned()), later), "it is not wanted any more");
}

fn list(addresses: &[&str]) -> Vec<SocketAddr> {
    addresses.iter().map(|text| at(text)).collect()
}

fn answer(addresses: &[&str], hold: Duration) -> Result<Answer, String> {
    Ok(Answer { list: list(addresses), hold, incomplete: None })
}

#[test]
fn a_reload_gets_the_addresses_in_use_and_replaces_those_that_wait() {
    let (mut names, now) = (Names::default(), Instant::now());
    names.want(wanted(&["db.test"], &["10.0.0.1", "10.0.0.2"]), now);
    assert!(names.settle("db.test", KnownBy::Dns, answer(&["10.0.0.3", "10.0.0.1"], LEAST), now));
    assert_eq!(names.moved["db.test"], list(&["10.0.0.3", "10.0.0.1", "10.0.0.2"]), "the answer goes first");
    let heard = names.heard("db.test", list(&["10.0.0.4", "10.0.0.2"]), now);
    assert_eq!(heard, list(&["10.0.0.4", "10.0.0.2", "10.0.0.1", "10.0.0.3"]));
    assert_eq!(names.moved["db.test"], heard);
    assert_eq!(names.heard("other.test", list(&["10.0.0.9"]), now), list(&["10.0.0.9"]), "it is not looked up here");
}

#[test]
fn a_reload_moves_no_name_of_dns() {
    let (mut names, now) = (Names::default(), Instant::now());
    names.want(wanted(&["dns.test", "system.test"], &["10.0.0.1"]), now);
    for (name, known_by) in [("dns.test", KnownBy::Dns), ("system.test", KnownBy::System)] {
        names.settle(name, known_by, answer(&["10.0.0.2"], LEAST), now);
    }
    // The system has an older answer.
    assert_eq!(names.heard("dns.test", list(&["10.0.0.1"]), now), list(&["10.0.0.1", "10.0.0.2"]));
    assert_eq!(names.heard("system.test", list(&["10.0.0.1"]), now), list(&["10.0.0.1"]));
    names.settle("dns.test", KnownBy::Dns, answer(&["10.0.0.2"], LEAST), now);
    assert_eq!(names.moved["dns.test"], list(&["10.0.0.2"]), "and the next answer decides");
}

#[test]
fn refused_addresses_are_forgotten_and_asked_for_again_after_the_pause() {
    let (mut names, mut now) = (Names::default(), Instant::now());
    let (own, good) = (["10.0.0.9"], ["10.0.0.1", "10.0.0.2"]);
    names.want(wanted(&["db.test"], &good), now);
    let take = |names: &mut Names| std::mem::take(&mut names.moved).remove("db.test");
    let refuse = |names: &mut Names, now| names.refuse("db.test", Some("it is an own address".to_owned()), now);
    let due = |names: &Names, now| names.by_name["db.test"].due - now;
    assert!(names.settle("db.test", KnownBy::Dns, answer(&own, MOST), now));
    assert_eq!((take(&mut names), due(&names, now)), (Some(list(&own)), MOST));
    let taken = now + Duration::from_secs(1);
    refuse(&mut names, taken);
    assert_eq!(due(&names, taken), LEAST, "not once the answer is over");
    for pause in [10, 10] {
        now = names.by_name["db.test"].due;
        assert!(matches!(names.next(now), Next::Ask(..)));
        assert!(names.settle("db.test", KnownBy::Dns, answer(&own, MOST), now));
        assert_eq!((take(&mut names), due(&names, now).as_secs()), (Some(list(&own)), pause));
        refuse(&mut names, now);
        assert_eq!(due(&names, now).as_secs(), pause);
    }
    assert_eq!(names.by_name["db.test"].standing.errors, 3);
    // A reload gets none of it.
    assert_eq!(names.heard("db.test", list(&["10.0.0.1"]), now), list(&good));
    assert!(!names.settle("db.test", KnownBy::Dns, answer(&good, MOST), now));
    assert_eq!((due(&names, now), &names.by_name["db.test"].standing.failing_since), (MOST, &None));
    // Newer addresses are not refused for older ones.
    names.settle("db.test", KnownBy::Dns, answer(&["10.0.0.5"], MOST), now);
    refuse(&mut names, now);
    assert_eq!((names.by_name["db.test"].known.in_use(), due(&names, now)), (AddressSet::from([at("10.0.0.5")]), MOST));
}

#[derive(Clone, Debug)]
enum Step {
    /// The name has these addresses, in this order.
    Answer(Vec<u8>),
    Fail,
    /// Control takes what has moved, and applies it.
    Apply,
    /// A reload finds these, and applies what is in use.
    Reload(Vec<u8>),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let list = || prop::collection::vec(1u8..5, 1..5);
    let step =
        prop_oneof![list().prop_map(Step::Answer), Just(Step::Fail), Just(Step::Apply), list().prop_map(Step::Reload),];
    prop::collection::vec(step, 0..40)
}

proptest! {
    /// After each step the addresses at the backends are those in use, once they are applied. An error and another order of the
    /// same addresses hand nothing over.
    #[test]
    fn only_an_answer_with_other_addresses_is_handed_over(steps in steps()) {
        let address = |last: &u8| at(&format!("10.0.0.{last}"));
        let set = |list: &[u8]| list.iter().map(address).collect::<AddressSet>();
        let (mut names, now) = (Names::default(), Instant::now());
        let want = |names: &mut Names, set: &AddressSet| {
            names.want(Wanted::from([("db.test".to_owned(), BTreeSet::from([set.clone()]))]), now);
        };
        let (mut present, mut pending) = (set(&[1]), None::<AddressSet>);
        let mut known = Known::in_use_are(present.clone(), now);
        let mut known_by = KnownBy::Unsettled(0);
        want(&mut names, &present);
        for step in steps {
            match step {
                Step::Answer(list) => {
                    known.answered(&set(&list), now);
                    known_by = KnownBy::Dns;
                    let addresses = list.iter().map(address).collect();
                    let answer = Answer { list: addresses, hold: LEAST, incomplete: None };
                    let moved = names.settle("db.test", KnownBy::Dns, Ok(answer), now);
                    prop_assert_eq!(moved, known.in_use() != present);
                    pending = moved.then(|| known.in_use());
                }
                Step::Fail => {
                    prop_assert!(!names.settle("db.test", known_by, Err("SERVFAIL".to_owned()), now));
                }
                Step::Apply => {
                    if let Some(list) = std::mem::take(&mut names.moved).remove("db.test") {
                        present = list.into_iter().collect();
                        want(&mut names, &present);
                    }
                    prop_assert_eq!(pending.take().unwrap_or_else(|| present.clone()), present.clone());
                    prop_assert_eq!(&present, &known.in_use());
                }
                Step::Reload(list) => {
                    match known_by {
                        KnownBy::Dns => known.join(&set(&list), now),
                        _ => known.heard(&set(&list), now),
                    }
                    present = names.heard("db.test", list.iter().map(address).collect(), now).into_iter().collect();
                    prop_assert_eq!(&present, &known.in_use());
                    want(&mut names, &present);
                    pending = pending.map(|_| present.clone());
                }
            }
            prop_assert_eq!(names.moved.get("db.test").map(|list| list.iter().copied().collect()), pending.clone());
            prop_assert_eq!(names.due.iter().map(BTreeSet::len).sum::<usize>(), 1);
        }
    }
}
