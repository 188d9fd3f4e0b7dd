//! Opens listeners so that workers share a port, but no other process can.
//!
//! SO_REUSEPORT (socket(7)) gives every worker an accept queue of its own on one port. The kernel would also let a
//! second tcplb of the same user join and take half of the connections. So the first socket is bound without the
//! option, which fails if any process listens there, and gets it afterwards. Its siblings are bound with the option.
//!
//! A socket that the service manager opened ([`inherit`]) replaces one that would be bound to its address. All workers
//! then share its one accept queue.

use super::inherited::{self, Claim};
use super::pacing;
use super::socket_file;
use super::{Socket, TcpTuning};
use crate::base::address::abstract_name;
use crate::base::{Address, Endpoint, Listen};
use rustix::fs::Mode;
use rustix::io::Errno;
use rustix::net::{self, SocketFlags};
use socket2::{Domain, SockAddr, SockRef, Type};
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::OnceLock;

pub use super::inherited::{
    Claimant, Giver, holds, inherit, is_inherited, is_offered, leave_inherited, of_service_manager, overlap, own_lent,
    take_over, unclaimed,
};
pub use super::socket_file::{
    BoundFiles, FileId, Permissions, disown_files, file_of, give_files_back, is_own_file, leave_files_to, remove_files,
};

/// The accept queue's length; the kernel caps it at net.core.somaxconn (listen(2)).
const BACKLOG: i32 = 65_535;

const PRIVATE: Permissions = Permissions { mode: Some(0o600), owner: None, group: None };

/// A bound, listening address: one socket per worker, or a single one where workers can't share it.
#[derive(Debug)]
pub struct ListeningSockets {
    /// The bound address, with the real port.
    pub endpoint: Endpoint,
    /// One socket per worker for TCP; exactly one for a unix socket.
    pub sockets: Vec<Listening>,
}

/// A non-blocking listening socket.
#[derive(Debug)]
pub struct Listening {
    fd: OwnedFd,
    unix: bool,
    /// Only this host can connect, so that accepted sockets have inherited the right options.
    local: bool,
    /// Opened by the service manager, which keeps it open.
    inherited: bool,
}

/// Binds `to` for `workers` workers and listens. A name is bound on each of its addresses. Accepted sockets inherit
/// `tuning`. The error names the address.
pub fn bind(to: &Listen, workers: usize, tuning: &TcpTuning) -> io::Result<Vec<ListeningSockets>> {
    Sharing { workers, tuning, claimant: None }.bind(to, &Permissions::default())
}

/// As [`bind`] for one worker, for the admin API; a unix socket has mode 0600 from the moment it exists.
pub fn bind_private(to: &Listen, tuning: &TcpTuning) -> io::Result<Vec<ListeningSockets>> {
    let sharing = Sharing { workers: 1, tuning, claimant: Some(&Claimant::Admin) };
    sharing.bind(to, &PRIVATE)
}

/// Binds a unix socket whose connections keep the bounds of messages (SOCK_SEQPACKET), as [`bind_private`] does.
pub fn bind_for_messages(path: &Path) -> io::Result<Listening> {
    let bound = bind_unix(path, Type::SEQPACKET, &PRIVATE)?;
    bound.sockets.into_iter().next().ok_or_else(|| io::ErrorKind::AddrNotAvailable.into())
}

/// How an address is bound.
#[derive(Clone, Copy, Debug)]
pub struct Sharing<'a> {
    /// The workers that share it.
    pub workers: usize,
    /// What accepted sockets inherit.
    pub tuning: &'a TcpTuning,
    /// What has the address in the configuration, if that is known.
    pub claimant: Option<&'a Claimant>,
}

impl Sharing<'_> {
    /// As [`bind`]; a socket file has these permissions before the first client can connect.
    pub fn bind(&self, to: &Listen, permissions: &Permissions) -> io::Result<Vec<ListeningSockets>> {
        queue_limit();
        let bound = match &to.0 {
            Address::Unix(path) => vec![bind_unix(path, Type::STREAM, permissions)?],
            // No listener has such an address.
            Address::Mapped(..) => return Err(io::ErrorKind::InvalidInput.into()),
            Address::Inet(at) => vec![self.bind_shared(*at)?],
            Address::Any(port) => vec![bind_any(*port, |at| self.bind_shared(at))?],
            Address::Name(host, port) => {
                let mut addresses: Vec<SocketAddr> = (host.as_str(), *port).to_socket_addrs()?.collect();
                addresses.dedup();
                self.bind_each(&addresses)?
            }
        };
        Ok(bound)
    }

    /// Binds the addresses of a resolved name.
    pub fn bind_each(&self, addresses: &[SocketAddr]) -> io::Result<Vec<ListeningSockets>> {
        queue_limit();
        addresses.iter().map(|at| self.bind_shared(*at)).collect()
    }

    fn bind_shared(&self, at: SocketAddr) -> io::Result<ListeningSockets> {
        let Sharing { workers, tuning, claimant } = *self;
        match inherited::claim(&Endpoint::Inet(at), Type::STREAM, claimant)? {
            Some(Claim::Shared { socket, lent }) => {
                if !lent {
                    configure(&socket, at, tuning)?;
                }
                let copies = (0..workers).map(|_| socket.try_clone());
                Ok(of_tcp(at, copies.collect::<io::Result<_>>()?, true))
            }
            // All of them are kept, also if this process has fewer workers: a close would reset the clients of a queue. Where it
            // has more, workers share one: a new socket would take clients that are lost if this process does not take over.
            Some(Claim::Own { mut sockets, .. }) => {
                let copies = sockets.iter().cycle().take(workers.saturating_sub(sockets.len()).min(workers));
                let copies = copies.map(socket2::Socket::try_clone).collect::<io::Result<Vec<_>>>()?;
                sockets.extend(copies);
                Ok(of_tcp(real_address(&sockets, at)?, sockets, false))
            }
            None => {
                let mut sockets = vec![open(at, false, tuning)?];
                let real = real_address(&sockets, at)?;
                for _ in 1..workers {
                    sockets.push(open(real, true, tuning)?);
                }
                for socket in &sockets {
                    socket.listen(BACKLOG)?;
                }
                Ok(of_tcp(real, sockets, false))
            }
        }
    }
}

/// The address of the first socket, with the port that the kernel picked.
fn real_address(sockets: &[socket2::Socket], asked: SocketAddr) -> io::Result<SocketAddr> {
    let real = sockets.first().map(|first| first.local_addr()).transpose()?;
    Ok(real.and_then(|real| real.as_socket()).unwrap_or(asked))
}

fn of_tcp(at: SocketAddr, sockets: Vec<socket2::Socket>, inherited: bool) -> ListeningSockets {
    let local = at.ip().is_loopback();
    let own = |socket: socket2::Socket| Listening { fd: socket.into(), unix: false, local, inherited };
    ListeningSockets { endpoint: Endpoint::Inet(at), sockets: sockets.into_iter().map(own).collect() }
}

/// Sets the options that accepted sockets inherit on a socket that the predecessor has lent until now.
pub fn tune(socket: impl AsFd, tuning: &TcpTuning) -> io::Result<()> {
    let socket = SockRef::from(&socket);
    match socket.local_addr()?.as_socket() {
        Some(at) => configure(&socket, at, tuning),
        None => Ok(()),
    }
}

/// Binds every interface: one dual-stack socket, or IPv4 alone where the kernel has no IPv6.
pub fn bind_any<T>(port: u16, bind: impl Fn(SocketAddr) -> io::Result<T>) -> io::Result<T> {
    match bind((Ipv6Addr::UNSPECIFIED, port).into()) {
        Err(error) if matches!(Errno::from_io_error(&error), Some(Errno::AFNOSUPPORT | Errno::ADDRNOTAVAIL)) => {
            bind((Ipv4Addr::UNSPECIFIED, port).into())
        }
        bound => bound,
    }
}

/// Fails if another socket listens there, but not because of old connections (SO_REUSEADDR, socket(7)). Nothing stays bound.
pub fn try_bind(at: SocketAddr) -> io::Result<()> {
    let socket = socket2::Socket::new(Domain::for_address(at), Type::STREAM.cloexec(), None)?;
    socket.set_reuse_address(true)?;
    if at.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    socket.bind(&at.into())
}

/// Fails with EADDRINUSE if another socket listens there. No socket is to listen: a lack of the address or of a right is no failure.
pub fn refuse_taken(at: SocketAddr) -> io::Result<()> {
    let tried = if at.ip().is_unspecified() && at.is_ipv6() { bind_any(at.port(), try_bind) } else { try_bind(at) };
    tried.or_else(|error| if error.kind() == io::ErrorKind::AddrInUse { Err(error) } else { Ok(()) })
}

/// A bound TCP socket with the options that accepted sockets inherit. The listen comes after SO_REUSEPORT, since that
/// is when a socket joins its group.
fn open(at: SocketAddr, sibling: bool, tuning: &TcpTuning) -> io::Result<socket2::Socket> {
    let socket = socket2::Socket::new(Domain::for_address(at), Type::STREAM.nonblocking().cloexec(), None)?;
    // A restart can bind the port although old connections are in TIME_WAIT (socket(7)).
    socket.set_reuse_address(true)?;
    if sibling {
        socket.set_reuse_port(true)?;
    }
    if at.is_ipv6() {
        // Only `[::]` is dual-stack; a specific IPv6 address has no IPv4 side.
        socket.set_only_v6(false)?;
    }
    socket.bind(&SockAddr::from(at))?;
    socket.set_reuse_port(true)?;
    configure(&socket, at, tuning)?;
    Ok(socket)
}

/// Sets the options that accepted sockets inherit.
fn configure(socket: &socket2::Socket, at: SocketAddr, tuning: &TcpTuning) -> io::Result<()> {
    socket.set_tcp_nodelay(true)?;
    // Urgent bytes stay at their place in the stream (see `Socket::dial`).
    socket.set_out_of_band_inline(true)?;
    tuning.apply(socket.as_fd())?;
    pacing::none_on_loopback(socket, at.ip());
    Ok(())
}

/// Binds a unix socket. A file on which no process listens is left from a killed process, and is replaced.
fn bind_unix(path: &Path, kind: Type, permissions: &Permissions) -> io::Result<ListeningSockets> {
    let endpoint = Endpoint::Unix(path.into());
    let own = |fd: OwnedFd, inherited| vec![Listening { fd, unix: true, local: true, inherited }];
    match inherited::claim(&endpoint, kind, None)? {
        Some(Claim::Shared { socket, .. }) => {
            return Ok(ListeningSockets { endpoint, sockets: own(socket.into(), true) });
        }
        Some(Claim::Own { sockets, file }) => {
            if let Some(file) = file {
                socket_file::borrow(path, file, permissions)?;
            }
            let sockets = sockets.into_iter().flat_map(|socket| own(socket.into(), false)).collect();
            return Ok(ListeningSockets { endpoint, sockets });
        }
        None => {}
    }
    let address = unix_address(path)?;
    let socket = || {
        let socket = socket2::Socket::new(Domain::UNIX, kind.nonblocking().cloexec(), None)?;
        // The file gets the socket's mode at the bind, less the umask, so it is never more open than configured.
        if let Some(mode) = permissions.mode {
            rustix::fs::fchmod(&socket, Mode::from_raw_mode(mode & 0o700))?;
        }
        Ok::<_, io::Error>(socket)
    };
    let mut listening = socket()?;
    if let Err(error) = listening.bind(&address) {
        let taken = error.kind() != io::ErrorKind::AddrInUse || abstract_name(path).is_some();
        if taken || !is_dead_socket(path, &socket()?, &address)? {
            return Err(error);
        }
        std::fs::remove_file(path)?;
        listening = socket()?;
        listening.bind(&address)?;
    }
    if abstract_name(path).is_none() {
        socket_file::remember(path)?;
        permissions.apply(path).inspect_err(|_| socket_file::remove(path))?;
    }
    listening.listen(BACKLOG)?;
    Ok(ListeningSockets { endpoint, sockets: own(listening.into(), false) })
}

/// The address of a unix socket, with a file or abstract.
pub fn unix_address(path: &Path) -> io::Result<SockAddr> {
    match abstract_name(path) {
        // A leading NUL marks an abstract address (unix(7)).
        Some(name) => SockAddr::unix(std::ffi::OsStr::from_bytes(&[b"\0", name].concat())),
        None => SockAddr::unix(path),
    }
}

/// Whether the file is a socket that refuses connections. Files of other kinds are never replaced.
fn is_dead_socket(path: &Path, probe: &socket2::Socket, address: &SockAddr) -> io::Result<bool> {
    use std::os::unix::fs::FileTypeExt;
    Ok(std::fs::symlink_metadata(path)?.file_type().is_socket()
        && matches!(probe.connect(address), Err(error) if error.kind() == io::ErrorKind::ConnectionRefused))
}

impl Listening {
    /// Accepts one connection, non-blocking. The peer is `None` for a unix client, which has no address. `WouldBlock`:
    /// no client waits.
    pub fn accept(&self) -> io::Result<(Socket, Option<Endpoint>)> {
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        if self.unix {
            return Ok((Socket::from_fd(net::accept_with(&self.fd, flags)?), None));
        }
        let (fd, peer) = net::acceptfrom_with(&self.fd, flags)?;
        let peer = peer.and_then(|peer| SocketAddr::try_from(peer).ok());
        if let Some(peer) = peer.filter(|_| !self.local) {
            pacing::none_on_loopback(&fd, peer.ip());
        }
        let peer = peer.map(Endpoint::canonical);
        Ok((Socket::from_fd(fd), peer))
    }

    /// Whether it is a unix socket, on which only one worker can listen.
    pub fn is_unix(&self) -> bool {
        self.unix
    }

    /// Whether the service manager keeps it open after this descriptor is closed.
    pub fn is_inherited(&self) -> bool {
        self.inherited
    }

    /// The most clients that the accept queue holds.
    pub fn queue_limit(&self) -> u32 {
        queue_limit()
    }

    /// Keeps further clients out of an accept queue that is not empty: the kernel ignores a SYN to a full queue. An
    /// empty queue still takes one. A failure leaves the length unchanged, and so does a predecessor that may serve again: the
    /// queue is its own too.
    pub fn stop_queueing(&self) {
        if inherited::are_lent() {
            return;
        }
        if let Err(error) = net::listen(&self.fd, 0) {
            log::debug!("can't shorten the queue of a listening socket: {error}");
        }
    }
}

/// The length of an accept queue of [`BACKLOG`]: the kernel's cap plus one. Read once, since the sandbox may hide the
/// file later.
fn queue_limit() -> u32 {
    static LIMIT: OnceLock<u32> = OnceLock::new();
    *LIMIT.get_or_init(|| {
        let most = std::fs::read_to_string("/proc/sys/net/core/somaxconn");
        let most = most.ok().and_then(|most| most.trim().parse().ok());
        most.map_or(BACKLOG as u32, |most: u32| most.min(BACKLOG as u32)) + 1
    })
}

impl AsFd for Listening {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
