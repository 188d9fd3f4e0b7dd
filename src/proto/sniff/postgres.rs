//! The first messages of Postgres: the client's, and what a backend answers to an SSLRequest.
//!
//! The documentation of the protocol, "Message Formats", defines them. Each message of the client has its length in its
//! first four bytes and a code in the next four:
//!
//! | message | length | code |
//! |---|---|---|
//! | StartupMessage | 9 to 10000 | 3.x: its high half is 3 |
//! | CancelRequest | 16 to 268: since version 18 the key has up to 256 bytes | 80877102 |
//! | SSLRequest | 8 | 80877103 |
//! | GSSENCRequest | 8 | 80877104 |

use super::begin::{Beginning, Match};

/// Length and code of a message.
pub(super) const HEAD: usize = 8;

/// The answer to an SSLRequest that TLS follows.
pub(super) const YES: u8 = b'S';

/// The answer to a request of encryption that is not offered.
pub(super) const NO: u8 = b'N';

/// What tcplb sends to a backend before a ClientHello.
pub const SSL_REQUEST: [u8; HEAD] = [0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x2f];

/// The longest StartupMessage that Postgres itself accepts.
const STARTUP_MAX: u32 = 10_000;

/// The longest CancelRequest.
const CANCEL_MAX: u32 = 268;

/// A client's first message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Request {
    Startup,
    Cancel,
    Ssl,
    Gss,
}

/// What a backend's answer to an SSLRequest means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reply {
    /// It has not answered.
    More,
    /// The ClientHello follows.
    Tls,
    /// It has no TLS.
    NoTls,
    /// An ErrorResponse. Its text is not encrypted, so an attacker could have written it: it is not shown.
    Error,
    /// Anything else, or bytes behind the answer: an attacker could have put them before the encrypted ones.
    Invalid,
}

impl Reply {
    /// Reads all bytes of the backend so far.
    pub fn read(bytes: &[u8]) -> Reply {
        match bytes {
            [] => Reply::More,
            [YES] => Reply::Tls,
            [NO] => Reply::NoTls,
            [b'E', ..] => Reply::Error,
            _ => Reply::Invalid,
        }
    }
}

/// Whether the bytes begin as a first message does.
pub(super) fn begins(bytes: &[u8]) -> Match {
    let (length, code) = bytes.split_at(bytes.len().min(4));
    // No message is longer than 65535 bytes.
    if length.iter().take(2).any(|byte| *byte != 0) {
        return Match::No;
    }
    let Some(length) = length.first_chunk().map(|length| u32::from_be_bytes(*length)) else { return Match::Maybe };
    let code = code.get(..4).unwrap_or(code);
    let request = match (code, length) {
        ([0, 3, _, _], 9..=STARTUP_MAX) => Request::Startup,
        ([0x04, 0xd2, 0x16, 0x2e], 16..=CANCEL_MAX) => Request::Cancel,
        ([0x04, 0xd2, 0x16, 0x2f], 8) => Request::Ssl,
        ([0x04, 0xd2, 0x16, 0x30], 8) => Request::Gss,
        ([] | [0] | [0, 3] | [0, 3, _], 9..=STARTUP_MAX) => return Match::Maybe,
        ([] | [0x04] | [0x04, 0xd2] | [0x04, 0xd2, 0x16], 8 | 16..=CANCEL_MAX) => return Match::Maybe,
        _ => return Match::No,
    };
    Match::Is(Beginning::Postgres(request))
}
