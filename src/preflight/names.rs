//! Resolves names in bounded time. The system's resolver can't be interrupted. So separate threads call it, and
//! they go on when the time is over.

use super::no_answer;
use crate::base::Address;
use crate::config::model::Model;
use crossbeam_channel::unbounded;
use std::collections::{BTreeSet, HashMap};
use std::net::{SocketAddr, ToSocketAddrs};
use std::thread;
use std::time::{Duration, Instant};

/// The time limit for all names together.
const PATIENCE: Duration = Duration::from_secs(3);

/// Resolver threads. A name without an answer blocks one of them.
const THREADS: usize = 16;

/// The outcome of each name.
pub struct Names(HashMap<String, Result<Vec<SocketAddr>, String>>);

impl Names {
    /// Looks up all names of a model: backends, listeners and admin.
    pub fn of(model: &Model) -> Names {
        let backends = model.pools.iter().flat_map(|pool| pool.backends.iter().map(|backend| &backend.address));
        let binds = model.listeners.iter().flat_map(|listener| &listener.bind).chain(&model.global.admin);
        let hosts: BTreeSet<String> = backends.chain(binds.map(|listen| &listen.0)).filter_map(host).collect();
        let until = Instant::now() + PATIENCE;
        // Both channels are bounded by the number of names.
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
            // If no thread starts, its names have no answer and are reported.
            let _ = thread::Builder::new().name("resolver".to_owned()).spawn(work).map(drop);
        }
        drop(answer);
        Names(std::iter::from_fn(|| answers.recv_deadline(until).ok()).collect())
    }

    /// The addresses of a name, or the error text.
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
        Address::Inet(_) | Address::Any(_) | Address::Mapped(..) | Address::Unix(_) => None,
    }
}

/// The ports of the addresses are 0.
fn lookup(host: &str) -> Result<Vec<SocketAddr>, String> {
    let found: Vec<SocketAddr> = (host, 0).to_socket_addrs().map_err(|error| error.to_string())?.collect();
    if found.is_empty() {
        return Err("the name has no address".to_owned());
    }
    Ok(found)
}
