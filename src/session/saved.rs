//! The saved form of a session, from which the process that takes over its sockets rebuilds it.
//!
//! Times are ages, since two processes' ticks have different starts; backends go by name, since indexes belong to
//! one snapshot. A dial under way and a place in a queue are not saved: the new process chooses again. Held bytes are
//! with the driver: a part of a preamble, the bytes behind it, and bytes that a sink did not take.
//!
//! A field that is not known is skipped, and a field that is missing has its default. So processes of two releases
//! understand each other's sessions as far as both know the fields.

use super::expiry::Expiry;
use super::failing::{Failure, SendQueue};
use super::relaying::DirectionState;
use super::sniffing::Sniffing;
use super::{
    AttemptError, ConnectionId, FAILED_ATTEMPTS, FailedAttempt, First, HalfState, History, Interval, Relay, Route,
    Session, Side, Stage, State,
};
use crate::base::{Endpoint, Tick};
use crate::pool::{Lease, Member, Pool, Tried};
use crate::proto::proxy::Header;
use crate::proto::sniff::Sniffed;
use crate::telemetry::ListenerTotals;
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// The longest time that is taken from a saved session, so that sums of times have room.
const LONGEST: Duration = Duration::from_secs(3_600 * 24 * 365 * 100);

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
    /// The port that the client connected to; 0: unknown.
    #[serde(default)]
    pub port: u16,
    /// By how much its lifetime is shortened, in 65536ths of a tenth of it.
    pub jitter: u16,
    /// How much of its lifetime is left, if that ends.
    #[serde(default)]
    pub left: Option<SavedExpiry>,
    /// The time that failed attempts to connect took.
    #[serde(default)]
    pub spent: Duration,
    /// The names of the backends that failed for it since it last waited. A dial that was under way has not failed.
    #[serde(default)]
    pub tried: Vec<String>,
    /// How long it may still wait for a backend, once there was none.
    #[serde(default)]
    pub waits: Option<Duration>,
    /// What only logs show of its past.
    #[serde(default)]
    pub history: Option<SavedHistory>,
    /// How far the wait for its first bytes has come, while it lasts.
    #[serde(default)]
    pub sniffing: Option<SavedSniffing>,
    /// What is known of its client, if its listener has routes.
    #[serde(default)]
    pub first: Option<SavedFirst>,
}

/// The wait for first bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SavedSniffing {
    /// How long ago it began.
    pub age: Duration,
    /// How much of `sniff_timeout` is left.
    pub left: Duration,
    /// Bytes have come.
    pub heard: bool,
}

/// What is known of a client whose listener has routes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SavedFirst {
    /// What its first bytes said.
    pub sniffed: Option<Sniffed>,
    /// It had said nothing when its time was over.
    pub is_silent: bool,
    /// The route that it takes, as logs show it. The next process routes a client without a backend anew.
    pub route: Option<String>,
}

/// What only logs show of a session's past.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SavedHistory {
    /// The last attempts that failed.
    pub failed: Vec<SavedAttempt>,
    /// All attempts that failed.
    pub failures: u32,
    /// The time in queues.
    pub waited: Duration,
    /// The clients before it when it first joined a queue.
    pub ahead: Option<u32>,
    /// From the accept to the last report of the open connection.
    pub reported: Interval,
}

/// An attempt to connect that failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SavedAttempt {
    /// The backend's name.
    pub backend: String,
    /// The address that was dialled, as logs show it.
    pub address: Option<String>,
    /// Why.
    pub error: AttemptError,
    /// How long it took.
    pub after: Duration,
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
    /// The backend's address, as logs show it.
    #[serde(default)]
    pub address: Option<String>,
    /// How long the connect took, failed attempts included.
    pub connect: Duration,
    /// How long the attempt took that succeeded.
    #[serde(default)]
    pub attempt: Duration,
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

impl Saved {
    /// Has a connection that relays reset after this time at the latest, reason `forced`. A lifetime that ends before stays.
    pub fn end_within(&mut self, time: Duration) {
        if self.relay.is_none() {
            return;
        }
        // No quiet moment ends it before.
        let never = time.saturating_add(LONGEST);
        let left = self.left.unwrap_or(SavedExpiry { from: never, until: time, look: never });
        self.left = Some(SavedExpiry { until: left.until.min(time), ..left });
    }
}

impl Session {
    /// Saves the session; `None` once it is closed.
    pub fn save(&self, now: Tick) -> Option<Saved> {
        let relay = match &self.state {
            State::Closed { .. } => return None,
            State::Relaying(relay) => Some(SavedRelay {
                backend: relay.lease.backend().name.clone(),
                address: relay.endpoint().map(ToString::to_string),
                connect: relay.connect,
                attempt: relay.attempt,
                silent: now - relay.last_byte,
                first_fin: relay.first_fin,
                failed: relay.failed.as_ref().map(|failure| failure.save(now)),
                up: relay.up.save(),
                down: relay.down.save(),
                preamble: relay.preamble,
                asked: relay.asked.get().map(|asked| now - asked),
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
        let left = self.expires.as_ref().map(|expiry| SavedExpiry {
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
            attempts: self.attempts - u32::from(self.has_attempt_without_failure()),
            port: self.port,
            jitter: self.jitter,
            left,
            spent: self.spent(),
            tried: self.tried().iter().filter_map(|tried| self.route.pool().tried(*tried)).map(name_of).collect(),
            waits: self.history.as_ref().and_then(|history| history.waits_until).map(|until| until - now),
            history: self.save_history(now),
            sniffing: if let State::Sniffing(sniffing) = &self.state { Some(sniffing.save(now)) } else { None },
            first: self.first.as_deref().map(First::save),
        })
    }

    /// A dial is under way that no address has refused yet. It is not saved, so it does not count as an attempt.
    fn has_attempt_without_failure(&self) -> bool {
        matches!(&self.state, State::Dialing(dial) if !dial.has_failed_address())
    }

    fn tried(&self) -> &[Tried] {
        match &self.state {
            State::Choosing { tried } => tried,
            State::Dialing(dial) => dial.tried(),
            _ => &[],
        }
    }

    fn save_history(&self, now: Tick) -> Option<SavedHistory> {
        let mut saved = self.history.as_deref().map(History::save);
        if let State::Waiting { since, .. } = self.state {
            saved.get_or_insert_default().waited += now - since;
        }
        saved
    }

    /// Rebuilds a session under this number. The caller found `listener` by its name, and so the pool of `route` if one was
    /// chosen. A relay needs the lease on its backend, and waits for any input. A session without a backend goes on with
    /// [`super::Input::Begin`] where it stood, or chooses again.
    pub fn restore(
        saved: &Saved,
        id: ConnectionId,
        listener: Arc<ListenerTotals>,
        route: Route,
        lease: Option<Lease>,
        now: Tick,
    ) -> Option<Session> {
        let before = |age: Duration| now.before(age);
        let state = match (saved.stage, &saved.relay, lease) {
            (Stage::Preamble, ..) => State::ReadingPreamble { trusted: true },
            (Stage::Admitting, ..) => State::Admitting,
            (Stage::Sniffing, ..) => State::Sniffing(saved.sniffing?.restore(now)),
            (Stage::Choosing | Stage::Waiting | Stage::Dialing | Stage::Requesting, ..) => {
                let tried = saved.tried.iter().filter_map(|name| route.pool().named(name));
                State::Choosing { tried: tried.map(Member::tried).collect() }
            }
            (Stage::Relaying, Some(relay), Some(lease)) => State::Relaying(Relay {
                address: relay.address.as_deref().and_then(|at| number_of(at, &lease)),
                lease,
                attempt: relay.attempt.min(LONGEST),
                connect: relay.connect,
                up: relay.up.restore(),
                down: relay.down.restore(),
                first_fin: relay.first_fin,
                failed: relay.failed.map(|failure| Box::new(failure.restore(now, before))),
                last_byte: before(relay.silent),
                preamble: relay.preamble,
                asked: relay.asked.map(before).into(),
                warm: None,
            }),
            (Stage::Relaying | Stage::Closed, ..) => return None,
        };
        let mut history = saved.history.as_ref().map(|history| Box::new(history.restore(route.pool())));
        if saved.waits.is_some() || !saved.spent.is_zero() {
            let history = history.get_or_insert_default();
            history.spent = saved.spent.min(LONGEST);
            history.waits_until = saved.waits.map(|left| now + left);
        }
        Some(Session {
            id,
            client: saved.client.map(Endpoint::Inet),
            announced: saved.announced.clone().map(Box::new),
            listener,
            route,
            first: saved.first.clone().map(|first| Box::new(first.restore())),
            started: before(saved.age),
            attempts: saved.attempts.min(u32::MAX / 2),
            port: saved.port,
            jitter: saved.jitter,
            expires: saved.left.map(|left| Box::new(left.restore(now))),
            orphaned: false,
            history,
            state,
        })
    }
}

impl History {
    fn save(&self) -> SavedHistory {
        let failed = self.failed().map(|attempt| SavedAttempt {
            backend: attempt.backend.clone(),
            address: attempt.address.as_ref().map(Endpoint::to_string),
            error: attempt.error,
            after: attempt.after,
        });
        let History { failures, waited, ahead, reported, .. } = *self;
        SavedHistory { failed: failed.collect(), failures, waited, ahead, reported }
    }
}

impl SavedHistory {
    /// Of a session that this pool serves.
    fn restore(&self, pool: &Pool) -> History {
        let failed = self.failed.iter().take(FAILED_ATTEMPTS).map(|attempt| FailedAttempt {
            backend: attempt.backend.clone(),
            tried: pool.named(&attempt.backend).map(Member::tried),
            address: attempt.address.as_deref().map(endpoint),
            error: attempt.error,
            after: attempt.after,
        });
        let SavedHistory { failures, waited, ahead, reported, .. } = *self;
        let (failed, waited) = (failed.collect(), waited.min(LONGEST));
        History { failed, failures, waited, ahead, reported, ..History::default() }
    }
}

fn name_of(member: &Member) -> String {
    member.backend.name.clone()
}

/// The number of the backend's address that logs show like this.
fn number_of(shown: &str, lease: &Lease) -> Option<u32> {
    lease.backend().addresses.number_of(&endpoint(shown))?.try_into().ok()
}

/// The endpoint that logs show like this.
fn endpoint(shown: &str) -> Endpoint {
    let path = || Endpoint::Unix(Path::new(shown.strip_prefix("unix:").unwrap_or(shown)).into());
    shown.parse().map_or_else(|_| path(), Endpoint::Inet)
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

impl SavedExpiry {
    fn restore(self, now: Tick) -> Expiry {
        Expiry { from: now + self.from, until: now + self.until, look: now + self.look }
    }
}

impl Sniffing {
    fn save(&self, now: Tick) -> SavedSniffing {
        SavedSniffing { age: now - self.since, left: self.until - now, heard: self.heard }
    }
}

impl SavedSniffing {
    fn restore(self, now: Tick) -> Sniffing {
        Sniffing { since: now.before(self.age), until: now + self.left, heard: self.heard }
    }
}

impl First {
    fn save(&self) -> SavedFirst {
        SavedFirst {
            sniffed: self.sniffed.as_deref().cloned(),
            is_silent: self.is_silent,
            route: self.route.as_deref().map(str::to_owned),
        }
    }
}

impl SavedFirst {
    fn restore(self) -> First {
        let SavedFirst { sniffed, is_silent, route } = self;
        First { sniffed: sniffed.map(Box::new), is_silent, route: route.map(Into::into), failure: None }
    }
}

impl DirectionState {
    fn save(&self) -> SavedDirection {
        SavedDirection { half: self.half, held: self.held, bytes: self.bytes }
    }
}

impl SavedDirection {
    fn restore(self) -> DirectionState {
        DirectionState { half: self.half, held: self.held, bytes: self.bytes.min(u64::MAX / 2) }
    }
}
