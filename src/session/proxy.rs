//! A session's PROXY headers: the one that its client owes, and the one that its backend expects.
//!
//! What is announced is the client from then on, for choosing, limits and log. A header that announces nobody (`UNKNOWN`,
//! `LOCAL`) leaves the socket's peer in that place, as the specification wants. Down the chain goes what came up it: the
//! announced addresses with their TLVs, or else the two ends of the client's own socket.

use super::{CloseReason, Effect, Ending, Session, State};
use crate::base::{Endpoint, Tick};
use crate::config::model::Listener;
use crate::proto::proxy::{Announced, Header};
use std::time::Duration;

/// How long a client may take to send the whole of its header.
pub const HEADER_TIMEOUT: Duration = Duration::from_secs(5);

/// What a unix client is announced as: `UNKNOWN`, or `LOCAL`. Version 2 could say UNSPEC, but receivers may refuse that
/// (HAProxy does), and must take LOCAL, which means the same to them: the socket's peer is all that is known.
const NOBODY: Announced = Announced::Local;

/// What a connection begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Greeting {
    /// The client's bytes.
    None,
    /// A PROXY header.
    ProxyHeader,
    /// A PROXY header, which this peer is not trusted to send.
    NotTrusted,
}

/// Why there is no header and never will be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoHeader {
    /// The bytes are none.
    Bad,
    /// The client's FIN came before its end.
    CutShort,
    /// The client's FIN came before anything else.
    Silence,
}

impl Greeting {
    /// What a listener expects of a peer, by the address of its socket. A unix peer has none, so where it matters who may
    /// send a header, it may not.
    pub fn of(listener: &Listener, peer: Option<&Endpoint>) -> Greeting {
        if !listener.accept_proxy {
            return Greeting::None;
        }
        let trusted = &listener.trusted_proxies;
        let ip = peer.and_then(Endpoint::ip);
        if trusted.is_empty() || ip.is_some_and(|ip| trusted.iter().any(|net| net.contains(&ip))) {
            Greeting::ProxyHeader
        } else {
            Greeting::NotTrusted
        }
    }
}

impl Session {
    /// Is the client's header being waited for?
    pub fn reads_header(&self) -> bool {
        matches!(self.state, State::ReadingHeader { .. })
    }

    /// What [`Effect::Announce`] means. `local` is asked for the address that the client connected to only if nobody has
    /// announced one.
    pub fn introduction(&self, local: impl FnOnce() -> Option<Endpoint>) -> Header {
        if let Some(header) = &self.announced {
            return (**header).clone();
        }
        let Some(Endpoint::Inet(source)) = self.client else { return Header::new(NOBODY) };
        let Some(Endpoint::Inet(destination)) = local() else { return Header::new(NOBODY) };
        Header::new(Announced::inet(source, destination))
    }

    pub(super) fn greeted(&mut self, header: Result<Header, NoHeader>, now: Tick) -> Effect {
        if !self.reads_header() {
            return Effect::Wait;
        }
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
                self.announced = Some(Box::new(header));
            }
            Announced::Unix(_) => {
                self.client = None;
                self.announced = Some(Box::new(header));
            }
        }
        self.state = State::Admitting;
        Effect::Admit
    }

    pub(super) fn announced(&mut self, length: u64) -> Effect {
        let State::Relaying(relay) = &mut self.state else { return Effect::Wait };
        relay.introduction = length;
        relay.up.held = length > 0;
        self.announced = None;
        Effect::Relay
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trust_is_a_matter_of_the_socket_s_address() {
        let at = |text: &str| Some(Endpoint::Inet(text.parse().unwrap()));
        let mut listener = Listener::default();
        assert_eq!(Greeting::of(&listener, None), Greeting::None);
        listener.trusted_proxies = vec!["10.0.0.0/8".parse().unwrap(), "2001:db8::/32".parse().unwrap()];
        assert_eq!(Greeting::of(&listener, at("192.0.2.1:1").as_ref()), Greeting::None, "no header is wanted");
        listener.accept_proxy = true;
        for (peer, expected) in [
            (at("10.1.2.3:4"), Greeting::ProxyHeader),
            (at("[::ffff:10.1.2.3]:4"), Greeting::ProxyHeader),
            (at("[2001:db8::1]:4"), Greeting::ProxyHeader),
            (at("11.0.0.1:4"), Greeting::NotTrusted),
            (at("[::1]:4"), Greeting::NotTrusted),
            (None, Greeting::NotTrusted),
        ] {
            assert_eq!(Greeting::of(&listener, peer.as_ref()), expected, "{peer:?}");
        }
        listener.trusted_proxies.clear();
        assert_eq!(Greeting::of(&listener, None), Greeting::ProxyHeader);
        assert_eq!(Greeting::of(&listener, at("11.0.0.1:4").as_ref()), Greeting::ProxyHeader);
    }
}
