//! Counts what sessions report, and passes on what others learn from it.

use super::Observer;
use crate::base::Tick;
use crate::session::{Fact, Ledger, Unanswered};
use std::sync::atomic::Ordering;

/// Adds facts to the totals of backends, pools and listeners, and reports to an observer.
#[derive(Debug)]
pub struct Counted<'a, O>(pub &'a mut O);

impl<O: Observer> Ledger for Counted<'_, O> {
    fn note(&mut self, fact: Fact<'_>, now: Tick) {
        let observer = &mut *self.0;
        match fact {
            Fact::AttemptFailed { backend, address, failure, is_last } => {
                if let Some(address) = address {
                    observer.address_failed(backend, address, failure);
                }
                if is_last {
                    backend.connect_failed(failure, now);
                    observer.connect_failed(backend, failure);
                }
            }
            Fact::Retried(pool) => {
                pool.totals.connect_retries.fetch_add(1, Ordering::Relaxed);
            }
            Fact::Connected { pool, lease, after } => {
                lease.backend().counters.connected(Some(after));
                if !pool.is_up(lease) {
                    observer.connected_though_down(lease.backend());
                }
            }
            Fact::Answered { backend, after } => backend.answered(after, now),
            Fact::Relayed { backend, to_backend, to_client } => backend.counters.relayed(to_backend, to_client),
            Fact::Closed(record) => {
                match (&record.backend, record.unanswered) {
                    (Some(backend), Some(Unanswered::ByBackend { waited, early })) => {
                        backend.unanswered(waited, early, now);
                    }
                    (Some(backend), Some(Unanswered::Abandoned { waited })) => backend.abandoned(waited, now),
                    (None, _) | (_, None) => {}
                }
                record.pool.totals.durations.add(record.duration);
                record.close.refusal().into_iter().for_each(|refusal| record.listener.refuse(refusal));
                observer.closed(record);
            }
        }
    }
}
