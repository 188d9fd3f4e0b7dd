//! Power of two choices: two different backends at random by weight, of which the less loaded one serves.
//!
//! Mitzenmacher ("The Power of Two Choices in Randomized Load Balancing", 1996) shows that the second look brings the
//! longest queue down from logarithmic to doubly logarithmic. Against least-connections it costs the same for any number
//! of backends and does not send all workers to the same idle one at the same moment.

use super::alias::Alias;
use super::{Balance, Client, Member, View};

struct PowerOfTwo(Alias);

/// See the module.
pub fn build(members: &[Member], _: u64) -> Box<dyn Balance> {
    Box::new(PowerOfTwo(Alias::new(members)))
}

impl Balance for PowerOfTwo {
    fn pick(&self, _: Client, view: &View<'_>, random: &mut fastrand::Rng) -> Option<usize> {
        let first = self.0.draw(view, random, None)?;
        let Some(second) = self.0.draw(view, random, Some(first)) else { return Some(first) };
        // load ÷ weight, multiplied out. Equally loaded, the one drawn first serves: that draw was by weight alone.
        let load = |index, other| u64::from(view.load(index)) * u64::from(self.0.weight(other));
        Some(if load(second, first) < load(first, second) { second } else { first })
    }
}
