//! Takes clients from the kernel's backlog, as long as there is room for them.
//!
//! Listeners are edge-triggered: a door stays `open` until accept says that nobody waits. It may be looked at again any
//! time; that is how accepting goes on after a pause.

use super::driver::Accepted;
use super::token::Token;
use super::{Door, Shared};
use crate::base::Tick;
use crate::net::Socket;
use crate::pool::Guest;
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

/// The doors of one worker.
pub(super) struct Acceptor {
    doors: Vec<Door>,
    /// Per door: may somebody wait?
    waiting: Vec<bool>,
    /// Per door: its listener has as many clients as it may. Somebody wakes us.
    crowded: Vec<bool>,
    taken: u32,
    /// No descriptor left until then.
    paused: Option<Tick>,
    now: Tick,
    /// The shortage was told; the next one is, once accepting has worked again.
    told: bool,
    /// No room under `max_connections`: somebody wakes us.
    full: bool,
    closing: bool,
}

/// What the next look at the doors gave.
pub(super) enum Turn {
    /// A client; is its listener one that every worker has?
    Client(Accepted<Socket>, bool),
    /// Nobody for now.
    Over,
}

impl Acceptor {
    pub(super) fn new(doors: Vec<Door>, registry: &Registry) -> io::Result<Acceptor> {
        for (number, door) in doors.iter().enumerate() {
            let token = Token::Listener(number as u32).encode();
            registry.register(&mut SourceFd(&door.listening.as_fd().as_raw_fd()), token, Interest::READABLE)?;
        }
        let (waiting, crowded) = (vec![false; doors.len()], vec![false; doors.len()]);
        let (taken, paused, now, told, full, closing) = Default::default();
        Ok(Acceptor { doors, waiting, crowded, taken, paused, now, told, full, closing })
    }

    /// Somebody knocked.
    pub(super) fn ready(&mut self, number: u32) {
        if let Some(waiting) = self.waiting.get_mut(number as usize) {
            *waiting = true;
        }
    }

    /// There may be room again.
    pub(super) fn resume(&mut self) {
        self.full = false;
        self.crowded.fill(false);
    }

    /// Takes in who waits already, then closes: to those the kernel has said that they are connected.
    pub(super) fn close_soon(&mut self) {
        self.waiting.fill(true);
        self.closing = true;
    }

    /// Closes at once.
    pub(super) fn close(&mut self) {
        self.doors.clear();
        self.waiting.clear();
        self.crowded.clear();
    }

    /// Is it taking its last clients?
    pub(super) fn is_closing(&self) -> bool {
        self.closing
    }

    /// Does it accept no more?
    pub(super) fn is_closed(&self) -> bool {
        self.doors.is_empty()
    }

    /// When it wants to look again without being told.
    pub(super) fn sleep(&self) -> Option<Duration> {
        match self.paused {
            Some(until) => Some(until - self.now),
            None => (!self.full && self.knocked().is_some()).then_some(Duration::ZERO),
        }
    }

    /// The next client, if there is one, there is room, and this is not more than a batch.
    pub(super) fn next(&mut self, shared: &Shared, now: Tick) -> Turn {
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
            let Door { listening, listener } = &self.doors[number];
            let Some(of) = shared.snapshot.listeners.get(*listener as usize) else {
                self.waiting[number] = false;
                continue;
            };
            let Some(place) = of.gate.room() else {
                self.crowded[number] = true;
                continue;
            };
            match listening.accept() {
                Ok((socket, client)) => {
                    self.taken += 1;
                    self.told = false;
                    let guest = Guest::new(&of.gate, place);
                    let unix = listening.is_unix();
                    let (listener, pool) = (*listener, of.pool.clone());
                    return Turn::Client(Accepted { socket, client, unix, listener, pool, guest, permit }, !unix);
                }
                Err(error) => self.failed(number, &error),
            }
            if self.paused.is_some() {
                break;
            }
        }
        self.taken = 0;
        // Who finds no room now would not find it later: the drain lets nobody else in.
        if self.closing && (self.full || self.paused.is_some() || self.knocked().is_none()) {
            self.close();
        }
        Turn::Over
    }

    /// A door where somebody may wait who may come in.
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
                if !self.told {
                    self.told = true;
                    log::warn!("accepting pauses: {error}");
                }
            }
        }
    }
}
