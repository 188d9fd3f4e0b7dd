//! Weighted round robin: turns in the smooth order of [`super::smooth`], skipping unusable backends. With equal weights
//! that order is the plain round, and [`RoundRobin`] serves it, which skips unusable backends 64 at a time.
//!
//! A cursor that all workers share moves over one period of the order. Skipping a backend's turns leaves the others'
//! turns unchanged. So over a period the remaining shares match the weights exactly, and a dead backend's share goes to
//! all others.
//!
//! A period may have hundreds of thousands of turns, nearly all of dead backends. So after [`MOST_PASSED`] skipped
//! turns, the choice draws a usable backend by weight. The shares stay exact, but the order is random.

use super::candidates::Candidates;
use super::cursor::Cursor;
use super::round_robin::RoundRobin;
use super::{Balance, Client, Member, Preview, View, smooth};

/// Turns that a choice skips before it draws. Short periods are always searched to the end.
const MOST_PASSED: usize = 512;

/// Weighted round robin; the least-loaded algorithms start their scan at its turn.
pub(super) struct WeightedRoundRobin {
    candidates: Candidates,
    order: Box<[u32]>,
    cursor: Cursor,
}

/// Builds the algorithm for these members.
pub fn build(members: &[Member], start: u64) -> Box<dyn Balance> {
    let mut weights = members.iter().map(|member| member.weight).filter(|weight| *weight > 0);
    let first = weights.next();
    if weights.all(|weight| Some(weight) == first) {
        Box::new(RoundRobin::new(members, start))
    } else {
        Box::new(WeightedRoundRobin::new(members, start))
    }
}

impl WeightedRoundRobin {
    pub(super) fn new(members: &[Member], start: u64) -> WeightedRoundRobin {
        let weights: Vec<u16> = members.iter().map(|member| member.weight).collect();
        let order = smooth::order(&weights).into_boxed_slice();
        let cursor = Cursor::new(order.len(), start);
        WeightedRoundRobin { candidates: Candidates::new(members), order, cursor }
    }

    pub(super) fn take(&self, view: &View<'_>, random: &mut fastrand::Rng) -> Option<usize> {
        let turn = self.cursor.take(|start| self.find(start, view));
        turn.or_else(|| self.candidates.draw(view, random, None))
    }

    /// What [`WeightedRoundRobin::take`] would give.
    pub(super) fn peek(&self, view: &View<'_>) -> Preview {
        match self.cursor.peek(|start| self.find(start, view)) {
            Some(index) => Preview::Certain(Some(index)),
            None => self.candidates.preview(view),
        }
    }

    /// The positions that a turn from `start` skips, and its backend.
    fn find(&self, start: usize, view: &View<'_>) -> Option<(usize, usize)> {
        let (before, after) = self.order.split_at_checked(start)?;
        let turns = after.iter().chain(before).map(|&index| index as usize);
        turns.take(MOST_PASSED).enumerate().find(|&(_, index)| view.usable(index))
    }

    pub(super) fn candidates(&self) -> &Candidates {
        &self.candidates
    }
}

impl Balance for WeightedRoundRobin {
    fn pick(&self, _: Client, view: &View<'_>, random: &mut fastrand::Rng) -> Option<usize> {
        self.take(view, random)
    }

    fn preview(&self, _: Client, view: &View<'_>) -> Preview {
        self.peek(view)
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{World, members};
    use super::*;

    #[test]
    fn few_survivors_of_a_long_period_are_found_and_keep_their_shares() {
        let weights: Vec<u16> = (0..3000).map(|index| 1 + index % 13).collect();
        let (turns, world) = (WeightedRoundRobin::new(&members(&weights), 7), World::new(3000));
        assert!(turns.order.len() > MOST_PASSED * 10);
        let survivors = [100, 1000, 2500];
        (0..3000).filter(|index| !survivors.contains(index)).for_each(|index| world.up.set(index, false));
        let (mut random, mut counts) = (fastrand::Rng::with_seed(1), [0f64; 3]);
        for _ in 0..3000 {
            let index = turns.take(&world.view(), &mut random).unwrap();
            counts[survivors.iter().position(|&survivor| survivor == index).unwrap()] += 1.0;
        }
        let sum: f64 = survivors.iter().map(|&index| f64::from(weights[index])).sum();
        for (count, &index) in counts.iter().zip(&survivors) {
            let exact = 3000.0 * f64::from(weights[index]) / sum;
            assert!((count - exact).abs() < 6.0 * exact.sqrt(), "{index} has {count}, not {exact}");
        }
    }
}
