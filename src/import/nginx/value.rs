//! Values as nginx writes them.

use crate::base::{Address, Listen, duration};
use crate::import::listen;
use std::net::IpAddr;
use std::time::Duration;

/// A time: numbers with units, like `1h30m`; without a unit it is seconds.
pub fn time(text: &str) -> Option<Duration> {
    let mut rest = text;
    let mut millis = 0_u64;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let end = rest.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(rest.len());
        let number: u64 = rest[..end].parse().ok()?;
        rest = &rest[end..];
        let units: [(&str, u64); 9] = [
            ("ms", 1),
            ("s", 1_000),
            ("m", 60_000),
            ("h", 3_600_000),
            ("d", 86_400_000),
            ("w", 7 * 86_400_000),
            ("M", 30 * 86_400_000),
            ("y", 365 * 86_400_000),
            ("", 1_000),
        ];
        let (unit, factor) = units.into_iter().find(|(unit, _)| rest.starts_with(unit))?;
        rest = rest[unit.len()..].trim_start();
        millis = millis.checked_add(number.checked_mul(factor)?)?;
    }
    Some(Duration::from_millis(millis).min(duration::MAX))
}

/// The value of `proxy_bind`: `client`, or an address. Without one the kernel chooses.
pub fn source(words: &[String]) -> Result<Option<String>, String> {
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words[..] {
        ["off"] => Ok(None),
        ["$remote_addr" | "$remote_addr:$remote_port", "transparent"] => Ok(Some("client".to_owned())),
        [address] => match address.parse::<IpAddr>() {
            Ok(ip) => Ok(Some(ip.to_string())),
            Err(_) => Err(format!("expected an address without a port, got `{address}`")),
        },
        _ => Err("only $remote_addr can be transparent".to_owned()),
    }
}

/// The addresses of a `listen` directive: `80`, `10.0.0.1:80`, `[::]:5000-5150`, `unix:/path`. A range is an address for each port.
pub fn listens(text: &str) -> Result<Vec<Listen>, String> {
    let inet = || {
        let (host, ports) = text.rsplit_once(':').filter(|(_, ports)| !ports.contains(']')).unwrap_or(("*", text));
        format!("{}:{ports}", if host == "*" { "0.0.0.0" } else { host })
    };
    listen::addresses(&if text.starts_with("unix:") { text.to_owned() } else { inet() })
}

/// The variable that holds the port of the client's connection.
pub const SERVER_PORT: &str = "$server_port";

/// The address of a server in an upstream.
pub fn server(text: &str) -> Result<Address, String> {
    match Address::parse_backend(text)? {
        // nginx has no such notation.
        Address::Mapped(..) => Err(format!("expected a port, got `{text}`")),
        address => Ok(address),
    }
}

/// The address of a `proxy_pass`, where `10.0.0.1:$server_port` has the port of the client's connection.
pub fn target(text: &str) -> Result<Address, String> {
    match text.strip_suffix(SERVER_PORT).and_then(|host| host.strip_suffix(':')) {
        Some(host) => Address::parse_backend(&format!("{host}:same")),
        None if text.contains(SERVER_PORT) => {
            Err(format!("expected {SERVER_PORT} in place of the port only, got `{text}`"))
        }
        None => server(text),
    }
}

/// `on` and `off`.
pub fn is_on(text: &str) -> bool {
    text.eq_ignore_ascii_case("on")
}

/// Bytes of a `match` block, where `\xHH` is a byte.
pub fn bytes(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("\\x") {
        bytes.extend_from_slice(before.as_bytes());
        match after.get(..2).and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = &after[2..];
            }
            None => {
                bytes.extend_from_slice(b"\\x");
                rest = after;
            }
        }
    }
    bytes.extend_from_slice(rest.as_bytes());
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_without_a_unit_are_seconds() {
        for (text, want) in [("10", 10_000), ("500ms", 500), ("5s", 5_000), ("1h30m", 5_400_000), ("1h 30m", 5_400_000)]
        {
            assert_eq!(time(text), Some(Duration::from_millis(want)), "{text}");
        }
        assert_eq!(time("9y"), Some(duration::MAX));
        for text in ["", "s", "5x", "-1", "99999999999999999999"] {
            assert_eq!(time(text), None, "{text}");
        }
    }

    #[test]
    fn sources() {
        let of = |text: &str| source(&text.split(' ').map(str::to_owned).collect::<Vec<_>>());
        for (text, want) in [
            ("off", None),
            ("$remote_addr transparent", Some("client")),
            ("10.0.0.5", Some("10.0.0.5")),
            ("2001:db8::5", Some("2001:db8::5")),
        ] {
            assert_eq!(of(text), Ok(want.map(str::to_owned)), "{text}");
        }
        for text in ["$server_addr", "10.0.0.5:80", "10.0.0.5 transparent", "$remote_addr"] {
            assert!(of(text).is_err(), "{text}");
        }
    }

    #[test]
    fn addresses_of_listen() {
        for (text, want) in [
            ("80", &["0.0.0.0:80"][..]),
            ("*:80", &["0.0.0.0:80"]),
            ("[::]:80", &["[::]:80"]),
            ("5000-5150", &["0.0.0.0:5000-5150"]),
            ("127.0.0.1:80-81", &["127.0.0.1:80", "127.0.0.1:81"]),
            ("[::1]:80-83", &["[::1]:80-83"]),
            ("unix:/run/a", &["unix:/run/a"]),
        ] {
            assert_eq!(Listen::shown(&listens(text).unwrap()), want, "{text}");
        }
        for text in ["", "0", "web", "[::]", "1-5000", "9-1"] {
            assert!(listens(text).is_err(), "{text}");
        }
    }

    #[test]
    fn addresses_of_servers() {
        for (text, want) in [
            ("10.0.0.1:80", "10.0.0.1:80"),
            ("web:80", "web:80"),
            ("unix:/run/a", "unix:/run/a"),
            ("10.0.0.1:$server_port", "10.0.0.1:same"),
            ("[2001:db8::1]:$server_port", "[2001:db8::1]:same"),
        ] {
            assert_eq!(target(text).unwrap().to_string(), want, "{text}");
        }
        assert!(server("10.0.0.1:$server_port").is_err());
        for text in
            ["", "10.0.0.1:same", "10.0.0.1:+5", "web:$server_port", "10.0.0.1:1$server_port", "unix:/run/$server_port"]
        {
            assert!(target(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_byte_may_be_hexadecimal() {
        assert_eq!(bytes("a\\x80\\xzb"), b"a\x80\\xzb");
    }
}
