//! The ledger of a worker: the one place that derives counters, logs and messages from facts.
//!
//! | fact | from | counters and histograms | what balancing learns | the prober hears | log |
//! |---|---|---|---|---|---|
//! | `Accepted` | worker | the listener's accepted clients | | | |
//! | `Routed` | session | clients by route, times of first bytes | | | |
//! | `Retried` | session | the pool's retries | | | |
//! | `AttemptFailed` | session | failures by reason, once no address is left | a backend that fails early, if it is evidence | the same of the address and of the backend | |
//! | `Connected` | session | connections, connect times | | of a backend whose health bit is cleared | |
//! | `Answered` | session | times of the first byte | how long an answer takes | | |
//! | `Measured` | driver | round-trip times, retransmits | | | |
//! | `Relayed` | driver | bytes | | | |
//! | `Opened`, `Ongoing` | driver | | | | access log |
//! | `Closed` | driver | durations, ends and refusals by reason | what an end without an answer says | of an early reset | access log; refusals; debug |
//!
//! What metrics, the status and the access log show of connections is derived here. There are three exceptions. Guards and
//! leases keep the gauges ([`crate::admission`], [`crate::pool::Lease`]). Queues keep the gauge of waiting clients
//! ([`super::queue`]). Admission counts the clients that a limit in dry run would have refused. Probes, reloads and lost lines are counted where they happen, and are no facts of a connection.
//!
//! No fact is reported per relayed chunk. Recording one takes no lock, and allocates only for a log line.

use crate::access_log::LogBuffer;
use crate::base::Tick;
use crate::mailbox::Mailbox;
use crate::pool::Note;
use crate::session::{CloseReason, Fact, Ledger, Record, Unanswered};
use crate::telemetry::EndCounts;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// See the module.
pub(super) struct WorkerLedger {
    prober: Mailbox<Note>,
    access_log: Option<LogBuffer>,
    draining: bool,
    ended: EndCounts,
}

impl WorkerLedger {
    pub(super) fn new(prober: Mailbox<Note>, access_log: Option<LogBuffer>) -> WorkerLedger {
        WorkerLedger { prober, access_log, draining: false, ended: EndCounts::default() }
    }

    /// From now on connections that end are counted for the end of the process.
    pub(super) fn begin_drain(&mut self) {
        self.draining = true;
    }

    /// How the connections ended that were open when the drain began.
    pub(super) fn ended(&self) -> EndCounts {
        self.ended
    }

    /// Hands lines of the access log over, if it is time.
    pub(super) fn tend(&mut self, now: Tick) {
        if let Some(access_log) = &mut self.access_log {
            access_log.tend(now);
        }
    }

    /// How long until [`WorkerLedger::tend`] has something to do.
    pub(super) fn sleep(&self, now: Tick) -> Option<Duration> {
        self.access_log.as_ref()?.sleep(now)
    }

    /// A full mailbox of the prober drops the message: a thousand others there report the same.
    fn report(&self, note: Note) {
        let _ = self.prober.offer(note);
    }

    fn report_health(&self, fact: &Fact<'_>) {
        match *fact {
            Fact::AttemptFailed { backend, address, failure, is_evidence, is_last } => {
                if let Some(address) = address {
                    self.report(Note::AddressFailed { backend: backend.id, address, failure });
                }
                if is_last && (is_evidence || failure.is_ours()) {
                    self.report(Note::ConnectFailed { backend: backend.id, failure });
                }
            }
            Fact::Connected { pool, lease, .. } if !pool.is_up(lease) => {
                self.report(Note::Connected(lease.backend().id));
            }
            Fact::Closed(record) if record.was_reset_early() && record.pool.settings.outlier_failures > 0 => {
                record.backend.iter().for_each(|backend| self.report(Note::ResetEarly(backend.id)));
            }
            _ => {}
        }
    }

    fn closed(&mut self, record: &Record, now: Tick) {
        log::debug!("{record}");
        let refusal = record.close.refusal();
        if record.close == CloseReason::Shutdown {
            self.ended.reset += 1;
        } else if self.draining && refusal.is_none() {
            self.ended.finished += 1;
        }
        if let Some(access_log) = &mut self.access_log {
            access_log.close(record, now);
        }
        if let Some(count) = refusal.and_then(|refusal| record.listener.to_log(refusal, now)) {
            let client = record.client.as_ref().map_or_else(|| "a unix client".to_owned(), ToString::to_string);
            let clients = if count == 1 { client } else { format!("{count} more clients, {client} the last") };
            log::warn!("listener {} refused {clients}: {}", record.listener.name, record.refusal());
        }
    }
}

impl Ledger for WorkerLedger {
    fn record(&mut self, fact: Fact<'_>, now: Tick) {
        count(&fact, now);
        self.report_health(&fact);
        match fact {
            Fact::Closed(record) => self.closed(record, now),
            Fact::Opened(live) => self.access_log.iter_mut().for_each(|log| log.open(live, now)),
            Fact::Ongoing { live, interval } => {
                self.access_log.iter_mut().for_each(|log| log.during(live, interval, now));
            }
            _ => {}
        }
    }

    fn report_interval(&self) -> Option<Duration> {
        self.access_log.as_ref()?.interval()
    }
}

/// Adds a fact to the totals of its listener, pool and backend, and to the figures that balancing uses.
pub fn count(fact: &Fact<'_>, now: Tick) {
    match *fact {
        Fact::Accepted { listener } => listener.accept(),
        Fact::Routed { listener, route, sniffed_for } => {
            route.connections.fetch_add(1, Ordering::Relaxed);
            sniffed_for.into_iter().for_each(|time| listener.sniff_times.add(time));
        }
        Fact::Retried(pool) => {
            pool.totals.connect_retries.fetch_add(1, Ordering::Relaxed);
        }
        Fact::AttemptFailed { backend, failure, is_evidence, is_last, .. } => match (is_last, is_evidence) {
            (true, true) => backend.connect_failed(failure, now),
            (true, false) => backend.counters.connect_failed(failure),
            (false, _) => {}
        },
        Fact::Connected { lease, after, .. } => lease.backend().counters.connected(after),
        Fact::Answered { backend, after } => backend.answered(after, now),
        Fact::Measured { backend, path } => backend.counters.measured(path),
        Fact::Relayed { backend, to_backend, to_client } => backend.counters.relayed(to_backend, to_client),
        // An open connection has been counted.
        Fact::Opened(_) | Fact::Ongoing { .. } => {}
        Fact::Closed(record) => {
            record.pool.totals.durations.add(record.duration);
            record.close.refusal().into_iter().for_each(|refusal| record.listener.refuse(refusal));
            let reason = record.close as usize;
            let Some(backend) = &record.backend else { return record.pool.totals.closed_without_backend(reason) };
            backend.counters.closed(reason, record.was_reset_before_byte());
            match record.unanswered {
                Some(Unanswered::ByBackend { waited, early }) => {
                    backend.unanswered(waited, now);
                    if early {
                        backend.failed_early(now);
                    }
                }
                Some(Unanswered::Abandoned { waited }) => backend.abandoned(waited, now),
                None => {}
            }
        }
    }
}
