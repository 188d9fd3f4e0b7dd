//! What the other threads tell the prober.
//!
//! It stands here, below all threads, because none of them may import another: workers and control send what the prober
//! reads, and know of it only a `Mailbox<Note>`.

use super::{BackendId, Snapshot};
use crate::policy::health::ConnectFailure;
use crossbeam_channel::{Receiver, Sender, bounded};
use std::sync::Arc;

/// A letter to the prober.
///
/// Workers *offer* theirs and let them go if the box is full: the prober then has a thousand such letters to read, and one
/// more would tell it nothing new. Control tries again.
#[derive(Debug)]
pub enum Note {
    /// From now on this is what there is. Backends that stay keep what is known of them.
    Adopt {
        /// The next snapshot; nobody else has it yet.
        snapshot: Arc<Snapshot>,
        /// Told once the snapshot's health bits say what is known, so that it may be given to the workers.
        done: Sender<()>,
    },
    /// A client could not connect to one address of a backend that has others.
    AddressFailed {
        /// Whose address.
        backend: BackendId,
        /// Its number among the backend's addresses.
        address: usize,
        /// Why.
        failure: ConnectFailure,
    },
    /// A client's connection attempt failed, for a reason that concerns this backend ([`ConnectFailure::of`] knows). If it
    /// has several addresses, the last that was left has failed.
    ConnectFailed {
        /// Where to.
        backend: BackendId,
        /// Why.
        failure: ConnectFailure,
    },
    /// A client got through to a backend whose health bit was cleared when the worker looked. Only of interest where health
    /// is `off`; other successes need no letter, the prober sees them in the backend's counters.
    Connected(BackendId),
    /// A client's connection was reset early and without an answer ([`crate::policy::health::outlier`]). Only of interest
    /// where outliers are ejected.
    ResetEarly(BackendId),
    /// Close every probe and end.
    Stop,
}

impl Note {
    /// The letter that hands over a snapshot, and where the answer comes. If the prober is gone, receiving fails at once.
    pub fn adopt(snapshot: Arc<Snapshot>) -> (Note, Receiver<()>) {
        let (done, answer) = bounded(1);
        (Note::Adopt { snapshot, done }, answer)
    }
}
