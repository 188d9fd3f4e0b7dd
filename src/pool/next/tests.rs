use super::super::Lease;
use super::*;
use crate::admission::ConnectionLimit;
use crate::base::Address;
use crate::config::model::{AllDown, HealthKind, Model};
use crate::policy::balance::{Client, find};
use proptest::prelude::*;
use std::sync::atomic::Ordering;

const NOW: Tick = Tick(7);

fn backend(name: &str) -> model::Backend {
    let number: u8 = name.trim_start_matches(|letter: char| !letter.is_ascii_digit()).parse().unwrap_or(0);
    let address = Address::Inet(([10, 0, 0, number], 80).into());
    model::Backend { name: name.to_owned(), ..model::Backend::at(address) }
}

fn model_with(backends: Vec<model::Backend>) -> Model {
    let pool = model::Pool { name: "web".into(), backends, ..model::Pool::default() };
    let listener = model::Listener { name: "in".into(), pool: "web".into(), ..model::Listener::default() };
    Model { global: model::Global::default(), listeners: vec![listener], pools: vec![pool] }
}

fn model_of(names: &[&str]) -> Model {
    model_with(names.iter().map(|name| backend(name)).collect())
}

/// Every literal address resolves to itself.
fn resolved(model: &Model) -> Resolved {
    let mut resolved = Resolved::new();
    for pool in &model.pools {
        for backend in &pool.backends {
            let Address::Inet(at) = backend.address else { continue };
            resolved.insert((pool.name.clone(), backend.name.clone()), vec![Endpoint::Inet(at)]);
        }
    }
    resolved
}

fn step(old: &Snapshot, model: &Model) -> Snapshot {
    next(Some(old), &SnapshotPlan { model, resolved: &resolved(model), addresses: &[], states: &[], now: NOW })
}

fn set(old: &Snapshot, model: &Model, name: &str, state: AdminState) -> Snapshot {
    next(
        Some(old),
        &SnapshotPlan { model, resolved: &resolved(model), addresses: &[], states: &[("web", name, state)], now: NOW },
    )
}

fn first(model: &Model) -> Snapshot {
    build(model, &resolved(model))
}

fn member<'a>(snapshot: &'a Snapshot, name: &str) -> &'a Member {
    snapshot.pools[0].members.iter().find(|member| member.backend.name == name).unwrap()
}

fn pick(snapshot: &Snapshot, number: u32) -> Option<Lease> {
    let client = Client { ip: Some(std::net::Ipv4Addr::from_bits(number).into()) };
    snapshot.pools[0].pick(client, &[], Tick(1), &mut fastrand::Rng::with_seed(number.into())).ok()
}

fn picked(snapshot: &Snapshot, number: u32) -> String {
    pick(snapshot, number).map_or_else(String::new, |lease| lease.backend().name.clone())
}

#[test]
fn a_backend_that_stays_keeps_counters_health_and_slot() {
    let old = first(&model_of(&["b1", "b2", "b3"]));
    old.pools[0].up.set(member(&old, "b3").slot, false);
    member(&old, "b2").backend.counters.connections.store(7, Ordering::Relaxed);
    old.listeners[0].totals.accept();

    let mut model = model_of(&["b4", "b3", "b2"]);
    (model.pools[0].backends[2].weight, model.pools[0].backends[2].backup) = (5, true);
    let new = step(&old, &model);
    assert_eq!(new.generation, 2);
    let order: Vec<&str> = new.pools[0].members.iter().map(|member| member.backend.name.as_str()).collect();
    assert_eq!(order, ["b4", "b3", "b2"], "as configured");
    for name in ["b2", "b3"] {
        assert!(Arc::ptr_eq(&member(&old, name).backend, &member(&new, name).backend));
        assert_eq!(member(&old, name).slot, member(&new, name).slot);
    }
    assert_eq!((member(&new, "b2").weight, member(&new, "b2").backup), (5, true));
    let up = |name| new.pools[0].up.get(member(&new, name).slot);
    assert_eq!((up("b2"), up("b3"), up("b4")), (true, false, true));
    assert_eq!(new.listeners[0].totals.accepted(), 1);
    assert!(Arc::ptr_eq(&old.pools[0].totals, &new.pools[0].totals));
}

#[test]
fn another_address_is_another_backend_and_a_turned_answer_of_the_name_server_is_not() {
    let model = model_of(&["b1"]);
    let key = ("web".to_owned(), "b1".to_owned());
    let at = |last: u8| Endpoint::Inet(([192, 0, 2, last], 80).into());
    let with = |old: Option<&Snapshot>, endpoints: Vec<Endpoint>| {
        let resolved = Resolved::from([(key.clone(), endpoints)]);
        next(old, &SnapshotPlan { model: &model, resolved: &resolved, addresses: &[], states: &[], now: NOW })
    };
    let old = with(None, vec![at(1), at(2)]);
    let turned = with(Some(&old), vec![at(2), at(1)]);
    assert!(Arc::ptr_eq(&member(&old, "b1").backend, &member(&turned, "b1").backend));
    let joined = with(Some(&turned), vec![at(3), at(2), at(1)]);
    assert!(Arc::ptr_eq(&member(&old, "b1").backend, &member(&joined, "b1").backend));
    assert_eq!(member(&joined, "b1").backend.endpoints(), [at(1), at(2), at(3)]);
    let left = with(Some(&joined), vec![at(3), at(2)]);
    assert_ne!(member(&joined, "b1").backend.id, member(&left, "b1").backend.id);
    let moved = with(Some(&turned), vec![at(3)]);
    assert!(!Arc::ptr_eq(&member(&old, "b1").backend, &member(&moved, "b1").backend));
    assert_ne!(member(&old, "b1").backend.id, member(&moved, "b1").backend.id);
    let drained = next(
        Some(&turned),
        &SnapshotPlan {
            model: &model,
            resolved: &Resolved::new(),
            addresses: &[],
            states: &[("web", "b1", AdminState::Draining)],
            now: NOW,
        },
    );
    let drained_elsewhere = with(Some(&drained), vec![at(2), at(3)]);
    assert_ne!(member(&drained, "b1").backend.id, member(&drained_elsewhere, "b1").backend.id);
    assert_eq!(member(&drained_elsewhere, "b1").state, AdminState::Draining, "what an operator says holds");
    let unasked = next(
        Some(&moved),
        &SnapshotPlan { model: &model, resolved: &Resolved::new(), addresses: &[], states: &[], now: NOW },
    );
    assert!(Arc::ptr_eq(&member(&unasked, "b1").backend, &member(&moved, "b1").backend), "it is where it was");
}

#[test]
fn a_backend_that_loses_an_address_begins_no_slow_start_and_keeps_the_time_of_its_last_change() {
    let mut model = model_of(&["b1", "b2"]);
    model.pools[0].slow_start = std::time::Duration::from_secs(60);
    let at = |last: u8| Endpoint::Inet(([192, 0, 2, last], 80).into());
    let with = |old: Option<&Snapshot>, endpoints: Vec<Endpoint>| {
        let mut resolved = resolved(&model);
        resolved.insert(("web".to_owned(), "b1".to_owned()), endpoints);
        next(old, &SnapshotPlan { model: &model, resolved: &resolved, addresses: &[], states: &[], now: NOW })
    };
    let old = with(None, vec![at(1), at(2)]);
    member(&old, "b1").backend.health.lock().last_change = Some(Tick(3));
    let fewer = with(Some(&old), vec![at(2)]);
    let backend = &member(&fewer, "b1").backend;
    assert_eq!((backend.came_up(), backend.health.lock().last_change), (None, Some(Tick(3))));
    backend.starts_slowly(Tick(5));
    let joined = with(Some(&fewer), vec![at(2), at(3)]);
    let other = with(Some(&joined), vec![at(3)]);
    assert_eq!(member(&other, "b1").backend.came_up(), Some(Tick(5)), "its slow start goes on");
    let moved = with(Some(&other), vec![at(9)]);
    assert_eq!(member(&moved, "b1").backend.came_up(), Some(NOW));
}

#[test]
fn a_backend_without_an_address_is_down_until_it_has_one_and_what_an_operator_says_of_it_holds() {
    let model = model_of(&["b1", "b2"]);
    let without = |name: &str| {
        let mut resolved = resolved(&model);
        resolved.insert(("web".to_owned(), name.to_owned()), Vec::new());
        resolved
    };
    let after = |old: Option<&Snapshot>, resolved: &Resolved, state: Option<(&str, &str, AdminState)>| {
        next(old, &SnapshotPlan { model: &model, resolved, addresses: &[], states: state.as_slice(), now: NOW })
    };
    let old = after(None, &without("b1"), None);
    let pool = &old.pools[0];
    let bits = |pool: &Pool, slot| (pool.up.get(slot), pool.last_resort_mask.get(slot));
    assert_eq!((bits(pool, 0), bits(pool, 1)), ((false, false), (true, true)));
    let drained = after(Some(&old), &without("b1"), Some(("web", "b1", AdminState::Draining)));
    assert!(Arc::ptr_eq(&member(&drained, "b1").backend, &member(&old, "b1").backend));
    let new = after(Some(&drained), &resolved(&model), None);
    assert_eq!(member(&new, "b1").state, AdminState::Draining);
    assert_eq!(bits(&new.pools[0], member(&new, "b1").slot), (false, false));
    let enabled = after(Some(&old), &resolved(&model), None);
    assert_eq!(bits(&enabled.pools[0], member(&enabled, "b1").slot), (true, true));
    assert!(Arc::ptr_eq(&member(&enabled, "b2").backend, &member(&old, "b2").backend));
}

#[test]
fn a_slot_is_reused_only_when_no_lease_can_count_there() {
    let old = first(&model_of(&["b1", "b2"]));
    let lease = Lease::take(&member(&old, "b1").backend, 0, 9).unwrap();
    let (one, two) = (model_of(&["b2", "b3"]), model_of(&["b2", "b3", "b4"]));
    let second = step(&old, &one);
    assert_eq!(member(&second, "b3").slot, 2, "b1 is in its slot still");
    drop(old);
    let third = step(&second, &two);
    assert_eq!(member(&third, "b4").slot, 3, "its lease counts there");
    drop(lease);
    let fourth = step(&third, &model_of(&["b2", "b3", "b4", "b5"]));
    assert_eq!((member(&fourth, "b5").slot, member(&fourth, "b5").backend.active()), (0, 0));
}

#[test]
fn a_limit_holds_for_a_backend_and_for_the_one_that_takes_its_place_when_an_address_has_left() {
    let model = model_with(vec![model::Backend { max_connections: Some(2), ..backend("b1") }, backend("b2")]);
    let at = |last: u8| Endpoint::Inet(([192, 0, 2, last], 80).into());
    let next = |old: &Snapshot, at: Vec<Endpoint>| {
        let resolved = Resolved::from([(("web".to_owned(), "b1".to_owned()), at)]);
        next(Some(old), &SnapshotPlan { model: &model, resolved: &resolved, addresses: &[], states: &[], now: NOW })
    };
    let take = |at: &Snapshot| Lease::take(&member(at, "b1").backend, member(at, "b1").slot, 2);
    let first = next(&first(&model), vec![at(1), at(2), at(3)]);
    let slot = member(&first, "b1").slot;
    first.pools[0].up.set(slot, false);
    let one = take(&first).unwrap();
    let second = next(&first, vec![at(2), at(3)]);
    assert_ne!(member(&first, "b1").backend.id, member(&second, "b1").backend.id);
    assert_eq!(member(&second, "b1").slot, slot);
    assert!(!second.pools[0].up.get(slot), "it is down until the prober says more");
    let two = take(&second).unwrap();
    let third = next(&second, vec![at(3)]);
    assert!(take(&third).is_none() && take(&first).is_none());
    assert_eq!(member(&third, "b1").backend.active(), 2);
    drop(one);
    let three = take(&third).unwrap();
    assert!(take(&third).is_none());
    let elsewhere = next(&third, vec![at(4)]);
    assert_ne!(member(&elsewhere, "b1").slot, slot, "other servers");
    assert_eq!(member(&elsewhere, "b1").backend.active(), 0);
    drop((first, second, third, two));
    let added = model_of(&["b2", "b3", "b4"]);
    let used = step(&elsewhere, &added);
    drop(three);
    assert!(used.pools[0].members.iter().all(|member| member.slot != slot), "a lease counts there");
    assert_eq!(member(&step(&used, &model_of(&["b2", "b3", "b4", "b5"])), "b5").slot, slot);
}

#[test]
fn a_backend_in_the_slot_of_one_that_was_tried_was_not_tried() {
    let old = first(&model_of(&["b1", "b2"]));
    let tried = [member(&old, "b1").tried(), member(&old, "b2").tried()];
    let without = step(&old, &model_of(&["b2"]));
    drop(old);
    let new = step(&without, &model_of(&["b2", "b3"]));
    assert_eq!(member(&new, "b3").slot, tried[0].slot, "the slot is used again");
    let mut random = fastrand::Rng::with_seed(7);
    for _ in 0..10 {
        let lease = new.pools[0].pick(Client { ip: None }, &tried, Tick(1), &mut random).expect("b3 is free");
        assert_eq!(lease.backend().name, "b3");
    }
}

#[test]
fn what_does_not_change_is_the_very_same_pool() {
    let mut model = model_of(&["b1"]);
    model.pools.push(model::Pool { name: "other".into(), backends: vec![backend("b9")], ..model.pools[0].clone() });
    let old = first(&model);
    model.pools[0].backends.push(backend("b2"));
    let new = step(&old, &model);
    assert!(Arc::ptr_eq(&old.pools[1], &new.pools[1]) && !Arc::ptr_eq(&old.pools[0], &new.pools[0]));
    assert!(new.pools[0].has_settings_of(&old.pools[0]), "only backends differ");
    model.pools[0].connect_attempts += 1;
    assert!(!step(&new, &model).pools[0].has_settings_of(&new.pools[0]));
}

#[test]
fn an_operators_state_takes_new_clients_away_and_moves_no_others() {
    for algorithm in ["maglev", "source-hash", "sticky-round-robin"] {
        let mut model = model_of(&["b1", "b2", "b3", "b4"]);
        model.pools[0].algorithm = find(algorithm).unwrap();
        let old = first(&model);
        let before: Vec<String> = (0..500).map(|number| picked(&old, number)).collect();
        for state in [AdminState::Draining, AdminState::Disabled] {
            let drained = set(&old, &model, "b2", state);
            for (number, before) in (0..).zip(&before).filter(|(_, before)| *before != "b2") {
                assert_eq!(picked(&drained, number), *before, "{algorithm}");
            }
            for number in (0..500).filter(|number| before[*number as usize] == "b2") {
                assert!(!["b2", ""].contains(&picked(&drained, number).as_str()), "{algorithm}");
            }
            // It lasts until an operator changes it.
            let later = step(&drained, &model_of(&["b1", "b2", "b3", "b4", "b5"]));
            assert_eq!(member(&later, "b2").state, state);
            assert!(!later.pools[0].up.get(member(&later, "b2").slot));
            let back = set(&later, &model, "b2", AdminState::Enabled);
            assert!(!back.pools[0].up.get(member(&back, "b2").slot), "only the prober says that it is up");
            back.pools[0].up.set(member(&back, "b2").slot, true);
        }
    }
}

#[test]
fn a_disabled_backend_is_no_last_resort() {
    let (mut off, mut try_all) = (model_of(&["b1", "b2"]), model_of(&["b1", "b2"]));
    off.pools[0].health.kind = HealthKind::Off;
    try_all.pools[0].all_down = AllDown::TryAll;
    for model in [off, try_all] {
        let snapshot = set(&first(&model), &model, "b1", AdminState::Disabled);
        snapshot.pools[0].up.set(member(&snapshot, "b2").slot, false);
        assert_eq!(picked(&snapshot, 1), "b2", "backed off or down, but there is no other");
        let none = set(&snapshot, &model, "b2", AdminState::Draining);
        assert_eq!(picked(&none, 1), "");
    }
}

#[test]
fn a_backend_that_is_added_starts_slowly_and_the_first_ones_do_not() {
    let old = first(&model_of(&["b1"]));
    let new = step(&old, &model_of(&["b2", "b1"]));
    assert_eq!(member(&new, "b1").backend.came_up(), None);
    assert_eq!(member(&new, "b2").backend.came_up(), Some(NOW));
}

#[test]
fn an_ejected_backend_stays_ejected_in_the_next_snapshot_and_a_new_one_in_its_slot_is_not() {
    let old = first(&model_of(&["b1", "b2"]));
    let slot = member(&old, "b2").slot;
    old.pools[0].ejected.set(slot, true);
    let new = step(&old, &model_of(&["b2"]));
    assert!(new.pools[0].ejected.get(slot));
    let without = step(&new, &model_of(&["b3"]));
    assert!(!without.pools[0].ejected.get(member(&without, "b3").slot));
}

#[test]
fn a_snapshot_that_is_still_in_use_reads_the_bits_of_its_successors() {
    let old = first(&model_of(&["b1", "b2"]));
    let new = step(&old, &model_of(&["b2", "b3"]));
    let slot = member(&new, "b2").slot;
    new.pools[0].up.set(slot, false);
    assert!(!old.pools[0].up.get(slot));
    assert!((0..20).all(|number| picked(&old, number) == "b1"));
    set(&new, &model_of(&["b2", "b3"]), "b3", AdminState::Disabled);
    assert_eq!(picked(&new, 1), "", "an operator's no holds at once");
}

#[test]
fn a_backend_begins_as_its_pool_says_last_resort_or_not() {
    for (initial, begins) in [(InitialHealth::Up, "b2"), (InitialHealth::Down, "")] {
        let mut model = model_of(&["b1"]);
        (model.pools[0].health.initial, model.pools[0].all_down) = (initial, AllDown::TryAll);
        let old = first(&model);
        assert_eq!(picked(&old, 1).is_empty(), begins.is_empty());
        model.pools[0].backends = vec![backend("b2")];
        let new = step(&old, &model);
        assert_eq!(picked(&new, 1), begins);
        assert_eq!(new.pools[0].has_usable(), !begins.is_empty());
        // As the prober does once a probe has passed, and then none does.
        let slot = member(&new, "b2").slot;
        new.pools[0].last_resort_mask.set(slot, true);
        new.pools[0].up.set(slot, false);
        assert_eq!(picked(&new, 1), "b2");
    }
}

#[test]
fn a_listener_that_stays_counts_on_under_other_limits() {
    let mut model = model_of(&["b1"]);
    let old = first(&model);
    let process = ConnectionLimit::new(9);
    let guard = old.listeners[0].admission.reserve(&process);
    model.listeners[0].max_connections = Some(1);
    let new = step(&old, &model);
    assert!(guard.is_ok() && new.listeners[0].admission.reserve(&process).is_err());
    assert!(Arc::ptr_eq(&new.listeners[0].admission.totals, &old.listeners[0].totals));
}

/// What may happen in between two looks.
#[derive(Clone, Debug)]
enum Act {
    /// The backends that there are from now on, each with weight and limit.
    Change(Vec<(u8, u16, u32)>),
    State(u8, AdminState),
    /// A worker takes a lease from the snapshot that it has.
    Take(usize),
    /// A connection ends.
    Return(usize),
    /// A worker takes up the newest snapshot.
    Adopt(usize),
}

const WORKERS: usize = 3;

fn act() -> impl Strategy<Value = Act> {
    let member = (0u8..90, 0u16..4, 1u32..5);
    let state = prop_oneof![Just(AdminState::Enabled), Just(AdminState::Draining), Just(AdminState::Disabled)];
    prop_oneof![
        2 => prop::collection::vec(member, 0..80).prop_map(Act::Change),
        1 => (0u8..90, state).prop_map(|(number, state)| Act::State(number, state)),
        12 => (0..WORKERS).prop_map(Act::Take),
        4 => any::<usize>().prop_map(Act::Return),
        4 => (0..WORKERS).prop_map(Act::Adopt),
    ]
}

proptest! {
    /// Whatever changes, every lease counts for its backend until it is given back, and for no other.
    #[test]
    fn leases_stay_exact_through_any_sequence_of_changes(
        acts in prop::collection::vec(act(), 1..120),
        algorithm in 0..balance::REGISTRY.len(),
    ) {
        let named = |number: u8| format!("b{number}");
        let mut model = model_of(&["b1", "b2", "b3"]);
        model.pools[0].algorithm = &balance::REGISTRY[algorithm];
        let mut newest = Arc::new(first(&model));
        let mut workers = vec![newest.clone(); WORKERS];
        let mut leases: Vec<Lease> = Vec::new();
        for (number, act) in (0..).zip(acts) {
            match act {
                Act::Change(mut members) => {
                    members.sort_unstable();
                    members.dedup_by_key(|member| member.0);
                    fastrand::Rng::with_seed(number).shuffle(&mut members);
                    let backends = members.into_iter().map(|(name, weight, limit)| model::Backend {
                        weight,
                        max_connections: Some(limit),
                        ..backend(&named(name))
                    });
                    model.pools[0].backends = backends.collect();
                    newest = Arc::new(step(&newest, &model));
                }
                Act::State(name, state) => newest = Arc::new(set(&newest, &model, &named(name), state)),
                Act::Take(worker) => {
                    let snapshot = &workers[worker];
                    if let Some(lease) = pick(snapshot, number as u32) {
                        let member = snapshot.pools[0].member(lease.index() as usize).unwrap();
                        prop_assert!(Arc::ptr_eq(&member.backend, lease.backend()));
                        prop_assert_eq!(member.state, AdminState::Enabled);
                        prop_assert!(member.weight > 0);
                        let limit = snapshot.pools[0].limits[lease.index() as usize];
                        prop_assert!(lease.backend().active() <= limit, "over the limit");
                        leases.push(lease);
                    }
                }
                Act::Return(which) if !leases.is_empty() => drop(leases.swap_remove(which % leases.len())),
                Act::Return(_) => {}
                Act::Adopt(worker) => workers[worker] = newest.clone(),
            }
            let pools = workers.iter().chain([&newest]).map(|snapshot| &snapshot.pools[0]);
            for pool in pools {
                for member in &pool.members {
                    let out = leases.iter().filter(|lease| lease.backend().id == member.backend.id).count();
                    prop_assert_eq!(member.backend.active() as usize, out);
                    prop_assert_eq!(pool.loads[member.slot / WORD].active(member.slot).load(Ordering::Relaxed) as usize, out);
                }
            }
            for lease in &leases {
                let out = leases.iter().filter(|other| other.backend().id == lease.backend().id).count();
                prop_assert_eq!(lease.backend().active() as usize, out, "of one that left");
            }
        }
        // Slots come free once all connections and old snapshots are gone.
        leases.clear();
        workers.clear();
        model.pools[0].backends.clear();
        let empty = step(&newest, &model);
        drop(newest);
        let last = step(&empty, &model_with(vec![backend("b1")]));
        prop_assert_eq!((last.pools[0].tenants.len(), last.pools[0].members[0].slot), (1, 0));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    #[test]
    fn shares_follow_weights_that_change_faster_than_a_round(
        rounds in prop::collection::vec(prop::collection::vec(1u16..60, 4), 2..8),
        clients in 1u32..9,
    ) {
        let mut model = model_of(&["b0", "b1", "b2", "b3"]);
        let (mut snapshot, mut counts, mut shares) = (first(&model), [0f64; 4], [0f64; 4]);
        for weights in rounds.iter().cycle().take(600) {
            let sum: u16 = weights.iter().sum();
            for (index, &weight) in weights.iter().enumerate() {
                model.pools[0].backends[index].weight = weight;
                shares[index] += f64::from(clients) * f64::from(weight) / f64::from(sum);
            }
            snapshot = step(&snapshot, &model);
            (0..clients).for_each(|number| counts[pick(&snapshot, number).unwrap().index() as usize] += 1.0);
        }
        for (count, share) in counts.iter().zip(&shares) {
            prop_assert!((count - share).abs() < 6.0 * share.sqrt(), "{counts:?}, not {shares:?}");
        }
    }
}

#[test]
fn the_clients_of_a_removed_listener_share_its_routes() {
    let mut model = model_of(&["b1"]);
    model.listeners[0].routes = vec![model::Route { pool: "web".to_owned(), ..model::Route::default() }];
    let before = build(&model, &resolved(&model));
    model.listeners.clear();
    let (listener, removed) = (before.listener("in").unwrap(), step(&before, &model));
    let first = listener.removed_in(&removed);
    assert!(first.has_routes() && Arc::ptr_eq(&first, &listener.removed_in(&removed)));
    assert!(Arc::ptr_eq(&first.pool, removed.pool("web").unwrap()));
    let next = step(&removed, &model_of(&["b2"]));
    assert!(Arc::ptr_eq(&listener.removed_in(&next).pool, next.pool("web").unwrap()), "those of each snapshot");
}
