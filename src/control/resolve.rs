//! Where backends are: names into addresses, in bounded time.
//!
//! The system's resolver can't be interrupted and may take half a minute for a name that nobody answers for. So a
//! thread of its own asks it, and is left to itself when the time is over.

use crate::base::{Address, Endpoint};
use crate::config::model::{self, Model};
use crate::pool::{Resolved, Snapshot};
use crossbeam_channel::{Receiver, unbounded};
use std::io;
use std::net::{Ipv6Addr, ToSocketAddrs};
use std::thread;
use std::time::{Duration, Instant};

/// How long all the names of one change may take together.
const PATIENCE: Duration = Duration::from_secs(10);

/// A backend's pool and name, and what came of its address.
type Answer = ((String, String), io::Result<Vec<Endpoint>>);

/// All backends of a model. A name that can't be resolved now is where it was in `old`, if it was there; the others are
/// mistakes, a line each.
pub fn model(model: &Model, old: Option<&Snapshot>) -> Result<Resolved, Vec<String>> {
    let backends =
        model.pools.iter().flat_map(|pool| pool.backends.iter().map(|backend| (pool.name.as_str(), backend)));
    of(backends.collect(), old)
}

/// One new backend.
pub fn backend(pool: &str, backend: &model::Backend) -> Result<Resolved, String> {
    of(vec![(pool, backend)], None).map_err(|mistakes| mistakes.join("; "))
}

fn of(backends: Vec<(&str, &model::Backend)>, old: Option<&Snapshot>) -> Result<Resolved, Vec<String>> {
    let mut resolved = Resolved::new();
    let mut mistakes = Vec::new();
    let mut names = Vec::new();
    for (pool, backend) in &backends {
        let key = ((*pool).to_owned(), backend.name.clone());
        match literal(&backend.address) {
            Ok(endpoint) => drop(resolved.insert(key, vec![endpoint])),
            Err((host, port)) => names.push((key, host.to_owned(), port)),
        }
    }
    if !names.is_empty() {
        let mut answers: Resolved = Resolved::new();
        let mut reasons = std::collections::HashMap::new();
        for (key, answer) in ask(names) {
            match answer {
                Ok(endpoints) => drop(answers.insert(key, endpoints)),
                Err(error) => drop(reasons.insert(key, error.to_string())),
            }
        }
        for (pool, backend) in &backends {
            let key = ((*pool).to_owned(), backend.name.clone());
            if resolved.contains_key(&key) {
                continue;
            }
            if let Some(endpoints) = answers.remove(&key) {
                resolved.insert(key, endpoints);
                continue;
            }
            let address = &backend.address;
            let why = reasons.remove(&key).unwrap_or_else(|| format!("no answer within {PATIENCE:?}"));
            match before(pool, backend, old) {
                Some(endpoints) => {
                    log::warn!("can't resolve {address}, {} stays where it was: {why}", backend.name);
                    resolved.insert(key, endpoints);
                }
                None => mistakes.push(format!("can't resolve {address}: {why}")),
            }
        }
    }
    if mistakes.is_empty() { Ok(resolved) } else { Err(mistakes) }
}

/// Where a backend of this address was.
fn before(pool: &str, backend: &model::Backend, old: Option<&Snapshot>) -> Option<Vec<Endpoint>> {
    let pool = old?.pool(pool)?;
    let position = pool.settings.backends.iter().position(|other| other.name == backend.name)?;
    let same = pool.settings.backends.get(position)?.address == backend.address;
    Some(pool.members.get(position).filter(|_| same)?.backend.endpoints())
}

/// An address that needs no resolver, or the name and port that do.
fn literal(address: &Address) -> Result<Endpoint, (&str, u16)> {
    match address {
        Address::Inet(at) => Ok(Endpoint::Inet(*at)),
        Address::Unix(path) => Ok(Endpoint::Unix(path.as_path().into())),
        Address::Any(port) => Ok(Endpoint::Inet((Ipv6Addr::LOCALHOST, *port).into())),
        Address::Name(host, port) => Err((host, *port)),
    }
}

/// Asks the resolver, name after name; what it says in time.
fn ask(names: Vec<((String, String), String, u16)>) -> Vec<Answer> {
    let until = Instant::now() + PATIENCE;
    // One answer a name: nothing that could grow.
    let (sender, answers): (_, Receiver<Answer>) = unbounded();
    let ask = move || {
        for (key, host, port) in names {
            if sender.send((key, lookup(&host, port))).is_err() {
                // Nobody waits any more.
                return;
            }
        }
    };
    if let Err(error) = thread::Builder::new().name("resolver".into()).spawn(ask) {
        log::error!("can't start a thread: {error}");
    }
    std::iter::from_fn(|| answers.recv_deadline(until).ok()).collect()
}

fn lookup(host: &str, port: u16) -> io::Result<Vec<Endpoint>> {
    let mut endpoints: Vec<Endpoint> = (host, port).to_socket_addrs()?.map(Endpoint::Inet).collect();
    endpoints.dedup();
    if endpoints.is_empty() {
        return Err(io::Error::new(io::ErrorKind::NotFound, "the name has no address"));
    }
    Ok(endpoints)
}
