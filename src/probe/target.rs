//! The probe of one address of a backend, from the settings of its pool.

use super::Probe;
use super::agent::AgentLine;
use super::exchange::{Exchange, State};
use super::script::Script;
use crate::base::{Address, Endpoint};
use crate::config::model::{Health, HealthKind, ProxyVersion};
use crate::proto::proxy::{Announced, Header};
use std::net::{IpAddr, SocketAddr};

/// How one address is probed. [`ProbeTarget::probe`] creates each probe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProbeTarget {
    endpoint: Endpoint,
    /// The bytes to send: a PROXY header where one is expected, then the request, if its kind has one.
    words: Vec<u8>,
    kind: HealthKind,
    /// The local address; `None`: the kernel chooses it.
    source: Option<IpAddr>,
}

impl ProbeTarget {
    /// A probe of the pool's kind; `None` if the pool sends no probes. `header` is the one that the backend expects of probes.
    /// `address` is the backend's as configured, which the Host header names unless the pool says otherwise; `endpoint` is where
    /// that is.
    pub fn new(
        health: &Health,
        header: Option<ProxyVersion>,
        address: Option<&Address>,
        endpoint: &Endpoint,
    ) -> Option<ProbeTarget> {
        let endpoint = at_port(endpoint, health.port);
        let mut words = match header {
            None => Vec::new(),
            // There is no client to announce: `UNKNOWN`, or `LOCAL`.
            Some(ProxyVersion::V1) => Header::new(Announced::Local).v1(),
            Some(ProxyVersion::V2) => Header::new(Announced::Local).v2(),
        };
        match &health.kind {
            HealthKind::Off => return None,
            HealthKind::Tcp | HealthKind::Agent | HealthKind::Script { .. } => {}
            HealthKind::Http { path, host, .. } => {
                let host = host.clone().unwrap_or_else(|| host_of(address, &endpoint));
                let version = env!("CARGO_PKG_VERSION");
                let request = format!(
                    "GET {path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: tcplb/{version}\r\nConnection: close\r\n\r\n"
                );
                words.extend_from_slice(request.as_bytes());
            }
        }
        Some(ProbeTarget { endpoint, words, kind: health.kind.clone(), source: None })
    }

    /// As [`ProbeTarget::new`] for a backend that is being added: with health `off` it must at least accept a
    /// connection. `None`: it has no port without a client, and the pool names none.
    pub fn of_newcomer(
        health: &Health,
        header: Option<ProxyVersion>,
        address: &Address,
        endpoint: &Endpoint,
    ) -> Option<ProbeTarget> {
        if address.port_offset().is_some() && health.port.is_none() {
            return None;
        }
        let accepts =
            || ProbeTarget { endpoint: endpoint.clone(), words: Vec::new(), kind: HealthKind::Tcp, source: None };
        Some(ProbeTarget::new(health, header, Some(address), endpoint).unwrap_or_else(accepts))
    }

    /// The same from this local address.
    #[must_use]
    pub fn from(self, source: Option<IpAddr>) -> ProbeTarget {
        ProbeTarget { source, ..self }
    }

    /// The local address, unless the kernel chooses it.
    pub fn source(&self) -> Option<IpAddr> {
        self.source
    }

    /// The endpoint to connect to.
    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// One probe of this target.
    pub fn probe(self) -> Probe {
        let state = match self.kind {
            HealthKind::Off | HealthKind::Tcp => State::Tcp,
            HealthKind::Http { expect, .. } => State::Http(Exchange::new(expect)),
            HealthKind::Agent => State::Agent(AgentLine::default()),
            HealthKind::Script { steps } => State::Script(Script::new(steps)),
        };
        Probe::new(self.words, state)
    }
}

fn at_port(endpoint: &Endpoint, port: Option<u16>) -> Endpoint {
    match (endpoint, port) {
        (Endpoint::Inet(at), Some(port)) => {
            let mut at: SocketAddr = *at;
            at.set_port(port);
            Endpoint::Inet(at)
        }
        (endpoint, _) => endpoint.clone(),
    }
}

/// The virtual host of a backend that was configured by a name goes by that name, with the port that is probed. A socket
/// file has no name that HTTP could express.
fn host_of(address: Option<&Address>, endpoint: &Endpoint) -> String {
    match (address, endpoint) {
        (_, Endpoint::Unix(_)) => "localhost".to_owned(),
        (Some(Address::Name(host, _)), Endpoint::Inet(at)) if !host.contains('%') => {
            Address::Name(host.clone(), at.port()).to_string()
        }
        // Without the interface, which means nothing to the backend (RFC 6874).
        (_, Endpoint::Inet(at)) => SocketAddr::new(at.ip(), at.port()).to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::health::Outcome;

    fn http(host: Option<&str>) -> Health {
        let kind =
            HealthKind::Http { path: "/healthz".into(), host: host.map(str::to_owned), expect: vec![(200, 200)] };
        Health { kind, ..Health::default() }
    }

    fn inet(text: &str) -> Endpoint {
        Endpoint::Inet(text.parse().unwrap())
    }

    #[test]
    fn a_tcp_probe_ends_with_the_connect_and_off_has_no_probe() {
        let at = inet("127.0.0.1:80");
        let mut probe = ProbeTarget::new(&Health::default(), None, None, &at).unwrap().probe();
        assert!(probe.is_bare() && probe.unsent().is_empty());
        assert_eq!(probe.connected(), Some(Outcome::Connected));
        let off = Health { kind: HealthKind::Off, ..Health::default() };
        assert_eq!(ProbeTarget::new(&off, Some(ProxyVersion::V1), None, &at), None);
        let newcomer = |address: &str| {
            ProbeTarget::of_newcomer(&off, Some(ProxyVersion::V1), &Address::parse_backend(address).unwrap(), &at)
        };
        let fixed = newcomer("127.0.0.1:80").unwrap();
        assert_eq!(fixed.endpoint(), &at);
        assert!(fixed.probe().is_bare());
        assert_eq!(newcomer("127.0.0.1:same"), None);
    }

    #[test]
    fn a_probe_starts_with_a_proxy_header_without_addresses_where_expected() {
        let at = inet("127.0.0.1:80");
        let (v1, v2) = (b"PROXY UNKNOWN\r\n".to_vec(), b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0".to_vec());
        for (version, header) in [(ProxyVersion::V1, v1), (ProxyVersion::V2, v2)] {
            let mut probe = ProbeTarget::new(&Health::default(), Some(version), None, &at).unwrap().probe();
            assert!(!probe.is_bare());
            assert_eq!(probe.connected(), None);
            assert_eq!(probe.unsent(), header);
            assert_eq!(probe.sent(5), None);
            assert_eq!(probe.sent(header.len() - 5), Some(Outcome::Connected));
            let mut probe = ProbeTarget::new(&http(None), Some(version), None, &at).unwrap().probe();
            assert!(probe.unsent().starts_with(&[&header, b"GET /healthz ".as_slice()].concat()));
            let length = probe.unsent().len();
            assert_eq!(probe.sent(length), None);
            assert_eq!(probe.received(b"HTTP/1.1 200 OK\r\n"), Some(Outcome::Status(200)));
        }
    }

    #[test]
    fn another_port_is_dialled() {
        for (endpoint, dialled) in
            [("192.0.2.1:81", "192.0.2.1:9000"), ("[2001:db8::1]:81", "[2001:db8::1]:9000"), ("[fe80::1%7]:1", "")]
        {
            let health = Health { port: Some(9000), ..http(None) };
            let target = ProbeTarget::new(&health, None, None, &inet(endpoint)).unwrap();
            match target.endpoint() {
                Endpoint::Inet(SocketAddr::V6(at)) if dialled.is_empty() => {
                    assert_eq!((at.port(), at.scope_id()), (9000, 7), "the zone stays");
                }
                other => assert_eq!(other, &inet(dialled)),
            }
            assert!(target.probe().unsent().starts_with(b"GET /healthz "));
        }
    }

    #[test]
    fn the_host_header_is_the_configured_one_or_the_address_or_localhost() {
        let at = inet("192.0.2.1:81");
        let unix = Endpoint::Unix(std::path::Path::new("/run/app.sock").into());
        let (name, zone) = (Address::Name("web.internal".into(), 81), Address::Name("fe80::1%eth0".into(), 81));
        for (host, port, address, endpoint, want) in [
            (None, None, None, &at, "192.0.2.1:81"),
            (None, None, Some(&name), &at, "web.internal:81"),
            (None, Some(9000), None, &at, "192.0.2.1:9000"),
            (None, Some(9000), Some(&name), &at, "web.internal:9000"),
            (None, None, Some(&zone), &inet("[fe80::1%7]:81"), "[fe80::1]:81"),
            (None, None, None, &unix, "localhost"),
            (Some("example.org"), Some(9000), Some(&name), &unix, "example.org"),
        ] {
            let health = Health { port, ..http(host) };
            let probe = ProbeTarget::new(&health, None, address, endpoint).unwrap().probe();
            let text = String::from_utf8(probe.unsent().to_vec()).unwrap();
            assert!(text.contains(&format!("\r\nHost: {want}\r\n")), "{text}");
        }
    }
}
