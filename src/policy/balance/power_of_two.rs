//! Power of two choices: two different backends at random by weight, of which the less loaded one serves.
//!
//! Mitzenmacher ("The Power of Two Choices in Randomized Load Balancing", 1996) shows that the second choice reduces
//! the longest queue from logarithmic to doubly logarithmic. Unlike least-connections, its cost does not grow with the
//! number of backends, and workers do not all choose the same idle backend at once.

use super::alias::Alias;
use super::{Balance, Client, Member, Preview, View};
use std::cmp::Ordering;

struct PowerOfTwo(Alias);

/// Builds the algorithm for these members.
pub fn build(members: &[Member], _: u64) -> Box<dyn Balance> {
    Box::new(PowerOfTwo(Alias::new(members)))
}

impl Balance for PowerOfTwo {
    fn pick(&self, _: Client, view: &View<'_>, random: &mut fastrand::Rng) -> Option<usize> {
        let first = self.0.draw(view, random, None)?;
        let Some(second) = self.0.draw(view, random, Some(first)) else { return Some(first) };
        // On a tie the first serves, since it was drawn by weight alone.
        let lighter = compare(&self.drawn(second, view), &self.drawn(first, view)).is_lt();
        Some(if lighter { second } else { first })
    }

    /// A backend serves if it is drawn first and the second is not lighter, or drawn second after a heavier one. From the
    /// heaviest to the lightest, both chances are sums over those before.
    fn preview(&self, _: Client, view: &View<'_>) -> Preview {
        // Loads are read once: they change meanwhile.
        let mut all: Vec<Drawn> = self.0.usable(view).map(|index| self.drawn(index, view)).collect();
        all.sort_by(|one, other| compare(other, one));
        let total: f64 = all.iter().map(|drawn| f64::from(drawn.weight)).sum();
        let (mut not_lighter, mut second_to_heavier) = (0.0, 0.0);
        let mut chances = Vec::new();
        for equal in all.chunk_by(|one, other| compare(one, other).is_eq()) {
            not_lighter += equal.iter().map(|drawn| f64::from(drawn.weight)).sum::<f64>();
            for &Drawn { index, weight, .. } in equal {
                let weight = f64::from(weight);
                let stays = if all.len() == 1 { 1.0 } else { (not_lighter - weight) / (total - weight) };
                chances.push((index, weight / total * stays + weight * second_to_heavier));
            }
            let after = |drawn: &Drawn| 1.0 / total * f64::from(drawn.weight) / (total - f64::from(drawn.weight));
            second_to_heavier += equal.iter().map(after).sum::<f64>();
        }
        match chances.is_empty() {
            true => Preview::Certain(None),
            false => Preview::Drawn(chances),
        }
    }
}

/// A backend that is drawn.
struct Drawn {
    index: usize,
    load: u32,
    weight: u16,
}

impl PowerOfTwo {
    fn drawn(&self, index: usize, view: &View<'_>) -> Drawn {
        Drawn { index, load: view.load(index), weight: self.0.weight(index) }
    }
}

/// Compares load ÷ weight, multiplied out.
fn compare(one: &Drawn, other: &Drawn) -> Ordering {
    let load = |of: &Drawn, by: &Drawn| u64::from(of.load) * u64::from(by.weight);
    load(one, other).cmp(&load(other, one))
}
