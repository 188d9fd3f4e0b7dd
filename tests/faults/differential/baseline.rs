//! What happens without a balancer, often enough to know what always happens.

use super::cases::Case;
use super::compare::certain;
use super::route::{Pair, Plain};
use crate::scenario::{Observation, Scenario};
use std::collections::BTreeSet;
use testkit::{Ending, PATIENCE};

/// How often all cases are played in a random order.
const SHUFFLED: u64 = 3;

/// How often a doubtful case is played once more, and how many cases are at most.
const AGAIN: usize = 40;
const DOUBTFUL: usize = 30;

/// What one side has seen over all direct runs.
#[derive(Clone, Debug, Default)]
pub struct Baseline {
    /// How the other side ended.
    pub ends: BTreeSet<Option<Ending>>,
    /// The fewest bytes that arrived.
    pub least: u64,
}

pub struct Baselines {
    plain: Vec<Pair>,
    learned: Vec<[Baseline; 2]>,
    backend: Plain,
    random: fastrand::Rng,
}

impl Baselines {
    pub fn learn(cases: &[Case]) -> Baselines {
        let (backend, mut random) = (Plain::direct(), crate::ends::random());
        let plain = backend.play(Scenario::default, cases, PATIENCE);
        let first = |seen: &Observation| Baseline { ends: [seen.end].into(), least: seen.received };
        let learned = plain.iter().map(|pair| pair.each_ref().map(first)).collect();
        let mut baselines = Baselines { plain, learned, backend, random: random.fork() };
        for _ in 0..SHUFFLED {
            baselines.repeat(cases, &(0..cases.len()).collect::<Vec<_>>());
        }
        baselines
    }

    /// The run without random delays.
    pub fn plain(&self) -> &[Pair] {
        &self.plain
    }

    pub fn of(&self, case: usize, side: usize) -> &Baseline {
        &self.learned[case][side]
    }

    /// Plays the first doubtful cases many more times.
    pub fn learn_more(&mut self, cases: &[Case], doubtful: impl Iterator<Item = usize>) {
        let mut some = BTreeSet::new();
        for case in doubtful {
            if some.len() < DOUBTFUL {
                some.insert(case);
            }
        }
        let again: Vec<usize> = some.into_iter().flat_map(|case| [case; AGAIN]).collect();
        self.repeat(cases, &again);
    }

    fn repeat(&mut self, cases: &[Case], which: &[usize]) {
        let chosen: Vec<Case> = which.iter().map(|case| cases[*case].clone()).collect();
        let random = &mut self.random;
        let played = self.backend.play(|| Scenario::shuffled(random.fork()), &chosen, PATIENCE);
        for (case, pair) in which.iter().zip(played) {
            let broken = [certain(&pair[0], &pair[1]), certain(&pair[1], &pair[0])].concat();
            assert!(broken.is_empty(), "{broken:?} without a balancer: {pair:?}");
            for (baseline, seen) in self.learned[*case].iter_mut().zip(&pair) {
                baseline.ends.insert(seen.end);
                baseline.least = baseline.least.min(seen.received);
            }
        }
    }
}
