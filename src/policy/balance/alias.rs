//! Draws a backend at random by weight, in constant time.
//!
//! Walker's alias method with Vose's construction ("A Linear Algorithm for Generating Random Numbers with a Given
//! Distribution", 1991), in integers. The table has a column for each backend with weight, as high as the sum of
//! weights, and at most two backends share a column. A random column and height give each backend with its exact
//! probability.
//!
//! An unusable backend is drawn again, which keeps the proportions of the others. After some failed draws, all backends
//! are scanned instead, which bounds the cost and finds every usable backend.

use super::candidates::Candidates;
use super::{Member, Preview, View};

/// Draws before all backends are scanned. With half of the weight usable, the 64th is needed once in 10^19.
const DRAWS: usize = 64;

/// A table that draws members by weight.
pub struct Alias {
    candidates: Candidates,
    columns: Box<[Column]>,
    /// The sum of weights, which is the height of each column.
    height: u64,
}

struct Column {
    /// Below this height the column is `own`'s, from there on `other`'s.
    split: u64,
    own: u32,
    other: u32,
}

impl Alias {
    /// Builds the table of the members with weight.
    pub fn new(members: &[Member]) -> Alias {
        let weighted = || members.iter().enumerate().filter(|(_, member)| member.weight > 0);
        let (width, height) = (weighted().count() as u64, weighted().map(|(_, member)| u64::from(member.weight)).sum());
        let mut columns: Vec<Column> = weighted()
            .map(|(index, member)| Column {
                // A column's whole share; what does not fit moves into other columns below.
                split: u64::from(member.weight) * width,
                own: index as u32,
                other: index as u32,
            })
            .collect();
        let (mut low, mut high): (Vec<usize>, Vec<usize>) =
            (0..columns.len()).partition(|&column| columns[column].split < height);
        while let (Some(short), Some(&tall)) = (low.pop(), high.last()) {
            columns[short].other = columns[tall].own;
            columns[tall].split -= height - columns[short].split;
            if columns[tall].split < height {
                high.pop();
                low.push(tall);
            }
        }
        Alias { candidates: Candidates::new(members), columns: columns.into_boxed_slice(), height }
    }

    /// Draws a usable backend other than `except`, with the probability of its weight among them.
    pub fn draw(&self, view: &View<'_>, random: &mut fastrand::Rng, except: Option<usize>) -> Option<usize> {
        // A small pool is scanned after as many draws as it has members.
        for _ in 0..self.columns.len().min(DRAWS) {
            let column = &self.columns[random.usize(0..self.columns.len())];
            let own = random.u64(0..self.height) < column.split;
            let index = if own { column.own } else { column.other } as usize;
            if Some(index) != except && view.usable(index) {
                return Some(index);
            }
        }
        self.candidates.draw(view, random, except)
    }

    /// What [`Alias::draw`] would give.
    pub fn preview(&self, view: &View<'_>) -> Preview {
        self.candidates.preview(view)
    }

    /// The usable backends.
    pub fn usable<'a>(&'a self, view: &'a View<'_>) -> impl Iterator<Item = usize> + 'a {
        self.candidates.usable(0, view)
    }

    /// The weight of a member; 0 for an index outside.
    pub fn weight(&self, index: usize) -> u16 {
        self.candidates.weight(index)
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::members;
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn columns_hold_exactly_the_weights(
            weights in prop::collection::vec(prop_oneof![0u16..4, any::<u16>()], 0..60)
        ) {
            let alias = Alias::new(&members(&weights));
            let mut holds = vec![0; weights.len()];
            for column in &alias.columns {
                prop_assert!(column.split <= alias.height);
                holds[column.own as usize] += column.split;
                holds[column.other as usize] += alias.height - column.split;
            }
            let width = alias.columns.len() as u64;
            prop_assert_eq!(holds, weights.iter().map(|&weight| u64::from(weight) * width).collect::<Vec<_>>());
        }
    }
}
