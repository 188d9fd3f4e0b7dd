//! What one side of a connection has seen of the other.

use rustix::net::{getpeername, getsockname};
use socket2::{Domain, Protocol, Socket, Type};
use std::io::Read;
use std::net::SocketAddrV4;
use std::time::Duration;
use testkit::{Conn, Ending};

#[derive(Clone, Debug)]
pub struct Observation {
    /// What its kernel has taken from it.
    pub written: u64,
    /// What of that has left its kernel for certain: all, unless it cut the connection.
    pub sent: u64,
    pub received: u64,
    /// What it received that was not written.
    pub garbled: Option<String>,
    /// What it saw first; `None`: neither a FIN nor a reset.
    pub end: Option<Ending>,
    /// When.
    pub took: Option<Duration>,
    /// It closes by itself, whatever it has seen.
    pub cut: bool,
    /// What it waits for before it does.
    pub awaited: u64,
    /// It did not read for a while, for lack of a processor, after the other side had gone.
    pub starved: bool,
}

/// How many bytes of a connection the kernel holds that the next hop has not acknowledged. Where the kernel does not say,
/// as of a connection that is gone, it is the maximum. There is an ioctl for this, but none without `unsafe`; sock_diag(7)
/// knows it.
pub fn unacknowledged(conn: &Conn) -> u64 {
    queue(conn).unwrap_or(u64::MAX)
}

fn queue(conn: &Conn) -> Option<u64> {
    let own = SocketAddrV4::try_from(getsockname(conn).ok()?).ok()?;
    let other = SocketAddrV4::try_from(getpeername(conn).ok()??).ok()?;
    let mut request = Vec::new();
    // A header (netlink(7)): its length, SOCK_DIAG_BY_FAMILY, NLM_F_REQUEST, a sequence number, no port.
    let header = [72_u32.to_ne_bytes(), [0; 4], 1_u32.to_ne_bytes(), [0; 4]];
    request.extend(header.as_flattened());
    request[4..6].copy_from_slice(&20_u16.to_ne_bytes());
    request[6..8].copy_from_slice(&1_u16.to_ne_bytes());
    // AF_INET, IPPROTO_TCP, nothing extra, in every state; the connection, on any interface, whatever its cookie.
    request.extend([2, 6, 0, 0]);
    request.extend([0xff; 4]);
    request.extend([own.port().to_be_bytes(), other.port().to_be_bytes()].as_flattened());
    for end in [own, other] {
        request.extend(end.ip().octets());
        request.extend([0; 12]);
    }
    request.extend([0; 4]);
    request.extend([0xff; 8]);

    const NETLINK_SOCK_DIAG: i32 = 4;
    let kernel = Socket::new(Domain::from(16), Type::DGRAM, Some(Protocol::from(NETLINK_SOCK_DIAG))).ok()?;
    kernel.send(&request).ok()?;
    let mut answer = [0; 512];
    let length = (&kernel).read(&mut answer).ok()?;
    let answer = &answer[..length];
    // An answer of another type is an error: there is no such connection.
    let is_found = answer.get(4..6)? == 20_u16.to_ne_bytes();
    // Behind the header: four bytes, the connection, a timer, what has not been read, what has not been acknowledged.
    let queue = answer.get(16 + 4 + 48 + 4 + 4..)?.first_chunk()?;
    is_found.then(|| u64::from(u32::from_ne_bytes(*queue)))
}
