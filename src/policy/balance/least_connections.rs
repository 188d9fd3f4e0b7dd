//! Least connections: the fewest active ones per unit of weight; ties in the order of weighted round robin. Recent
//! early failures count as active ([`super::load`]), since a backend that fails fast must not attract clients.

use super::lightest::Lightest;
use super::weighted_round_robin::WeightedRoundRobin;
use super::{Balance, Client, Member, Preview, View};
use std::ops::ControlFlow;

struct LeastConnections(WeightedRoundRobin);

/// Builds the algorithm for these members.
pub fn build(members: &[Member], start: u64) -> Box<dyn Balance> {
    Box::new(LeastConnections(WeightedRoundRobin::new(members, start)))
}

impl Balance for LeastConnections {
    fn pick(&self, _: Client, view: &View<'_>, random: &mut fastrand::Rng) -> Option<usize> {
        self.lightest(self.0.take(view, random)?, view)
    }

    fn preview(&self, _: Client, view: &View<'_>) -> Preview {
        self.0.peek(view).then(|start| self.lightest(start, view))
    }
}

impl LeastConnections {
    /// The lightest backend in a round from `start`.
    fn lightest(&self, start: usize, view: &View<'_>) -> Option<usize> {
        let mut lightest = Lightest::new();
        self.0.candidates().visit(start, view, |lane| {
            lightest.offer(&lane, lane.block.load(lane.lane, view.now).into(), view);
            // No load is lower than idle.
            if lightest.load == 0 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        lightest.index
    }
}
