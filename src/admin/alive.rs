//! Is a backend alive that is not in the pool yet? One probe of each address, the same that the prober sends, on the calling
//! thread. The pool's health time-out bounds them all.

use crate::base::{Address, Endpoint};
use crate::clock;
use crate::config::model::{Pool, ProxyVersion};
use crate::net::probe_socket;
use crate::policy::health::Outcome;
use crate::probe::ProbeTarget;
use std::fmt;
use std::io;
use std::net::ToSocketAddrs;

/// Why a backend is not alive.
#[derive(Debug)]
pub enum NotAlive {
    /// Its port is the client's, and the pool names none for probes.
    NoPort,
    /// Its name has no address.
    Unresolved(io::Error),
    /// How the probe of its last address ended.
    Failed(Outcome),
}

/// What a probe of a backend lacks whose port is the client's.
pub const NO_PORT: &str = "its port is the client's: a probe needs health.port, and a health.kind other than \"off\"";

/// Probes the addresses of `address` until one answers as it should. `header` is the PROXY header that probes of it begin with.
pub fn check(address: &Address, pool: &Pool, header: Option<ProxyVersion>) -> Result<(), NotAlive> {
    let health = &pool.health;
    let until = clock::now() + health.timeout;
    let mut last = Outcome::NoAddress;
    for endpoint in resolve(address).map_err(NotAlive::Unresolved)? {
        let target = ProbeTarget::of_newcomer(health, header, address, &endpoint).ok_or(NotAlive::NoPort)?;
        let target = target.from(pool.source.of_probe(&endpoint, 0));
        last = probe_socket::run(target, until, health.timeout).outcome;
        if last.passed() {
            return Ok(());
        }
    }
    Err(NotAlive::Failed(last))
}

fn resolve(address: &Address) -> io::Result<Vec<Endpoint>> {
    Ok(match address {
        Address::Inet(_) | Address::Mapped(..) => address.endpoint().into_iter().collect(),
        Address::Unix(path) => vec![Endpoint::Unix(path.as_path().into())],
        Address::Name(host, port) => (host.as_str(), *port).to_socket_addrs()?.map(Endpoint::Inet).collect(),
        // No backend has such an address.
        Address::Any(_) => Vec::new(),
    })
}

impl fmt::Display for NotAlive {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NotAlive::NoPort => out.write_str(NO_PORT),
            NotAlive::Unresolved(error) => error.fmt(out),
            NotAlive::Failed(outcome) => outcome.fmt(out),
        }
    }
}
