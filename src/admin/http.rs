//! Just enough HTTP/1.1 for an API: one request, one answer, then the connection closes.
//!
//! Everything a peer can make us do is bounded: [`HEAD_MAX`] bytes of head, [`BODY_MAX`] of body, one [`Deadline`] for the
//! whole request and one for the whole answer, however many small pieces it comes in. A time-out per read alone would let
//! a peer that sends a byte a second stay for a day.
//!
//! Not here: keep-alive, chunked bodies (411: a client that knows its body's length says so), TLS, routes.

use httparse::Status;
use std::io::{self, Read, Write};
use std::time::{Duration, Instant};

/// The longest head: request line and headers.
pub const HEAD_MAX: usize = 16 * 1024;
/// The longest body.
pub const BODY_MAX: usize = 64 * 1024;
/// The most headers.
const HEADERS_MAX: usize = 64;
/// How long a request may take to be whole, and an answer to be taken.
pub const PATIENCE: Duration = Duration::from_secs(10);
/// What is read and thrown away after an answer that was given before the request was read, and how long that may take.
const LINGER_BYTES: usize = 1024 * 1024;
const LINGER: Duration = Duration::from_secs(1);

/// A connection whose reads and writes can be given a time limit.
pub trait Stream: Read + Write {
    /// From now on no read blocks longer than this.
    fn limit_read(&mut self, time: Duration) -> io::Result<()>;
    /// From now on no write blocks longer than this.
    fn limit_write(&mut self, time: Duration) -> io::Result<()>;
    /// Says that no more will be written.
    fn finish(&mut self) -> io::Result<()>;
}

impl Stream for socket2::Socket {
    fn limit_read(&mut self, time: Duration) -> io::Result<()> {
        self.set_read_timeout(Some(time))
    }

    fn limit_write(&mut self, time: Duration) -> io::Result<()> {
        self.set_write_timeout(Some(time))
    }

    fn finish(&mut self) -> io::Result<()> {
        self.shutdown(std::net::Shutdown::Write)
    }
}

/// A point in time by which something is over.
#[derive(Clone, Copy, Debug)]
pub struct Deadline(Instant);

impl Deadline {
    /// So far from now.
    pub fn after(time: Duration) -> Deadline {
        Deadline(Instant::now() + time)
    }

    /// What is left, never zero (which would be "for ever" to a socket); an error when nothing is.
    pub fn left(self) -> io::Result<Duration> {
        let left = self.0.saturating_duration_since(Instant::now());
        if left.is_zero() { Err(io::ErrorKind::TimedOut.into()) } else { Ok(left.max(Duration::from_millis(1))) }
    }
}

/// A request as it came: the target is not decoded yet.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Request {
    /// `GET` and so on, as sent.
    pub method: String,
    /// What the target has before `?`.
    pub path: String,
    /// What it has after `?`; empty if nothing.
    pub query: String,
    /// The Host header.
    pub host: Option<String>,
    /// The Origin header, which browsers send with what a page makes them send.
    pub origin: Option<String>,
    /// The Authorization header.
    pub authorization: Option<Vec<u8>>,
    /// The body.
    pub body: Vec<u8>,
}

/// Why there is no request.
#[derive(Debug)]
pub enum Refusal {
    /// The peer is gone, or finished without asking anything: there is nobody to answer.
    Gone,
    /// It is answered with this status and reason.
    Answer(u16, &'static str),
}

/// What a head says about the body.
#[derive(Debug)]
struct Head {
    request: Request,
    /// Where the body begins.
    end: usize,
    length: usize,
    /// The client waits for leave to send it.
    expects_continue: bool,
}

/// Reads one request.
pub fn read(stream: &mut impl Stream, deadline: Deadline) -> Result<Request, Refusal> {
    let mut buffer = Vec::new();
    let head = loop {
        if let Some(head) = parse(&buffer)? {
            break head;
        }
        if buffer.len() >= HEAD_MAX {
            return Err(Refusal::Answer(431, "the head of the request is longer than 16 KiB"));
        }
        let room = HEAD_MAX - buffer.len();
        if receive(stream, &mut buffer, room, deadline)? == 0 {
            return Err(if buffer.is_empty() {
                Refusal::Gone
            } else {
                Refusal::Answer(400, "the request ended before it was whole")
            });
        }
    };
    let Head { mut request, end, length, expects_continue } = head;
    let mut body = buffer.split_off(end);
    if expects_continue && body.len() < length {
        let leave = stream.limit_write(PATIENCE).and_then(|()| stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n"));
        leave.map_err(|_| Refusal::Gone)?;
    }
    while body.len() < length {
        let room = length - body.len();
        if receive(stream, &mut body, room, deadline)? == 0 {
            return Err(Refusal::Answer(400, "the request ended before it was whole"));
        }
    }
    body.truncate(length);
    request.body = body;
    Ok(request)
}

/// Appends what comes, at most `room` bytes; 0: the peer has finished.
fn receive(stream: &mut impl Stream, to: &mut Vec<u8>, room: usize, deadline: Deadline) -> Result<usize, Refusal> {
    const SLOW: Refusal = Refusal::Answer(408, "the request was not whole within 10 seconds");
    let mut chunk = [0; 4096];
    let room = room.min(chunk.len());
    loop {
        let Ok(left) = deadline.left() else { return Err(SLOW) };
        stream.limit_read(left).map_err(|_| Refusal::Gone)?;
        match stream.read(&mut chunk[..room]) {
            Ok(count) => {
                to.extend_from_slice(&chunk[..count]);
                return Ok(count);
            }
            Err(error) => match error.kind() {
                io::ErrorKind::Interrupted => {}
                io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => return Err(SLOW),
                _ => return Err(Refusal::Gone),
            },
        }
    }
}

/// `None`: there is more to come.
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

/// Digits only. More of them than a number holds are a length all the same, and too long.
fn content_length(value: &[u8]) -> Result<u64, Refusal> {
    let value = value.trim_ascii();
    if value.is_empty() || !value.iter().all(u8::is_ascii_digit) {
        return Err(Refusal::Answer(400, "Content-Length is not a number"));
    }
    Ok(std::str::from_utf8(value).ok().and_then(|digits| digits.parse().ok()).unwrap_or(u64::MAX))
}

/// Path and query of `/path?query` or of `http://host/path?query`, which proxies' clients send.
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

/// An answer.
#[derive(Debug, PartialEq, Eq)]
pub struct Response {
    /// 200 and so on.
    pub status: u16,
    /// What the body is.
    pub content_type: &'static str,
    /// More headers. Values are ours or checked: no line breaks.
    pub headers: Vec<(&'static str, String)>,
    /// The body.
    pub body: Vec<u8>,
}

impl Response {
    /// A JSON document.
    pub fn json(status: u16, value: &impl serde::Serialize) -> Response {
        // Our own types: no map with keys that aren't text, nothing that fails on its own.
        let mut body = serde_json::to_vec_pretty(value).unwrap_or_default();
        body.push(b'\n');
        Response { status, content_type: "application/json", headers: Vec::new(), body }
    }

    /// A JSON document without a space in it, for readers that compare texts.
    pub fn compact(status: u16, value: &impl serde::Serialize) -> Response {
        let body = serde_json::to_vec(value).unwrap_or_default();
        Response { status, content_type: "application/json", headers: Vec::new(), body }
    }

    /// `{"error": why}`.
    pub fn error(status: u16, why: impl Into<String>) -> Response {
        Response::json(status, &super::api::Error { error: why.into() })
    }

    /// Text of a given type.
    pub fn text(status: u16, content_type: &'static str, text: impl Into<Vec<u8>>) -> Response {
        Response { status, content_type, headers: Vec::new(), body: text.into() }
    }

    /// With one more header.
    #[must_use]
    pub fn with(mut self, name: &'static str, value: impl Into<String>) -> Response {
        self.headers.push((name, value.into()));
        self
    }

    /// As it goes out. `bodiless`: the answer to HEAD.
    pub fn bytes(&self, bodiless: bool) -> Vec<u8> {
        let mut head = format!(
            "HTTP/1.1 {} {}\r\nContent-Type: {}\r\nContent-Length: {}\r\nCache-Control: no-store\r\n\
             X-Content-Type-Options: nosniff\r\nConnection: close\r\n",
            self.status,
            reason(self.status),
            self.content_type,
            self.body.len()
        );
        for (name, value) in &self.headers {
            head.push_str(name);
            head.push_str(": ");
            head.push_str(value);
            head.push_str("\r\n");
        }
        head.push_str("\r\n");
        let mut bytes = head.into_bytes();
        if !bodiless {
            bytes.extend_from_slice(&self.body);
        }
        bytes
    }
}

/// Sends an answer and closes, in a way that lets the peer read it.
pub fn answer(stream: &mut impl Stream, response: &Response, bodiless: bool) -> io::Result<()> {
    let bytes = response.bytes(bodiless);
    let mut rest = bytes.as_slice();
    let deadline = Deadline::after(PATIENCE);
    while !rest.is_empty() {
        stream.limit_write(deadline.left()?)?;
        match stream.write(rest) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(count) => rest = &rest[count..],
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    stream.finish()?;
    // Closing with unread bytes sends a reset, which may overtake the answer: let the peer finish first, within limits.
    let deadline = Deadline::after(LINGER);
    let mut thrown_away = [0; 4096];
    let mut left = LINGER_BYTES;
    while left > 0 {
        stream.limit_read(deadline.left()?)?;
        match stream.read(&mut thrown_away)? {
            0 => break,
            count => left = left.saturating_sub(count),
        }
    }
    Ok(())
}

/// The reason phrase, for people who look at the wire.
fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        201 => "Created",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        409 => "Conflict",
        411 => "Length Required",
        413 => "Content Too Large",
        417 => "Expectation Failed",
        431 => "Request Header Fields Too Large",
        503 => "Service Unavailable",
        _ => "Error",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::VecDeque;

    /// A peer that sends its pieces one by one, then finishes.
    #[derive(Default)]
    struct Script {
        pieces: VecDeque<Vec<u8>>,
        written: Vec<u8>,
    }

    impl Read for Script {
        fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
            let Some(mut piece) = self.pieces.pop_front() else { return Ok(0) };
            let count = piece.len().min(to.len());
            to[..count].copy_from_slice(&piece[..count]);
            if count < piece.len() {
                self.pieces.push_front(piece.split_off(count));
            }
            Ok(count)
        }
    }

    impl Write for Script {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.written.extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl Stream for Script {
        fn limit_read(&mut self, _: Duration) -> io::Result<()> {
            Ok(())
        }

        fn limit_write(&mut self, _: Duration) -> io::Result<()> {
            Ok(())
        }

        fn finish(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn sent(pieces: &[&[u8]]) -> Script {
        let pieces = pieces.iter().filter(|piece| !piece.is_empty()).map(|piece| piece.to_vec()).collect();
        Script { pieces, ..Script::default() }
    }

    fn ask(text: &str) -> Result<Request, Refusal> {
        read(&mut sent(&[text.as_bytes()]), Deadline::after(PATIENCE))
    }

    #[track_caller]
    fn refused(text: &str, want: u16) {
        let got = ask(text);
        assert!(matches!(got, Err(Refusal::Answer(status, _)) if status == want), "{text:.80}: {got:?}");
    }

    #[test]
    fn a_request_is_read_in_any_pieces() {
        let text =
            b"POST /v1/x?a=b HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\nAuthorization: Bearer t\r\n\r\nhelloEXTRA";
        for cut in 0..text.len() {
            let (head, tail) = text.split_at(cut);
            let request = read(&mut sent(&[head, tail]), Deadline::after(PATIENCE)).unwrap();
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
    fn what_is_too_much_or_nonsense_is_refused_with_its_status() {
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
    fn both_forms_of_a_target_are_understood() {
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
    fn who_asks_for_leave_to_send_a_body_gets_it() {
        let head = b"POST / HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n";
        let mut peer = sent(&[head, b"ab"]);
        assert_eq!(read(&mut peer, Deadline::after(PATIENCE)).unwrap().body, b"ab");
        assert_eq!(peer.written, b"HTTP/1.1 100 Continue\r\n\r\n");
    }

    #[test]
    fn a_request_that_takes_too_long_is_refused() {
        let got = read(&mut sent(&[b"GET / HT", b"TP/1.1\r\n\r\n"]), Deadline::after(Duration::ZERO));
        assert!(matches!(got, Err(Refusal::Answer(408, _))), "{got:?}");
    }

    #[test]
    fn an_answer_says_how_long_it_is_and_that_it_is_the_last() {
        let mut peer = Script::default();
        let response = Response::error(404, "there is no `x`\"").with("Allow", "GET");
        answer(&mut peer, &response, false).unwrap();
        let text = String::from_utf8(peer.written).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 404 Not Found\r\nContent-Type: application/json\r\n"), "{head}");
        assert!(head.contains(&format!("\r\nContent-Length: {}\r\n", body.len())), "{head}");
        assert!(head.contains("\r\nConnection: close\r\n") && head.ends_with("\r\nAllow: GET"), "{head}");
        let parsed: serde_json::Value = serde_json::from_str(body).unwrap();
        assert_eq!(parsed["error"], "there is no `x`\"");
        assert!(response.bytes(true).ends_with(b"\r\n\r\n"));
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = read(&mut sent(&[&bytes]), Deadline::after(PATIENCE));
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
