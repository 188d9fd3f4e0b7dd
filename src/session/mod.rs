//! One client connection from accept to its end, as a machine without I/O: `(input, now) → effect`.
//!
//! It owns no socket, reads no clock and moves no byte. The driver ([`crate::worker::driver`]) tells it what happened,
//! does the one thing it answers, and tells it how that went. So any order of readiness, partial writes, FINs, resets and
//! time-outs can be replayed in memory, and a session can be written down ([`saved`]) and rebuilt in another process.
//!
//! # Words
//!
//! *Side*: client or backend. *Direction*: up (client → backend) or down. Each way is one [`HalfState`]: `Open`, then `Draining` when
//! its source has sent its FIN but bytes are still held for the sink, then `Shut` when the FIN has been passed on.
//! *Held*: bytes read from the source that the sink did not take yet.
//!
//! # States
//!
//! ```text
//! ReadingHeader (only where the listener wants a PROXY header)
//!    │
//!    ▼     Admit         Pick            Dial              connected (Announce)
//! Admitting ─► Choosing ───────► Dialing ───────────────────────────────► Relaying ──► Closed(reason)
//!               ▲ ▲  │              │ │ ▲                                     FIN both ways, reset,
//!         Turn  │ │  │ Queue        │ └─┘ no descriptor: again a little       time-out, stop
//!               │ └──┼──────────────┘     later; failed: its next address
//!             Waiting ◄ failed: another
//! ```
//!
//! [`Effect::Admit`] asks once, as soon as the client's address is known, whether the client may come in. Whoever refuses
//! gives the reason.
//!
//! The header that a backend expects is no state of its own: it is held for the up way when relaying begins, before
//! anything of the client's, so that it is delivered, or not, as held bytes are. It does not count as the client's.
//!
//! # Every ending
//!
//! *x* is the side where it happens, *y* the other one. "Reset x, y" means both sockets are closed with a reset and what is
//! held or still in kernel buffers is dropped; "close x, y" means both are closed in order, so that a side that has not
//! had its FIN gets it now.
//!
//! | state | what happens | held? | effect | reason |
//! |---|---|---|---|---|
//! | ReadingHeader | the listener does not trust the socket's address with one | – | reset client, at once | `bad_proxy_header` |
//! | ReadingHeader | malformed, or not whole [`HEADER_TIMEOUT`] after the accept | – | reset client | `bad_proxy_header` |
//! | ReadingHeader | FIN from the client after some bytes | – | reset client | `bad_proxy_header` |
//! | ReadingHeader | FIN from the client before any byte: nobody meant to talk, as a bare probe does | – | close client | `client_fin` |
//! | ReadingHeader | reset from the client | – | reset client | `client_reset` |
//! | ReadingHeader | whole, bytes behind it in the same read | yes | held for the up way; Admitting | |
//! | Admitting | a list or a limit of the listener says no | – | reset client | `denied`, `source_limit`, `source_rate` |
//! | Choosing | no backend | – | reset client, or wait (Waiting) if `no_backend` says so | `no_backend`; after a failed attempt `connect_failed` |
//! | Waiting | client's bytes | – | none: left in the kernel, as when dialing | |
//! | Waiting | FIN from the client, `abandoned = "serve"` | – | none: it may wait for an answer | |
//! | Waiting | FIN from the client, now or before, `abandoned = "drop"` | – | reset client, out of the queue: a FIN would pass for an empty answer | `client_fin` |
//! | Waiting | the client's socket is closed in both directions: no answer could reach it | – | reset client, out of the queue | `client_reset` |
//! | Waiting | reset from the client | – | reset client, out of the queue | `client_reset` |
//! | Waiting | its turn | – | choose, all backends as if untried (Choosing) | |
//! | Waiting | its pool is gone, and its listener has no other | – | reset client | `no_backend`; after a failed attempt `connect_failed` |
//! | Waiting | no place in the queue, or `no_backend` is over | – | reset client | `no_backend`; after a failed attempt `connect_failed` |
//! | Dialing | client's bytes, FIN or hang-up, whatever `abandoned` says | – | none: left in the kernel until connected, then passed on. A backend has been found, and what the client sent before it left may be all that it wanted to say | |
//! | Dialing | reset from the client, nothing of it left to read | no | reset both | `client_reset` |
//! | Dialing | reset from the client behind bytes | yes | none: the dial goes on, and x = client fails as soon as it relays | |
//! | Dialing | refused, unreachable, timed out, or no local port left for this address | – | next address, else another backend (Choosing) up to `connect_attempts`, else reset client, or wait (Waiting) | `connect_failed` |
//! | Dialing | its pool is gone, and its listener has no other | – | none: the attempt goes on; if it fails, reset client | `connect_failed` |
//! | Dialing | no descriptor left here | – | same backend again after [`STARVED_RETRY`], until its time-out | `connect_failed` |
//! | Relaying | FIN from x, way x→y Open | no | FIN to y; half Shut | |
//! | Relaying | FIN from x, way x→y Open | yes | none yet; half Draining | |
//! | Relaying | last held byte delivered, Draining | – | FIN to y; half Shut | |
//! | Relaying | second half becomes Shut | – | close both | `x_fin`, x the side whose FIN came first |
//! | Relaying | x fails, in any half state: it resets, writing to it fails, or it is found dead by keepalive or by [`crate::policy::liveness`] | any | way y→x is dropped; way x→y goes on to the end of what x sent before, its FIN included if it sent one | |
//! | Relaying, x has failed | way x→y is delivered, and y's kernel has acknowledged all of it | no | reset both | `x_reset` |
//! | Relaying, x has failed | for [`RESET_PATIENCE`] no byte is written to y, and y's kernel acknowledges none | any | reset both, at once | `x_reset` |
//! | Relaying, x has failed | y fails too | any | reset both, at once | `x_reset` |
//! | Relaying | no byte either way for `idle_timeout`, both Open | no | close both | `idle_timeout` |
//! | Relaying | the same | yes | reset both: a FIN would pass off a torso as the whole | `idle_timeout` |
//! | Relaying | no byte either way for `half_close_timeout`, one Draining or Shut | no / yes | close / reset both | `half_close_timeout` |
//! | Relaying | `max_lifetime` is over, and no byte has moved for [`QUIET`] | no | close both | `forced` |
//! | Relaying | `max_lifetime` is over, bytes move | any | none: such a moment is waited for, at most a tenth of the lifetime | |
//! | Relaying | that tenth is over too | any | reset both: a FIN would pass off a torso as the whole | `forced` |
//! | any | drain deadline, second signal | any | reset both | `shutdown` |
//! | any | an operator closes it | any | reset both | `forced` |
//!
//! A reset is passed on last, since it drops what the kernel still has to send: [`Effect::Measure`] asks for how much that
//! is, and again after a while until it is nothing. The other time-outs but `max_lifetime` do not apply meanwhile. A reset
//! never becomes a FIN: where x sent no FIN, none is sent to y.
//!
//! The session measures y's send queue from the failure of x on, also while bytes are held. A full send queue accepts
//! bytes again only after about a third of it is acknowledged, and a slow y needs longer than [`RESET_PATIENCE`] for that.
//!
//! `idle_timeout` and `half_close_timeout` count from the last byte read or written either way, or from the FIN if that
//! came later; once one side has finished, the shorter of the two holds. A FIN from y while x→y is already Shut is the
//! second half's business and finds its row above. `max_lifetime` counts from accept; the logs' list of reasons has no word
//! of its own for it, and it is the operator's will as `forced` is.
//!
//! `no_backend = "wait D"` counts from the first time that there was none, whatever was dialled since. A client that could
//! not be connected anywhere waits too, and tries every backend again at its next turn: it is not its business whether
//! the prober has found out yet.
//!
//! # Invariants
//!
//! * Every input yields exactly one effect; after `End` the session is `Closed` and answers `Wait` to everything.
//! * A lease exists exactly while a backend is being dialled or relayed to.
//! * A half never goes back. Nothing is read, written or held for one that is `Dropped`.

mod close;
mod dialing;
mod expiry;
mod failing;
mod half;
mod input;
mod proxy;
mod relaying;
pub mod saved;
mod waiting;

pub use close::{CloseReason, Record};
pub use expiry::QUIET;
pub use failing::RESET_PATIENCE;
pub use half::{Direction, HalfState, Side};
pub use input::{DialFailure, Effect, Ending, Failed, Input, Left, Moved};
pub use proxy::{Greeting, HEADER_TIMEOUT, NoHeader};

use crate::base::{Endpoint, Tick};
use crate::policy::balance::Client;
use crate::policy::limit::Reason;
use crate::pool::{Lease, PickError, Pool, Tried};
use crate::proto::proxy::Header;
use crate::telemetry::ListenerTotals;
use dialing::Dial;
use expiry::Expiry;
use relaying::{DirectionState, Relay};
use std::sync::Arc;
use std::time::Duration;

/// How long a dial waits when this process has no descriptor to spare, before it tries again.
pub const STARVED_RETRY: Duration = Duration::from_millis(50);

/// One connection.
#[derive(Debug)]
pub struct Session {
    client: Option<Endpoint>,
    /// The client's own header if it announced addresses, until a backend has been told.
    announced: Option<Box<Header>>,
    listener: Arc<ListenerTotals>,
    pool: Arc<Pool>,
    started: Tick,
    attempts: u32,
    /// What failed attempts to connect took.
    spent: Duration,
    /// When its lifetime is over.
    expires: Option<Expiry>,
    /// When waiting for a backend is over; set by the first time that there was none.
    patience: Option<Tick>,
    /// Its pool is gone and has no successor: no backend is chosen there any more.
    orphaned: bool,
    state: State,
}

#[derive(Debug)]
enum State {
    ReadingHeader { trusted: bool },
    Admitting,
    Waiting { until: Tick },
    Choosing { tried: Vec<Tried> },
    Dialing(Dial),
    Relaying(Relay),
    Closed(Record),
}

impl Session {
    /// A connection that has just been accepted. `client` is `None` for a unix peer. It goes on with [`Session::begin`].
    pub fn new(
        client: Option<Endpoint>,
        greeting: Greeting,
        listener: Arc<ListenerTotals>,
        pool: Arc<Pool>,
        now: Tick,
    ) -> Session {
        let state = match greeting {
            Greeting::None => State::Admitting,
            Greeting::ProxyHeader => State::ReadingHeader { trusted: true },
            Greeting::NotTrusted => State::ReadingHeader { trusted: false },
        };
        Session {
            client,
            announced: None,
            listener,
            pool,
            started: now,
            attempts: 0,
            spent: Duration::ZERO,
            expires: None,
            patience: None,
            orphaned: false,
            state,
        }
    }

    /// Once it relays, ends it in the first quiet moment from then on, and at that other time at the latest.
    pub fn expire_between(&mut self, from: Tick, until: Tick) {
        self.expires = Some(Expiry { from, until, look: from });
    }

    /// The first thing to do, also for one that was rebuilt.
    pub fn begin(&mut self, now: Tick) -> Effect {
        match &self.state {
            State::ReadingHeader { trusted: true } => Effect::ReadHeader,
            State::ReadingHeader { trusted: false } => self.end(Ending::Reset, CloseReason::BadProxyHeader, now),
            State::Admitting => Effect::Admit,
            State::Choosing { .. } => Effect::Pick,
            State::Waiting { .. } => Effect::Queue,
            State::Relaying(relay) => match relay.failed {
                Some(failure) => Effect::ReadOut(failure.side),
                None => Effect::Relay,
            },
            State::Dialing(_) | State::Closed(_) => Effect::Wait,
        }
    }

    /// Takes an input and answers the one thing to do.
    pub fn on(&mut self, input: Input, now: Tick) -> Effect {
        match input {
            Input::Header(header) => self.greeted(header, now),
            Input::Admitted(answer) => self.admitted(answer, now),
            Input::NoPlace => self.give_up(now),
            Input::Turn => self.turn(),
            Input::Left(how) => self.left(how, now),
            Input::Announced(length) => self.announced(length),
            Input::Picked(choice) => self.picked(choice, now),
            Input::Dialed(outcome) => self.dialed(outcome, now),
            Input::Moved(way, moved) => self.moved(way, moved, now),
            Input::Reset(side) => self.side_failed(side, now),
            Input::Unsent(bytes) => self.unsent(bytes, now),
            Input::Deadline => self.due(now),
            Input::Stop(reason) => self.end(Ending::Reset, reason, now),
        }
    }

    /// The pool has a successor. Whoever still looks or waits for a backend does so there from now on, though nobody is
    /// made to wait longer or shorter than it was promised; a relay goes on under the
    /// settings that it began with, and holds on to the old pool only if they are different ones now.
    pub fn adopt(&mut self, pool: &Arc<Pool>) {
        let goes_over = match self.state {
            State::Relaying(_) => pool.has_settings_of(&self.pool),
            State::Closed(_) => false,
            _ => true,
        };
        if goes_over {
            (self.pool, self.orphaned) = (pool.clone(), false);
        }
    }

    /// When [`Input::Deadline`] is wanted next. Bytes moved push it back without anybody being told: ask again when it
    /// has come.
    pub fn deadline(&self) -> Option<Tick> {
        match &self.state {
            State::ReadingHeader { .. } => Some(self.started + HEADER_TIMEOUT),
            State::Admitting | State::Choosing { .. } | State::Closed(_) => None,
            State::Waiting { until } => Some(*until),
            State::Dialing(dial) => Some(dial.again.unwrap_or(dial.since + self.pool.settings.connect_timeout)),
            State::Relaying(relay) => {
                let due = match &relay.failed {
                    Some(failure) => failure.deadline(),
                    None => relay.last_byte + relay.silence(&self.pool.settings).0,
                };
                Some(self.expires.map_or(due, |expiry| expiry.deadline(relay).min(due)))
            }
        }
    }

    /// The client, as far as is known; `None` if it has no address.
    pub fn client(&self) -> Option<&Endpoint> {
        self.client.as_ref()
    }

    /// Who asks, for choosing.
    pub fn policy_client(&self) -> Client {
        Client { ip: self.client.as_ref().and_then(Endpoint::ip) }
    }

    /// Backends tried in vain, while choosing.
    pub fn tried(&self) -> &[Tried] {
        if let State::Choosing { tried } = &self.state { tried } else { &[] }
    }

    /// The pool that serves this connection.
    pub fn pool(&self) -> &Arc<Pool> {
        &self.pool
    }

    /// The backend that is dialled or relayed to.
    pub fn lease(&self) -> Option<&Lease> {
        match &self.state {
            State::Dialing(dial) => Some(&dial.lease),
            State::Relaying(relay) => Some(&relay.lease),
            _ => None,
        }
    }

    /// Is a backend connected?
    pub fn is_relaying(&self) -> bool {
        matches!(self.state, State::Relaying(_))
    }

    /// Does it stand in the pool's queue?
    pub fn is_waiting(&self) -> bool {
        matches!(self.state, State::Waiting { .. })
    }

    /// How long the attempt took that worked, once relaying.
    pub fn connect_time(&self) -> Option<Duration> {
        if let State::Relaying(relay) = &self.state { Some(relay.attempt) } else { None }
    }

    /// What [`Effect::Dial`] means.
    pub fn endpoint(&self) -> Option<&Endpoint> {
        Some(self.address()?.1)
    }

    /// The same, with its number among the backend's addresses.
    pub fn address(&self) -> Option<(usize, &Endpoint)> {
        if let State::Dialing(dial) = &self.state { dial.target() } else { None }
    }

    /// Is it the last of the backend's addresses for this client? Only its failure is the backend's.
    pub fn is_at_last_address(&self) -> bool {
        matches!(&self.state, State::Dialing(dial) if dial.is_last())
    }

    /// Is a dial under way, whose outcome the driver owes?
    pub fn is_dialing(&self) -> bool {
        matches!(&self.state, State::Dialing(dial) if dial.again.is_none())
    }

    /// May this way still read from its source? `None` before and after relaying.
    pub fn half(&self, way: Direction) -> Option<HalfState> {
        let State::Relaying(relay) = &self.state else { return None };
        Some(relay.way(way).half)
    }

    /// Bytes written so far this way.
    pub fn bytes(&self, way: Direction) -> u64 {
        if let State::Relaying(relay) = &self.state { relay.way(way).bytes } else { 0 }
    }

    /// What is known of it and why it ended, once it has.
    pub fn record(&self) -> Option<&Record> {
        if let State::Closed(record) = &self.state { Some(record) } else { None }
    }

    fn picked(&mut self, choice: Result<Lease, PickError>, now: Tick) -> Effect {
        let State::Choosing { tried } = &mut self.state else { return Effect::Wait };
        match choice {
            Ok(lease) => {
                let tried = std::mem::take(tried);
                self.attempts += 1;
                let introduce = self.pool.member(lease.index() as usize).and_then(|member| member.send_proxy);
                self.state = State::Dialing(Dial::begin(lease, introduce, tried, &self.pool.settings, now));
                Effect::Dial
            }
            Err(_) => self.wait(now),
        }
    }

    fn admitted(&mut self, answer: Result<(), Reason>, now: Tick) -> Effect {
        let State::Admitting = self.state else { return Effect::Wait };
        match answer {
            Ok(()) => {
                if self.orphaned {
                    return self.give_up(now);
                }
                self.state = State::Choosing { tried: Vec::new() };
                Effect::Pick
            }
            Err(reason) => self.end(Ending::Reset, reason.into(), now),
        }
    }

    fn dialed(&mut self, outcome: Result<(), DialFailure>, now: Tick) -> Effect {
        match outcome {
            Ok(()) => self.connected(now),
            Err(DialFailure::Starved) => {
                let State::Dialing(dial) = &mut self.state else { return Effect::Wait };
                dial.again = Some(now + STARVED_RETRY);
                Effect::Wait
            }
            Err(DialFailure::Backend) => self.dial_failed(now),
        }
    }

    fn connected(&mut self, now: Tick) -> Effect {
        // The lease moves from one state to the next; in between stands a state that owns nothing.
        let dial = match std::mem::replace(&mut self.state, State::Choosing { tried: Vec::new() }) {
            State::Dialing(dial) => dial,
            other => {
                self.state = other;
                return Effect::Wait;
            }
        };
        dial.reached();
        let attempt = now - dial.since;
        self.state = State::Relaying(Relay {
            lease: dial.lease,
            attempt,
            connect: self.spent + attempt,
            up: DirectionState::NEW,
            down: DirectionState::NEW,
            first_fin: None,
            failed: None,
            last_byte: now,
            introduction: 0,
            asked: Some(now),
        });
        if let Some(version) = dial.introduce {
            return Effect::Announce(version);
        }
        self.announced = None;
        Effect::Relay
    }

    /// The backend's next address, or another backend, or the end.
    fn dial_failed(&mut self, now: Tick) -> Effect {
        let State::Dialing(dial) = &mut self.state else { return Effect::Wait };
        self.spent += now - dial.since;
        if !self.orphaned && dial.goes_on(&self.pool.settings, now) {
            return Effect::Dial;
        }
        let mut tried = std::mem::take(&mut dial.tried);
        tried.push(dial.lease.tried());
        if self.orphaned || tried.len() >= self.pool.settings.connect_attempts as usize {
            return self.wait(now);
        }
        self.state = State::Choosing { tried };
        Effect::Pick
    }

    fn due(&mut self, now: Tick) -> Effect {
        if self.deadline().is_none_or(|deadline| now < deadline) {
            return Effect::Wait;
        }
        match &mut self.state {
            State::ReadingHeader { .. } => self.end(Ending::Reset, CloseReason::BadProxyHeader, now),
            State::Admitting | State::Choosing { .. } | State::Closed(_) => Effect::Wait,
            State::Waiting { .. } => self.give_up(now),
            State::Dialing(dial) => {
                let waits = dial.again.take().is_some();
                if waits && now < dial.since + self.pool.settings.connect_timeout {
                    return Effect::Dial;
                }
                self.dial_failed(now)
            }
            State::Relaying(_) => self.relay_due(now),
        }
    }

    /// Lets go of the lease with the state it stood in.
    fn end(&mut self, ending: Ending, close: CloseReason, now: Tick) -> Effect {
        let (connect, up, down) = match &self.state {
            State::Closed(_) => return Effect::Wait,
            State::Relaying(relay) => (Some(relay.connect), relay.up.bytes, relay.down.bytes),
            _ => (None, 0, 0),
        };
        let answered = matches!(&self.state, State::Relaying(relay) if relay.asked.is_none());
        if let State::Relaying(relay) = &self.state {
            relay.ended(close, now);
        }
        self.state = State::Closed(Record {
            client: self.client.clone(),
            listener: self.listener.clone(),
            pool: self.pool.clone(),
            backend: self.lease().map(|lease| lease.backend().clone()),
            attempts: self.attempts,
            connect,
            duration: now - self.started,
            answered,
            bytes_to_backend: up,
            bytes_to_client: down,
            close,
        });
        Effect::End(ending)
    }
}
