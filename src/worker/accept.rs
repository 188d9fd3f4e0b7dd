//! Accepts clients from the kernel's backlogs, as long as there is room for them: from each listening socket in its turn.
//!
//! # The states of a listening socket
//!
//! Listening sockets are edge-triggered, so a [`ListenSocket`] stays `Ready` until accept reports an empty queue.
//!
//! | state | what is known | event | next |
//! |---|---|---|---|
//! | `Idle` | accept reported an empty queue | epoll reports a client | `Ready` |
//! | `Ready` | clients may wait | a client is accepted | `Ready` |
//! | | | accept reports an empty queue | `Idle` |
//! | | | the listener is at its `max_connections` | `Full` |
//! | | | accept fails for the [`FAILURES`]th time in a row | `Paused` |
//! | `Full` | clients may wait, the listener has no place | a connection ended at any worker | `Ready` |
//! | `Paused` | accept fails and would fail again | [`PAUSE`] has passed | `Ready` |
//! | any | its listener left the configuration, or a drain begins | – | the same, in the role `Leaving` |
//!
//! | role | a client | ends |
//! |---|---|---|
//! | `Serving` | it is served | by a reload or a drain: `Leaving` |
//! | `Leaving { left }` | it is served; all that wait are accepted at once, at most `left` of them | closed, when the queue is empty or `left` is 0 |
//! | `Leaving` without room | it waits, no further client may queue | closed after [`LEAVE`], in a drain with the drain |
//! | `Refusing` | it is reset | closed by a drain, or when the address is served again |
//!
//! Two conditions hold for all sockets. `full`: the process is at its `max_connections`, until a connection ends. `starved`:
//! the process has no descriptor, for [`PAUSE`] or until a connection of this worker ends.
//!
//! # Fairness
//!
//! A worker accepts at most [`BATCH`] clients in one loop. Each ready socket gets an equal share of them, and the others get
//! what it does not use. The next loop begins behind the socket that was served last. So a flood at one socket delays a
//! client of another one by at most one loop, whatever the order of the listeners.
//!
//! # A successor
//!
//! While a successor takes over ([`crate::handover`]), the sockets that serve are `Idle` and epoll does not watch them. If it fails, they
//! are watched again, and are `Ready`. If it succeeds, they close: the successor has descriptors of the same sockets, so
//! the clients of their queues are accepted there.
//!
//! # Leaving
//!
//! A socket that leaves accepts all waiting clients at once, into `pending`, and is closed before the reload is answered. Its
//! address is then free for others, and the kernel refuses new clients. `left` is the most that its queue can hold, so that
//! clients which arrive meanwhile cannot keep it open. Pending clients already have their places, and are served in batches
//! like others.
//!
//! A socket of the service manager cannot be closed: the manager keeps it open, and clients would wait in it for ever. It
//! stays, in the role `Refusing`, until a reload adds its listener again.

mod listening;

use super::driver::{Accepted, Transport};
use super::token::Token;
use crate::admission::{ConnectionLimit, NoRoom};
use crate::base::{Endpoint, LogThrottle, Tick};
use crate::net::Spares;
use crate::net::listen::Listening;
use crate::pool::{BoundAddressId, Listener, Snapshot};
use crate::session::Preamble;
use mio::Registry;
use rustix::io::Errno;
use std::collections::VecDeque;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

/// Clients taken at once before connections have their turn.
const BATCH: u32 = 16;

/// How long a socket pauses after accept has failed; all sockets pause when the process has no descriptor left.
const PAUSE: Duration = Duration::from_millis(100);

/// More failures of accept in a row than clients that left while they waited can explain.
const FAILURES: u32 = 16;

/// How long the clients of a removed listener wait for room before they are reset.
const LEAVE: Duration = Duration::from_secs(2);

/// What the acceptor asks of a listening socket; tests have their own.
pub(super) trait Listen {
    /// An accepted client's socket.
    type Socket;

    /// Accepts a client; its address, if it has one. `WouldBlock`: the queue is empty.
    fn accept(&self) -> io::Result<(Self::Socket, Option<Endpoint>)>;

    /// Is it a unix socket, which only one worker listens on?
    fn is_unix(&self) -> bool;

    /// Does the service manager keep it open?
    fn is_inherited(&self) -> bool;

    /// The most clients that its queue can hold.
    fn queue_limit(&self) -> u32;

    /// Keeps further clients out of the queue.
    fn stop_queueing(&self);

    /// Resets a client.
    fn reset(socket: Self::Socket);

    /// Has epoll report clients.
    fn watch(&self, registry: &Registry, token: Token) -> io::Result<()>;

    /// A copy of its descriptor, for a successor.
    fn copy(&self) -> io::Result<OwnedFd>;

    /// Ends what `watch` began. Closing is not enough: other processes hold descriptors of an inherited socket.
    fn unwatch(&self, registry: &Registry);
}

/// A listening socket and the listener that it belongs to. The states stand at the top of the module.
#[derive(Debug)]
pub struct ListenSocket<L = Listening> {
    listening: L,
    /// Which of the listener's addresses it is bound to.
    address: BoundAddressId,
    /// Its port; 0 for a unix socket.
    port: u16,
    listener: Arc<Listener>,
    state: State,
    role: Role,
    /// Failures of accept since the last success.
    failures: u32,
    log_throttle: LogThrottle,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Idle,
    Ready,
    Full,
    Paused { until: Tick },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    Serving,
    /// `until`: when it closes even if clients wait; `None`: with the drain.
    Leaving {
        left: u32,
        until: Option<Tick>,
    },
    Refusing,
}

/// The listening sockets of one worker.
pub(super) struct Acceptor<L: Listen = Listening> {
    registry: Registry,
    sockets: Vec<ListenSocket<L>>,
    /// Clients of sockets that have left, not handed out yet.
    pending: VecDeque<Accepted<L::Socket>>,
    /// The socket whose turn it is.
    turn: usize,
    /// Clients that it accepted in this turn, and the most that it may accept.
    used: u32,
    share: u32,
    /// Clients taken in this loop; failures count too.
    taken: u32,
    /// The process has no descriptor left until then.
    starved: Option<Tick>,
    /// The process is at its `max_connections`; the end of a connection wakes this worker.
    full: bool,
    /// No socket wants anything before the next event: all are `Idle` and none leaves. There may be thousands, so turns
    /// without a client do not ask each.
    quiet: bool,
    draining: bool,
    /// A successor accepts the clients.
    paused: bool,
    now: Tick,
    /// A shortage recurs many times a second while connections come and go, so it is logged at intervals.
    shortage: LogThrottle,
}

/// The result of a look at the sockets.
pub(super) enum Turn<S> {
    /// A client.
    Client(Accepted<S>),
    /// None for now.
    Over,
}

/// The result of one accept.
enum Step<S> {
    Client(Accepted<S>),
    /// No client, but there may be one elsewhere.
    Nothing,
    /// No room in the process.
    NoRoom,
}

impl<L> ListenSocket<L> {
    /// Which of its listener's addresses it is bound to.
    pub(super) fn address(&self) -> BoundAddressId {
        self.address
    }

    /// A socket of one of the addresses of `listener`.
    pub fn new(address: BoundAddressId, listener: Arc<Listener>, listening: L) -> ListenSocket<L> {
        let (state, role, failures, log_throttle) = (State::Idle, Role::Serving, 0, LogThrottle::default());
        let mut socket = ListenSocket { listening, address, port: 0, listener, state, role, failures, log_throttle };
        if let Some(Endpoint::Inet(at)) = socket.endpoint() {
            socket.port = at.port();
        }
        socket
    }

    /// Where it is bound, as its listener knows it.
    fn endpoint(&self) -> Option<&Endpoint> {
        let own = self.listener.addresses.iter().find(|address| address.id == self.address);
        own.map(|address| &address.endpoint)
    }

    /// Closes soon, after `left` clients at most. Its queue may hold clients that no event was read for yet.
    fn leave(&mut self, left: u32, until: Option<Tick>) {
        let left = if let Role::Leaving { left, .. } = self.role { left } else { left };
        (self.role, self.state) = (Role::Leaving { left, until }, State::Ready);
    }

    fn is_ready(&self) -> bool {
        self.state == State::Ready
    }

    fn is_leaving(&self) -> bool {
        matches!(self.role, Role::Leaving { .. })
    }

    fn failed(&mut self, error: &io::Error, now: Tick) {
        self.failures += 1;
        if self.failures < FAILURES {
            // The client left while it waited, or its network failed (accept(2)): the next one follows.
            return;
        }
        self.state = State::Paused { until: now + PAUSE };
        if self.log_throttle.is_due(now) {
            let at = self.endpoint().map_or_else(String::new, |endpoint| format!(" on {endpoint}"));
            log::error!(
                "listener {}: accept fails{at}, and is tried again every {PAUSE:?}: {error}",
                self.listener.name
            );
        }
    }
}

impl<L: Listen> Acceptor<L> {
    pub(super) fn new(sockets: Vec<ListenSocket<L>>, registry: Registry) -> io::Result<Acceptor<L>> {
        let mut acceptor = Acceptor {
            registry,
            sockets: Vec::new(),
            pending: VecDeque::new(),
            turn: 0,
            used: 0,
            share: BATCH,
            taken: 0,
            starved: None,
            full: false,
            quiet: false,
            draining: false,
            paused: false,
            now: Tick(0),
            shortage: LogThrottle::default(),
        };
        sockets.into_iter().try_for_each(|socket| acceptor.open(socket))?;
        Ok(acceptor)
    }

    fn open(&mut self, socket: ListenSocket<L>) -> io::Result<()> {
        socket.listening.watch(&self.registry, Token::Listener(socket.address.0))?;
        self.sockets.push(socket);
        Ok(())
    }

    /// Listens on further sockets. The existing ones belong to their listeners in `snapshot` from now on. A socket without a
    /// listener there accepts the clients that wait, for its old listener, and closes.
    pub(super) fn adopt(
        &mut self,
        snapshot: &Snapshot,
        sockets: Vec<ListenSocket<L>>,
        process: &ConnectionLimit,
        spares: &mut Spares,
        now: Tick,
    ) {
        for socket in sockets {
            self.close_where(|old| old.role == Role::Refusing && old.endpoint() == socket.endpoint());
            if let Err(error) = self.open(socket) {
                // epoll_ctl(2) fails without memory or watches; the other workers have a socket there too.
                log::error!("can't watch a listening socket: {error}");
            }
        }
        for socket in &mut self.sockets {
            match snapshot.listener_of(socket.address) {
                Some(listener) => socket.listener = listener.clone(),
                None if socket.role == Role::Serving => {
                    socket.leave(socket.listening.queue_limit(), Some(now + LEAVE));
                }
                None => {}
            }
        }
        self.take_in_leaving(process, spares, now);
    }

    /// Epoll reports a client.
    pub(super) fn ready(&mut self, address: u32) {
        if self.paused {
            // Of the same batch as the order.
            return;
        }
        self.quiet = false;
        let of_address = self.sockets.iter_mut().filter(|socket| socket.address.0 == address);
        of_address.filter(|socket| socket.state == State::Idle).for_each(|socket| socket.state = State::Ready);
    }

    /// There may be room again, or an order that changes the sockets follows.
    pub(super) fn resume(&mut self) {
        (self.full, self.quiet) = (false, false);
        let full = self.sockets.iter_mut().filter(|socket| socket.state == State::Full);
        full.for_each(|socket| socket.state = State::Ready);
    }

    /// Descriptors have become free.
    pub(super) fn descriptors_freed(&mut self) {
        self.starved = None;
    }

    /// Accepts the clients that already wait, then closes: for them, the connection is established.
    pub(super) fn drain(&mut self, process: &ConnectionLimit, spares: &mut Spares, now: Tick) {
        self.draining = true;
        self.close_where(|socket| socket.role == Role::Refusing);
        self.sockets.iter_mut().for_each(|socket| socket.leave(socket.listening.queue_limit(), None));
        self.take_in_leaving(process, spares, now);
    }

    /// The sockets that serve, for a successor. One of the service manager is not among them.
    fn own(&self) -> impl Iterator<Item = &ListenSocket<L>> {
        self.sockets.iter().filter(|socket| socket.role == Role::Serving && !socket.listening.is_inherited())
    }

    /// The address of each of them.
    pub(super) fn addresses(&self) -> Vec<BoundAddressId> {
        self.own().map(|socket| socket.address).collect()
    }

    /// Copies of those at these addresses, which are sorted.
    pub(super) fn lend(&self, addresses: &[BoundAddressId]) -> io::Result<Vec<(BoundAddressId, OwnedFd)>> {
        let asked = self.own().filter(|socket| addresses.binary_search(&socket.address).is_ok());
        asked.map(|socket| Ok((socket.address, socket.listening.copy()?))).collect()
    }

    /// A successor accepts the clients from now on. Sockets that leave are not its own, and go on here.
    pub(super) fn pause(&mut self) {
        self.paused = true;
        let registry = &self.registry;
        for socket in self.sockets.iter_mut().filter(|socket| !socket.is_leaving()) {
            socket.listening.unwatch(registry);
            socket.state = State::Idle;
        }
    }

    /// The successor has failed.
    pub(super) fn accept_again(&mut self) {
        if !std::mem::take(&mut self.paused) {
            return;
        }
        self.quiet = false;
        let registry = &self.registry;
        for socket in self.sockets.iter_mut().filter(|socket| !socket.is_leaving()) {
            if let Err(error) = socket.listening.watch(registry, Token::Listener(socket.address.0)) {
                log::error!("can't watch a listening socket: {error}");
            }
            socket.state = State::Ready;
        }
    }

    /// The successor has the sockets: closes them, and leaves the clients in their queues to it.
    pub(super) fn leave(&mut self) {
        self.draining = true;
        self.close_where(|socket| !socket.is_leaving());
    }

    /// Closes at once. The clients that were accepted and not handed out.
    pub(super) fn close(&mut self) -> impl Iterator<Item = Accepted<L::Socket>> {
        self.draining = true;
        self.close_where(|_| true);
        std::mem::take(&mut self.pending).into_iter()
    }

    /// Will it never accept again?
    pub(super) fn is_closed(&self) -> bool {
        self.draining && self.sockets.is_empty() && self.pending.is_empty()
    }

    /// When it wants to look again without an event.
    pub(super) fn sleep(&self) -> Option<Duration> {
        if !self.pending.is_empty() {
            return Some(Duration::ZERO);
        }
        if self.quiet {
            return None;
        }
        let due = |socket: &ListenSocket<L>| {
            let turn = match socket.state {
                State::Ready if self.full && socket.role != Role::Refusing => None,
                State::Ready => Some(self.starved.unwrap_or(self.now)),
                State::Paused { until } => Some(until),
                State::Idle | State::Full => None,
            };
            let close = if let Role::Leaving { until, .. } = socket.role { until } else { None };
            [turn, close].into_iter().flatten().min()
        };
        self.sockets.iter().filter_map(due).min().map(|at| at - self.now)
    }

    /// The next client, if there is one, there is room, and this is not more than a batch.
    pub(super) fn next(&mut self, process: &ConnectionLimit, spares: &mut Spares, now: Tick) -> Turn<L::Socket> {
        if self.quiet && self.pending.is_empty() {
            return Turn::Over;
        }
        if self.taken == 0 {
            self.begin_loop(process, spares, now);
        }
        while self.taken < BATCH {
            // Clients that have their places alternate with clients that still wait.
            if self.taken.is_multiple_of(2)
                && let Some(client) = self.pending.pop_front()
            {
                self.taken += 1;
                return Turn::Client(client);
            }
            match self.step(process, spares) {
                Some(Step::Client(client)) => return Turn::Client(client),
                Some(Step::Nothing) => continue,
                Some(Step::NoRoom) | None => {}
            }
            let Some(client) = self.pending.pop_front() else { break };
            self.taken += 1;
            return Turn::Client(client);
        }
        self.taken = 0;
        if self.used > 0 {
            self.pass_on(self.turn);
        }
        self.quiet = self.sockets.iter().all(|socket| socket.state == State::Idle && !socket.is_leaving());
        Turn::Over
    }

    fn begin_loop(&mut self, process: &ConnectionLimit, spares: &mut Spares, now: Tick) {
        self.now = now;
        self.starved = self.starved.filter(|until| now < *until);
        for socket in &mut self.sockets {
            if matches!(socket.state, State::Paused { until } if until <= now) {
                socket.state = State::Ready;
            }
        }
        self.take_in_leaving(process, spares, now);
        let ready = self.sockets.iter().filter(|socket| socket.is_ready()).count();
        self.share = (BATCH / u32::try_from(ready).unwrap_or(BATCH).max(1)).max(1);
    }

    /// Tries the socket whose turn it is; `None` if none is ready.
    fn step(&mut self, process: &ConnectionLimit, spares: &mut Spares) -> Option<Step<L::Socket>> {
        let count = self.sockets.len();
        let mut others = (0..count).map(|step| (self.turn + step) % count);
        // Without room, clients can still be refused.
        let may = |socket: &ListenSocket<L>| socket.is_ready() && (!self.full || socket.role == Role::Refusing);
        let number = others.find(|number| may(&self.sockets[*number]) && self.starved.is_none())?;
        if number != self.turn {
            (self.turn, self.used) = (number, 0);
        }
        let step = self.accept(number, process, spares);
        if self.used >= self.share {
            self.pass_on(number);
        }
        Some(step)
    }

    /// The turn goes to the socket behind this one.
    fn pass_on(&mut self, number: usize) {
        (self.turn, self.used) = (number + 1, 0);
        if self.turn >= self.sockets.len() {
            self.turn = 0;
        }
    }

    fn accept(&mut self, number: usize, process: &ConnectionLimit, spares: &mut Spares) -> Step<L::Socket> {
        let socket = &mut self.sockets[number];
        let serves = socket.role != Role::Refusing;
        let guard = match serves.then(|| socket.listener.admission.reserve(process)).transpose() {
            Ok(guard) => guard,
            Err(NoRoom::Process) => {
                self.full = true;
                return Step::NoRoom;
            }
            Err(NoRoom::Listener) => {
                // A removed listener wakes no worker any more.
                socket.state =
                    if socket.is_leaving() { State::Paused { until: self.now + PAUSE } } else { State::Full };
                return Step::Nothing;
            }
        };
        match spares.hold().and_then(|()| socket.listening.accept()) {
            Ok((client, peer)) => {
                self.taken += 1;
                self.used += 1;
                socket.failures = 0;
                if let Role::Leaving { left, .. } = &mut socket.role {
                    *left = left.saturating_sub(1);
                }
                let Some(mut guard) = guard else {
                    L::reset(client);
                    return Step::Nothing;
                };
                guard.accepted();
                let transport = if socket.listening.is_unix() { Transport::Unix } else { Transport::Tcp };
                let (listener, port) = (socket.listener.clone(), socket.port);
                let preamble = Preamble::of(&listener.settings, peer.as_ref());
                Step::Client(Accepted { socket: client, client: peer, port, transport, preamble, listener, guard })
            }
            Err(error) => match Errno::from_io_error(&error) {
                Some(Errno::AGAIN) => {
                    socket.state = State::Idle;
                    Step::Nothing
                }
                // Clients stay in the backlog.
                Some(Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM) => {
                    self.starved = Some(self.now + PAUSE);
                    if self.shortage.is_due(self.now) {
                        log::warn!("accepting pauses: {error}");
                    }
                    Step::NoRoom
                }
                _ => {
                    self.taken += 1;
                    self.used += 1;
                    socket.failed(&error, self.now);
                    Step::Nothing
                }
            },
        }
    }

    /// Accepts all clients that wait at sockets that leave, as far as there is room, and closes the sockets that are empty.
    fn take_in_leaving(&mut self, process: &ConnectionLimit, spares: &mut Spares, now: Tick) {
        if !self.sockets.iter().any(ListenSocket::is_leaving) {
            return;
        }
        self.quiet = false;
        self.now = now;
        let (taken, used) = (self.taken, self.used);
        for number in 0..self.sockets.len() {
            while self.starved.is_none()
                && !self.full
                && let ListenSocket { state: State::Ready, role: Role::Leaving { left: 1.., .. }, .. } =
                    self.sockets[number]
            {
                if let Step::Client(client) = self.accept(number, process, spares) {
                    self.pending.push_back(client);
                }
            }
        }
        (self.taken, self.used) = (taken, used);
        for socket in &mut self.sockets {
            let Role::Leaving { left, until } = socket.role else { continue };
            let waits = left > 0 && socket.state != State::Idle && socket.failures < FAILURES;
            let inherited = socket.listening.is_inherited();
            // The service manager keeps its clients for the next process.
            if waits && until.is_none_or(|until| now < until) && !(inherited && self.draining) {
                if !inherited {
                    socket.listening.stop_queueing();
                }
            } else if inherited && !self.draining {
                log::info!(
                    "listener {} is gone: the service manager keeps its socket open, and clients there are reset",
                    socket.listener.name
                );
                (socket.role, socket.state) = (Role::Refusing, State::Ready);
            } else {
                (socket.role, socket.state) = (Role::Leaving { left: 0, until }, State::Idle);
            }
        }
        self.close_where(|socket| matches!(socket.role, Role::Leaving { left: 0, .. }));
    }

    fn close_where(&mut self, goes: impl Fn(&ListenSocket<L>) -> bool) {
        let registry = &self.registry;
        self.sockets.retain(|socket| {
            let goes = goes(socket);
            if goes {
                socket.listening.unwatch(registry);
            }
            !goes
        });
        (self.turn, self.used) = (if self.turn < self.sockets.len() { self.turn } else { 0 }, 0);
    }
}

#[cfg(test)]
mod tests;
