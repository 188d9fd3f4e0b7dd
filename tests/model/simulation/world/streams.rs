//! What the driver does with the sockets of the world: it reads, writes and closes them.

use super::{World, byte_behind};
use crate::simulation::routes::YES;
use std::io::{self, ErrorKind};
use tcplb::session::{Direction, Side};

impl World {
    /// Reads up to `most` bytes, by recv or into a pipe; the position of the first, and how many.
    fn read(&mut self, id: usize, most: u64, by_recv: bool) -> io::Result<(u64, u64)> {
        let stop_short = self.random.bool();
        let conn = self.socks[id].conn;
        let sock = &mut self.socks[id];
        assert!(sock.open && sock.connected, "read from a socket that is not connected");
        assert!(!sock.fin_read, "read past the FIN");
        let mut amount = (sock.sent - sock.read).min(most);
        if let Some(mark) = sock.mark.filter(|&mark| mark > sock.read) {
            amount = amount.min(mark - sock.read);
        }
        if sock.chunky && stop_short {
            amount = amount.min(7).max(amount / 2);
        }
        if !by_recv && sock.mark == Some(sock.read) {
            // A pipe is not filled past a mark: bytes behind it look like no bytes at all.
            amount = 0;
        }
        let from = sock.read;
        if amount == 0 {
            // A FIN that came before the reset is reported instead of it; without one the end looks like a FIN, once the error
            // was handed out.
            if !sock.fin && sock.read == sock.sent && sock.reset {
                return if sock.error { Err(self.give_error(id)) } else { Ok((from, 0)) };
            }
            if !sock.fin {
                let was_announced = sock.announced_readable || sock.mark == Some(sock.read);
                assert!(was_announced || sock.error_given, "reads what was not announced");
                // Only recv proves that there is nothing: it may follow a splice that found nothing.
                sock.announced_readable &= !by_recv;
                return Err(ErrorKind::WouldBlock.into());
            }
            if !by_recv {
                return Ok((from, 0));
            }
            sock.fin_read = true;
            let side = sock.side;
            // A backend that has not agreed to TLS was dialled in vain.
            if side == Side::Client || self.conns[conn].connected {
                self.conns[conn].first_fin.get_or_insert(side);
            }
        }
        let relaying = self.conns[conn].connected;
        self.socks[id].read += amount;
        if amount > 0 && self.socks[id].side == Side::Backend && self.conns[conn].reply == YES[0] {
            self.connect_reported(id);
        }
        let sock = &mut self.socks[id];
        // A short read up to an announced FIN also reports the FIN, without another read that returns 0. In a header there is
        // no relay to report it to: the FIN is left to be read.
        if relaying
            && by_recv
            && amount > 0
            && amount < most
            && sock.fin_announced
            && !sock.short_read_inconclusive
            && !sock.error_given
        {
            assert_eq!(sock.read, sock.sent);
            sock.fin_read = true;
            let side = sock.side;
            self.conns[conn].first_fin.get_or_insert(side);
        }
        self.touched(id);
        self.interfere(id);
        Ok((from, amount))
    }

    pub(super) fn recv(&mut self, id: usize, buffer: &mut [u8]) -> io::Result<usize> {
        let direction = self.direction_from(id);
        let (from, amount) = self.read(id, buffer.len() as u64, true)?;
        self.write_out(id, direction, from, &mut buffer[..amount as usize]);
        Ok(amount as usize)
    }

    /// What a socket's stream has from this position on.
    fn write_out(&self, id: usize, direction: Direction, from: u64, buffer: &mut [u8]) {
        let front = self.front_from(id);
        for (position, slot) in (from..).zip(buffer) {
            *slot = byte_behind(&front, direction, position);
        }
    }

    /// Looks at what is there, or a part of it, without taking it. A FIN that it shows is read no more.
    pub(super) fn peek(&mut self, id: usize, buffer: &mut [u8]) -> io::Result<usize> {
        let in_part = self.random.u8(..) < 60;
        let sock = &mut self.socks[id];
        assert!(sock.open && sock.side == Side::Client && !sock.fin_read, "looks where nothing can be");
        let is_first = !std::mem::replace(&mut sock.looked_at, true);
        let (from, mut amount) = (sock.read, (sock.sent - sock.read).min(buffer.len() as u64));
        if amount == 0 {
            if sock.error && !sock.fin {
                return Err(self.give_error(id));
            }
            if !sock.fin {
                assert!(sock.announced_readable || is_first, "looks for what was not announced");
                sock.announced_readable = false;
                return Err(ErrorKind::WouldBlock.into());
            }
            sock.fin_read = true;
            return Ok(0);
        }
        if in_part && sock.chunky {
            amount = amount.div_ceil(2);
        }
        if let Some(mark) = sock.mark.filter(|&mark| mark > sock.read) {
            amount = amount.min(mark - sock.read);
        }
        let conn = sock.conn;
        self.write_out(id, Direction::Up, from, &mut buffer[..amount as usize]);
        let seen = (from + amount).saturating_sub(self.conns[conn].header.len() as u64);
        self.conns[conn].peeked = self.conns[conn].peeked.max(seen);
        self.interfere(id);
        Ok(amount as usize)
    }

    /// Takes up to `most` bytes; the position of the first, and how many.
    fn write(&mut self, id: usize, most: u64) -> io::Result<(u64, u64)> {
        let now = self.now;
        let sock = &mut self.socks[id];
        assert!(sock.open && sock.connected, "write to a socket that is not connected");
        assert!(!sock.finished, "write after the FIN");
        assert!(most > 0, "an empty write");
        if sock.reset {
            if sock.error {
                return Err(self.give_error(id));
            }
            self.fails(id);
            return Err(ErrorKind::BrokenPipe.into());
        }
        let room = sock.capacity - (sock.written - sock.taken);
        let (from, amount) = (sock.written, room.min(most));
        if amount > 0 {
            sock.last_write = now;
        }
        sock.no_space |= amount < most;
        sock.written += amount;
        if amount == 0 {
            self.interfere(id);
            return Err(ErrorKind::WouldBlock.into());
        }
        self.touched(id);
        self.interfere(id);
        Ok((from, amount))
    }

    pub(super) fn send(&mut self, id: usize, bytes: &[u8]) -> io::Result<usize> {
        let direction = if self.direction_from(id) == Direction::Up { Direction::Down } else { Direction::Up };
        let (from, amount) = self.write(id, bytes.len() as u64)?;
        let front = self.front_to(id);
        for (position, got) in (from..from + amount).zip(bytes) {
            assert_eq!(*got, byte_behind(&front, direction, position), "bytes out of order");
        }
        Ok(amount as usize)
    }

    pub(super) fn fill(&mut self, id: usize, pipe: usize, most: usize) -> io::Result<usize> {
        assert_eq!(self.pipes[pipe], Some(0), "fills a pipe that is not empty");
        let most = self.random.u64(1..300_000).min(most as u64);
        let (_, amount) = self.read(id, most, false)?;
        self.pipes[pipe] = Some(amount);
        Ok(amount as usize)
    }

    pub(super) fn empty(&mut self, pipe: usize, id: usize, bytes: usize) -> io::Result<usize> {
        let held = self.pipes[pipe].expect("an open pipe");
        assert_eq!(held, bytes as u64, "the engine has lost count of the pipe");
        let source = self.other_end(id).expect("an other end");
        assert_eq!(self.stream_read(source) - held, self.stream_written(id), "bytes out of order");
        // The kernel may take less than there is room for.
        let most = if self.random.bool() { held } else { self.random.u64(1..=held) };
        let took_part = std::mem::take(&mut self.socks[id].took_part);
        let written = self.write(id, most);
        let sock = &mut self.socks[id];
        let broken = written.as_ref().is_err_and(|error| error.kind() == ErrorKind::BrokenPipe);
        sock.fin_hidden |= took_part && broken;
        let (_, amount) = written?;
        sock.took_part = amount < held;
        // The reset that stopped it is not reported, not even later.
        sock.error &= !(sock.took_part && sock.reset);
        self.pipes[pipe] = Some(held - amount);
        Ok(amount as usize)
    }

    fn other_end(&self, id: usize) -> Option<usize> {
        let conn = &self.conns[self.socks[id].conn];
        if self.socks[id].side == Side::Client { conn.backend } else { conn.client }
    }

    pub(super) fn finish(&mut self, id: usize) {
        let from = self.other_end(id).expect("a FIN without an other end");
        assert_eq!(self.stream_written(id), self.stream_read(from), "a FIN before the last byte");
        let (source, sink) = (&self.socks[from], &self.socks[id]);
        assert!(sink.open && sink.connected && !sink.finished, "a FIN to a socket that can't take one");
        assert!(source.fin_read, "a FIN that the other side did not send");
        (self.socks[id].finished, self.socks[id].awaits_fin) = (true, false);
    }

    /// A connection that goes on closes its backend's socket. Once that is connected, it must be a warm one that its backend has ended
    /// before a byte moved. Its address is dialled next.
    fn give_up_warm(&mut self, id: usize) {
        let sock = &self.socks[id];
        let conn = &mut self.conns[sock.conn];
        if sock.side == Side::Client || conn.over || !conn.connected {
            return;
        }
        let to = conn.warm.take().expect("a warm connection");
        assert!(sock.fin || sock.reset, "gives up a warm connection that is well");
        assert!(sock.written == 0 && sock.read == 0, "bytes went to a warm connection that is given up");
        assert!(conn.client.is_some_and(|client| !self.socks[client].fin_read), "the client's FIN is lost");
        conn.dialed.retain(|dialed| *dialed != to);
        (conn.connected, conn.first_fin, conn.first_error) = (false, None, None);
        self.warm_replaced += 1;
    }

    /// The kernel keeps the last bytes back for the FIN that was promised.
    pub(super) fn await_fin(&mut self, id: usize) {
        self.socks[id].awaits_fin = true;
    }

    pub(super) fn close(&mut self, id: usize) {
        if !std::thread::panicking() {
            self.give_up_warm(id);
        }
        let sock = &mut self.socks[id];
        assert!(sock.open, "closed twice");
        sock.open = false;
        let connected = self.conns[sock.conn].connected;
        assert!(connected || !sock.spoke_early, "what it said before its reset is lost");
        self.closed_tokens.extend(sock.token.map(|token| (sock.driver, token)));
    }
}
