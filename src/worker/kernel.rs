//! The real system behind [`Net`]: sockets of [`crate::net`], registered with this worker's poll.
//!
//! Each socket is registered once, for everything, edge-triggered. Closing it deregisters it, except where it goes to another
//! driver.

use super::driver::{Dialed, Event, FirstBytes, Net};
use super::token::Token;
use crate::base::Endpoint;
use crate::net::{Connecting, DialOptions, Dialing, Idle, Pipe, Socket, Spares, TcpTuning};
use crate::policy::liveness::Acknowledgements;
use crate::pool::{Backend, DialSource, SourceAddresses, SourcePort};
use crate::relay::{AfterBytes, Io};
use crate::telemetry::PathInfo;
use mio::unix::SourceFd;
use mio::{Interest, Registry};
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::sync::Arc;
use std::time::Duration;

/// Everything that can happen on a socket. PRIORITY is urgent data, where a read stops short.
const EVERYTHING: Interest = Interest::READABLE.add(Interest::WRITABLE).add(Interest::PRIORITY);

/// The kernel, as one worker uses it.
#[derive(Debug)]
pub struct Kernel {
    registry: Registry,
    tuning: TcpTuning,
    /// The poll of the keeper of warm connections.
    keeper: Arc<Registry>,
    /// To be held before a client is accepted.
    pub(super) spares: Spares,
}

impl Kernel {
    /// Registers sockets with `registry`; `tuning` is for those to backends. `keeper` watches warm connections.
    pub fn new(registry: Registry, tuning: TcpTuning, keeper: Arc<Registry>) -> Kernel {
        Kernel { registry, tuning, keeper, spares: Spares::default() }
    }

    fn watch(&self, socket: &Socket, token: Token) -> io::Result<()> {
        self.registry.register(&mut SourceFd(&socket.as_fd().as_raw_fd()), token.encode(), EVERYTHING)
    }
}

impl Io for Kernel {
    type Socket = Socket;
    type Pipe = Pipe;

    fn recv(&mut self, socket: &Socket, buffer: &mut [u8]) -> io::Result<usize> {
        socket.recv(buffer)
    }

    fn send(&mut self, socket: &Socket, bytes: &[u8], then: AfterBytes) -> io::Result<usize> {
        socket.send(bytes, then == AfterBytes::Fin)
    }

    fn pipe(&mut self) -> io::Result<Pipe> {
        Pipe::new()
    }

    fn fill(&mut self, socket: &Socket, pipe: &Pipe, most: usize) -> io::Result<usize> {
        pipe.fill(socket, most)
    }

    fn empty(&mut self, pipe: &Pipe, socket: &Socket, bytes: usize) -> io::Result<usize> {
        pipe.empty(socket, bytes)
    }
}

impl Net for Kernel {
    fn adopt(&mut self, socket: &Socket, token: Token) -> io::Result<()> {
        self.watch(socket, token)
    }

    fn release(&mut self, socket: &Socket) {
        if let Err(error) = self.registry.deregister(&mut SourceFd(&socket.as_fd().as_raw_fd())) {
            log::debug!("can't stop watching a socket: {error}");
        }
    }

    fn dial(
        &mut self,
        to: &Endpoint,
        from: DialSource<'_>,
        token: Token,
        first_bytes: FirstBytes,
    ) -> io::Result<Dialed<Socket>> {
        let how = DialOptions { from, quietly: first_bytes == FirstBytes::Ready, buffer: self.tuning.buffer };
        let Connecting { socket, dialing, source } = self.spares.spend(|| Socket::dial_with(to, &how))?;
        self.watch(&socket, token)?;
        Ok(Dialed { socket, is_connected: dialing == Dialing::Done, source })
    }

    fn take_warm(&mut self, backend: &Backend, address: usize, token: Token) -> Option<Dialed<Socket>> {
        // Ends: each one that is not used is gone.
        while let Some(warm) = backend.take_warm(address) {
            let released = self.keeper.deregister(&mut SourceFd(&warm.socket.as_raw_fd())).is_ok();
            // The last look before it is used.
            if released && Socket::look(&warm.socket) == Idle::Silent {
                let dialed = Dialed { socket: Socket::from_fd(warm.socket), is_connected: true, source: warm.source };
                return self.watch(&dialed.socket, token).is_ok().then_some(dialed);
            }
        }
        None
    }

    fn has_ended(&mut self, socket: &Socket) -> bool {
        matches!(Socket::look(socket), Idle::Closed(_))
    }

    fn has_bytes(&mut self, socket: &Socket) -> io::Result<bool> {
        socket.has_bytes()
    }

    fn peek(&mut self, socket: &Socket, buffer: &mut [u8]) -> io::Result<usize> {
        socket.peek(buffer)
    }

    fn local(&mut self, socket: &Socket) -> Option<Endpoint> {
        socket.local()
    }

    fn count_at(&mut self, socket: &Socket, sources: &SourceAddresses) -> Option<SourcePort> {
        socket.count_at(sources)
    }

    fn outcome(&mut self, socket: &Socket) -> Option<io::Error> {
        socket.outcome()
    }

    fn keep_alive(&mut self, socket: &Socket) {
        if let Err(error) = socket.keep_alive(&self.tuning.keepalive) {
            log::debug!("can't turn keepalive on: {error}");
        }
    }

    fn dead_peer_timeout(&self) -> Duration {
        self.tuning.keepalive.within
    }

    fn acknowledgements(&mut self, socket: &Socket) -> Option<Acknowledgements> {
        socket.acknowledgements()
    }

    fn limit_probe_interval(&mut self, socket: &Socket, most: Duration) -> Option<Duration> {
        socket.limit_probe_interval(most)
    }

    fn set_probe_interval(&mut self, socket: &Socket, most: Duration) {
        // A kernel that can't has not limited it either.
        socket.set_probe_interval(most);
    }

    fn path_info(&mut self, socket: &Socket) -> Option<PathInfo> {
        socket.path_info()
    }

    fn finish(&mut self, socket: &Socket) {
        socket.finish();
    }

    fn unsent(&mut self, socket: &Socket) -> u64 {
        socket.unsent()
    }

    fn reset(&mut self, socket: Socket) {
        socket.reset();
    }

    fn has_urgent_gaps(&self, to: &Endpoint) -> bool {
        matches!(to, Endpoint::Unix(_))
    }
}

impl From<&mio::event::Event> for Event {
    fn from(event: &mio::event::Event) -> Event {
        Event {
            readable: event.is_readable() || event.is_read_closed(),
            writable: event.is_writable() || event.is_write_closed(),
            urgent: event.is_priority(),
            finished: event.is_read_closed(),
            error: event.is_error(),
            // EPOLLHUP alone gives both.
            hung_up: event.is_read_closed() && event.is_write_closed(),
        }
    }
}
