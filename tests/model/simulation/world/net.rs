//! The world as the driver's system: what it may ask, and what it must not do.

use super::{Answer, SimNet, SimPipe, SimSocket, World};
use crate::simulation::pools::pool_number;
use crate::simulation::preamble::LOCAL;
use std::io::{self, ErrorKind};
use tcplb::base::Endpoint;
use tcplb::pool::{Backend, DialSource};
use tcplb::relay::{AfterBytes, Io};
use tcplb::session::Side;
use tcplb::worker::driver::{Dialed, FirstBytes, Net};
use tcplb::worker::token::{SocketId, Token};

impl Io for SimNet {
    type Socket = SimSocket;
    type Pipe = SimPipe;

    fn recv(&mut self, socket: &SimSocket, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.borrow_mut().recv(socket.id, buffer)
    }

    fn send(&mut self, socket: &SimSocket, bytes: &[u8], then: AfterBytes) -> io::Result<usize> {
        let mut world = self.0.borrow_mut();
        let sent = world.send(socket.id, bytes)?;
        if then == AfterBytes::Fin && sent == bytes.len() {
            world.await_fin(socket.id);
        }
        Ok(sent)
    }

    fn pipe(&mut self) -> io::Result<SimPipe> {
        let mut world = self.0.borrow_mut();
        if world.random.u8(..) < 20 {
            return Err(rustix::io::Errno::MFILE.into());
        }
        world.pipes.push(Some(0));
        Ok(SimPipe::new(world.pipes.len() - 1, &self.0))
    }

    fn fill(&mut self, socket: &SimSocket, pipe: &SimPipe, most: usize) -> io::Result<usize> {
        self.0.borrow_mut().fill(socket.id, pipe.id, most)
    }

    fn empty(&mut self, pipe: &SimPipe, socket: &SimSocket, bytes: usize) -> io::Result<usize> {
        self.0.borrow_mut().empty(pipe.id, socket.id, bytes)
    }
}

impl World {
    /// A connection attempt to this address begins: for which connection, and how the address answers. The one before is over.
    fn attempt(&mut self, to: &Endpoint, driver: usize, token: Token) -> (usize, Answer) {
        let Token::Socket(SocketId { side: Side::Backend, slot, .. }) = token else {
            panic!("{token:?} for a backend")
        };
        let conn = self.by_slot[&(driver, slot)];
        let old = self.conns[conn].backend.map(|old| &self.socks[old]);
        assert!(old.is_none_or(|old| !old.open), "dials again before the last attempt is closed");
        assert!(!self.conns[conn].connected, "dials after a backend was connected");
        self.conns[conn].dials += 1;
        let (answer, version) = self.answers[to];
        assert!(!self.conns[conn].is_denied(), "dials for a client that may not come in");
        let pool = self.conns[conn].pool.unwrap_or_else(|| self.pool_of(&self.conns[conn]));
        assert_eq!(pool_number(to), pool, "a backend of another pool");
        let facts = &mut self.conns[conn];
        facts.pool = Some(pool);
        if pool == 2 {
            // What a silent client says later is all for the backend.
            facts.first = [std::mem::take(&mut facts.request), &facts.first].concat();
        }
        let backend_preamble = self.conns[conn].backend_preamble(version);
        self.conns[conn].backend_preamble = backend_preamble;
        (conn, answer)
    }
}

impl Net for SimNet {
    fn adopt(&mut self, socket: &SimSocket, token: Token) -> io::Result<()> {
        let mut world = self.0.borrow_mut();
        let Token::Socket(SocketId { side, slot, .. }) = token else { panic!("{token:?} for a socket") };
        let sock = &mut world.socks[socket.id];
        assert!(sock.open && sock.token.is_none() && sock.side == side, "watched twice, or not what it is");
        (sock.token, sock.driver, sock.announced) = (Some(token), self.1, true);
        let conn = sock.conn;
        world.by_slot.insert((self.1, slot), conn);
        Ok(())
    }

    fn release(&mut self, socket: &SimSocket) {
        let mut world = self.0.borrow_mut();
        let token = world.socks[socket.id].token.take().expect("it is watched");
        assert_eq!(world.socks[socket.id].driver, self.1, "another driver's");
        world.closed_tokens.push((self.1, token));
    }

    fn dial(&mut self, to: &Endpoint, _: DialSource<'_>, token: Token, _: FirstBytes) -> io::Result<Dialed<SimSocket>> {
        let mut world = self.0.borrow_mut();
        let (conn, mut answer) = world.attempt(to, self.1, token);
        if answer == Answer::NoDescriptor && world.random.bool() {
            answer = Answer::Done;
        }
        if answer != Answer::NoDescriptor {
            // Only a dial that never left this process is repeated.
            assert!(world.redials || !world.conns[conn].dialed.contains(to), "dials {to} twice");
            world.conns[conn].dialed.push(to.clone());
        }
        match answer {
            Answer::NoDescriptor => return Err(rustix::io::Errno::MFILE.into()),
            Answer::Refused => return Err(ErrorKind::ConnectionRefused.into()),
            _ => {}
        }
        let id = world.socket(Side::Backend, conn, answer);
        world.conns[conn].backend = Some(id);
        let done = answer == Answer::Done;
        let is_used = done && world.conns[conn].request.is_empty();
        world.conns[conn].connected = is_used;
        if is_used {
            let now = world.now;
            world.conns[conn].last_io = now;
        }
        let sock = &mut world.socks[id];
        (sock.token, sock.driver, sock.announced) = (Some(token), self.1, done);
        Ok(Dialed { socket: SimSocket::new(id, &self.0), is_connected: done, source: None })
    }

    fn take_warm(&mut self, backend: &Backend, address: usize, token: Token) -> Option<Dialed<SimSocket>> {
        let mut world = self.0.borrow_mut();
        if !world.lively || world.random.bool() {
            return None;
        }
        let to = &backend.addresses.get(address)?.endpoint;
        let (conn, _) = world.attempt(to, self.1, token);
        assert!(world.conns[conn].request.is_empty(), "a warm connection for a request");
        let now = world.now;
        world.conns[conn].dialed.push(to.clone());
        let id = world.socket(Side::Backend, conn, Answer::Done);
        let facts = &mut world.conns[conn];
        (facts.backend, facts.connected, facts.warm, facts.last_io) = (Some(id), true, Some(to.clone()), now);
        world.warm_taken += 1;
        let dice = world.random.u8(..8);
        let sock = &mut world.socks[id];
        (sock.token, sock.driver, sock.announced) = (Some(token), self.1, true);
        // What was under way when it was looked at.
        match dice {
            0 => sock.fin = true,
            1 => sock.resets(),
            2 => sock.sent = 7,
            _ => {}
        }
        Some(Dialed { socket: SimSocket::new(id, &self.0), is_connected: true, source: None })
    }

    fn has_bytes(&mut self, socket: &SimSocket) -> io::Result<bool> {
        let mut world = self.0.borrow_mut();
        let id = socket.id;
        let sock = &world.socks[id];
        assert!(sock.open && sock.connected, "looks into a socket that is not connected");
        if sock.sent > sock.read {
            if sock.reset && sock.side == Side::Backend {
                // It has been connected after all.
                world.connect_reported(id);
                world.fails(id);
            }
            return Ok(true);
        }
        if sock.error && !sock.fin { Err(world.give_error(id)) } else { Ok(false) }
    }

    fn peek(&mut self, socket: &SimSocket, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.borrow_mut().peek(socket.id, buffer)
    }

    fn local(&mut self, socket: &SimSocket) -> Option<Endpoint> {
        let world = self.0.borrow();
        let conn = &world.conns[world.socks[socket.id].conn];
        assert!(!conn.backend_preamble.is_empty() && conn.announced.is_none(), "asks for what it does not need");
        Some(Endpoint::Inet(LOCAL.into()))
    }

    fn outcome(&mut self, socket: &SimSocket) -> Option<io::Error> {
        let mut world = self.0.borrow_mut();
        let id = socket.id;
        let sock = &mut world.socks[id];
        sock.spoke_early |= sock.error && sock.connected && sock.sent > sock.read;
        sock.error.then(|| world.give_error(id))
    }

    fn unsent(&mut self, socket: &SimSocket) -> u64 {
        let sock = &self.0.borrow().socks[socket.id];
        assert!(sock.open && sock.connected, "asks a socket that is not connected");
        if sock.reset { 0 } else { sock.written - sock.taken }
    }

    fn keep_alive(&mut self, socket: &SimSocket) {
        let sock = &self.0.borrow().socks[socket.id];
        assert!(sock.open && sock.connected, "keepalive on a socket that is not connected");
    }

    fn finish(&mut self, socket: &SimSocket) {
        self.0.borrow_mut().finish(socket.id);
    }

    fn reset(&mut self, socket: SimSocket) {
        assert!(!socket.is_shared(), "another process has it");
        self.0.borrow_mut().socks[socket.id].closed_by_reset = true;
    }

    fn has_urgent_gaps(&self, _: &Endpoint) -> bool {
        // Asked right after dialling: the newest socket is meant.
        self.0.borrow().socks.last().is_some_and(|sock| sock.chunky)
    }
}
