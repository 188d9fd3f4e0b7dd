//! Finds the lowest load per unit of weight, for least-connections and least-time.
//!
//! Both scan every backend for each choice, in blocks of 64. The scan begins with the backend whose turn it is in
//! weighted round robin, and only a strictly lighter one replaces it. So ties are broken in turn and by weight, as in
//! nginx, and an idle pool is served as by weighted round robin.

use super::View;
use super::candidates::Lane;

/// The lightest backend offered so far.
pub struct Lightest {
    /// Its index, if there is one.
    pub index: Option<usize>,
    /// Its load, at most [`HEAVIEST`], not divided by its weight.
    pub load: u64,
    /// Its weight.
    pub weight: u64,
}

/// The highest load: times a weight it still fits into 64 bits. As microseconds × connections it is a thousand clients
/// that each wait three days.
pub const HEAVIEST: u64 = (1 << 48) - 1;

impl Lightest {
    /// No backend: the load 1 over the weight 0 is heavier than all.
    pub fn new() -> Lightest {
        Lightest { index: None, load: 1, weight: 0 }
    }

    /// Takes the backend in `lane` if it is lighter and has room.
    #[inline]
    pub fn offer(&mut self, lane: &Lane<'_>, load: u64, view: &View<'_>) {
        if load * self.weight < self.load * lane.weight && view.has_room(lane.index) {
            *self = Lightest { index: Some(lane.index), load, weight: lane.weight };
        }
    }
}
