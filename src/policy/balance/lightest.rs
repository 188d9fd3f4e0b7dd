//! Finding the lowest load per unit of weight: what least-connections and least-time share.
//!
//! Both look at every backend for each choice, a block of 64 after the other. The scan begins with the backend whose turn
//! it is in weighted round robin, and only a strictly lighter one displaces it: so ties are broken in turn and by
//! weight, as in nginx, and an idle pool is served exactly as weighted round robin would.

use super::View;
use super::candidates::Lane;

/// The lightest backend offered so far.
pub struct Lightest {
    /// Which, if any.
    pub index: Option<usize>,
    /// Its load, below [`HEAVIEST`]; not yet divided …
    pub load: u64,
    /// … by its weight.
    pub weight: u64,
}

/// Loads are counted up to this: times a weight they still fit into 64 bits. As microseconds times connections it is a
/// thousand clients that waited three days each; beyond that all count the same.
pub const HEAVIEST: u64 = (1 << 48) - 1;

impl Lightest {
    /// Nobody, who is heavier than anybody: one over nothing.
    pub fn new() -> Lightest {
        Lightest { index: None, load: 1, weight: 0 }
    }

    /// Takes the backend in `lane` if it is lighter and there is room in it.
    #[inline]
    pub fn offer(&mut self, lane: &Lane<'_>, load: u64, view: &View<'_>) {
        if load * self.weight < self.load * lane.weight && view.has_room(lane.index) {
            *self = Lightest { index: Some(lane.index), load, weight: lane.weight };
        }
    }
}
