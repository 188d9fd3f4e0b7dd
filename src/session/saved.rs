//! A session written down, to be rebuilt by a process that takes its sockets over.
//!
//! Times are ages, since two processes' ticks have different starts; the backend goes by name, since indexes belong to
//! one snapshot. A dial under way is not carried over, nor is a place in a queue: the new process chooses again. Held bytes
//! are not here but with the driver, who has them: that part of a PROXY header which has come, what came behind it, and what
//! a sink did not take.

use super::expiry::Expiry;
use super::failing::{Failure, SendQueue};
use super::{Direction, DirectionState, HalfState, Relay, Session, Side, State};
use crate::base::{Endpoint, Tick};
use crate::pool::{Lease, Pool};
use crate::proto::proxy::Header;
use crate::telemetry::ListenerTotals;
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

/// Everything a session knows, but for its sockets and the bytes held between them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Saved {
    /// Who connected, or was announced as the client; `None` for a unix client.
    pub client: Option<SocketAddr>,
    /// How far it has come before it relays.
    pub stage: Stage,
    /// What it said, until a backend has been told.
    pub announced: Option<Header>,
    /// The pool's name.
    pub pool: String,
    /// The backend's name, if connected.
    pub relay: Option<SavedRelay>,
    /// How long ago it was accepted.
    pub age: Duration,
    /// Backends tried so far.
    pub attempts: u32,
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

/// What has been settled of a session that does not relay yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Stage {
    /// Nothing: the client's PROXY header is still being read.
    ReadsHeader,
    /// Who the client is, but not whether it may come in.
    Known,
    /// It is in.
    Admitted,
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
    /// Whose FIN came first.
    pub first_fin: Option<Side>,
    /// The side that has failed, while what it sent before is delivered.
    #[serde(default)]
    pub failed: Option<SavedFailure>,
    /// Client to backend.
    pub up: SavedWay,
    /// Backend to client.
    pub down: SavedWay,
    /// Bytes of the PROXY header for the backend that are still held.
    pub introduction: u64,
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
    /// How long ago everything had been written, or else the failure was noticed; when to measure the kernel's queue next;
    /// and what was in it at the last measurement, with what was added since. Versions that measure only what has been
    /// written whole write `None` before that.
    pub queue: Option<(Duration, Duration, u64)>,
}

/// One way of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SavedWay {
    /// How far it has come.
    pub half: HalfState,
    /// Are bytes held?
    pub held: bool,
    /// Bytes delivered.
    pub bytes: u64,
}

impl Session {
    /// Writes the session down; `None` once it is closed.
    pub fn save(&self, now: Tick) -> Option<Saved> {
        let relay = match &self.state {
            State::Closed(_) => return None,
            State::ReadingHeader { .. }
            | State::Admitting
            | State::Choosing { .. }
            | State::Waiting { .. }
            | State::Dialing(_) => None,
            State::Relaying(relay) => Some(SavedRelay {
                backend: relay.lease.backend().name.clone(),
                connect: relay.connect,
                silent: now - relay.last_byte,
                first_fin: relay.first_fin,
                failed: relay.failed.as_ref().map(|failure| failure.save(now)),
                up: relay.way(Direction::Up).save(),
                down: relay.way(Direction::Down).save(),
                introduction: relay.introduction,
                asked: relay.asked.map(|asked| now - asked),
            }),
        };
        let client = match &self.client {
            Some(Endpoint::Inet(at)) => Some(*at),
            Some(Endpoint::Unix(_)) | None => None,
        };
        let pool = self.pool.settings.name.clone();
        let left = self.expires.map(|expiry| SavedExpiry {
            from: expiry.from - now,
            until: expiry.until - now,
            look: expiry.look - now,
        });
        let (stage, announced) = (self.stage(), self.announced.as_deref().cloned());
        let (age, attempts) = (now - self.started, self.attempts);
        Some(Saved { client, stage, announced, pool, relay, age, attempts, left })
    }

    fn stage(&self) -> Stage {
        match self.state {
            State::ReadingHeader { .. } => Stage::ReadsHeader,
            State::Admitting => Stage::Known,
            _ => Stage::Admitted,
        }
    }

    /// Rebuilds a session in `pool`, which the caller found by its name. A relay needs the lease on its backend; a session
    /// that had none goes on where it stood, or chooses again. It goes on with [`Session::begin`]. Who is in is in; its
    /// place in its source's count stays behind, though: the new process counts only those that come to it.
    pub fn restore(
        saved: &Saved,
        listener: Arc<ListenerTotals>,
        pool: Arc<Pool>,
        lease: Option<Lease>,
        now: Tick,
    ) -> Option<Session> {
        let before = |age: Duration| Tick(now.0.saturating_sub(u64::try_from(age.as_micros()).unwrap_or(u64::MAX)));
        let (state, attempts) = match (&saved.relay, lease) {
            (None, _) => {
                let state = match saved.stage {
                    Stage::ReadsHeader => State::ReadingHeader { trusted: true },
                    Stage::Known => State::Admitting,
                    Stage::Admitted => State::Choosing { tried: Vec::new() },
                };
                (state, 0)
            }
            (Some(_), None) => return None,
            (Some(relay), Some(lease)) => {
                let state = State::Relaying(Relay {
                    lease,
                    attempt: relay.connect,
                    connect: relay.connect,
                    up: relay.up.restore(),
                    down: relay.down.restore(),
                    first_fin: relay.first_fin,
                    failed: relay.failed.map(|failure| failure.restore(now, before)),
                    last_byte: before(relay.silent),
                    introduction: relay.introduction,
                    asked: relay.asked.map(before),
                });
                (state, saved.attempts)
            }
        };
        let client = saved.client.map(Endpoint::Inet);
        let expires =
            saved.left.map(|left| Expiry { from: now + left.from, until: now + left.until, look: now + left.look });
        let announced = saved.announced.clone().map(Box::new);
        let (spent, patience, started) = (Duration::ZERO, None, before(saved.age));
        let orphaned = false;
        Some(Session {
            client,
            announced,
            listener,
            pool,
            started,
            attempts,
            spent,
            expires,
            patience,
            orphaned,
            state,
        })
    }
}

impl Failure {
    fn save(&self, now: Tick) -> SavedFailure {
        let queue = Some((now - self.queue.since, self.queue.measure - now, self.queue.filled));
        SavedFailure { side: self.side, without_fin: self.without_fin, silent: now - self.taken, queue }
    }
}

impl SavedFailure {
    fn restore(self, now: Tick, before: impl Fn(Duration) -> Tick) -> Failure {
        let queue = self.queue.map_or_else(
            || SendQueue::begin(now),
            |(since, measure, filled)| SendQueue { since: before(since), measure: now + measure, filled },
        );
        Failure { side: self.side, without_fin: self.without_fin, taken: before(self.silent), queue }
    }
}

impl DirectionState {
    fn save(&self) -> SavedWay {
        SavedWay { half: self.half, held: self.held, bytes: self.bytes }
    }
}

impl SavedWay {
    fn restore(self) -> DirectionState {
        DirectionState { half: self.half, held: self.held, bytes: self.bytes }
    }
}
