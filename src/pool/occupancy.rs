//! A slot in use: by a backend and, while an address of its name stays, by the backends that take its place.
//!
//! They share the count of connections, so a limit holds for all of them together. The slot is free once the last of them is
//! dropped. [`super::reset_order`] says which of their connections end when an address or the last backend leaves.

use super::Backend;
use crate::policy::balance::LoadBlock;
use parking_lot::Mutex;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Weak};

/// See the module.
#[derive(Debug)]
pub(super) struct Occupancy {
    pub(super) block: Arc<LoadBlock>,
    pub(super) lane: usize,
    /// The kernel may have led clients to it that no count has shown.
    pub(super) uncounted: AtomicBool,
    /// Control takes it, and the prober when a backend goes down.
    backends: Mutex<Vec<Weak<Backend>>>,
}

impl Occupancy {
    /// Of a slot without leases.
    pub(super) fn new(block: Arc<LoadBlock>, lane: usize) -> Occupancy {
        // The leases of the lane's last tenant are all gone.
        block.clear(lane);
        Occupancy { block, lane, uncounted: AtomicBool::new(false), backends: Mutex::default() }
    }

    /// Another backend uses the slot.
    pub(super) fn enter(&self, backend: &Arc<Backend>) {
        let mut backends = self.backends.lock();
        backends.retain(|backend| backend.strong_count() > 0);
        backends.push(Arc::downgrade(backend));
    }

    /// All that have used the slot and still exist.
    pub(super) fn backends(&self) -> Vec<Arc<Backend>> {
        self.backends.lock().iter().filter_map(Weak::upgrade).collect()
    }
}
