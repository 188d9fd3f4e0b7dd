//! Servers that send their name, clients that notice everything, and what this process uses.

pub use crate::balancer::{Balancer, backend};
use std::io::{self, Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use tcplb::base::Listen;
use tcplb::config::model::{self, Global, Health, HealthKind, Model};
pub use testkit::{At, Conn, Server, eventually};

/// Sends its name to each client and then echoes.
pub fn named(name: &str) -> Server {
    Server::start(testkit::peers::named(name))
}

/// A client that is served.
pub struct Client {
    pub conn: Conn,
    /// The server that serves it.
    pub server: String,
}

impl Client {
    #[track_caller]
    pub fn connect(to: &At) -> Client {
        let conn = Conn::to(to);
        Client { server: conn.hear_line(), conn }
    }

    #[track_caller]
    pub fn exchange(&self) {
        self.conn.assert_echoes("ping");
    }
}

/// Clients that come and go all the time.
pub struct Load {
    over: Arc<AtomicBool>,
    served: Arc<AtomicU64>,
    clients: Vec<JoinHandle<u64>>,
}

impl Load {
    pub fn start(to: &At, clients: usize) -> Load {
        let (over, served) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let client = |_| {
            let (over, served, to) = (over.clone(), served.clone(), to.clone());
            thread::spawn(move || {
                let mut failed = 0;
                while !over.load(Ordering::Relaxed) {
                    match try_exchange(&to) {
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

fn try_exchange(to: &At) -> io::Result<()> {
    let (conn, mut answer) = (Conn::try_to(to)?, [0; 4]);
    conn.line()?;
    (&conn).write_all(b"ping")?;
    (&conn).read_exact(&mut answer)?;
    assert_eq!(&answer, b"ping");
    Ok(())
}

pub fn any_port() -> Listen {
    Listen::parse("127.0.0.1:0").unwrap()
}

/// A pool, and the names and servers of its backends.
pub type Wanted<'a> = (&'a str, &'a [(&'a str, &'a Server)]);

/// Pools, each with a listener of its name; nothing marks a backend down.
pub fn model(pools: &[Wanted<'_>]) -> Model {
    let listener = |(name, _): &Wanted<'_>| {
        let (name, pool) = (name.to_string(), name.to_string());
        model::Listener { name, pool, bind: vec![any_port()], ..model::Listener::default() }
    };
    let pool = |(name, servers): &Wanted<'_>| model::Pool {
        name: name.to_string(),
        backends: servers.iter().map(|(name, server)| backend(name, server.at())).collect(),
        health: Health { kind: HealthKind::Off, ..Health::default() },
        ..model::Pool::default()
    };
    Model {
        global: Global { workers: 2, ..Global::default() },
        listeners: pools.iter().map(listener).collect(),
        pools: pools.iter().map(pool).collect(),
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
