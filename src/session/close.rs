//! Why a connection ended, and its record, which logs and metrics use.

use super::{ConnectionId, FailedAttempt, First, History, Side, Stage};
use crate::base::Endpoint;
use crate::policy::limit::Reason;
use crate::pool::{Backend, Pool};
use crate::proto::sniff::Failure;
use crate::telemetry::{CLOSE_REASONS, ListenerTotals, Refusal};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// The one reason why a connection ended. Log, metrics and outlier detection all derive from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CloseReason {
    /// Both sides finished, the client first.
    ClientFin,
    /// Both sides finished, the backend first.
    BackendFin,
    /// The client reset the connection or vanished.
    ClientReset,
    /// The backend reset it or vanished.
    BackendReset,
    /// No byte in either direction for too long.
    IdleTimeout,
    /// The same after one side had finished.
    HalfCloseTimeout,
    /// Every attempt to connect to a backend failed.
    ConnectFailed,
    /// There was no backend to try.
    NoBackend,
    /// The client's PROXY header was malformed, late or cut short, or the client may not send one.
    BadProxyHeader,
    /// An access list denies the client.
    Denied,
    /// The client's source is at its limit of connections.
    SourceLimit,
    /// The client's source connects too often.
    SourceRate,
    /// The process stops and the drain took too long.
    Shutdown,
    /// An operator closed it, or its lifetime ended.
    Forced,
    /// The client's first bytes, which routes need, were broken, cut short or late.
    SniffFailed,
}

impl CloseReason {
    /// Every reason, in the order of their numbers.
    pub const ALL: [CloseReason; CLOSE_REASONS] = [
        CloseReason::ClientFin,
        CloseReason::BackendFin,
        CloseReason::ClientReset,
        CloseReason::BackendReset,
        CloseReason::IdleTimeout,
        CloseReason::HalfCloseTimeout,
        CloseReason::ConnectFailed,
        CloseReason::NoBackend,
        CloseReason::BadProxyHeader,
        CloseReason::Denied,
        CloseReason::SourceLimit,
        CloseReason::SourceRate,
        CloseReason::Shutdown,
        CloseReason::Forced,
        CloseReason::SniffFailed,
    ];

    pub(super) fn fin(first: Side) -> CloseReason {
        match first {
            Side::Client => CloseReason::ClientFin,
            Side::Backend => CloseReason::BackendFin,
        }
    }

    pub(super) fn reset(side: Side) -> CloseReason {
        match side {
            Side::Client => CloseReason::ClientReset,
            Side::Backend => CloseReason::BackendReset,
        }
    }

    /// The refusal that the listener counts, if the client was not served.
    pub fn refusal(self) -> Option<Refusal> {
        match self {
            CloseReason::NoBackend => Some(Refusal::NoBackend),
            CloseReason::BadProxyHeader => Some(Refusal::BadProxyHeader),
            CloseReason::Denied => Some(Refusal::Denied),
            CloseReason::SourceLimit => Some(Refusal::SourceLimit),
            CloseReason::SourceRate => Some(Refusal::SourceRate),
            CloseReason::SniffFailed => Some(Refusal::SniffFailed),
            CloseReason::ClientFin
            | CloseReason::BackendFin
            | CloseReason::ClientReset
            | CloseReason::BackendReset
            | CloseReason::IdleTimeout
            | CloseReason::HalfCloseTimeout
            | CloseReason::ConnectFailed
            | CloseReason::Shutdown
            | CloseReason::Forced => None,
        }
    }

    /// Its word in logs and metrics.
    pub fn word(self) -> &'static str {
        match self {
            CloseReason::ClientFin => "client_fin",
            CloseReason::BackendFin => "backend_fin",
            CloseReason::ClientReset => "client_reset",
            CloseReason::BackendReset => "backend_reset",
            CloseReason::IdleTimeout => "idle_timeout",
            CloseReason::HalfCloseTimeout => "half_close_timeout",
            CloseReason::ConnectFailed => "connect_failed",
            CloseReason::NoBackend => "no_backend",
            CloseReason::BadProxyHeader => "bad_proxy_header",
            CloseReason::Denied => "denied",
            CloseReason::SourceLimit => "source_limit",
            CloseReason::SourceRate => "source_rate",
            CloseReason::Shutdown => "shutdown",
            CloseReason::Forced => "forced",
            CloseReason::SniffFailed => "sniff_failed",
        }
    }
}

impl From<Reason> for CloseReason {
    fn from(reason: Reason) -> CloseReason {
        match reason {
            Reason::Denied => CloseReason::Denied,
            Reason::SourceLimit => CloseReason::SourceLimit,
            Reason::SourceRate => CloseReason::SourceRate,
        }
    }
}

impl fmt::Display for CloseReason {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.word())
    }
}

/// What is known of a closed connection, for its line in the log.
#[derive(Debug)]
pub struct Record {
    /// Its number.
    pub id: ConnectionId,
    /// The client's address, the announced one if it announced one; `None` for a unix client.
    pub client: Option<Endpoint>,
    /// The listener that accepted it.
    pub listener: Arc<ListenerTotals>,
    /// The pool that served it.
    pub pool: Arc<Pool>,
    /// What is known of the client, if its listener has routes.
    pub first: Option<Box<First>>,
    /// The backend that was connected, or being dialled at the end.
    pub backend: Option<Arc<Backend>>,
    /// The port there, if it depends on the client's.
    pub backend_port: Option<u16>,
    /// Backends tried.
    pub attempts: u32,
    /// How long it took to connect, failed attempts included.
    pub connect: Option<Duration>,
    /// From accept to the end.
    pub duration: Duration,
    /// True if the backend sent a byte.
    pub answered: bool,
    /// What the lack of an answer says of the backend, if anything.
    pub unanswered: Option<Unanswered>,
    /// The client's bytes delivered to the backend.
    pub bytes_to_backend: u64,
    /// Bytes delivered to the client.
    pub bytes_to_client: u64,
    /// Why it ended.
    pub close: CloseReason,
    /// How far it had come.
    pub stage: Stage,
    /// The side that sent its FIN first, if a backend was connected.
    pub first_fin: Option<Side>,
    /// Failed attempts and queues, if there were any.
    pub history: Option<Box<History>>,
}

/// A backend's silence, as the end of the connection shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unanswered {
    /// The backend caused it.
    ByBackend {
        /// How long the client waited, connect included.
        waited: Duration,
        /// It came so soon that the backend would look idle.
        early: bool,
    },
    /// The client left, after it had asked.
    Abandoned {
        /// How long it had waited.
        waited: Duration,
    },
}

impl Record {
    /// What was wrong with the first bytes, or with the backend's answer to them.
    fn failure(&self) -> Option<Failure> {
        self.first.as_ref()?.failure
    }

    /// Why the client was refused, for the log. Names the backend if that is the cause.
    pub fn refusal(&self) -> String {
        let cause = match (self.failure(), &self.backend) {
            (Some(failure @ Failure::Backend(_)), Some(backend)) => {
                format!(": {failure} (pool {}, backend {})", self.pool.settings.name, backend.name)
            }
            (Some(failure), _) => format!(": {failure}"),
            (None, _) => String::new(),
        };
        format!("{}{cause}", self.close)
    }

    /// True if the backend was connected and reset the connection before it sent a byte.
    pub fn was_reset_before_byte(&self) -> bool {
        self.close == CloseReason::BackendReset && self.connect.is_some() && !self.answered
    }

    /// True if the backend reset the connection without an answer, within [`EARLY`] after the connect or the client's last bytes.
    ///
    /// [`EARLY`]: crate::policy::health::outlier::EARLY
    pub fn was_reset_early(&self) -> bool {
        self.close == CloseReason::BackendReset
            && matches!(self.unanswered, Some(Unanswered::ByBackend { early: true, .. }))
    }
}

/// `connection ID: CLIENT → POOL/BACKEND: reason after …`, for the debug log.
impl fmt::Display for Record {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "connection {}: ", self.id)?;
        match &self.client {
            Some(client) => write!(out, "{client}")?,
            None => out.write_str("unix")?,
        }
        let backend = self.backend.as_ref().map_or("-", |backend| &backend.name);
        write!(out, " → {}/{backend}: {}", self.pool.settings.name, self.close)?;
        if let Some(failure) = self.failure() {
            write!(out, ": {failure},")?;
        }
        write!(out, " after {:?}", self.duration)?;
        write!(out, ", {} attempts", self.attempts)?;
        if let Some(connect) = self.connect {
            write!(out, ", connected in {connect:?}")?;
        }
        write!(out, ", {} bytes to backend, {} to client", self.bytes_to_backend, self.bytes_to_client)?;
        for FailedAttempt { backend, error, .. } in self.history.iter().flat_map(|history| history.failed()) {
            write!(out, ", {backend} failed: {error}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reason_stands_at_its_number() {
        for (number, reason) in CloseReason::ALL.into_iter().enumerate() {
            assert_eq!(reason as usize, number, "{reason}");
        }
    }
}
