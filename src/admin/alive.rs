//! Checks, before a backend is added, whether it is alive. Runs one probe, the same as the prober's, on the calling
//! thread. The pool's health time-out bounds it.

use super::http::Deadline;
use crate::base::{Address, Endpoint};
use crate::config::model::{Health, ProxyVersion};
use crate::net::listen::unix_address;
use crate::policy::health::{ConnectFailure, Outcome};
use crate::probe::ProbeTarget;
use socket2::{Domain, SockAddr, Socket, Type};
use std::io::{self, Read, Write};
use std::net::ToSocketAddrs;

/// Probes the addresses of `address` until one passes; otherwise returns why the last one failed. `send_proxy` is the
/// PROXY header that connections of clients to this backend will carry.
pub fn check(address: &Address, health: &Health, send_proxy: Option<ProxyVersion>) -> Result<(), String> {
    let deadline = Deadline::after(health.timeout);
    let endpoints = resolve(address).map_err(|error| error.to_string())?;
    let mut why = Outcome::NoAddress;
    for endpoint in endpoints {
        let target = ProbeTarget::of_newcomer(health, send_proxy, address, &endpoint);
        why = match probe(target, deadline) {
            Ok(outcome) if outcome.passed() => return Ok(()),
            Ok(outcome) => outcome,
            Err(error) if is_slow(&error) => Outcome::TimedOut(health.timeout),
            Err(error) => Outcome::NoConnection(ConnectFailure::Os(error.raw_os_error().unwrap_or_default())),
        };
    }
    Err(why.to_string())
}

fn resolve(address: &Address) -> io::Result<Vec<Endpoint>> {
    Ok(match address {
        Address::Inet(at) => vec![Endpoint::Inet(*at)],
        Address::Unix(path) => vec![Endpoint::Unix(path.as_path().into())],
        Address::Name(host, port) => (host.as_str(), *port).to_socket_addrs()?.map(Endpoint::Inet).collect(),
        // A backend never has such an address.
        Address::Any(_) => Vec::new(),
    })
}

fn probe(target: ProbeTarget, deadline: Deadline) -> io::Result<Outcome> {
    let (domain, to) = match target.endpoint() {
        Endpoint::Inet(at) => (Domain::for_address(*at), SockAddr::from(*at)),
        Endpoint::Unix(path) => (Domain::UNIX, unix_address(path)?),
    };
    let mut socket = Socket::new(domain, Type::STREAM.cloexec(), None)?;
    socket.connect_timeout(&to, deadline.left()?)?;
    let mut probe = target.probe();
    if let Some(outcome) = probe.connected() {
        return Ok(outcome);
    }
    while !probe.unsent().is_empty() {
        socket.set_write_timeout(Some(deadline.left()?))?;
        let count = socket.write(probe.unsent())?;
        if let Some(outcome) = probe.sent(count) {
            return Ok(outcome);
        }
    }
    let mut buffer = [0; 1024];
    loop {
        socket.set_read_timeout(Some(deadline.left()?))?;
        match socket.read(&mut buffer)? {
            0 => return Ok(probe.closed()),
            count => {
                if let Some(outcome) = probe.received(&buffer[..count]) {
                    return Ok(outcome);
                }
            }
        }
    }
}

fn is_slow(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock)
}
