//! Random: any usable backend, with the probability of its weight.

use super::alias::Alias;
use super::{Balance, Client, Member, Preview, View};

struct Random(Alias);

/// Builds the algorithm for these members.
pub fn build(members: &[Member], _: u64) -> Box<dyn Balance> {
    Box::new(Random(Alias::new(members)))
}

impl Balance for Random {
    fn pick(&self, _: Client, view: &View<'_>, random: &mut fastrand::Rng) -> Option<usize> {
        self.0.draw(view, random, None)
    }

    fn preview(&self, _: Client, view: &View<'_>) -> Preview {
        self.0.preview(view)
    }
}
