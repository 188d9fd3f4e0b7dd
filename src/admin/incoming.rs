//! Parses a request piece by piece: bytes in, a whole request or a refusal out. No socket and no clock.
//!
//! [`super::server`] reads from many callers on one thread, so nothing here waits. Memory per peer is bounded by
//! [`HEAD_MAX`] and [`BODY_MAX`]. The server bounds the time.
//!
//! Not here: keep-alive, chunked bodies (411: the client must send a Content-Length), routes.

use httparse::Status;

/// The longest head (request line and headers), in bytes.
pub const HEAD_MAX: usize = 16 * 1024;
/// The longest body, in bytes.
pub const BODY_MAX: usize = 64 * 1024;
/// The most headers.
const HEADERS_MAX: usize = 64;
const CUT_SHORT: Refusal = Refusal::Answer(400, "the request ended before it was whole");

/// A request as received; its target is not decoded yet.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Request {
    /// The method, as sent.
    pub method: String,
    /// The part of the target before `?`.
    pub path: String,
    /// The part of the target after `?`, or empty.
    pub query: String,
    /// The Host header.
    pub host: Option<String>,
    /// The Origin header; a browser sends it with requests that a page makes.
    pub origin: Option<String>,
    /// The Authorization header.
    pub authorization: Option<Vec<u8>>,
    /// The body.
    pub body: Vec<u8>,
}

/// Why a request can't be served.
#[derive(Debug)]
pub enum Refusal {
    /// The peer has closed, or has finished without sending anything. There is no answer to send.
    Gone,
    /// The answer's status and reason.
    Answer(u16, &'static str),
}

/// What a head says about the body.
#[derive(Debug)]
struct Head {
    request: Request,
    /// Offset of the body.
    end: usize,
    length: usize,
    /// The client waits for `100 Continue` before it sends the body.
    expects_continue: bool,
}

/// The bytes received of one request.
#[derive(Debug, Default)]
pub struct Incoming {
    /// The head; once the head is parsed, the body.
    bytes: Vec<u8>,
    head: Option<Head>,
    /// Length of `bytes` at the last parse that did not find a whole head.
    looked_at: usize,
}

/// What the bytes received so far amount to.
#[derive(Debug, PartialEq, Eq)]
pub enum Progress {
    /// The request is not whole.
    More,
    /// The request is not whole, and the client waits for `100 Continue`.
    MoreOnContinue,
    /// The request is whole.
    Whole(Request),
}

impl Incoming {
    /// Whether the peer has sent nothing yet.
    pub fn is_silent(&self) -> bool {
        self.bytes.is_empty() && self.head.is_none()
    }

    /// The most bytes that [`Incoming::take`] accepts.
    pub fn room(&self) -> usize {
        self.head.as_ref().map_or(HEAD_MAX, |head| head.length) - self.bytes.len()
    }

    /// Takes up to [`Incoming::room`] bytes.
    pub fn take(&mut self, bytes: &[u8]) -> Result<Progress, Refusal> {
        let from = self.bytes.len();
        self.bytes.extend_from_slice(bytes);
        let mut fresh = false;
        if self.head.is_none() {
            if !self.is_worth_a_look(from) {
                return Ok(Progress::More);
            }
            self.look()?;
            fresh = self.head.is_some();
        }
        match self.head.take() {
            None => Ok(Progress::More),
            Some(mut head) if self.bytes.len() >= head.length => {
                self.bytes.truncate(head.length);
                head.request.body = std::mem::take(&mut self.bytes);
                Ok(Progress::Whole(head.request))
            }
            Some(head) => {
                let leave = fresh && head.expects_continue;
                self.head = Some(head);
                Ok(if leave { Progress::MoreOnContinue } else { Progress::More })
            }
        }
    }

    /// The refusal when the peer sends no more before the request is whole.
    pub fn cut_short(mut self) -> Refusal {
        if self.is_silent() {
            return Refusal::Gone;
        }
        let looked = if self.head.is_none() { self.look() } else { Ok(()) };
        looked.err().unwrap_or(CUT_SHORT)
    }

    /// The head is parsed when it may have ended, and each time its length has doubled. Bytes that are not HTTP may
    /// never end a head. Parsing after each byte would cost the square of the head's length.
    fn is_worth_a_look(&self, from: usize) -> bool {
        let recent = &self.bytes[from.saturating_sub(2)..];
        let length = self.bytes.len();
        let ends = recent.windows(2).any(|two| two == b"\n\n") || recent.windows(3).any(|three| three == b"\n\r\n");
        ends || length >= 2 * self.looked_at || length >= HEAD_MAX
    }

    fn look(&mut self) -> Result<(), Refusal> {
        self.looked_at = self.bytes.len();
        let Some(head) = parse(&self.bytes)? else {
            let full = self.bytes.len() >= HEAD_MAX;
            let long = Refusal::Answer(431, "the head of the request is longer than 16 KiB");
            return if full { Err(long) } else { Ok(()) };
        };
        self.bytes.drain(..head.end);
        self.head = Some(head);
        Ok(())
    }
}

/// `None`: the head is not whole.
fn parse(bytes: &[u8]) -> Result<Option<Head>, Refusal> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut parsed = httparse::Request::new(&mut headers);
    let end = match parsed.parse(bytes) {
        Ok(Status::Complete(end)) => end,
        Ok(Status::Partial) => return Ok(None),
        Err(httparse::Error::TooManyHeaders) => return Err(Refusal::Answer(431, "there are more than 64 headers")),
        Err(_) => return Err(Refusal::Answer(400, "this is no HTTP/1.1 request")),
    };
    let (path, query) = target(parsed.path.unwrap_or_default())?;
    let method = parsed.method.unwrap_or_default().to_owned();
    let mut request = Request { method, path, query, ..Request::default() };
    let mut length = None;
    let mut expects_continue = false;
    for header in parsed.headers.iter() {
        let text = || String::from_utf8_lossy(header.value).trim().to_owned();
        match header.name.to_ascii_lowercase().as_str() {
            "content-length" => {
                let value = content_length(header.value)?;
                if length.is_some_and(|before| before != value) {
                    return Err(Refusal::Answer(400, "there are two Content-Length headers, and they differ"));
                }
                length = Some(value);
            }
            "transfer-encoding" => return Err(Refusal::Answer(411, "a body needs a Content-Length, not an encoding")),
            "expect" if text().eq_ignore_ascii_case("100-continue") => expects_continue = true,
            "expect" => return Err(Refusal::Answer(417, "expected no Expect header but 100-continue")),
            "host" if request.host.is_some() => return Err(Refusal::Answer(400, "there are two Host headers")),
            "host" => request.host = Some(text()),
            "origin" => request.origin = Some(text()),
            "authorization" => request.authorization = Some(header.value.to_vec()),
            _ => {}
        }
    }
    let length = length.unwrap_or(0);
    if length > BODY_MAX as u64 {
        return Err(Refusal::Answer(413, "the body is longer than 64 KiB"));
    }
    Ok(Some(Head { request, end, length: length as usize, expects_continue }))
}

/// Accepts digits only. A number that overflows is returned as `u64::MAX`, which is too long.
fn content_length(value: &[u8]) -> Result<u64, Refusal> {
    let value = value.trim_ascii();
    if value.is_empty() || !value.iter().all(u8::is_ascii_digit) {
        return Err(Refusal::Answer(400, "Content-Length is not a number"));
    }
    Ok(std::str::from_utf8(value).ok().and_then(|digits| digits.parse().ok()).unwrap_or(u64::MAX))
}

/// Path and query of `/path?query` or of the absolute form `http://host/path?query` (RFC 9112, 3.2.2).
fn target(text: &str) -> Result<(String, String), Refusal> {
    let rest = match text.find("://") {
        Some(at) if !text.starts_with('/') => {
            let after = &text[at + 3..];
            after.find('/').map_or("/", |slash| &after[slash..])
        }
        _ => text,
    };
    if !rest.starts_with('/') {
        return Err(Refusal::Answer(400, "the target of a request begins with /"));
    }
    let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
    Ok((path.to_owned(), query.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Sends the pieces one by one, then finishes.
    fn send(pieces: &[&[u8]]) -> Result<Request, Refusal> {
        let mut incoming = Incoming::default();
        for piece in pieces {
            let mut rest = *piece;
            while !rest.is_empty() {
                let (now, later) = rest.split_at(rest.len().min(incoming.room()));
                if let Progress::Whole(request) = incoming.take(now)? {
                    return Ok(request);
                }
                rest = later;
            }
        }
        Err(incoming.cut_short())
    }

    fn ask(text: &str) -> Result<Request, Refusal> {
        send(&[text.as_bytes()])
    }

    #[track_caller]
    fn refused(text: &str, want: u16) {
        let got = ask(text);
        assert!(matches!(got, Err(Refusal::Answer(status, _)) if status == want), "{text:.80}: {got:?}");
    }

    #[test]
    fn a_request_parses_in_any_pieces() {
        let text =
            b"POST /v1/x?a=b HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\nAuthorization: Bearer t\r\n\r\nhelloEXTRA";
        for cut in 0..text.len() {
            let (head, tail) = text.split_at(cut);
            let request = send(&[head, tail]).unwrap();
            assert_eq!(
                (request.method.as_str(), request.path.as_str(), request.query.as_str()),
                ("POST", "/v1/x", "a=b")
            );
            assert_eq!(
                (request.host.as_deref(), request.authorization.as_deref()),
                (Some("h"), Some(&b"Bearer t"[..]))
            );
            assert_eq!(request.body, b"hello");
        }
    }

    #[test]
    fn oversized_and_malformed_requests_get_their_status() {
        refused(&format!("GET /{} HTTP/1.1\r\n\r\n", "x".repeat(HEAD_MAX)), 431);
        refused(&format!("GET / HTTP/1.1\r\n{}\r\n", "A: b\r\n".repeat(65)), 431);
        for length in ["65537", "99999999999999999999999999"] {
            refused(&format!("POST / HTTP/1.1\r\nContent-Length: {length}\r\n\r\n"), 413);
        }
        for length in ["", "-1", "+1", "1x", "0x10", "1, 1"] {
            refused(&format!("POST / HTTP/1.1\r\nContent-Length: {length}\r\n\r\n"), 400);
        }
        refused("POST / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab", 400);
        refused("POST / HTTP/1.1\r\nContent-Length: 3\r\n\r\nab", 400);
        refused("POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 411);
        refused("GET / HTTP/1.1\r\nExpect: miracles\r\n\r\n", 417);
        refused("GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400);
        refused("OPTIONS * HTTP/1.1\r\n\r\n", 400);
        refused("GET / HTTP/1.1\r\nHost", 400);
        refused("\x16\x03\x01\x02\0", 400);
        assert!(matches!(ask(""), Err(Refusal::Gone)));
    }

    #[test]
    fn origin_form_and_absolute_form_both_parse() {
        for (target, path, query) in [
            ("/", "/", ""),
            ("/a?b?c", "/a", "b?c"),
            ("http://host:1/a?b", "/a", "b"),
            ("http://host", "/", ""),
            ("/a?u=http://b/c", "/a", "u=http://b/c"),
        ] {
            let request = ask(&format!("GET {target} HTTP/1.1\r\n\r\n")).unwrap();
            assert_eq!((request.path.as_str(), request.query.as_str()), (path, query), "{target}");
        }
    }

    #[test]
    fn expect_100_continue_is_answered_once() {
        let head = b"POST / HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n";
        let mut incoming = Incoming::default();
        assert_eq!(incoming.take(head).unwrap(), Progress::MoreOnContinue);
        assert_eq!(incoming.take(b"a").unwrap(), Progress::More);
        assert!(matches!(incoming.take(b"b").unwrap(), Progress::Whole(request) if request.body == b"ab"));
        assert!(matches!(send(&[head, b"ab"]), Ok(request) if request.body == b"ab"));
    }

    #[test]
    fn a_head_that_comes_a_byte_at_a_time_is_parsed_a_few_times() {
        let mut incoming = Incoming::default();
        let mut looks = 0;
        for byte in format!("GET / HTTP/1.1\r\nX: {}", "y".repeat(10_000)).bytes() {
            let before = incoming.looked_at;
            assert_eq!(incoming.take(&[byte]).unwrap(), Progress::More);
            looks += u32::from(incoming.looked_at != before);
        }
        assert!(looks < 20, "{looks} looks at 10 000 bytes");
        assert_eq!(incoming.take(b"\r\n").unwrap(), Progress::More);
        assert!(matches!(incoming.take(b"\r\n").unwrap(), Progress::Whole(_)));
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = send(&[&bytes]);
        }

        #[test]
        fn no_almost_right_request_makes_it_panic(
            method in "[A-Z]{0,5}", target in "\\PC{0,20}", head in "(Content-Length|Host|Expect|X): ?[0-9a-z]{0,9}\r\n", body in "\\PC{0,9}"
        ) {
            let text = format!("{method} {target} HTTP/1.1\r\n{head}\r\n{body}");
            if let Ok(request) = ask(&text) {
                prop_assert!(request.path.starts_with('/') && request.body.len() <= body.len());
            }
        }
    }
}
