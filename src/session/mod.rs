//! One client connection from accept to its end, as a machine without I/O: `(input, now) → effect`.
//!
//! A session owns no socket, reads no clock and moves no byte. The driver ([`crate::worker::driver`]) reports what happened.
//! The session answers with one effect; the driver carries it out and reports the outcome. An effect carries all that the
//! driver needs for it. So a test can replay any order of readiness, partial writes, FINs, resets and time-outs in memory.
//! Another process can rebuild a session from its saved form ([`saved`]).
//!
//! What counters and logs need of a connection is a [`Fact`]. The session reports its own facts to a [`Ledger`] as they happen.
//! The driver and the worker report the others.
//!
//! # Words
//!
//! *Side*: client or backend. *Direction*: up (client → backend) or down. Each direction is in a [`HalfState`], at first
//! `Open`. It is `Draining` when its source has sent its FIN and bytes are still held for the sink. It is `Shut` when the
//! FIN has been passed on. *Held*: bytes that were read from the source and that the sink did not take yet. *Preamble*: the bytes that a
//! peer expects before the client's. Today that is a PROXY header: from the client to the listener, or from tcplb to the
//! backend. *Route*: how a listener chooses a client's pool: by the client's first bytes and its address, or else its own pool. To
//! *sniff* is to look at the first bytes.
//!
//! # States
//!
//! ```text
//! ReadingPreamble (only where the listener expects a PROXY header)
//!    │
//!    ▼     Admit              Sniff (only where a route needs the first bytes)
//! Admitting ────────► Sniffing
//!    │                  │
//!    └────────┬─────────┘
//!             │ a pool chosen
//!             ▼      Pick              Dial          connected (Announce)
//!          Choosing ───────► Dialing ────────────────────────► Relaying ──► Closed(reason)
//!           ▲ ▲  │             │ │ ▲  └─► Requesting ────────────►   FIN both ways, reset,
//!     Turn  │ │  │ Queue       │ └─┘ no descriptor: again a         time-out, stop
//!           │ └──┼─────────────┘     little later; failed: its
//!         Waiting ◄ failed: another  next address
//! ```
//!
//! On entry each state asks for one thing. While it relays, a session asks for more:
//!
//! | state | effect | answer |
//! |---|---|---|
//! | ReadingPreamble | [`Effect::ReadPreamble`] | [`Input::Header`] |
//! | Admitting | [`Effect::Admit`]: the client, whose address is now known | [`Input::Admitted`]; the limit that refuses gives the reason |
//! | Sniffing | [`Effect::Sniff`]: protocols that the routes look for | [`Input::Heard`], which leads to the same effect again; then [`Input::Sniffed`] |
//! | Choosing | [`Effect::Pick`]: pool, client, backends that have failed | [`Input::Picked`] |
//! | Waiting | [`Effect::Queue`]: pool | [`Input::Queued`], or [`Input::NoPlace`] if the queue is full; then [`Input::Turn`] |
//! | Dialing | [`Effect::Dial`]: address, and the backend's warm connections | [`Input::Dialed`], or [`Input::TookWarm`] |
//! | Requesting | [`Effect::Request`]: preamble, where the backend expects one | [`Input::Replied`], or [`Input::Dialed`] with a failure |
//! | Relaying | [`Effect::Announce`]: preamble, where the backend expects one | [`Input::Announced`] |
//! | Relaying | [`Effect::Relay`]: pool | [`Input::Moved`], repeatedly |
//! | Relaying | [`Effect::Finish`]: the side that gets a FIN | none: the other direction goes on |
//! | Relaying | [`Effect::ReadOut`]: the side that has failed | [`Input::Moved`] in the direction from that side, up to its end |
//! | Relaying | [`Effect::Measure`]: the side whose send queue counts | [`Input::Unsent`] |
//! | Closed | [`Effect::End`]: how the sockets close, and the record | none |
//! | any | [`Effect::Wait`] | any input |
//!
//! Other inputs answer no effect. Where a state takes no notice of an input, the effect is [`Effect::Wait`]:
//!
//! | input | where it has an effect |
//! |---|---|
//! | [`Input::Begin`] | any state but Closed: the effect of the state, or the end if the listener trusts no header from that address |
//! | [`Input::Left`] | Waiting |
//! | [`Input::Deadline`] | any state with a [`Session::deadline`], once that has come |
//! | [`Input::Reset`] | any state but Closed |
//! | [`Input::Adopt`] | any state but Closed |
//! | [`Input::ResetBackends`] | Dialing, Relaying |
//! | [`Input::Stop`] | any state but Closed |
//!
//! An answer has an effect only in the state that asked for it.
//!
//! The pool is chosen once the client is admitted, and after its first bytes where routes need them (see `sniffing`). A new
//! snapshot before that gives the session its listener's new routes. Later, until a backend is connected, the routes there choose
//! again, by what is known of the client.
//!
//! A warm connection was established before there was a client ([`crate::warm`]). It begins to relay as one that was
//! connected at once. Its backend may have closed it just then. So its end before the first byte leads back to Dialing,
//! once: the dial that follows takes none. With a preamble there is no moment before the first byte.
//!
//! The preamble for a backend is not a state. When relaying begins, it is held for the up direction, before any byte of the
//! client. So it is delivered, or dropped, as held bytes are. Byte counters leave it out.
//!
//! # Every ending
//!
//! *x* is the side where the event happens, *y* the other one. "Reset x, y" closes both sockets with a reset, and drops the
//! bytes that are held or still in kernel buffers. "Close x, y" closes both in order: a side that has had no FIN gets one.
//!
//! | state | what happens | held? | effect | reason |
//! |---|---|---|---|---|
//! | ReadingPreamble | the listener does not accept a header from the socket's address | – | reset client, at once | `bad_proxy_header` |
//! | ReadingPreamble | malformed, or not whole [`PREAMBLE_TIMEOUT`] after the accept | – | reset client | `bad_proxy_header` |
//! | ReadingPreamble | FIN from the client after some bytes | – | reset client | `bad_proxy_header` |
//! | ReadingPreamble | FIN from the client before any byte, as a bare probe sends it | – | close client | `client_fin` |
//! | ReadingPreamble | reset from the client | – | reset client | `client_reset` |
//! | ReadingPreamble | whole, bytes behind it in the same read | yes | held for the up direction; Admitting | |
//! | Admitting | a list or a limit of the listener refuses the client | – | reset client | `denied`, `source_limit`, `source_rate` |
//! | Admitting | its listener and its pool are gone | – | reset client | `no_backend` |
//! | Sniffing, Requesting | all that happens there: the tables of `sniffing` and `requesting` | | | |
//! | Choosing | no backend | – | reset client, or wait (Waiting) if `no_backend` says so | `no_backend`; after a failed attempt `connect_failed` |
//! | Waiting | client's bytes | – | none: left in the kernel, as when dialing | |
//! | Waiting | FIN from the client, `abandoned = "serve"` | – | none: the client may wait for an answer | |
//! | Waiting | FIN from the client, now or before, `abandoned = "drop"` | – | reset client, out of the queue: a FIN would look like an empty answer | `client_fin` |
//! | Waiting | the client's socket is closed in both directions: no answer could reach it | – | reset client, out of the queue | `client_reset` |
//! | Waiting | reset from the client | – | reset client, out of the queue | `client_reset` |
//! | Waiting | its turn | – | choose again, with every backend counted as untried (Choosing) | |
//! | Waiting | a new snapshot | – | into the queue of its pool there; clients of a queue keep their order | |
//! | Waiting | its listener and its pool are gone | – | reset client | `no_backend`; after a failed attempt `connect_failed` |
//! | Waiting | no place in the queue, or the time of `no_backend` has passed | – | reset client | `no_backend`; after a failed attempt `connect_failed` |
//! | Dialing | client's bytes, FIN or hang-up, whatever `abandoned` says | – | none: left in the kernel until connected, then passed on. A client may send its whole request and its FIN at once | |
//! | Dialing | reset from the client, nothing of it left to read | no | reset both | `client_reset` |
//! | Dialing | reset from the client behind bytes | yes | none: the dial goes on, and x = client fails as soon as it relays | |
//! | Dialing | refused, unreachable, timed out, or no local port left for this address | – | next address, else another backend (Choosing) up to `connect_attempts`, else reset client, or wait (Waiting) | `connect_failed` |
//! | Dialing | the name of its backend has no address | – | another backend, as after a failure | `connect_failed` |
//! | Dialing | the connections of its backend are reset ([`Input::ResetBackends`]) | – | another backend, as after a failure; the attempt does not count as one of the backend | `connect_failed` |
//! | Dialing | its listener and its pool are gone | – | none: the attempt goes on; if it fails, reset client | `connect_failed` |
//! | Dialing | this process has no descriptor left | – | same backend again after [`STARVED_RETRY`], until its time-out | `connect_failed` |
//! | Relaying | the backend's FIN, or it fails, on a warm connection on which no byte has moved | any | the same address is dialled (Dialing); with what is held for it | |
//! | Relaying | the same, and the backend takes no connections any more | any | another backend (Choosing); with what is held for it | |
//! | Relaying | FIN from x, direction x→y Open | no | FIN to y; Shut | |
//! | Relaying | FIN from x, direction x→y Open | yes | none yet; Draining | |
//! | Relaying | last held byte delivered, Draining | – | FIN to y; Shut | |
//! | Relaying | the second direction becomes Shut | – | close both | `x_fin`, x the side whose FIN came first |
//! | Relaying | x fails, in any half state: it resets, writing to it fails, or it is found dead by keepalive or by [`crate::policy::liveness`] | any | direction y→x is dropped; direction x→y goes on to the end of what x sent before, its FIN included if it sent one | |
//! | Relaying, x has failed | direction x→y is delivered, and y's kernel has acknowledged all of it | no | reset both | `x_reset` |
//! | Relaying, x has failed | for [`RESET_PATIENCE`] no byte is written to y, and y's kernel acknowledges none | any | reset both, at once | `x_reset` |
//! | Relaying, x has failed | y fails too | any | reset both, at once | `x_reset` |
//! | Relaying | no byte in either direction for `idle_timeout`, both Open | no | close both | `idle_timeout` |
//! | Relaying | the same | yes | reset both: after a FIN, a part would look like the whole | `idle_timeout` |
//! | Relaying | no byte in either direction for `half_close_timeout`, one Draining or Shut | no / yes | close / reset both | `half_close_timeout` |
//! | Relaying | `max_lifetime` has passed, and no byte has moved for [`QUIET`] | no | close both | `forced` |
//! | Relaying | `max_lifetime` has passed, bytes move | any | none: the session waits for a quiet moment, at most a tenth of the lifetime | |
//! | Relaying | that tenth has passed too | any | reset both: after a FIN, a part would look like the whole | `forced` |
//! | Relaying | the connections of its backend are reset | any | reset both | `forced` |
//! | any | drain deadline, second signal | any | reset both | `shutdown` |
//! | any | an operator closes it | any | reset both | `forced` |
//! | before [`Input::Begin`] | the worker can't watch the client's socket | – | reset client | `forced` |
//!
//! A reset is passed on last, since it drops what the kernel still has to send. [`Effect::Measure`] asks for that amount, and
//! again after a while, until it is zero. Meanwhile, of the other time-outs only `max_lifetime` applies. A reset never
//! becomes a FIN: where x sent no FIN, none is sent to y.
//!
//! The session measures y's send queue from the failure of x on, also while bytes are held. A full send queue accepts
//! bytes again only after about a third of it is acknowledged. A slow y needs longer than [`RESET_PATIENCE`] for that.
//!
//! `idle_timeout` and `half_close_timeout` count from the last byte read or written in either direction, or from the FIN if
//! that came later. Once one side has finished, the shorter of the two holds. A FIN from y while x→y is already Shut belongs
//! to the second direction, and the row above for that direction applies. `max_lifetime` is that of the chosen pool and
//! counts from accept. Its reason is `forced`, as for other ends that the operator decides.
//!
//! `no_backend = "wait D"` counts from the first time that there was no backend, whatever was dialled since. A client whose
//! attempts have all failed waits too. At its next turn it tries every backend again: the prober may not know of the
//! failure yet.
//!
//! # Invariants
//!
//! * Every input yields exactly one effect; after `End` the session is `Closed` and answers `Wait` to everything.
//! * A lease exists exactly while a backend is being dialled or relayed to.
//! * A half state never goes back. Nothing is read, written or held for a direction that is `Dropped`.
//! * Bytes that move without a FIN or a failure never bring the deadline nearer.

mod close;
mod dialing;
mod expiry;
mod facts;
mod failing;
mod half;
mod history;
mod id;
mod input;
mod live;
mod preamble;
mod relaying;
mod requesting;
mod route;
pub mod saved;
mod sniffing;
mod state;
mod waiting;

pub use close::{CloseReason, Record, Unanswered};
pub use expiry::QUIET;
pub use facts::{Fact, Ledger};
pub use failing::RESET_PATIENCE;
pub use half::{Direction, HalfState, Side};
pub use history::{AttemptError, FAILED_ATTEMPTS, FailedAttempt, History, Interval};
pub use id::{ConnectionId, ConnectionIds};
pub use input::{DialFailure, Effect, Ending, Failed, Input, Left, Moved, Stage};
pub use live::Live;
pub use preamble::{BackendPreamble, NoHeader, PREAMBLE_TIMEOUT, Preamble};
pub use route::Route;
pub use sniffing::{First, NoAnswer};

use crate::base::{Endpoint, Tick};
use crate::policy::balance::Client;
use crate::policy::limit::Reason;
use crate::pool::{Backend, Listener};
use crate::proto::proxy::Header;
use crate::telemetry::ListenerTotals;
use expiry::Expiry;
use relaying::Relay;
use state::{Next, State};
use std::sync::Arc;
use std::time::Duration;

/// How long a dial waits when this process has no descriptor to spare, before it tries again.
pub const STARVED_RETRY: Duration = Duration::from_millis(50);

/// One connection.
#[derive(Debug)]
pub struct Session {
    id: ConnectionId,
    client: Option<Endpoint>,
    /// The client's own header if it announced addresses, until the backend has it.
    announced: Option<Box<Header>>,
    listener: Arc<ListenerTotals>,
    route: Route,
    /// Which route it takes and why, once its listener has one for it or looks at first bytes.
    first: Option<Box<First>>,
    started: Tick,
    attempts: u32,
    /// The port that the client connected to; 0: none.
    port: u16,
    /// By how much its lifetime is shortened, in 65536ths of a tenth of it.
    jitter: u16,
    /// When its lifetime ends.
    expires: Option<Box<Expiry>>,
    /// Its listener and its pool are gone: no backend is chosen any more.
    orphaned: bool,
    history: Option<Box<History>>,
    state: State,
}

/// A session is the greater part of what an idle connection takes.
const _: () = assert!(size_of::<Session>() <= 296);

impl Session {
    /// A connection that `listener` has just accepted. `client` is `None` for a unix peer. `jitter` is random: clients that
    /// connected together (all of them, after a restart) must not end and connect again together. [`Input::Begin`] comes next.
    pub fn new(
        id: ConnectionId,
        client: Option<Endpoint>,
        preamble: Preamble,
        listener: Arc<Listener>,
        jitter: u16,
        now: Tick,
    ) -> Session {
        let state = match preamble {
            Preamble::None => State::Admitting,
            Preamble::ProxyHeader => State::ReadingPreamble { trusted: true },
            Preamble::NotTrusted => State::ReadingPreamble { trusted: false },
        };
        Session {
            id,
            client,
            announced: None,
            listener: listener.totals.clone(),
            route: Route::Listener(listener),
            first: None,
            started: now,
            attempts: 0,
            port: 0,
            jitter,
            expires: None,
            orphaned: false,
            history: None,
            state,
        }
    }

    /// Handles an input; the one effect that follows. Facts go to `ledger`.
    pub fn handle(&mut self, input: Input<'_>, now: Tick, ledger: &mut dyn Ledger) -> Effect<'_> {
        match self.apply(input, now, ledger) {
            Next::Wait => Effect::Wait,
            Next::Enter => self.effect_of_state(),
            Next::Announce(version) => Effect::Announce(self.backend_preamble(version)),
            Next::Finish(side) => Effect::Finish(side),
            Next::ReadOut(side) => Effect::ReadOut(side),
            Next::Measure(side) => Effect::Measure(side),
        }
    }

    fn apply(&mut self, input: Input<'_>, now: Tick, ledger: &mut dyn Ledger) -> Next {
        match input {
            Input::Begin => self.start(now),
            Input::Moved(direction, moved) => self.bytes_moved(direction, moved, now, ledger),
            Input::Header(header) => self.header_read(header, now),
            Input::Admitted(answer) => self.admission_decided(answer, now, ledger),
            Input::Heard => self.bytes_heard(),
            Input::Sniffed(answer) => self.sniffed(answer, now, ledger),
            Input::Queued { ahead, left } => self.queued(ahead, left, now),
            Input::NoPlace => self.queue_full(now),
            Input::Turn => self.turn_came(now),
            Input::Left(how) => self.client_left(how, now),
            Input::Announced(length) => self.preamble_held(length),
            Input::Picked(choice) => self.backend_picked(choice, now, ledger),
            Input::Dialed(outcome) => self.dial_ended(outcome, now, ledger),
            Input::TookWarm => self.took_warm(now, ledger),
            Input::Replied(reply) => self.replied(reply, now, ledger),
            Input::Reset(side) => self.side_reset(side, now),
            Input::Unsent(bytes) => self.queue_measured(bytes, now),
            Input::Deadline => self.deadline_reached(now, ledger),
            Input::Adopt(snapshot) => self.snapshot_adopted(snapshot, now),
            Input::ResetBackends { order, reason } => self.backends_reset(order, reason, now),
            Input::Stop(reason) => self.end(Ending::Reset, reason, now),
        }
    }

    fn start(&mut self, now: Tick) -> Next {
        match self.state {
            State::ReadingPreamble { trusted: false } => self.end(Ending::Reset, CloseReason::BadProxyHeader, now),
            State::Closed { .. } => Next::Wait,
            _ => Next::Enter,
        }
    }

    /// The backend that is dialled or relayed to, for byte counters.
    pub fn backend(&self) -> Option<&Arc<Backend>> {
        match &self.state {
            State::Dialing(dial) => Some(dial.lease.backend()),
            State::Relaying(relay) => Some(relay.lease.backend()),
            _ => None,
        }
    }

    /// Bytes written so far in this direction, without the preamble: for counters, and for the checks of a silent peer.
    pub fn bytes(&self, direction: Direction) -> u64 {
        if let State::Relaying(relay) = &self.state { relay.direction(direction).bytes } else { 0 }
    }

    fn policy_client(&self) -> Client {
        Client { ip: self.client.as_ref().and_then(Endpoint::ip) }
    }

    fn admission_decided(&mut self, answer: Result<(), Reason>, now: Tick, ledger: &mut dyn Ledger) -> Next {
        let State::Admitting = self.state else { return Next::Wait };
        match answer {
            Ok(()) => self.sniff_or_choose(now, ledger),
            Err(reason) => self.end(Ending::Reset, reason.into(), now),
        }
    }

    fn deadline_reached(&mut self, now: Tick, ledger: &mut dyn Ledger) -> Next {
        if self.deadline().is_none_or(|deadline| now < deadline) {
            return Next::Wait;
        }
        match &mut self.state {
            State::ReadingPreamble { .. } => self.end(Ending::Reset, CloseReason::BadProxyHeader, now),
            State::Admitting | State::Choosing { .. } | State::Closed { .. } => Next::Wait,
            State::Sniffing(_) => self.sniff_deadline_reached(now, ledger),
            State::Waiting { .. } => self.give_up(now),
            State::Dialing(_) => self.dial_deadline_reached(now, ledger),
            State::Relaying(_) => self.relay_deadline_reached(now),
        }
    }

    /// Releases the lease with the state that held it.
    fn end(&mut self, ending: Ending, close: CloseReason, now: Tick) -> Next {
        if let State::Closed { .. } = self.state {
            return Next::Wait;
        }
        if let State::Waiting { since, .. } = self.state {
            self.history().waited += now - since;
        }
        let (history, first) = (self.history.take(), self.first.take());
        let relay = if let State::Relaying(relay) = &self.state { Some(relay) } else { None };
        let record = Record {
            id: self.id,
            client: self.client.clone(),
            listener: self.listener.clone(),
            pool: self.route.pool().clone(),
            first,
            backend: self.backend().cloned(),
            backend_port: self.backend_port(),
            attempts: self.attempts,
            connect: relay.map(|relay| relay.connect),
            duration: now - self.started,
            answered: relay.is_some_and(|relay| relay.asked.is_none()),
            unanswered: relay.and_then(|relay| relay.unanswered(close, now)),
            bytes_to_backend: self.bytes(Direction::Up),
            bytes_to_client: self.bytes(Direction::Down),
            close,
            stage: self.stage(),
            first_fin: relay.and_then(|relay| relay.first_fin),
            history,
        };
        self.state = State::Closed { ending, record };
        Next::Enter
    }
}
