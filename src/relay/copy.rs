//! The copy engine: recv into the worker's buffer, send from it. Bytes that the sink does not take are held in a buffer
//! of their own.

use super::{CHUNK, End, HeldBytes, Io, RelayBuffer, RelayResources, Transfer};
use std::io;

/// The result of [`append`].
pub(super) struct Appended {
    /// The number of bytes; 0: the FIN.
    pub(super) read: usize,
    /// Nothing but the unread FIN is left in the queue.
    only_fin_left: bool,
}

/// Reads once and appends to the held bytes, up to a [`CHUNK`] and at least one byte.
pub(super) fn append<I: Io>(
    buffer: &mut RelayBuffer<I::Pipe>,
    io: &mut I,
    source: &mut End<I::Socket>,
    shared: &mut RelayResources<I::Pipe>,
) -> io::Result<Appended> {
    let room = CHUNK.saturating_sub(buffer.held().len()).max(1);
    let scratch = &mut shared.scratch[..room];
    let read = io.recv(&source.socket, scratch)?;
    let emptied = (1..room).contains(&read) && !source.ready.short_read_inconclusive;
    source.ready.readable &= !emptied || source.ready.finished || source.ready.failed;
    let bytes = &scratch[..read];
    match &mut buffer.held {
        HeldBytes::Buffer { bytes: held, .. } => held.extend_from_slice(bytes),
        HeldBytes::Nothing if read > 0 => buffer.keep(bytes, shared.buffers.pop()),
        HeldBytes::Nothing | HeldBytes::Pipe(..) => {}
    }
    Ok(Appended { read, only_fin_left: emptied && source.ready.finished && !source.ready.failed })
}

/// Appends the source's available bytes to the held ones, so that they leave together.
pub(super) fn join<I: Io>(
    buffer: &mut RelayBuffer<I::Pipe>,
    transfer: &mut Transfer<'_, I>,
    shared: &mut RelayResources<I::Pipe>,
) {
    let appended = append(buffer, transfer.io, transfer.source, shared);
    let is_last = appended.as_ref().is_ok_and(|appended| appended.only_fin_left);
    transfer.note_read(appended.map(|appended| appended.read));
    if is_last {
        transfer.source.ready.readable = false;
        transfer.report.fin = true;
    }
}

/// Delivers the bytes of a held buffer.
pub(super) fn deliver<I: Io>(
    buffer: &mut RelayBuffer<I::Pipe>,
    transfer: &mut Transfer<'_, I>,
    shared: &mut RelayResources<I::Pipe>,
) {
    let HeldBytes::Buffer { bytes, start } = &mut buffer.held else { return };
    let rest = &bytes[*start..];
    let outcome = transfer.io.send(&transfer.sink.socket, rest, transfer.after_bytes());
    let wanted = rest.len();
    let written = transfer.note_written(outcome, wanted);
    *start += written;
    if written == wanted {
        buffer.discard(shared);
    }
}

/// Reads once and writes once.
pub(super) fn step<I: Io>(
    buffer: &mut RelayBuffer<I::Pipe>,
    transfer: &mut Transfer<'_, I>,
    shared: &mut RelayResources<I::Pipe>,
) {
    let outcome = transfer.io.recv(&transfer.source.socket, &mut shared.scratch);
    let Some(read) = transfer.note_read(outcome) else { return };
    if read < shared.scratch.len() && !transfer.source.ready.short_read_inconclusive && !transfer.source.ready.failed {
        transfer.source.ready.readable = false;
        transfer.report.fin = transfer.source.ready.finished;
    }
    buffer.learn(read);
    let bytes = &shared.scratch[..read];
    let outcome = transfer.io.send(&transfer.sink.socket, bytes, transfer.after_bytes());
    let written = transfer.note_written(outcome, read);
    if written < read {
        buffer.keep(&bytes[written..], shared.buffers.pop());
    }
}
