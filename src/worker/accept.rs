//! Takes clients from the kernel's backlog, as long as there is room for them.
//!
//! Listeners are edge-triggered: a socket stays `open` until accept says that nobody waits. It may be looked at again any
//! time; that is how accepting goes on after a pause.

use super::driver::Accepted;
use super::token::Token;
use super::{ListenSocket, Shared};
use crate::base::{Seldom, Tick};
use crate::net::{Socket, Spares};
use crate::pool::{Guest, Snapshot};
use crate::session::Greeting;
use mio::unix::SourceFd;
use mio::{Interest, Registry};
use rustix::io::Errno;
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::time::Duration;

/// Clients taken at once before connections have their turn.
const BATCH: u32 = 64;

/// How long accepting pauses when the process has no descriptor left, unless a connection ends before.
const PAUSE: Duration = Duration::from_millis(100);

/// The sockets of one worker.
pub(super) struct Acceptor {
    sockets: Vec<ListenSocket>,
    /// Per socket: may somebody wait?
    waiting: Vec<bool>,
    /// Per socket: its listener has as many clients as it may. Somebody wakes us.
    crowded: Vec<bool>,
    taken: u32,
    /// No descriptor left until then.
    paused: Option<Tick>,
    now: Tick,
    /// A shortage is never over for good: while connections come and go it begins anew many times a second.
    shortage: Seldom,
    /// No room under `max_connections`: somebody wakes us.
    full: bool,
    closing: bool,
    closed: bool,
}

/// What the next look at the sockets gave.
pub(super) enum Turn {
    /// A client; is its listener one that every worker has?
    Client(Accepted<Socket>, bool),
    /// Nobody for now.
    Over,
}

impl Acceptor {
    pub(super) fn new(sockets: Vec<ListenSocket>, registry: &Registry) -> io::Result<Acceptor> {
        let mut acceptor = Acceptor {
            sockets: Vec::new(),
            waiting: Vec::new(),
            crowded: Vec::new(),
            taken: 0,
            paused: None,
            now: Tick(0),
            shortage: Seldom::default(),
            full: false,
            closing: false,
            closed: false,
        };
        sockets.into_iter().try_for_each(|socket| acceptor.open(socket, registry))?;
        Ok(acceptor)
    }

    fn open(&mut self, socket: ListenSocket, registry: &Registry) -> io::Result<()> {
        let token = Token::Listener(socket.address.0).encode();
        registry.register(&mut SourceFd(&socket.listening.as_fd().as_raw_fd()), token, Interest::READABLE)?;
        self.sockets.push(socket);
        self.waiting.push(false);
        self.crowded.push(false);
        Ok(())
    }

    /// Listens at further sockets. Those it has belong to their listeners in `snapshot` from now on; one that no listener
    /// wants any more takes in who waits there, for its old listener, and closes.
    pub(super) fn adopt(&mut self, snapshot: &Snapshot, sockets: Vec<ListenSocket>, registry: &Registry) {
        for socket in sockets {
            if let Err(error) = self.open(socket, registry) {
                // epoll_ctl(2) fails for want of memory or watches; the other workers have a socket there too.
                log::error!("can't watch a listening socket: {error}");
            }
        }
        for (socket, waiting) in self.sockets.iter_mut().zip(&mut self.waiting) {
            match snapshot.listener_of(socket.address) {
                Some(listener) => socket.listener = listener.clone(),
                None => (socket.leaving, *waiting) = (true, true),
            }
        }
    }

    /// Somebody knocked.
    pub(super) fn ready(&mut self, address: u32) {
        for (socket, waiting) in self.sockets.iter().zip(&mut self.waiting) {
            *waiting |= socket.address.0 == address;
        }
    }

    /// There may be room again.
    pub(super) fn resume(&mut self) {
        self.full = false;
        self.crowded.fill(false);
    }

    /// Descriptors have become free: a pause ends.
    pub(super) fn go_on(&mut self) {
        self.paused = None;
    }

    /// Takes in who waits already, then closes: to those the kernel has said that they are connected.
    pub(super) fn close_soon(&mut self) {
        self.waiting.fill(true);
        self.closing = true;
    }

    /// Closes at once.
    pub(super) fn close(&mut self) {
        self.sockets.clear();
        self.waiting.clear();
        self.crowded.clear();
        self.closed = true;
    }

    /// Is it taking its last clients?
    pub(super) fn is_closing(&self) -> bool {
        self.closing
    }

    /// Will it never accept again?
    pub(super) fn is_closed(&self) -> bool {
        self.closed
    }

    /// When it wants to look again without being told.
    pub(super) fn sleep(&self) -> Option<Duration> {
        match self.paused {
            Some(until) => Some(until - self.now),
            None => (!self.full && self.knocked().is_some()).then_some(Duration::ZERO),
        }
    }

    /// The next client, if there is one, there is room, and this is not more than a batch.
    pub(super) fn next(&mut self, shared: &Shared, spares: &mut Spares, now: Tick) -> Turn {
        self.now = now;
        if self.paused.is_some_and(|until| now < until) {
            return Turn::Over;
        }
        self.paused = None;
        while let Some(number) = self.knocked() {
            if self.full || self.taken >= BATCH {
                break;
            }
            let Some(permit) = shared.admission.enter() else {
                self.full = true;
                break;
            };
            let ListenSocket { listening, listener, .. } = &self.sockets[number];
            let Some(place) = listener.gate.room() else {
                self.crowded[number] = true;
                continue;
            };
            match spares.hold().and_then(|()| listening.accept()) {
                Ok((socket, client)) => {
                    self.taken += 1;
                    let guest = Guest::new(&listener.gate, place);
                    let greeting = Greeting::of(&listener.settings, client.as_ref());
                    let (unix, pool) = (listening.is_unix(), listener.pool.clone());
                    return Turn::Client(Accepted { socket, client, unix, greeting, pool, guest, permit }, !unix);
                }
                Err(error) => self.failed(number, &error),
            }
            if self.paused.is_some() {
                break;
            }
        }
        self.taken = 0;
        // Who finds no room now would not find it later: the drain lets nobody else in.
        let no_room = self.full || self.paused.is_some();
        if self.closing && (no_room || self.knocked().is_none()) {
            self.close();
        }
        for number in (0..self.sockets.len()).rev() {
            if self.sockets[number].leaving && (no_room || self.crowded[number] || !self.waiting[number]) {
                self.sockets.remove(number);
                self.waiting.remove(number);
                self.crowded.remove(number);
            }
        }
        Turn::Over
    }

    /// A socket where somebody may wait who may come in.
    fn knocked(&self) -> Option<usize> {
        self.waiting.iter().zip(&self.crowded).position(|(waiting, crowded)| *waiting && !crowded)
    }

    fn failed(&mut self, number: usize, error: &io::Error) {
        match Errno::from_io_error(error) {
            Some(Errno::AGAIN) => self.waiting[number] = false,
            // The client gave up while it waited, or its network failed (accept(2)): on to the next.
            Some(
                Errno::CONNABORTED
                | Errno::INTR
                | Errno::PROTO
                | Errno::NETDOWN
                | Errno::HOSTDOWN
                | Errno::NONET
                | Errno::HOSTUNREACH
                | Errno::NETUNREACH
                | Errno::NOPROTOOPT
                | Errno::OPNOTSUPP
                | Errno::PERM,
            ) => {}
            // Out of descriptors or memory: those who wait stay in the backlog.
            _ => {
                self.paused = Some(self.now + PAUSE);
                if self.shortage.is_due(self.now) {
                    log::warn!("accepting pauses: {error}");
                }
            }
        }
    }
}
