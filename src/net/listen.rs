//! Opening listeners so that workers share a port among themselves and with nobody else.
//!
//! SO_REUSEPORT lets every worker have its own accept queue on one port, but the kernel would also let a second tcplb of
//! the same user join in and take half of the connections. So the first socket is bound without it, which fails if
//! anybody at all listens there, and is given the option only then; its siblings are bound with it.
//!
//! A socket that a service manager opened for us ([`inherit`]) takes the place of one that would be bound to its address.
//! All workers then share its one accept queue.

use super::inherited;
use super::pacing;
use super::{Socket, TcpTuning};
use crate::base::address::abstract_name;
use crate::base::{Address, Endpoint, Listen};
use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Uid};
use rustix::io::Errno;
use rustix::net::{self, SocketFlags};
use socket2::{Domain, SockAddr, Type};
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::OnceLock;

pub use super::inherited::{inherit, is_inherited, is_offered, unclaimed};

/// What the kernel may queue for us to accept; it takes the smaller of this and net.core.somaxconn (listen(2)).
const BACKLOG: i32 = 65_535;

/// A bound, listening address: one socket per worker, or a single one where the address can't be shared.
#[derive(Debug)]
pub struct ListeningSockets {
    /// What it is bound to, with the real port.
    pub endpoint: Endpoint,
    /// One per worker for TCP; exactly one for a unix socket.
    pub sockets: Vec<Listening>,
}

/// A non-blocking listening socket.
#[derive(Debug)]
pub struct Listening {
    fd: OwnedFd,
    unix: bool,
    /// Only this host can connect: what it accepts has inherited what suits that.
    local: bool,
    /// Opened by the service manager, which keeps it open.
    inherited: bool,
}

/// Who may connect to a socket file; what is `None` is as the system makes it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Permissions {
    /// Permission bits.
    pub mode: Option<u32>,
    /// The owner's number.
    pub owner: Option<u32>,
    /// The group's.
    pub group: Option<u32>,
}

impl Permissions {
    /// Gives them to a socket file, and to nothing that another process may have put in its place. Returns what they replace.
    /// On an error the file has those that it had.
    pub fn apply(&self, path: &Path) -> io::Result<Permissions> {
        if *self == Permissions::default() {
            return Ok(*self);
        }
        let file = rustix::fs::open(path, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
        let found = rustix::fs::fstat(&file)?;
        if !FileType::from_raw_mode(found.st_mode).is_socket() {
            return Err(io::Error::other("it is no socket any more"));
        }
        let before = Permissions {
            mode: self.mode.and(Some(found.st_mode & 0o777)),
            owner: self.owner.and(Some(found.st_uid)),
            group: self.group.and(Some(found.st_gid)),
        };
        self.set(&file).inspect_err(|_| drop(before.set(&file)))?;
        Ok(before)
    }

    fn set(&self, file: &OwnedFd) -> io::Result<()> {
        let (owner, group) = (self.owner.map(Uid::from_raw), self.group.map(Gid::from_raw));
        if owner.is_some() || group.is_some() {
            rustix::fs::chownat(file, "", owner, group, AtFlags::EMPTY_PATH)?;
        }
        // After the owner: others must not have what is meant for that one. The descriptor itself takes no mode (open(2), O_PATH).
        self.mode.map_or(Ok(()), |mode| {
            let file = format!("/proc/self/fd/{}", file.as_raw_fd());
            std::fs::set_permissions(file, std::fs::Permissions::from_mode(mode))
        })
    }
}

/// Binds `to` for `workers` workers and listens. A name is bound on each of its addresses. What is accepted is looked after
/// by `tuning`. The error names the address.
pub fn bind(to: &Listen, workers: usize, tuning: &TcpTuning) -> io::Result<Vec<ListeningSockets>> {
    bind_with(to, workers, tuning, &Permissions::default())
}

/// As [`bind`]; a socket file has these permissions before the first client can connect.
pub fn bind_permitting(
    to: &Listen,
    workers: usize,
    tuning: &TcpTuning,
    permissions: &Permissions,
) -> io::Result<Vec<ListeningSockets>> {
    bind_with(to, workers, tuning, permissions)
}

/// As [`bind`] for one worker, but a unix socket is its owner's alone (mode 0600) from the moment it exists.
pub fn bind_private(to: &Listen, tuning: &TcpTuning) -> io::Result<Vec<ListeningSockets>> {
    bind_with(to, 1, tuning, &Permissions { mode: Some(0o600), ..Permissions::default() })
}

fn bind_with(
    to: &Listen,
    workers: usize,
    tuning: &TcpTuning,
    permissions: &Permissions,
) -> io::Result<Vec<ListeningSockets>> {
    queue_limit();
    let bound = match &to.0 {
        Address::Unix(path) => vec![bind_unix(path, permissions)?],
        Address::Inet(at) => vec![bind_shared(*at, workers, tuning)?],
        Address::Any(port) => vec![bind_any(*port, workers, tuning)?],
        Address::Name(host, port) => {
            let mut addresses: Vec<SocketAddr> = (host.as_str(), *port).to_socket_addrs()?.collect();
            addresses.dedup();
            bind_each(&addresses, workers, tuning)?
        }
    };
    Ok(bound)
}

/// As [`bind`] for the addresses of a name that is resolved already.
pub fn bind_each(addresses: &[SocketAddr], workers: usize, tuning: &TcpTuning) -> io::Result<Vec<ListeningSockets>> {
    queue_limit();
    addresses.iter().map(|at| bind_shared(*at, workers, tuning)).collect()
}

/// Every interface: one dual-stack socket, or plain IPv4 where the kernel has no IPv6.
fn bind_any(port: u16, workers: usize, tuning: &TcpTuning) -> io::Result<ListeningSockets> {
    match bind_shared((Ipv6Addr::UNSPECIFIED, port).into(), workers, tuning) {
        Err(error) if matches!(Errno::from_io_error(&error), Some(Errno::AFNOSUPPORT | Errno::ADDRNOTAVAIL)) => {
            bind_shared((Ipv4Addr::UNSPECIFIED, port).into(), workers, tuning)
        }
        bound => bound,
    }
}

fn bind_shared(at: SocketAddr, workers: usize, tuning: &TcpTuning) -> io::Result<ListeningSockets> {
    if let Some(socket) = inherited::claim(&Endpoint::Inet(at))? {
        tuning.apply(socket.as_fd())?;
        socket.set_tcp_nodelay(true)?;
        socket.set_out_of_band_inline(true)?;
        pacing::none_on_loopback(&socket, at.ip());
        let local = at.ip().is_loopback();
        let own = |fd: OwnedFd| Listening { fd, unix: false, local, inherited: true };
        let sockets = (0..workers).map(|_| Ok(own(socket.try_clone()?.into())));
        return Ok(ListeningSockets { endpoint: Endpoint::Inet(at), sockets: sockets.collect::<io::Result<_>>()? });
    }
    let first = open(at, false, tuning)?;
    let real = first.local_addr()?.as_socket().unwrap_or(at);
    let mut sockets = vec![first];
    for _ in 1..workers {
        sockets.push(open(real, true, tuning)?);
    }
    for socket in &sockets {
        socket.listen(BACKLOG)?;
    }
    let local = real.ip().is_loopback();
    let own = |socket: socket2::Socket| Listening { fd: socket.into(), unix: false, local, inherited: false };
    Ok(ListeningSockets { endpoint: Endpoint::Inet(real), sockets: sockets.into_iter().map(own).collect() })
}

/// A bound TCP socket with the options that accepted sockets inherit. Listening comes after SO_REUSEPORT: that is when
/// a socket joins its group.
fn open(at: SocketAddr, sibling: bool, tuning: &TcpTuning) -> io::Result<socket2::Socket> {
    let socket = socket2::Socket::new(Domain::for_address(at), Type::STREAM.nonblocking().cloexec(), None)?;
    // Not in the way of a restart: old connections in TIME_WAIT do not block the port (socket(7)).
    socket.set_reuse_address(true)?;
    if sibling {
        socket.set_reuse_port(true)?;
    }
    if at.is_ipv6() {
        // `[::]` alone is dual-stack; a specific IPv6 address has no IPv4 side anyway.
        socket.set_only_v6(false)?;
    }
    socket.bind(&SockAddr::from(at))?;
    socket.set_reuse_port(true)?;
    socket.set_tcp_nodelay(true)?;
    // Urgent bytes stay in their place among the others (see `Socket::dial`).
    socket.set_out_of_band_inline(true)?;
    tuning.apply(socket.as_fd())?;
    pacing::none_on_loopback(&socket, at.ip());
    Ok(socket)
}

/// A socket file that nobody listens on is left over from a process that was killed: it is replaced.
fn bind_unix(path: &Path, permissions: &Permissions) -> io::Result<ListeningSockets> {
    let endpoint = Endpoint::Unix(path.into());
    let own = |fd: OwnedFd, inherited| vec![Listening { fd, unix: true, local: true, inherited }];
    if let Some(socket) = inherited::claim(&endpoint)? {
        return Ok(ListeningSockets { endpoint, sockets: own(socket.into(), true) });
    }
    let address = unix_address(path)?;
    let socket = || {
        let socket = socket2::Socket::new(Domain::UNIX, Type::STREAM.nonblocking().cloexec(), None)?;
        // The file gets the mode that the socket has when it is bound, less the umask: it is never open to more than it shall
        // be.
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
        permissions.apply(path).inspect_err(|_| drop(std::fs::remove_file(path)))?;
    }
    listening.listen(BACKLOG)?;
    Ok(ListeningSockets { endpoint, sockets: own(listening.into(), false) })
}

/// The address of a unix socket: a file's, or an abstract one's.
pub fn unix_address(path: &Path) -> io::Result<SockAddr> {
    match abstract_name(path) {
        // The kernel tells the two apart by a leading NUL (unix(7)).
        Some(name) => SockAddr::unix(std::ffi::OsStr::from_bytes(&[b"\0", name].concat())),
        None => SockAddr::unix(path),
    }
}

/// Only a socket is ever replaced, and only if connecting to it is refused.
fn is_dead_socket(path: &Path, probe: &socket2::Socket, address: &SockAddr) -> io::Result<bool> {
    use std::os::unix::fs::FileTypeExt;
    Ok(std::fs::symlink_metadata(path)?.file_type().is_socket()
        && matches!(probe.connect(address), Err(error) if error.kind() == io::ErrorKind::ConnectionRefused))
}

impl Listening {
    /// Accepts one connection, non-blocking. `None` as the peer: a unix client, which has no address.
    /// `WouldBlock`: nobody waits.
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

    /// Is it a unix socket, which only one worker can listen on?
    pub fn is_unix(&self) -> bool {
        self.unix
    }

    /// Does the service manager keep it open, whatever becomes of this descriptor?
    pub fn is_inherited(&self) -> bool {
        self.inherited
    }

    /// The most clients that may wait in its queue.
    pub fn queue_limit(&self) -> u32 {
        queue_limit()
    }

    /// Keeps further clients out of the queue while some wait in it: the kernel ignores a SYN to a full queue. An empty
    /// queue still takes one. A failure leaves the queue as long as it was.
    pub fn stop_queueing(&self) {
        if let Err(error) = net::listen(&self.fd, 0) {
            log::debug!("can't shorten the queue of a listening socket: {error}");
        }
    }
}

/// What a queue of [`BACKLOG`] is in fact. One more fits in than its length says. Read once, since a sandbox may hide it later.
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
