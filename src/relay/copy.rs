//! The copy engine: recv into the worker's buffer, send from it. What the sink does not take is kept in a buffer of its
//! own until it does.

use super::{Books, CHUNK, End, Flow, Held, Io, Shared};
use std::io;

/// One read, added to what a buffer holds: never more than makes a [`CHUNK`], and at least a byte. `true` with it: nothing
/// is left before the source's FIN, which has not been read.
pub(super) fn append<I: Io>(
    flow: &mut Flow<I::Pipe>,
    io: &mut I,
    source: &mut End<I::Socket>,
    shared: &mut Shared<I::Pipe>,
) -> io::Result<(usize, bool)> {
    let room = CHUNK.saturating_sub(flow.held().len()).max(1);
    let buffer = &mut shared.scratch[..room];
    let read = io.recv(&source.socket, buffer)?;
    let emptied = (1..room).contains(&read) && !source.ready.gaps;
    source.ready.readable &= !emptied || source.ready.finished || source.ready.failed;
    let bytes = &buffer[..read];
    match &mut flow.held {
        Held::Buffer { bytes: held, .. } => held.extend_from_slice(bytes),
        Held::Nothing if read > 0 => flow.keep(bytes, shared.buffers.pop()),
        Held::Nothing | Held::Pipe(..) => {}
    }
    Ok((read, emptied && source.ready.finished && !source.ready.failed))
}

/// Adds what the source has already to what is held, so that it leaves with it.
pub(super) fn join<I: Io>(flow: &mut Flow<I::Pipe>, books: &mut Books<'_, I>, shared: &mut Shared<I::Pipe>) {
    let (outcome, finished) = match append(flow, books.io, books.source, shared) {
        Ok((read, finished)) => (Ok(read), finished),
        Err(error) => (Err(error), false),
    };
    books.note_read(outcome);
    if finished {
        books.source.ready.readable = false;
        books.report.fin = true;
    }
}

/// Delivers from a buffer that is held.
pub(super) fn deliver<I: Io>(flow: &mut Flow<I::Pipe>, books: &mut Books<'_, I>, shared: &mut Shared<I::Pipe>) {
    let Held::Buffer { bytes, start } = &mut flow.held else { return };
    let rest = &bytes[*start..];
    let outcome = books.io.send(&books.sink.socket, rest, books.report.fin);
    let wanted = rest.len();
    let written = books.note_written(outcome, wanted);
    *start += written;
    if written == wanted {
        flow.discard(shared);
    }
}

/// One read and one write.
pub(super) fn step<I: Io>(flow: &mut Flow<I::Pipe>, books: &mut Books<'_, I>, shared: &mut Shared<I::Pipe>) {
    let outcome = books.io.recv(&books.source.socket, &mut shared.scratch);
    let Some(read) = books.note_read(outcome) else { return };
    if read < shared.scratch.len() && !books.source.ready.gaps && !books.source.ready.failed {
        books.source.ready.readable = false;
        books.report.fin = books.source.ready.finished;
    }
    flow.learn(shared.engine, read);
    let bytes = &shared.scratch[..read];
    let outcome = books.io.send(&books.sink.socket, bytes, books.report.fin);
    let written = books.note_written(outcome, read);
    if written < read {
        flow.keep(&bytes[written..], shared.buffers.pop());
    }
}
