//! A ClientHello of TLS: assembled from its records, then parsed.
//!
//! ```text
//!        5 bytes              at most 16640 bytes
//! ┌────┬─────────┬────────┐┌─────────────────────────┐┌────┬──
//! │ 22 │ version │ length ││ fragment of the message ││ 22 │ …
//! └────┴─────────┴────────┘└─────────────────────────┘└────┴──
//! ```
//!
//! The message begins with its type and its length, which may be cut over records too. A client may put its hello into any
//! number of records. RFC 8446, section 5.1: none of them is empty, and no other record stands between them.
//!
//! Of the message, `tls-parser` reads what frames it and the content of two extensions: the name and ALPN. The content of the
//! others does not matter here, so a hello with an unusual one is routed, and the backend decides.

use super::begin::{Beginning, Match};
use super::{Failure, name};
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use tls_parser::{TlsExtension, TlsExtensionType};

/// The most bytes from the first record's first byte to the hello's last one.
pub const HELLO_MAX: usize = 64 * 1024;

/// The most protocols that are kept of those that a client offers.
pub const ALPN_MAX: usize = 32;

/// The longest fragment: 2^14, and what TLS 1.2 and 1.3 allow more for an encrypted one.
const RECORD_MAX: usize = (1 << 14) + 256;

/// The length of a record's header.
const HEADER: usize = 5;

/// The length of a message's type and length.
const HEAD: usize = 4;

const HANDSHAKE: u8 = 22;
const CLIENT_HELLO: u8 = 1;

/// The extension of an encrypted ClientHello, whose outer name is the visible one.
const ENCRYPTED_CLIENT_HELLO: TlsExtensionType = TlsExtensionType(0xfe0d);

/// The least length of an SSLv2 hello: type, version and three lengths.
const SSL2_MIN: u16 = 9;

/// What a ClientHello says, as far as routes ask.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Hello {
    /// The name of the server, as [`name::normalized`] gives it.
    pub server_name: Option<Box<str>>,
    /// The offered protocols of ALPN, at most [`ALPN_MAX`].
    pub alpn: Vec<Box<[u8]>>,
    /// It has an encrypted hello within. Clients also send that extension without one, so that both look the same.
    pub is_encrypted: bool,
}

/// How far a hello has come.
pub(super) enum Progress {
    /// With fewer bytes than this there is no other answer.
    More { at_least: usize },
    /// All of it.
    Whole(Hello),
}

/// A hello that is not whole: how far its bytes were looked at.
#[derive(Clone, Debug, Default)]
pub(super) struct Assembly {
    /// All bytes before this offset were looked at.
    at: usize,
    /// Bytes of the record at `at` that are still to come.
    left: usize,
    /// Bytes of the message before `at`.
    seen: usize,
    /// The first of them.
    head: [u8; HEAD],
    /// Records that have begun.
    records: usize,
}

/// Whether the bytes begin as a handshake record does.
pub(super) fn begins(bytes: &[u8]) -> Match {
    match bytes {
        [] | [HANDSHAKE] | [HANDSHAKE, 3] => Match::Maybe,
        [HANDSHAKE, 3, 0..=4, ..] => Match::Is(Beginning::Tls),
        _ => Match::No,
    }
}

/// Whether the bytes begin as a hello of SSLv2 does, which may also offer a version of TLS.
pub(super) fn begins_as_ssl2(bytes: &[u8]) -> Match {
    match bytes {
        [] | [0x80..=0xff] => Match::Maybe,
        [high @ 0x80..=0xff, low, rest @ ..] if u16::from_be_bytes([high & 0x7f, *low]) >= SSL2_MIN => match rest {
            [] | [CLIENT_HELLO] | [CLIENT_HELLO, 0 | 3] => Match::Maybe,
            [CLIENT_HELLO, 0, 2, ..] | [CLIENT_HELLO, 3, 0..=4, ..] => Match::Is(Beginning::Ssl2),
            _ => Match::No,
        },
        _ => Match::No,
    }
}

impl Assembly {
    /// Goes on with `bytes`, all of the connection so far.
    pub(super) fn read(&mut self, bytes: &[u8]) -> Result<Progress, Failure> {
        loop {
            if self.least_end() > HELLO_MAX {
                return Err(Failure::HelloTooLong);
            }
            let rest = bytes.get(self.at..).unwrap_or_default();
            let taken = self.left.min(self.missing()).min(rest.len());
            if taken > 0 {
                self.take(&rest[..taken])?;
                if self.length() == Some(self.seen) {
                    return parse(&self.message(bytes)).map(Progress::Whole);
                }
            } else if self.left > 0 {
                return Ok(Progress::More { at_least: self.next_end() });
            } else {
                let Some(header) = rest.first_chunk() else {
                    return Ok(Progress::More { at_least: self.at + HEADER });
                };
                self.left = length_of_record(header)?;
                self.at += HEADER;
                self.records += 1;
            }
        }
    }

    /// Bytes of the message that are missing; those of its head as long as it is not whole.
    fn missing(&self) -> usize {
        self.length().unwrap_or(HEAD) - self.seen
    }

    /// The length of the message, once its head is whole.
    fn length(&self) -> Option<usize> {
        let [_, high, middle, low] = self.head;
        (self.seen >= HEAD).then(|| HEAD + u32::from_be_bytes([0, high, middle, low]) as usize)
    }

    /// Where the missing bytes end if one more record holds what this one does not.
    fn least_end(&self) -> usize {
        let header = if self.left < self.missing() { HEADER } else { 0 };
        self.at + header + self.missing()
    }

    /// Where the missing bytes end, or the header of the next record.
    fn next_end(&self) -> usize {
        if self.left < self.missing() { self.at + self.left + HEADER } else { self.at + self.missing() }
    }

    /// Takes bytes of the message. None of them is behind the end of its head if it was not whole before.
    fn take(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        self.head.iter_mut().skip(self.seen).zip(bytes).for_each(|(head, byte)| *head = *byte);
        self.at += bytes.len();
        self.left -= bytes.len();
        self.seen += bytes.len();
        if self.seen < HEAD || self.head[0] == CLIENT_HELLO { Ok(()) } else { Err(Failure::NoHello) }
    }

    /// The message, which is whole: in its only record, or copied out of several.
    fn message<'a>(&self, bytes: &'a [u8]) -> Cow<'a, [u8]> {
        if self.records == 1 {
            return Cow::Borrowed(bytes.get(HEADER..self.at).unwrap_or_default());
        }
        let mut message = Vec::with_capacity(self.seen);
        let mut rest = bytes.get(..self.at).unwrap_or_default();
        while let Some((&[.., high, low], behind)) = rest.split_first_chunk::<HEADER>() {
            let length = usize::from(u16::from_be_bytes([high, low])).min(behind.len());
            let (fragment, next) = behind.split_at(length);
            message.extend_from_slice(fragment);
            rest = next;
        }
        Cow::Owned(message)
    }
}

fn length_of_record(&[kind, major, _, high, low]: &[u8; HEADER]) -> Result<usize, Failure> {
    let length = usize::from(u16::from_be_bytes([high, low]));
    if (kind, major) != (HANDSHAKE, 3) {
        return Err(Failure::RecordKind);
    }
    match length {
        0 => Err(Failure::RecordEmpty),
        1..=RECORD_MAX => Ok(length),
        _ => Err(Failure::RecordTooLong),
    }
}

/// Parses a whole message.
fn parse(message: &[u8]) -> Result<Hello, Failure> {
    let malformed = Failure::HelloMalformed;
    let body = message.get(HEAD..).ok_or(malformed)?;
    let (behind, contents) = tls_parser::parse_tls_handshake_client_hello(body).map_err(|_| malformed)?;
    if !behind.is_empty() {
        return Err(malformed);
    }
    let (mut names, mut protocols) = (None, None);
    let mut hello = Hello::default();
    let mut rest = contents.ext.unwrap_or_default();
    while !rest.is_empty() {
        // Its content stays as it is.
        let Ok((next, TlsExtension::Unknown(kind, content))) = tls_parser::parse_tls_extension_unknown(rest) else {
            return Err(malformed);
        };
        let twice = match kind {
            TlsExtensionType::ServerName => names.replace(content),
            TlsExtensionType::ApplicationLayerProtocolNegotiation => protocols.replace(content),
            ENCRYPTED_CLIENT_HELLO => {
                hello.is_encrypted = true;
                None
            }
            _ => None,
        };
        if twice.is_some() {
            return Err(malformed);
        }
        rest = next;
    }
    if let Some(content) = names {
        hello.server_name = server_name(content).ok_or(malformed)?;
    }
    if let Some(content) = protocols {
        hello.alpn = alpn(content).ok_or(malformed)?;
    }
    Ok(hello)
}

/// The first host name of the extension, if it is a valid one. The outer `None` stands for a malformed extension.
fn server_name(content: &[u8]) -> Option<Option<Box<str>>> {
    let Ok(([], TlsExtension::SNI(names))) = tls_parser::parse_tls_extension_sni_content(content) else { return None };
    // The parser drops what stands behind a broken entry of the list.
    let entries: usize = names.iter().map(|(_, name)| 3 + name.len()).sum();
    if content.len() != 2 + entries {
        return None;
    }
    let first = names.iter().find(|(kind, _)| *kind == tls_parser::SNIType::HostName);
    Some(first.and_then(|(_, bytes)| name::normalized(bytes).ok()))
}

fn alpn(content: &[u8]) -> Option<Vec<Box<[u8]>>> {
    let Ok(([], TlsExtension::ALPN(names))) = tls_parser::parse_tls_extension_alpn_content(content) else {
        return None;
    };
    // As above.
    let entries: usize = names.iter().map(|name| 1 + name.len()).sum();
    if content.len() != 2 + entries {
        return None;
    }
    Some(names.into_iter().take(ALPN_MAX).map(Box::from).collect())
}
