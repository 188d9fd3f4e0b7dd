//! A connected, or connecting, non-blocking stream socket.

use super::source::{self, LocalAddress};
use super::{pacing, tuning};
use crate::base::address::abstract_name;
use crate::base::{Endpoint, Size};
use crate::pool::{DialSource, SourceAddresses, SourcePort};
use mio::event::Source;
use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};
use rustix::io::Errno;
use rustix::net::{
    self, AddressFamily, RecvFlags, SendFlags, Shutdown, SocketAddrUnix, SocketFlags, SocketType, sockopt,
};
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

/// An open stream socket. Dropping it closes it: a FIN to the peer, or a reset if bytes were left unread or
/// [`Socket::reset`] was used.
#[derive(Debug)]
pub struct Socket {
    fd: OwnedFd,
}

/// A socket that connects, or that is connected already.
#[derive(Debug)]
pub struct Connecting {
    /// The socket.
    pub socket: Socket,
    /// Whether it is connected.
    pub dialing: Dialing,
    /// Counts it at its source address, if its pool lists some.
    pub source: Option<SourcePort>,
}

/// How a socket is dialled.
#[derive(Clone, Copy, Debug)]
pub struct DialOptions<'a> {
    /// Where it comes from.
    pub from: DialSource<'a>,
    /// The kernel delays the handshake's last ACK, for at most 200 ms: it leaves with the first bytes. That saves a packet, and
    /// the backend wakes once, for a connection that has bytes already.
    ///
    /// A [`Socket::reset`] right after connecting even precedes that ACK: the backend's kernel has answered, but its
    /// process sees no connection. So a bare probe leaves no trace in the backend's log.
    pub quietly: bool,
    /// A cap on a TCP socket's buffers.
    pub buffer: Option<Size>,
}

impl DialOptions<'static> {
    /// As the kernel has it.
    pub const PLAIN: DialOptions<'static> = DialOptions { from: DialSource::System, quietly: false, buffer: None };
}

/// The state of a non-blocking connect when the call returns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialing {
    /// Connected already, as is usual on loopback and for unix sockets.
    Done,
    /// The socket becomes writable when the result is known; [`Socket::outcome`] returns it.
    Pending,
}

/// What a look at an idle connection shows; nothing is taken from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Idle {
    /// It is open, and the peer has sent nothing. A connect that is under way looks the same.
    Silent,
    /// The peer has sent bytes.
    Spoke,
    /// The peer has closed it, or it has failed: with this error, where there was one.
    Closed(Option<Errno>),
}

/// How soon a vanished peer is found. Keepalive covers idle connections, [`crate::policy::liveness`] the others.
#[derive(Clone, Copy, Debug)]
pub struct Keepalive {
    /// The idle time before the first keepalive probe.
    pub idle: Duration,
    /// The time between probes.
    pub interval: Duration,
    /// Unanswered probes after which the peer counts as dead.
    pub probes: u32,
    /// The time that all of it takes, and the most that a peer may delay an acknowledgement.
    pub within: Duration,
}

const FLAGS: SocketFlags = SocketFlags::NONBLOCK.union(SocketFlags::CLOEXEC);

/// The most probes that the kernel sends (MAX_TCP_KEEPCNT).
const PROBES_MAX: u128 = 127;

impl Keepalive {
    /// Finds a dead peer within `time`: half of it idle, then as many probes as fit, usually six. The kernel counts in
    /// whole seconds.
    ///
    /// TCP_USER_TIMEOUT is not set: it also ends a connection whose peer acknowledges every probe but keeps its window
    /// closed.
    pub fn within(time: Duration) -> Keepalive {
        let seconds = |part| Duration::from_secs((time / part).as_secs().max(1));
        let (idle, interval) = (seconds(2), seconds(12));
        let probes = (time.saturating_sub(idle).as_millis() / interval.as_millis()).clamp(1, PROBES_MAX) as u32;
        Keepalive { idle, interval, probes, within: time }
    }
}

impl Socket {
    /// Wraps an open stream socket that is already non-blocking.
    pub fn from_fd(fd: OwnedFd) -> Socket {
        Socket { fd }
    }

    /// The descriptor.
    pub fn into_fd(self) -> OwnedFd {
        self.fd
    }

    /// Counts a socket that another process has dialled.
    pub fn count_at(&self, sources: &SourceAddresses) -> Option<SourcePort> {
        sources.iter().next().and_then(|_| sources.claim(&self.local()?))
    }

    /// Starts to connect. Fails with local errors (descriptors, ports) and those known at once (refused on loopback).
    pub fn dial(to: &Endpoint) -> io::Result<(Socket, Dialing)> {
        Socket::dial_with(to, &DialOptions::PLAIN).map(|connecting| (connecting.socket, connecting.dialing))
    }

    /// As [`Socket::dial`], with these options. A source address without a free port is passed over.
    pub fn dial_with(to: &Endpoint, how: &DialOptions<'_>) -> io::Result<Connecting> {
        let uncounted = |(fd, dialing)| Connecting { socket: Socket { fd }, dialing, source: None };
        let at = match to {
            Endpoint::Inet(at) => at,
            Endpoint::Unix(path) => return connect_unix(path).map(uncounted),
        };
        let own = |ip| LocalAddress::Own(SocketAddr::new(ip, 0));
        let from = match how.from {
            DialSource::System => None,
            DialSource::Local(ip) => Some(own(ip)),
            DialSource::Client(client) => Some(LocalAddress::Foreign(*client)),
            DialSource::Of(sources) => {
                for source in sources.in_turn(at.ip()) {
                    match connect(at, how, Some(own(source.ip))) {
                        Err(error) if Errno::from_io_error(&error) == Some(Errno::ADDRNOTAVAIL) => {}
                        connecting => {
                            let (fd, dialing) = connecting?;
                            return Ok(Connecting { socket: Socket { fd }, dialing, source: Some(source.take()) });
                        }
                    }
                }
                return Err(Errno::ADDRNOTAVAIL.into());
            }
        };
        connect(at, how, from).map(uncounted)
    }

    /// Takes the pending error of the socket (SO_ERROR). After [`Dialing::Pending`] and a writable event, `None` means
    /// connected.
    pub fn outcome(&self) -> Option<io::Error> {
        match sockopt::socket_error(&self.fd) {
            Ok(Ok(())) => None,
            Ok(Err(error)) | Err(error) => Some(error.into()),
        }
    }

    /// Reads available bytes into `buffer`. 0: the peer's FIN. `WouldBlock`: no bytes.
    pub fn recv(&self, buffer: &mut [u8]) -> io::Result<usize> {
        Ok(retry(|| net::recv(&self.fd, &mut *buffer, RecvFlags::empty()))?.0)
    }

    /// As [`Socket::recv`], but the bytes stay unread.
    pub fn peek(&self, buffer: &mut [u8]) -> io::Result<usize> {
        Ok(retry(|| net::recv(&self.fd, &mut *buffer, RecvFlags::PEEK))?.0)
    }

    /// Whether the peer has sent bytes that are not read yet; a FIN alone does not count. Without bytes, a pending
    /// error is returned and cleared.
    pub fn has_bytes(&self) -> io::Result<bool> {
        match retry(|| net::recv(&self.fd, &mut [0; 1], RecvFlags::PEEK)) {
            Ok((read, _)) => Ok(read > 0),
            Err(Errno::AGAIN) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Looks at a connection that nothing is read from.
    pub fn look(fd: &impl AsFd) -> Idle {
        match retry(|| net::recv(fd, &mut [0; 1], RecvFlags::PEEK)) {
            Ok((0, _)) => Idle::Closed(None),
            Ok(_) => Idle::Spoke,
            Err(Errno::AGAIN) => Idle::Silent,
            Err(error) => Idle::Closed(Some(error)),
        }
    }

    /// Writes what the kernel takes. `WouldBlock`: no room. With `more`, a part of a packet waits for further bytes or
    /// a FIN, for at most 200 ms (tcp(7), TCP_CORK).
    pub fn send(&self, bytes: &[u8], more: bool) -> io::Result<usize> {
        let flags = if more { SendFlags::NOSIGNAL | SendFlags::MORE } else { SendFlags::NOSIGNAL };
        Ok(retry(|| net::send(&self.fd, bytes, flags))?)
    }

    /// The local address, an IPv4-mapped one as IPv4; `None` for a unix socket.
    pub fn local(&self) -> Option<Endpoint> {
        let at = net::getsockname(&self.fd).ok()?;
        SocketAddr::try_from(at).ok().map(Endpoint::canonical)
    }

    /// Sends a FIN after the last byte; the socket can still read. An error means that the peer is gone, which
    /// reading reports too.
    pub fn finish(&self) {
        let _ = net::shutdown(&self.fd, Shutdown::Write);
    }

    /// Closes with a reset and drops the bytes that the kernel still holds (SO_LINGER of zero, socket(7)). On a unix
    /// socket the peer sees an end of file: unix(7) has no reset.
    pub fn reset(self) {
        let _ = sockopt::set_socket_linger(&self.fd, Some(Duration::ZERO));
    }

    /// Turns keepalive on. Does nothing on a unix socket, whose peer can't vanish.
    pub fn keep_alive(&self, keepalive: &Keepalive) -> io::Result<()> {
        keep_alive(self.fd.as_fd(), keepalive)
    }
}

/// Starts to connect a TCP socket.
fn connect(to: &SocketAddr, how: &DialOptions<'_>, from: Option<LocalAddress>) -> io::Result<(OwnedFd, Dialing)> {
    let family = if to.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let fd = net::socket_with(family, SocketType::STREAM, FLAGS, None)?;
    // Small writes leave at once: the peers decide how to batch, not the balancer.
    sockopt::set_tcp_nodelay(&fd, true)?;
    pacing::none_on_loopback(&fd, to.ip());
    // Without this option the kernel takes an urgent byte out of the stream.
    sockopt::set_socket_oobinline(&fd, true)?;
    // The window scale is fixed when the connect starts.
    tuning::cap(&fd, how.buffer)?;
    if how.quietly {
        sockopt::set_tcp_quickack(&fd, false)?;
    }
    if let Some(from) = from {
        source::bind(&fd, from, to)?;
    }
    let connecting = net::connect(&fd, to);
    Ok((fd, dialing(connecting)?))
}

/// The same for a unix socket.
fn connect_unix(path: &Path) -> io::Result<(OwnedFd, Dialing)> {
    let fd = net::socket_with(AddressFamily::UNIX, SocketType::STREAM, FLAGS, None)?;
    let at = match abstract_name(path) {
        Some(name) => SocketAddrUnix::new_abstract_name(name)?,
        None => SocketAddrUnix::new(path)?,
    };
    let connecting = net::connect(&fd, &at);
    Ok((fd, dialing(connecting)?))
}

fn dialing(connecting: Result<(), Errno>) -> io::Result<Dialing> {
    match connecting {
        Ok(()) => Ok(Dialing::Done),
        Err(Errno::INPROGRESS) => Ok(Dialing::Pending),
        Err(error) => Err(error.into()),
    }
}

/// Sets keepalive on a TCP socket; accepted sockets inherit it from listeners.
pub(super) fn keep_alive(fd: BorrowedFd<'_>, keepalive: &Keepalive) -> io::Result<()> {
    if sockopt::socket_domain(fd)? == AddressFamily::UNIX {
        return Ok(());
    }
    sockopt::set_socket_keepalive(fd, true)?;
    sockopt::set_tcp_keepidle(fd, keepalive.idle)?;
    sockopt::set_tcp_keepintvl(fd, keepalive.interval)?;
    sockopt::set_tcp_keepcnt(fd, keepalive.probes)?;
    Ok(())
}

pub(super) fn retry<T>(mut call: impl FnMut() -> Result<T, Errno>) -> Result<T, Errno> {
    loop {
        match call() {
            Err(Errno::INTR) => {}
            done => return done,
        }
    }
}

impl From<Socket> for OwnedFd {
    fn from(socket: Socket) -> OwnedFd {
        socket.fd
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Closing the descriptor also removes it from the poll, so nothing deregisters.
impl Source for Socket {
    fn register(&mut self, registry: &Registry, token: Token, interests: Interest) -> io::Result<()> {
        SourceFd(&self.fd.as_raw_fd()).register(registry, token, interests)
    }

    fn reregister(&mut self, registry: &Registry, token: Token, interests: Interest) -> io::Result<()> {
        SourceFd(&self.fd.as_raw_fd()).reregister(registry, token, interests)
    }

    fn deregister(&mut self, registry: &Registry) -> io::Result<()> {
        SourceFd(&self.fd.as_raw_fd()).deregister(registry)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keepalive_finds_a_dead_peer_within_its_time() {
        for seconds in [2, 3, 4, 7, 8, 12, 13, 23, 24, 60, 120, 36_000] {
            let time = Duration::from_secs(seconds);
            let keepalive = Keepalive::within(time);
            let found = keepalive.idle + keepalive.interval * keepalive.probes;
            assert!(found <= time, "{seconds} s: {keepalive:?}");
            assert!(found >= time * 3 / 4, "{seconds} s: {keepalive:?}");
        }
    }
}
