//! What is known of a connection while it is open: what an operator sees of it.
//!
//! A state has three names:
//!
//! | in the session | [`super::Stage`], for the driver and the access log | [`Live::state`], for operators |
//! |---|---|---|
//! | `ReadingPreamble` | `Preamble` | `preamble` |
//! | `Admitting` | `Admitting` | `dialing`, but no question finds one |
//! | `Sniffing` | `Sniffing` | `sniffing` |
//! | `Choosing` | `Choosing` | `dialing`, but no question finds one |
//! | `Waiting` | `Waiting` | `waiting` |
//! | `Dialing` | `Dialing`; `Requesting` while the backend is asked for TLS | `dialing` |
//! | `Relaying` | `Relaying` | `relaying`; `half_closed` after the first FIN; `resetting` once a side has failed |
//! | `Closed` | `Closed` | none |

use super::{ConnectionId, Direction, First, History, Session, State};
use crate::base::{Endpoint, Tick};
use crate::pool::{Backend, Pool};
use crate::telemetry::ListenerTotals;
use std::sync::Arc;
use std::time::Duration;

/// An open connection.
#[derive(Clone, Copy, Debug)]
pub struct Live<'a> {
    /// Its number.
    pub id: ConnectionId,
    /// The listener that accepted it.
    pub listener: &'a Arc<ListenerTotals>,
    /// Its pool; until one is chosen, the one that its listener leads to now.
    pub pool: &'a Arc<Pool>,
    /// The backend that is connected or dialled.
    pub backend: Option<&'a Arc<Backend>>,
    /// The port there, if it depends on the client's.
    pub backend_port: Option<u16>,
    /// The client's address, the announced one if it announced one; `None` for a unix client.
    pub client: Option<&'a Endpoint>,
    /// When it was accepted.
    pub since: Tick,
    /// When a byte last passed; before the first one, when it was connected or else accepted.
    pub last_byte: Tick,
    /// Backends tried.
    pub attempts: u32,
    /// How long it took to connect, failed attempts included.
    pub connect: Option<Duration>,
    /// What is known of the client, if its listener has routes.
    pub first: Option<&'a First>,
    /// Failed attempts and queues, if there were any.
    pub history: Option<&'a History>,
    /// The client's bytes delivered to the backend.
    pub bytes_to_backend: u64,
    /// Bytes delivered to the client.
    pub bytes_to_client: u64,
    /// One of [`Live::STATES`].
    pub state: &'static str,
}

impl<'a> Live<'a> {
    /// The name that the client asked for.
    pub fn server_name(&self) -> Option<&'a str> {
        self.first?.server_name()
    }

    /// The label of the route that it took.
    pub fn route(&self) -> Option<&'a str> {
        self.first?.route.as_deref()
    }

    /// How far connections have come.
    pub const STATES: [&'static str; 7] =
        ["preamble", "sniffing", "waiting", "dialing", "relaying", "half_closed", "resetting"];
}

impl Session {
    /// When it was accepted.
    pub fn started(&self) -> Tick {
        self.started
    }

    /// Its pool; until one is chosen, the one that its listener leads to now.
    pub fn pool(&self) -> &Arc<Pool> {
        self.route.pool()
    }

    /// What is known of it; `None` once it is closed.
    pub fn live(&self) -> Option<Live<'_>> {
        let (state, last_byte) = match &self.state {
            State::Closed { .. } => return None,
            State::ReadingPreamble { .. } => ("preamble", self.started),
            State::Sniffing(_) => ("sniffing", self.started),
            State::Waiting { .. } => ("waiting", self.started),
            // The driver answers at once what the first two ask: between two inputs no session is in them.
            State::Admitting | State::Choosing { .. } | State::Dialing(_) => ("dialing", self.started),
            State::Relaying(relay) if relay.failed.is_some() => ("resetting", relay.last_byte),
            State::Relaying(relay) if relay.first_fin.is_some() => ("half_closed", relay.last_byte),
            State::Relaying(relay) => ("relaying", relay.last_byte),
        };
        Some(Live {
            id: self.id,
            listener: &self.listener,
            pool: self.route.pool(),
            backend: self.backend(),
            backend_port: self.backend_port(),
            client: self.client.as_ref(),
            since: self.started,
            last_byte,
            attempts: self.attempts,
            connect: if let State::Relaying(relay) = &self.state { Some(relay.connect) } else { None },
            first: self.first.as_deref(),
            history: self.history.as_deref(),
            bytes_to_backend: self.bytes(Direction::Up),
            bytes_to_client: self.bytes(Direction::Down),
            state,
        })
    }
}
