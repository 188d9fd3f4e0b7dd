//! Servers that send their name, clients that notice everything, and a balancer whose file is in memory.

use parking_lot::Mutex;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use tcplb::app::{self, Remote, Running};
use tcplb::base::{Address, Endpoint, Listen};
use tcplb::config::model::{self, Global, Health, HealthKind, Model};
use tcplb::pool::{Backend, Published};
use testkit::PATIENCE;
pub use testkit::eventually;

/// Sends its name, one byte, to each client and then echoes.
pub struct Server {
    name: u8,
    at: SocketAddr,
    refusing: Arc<AtomicBool>,
}

impl Server {
    pub fn start(name: u8) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (at, refusing) = (listener.local_addr().unwrap(), Arc::new(AtomicBool::new(false)));
        let stop = refusing.clone();
        thread::spawn(move || {
            for stream in listener.incoming() {
                if stop.load(Ordering::SeqCst) {
                    return;
                }
                let Ok(stream) = stream else { continue };
                thread::spawn(move || serve(stream, name));
            }
        });
        Server { name, at, refusing }
    }

    pub fn backend(&self) -> model::Backend {
        let name = char::from(self.name).to_string();
        model::Backend { name, ..model::Backend::at(Address::Inet(self.at)) }
    }

    /// Takes no connections from now on; those it has go on.
    pub fn refuse(&self) {
        self.refusing.store(true, Ordering::SeqCst);
        // The one that makes it look.
        let _ = TcpStream::connect(self.at);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.refuse();
    }
}

fn serve(mut stream: TcpStream, name: u8) {
    let mut buffer = [0; 64];
    if stream.write_all(&[name]).is_err() {
        return;
    }
    while let Ok(count @ 1..) = stream.read(&mut buffer) {
        if stream.write_all(&buffer[..count]).is_err() {
            return;
        }
    }
}

pub struct Client {
    stream: TcpStream,
    /// The server that serves it.
    pub server: u8,
}

impl Client {
    #[track_caller]
    pub fn connect(to: SocketAddr) -> Client {
        Client::try_connect(to).unwrap()
    }

    fn try_connect(to: SocketAddr) -> std::io::Result<Client> {
        Client::over(TcpStream::connect(to)?)
    }

    /// Waits until it is served.
    pub fn over(mut stream: TcpStream) -> std::io::Result<Client> {
        stream.set_read_timeout(Some(PATIENCE))?;
        let mut server = [0];
        stream.read_exact(&mut server)?;
        Ok(Client { stream, server: server[0] })
    }

    #[track_caller]
    pub fn exchange(&mut self) {
        self.try_exchange().unwrap();
    }

    fn try_exchange(&mut self) -> std::io::Result<()> {
        self.stream.write_all(b"ping")?;
        let mut answer = [0; 4];
        self.stream.read_exact(&mut answer)?;
        assert_eq!(&answer, b"ping");
        Ok(())
    }

    #[track_caller]
    pub fn is_reset(&mut self) {
        let outcome = self.stream.read(&mut [0]);
        assert_eq!(outcome.map_err(|error| error.kind()), Err(ErrorKind::ConnectionReset));
    }
}

/// Clients that come and go all the time.
pub struct Load {
    over: Arc<AtomicBool>,
    served: Arc<AtomicU64>,
    clients: Vec<JoinHandle<u64>>,
}

impl Load {
    pub fn start(to: SocketAddr, clients: usize) -> Load {
        let (over, served) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let client = |_| {
            let (over, served) = (over.clone(), served.clone());
            thread::spawn(move || {
                let mut failed = 0;
                while !over.load(Ordering::Relaxed) {
                    match Client::try_connect(to).and_then(|mut client| client.try_exchange()) {
                        Ok(()) => drop(served.fetch_add(1, Ordering::Relaxed)),
                        Err(error) => {
                            eprintln!("a connection failed: {error}");
                            failed += 1;
                        }
                    }
                }
                failed
            })
        };
        let clients = (0..clients).map(client).collect();
        Load { over, served, clients }
    }

    /// Waits until so many more were served.
    #[track_caller]
    pub fn served(&self, more: u64) {
        let until = self.served.load(Ordering::Relaxed) + more;
        eventually("clients are served", || self.served.load(Ordering::Relaxed) >= until);
    }

    /// How many connections failed.
    pub fn stop(self) -> u64 {
        self.over.store(true, Ordering::Relaxed);
        self.clients.into_iter().map(|client| client.join().unwrap()).sum()
    }
}

pub fn listen(at: SocketAddr) -> Listen {
    Listen(Address::Inet(at))
}

pub fn any_port() -> Listen {
    listen(([127, 0, 0, 1], 0).into())
}

/// Pools, each with a listener of its name; nothing marks a backend down.
pub fn model(pools: &[(&str, &[&Server])]) -> Model {
    let listener = |(name, _): &(&str, &[&Server])| {
        let (name, pool) = (name.to_string(), name.to_string());
        model::Listener { name, pool, bind: vec![any_port()], ..model::Listener::default() }
    };
    let pool = |(name, servers): &(&str, &[&Server])| model::Pool {
        name: name.to_string(),
        backends: servers.iter().map(|server| server.backend()).collect(),
        health: Health { kind: HealthKind::Off, ..Health::default() },
        ..model::Pool::default()
    };
    Model {
        global: Global { workers: 2, ..Global::default() },
        listeners: pools.iter().map(listener).collect(),
        pools: pools.iter().map(pool).collect(),
    }
}

type File = Arc<Mutex<Result<Model, Vec<String>>>>;

/// A balancer in this process.
pub struct Balancer {
    running: Running,
    pub remote: Remote,
    pub published: Arc<Published>,
    good: Mutex<Model>,
    file: File,
}

impl Balancer {
    pub fn start(model: Model) -> Balancer {
        let file: File = Arc::new(Mutex::new(Ok(model.clone())));
        let read = file.clone();
        let running = app::start_with(model.clone(), Some(Arc::new(move || read.lock().clone()))).unwrap();
        let (remote, published) = (running.remote(), running.published());
        Balancer { running, remote, published, good: Mutex::new(model), file }
    }

    /// Edits the file.
    pub fn file(&self, edit: impl FnOnce(&mut Model)) {
        let mut good = self.good.lock();
        edit(&mut good);
        *self.file.lock() = Ok(good.clone());
    }

    pub fn break_file(&self, mistakes: &[&str]) {
        *self.file.lock() = Err(mistakes.iter().map(ToString::to_string).collect());
    }

    #[track_caller]
    pub fn address(&self, listener: &str) -> SocketAddr {
        let snapshot = self.published.snapshot();
        let listener = snapshot.listeners.iter().find(|other| other.name == listener).unwrap();
        let Endpoint::Inet(at) = listener.addresses[0].endpoint else { panic!("not TCP") };
        at
    }

    #[track_caller]
    pub fn backend(&self, pool: &str, name: &str) -> Arc<Backend> {
        let snapshot = self.published.snapshot();
        let mut members = snapshot.pool(pool).unwrap().members.iter();
        members.find(|member| member.backend.name == name).unwrap().backend.clone()
    }

    /// Ends at once.
    pub fn stop(self) {
        self.remote.stop();
        self.remote.stop();
        self.wait();
    }

    pub fn wait(self) {
        drop(self.remote);
        self.running.wait().unwrap();
    }
}

/// What the process has.
pub struct Usage {
    pub descriptors: usize,
    pub threads: usize,
    pub kib: u64,
}

pub fn usage() -> Usage {
    let count = |folder: &str| std::fs::read_dir(folder).unwrap().count();
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    let kib = resident.trim().trim_end_matches(" kB").parse().unwrap();
    Usage { descriptors: count("/proc/self/fd"), threads: count("/proc/self/task"), kib }
}
