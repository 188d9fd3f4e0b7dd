//! One stream connection, TCP or unix, as clients and scripted servers use it alike.

use crate::PATIENCE;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::SendFlags;
use socket2::{Domain, SockAddr, Socket, Type};
use std::fmt;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::PathBuf;
use std::sync::{Arc, Weak};
use std::time::Duration;

/// Where something listens, written as tcplb writes and reads it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum At {
    /// An address and a port.
    Tcp(SocketAddr),
    /// The path of a unix socket.
    Unix(PathBuf),
}

/// A connected blocking socket; every read and write gives up after [`PATIENCE`]. Clones share the socket, which
/// closes with the last of them.
#[derive(Clone, Debug)]
pub struct Conn(Arc<Socket>);

/// How a peer ended its direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Ending {
    /// In order, after its last byte.
    Fin,
    /// By reset.
    Reset,
}

impl At {
    /// Reads what a `listening on` line shows.
    pub fn parse(text: &str) -> At {
        match text.strip_prefix("unix:") {
            Some(path) => At::Unix(path.into()),
            None => At::Tcp(text.parse().unwrap_or_else(|_| panic!("not an address: `{text}`"))),
        }
    }

    /// The address, for callers that have no unix sockets.
    #[track_caller]
    pub fn tcp(&self) -> SocketAddr {
        match self {
            At::Tcp(at) => *at,
            At::Unix(path) => panic!("{} is a unix socket", path.display()),
        }
    }

    /// The port, for tools that want it apart.
    #[track_caller]
    pub fn port(&self) -> u16 {
        self.tcp().port()
    }

    /// The same port on another IP address: how one reaches a listener of every interface.
    pub fn on(&self, ip: impl Into<IpAddr>) -> At {
        At::Tcp((ip.into(), self.port()).into())
    }

    pub(crate) fn socket(&self) -> (Socket, SockAddr) {
        let (domain, address) = match self {
            At::Tcp(at) => (Domain::for_address(*at), SockAddr::from(*at)),
            At::Unix(path) => {
                // `@name` is an abstract socket, which the kernel knows by a leading NUL.
                let abstract_name =
                    path.to_str().and_then(|path| path.strip_prefix('@')).map(|name| format!("\0{name}"));
                let address = abstract_name.map_or_else(|| SockAddr::unix(path), SockAddr::unix);
                (Domain::UNIX, address.expect("a path that fits"))
            }
        };
        (Socket::new(domain, Type::STREAM, None).expect("a socket"), address)
    }
}

impl fmt::Display for At {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            At::Tcp(at) => at.fmt(out),
            At::Unix(path) => write!(out, "unix:{}", path.display()),
        }
    }
}

impl Conn {
    /// Connects.
    #[track_caller]
    pub fn to(at: &At) -> Conn {
        Conn::try_to(at).unwrap_or_else(|error| panic!("connect to {at}: {error}"))
    }

    /// Connects, or says why not.
    pub fn try_to(at: &At) -> io::Result<Conn> {
        Conn::dial(at, None)
    }

    /// Connects from the given local address: on loopback, another client.
    pub fn from_source(source: IpAddr, at: &At) -> io::Result<Conn> {
        Conn::dial(at, Some((source, 0).into()))
    }

    /// Begins to connect and does not wait for it: a client that may find the backlog full. Reading and writing wait.
    pub fn attempt(at: &At) -> Conn {
        Conn::begin(at, None)
    }

    /// The same from the given local address: a client that may be reset before it has noticed that it was connected.
    pub fn attempt_from(source: impl Into<IpAddr>, at: &At) -> Conn {
        Conn::begin(at, Some(source.into()))
    }

    fn begin(at: &At, from: Option<IpAddr>) -> Conn {
        let (socket, address) = at.socket();
        if let Some(from) = from {
            socket.bind(&SocketAddr::from((from, 0)).into()).expect("bind a local address");
        }
        socket.set_nonblocking(true).expect("set O_NONBLOCK");
        // Under way, or refused, which reading shows.
        let _ = socket.connect(&address);
        socket.set_nonblocking(false).expect("clear O_NONBLOCK");
        Conn::over(socket)
    }

    /// Connects from the given local address and port.
    pub fn from_port(local: SocketAddr, at: &At) -> io::Result<Conn> {
        Conn::dial(at, Some(local))
    }

    fn dial(at: &At, from: Option<SocketAddr>) -> io::Result<Conn> {
        let (socket, address) = at.socket();
        if let Some(from) = from {
            socket.bind(&from.into())?;
        }
        match at {
            At::Tcp(_) => socket.connect_timeout(&address, PATIENCE)?,
            At::Unix(_) => socket.connect(&address)?,
        }
        Ok(Conn::over(socket))
    }

    pub(crate) fn over(socket: Socket) -> Conn {
        socket.set_read_timeout(Some(PATIENCE)).expect("set the read timeout");
        socket.set_write_timeout(Some(PATIENCE)).expect("set the write timeout");
        // Unix sockets know no Nagle.
        let _ = socket.set_tcp_nodelay(true);
        Conn(Arc::new(socket))
    }

    /// Waiting for as long as it takes: for servers whose clients are to stall.
    pub fn patient(self) -> Conn {
        for set in [Socket::set_read_timeout, Socket::set_write_timeout] {
            set(&self.0, None).expect("take back a timeout");
        }
        self
    }

    pub(crate) fn weak(&self) -> Weak<Socket> {
        Arc::downgrade(&self.0)
    }

    /// Its own address.
    #[track_caller]
    pub fn local(&self) -> SocketAddr {
        self.0.local_addr().ok().and_then(|at| at.as_socket()).expect("a TCP address")
    }

    /// The address of the other end.
    #[track_caller]
    pub fn peer(&self) -> SocketAddr {
        self.0.peer_addr().ok().and_then(|at| at.as_socket()).expect("a TCP address")
    }

    /// Sends all of it.
    #[track_caller]
    pub fn say(&self, bytes: impl AsRef<[u8]>) {
        let mut stream = self;
        stream.write_all(bytes.as_ref()).unwrap_or_else(|error| panic!("send: {error}"));
    }

    /// Receives exactly `length` bytes.
    #[track_caller]
    pub fn hear(&self, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        let mut stream = self;
        stream.read_exact(&mut bytes).unwrap_or_else(|error| panic!("receive {length} bytes: {error}"));
        bytes
    }

    /// Receives up to the peer's FIN.
    #[track_caller]
    pub fn hear_all(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut stream = self;
        if let Err(error) = stream.read_to_end(&mut bytes) {
            panic!("receive to the end, {} bytes so far: {error}", bytes.len());
        }
        bytes
    }

    /// Receives a line, without its end.
    #[track_caller]
    pub fn hear_line(&self) -> String {
        self.line().unwrap_or_else(|error| panic!("receive a line: {error}"))
    }

    /// Receives a line, byte by byte so as not to take what follows it.
    pub fn line(&self) -> io::Result<String> {
        let mut line = Vec::new();
        let mut byte = [0];
        let mut stream = self;
        loop {
            stream.read_exact(&mut byte)?;
            if byte[0] == b'\n' {
                return Ok(String::from_utf8_lossy(line.trim_ascii_end()).into_owned());
            }
            line.push(byte[0]);
        }
    }

    /// Sends `text` and expects it back.
    #[track_caller]
    pub fn assert_echoes(&self, text: &str) {
        self.say(text);
        assert_eq!(String::from_utf8_lossy(&self.hear(text.len())), text);
    }

    /// Expects a reset before a further byte.
    #[track_caller]
    pub fn assert_reset(&self) {
        let mut stream = self;
        let heard = stream.read(&mut [0; 64]).map_err(|error| error.kind());
        assert_eq!(heard, Err(io::ErrorKind::ConnectionReset));
    }

    /// Is there a byte, an end or an error to be read, now or within `time`?
    pub fn has_something_within(&self, time: Duration) -> bool {
        self.ready_within(time, PollFlags::IN)
    }

    /// Does the kernel take more bytes, now or within `time`?
    pub fn is_writable_within(&self, time: Duration) -> bool {
        self.ready_within(time, PollFlags::OUT)
    }

    fn ready_within(&self, time: Duration, what: PollFlags) -> bool {
        let time = Timespec::try_from(time).expect("a short time");
        let mut ready = [PollFd::new(&*self.0, what)];
        poll(&mut ready, Some(&time)).expect("poll one socket") > 0
    }

    /// Sends until every buffer on the way to the peer is full.
    pub fn flood(&self) {
        self.fill();
    }

    /// The same; how many bytes that were.
    pub fn fill(&self) -> usize {
        let (bytes, mut sent) = ([0; 64 * 1024], 0);
        while self.is_writable_within(Duration::from_millis(500)) {
            sent += rustix::net::send(&*self.0, &bytes, SendFlags::DONTWAIT).expect("send what fits");
        }
        sent
    }

    /// Reads and drops what still comes, until the peer ends its direction.
    #[track_caller]
    pub fn ending(&self) -> Ending {
        self.try_ending().unwrap_or_else(|error| panic!("neither FIN nor reset: {error}"))
    }

    /// The same, with anything but an end as an error.
    pub fn try_ending(&self) -> io::Result<Ending> {
        let mut stream = self;
        let mut rest = vec![0; 64 * 1024];
        loop {
            match stream.read(&mut rest) {
                Ok(0) => return Ok(Ending::Fin),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(Ending::Reset),
                Err(error) => return Err(error),
            }
        }
    }

    /// Sends a FIN; reading goes on.
    pub fn finish(&self) {
        // Fails only if the peer has already reset the connection, which reading shows.
        let _ = self.0.shutdown(Shutdown::Write);
    }

    /// Closes with a reset.
    pub fn reset(self) {
        self.0.set_linger(Some(Duration::ZERO)).expect("set SO_LINGER");
    }
}

impl AsFd for Conn {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Read for &Conn {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        (&*self.0).read(into)
    }
}

impl Write for &Conn {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        (&*self.0).write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
