//! Tables of pools by hand and of any pools: shares, what moves, what stays over a restart, what a difference makes.

use super::*;
use crate::kernel::change::{Change, difference, difference_but, installed_but};
use crate::kernel::table::{InstalledChain, InstalledChoice, InstalledSource, StateKey};
use proptest::prelude::*;
use std::net::Ipv4Addr;

fn access() -> &'static Arc<Access> {
    static ALL: std::sync::OnceLock<Arc<Access>> = std::sync::OnceLock::new();
    ALL.get_or_init(Arc::default)
}

fn at(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn member(name: &str, weight: u16, address: SocketAddr) -> WantedMember<'_> {
    WantedMember {
        name,
        key: Address::Inet(address),
        configured: weight,
        weight,
        backup: false,
        usable: true,
        last_resort: false,
        addresses: vec![(address, true)],
    }
}

fn pool<'a>(name: &'a str, members: Vec<WantedMember<'a>>) -> WantedPool<'a> {
    WantedPool { name, pick: Pick::Source, equal: false, sources: &[], members }
}

fn listener<'a>(name: &'a str, bind: Bind, pool: &'a str) -> WantedListener<'a> {
    WantedListener { name, binds: vec![bind], pool, open: true, access: access(), limits: Limits::default() }
}

/// A listener on 192.0.2.1:80 over three backends of weights 1, 2 and 1.
fn wanted() -> Wanted<'static> {
    let members = [("a", 1, "10.0.0.1:80"), ("b", 2, "10.0.0.2:80"), ("c", 1, "10.0.0.3:80")];
    let members = members.map(|(name, weight, address)| member(name, weight, at(address)));
    Wanted {
        listeners: vec![listener("front", Bind::Address(at("192.0.2.1:80")), "web")],
        pools: vec![pool("web", members.to_vec())],
    }
}

/// The marks of a backend, one for each address.
fn marks_of(planner: &Planner, pool: &str, backend: &str) -> Vec<Mark> {
    let members = planner.marked()[pool].iter().filter(|member| *member.name == *backend);
    members.flat_map(|member| member.addresses.iter().map(|(_, mark)| mark.unwrap())).collect()
}

/// The entries of each backend, by name.
fn shares(table: &Table, family: Family) -> BTreeMap<String, usize> {
    let mut shares = BTreeMap::new();
    let choices = table.choices.iter().filter(|(id, _)| id.family == family);
    for mark in choices.flat_map(|(_, choice)| choice.entries.iter()) {
        *shares.entry(table.backends[mark].label.as_str().to_owned()).or_default() += 1;
    }
    shares
}

fn names(shares: &BTreeMap<String, usize>) -> Vec<&str> {
    shares.keys().map(String::as_str).collect()
}

#[test]
fn entries_follow_weights_and_a_backend_that_is_unusable_gives_its_own_away() {
    let mut planner = Planner::default();
    let mut wanted = wanted();
    let before = planner.plan(&wanted);
    let expected = [("web/a", 1025), ("web/b", 2050), ("web/c", 1025)];
    for ((name, count), (want, about)) in shares(&before, Family::V4).iter().zip(expected) {
        assert!(name == want && count.abs_diff(about) <= 1, "{name}: {count}");
    }
    wanted.pools[0].members[1].usable = false;
    let after = planner.plan(&wanted);
    assert_eq!(names(&shares(&after, Family::V4)), ["web/a", "web/c"]);
    let b = marks_of(&planner, "web", "b")[0];
    let entries = |table: &Table| table.choices.values().next().unwrap().entries.clone();
    for (before, after) in entries(&before).iter().zip(entries(&after).iter()) {
        assert!(before == after || *before == b);
    }
    wanted.pools[0].members[1].usable = true;
    assert_eq!(planner.plan(&wanted), before);
}

#[test]
fn stages_are_those_of_the_proxy() {
    let mut planner = Planner::default();
    let mut wanted = wanted();
    wanted.pools[0].members[2].backup = true;
    let mut plan = |wanted: &Wanted<'_>| {
        let table = planner.plan(wanted);
        (names(&shares(&table, Family::V4)).join(" "), table.binds.len())
    };
    assert_eq!(plan(&wanted), ("web/a web/b".to_owned(), 1));
    wanted.pools[0].members[0].usable = false;
    wanted.pools[0].members[1].usable = false;
    assert_eq!(plan(&wanted), ("web/c".to_owned(), 1));
    wanted.pools[0].members[2].usable = false;
    assert_eq!(plan(&wanted), ("web/c".to_owned(), 0), "no bind, and the map stays");
    wanted.pools[0].members[0].last_resort = true;
    assert_eq!(plan(&wanted), ("web/a".to_owned(), 1));
    wanted.pools[0].members[0].weight = 0;
    assert_eq!(plan(&wanted), ("web/a".to_owned(), 0));
    wanted.listeners[0].open = false;
    wanted.pools[0].members[1].usable = true;
    assert_eq!(plan(&wanted), ("web/b".to_owned(), 0), "a listener that stops");
}

#[test]
fn each_family_has_the_backends_with_an_address_of_it() {
    let mut planner = Planner::default();
    let mut wanted = wanted();
    wanted.listeners[0].binds = vec![Bind::Port(Family::V4, 80), Bind::Port(Family::V6, 80)];
    assert_eq!(planner.plan(&wanted).binds.len(), 1, "no backend has an IPv6 address");
    wanted.pools[0].members[0].addresses = vec![(at("[fd00::1]:80"), true), (at("[fd00::2]:80"), false)];
    wanted.pools[0].members[1].addresses.push((at("[fd00::3]:80"), true));
    let sources = ["198.51.100.1".parse().unwrap()];
    wanted.pools[0].sources = &sources;
    let mut planner = Planner::default();
    let table = planner.plan(&wanted);
    assert_eq!((table.binds.len(), table.chains.len(), table.backends.len()), (2, 2, 5));
    assert_eq!(names(&shares(&table, Family::V4)), ["web/b", "web/c"]);
    assert_eq!(names(&shares(&table, Family::V6)), ["web/a", "web/b"]);
    let down = marks_of(&planner, "web", "a")[1];
    assert!(table.choices.values().all(|choice| !choice.entries.contains(&down)), "an address that is down");
    assert!(table.backends.values().all(|target| target.source.is_some() == target.address.is_ipv4()));
    wanted.pools[0].members[0].addresses[0].1 = false;
    let table = planner.plan(&wanted);
    assert!(table.choices.values().any(|choice| choice.entries.contains(&down)), "if none is up, all serve");
}

#[test]
fn a_mark_stays_until_it_is_released_and_comes_back_before() {
    let mut planner = Planner::default();
    let (all, mut less) = (wanted(), wanted());
    less.pools[0].members.remove(1);
    planner.plan(&all);
    let b = marks_of(&planner, "web", "b")[0];
    let table = planner.plan(&less);
    assert_eq!((table.backends.contains_key(&b), planner.leaving()), (true, vec![b]));
    planner.plan(&all);
    assert_eq!((planner.leaving(), marks_of(&planner, "web", "b")), (vec![], vec![b]));
    planner.release(b);
    assert!(planner.plan(&all).backends.contains_key(&b), "a wanted mark can't be released");
    planner.plan(&less);
    planner.release(b);
    assert!(!planner.plan(&less).backends.contains_key(&b));
    planner.plan(&all);
    assert_ne!(marks_of(&planner, "web", "b"), [b]);
}

#[test]
fn after_a_restart_numbers_marks_and_entries_are_the_same() {
    let mut planner = Planner::default();
    let mut two = wanted();
    two.pools.push(pool("db", vec![member("x", 1, at("10.0.1.1:5432"))]));
    two.listeners.insert(0, listener("early", Bind::Port(Family::V4, 5432), "db"));
    planner.plan(&wanted());
    let table = planner.plan(&two);
    // Only what is read.
    let mut installed = table.installed();
    installed.choices.values_mut().for_each(|choice| choice.entries = None);
    let mut next = Planner::adopt(&installed);
    assert_eq!(next.plan(&two), table);
    assert!(difference(&installed, &table).is_empty());
    let mut next = Planner::adopt(&installed);
    let table = next.plan(&wanted());
    assert_eq!(next.leaving().len(), 1);
    assert_eq!(u32::from(table.chains.keys().next().unwrap().listener), 1, "its own number");
}

#[test]
fn denied_addresses_are_a_set_of_each_family() {
    let denied = Arc::new(Access::new([], &["192.0.2.0/24".parse().unwrap()]));
    let mut wanted = wanted();
    wanted.listeners[0].access = &denied;
    let mut planner = Planner::default();
    let table = planner.plan(&wanted);
    let chain = table.chains.values().next().unwrap();
    let ends = |host: u8| IpAddr::from(Ipv4Addr::new(192, 0, 2, host));
    assert_eq!(chain.denied.as_ref().map(|denied| denied.ranges.clone()), Some(vec![(ends(0), ends(255))]));
    assert_eq!(chain.rules.denied, chain.denied.as_ref().map(|denied| denied.digest));
    assert_eq!(planner.plan(&wanted), table);
}

/// What a kernel has.
#[derive(Default)]
struct Kernel {
    table: Installed,
    maps: BTreeMap<ChoiceId, Vec<Option<Mark>>>,
    chains: BTreeMap<ChainId, Option<Rules>>,
}

/// Carries changes out. It refuses what nft refuses: a second addition, and a reference or a removal of what is not there, or of
/// what is referred to.
fn apply(Kernel { table, maps, chains }: &mut Kernel, changes: &[Change]) {
    let mut refused = Vec::new();
    let mut check = |is_fine: bool, change: &Change| refused.extend((!is_fine).then(|| change.clone()));
    for change in changes {
        match change {
            Change::Create => check(!std::mem::replace(&mut table.exists, true), change),
            Change::Note(key, text) => {
                let new = match key {
                    StateKey::Format => true,
                    StateKey::Chain(id) => {
                        table.chains.insert(*id, InstalledChain::parse(text.as_str()).unwrap()).is_none()
                    }
                    StateKey::Choice(id) => {
                        table.choices.insert(*id, InstalledChoice::parse(text.as_str()).unwrap()).is_none()
                    }
                    StateKey::Source(id) => {
                        table.sources.insert(*id, InstalledSource::parse(text.as_str()).unwrap()).is_none()
                    }
                };
                check(new, change);
            }
            Change::Forget(key) => {
                let was = match key {
                    StateKey::Format => false,
                    StateKey::Chain(id) => table.chains.remove(id).is_some(),
                    StateKey::Choice(id) => table.choices.remove(id).is_some(),
                    StateKey::Source(id) => table.sources.remove(id).is_some(),
                };
                check(was, change);
            }
            Change::AddBackend(mark, target) => {
                check(Arc::make_mut(&mut table.backends).insert(*mark, target.clone()).is_none(), change);
            }
            Change::RemoveBackend { mark, .. } => {
                check(Arc::make_mut(&mut table.backends).remove(mark).is_some(), change)
            }
            Change::AddChoice(id) => drop(maps.insert(*id, vec![None; id.size as usize])),
            Change::Fill(id, first, marks) => {
                let map = maps.get_mut(id).unwrap();
                for (entry, mark) in (*first as usize..).zip(marks) {
                    check(map[entry].replace(*mark).is_none(), change);
                }
            }
            Change::SetEntries(id, entries) => {
                let map = maps.get_mut(id).unwrap();
                for (entry, mark) in entries {
                    check(map[*entry as usize].replace(*mark).is_some(), change);
                }
            }
            Change::ClearChoice(id) => maps.get_mut(id).unwrap().fill(None),
            Change::RemoveChoice(id) => {
                let is_used = chains.values().flatten().any(|rules| rules.choice == *id);
                check(maps.remove(id).is_some() && !is_used, change);
            }
            Change::AddChain(id) => check(chains.insert(*id, None).is_none(), change),
            Change::WriteChain(id, rules) => {
                check(maps.contains_key(&rules.choice) && chains.insert(*id, Some(*rules)).is_some(), change)
            }
            Change::ClearChain(id) => check(chains.insert(*id, None).is_some(), change),
            Change::RemoveChain(id) => {
                check(chains.remove(id).is_some() && !table.binds.values().any(|chain| chain == id), change);
            }
            Change::AddBind(bind, id) => {
                check(chains.contains_key(id) && table.binds.insert(*bind, *id).is_none(), change);
            }
            Change::RemoveBind(bind) => check(table.binds.remove(bind).is_some(), change),
            _ => {}
        }
    }
    assert_eq!(refused, []);
}

impl Kernel {
    /// What is installed, if it is right: each map is full, and each chain that a bind leads to has rules.
    fn installed(&self) -> Installed {
        let mut table = self.table.clone();
        for (id, entries) in &self.maps {
            match table.choices.get_mut(&id.pool).filter(|choice| choice.size == id.size) {
                Some(choice) => {
                    choice.entries = Some(entries.iter().map(|mark| mark.expect("a full map")).collect());
                }
                None => drop(table.unused.insert(*id)),
            }
        }
        assert!(
            table.binds.values().all(|chain| self.chains[chain].is_some_and(|it| self.maps.contains_key(&it.choice)))
        );
        table
    }
}

/// A pool of up to six backends: weight, usable, backup, and which addresses.
fn any_wanted() -> impl Strategy<Value = Vec<(u16, bool, bool, u8)>> {
    prop::collection::vec((0u16..4, prop::bool::weighted(0.8), prop::bool::weighted(0.2), 1u8..4), 0..6)
}

fn built(state: &[(u16, bool, bool, u8)], turn: bool) -> Wanted<'static> {
    const NAMES: [&str; 6] = ["a", "b", "c", "d", "e", "f"];
    let members = state.iter().zip(NAMES).enumerate().map(|(host, (&(weight, usable, backup, which), name))| {
        let host = host as u8 + 1;
        let (v4, v6) = (at(&format!("10.0.0.{host}:80")), at(&format!("[fd00::{host}]:80")));
        let addresses = [(which & 1 > 0).then_some((v4, true)), (which & 2 > 0).then_some((v6, usable))];
        let addresses = addresses.into_iter().flatten().collect();
        WantedMember { usable, backup, addresses, ..member(name, weight, v4) }
    });
    let pick = if turn { Pick::Turn } else { Pick::Source };
    let mut front = listener("front", Bind::Port(Family::V4, 80), "web");
    front.binds.push(Bind::Port(Family::V6, 80));
    Wanted { listeners: vec![front], pools: vec![WantedPool { pick, ..pool("web", members.collect()) }] }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever changes, the difference makes the wanted table of the installed one, without what nft would refuse. So it is with
    /// any part of the chains held, and once none is held any more.
    #[test]
    fn a_difference_makes_the_wanted_table(
        states in prop::collection::vec((any_wanted(), any::<bool>(), 0u8..16, 1u8..3), 1..6),
        release in any::<bool>(), most in prop::sample::select(vec![0usize, 5000, usize::MAX]),
    ) {
        let mut planner = Planner::default();
        let mut kernel = Kernel::default();
        let mut before = Installed::default();
        for (state, turn, holds, name) in states {
            let mut wanted = built(&state, turn);
            wanted.listeners[0].name = if name == 1 { "front" } else { "new" };
            let more = WantedListener { name: "side", binds: vec![Bind::Port(Family::V4, 81)], ..wanted.listeners[0].clone() };
            wanted.listeners.push(more);
            let table = planner.plan(&wanted);
            let ids = table.chains.keys().enumerate();
            let held = ids.filter(|(place, _)| holds & 1 << place > 0).map(|(_, id)| *id).collect();
            for held in [held, BTreeSet::new()] {
                let changes = difference_but(&before, &table, &held);
                before = installed_but(&before, &table, &held);
                changes.transactions(most).iter().for_each(|part| apply(&mut kernel, part));
                prop_assert!(kernel.installed() == before);
                // All is tried now, or with the next table.
                if turn {
                    break;
                }
            }
            if before == table.installed() {
                for mark in planner.leaving().into_iter().filter(|_| release) {
                    planner.release(mark);
                }
            }
        }
    }

    /// What is left of the plan before makes no other table than a start would.
    #[test]
    fn a_plan_after_others_is_that_of_a_start(
        weights in prop::collection::vec((1u16..4, 1u8..4), 1..6),
        states in prop::collection::vec((prop::collection::vec((any::<bool>(), any::<bool>()), 6), any::<bool>()), 1..6),
    ) {
        let mut planner = Planner::default();
        for (usable, last_resort) in states {
            let state: Vec<_> = weights.iter().map(|(weight, which)| (*weight, true, false, *which)).collect();
            let mut wanted = built(&state, false);
            for (member, (usable, up)) in wanted.pools[0].members.iter_mut().zip(usable) {
                (member.usable, member.last_resort, member.addresses[0].1) = (usable, last_resort, up);
            }
            let table = planner.plan(&wanted);
            let anew = Planner::adopt(&table.installed()).plan(&wanted);
            prop_assert!(anew.backends == table.backends && anew.binds == table.binds);
            // Without a backend that serves, the map of before stays.
            prop_assert!(anew.choices.iter().all(|(id, choice)| table.choices.get(id) == Some(choice)));
        }
    }

    /// Two balancers with the same backends, in another order and under other names, forward a client to the same address.
    #[test]
    fn two_balancers_agree(state in any_wanted(), turn in 0usize..6, client in any::<u32>()) {
        let mine = built(&state, false);
        let mut theirs = mine.clone();
        let members = &mut theirs.pools[0].members;
        members.iter_mut().for_each(|member| member.name = match member.name { "a" => "z", "b" => "y", other => other });
        let middle = turn.min(members.len());
        members.rotate_left(middle);
        let client = SocketAddr::new(Ipv4Addr::from(client).into(), 4711);
        let address = |wanted: &Wanted<'_>| {
            let table = Planner::default().plan(wanted);
            let chain = *table.chains.keys().find(|id| id.family == Family::V4)?;
            Some(table.backends[&table.mark_for(chain, client)?].address)
        };
        prop_assert_eq!(address(&mine), address(&theirs));
    }
}
