//! Moves the bytes of one direction of a connection: from a source socket to a sink socket.
//!
//! The same code serves both directions. It does not know sessions, timers or polls. [`pump`] moves bytes until the
//! source is empty, the sink is full, or the turn is over, and reports which.
//!
//! # Two engines, one contract
//!
//! *copy*: recv into the worker's buffer, send from it. It costs least for small messages.
//! *splice*: through a pipe in the kernel, [`crate::net::Pipe`]. It costs least for bulk: half the CPU of copying.
//!
//! An engine first delivers the held bytes of a [`RelayBuffer`]. Then it moves bytes while both ends are ready, holds
//! what the sink does not take, and counts in the [`Report`]. Under [`Engine::Adaptive`] every direction starts with
//! copy, changes to splice after a few large reads in a row, and back after a few small ones. Without a pipe (no
//! descriptor, or the cap is reached) it copies.
//!
//! # Before there is a sink
//!
//! The first bytes of a connection (a PROXY header, what routes need) are read with [`take_in`] into the held bytes and examined there.
//! [`RelayBuffer::precede`] puts our own bytes before the source's first byte. The next [`pump`] then reads once before
//! it writes, so that both leave in one segment.
//!
//! # Bounds
//!
//! A direction holds at most one [`CHUNK`] in a buffer (and what precedes it) or one pipe's worth, and only while its
//! sink is full. Its source is then not read, which is the back-pressure. A direction that holds nothing owns no buffer
//! and no pipe. The caller bounds the bytes of a turn, so that bulk does not starve the worker's other connections.
//!
//! # Readiness
//!
//! epoll is edge-triggered: [`Ready`] remembers announced readiness, and only proof clears it. Proof is EAGAIN, a short
//! write (the kernel then announces room), or a short read, which saves the recv for EAGAIN. There are three cases where a
//! short read proves nothing:
//!
//! * at an urgent mark: recv stops there;
//! * on a unix socket: recv may stop between two messages;
//! * into a pipe, whose slots may be full.
//!
//! [`Ready::short_read_inconclusive`] is set in the first two cases, and reading goes on to EAGAIN or the end.
//!
//! The queue of a failed connection is read to its end: an error, an earlier FIN, or EAGAIN. EAGAIN means that the kernel
//! does not know yet that the peer is dead.
//!
//! After EPOLLRDHUP the whole queue up to the peer's FIN has arrived. So a short read has emptied it, and the recv for 0 is
//! saved. The bytes before the FIN are sent with MSG_MORE, so that the FIN leaves in the same packet and the other
//! side wakes once.

mod copy;
mod splice;
#[cfg(test)]
mod tests;

pub use crate::config::model::Engine;
use copy::Appended;
pub use splice::PIPES;

use serde::{Deserialize, Serialize};
use std::io;

/// The most bytes that are copied at once, and that a buffer holds.
pub const CHUNK: usize = 64 * 1024;

/// Buffers that a worker keeps for reuse.
const SPARE_BUFFERS: usize = 32;

/// The least bytes of a read that counts as bulk.
const LARGE: usize = CHUNK / 2;

/// Reads in a row that contradict what a direction counts as, before that changes.
const EVIDENCE: u8 = 3;

/// The system calls of the engines; the simulation implements its own.
pub trait Io {
    /// An open stream socket.
    type Socket;

    /// A pipe in the kernel.
    type Pipe;

    /// Reads available bytes. 0: the peer's FIN. `WouldBlock`: no bytes.
    fn recv(&mut self, socket: &Self::Socket, buffer: &mut [u8]) -> io::Result<usize>;

    /// Writes what the sink takes. `WouldBlock`: no room.
    fn send(&mut self, socket: &Self::Socket, bytes: &[u8], then: AfterBytes) -> io::Result<usize>;

    /// Opens an empty pipe.
    fn pipe(&mut self) -> io::Result<Self::Pipe>;

    /// As [`Io::recv`], up to `most` bytes into an empty pipe. 0 and `WouldBlock` may also mean an urgent mark, which only [`Io::recv`]
    /// passes.
    fn fill(&mut self, socket: &Self::Socket, pipe: &Self::Pipe, most: usize) -> io::Result<usize>;

    /// As [`Io::send`], for `bytes` bytes in the pipe.
    fn empty(&mut self, pipe: &Self::Pipe, socket: &Self::Socket, bytes: usize) -> io::Result<usize>;
}

/// What follows the bytes of a [`Io::send`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AfterBytes {
    /// More bytes, sooner or later.
    Bytes,
    /// A FIN, once all of them are taken: they may wait for it and share its packet.
    Fin,
}

/// A socket and its known readiness.
#[derive(Debug)]
pub struct End<S> {
    /// The socket.
    pub socket: S,
    /// The announced readiness.
    pub ready: Ready,
}

/// Readiness that was announced and is not used up yet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Ready {
    /// There may be bytes to read.
    pub readable: bool,
    /// There may be room to write.
    pub writable: bool,
    /// A short read does not mean that the queue is empty.
    pub short_read_inconclusive: bool,
    /// The peer's FIN is in the queue.
    pub finished: bool,
    /// The connection has failed: the queue holds its last bytes.
    pub failed: bool,
    /// Reading has ended: the end was read, or the bytes can't be delivered.
    pub ended: bool,
    /// The kernel has returned the error, which it does once. From then on it reports the end of the queue as a FIN,
    /// even without one.
    pub error_taken: bool,
}

/// The state of one direction. Usually it holds nothing and owns nothing.
#[derive(Debug)]
pub struct RelayBuffer<P> {
    held: HeldBytes<P>,
    /// The held bytes wait to leave together with bytes that the source has already.
    joins: bool,
    /// It moves bulk. The adaptive engine then uses splice, as far as there are pipes.
    bulk: bool,
    /// Reads in a row that contradict that.
    evidence: u8,
}

/// Bytes that were read and that the sink has not taken.
#[derive(Debug)]
enum HeldBytes<P> {
    Nothing,
    /// `bytes[start..]`, never empty.
    Buffer {
        bytes: Vec<u8>,
        start: usize,
    },
    /// This many bytes in the pipe, never 0.
    Pipe(P, usize),
}

/// Resources that the directions of one worker share: the copy buffer, spare buffers, pipes.
#[derive(Debug)]
pub struct RelayResources<P> {
    engine: Engine,
    scratch: Box<[u8]>,
    buffers: Vec<Vec<u8>>,
    pipes: splice::PipePool<P>,
}

/// The result of a call of [`pump`].
#[derive(Debug, Default)]
pub struct Report {
    /// Bytes read from the source.
    pub read: u64,
    /// Bytes written to the sink.
    pub written: u64,
    /// The source's FIN was read.
    pub fin: bool,
    /// The turn is over while both ends are still ready.
    pub again: bool,
    /// The end that failed. A source counts as failed once everything that it sent before has been read.
    pub failed: Option<RelayError>,
}

/// Which end failed.
#[derive(Debug)]
pub enum RelayError {
    /// Reading from the source failed.
    Source(io::Error),
    /// Writing to the sink failed.
    Sink(io::Error),
}

impl<P> Default for RelayBuffer<P> {
    fn default() -> Self {
        RelayBuffer { held: HeldBytes::Nothing, joins: false, bulk: false, evidence: 0 }
    }
}

impl<P> RelayResources<P> {
    /// Resources for a worker that may have `pipes` pipes open at once.
    pub fn new(engine: Engine, pipes: usize) -> RelayResources<P> {
        RelayResources {
            engine,
            scratch: vec![0; CHUNK].into_boxed_slice(),
            buffers: Vec::new(),
            pipes: splice::PipePool::new(pipes),
        }
    }

    /// Room for bytes that are looked at only: a [`CHUNK`], which every read overwrites.
    pub fn scratch(&mut self) -> &mut [u8] {
        &mut self.scratch
    }
}

impl<P> RelayBuffer<P> {
    /// Whether there are bytes that the sink has not taken yet.
    pub fn holds(&self) -> bool {
        !matches!(self.held, HeldBytes::Nothing)
    }

    /// Whether these are in a pipe.
    pub fn is_piped(&self) -> bool {
        matches!(self.held, HeldBytes::Pipe(..))
    }

    /// Whether it moves bulk; the worker serves others first.
    pub fn is_bulk(&self) -> bool {
        self.bulk
    }

    /// Whether [`pump`] could move anything.
    pub fn can_move(&self, source: Ready, sink: Ready) -> bool {
        sink.writable && (self.holds() || (source.readable && !source.ended))
    }

    /// The held bytes in a buffer; those in a pipe are not visible.
    pub fn held(&self) -> &[u8] {
        match &self.held {
            HeldBytes::Buffer { bytes, start } => &bytes[*start..],
            HeldBytes::Nothing | HeldBytes::Pipe(..) => &[],
        }
    }

    /// The pipe with held bytes, and how many there are.
    pub fn pipe(&self) -> Option<(&P, usize)> {
        if let HeldBytes::Pipe(pipe, bytes) = &self.held { Some((pipe, *bytes)) } else { None }
    }

    /// Its direction leaves the worker: a pipe that it holds is not the worker's any more.
    pub fn leave(&self, shared: &mut RelayResources<P>) {
        if self.pipe().is_some() {
            shared.pipes.leave();
        }
    }

    /// Its direction joins the worker. A pipe that it holds is the worker's from now on, also beyond the most that there may be.
    pub fn enter(&self, shared: &mut RelayResources<P>) {
        if self.pipe().is_some() {
            shared.pipes.enter();
        }
    }

    /// Holds these bytes, in a buffer or in the pipe; [`RelayBuffer::enter`] comes next.
    pub fn holding(bytes: &[u8], pipe: Option<(P, usize)>) -> RelayBuffer<P> {
        let held = match pipe {
            Some((pipe, count)) if count > 0 => HeldBytes::Pipe(pipe, count),
            _ if bytes.is_empty() => HeldBytes::Nothing,
            _ => HeldBytes::Buffer { bytes: bytes.to_vec(), start: 0 },
        };
        RelayBuffer { held, ..RelayBuffer::default() }
    }

    /// Gives its pipe back, and drops all else.
    pub fn into_pipe(self) -> Option<P> {
        if let HeldBytes::Pipe(pipe, _) = self.held { Some(pipe) } else { None }
    }

    /// Drops the first `count` bytes of [`RelayBuffer::held`].
    pub fn skip(&mut self, count: usize, shared: &mut RelayResources<P>) {
        let HeldBytes::Buffer { bytes, start } = &mut self.held else { return };
        *start = (*start + count).min(bytes.len());
        if *start == bytes.len() {
            self.discard(shared);
        }
    }

    /// Puts `bytes` before all others of this direction. Only before the first [`pump`], when it holds no pipe.
    pub fn precede(&mut self, bytes: &[u8], shared: &mut RelayResources<P>) {
        if bytes.is_empty() {
            return;
        }
        let mut buffer = shared.buffers.pop().unwrap_or_default();
        buffer.extend_from_slice(bytes);
        buffer.extend_from_slice(self.held());
        self.discard(shared);
        self.held = HeldBytes::Buffer { bytes: buffer, start: 0 };
        self.joins = true;
    }

    /// Drops the held bytes.
    pub fn discard(&mut self, shared: &mut RelayResources<P>) {
        match std::mem::replace(&mut self.held, HeldBytes::Nothing) {
            HeldBytes::Nothing => {}
            HeldBytes::Buffer { bytes, .. } => shared.put_back(bytes),
            // A reused pipe would deliver these bytes to another connection, so it is closed.
            HeldBytes::Pipe(pipe, _) => shared.pipes.discard(pipe),
        }
    }

    /// Holds what the sink did not take.
    fn keep(&mut self, bytes: &[u8], spare: Option<Vec<u8>>) {
        let mut buffer = spare.unwrap_or_default();
        buffer.extend_from_slice(bytes);
        self.held = HeldBytes::Buffer { bytes: buffer, start: 0 };
    }

    /// Counts the size of a read for or against bulk.
    fn learn(&mut self, read: usize) {
        if (read >= LARGE) == self.bulk {
            self.evidence = 0;
            return;
        }
        self.evidence += 1;
        if self.evidence >= EVIDENCE {
            self.bulk = !self.bulk;
            self.evidence = 0;
        }
    }
}

impl<P> RelayResources<P> {
    fn put_back(&mut self, mut buffer: Vec<u8>) {
        if self.buffers.len() < SPARE_BUFFERS {
            buffer.clear();
            self.buffers.push(buffer);
        }
    }
}

/// The result of [`take_in`].
#[derive(Debug)]
pub enum TakenIn {
    /// More bytes are held now.
    Bytes,
    /// The source has no bytes.
    Nothing,
    /// The source's FIN was read.
    Fin,
    /// Reading failed.
    Failed(io::Error),
}

/// Reads once from the source into the held bytes, to examine them before there is a sink.
pub fn take_in<I: Io>(
    buffer: &mut RelayBuffer<I::Pipe>,
    io: &mut I,
    source: &mut End<I::Socket>,
    shared: &mut RelayResources<I::Pipe>,
) -> TakenIn {
    match copy::append(buffer, io, source, shared) {
        Ok(Appended { read: 0, .. }) => TakenIn::Fin,
        // A FIN behind the bytes stays unread: there is no sink for it yet.
        Ok(_) => TakenIn::Bytes,
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
            source.ready.readable = false;
            TakenIn::Nothing
        }
        Err(error) => TakenIn::Failed(error),
    }
}

/// Moves bytes from `source` to `sink`. The turn ends with the read that reaches `most` bytes, and no read takes more than that. If
/// the source has ended, only held bytes are delivered.
pub fn pump<I: Io>(
    buffer: &mut RelayBuffer<I::Pipe>,
    io: &mut I,
    source: &mut End<I::Socket>,
    sink: &mut End<I::Socket>,
    shared: &mut RelayResources<I::Pipe>,
    most: usize,
) -> Report {
    let mut transfer = Transfer { io, source, sink, most, report: Report::default() };
    let open = !transfer.source.ready.ended;
    if std::mem::take(&mut buffer.joins) && open && transfer.source.ready.readable {
        copy::join(buffer, &mut transfer, shared);
    }
    if transfer.report.failed.is_none() {
        copy::deliver(buffer, &mut transfer, shared);
        splice::deliver(buffer, &mut transfer, shared);
    }
    // The engine may change in between; the next one continues.
    while open && transfer.may_read() && !buffer.holds() {
        let spliced = match shared.engine {
            Engine::Copy => false,
            Engine::Splice => true,
            Engine::Adaptive => buffer.bulk,
        } && splice::step(buffer, &mut transfer, shared);
        if !spliced {
            copy::step(buffer, &mut transfer, shared);
        }
    }
    let report = transfer.report;
    source.ready.ended |= report.fin || matches!(report.failed, Some(RelayError::Source(_)));
    report
}

/// The two ends during a pump, and its report.
struct Transfer<'a, I: Io> {
    io: &'a mut I,
    source: &'a mut End<I::Socket>,
    sink: &'a mut End<I::Socket>,
    /// The bytes that end the turn.
    most: usize,
    report: Report,
}

impl<I: Io> Transfer<'_, I> {
    /// Whether both ends are ready, neither has ended, and the turn is not over.
    fn may_read(&mut self) -> bool {
        let report = &mut self.report;
        if report.fin || report.failed.is_some() || !self.source.ready.readable || !self.sink.ready.writable {
            return false;
        }
        report.again = report.read >= self.most as u64;
        !report.again
    }

    /// What follows the bytes that were read so far.
    fn after_bytes(&self) -> AfterBytes {
        if self.report.fin { AfterBytes::Fin } else { AfterBytes::Bytes }
    }

    /// Counts a read. Returns the number of bytes, if there are any.
    fn note_read(&mut self, outcome: io::Result<usize>) -> Option<usize> {
        match outcome {
            Ok(0) if self.source.ready.error_taken => {
                self.report.failed = Some(RelayError::Source(io::ErrorKind::ConnectionReset.into()));
                None
            }
            Ok(0) => {
                self.source.ready.readable = false;
                self.report.fin = true;
                None
            }
            Ok(read) => {
                self.report.read += read as u64;
                Some(read)
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock && !self.source.ready.failed => {
                self.source.ready.readable = false;
                None
            }
            Err(error) => {
                self.report.failed = Some(RelayError::Source(error));
                None
            }
        }
    }

    /// Counts a write of `wanted` bytes. Returns how many were taken.
    fn note_written(&mut self, outcome: io::Result<usize>, wanted: usize) -> usize {
        match outcome {
            Ok(written) => {
                self.report.written += written as u64;
                self.sink.ready.writable = written == wanted;
                written
            }
            Err(error) => {
                self.sink.ready.writable = false;
                if error.kind() != io::ErrorKind::WouldBlock {
                    // EPIPE means that a FIN came before the reset; a read still reports the error.
                    self.sink.ready.error_taken |= error.kind() != io::ErrorKind::BrokenPipe;
                    self.report.failed = Some(RelayError::Sink(error));
                }
                0
            }
        }
    }
}
