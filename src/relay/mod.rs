//! Moves the bytes of one direction of a connection: from a source socket to a sink socket.
//!
//! The same code serves both directions. It knows nothing of sessions, timers or polls: [`pump`] is given the two ends and moves
//! what it can until the source has nothing, the sink takes nothing, or the turn is over, and reports which.
//!
//! # Two engines, one contract
//!
//! *copy*: recv into the worker's buffer, send from it. Cheapest for small messages.
//! *splice*: through a pipe in the kernel, [`crate::net::Pipe`]. Cheapest for bulk: half the CPU of copying.
//!
//! An engine is a function that, given a [`RelayBuffer`] and the two ends, first delivers what is held, then moves bytes while
//! both ends are ready, holds what the sink did not take, and keeps the transfer in the [`Report`]. Under
//! [`Engine::Adaptive`] every direction begins with copy, moves to splice after a few large reads in a row, and back after a few
//! small ones. No pipe to be had (descriptors short, or the cap reached) means copy.
//!
//! # Before there is a sink
//!
//! What a connection begins with (a PROXY header) is read with [`take_in`] into the direction's buffer, and looked at there.
//! What we have to say before the source's first byte is put in front of it with [`RelayBuffer::precede`]; the next [`pump`] reads
//! once before it writes, so that both leave in one segment.
//!
//! # Bounds
//!
//! A direction holds at most one [`CHUNK`] in a buffer (and what precedes it) or one pipe's worth, and only while its sink takes
//! none; then its source is not read, which is the back-pressure. A direction with nothing held owns no buffer and no pipe. One turn moves about
//! [`TURN`] bytes, so that a bulk transfer does not starve the others on its worker.
//!
//! # Readiness
//!
//! epoll is used edge-triggered: [`Ready`] remembers what was announced, and is cleared only by what proves it spent:
//! EAGAIN, a short write (the kernel then announces room), or a short read, which saves the recv that would say EAGAIN.
//! A short read proves nothing where more may follow in the same queue: at an urgent mark (recv stops there), on a unix
//! socket (recv may stop between two messages), or into a pipe (whose slots may be full). [`Ready::short_read_inconclusive`] is set in the
//! first two cases, and reading goes on to EAGAIN or the end.
//!
//! Of a connection that has failed, the queue is read to its end, which is an error, a FIN that came before, or EAGAIN (a peer
//! that is dead, and of which the kernel does not know it yet).
//!
//! Once the peer's FIN was announced (EPOLLRDHUP: everything before it is in the queue), a short read has emptied the queue
//! up to the FIN, and the recv that would say 0 is saved. The bytes before it are sent as the last ones (MSG_MORE), so that
//! the FIN that the session passes on next goes out in the same packet: the other side wakes once instead of twice.

mod copy;
mod splice;
#[cfg(test)]
mod tests;

pub use crate::config::model::Engine;
pub use splice::PIPES;

use std::io;

/// The most that is copied at once, and the most a buffer holds.
pub const CHUNK: usize = 64 * 1024;

/// The most that one direction moves before the others of its worker have their turn.
pub const TURN: u64 = 4 * CHUNK as u64;

/// How many buffers a worker keeps for the next direction that needs one.
const SPARE_BUFFERS: usize = 32;

/// A read of at least this much counts as bulk.
const LARGE: usize = CHUNK / 2;

/// So many reads in a row that contradict the engine in use change it.
const EVIDENCE: u8 = 3;

/// What the engines need from the system; the simulation has its own.
pub trait Io {
    /// An open stream socket.
    type Socket;

    /// A pipe in the kernel.
    type Pipe;

    /// Reads what is there. 0: the peer's FIN. `WouldBlock`: nothing there.
    fn recv(&mut self, socket: &Self::Socket, buffer: &mut [u8]) -> io::Result<usize>;

    /// Writes what is taken. `WouldBlock`: nothing. With `last`, a FIN follows at once if all of it is taken: it may wait
    /// for that and go out in the same packet.
    fn send(&mut self, socket: &Self::Socket, bytes: &[u8], last: bool) -> io::Result<usize>;

    /// A new, empty pipe.
    fn pipe(&mut self) -> io::Result<Self::Pipe>;

    /// As [`Io::recv`], into an empty pipe; but 0 and `WouldBlock` may mean an urgent mark, which only [`Io::recv`] passes.
    fn fill(&mut self, socket: &Self::Socket, pipe: &Self::Pipe) -> io::Result<usize>;

    /// As [`Io::send`], of `bytes` that the pipe holds.
    fn empty(&mut self, pipe: &Self::Pipe, socket: &Self::Socket, bytes: usize) -> io::Result<usize>;
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
    /// A short read does not mean that the queue is empty.
    pub short_read_inconclusive: bool,
    /// The peer's FIN is in the queue.
    pub finished: bool,
    /// The connection has failed: what is in the queue is the last of it.
    pub failed: bool,
    /// Nothing more is read from it: its end has been read, or what it sends can't be delivered.
    pub ended: bool,
    /// The kernel has handed its error out, which it does once. From then on it reports the end of the queue as a FIN, though
    /// there was none.
    pub error_taken: bool,
}

/// The state of one direction. Nothing held is the normal case and owns nothing.
#[derive(Debug)]
pub struct RelayBuffer<P> {
    held: HeldBytes<P>,
    /// What is held is to leave together with what the source has already.
    joins: bool,
    /// Moved by splice, as far as there are pipes.
    bulk: bool,
    /// Reads in a row that speak for the other engine.
    evidence: u8,
}

/// Bytes that were read and not taken yet.
#[derive(Debug)]
enum HeldBytes<P> {
    Nothing,
    /// `bytes[start..]`, never empty.
    Buffer {
        bytes: Vec<u8>,
        start: usize,
    },
    /// So many bytes, never none.
    Pipe(P, usize),
}

/// What the directions of one worker share: the buffer that bytes pass through, and spares for those that must wait.
#[derive(Debug)]
pub struct RelayResources<P> {
    engine: Engine,
    scratch: Box<[u8]>,
    buffers: Vec<Vec<u8>>,
    pipes: splice::PipePool<P>,
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
    /// Reading or writing failed, and with what. The source has failed when all that it sent before has been read.
    pub failed: Option<RelayError>,
}

/// Which end failed.
#[derive(Debug)]
pub enum RelayError {
    /// Reading.
    Source(io::Error),
    /// Writing.
    Sink(io::Error),
}

impl<P> Default for RelayBuffer<P> {
    fn default() -> Self {
        RelayBuffer { held: HeldBytes::Nothing, joins: false, bulk: false, evidence: 0 }
    }
}

impl<P> RelayResources<P> {
    /// For a worker that may have `pipes` pipes open at once.
    pub fn new(engine: Engine, pipes: usize) -> RelayResources<P> {
        RelayResources {
            engine,
            scratch: vec![0; CHUNK].into_boxed_slice(),
            buffers: Vec::new(),
            pipes: splice::PipePool::new(pipes),
        }
    }
}

impl<P> RelayBuffer<P> {
    /// Is there anything that the sink has not taken yet?
    pub fn holds(&self) -> bool {
        !matches!(self.held, HeldBytes::Nothing)
    }

    /// Is it moving bulk? Then others go first.
    pub fn is_bulk(&self) -> bool {
        self.bulk
    }

    /// Would [`pump`] have something to do?
    pub fn can_move(&self, source: Ready, sink: Ready) -> bool {
        sink.writable && (self.holds() || (source.readable && !source.ended))
    }

    /// What is held, as far as it is in a buffer.
    pub fn held(&self) -> &[u8] {
        match &self.held {
            HeldBytes::Buffer { bytes, start } => &bytes[*start..],
            HeldBytes::Nothing | HeldBytes::Pipe(..) => &[],
        }
    }

    /// Drops the first `count` bytes of [`RelayBuffer::held`].
    pub fn skip(&mut self, count: usize, shared: &mut RelayResources<P>) {
        let HeldBytes::Buffer { bytes, start } = &mut self.held else { return };
        *start = (*start + count).min(bytes.len());
        if *start == bytes.len() {
            self.discard(shared);
        }
    }

    /// Puts `bytes` before everything else in this direction. Only before the first [`pump`], when no pipe is held yet.
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

    /// Drops what is held.
    pub fn discard(&mut self, shared: &mut RelayResources<P>) {
        match std::mem::replace(&mut self.held, HeldBytes::Nothing) {
            HeldBytes::Nothing => {}
            HeldBytes::Buffer { bytes, .. } => shared.put_back(bytes),
            // Its bytes would come out again at the next user: the pipe goes with them.
            HeldBytes::Pipe(pipe, _) => shared.pipes.discard(pipe),
        }
    }

    /// Keeps what the sink did not take.
    fn keep(&mut self, bytes: &[u8], spare: Option<Vec<u8>>) {
        let mut buffer = spare.unwrap_or_default();
        buffer.extend_from_slice(bytes);
        self.held = HeldBytes::Buffer { bytes: buffer, start: 0 };
    }

    /// Takes the size of a read as evidence for one engine or the other.
    fn learn(&mut self, engine: Engine, read: usize) {
        if engine != Engine::Adaptive {
            return;
        }
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

/// What a look at a source without a sink came to.
#[derive(Debug)]
pub enum TakenIn {
    /// More is held now.
    Bytes,
    /// The source has nothing.
    Nothing,
    /// The source's FIN was read.
    Fin,
    /// Reading failed.
    Failed(io::Error),
}

/// Reads once from the source into what is held: for what must be looked at before there is a sink.
pub fn take_in<I: Io>(
    buffer: &mut RelayBuffer<I::Pipe>,
    io: &mut I,
    source: &mut End<I::Socket>,
    shared: &mut RelayResources<I::Pipe>,
) -> TakenIn {
    match copy::append(buffer, io, source, shared) {
        Ok((0, _)) => TakenIn::Fin,
        // A FIN behind them stays to be read: there is nobody yet to pass it on to.
        Ok(_) => TakenIn::Bytes,
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
            source.ready.readable = false;
            TakenIn::Nothing
        }
        Err(error) => TakenIn::Failed(error),
    }
}

/// Moves bytes from `source` to `sink`. Of a source that has ended, only what is held is delivered.
pub fn pump<I: Io>(
    buffer: &mut RelayBuffer<I::Pipe>,
    io: &mut I,
    source: &mut End<I::Socket>,
    sink: &mut End<I::Socket>,
    shared: &mut RelayResources<I::Pipe>,
) -> Report {
    let mut transfer = Transfer { io, source, sink, report: Report::default() };
    let open = !transfer.source.ready.ended;
    if std::mem::take(&mut buffer.joins) && open && transfer.source.ready.readable {
        copy::join(buffer, &mut transfer, shared);
    }
    if transfer.report.failed.is_none() {
        copy::deliver(buffer, &mut transfer, shared);
        splice::deliver(buffer, &mut transfer, shared);
    }
    // The engine may change on the way; each goes on where the other stopped.
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

/// The two ends while bytes move, with what has come of it.
struct Transfer<'a, I: Io> {
    io: &'a mut I,
    source: &'a mut End<I::Socket>,
    sink: &'a mut End<I::Socket>,
    report: Report,
}

impl<I: Io> Transfer<'_, I> {
    /// Both ends are ready, nothing is over, and it is still our turn.
    fn may_read(&mut self) -> bool {
        let report = &mut self.report;
        if report.fin || report.failed.is_some() || !self.source.ready.readable || !self.sink.ready.writable {
            return false;
        }
        report.again = report.read >= TURN;
        !report.again
    }

    /// Counts a read; the bytes read, if any.
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

    /// Counts a write of `wanted` bytes; how many were taken. After a failure it makes no difference.
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
                    // EPIPE stands for a FIN that came before the reset, and that a read still reports.
                    self.sink.ready.error_taken |= error.kind() != io::ErrorKind::BrokenPipe;
                    self.report.failed = Some(RelayError::Sink(error));
                }
                0
            }
        }
    }
}
