//! The floor: a relay that accepts, connects and relays, and does nothing else. It has no limits, no timeouts and no log.
//!
//! Each thread has its own listening sockets and its own epoll. A turn of a connection is one receive and one send; a connection whose
//! receiver is full does not read until its bytes are gone. With `--splice true` bytes go through a pipe instead of a buffer.

use rustix::event::epoll::{self, EventFlags};
use rustix::fd::OwnedFd;
use rustix::io::{Errno, Result as Io};
use rustix::net::{self, AddressFamily, RecvFlags, SendFlags, Shutdown, SocketFlags, SocketType, sockopt};
use rustix::pipe::{self, PipeFlags, SpliceFlags};
use std::net::SocketAddrV4;

const BUFFER: usize = 256 * 1024;
const BATCH: usize = 64;
const BACKLOG: i32 = 4096;
const ACCEPTS: usize = 16;
const CLIENT: usize = 0;
const BACKEND: usize = 1;
/// Above the numbers of connections.
const LISTENERS: u64 = 1 << 62;

pub(crate) struct Route {
    pub(crate) listen: SocketAddrV4,
    /// Without one, connections are closed.
    pub(crate) backend: Option<SocketAddrV4>,
}

pub(crate) struct Routes {
    pub(crate) routes: Vec<Route>,
    pub(crate) threads: usize,
    pub(crate) splice: bool,
}

/// Relays until it is ended.
pub(crate) fn run(routes: &Routes) -> Result<(), String> {
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..routes.threads).map(|_| scope.spawn(|| serve(routes))).collect();
        for thread in threads {
            thread.join().map_err(|_| "a thread ended".to_owned())?.map_err(|error| error.to_string())?;
        }
        Ok(())
    })
}

/// Bytes from one end to the other.
struct Way {
    store: Store,
    /// The sender has sent its FIN.
    has_ended: bool,
}

enum Store {
    /// What the receiver did not take yet.
    Buffer(Vec<u8>),
    Pipe {
        read: OwnedFd,
        write: OwnedFd,
        held: usize,
    },
}

struct Relay {
    ends: [OwnedFd; 2],
    /// From the client, from the backend.
    ways: [Way; 2],
    interest: [EventFlags; 2],
    is_connecting: bool,
}

struct Floor {
    epoll: OwnedFd,
    relays: Vec<Option<Relay>>,
    free: Vec<usize>,
    buffer: Vec<u8>,
    splice: bool,
}

fn serve(routes: &Routes) -> Io<()> {
    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    let mut listeners = Vec::new();
    for (number, route) in routes.routes.iter().enumerate() {
        let socket = socket()?;
        sockopt::set_socket_reuseaddr(&socket, true)?;
        sockopt::set_socket_reuseport(&socket, true)?;
        net::bind(&socket, &route.listen)?;
        net::listen(&socket, BACKLOG)?;
        epoll::add(&epoll, &socket, epoll::EventData::new_u64(LISTENERS + number as u64), EventFlags::IN)?;
        listeners.push(socket);
    }
    let mut floor = Floor { epoll, relays: vec![], free: vec![], buffer: vec![0; BUFFER], splice: routes.splice };
    let mut events = Vec::with_capacity(BATCH);
    loop {
        events.clear();
        epoll::wait(&floor.epoll, rustix::buffer::spare_capacity(&mut events), None)?;
        for event in &events {
            match event.data.u64() {
                data if data >= LISTENERS => {
                    let number = (data - LISTENERS) as usize;
                    floor.accept(&listeners[number], routes.routes[number].backend)?;
                }
                data => floor.happened((data >> 1) as usize, (data & 1) as usize, event.flags),
            }
        }
    }
}

fn socket() -> Io<OwnedFd> {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    net::socket_with(AddressFamily::INET, SocketType::STREAM, flags, None)
}

impl Floor {
    fn accept(&mut self, listener: &OwnedFd, backend: Option<SocketAddrV4>) -> Io<()> {
        for _ in 0..ACCEPTS {
            match net::accept_with(listener, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC) {
                Ok(client) => {
                    if let Some(backend) = backend {
                        // A connection that cannot be relayed is closed.
                        let _closed = self.dial(client, backend);
                    }
                }
                Err(Errno::AGAIN | Errno::CONNABORTED | Errno::MFILE) => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn dial(&mut self, client: OwnedFd, to: SocketAddrV4) -> Io<()> {
        let backend = socket()?;
        sockopt::set_tcp_nodelay(&client, true)?;
        sockopt::set_tcp_nodelay(&backend, true)?;
        match net::connect(&backend, &to) {
            Ok(()) | Err(Errno::INPROGRESS) => {}
            Err(error) => return Err(error),
        }
        let index = self.free.pop().unwrap_or(self.relays.len());
        let interest = [EventFlags::empty(), EventFlags::OUT];
        let data = |end: usize| epoll::EventData::new_u64((index << 1 | end) as u64);
        epoll::add(&self.epoll, &client, data(CLIENT), interest[CLIENT])?;
        epoll::add(&self.epoll, &backend, data(BACKEND), interest[BACKEND])?;
        let ways = [Way::new(self.splice)?, Way::new(self.splice)?];
        let relay = Relay { ends: [client, backend], ways, interest, is_connecting: true };
        if index == self.relays.len() {
            self.relays.push(Some(relay));
        } else {
            self.relays[index] = Some(relay);
        }
        Ok(())
    }

    fn happened(&mut self, index: usize, end: usize, flags: EventFlags) {
        let Some(relay) = &mut self.relays[index] else { return };
        let done = relay.turn(end, flags, &mut self.buffer).and_then(|()| {
            for end in [CLIENT, BACKEND] {
                let wanted = relay.wanted(end);
                if wanted != relay.interest[end] {
                    let data = epoll::EventData::new_u64((index << 1 | end) as u64);
                    epoll::modify(&self.epoll, &relay.ends[end], data, wanted)?;
                    relay.interest[end] = wanted;
                }
            }
            Ok(())
        });
        if done.is_err() || relay.is_over() {
            self.relays[index] = None;
            self.free.push(index);
        }
    }
}

impl Relay {
    fn turn(&mut self, end: usize, flags: EventFlags, buffer: &mut [u8]) -> Io<()> {
        let other = 1 - end;
        // Bytes before a reset are lost here; a balancer would pass them on.
        if flags.contains(EventFlags::ERR) || (flags.contains(EventFlags::HUP) && self.ways[end].has_ended) {
            return Err(Errno::CONNRESET);
        }
        if self.is_connecting {
            self.is_connecting = end != BACKEND;
            return Ok(());
        }
        if flags.contains(EventFlags::OUT) {
            self.ways[other].flush(&self.ends[end])?;
        }
        if flags.intersects(EventFlags::IN | EventFlags::HUP) && !self.ways[end].is_held() && !self.ways[end].has_ended
        {
            self.ways[end].carry(&self.ends[end], &self.ends[other], buffer)?;
        }
        Ok(())
    }

    fn wanted(&self, end: usize) -> EventFlags {
        let mut flags = EventFlags::empty();
        flags.set(EventFlags::IN, !self.is_connecting && !self.ways[end].has_ended && !self.ways[end].is_held());
        flags.set(EventFlags::OUT, self.is_connecting && end == BACKEND || self.ways[1 - end].is_held());
        flags
    }

    fn is_over(&self) -> bool {
        self.ways.iter().all(|way| way.has_ended && !way.is_held())
    }
}

impl Way {
    fn new(splice: bool) -> Io<Way> {
        let store = if splice {
            let (read, write) = pipe::pipe_with(PipeFlags::NONBLOCK | PipeFlags::CLOEXEC)?;
            // A smaller pipe works, too.
            let _size = pipe::fcntl_setpipe_size(&write, BUFFER);
            Store::Pipe { read, write, held: 0 }
        } else {
            Store::Buffer(Vec::new())
        };
        Ok(Way { store, has_ended: false })
    }

    fn is_held(&self) -> bool {
        match &self.store {
            Store::Buffer(bytes) => !bytes.is_empty(),
            Store::Pipe { held, .. } => *held > 0,
        }
    }

    /// Receives once and sends once.
    fn carry(&mut self, from: &OwnedFd, to: &OwnedFd, buffer: &mut [u8]) -> Io<()> {
        let got = match &mut self.store {
            Store::Buffer(_) => net::recv(from, &mut *buffer, RecvFlags::empty()).map(|(_, count)| count),
            Store::Pipe { write, .. } => pipe::splice(from, None, write, None, BUFFER, MOVE),
        };
        match got {
            Ok(0) => {
                self.has_ended = true;
                net::shutdown(to, Shutdown::Write)
            }
            Ok(count) => match &mut self.store {
                Store::Buffer(kept) => {
                    let sent = sent(net::send(to, &buffer[..count], SendFlags::NOSIGNAL))?;
                    kept.extend_from_slice(&buffer[sent..count]);
                    Ok(())
                }
                Store::Pipe { held, .. } => {
                    *held = count;
                    self.flush(to)
                }
            },
            Err(Errno::AGAIN) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Sends what the receiver did not take before.
    fn flush(&mut self, to: &OwnedFd) -> Io<()> {
        match &mut self.store {
            Store::Buffer(kept) if !kept.is_empty() => {
                let sent = sent(net::send(to, kept, SendFlags::NOSIGNAL))?;
                kept.drain(..sent);
            }
            Store::Pipe { read, held, .. } if *held > 0 => {
                *held -= sent(pipe::splice(read, None, to, None, *held, MOVE))?;
            }
            Store::Buffer(_) | Store::Pipe { .. } => {}
        }
        Ok(())
    }
}

const MOVE: SpliceFlags = SpliceFlags::NONBLOCK.union(SpliceFlags::MOVE);

/// A receiver that is full takes nothing.
fn sent(result: Io<usize>) -> Io<usize> {
    match result {
        Err(Errno::AGAIN) => Ok(0),
        other => other,
    }
}
