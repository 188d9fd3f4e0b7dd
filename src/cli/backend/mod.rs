//! `tcplb backend`: a server for demos, tests and benchmarks. It answers every HTTP request with its name, or echoes
//! bytes.
//!
//! It is a test server, not a part of the balancer: blocking sockets, and a thread per connection, at most
//! [`CONNECTIONS_MAX`]. [`Server`] is the same server as an object. The demo and the tests start it, make it fail, stop
//! it and start it again on its port.
//!
//! Every wait ends when the server stops: sockets are shut down, and pauses watch [`Stopping`].

mod echo;
mod http;
pub mod register;

use super::signals::{self, Signal};
use crate::base::{Endpoint, Listen};
use crate::config::model::defaults::DEAD_PEER_TIMEOUT;
use crate::logger;
use crate::net::{Keepalive, listen};
use crossbeam_channel::{Receiver, Sender, bounded};
use parking_lot::Mutex;
use register::{Registrar, Registration};
use socket2::Socket;
use std::collections::HashMap;
use std::io::{self, Write};
use std::net::Shutdown;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// Connections served at once; one more gets a 503 and is closed.
pub const CONNECTIONS_MAX: usize = 4096;

/// Enough for a request head and a few frames. With the default of 2 MiB, 4,096 stacks would take 8 GiB of address
/// space.
const STACK: usize = 256 * 1024;

/// The pause after accept fails, for example for lack of descriptors.
const PAUSE: Duration = Duration::from_millis(50);

/// How long a server serves after it has withdrawn its registration. At least: balancers learn of it. At most: open connections
/// end.
const LEAVING: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(10));

/// The settings of a server.
#[derive(Clone, Debug)]
pub struct Options {
    /// The address to listen on; a name is bound on each of its addresses.
    pub listen: Listen,
    /// The name in its answers; `None`: its address.
    pub name: Option<String>,
    /// The pause before each answer.
    pub latency: Duration,
    /// How long it keeps a core busy before each answer.
    pub work: Duration,
    /// Whether it starts by answering 503.
    pub failing: bool,
    /// Whether it echoes bytes instead of speaking HTTP.
    pub echo: bool,
}

/// A running server; dropping it stops it.
#[derive(Debug)]
pub struct Server {
    addresses: Vec<Endpoint>,
    listening: Vec<Arc<Socket>>,
    accepting: Vec<JoinHandle<()>>,
    shared: Arc<ServerState>,
    /// Dropped when the server stops; that ends every pause.
    running: Option<Sender<()>>,
}

/// The state that a server's threads share.
#[derive(Debug)]
struct ServerState {
    name: String,
    latency: Duration,
    work: Duration,
    echo: bool,
    failing: AtomicBool,
    served: AtomicU64,
    open: Mutex<Open>,
    stopping: Stopping,
}

/// The open connections.
#[derive(Debug, Default)]
struct Open {
    closed: bool,
    next: u64,
    sockets: HashMap<u64, Arc<Socket>>,
}

/// Disconnected when the server stops.
#[derive(Clone, Debug)]
struct Stopping(Receiver<()>);

/// Runs a server in the foreground until a signal stops it. SIGUSR1 toggles between 200 and 503. Fails if it can't
/// listen, or register its address. A server that was registered serves on until balancers have left it.
pub fn run(options: Options, registration: Option<Registration>) -> Result<(), String> {
    let listen = options.listen.clone();
    let server = Server::start(options).map_err(|error| format!("can't listen on {listen}: {error}"))?;
    let mut signals = signals::receiver().map_err(|error| format!("can't handle signals: {error}"))?;
    for address in &server.addresses {
        log::info!(target: logger::ALWAYS, "listening on {address}");
    }
    let registrar = match registration.zip(server.addr()) {
        Some((registration, at)) => Some(Registrar::start(registration, at)?),
        None => None,
    };
    for signal in signals.by_ref() {
        match signal {
            Signal::Stop => break,
            Signal::User1 => {
                let failing = !server.failing();
                server.set_failing(failing);
                log::info!("{} now answers {}", server.name(), if failing { 503 } else { 200 });
            }
            Signal::Hangup | Signal::User2 => {}
        }
    }
    if let Some(registrar) = registrar {
        registrar.withdraw();
        let begun = Instant::now();
        let is_over = || begun.elapsed() >= LEAVING.1 || begun.elapsed() >= LEAVING.0 && server.is_idle();
        while !is_over() && !signals.stops_within(PAUSE) {}
    }
    Ok(())
}

impl Server {
    /// Binds and serves. Fails if the address can't be bound or no thread can be started.
    pub fn start(options: Options) -> io::Result<Server> {
        let bound = listen::bind(&options.listen, 1, &Keepalive::within(DEAD_PEER_TIMEOUT).into())?;
        let mut listening = Vec::new();
        for socket in bound.iter().flat_map(|bound| &bound.sockets) {
            // Listeners are non-blocking, and a duplicate shares that flag.
            let socket = Socket::from(socket.as_fd().try_clone_to_owned()?);
            socket.set_nonblocking(false)?;
            listening.push(Arc::new(socket));
        }
        let addresses: Vec<Endpoint> = bound.into_iter().map(|bound| bound.endpoint).collect();
        let (running, stopping) = bounded(0);
        let shared = Arc::new(ServerState {
            name: options.name.or_else(|| addresses.first().map(Endpoint::to_string)).unwrap_or_default(),
            latency: options.latency,
            work: options.work,
            echo: options.echo,
            failing: AtomicBool::new(options.failing),
            served: AtomicU64::new(0),
            open: Mutex::default(),
            stopping: Stopping(stopping),
        });
        // From here on, dropping the server cleans up.
        let mut server = Server { addresses, listening, accepting: Vec::new(), shared, running: Some(running) };
        for socket in &server.listening {
            let (socket, shared) = (socket.clone(), server.shared.clone());
            server
                .accepting
                .push(thread::Builder::new().name("accept".to_owned()).spawn(move || accept(&socket, &shared))?);
        }
        Ok(server)
    }

    /// The (first) address that it listens on, with the real port.
    pub fn addr(&self) -> Option<&Endpoint> {
        self.addresses.first()
    }

    /// The name in its answers.
    pub fn name(&self) -> &str {
        &self.shared.name
    }

    /// Whether it answers 503.
    pub fn failing(&self) -> bool {
        self.shared.failing.load(Ordering::Relaxed)
    }

    /// Makes it answer 503, or 200 again.
    pub fn set_failing(&self, failing: bool) {
        self.shared.failing.store(failing, Ordering::Relaxed);
    }

    /// Requests answered so far, 503 included; as an echo server, connections accepted.
    pub fn served(&self) -> u64 {
        self.shared.served.load(Ordering::Relaxed)
    }

    /// Whether no connection is open.
    pub fn is_idle(&self) -> bool {
        self.shared.open.lock().sockets.is_empty()
    }

    /// Closes listeners and connections. The port is free when it returns.
    pub fn stop(self) {
        drop(self);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.running.take();
        for socket in self.listening.drain(..) {
            // Closing alone would not wake the thread that blocks in accept(2).
            let _ = socket.shutdown(Shutdown::Both);
        }
        for thread in self.accepting.drain(..) {
            // A panic has been reported already.
            let _ = thread.join();
        }
        let mut open = self.shared.open.lock();
        open.closed = true;
        for socket in open.sockets.values() {
            // Fails if the peer closed first.
            let _ = socket.shutdown(Shutdown::Both);
        }
    }
}

impl Stopping {
    /// Pauses; true if the server stops meanwhile.
    fn pause(&self, time: Duration) -> bool {
        if time.is_zero() {
            return self.now();
        }
        self.0.recv_timeout(time).is_err_and(|error| error.is_disconnected())
    }

    fn now(&self) -> bool {
        self.0.try_recv().is_err_and(|error| error.is_disconnected())
    }
}

fn accept(listening: &Socket, shared: &Arc<ServerState>) {
    loop {
        match listening.accept() {
            Ok((socket, _)) => serve(socket, shared),
            Err(error) => {
                if shared.stopping.now() {
                    return;
                }
                // A client that left the queue costs nothing. Other failures (descriptors) last a while.
                let gone = matches!(error.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::Interrupted);
                if !gone && shared.stopping.pause(PAUSE) {
                    return;
                }
            }
        }
    }
}

fn serve(socket: Socket, shared: &Arc<ServerState>) {
    let socket = Arc::new(socket);
    let Some(id) = shared.enter(&socket) else {
        if !shared.echo {
            // The answer fits into the empty send buffer, so nothing waits for the client.
            let _ = socket.set_nonblocking(true).and_then(|()| (&*socket).write_all(&http::full(&shared.name)));
        }
        return;
    };
    let thread = {
        let shared = shared.clone();
        thread::Builder::new().name("connection".to_owned()).stack_size(STACK).spawn(move || {
            let talk = if shared.echo { echo::talk } else { http::talk };
            // An error is the client's; a test server ignores it.
            let _ = talk(&socket, &shared);
            shared.leave(id);
        })
    };
    if thread.is_err() {
        shared.leave(id);
    }
}

impl ServerState {
    /// Stores a connection, so that stopping closes it; `None` if there are too many or the server has stopped.
    fn enter(&self, socket: &Arc<Socket>) -> Option<u64> {
        let mut open = self.open.lock();
        if open.closed || open.sockets.len() >= CONNECTIONS_MAX {
            return None;
        }
        let id = open.next;
        open.next += 1;
        open.sockets.insert(id, socket.clone());
        Some(id)
    }

    fn leave(&self, id: u64) {
        self.open.lock().sockets.remove(&id);
    }

    fn count(&self) {
        self.served.fetch_add(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{BufRead, BufReader, Read};
    use std::net::TcpStream;

    pub fn options() -> Options {
        Options {
            listen: Listen::parse("127.0.0.1:0").unwrap(),
            name: Some("web1".into()),
            latency: Duration::ZERO,
            work: Duration::ZERO,
            failing: false,
            echo: false,
        }
    }

    pub fn connect(server: &Server) -> TcpStream {
        let Some(Endpoint::Inet(at)) = server.addr() else { panic!("{:?}", server.addr()) };
        let stream = TcpStream::connect(at).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        stream
    }

    fn ask(server: &Server) -> String {
        let mut stream = connect(server);
        stream.write_all(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    #[test]
    fn it_answers_with_its_name_and_fails_on_request() {
        let server = Server::start(options()).unwrap();
        let answer = ask(&server);
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with("\r\n\r\nweb1\n"), "{answer}");
        assert!(answer.contains("\r\nX-Backend: web1\r\n"), "{answer}");
        server.set_failing(true);
        let answer = ask(&server);
        assert!(answer.starts_with("HTTP/1.1 503 ") && answer.ends_with("\r\n\r\nweb1\n"), "{answer}");
        server.set_failing(false);
        assert!(ask(&server).starts_with("HTTP/1.1 200 "));
        assert_eq!(server.served(), 3);
    }

    #[test]
    fn without_a_name_it_answers_with_its_address() {
        let server = Server::start(Options { name: None, ..options() }).unwrap();
        let name = server.addr().unwrap().to_string();
        assert!(ask(&server).ends_with(&format!("\r\n\r\n{name}\n")));
    }

    #[test]
    fn stopping_cuts_connections_and_frees_the_port() {
        let server = Server::start(options()).unwrap();
        let Some(&Endpoint::Inet(at)) = server.addr() else { panic!() };
        let mut waiting = connect(&server);
        ask(&server);
        server.stop();
        assert_eq!(waiting.read(&mut [0; 1]).unwrap_or(0), 0);
        assert!(TcpStream::connect(at).is_err());
        let again = Server::start(Options { listen: Listen(crate::base::Address::Inet(at)), ..options() }).unwrap();
        assert!(ask(&again).contains("web1"));
    }

    #[test]
    fn stopping_does_not_wait_for_a_slow_answer() {
        let server = Server::start(Options { latency: Duration::from_secs(3600), ..options() }).unwrap();
        let mut stream = connect(&server);
        stream.write_all(b"GET / HTTP/1.0\r\n\r\n").unwrap();
        server.stop();
        let mut rest = Vec::new();
        let _ = stream.read_to_end(&mut rest);
        assert!(rest.is_empty());
    }

    #[test]
    fn a_taken_port_is_an_error() {
        let server = Server::start(options()).unwrap();
        let Some(&Endpoint::Inet(at)) = server.addr() else { panic!() };
        let taken = Server::start(Options { listen: Listen(crate::base::Address::Inet(at)), ..options() });
        assert_eq!(taken.unwrap_err().kind(), io::ErrorKind::AddrInUse);
    }

    #[test]
    fn a_unix_socket_serves_as_well() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("web.sock");
        let listen = Listen::parse(&format!("unix:{}", path.display())).unwrap();
        let server = Server::start(Options { listen, ..options() }).unwrap();
        let mut stream = std::os::unix::net::UnixStream::connect(&path).unwrap();
        stream.write_all(b"GET / HTTP/1.0\r\n\r\n").unwrap();
        let mut answer = String::new();
        BufReader::new(stream).read_line(&mut answer).unwrap();
        assert_eq!(answer, "HTTP/1.1 200 OK\r\n");
        server.stop();
    }

    #[test]
    fn an_echo_server_sends_everything_back_and_then_its_fin() {
        let server = Server::start(Options { echo: true, ..options() }).unwrap();
        let mut stream = connect(&server);
        let sent: Vec<u8> = (0..2_000_000u32).map(|n| (n % 251) as u8).collect();
        let mut writing = stream.try_clone().unwrap();
        let copy = sent.clone();
        let writer = thread::spawn(move || {
            writing.write_all(&copy).unwrap();
            writing.shutdown(Shutdown::Write).unwrap();
        });
        let mut back = Vec::new();
        stream.read_to_end(&mut back).unwrap();
        writer.join().unwrap();
        assert_eq!(back.len(), sent.len());
        assert!(back == sent);
        assert_eq!(server.served(), 1);
    }

    #[test]
    fn a_connection_beyond_the_limit_is_answered_with_503() {
        // Not with 4 096 connections: the house is full when it is closed, too.
        let server = Server::start(options()).unwrap();
        server.shared.open.lock().closed = true;
        let mut answer = String::new();
        connect(&server).read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 503 ") && answer.contains("web1"), "{answer}");
    }
}
