//! A preview is what the next choice gives, and leaves no trace.

use super::*;
use proptest::prelude::*;

/// The weights of a pool, and what happens between two choices.
#[derive(Debug, Clone)]
struct Case {
    weights: Vec<u16>,
    steps: Vec<Step>,
    start: u64,
    seed: u64,
}

#[derive(Debug, Clone)]
struct Step {
    client: Option<u32>,
    /// Backends that go up or down, and those that get another load, limit or latency.
    flips: Vec<usize>,
    loads: Vec<(usize, u32, u32, u32)>,
    tried: Vec<u32>,
    cold: Vec<usize>,
    pause: u64,
}

const MOST: usize = 70;

fn step() -> impl Strategy<Value = Step> {
    let client = prop_oneof![1 => Just(None), 9 => (0u32..8).prop_map(Some)];
    let load = (0..MOST, prop_oneof![0u32..4, 0u32..100_000], prop_oneof![Just(u32::MAX), 0u32..4], 0u32..50_000);
    let few = |most: usize| prop::collection::vec(0..MOST, 0..most);
    let tried = prop::collection::vec(0..MOST as u32, 0..3);
    (client, few(6), prop::collection::vec(load, 0..6), tried, few(20), prop_oneof![0u64..10, 0u64..7_000_000])
        .prop_map(|(client, flips, loads, tried, cold, pause)| Step { client, flips, loads, tried, cold, pause })
}

fn case() -> impl Strategy<Value = Case> {
    let weight = prop_oneof![2 => Just(0), 4 => 1u16..5, 1 => Just(1_000), 1 => any::<u16>()];
    let steps = prop::collection::vec(step(), 1..40);
    let weights = prop_oneof![prop::collection::vec(weight, 1..MOST), prop::collection::vec(1u16..4, 1..5)];
    (weights, steps, any::<u64>(), any::<u64>()).prop_map(|(weights, steps, start, seed)| Case {
        weights,
        steps,
        start,
        seed,
    })
}

impl Step {
    /// Changes the world, and gives the backends that take part in this choice.
    fn apply(&self, world: &mut World, len: usize) -> AtomicBits {
        world.now = world.now + std::time::Duration::from_micros(self.pause);
        for &index in self.flips.iter().filter(|index| **index < len) {
            world.up.set(index, !world.up.get(index));
        }
        for &(index, active, limit, latency) in self.loads.iter().filter(|load| load.0 < len) {
            world.set_active(index, active);
            world.limits[index] = limit;
            world.set_latency(index, latency);
            if latency % 7 == 0 {
                world.loads[index / WORD].failed(index % WORD, world.now);
            }
        }
        world.tried.clone_from(&self.tried);
        let group = AtomicBits::new(len, true);
        self.cold.iter().filter(|index| **index < len).for_each(|&index| group.set(index, false));
        group
    }

    fn client(&self) -> Client {
        self.client.map_or(Client { ip: None }, client)
    }
}

fn check(preview: &Preview, picked: Option<usize>) -> Result<(), TestCaseError> {
    match preview {
        Preview::Certain(certain) => prop_assert_eq!(*certain, picked),
        Preview::Drawn(chances) => {
            let sum: f64 = chances.iter().map(|(_, chance)| chance).sum();
            prop_assert!((sum - 1.0).abs() < 1e-9, "the chances add up to {}", sum);
            prop_assert!(chances.iter().all(|(_, chance)| (0.0..=1.0 + 1e-9).contains(chance)));
            let picked = picked.expect("a draw gives a backend");
            prop_assert!(chances.iter().any(|(index, chance)| *index == picked && *chance > 0.0));
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn every_algorithm_chooses_what_its_preview_gave_and_previews_change_nothing(case in case()) {
        let len = case.weights.len();
        for row in REGISTRY {
            let (watched, control) = ((row.build)(&members(&case.weights), case.start), (row.build)(&members(&case.weights), case.start));
            let mut world = World::new(len);
            let (mut random, mut same_random) = (fastrand::Rng::with_seed(case.seed), fastrand::Rng::with_seed(case.seed));
            for step in &case.steps {
                let group = step.apply(&mut world, len);
                let view = View { group: (step.pause % 2 == 0).then_some(&group), ..world.view() };
                let preview = watched.preview(step.client(), &view);
                prop_assert_eq!(&watched.preview(step.client(), &view), &preview, "{:?} again", row);
                // For other clients, too.
                (0..4).for_each(|number| drop(watched.preview(client(number), &view)));
                let picked = watched.pick(step.client(), &view, &mut random);
                check(&preview, picked)?;
                // Without previews the choices are the same.
                prop_assert_eq!(control.pick(step.client(), &view, &mut same_random), picked, "{:?}", row);
            }
        }
    }

    #[test]
    fn the_chances_of_a_draw_are_exact(
        backends in prop::collection::vec((0u16..6, 0u32..4, prop::bool::weighted(0.8)), 1..9),
        seed in any::<u64>(),
    ) {
        let weights: Vec<u16> = backends.iter().map(|backend| backend.0).collect();
        let world = World::new(weights.len());
        for (index, &(_, active, up)) in backends.iter().enumerate() {
            world.set_active(index, active);
            world.up.set(index, up);
        }
        let usable: Vec<usize> = (0..weights.len()).filter(|&index| weights[index] > 0 && world.up.get(index)).collect();
        let total: f64 = usable.iter().map(|&index| f64::from(weights[index])).sum();
        for name in ["random", "p2c"] {
            let balance = built(name, &weights);
            // The definition: each pair, in both orders.
            let mut exact = vec![0.0; weights.len()];
            for &first in &usable {
                let chance = f64::from(weights[first]) / total;
                if name == "random" || usable.len() == 1 {
                    exact[first] += chance;
                    continue;
                }
                for &second in usable.iter().filter(|second| **second != first) {
                    let both = chance * f64::from(weights[second]) / (total - f64::from(weights[first]));
                    let load = |index: usize| f64::from(backends[index].1) / f64::from(weights[index]);
                    exact[if load(second) < load(first) { second } else { first }] += both;
                }
            }
            match balance.preview(client(1), &world.view()) {
                Preview::Certain(none) => prop_assert!(none.is_none() && usable.is_empty(), "{} draws", name),
                Preview::Drawn(chances) => {
                    prop_assert_eq!(chances.len(), usable.len());
                    for (index, chance) in chances {
                        prop_assert!((chance - exact[index]).abs() < 1e-9, "{}: {} for {}, not {}", name, chance, index, exact[index]);
                    }
                }
            }
            const DRAWS: u32 = 2_000;
            let (mut random, mut counts) = (fastrand::Rng::with_seed(seed), vec![0u32; weights.len()]);
            (0..DRAWS).filter_map(|_| balance.pick(client(1), &world.view(), &mut random)).for_each(|index| counts[index] += 1);
            for (count, exact) in counts.iter().zip(exact).filter(|_| !usable.is_empty()) {
                let mean = f64::from(DRAWS) * exact;
                // Six standard deviations, and one for rounding.
                prop_assert!((f64::from(*count) - mean).abs() <= 6.0 * mean.sqrt() + 1.0, "{}: {} draws, not {}", name, count, mean);
            }
        }
    }
}

#[test]
fn a_draw_that_ends_a_search_of_a_long_round_has_the_shares_of_the_weights() {
    // One period is longer than the turns that a choice looks at, and the three that are up come late in it.
    let weights: Vec<u16> = (0..3000).map(|index| 1 + index % 13).collect();
    let (world, survivors) = (World::new(3000), [2990, 2991, 2995]);
    (0..3000).filter(|index| !survivors.contains(index)).for_each(|index| world.up.set(index, false));
    let sum: f64 = survivors.iter().map(|&index| f64::from(weights[index])).sum();
    let Preview::Drawn(chances) = built("wrr", &weights).preview(client(1), &world.view()) else { panic!("it draws") };
    let exact = |&index: &usize| (index, f64::from(weights[index]) / sum);
    assert_eq!(chances, survivors.iter().map(exact).collect::<Vec<_>>());
    // Ties of least-connections are broken from there.
    assert_eq!(built("lc", &weights).preview(client(1), &world.view()), Preview::Drawn(chances));
    world.set_active(2990, 1);
    world.set_active(2991, 1);
    let least = built("lc", &weights).preview(client(1), &world.view());
    assert_eq!(least, Preview::Certain(Some(2995)));
}
