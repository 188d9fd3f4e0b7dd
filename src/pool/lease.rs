//! The right to use a backend: counted when taken, uncounted when dropped, on every path.

use super::{Backend, BackendId};
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// A backend that failed for a connection. The slot finds it. The id proves that it is still the same one: a slot is reused
/// when its backend is gone, an id never is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tried {
    pub(super) id: BackendId,
    pub(super) slot: usize,
}

/// One connection's claim on a backend. While it lives, the active counts of the backend and of its pool include it.
#[derive(Debug)]
pub struct Lease {
    backend: Arc<Backend>,
    index: u32,
}

impl Lease {
    /// Counts one more connection of `backend`, unless that would exceed `limit`: exact, also when several workers ask
    /// at the same moment.
    pub fn take(backend: &Arc<Backend>, index: usize, limit: u32) -> Option<Lease> {
        if limit == u32::MAX {
            backend.load().fetch_add(1, Ordering::Relaxed);
        } else {
            // Never counted beyond the limit, not even for a moment: another worker would find a free place taken.
            let one_more = |active: u32| (active < limit).then(|| active + 1);
            let before = backend.load().fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more);
            if !before.is_ok_and(|active| active + 1 < limit) {
                backend.limit_report.meet();
            }
            before.ok()?;
        }
        backend.of_pool.fetch_add(1, Ordering::Relaxed);
        Some(Lease { backend: backend.clone(), index: index as u32 })
    }

    /// The backend.
    pub fn backend(&self) -> &Arc<Backend> {
        &self.backend
    }

    /// The record of a failed attempt at it.
    pub fn tried(&self) -> Tried {
        Tried { id: self.backend.id, slot: self.index as usize }
    }

    /// The backend's index in the snapshot that the lease was taken from.
    pub fn index(&self) -> u32 {
        self.index
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.backend.load().fetch_sub(1, Ordering::Relaxed);
        self.backend.of_pool.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::Address;
    use crate::config::model::{self, Global, Model};
    use crate::pool::{Resolved, build};
    use std::sync::atomic::AtomicBool;
    use std::thread;

    #[test]
    fn a_refusal_never_takes_a_free_place_from_another_one() {
        let backends = vec![model::Backend::at(Address::parse_backend("127.0.0.1:1").unwrap())];
        let pools = vec![model::Pool { backends, ..model::Pool::default() }];
        let key = (pools[0].name.clone(), pools[0].backends[0].name.clone());
        let resolved = Resolved::from([(key, Vec::new())]);
        let snapshot = build(&Model { global: Global::default(), listeners: Vec::new(), pools }, &resolved);
        let backend = &snapshot.pools[0].members[0].backend;
        let over = AtomicBool::new(false);
        thread::scope(|scope| {
            // Both are at it all the time: neither ends before the other has begun.
            scope.spawn(|| {
                (0..1_000_000).for_each(|_| assert!(Lease::take(backend, 0, 0).is_none()));
                over.store(true, Ordering::Relaxed);
            });
            let mut refused = 0;
            while !over.load(Ordering::Relaxed) {
                refused += u32::from(Lease::take(backend, 0, 1).is_none());
            }
            assert_eq!(refused, 0, "the place was free each time");
        });
    }
}
