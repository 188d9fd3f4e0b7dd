//! A slot in use: by a backend and, while an address of its name stays, by the backends that take its place.
//!
//! They share the count of connections, so a limit holds for all of them together. The slot is free once the last of them is
//! dropped.

use super::{Backend, BackendId};
use crate::policy::balance::LoadBlock;
use parking_lot::Mutex;
use std::sync::{Arc, Weak};

/// See the module.
#[derive(Debug)]
pub(super) struct Occupancy {
    pub(super) block: Arc<LoadBlock>,
    pub(super) lane: usize,
    /// Only control takes it, and a worker that resets connections.
    backends: Mutex<Backends>,
}

#[derive(Debug, Default)]
struct Backends {
    all: Vec<Weak<Backend>>,
    /// The one that takes clients; none at the end, and until the first one is replaced.
    current: Weak<Backend>,
}

impl Occupancy {
    /// Of a slot without leases.
    pub(super) fn new(block: Arc<LoadBlock>, lane: usize) -> Occupancy {
        // The leases of the lane's last tenant are all gone.
        block.clear(lane);
        Occupancy { block, lane, backends: Mutex::default() }
    }

    /// Another backend uses the slot.
    pub(super) fn enter(&self, backend: &Arc<Backend>) {
        let all = &mut self.backends.lock().all;
        all.retain(|backend| backend.strong_count() > 0);
        all.push(Arc::downgrade(backend));
    }

    /// The backend that takes clients from now on, if any. All that have used the slot and still exist.
    pub(super) fn pass_on(&self, to: Option<&Arc<Backend>>) -> Vec<BackendId> {
        let mut backends = self.backends.lock();
        backends.current = to.map(Arc::downgrade).unwrap_or_default();
        backends.all.iter().filter_map(Weak::upgrade).map(|backend| backend.id).collect()
    }

    /// The backend that takes clients, if it is not the first one.
    pub(super) fn current(&self) -> Option<Arc<Backend>> {
        self.backends.lock().current.upgrade()
    }
}
