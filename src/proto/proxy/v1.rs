//! Version 1: one line of text. Spec, section 2.1.
//!
//! Strict, as the spec requires ("any sequence which does not exactly match the protocol must be discarded"): one space
//! between fields, no leading zeros, CRLF. The one exception is an IPv6 address that ends like an IPv4 one:
//! inet_ntop(3), and so every other sender, writes mapped addresses like that.

use super::{Announced, Bad, Header, Parsed, V1_MAX};
use std::fmt::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

pub(super) const FIRST: u8 = b'P';
const SIGNATURE: &[u8] = b"PROXY ";

pub(super) fn parse(bytes: &[u8]) -> Parsed {
    let seen = bytes.len().min(SIGNATURE.len());
    if bytes[..seen] != SIGNATURE[..seen] {
        return Parsed::Bad(Bad::NoSignature);
    }
    let window = &bytes[..bytes.len().min(V1_MAX)];
    let full = window.len() == V1_MAX;
    let Some(end) = window.iter().position(|byte| matches!(byte, b'\r' | b'\n')) else {
        return if full { Parsed::Bad(Bad::LineTooLong) } else { Parsed::More };
    };
    match (window[end], window.get(end + 1)) {
        (b'\r', Some(b'\n')) => {}
        (b'\r', None) if full => return Parsed::Bad(Bad::LineTooLong),
        (b'\r', None) => return Parsed::More,
        _ => return Parsed::Bad(Bad::LineEnd),
    }
    match fields(window.get(SIGNATURE.len()..end).unwrap_or_default()) {
        Ok(announced) => Parsed::Header { consumed: end + 2, header: Header::new(announced) },
        Err(bad) => Parsed::Bad(bad),
    }
}

/// Parses the fields between signature and CRLF.
fn fields(line: &[u8]) -> Result<Announced, Bad> {
    // The spec says to ignore what follows UNKNOWN.
    if line == b"UNKNOWN" || line.starts_with(b"UNKNOWN ") {
        return Ok(Announced::Unknown);
    }
    let line = std::str::from_utf8(line).map_err(|_| Bad::Fields)?;
    let mut fields = line.split(' ');
    let mut next = || fields.next().ok_or(Bad::Fields);
    let parse: fn(&str) -> Result<IpAddr, Bad> = match next()? {
        "TCP4" => |text| text.parse::<Ipv4Addr>().map(IpAddr::V4).map_err(|_| Bad::Address),
        "TCP6" => |text| text.parse::<Ipv6Addr>().map(IpAddr::V6).map_err(|_| Bad::Address),
        _ => return Err(Bad::Fields),
    };
    let [source, destination, from, to] = [next()?, next()?, next()?, next()?];
    if next().is_ok() {
        return Err(Bad::Fields);
    }
    let source = SocketAddr::new(parse(source)?, port(from)?);
    Ok(Announced::inet(source, SocketAddr::new(parse(destination)?, port(to)?)))
}

/// Accepts digits only; `u16::from_str` would accept a sign and leading zeros.
fn port(text: &str) -> Result<u16, Bad> {
    let plain = text.bytes().all(|byte| byte.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    text.parse().ok().filter(|_| plain).ok_or(Bad::Port)
}

pub(super) fn write(announced: &Announced) -> Vec<u8> {
    let Announced::Inet { source, destination } = announced else { return b"PROXY UNKNOWN\r\n".to_vec() };
    let (from, to) = (source.port(), destination.port());
    match (source.ip().to_canonical(), destination.ip().to_canonical()) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            format!("PROXY TCP4 {source} {destination} {from} {to}\r\n").into_bytes()
        }
        (source, destination) => {
            let (source, destination) = (hexadecimal(source), hexadecimal(destination));
            format!("PROXY TCP6 {source} {destination} {from} {to}\r\n").into_bytes()
        }
    }
}

/// An IPv6 address without dots: the spec has only groups of hexadecimal digits.
fn hexadecimal(ip: IpAddr) -> String {
    let ip = match ip {
        IpAddr::V4(ip) => ip.to_ipv6_mapped(),
        IpAddr::V6(ip) => ip,
    };
    let mut text = ip.to_string();
    if text.contains('.') {
        text.clear();
        for (at, group) in ip.segments().iter().enumerate() {
            // Writing to a string can't fail.
            let _ = write!(text, "{}{group:x}", if at == 0 { "" } else { ":" });
        }
    }
    text
}
