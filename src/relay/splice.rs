//! The splice engine: from the source socket into a pipe, from the pipe to the sink socket, within the kernel.
//!
//! Only an empty pipe is filled. So EAGAIN on a fill means that the source is empty, never that the pipe is full. A FIN is
//! read only after everything before it was delivered.
//!
//! splice(2) can't pass an urgent mark. There it returns EAGAIN, and 0 once the source's FIN is in the queue, whatever
//! follows the mark. Only recv passes the mark. So recv always confirms an end, and EAGAIN where a mark was announced
//! ([`super::Ready::short_read_inconclusive`]).

use super::{HeldBytes, Io, RelayBuffer, RelayResources, Transfer};
use std::io;

pub use crate::config::descriptors::PIPES;

/// Empty pipes that a worker keeps open for reuse.
const SPARE_PIPES: usize = 16;

/// The number of requests to skip after the system refused a pipe (no descriptors, or the user's limit on pipe memory).
/// Without it, each copied chunk would also pay for a failing call.
pub(super) const REFUSED: u32 = 256;

/// The pipes of a worker.
#[derive(Debug)]
pub(super) struct PipePool<P> {
    spare: Vec<P>,
    /// Pipes that are open, spare ones included, and the most that may be. There are more where connections came from another
    /// process with pipes that hold bytes.
    open: usize,
    most: usize,
    /// Requests still to skip.
    refused: u32,
}

impl<P> PipePool<P> {
    pub(super) fn new(most: usize) -> PipePool<P> {
        PipePool { spare: Vec::new(), open: 0, most, refused: 0 }
    }

    /// An empty pipe, unless the cap is reached or the system refuses one.
    pub(super) fn take(&mut self, io: &mut impl Io<Pipe = P>) -> Option<P> {
        if let Some(pipe) = self.spare.pop() {
            return Some(pipe);
        }
        if self.open >= self.most {
            return None;
        }
        if self.refused > 0 {
            self.refused -= 1;
            return None;
        }
        match io.pipe() {
            Ok(pipe) => {
                self.open += 1;
                Some(pipe)
            }
            Err(_) => {
                self.refused = REFUSED;
                None
            }
        }
    }

    /// Keeps an empty pipe for reuse, or closes it.
    fn put_back(&mut self, pipe: P) {
        if self.spare.len() < SPARE_PIPES { self.spare.push(pipe) } else { self.discard(pipe) }
    }

    /// Closes a pipe, whatever it holds.
    pub(super) fn discard(&mut self, pipe: P) {
        drop(pipe);
        self.leave();
    }

    /// A pipe is open that another worker has opened.
    pub(super) fn enter(&mut self) {
        self.open += 1;
    }

    /// A pipe is not open here any more.
    pub(super) fn leave(&mut self) {
        self.open = self.open.saturating_sub(1);
    }
}

/// Delivers the bytes of a held pipe.
pub(super) fn deliver<I: Io>(
    buffer: &mut RelayBuffer<I::Pipe>,
    transfer: &mut Transfer<'_, I>,
    shared: &mut RelayResources<I::Pipe>,
) {
    let HeldBytes::Pipe(pipe, bytes) = &mut buffer.held else { return };
    let mut in_part = false;
    // The kernel may take a pipe's pages in several steps; only EAGAIN proves that there is no room.
    while *bytes > 0 {
        let outcome = transfer.io.empty(pipe, &transfer.sink.socket, *bytes);
        if in_part && outcome.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::BrokenPipe) {
            // A partial splice hides the error that stopped it, and the kernel returns the error only once.
            transfer.sink.ready.error_taken = true;
        }
        in_part = outcome.as_ref().is_ok_and(|written| written < bytes);
        let written = transfer.note_written(outcome, *bytes);
        if written == 0 {
            return;
        }
        *bytes -= written;
        transfer.sink.ready.writable = true;
    }
    if let HeldBytes::Pipe(pipe, _) = std::mem::replace(&mut buffer.held, HeldBytes::Nothing) {
        shared.pipes.put_back(pipe);
    }
}

/// Fills a pipe once and delivers what the sink takes. False if there is no pipe, or if only recv can report the state.
pub(super) fn step<I: Io>(
    buffer: &mut RelayBuffer<I::Pipe>,
    transfer: &mut Transfer<'_, I>,
    shared: &mut RelayResources<I::Pipe>,
) -> bool {
    let Some(pipe) = shared.pipes.take(transfer.io) else { return false };
    let outcome = transfer.io.fill(&transfer.source.socket, &pipe, transfer.most);
    let in_doubt = match &outcome {
        Ok(read) => *read == 0,
        Err(error) => {
            let ready = transfer.source.ready;
            (ready.short_read_inconclusive || ready.failed) && error.kind() == io::ErrorKind::WouldBlock
        }
    };
    if in_doubt {
        shared.pipes.put_back(pipe);
        return false;
    }
    match transfer.note_read(outcome) {
        Some(read) => {
            buffer.learn(read);
            buffer.held = HeldBytes::Pipe(pipe, read);
            deliver(buffer, transfer, shared);
        }
        None => shared.pipes.put_back(pipe),
    }
    true
}
