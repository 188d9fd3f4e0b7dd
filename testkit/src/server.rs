//! A scripted server: one thread accepts, one per connection runs the script. It can be stopped and started again on
//! the same port, as a server that crashes and comes back.

use crate::{At, Conn, eventually, eventually_some};
use parking_lot::Mutex;
use socket2::Socket;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpListener};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::thread::{self, JoinHandle};
use std::time::Duration;

type Script = Arc<dyn Fn(Conn) -> io::Result<()> + Send + Sync>;
type Open = Arc<Mutex<Vec<Weak<Socket>>>>;

/// What the kernel may queue for one scripted server.
const BACKLOG: i32 = 4096;

/// A thread per connection is cheap if its stack is small.
const STACK: usize = 256 * 1024;

/// A running, or stopped, scripted server.
pub struct Server {
    at: At,
    script: Script,
    accepted: Arc<AtomicUsize>,
    open: Open,
    running: Option<(Arc<Socket>, JoinHandle<()>)>,
}

/// A loopback address that no other test uses. A port stopped on it stays free until it is started again, as no test
/// connects from there. On 127.0.0.1 any outgoing connection might get that port meanwhile.
pub fn fresh_loopback() -> IpAddr {
    Ipv4Addr::new(127, fastrand::u8(1..=254), fastrand::u8(..), fastrand::u8(1..=254)).into()
}

/// An address without a listener, for a server which cannot choose its port itself.
pub fn free_address() -> SocketAddr {
    free_address_on(&fresh_loopback().to_string())
}

/// The same on a given IP address.
pub fn free_address_on(ip: &str) -> SocketAddr {
    let free = TcpListener::bind((ip, 0)).expect("bind a free port");
    free.local_addr().expect("its address")
}

/// An address where every connect is refused.
pub fn refusing() -> At {
    At::Tcp(free_address())
}

impl Server {
    /// Starts on a fresh loopback address.
    pub fn start(script: impl Fn(Conn) -> io::Result<()> + Send + Sync + 'static) -> Server {
        Server::start_at(At::Tcp((fresh_loopback(), 0).into()), script)
    }

    /// Starts on `ip`.
    pub fn start_on(ip: impl Into<IpAddr>, script: impl Fn(Conn) -> io::Result<()> + Send + Sync + 'static) -> Server {
        Server::start_at(At::Tcp((ip.into(), 0).into()), script)
    }

    /// Starts on `at`, whose port no other process has.
    pub fn start_at_address(at: SocketAddr, script: impl Fn(Conn) -> io::Result<()> + Send + Sync + 'static) -> Server {
        Server::start_at(At::Tcp(at), script)
    }

    /// Starts on a unix socket.
    pub fn start_unix(path: &Path, script: impl Fn(Conn) -> io::Result<()> + Send + Sync + 'static) -> Server {
        Server::start_at(At::Unix(path.into()), script)
    }

    fn start_at(at: At, script: impl Fn(Conn) -> io::Result<()> + Send + Sync + 'static) -> Server {
        let mut server =
            Server { at, script: Arc::new(script), accepted: Arc::default(), open: Open::default(), running: None };
        server.start_again();
        server
    }

    /// Where it listens.
    pub fn at(&self) -> &At {
        &self.at
    }

    /// How many connections it has accepted, probes among them.
    pub fn accepted(&self) -> usize {
        self.accepted.load(Ordering::SeqCst)
    }

    /// Listens again after [`Server::stop`] or [`Server::stop_listening`], on the same address.
    pub fn start_again(&mut self) {
        assert!(self.running.is_none(), "{} is running", self.at);
        let (socket, at) = listen(&self.at, BACKLOG);
        self.at = at;
        let socket = Arc::new(socket);
        let (listening, script) = (socket.clone(), self.script.clone());
        let (accepted, open) = (self.accepted.clone(), self.open.clone());
        let thread = thread::spawn(move || accept(&listening, &script, &accepted, &open));
        self.running = Some((socket, thread));
    }

    /// Refuses new connections; those it has go on.
    pub fn stop_listening(&mut self) {
        if let Some((socket, thread)) = self.running.take() {
            // On Linux this ends a blocked accept(2).
            socket.shutdown(Shutdown::Both).expect("stop accepting");
            thread.join().expect("the accepting thread never panics");
            if let At::Unix(path) = &self.at {
                // Gone already where a temporary directory was removed first.
                let _ = std::fs::remove_file(path);
            }
        }
    }

    /// Refuses new connections and ends those it has.
    pub fn stop(&mut self) {
        self.stop_listening();
        for socket in self.open.lock().drain(..).filter_map(|socket| socket.upgrade()) {
            // Its script sees an end and returns.
            let _ = socket.shutdown(Shutdown::Both);
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Listens there; the address with the real port.
fn listen(at: &At, backlog: i32) -> (Socket, At) {
    let (socket, address) = at.socket();
    socket.set_reuse_address(true).expect("set SO_REUSEADDR");
    socket.bind(&address).unwrap_or_else(|error| panic!("bind {at}: {error}"));
    socket.listen(backlog).expect("listen");
    let real = socket.local_addr().expect("its address").as_socket();
    (socket, real.map_or_else(|| at.clone(), At::Tcp))
}

fn accept(listening: &Socket, script: &Script, accepted: &AtomicUsize, open: &Open) {
    let mut sweep_at = 64;
    // Any error means that the listener was shut down, or that the test process is out of descriptors and fails anyway.
    while let Ok((socket, _)) = listening.accept() {
        accepted.fetch_add(1, Ordering::SeqCst);
        let conn = Conn::over(socket);
        let mut open = open.lock();
        open.push(conn.weak());
        if open.len() >= sweep_at {
            open.retain(|socket| socket.strong_count() > 0);
            sweep_at = 64 + 2 * open.len();
        }
        let script = script.clone();
        // A script's error comes from its peer, and the test checks it from the other side.
        let run = move || drop(script(conn));
        thread::Builder::new().stack_size(STACK).spawn(run).expect("a thread for a connection");
    }
}

/// A server whose connections a test plays by hand.
pub struct ManualServer {
    at: At,
    listening: Socket,
}

impl ManualServer {
    /// Listens on a fresh loopback address.
    pub fn start() -> ManualServer {
        let (listening, at) = listen(&At::Tcp((fresh_loopback(), 0).into()), BACKLOG);
        listening.set_nonblocking(true).expect("set O_NONBLOCK");
        ManualServer { at, listening }
    }

    /// Where it listens.
    pub fn at(&self) -> &At {
        &self.at
    }

    /// Waits for the next connection.
    #[track_caller]
    pub fn accept(&self) -> Conn {
        Conn::over(eventually_some("a connection reaches the server", || self.listening.accept().ok()).0)
    }

    /// Is the backlog empty?
    pub fn is_alone(&self) -> bool {
        self.listening.accept().is_err()
    }
}

/// A server that answers no connect at all: its backlog is full and no client is accepted.
pub struct BlackHole {
    at: At,
    _listening: Socket,
    _queued: Vec<Conn>,
}

impl BlackHole {
    /// Listens on a fresh loopback address and fills its own backlog.
    pub fn start() -> BlackHole {
        BlackHole::start_on((fresh_loopback(), 0).into())
    }

    /// Listens there and fills its own backlog.
    pub fn start_on(at: SocketAddr) -> BlackHole {
        let (listening, at) = listen(&At::Tcp(at), 0);
        let mut queued = Vec::new();
        eventually("the backlog is full", || {
            let (socket, address) = at.socket();
            let entered = socket.connect_timeout(&address, Duration::from_millis(100)).is_ok();
            queued.push(Conn::over(socket));
            !entered
        });
        BlackHole { at, _listening: listening, _queued: queued }
    }

    /// Where it listens.
    pub fn at(&self) -> &At {
        &self.at
    }
}
