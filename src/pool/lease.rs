//! The right to use a backend: counted when taken, uncounted when dropped, on every path there is.

use super::Backend;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// One connection's claim on a backend. While it lives, the backend's active count includes it.
#[derive(Debug)]
pub struct Lease {
    backend: Arc<Backend>,
    index: u32,
}

impl Lease {
    /// Counts one more connection of `backend`, unless that would exceed `limit`: exact, also when several workers ask
    /// at the same moment.
    pub fn take(backend: &Arc<Backend>, index: usize, limit: u32) -> Option<Lease> {
        let before = backend.load().fetch_add(1, Ordering::Relaxed);
        let lease = Lease { backend: backend.clone(), index: index as u32 };
        // Dropping the lease takes the count back.
        if before < limit { Some(lease) } else { None }
    }

    /// Whose it is.
    pub fn backend(&self) -> &Arc<Backend> {
        &self.backend
    }

    /// The backend's index in the snapshot that the lease was taken from.
    pub fn index(&self) -> u32 {
        self.index
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.backend.load().fetch_sub(1, Ordering::Relaxed);
    }
}
