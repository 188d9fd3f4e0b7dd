//! One client, counted everywhere it counts.

use super::connection_limit::Count;
use super::{ConnectionLimit, ListenerAdmission};
use crate::base::Tick;
use crate::policy::limit::{Reason, SourceId};
use std::net::IpAddr;
use std::sync::Arc;

/// Counts one client until it is dropped.
#[derive(Debug)]
pub struct AdmissionGuard {
    listener: Arc<ListenerAdmission>,
    process: Arc<Count>,
    /// Set once the client is accepted: the gauge of the listener includes it.
    accepted: bool,
    /// Set once the client is admitted, if its source is counted.
    source: Option<SourceId>,
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
    /// Room for one more client, or which limit has none; that limit then knows of a waiting worker.
    pub(super) fn reserve(
        listener: &Arc<ListenerAdmission>,
        process: &ConnectionLimit,
    ) -> Result<AdmissionGuard, NoRoom> {
        if !process.enter() {
            return Err(NoRoom::Process);
        }
        let guard = || AdmissionGuard {
            listener: listener.clone(),
            process: process.count().clone(),
            accepted: false,
            source: None,
        };
        if listener.room.enter() {
            Ok(guard())
        } else {
            process.count().leave();
            Err(NoRoom::Listener)
        }
    }

    /// The client has been accepted.
    pub fn accepted(&mut self) {
        self.accepted = true;
        self.listener.totals.enter();
    }

    /// May this client be served? `now` is of [`crate::clock`]. Counts the client for its source if so. The caller
    /// reports a refusal to [`crate::telemetry::ListenerTotals`], as any other.
    pub fn admit(&mut self, client: Option<IpAddr>, now: Tick) -> Result<(), Reason> {
        self.source = self.listener.admit(client, now)?;
        Ok(())
    }

    /// Where the client came in.
    pub fn listener(&self) -> &Arc<ListenerAdmission> {
        &self.listener
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
        self.listener.room.count().leave();
        self.process.leave();
    }
}
