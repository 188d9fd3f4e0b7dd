//! Source hash and Maglev: which clients move after a change.

use super::*;
use proptest::prelude::*;

const NAMES: [&str; 2] = ["source-hash", "maglev"];
const CLIENTS: u32 = 4_000;

/// The key of every client's backend.
fn served(name: &str, members: &[Member], world: &World) -> Vec<String> {
    let (balance, mut random) = ((find(name).unwrap().build)(members, 0), fastrand::Rng::with_seed(1));
    let key = |number| members[balance.pick(client(number), &world.view(), &mut random).unwrap()].key.clone();
    (0..CLIENTS).map(key).collect()
}

fn moved(before: &[String], after: &[String]) -> usize {
    before.iter().zip(after).filter(|(before, after)| before != after).count()
}

#[test]
fn a_client_keeps_its_backend_whatever_the_order() {
    let weights = [3, 1, 0, 7, 2, 2, 90];
    let members = members(&weights);
    let reversed: Vec<Member> = members.iter().rev().cloned().collect();
    let world = World::new(weights.len());
    for name in NAMES {
        assert_eq!(served(name, &members, &world), served(name, &reversed, &world));
        let (balance, mut random) = (built(name, &weights), fastrand::Rng::with_seed(1));
        let mut picks = || (0..200).map(|number| balance.pick(client(number), &world.view(), &mut random)).collect();
        let first: Vec<_> = picks();
        assert_eq!(first, picks());
    }
}

#[test]
fn when_a_backend_dies_only_its_clients_move_and_they_come_back() {
    let members = members(&[3, 1, 4, 2, 5]);
    for name in NAMES {
        let world = World::new(5);
        let before = served(name, &members, &world);
        world.take_down(&[2]);
        let without = served(name, &members, &world);
        assert!(before.iter().zip(&without).all(|(before, now)| now == before || *before == members[2].key));
        assert!(!without.contains(&members[2].key));
        // The second one that dies moves only its own clients, too.
        world.take_down(&[4]);
        let without_both = served(name, &members, &world);
        assert!(without.iter().zip(&without_both).all(|(before, now)| now == before || *before == members[4].key));
        world.up.set(2, true);
        world.up.set(4, true);
        assert_eq!(served(name, &members, &world), before, "{name}");
    }
}

#[test]
fn rendezvous_moves_only_to_the_added_and_from_the_removed() {
    let members = members(&[2, 3, 1, 2, 4, 3]);
    let (all, fewer) = (World::new(6), World::new(5));
    let with = served("source-hash", &members, &all);
    let without = served("source-hash", &members[..5], &fewer);
    assert!(with.iter().zip(&without).all(|(with, without)| with == without || *with == members[5].key));
    let share = moved(&with, &without) as f64 / f64::from(CLIENTS);
    assert!((share - 0.2).abs() < 0.03, "{share} of clients moved for a fifth of the weight");
}

#[test]
fn maglev_moves_few_others_when_the_membership_changes() {
    let weights: Vec<u16> = (0..20).map(|index| 1 + index % 4).collect();
    let members = members(&weights);
    let with = served("maglev", &members, &World::new(20));
    let without = served("maglev", &members[..19], &World::new(19));
    let own = with.iter().filter(|key| **key == members[19].key).count();
    let others = moved(&with, &without) - own;
    assert!(others * 50 < CLIENTS as usize, "{others} of {CLIENTS} moved though their backend stayed");
}

#[test]
fn a_client_without_an_address_is_one_client() {
    for name in NAMES {
        let (balance, world) = (built(name, &[1; 9]), World::new(9));
        let mut random = fastrand::Rng::with_seed(1);
        let mut pick = || balance.pick(Client { ip: None }, &world.view(), &mut random);
        let first = pick();
        assert!(first.is_some() && (0..20).all(|_| pick() == first));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]
    #[test]
    fn every_order_of_the_members_gives_the_same_backends(
        weights in prop::collection::vec(0u16..5, 1..30),
        doubled in prop::collection::vec((0usize..30, 0u16..5), 0..4),
        down in prop::collection::vec(0usize..30, 0..10),
        seed in any::<u64>(),
    ) {
        let mut one = members(&weights);
        // Two names for one address, each with a weight of its own.
        for &(index, weight) in doubled.iter().filter(|(index, _)| *index < weights.len()) {
            one.push(Member { key: one[index].key.clone(), weight });
        }
        let mut other = one.clone();
        fastrand::Rng::with_seed(seed).shuffle(&mut other);
        let down: Vec<&str> = down.iter().filter_map(|&index| one.get(index)).map(|member| &*member.key).collect();
        let picks = |name: &str, members: &[Member]| -> Vec<Option<String>> {
            let (balance, world) = ((find(name).unwrap().build)(members, 0), World::new(members.len()));
            let is_down = |index: &usize| down.contains(&&*members[*index].key);
            world.take_down(&(0..members.len()).filter(is_down).collect::<Vec<_>>());
            let mut random = fastrand::Rng::with_seed(1);
            let mut pick = |number| balance.pick(client(number), &world.view(), &mut random);
            (0..300).map(|number| pick(number).map(|index| members[index].key.clone())).collect()
        };
        for name in NAMES {
            prop_assert_eq!(picks(name, &one), picks(name, &other), "{}", name);
        }
    }
}
