//! Values as HAProxy writes them.

use crate::base::{Listen, duration};
use crate::import::listen;
use std::fmt::Display;
use std::net::IpAddr;
use std::time::Duration;

/// A time: a number with a unit; without one it is milliseconds.
pub fn time(text: &str) -> Option<Duration> {
    let end = text.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let number: u64 = number.parse().ok()?;
    let micros = match unit {
        "us" => 1,
        "" | "ms" => 1_000,
        "s" => 1_000_000,
        "m" => 60_000_000,
        "h" => 3_600_000_000,
        "d" => 86_400_000_000,
        _ => return None,
    };
    let micros: u64 = number.checked_mul(micros)?;
    // tcplb counts in milliseconds, and a year at most.
    Some(Duration::from_millis(micros.div_ceil(1_000)).min(duration::MAX))
}

/// An address of a `server`, without what HAProxy writes before it.
#[derive(Debug, PartialEq, Eq)]
pub enum Place {
    /// A host, and a port if there is one.
    Host(String, Port),
    /// `unix:…`
    Unix(String),
}

/// A port behind a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Port {
    /// This one.
    Fixed(u16),
    /// That of the client's connection, with this added.
    OfClient(i32),
}

/// Parses the address of a server.
pub fn place(text: &str) -> Result<Place, String> {
    let unknown = || format!("expected an address of a server, got `{text}`");
    let text =
        ["ipv4@", "ipv6@", "tcp@", "tcp4@", "tcp6@"].iter().find_map(|start| text.strip_prefix(start)).unwrap_or(text);
    if let Some(path) = text.strip_prefix("unix@").or_else(|| text.starts_with('/').then_some(text)) {
        return Ok(Place::Unix(format!("unix:{path}")));
    }
    if let Some(name) = text.strip_prefix("abns@") {
        return Err(format!(
            "`abns@{name}`: HAProxy fills the names of abstract sockets up with zeros, tcplb does not"
        ));
    }
    if text.contains('@') {
        return Err(unknown());
    }
    let (host, port) = split(text);
    if host.is_empty() {
        return Err(unknown());
    }
    if host == "*" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_unspecified()) {
        return Err(format!("`{text}` is the address that the client connected to; tcplb needs that of the server"));
    }
    let port = match port {
        None | Some("" | "0") => Port::OfClient(0),
        Some(port) if port.starts_with(['+', '-']) => Port::OfClient(port.parse().map_err(|_| unknown())?),
        Some(port) => Port::Fixed(port.parse().map_err(|_| unknown())?),
    };
    Ok(Place::Host(host, port))
}

/// The address as tcplb writes it; IPv6 in brackets.
pub fn joined(host: &str, port: impl Display) -> String {
    if host.contains(':') && !host.starts_with('[') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

/// The host and the port. An IPv6 address needs no brackets in HAProxy: the last colon ends it.
fn split(text: &str) -> (String, Option<&str>) {
    if let Some((host, rest)) = text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        return (host.to_owned(), rest.strip_prefix(':'));
    }
    match text.rsplit_once(':') {
        Some((host, port)) => (host.to_owned(), Some(port)),
        None => (text.to_owned(), None),
    }
}

/// Parses `source ADDRESS`, with what follows `usesrc` or `interface`: `client`, an address, or nothing for the kernel's choice.
pub fn source(address: &str, how: Option<(&str, &str)>) -> Result<String, String> {
    match how {
        Some(("usesrc", "client" | "clientip")) => return Ok("client".to_owned()),
        Some((how, what)) => return Err(format!("tcplb has no `{how} {what}`")),
        None => {}
    }
    let (host, port) = split(address);
    if !matches!(port, None | Some("" | "0")) {
        return Err(format!("the kernel picks the port, got `{address}`"));
    }
    match host.parse::<IpAddr>() {
        Ok(ip) if ip.is_unspecified() => Ok(String::new()),
        Ok(ip) => Ok(ip.to_string()),
        Err(_) if matches!(host.as_str(), "" | "*") => Ok(String::new()),
        Err(_) => Err(format!("expected an address, got `{address}`")),
    }
}

/// Parses what a `bind` line names: `:80`, `*:80-90`, `10.0.0.1:80,:::81`, `unix@/path`. A range is an address for each port.
pub fn binds(text: &str) -> Result<Vec<Vec<Listen>>, String> {
    text.split(',').map(bind).collect()
}

fn bind(text: &str) -> Result<Vec<Listen>, String> {
    let (family, text) = match text.split_once('@') {
        Some((family @ ("ipv4" | "ipv6" | "unix" | "tcp" | "tcp4" | "tcp6"), rest)) => (family, rest),
        Some((family, _)) => return Err(format!("`{family}@`: tcplb listens on addresses and unix sockets")),
        None => ("", text),
    };
    if family == "unix" || text.starts_with('/') {
        return listen::addresses(&format!("unix:{text}"));
    }
    let (host, ports) = split(text);
    let ports = ports.ok_or_else(|| format!("expected an address with a port, got `{text}`"))?;
    let host = match host.as_str() {
        "" | "*" if matches!(family, "ipv6" | "tcp6") => "[::]",
        "" | "*" => "0.0.0.0",
        host => host,
    };
    listen::addresses(&joined(host, ports))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_without_a_unit_are_milliseconds() {
        for (text, want) in
            [("500", 500), ("5s", 5_000), ("2m", 120_000), ("1h", 3_600_000), ("1d", 86_400_000), ("900us", 1)]
        {
            assert_eq!(time(text), Some(Duration::from_millis(want)), "{text}");
        }
        assert_eq!(time("99999d"), Some(duration::MAX));
        for text in ["", "s", "5 s", "-1", "5w", "99999999999999999999"] {
            assert_eq!(time(text), None, "{text}");
        }
    }

    #[test]
    fn addresses_of_servers() {
        let host = |host: &str, port| Ok(Place::Host(host.to_owned(), port));
        assert_eq!(place("10.0.0.1:80"), host("10.0.0.1", Port::Fixed(80)));
        assert_eq!(place("ipv4@web:80"), host("web", Port::Fixed(80)));
        assert_eq!(place("::1:80"), host("::1", Port::Fixed(80)));
        assert_eq!(place("[::1]:80"), host("::1", Port::Fixed(80)));
        for (text, added) in [("", 0), (":", 0), (":0", 0), (":+0", 0), (":-0", 0), (":+1000", 1000), (":-1000", -1000)]
        {
            assert_eq!(place(&format!("10.0.0.1{text}")), host("10.0.0.1", Port::OfClient(added)), "{text}");
        }
        assert_eq!(place("/run/a.sock"), Ok(Place::Unix("unix:/run/a.sock".to_owned())));
        for bad in ["", "*:80", "0.0.0.0", "[::]:80", "fd@3", "quic4@a:1", "a:b", "a:1-9", "abns@x"] {
            assert!(place(bad).is_err(), "{bad}");
        }
        assert_eq!(joined("::1", 80), "[::1]:80");
    }

    #[test]
    fn sources() {
        for (address, how, want) in [
            ("0.0.0.0", Some(("usesrc", "clientip")), "client"),
            ("10.0.0.5", None, "10.0.0.5"),
            ("10.0.0.5:0", None, "10.0.0.5"),
            ("[2001:db8::5]:", None, "2001:db8::5"),
            ("0.0.0.0", None, ""),
            ("*", None, ""),
        ] {
            assert_eq!(source(address, how).as_deref(), Ok(want), "{address}");
        }
        for (address, how) in [
            ("10.0.0.5:5000", None),
            ("a-name", None),
            ("0.0.0.0", Some(("usesrc", "10.0.0.6"))),
            ("*", Some(("interface", "eth0"))),
        ] {
            assert!(source(address, how).is_err(), "{address}");
        }
    }

    #[test]
    fn addresses_of_bind_lines() {
        for (text, want) in [
            (":80", &["0.0.0.0:80"][..]),
            ("*:80", &["0.0.0.0:80"]),
            (":::80", &["[::]:80"]),
            ("[::]:80", &["[::]:80"]),
            ("ipv6@:80", &["[::]:80"]),
            ("10.0.0.1:80,10.0.0.2:81", &["10.0.0.1:80", "10.0.0.2:81"]),
            (":5000-5150", &["0.0.0.0:5000-5150"]),
            ("10.0.0.1:5000-5010,::1:6000-6010", &["10.0.0.1:5000-5010", "[::1]:6000-6010"]),
            ("*:80-81", &["0.0.0.0:80", "0.0.0.0:81"]),
            ("unix@/run/a.sock", &["unix:/run/a.sock"]),
            ("/run/a.sock", &["unix:/run/a.sock"]),
        ] {
            assert_eq!(Listen::shown(&binds(text).unwrap().concat()), want, "{text}");
        }
        for bad in ["80", ":x", ":0", ":", ":1-5000", ":9-1", "fd@${X}", "quic4@:443", "a b:80"] {
            assert!(binds(bad).is_err(), "{bad}");
        }
    }
}
