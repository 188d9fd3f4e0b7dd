//! The world of the simulated connections: sockets made of counters, and peers that do anything at any time. Its kernel
//! announces readiness only once, as epoll does edge-triggered.
//!
//! Bytes are not stored. The byte at a position of a stream is a function of the position. So the world checks that
//! every byte arrives in order, whatever the amounts.
//!
//! Before the first byte of a stream may stand a PROXY header, the client's own or the one that a backend is owed; positions
//! of sockets count it, those of the stream don't.
//!
//! Everything illegal that the driver could do panics here.

mod descriptors;

mod net;
mod streams;

pub use descriptors::{SimNet, SimPipe, SimSocket};

use crate::simulation::preamble::{self, Preamble};
use crate::simulation::routes::{self, Said, YES};
use std::cell::RefCell;
use std::collections::HashMap;
use std::io::{self, ErrorKind};
use std::rc::Rc;
use std::slice;
use tcplb::base::{Endpoint, Tick};
use tcplb::config::model::ProxyVersion;
use tcplb::proto::proxy::Header;
use tcplb::session::{Direction, Side};
use tcplb::worker::driver::{Event, Transport};
use tcplb::worker::token::Token;

/// How a backend's address answers a dial.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    Done,
    Later,
    LaterRefused,
    Never,
    Refused,
    NoDescriptor,
}

/// One socket of ours, with what its peer has done to it.
#[derive(Debug)]
pub struct Sock {
    pub side: Side,
    pub conn: usize,
    token: Option<Token>,
    /// The driver that watches it.
    pub driver: usize,
    pub open: bool,
    /// Backend sockets: has the handshake ended, and how?
    pub connected: bool,
    answer: Answer,
    /// From the peer: sent by it, read by us, FIN sent, reset sent.
    pub sent: u64,
    pub read: u64,
    pub fin: bool,
    pub fin_read: bool,
    pub reset: bool,
    /// Its reset was not handed out as an error yet.
    error: bool,
    /// A position at which a read stops short (urgent data).
    mark: Option<u64>,
    /// To the peer: written by us, taken by it, room in between.
    pub written: u64,
    pub taken: u64,
    pub last_write: Tick,
    pub last_take: Tick,
    capacity: u64,
    no_space: bool,
    /// The last splice to it took a part, so that the next one's error may not be the one that stopped it.
    took_part: bool,
    /// Such an error leaves open whether a FIN came before the reset.
    pub fin_hidden: bool,
    /// An announcement said that there is something to read, and no read has found nothing since.
    announced_readable: bool,
    /// Its first bytes have been looked at. The first look follows the accept, without an event.
    looked_at: bool,
    pub finished: bool,
    /// The driver knows that this socket has failed.
    pub error_given: bool,
    /// Closed by the driver with a reset.
    pub closed_by_reset: bool,
    announced: bool,
    /// A read may stop anywhere, as on unix sockets.
    chunky: bool,
    /// The driver knows that a short read proves nothing.
    short_read_inconclusive: bool,
    /// The driver knows that the FIN is in the queue.
    fin_announced: bool,
    /// Bytes were written with the promise of a FIN.
    awaits_fin: bool,
    /// It had connected, said something and reset before the driver looked.
    spoke_early: bool,
}

/// One client connection through its whole life.
#[derive(Debug, Default)]
pub struct Conn {
    pub preamble: Preamble,
    /// The preamble's bytes.
    pub header: Vec<u8>,
    /// What it says behind that, the first bytes of its stream, and what these are.
    pub first: Vec<u8>,
    pub said: Said,
    /// What it sends before that, where it wants TLS of Postgres: the driver takes it, and sends one of its own to the backend.
    pub request: &'static [u8],
    /// What the backend answers to that. The client always gets [`YES`].
    pub reply: u8,
    /// The most bytes behind its header that the driver has looked at without taking them.
    pub peeked: u64,
    /// The number of the pool that was chosen for it.
    pub pool: Option<u8>,
    /// What its header announced, if that was addresses.
    pub announced: Option<Header>,
    pub at: Option<Endpoint>,
    pub accepted: Tick,
    /// The header that the backend dialled last is owed.
    pub backend_preamble: Vec<u8>,
    pub client: Option<usize>,
    /// The backend socket of the attempt under way, or of the relay.
    pub backend: Option<usize>,
    pub dials: u32,
    pub dialed: Vec<Endpoint>,
    /// Relay began: a backend connected.
    pub connected: bool,
    /// The address of the warm connection that the backend's socket was.
    pub warm: Option<Endpoint>,
    /// It has ended.
    pub over: bool,
    pub last_io: Tick,
    /// The side whose FIN the driver read first.
    pub first_fin: Option<Side>,
    /// The side that failed first, as far as the driver knows: of a backend's socket, only while relaying.
    pub first_error: Option<Side>,
    /// When that was.
    pub failed_at: Tick,
}

#[derive(Debug)]
pub struct World {
    pub random: fastrand::Rng,
    pub socks: Vec<Sock>,
    pub conns: Vec<Conn>,
    pub now: Tick,
    /// Peers may act in the middle of a system call.
    pub lively: bool,
    /// A waiting client may try a backend again.
    pub redials: bool,
    /// The listener has routes, and a pool for silent clients.
    pub is_routed: bool,
    pub has_silent_pool: bool,
    /// What addresses answer, by endpoint.
    answers: HashMap<Endpoint, (Answer, Option<ProxyVersion>)>,
    /// Warm connections that were taken, and those that ended before a byte and were replaced.
    pub warm_taken: u64,
    pub warm_replaced: u64,
    /// The connection in a slot of a driver.
    by_slot: HashMap<(usize, u32), usize>,
    /// Bytes in each pipe there ever was; `None` once it is closed.
    pub pipes: Vec<Option<u64>>,
    /// Of sockets that were closed or left their driver since the last look, with the driver.
    pub closed_tokens: Vec<(usize, Token)>,
}

pub type Shared = Rc<RefCell<World>>;

/// One event of each kind, and one of all kinds at once.
pub fn events_of_every_kind() -> [Event; 7] {
    let none = Event::default();
    [
        Event { readable: true, ..none },
        Event { writable: true, ..none },
        Event { urgent: true, ..none },
        Event { readable: true, finished: true, ..none },
        Event { error: true, ..none },
        Event { readable: true, finished: true, hung_up: true, ..none },
        Event { readable: true, writable: true, urgent: true, finished: true, error: true, hung_up: true },
    ]
}

/// What stands at the beginning of what a socket gets or sends.
struct Front<'a> {
    /// A PROXY header.
    header: &'a [u8],
    /// A request of TLS, or its answer.
    negotiation: &'a [u8],
    /// The first bytes of the stream.
    first: &'a [u8],
}

/// The byte at a position of a stream.
fn byte(direction: Direction, position: u64) -> u8 {
    let salt = if direction == Direction::Up { 0x5b } else { 0xa7 };
    (position.wrapping_mul(31) ^ (position >> 7)) as u8 ^ salt
}

/// The byte at a position of a stream that these two precede, and that begins with `first`. Runs once per byte, so it calls no generic code: that may come from
/// a crate compiled without optimisation.
fn byte_behind(front: &Front<'_>, direction: Direction, position: u64) -> u8 {
    let mut at = position as usize;
    for part in [front.header, front.negotiation] {
        if at < part.len() {
            return part[at];
        }
        at -= part.len();
    }
    if at < front.first.len() { front.first[at] } else { byte(direction, at as u64) }
}

impl Front<'_> {
    fn length(&self) -> u64 {
        (self.header.len() + self.negotiation.len()) as u64
    }
}

impl Conn {
    /// This, where TLS of Postgres is negotiated.
    fn answer<'a>(&self, answer: &'a [u8]) -> &'a [u8] {
        if self.request.is_empty() { &[] } else { answer }
    }

    /// How much a peer may send now: where TLS of Postgres is negotiated, each side waits for the other one.
    fn may_send(&self, sock: &Sock) -> u64 {
        let request = self.request.len() as u64;
        match sock.side {
            _ if request == 0 => u64::MAX,
            Side::Client if sock.taken == 0 => self.header.len() as u64 + request - sock.sent,
            Side::Client => u64::MAX,
            Side::Backend => match sock.taken.checked_sub(self.backend_preamble.len() as u64 + request) {
                None => 0,
                Some(0) => 1 - sock.sent,
                Some(_) => u64::MAX,
            },
        }
    }
}

impl Sock {
    /// The kernel announces room once a third of it is free (sk_stream_is_writeable).
    fn is_writable(&self) -> bool {
        let queued = self.written - self.taken;
        2 * (self.capacity - queued) >= queued
    }

    fn resets(&mut self) {
        (self.reset, self.error) = (true, true);
    }
}

impl World {
    pub fn new(seed: u64, answers: HashMap<Endpoint, (Answer, Option<ProxyVersion>)>) -> World {
        World {
            random: fastrand::Rng::with_seed(seed),
            socks: Vec::new(),
            conns: Vec::new(),
            now: Tick(0),
            lively: true,
            redials: false,
            is_routed: false,
            has_silent_pool: false,
            answers,
            warm_taken: 0,
            warm_replaced: 0,
            by_slot: HashMap::new(),
            pipes: Vec::new(),
            closed_tokens: Vec::new(),
        }
    }

    fn socket(&mut self, side: Side, conn: usize, answer: Answer) -> usize {
        let capacity = *self.random.choice([50, 2_000, 20_000, 70_000, 400_000].iter()).unwrap_or(&1);
        let chunky = self.random.u8(..) < 40;
        self.socks.push(Sock {
            side,
            conn,
            token: None,
            driver: 0,
            open: true,
            connected: side == Side::Client || answer == Answer::Done,
            answer,
            sent: 0,
            read: 0,
            fin: false,
            fin_read: false,
            reset: false,
            error: false,
            mark: None,
            written: 0,
            taken: 0,
            last_write: self.now,
            last_take: self.now,
            capacity,
            no_space: false,
            took_part: false,
            fin_hidden: false,
            announced_readable: false,
            looked_at: false,
            finished: false,
            error_given: false,
            closed_by_reset: false,
            announced: false,
            chunky,
            short_read_inconclusive: chunky,
            fin_announced: false,
            awaits_fin: false,
            spoke_early: false,
        });
        self.socks.len() - 1
    }

    /// A client connects, its port the number of its connection; perhaps it sends something at once.
    pub fn connect_client(world: &Shared) -> (SimSocket, Transport) {
        let mut this = world.borrow_mut();
        let conn = this.conns.len();
        let now = this.now;
        let fresh = preamble::random(&mut this.random, conn as u16);
        let is_routed = this.is_routed;
        let fresh = routes::speaks(&mut this.random, is_routed, fresh);
        this.conns.push(Conn { last_io: now, accepted: now, ..fresh });
        let id = this.socket(Side::Client, conn, Answer::Done);
        this.conns[conn].client = Some(id);
        let transport = if this.socks[id].chunky { Transport::Unix } else { Transport::Tcp };
        (SimSocket::new(id, world), transport)
    }

    /// How many bytes of a socket's stream have been read: those behind the client's header.
    pub fn stream_read(&self, id: usize) -> u64 {
        self.socks[id].read.saturating_sub(self.front_from(id).length())
    }

    /// The same for what its peer has sent.
    pub fn stream_sent(&self, id: usize) -> u64 {
        self.socks[id].sent.saturating_sub(self.front_from(id).length())
    }

    /// How many bytes of the other side's stream were written: those behind the header for the backend.
    pub fn stream_written(&self, id: usize) -> u64 {
        self.socks[id].written.saturating_sub(self.front_to(id).length())
    }

    /// What stands before what its peer sends.
    fn front_from(&self, id: usize) -> Front<'_> {
        let sock = &self.socks[id];
        let conn = &self.conns[sock.conn];
        match sock.side {
            Side::Client => Front { header: &conn.header, negotiation: conn.request, first: &conn.first },
            Side::Backend => Front { header: &[], negotiation: conn.answer(slice::from_ref(&conn.reply)), first: &[] },
        }
    }

    /// What stands before what is written to its peer.
    fn front_to(&self, id: usize) -> Front<'_> {
        let sock = &self.socks[id];
        let conn = &self.conns[sock.conn];
        match sock.side {
            Side::Client => Front { header: &[], negotiation: conn.answer(YES), first: &[] },
            Side::Backend => Front { header: &conn.backend_preamble, negotiation: conn.request, first: &conn.first },
        }
    }

    /// The sockets that are open on our side.
    pub fn open_sockets(&self) -> Vec<usize> {
        (0..self.socks.len()).filter(|&id| self.socks[id].open).collect()
    }

    /// One thing that the peer of a socket does.
    pub fn peer_acts(&mut self, id: usize) {
        let dice = self.random.u8(..100);
        let amount = match self.random.u8(..10) {
            0..6 => self.random.u64(1..300),
            6..9 => self.random.u64(1..20_000),
            _ => self.random.u64(1..300_000),
        };
        if !self.conns[self.socks[id].conn].request.is_empty() && self.socks[id].connected {
            // Each side waits for the other one, so it reads before it goes on.
            self.peer_takes(id, u64::MAX / 2);
        }
        let sock = &mut self.socks[id];
        // Headers come in small pieces, or at once with what follows.
        let conn = &self.conns[sock.conn];
        let (header, sent) = ((conn.header.len() + conn.request.len()) as u64, sock.sent);
        let is_client = sock.side == Side::Client;
        let (in_header, in_first) = (is_client && sent < header, is_client && sent < header + conn.first.len() as u64);
        let amount = match amount % 3 {
            1.. if in_header => amount.min(1 + amount % 20),
            1.. if in_first => amount.min(1 + amount % 200),
            _ => amount,
        };
        let amount = amount.min(conn.may_send(sock));
        if !sock.open || sock.reset {
            return;
        }
        if !sock.connected {
            return self.handshake(id, dice);
        }
        match dice {
            0..44 if amount == 0 => {}
            0..40 if !sock.fin => sock.sent += amount,
            40..44 if !sock.fin => {
                sock.mark = Some(sock.sent);
                sock.sent += amount;
            }
            44..80 => return self.peer_takes(id, amount),
            80..86 => sock.fin = true,
            86..88 => sock.resets(),
            // An event without a cause.
            _ => {}
        }
        sock.announced = true;
    }

    fn handshake(&mut self, id: usize, dice: u8) {
        let sock = &mut self.socks[id];
        match sock.answer {
            Answer::Later if dice < 50 => sock.connected = true,
            Answer::LaterRefused if dice < 50 => sock.resets(),
            _ => return,
        }
        sock.announced = true;
    }

    /// The driver learns that a backend is connected: from now on it may be used.
    fn connect_reported(&mut self, id: usize) {
        let (conn, now) = (self.socks[id].conn, self.now);
        let is_asked = !self.conns[conn].request.is_empty() && self.socks[id].read == 0;
        let is_backend = self.socks[id].side == Side::Backend && !is_asked;
        if is_backend && self.socks[id].connected && !self.conns[conn].connected {
            self.conns[conn].connected = true;
            self.conns[conn].last_io = now;
        }
    }

    /// The peer reads; if a write has reported a full buffer, an event now reports room.
    fn peer_takes(&mut self, id: usize, amount: u64) {
        let now = self.now;
        let sock = &mut self.socks[id];
        let before = sock.taken;
        sock.taken = (sock.taken + amount).min(sock.written);
        if sock.taken > before {
            sock.last_take = now;
        }
        if sock.taken > before && sock.no_space && sock.is_writable() {
            sock.no_space = false;
            sock.announced = true;
        }
    }

    /// Lets the peer finish what it began in good order: handshakes end, everything written to it is read.
    pub fn peer_settles(&mut self, id: usize) {
        if !self.socks[id].connected {
            return self.handshake(id, 0);
        }
        self.peer_takes(id, u64::MAX / 2);
    }

    /// The next announcement for a socket, if there is one: what poll would say now.
    pub fn announcement(&mut self, id: usize) -> Option<(Token, Event)> {
        let sock = &mut self.socks[id];
        if !sock.open || !sock.announced {
            return None;
        }
        assert!(!sock.awaits_fin, "the FIN that was promised did not come at once");
        sock.announced = false;
        let token = sock.token?;
        let has_mark = sock.mark.is_some_and(|mark| mark >= sock.read);
        sock.short_read_inconclusive |= has_mark;
        sock.fin_announced |= sock.fin && !sock.error;
        let event = Event {
            readable: sock.connected && (sock.read < sock.sent || sock.fin) || sock.reset,
            writable: sock.connected && sock.is_writable() || sock.reset,
            urgent: has_mark,
            finished: sock.fin || sock.reset,
            error: sock.error,
            hung_up: sock.reset,
        };
        sock.no_space |= !event.writable;
        sock.announced_readable |= event.readable;
        if event.error {
            self.fails(id);
        } else {
            self.connect_reported(id);
        }
        Some((token, event))
    }

    fn interfere(&mut self, id: usize) {
        if self.lively && self.random.u8(..) < 20 {
            let other = if self.random.bool() { self.random.usize(..self.socks.len()) } else { id };
            self.peer_acts(other);
        }
    }

    fn touched(&mut self, id: usize) {
        let (conn, now) = (self.socks[id].conn, self.now);
        self.conns[conn].last_io = now;
    }

    /// The direction whose source this socket is.
    fn direction_from(&self, id: usize) -> Direction {
        if self.socks[id].side == Side::Client { Direction::Up } else { Direction::Down }
    }

    /// The driver learns that a socket has failed.
    fn fails(&mut self, id: usize) {
        let (conn, side, now) = (self.socks[id].conn, self.socks[id].side, self.now);
        self.socks[id].error_given = true;
        let conn = &mut self.conns[conn];
        if (conn.connected || side == Side::Client) && conn.first_error.is_none() {
            (conn.first_error, conn.failed_at) = (Some(side), now);
        }
    }

    /// Hands the error of a socket out, which the kernel does once.
    fn give_error(&mut self, id: usize) -> io::Error {
        self.fails(id);
        let sock = &mut self.socks[id];
        sock.error = false;
        let kind = match (sock.connected, sock.fin) {
            (false, _) => ErrorKind::ConnectionRefused,
            (true, false) => ErrorKind::ConnectionReset,
            (true, true) => ErrorKind::BrokenPipe,
        };
        kind.into()
    }
}
