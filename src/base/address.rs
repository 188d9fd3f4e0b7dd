//! Addresses as users write them, and their resolved form.
//!
//! | written            | [`Address`]                        | as a listener              | as a backend        |
//! |--------------------|------------------------------------|----------------------------|---------------------|
//! | `127.0.0.1:80`     | `Inet`                             | that address               | that address        |
//! | `[::1]:80`         | `Inet`                             | that address               | that address        |
//! | `:80`              | `Any(80)`                          | every interface, v6 and v4 | refused             |
//! | `[fe80::1%eth0]:80` | `Name`                            | that address there         | that address there  |
//! | `name:80`          | `Name`                             | every address of the name  | tried in order      |
//! | `10.0.0.1:same`, `10.0.0.1:+1000` | `Mapped`            | refused                    | the client's port, or so much above it |
//! | `unix:/path`       | `Unix`                             | that socket file           | that socket file    |
//! | `unix:@name`       | `Unix`                             | that abstract socket       | that abstract socket |
//!
//! `127.0.0.1:5000-5150`, `:5000-5150` and `name:5000-5150` stand for an address for each of these ports ([`Listen::parse_all`]).
//!
//! Port 0 is for listeners only: the kernel picks a port. An abstract socket (unix(7)) has a name but no file, so it
//! has no mode or owner: every process of the network namespace may connect. A file called `@name` is written
//! `unix:./@name`.

use super::text::{self, Escaped};
use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The accepted forms, for every error about an address.
pub const EXPECTED: &str = "127.0.0.1:80, [::1]:80, name:80 or unix:/path";

/// The most ports of a range.
pub const RANGE_MAX: usize = 4096;

/// The longest path in a `sockaddr_un`, in bytes, without its closing NUL (unix(7)).
pub const UNIX_PATH_MAX: usize = 107;

/// The longest name of an interface, in bytes (IFNAMSIZ without its closing NUL).
const INTERFACE_MAX: usize = 15;

/// An address as written; a name is not resolved yet.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Address {
    /// A literal IP address and port.
    Inet(SocketAddr),
    /// `:port`, every interface.
    Any(u16),
    /// A name for the resolver, and a port: a host name, or a link-local address with its interface (`fe80::1%eth0`).
    /// The kernel renumbers an interface that comes back, so its name is resolved each time.
    Name(String, u16),
    /// An IP address. The port is the one that the client connected to, plus this.
    Mapped(IpAddr, u16),
    /// A unix stream socket.
    Unix(PathBuf),
}

/// An [`Address`] that may be listened on.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Listen(pub Address);

/// A resolved address, to connect to or to bind. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Endpoint {
    /// An IP address and port.
    Inet(SocketAddr),
    /// A unix stream socket.
    Unix(Arc<Path>),
}

impl Listen {
    /// Whether it is port 0: any port that is free.
    pub fn asks_for_any_port(&self) -> bool {
        match &self.0 {
            Address::Inet(at) => at.port() == 0,
            Address::Any(port) | Address::Name(_, port) => *port == 0,
            Address::Mapped(..) | Address::Unix(_) => false,
        }
    }

    /// Its port; `None` for a unix socket.
    pub fn port(&self) -> Option<u16> {
        match &self.0 {
            Address::Inet(at) => Some(at.port()),
            Address::Any(port) | Address::Name(_, port) => Some(*port),
            Address::Mapped(..) | Address::Unix(_) => None,
        }
    }

    /// The same with another port.
    fn with_port(&self, port: u16) -> Listen {
        Listen(match &self.0 {
            Address::Inet(at) => {
                let mut at = *at;
                at.set_port(port);
                Address::Inet(at)
            }
            Address::Any(_) => Address::Any(port),
            Address::Name(host, _) => Address::Name(host.clone(), port),
            Address::Mapped(..) | Address::Unix(_) => self.0.clone(),
        })
    }

    /// Parses an address to listen on, or a range of ports (`:5000-5150`), which is an address for each port.
    pub fn parse_all(text: &str) -> Result<Vec<Listen>, String> {
        let ports = text.rsplit_once(':').filter(|_| !text.starts_with("unix:"));
        let range = ports.and_then(|(host, ports)| Some((host, ports.split_once('-')?)));
        let Some((host, (first, last))) = range else { return Listen::parse(text).map(|listen| vec![listen]) };
        let wrong = |why: &str| format!("expected a range of ports like :5000-5150, got `{}`: {why}", Escaped(text));
        let ends = parse_port(first).zip(parse_port(last));
        let (first, last) = ends.ok_or_else(|| wrong("a port is not a number from 1 to 65535"))?;
        if first == 0 || last < first {
            return Err(wrong(if first == 0 {
                "a range can't begin with port 0"
            } else {
                "the first port is the higher one"
            }));
        }
        if usize::from(last - first) >= RANGE_MAX {
            return Err(wrong("it has more than 4096 ports"));
        }
        let listen = Listen::parse(&format!("{host}:{first}"))?;
        Ok((first..=last).map(|port| listen.with_port(port)).collect())
    }

    /// Addresses that follow each other, each with the next port.
    pub fn rows(listens: &[Listen]) -> impl Iterator<Item = &[Listen]> {
        listens.chunk_by(|one, next| {
            let (before, port) = (one.port().unwrap_or(0), next.port().unwrap_or(0));
            before > 0 && before.checked_add(1) == Some(port) && one.with_port(port) == *next
        })
    }

    /// The addresses as they are written: three or more ports in a row as a range.
    pub fn shown(listens: &[Listen]) -> Vec<String> {
        let mut shown = Vec::new();
        for row in Listen::rows(listens) {
            match row {
                [first, .., last] if row.len() > 2 => shown.push(format!("{first}-{}", last.port().unwrap_or(0))),
                row => shown.extend(row.iter().map(Listen::to_string)),
            }
        }
        shown
    }

    /// Parses an address to listen on. The error says what is expected.
    pub fn parse(text: &str) -> Result<Listen, String> {
        let wanted = format!("{EXPECTED}, or :80 for every interface");
        if let Some(port) = text.strip_prefix(':').filter(|port| !port.contains(':')) {
            return match parse_port(port) {
                Some(port) => Ok(Listen(Address::Any(port))),
                None => Err(format!("expected {wanted}, got `{text}`: the port is not a number from 0 to 65535")),
            };
        }
        parse(text, &wanted).map(Listen)
    }
}

impl Address {
    /// Parses the address of a backend: with a host, and a port other than 0. The error says what is expected.
    pub fn parse_backend(text: &str) -> Result<Address, String> {
        if text.starts_with(':') && text.matches(':').count() == 1 {
            return Err(format!("expected {EXPECTED}, got `{text}`: a backend needs a host"));
        }
        if let Some(mapped) = parse_mapped(text) {
            return mapped;
        }
        let address = parse(text, EXPECTED)?;
        match address {
            Address::Inet(at) if at.port() == 0 => Err(bad(text, EXPECTED, "a backend's port can't be 0")),
            Address::Name(_, 0) => Err(bad(text, EXPECTED, "a backend's port can't be 0")),
            _ => Ok(address),
        }
    }
}

impl Address {
    /// Whether it is an abstract unix socket.
    pub fn is_abstract(&self) -> bool {
        matches!(self, Address::Unix(path) if abstract_name(path).is_some())
    }

    /// Where it is; `None` for a name.
    pub fn endpoint(&self) -> Option<Endpoint> {
        match self {
            Address::Inet(at) => Some(Endpoint::Inet(*at)),
            Address::Unix(path) => Some(Endpoint::Unix(path.as_path().into())),
            Address::Any(port) => Some(Endpoint::Inet((Ipv6Addr::LOCALHOST, *port).into())),
            // Its port is known once there is a client.
            Address::Mapped(ip, _) => Some(Endpoint::Inet((*ip, 0).into())),
            Address::Name(..) => None,
        }
    }

    /// How far its port is above the one that the client connected to, if that decides.
    pub fn port_offset(&self) -> Option<u16> {
        if let Address::Mapped(_, offset) = self { Some(*offset) } else { None }
    }
}

/// Parses `10.0.0.1:same` and `10.0.0.1:+1000`; `None`: it is neither.
fn parse_mapped(text: &str) -> Option<Result<Address, String>> {
    let (host, port) = text.rsplit_once(':').filter(|_| !text.starts_with("unix:"))?;
    let is_same = port.eq_ignore_ascii_case("same");
    let offset = port.strip_prefix('+').filter(|_| !is_same);
    if !is_same && offset.is_none() {
        return None;
    }
    let bracketed = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let ip = match bracketed {
        Some(host) => host.parse().map(IpAddr::V6).ok(),
        None => host.parse().map(IpAddr::V4).ok(),
    };
    let wrong = |why: &str| Some(Err(bad(text, "10.0.0.1:same or 10.0.0.1:+1000", why)));
    match (ip, offset) {
        // A name has the messages of other names.
        (None, Some(_)) => None,
        (None, None) => wrong("`same` needs an IP address in front of it"),
        (Some(IpAddr::V6(ip)), _) if ip.is_unicast_link_local() => wrong("a link-local address needs its interface"),
        (Some(ip), None) => Some(Ok(Address::Mapped(ip.to_canonical(), 0))),
        (Some(ip), Some(offset)) => match parse_port(offset) {
            Some(offset) if offset > 0 => Some(Ok(Address::Mapped(ip.to_canonical(), offset))),
            _ => wrong("after `+` comes a number from 1 to 65535"),
        },
    }
}

/// The name of an abstract socket, from a path of the form `@name`.
pub fn abstract_name(path: &Path) -> Option<&[u8]> {
    path.as_os_str().as_encoded_bytes().strip_prefix(b"@")
}

fn parse(text: &str, wanted: &str) -> Result<Address, String> {
    if let Some(path) = text.strip_prefix("unix:") {
        return match path.len() {
            0 => Err(bad(text, wanted, "the path is empty")),
            1 if path == "@" => Err(bad(text, wanted, "the name of the abstract socket is empty")),
            1..=UNIX_PATH_MAX => match text::hidden_in(path) {
                Some(letter) => Err(bad(text, wanted, &format!("the path contains the hidden character `{letter}`"))),
                None => Ok(Address::Unix(PathBuf::from(path))),
            },
            _ => Err(bad(text, wanted, "the path of a unix socket has at most 107 bytes")),
        };
    }
    if let Some((scheme, rest)) = text.split_once("://") {
        return Err(bad(
            text,
            wanted,
            &format!("an address has no `{scheme}://`: write `{}`", without_scheme(scheme, rest)),
        ));
    }
    if let Ok(at) = text.parse::<SocketAddr>() {
        return match at {
            SocketAddr::V6(v6) if v6.ip().is_unicast_link_local() && v6.scope_id() == 0 => {
                let why = format!("a link-local address needs its interface, like [{}%eth0]:{}", v6.ip(), v6.port());
                Err(bad(text, wanted, &why))
            }
            _ => Ok(Address::Inet(at)),
        };
    }
    if let Some((ip, rest)) = text.strip_prefix('[').and_then(|rest| rest.split_once('%')) {
        return scoped(ip, rest).map_err(|why| bad(text, wanted, why));
    }
    let Some((host, port)) = text.rsplit_once(':') else {
        return Err(bad(text, wanted, "the port is missing"));
    };
    let Some(port) = parse_port(port) else {
        return Err(bad(text, wanted, "the port is not a number from 0 to 65535"));
    };
    if host.contains(':') || host.starts_with('[') {
        return Err(bad(text, wanted, "an IPv6 address stands in brackets, like [::1]:80"));
    }
    if !is_host_name(host) {
        return Err(bad(text, wanted, "the host is neither an IP address nor a name"));
    }
    Ok(Address::Name(host.to_owned(), port))
}

/// Parses the parts of a link-local address: `fe80::1` and `eth0]:80`.
fn scoped(ip: &str, rest: &str) -> Result<Address, &'static str> {
    let Some((interface, port)) = rest.rsplit_once("]:") else {
        return Err("an IPv6 address stands in brackets, like [fe80::1%eth0]:80");
    };
    let ip: Ipv6Addr = ip.parse().map_err(|_| "there is no IPv6 address before the %")?;
    let port = parse_port(port).ok_or("the port is not a number from 0 to 65535")?;
    if !ip.is_unicast_link_local() {
        return Err("only a link-local address (fe80::…) has an interface");
    }
    let is_name = |letter: char| letter.is_ascii_graphic() && !"/[]%:".contains(letter);
    if !(1..=INTERFACE_MAX).contains(&interface.len()) || !interface.chars().all(is_name) {
        return Err("the interface after the % has a name of 1 to 15 characters");
    }
    Ok(Address::Name(format!("{ip}%{interface}"), port))
}

/// The address to write instead of a URL.
fn without_scheme(scheme: &str, rest: &str) -> String {
    let host = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let has_port = host.rsplit_once(':').is_some_and(|(before, port)| !before.is_empty() && parse_port(port).is_some());
    match scheme.to_ascii_lowercase().as_str() {
        _ if has_port => Escaped(host).to_string(),
        "http" | "ws" => format!("{}:80", Escaped(host)),
        "https" | "wss" => format!("{}:443", Escaped(host)),
        _ => format!("{}:PORT", Escaped(host)),
    }
}

fn bad(text: &str, wanted: &str, why: &str) -> String {
    format!("expected {wanted}, got `{}`: {why}", Escaped(text))
}

/// Accepts digits only: `u16::from_str` would also accept a leading `+`.
fn parse_port(text: &str) -> Option<u16> {
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    text.parse().ok()
}

/// RFC 1123 labels, plus the underscore of service names. A name of digits and dots only is a mistyped address.
fn is_host_name(host: &str) -> bool {
    let label_ok = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    let name = host.strip_suffix('.').unwrap_or(host);
    name.len() <= 253
        && name.split('.').all(label_ok)
        && !name.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.')
}

impl Endpoint {
    /// The IP address, if there is one; an IPv4-mapped IPv6 address as IPv4.
    pub fn ip(&self) -> Option<IpAddr> {
        self.inet().map(|at| at.ip())
    }

    /// The port; `None` for a unix socket.
    pub fn port(&self) -> Option<u16> {
        self.inet().map(|at| at.port())
    }

    /// Both; `None` for a unix socket.
    pub fn inet(&self) -> Option<SocketAddr> {
        match self {
            Endpoint::Inet(at) => Some(SocketAddr::new(at.ip().to_canonical(), at.port())),
            Endpoint::Unix(_) => None,
        }
    }

    /// The endpoint of an accepted peer, with an IPv4-mapped IPv6 address (`::ffff:10.0.0.1`) as IPv4.
    pub fn canonical(at: SocketAddr) -> Endpoint {
        Endpoint::Inet(SocketAddr::new(at.ip().to_canonical(), at.port()))
    }
}

impl fmt::Display for Address {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Inet(at) => at.fmt(out),
            Address::Any(port) => SocketAddr::from((Ipv6Addr::UNSPECIFIED, *port)).fmt(out),
            Address::Mapped(ip, offset) => {
                if ip.is_ipv6() {
                    write!(out, "[{ip}]")?
                } else {
                    write!(out, "{ip}")?
                }
                if *offset == 0 { out.write_str(":same") } else { write!(out, ":+{offset}") }
            }
            Address::Name(host, port) if host.contains('%') => write!(out, "[{host}]:{port}"),
            Address::Name(host, port) => write!(out, "{host}:{port}"),
            Address::Unix(path) => write!(out, "unix:{}", path.display()),
        }
    }
}

impl fmt::Display for Listen {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Address::Any(port) => write!(out, ":{port}"),
            address => address.fmt(out),
        }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Endpoint::Inet(at) => at.fmt(out),
            Endpoint::Unix(path) => write!(out, "unix:{}", path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn every_written_form_is_parsed() {
        for (text, want) in [
            ("127.0.0.1:80", Address::Inet("127.0.0.1:80".parse().unwrap())),
            ("[::1]:80", Address::Inet("[::1]:80".parse().unwrap())),
            ("web.internal:8081", Address::Name("web.internal".into(), 8081)),
            ("localhost:1", Address::Name("localhost".into(), 1)),
            ("[fe80::1%eth0]:80", Address::Name("fe80::1%eth0".into(), 80)),
            ("[fe80::1%3]:80", Address::Inet("[fe80::1%3]:80".parse().unwrap())),
            ("unix:/run/app.sock", Address::Unix("/run/app.sock".into())),
        ] {
            assert_eq!(Address::parse_backend(text), Ok(want.clone()), "{text}");
            assert_eq!(Listen::parse(text), Ok(Listen(want.clone())), "{text}");
            assert_eq!(want.to_string(), text);
        }
        assert_eq!(Listen::parse(":8080"), Ok(Listen(Address::Any(8080))));
        assert_eq!(Listen::parse("127.0.0.1:0").unwrap().to_string(), "127.0.0.1:0");
        assert_eq!(Listen::parse(":0").unwrap().to_string(), ":0");
    }

    #[test]
    fn a_bad_address_is_an_error_with_its_reason() {
        for (text, why) in [
            ("", "the port is missing"),
            ("10.0.0.1", "the port is missing"),
            ("host:", "the port is not a number"),
            ("host:+80", "the port is not a number"),
            ("host:70000", "the port is not a number"),
            ("::1:80", "brackets"),
            ("[::1:80", "brackets"),
            ("300.0.0.1:80", "neither an IP address nor a name"),
            ("ho st:80", "neither an IP address nor a name"),
            ("unix:", "the path is empty"),
            ("tcp://127.0.0.1:80", "an address has no `tcp://`: write `127.0.0.1:80`"),
            ("tcp://[::1]:80/", "an address has no `tcp://`: write `[::1]:80`"),
            ("http://web.internal/up", "an address has no `http://`: write `web.internal:80`"),
            ("https://web.internal", "an address has no `https://`: write `web.internal:443`"),
            ("tcp://web", "an address has no `tcp://`: write `web:PORT`"),
            ("[fe80::1]:80", "a link-local address needs its interface, like [fe80::1%eth0]:80"),
            ("[2001:db8::1%eth0]:80", "only a link-local address"),
            ("[fe80::1%]:80", "the interface after the %"),
            ("[fe80::1%sixteen-letters-]:80", "the interface after the %"),
            ("[fe80::1%eth0]", "stands in brackets, like [fe80::1%eth0]:80"),
            ("[fe80::1%eth0]:x", "the port is not a number"),
            ("[web%eth0]:80", "no IPv6 address before the %"),
            ("unix:@", "the name of the abstract socket is empty"),
            (":80", "needs a host"),
            ("10.0.0.1:0", "can't be 0"),
            ("name:0", "can't be 0"),
        ] {
            let message = Address::parse_backend(text).unwrap_err();
            assert!(message.contains(why) && message.contains(&format!("`{text}`")), "{text}: {message}");
        }
        assert!(Listen::parse(":x").unwrap_err().contains("`:x`"));
        assert!(Address::parse_backend(&format!("unix:/{}", "x".repeat(107))).is_err());
    }

    #[test]
    fn a_range_of_ports_is_an_address_for_each() {
        let all = |text: &str| Listen::parse_all(text).map(|all| all.iter().map(Listen::to_string).collect::<Vec<_>>());
        for (text, want) in [
            (":80", vec![":80"]),
            (":5000-5002", vec![":5000", ":5001", ":5002"]),
            ("127.0.0.1:7-8", vec!["127.0.0.1:7", "127.0.0.1:8"]),
            ("[::1]:7-7", vec!["[::1]:7"]),
            ("a-name:65534-65535", vec!["a-name:65534", "a-name:65535"]),
            ("unix:/a:1-2", vec!["unix:/a:1-2"]),
        ] {
            assert_eq!(all(text), Ok(want.into_iter().map(str::to_owned).collect()), "{text}");
        }
        assert_eq!(all(":1-4096").unwrap().len(), RANGE_MAX);
        for (text, why) in [
            (":0-5", "a range can't begin with port 0"),
            (":6-5", "the first port is the higher one"),
            (":1-4097", "more than 4096 ports"),
            (":1-", "a port is not a number"),
            (":-5", "a port is not a number"),
            (":5-70000", "a port is not a number"),
            (":5-6-7", "a port is not a number"),
            ("ho st:1-2", "neither an IP address nor a name"),
        ] {
            let message = all(text).unwrap_err();
            assert!(message.contains(why), "{text}: {message}");
        }
    }

    #[test]
    fn three_ports_in_a_row_are_shown_as_a_range() {
        let shown = |texts: &[&str]| {
            let all: Vec<Listen> = texts.iter().flat_map(|text| Listen::parse_all(text).unwrap()).collect();
            Listen::shown(&all)
        };
        assert_eq!(shown(&[":5000-5002", ":80", ":81"]), [":5000-5002", ":80", ":81"]);
        assert_eq!(shown(&[":1", ":2", ":3", "127.0.0.1:4", "a:5-9"]), [":1-3", "127.0.0.1:4", "a:5-9"]);
        assert_eq!(
            shown(&[":0", ":0", ":1", "unix:/a", "[::1]:65533-65535"]),
            [":0", ":0", ":1", "unix:/a", "[::1]:65533-65535"]
        );
    }

    #[test]
    fn a_backend_s_port_may_be_the_client_s_or_above_it() {
        for (text, ip, offset) in
            [("10.0.0.1:same", "10.0.0.1", 0), ("[::1]:+1000", "::1", 1_000), ("10.0.0.1:+65535", "10.0.0.1", 65_535)]
        {
            let address = Address::Mapped(ip.parse().unwrap(), offset);
            assert_eq!(Address::parse_backend(text), Ok(address.clone()));
            assert_eq!(address.to_string(), text);
        }
        for (text, why) in [
            ("web:same", "`same` needs an IP address"),
            (":same", "needs a host"),
            ("10.0.0.1:+0", "after `+` comes a number from 1 to 65535"),
            ("10.0.0.1:+65536", "after `+` comes a number from 1 to 65535"),
            ("10.0.0.1:+", "after `+` comes a number"),
            ("[fe80::1]:same", "a link-local address needs its interface"),
        ] {
            let message = Address::parse_backend(text).unwrap_err();
            assert!(message.contains(why) && message.contains(&format!("`{text}`")), "{text}: {message}");
        }
        assert!(Listen::parse("10.0.0.1:same").is_err() && Listen::parse_all("10.0.0.1:+5").is_err());
    }

    #[test]
    fn a_path_with_a_hidden_character_is_an_error() {
        for (text, letter) in [
            ("unix:/a\n2026-01-01T00:00:00.000Z ERROR forged", "\\n"),
            ("unix:/a\0", "\\u{0}"),
            ("unix:/a\u{1b}[2K", "\\u{1b}"),
            ("unix:/a\u{202e}gpj", "\\u{202e}"),
            ("unix:/a\u{200b}", "\\u{200b}"),
        ] {
            for message in [Address::parse_backend(text).unwrap_err(), Listen::parse(text).unwrap_err()] {
                assert!(message.ends_with(&format!("hidden character `{letter}`")), "{message}");
                assert!(!message.chars().any(text::is_hidden), "{message:?}");
            }
        }
        assert!(Address::parse_backend("unix:/run/größe 1.sock").is_ok());
    }

    #[test]
    fn a_mapped_client_is_shown_as_ipv4() {
        let at: SocketAddr = "[::ffff:192.0.2.7]:4000".parse().unwrap();
        assert_eq!(Endpoint::canonical(at).to_string(), "192.0.2.7:4000");
    }

    proptest! {
        #[test]
        fn parsing_never_panics_and_what_it_accepts_prints_back(text in "\\PC{0,40}") {
            if let Ok(address) = Address::parse_backend(&text) {
                prop_assert_eq!(Address::parse_backend(&address.to_string()), Ok(address));
            }
        }
    }
}
