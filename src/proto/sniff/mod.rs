//! Sniffing: what a client's first bytes say of its protocol and of the name that it asks for.
//!
//! A [`Sniffer`] terminates nothing, and changes no byte. It serves routes ([`crate::policy::routes`]), and looks only for the
//! protocols that they ask for.
//!
//! # How it is fed
//!
//! [`Sniffer::sniff`] takes every byte that the client has sent and that was not consumed: the same ones again, and more each
//! time. A peek gives them in this form, and so do held bytes. The sniffer remembers how far it has looked. So a client that
//! sends one byte per segment costs as many steps as it sends bytes. Only a hello in several records is copied, once it is whole.
//!
//! # States
//!
//! *Head* stands for the eight bytes that every first message of Postgres begins with: its length and its code.
//!
//! | state | bytes so far | answer | next state |
//! |---|---|---|---|
//! | Start | none, or the beginning of what a wanted protocol begins with | `NeedMore` | Start |
//! | Start | what no wanted protocol begins with | `Unknown` | |
//! | Start | `SSH-` | `Found` ssh | |
//! | Start | an HTTP method with its space, or the preface of HTTP/2 | `Found` http | |
//! | Start | type, version and length of an SSLv2 hello | `Found` tls, without a name | |
//! | Start | type and version of a TLS handshake record | | Hello |
//! | Start, AfterNo | head of a StartupMessage 3.x or a CancelRequest | `Found` postgres, without a hello | |
//! | Start | GSSENCRequest and nothing behind it | `Answer` `N` | AfterNo |
//! | Start, AfterNo | SSLRequest and nothing behind it | `Answer` `S` | AfterYes |
//! | Start, AfterNo | one of the two requests, and bytes behind it | `Failed` | |
//! | AfterNo | a second GSSENCRequest, or no message of Postgres | `Failed` | |
//! | AfterYes | type and version of a TLS handshake record | | Hello |
//! | AfterYes | anything else | `Failed` | |
//! | Hello | the beginning of a hello | `NeedMore` | Hello |
//! | Hello | a hello that is whole | `Found` tls, or postgres behind an SSLRequest | |
//! | Hello | what is no hello, or a longer one than [`HELLO_MAX`] | `Failed` | |
//!
//! An `Answer` goes to the client, and the request that it answers is consumed. The next bytes count from there. A client may
//! send nothing behind a request before it has the answer. Otherwise an attacker on the path could put bytes before the
//! encrypted ones that the backend takes for the client's.
//!
//! # Bounds
//!
//! No answer needs more than [`HELLO_MAX`] bytes, and `NeedMore` never asks for more. Besides an assembled hello, which lives
//! for one call, a sniffer holds a few words. A [`Sniffed`] has a name of at most 253 bytes, and [`ALPN_MAX`] protocols.
//!
//! # Invariants
//!
//! * The answer depends on the bytes, not on how they are cut. The one exception is what arrives together with a request.
//! * A call with fewer bytes than `at_least` answers `NeedMore` again.
//! * After `Found`, `Unknown` or `Failed`, more bytes would not change the answer.

mod begin;
mod hello;
pub mod name;
pub mod postgres;
#[cfg(test)]
mod tests;

pub use hello::{ALPN_MAX, HELLO_MAX, Hello};

use begin::{Beginning, Match};
use hello::{Assembly, Progress};
use postgres::Request;
use serde::{Deserialize, Serialize};
use std::fmt;

/// A protocol that a route can ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// TLS from its first byte on.
    Tls,
    /// Postgres, with or without TLS; not TLS from the first byte on.
    Postgres,
    /// HTTP in clear text.
    Http,
    /// SSH.
    Ssh,
}

/// The protocols that routes ask for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Protocols(u8);

/// The result of looking at the bytes so far.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sniff {
    /// No answer yet.
    NeedMore {
        /// With fewer bytes than this there is none.
        at_least: usize,
    },
    /// The client waits for a byte. The sniffer goes on with what follows the request.
    Answer(Answer),
    /// A wanted protocol.
    Found(Sniffed),
    /// None of the wanted protocols.
    Unknown,
    /// A wanted protocol, but broken.
    Failed(Failure),
}

/// What a client of Postgres waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    /// How many bytes of the client are consumed: all that there are.
    pub consumed: usize,
    /// The byte to send.
    pub reply: u8,
}

/// What the first bytes say.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sniffed {
    /// The protocol.
    pub protocol: Protocol,
    /// What the ClientHello says, if there was one.
    pub hello: Option<Hello>,
}

/// What a client of Postgres has been answered: all that another process needs to know of a sniffer, besides the bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Negotiated {
    /// Nothing.
    #[default]
    Nothing,
    /// `N` to a GSSENCRequest.
    No,
    /// `S` to an SSLRequest.
    Yes,
}

/// Why the first bytes are refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// A record that is longer than the specification allows.
    RecordTooLong,
    /// A handshake record without content.
    RecordEmpty,
    /// Another record stands within the hello.
    RecordKind,
    /// The first handshake message is not a ClientHello.
    NoHello,
    /// The hello ends beyond [`HELLO_MAX`].
    HelloTooLong,
    /// The hello is not one by its own lengths, or names a server twice.
    HelloMalformed,
    /// Bytes stand behind a request that is not answered yet.
    BehindRequest,
    /// A message that Postgres does not have at this place.
    Postgres,
    /// No ClientHello after the answer `S`.
    NoTls,
    /// The backend has not agreed to TLS, which its client was promised.
    Backend(postgres::Reply),
}

/// Looks at the first bytes of one connection.
#[derive(Clone, Debug)]
pub struct Sniffer {
    wanted: Protocols,
    negotiated: Negotiated,
    /// The hello, once one has begun.
    hello: Option<Assembly>,
}

impl Protocol {
    /// All of them.
    pub const ALL: [Protocol; 4] = [Protocol::Tls, Protocol::Postgres, Protocol::Http, Protocol::Ssh];

    /// Its word in files and logs.
    pub const fn word(self) -> &'static str {
        match self {
            Protocol::Tls => "tls",
            Protocol::Postgres => "postgres",
            Protocol::Http => "http",
            Protocol::Ssh => "ssh",
        }
    }

    /// Whether its clients may send a ClientHello.
    pub fn has_hello(self) -> bool {
        matches!(self, Protocol::Tls | Protocol::Postgres)
    }
}

impl Protocols {
    /// Whether this one is among them.
    pub fn contains(self, protocol: Protocol) -> bool {
        self.0 & Protocols::bit(protocol) != 0
    }

    /// Whether there is none.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    fn bit(protocol: Protocol) -> u8 {
        1 << protocol as u8
    }
}

impl FromIterator<Protocol> for Protocols {
    fn from_iter<T: IntoIterator<Item = Protocol>>(protocols: T) -> Protocols {
        Protocols(protocols.into_iter().fold(0, |bits, protocol| bits | Protocols::bit(protocol)))
    }
}

impl Sniffed {
    /// Whether the backend expects an SSLRequest before the client's bytes, since the client's own was consumed.
    pub fn needs_ssl_request(&self) -> bool {
        self.protocol == Protocol::Postgres && self.hello.is_some()
    }

    /// The name that the client asks for.
    pub fn server_name(&self) -> Option<&str> {
        self.hello.as_ref()?.server_name.as_deref()
    }
}

impl Sniffer {
    /// Looks for these protocols.
    pub fn new(wanted: Protocols) -> Sniffer {
        Sniffer::resume(wanted, Negotiated::Nothing)
    }

    /// Goes on with a connection of another process, whose client has been answered this.
    pub fn resume(wanted: Protocols, negotiated: Negotiated) -> Sniffer {
        Sniffer { wanted, negotiated, hello: None }
    }

    /// The protocols that it looks for.
    pub fn wanted(&self) -> Protocols {
        self.wanted
    }

    /// What the client has been answered.
    pub fn negotiated(&self) -> Negotiated {
        self.negotiated
    }

    /// Looks at `bytes`, which are all that were not consumed so far.
    pub fn sniff(&mut self, bytes: &[u8]) -> Sniff {
        if self.hello.is_none() {
            match self.begin(bytes) {
                Match::Maybe => return Sniff::NeedMore { at_least: bytes.len() + 1 },
                Match::No => {
                    return match self.negotiated {
                        Negotiated::Nothing => Sniff::Unknown,
                        Negotiated::No => Sniff::Failed(Failure::Postgres),
                        Negotiated::Yes => Sniff::Failed(Failure::NoTls),
                    };
                }
                Match::Is(Beginning::Ssh) => return found(Protocol::Ssh, None),
                Match::Is(Beginning::Http) => return found(Protocol::Http, None),
                Match::Is(Beginning::Ssl2) => return found(Protocol::Tls, Some(Hello::default())),
                Match::Is(Beginning::Postgres(request)) => return self.request_read(request, bytes.len()),
                Match::Is(Beginning::Tls) => {}
            }
        }
        match self.hello.get_or_insert_default().read(bytes) {
            Ok(Progress::More { at_least }) => Sniff::NeedMore { at_least },
            Ok(Progress::Whole(hello)) if self.negotiated == Negotiated::Yes => found(Protocol::Postgres, Some(hello)),
            Ok(Progress::Whole(hello)) => found(Protocol::Tls, Some(hello)),
            Err(failure) => Sniff::Failed(failure),
        }
    }

    fn begin(&self, bytes: &[u8]) -> Match {
        match self.negotiated {
            Negotiated::Nothing => begin::find(bytes, self.wanted),
            Negotiated::No => postgres::begins(bytes),
            Negotiated::Yes => hello::begins(bytes),
        }
    }

    fn request_read(&mut self, request: Request, length: usize) -> Sniff {
        let (reply, next) = match request {
            Request::Startup | Request::Cancel => return found(Protocol::Postgres, None),
            Request::Gss if self.negotiated == Negotiated::No => return Sniff::Failed(Failure::Postgres),
            Request::Gss => (postgres::NO, Negotiated::No),
            Request::Ssl => (postgres::YES, Negotiated::Yes),
        };
        if length > postgres::HEAD {
            return Sniff::Failed(Failure::BehindRequest);
        }
        self.negotiated = next;
        Sniff::Answer(Answer { consumed: postgres::HEAD, reply })
    }
}

fn found(protocol: Protocol, hello: Option<Hello>) -> Sniff {
    Sniff::Found(Sniffed { protocol, hello })
}

impl fmt::Display for Protocol {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.word())
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Failure::RecordTooLong => "a TLS record of more than 16640 bytes",
            Failure::RecordEmpty => "an empty TLS handshake record",
            Failure::RecordKind => "another TLS record within the ClientHello",
            Failure::NoHello => "a TLS handshake without a ClientHello",
            Failure::HelloTooLong => "a ClientHello of more than 65536 bytes with its record headers",
            Failure::HelloMalformed => "a malformed ClientHello",
            Failure::BehindRequest => "bytes behind an SSLRequest or a GSSENCRequest that is not answered yet",
            Failure::Postgres => "not a message that Postgres has after the answer N",
            Failure::NoTls => "no ClientHello after the answer S",
            Failure::Backend(postgres::Reply::NoTls) => "the backend has no TLS",
            Failure::Backend(postgres::Reply::Error) => "the backend answers the SSLRequest with an error",
            Failure::Backend(_) => "the backend answers the SSLRequest with something else",
        })
    }
}
