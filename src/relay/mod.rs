//! Moves the bytes of one way of a connection: from a source socket to a sink socket.
//!
//! The same code serves both ways. It knows nothing of sessions, timers or polls: [`pump`] is given the two ends and moves
//! what it can until the source has nothing, the sink takes nothing, or the turn is over, and reports which.
//!
//! # Bounds
//!
//! A way holds at most [`CHUNK`] bytes, and only while its sink takes none; then its source is not read, which is the
//! back-pressure. A way with nothing held owns no buffer. One turn moves at most [`TURN`] bytes, so that a bulk flow
//! does not starve the others on its worker.
//!
//! # Readiness
//!
//! epoll is used edge-triggered: [`Ready`] remembers what was announced, and is cleared only by what proves it spent:
//! EAGAIN, a short write (the kernel then announces room), or a short read, which saves the recv that would say EAGAIN.
//! A short read proves nothing where more may follow in the same queue: after the peer's FIN was announced (its end of
//! file is still to be read), at an urgent mark (recv stops there), or on a unix socket (recv may stop between two
//! messages). [`Ready::drain`] is set then, and reading goes on to EAGAIN or the end.

mod copy;

pub use copy::{Held, Shared};

use std::io;

/// The most that is read at once, and the most a way ever holds.
pub const CHUNK: usize = 64 * 1024;

/// The most that one way moves before the others of its worker have their turn.
pub const TURN: u64 = 4 * CHUNK as u64;

/// What the engines need from the system; the simulation has its own.
pub trait Io {
    /// An open stream socket.
    type Socket;

    /// Reads what is there. 0: the peer's FIN. `WouldBlock`: nothing there.
    fn recv(&mut self, socket: &Self::Socket, buffer: &mut [u8]) -> io::Result<usize>;

    /// Writes what is taken. `WouldBlock`: nothing.
    fn send(&mut self, socket: &Self::Socket, bytes: &[u8]) -> io::Result<usize>;
}

/// A socket and what is known of its readiness.
#[derive(Debug)]
pub struct End<S> {
    /// The socket.
    pub socket: S,
    /// What it is ready for.
    pub ready: Ready,
}

/// What was announced and not spent yet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ready {
    /// There may be something to read.
    pub readable: bool,
    /// There may be room to write.
    pub writable: bool,
    /// Read on to EAGAIN or the end: a short read does not mean that the queue is empty.
    pub drain: bool,
}

/// The state of one way. Nothing held is the normal case and costs nothing.
#[derive(Debug, Default)]
pub struct Flow {
    held: Held,
}

/// What one call of [`pump`] came to.
#[derive(Debug, Default)]
pub struct Report {
    /// Bytes read from the source.
    pub read: u64,
    /// Bytes written to the sink.
    pub written: u64,
    /// The source's FIN was read.
    pub fin: bool,
    /// The turn is over, but both ends are still ready.
    pub again: bool,
    /// Reading or writing failed, and with what.
    pub failed: Option<Failed>,
}

/// Which end failed.
#[derive(Debug)]
pub enum Failed {
    /// Reading.
    Source(io::Error),
    /// Writing.
    Sink(io::Error),
}

impl Flow {
    /// Is there anything that the sink has not taken yet?
    pub fn holds(&self) -> bool {
        !self.held.bytes().is_empty()
    }

    /// Would [`pump`] have something to do?
    pub fn can_move(&self, source: Ready, sink: Ready, open: bool) -> bool {
        sink.writable && (self.holds() || (open && source.readable))
    }

    /// Lets go of what is held, giving its memory back.
    pub fn discard(&mut self, shared: &mut Shared) {
        self.held.release(shared);
    }
}

/// Moves bytes from `source` to `sink`. With `open` false, the source's FIN was read before: only what is held is
/// delivered.
pub fn pump<I: Io>(
    flow: &mut Flow,
    io: &mut I,
    source: &mut End<I::Socket>,
    sink: &mut End<I::Socket>,
    open: bool,
    shared: &mut Shared,
) -> Report {
    let mut report = Report::default();
    copy::run(&mut flow.held, io, source, sink, open, shared, &mut report);
    report
}
