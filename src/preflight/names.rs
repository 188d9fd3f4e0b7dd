//! Names into addresses, in bounded time: the system's resolver can't be interrupted, so threads of their own ask it and are
//! left to themselves when the time is over.

use super::no_answer;
use crate::base::Address;
use crate::config::model::Model;
use crossbeam_channel::unbounded;
use std::collections::{BTreeSet, HashMap};
use std::net::{SocketAddr, ToSocketAddrs};
use std::thread;
use std::time::{Duration, Instant};

/// How long all names may take together.
const PATIENCE: Duration = Duration::from_secs(3);

/// Threads that ask. One name without an answer holds up one of them.
const THREADS: usize = 16;

/// What came of each name.
pub struct Names(HashMap<String, Result<Vec<SocketAddr>, String>>);

impl Names {
    /// Looks up every name of a model, of backends, listeners and admin.
    pub fn of(model: &Model) -> Names {
        let backends = model.pools.iter().flat_map(|pool| pool.backends.iter().map(|backend| &backend.address));
        let binds = model.listeners.iter().flat_map(|listener| &listener.bind).chain(&model.global.admin);
        let hosts: BTreeSet<String> = backends.chain(binds.map(|listen| &listen.0)).filter_map(host).collect();
        let until = Instant::now() + PATIENCE;
        // As many entries as names: neither grows.
        let (ask, asked) = unbounded::<String>();
        let (answer, answers) = unbounded();
        let threads = THREADS.min(hosts.len());
        hosts.into_iter().for_each(|host| drop(ask.send(host)));
        for _ in 0..threads {
            let (asked, answer) = (asked.clone(), answer.clone());
            let work = move || {
                asked.try_iter().try_for_each(|host| {
                    let found = lookup(&host);
                    answer.send((host, found))
                })
            };
            // Without a thread its names stay without an answer, and are reported.
            let _ = thread::Builder::new().name("resolver".to_owned()).spawn(work).map(drop);
        }
        drop(answer);
        Names(std::iter::from_fn(|| answers.recv_deadline(until).ok()).collect())
    }

    /// The addresses of a name, or why there are none.
    pub fn addresses(&self, host: &str) -> Result<&[SocketAddr], String> {
        match self.0.get(host) {
            Some(Ok(addresses)) => Ok(addresses),
            Some(Err(why)) => Err(why.clone()),
            None => Err(no_answer(PATIENCE)),
        }
    }
}

fn host(address: &Address) -> Option<String> {
    match address {
        Address::Name(host, _) => Some(host.clone()),
        Address::Inet(_) | Address::Any(_) | Address::Unix(_) => None,
    }
}

/// The port of the answers means nothing.
fn lookup(host: &str) -> Result<Vec<SocketAddr>, String> {
    let found: Vec<SocketAddr> = (host, 0).to_socket_addrs().map_err(|error| error.to_string())?.collect();
    if found.is_empty() {
        return Err("the name has no address".to_owned());
    }
    Ok(found)
}
