//! Messages from other threads to the prober.
//!
//! The type is here, below all threads, because threads may not import each other: workers and control only have a
//! `Mailbox<Note>`.

use super::{BackendId, Snapshot};
use crate::policy::health::ConnectFailure;
use crossbeam_channel::{Receiver, Sender, bounded};
use std::sync::Arc;

/// A message to the prober.
///
/// Workers *offer* theirs and drop them if the mailbox is full: the prober then has a thousand such messages, and one
/// more adds nothing. Control retries.
#[derive(Debug)]
pub enum Note {
    /// Adopt a snapshot. Backends that stay keep their state.
    Adopt {
        /// The next snapshot; no other thread has it yet.
        snapshot: Arc<Snapshot>,
        /// Notified once the snapshot's health bits are set and the workers may get it.
        done: Sender<()>,
    },
    /// A client could not connect to one address of a backend that has others.
    AddressFailed {
        /// The backend.
        backend: BackendId,
        /// Its number among the backend's addresses.
        address: usize,
        /// Why.
        failure: ConnectFailure,
    },
    /// A client's connection attempt failed, for a reason that concerns this backend ([`ConnectFailure::of`] knows). If it
    /// has several addresses, the last that was left has failed.
    ConnectFailed {
        /// To which backend.
        backend: BackendId,
        /// Why.
        failure: ConnectFailure,
    },
    /// A client was connected to a backend whose health bit was cleared when the worker looked. It matters only where health
    /// is `off`. Other successes need no message: the prober sees them in the backend's counters.
    Connected(BackendId),
    /// A backend reset a client's connection early and without an answer ([`crate::policy::health::outlier`]). It matters only
    /// where outliers are ejected.
    ResetEarly(BackendId),
    /// Close every probe and end.
    Stop,
}

impl Note {
    /// The message that hands over a snapshot, and where the answer comes. If the prober is gone, receiving fails at once.
    pub fn adopt(snapshot: Arc<Snapshot>) -> (Note, Receiver<()>) {
        let (done, answer) = bounded(1);
        (Note::Adopt { snapshot, done }, answer)
    }
}
