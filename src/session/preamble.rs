//! A session's preambles: the PROXY header that its listener expects, and the one that its backend expects.
//!
//! The announced client is the client from then on, for choosing, limits and log. After a header that announces no address
//! (`UNKNOWN`, `LOCAL`), the socket's peer is the client, as the specification requires. The backend's header holds the
//! announced addresses with their TLVs, or else the two ends of the client's own socket.

use super::{CloseReason, Ending, Next, Session, State};
use crate::base::{Endpoint, Tick};
use crate::config::model::{Listener, ProxyVersion};
use crate::proto::proxy::{Announced, Header};
use std::time::Duration;

/// How long a client may take to send the whole of its preamble.
pub const PREAMBLE_TIMEOUT: Duration = Duration::from_secs(5);

/// What a unix client is announced as: `UNKNOWN`, or `LOCAL`. Version 2 could say UNSPEC, but receivers may refuse that
/// (HAProxy does). They must accept LOCAL, which means the same to them: only the socket's peer is known.
const NO_CLIENT: Announced = Announced::Local;

/// What a listener expects of a client before its own bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Preamble {
    /// Nothing.
    None,
    /// A PROXY header.
    ProxyHeader,
    /// A PROXY header, which this peer is not trusted to send.
    NotTrusted,
}

/// Why a client's preamble is not a header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoHeader {
    /// The bytes are not a header.
    Bad,
    /// The client's FIN came before its end.
    CutShort,
    /// The client's FIN came before anything else.
    Silence,
}

/// What a backend expects before the client's bytes.
#[derive(Clone, Copy, Debug)]
pub struct BackendPreamble<'a> {
    /// In which version of the PROXY protocol.
    pub version: ProxyVersion,
    announced: Option<&'a Header>,
    client: Option<&'a Endpoint>,
}

impl Preamble {
    /// What a listener expects of a peer, by the address of its socket. A unix peer has no address, so it is not among
    /// `trusted_proxies`.
    pub fn of(listener: &Listener, peer: Option<&Endpoint>) -> Preamble {
        if !listener.accept_proxy {
            return Preamble::None;
        }
        let trusted = &listener.trusted_proxies;
        let ip = peer.and_then(Endpoint::ip);
        if trusted.is_empty() || ip.is_some_and(|ip| trusted.iter().any(|net| net.contains(&ip))) {
            Preamble::ProxyHeader
        } else {
            Preamble::NotTrusted
        }
    }
}

impl BackendPreamble<'_> {
    /// The bytes for the backend. `local` is asked for the address that the client connected to only if the client has not
    /// announced one.
    pub fn bytes(&self, local: impl FnOnce() -> Option<Endpoint>) -> Vec<u8> {
        let own;
        let header = match (self.announced, self.client) {
            (Some(header), _) => header,
            (None, client) => {
                let announced = match (client, client.and_then(|_| local())) {
                    (Some(Endpoint::Inet(source)), Some(Endpoint::Inet(destination))) => {
                        Announced::inet(*source, destination)
                    }
                    _ => NO_CLIENT,
                };
                own = Header::new(announced);
                &own
            }
        };
        match self.version {
            ProxyVersion::V1 => header.v1(),
            ProxyVersion::V2 => header.v2(),
        }
    }
}

impl Session {
    pub(super) fn backend_preamble(&self, version: ProxyVersion) -> BackendPreamble<'_> {
        BackendPreamble { version, announced: self.announced.as_deref(), client: self.client.as_ref() }
    }

    pub(super) fn header_read(&mut self, header: Result<Box<Header>, NoHeader>, now: Tick) -> Next {
        let State::ReadingPreamble { .. } = self.state else { return Next::Wait };
        let header = match header {
            Ok(header) => header,
            Err(NoHeader::Silence) => return self.end(Ending::Fin, CloseReason::ClientFin, now),
            Err(NoHeader::Bad | NoHeader::CutShort) => {
                return self.end(Ending::Reset, CloseReason::BadProxyHeader, now);
            }
        };
        match header.announced {
            Announced::Local | Announced::Unknown => {}
            Announced::Inet { source, .. } => {
                self.client = Some(Endpoint::Inet(source));
                self.announced = Some(header);
            }
            Announced::Unix(_) => {
                self.client = None;
                self.announced = Some(header);
            }
        }
        self.state = State::Admitting;
        Next::Enter
    }

    pub(super) fn preamble_held(&mut self, length: u64) -> Next {
        let State::Relaying(relay) = &mut self.state else { return Next::Wait };
        relay.preamble = length;
        relay.up.held = length > 0;
        self.announced = None;
        Next::Enter
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trust_is_a_matter_of_the_socket_s_address() {
        let at = |text: &str| Some(Endpoint::Inet(text.parse().unwrap()));
        let mut listener = Listener::default();
        assert_eq!(Preamble::of(&listener, None), Preamble::None);
        listener.trusted_proxies = vec!["10.0.0.0/8".parse().unwrap(), "2001:db8::/32".parse().unwrap()];
        assert_eq!(Preamble::of(&listener, at("192.0.2.1:1").as_ref()), Preamble::None, "no header is wanted");
        listener.accept_proxy = true;
        for (peer, expected) in [
            (at("10.1.2.3:4"), Preamble::ProxyHeader),
            (at("[::ffff:10.1.2.3]:4"), Preamble::ProxyHeader),
            (at("[2001:db8::1]:4"), Preamble::ProxyHeader),
            (at("11.0.0.1:4"), Preamble::NotTrusted),
            (at("[::1]:4"), Preamble::NotTrusted),
            (None, Preamble::NotTrusted),
        ] {
            assert_eq!(Preamble::of(&listener, peer.as_ref()), expected, "{peer:?}");
        }
        listener.trusted_proxies.clear();
        assert_eq!(Preamble::of(&listener, None), Preamble::ProxyHeader);
        assert_eq!(Preamble::of(&listener, at("11.0.0.1:4").as_ref()), Preamble::ProxyHeader);
    }
}
