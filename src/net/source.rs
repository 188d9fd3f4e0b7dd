//! The local address of a socket that connects (`source` of a pool).
//!
//! IP_BIND_ADDRESS_NO_PORT leaves the port to the connect, which knows the destination: a port in use towards one destination is
//! free for another one. IP_TRANSPARENT and IPV6_TRANSPARENT permit an address that is not this machine's. Like HAProxy's
//! `usesrc clientip` and nginx's `proxy_bind $remote_addr transparent`, the port is not the client's.

use nix::sys::socket::{setsockopt, sockopt};
use rustix::io::Errno;
use rustix::net::{self, AddressFamily, SocketType};
use socket2::SockRef;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};

/// Where a socket connects from.
#[derive(Clone, Copy, Debug)]
pub enum LocalAddress {
    /// An address of this machine.
    Own(SocketAddr),
    /// Another machine's.
    Foreign(SocketAddr),
}

/// Binds a TCP socket before it connects to `to`. An address of another family fails like one without a free port.
pub fn bind(socket: &OwnedFd, from: LocalAddress, to: &SocketAddr) -> io::Result<()> {
    let (LocalAddress::Own(mut at) | LocalAddress::Foreign(mut at)) = from;
    if at.is_ipv4() != to.is_ipv4() {
        return Err(Errno::ADDRNOTAVAIL.into());
    }
    at.set_port(0);
    if let LocalAddress::Foreign(_) = from {
        set_transparent(socket, at.is_ipv4())?;
    }
    setsockopt(socket, sockopt::IpBindAddressNoPort, &true)?;
    Ok(net::bind(socket, &at)?)
}

fn set_transparent(socket: &impl AsFd, is_ipv4: bool) -> io::Result<()> {
    let socket = SockRef::from(socket);
    if is_ipv4 { socket.set_ip_transparent_v4(true) } else { socket.set_ip_transparent_v6(true) }
}

/// Whether a socket can be bound to this address now.
pub fn try_bind(at: SocketAddr) -> io::Result<()> {
    let family = if at.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    bind(&net::socket(family, SocketType::STREAM, None)?, LocalAddress::Own(at), &at)
}
