//! One client, in all of its counts.

use super::ListenerAdmission;
use super::connection_limit::Count;
use crate::base::Tick;
use crate::policy::limit::{Reason, SourceId};
use std::net::IpAddr;
use std::sync::Arc;

/// Counts one client until it is dropped.
#[derive(Debug)]
pub struct AdmissionGuard {
    pub(super) listener: Arc<ListenerAdmission>,
    pub(super) process: Arc<Count>,
    /// Set once the client is accepted: the gauge of the listener includes it.
    pub(super) accepted: bool,
    /// Set once the client is admitted, if its source is counted.
    pub(super) source: Option<SourceId>,
}

/// Which limit has no room for one more client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoRoom {
    /// The process's.
    Process,
    /// The listener's.
    Listener,
}

impl AdmissionGuard {
    /// The client has been accepted.
    pub fn accepted(&mut self) {
        self.accepted = true;
        self.listener.totals.enter();
    }

    /// May this client be served? `now` is of [`crate::clock`]. Counts the client for its source if so. A
    /// refusal is counted when the session closes, as any other.
    pub fn admit(&mut self, client: Option<IpAddr>, now: Tick) -> Result<(), Reason> {
        self.source = self.listener.admit(client, now)?;
        Ok(())
    }
}

impl Drop for AdmissionGuard {
    fn drop(&mut self) {
        if let Some(source) = self.source.take() {
            self.listener.leave(source);
        }
        if self.accepted {
            self.listener.totals.leave();
        }
        self.listener.room.count().leave_listener(&self.process);
        self.process.leave();
    }
}
