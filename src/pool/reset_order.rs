//! Which connections an order resets.
//!
//! A backend and those that take its place share a slot ([`super::occupancy`]). A connection keeps the backend that it was made to,
//! and the number of the address there. So an order names both. What it names is decided when its cause occurs, also where it is
//! carried out later (`on_remove = "drain 30s"`).
//!
//! | cause | backends | connections |
//! |---|---|---|
//! | a backend goes down, `on_down = "reset"` | all of its slot | all |
//! | a backend leaves its pool: `on_remove`, or with force | all of its slot | all |
//! | addresses leave the name of a backend: `on_remove` | all of its slot, except the successor | those at these addresses |
//!
//! A connection at an address that is not known counts as one at every address: the process before may have made it.

use super::BackendId;
use std::collections::{HashMap, HashSet};

/// Connections to reset, by the backend that they were made to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ResetOrder(HashMap<BackendId, ResetScope>);

/// Which connections of a backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ResetScope {
    /// All.
    All,
    /// Those at its addresses of these numbers.
    At(HashSet<usize>),
}

impl ResetScope {
    /// Whether this is a connection to reset: one at the address of this number, if that is known.
    pub fn includes(&self, address: Option<usize>) -> bool {
        match (self, address) {
            (ResetScope::At(numbers), Some(address)) => numbers.contains(&address),
            _ => true,
        }
    }
}

impl ResetOrder {
    /// None of them?
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many backends have connections to reset.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// By backend.
    pub fn iter(&self) -> impl Iterator<Item = (BackendId, &ResetScope)> {
        self.0.iter().map(|(id, scope)| (*id, scope))
    }

    /// Whether a connection is one of them that was made to this backend, at the address of this number.
    pub fn includes(&self, backend: BackendId, address: Option<usize>) -> bool {
        self.0.get(&backend).is_some_and(|scope| scope.includes(address))
    }

    /// Leaves out all but so many backends.
    pub fn truncate(&mut self, most: usize) {
        if self.0.len() > most {
            self.0 = self.0.drain().take(most).collect();
        }
    }
}

impl Extend<(BackendId, ResetScope)> for ResetOrder {
    fn extend<T: IntoIterator<Item = (BackendId, ResetScope)>>(&mut self, others: T) {
        for (backend, scope) in others {
            match (self.0.get_mut(&backend), scope) {
                (Some(ResetScope::At(numbers)), ResetScope::At(others)) => numbers.extend(others),
                (Some(ResetScope::All), _) => {}
                (_, scope) => drop(self.0.insert(backend, scope)),
            }
        }
    }
}

impl FromIterator<(BackendId, ResetScope)> for ResetOrder {
    fn from_iter<T: IntoIterator<Item = (BackendId, ResetScope)>>(all: T) -> ResetOrder {
        let mut resets = ResetOrder::default();
        resets.extend(all);
        resets
    }
}

impl IntoIterator for ResetOrder {
    type Item = (BackendId, ResetScope);
    type IntoIter = std::collections::hash_map::IntoIter<BackendId, ResetScope>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}
