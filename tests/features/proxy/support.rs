//! A tcplb in this process, fake clients and backends, and other people's programs.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;
use tcplb::app::{self, Running};
use tcplb::base::{Address, Endpoint, Listen};
use tcplb::config::model::{
    Backend, Engine, Global, Health, HealthKind, Listener, Model, Pool, ProxyVersion, SendProxy,
};
use tcplb::proto::proxy::{Announced, Header, Parsed, parse};
pub use testkit::foreign::{Foreign, haproxy, nginx};
pub use testkit::{PATIENCE, eventually_some, free_address_on, need};

pub const V1: Option<ProxyVersion> = Some(ProxyVersion::V1);
pub const V2: Option<ProxyVersion> = Some(ProxyVersion::V2);

// ── tcplb ──

/// A balancer that ends with the test.
pub struct Tcplb(Option<Running>);

/// Its configuration. The default listens on 127.0.0.1 and probes no backend.
pub struct Plan {
    pub listen: Listen,
    pub accept: bool,
    pub trusted: Vec<&'static str>,
    pub send: Option<ProxyVersion>,
    pub engine: Engine,
    pub health: HealthKind,
    pub backends: Vec<Address>,
    /// What backends say themselves, in their order; those behind the last leave it to the pool.
    pub own: Vec<SendProxy>,
}

pub fn plan(backends: &[SocketAddr]) -> Plan {
    Plan {
        listen: Listen::parse("127.0.0.1:0").unwrap(),
        accept: false,
        trusted: Vec::new(),
        send: None,
        engine: Engine::Adaptive,
        health: HealthKind::Off,
        backends: backends.iter().map(|at| Address::Inet(*at)).collect(),
        own: Vec::new(),
    }
}

impl Plan {
    pub fn listen(mut self, text: &str) -> Plan {
        self.listen = Listen::parse(text).unwrap();
        self
    }

    pub fn accept(mut self) -> Plan {
        self.accept = true;
        self
    }

    pub fn send(mut self, version: Option<ProxyVersion>) -> Plan {
        self.send = version;
        self
    }

    pub fn start(self) -> Tcplb {
        let health = Health {
            kind: self.health,
            interval: Duration::from_millis(50),
            timeout: Duration::from_millis(50),
            ..Health::default()
        };
        let mut own = self.own.into_iter();
        let backend = |address| Backend { send_proxy: own.next(), ..Backend::at(address) };
        let pool = Pool {
            health,
            send_proxy: self.send,
            backends: self.backends.into_iter().map(backend).collect(),
            ..Pool::default()
        };
        let listener = Listener {
            bind: vec![self.listen],
            accept_proxy: self.accept,
            trusted_proxies: self.trusted.iter().map(|net| net.parse().unwrap()).collect(),
            ..Listener::default()
        };
        let global = Global { relay: self.engine, shutdown_timeout: Duration::ZERO, ..Global::default() };
        Tcplb(Some(app::start(Model { global, listeners: vec![listener], pools: vec![pool] }).unwrap()))
    }
}

impl Tcplb {
    pub fn running(&self) -> &Running {
        self.0.as_ref().expect("it runs until it is dropped")
    }

    pub fn at(&self) -> SocketAddr {
        match &self.running().listeners()[0].endpoint {
            Endpoint::Inet(at) => *at,
            Endpoint::Unix(path) => panic!("it listens on {}", path.display()),
        }
    }
}

impl Drop for Tcplb {
    fn drop(&mut self) {
        if let Some(running) = self.0.take() {
            running.remote().stop();
            let _ = running.wait();
        }
    }
}

// ── clients and backends ──

pub fn connect(to: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect_timeout(&to, PATIENCE).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_nodelay(true).unwrap();
    stream
}

pub fn connect_unix(to: &Path) -> UnixStream {
    let stream = UnixStream::connect(to).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// A backend whose connections the test plays by hand.
pub struct FakeBackend(TcpListener);

impl FakeBackend {
    pub fn new() -> FakeBackend {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        FakeBackend(listener)
    }

    pub fn at(&self) -> SocketAddr {
        self.0.local_addr().unwrap()
    }

    #[track_caller]
    pub fn accept(&self) -> TcpStream {
        let stream = eventually_some("a connection to the backend", || self.0.accept().ok()).0;
        stream.set_nonblocking(false).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    /// Is the backlog empty?
    pub fn is_alone(&self) -> bool {
        self.0.accept().is_err()
    }
}

/// Reads a header and not a byte more; its bytes too.
#[track_caller]
pub fn hear_header(stream: &mut impl Read) -> (Header, Vec<u8>) {
    let mut bytes = Vec::new();
    loop {
        match parse(&bytes) {
            Parsed::Header { header, .. } => return (header, bytes),
            Parsed::More => bytes.push(hear(stream, 1)[0]),
            Parsed::Bad(bad) => panic!("{bad}: {}", bytes.escape_ascii()),
        }
    }
}

/// The two ends that the header announces.
#[track_caller]
pub fn hear_ends(stream: &mut impl Read) -> (SocketAddr, SocketAddr) {
    match hear_header(stream).0.announced {
        Announced::Inet { source, destination } => (source, destination),
        other => panic!("{other:?}"),
    }
}

#[track_caller]
pub fn hear(stream: &mut impl Read, count: usize) -> Vec<u8> {
    let mut bytes = vec![0; count];
    stream.read_exact(&mut bytes).unwrap();
    bytes
}

#[track_caller]
pub fn hear_all(stream: &mut impl Read) -> Vec<u8> {
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).unwrap();
    bytes
}

/// The body of the answer to a GET.
#[track_caller]
pub fn get(stream: &mut (impl Read + Write)) -> String {
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n").unwrap();
    let answer = String::from_utf8(hear_all(stream)).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("{answer}"));
    assert!(head.contains(" 200 "), "{answer}");
    body.trim().to_owned()
}

// ── answers of other people's programs ──

/// Words of a line by their names: `a=1 b=2`.
pub fn words(line: &str) -> HashMap<String, String> {
    let pairs = line.split_whitespace().filter_map(|word| word.split_once('='));
    pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

/// The server at this address expects a header, and answers with its two ends: those of the client's connection to tcplb.
#[track_caller]
pub fn learns_both_ends(at: SocketAddr) {
    for listen in ["127.0.0.1:0", "[::1]:0"] {
        for version in [V1, V2] {
            let tcplb = plan(&[at]).listen(listen).send(version).start();
            let mut client = connect(tcplb.at());
            let (own, local) = (client.local_addr().unwrap(), tcplb.at());
            let said = words(&get(&mut client));
            assert_eq!((said["src"].clone(), said["sport"].clone()), (own.ip().to_string(), own.port().to_string()));
            assert_eq!(
                (said["dst"].clone(), said["dport"].clone()),
                (local.ip().to_string(), local.port().to_string())
            );
        }
    }
}
