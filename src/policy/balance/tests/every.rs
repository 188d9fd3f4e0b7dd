//! Properties of every algorithm in the registry.

use super::*;
use proptest::prelude::*;

#[test]
fn names_are_unique_and_found_in_any_case() {
    let names: Vec<&str> =
        REGISTRY.iter().flat_map(|row| std::iter::once(&row.name).chain(row.short)).copied().collect();
    for (at, name) in names.iter().enumerate() {
        assert!(!names[..at].iter().any(|other| other.eq_ignore_ascii_case(name)), "{name} twice");
        let found = find(&name.to_uppercase()).unwrap();
        assert!(found.name == *name || found.short.contains(name));
    }
    assert!(find("fastest").is_none() && find("").is_none());
}

#[test]
fn the_documented_names_exist() {
    let rows = [
        ("round-robin", &["rr"][..]),
        ("weighted-round-robin", &["wrr"]),
        ("sticky-round-robin", &["srr"]),
        ("least-connections", &["lc"]),
        ("power-of-two", &["ptc", "p2c"]),
        ("source-hash", &["sih", "ip-hash"]),
        ("maglev", &[]),
        ("least-time", &["lt"]),
        ("random", &[]),
    ];
    for (name, short) in rows {
        assert_eq!(find(name).map(|row| (row.name, row.short)), Some((name, short)));
    }
}

#[test]
fn a_pool_without_a_usable_backend_gives_none() {
    let mut random = fastrand::Rng::with_seed(1);
    for row in REGISTRY {
        for weights in [&[][..], &[0], &[0; 100]] {
            let balance = (row.build)(&members(weights), 17);
            let world = World::new(weights.len());
            for client in [client(1), Client { ip: None }] {
                assert_eq!(balance.pick(client, &world.view(), &mut random), None, "{row:?} of {weights:?}");
            }
        }
    }
}

#[test]
fn the_last_usable_backend_is_always_found() {
    let mut random = fastrand::Rng::with_seed(1);
    for row in REGISTRY {
        let mut weights = vec![65_535; 200];
        weights[130] = 1;
        let (balance, world) = ((row.build)(&members(&weights), 3), World::new(200));
        (0..200).filter(|&index| index != 130).for_each(|index| world.up.set(index, false));
        for number in 0..20 {
            assert_eq!(balance.pick(client(number), &world.view(), &mut random), Some(130), "{row:?}");
        }
    }
}

/// Of six backends with these weights, two die; the others take their share in proportion to weight.
fn check_shares(row: &Algorithm, weights: &[u16; 6], dead: &[usize]) {
    let (balance, world) = ((row.build)(&members(weights), 5), World::new(6));
    (0..6).for_each(|index| world.set_latency(index, 1000));
    world.take_down(dead);
    const CLIENTS: u32 = 6_000;
    let counts = counts(&*balance, &world, 6, CLIENTS);
    let alive = |index: &usize| !dead.contains(index);
    let sum: f64 = (0..6).filter(alive).map(|index| f64::from(weights[index])).sum();
    for index in 0..6 {
        let exact = if alive(&index) { f64::from(CLIENTS) * f64::from(weights[index]) / sum } else { 0.0 };
        let off = f64::from(counts[index]) - exact;
        // Five standard deviations of a draw.
        assert!(
            off.abs() <= 5.0 * exact.sqrt(),
            "{row:?} {weights:?} without {dead:?}: {counts:?}, {exact} for {index}"
        );
    }
}

#[test]
fn what_a_dead_backend_leaves_is_spread_over_all_the_others_by_weight() {
    for row in REGISTRY {
        for dead in [&[][..], &[2], &[2, 3]] {
            match row.shares {
                Shares::Equal => check_shares(row, &[4; 6], dead),
                Shares::ByWeight => {
                    check_shares(row, &[4; 6], dead);
                    check_shares(row, &[1, 7, 5, 3, 2, 9], dead);
                }
                Shares::InOrder => {}
            }
        }
    }
}

#[derive(Debug, Clone)]
struct Case {
    weights: Vec<u16>,
    down: Vec<usize>,
    full: Vec<usize>,
    tried: Vec<u32>,
    active: Vec<u32>,
    start: u64,
    seed: u64,
}

fn case() -> impl Strategy<Value = Case> {
    let weight = prop_oneof![3 => Just(0), 3 => 1u16..5, 1 => any::<u16>(), 1 => Just(u16::MAX)];
    let few = |most: usize| prop::collection::vec(0usize..70, 0..most);
    let tried = prop::collection::vec(0u32..70, 0..4);
    let active = prop::collection::vec(prop_oneof![0u32..4, any::<u32>()], 70);
    (prop::collection::vec(weight, 0..70), few(70), few(30), tried, active, any::<u64>(), any::<u64>()).prop_map(
        |(weights, down, full, tried, active, start, seed)| Case { weights, down, full, tried, active, start, seed },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn only_usable_backends_with_weight_and_none_only_without(case in case()) {
        let len = case.weights.len();
        let mut world = World::new(len);
        world.take_down(&case.down);
        for index in 0..len {
            world.set_active(index, case.active[index]);
            world.set_latency(index, case.active[len - 1 - index]);
        }
        for &index in case.full.iter().filter(|&&index| index < len) {
            world.limits[index] = case.active[index];
        }
        world.tried = case.tried;
        let mut random = fastrand::Rng::with_seed(case.seed);
        let view = world.view();
        let allowed: Vec<usize> = (0..len)
            .filter(|&index| case.weights[index] > 0 && world.up.get(index))
            .filter(|&index| world.limits[index] == u32::MAX || case.active[index] < world.limits[index])
            .filter(|&index| !world.tried.contains(&(index as u32)))
            .collect();
        for row in REGISTRY {
            let balance = (row.build)(&members(&case.weights), case.start);
            for number in 0..30 {
                let client = if number == 0 { Client { ip: None } } else { client(number) };
                match balance.pick(client, &view, &mut random) {
                    Some(index) => prop_assert!(allowed.contains(&index), "{:?} chose {} of {:?}", row, index, allowed),
                    None => prop_assert!(allowed.is_empty(), "{:?} found none of {:?}", row, allowed),
                }
            }
        }
    }
}
