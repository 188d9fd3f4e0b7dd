//! What each protocol begins with. Each function looks at a bounded number of bytes, so calling it again is cheap.

use super::postgres::Request;
use super::{Protocol, Protocols, hello, postgres};

/// Whether bytes begin as a protocol does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Match {
    /// No, whatever follows.
    No,
    /// As far as they go.
    Maybe,
    /// Yes, whatever follows.
    Is(Beginning),
}

/// What bytes begin as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Beginning {
    Tls,
    /// A ClientHello of SSLv2, or one in its form that offers more.
    Ssl2,
    Postgres(Request),
    Http,
    Ssh,
}

/// The longest method that is taken for one.
const METHOD_MAX: usize = 32;

/// The methods of RFC 9110 and RFC 5789. The space behind them decides. Behind any other token a path must follow.
const METHODS: [&[u8]; 9] = [b"GET", b"POST", b"HEAD", b"PUT", b"DELETE", b"OPTIONS", b"PATCH", b"CONNECT", b"TRACE"];

/// The first line of the preface of HTTP/2.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n";

/// The identification string of SSH begins with this.
const SSH: &[u8] = b"SSH-";

/// The wanted protocol that the bytes begin with. At most one fits: a message of Postgres begins with a zero, and one of TLS with
/// a byte that is no text. `SSH-` is no method.
pub(super) fn find(bytes: &[u8], wanted: Protocols) -> Match {
    let mut so_far = Match::No;
    for protocol in Protocol::ALL.into_iter().filter(|protocol| wanted.contains(*protocol)) {
        let matchers: &[fn(&[u8]) -> Match] = match protocol {
            Protocol::Tls => &[hello::begins, hello::begins_as_ssl2],
            Protocol::Postgres => &[postgres::begins],
            Protocol::Http => &[http],
            Protocol::Ssh => &[ssh],
        };
        for matcher in matchers {
            match matcher(bytes) {
                Match::No => {}
                Match::Maybe => so_far = Match::Maybe,
                found => return found,
            }
        }
    }
    so_far
}

/// Whether the bytes begin with all of `start`.
fn starts_with(bytes: &[u8], start: &[u8], what: Beginning) -> Match {
    if bytes.starts_with(start) {
        Match::Is(what)
    } else if start.starts_with(bytes) {
        Match::Maybe
    } else {
        Match::No
    }
}

fn ssh(bytes: &[u8]) -> Match {
    starts_with(bytes, SSH, Beginning::Ssh)
}

fn http(bytes: &[u8]) -> Match {
    if bytes.starts_with(SSH) {
        return Match::No;
    }
    let Some(end) = bytes.iter().take(METHOD_MAX + 1).position(|byte| !is_token(*byte)) else {
        return if bytes.len() > METHOD_MAX { Match::No } else { Match::Maybe };
    };
    let (method, rest) = bytes.split_at(end);
    match rest {
        _ if method.is_empty() => Match::No,
        [b' ', ..] if METHODS.contains(&method) => Match::Is(Beginning::Http),
        [b' ', b'/', ..] => Match::Is(Beginning::Http),
        [b' ', ..] if method == b"PRI" => starts_with(bytes, PREFACE, Beginning::Http),
        [b' '] => Match::Maybe,
        _ => Match::No,
    }
}

/// `tchar` of RFC 9110.
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}
