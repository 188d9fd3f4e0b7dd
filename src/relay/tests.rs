//! Tests of held bytes without a sink, and of bytes that precede the source's.

use super::*;
use std::collections::VecDeque;

/// A source with these reads, then none; a sink that takes `room` bytes of each write.
struct Script {
    reads: VecDeque<Vec<u8>>,
    room: usize,
    writes: Vec<Vec<u8>>,
    /// Whether the last write was marked as the last one.
    last: bool,
    /// Requests for a pipe; each is refused.
    pipes: usize,
}

impl Io for Script {
    type Socket = ();
    type Pipe = ();

    fn recv(&mut self, (): &(), buffer: &mut [u8]) -> io::Result<usize> {
        let Some(bytes) = self.reads.pop_front() else { return Err(io::ErrorKind::WouldBlock.into()) };
        buffer[..bytes.len()].copy_from_slice(&bytes);
        Ok(bytes.len())
    }

    fn send(&mut self, (): &(), bytes: &[u8], then: AfterBytes) -> io::Result<usize> {
        self.last = then == AfterBytes::Fin;
        let taken = bytes.len().min(self.room);
        self.writes.push(bytes[..taken].to_vec());
        Ok(taken)
    }

    fn pipe(&mut self) -> io::Result<()> {
        self.pipes += 1;
        Err(io::ErrorKind::Unsupported.into())
    }

    fn fill(&mut self, (): &(), (): &(), _: usize) -> io::Result<usize> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn empty(&mut self, (): &(), (): &(), _: usize) -> io::Result<usize> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

const MOST: usize = 4 * CHUNK;

fn script(reads: &[&str]) -> Script {
    Script {
        reads: reads.iter().map(|read| read.as_bytes().to_vec()).collect(),
        room: CHUNK,
        writes: Vec::new(),
        last: false,
        pipes: 0,
    }
}

fn end(readable: bool) -> End<()> {
    End { socket: (), ready: Ready { readable, writable: true, ..Ready::default() } }
}

#[test]
fn preceding_bytes_leave_in_one_write_with_available_ones() {
    for (readable, held, writes) in [
        (true, "", &["HEADERhello"][..]),
        (false, "", &["HEADER"]),
        (false, "held", &["HEADERheld"]),
        (true, "held,", &["HEADERheld,hello"]),
    ] {
        let mut shared = RelayResources::new(Engine::Adaptive, 1);
        let (mut buffer, mut io) = (RelayBuffer::default(), script(&[held, "hello"]));
        if held.is_empty() {
            io.reads.pop_front();
        } else {
            assert!(matches!(take_in(&mut buffer, &mut io, &mut end(true), &mut shared), TakenIn::Bytes));
        }
        buffer.precede(b"HEADER", &mut shared);
        let report = pump(&mut buffer, &mut io, &mut end(readable), &mut end(false), &mut shared, MOST);
        let written: Vec<&str> = io.writes.iter().map(|write| std::str::from_utf8(write).unwrap()).collect();
        assert_eq!(written, writes);
        assert_eq!(report.written, written.concat().len() as u64);
        assert_eq!(report.read, if readable { 5 } else { 0 });
        assert!(!buffer.holds() && report.failed.is_none());
    }
}

#[test]
fn a_sink_that_takes_a_part_of_the_preceding_bytes_gets_the_rest_in_order() {
    let mut shared = RelayResources::new(Engine::Copy, 1);
    let (mut buffer, mut io) = (RelayBuffer::default(), script(&["hello"]));
    io.room = 4;
    buffer.precede(b"HEADER", &mut shared);
    let mut source = end(true);
    while buffer.holds() {
        pump(&mut buffer, &mut io, &mut source, &mut end(false), &mut shared, MOST);
    }
    assert_eq!(io.writes.concat(), b"HEADERhello");
}

#[test]
fn an_announced_fin_needs_no_read_of_its_own_once_there_is_a_sink() {
    let mut shared = RelayResources::new(Engine::Copy, 1);
    let (mut buffer, mut io) = (RelayBuffer::default(), script(&["hello"]));
    buffer.precede(b"HEADER", &mut shared);
    let mut source = end(true);
    source.ready.finished = true;
    let report = pump(&mut buffer, &mut io, &mut source, &mut end(false), &mut shared, MOST);
    assert_eq!(io.writes, [b"HEADERhello"]);
    assert!(report.fin && report.read == 5 && !source.ready.readable && io.last);

    let (mut buffer, mut io) = (RelayBuffer::default(), script(&["hello", ""]));
    let mut source = end(true);
    source.ready.finished = true;
    assert!(matches!(take_in(&mut buffer, &mut io, &mut source, &mut shared), TakenIn::Bytes));
    assert!(source.ready.readable, "its FIN is still to be read");
    let report = pump(&mut buffer, &mut io, &mut source, &mut end(false), &mut shared, MOST);
    assert_eq!(io.writes, [b"hello"]);
    assert!(report.fin);
}

#[test]
fn a_finished_source_is_not_read_to_join_preceding_bytes() {
    let mut shared = RelayResources::new(Engine::Copy, 1);
    let (mut buffer, mut io) = (RelayBuffer::default(), script(&["never"]));
    buffer.precede(b"HEADER", &mut shared);
    let mut source = End { socket: (), ready: Ready { ended: true, ..end(true).ready } };
    pump(&mut buffer, &mut io, &mut source, &mut end(false), &mut shared, MOST);
    assert_eq!(io.writes, [b"HEADER"]);
    assert_eq!(io.reads.len(), 1);
}

#[test]
fn bytes_taken_in_are_held_in_order_and_skipped_from_the_front() {
    let mut shared = RelayResources::<()>::new(Engine::Copy, 1);
    let (mut buffer, mut io) = (RelayBuffer::default(), script(&["PRO", "XY UNKNOWN\r\nhel", ""]));
    let mut source = end(true);
    assert!(matches!(take_in(&mut buffer, &mut io, &mut source, &mut shared), TakenIn::Bytes));
    assert!(!source.ready.readable, "a short read says that there is no more");
    assert!(matches!(take_in(&mut buffer, &mut io, &mut source, &mut shared), TakenIn::Bytes));
    assert_eq!(buffer.held(), b"PROXY UNKNOWN\r\nhel");
    buffer.skip(15, &mut shared);
    assert_eq!(buffer.held(), b"hel");
    assert!(matches!(take_in(&mut buffer, &mut io, &mut source, &mut shared), TakenIn::Fin));
    source.ready.readable = true;
    assert!(matches!(take_in(&mut buffer, &mut io, &mut source, &mut shared), TakenIn::Nothing));
    assert!(!source.ready.readable);
    buffer.skip(3, &mut shared);
    assert!(!buffer.holds() && shared.buffers.len() == 1, "its buffer is spare again");
}

#[test]
fn a_refused_pipe_is_not_requested_for_each_chunk() {
    let (mut io, mut pool) = (script(&[]), splice::PipePool::<()>::new(8));
    let mut ask = |times: u32| {
        for _ in 0..times {
            assert!(pool.take(&mut io).is_none());
        }
        io.pipes
    };
    assert_eq!(ask(1), 1);
    assert_eq!(ask(splice::REFUSED), 1);
    assert_eq!(ask(1), 2, "requested again after a while");
}

/// A sink whose connection fails during a splice.
struct Fails {
    /// The results of the splices to the sink.
    taken: VecDeque<io::Result<usize>>,
}

impl Io for Fails {
    type Socket = ();
    type Pipe = ();

    fn recv(&mut self, (): &(), _: &mut [u8]) -> io::Result<usize> {
        Err(io::ErrorKind::WouldBlock.into())
    }

    fn send(&mut self, (): &(), _: &[u8], _: AfterBytes) -> io::Result<usize> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn pipe(&mut self) -> io::Result<()> {
        Ok(())
    }

    fn fill(&mut self, (): &(), (): &(), _: usize) -> io::Result<usize> {
        Ok(10)
    }

    fn empty(&mut self, (): &(), (): &(), _: usize) -> io::Result<usize> {
        self.taken.pop_front().unwrap_or(Err(io::ErrorKind::WouldBlock.into()))
    }
}

#[test]
fn a_partial_splice_may_hide_the_error_that_stopped_it() {
    let broken = || Err(io::ErrorKind::BrokenPipe.into());
    let reset = || Err(io::ErrorKind::ConnectionReset.into());
    // Without a partial write before it, EPIPE means that the reset came behind a FIN, and a read still reports the
    // reset.
    for (taken, hidden) in
        [(vec![broken()], false), (vec![reset()], true), (vec![Ok(4), broken()], true), (vec![Ok(10), broken()], false)]
    {
        let mut shared = RelayResources::new(Engine::Splice, 1);
        let (mut source, mut sink) = (end(true), end(false));
        let mut io = Fails { taken: taken.into() };
        let report = pump(&mut RelayBuffer::default(), &mut io, &mut source, &mut sink, &mut shared, MOST);
        assert!(matches!(report.failed, Some(RelayError::Sink(_))));
        assert_eq!(sink.ready.error_taken, hidden);
    }
}

#[test]
fn the_queue_of_a_failed_connection_is_read_to_its_end() {
    for (reads, error_taken, fin) in [
        // The kernel does not know that the peer is dead, so the queue has no end.
        (&["last words"][..], false, false),
        (&["last words", ""], false, true),
        // The kernel has returned its error before, and reports the end as a FIN.
        (&["last words", ""], true, false),
    ] {
        let mut shared = RelayResources::new(Engine::Copy, 1);
        let (mut buffer, mut io) = (RelayBuffer::default(), script(reads));
        let mut source = end(true);
        (source.ready.failed, source.ready.error_taken) = (true, error_taken);
        let report = pump(&mut buffer, &mut io, &mut source, &mut end(false), &mut shared, MOST);
        assert_eq!(io.writes.concat(), b"last words");
        assert_eq!((report.fin, matches!(report.failed, Some(RelayError::Source(_)))), (fin, !fin));
    }
}
