//! Carries out the effects of sessions: the only place that dials, relays, arms timers and closes.
//!
//! The event loop routes events here. [`Driver::step`] is the only way to a session. The [`Session`] takes an input and gives
//! one effect. [`Executor::answer`] turns the effect into the next input. This goes on until the session waits. Then
//! [`Driver::reconcile`] brings timer and queues in line. The driver is generic over [`Net`], so that the simulation
//! runs this very code over sockets made of memory.
//!
//! | file | what |
//! |---|---|
//! | `effects` | one effect, and its answer |
//! | `sockets` | the two sockets of a connection, and the bytes held between them |
//! | `preamble` | preambles, from the client and for the backend |
//! | `sniffing` | a client's first bytes, for the routes of its listener |
//! | `requesting` | the request of TLS to a backend of Postgres |
//! | `resets` | sides that fail |
//! | `liveness` | checks that peers acknowledge what was sent |
//! | `inspect` | questions about connections, and orders to close them |
//! | `turns` | which connection moves bytes next |
//! | `waiting` | clients in a queue |
//! | `sweep` | changes that concern every connection |
//! | `reports` | open connections, for the access log |
//! | `transit` | connections that leave for another driver, and those that come from one |
//! | `ports` | the system below, and what comes in |
//!
//! # Invariants
//!
//! * An event reaches only the socket that it was announced for. An event of a closed socket finds nothing, whether its
//!   connection has ended or is connected to another backend.
//! * After every step the connection's timer stands at or before its deadline. It is not moved when bytes push the
//!   deadline back: it fires, finds the deadline in the future, and is set again. So relaying sets no timers.
//! * A connection is in one queue of [`turns`] at most, and exactly while it wants a turn.
//! * A connection is in a queue of [`super::queue`] exactly while its session waits for a backend, and not while it has
//!   its turn.
//! * Byte counters reach the shared totals at [`Driver::flush`] and at the end, not per chunk.
//!
//! # What one loop of the worker costs
//!
//! A client's bytes wait until the worker looks at its poll again. So the work between two looks is bounded, however many
//! connections and backends there are. The rest waits for the next loop, which polls without sleeping.
//!
//! | work | at most in a loop |
//! |---|---|
//! | bytes | a megabyte or two of bulk alone, a few 100 kB beside small messages ([`turns`]) |
//! | deadlines | [`DEADLINES`] |
//! | byte counters | those of [`FLUSHED`] connections |
//! | new snapshots, orders to reset | a slice ([`Driver::sweep`]) |
//! | questions about connections | a slice ([`Driver::inspect`]) |
//! | clients that wait for a backend | 32 of each pool; at a new snapshot, all of them, which `max_queue` bounds |

mod effects;
mod inspect;
mod liveness;
mod ports;
mod preamble;
mod reports;
mod requesting;
mod resets;
mod sniffing;
mod sockets;
mod sweep;
pub mod transit;
mod turns;
mod waiting;

pub use ports::{Accepted, Dialed, Event, FirstBytes, Net, Transport};
pub use turns::{ALONE, BESIDE};

use super::queue::Queues;
use super::token::{Serials, SocketId, Token};
use crate::admission::AdmissionGuard;
use crate::base::slots::{Key, Slots};
use crate::base::wheel::Wheel;
use crate::base::{OptionalTick, Tick};
use crate::pool::Snapshot;
use crate::relay::{self, CHUNK, RelayResources};
use crate::session::{
    CloseReason, ConnectionIds, Direction, Effect, Ending, Fact, Failed, Input, Ledger, Moved, Preamble, Session, Side,
    Stage,
};
use effects::{Answer, Executor, Then};
use sockets::{Sockets, dialed};
use std::time::Duration;
use sweep::Sweeps;
use turns::{Queue, Turns};

/// Deadlines that are touched in one loop. A connection that ends takes some 20 µs.
const DEADLINES: usize = 64;

/// Connections whose byte counters are added up in one loop.
const FLUSHED: usize = 256;

struct Connection<S, P> {
    session: Session,
    sockets: Sockets<S, P>,
    /// When to turn keepalive on for the backend's socket, until that is done.
    keep_alive_at: OptionalTick,
    /// When the peers' acknowledgements are checked next, if something was sent to them.
    look_at: OptionalTick,
    /// When it is reported next, if it is.
    report_at: OptionalTick,
    /// What has been added to the backend's totals.
    flushed: Flushed,
    /// It has been reported as open.
    is_reported: bool,
    /// In a queue of those that want a turn.
    runnable: bool,
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

/// All connections of one worker.
pub struct Driver<N: Net, L: Ledger> {
    /// The system.
    pub net: N,
    /// Takes the facts of connections.
    pub ledger: L,
    connections: Slots<Connection<N::Socket, N::Pipe>>,
    wheel: Wheel,
    turns: Turns,
    /// Bytes that events of this loop may still move.
    left: u64,
    /// When a connection that carries no bulk last had an event.
    small_at: OptionalTick,
    /// Connections that moved a byte since the last flush began, and those that it has not come to.
    dirty: Vec<Key>,
    flushing: Vec<Key>,
    queues: Queues,
    fired: Vec<u32>,
    /// Not all deadlines that have come were touched.
    late: bool,
    sweeps: Sweeps,
    serials: Serials,
    ids: ConnectionIds,
    relay_resources: RelayResources<N::Pipe>,
    random: fastrand::Rng,
    now: Tick,
}

impl<N: Net, L: Ledger> Driver<N, L> {
    /// No connections yet. `seed` decides every random choice.
    pub fn new(
        net: N,
        ledger: L,
        relay_resources: RelayResources<N::Pipe>,
        ids: ConnectionIds,
        seed: u64,
        now: Tick,
    ) -> Driver<N, L> {
        Driver {
            net,
            ledger,
            connections: Slots::default(),
            wheel: Wheel::new(now),
            turns: Turns::default(),
            left: 0,
            small_at: OptionalTick::NONE,
            dirty: Vec::new(),
            flushing: Vec::new(),
            queues: Queues::new(ids.worker()),
            fired: Vec::new(),
            late: false,
            sweeps: Sweeps::default(),
            serials: Serials::default(),
            ids,
            relay_resources,
            random: fastrand::Rng::with_seed(seed),
            now,
        }
    }

    /// Begins a loop: time as of now, by the clock that all workers share; to be set before a batch of events.
    pub fn set_now(&mut self, now: Tick) {
        self.now = now;
        self.left = self.turn() as u64;
    }

    /// How many connections there are.
    pub fn len(&self) -> usize {
        self.connections.len()
    }

    /// The sequence of the last number that was given to a connection.
    pub fn last_sequence(&self) -> u64 {
        self.ids.given()
    }

    /// None at all?
    pub fn is_empty(&self) -> bool {
        self.connections.is_empty()
    }

    /// How long poll may sleep.
    pub fn sleep(&self) -> Option<Duration> {
        if !self.turns.is_empty() || !self.flushing.is_empty() || self.late || self.sweeps.is_due() {
            return Some(Duration::ZERO);
        }
        let look = self.queues.next_look().map(|look| look - self.now);
        [self.wheel.sleep(self.now), look].into_iter().flatten().min()
    }

    /// Serves an accepted client.
    pub fn serve(&mut self, accepted: Accepted<N::Socket>) {
        if let Some(key) = self.insert(accepted) {
            self.start(key);
        }
    }

    /// Serves a client that another worker accepted, whose snapshot may be an older or a newer one than this.
    pub fn serve_handed(&mut self, accepted: Accepted<N::Socket>, snapshot: &Snapshot) {
        let Some(key) = self.insert(accepted) else { return };
        if let Some(connection) = self.connections.get_mut(key) {
            connection.session.update_route(snapshot);
            self.start(key);
        }
    }

    /// Ends the connection of an accepted client that is no longer served.
    pub fn turn_away(&mut self, accepted: Accepted<N::Socket>, reason: CloseReason) {
        if let Some(key) = self.insert(accepted) {
            self.step(key, Input::Stop(reason));
        }
    }

    fn insert(&mut self, accepted: Accepted<N::Socket>) -> Option<Key> {
        let Accepted { socket, client, port, transport, preamble, listener, guard } = accepted;
        let mut sockets = Sockets::new(socket, transport, self.serials.give());
        // What routes need may be there already: no event has to announce it.
        sockets.client.end.ready.readable = preamble == Preamble::None && !listener.wanted().is_empty();
        let mut session = Session::new(self.ids.give(), client, preamble, listener, self.random.u16(..), self.now);
        session.came_to(port);
        self.connections.insert_with(|_| Connection {
            session,
            sockets,
            keep_alive_at: OptionalTick::NONE,
            look_at: OptionalTick::NONE,
            report_at: OptionalTick::NONE,
            flushed: Flushed::default(),
            is_reported: false,
            runnable: false,
            dirty: false,
            guard,
        })
    }

    fn start(&mut self, key: Key) {
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
    pub fn handle_event(&mut self, socket: SocketId, event: Event) {
        let Some(key) = self.connections.key_of(socket.slot) else { return };
        let Some(Connection { session, sockets, .. }) = self.connections.get_mut(key) else { return };
        if !sockets.take_event(socket, &event) {
            return;
        }
        match session.stage() {
            Stage::Dialing if socket.side == Side::Backend => {
                if event.writable || event.error {
                    let outcome = sockets.outcome_of_dial(&event, &mut self.net);
                    self.step(key, dialed(outcome));
                }
            }
            // An error is read as well.
            Stage::Requesting if socket.side == Side::Backend => self.read_reply(key),
            _ if event.error => self.socket_failed(key, socket.side),
            Stage::Preamble => self.read_preamble(key),
            Stage::Sniffing => self.sniff(key),
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
            Stage::Relaying if self.left == 0 => {
                sockets.wants_turn = true;
                self.put_into(Queue::PutOff, key);
            }
            Stage::Relaying => {
                self.small_at = self.now.into();
                self.relay(key, CHUNK);
            }
            Stage::Admitting | Stage::Choosing | Stage::Dialing | Stage::Requesting | Stage::Closed => {}
        }
    }

    /// Takes the deadlines that have come, and serves clients that wait for a backend.
    pub fn handle_deadlines(&mut self) {
        let mut fired = std::mem::take(&mut self.fired);
        self.late = !self.wheel.advance(self.now, DEADLINES, &mut fired);
        for slot in fired.drain(..) {
            let Some(key) = self.connections.key_of(slot) else { continue };
            self.keep_alive(key);
            self.check_peers(key);
            self.report_ongoing(key);
            self.step(key, Input::Deadline);
        }
        self.fired = fired;
        self.serve_queues();
    }

    /// Turns keepalive on for the backend's socket, if it is time.
    fn keep_alive(&mut self, key: Key) {
        let Some(connection) = self.connections.get_mut(key) else { return };
        if connection.keep_alive_at.take_if_due(self.now).is_some()
            && let Some(backend) = &connection.sockets.backend
        {
            self.net.keep_alive(&backend.end.socket);
        }
    }

    /// Begins to add the bytes moved since the last time to the backends' totals. To be called at least once a second;
    /// [`Driver::go_on_flushing`] follows in each loop. It costs nothing for connections that were silent.
    pub fn flush(&mut self) {
        // The list holds one entry for each connection that moved a byte since the last call, ended ones included.
        self.flushing.append(&mut self.dirty);
        self.go_on_flushing();
    }

    /// Goes on with it.
    pub fn go_on_flushing(&mut self) {
        for _ in 0..FLUSHED {
            let Some(key) = self.flushing.pop() else { return };
            let Some(connection) = self.connections.get_mut(key) else { continue };
            connection.dirty = false;
            let Connection { session, flushed, .. } = connection;
            let (up, down) = (session.bytes(Direction::Up), session.bytes(Direction::Down));
            if let Some(backend) = session.backend() {
                let (to_backend, to_client) = flushed.add(up, down);
                self.ledger.record(Fact::Relayed { backend, to_backend, to_client }, self.now);
            }
            self.schedule_check(key);
        }
    }

    /// Has a byte moved since the last flush?
    pub fn has_unflushed(&self) -> bool {
        !self.dirty.is_empty() || !self.flushing.is_empty()
    }

    /// Ends every connection, at once.
    pub fn stop_all(&mut self, reason: CloseReason) {
        for key in self.connections.keys() {
            self.step(key, Input::Stop(reason));
        }
    }

    /// Gives a session an input, and answers its effects until it waits or has ended. Then brings in line what depends on it.
    fn step(&mut self, key: Key, input: Input<'_>) {
        let Driver { net, ledger, connections, queues, serials, relay_resources, random, now, .. } = self;
        let Some(connection) = connections.get_mut(key) else { return };
        let Connection { session, sockets, guard, flushed, keep_alive_at, look_at, .. } = connection;
        // Bytes only push the deadline back.
        let may_rest = matches!(&input, Input::Moved(_, moved) if moved.goes_on()) && !sockets.wants_turn;
        let mut effect = session.handle(input, *now, ledger);
        if may_rest && matches!(effect, Effect::Wait) {
            debug_assert!(self.is_armed(key), "bytes brought the deadline nearer");
            return;
        }
        let now = *now;
        let mut executor = Executor {
            key,
            now,
            net,
            ledger,
            queues,
            serials,
            relay_resources,
            random,
            sockets,
            guard,
            flushed,
            keep_alive_at,
            look_at,
        };
        let then = loop {
            match executor.answer(effect) {
                Answer::Input(input) => effect = session.handle(input, now, executor.ledger),
                Answer::Last(then) => break then,
            }
        };
        match then {
            Then::Wait => self.reconcile(key),
            Then::Relay => {
                self.report_open(key);
                self.reconcile(key);
                self.report_failures(key);
                self.relay(key, CHUNK);
            }
            Then::Close(ending) => self.close(key, ending),
        }
    }

    /// Sets the timer at or before the deadline, and puts a connection that wants a turn into a queue. The rest needs
    /// no reconciling. Poll watches each socket from its creation to its close, and a connection leaves its queue with its
    /// turn or its end.
    fn reconcile(&mut self, key: Key) {
        self.put_into(Queue::Bulk, key);
        if let Some(deadline) = self.connections.get(key).and_then(Connection::deadline)
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
        if let Some(input) = connection.sockets.read_preamble(&mut self.net, &mut self.relay_resources) {
            self.step(key, input);
        }
    }

    fn sniff(&mut self, key: Key) {
        let Some(connection) = self.connections.get_mut(key) else { return };
        if let Some(input) = connection.sockets.sniff(&mut self.net, &mut self.relay_resources) {
            self.step(key, input);
        }
    }

    fn read_reply(&mut self, key: Key) {
        let Some(connection) = self.connections.get_mut(key) else { return };
        if let Some(input) = connection.sockets.read_reply(&mut self.net, &mut self.relay_resources) {
            self.step(key, input);
        }
    }

    /// Moves bytes in both directions, about `most` in each. How many have moved.
    fn relay(&mut self, key: Key, most: usize) -> u64 {
        if let Some(Connection { session, sockets, .. }) = self.connections.get(key)
            && session.holds_nothing()
            && sockets.backend_has_ended(&mut self.net)
        {
            // Its event stands behind that of the client's bytes.
            self.step(key, Input::Reset(Side::Backend));
            return 0;
        }
        let mut sum = 0;
        for direction in Direction::BOTH {
            let Some(connection) = self.connections.get_mut(key) else { break };
            let Some((buffer, source, sink)) = connection.sockets.path(direction) else { break };
            if !buffer.can_move(source.ready, sink.ready) {
                continue;
            }
            let report = relay::pump(buffer, &mut self.net, source, sink, &mut self.relay_resources, most);
            sum += report.read.max(report.written);
            let moved = Moved {
                read: report.read,
                written: report.written,
                held: buffer.holds(),
                piped: buffer.is_piped(),
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
        self.left = self.left.saturating_sub(sum);
        sum
    }

    /// Closes both sockets, and forgets the connection.
    fn close(&mut self, key: Key, ending: Ending) {
        self.wheel.cancel(key.slot);
        let Some(Connection { mut sockets, guard, .. }) = self.connections.remove(key) else { return };
        // Before the sockets close: a client that sees the end may connect again at once, and must not be counted twice.
        drop(guard);
        sockets.up.discard(&mut self.relay_resources);
        sockets.down.discard(&mut self.relay_resources);
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
        let own = [self.keep_alive_at, self.look_at, self.report_at].map(OptionalTick::get);
        own.into_iter().chain([self.session.deadline()]).flatten().min()
    }
}

impl Flushed {
    /// Moves on to these totals; returns what they have more than the last ones.
    fn add(&mut self, up: u64, down: u64) -> (u64, u64) {
        let more = (up - self.up, down - self.down);
        *self = Flushed { up, down };
        more
    }
}
