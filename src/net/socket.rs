//! A connected, or connecting, non-blocking stream socket.

use super::{pacing, tuning};
use crate::base::address::abstract_name;
use crate::base::{Endpoint, Size};
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
use std::time::Duration;

/// An open stream socket. Dropping it closes it: a FIN to the peer, or a reset if bytes were left unread or
/// [`Socket::reset`] was used.
#[derive(Debug)]
pub struct Socket(OwnedFd);

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
        Socket(fd)
    }

    /// Starts to connect. Fails with local errors (descriptors, ports) and those known at once (refused on loopback).
    pub fn dial(to: &Endpoint) -> io::Result<(Socket, Dialing)> {
        Socket::dial_with(to, None, |_| Ok(()))
    }

    /// As [`Socket::dial`], but the kernel delays the handshake's last ACK, for at most 200 ms: it leaves with the
    /// first bytes. That saves a packet, and the backend wakes once, for a connection that has bytes already.
    ///
    /// A [`Socket::reset`] right after connecting even precedes that ACK: the backend's kernel has answered, but its
    /// process sees no connection. So a bare probe leaves no trace in the backend's log.
    pub fn dial_quietly(to: &Endpoint) -> io::Result<(Socket, Dialing)> {
        Socket::dial_capped(to, true, None)
    }

    /// As [`Socket::dial_quietly`] if `quietly`, else as [`Socket::dial`]; with a cap on a TCP socket's buffers.
    pub fn dial_capped(to: &Endpoint, quietly: bool, buffer: Option<Size>) -> io::Result<(Socket, Dialing)> {
        let prepare = |fd: &OwnedFd| if quietly { sockopt::set_tcp_quickack(fd, false) } else { Ok(()) };
        Socket::dial_with(to, buffer, prepare)
    }

    /// `prepare` sets options of a TCP socket before it connects.
    fn dial_with(
        to: &Endpoint,
        buffer: Option<Size>,
        prepare: impl Fn(&OwnedFd) -> Result<(), Errno>,
    ) -> io::Result<(Socket, Dialing)> {
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let (fd, connecting) = match to {
            Endpoint::Inet(at) => {
                let family = if at.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
                let fd = net::socket_with(family, SocketType::STREAM, flags, None)?;
                // Small writes leave at once: the peers decide how to batch, not the balancer.
                sockopt::set_tcp_nodelay(&fd, true)?;
                pacing::none_on_loopback(&fd, at.ip());
                // Without this option the kernel takes an urgent byte out of the stream.
                sockopt::set_socket_oobinline(&fd, true)?;
                // The window scale is fixed when the connect starts.
                tuning::cap(&fd, buffer)?;
                prepare(&fd)?;
                let connecting = net::connect(&fd, at);
                (fd, connecting)
            }
            Endpoint::Unix(path) => {
                let fd = net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
                let connecting = net::connect(
                    &fd,
                    &match abstract_name(path) {
                        Some(name) => SocketAddrUnix::new_abstract_name(name)?,
                        None => SocketAddrUnix::new(&**path)?,
                    },
                );
                (fd, connecting)
            }
        };
        match connecting {
            Ok(()) => Ok((Socket(fd), Dialing::Done)),
            Err(Errno::INPROGRESS) => Ok((Socket(fd), Dialing::Pending)),
            Err(error) => Err(error.into()),
        }
    }

    /// Takes the pending error of the socket (SO_ERROR). After [`Dialing::Pending`] and a writable event, `None` means
    /// connected.
    pub fn outcome(&self) -> Option<io::Error> {
        match sockopt::socket_error(&self.0) {
            Ok(Ok(())) => None,
            Ok(Err(error)) | Err(error) => Some(error.into()),
        }
    }

    /// Reads available bytes into `buffer`. 0: the peer's FIN. `WouldBlock`: no bytes.
    pub fn recv(&self, buffer: &mut [u8]) -> io::Result<usize> {
        Ok(retry(|| net::recv(&self.0, &mut *buffer, RecvFlags::empty()))?.0)
    }

    /// As [`Socket::recv`], but the bytes stay unread.
    pub fn peek(&self, buffer: &mut [u8]) -> io::Result<usize> {
        Ok(retry(|| net::recv(&self.0, &mut *buffer, RecvFlags::PEEK))?.0)
    }

    /// Whether the peer has sent bytes that are not read yet; a FIN alone does not count. Without bytes, a pending
    /// error is returned and cleared.
    pub fn has_bytes(&self) -> io::Result<bool> {
        match retry(|| net::recv(&self.0, &mut [0; 1], RecvFlags::PEEK)) {
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
        Ok(retry(|| net::send(&self.0, bytes, flags))?)
    }

    /// The local address, an IPv4-mapped one as IPv4; `None` for a unix socket.
    pub fn local(&self) -> Option<Endpoint> {
        let at = net::getsockname(&self.0).ok()?;
        SocketAddr::try_from(at).ok().map(Endpoint::canonical)
    }

    /// Sends a FIN after the last byte; the socket can still read. An error means that the peer is gone, which
    /// reading reports too.
    pub fn finish(&self) {
        let _ = net::shutdown(&self.0, Shutdown::Write);
    }

    /// Closes with a reset and drops the bytes that the kernel still holds (SO_LINGER of zero, socket(7)). On a unix
    /// socket the peer sees an end of file: unix(7) has no reset.
    pub fn reset(self) {
        let _ = sockopt::set_socket_linger(&self.0, Some(Duration::ZERO));
    }

    /// Turns keepalive on. Does nothing on a unix socket, whose peer can't vanish.
    pub fn keep_alive(&self, keepalive: &Keepalive) -> io::Result<()> {
        keep_alive(self.0.as_fd(), keepalive)
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
        socket.0
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Closing the descriptor also removes it from the poll, so nothing deregisters.
impl Source for Socket {
    fn register(&mut self, registry: &Registry, token: Token, interests: Interest) -> io::Result<()> {
        SourceFd(&self.0.as_raw_fd()).register(registry, token, interests)
    }

    fn reregister(&mut self, registry: &Registry, token: Token, interests: Interest) -> io::Result<()> {
        SourceFd(&self.0.as_raw_fd()).reregister(registry, token, interests)
    }

    fn deregister(&mut self, registry: &Registry) -> io::Result<()> {
        SourceFd(&self.0.as_raw_fd()).deregister(registry)
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
