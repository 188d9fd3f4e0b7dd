//! Digests of what the table holds: the set `state` keeps them, so that a start need not list large maps.

use super::marks::Mark;
use serde::{Deserialize, Serialize};
use std::fmt;

/// A digest of contents, the same in every version of tcplb. It finds differences, not forgeries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Digest(pub u64);

impl Digest {
    /// That of numbers, in this order.
    pub fn of(numbers: impl IntoIterator<Item = u64>) -> Digest {
        let mix = |hash: u64, number: u64| {
            let hash = (hash ^ number).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            hash ^ hash >> 29
        };
        Digest(numbers.into_iter().fold(0xcbf2_9ce4_8422_2325, mix))
    }

    /// That of a text.
    pub fn of_text(text: &str) -> Digest {
        Digest::of(text.bytes().map(u64::from))
    }

    /// What an entry of a choice map adds to the map's digest: a sum, so that one entry changes it at once.
    pub(super) fn part(entry: usize, mark: Mark) -> u64 {
        // The last number spreads the bits of the mark: a sum of what is close to linear would miss exchanged entries.
        Digest::of([entry as u64, mark.value().into(), 0]).0
    }

    pub(super) fn parse(text: &str) -> Option<Digest> {
        u64::from_str_radix(text, 16).ok().filter(|_| text.len() == 16).map(Digest)
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{:016x}", self.0)
    }
}
