//! Least connections, least time, power of two, random.

use super::*;
use proptest::prelude::*;

#[test]
fn an_idle_pool_is_served_as_by_weighted_round_robin() {
    let world = World::new(7);
    let weights = [5, 1, 1, 0, 2, 2, 3];
    let picks = |name| {
        let (balance, mut random) = (built(name, &weights), fastrand::Rng::with_seed(1));
        (0..50).map(|_| balance.pick(client(1), &world.view(), &mut random).unwrap()).collect::<Vec<_>>()
    };
    assert_eq!(picks("lc"), picks("wrr"));
}

#[test]
fn equally_loaded_backends_take_turns() {
    for name in ["lc", "lt"] {
        let (balance, world) = (built(name, &[1; 6]), World::new(6));
        let mut random = fastrand::Rng::with_seed(1);
        (0..6).for_each(|index| world.set_active(index, 3));
        world.set_active(4, 9);
        let mut counts = [0; 6];
        (0..600).for_each(|_| counts[balance.pick(client(1), &world.view(), &mut random).unwrap()] += 1);
        assert!(counts[4] == 0 && counts.iter().filter(|&&count| count >= 100).count() == 5, "{name}: {counts:?}");
    }
}

#[test]
fn an_unmeasured_backend_goes_first_among_equals_only() {
    let (balance, world) = (built("lt", &[1, 1, 2]), World::new(3));
    let mut random = fastrand::Rng::with_seed(1);
    let mut next = || balance.pick(client(1), &world.view(), &mut random);
    world.set_latency(0, 500);
    world.set_latency(2, 4000);
    assert_eq!([next(), next()], [Some(1); 2]);
    world.set_active(1, 1);
    assert_eq!([next(), next()], [Some(0); 2]);
    world.set_active(0, 2);
    assert_eq!([next(), next()], [Some(1); 2]);
}

#[test]
fn of_two_the_less_loaded_serves() {
    let (balance, world) = (built("p2c", &[1, 2]), World::new(2));
    let mut random = fastrand::Rng::with_seed(1);
    // In a pool of two, both are always drawn: 3/1 against 5/2.
    world.set_active(0, 3);
    world.set_active(1, 5);
    assert!((0..200).all(|_| balance.pick(client(1), &world.view(), &mut random) == Some(1)));
    world.set_active(0, 2);
    assert!((0..200).all(|_| balance.pick(client(1), &world.view(), &mut random) == Some(0)));
}

#[test]
fn two_choices_rank_backends_as_theory_says() {
    // Loads 0..10 on ten backends of one weight: the k-th lightest serves in (9 − k) of 45 pairs.
    let (balance, world) = (built("p2c", &[3; 10]), World::new(10));
    let (mut random, mut counts) = (fastrand::Rng::with_seed(1), [0f64; 10]);
    (0..10).for_each(|index| world.set_active(index, index as u32));
    (0..45_000).for_each(|_| counts[balance.pick(client(1), &world.view(), &mut random).unwrap()] += 1.0);
    for (index, count) in counts.iter().enumerate() {
        let exact = 1000.0 * (9 - index) as f64;
        assert!((count - exact).abs() <= 5.0 * exact.sqrt(), "{counts:?}");
    }
}

#[test]
fn two_choices_keep_the_longest_queue_short() {
    let longest = |name| {
        let world = World::new(500);
        counts(&*built(name, &[1; 500]), &world, 500, 5_000).into_iter().max().unwrap()
    };
    let (two, one) = (longest("p2c"), longest("random"));
    assert!(two <= 14 && one >= 18, "{two} against {one} with ten on average");
}

/// Weight, active connections, latency, whether it is up.
fn backend() -> impl Strategy<Value = (u16, u32, u32, bool)> {
    // Few different weights, since the order of weighted round robin is built for each case.
    let weight = prop_oneof![4 => 0u16..4, 1 => Just(1_000), 1 => Just(u16::MAX)];
    let latency = prop_oneof![1 => Just(0), 3 => 1u32..50, 1 => 1u32..10_000_000];
    (weight, prop_oneof![0u32..5, 0u32..100_000], latency, prop::bool::weighted(0.8))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]
    #[test]
    fn the_least_is_the_naive_minimum(
        backends in prop::collection::vec(backend(), 1..140),
        tried in prop::collection::vec(0u32..140, 0..3),
        start in any::<u64>(),
    ) {
        let mut world = World::new(backends.len());
        world.tried = tried;
        for (index, &(_, active, latency, up)) in backends.iter().enumerate() {
            world.set_active(index, active);
            world.set_latency(index, latency);
            world.up.set(index, up);
        }
        let weights: Vec<u16> = backends.iter().map(|backend| backend.0).collect();
        let usable = |index: &usize| weights[*index] > 0 && world.view().usable(*index);
        let fastest = backends.iter().filter(|(weight, _, latency, up)| *weight > 0 && *latency > 0 && *up);
        let fastest = fastest.map(|backend| backend.2).min().unwrap_or(1);
        let measure = |name: &str, index: usize| -> u128 {
            let (_, active, latency, _) = backends[index];
            let latency = if latency == 0 { fastest } else { latency };
            if name == "lc" { active.into() } else { u128::from(latency) * u128::from(active + 1) }
        };
        let mut random = fastrand::Rng::with_seed(1);
        for name in ["lc", "lt"] {
            let picked = (find(name).unwrap().build)(&members(&weights), start).pick(client(1), &world.view(), &mut random);
            let lighter = |other: usize, than: usize| {
                measure(name, other) * u128::from(weights[than]) < measure(name, than) * u128::from(weights[other])
            };
            match picked {
                Some(picked) => {
                    prop_assert!(usable(&picked));
                    prop_assert!(!(0..weights.len()).filter(usable).any(|other| lighter(other, picked)), "{}", name);
                    // Among equals, unmeasured ones go first.
                    let equal = |&other: &usize| !lighter(picked, other) && backends[other].2 == 0;
                    prop_assert!(name == "lc" || backends[picked].2 == 0
                        || !(0..weights.len()).filter(usable).any(|other| equal(&other)));
                }
                None => prop_assert!(!(0..weights.len()).any(|index| usable(&index))),
            }
        }
    }
}
