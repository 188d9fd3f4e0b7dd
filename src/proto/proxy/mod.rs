//! The PROXY protocol: a header before a connection's first byte that announces the client.
//!
//! Implements HAProxy's specification, `doc/proxy-protocol.txt` in its repository ("the spec" below; sections 2.1 and
//! 2.2). [`parse`] reads both versions, [`Header::v1`] and [`Header::v2`] write them.
//!
//! | on the wire                                | [`Announced`] | the client is            |
//! |--------------------------------------------|---------------|--------------------------|
//! | v1 `TCP4`, `TCP6`; v2 INET, INET6 STREAM   | `Inet`        | the announced one        |
//! | v2 UNIX STREAM                             | `Unix`        | one without an address   |
//! | v1 `UNKNOWN`; v2 PROXY with UNSPEC or DGRAM| `Unknown`     | the socket's peer        |
//! | v2 LOCAL                                   | `Local`       | the socket's peer        |
//!
//! DGRAM is treated as UNSPEC, as the spec allows for unsupported transports: a TCP listener has no datagrams. An
//! IPv4-mapped IPv6 address (`::ffff:10.0.0.1`) is the IPv4 address, when read and when written: a client of a
//! dual-stack listener is TCP4. If only one of the two addresses is IPv4, both are written as IPv6.
//!
//! # TLVs
//!
//! TLVs are kept unchanged and in order for the next receiver, except the checksum (PP2_TYPE_CRC32C). The checksum is
//! verified; a header that had one is written with a new one, since the addresses may be written differently. NOOP is
//! kept too. A header without known addresses keeps no TLVs: the spec does not define where they begin, and discards
//! the whole block of LOCAL. Version 1 has no TLVs.
//!
//! # Bounds
//!
//! v1: 107 bytes with CRLF, as the spec says. v2: [`V2_MAX`]. The spec allows 65,551 bytes, but also says that a header
//! fits a segment. HAProxy's largest, with all details of a TLS client, stays below 1 KiB without the certificate.
//!
//! # Invariants
//!
//! * After `Header` or `Bad`, more bytes do not change the result; every proper prefix of a header is `More`.
//! * `consumed` is the header's own length, and at most the length of the input.
//! * A written header parses to the same value, also at [`HEADER_MAX`].

mod crc32c;
#[cfg(test)]
mod tests;
mod v1;
mod v2;

use serde::{Deserialize, Serialize};
use std::fmt;
use std::net::SocketAddr;

/// The longest line of version 1, in bytes.
pub const V1_MAX: usize = 107;

/// The longest accepted header of version 2, in bytes: 16 fixed ones, and 4 KiB of addresses and TLVs.
pub const V2_MAX: usize = 16 + 4096;

/// The longest header of either version, in bytes.
pub const HEADER_MAX: usize = V2_MAX;

/// The length of two unix addresses, in bytes.
const UNIX: usize = 216;

/// The result of parsing the bytes so far.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Parsed {
    /// The bytes may be the beginning of a header.
    More,
    /// A header in the first `consumed` bytes.
    Header {
        /// The header's length, in bytes.
        consumed: usize,
        /// The header's content.
        header: Header,
    },
    /// The bytes are not a header, whatever follows.
    Bad(Bad),
}

/// Why bytes are not a header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bad {
    /// They begin with neither version's signature.
    NoSignature,
    /// v1: no CRLF within 107 bytes.
    LineTooLong,
    /// v1: a CR or LF on its own.
    LineEnd,
    /// v1: an unknown protocol, or not exactly its fields.
    Fields,
    /// v1: an invalid address, or one of the other family.
    Address,
    /// v1: a port that is not a number up to 65535, without leading zeros.
    Port,
    /// v2: neither LOCAL nor PROXY of version 2.
    Command,
    /// v2: a family or transport that the spec does not define.
    Family,
    /// v2: more than [`V2_MAX`] bytes.
    TooLong,
    /// v2: too short for the addresses of its family.
    TooShort,
    /// v2: a TLV that ends beyond the header, a checksum that is not 32 bits long, or two checksums.
    Tlv,
    /// v2: the checksum is wrong.
    Checksum,
}

/// A header's content.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// The announced ends of the connection.
    pub announced: Announced,
    tlvs: Tlvs,
}

/// The two ends of the connection that a header announces.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Announced {
    /// A connection of the sender's own, such as a health check.
    Local,
    /// A client's connection without addresses.
    Unknown,
    /// A TCP client's connection.
    Inet {
        /// The client.
        source: SocketAddr,
        /// The address that the client connected to.
        destination: SocketAddr,
    },
    /// A connection of a unix socket's client.
    Unix(UnixPair),
}

/// Two `sun_path`s unchanged: 108 bytes each, the client's first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Vec<u8>", into = "Vec<u8>")]
pub struct UnixPair(Box<[u8; UNIX]>);

/// TLVs, each within `bytes`; no checksum among them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Tlvs {
    bytes: Vec<u8>,
    /// The header had a checksum, so it is written with one.
    checksum: bool,
}

/// Parses the header at the start of `bytes`, which are all bytes of the connection so far.
pub fn parse(bytes: &[u8]) -> Parsed {
    match bytes.first() {
        None => Parsed::More,
        Some(&v1::FIRST) => v1::parse(bytes),
        Some(&v2::FIRST) => v2::parse(bytes),
        Some(_) => Parsed::Bad(Bad::NoSignature),
    }
}

impl Header {
    /// A header without TLVs.
    pub fn new(announced: Announced) -> Header {
        Header { announced, tlvs: Tlvs::default() }
    }

    /// The header as a line of version 1, at most [`V1_MAX`] bytes. What version 1 can't express becomes `UNKNOWN`.
    pub fn v1(&self) -> Vec<u8> {
        v1::write(&self.announced)
    }

    /// The header in version 2, at most [`V2_MAX`] bytes.
    pub fn v2(&self) -> Vec<u8> {
        v2::write(&self.announced, &self.tlvs)
    }
}

impl Announced {
    /// A TCP connection; IPv4-mapped addresses become IPv4.
    pub fn inet(source: SocketAddr, destination: SocketAddr) -> Announced {
        let canonical = |at: SocketAddr| SocketAddr::new(at.ip().to_canonical(), at.port());
        Announced::Inet { source: canonical(source), destination: canonical(destination) }
    }
}

impl TryFrom<Vec<u8>> for UnixPair {
    type Error = &'static str;

    fn try_from(bytes: Vec<u8>) -> Result<UnixPair, Self::Error> {
        let bytes: Box<[u8; UNIX]> = bytes.try_into().map_err(|_| "two unix addresses have 216 bytes")?;
        Ok(UnixPair(bytes))
    }
}

impl From<UnixPair> for Vec<u8> {
    fn from(pair: UnixPair) -> Vec<u8> {
        pair.0.to_vec()
    }
}

impl fmt::Display for Bad {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Bad::NoSignature => "no PROXY header",
            Bad::LineTooLong => "no end of line within 107 bytes",
            Bad::LineEnd => "a CR or LF on its own",
            Bad::Fields => "expected TCP4 or TCP6 with two addresses and two ports, or UNKNOWN",
            Bad::Address => "an address that is not of its protocol",
            Bad::Port => "a port that is not a plain number up to 65535",
            Bad::Command => "neither LOCAL nor PROXY of version 2",
            Bad::Family => "an unassigned address family or transport",
            Bad::TooLong => "longer than 4112 bytes",
            Bad::TooShort => "too short for its addresses",
            Bad::Tlv => "a malformed TLV",
            Bad::Checksum => "a wrong checksum",
        })
    }
}
