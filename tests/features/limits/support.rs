//! A balancer in this process, backends that send their name, and clients with addresses of their own.

use parking_lot::Mutex;
use socket2::{Domain, Socket, Type};
use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::Duration;
use tcplb::admission::ListenerAdmission;
use tcplb::app::{self, Running};
use tcplb::base::{Address, Endpoint, Listen};
use tcplb::config::model::{self, Global, Health, HealthKind, Model};
use tcplb::telemetry::Refusal;
pub use testkit::{Port, eventually};

/// For what should happen at once, on a machine that may be busy.
pub const SOON: Duration = Duration::from_secs(20);

/// Serves there, as a backend that greets with `name` and echoes after that.
pub fn serve(listener: TcpListener, name: &'static str) {
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            std::thread::spawn(move || greet_and_echo(stream, name));
        }
    });
}

fn greet_and_echo(mut stream: TcpStream, name: &str) -> io::Result<()> {
    stream.write_all(name.as_bytes())?;
    let mut buffer = [0; 64];
    loop {
        match stream.read(&mut buffer)? {
            0 => return Ok(()),
            count => stream.write_all(&buffer[..count])?,
        }
    }
}

/// A backend that greets with one letter.
pub fn backend(name: &'static str) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let at = listener.local_addr().unwrap();
    serve(listener, name);
    at
}

/// A backend that accepts and resets.
pub fn resetting_backend() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let at = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let _ = socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO));
        }
    });
    at
}

/// The balancer, stopped at the end of the test.
pub struct Balancer {
    pub at: SocketAddr,
    pub running: Option<Running>,
    file: Arc<Mutex<Model>>,
}

impl Balancer {
    /// Over these backends, each with this many connections at most. Without health checks unless `pool` has some.
    pub fn start(
        listener: model::Listener,
        pool: model::Pool,
        backends: &[SocketAddr],
        max_connections: Option<u32>,
    ) -> Balancer {
        let backend = |at: &SocketAddr| model::Backend { max_connections, ..model::Backend::at(Address::Inet(*at)) };
        let listen = Listen(Address::Inet((Ipv4Addr::LOCALHOST, 0).into()));
        let model = Model {
            global: Global { workers: 2, shutdown_timeout: Duration::ZERO, ..Global::default() },
            listeners: vec![model::Listener { bind: vec![listen], ..listener }],
            pools: vec![model::Pool { backends: backends.iter().map(backend).collect(), ..pool }],
        };
        let file = Arc::new(Mutex::new(model.clone()));
        let read = file.clone();
        let running = app::start_with(model, Some(Arc::new(move || Ok(read.lock().clone())))).unwrap();
        let Endpoint::Inet(at) = running.listeners()[0].endpoint else { unreachable!() };
        Balancer { at, running: Some(running), file }
    }

    pub fn admission(&self) -> Arc<ListenerAdmission> {
        self.running.as_ref().unwrap().snapshot().listeners[0].admission.clone()
    }

    pub fn refused(&self, why: Refusal) -> u64 {
        self.admission().totals.refused(why)
    }

    /// A client from 127.0.0.1.
    pub fn client(&self) -> Client {
        self.client_from([127, 0, 0, 1])
    }

    pub fn client_from(&self, ip: [u8; 4]) -> Client {
        client_of(self.at, ip)
    }

    /// Changes the file and has it read again.
    #[track_caller]
    pub fn reload(&self, edit: impl FnOnce(&mut Model)) {
        edit(&mut self.file.lock());
        self.running.as_ref().unwrap().remote().reload(false).unwrap();
    }
}

/// A client that connects to this address.
pub fn client_of(at: SocketAddr, ip: [u8; 4]) -> Client {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from((ip, 0)).into()).unwrap();
    socket.set_read_timeout(Some(SOON)).unwrap();
    let refused = socket.connect(&at.into()).err();
    Client { stream: socket.into(), refused }
}

/// A client that has connected.
pub struct Client {
    pub stream: TcpStream,
    /// It was reset even before it had noticed that it was connected.
    refused: Option<io::Error>,
}

impl Drop for Balancer {
    fn drop(&mut self) {
        if let Some(running) = self.running.take() {
            running.remote().stop();
            running.remote().stop();
            let _ = running.wait();
        }
    }
}

/// A pool without probes.
pub fn unprobed() -> model::Pool {
    model::Pool { health: Health { kind: HealthKind::Off, ..Health::default() }, ..model::Pool::default() }
}

/// The name of the backend that a client got; an error if it was reset.
pub fn greeting(client: &mut Client) -> io::Result<char> {
    if let Some(error) = client.refused.take() {
        return Err(error);
    }
    let mut letter = [0];
    client.stream.read_exact(&mut letter)?;
    Ok(char::from(letter[0]))
}

#[track_caller]
pub fn is_served(client: &mut Client) {
    greeting(client).expect("it is served");
}

#[track_caller]
pub fn is_reset(client: &mut Client) {
    let error = greeting(client).expect_err("it is not served");
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
}

/// Nothing comes for a while: it neither is served nor refused.
#[track_caller]
pub fn waits(client: &mut Client) {
    client.stream.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    let error = greeting(client).expect_err("it waits");
    assert_eq!(error.kind(), io::ErrorKind::WouldBlock, "{error}");
    client.stream.set_read_timeout(Some(SOON)).unwrap();
}

/// How often each letter greets `count` clients, one after the other.
pub fn tally(balancer: &Balancer, count: usize) -> HashMap<char, usize> {
    let mut tally = HashMap::new();
    for _ in 0..count {
        *tally.entry(greeting(&mut balancer.client()).unwrap()).or_default() += 1;
    }
    tally
}
