//! Power of two choices: two different backends at random by weight, of which the less loaded one serves.
//!
//! Mitzenmacher ("The Power of Two Choices in Randomized Load Balancing", 1996) shows that the second choice reduces
//! the longest queue from logarithmic to doubly logarithmic. Unlike least-connections, its cost does not grow with the
//! number of backends, and workers do not all choose the same idle backend at once.

use super::alias::Alias;
use super::{Balance, Client, Member, View};

struct PowerOfTwo(Alias);

/// Builds the algorithm for these members.
pub fn build(members: &[Member], _: u64) -> Box<dyn Balance> {
    Box::new(PowerOfTwo(Alias::new(members)))
}

impl Balance for PowerOfTwo {
    fn pick(&self, _: Client, view: &View<'_>, random: &mut fastrand::Rng) -> Option<usize> {
        let first = self.0.draw(view, random, None)?;
        let Some(second) = self.0.draw(view, random, Some(first)) else { return Some(first) };
        // Compares load ÷ weight, multiplied out. On a tie the first serves, since it was drawn by weight alone.
        let load = |index, other| u64::from(view.load(index)) * u64::from(self.0.weight(other));
        Some(if load(second, first) < load(first, second) { second } else { first })
    }
}
