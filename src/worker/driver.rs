//! Applies what sessions decide: the only place that dials, relays, arms timers and closes.
//!
//! The event loop routes events here; a [`Session`] answers each with one effect; this module carries it out and feeds
//! the outcome back until the session waits. It is generic over [`Net`], so that the simulation runs this very code over
//! sockets made of memory.
//!
//! # Invariants
//!
//! * An event reaches only the socket that it was announced for. One of a socket that is closed finds nothing, be its
//!   connection over or connected to another backend by now.
//! * After every step the connection's timer stands at or before its deadline. It is not moved when bytes push the
//!   deadline back: it fires, finds that it is not time yet, and is set anew. So relaying sets no timers.
//! * A connection is in the run queue at most once, and only while both ends of some way are ready.
//! * A connection stands in a queue of [`super::queue`] exactly while its session waits, and not while it has its turn.
//! * Byte counters reach the shared totals at [`Driver::flush`] and at the end, not per chunk.

mod failures;
mod liveness;
mod ports;
mod proxy;
mod resets;
mod waiting;

pub use ports::{Accepted, Event, Net, Observer};

use super::queue::Queues;
use super::token::{Serial, Serials, SocketId, Token};
use crate::admission::AdmissionGuard;
use crate::base::Tick;
use crate::base::slots::{Key, Slots};
use crate::base::wheel::Wheel;
use crate::policy::health::ConnectFailure;
use crate::pool::{Backend, BackendId};
use crate::relay::{self, End, Ready, RelayBuffer};
use crate::session::{
    CloseReason, DialFailure, Direction, Effect, Ending, Failed, HalfState, Input, Left, Moved, Session, Side,
};
use failures::note_failure;
use liveness::Watch;
use std::collections::{HashSet, VecDeque};
use std::io;
use std::sync::Arc;
use std::time::Duration;

/// Keepalive on a backend's socket costs five system calls; a connection that is over before this goes without. Clients'
/// sockets inherit it from their listener for nothing. A short `dead_peer_timeout` needs it sooner.
const KEEP_ALIVE_AFTER: Duration = Duration::from_secs(5);

struct Connection<S, P> {
    session: Session,
    client: End<S>,
    /// Exists while a backend is dialled or relayed to.
    backend: Option<End<S>>,
    /// Which sockets these two are: events of any other one do not concern this connection.
    client_serial: Serial,
    backend_serial: Option<Serial>,
    up: RelayBuffer<P>,
    down: RelayBuffer<P>,
    /// When the backend's socket is to be looked after by keepalive, until it is.
    keep_alive_at: Option<Tick>,
    /// When the peers' acknowledgements are looked at next, if something was sent to them.
    look_at: Option<Tick>,
    /// Of the client's and the backend's acknowledgements.
    watches: (Watch, Watch),
    /// What has been added to the backend's totals.
    flushed: (u64, u64),
    /// How its client left, as far as events said.
    left: Option<Left>,
    /// In the run queue.
    queued: bool,
    /// In the list of those whose counters moved.
    dirty: bool,
    guard: AdmissionGuard,
}

/// All connections of one worker.
pub struct Driver<N: Net, O: Observer> {
    /// The system.
    pub net: N,
    /// Who is told.
    pub observer: O,
    connections: Slots<Connection<N::Socket, N::Pipe>>,
    wheel: Wheel,
    runnable: VecDeque<Key>,
    dirty: Vec<Key>,
    queues: Queues,
    /// Who has its turn.
    served: Option<Key>,
    fired: Vec<u32>,
    serials: Serials,
    shared: relay::RelayResources<N::Pipe>,
    random: fastrand::Rng,
    now: Tick,
}

impl<N: Net, O: Observer> Driver<N, O> {
    /// No connections yet. `seed` decides every random choice.
    pub fn new(net: N, observer: O, shared: relay::RelayResources<N::Pipe>, seed: u64, now: Tick) -> Driver<N, O> {
        Driver {
            net,
            observer,
            connections: Slots::default(),
            wheel: Wheel::new(now),
            runnable: VecDeque::new(),
            dirty: Vec::new(),
            queues: Queues::default(),
            served: None,
            fired: Vec::new(),
            serials: Serials::default(),
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
        let Some((key, id)) = self.insert(accepted) else { return };
        let Some(connection) = self.connections.get_mut(key) else { return };
        match self.net.adopt(&connection.client.socket, Token::Socket(id)) {
            Ok(()) => {
                let effect = connection.session.begin(self.now);
                self.carry_out(key, effect);
            }
            Err(error) => {
                // epoll_ctl fails for want of memory or watches (/proc/sys/fs/epoll): this client can't be served.
                log::error!("can't watch a client's socket: {error}");
                self.feed(key, Input::Stop(CloseReason::Forced));
            }
        }
    }

    /// Ends the connection of an accepted client that is not served any more.
    pub fn turn_away(&mut self, accepted: Accepted<N::Socket>, reason: CloseReason) {
        if let Some((key, _)) = self.insert(accepted) {
            self.feed(key, Input::Stop(reason));
        }
    }

    fn insert(&mut self, accepted: Accepted<N::Socket>) -> Option<(Key, SocketId)> {
        let Accepted { socket, client, unix, greeting, pool, guard } = accepted;
        let lifetime = pool.settings.max_lifetime;
        let mut session = Session::new(client, greeting, guard.listener().totals.clone(), pool, self.now);
        if let Some(lifetime) = lifetime {
            // Clients that came together (all of them, after a restart) must not leave and come back together.
            let (from, grace) = (self.now + (lifetime - lifetime.mul_f64(self.random.f64() / 10.0)), lifetime / 10);
            session.expire_between(from, from + grace);
        }
        let ready = Ready { writable: true, short_read_inconclusive: unix, ..Ready::default() };
        let serial = self.serials.give();
        let key = self.connections.insert_with(|_| Connection {
            session,
            client: End { socket, ready },
            backend: None,
            client_serial: serial,
            backend_serial: None,
            up: RelayBuffer::default(),
            down: RelayBuffer::default(),
            keep_alive_at: None,
            look_at: None,
            watches: Default::default(),
            flushed: (0, 0),
            left: None,
            queued: false,
            dirty: false,
            guard,
        });
        let key = key?;
        Some((key, SocketId { side: Side::Client, slot: key.slot, serial }))
    }

    /// Takes an event for a socket, if it is still there.
    pub fn event(&mut self, socket: SocketId, event: Event) {
        let Some(key) = self.connections.key_of(socket.slot) else { return };
        let Some(connection) = self.connections.get_mut(key) else { return };
        let side = socket.side;
        let dialing = side == Side::Backend && connection.session.is_dialing();
        if connection.end_of(socket).is_none() {
            return;
        }
        if side == Side::Client && (event.finished || event.hung_up) {
            let left = if event.hung_up { Left::Gone } else { Left::Finished };
            connection.left = connection.left.max(Some(left));
        }
        let Some(end) = connection.end_of(socket) else { return };
        end.ready.readable |= event.readable;
        end.ready.writable |= event.writable;
        end.ready.short_read_inconclusive |= event.urgent;
        end.ready.finished |= event.finished;
        if dialing {
            if event.writable || event.error {
                let outcome = self.outcome_of_dial(key, event);
                let input = self.dialed(key, outcome);
                self.feed(key, input);
            }
        } else if event.error {
            self.failed(key, side);
        } else if connection.session.is_waiting() {
            self.report_left(key);
        } else if connection.session.reads_header() {
            self.read_header(key);
        } else if connection.up.is_bulk() || connection.down.is_bulk() {
            // Small messages of this batch go first: they are what somebody waits for.
            self.enqueue(key);
        } else {
            self.relay(key);
        }
    }

    /// Gives a turn to every connection that carries bulk or had to stop at the end of its last turn.
    pub fn run(&mut self) {
        for _ in 0..self.runnable.len() {
            let Some(key) = self.runnable.pop_front() else { return };
            if let Some(connection) = self.connections.get_mut(key) {
                connection.queued = false;
                self.relay(key);
            }
        }
    }

    /// Takes the deadlines that have come, and serves those who wait for a backend.
    pub fn expire(&mut self) {
        let mut fired = std::mem::take(&mut self.fired);
        self.wheel.advance(self.now, &mut fired);
        for slot in fired.drain(..) {
            let Some(key) = self.connections.key_of(slot) else { continue };
            let Some(connection) = self.connections.get_mut(key) else { continue };
            if connection.keep_alive_at.is_some_and(|at| at <= self.now) {
                connection.keep_alive_at = None;
                if let Some(end) = &connection.backend {
                    self.net.keep_alive(&end.socket);
                }
            }
            self.look(key);
            let Some(connection) = self.connections.get(key) else { continue };
            let session = &connection.session;
            if session.is_dialing() && session.deadline().is_some_and(|deadline| deadline <= self.now) {
                let failure = ConnectFailure::TimedOut(session.pool().settings.connect_timeout);
                note_failure(&mut self.observer, session, failure, self.now);
            }
            self.feed(key, Input::Deadline);
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
            if let Some(connection) = self.connections.get_mut(key) {
                connection.dirty = false;
                connection.flush();
                self.watch(key);
            }
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
            self.feed(key, Input::Stop(reason));
        }
    }

    /// Resets the connections of these backends, for this reason. One that is just being dialled goes to another
    /// backend: its client has lost nothing yet.
    pub fn reset(&mut self, backends: &[BackendId], reason: CloseReason) {
        // A reload may take out tens of thousands of backends at once.
        let backends: HashSet<BackendId> = backends.iter().copied().collect();
        for key in self.connections.keys() {
            // Once for each address that is left to dial, then once more if it is connected.
            while let Some(connection) = self.connections.get(key)
                && let Some(lease) = connection.session.lease()
                && backends.contains(&lease.backend().id)
            {
                let relaying = connection.session.half(Direction::Up).is_some();
                let failed = Input::Dialed(Err(DialFailure::Backend));
                self.feed(key, if relaying { Input::Stop(reason) } else { failed });
            }
        }
    }

    fn feed(&mut self, key: Key, input: Input) {
        let Some(connection) = self.connections.get_mut(key) else { return };
        let effect = connection.session.on(input, self.now);
        self.carry_out(key, effect);
    }

    /// Carries out an effect and what follows from it, until the session waits or is over.
    fn carry_out(&mut self, key: Key, mut effect: Effect) {
        loop {
            let Some(connection) = self.connections.get_mut(key) else { return };
            let answer = match effect {
                Effect::Wait => return self.arm(key),
                Effect::ReadHeader => return self.read_header(key),
                Effect::Admit => {
                    let client = connection.session.policy_client().ip;
                    Input::Admitted(connection.guard.admit(client, self.now))
                }
                Effect::Pick => {
                    connection.drop_backend();
                    Input::Picked(self.pick(key))
                }
                Effect::Queue => {
                    connection.drop_backend();
                    if self.queue_up(key) {
                        self.arm(key);
                        // A client that has reset has hung up, too.
                        return self.report_left(key);
                    }
                    Input::NoPlace
                }
                Effect::Dial => match self.has_said_something(key) {
                    Err(_) => Input::Reset(Side::Client),
                    Ok(soon) => match self.dial(key, soon) {
                        Some(outcome) => self.dialed(key, outcome),
                        None => return self.arm(key),
                    },
                },
                Effect::Announce(version) => Input::Announced(self.introduce(key, version)),
                Effect::Relay => {
                    let keep_alive_after = KEEP_ALIVE_AFTER.min(self.net.dead_peer_timeout() / 2);
                    connection.keep_alive_at = Some(self.now + keep_alive_after);
                    self.queues.hint(connection.session.pool());
                    if let Some(lease) = connection.session.lease() {
                        let counters = &lease.backend().counters;
                        counters.connected(connection.session.connect_time());
                        if !connection.session.pool().is_up(lease) {
                            self.observer.connected_though_down(lease.backend());
                        }
                    }
                    self.arm(key);
                    self.tell_failures(key);
                    return self.relay(key);
                }
                Effect::Finish(side) => {
                    if let Some(end) = connection.end(side) {
                        self.net.finish(&end.socket);
                    }
                    connection.watch_mut(side).sent_fin();
                    self.watch(key);
                    return self.arm(key);
                }
                Effect::ReadOut(side) => {
                    self.read_out(key, side);
                    return self.arm(key);
                }
                Effect::Measure(side) => Input::Unsent(self.unsent(key, side)),
                Effect::End(ending) => return self.close(key, ending),
            };
            let Some(connection) = self.connections.get_mut(key) else { return };
            effect = connection.session.on(answer, self.now);
        }
    }

    /// Begins to connect; the outcome, if it is known at once.
    fn dial(&mut self, key: Key, soon: bool) -> Option<io::Result<()>> {
        let connection = self.connections.get_mut(key)?;
        connection.drop_backend();
        let Some(endpoint) = connection.session.endpoint() else {
            return Some(Err(io::ErrorKind::AddrNotAvailable.into()));
        };
        let serial = self.serials.give();
        let id = SocketId { side: Side::Backend, slot: key.slot, serial };
        match self.net.dial(endpoint, Token::Socket(id), soon) {
            Ok((socket, done)) => {
                let ready = Ready {
                    writable: done,
                    short_read_inconclusive: self.net.has_urgent_gaps(endpoint),
                    ..Ready::default()
                };
                connection.backend = Some(End { socket, ready });
                connection.backend_serial = Some(serial);
                done.then_some(Ok(()))
            }
            Err(error) => Some(Err(error)),
        }
    }

    /// What the outcome of a dial means to the session; a failure is noted.
    fn dialed(&mut self, key: Key, outcome: io::Result<()>) -> Input {
        Input::Dialed(outcome.map_err(|error| {
            let Some(failure) = ConnectFailure::of(&error) else { return DialFailure::Starved };
            if let Some(connection) = self.connections.get(key) {
                note_failure(&mut self.observer, &connection.session, failure, self.now);
            }
            DialFailure::Backend
        }))
    }

    /// Moves bytes both ways for one turn.
    fn relay(&mut self, key: Key) {
        for way in Direction::BOTH {
            let Some(connection) = self.connections.get_mut(key) else { return };
            let Some(half) = connection.session.half(way) else { return };
            let Some(backend) = &mut connection.backend else { return };
            let (flow, source, sink) = match way {
                Direction::Up => (&mut connection.up, &mut connection.client, backend),
                Direction::Down => (&mut connection.down, backend, &mut connection.client),
            };
            let open = half == HalfState::Open;
            if !flow.can_move(source.ready, sink.ready, open) {
                continue;
            }
            let report = relay::pump(flow, &mut self.net, source, sink, open, &mut self.shared);
            let moved = Moved {
                read: report.read,
                written: report.written,
                held: flow.holds(),
                fin: report.fin,
                failed: report.failed.map(|failed| match failed {
                    relay::RelayError::Source(_) => Failed::Source,
                    relay::RelayError::Sink(_) => Failed::Sink,
                }),
            };
            let again = report.again;
            if report.written > 0 && !connection.dirty {
                connection.dirty = true;
                self.dirty.push(key);
            }
            match connection.session.on(Input::Moved(way, moved), self.now) {
                // Bytes only push the deadline back; an end may bring it nearer.
                Effect::Wait if !moved.fin && moved.failed.is_none() => {}
                effect => self.carry_out(key, effect),
            }
            if again {
                self.enqueue(key);
            }
        }
    }

    /// Puts a connection into the run queue, unless it is there.
    fn enqueue(&mut self, key: Key) {
        let Some(connection) = self.connections.get_mut(key) else { return };
        if !connection.queued {
            connection.queued = true;
            self.runnable.push_back(key);
        }
    }

    /// Sees to it that the timer stands at or before the deadline.
    fn arm(&mut self, key: Key) {
        let Some(connection) = self.connections.get(key) else { return };
        let deadlines = [connection.session.deadline(), connection.keep_alive_at, connection.look_at];
        let Some(deadline) = deadlines.into_iter().flatten().min() else { return };
        if self.wheel.deadline(key.slot).is_none_or(|set| deadline < set) {
            self.wheel.set(key.slot, deadline);
        }
    }

    fn close(&mut self, key: Key, ending: Ending) {
        self.wheel.cancel(key.slot);
        let Some(mut connection) = self.connections.remove(key) else { return };
        connection.up.discard(&mut self.shared);
        connection.down.discard(&mut self.shared);
        self.queues.leave(connection.session.pool(), key);
        self.queues.hint(connection.session.pool());
        if let Some(record) = connection.session.record() {
            flush_totals(record.backend.as_ref(), record.bytes_to_backend, record.bytes_to_client, connection.flushed);
            record.pool.totals.durations.add(record.duration);
            record.close.refusal().into_iter().for_each(|refusal| record.listener.refuse(refusal));
            self.observer.closed(record);
        }
        self.unwatch(&connection, ending);
        // Before the sockets close: a client that has seen the end may come back at once, and is not to find itself counted.
        drop(connection.guard);
        if ending == Ending::Reset {
            self.net.reset(connection.client.socket);
            if let Some(backend) = connection.backend {
                self.net.reset(backend.socket);
            }
        }
    }
}

impl<S, P> Connection<S, P> {
    fn end(&self, side: Side) -> Option<&End<S>> {
        match side {
            Side::Client => Some(&self.client),
            Side::Backend => self.backend.as_ref(),
        }
    }

    /// The end whose socket this is; `None` if it was another one's.
    fn end_of(&mut self, socket: SocketId) -> Option<&mut End<S>> {
        match socket.side {
            Side::Client => Some(&mut self.client).filter(|_| self.client_serial == socket.serial),
            Side::Backend => self.backend.as_mut().filter(|_| self.backend_serial == Some(socket.serial)),
        }
    }

    /// Closes the socket of a dial.
    fn drop_backend(&mut self) {
        (self.backend, self.backend_serial) = (None, None);
    }

    fn watch_mut(&mut self, side: Side) -> &mut Watch {
        match side {
            Side::Client => &mut self.watches.0,
            Side::Backend => &mut self.watches.1,
        }
    }

    fn flush(&mut self) {
        let now = (self.session.bytes(Direction::Up), self.session.bytes(Direction::Down));
        flush_totals(self.session.lease().map(|lease| lease.backend()), now.0, now.1, self.flushed);
        self.flushed = now;
    }
}

fn flush_totals(backend: Option<&Arc<Backend>>, up: u64, down: u64, flushed: (u64, u64)) {
    let Some(backend) = backend else { return };
    backend.counters.relayed(up - flushed.0, down - flushed.1);
}
