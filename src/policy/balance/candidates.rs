//! The backends that one algorithm may choose from: those with weight, 64 to a word.
//!
//! Every algorithm that has to look at many backends does it through here, so that "go round once from there, 64 at a
//! look, the usable ones only" is written once. What is usable is the [`View`]'s to say, what has weight is known here;
//! nothing is decided beyond that.

use super::{LoadBlock, Member, View};
use crate::base::bits::WORD;
use std::ops::ControlFlow;

/// See the module. Indexes are positions in the `members` it was built from.
pub struct Candidates {
    /// Which have weight, a bit each.
    bits: Vec<u64>,
    /// Weights, as long as `bits`: an array per word, so that a lane needs no bounds check.
    weights: Vec<[u16; WORD]>,
    len: usize,
}

impl Candidates {
    /// The members that have weight.
    pub fn new(members: &[Member]) -> Candidates {
        let words = members.len().div_ceil(WORD);
        let mut candidates = Candidates { bits: vec![0; words], weights: vec![[0; WORD]; words], len: members.len() };
        for (index, member) in members.iter().enumerate() {
            candidates.bits[index / WORD] |= u64::from(member.weight > 0) << (index % WORD);
            candidates.weights[index / WORD][index % WORD] = member.weight;
        }
        candidates
    }

    /// How many members there are, those without weight included: indexes are below this.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Are there no members at all?
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The weight of a member; 0 for an index outside.
    pub fn weight(&self, index: usize) -> u16 {
        self.weights.get(index / WORD).map_or(0, |weights| weights[index % WORD])
    }

    /// The first usable backend at or after `start` (an index), going round once.
    pub fn next_from(&self, start: usize, view: &View<'_>) -> Option<usize> {
        self.usable(start, view).next()
    }

    /// A usable backend other than `except`, each with the probability of its weight among them, whatever share of all
    /// that is. Looks at every backend: for when cheaper ways have failed.
    pub fn draw(&self, view: &View<'_>, random: &mut fastrand::Rng, except: Option<usize>) -> Option<usize> {
        // A reservoir of one (Chao 1982): a single pass, so that no bit that changes meanwhile can spoil a sum.
        let mut total = 0;
        let mut chosen = None;
        for index in self.usable(0, view).filter(|&index| Some(index) != except) {
            let weight = u64::from(self.weight(index));
            total += weight;
            if random.u64(0..total) < weight {
                chosen = Some(index);
            }
        }
        chosen
    }

    /// Visits every candidate that is up once, beginning at `start` and going round, until `visit` breaks. Limits and
    /// tried backends are left to the visitor, who asks [`View::has_room`] of the few it would take: asking it of all
    /// would double the cost of the scan.
    pub fn visit(&self, start: usize, view: &View<'_>, mut visit: impl FnMut(Lane<'_>) -> ControlFlow<()>) {
        for (word, bits) in self.round(start, view) {
            let (Some(weights), Some(block)) = (self.weights.get(word), view.loads.get(word)) else { continue };
            let lane =
                |lane: usize| Lane { index: word * WORD + lane, weight: weights[lane % WORD].into(), block, lane };
            // Nearly every word is full, and counting up is faster than picking bits out one after the other.
            let flow = if bits == u64::MAX {
                (0..WORD).try_for_each(|at| visit(lane(at)))
            } else {
                ones(bits).try_for_each(|at| visit(lane(at)))
            };
            if flow.is_break() {
                return;
            }
        }
    }

    /// The usable backends, in order from `start`, going round once.
    fn usable<'a>(&'a self, start: usize, view: &'a View<'_>) -> impl Iterator<Item = usize> + 'a {
        let indexes = |(word, bits)| ones(bits).map(move |lane| word * WORD + lane);
        self.round(start, view).flat_map(indexes).filter(|&index| view.has_room(index))
    }

    /// Every word's number and the candidates in it that are up, one turn round from `start`, whose own word comes
    /// first and last: what lies at or after it, and what lies before it.
    fn round<'a>(&'a self, start: usize, view: &'a View<'_>) -> impl Iterator<Item = (usize, u64)> + 'a {
        let words = self.bits.len();
        let after = u64::MAX << (start % WORD);
        (0..=words).map(move |step| {
            let word = start / WORD + step;
            let word = if word < words { word } else { word - words };
            let bits = self.bits.get(word).map_or(0, |bits| bits & view.up_word(word));
            let mask = match step {
                0 => after,
                step if step == words => !after,
                _ => u64::MAX,
            };
            (word, bits & mask)
        })
    }
}

/// A candidate that is up, as [`Candidates::visit`] shows it.
pub struct Lane<'a> {
    /// Its index.
    pub index: usize,
    /// Its weight, at least 1.
    pub weight: u64,
    /// Where its load stands …
    pub block: &'a LoadBlock,
    /// … and in which lane.
    pub lane: usize,
}

/// The bits set in a word, lowest first.
fn ones(mut bits: u64) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        let lane = bits.trailing_zeros() as usize;
        bits &= bits.checked_sub(1)?;
        Some(lane)
    })
}

#[cfg(test)]
mod tests {
    use super::super::tests::{World, members};
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn nothing_comes_of_nothing() {
        let none = Candidates::new(&[]);
        let world = World::new(0);
        assert_eq!(none.next_from(0, &world.view()), None);
        assert_eq!(none.draw(&world.view(), &mut fastrand::Rng::with_seed(1), None), None);
        none.visit(0, &world.view(), |_| panic!("there is nothing to visit"));
    }

    proptest! {
        #[test]
        fn a_round_sees_each_usable_candidate_once_in_order(
            weights in prop::collection::vec(0u16..3, 1..300),
            down in prop::collection::vec(0usize..300, 0..100),
            full in prop::collection::vec(0usize..300, 0..20),
            start in 0usize..300,
        ) {
            let (candidates, mut world) = (Candidates::new(&members(&weights)), World::new(weights.len()));
            let start = start % weights.len();
            world.take_down(&down);
            for &index in full.iter().filter(|&&index| index < weights.len()) {
                world.limits[index] = 0;
            }
            let view = world.view();
            let round = (0..weights.len()).map(|step| (start + step) % weights.len());
            let up: Vec<usize> = round.filter(|&index| weights[index] > 0 && world.up.get(index)).collect();
            let usable: Vec<usize> = up.iter().copied().filter(|&index| view.usable(index)).collect();
            prop_assert_eq!(candidates.usable(start, &view).collect::<Vec<_>>(), usable);
            let mut visited = Vec::new();
            candidates.visit(start, &view, |lane| {
                assert_eq!(lane.weight, u64::from(weights[lane.index]));
                visited.push(lane.index);
                ControlFlow::Continue(())
            });
            prop_assert_eq!(visited, up);
        }
    }
}
