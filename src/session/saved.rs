//! The saved form of a session, from which the process that takes over its sockets rebuilds it.
//!
//! Times are ages, since two processes' ticks have different starts; the backend goes by name, since indexes belong to
//! one snapshot. A dial under way and a place in a queue are not saved: the new process chooses again. Held bytes are
//! with the driver: a part of a preamble, the bytes behind it, and bytes that a sink did not take.

use super::expiry::Expiry;
use super::failing::{Failure, SendQueue};
use super::relaying::DirectionState;
use super::{ConnectionId, HalfState, Relay, Route, Session, Side, Stage, State};
use crate::base::{Endpoint, Tick};
use crate::pool::Lease;
use crate::proto::proxy::Header;
use crate::telemetry::ListenerTotals;
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

/// Everything a session knows, but for its sockets and the bytes held between them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Saved {
    /// The client's address, the announced one if it announced one; `None` for a unix client.
    pub client: Option<SocketAddr>,
    /// The listener's name.
    pub listener: String,
    /// How far it has come.
    pub stage: Stage,
    /// The client's own header if it announced addresses, until the backend has it.
    pub announced: Option<Header>,
    /// The chosen pool's name; `None` until one is chosen.
    pub pool: Option<String>,
    /// The backend's name, if connected.
    pub relay: Option<SavedRelay>,
    /// How long ago it was accepted.
    pub age: Duration,
    /// Backends tried so far.
    pub attempts: u32,
    /// By how much its lifetime is shortened, in 65536ths of a tenth of it.
    pub jitter: u16,
    /// How much of its lifetime is left, if that ends.
    #[serde(default)]
    pub left: Option<SavedExpiry>,
}

/// What is left of a lifetime.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SavedExpiry {
    /// Until a quiet moment ends it.
    pub from: Duration,
    /// Until anything does.
    pub until: Duration,
    /// Until a quiet moment is looked for next.
    pub look: Duration,
}

/// The part that exists once a backend is connected.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SavedRelay {
    /// The backend's name.
    pub backend: String,
    /// How long the connect took.
    pub connect: Duration,
    /// How long ago the last byte moved.
    pub silent: Duration,
    /// The side that sent its FIN first.
    pub first_fin: Option<Side>,
    /// The side that has failed, while what it sent before is delivered.
    #[serde(default)]
    pub failed: Option<SavedFailure>,
    /// Client to backend.
    pub up: SavedDirection,
    /// Backend to client.
    pub down: SavedDirection,
    /// Bytes of the preamble for the backend that are still held.
    pub preamble: u64,
    /// How long the backend's first byte has been waited for.
    pub asked: Option<Duration>,
}

/// A side that has failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SavedFailure {
    /// Which one.
    pub side: Side,
    /// What it sent ends without a FIN.
    pub without_fin: bool,
    /// How long ago the other side last took a byte.
    pub silent: Duration,
    /// What the kernel still has to deliver to the other side.
    pub queue: SavedQueue,
}

/// A send queue of the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SavedQueue {
    /// How long ago everything had been written, or else the failure was noticed.
    pub since: Duration,
    /// Until it is measured next.
    pub measure: Duration,
    /// What was in it at the last measurement, with what was added since.
    pub filled: u64,
}

/// One direction of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SavedDirection {
    /// How far it has come.
    pub half: HalfState,
    /// Are bytes held?
    pub held: bool,
    /// Bytes delivered.
    pub bytes: u64,
}

impl Session {
    /// Saves the session; `None` once it is closed.
    pub fn save(&self, now: Tick) -> Option<Saved> {
        let relay = match &self.state {
            State::Closed { .. } => return None,
            State::Relaying(relay) => Some(SavedRelay {
                backend: relay.lease.backend().name.clone(),
                connect: relay.connect,
                silent: now - relay.last_byte,
                first_fin: relay.first_fin,
                failed: relay.failed.as_ref().map(|failure| failure.save(now)),
                up: relay.up.save(),
                down: relay.down.save(),
                preamble: relay.preamble,
                asked: relay.asked.map(|asked| now - asked),
            }),
            _ => None,
        };
        let client = match &self.client {
            Some(Endpoint::Inet(at)) => Some(*at),
            Some(Endpoint::Unix(_)) | None => None,
        };
        let pool = match &self.route {
            Route::Listener(_) => None,
            Route::Pool(pool) => Some(pool.settings.name.clone()),
        };
        let left = self.expires.map(|expiry| SavedExpiry {
            from: expiry.from - now,
            until: expiry.until - now,
            look: expiry.look - now,
        });
        Some(Saved {
            client,
            listener: self.listener.name.clone(),
            stage: self.stage(),
            announced: self.announced.as_deref().cloned(),
            pool,
            relay,
            age: now - self.started,
            attempts: self.attempts,
            jitter: self.jitter,
            left,
        })
    }

    /// Rebuilds a session under a number of this process. The caller found `listener` by its name, and so the pool of `route`
    /// if one was chosen. A relay needs the lease on its backend; a session that had none goes on where it stood, or chooses
    /// again. It goes on with [`super::Input::Begin`]. A client that was admitted stays so; the limits of its source do not count it any more.
    pub fn restore(
        saved: &Saved,
        id: ConnectionId,
        listener: Arc<ListenerTotals>,
        route: Route,
        lease: Option<Lease>,
        now: Tick,
    ) -> Option<Session> {
        let before = |age: Duration| Tick(now.0.saturating_sub(u64::try_from(age.as_micros()).unwrap_or(u64::MAX)));
        let (state, attempts) = match (saved.stage, &saved.relay, lease) {
            (Stage::Preamble, ..) => (State::ReadingPreamble { trusted: true }, 0),
            (Stage::Admitting, ..) => (State::Admitting, 0),
            (Stage::Choosing | Stage::Waiting | Stage::Dialing, ..) => (State::Choosing { tried: Vec::new() }, 0),
            (Stage::Relaying, Some(relay), Some(lease)) => {
                let state = State::Relaying(Relay {
                    lease,
                    attempt: relay.connect,
                    connect: relay.connect,
                    up: relay.up.restore(),
                    down: relay.down.restore(),
                    first_fin: relay.first_fin,
                    failed: relay.failed.map(|failure| failure.restore(now, before)),
                    last_byte: before(relay.silent),
                    preamble: relay.preamble,
                    asked: relay.asked.map(before),
                    warm: None,
                });
                (state, saved.attempts)
            }
            (Stage::Relaying | Stage::Closed, ..) => return None,
        };
        Some(Session {
            id,
            client: saved.client.map(Endpoint::Inet),
            announced: saved.announced.clone().map(Box::new),
            listener,
            route,
            started: before(saved.age),
            attempts,
            spent: Duration::ZERO,
            jitter: saved.jitter,
            expires: saved.left.map(|left| Expiry {
                from: now + left.from,
                until: now + left.until,
                look: now + left.look,
            }),
            waits_until: None,
            orphaned: false,
            history: None,
            state,
        })
    }
}

impl Failure {
    fn save(&self, now: Tick) -> SavedFailure {
        let SendQueue { since, measure, filled } = self.queue;
        let queue = SavedQueue { since: now - since, measure: measure - now, filled };
        SavedFailure { side: self.side, without_fin: self.without_fin, silent: now - self.taken, queue }
    }
}

impl SavedFailure {
    fn restore(self, now: Tick, before: impl Fn(Duration) -> Tick) -> Failure {
        let SavedQueue { since, measure, filled } = self.queue;
        let queue = SendQueue { since: before(since), measure: now + measure, filled };
        Failure { side: self.side, without_fin: self.without_fin, taken: before(self.silent), queue }
    }
}

impl DirectionState {
    fn save(&self) -> SavedDirection {
        SavedDirection { half: self.half, held: self.held, bytes: self.bytes }
    }
}

impl SavedDirection {
    fn restore(self) -> DirectionState {
        DirectionState { half: self.half, held: self.held, bytes: self.bytes }
    }
}
