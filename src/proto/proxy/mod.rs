//! The PROXY protocol: what a connection is told, before its first byte, about the client that it is made for.
//!
//! After HAProxy's specification, `doc/proxy-protocol.txt` in its repository ("the spec" below; sections 2.1 and 2.2).
//! [`parse`] reads both versions, [`Header::v1`] and [`Header::v2`] write them.
//!
//! | on the wire                                | [`Announced`] | the client is            |
//! |--------------------------------------------|---------------|--------------------------|
//! | v1 `TCP4`, `TCP6`; v2 INET, INET6 STREAM   | `Inet`        | the announced one        |
//! | v2 UNIX STREAM                             | `Unix`        | one without an address   |
//! | v1 `UNKNOWN`; v2 PROXY with UNSPEC or DGRAM| `Unknown`     | the socket's peer        |
//! | v2 LOCAL                                   | `Local`       | the socket's peer        |
//!
//! DGRAM is UNSPEC to us, which the spec allows for what a receiver does not support: nothing behind a TCP listener was a
//! datagram. An IPv4 address in IPv6 clothes (`::ffff:10.0.0.1`) is the IPv4 address, read or written: a client of a
//! dual-stack listener is TCP4. If only one of the two addresses is IPv4, both are written as IPv6.
//!
//! # TLVs
//!
//! Kept as they came, in order, for whoever the header is passed on to, except the checksum (PP2_TYPE_CRC32C). That is
//! verified; a header that carried one is written with one of its own, since addresses may be written differently. NOOP is
//! kept too: it means nothing and harms nobody. Of a header without known addresses nothing is kept: where TLVs begin in it
//! is not defined, and of LOCAL the spec wants the whole block discarded. Version 1 has no room for any.
//!
//! # Bounds
//!
//! v1: 107 bytes with CRLF, which the spec fixes. v2: [`V2_MAX`]. The spec allows 65 551 bytes, but also says that it
//! fits a segment; HAProxy's largest, with everything about a TLS client, stays below 1 KiB without its certificate.
//!
//! # Invariants
//!
//! * Once `Header` or `Bad`, more bytes do not change the answer; every true prefix of a header is `More`.
//! * `consumed` is the header's own length and never more than was given.
//! * What is written is read as the same, [`HEADER_MAX`] included.

mod crc32c;
#[cfg(test)]
mod tests;
mod v1;
mod v2;

use serde::{Deserialize, Serialize};
use std::fmt;
use std::net::SocketAddr;

/// The longest line of version 1.
pub const V1_MAX: usize = 107;

/// The longest header of version 2 that is accepted: its 16 fixed bytes, and 4 KiB of addresses and TLVs.
pub const V2_MAX: usize = 16 + 4096;

/// The longest header.
pub const HEADER_MAX: usize = V2_MAX;

/// The bytes of two unix addresses.
const UNIX: usize = 216;

/// What the bytes so far are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Parsed {
    /// The beginning of a header.
    More,
    /// A header in the first `consumed` bytes.
    Header {
        /// Its length.
        consumed: usize,
        /// What it says.
        header: Header,
    },
    /// Never a header, whatever follows.
    Bad(Bad),
}

/// Why bytes are no header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bad {
    /// They begin with neither version's signature.
    NoSignature,
    /// v1: no CRLF within 107 bytes.
    LineTooLong,
    /// v1: a CR or LF on its own.
    LineEnd,
    /// v1: not a protocol that the spec names, followed by exactly what belongs to it.
    Fields,
    /// v1: an address that is none, or of the other family.
    Address,
    /// v1: a port that is no number up to 65535 without leading zeros.
    Port,
    /// v2: neither LOCAL nor PROXY of version 2.
    Command,
    /// v2: a family or transport that the spec does not name.
    Family,
    /// v2: more than [`V2_MAX`] bytes.
    TooLong,
    /// v2: no room for the addresses of its family.
    TooShort,
    /// v2: a TLV that ends beyond the header, or a checksum that is not 32 bits, or two of them.
    Tlv,
    /// v2: the checksum is wrong.
    Checksum,
}

/// A header's content.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// Who is said to be connected with whom.
    pub announced: Announced,
    tlvs: Tlvs,
}

/// The two ends of the connection that a header speaks of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Announced {
    /// The sender's own connection, a health check for instance.
    Local,
    /// A client's, of which nothing is said.
    Unknown,
    /// A TCP client's.
    Inet {
        /// The client.
        source: SocketAddr,
        /// What it connected to.
        destination: SocketAddr,
    },
    /// A client's of a unix socket.
    Unix(UnixPair),
}

/// Two `sun_path`s as they came: 108 bytes each, the client's first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Vec<u8>", into = "Vec<u8>")]
pub struct UnixPair(Box<[u8; UNIX]>);

/// Type-length-values, each known to end within `bytes`; no checksum among them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Tlvs {
    bytes: Vec<u8>,
    /// The header had a checksum, and is to have one again.
    checksum: bool,
}

/// Reads the header that `bytes` begin with. `bytes` are all that came so far, from the connection's first byte on.
pub fn parse(bytes: &[u8]) -> Parsed {
    match bytes.first() {
        None => Parsed::More,
        Some(&v1::FIRST) => v1::parse(bytes),
        Some(&v2::FIRST) => v2::parse(bytes),
        Some(_) => Parsed::Bad(Bad::NoSignature),
    }
}

impl Header {
    /// Says so much and no more.
    pub fn new(announced: Announced) -> Header {
        Header { announced, tlvs: Tlvs::default() }
    }

    /// As a line of version 1, at most [`V1_MAX`] bytes. What it can't express is `UNKNOWN`.
    pub fn v1(&self) -> Vec<u8> {
        v1::write(&self.announced)
    }

    /// As a header of version 2, at most [`V2_MAX`] bytes.
    pub fn v2(&self) -> Vec<u8> {
        v2::write(&self.announced, &self.tlvs)
    }
}

impl Announced {
    /// IPv4 in its own form, whatever it was dressed as.
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
            Bad::Address => "an address that is none of its protocol",
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
