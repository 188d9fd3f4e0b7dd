//! Version 2: binary. Spec, section 2.2.
//!
//! ```text
//!  0          12        13       14      16          16 + length
//! ┌───────────┬─────────┬────────┬───────┬───────────────┬──────┐
//! │ signature │ version │ family │length │ addresses of  │ TLVs │
//! │           │ command │ transp.│       │ the family    │      │
//! └───────────┴─────────┴────────┴───────┴───────────────┴──────┘
//! ```
//!
//! An error in the fixed part is found as soon as its byte is there, an error in the rest once the header is whole.

use super::{Announced, Bad, Header, Parsed, Tlvs, UNIX, UnixPair, V2_MAX, crc32c};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

pub(super) const FIRST: u8 = SIGNATURE[0];
const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";

/// The length of the part before the addresses.
const FIXED: usize = 16;

const LOCAL: u8 = 0x20;
const PROXY: u8 = 0x21;

const UNSPEC: u8 = 0x00;
const INET_STREAM: u8 = 0x11;
const INET6_STREAM: u8 = 0x21;
const UNIX_STREAM: u8 = 0x31;

/// The type of the checksum's TLV, and the length of its value.
const CRC32C: u8 = 0x03;
const CRC32C_LENGTH: usize = 4;

/// The length of a TLV's type and length fields.
const TLV_HEAD: usize = 3;

/// The lengths of a family's addresses, the same for STREAM and DGRAM.
const INET: usize = 12;
const INET6: usize = 36;

pub(super) fn parse(bytes: &[u8]) -> Parsed {
    match parse_fixed(bytes) {
        Ok(None) => Parsed::More,
        Ok(Some(fixed)) => match bytes.get(..fixed.end) {
            None => Parsed::More,
            Some(whole) => match content(&fixed, whole) {
                Ok(header) => Parsed::Header { consumed: fixed.end, header },
                Err(bad) => Parsed::Bad(bad),
            },
        },
        Err(bad) => Parsed::Bad(bad),
    }
}

/// The content of the first 16 bytes.
struct Fixed {
    local: bool,
    family: u8,
    /// The length of the family's addresses; `None` where it is not defined.
    addresses: Option<usize>,
    /// Offset of the header's end.
    end: usize,
}

fn parse_fixed(bytes: &[u8]) -> Result<Option<Fixed>, Bad> {
    let seen = bytes.len().min(SIGNATURE.len());
    if bytes[..seen] != SIGNATURE[..seen] {
        return Err(Bad::NoSignature);
    }
    let Some(&command) = bytes.get(12) else { return Ok(None) };
    if command != LOCAL && command != PROXY {
        return Err(Bad::Command);
    }
    let Some(&family) = bytes.get(13) else { return Ok(None) };
    let local = command == LOCAL;
    // A LOCAL header's family is ignored.
    let addresses = match (family >> 4, family & 0x0f) {
        _ if local => None,
        (0, 0..=2) | (1..=3, 0) => None,
        (1, 1 | 2) => Some(INET),
        (2, 1 | 2) => Some(INET6),
        (3, 1 | 2) => Some(UNIX),
        _ => return Err(Bad::Family),
    };
    let Some(&[high, low]) = bytes.get(14..FIXED) else { return Ok(None) };
    let length = usize::from(u16::from_be_bytes([high, low]));
    let end = FIXED + length;
    if end > V2_MAX {
        return Err(Bad::TooLong);
    }
    if addresses.is_some_and(|addresses| length < addresses) {
        return Err(Bad::TooShort);
    }
    Ok(Some(Fixed { local, family, addresses, end }))
}

/// Parses a header that is whole.
fn content(fixed: &Fixed, whole: &[u8]) -> Result<Header, Bad> {
    let Some(length) = fixed.addresses else {
        return Ok(Header::new(if fixed.local { Announced::Local } else { Announced::Unknown }));
    };
    let (addresses, tlvs) = whole.get(FIXED..).and_then(|rest| rest.split_at_checked(length)).ok_or(Bad::TooShort)?;
    let tlvs = read_tlvs(whole, tlvs)?;
    let announced = match fixed.family {
        INET_STREAM => inet(addresses).ok_or(Bad::TooShort)?,
        INET6_STREAM => inet6(addresses).ok_or(Bad::TooShort)?,
        UNIX_STREAM => Announced::Unix(UnixPair::try_from(addresses.to_vec()).map_err(|_| Bad::TooShort)?),
        _ => return Ok(Header::new(Announced::Unknown)),
    };
    Ok(Header { announced, tlvs })
}

fn inet(addresses: &[u8]) -> Option<Announced> {
    let (source, rest) = addresses.split_first_chunk::<4>()?;
    let (destination, ports) = rest.split_first_chunk::<4>()?;
    ends(Ipv4Addr::from(*source).into(), Ipv4Addr::from(*destination).into(), ports)
}

fn inet6(addresses: &[u8]) -> Option<Announced> {
    let (source, rest) = addresses.split_first_chunk::<16>()?;
    let (destination, ports) = rest.split_first_chunk::<16>()?;
    ends(Ipv6Addr::from(*source).into(), Ipv6Addr::from(*destination).into(), ports)
}

fn ends(source: IpAddr, destination: IpAddr, ports: &[u8]) -> Option<Announced> {
    let &[a, b, c, d] = ports else { return None };
    let (from, to) = (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]));
    Some(Announced::inet(SocketAddr::new(source, from), SocketAddr::new(destination, to)))
}

/// Collects all TLVs but the checksum, which is verified. `tlvs` is the end of `whole`.
fn read_tlvs(whole: &[u8], tlvs: &[u8]) -> Result<Tlvs, Bad> {
    let mut kept = Tlvs::default();
    let mut rest = tlvs;
    while !rest.is_empty() {
        let Some((&[kind, high, low], after)) = rest.split_first_chunk::<TLV_HEAD>() else { return Err(Bad::Tlv) };
        let length = usize::from(u16::from_be_bytes([high, low]));
        let (value, next) = after.split_at_checked(length).ok_or(Bad::Tlv)?;
        if kind == CRC32C {
            let sum: [u8; CRC32C_LENGTH] = value.try_into().map_err(|_| Bad::Tlv)?;
            if kept.checksum {
                return Err(Bad::Tlv);
            }
            let (before, _) = whole.split_at_checked(whole.len() - after.len()).ok_or(Bad::Tlv)?;
            if crc32c::checksum([before, &[0; CRC32C_LENGTH], next]) != u32::from_be_bytes(sum) {
                return Err(Bad::Checksum);
            }
            kept.checksum = true;
        } else {
            kept.bytes.extend_from_slice(&rest[..TLV_HEAD + length]);
        }
        rest = next;
    }
    Ok(kept)
}

pub(super) fn write(announced: &Announced, tlvs: &Tlvs) -> Vec<u8> {
    let mut body = Vec::new();
    let (command, family) = match announced {
        Announced::Local => (LOCAL, UNSPEC),
        Announced::Unknown => (PROXY, UNSPEC),
        Announced::Inet { source, destination } => (PROXY, put_ends(&mut body, *source, *destination)),
        Announced::Unix(UnixPair(paths)) => {
            body.extend_from_slice(paths.as_slice());
            (PROXY, UNIX_STREAM)
        }
    };
    // The TLVs of a received header always fit: its addresses took no less room there. TLVs that do not fit are left
    // out, not cut.
    let room = V2_MAX - FIXED - body.len();
    let checksum = if tlvs.checksum { TLV_HEAD + CRC32C_LENGTH } else { 0 };
    let carries = family != UNSPEC && tlvs.bytes.len() + checksum <= room;
    if carries {
        body.extend_from_slice(&tlvs.bytes);
        if tlvs.checksum {
            body.extend_from_slice(&[CRC32C, 0, CRC32C_LENGTH as u8, 0, 0, 0, 0]);
        }
    }
    let mut whole = SIGNATURE.to_vec();
    whole.extend_from_slice(&[command, family]);
    whole.extend_from_slice(&u16::try_from(body.len()).unwrap_or_default().to_be_bytes());
    whole.append(&mut body);
    if carries && tlvs.checksum {
        let sum = crc32c::checksum([whole.as_slice()]).to_be_bytes();
        whole.truncate(whole.len() - CRC32C_LENGTH);
        whole.extend_from_slice(&sum);
    }
    whole
}

/// Appends the addresses in network byte order, and returns their family.
fn put_ends(body: &mut Vec<u8>, source: SocketAddr, destination: SocketAddr) -> u8 {
    let family = match (source.ip().to_canonical(), destination.ip().to_canonical()) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            body.extend_from_slice(&source.octets());
            body.extend_from_slice(&destination.octets());
            INET_STREAM
        }
        (source, destination) => {
            for ip in [source, destination] {
                let ip = match ip {
                    IpAddr::V4(ip) => ip.to_ipv6_mapped(),
                    IpAddr::V6(ip) => ip,
                };
                body.extend_from_slice(&ip.octets());
            }
            INET6_STREAM
        }
    };
    body.extend_from_slice(&source.port().to_be_bytes());
    body.extend_from_slice(&destination.port().to_be_bytes());
    family
}
