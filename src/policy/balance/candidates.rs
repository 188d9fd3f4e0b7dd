//! The backends that an algorithm may choose from: those with weight, 64 to a word.
//!
//! Every algorithm that scans many backends does it here, so that the round over usable ones, 64 at a time, is written
//! once. The [`View`] knows which backends are usable; this module knows which have weight.

use super::{LoadBlock, Member, Preview, View};
use crate::base::bits::WORD;
use std::ops::ControlFlow;

/// The members of a pool by weight. Indexes are positions in `members`.
pub struct Candidates {
    /// A bit per member: whether it has weight.
    bits: Vec<u64>,
    /// Weights, as long as `bits`: an array per word, so that a lane needs no bounds check.
    weights: Vec<[u16; WORD]>,
    len: usize,
}

impl Candidates {
    /// Builds the set of these members.
    pub fn new(members: &[Member]) -> Candidates {
        let words = members.len().div_ceil(WORD);
        let mut candidates = Candidates { bits: vec![0; words], weights: vec![[0; WORD]; words], len: members.len() };
        for (index, member) in members.iter().enumerate() {
            candidates.bits[index / WORD] |= u64::from(member.weight > 0) << (index % WORD);
            candidates.weights[index / WORD][index % WORD] = member.weight;
        }
        candidates
    }

    /// The number of members, including those without weight; indexes are below it.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are no members.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The weight of a member; 0 for an index outside.
    pub fn weight(&self, index: usize) -> u16 {
        self.weights.get(index / WORD).map_or(0, |weights| weights[index % WORD])
    }

    /// The first usable backend at or after the index `start`, in one round.
    pub fn next_from(&self, start: usize, view: &View<'_>) -> Option<usize> {
        self.usable(start, view).next()
    }

    /// Draws a usable backend other than `except`, with the probability of its weight among them. Scans every backend:
    /// for callers whose cheaper ways have failed.
    pub fn draw(&self, view: &View<'_>, random: &mut fastrand::Rng, except: Option<usize>) -> Option<usize> {
        // A reservoir of one (Chao 1982): a single pass, so that bits that change meanwhile can't invalidate a sum.
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

    /// What [`Candidates::draw`] would give.
    pub fn preview(&self, view: &View<'_>) -> Preview {
        Preview::by_weight(self.usable(0, view).map(|index| (index, self.weight(index).into())))
    }

    /// Visits every candidate that is up once, in a round from `start`, until `visit` breaks. The visitor checks limits
    /// and tried backends with [`View::has_room`] for the few that it would take: checking all would double the cost of
    /// the scan.
    pub fn visit(&self, start: usize, view: &View<'_>, mut visit: impl FnMut(Lane<'_>) -> ControlFlow<()>) {
        for (word, bits) in self.round(start, view) {
            let (Some(weights), Some(block)) = (self.weights.get(word), view.loads.get(word)) else { continue };
            let lane =
                |lane: usize| Lane { index: word * WORD + lane, weight: weights[lane % WORD].into(), block, lane };
            // Nearly every word is full, so counting up is faster than extracting bits one by one.
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

    /// The usable backends, in one round from `start`.
    pub fn usable<'a>(&'a self, start: usize, view: &'a View<'_>) -> impl Iterator<Item = usize> + 'a {
        let indexes = |(word, bits)| ones(bits).map(move |lane| word * WORD + lane);
        self.round(start, view).flat_map(indexes).filter(|&index| view.has_room(index))
    }

    /// Each word's number and its candidates that are up, in one round from `start`. The word of `start` comes first
    /// (bits from `start` on) and last (bits before).
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

/// A candidate that is up, for [`Candidates::visit`].
pub struct Lane<'a> {
    /// The candidate's index.
    pub index: usize,
    /// The candidate's weight, at least 1.
    pub weight: u64,
    /// The block of its load.
    pub block: &'a LoadBlock,
    /// Its lane in the block.
    pub lane: usize,
}

/// The set bits of a word, lowest first.
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
    fn without_candidates_there_is_no_choice() {
        let none = Candidates::new(&[]);
        let world = World::new(0);
        assert_eq!(none.next_from(0, &world.view()), None);
        assert_eq!(none.draw(&world.view(), &mut fastrand::Rng::with_seed(1), None), None);
        none.visit(0, &world.view(), |_| panic!("there is nothing to visit"));
    }

    proptest! {
        #[test]
        fn a_round_visits_each_usable_candidate_once_in_order(
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
