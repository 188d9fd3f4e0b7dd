//! A connection's past: failed attempts, the time in queues, and what was reported meanwhile. Most of it only logs show.
//!
//! Most connections have no such past. It is allocated with the first thing that belongs into it.

use super::{Direction, Record, Session};
use crate::base::{Endpoint, Tick};
use crate::policy::health::ConnectFailure;
use crate::pool::Tried;
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use std::fmt;
use std::time::Duration;

/// The most failed attempts that a session keeps: the last ones. A client that waits for a backend may try for as long as the
/// pool lets it.
pub const FAILED_ATTEMPTS: usize = 16;

/// See the module.
#[derive(Debug, Default)]
pub struct History {
    pub(super) failed: VecDeque<FailedAttempt>,
    /// The time that failed attempts to connect took.
    pub(super) spent: Duration,
    /// When waiting for a backend ends; set when there is none for the first time.
    pub(super) waits_until: Option<Tick>,
    /// All attempts that failed, also those that are not kept.
    pub failures: u32,
    /// The time in queues.
    pub waited: Duration,
    /// The clients before it when it first joined a queue.
    pub ahead: Option<u32>,
    /// From the accept to the last report of the open connection.
    pub(super) reported: Interval,
}

/// An attempt to connect that failed.
#[derive(Clone, Debug)]
pub struct FailedAttempt {
    /// The name of the backend. The backend itself would keep its slot in the pool for as long as the connection lives.
    pub backend: String,
    /// Finds the backend if it is still in the pool. `None` if it had left when the connection came from another process.
    pub tried: Option<Tried>,
    /// The address that was dialled; `None` if the backend has none.
    pub address: Option<Endpoint>,
    /// Why.
    pub error: AttemptError,
    /// How long it took.
    pub after: Duration,
}

/// Why an attempt failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum AttemptError {
    /// The connect failed.
    Connect(ConnectFailure),
    /// The name of the backend has no address.
    NoAddress,
    /// The process had no descriptor for the socket, or no memory.
    NoDescriptor,
    /// The connections of the backend were reset meanwhile: see [`super::Input::ResetBackends`].
    Withdrawn,
}

/// A part of a connection's time, and the bytes delivered in it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Interval {
    /// How long it lasted.
    pub lasted: Duration,
    /// The client's bytes delivered to the backend.
    pub bytes_to_backend: u64,
    /// Bytes delivered to the client.
    pub bytes_to_client: u64,
}

impl History {
    /// The attempts that failed, oldest first: the last [`FAILED_ATTEMPTS`].
    pub fn failed(&self) -> impl Iterator<Item = &FailedAttempt> {
        self.failed.iter()
    }

    pub(super) fn attempt_failed(&mut self, attempt: FailedAttempt) {
        if self.failed.len() == FAILED_ATTEMPTS {
            self.failed.pop_front();
        }
        self.failed.push_back(attempt);
        self.failures = self.failures.saturating_add(1);
    }

    /// A history of failed attempts.
    #[cfg(test)]
    pub fn of(attempts: impl IntoIterator<Item = FailedAttempt>) -> Box<History> {
        let mut history = Box::<History>::default();
        attempts.into_iter().for_each(|attempt| history.attempt_failed(attempt));
        history
    }
}

impl Interval {
    /// What is left of it after an earlier one that began at the same moment.
    fn without(self, earlier: Interval) -> Interval {
        Interval {
            lasted: self.lasted.saturating_sub(earlier.lasted),
            bytes_to_backend: self.bytes_to_backend.saturating_sub(earlier.bytes_to_backend),
            bytes_to_client: self.bytes_to_client.saturating_sub(earlier.bytes_to_client),
        }
    }
}

impl Record {
    /// What has happened since the last report of the open connection, or since the accept.
    pub fn unreported(&self) -> Interval {
        let whole = Interval {
            lasted: self.duration,
            bytes_to_backend: self.bytes_to_backend,
            bytes_to_client: self.bytes_to_client,
        };
        whole.without(self.history.as_ref().map_or_else(Interval::default, |history| history.reported))
    }
}

impl AttemptError {
    /// One word; that of the metric label `reason`, where the metric counts such a failure.
    pub fn label(self) -> &'static str {
        match self {
            AttemptError::Connect(failure) => failure.label(),
            AttemptError::NoAddress => "no_address",
            AttemptError::NoDescriptor => "no_descriptor",
            AttemptError::Withdrawn => "withdrawn",
        }
    }
}

impl fmt::Display for AttemptError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            AttemptError::Connect(failure) => failure.fmt(out),
            AttemptError::NoAddress => out.write_str("its name has no address"),
            AttemptError::NoDescriptor => out.write_str("this process had no descriptor or no memory left"),
            AttemptError::Withdrawn => out.write_str("it was removed or went down meanwhile"),
        }
    }
}

impl Session {
    /// The time that failed attempts to connect took.
    pub(super) fn spent(&self) -> Duration {
        self.history.as_ref().map_or(Duration::ZERO, |history| history.spent)
    }

    pub(super) fn history(&mut self) -> &mut History {
        self.history.get_or_insert_default()
    }

    /// What has happened since the last report of this open connection, or since the accept. The next report begins here.
    pub fn report(&mut self, now: Tick) -> Interval {
        let whole = Interval {
            lasted: now - self.started,
            bytes_to_backend: self.bytes(Direction::Up),
            bytes_to_client: self.bytes(Direction::Down),
        };
        whole.without(std::mem::replace(&mut self.history().reported, whole))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::balance::LoadBlock;
    use crate::pool::{Backend, BackendId, Lease};
    use std::sync::Arc;

    #[test]
    fn the_last_failures_are_kept_and_all_are_counted() {
        let backend = Backend::new(BackendId(1), "web1".to_owned(), Vec::new(), Arc::new(LoadBlock::default()), 0);
        let lease = Lease::take(&Arc::new(backend), 0, u32::MAX).unwrap();
        let (tried, name) = (Some(lease.tried()), "web1".to_owned());
        let attempt =
            |error| FailedAttempt { backend: name.clone(), tried, address: None, error, after: Duration::ZERO };
        let first = [attempt(AttemptError::Withdrawn)].into_iter();
        let history = History::of(first.chain((0..FAILED_ATTEMPTS).map(|_| attempt(AttemptError::NoAddress))));
        assert_eq!((history.failed.len(), history.failures), (FAILED_ATTEMPTS, FAILED_ATTEMPTS as u32 + 1));
        assert!(history.failed.iter().all(|attempt| attempt.error == AttemptError::NoAddress));
    }
}
