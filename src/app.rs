//! The composition root: resolves, binds, builds the first snapshot, spawns the threads.
//!
//! Nothing is spawned before everything is bound, so a port that is taken ends the start with nothing half-done.

use crate::base::{Address, Endpoint};
use crate::config::model::Model;
use crate::control::{Control, Order};
use crate::net::listen::{self, Bound as BoundSockets};
use crate::pool::{self, Admission, Snapshot};
use crate::prober::{self, Prober};
use crate::session::CloseReason;
use crate::worker::{self, Door, Mail, Shared};
use crossbeam_channel::unbounded;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::collections::HashMap;
use std::fmt;
use std::io;
use std::net::ToSocketAddrs;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::{self, JoinHandle};

pub use crate::control::Remote;

/// Descriptors that are not for connections: polls, listeners, probes, logs. An eighth of the limit, at most this.
const RESERVED_DESCRIPTORS: u64 = 1024;

/// A running balancer.
pub struct Running {
    listeners: Vec<Bound>,
    snapshot: Arc<Snapshot>,
    max_connections: usize,
    control: Control,
    prober: Prober,
    workers: Vec<JoinHandle<()>>,
    socket_files: Vec<PathBuf>,
}

/// A listener's bound address.
#[derive(Clone, Debug)]
pub struct Bound {
    /// The listener's name.
    pub name: String,
    /// Where it listens, with the real port.
    pub endpoint: Endpoint,
}

/// Why it could not start: what, which address, why.
#[derive(Debug)]
pub struct StartError(String);

impl fmt::Display for StartError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.0)
    }
}

impl std::error::Error for StartError {}

/// Starts a balancer. On return it serves.
pub fn start(model: Model) -> Result<Running, StartError> {
    let descriptors = raise_descriptor_limit();
    let workers = model.global.workers;
    let resolved = resolve_backends(&model)?;
    let snapshot = Arc::new(pool::build(&model, &resolved));

    let mut listeners = Vec::new();
    let mut socket_files = Vec::new();
    let mut doors: Vec<Vec<Door>> = (0..workers).map(|_| Vec::new()).collect();
    for (index, listener) in model.listeners.iter().enumerate() {
        for address in &listener.bind {
            let bound = listen::bind(address, workers).map_err(|error| cannot("listen on", address, &error))?;
            for BoundSockets { endpoint, sockets } in bound {
                for (worker, listening) in sockets.into_iter().enumerate() {
                    doors[worker].push(Door { listening, listener: index as u32 });
                }
                if let Endpoint::Unix(path) = &endpoint {
                    socket_files.push(path.to_path_buf());
                }
                listeners.push(Bound { name: listener.name.clone(), endpoint });
            }
        }
    }

    let max_connections = model.global.max_connections.unwrap_or_else(|| connections_for(descriptors));
    let spawn_error = |error: io::Error| StartError(format!("can't start a thread: {error}"));
    let mut prepared = Vec::new();
    let mut peers = Vec::new();
    for _ in 0..workers {
        let (ready, peer) = worker::prepare().map_err(spawn_error)?;
        prepared.push(ready);
        peers.push(peer);
    }
    let peers: Arc<[worker::Peer]> = peers.into();
    let prober = prober::spawn(snapshot.clone()).map_err(spawn_error)?;
    let shared = Shared {
        snapshot: snapshot.clone(),
        admission: Admission::new(max_connections),
        peers: peers.clone(),
        engine: model.global.relay,
        prober: prober.mailbox(),
    };
    // One message a worker: nothing that could grow.
    let (ended, endings) = unbounded();
    let tell = move |order| {
        for peer in peers.iter() {
            peer.mailbox.send(match order {
                Order::Drain => Mail::Drain,
                Order::Stop => Mail::Stop(CloseReason::Shutdown),
            });
        }
    };
    let control = Control::spawn(workers, tell, endings, model.global.shutdown_timeout).map_err(spawn_error)?;
    let mut threads = Vec::new();
    for (me, (prepared, doors)) in prepared.into_iter().zip(doors).enumerate() {
        let (shared, ended) = (shared.clone(), ended.clone());
        let work = move || {
            let outcome = worker::run(prepared, me, doors, shared);
            let _ = ended.send((me, outcome));
        };
        threads.push(thread::Builder::new().name(format!("worker-{me}")).spawn(work).map_err(spawn_error)?);
    }
    Ok(Running { listeners, snapshot, max_connections, control, prober, workers: threads, socket_files })
}

impl Running {
    /// Where it listens, in the order of the configuration.
    pub fn listeners(&self) -> &[Bound] {
        &self.listeners
    }

    /// The pools and their backends.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.snapshot.clone()
    }

    /// The most clients at once.
    pub fn max_connections(&self) -> usize {
        self.max_connections
    }

    /// How it is stopped.
    pub fn remote(&self) -> Remote {
        self.control.remote()
    }

    /// Waits until it has stopped; the error of a thread that failed.
    pub fn wait(self) -> Result<(), String> {
        let outcome = self.control.wait();
        for worker in self.workers {
            let _ = worker.join();
        }
        self.prober.stop();
        for path in self.socket_files {
            let _ = std::fs::remove_file(path);
        }
        outcome
    }
}

fn cannot(what: &str, address: &impl fmt::Display, error: &io::Error) -> StartError {
    StartError(format!("can't {what} {address}: {error}"))
}

/// Every backend's addresses, by pool and name.
fn resolve_backends(model: &Model) -> Result<HashMap<(String, String), Vec<Endpoint>>, StartError> {
    let mut resolved = HashMap::new();
    for pool in &model.pools {
        for backend in &pool.backends {
            let endpoints = resolve(&backend.address).map_err(|error| cannot("resolve", &backend.address, &error))?;
            resolved.insert((pool.name.clone(), backend.name.clone()), endpoints);
        }
    }
    Ok(resolved)
}

fn resolve(address: &Address) -> io::Result<Vec<Endpoint>> {
    match address {
        Address::Inet(at) => Ok(vec![Endpoint::Inet(*at)]),
        Address::Unix(path) => Ok(vec![Endpoint::Unix(path.as_path().into())]),
        Address::Any(port) => Ok(vec![Endpoint::Inet((std::net::Ipv6Addr::LOCALHOST, *port).into())]),
        Address::Name(host, port) => {
            let mut endpoints: Vec<Endpoint> = (host.as_str(), *port).to_socket_addrs()?.map(Endpoint::Inet).collect();
            endpoints.dedup();
            if endpoints.is_empty() {
                return Err(io::Error::new(io::ErrorKind::NotFound, "the name has no address"));
            }
            Ok(endpoints)
        }
    }
}

/// Raises the soft limit of open files to the hard one, as servers may; gives what is in force.
fn raise_descriptor_limit() -> u64 {
    let limit = getrlimit(Resource::Nofile);
    let wanted = Rlimit { current: limit.maximum, maximum: limit.maximum };
    if limit.current != limit.maximum && setrlimit(Resource::Nofile, wanted).is_ok() {
        return limit.maximum.unwrap_or(u64::MAX);
    }
    limit.current.unwrap_or(u64::MAX)
}

/// Two descriptors a connection, after what the process needs for itself.
fn connections_for(descriptors: u64) -> usize {
    let reserved = (descriptors / 8).min(RESERVED_DESCRIPTORS);
    usize::try_from((descriptors - reserved) / 2).unwrap_or(usize::MAX).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_for_connections_leaves_descriptors_for_the_rest() {
        assert_eq!(connections_for(1_024), 448);
        assert_eq!(connections_for(20_000), 9_488);
        assert_eq!(connections_for(u64::MAX), ((u64::MAX - 1_024) / 2) as usize);
        assert_eq!(connections_for(0), 1);
    }
}
