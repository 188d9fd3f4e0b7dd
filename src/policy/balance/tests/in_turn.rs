//! Round robin in its three forms, and backends in order.

use super::*;
use proptest::prelude::*;

#[test]
fn four_workers_together_give_each_backend_the_same_number_of_turns() {
    for name in ["round-robin", "weighted-round-robin"] {
        let (balance, world) = (built(name, &[3; 10]), World::new(10));
        let worker = || {
            let (mut counts, mut random) = ([0; 10], fastrand::Rng::with_seed(1));
            (0..5_000).for_each(|_| counts[balance.pick(client(1), &world.view(), &mut random).unwrap()] += 1);
            counts
        };
        let each = std::thread::scope(|scope| {
            let workers: Vec<_> = (0..4).map(|_| scope.spawn(worker)).collect();
            workers.into_iter().map(|worker| worker.join().unwrap()).collect::<Vec<_>>()
        });
        for index in 0..10 {
            assert_eq!(each.iter().map(|counts| counts[index]).sum::<i32>(), 2_000, "{name}");
        }
    }
}

#[test]
fn with_equal_weights_the_weighted_turns_are_the_plain_ones_however_many_are_down() {
    let weights: Vec<u16> = (0..3000).map(|index| if index % 7 == 0 { 0 } else { 4 }).collect();
    let build = |name: &str| (find(name).unwrap().build)(&members(&weights), 5);
    let (plain, weighted, world) = (build("rr"), build("wrr"), World::new(3000));
    let (mut random, mut other) = (fastrand::Rng::with_seed(1), fastrand::Rng::with_seed(2));
    (0..3000).filter(|index| ![10, 1500, 2999].contains(index)).for_each(|index| world.up.set(index, false));
    for _ in 0..10 {
        let picks =
            [plain.pick(client(1), &world.view(), &mut random), weighted.pick(client(1), &world.view(), &mut other)];
        assert!(picks[0].is_some() && picks[0] == picks[1], "{picks:?}");
    }
}

#[test]
fn five_one_one_is_chosen_smoothly() {
    let (balance, world) = (built("wrr", &[5, 1, 1]), World::new(3));
    let mut random = fastrand::Rng::with_seed(1);
    let mut next = || balance.pick(client(1), &world.view(), &mut random).unwrap();
    assert_eq!([0; 14].map(|_| next()), [0, 0, 1, 0, 2, 0, 0, 0, 0, 1, 0, 2, 0, 0]);
    world.take_down(&[0]);
    assert_eq!([0; 4].map(|_| next()), [1, 2, 1, 2]);
}

#[test]
fn a_client_keeps_its_backend_until_that_is_unusable() {
    let (balance, mut world) = (built("srr", &[1; 5]), World::new(5));
    let mut random = fastrand::Rng::with_seed(1);
    let first: Vec<_> =
        (0..50).map(|number| balance.pick(client(number), &world.view(), &mut random).unwrap()).collect();
    // First connections take turns.
    assert_eq!(first, (0..50).map(|number| number % 5).collect::<Vec<_>>());
    let mut again = |world: &World, number| balance.pick(client(number), &world.view(), &mut random).unwrap();
    assert_eq!((0..50).map(|number| again(&world, number)).collect::<Vec<_>>(), first);
    world.take_down(&[0]);
    world.limits[1] = 0;
    world.tried = vec![2];
    let moved: Vec<_> = (0..50).map(|number| again(&world, number)).collect();
    assert!((0..50).all(|number| if first[number] > 2 { moved[number] == first[number] } else { moved[number] > 2 }));
    // Pinned again: the clients do not go back.
    let recovered = World::new(5);
    assert_eq!((0..50).map(|number| again(&recovered, number)).collect::<Vec<_>>(), moved);
}

#[test]
fn a_mapped_ipv4_address_is_the_same_client() {
    let (balance, world) = (built("srr", &[1; 5]), World::new(5));
    let mut random = fastrand::Rng::with_seed(1);
    let mut pick = |ip: &str| balance.pick(Client { ip: ip.parse().ok() }, &world.view(), &mut random).unwrap();
    let first = pick("192.0.2.1");
    assert_ne!(pick("192.0.2.2"), first);
    assert_eq!(pick("::ffff:192.0.2.1"), first);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn the_turn_passes_to_the_next_usable_whatever_goes_up_and_down(
        name in prop::sample::select(vec!["rr", "wrr"]),
        len in 1usize..150,
        start in any::<u64>(),
        flips in prop::collection::vec((0usize..150, any::<bool>()), 1..80),
    ) {
        let (balance, world) = ((find(name).unwrap().build)(&members(&vec![9; len]), start), World::new(len));
        let (mut random, mut at) = (fastrand::Rng::with_seed(1), (start % len as u64) as usize);
        for (index, up) in flips {
            world.up.set(index % len, up);
            for _ in 0..3 {
                let expected = (0..len).map(|step| (at + step) % len).find(|&index| world.up.get(index));
                prop_assert_eq!(balance.pick(client(1), &world.view(), &mut random), expected);
                at = expected.map_or(at, |index| index + 1);
            }
        }
    }

    #[test]
    fn survivors_have_exactly_their_weights_in_a_period(
        weights in prop::collection::vec(0u16..9, 1..40),
        down in prop::collection::vec(0usize..40, 0..20),
        start in any::<u64>(),
    ) {
        let (balance, world) = ((find("wrr").unwrap().build)(&members(&weights), start), World::new(weights.len()));
        world.take_down(&down);
        let shares: Vec<u16> =
            weights.iter().enumerate().map(|(index, &weight)| if world.up.get(index) { weight } else { 0 }).collect();
        let mut counts = vec![0; weights.len()];
        let mut random = fastrand::Rng::with_seed(1);
        for _ in 0..shares.iter().sum() {
            counts[balance.pick(client(1), &world.view(), &mut random).unwrap()] += 1;
        }
        prop_assert_eq!(counts, shares);
    }
}

#[test]
fn the_first_backend_with_room_takes_every_client() {
    let (balance, mut world) = (built("first", &[1, 0, 9, 1]), World::new(4));
    let mut random = fastrand::Rng::with_seed(1);
    let mut next = |world: &World| balance.pick(client(1), &world.view(), &mut random);
    assert_eq!([0; 3].map(|_| next(&world)), [Some(0); 3], "weights play no part");
    (world.limits[0], world.limits[2]) = (5, 5);
    world.set_active(0, 5);
    assert_eq!(next(&world), Some(2), "the first is full, the second has no weight");
    world.set_active(2, 5);
    assert_eq!(next(&world), Some(3));
    world.set_active(0, 4);
    assert_eq!(next(&world), Some(0), "a client has left the first");
    world.take_down(&[0, 3]);
    assert_eq!(next(&world), None);
}
