//! Carries out the effects of sessions: the only place that dials, relays, arms timers and closes.
//!
//! The event loop routes events here; a [`Session`] answers each with one effect; [`Driver::step`] carries it out and feeds
//! the outcome back until the session waits, and then brings timer and run queue in line ([`Driver::reconcile`]). No path
//! leads around it. The driver is generic over [`Net`], so that the simulation runs this very code over sockets made of memory.
//!
//! # Invariants
//!
//! * An event reaches only the socket that it was announced for. An event of a closed socket finds nothing, whether its
//!   connection has ended or is connected to another backend.
//! * After every step the connection's timer stands at or before its deadline. It is not moved when bytes push the
//!   deadline back: it fires, finds the deadline in the future, and is set again. So relaying sets no timers.
//! * A connection is in the run queue at most once, and exactly while it wants a turn.
//! * A connection is in a queue of [`super::queue`] exactly while its session waits, and not while it has its turn.
//! * Byte counters reach the shared totals at [`Driver::flush`] and at the end, not per chunk.

mod liveness;
mod ports;
mod preamble;
mod resets;
mod sockets;
mod waiting;

pub use ports::{Accepted, Dialed, Event, Net};

use super::queue::{Position, Queues};
use super::token::{Serials, SocketId, Token};
use crate::admission::AdmissionGuard;
use crate::base::Tick;
use crate::base::slots::{Key, Slots};
use crate::base::wheel::Wheel;
use crate::policy::liveness::Timing;
use crate::pool::{BackendId, PickError, Snapshot};
use crate::relay;
use crate::session::{
    CloseReason, ConnectionIds, Direction, Effect, Ending, Fact, Failed, Input, Ledger, Moved, Record, Session, Side,
    Stage,
};
use sockets::{Sockets, dialed};
use std::collections::{HashSet, VecDeque};
use std::time::Duration;

/// When keepalive is turned on for a backend's socket. It costs five system calls, which a shorter connection saves. Clients'
/// sockets inherit it from their listener at no cost. A short `dead_peer_timeout` needs it sooner.
const KEEP_ALIVE_AFTER: Duration = Duration::from_secs(5);

struct Connection<S, P> {
    session: Session,
    sockets: Sockets<S, P>,
    /// When to turn keepalive on for the backend's socket, until that is done.
    keep_alive_at: Option<Tick>,
    /// When the peers' acknowledgements are checked next, if something was sent to them.
    look_at: Option<Tick>,
    /// What has been added to the backend's totals.
    flushed: Flushed,
    /// In the run queue.
    queued: bool,
    /// In the list of those whose counters moved.
    dirty: bool,
    guard: AdmissionGuard,
}

/// Bytes of a connection that the totals have.
#[derive(Clone, Copy, Default)]
struct Flushed {
    up: u64,
    down: u64,
}

/// The part of an effect that is carried out once the session is no longer borrowed.
enum Then {
    Nothing,
    Relay,
    Close(Ending),
}

/// All connections of one worker.
pub struct Driver<N: Net, L: Ledger> {
    /// The system.
    pub net: N,
    /// Takes the facts of connections.
    pub ledger: L,
    connections: Slots<Connection<N::Socket, N::Pipe>>,
    wheel: Wheel,
    runnable: VecDeque<Key>,
    dirty: Vec<Key>,
    queues: Queues,
    /// A connection that waited before, and where it goes if it waits again.
    returning: Option<(Key, Position)>,
    fired: Vec<u32>,
    serials: Serials,
    ids: ConnectionIds,
    shared: relay::RelayResources<N::Pipe>,
    random: fastrand::Rng,
    now: Tick,
}

impl<N: Net, L: Ledger> Driver<N, L> {
    /// No connections yet. `seed` decides every random choice.
    pub fn new(
        net: N,
        ledger: L,
        shared: relay::RelayResources<N::Pipe>,
        ids: ConnectionIds,
        seed: u64,
        now: Tick,
    ) -> Driver<N, L> {
        Driver {
            net,
            ledger,
            connections: Slots::default(),
            wheel: Wheel::new(now),
            runnable: VecDeque::new(),
            dirty: Vec::new(),
            queues: Queues::default(),
            returning: None,
            fired: Vec::new(),
            serials: Serials::default(),
            ids,
            shared,
            random: fastrand::Rng::with_seed(seed),
            now,
        }
    }

    /// Time as of now, by the clock that all workers share; to be set before a batch of events.
    pub fn set_now(&mut self, now: Tick) {
        self.now = now;
    }

    /// How many connections there are.
    pub fn len(&self) -> usize {
        self.connections.len()
    }

    /// None at all?
    pub fn is_empty(&self) -> bool {
        self.connections.is_empty()
    }

    /// How long poll may sleep.
    pub fn sleep(&self) -> Option<Duration> {
        if !self.runnable.is_empty() {
            return Some(Duration::ZERO);
        }
        let look = self.queues.next_look().map(|look| look - self.now);
        [self.wheel.sleep(self.now), look].into_iter().flatten().min()
    }

    /// Serves an accepted client.
    pub fn serve(&mut self, accepted: Accepted<N::Socket>) {
        if let Some(key) = self.insert(accepted) {
            self.begin(key);
        }
    }

    /// Serves a client that another worker accepted, whose snapshot may be an older or a newer one than this.
    pub fn serve_handed(&mut self, accepted: Accepted<N::Socket>, snapshot: &Snapshot) {
        let Some(key) = self.insert(accepted) else { return };
        if let Some(connection) = self.connections.get_mut(key) {
            connection.session.follow(snapshot);
            self.begin(key);
        }
    }

    /// Ends the connection of an accepted client that is no longer served.
    pub fn turn_away(&mut self, accepted: Accepted<N::Socket>, reason: CloseReason) {
        if let Some(key) = self.insert(accepted) {
            self.step(key, Input::Stop(reason));
        }
    }

    fn insert(&mut self, accepted: Accepted<N::Socket>) -> Option<Key> {
        let Accepted { socket, client, unix, preamble, listener, guard } = accepted;
        let session = Session::new(self.ids.give(), client, preamble, listener, self.random.u16(..), self.now);
        let sockets = Sockets::new(socket, unix, self.serials.give());
        self.connections.insert_with(|_| Connection {
            session,
            sockets,
            keep_alive_at: None,
            look_at: None,
            flushed: Flushed::default(),
            queued: false,
            dirty: false,
            guard,
        })
    }

    fn begin(&mut self, key: Key) {
        let Some(connection) = self.connections.get(key) else { return };
        let client = &connection.sockets.client;
        let input = match self.net.adopt(&client.end.socket, Token::Socket(client.id(Side::Client, key))) {
            Ok(()) => Input::Begin,
            Err(error) => {
                // epoll_ctl fails without memory or watches (/proc/sys/fs/epoll): this client can't be served.
                log::error!("can't watch a client's socket: {error}");
                Input::Stop(CloseReason::Forced)
            }
        };
        self.step(key, input);
    }

    /// Takes an event for a socket, if it is still there.
    pub fn event(&mut self, socket: SocketId, event: Event) {
        let Some(key) = self.connections.key_of(socket.slot) else { return };
        let Some(Connection { session, sockets, .. }) = self.connections.get_mut(key) else { return };
        if !sockets.announced(socket, &event) {
            return;
        }
        match session.stage() {
            Stage::Dialing if socket.side == Side::Backend => {
                if event.writable || event.error {
                    let outcome = sockets.outcome_of_dial(&event, &mut self.net);
                    self.step(key, dialed(outcome));
                }
            }
            _ if event.error => self.failed(key, socket.side),
            Stage::Preamble => self.read_preamble(key),
            Stage::Waiting => {
                if let Some(left) = sockets.left {
                    self.step(key, Input::Left(left));
                }
            }
            Stage::Relaying if sockets.up.is_bulk() || sockets.down.is_bulk() => {
                // Small messages of this batch go first: they are the most sensitive to latency.
                sockets.wants_turn = true;
                self.reconcile(key);
            }
            Stage::Relaying => self.relay(key),
            Stage::Admitting | Stage::Choosing | Stage::Dialing | Stage::Closed => {}
        }
    }

    /// Gives a turn to every connection that carries bulk or had to stop at the end of its last turn.
    pub fn run(&mut self) {
        for _ in 0..self.runnable.len() {
            let Some(key) = self.runnable.pop_front() else { return };
            if let Some(connection) = self.connections.get_mut(key) {
                (connection.queued, connection.sockets.wants_turn) = (false, false);
                self.relay(key);
            }
        }
    }

    /// Takes the deadlines that have come, and serves clients that wait for a backend.
    pub fn expire(&mut self) {
        let mut fired = std::mem::take(&mut self.fired);
        self.wheel.advance(self.now, &mut fired);
        for slot in fired.drain(..) {
            let Some(key) = self.connections.key_of(slot) else { continue };
            let Some(connection) = self.connections.get_mut(key) else { continue };
            if connection.keep_alive_at.is_some_and(|at| at <= self.now) {
                connection.keep_alive_at = None;
                if let Some(backend) = &connection.sockets.backend {
                    self.net.keep_alive(&backend.end.socket);
                }
            }
            self.look(key);
            self.step(key, Input::Deadline);
        }
        self.fired = fired;
        self.serve_queues();
    }

    /// Adds the bytes moved since the last time to the backends' totals. To be called at least once a second; costs
    /// nothing for connections that were silent.
    pub fn flush(&mut self) {
        // The list holds one entry for each connection that moved a byte since the last call, ended ones included.
        let mut dirty = std::mem::take(&mut self.dirty);
        for key in dirty.drain(..) {
            let Some(connection) = self.connections.get_mut(key) else { continue };
            connection.dirty = false;
            let Connection { session, flushed, .. } = connection;
            let (up, down) = (session.bytes(Direction::Up), session.bytes(Direction::Down));
            if let Some(backend) = session.backend() {
                let (to_backend, to_client) = flushed.add(up, down);
                self.ledger.record(Fact::Relayed { backend, to_backend, to_client }, self.now);
            }
            self.watch(key);
        }
        self.dirty = dirty;
    }

    /// Has a byte moved since the last flush?
    pub fn has_unflushed(&self) -> bool {
        !self.dirty.is_empty()
    }

    /// Ends every connection, at once.
    pub fn stop_all(&mut self, reason: CloseReason) {
        for key in self.connections.keys() {
            self.step(key, Input::Stop(reason));
        }
    }

    /// Resets the connections of these backends, for this reason. One that is still being dialled goes to another backend:
    /// its client has lost no byte yet.
    pub fn reset(&mut self, backends: &[BackendId], reason: CloseReason) {
        // A reload may remove tens of thousands of backends at once.
        let backends = &HashSet::from_iter(backends.iter().copied());
        for key in self.connections.keys() {
            self.step(key, Input::Remove { backends, reason });
        }
    }

    /// Gives a session an input and carries out what it answers, until it waits or is over; then brings what depends on it
    /// in line.
    fn step(&mut self, key: Key, input: Input<'_>) {
        let Some(Connection { session, sockets, guard, flushed, keep_alive_at, look_at, .. }) =
            self.connections.get_mut(key)
        else {
            return;
        };
        let ledger = &mut self.ledger;
        // Bytes only push the deadline back.
        let may_rest = matches!(&input, Input::Moved(_, moved) if moved.goes_on()) && !sockets.wants_turn;
        let mut effect = session.on(input, self.now, ledger);
        if may_rest && matches!(effect, Effect::Wait) {
            debug_assert!(self.is_armed(key), "bytes brought the deadline nearer");
            return;
        }
        let then = loop {
            if effect.leaves_attempt() {
                sockets.backend = None;
            }
            let answer = match effect {
                Effect::Wait => None,
                Effect::ReadPreamble => sockets.read_preamble(&mut self.net, &mut self.shared),
                Effect::Admit(client) => Some(Input::Admitted(guard.admit(client.ip, self.now))),
                Effect::Pick { pool, client, tried } => {
                    let has_turn = self.returning == Some((key, Position::Front));
                    let others_wait = !has_turn && self.queues.is_waited_for(pool);
                    Some(Input::Picked(if others_wait {
                        Err(PickError::AllFull)
                    } else {
                        pool.pick(client, tried, self.now, &mut self.random)
                    }))
                }
                Effect::Queue { pool } => {
                    let returning = self.returning.filter(|(returning, _)| *returning == key);
                    let position = returning.map_or(Position::Back, |(_, position)| position);
                    let has_place = self.queues.join(pool, key, position, self.now);
                    // A client that has reset has hung up, too.
                    if has_place { sockets.left.map(Input::Left) } else { Some(Input::NoPlace) }
                }
                Effect::Dial { to } => {
                    let id = SocketId { side: Side::Backend, slot: key.slot, serial: self.serials.give() };
                    sockets.dial(to, id, &mut self.net)
                }
                Effect::Announce(preamble) => Some(sockets.hold_preamble(&preamble, &mut self.net, &mut self.shared)),
                Effect::Relay { pool } => {
                    self.queues.hint(pool);
                    *keep_alive_at = Some(self.now + KEEP_ALIVE_AFTER.min(self.net.dead_peer_timeout() / 2));
                    break Then::Relay;
                }
                Effect::Finish(side) => {
                    if let Some(attached) = sockets.of(side) {
                        self.net.finish(&attached.end.socket);
                        attached.watch.sent_fin();
                    }
                    let look = || self.now + Timing::within(self.net.dead_peer_timeout()).look;
                    look_at.get_or_insert_with(look);
                    None
                }
                Effect::ReadOut(side) => {
                    sockets.read_out(side, &mut self.shared);
                    None
                }
                Effect::Measure(side) => Some(Input::Unsent(sockets.unsent(side, &mut self.net))),
                Effect::End { ending, record } => {
                    flushed.rest(record, ledger, self.now);
                    ledger.record(Fact::Closed(record), self.now);
                    self.queues.leave(&record.pool, key);
                    self.queues.hint(&record.pool);
                    break Then::Close(ending);
                }
            };
            let Some(answer) = answer else { break Then::Nothing };
            effect = session.on(answer, self.now, ledger);
        };
        match then {
            Then::Close(ending) => self.close(key, ending),
            Then::Nothing => self.reconcile(key),
            Then::Relay => {
                self.reconcile(key);
                self.report_failures(key);
                self.relay(key);
            }
        }
    }

    /// Sets the timer at or before the deadline, and puts a connection that wants a turn into the run queue. [`Driver::step`]
    /// does the rest: poll watches each socket from its creation to its close, and a connection leaves its queue with its turn
    /// or its end.
    fn reconcile(&mut self, key: Key) {
        let Some(connection) = self.connections.get_mut(key) else { return };
        if connection.sockets.wants_turn && !connection.queued {
            connection.queued = true;
            self.runnable.push_back(key);
        }
        if let Some(deadline) = connection.deadline()
            && !self.is_armed(key)
        {
            self.wheel.set(key.slot, deadline);
        }
    }

    /// Does the timer stand at or before the deadline?
    fn is_armed(&self, key: Key) -> bool {
        let deadline = self.connections.get(key).and_then(Connection::deadline);
        deadline.is_none_or(|deadline| self.wheel.deadline(key.slot).is_some_and(|set| set <= deadline))
    }

    fn read_preamble(&mut self, key: Key) {
        let Some(connection) = self.connections.get_mut(key) else { return };
        if let Some(input) = connection.sockets.read_preamble(&mut self.net, &mut self.shared) {
            self.step(key, input);
        }
    }

    /// Moves bytes in both directions for one turn.
    fn relay(&mut self, key: Key) {
        for direction in Direction::BOTH {
            let Some(connection) = self.connections.get_mut(key) else { return };
            let Some((buffer, source, sink)) = connection.sockets.path(direction) else { return };
            if !buffer.can_move(source.ready, sink.ready) {
                continue;
            }
            let report = relay::pump(buffer, &mut self.net, source, sink, &mut self.shared);
            let moved = Moved {
                read: report.read,
                written: report.written,
                held: buffer.holds(),
                fin: report.fin,
                failed: report.failed.map(|failed| match failed {
                    relay::RelayError::Source(_) => Failed::Source,
                    relay::RelayError::Sink(_) => Failed::Sink,
                }),
            };
            connection.sockets.wants_turn |= report.again;
            if report.written > 0 && !connection.dirty {
                connection.dirty = true;
                self.dirty.push(key);
            }
            self.step(key, Input::Moved(direction, moved));
        }
    }

    /// Closes both sockets, and forgets the connection.
    fn close(&mut self, key: Key, ending: Ending) {
        self.wheel.cancel(key.slot);
        let Some(Connection { mut sockets, guard, .. }) = self.connections.remove(key) else { return };
        // Before the sockets close: a client that sees the end may connect again at once, and must not be counted twice.
        drop(guard);
        sockets.up.discard(&mut self.shared);
        sockets.down.discard(&mut self.shared);
        match ending {
            Ending::Fin => sockets.unwatch(&mut self.net),
            Ending::Reset => {
                let backend = sockets.backend.map(|backend| backend.end.socket);
                [Some(sockets.client.end.socket), backend]
                    .into_iter()
                    .flatten()
                    .for_each(|socket| self.net.reset(socket));
            }
        }
    }
}

impl<S, P> Connection<S, P> {
    /// When its timer has to fire at the latest.
    fn deadline(&self) -> Option<Tick> {
        [self.session.deadline(), self.keep_alive_at, self.look_at].into_iter().flatten().min()
    }
}

impl Flushed {
    /// Moves on to these totals; returns what they have more than the last ones.
    fn add(&mut self, up: u64, down: u64) -> (u64, u64) {
        let more = (up - self.up, down - self.down);
        *self = Flushed { up, down };
        more
    }

    /// Records what is not flushed at the end.
    fn rest(&mut self, record: &Record, ledger: &mut dyn Ledger, now: Tick) {
        if let Some(backend) = &record.backend {
            let (to_backend, to_client) = self.add(record.bytes_to_backend, record.bytes_to_client);
            ledger.record(Fact::Relayed { backend, to_backend, to_client }, now);
        }
    }
}
