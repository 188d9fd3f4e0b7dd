//! Connections that the kernel carries to a backend. The loads of the backend and of its pool include them.

use super::Backend;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// The connections of one backend that one counter of the kernel counts. Dropping it takes them out of the loads.
#[derive(Debug)]
pub struct Forwarded {
    backend: Arc<Backend>,
    active: u32,
}

impl Forwarded {
    /// None yet.
    pub fn new(backend: Arc<Backend>) -> Forwarded {
        Forwarded { backend, active: 0 }
    }

    /// The backend.
    pub fn backend(&self) -> &Arc<Backend> {
        &self.backend
    }

    /// There are so many now.
    pub fn set(&mut self, active: u32) {
        // A sum that wraps is right again with the next addition: no reader acts between two of one call.
        let more = active.wrapping_sub(self.active);
        self.backend.load().fetch_add(more, Ordering::Relaxed);
        self.backend.forwarded.fetch_add(more, Ordering::Relaxed);
        let of_pool = (active as usize).wrapping_sub(self.active as usize);
        self.backend.of_pool.fetch_add(of_pool, Ordering::Relaxed);
        self.active = active;
    }
}

impl Drop for Forwarded {
    fn drop(&mut self) {
        self.set(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::Address;
    use crate::config::model::{self, Global, Model};
    use crate::pool::{Lease, Resolved, build};

    #[test]
    fn the_loads_of_backend_and_pool_include_them_until_they_are_dropped() {
        let backends = vec![model::Backend::at(Address::parse_backend("127.0.0.1:1").unwrap())];
        let pools = vec![model::Pool { backends, ..model::Pool::default() }];
        let snapshot = build(&Model { global: Global::default(), listeners: Vec::new(), pools }, &Resolved::new());
        let pool = &snapshot.pools[0];
        let backend = &pool.members[0].backend;
        let loads = || (backend.active(), pool.totals.active.load(Ordering::Relaxed));
        let lease = Lease::take(backend, 0, u32::MAX);
        let (mut one, mut other) = (Forwarded::new(backend.clone()), Forwarded::new(backend.clone()));
        one.set(5);
        other.set(2);
        assert_eq!((loads(), backend.dialled()), ((8, 8), 1));
        one.set(1);
        assert_eq!(loads(), (4, 4));
        drop(other);
        drop(lease);
        assert_eq!(loads(), (1, 1));
        drop(one);
        assert_eq!(loads(), (0, 0));
    }
}
