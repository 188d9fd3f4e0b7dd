//! The facts of connections, each reported at the moment when it happens: by the session, the driver or the worker.
//!
//! Counters, histograms, the access log and outlier detection all derive from these facts. None of the three counts anything
//! itself. A worker's ledger does ([`crate::worker::ledger`]), and its table names the origin of each fact.

use super::{Interval, Live, Record};
use crate::base::Tick;
use crate::policy::health::ConnectFailure;
use crate::pool::{Backend, Lease, Pool};
use crate::telemetry::{ListenerTotals, PathInfo, RouteTotals};
use std::time::Duration;

/// Something that happened to a connection.
#[derive(Clone, Copy, Debug)]
pub enum Fact<'a> {
    /// A client was accepted. It may still be refused.
    Accepted {
        /// Where it was accepted.
        listener: &'a ListenerTotals,
    },
    /// A client of a listener with routes has its pool.
    Routed {
        /// The listener.
        listener: &'a ListenerTotals,
        /// The route that it takes, or those that take none.
        route: &'a RouteTotals,
        /// How long its first bytes took, if a route needed them.
        sniffed_for: Option<Duration>,
    },
    /// An attempt to connect failed.
    AttemptFailed {
        /// To which backend.
        backend: &'a Backend,
        /// The number of the address that failed, if the backend has several and the failure is the address's.
        address: Option<usize>,
        /// Why.
        failure: ConnectFailure,
        /// It says something about the backend. Where the client gives the port or the source address, it may say something
        /// about that client only, and probes alone decide.
        is_evidence: bool,
        /// No address is left: the backend has failed.
        is_last: bool,
    },
    /// An attempt with another backend follows one that failed.
    Retried(&'a Pool),
    /// A backend is connected. The attempt that succeeded took this long.
    Connected {
        /// The pool that it serves.
        pool: &'a Pool,
        /// The right to use it.
        lease: &'a Lease,
        /// From the dial on.
        after: Duration,
    },
    /// The backend sent its first byte.
    Answered {
        /// Which one.
        backend: &'a Backend,
        /// How long that took, connect included.
        after: Duration,
    },
    /// The driver has asked for the path to the backend, at the end of a connection.
    Measured {
        /// Which one.
        backend: &'a Backend,
        /// What the kernel knows of it.
        path: PathInfo,
    },
    /// Bytes were delivered since the last such fact of this connection.
    Relayed {
        /// To and from which backend.
        backend: &'a Backend,
        /// From the client.
        to_backend: u64,
        /// From the backend.
        to_client: u64,
    },
    /// A connection begins to relay.
    Opened(&'a Live<'a>),
    /// A connection is still open.
    Ongoing {
        /// The connection.
        live: &'a Live<'a>,
        /// What has happened since the last such fact of it, or since the accept.
        interval: Interval,
    },
    /// A connection has ended.
    Closed(&'a Record),
}

/// Takes facts, and derives counters, logs and reports from them.
pub trait Ledger {
    /// Records a fact.
    fn record(&mut self, fact: Fact<'_>, now: Tick);

    /// How often a connection that relays is to be reported as [`Fact::Ongoing`], if it is.
    fn report_interval(&self) -> Option<Duration> {
        None
    }
}
