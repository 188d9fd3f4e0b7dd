//! The splice engine: from the source socket into a pipe, from the pipe to the sink socket, all in the kernel.
//!
//! A pipe is filled only when it is empty. So EAGAIN while filling can only mean that the source has nothing, never that
//! the pipe is full (the two look alike), and a FIN is only read when everything before it was delivered.
//!
//! splice(2) can't pass an urgent mark: there it says that the source has nothing, and, once the source's FIN is in the
//! queue, that this is the end, whatever stands behind the mark. Only recv passes it and tells the truth. So an end is
//! always left to recv to confirm, and EAGAIN where a mark was announced ([`super::Ready::short_read_inconclusive`]).

use super::{HeldBytes, Io, RelayBuffer, RelayResources, Transfer};
use std::io;

pub use crate::config::descriptors::PIPES;

/// How many empty pipes a worker keeps open for the next direction that carries bulk.
const SPARE_PIPES: usize = 16;

/// After the system refused a pipe (descriptors are short, or the user's share of pipe memory is used up), so many are not
/// even asked for: what would have been spliced is copied, and need not pay for asking as well, once a chunk.
pub(super) const REFUSED: u32 = 256;

/// A worker's pipes.
#[derive(Debug)]
pub(super) struct PipePool<P> {
    spare: Vec<P>,
    /// How many more may be opened.
    left: usize,
    /// How many more are not asked for.
    refused: u32,
}

impl<P> PipePool<P> {
    pub(super) fn new(most: usize) -> PipePool<P> {
        PipePool { spare: Vec::new(), left: most, refused: 0 }
    }

    /// An empty pipe, unless the cap is reached or the system has none for us.
    pub(super) fn take(&mut self, io: &mut impl Io<Pipe = P>) -> Option<P> {
        if let Some(pipe) = self.spare.pop() {
            return Some(pipe);
        }
        if self.left == 0 {
            return None;
        }
        if self.refused > 0 {
            self.refused -= 1;
            return None;
        }
        match io.pipe() {
            Ok(pipe) => {
                self.left -= 1;
                Some(pipe)
            }
            Err(_) => {
                self.refused = REFUSED;
                None
            }
        }
    }

    /// Takes an empty pipe back.
    fn put_back(&mut self, pipe: P) {
        if self.spare.len() < SPARE_PIPES { self.spare.push(pipe) } else { self.discard(pipe) }
    }

    /// Closes a pipe.
    pub(super) fn discard(&mut self, pipe: P) {
        drop(pipe);
        self.left += 1;
    }
}

/// Delivers from a pipe that is held.
pub(super) fn deliver<I: Io>(
    buffer: &mut RelayBuffer<I::Pipe>,
    transfer: &mut Transfer<'_, I>,
    shared: &mut RelayResources<I::Pipe>,
) {
    let HeldBytes::Pipe(pipe, bytes) = &mut buffer.held else { return };
    let mut in_part = false;
    // The kernel may take a pipe's pages one lot at a time: only EAGAIN says that there is no room.
    while *bytes > 0 {
        let outcome = transfer.io.empty(pipe, &transfer.sink.socket, *bytes);
        if in_part && outcome.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::BrokenPipe) {
            // A splice that takes a part hides the error that stopped it, and the kernel hands it out only once.
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

/// Fills a pipe once and delivers what it can. False if there is no pipe, or if recv has to look.
pub(super) fn step<I: Io>(
    buffer: &mut RelayBuffer<I::Pipe>,
    transfer: &mut Transfer<'_, I>,
    shared: &mut RelayResources<I::Pipe>,
) -> bool {
    let Some(pipe) = shared.pipes.take(transfer.io) else { return false };
    let outcome = transfer.io.fill(&transfer.source.socket, &pipe);
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
            buffer.learn(shared.engine, read);
            buffer.held = HeldBytes::Pipe(pipe, read);
            deliver(buffer, transfer, shared);
        }
        None => shared.pipes.put_back(pipe),
    }
    true
}
