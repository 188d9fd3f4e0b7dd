//! Values as nginx writes them.

use crate::base::duration;
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

/// The most addresses that a range of ports becomes.
const RANGE_MAX: u16 = 1000;

/// The addresses of a `listen` directive.
pub fn listens(text: &str) -> Result<Vec<String>, String> {
    if text.starts_with("unix:") {
        return Ok(vec![text.to_owned()]);
    }
    let (host, ports) = text.rsplit_once(':').filter(|(_, ports)| !ports.contains(']')).unwrap_or(("*", text));
    let host = if host == "*" { "0.0.0.0" } else { host };
    let expected = || format!("expected a port, or an address with one, got `{text}`");
    let (first, last) = ports.split_once('-').unwrap_or((ports, ports));
    let (first, last): (u16, u16) = (first.parse().map_err(|_| expected())?, last.parse().map_err(|_| expected())?);
    if last < first || last - first >= RANGE_MAX {
        return Err(format!("expected a range of at most {RANGE_MAX} ports, got `{ports}`"));
    }
    Ok((first..=last).map(|port| format!("{host}:{port}")).collect())
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
            ("127.0.0.1:80-81", &["127.0.0.1:80", "127.0.0.1:81"]),
            ("unix:/run/a", &["unix:/run/a"]),
        ] {
            assert_eq!(listens(text).unwrap(), want, "{text}");
        }
        for text in ["", "web", "[::]", "1-2000", "9-1"] {
            assert!(listens(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_byte_may_be_hexadecimal() {
        assert_eq!(bytes("a\\x80\\xzb"), b"a\x80\\xzb");
    }
}
