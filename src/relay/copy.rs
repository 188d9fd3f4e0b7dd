//! The copy engine: recv into the worker's buffer, send from it. What the sink does not take is kept in a buffer of its
//! own until it does.

use super::{CHUNK, End, Failed, Io, Report, TURN};
use std::io::{self, ErrorKind};

/// How many buffers a worker keeps for the next way that needs one.
const SPARE: usize = 32;

/// What the ways of one worker share: the buffer that bytes pass through, and spare ones for those that must wait.
#[derive(Debug)]
pub struct Shared {
    scratch: Box<[u8]>,
    spare: Vec<Vec<u8>>,
}

impl Default for Shared {
    fn default() -> Self {
        Shared { scratch: vec![0; CHUNK].into_boxed_slice(), spare: Vec::new() }
    }
}

/// Bytes that were read and not taken yet: `buffer[start..]`. No memory while there are none.
#[derive(Debug, Default)]
pub struct Held {
    buffer: Vec<u8>,
    start: usize,
}

impl Held {
    /// What is held.
    pub fn bytes(&self) -> &[u8] {
        &self.buffer[self.start..]
    }

    fn keep(&mut self, bytes: &[u8], shared_spare: &mut Vec<Vec<u8>>) {
        self.buffer = shared_spare.pop().unwrap_or_default();
        self.buffer.extend_from_slice(bytes);
        self.start = 0;
    }

    pub(super) fn release(&mut self, shared: &mut Shared) {
        let mut buffer = std::mem::take(&mut self.buffer);
        self.start = 0;
        if buffer.capacity() > 0 && shared.spare.len() < SPARE {
            buffer.clear();
            shared.spare.push(buffer);
        }
    }
}

pub(super) fn run<I: Io>(
    held: &mut Held,
    io: &mut I,
    source: &mut End<I::Socket>,
    sink: &mut End<I::Socket>,
    open: bool,
    shared: &mut Shared,
    report: &mut Report,
) {
    if !held.bytes().is_empty() {
        let Some(sent) = send(io, sink, held.bytes(), report) else { return };
        held.start += sent;
        if !held.bytes().is_empty() {
            return;
        }
        held.release(shared);
    }
    while open && source.ready.readable && sink.ready.writable {
        if report.read >= TURN {
            report.again = true;
            return;
        }
        let Some(read) = recv(io, source, &mut shared.scratch, report) else { return };
        let bytes = &shared.scratch[..read];
        let Some(sent) = send(io, sink, bytes, report) else { return };
        if sent < read {
            // At most one chunk: nothing is read while any is held.
            held.keep(&bytes[sent..], &mut shared.spare);
            return;
        }
    }
}

/// Bytes read; `None` if there are none, for a reason that is in the report or in the readiness.
fn recv<I: Io>(io: &mut I, source: &mut End<I::Socket>, buffer: &mut [u8], report: &mut Report) -> Option<usize> {
    match io.recv(&source.socket, buffer) {
        Ok(0) => {
            source.ready.readable = false;
            report.fin = true;
            None
        }
        Ok(read) => {
            report.read += read as u64;
            if read < buffer.len() && !source.ready.drain {
                source.ready.readable = false;
            }
            Some(read)
        }
        Err(error) if error.kind() == ErrorKind::WouldBlock => {
            source.ready.readable = false;
            None
        }
        Err(error) => {
            report.failed = Some(Failed::Source(error));
            None
        }
    }
}

/// Bytes taken, perhaps none; `None` if the sink failed.
fn send<I: Io>(io: &mut I, sink: &mut End<I::Socket>, bytes: &[u8], report: &mut Report) -> Option<usize> {
    let outcome: io::Result<usize> = io.send(&sink.socket, bytes);
    match outcome {
        Ok(sent) => {
            report.written += sent as u64;
            if sent < bytes.len() {
                sink.ready.writable = false;
            }
            Some(sent)
        }
        Err(error) if error.kind() == ErrorKind::WouldBlock => {
            sink.ready.writable = false;
            Some(0)
        }
        Err(error) => {
            report.failed = Some(Failed::Sink(error));
            None
        }
    }
}
