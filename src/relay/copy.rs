//! The copy engine: recv into the worker's buffer, send from it. What the sink does not take is kept in a buffer of its
//! own until it does.

use super::{Books, Flow, Held, Io, Shared};

/// Delivers from a buffer that is held.
pub(super) fn deliver<I: Io>(flow: &mut Flow<I::Pipe>, books: &mut Books<'_, I>, shared: &mut Shared<I::Pipe>) {
    let Held::Buffer { bytes, start } = &mut flow.held else { return };
    let rest = &bytes[*start..];
    let outcome = books.io.send(&books.sink.socket, rest, false);
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
    if read < shared.scratch.len() && !books.source.ready.gaps {
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
