//! Balancers agree without messages: with source-hash and maglev a client gets the same backend from every instance with
//! the same set of backends. One that learnt its set step by step agrees with one that started with it.

use proptest::prelude::*;
use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use tcplb::base::{Address, Endpoint, Tick};
use tcplb::config::model::{Backend, Global, Listener, Model, Pool};
use tcplb::policy::balance::{Client, find};
use tcplb::pool::{self, Lease, Resolved, Snapshot, SnapshotPlan};

const CLIENTS: u32 = 200;

/// A set of backends: for each number its weight, its tier, and whether it has the address of the number before it.
type Set = BTreeMap<u8, (u16, bool, bool)>;

/// A model with this set, in an order and with names of its own.
fn model(set: &Set, algorithm: &str, names: &str, seed: u64) -> Model {
    let at = |number: u8| SocketAddr::from(([10, 0, 0, number], 80));
    let mut backends: Vec<Backend> = (set.iter())
        .map(|(&number, &(weight, backup, doubled))| {
            let address = Address::Inet(at(if doubled { number.saturating_sub(1) } else { number }));
            Backend { name: format!("{names}{number}"), weight, backup, ..Backend::at(address) }
        })
        .collect();
    fastrand::Rng::with_seed(seed).shuffle(&mut backends);
    let algorithm = find(algorithm).expect("an algorithm");
    let pool = Pool { name: "web".into(), backends, algorithm, ..Pool::default() };
    let listener = Listener { pool: "web".into(), ..Listener::default() };
    Model { global: Global::default(), listeners: vec![listener], pools: vec![pool] }
}

fn next(old: Option<&Snapshot>, model: &Model) -> Snapshot {
    let mut resolved = Resolved::new();
    for backend in &model.pools[0].backends {
        let Address::Inet(at) = backend.address else { unreachable!() };
        resolved.insert(("web".to_owned(), backend.name.clone()), vec![Endpoint::Inet(at)]);
    }
    let plan = SnapshotPlan { model, resolved: &resolved, addresses: &[], states: &[], now: Tick(1) };
    pool::next(old, &plan)
}

/// Marks the backends at some addresses as down, as the prober does.
fn take_down(snapshot: &Snapshot, down: &[u8]) {
    let pool = &snapshot.pools[0];
    for (member, backend) in pool.members.iter().zip(&pool.settings.backends) {
        let Address::Inet(at) = backend.address else { unreachable!() };
        let is_down = down.iter().any(|&number| at.ip() == Ipv4Addr::new(10, 0, 0, number));
        pool.up.set(member.slot, !is_down);
    }
}

fn lease(snapshot: &Snapshot, number: u32) -> Option<Lease> {
    let client = Client { ip: Some(Ipv4Addr::from_bits(0xc000_0200 + number * 7_919).into()) };
    snapshot.pools[0].pick(client, &[], Tick(1), &mut fastrand::Rng::with_seed(number.into())).ok()
}

/// The address that each client gets.
fn served(snapshot: &Snapshot) -> Vec<Option<Vec<Endpoint>>> {
    (0..CLIENTS).map(|number| lease(snapshot, number).map(|lease| lease.backend().endpoints())).collect()
}

fn set() -> impl Strategy<Value = Set> {
    let member = (0u16..4, prop::bool::weighted(0.2), prop::bool::weighted(0.2));
    prop::collection::btree_map(1u8..40, member, 0..25)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn an_instance_that_learnt_its_backends_step_by_step_agrees_with_one_that_started_with_them(
        history in prop::collection::vec(set(), 1..8),
        kept in prop::collection::vec(any::<bool>(), 8),
        down in prop::collection::vec(1u8..40, 0..8),
        seed in any::<u64>(),
    ) {
        for algorithm in ["source-hash", "maglev"] {
            let mut learnt = None;
            // Open connections and workers that are behind keep slots from being used again.
            let mut held = Vec::new();
            for (step, set) in (0..).zip(&history) {
                let snapshot = next(learnt.as_ref(), &model(set, algorithm, "b", seed ^ step));
                held.extend(lease(&snapshot, step as u32).filter(|_| kept[step as usize]));
                learnt = Some(snapshot);
            }
            let learnt = learnt.expect("a history has a step");
            let set = history.last().expect("a history has a step");
            let fresh = next(None, &model(set, algorithm, "other", !seed));
            prop_assert_eq!(served(&learnt), served(&fresh), "{}", algorithm);
            take_down(&learnt, &down);
            take_down(&fresh, &down);
            prop_assert_eq!(served(&learnt), served(&fresh), "{} with {:?} down", algorithm, down);
        }
    }
}
