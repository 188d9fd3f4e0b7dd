//! PROXY headers of the simulated world: what clients begin with, what backends are owed.

use crate::simulation::world::Conn;
use std::net::{IpAddr, Ipv6Addr};
use tcplb::base::Endpoint;
use tcplb::config::model::ProxyVersion;
use tcplb::proto::proxy::{Announced, Header};

/// What every client has connected to.
pub const LOCAL: ([u8; 4], u16) = ([192, 0, 2, 80], 80);

/// The prefix that is denied.
pub const DENIED: &str = "192.0.2.0/24";

/// The address of a client's socket: every fifth is in the denied prefix, of the others each two are one source.
pub fn client_ip(conn: u16) -> [u8; 4] {
    if conn % 5 == 4 { [192, 0, 2, 1] } else { [10, 1, 0, conn as u8 / 2] }
}

/// What a client begins with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Preamble {
    #[default]
    None,
    /// A header, whole if the client lives to send all of it.
    Header,
    /// Bytes that are none, where one is wanted.
    Garbage,
    /// A header, from a peer that may not send one.
    NotTrusted,
}

/// A client from this port: some begin at once, some with a header, some with what is none.
pub fn random(random: &mut fastrand::Rng, port: u16) -> Conn {
    let at = Some(Endpoint::Inet((client_ip(port), port).into()));
    let preamble = match random.u8(..20) {
        0..10 => return Conn { at, ..Conn::default() },
        10..16 => Preamble::Header,
        16..19 => Preamble::Garbage,
        _ => Preamble::NotTrusted,
    };
    if preamble == Preamble::Garbage {
        let header: &[u8] = match random.u8(..6) {
            0 => b"GET / HTTP/1.1\r\n\r\n",
            1 => b"PROXY TCP4 1.2.3.4 5.6.7.8 1 65536\r\n",
            2 => b"\r\n\r\n\0\r\nQUIT\n\x11\x11\0\x0c",
            3 => b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0f\x01\x02\x03\x04\x01\x02\x03\x04\0\x01\0\x01\x05\0\x01",
            4 => b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2\n",
            _ => &[b"PROXY UNKNOWN".as_slice(), &[b' '; 100]].concat(),
        };
        return Conn { preamble, header: header.to_vec(), at, ..Conn::default() };
    }
    // Few sources, so that each comes more than once. A denied client may be behind a socket that is not denied, and the
    // other way round.
    let source = match random.u8(..8) {
        0 => ([192, 0, 2, 9], port).into(),
        1..5 => ([203, 0, 113, random.u8(..2)], port).into(),
        _ => ([0x2001, 0xdb8, 0, 0, 0, 0, 0, random.u16(..)], port).into(),
    };
    let header = Header::new(match random.u8(..4) {
        0 => Announced::Local,
        1 => Announced::Unknown,
        _ => Announced::inet(source, ([198, 51, 100, 7], 443).into()),
    });
    let bytes = if random.bool() { header.v1() } else { header.v2() };
    let announces = preamble == Preamble::Header && matches!(header.announced, Announced::Inet { .. });
    let (at, announced) = if announces { (Some(Endpoint::Inet(source)), Some(header)) } else { (at, None) };
    Conn { preamble, header: bytes, announced, at, ..Conn::default() }
}

impl Conn {
    /// The source that limits count: its address, or its IPv6 /64.
    pub fn source(&self) -> Option<IpAddr> {
        Some(match self.at.as_ref().and_then(Endpoint::ip)? {
            IpAddr::V6(ip) => Ipv6Addr::from_bits(ip.to_bits() >> 64 << 64).into(),
            ip => ip,
        })
    }

    /// Is its address in the denied prefix?
    pub fn is_denied(&self) -> bool {
        matches!(self.source(), Some(IpAddr::V4(ip)) if ip.octets().starts_with(&[192, 0, 2]))
    }

    /// What a backend that expects this version is owed.
    pub fn backend_preamble(&self, version: Option<ProxyVersion>) -> Vec<u8> {
        let Some(Endpoint::Inet(at)) = self.at else { panic!("every client has an address") };
        let own = Header::new(Announced::inet(at, LOCAL.into()));
        let header = self.announced.as_ref().unwrap_or(&own);
        match version {
            None => Vec::new(),
            Some(ProxyVersion::V1) => header.v1(),
            Some(ProxyVersion::V2) => header.v2(),
        }
    }
}
