//! The interfaces of the driver: the system below it, and the events and clients that come in.
//!
//! The system is a trait, so that the simulation can replace the kernel.

use super::super::token::Token;
use crate::admission::AdmissionGuard;
use crate::base::Endpoint;
use crate::policy::liveness::Acknowledgements;
use crate::pool::{Backend, DialSource, Listener, SourceAddresses, SourcePort};
use crate::relay::Io;
use crate::session::Preamble;
use crate::telemetry::PathInfo;
use std::io;
use std::sync::Arc;
use std::time::Duration;

/// What the driver needs from the system besides moving bytes.
pub trait Net: Io {
    /// Has `token` announce what happens on a socket that was accepted or comes from another driver, and what is the case now.
    fn adopt(&mut self, socket: &Self::Socket, token: Token) -> io::Result<()>;

    /// Has nothing announced any more: the socket goes to another driver. Closing a socket does not end announcements while
    /// another process has it too.
    fn release(&mut self, socket: &Self::Socket);

    /// Begins to connect, with `token` for what happens.
    fn dial(
        &mut self,
        to: &Endpoint,
        from: DialSource<'_>,
        token: Token,
        first_bytes: FirstBytes,
    ) -> io::Result<Dialed<Self::Socket>>;

    /// Takes a warm connection to the backend's address of this number, if there is one that is silent and open. From now on
    /// `token` announces what happens. Where this answers nothing, there are none.
    fn take_warm(&mut self, _backend: &Backend, _address: usize, _token: Token) -> Option<Dialed<Self::Socket>> {
        None
    }

    /// Has the peer ended a connection that nothing was read from? Where this answers nothing, the announcement comes in time.
    fn has_ended(&mut self, _socket: &Self::Socket) -> bool {
        false
    }

    /// Has the peer sent something that was not read yet? With nothing to read, an error that waits is handed out.
    fn has_bytes(&mut self, socket: &Self::Socket) -> io::Result<bool>;

    /// The bytes that the peer has sent and that were not read yet, without taking them. 0: its FIN. `WouldBlock`: no bytes.
    fn peek(&mut self, socket: &Self::Socket, buffer: &mut [u8]) -> io::Result<usize>;

    /// The address that a client's socket was connected to; `None` for a unix socket.
    fn local(&mut self, socket: &Self::Socket) -> Option<Endpoint>;

    /// Counts a backend's socket that another process has dialled. Where this answers nothing, none is counted.
    fn count_at(&mut self, _socket: &Self::Socket, _sources: &SourceAddresses) -> Option<SourcePort> {
        None
    }

    /// The error that waits on a socket, if any.
    fn outcome(&mut self, socket: &Self::Socket) -> Option<io::Error>;

    /// Turns keepalive on for a backend's socket.
    fn keep_alive(&mut self, socket: &Self::Socket);

    /// The time within which a peer that vanished must be found. Where this and the next three answer nothing, peers never
    /// vanish.
    fn dead_peer_timeout(&self) -> Duration {
        Duration::MAX
    }

    /// What the peer has acknowledged; `None` where the peer can't vanish.
    fn acknowledgements(&mut self, _socket: &Self::Socket) -> Option<Acknowledgements> {
        None
    }

    /// Has a closed window probed at least so often; what held before, unless nothing has changed.
    fn limit_probe_interval(&mut self, _socket: &Self::Socket, _most: Duration) -> Option<Duration> {
        None
    }

    /// Removes that limit.
    fn set_probe_interval(&mut self, _socket: &Self::Socket, _most: Duration) {}

    /// What is known of the path to the peer; `None` where there is none.
    fn path_info(&mut self, _socket: &Self::Socket) -> Option<PathInfo> {
        None
    }

    /// Sends a FIN after the last byte.
    fn finish(&mut self, socket: &Self::Socket);

    /// How many bytes, a FIN included, were sent and are not acknowledged by the peer's kernel.
    fn unsent(&mut self, socket: &Self::Socket) -> u64;

    /// Closes with a reset. Dropping a socket instead closes it in order.
    fn reset(&mut self, socket: Self::Socket);

    /// May a read stop short with more behind? (See [`crate::relay::Ready::short_read_inconclusive`].)
    fn has_urgent_gaps(&self, to: &Endpoint) -> bool;
}

/// The first bytes for a backend, when its dial begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FirstBytes {
    /// They are here: they leave as soon as the socket is connected.
    Ready,
    /// The client has sent none yet.
    NotYet,
}

/// The kind of a client's socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// TCP: every worker has a listening socket.
    Tcp,
    /// A unix socket: one worker has the only listening socket.
    Unix,
}

/// A socket that connects, or that is connected already.
#[derive(Debug)]
pub struct Dialed<S> {
    /// The socket.
    pub socket: S,
    /// Is it connected?
    pub is_connected: bool,
    /// Counts it at its source address, if its pool lists some.
    pub source: Option<SourcePort>,
}

/// Something that poll announced about a socket.
#[derive(Clone, Copy, Debug, Default)]
pub struct Event {
    /// There may be something to read.
    pub readable: bool,
    /// There may be room to write.
    pub writable: bool,
    /// Urgent data has come: reads stop at its mark.
    pub urgent: bool,
    /// Its FIN has come.
    pub finished: bool,
    /// An error waits on the socket.
    pub error: bool,
    /// It is closed in both directions.
    pub hung_up: bool,
}

/// A client that was accepted and not served yet.
#[derive(Debug)]
pub struct Accepted<S> {
    /// Its socket.
    pub socket: S,
    /// Its address; `None` for a unix client.
    pub client: Option<Endpoint>,
    /// The port that it connected to; 0 for a unix client.
    pub port: u16,
    /// The kind of its socket.
    pub transport: Transport,
    /// What the listener expects before its own bytes.
    pub preamble: Preamble,
    /// The listener that accepted it.
    pub listener: Arc<Listener>,
    /// Counts it, at that listener and elsewhere.
    pub guard: AdmissionGuard,
}
