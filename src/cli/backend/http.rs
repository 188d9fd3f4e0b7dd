//! The subset of HTTP/1.1 that a test server needs: any method, any path, the same answer.
//!
//! Supported: keep-alive, HTTP/1.0, HEAD, pipelined requests, and bodies with a length. Refused, with the connection
//! closed: a chunked body (501), a head over 16 KiB (431), malformed requests (400). Bodies are discarded in constant
//! memory, so their length has no limit; the read time-out bounds each wait for a byte.

use super::ServerState;
use socket2::Socket;
use std::fmt::Write as _;
use std::io::{self, Read, Write};
use std::time::{Duration, Instant};

const HEAD_MAX: usize = 16 * 1024;
const HEADERS_MAX: usize = 64;
const CHUNK: usize = 4096;
/// Silence after which a connection is closed, within a request or between two.
const SILENCE: Duration = Duration::from_secs(60);

/// The parts of a request that the answer depends on.
#[derive(Debug, PartialEq, Eq)]
struct Request {
    /// Offset of the end of the head.
    head: usize,
    /// Length of the body, in bytes.
    body: u64,
    /// The method is HEAD: the answer has no body.
    headers_only: bool,
    keep_alive: bool,
    /// The client waits for `100 Continue` before it sends the body.
    expects_continue: bool,
}

/// Why a request is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Refusal {
    Bad,
    Timeout,
    HeadTooLarge,
    Chunked,
}

/// Answers requests until the client closes or a request is refused.
pub fn talk(mut socket: &Socket, shared: &ServerState) -> io::Result<()> {
    socket.set_read_timeout(Some(SILENCE))?;
    let mut buffer = Vec::new();
    loop {
        let request = match next_request(socket, &mut buffer) {
            Ok(Some(request)) => request,
            Ok(None) => return Ok(()),
            Err(Failure::Io(error)) => return Err(error),
            Err(Failure::Refused(refusal)) => return refuse(socket, &shared.name, refusal),
        };
        buffer.drain(..request.head);
        if request.expects_continue && buffer.is_empty() {
            socket.write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
        }
        if !skip_body(socket, &mut buffer, request.body)? || prepare(shared) {
            return Ok(());
        }
        let status = if shared.failing.load(std::sync::atomic::Ordering::Relaxed) { 503 } else { 200 };
        socket.write_all(&answer(status, &shared.name, request.keep_alive, request.headers_only))?;
        shared.count();
        if !request.keep_alive {
            return Ok(());
        }
    }
}

/// The answer when there are too many connections.
pub fn full(name: &str) -> Vec<u8> {
    answer(503, name, false, false)
}

enum Failure {
    Io(io::Error),
    Refused(Refusal),
}

/// Reads until a head is whole. `None`: between requests, the client finished or was silent for too long.
fn next_request(mut socket: &Socket, buffer: &mut Vec<u8>) -> Result<Option<Request>, Failure> {
    let mut chunk = [0; CHUNK];
    loop {
        if let Some(request) = parse(buffer).map_err(Failure::Refused)? {
            return Ok(Some(request));
        }
        if buffer.len() >= HEAD_MAX {
            return Err(Failure::Refused(Refusal::HeadTooLarge));
        }
        match socket.read(&mut chunk) {
            Ok(0) if buffer.is_empty() => return Ok(None),
            Ok(0) => return Err(Failure::Refused(Refusal::Bad)),
            Ok(length) => buffer.extend_from_slice(&chunk[..length]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => return Err(Failure::Io(error)),
            Err(_) if buffer.is_empty() => return Ok(None),
            Err(_) => return Err(Failure::Refused(Refusal::Timeout)),
        }
    }
}

/// Parses the request at the start of the buffer; `None` if its head is not whole.
fn parse(buffer: &[u8]) -> Result<Option<Request>, Refusal> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut head = httparse::Request::new(&mut headers);
    let length = match head.parse(buffer) {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(httparse::Error::TooManyHeaders) => return Err(Refusal::HeadTooLarge),
        Err(_) => return Err(Refusal::Bad),
    };
    if length > HEAD_MAX {
        return Err(Refusal::HeadTooLarge);
    }
    // The default is to keep the connection in HTTP/1.1, and to close it in HTTP/1.0.
    let mut keep_alive = head.version == Some(1);
    let (mut body, mut expects_continue) = (None, false);
    for header in head.headers.iter() {
        let value = std::str::from_utf8(header.value).map_err(|_| Refusal::Bad)?.trim();
        if header.name.eq_ignore_ascii_case("content-length") {
            let digits = !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit());
            let length = value.parse::<u64>().ok().filter(|_| digits).ok_or(Refusal::Bad)?;
            // Two different lengths would let two servers disagree on where the next request begins (RFC 9112, 6.3).
            if body.replace(length).is_some_and(|other| other != length) {
                return Err(Refusal::Bad);
            }
        } else if header.name.eq_ignore_ascii_case("transfer-encoding") {
            return Err(Refusal::Chunked);
        } else if header.name.eq_ignore_ascii_case("connection") {
            for word in value.split(',').map(str::trim) {
                if word.eq_ignore_ascii_case("close") {
                    keep_alive = false;
                } else if word.eq_ignore_ascii_case("keep-alive") {
                    keep_alive = true;
                }
            }
        } else if header.name.eq_ignore_ascii_case("expect") {
            expects_continue = value.eq_ignore_ascii_case("100-continue");
        }
    }
    let headers_only = head.method == Some("HEAD");
    Ok(Some(Request { head: length, body: body.unwrap_or(0), headers_only, keep_alive, expects_continue }))
}

/// Discards a body; bytes after it stay in the buffer. False if the client finished before its end.
fn skip_body(mut socket: &Socket, buffer: &mut Vec<u8>, length: u64) -> io::Result<bool> {
    let there = usize::try_from(length).map_or(buffer.len(), |length| length.min(buffer.len()));
    buffer.drain(..there);
    let mut missing = length - there as u64;
    let mut chunk = [0; CHUNK];
    while missing > 0 {
        // Never reads beyond the body: the next request stays in the socket.
        let want = usize::try_from(missing).map_or(CHUNK, |missing| missing.min(CHUNK));
        match socket.read(&mut chunk[..want]) {
            Ok(0) => return Ok(false),
            Ok(length) => missing -= length as u64,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(true)
}

/// Delays the answer by the configured work and latency. True if the server stops meanwhile.
fn prepare(shared: &ServerState) -> bool {
    let begun = Instant::now();
    while begun.elapsed() < shared.work && !shared.stopping.now() {
        std::hint::spin_loop();
    }
    shared.stopping.pause(shared.latency)
}

fn refuse(mut socket: &Socket, name: &str, refusal: Refusal) -> io::Result<()> {
    let status = match refusal {
        Refusal::Bad => 400,
        Refusal::Timeout => 408,
        Refusal::HeadTooLarge => 431,
        Refusal::Chunked => 501,
    };
    socket.write_all(&answer(status, name, false, false))?;
    socket.shutdown(std::net::Shutdown::Write)?;
    // Closing with unread bytes sends a reset, which may overtake the answer. So some more bytes are read first.
    socket.set_read_timeout(Some(Duration::from_secs(1)))?;
    let mut chunk = [0; CHUNK];
    for _ in 0..HEAD_MAX / CHUNK {
        if socket.read(&mut chunk)? == 0 {
            break;
        }
    }
    Ok(())
}

fn answer(status: u16, name: &str, keep_alive: bool, headers_only: bool) -> Vec<u8> {
    let reason = match status {
        200 => "OK",
        400 => "Bad Request",
        408 => "Request Timeout",
        431 => "Request Header Fields Too Large",
        501 => "Not Implemented",
        _ => "Service Unavailable",
    };
    let connection = if keep_alive { "keep-alive" } else { "close" };
    let mut text = String::with_capacity(160 + 2 * name.len());
    // Writing to a string can't fail.
    let _ = write!(
        text,
        "HTTP/1.1 {status} {reason}\r\nContent-Type: text/plain\r\nContent-Length: {}\r\nX-Backend: {name}\r\n\
         Connection: {connection}\r\n\r\n",
        name.len() + 1
    );
    if !headers_only {
        text.push_str(name);
        text.push('\n');
    }
    text.into_bytes()
}

#[cfg(test)]
mod tests {
    use super::super::tests::{connect, options};
    use super::super::{Options, Server};
    use super::*;
    use proptest::prelude::*;
    use std::net::Shutdown;

    fn request(text: &str) -> Request {
        parse(text.as_bytes()).unwrap().unwrap()
    }

    /// Sends bytes and a FIN, and returns the whole answer.
    fn exchange(server: &Server, bytes: &[u8]) -> String {
        let mut stream = connect(server);
        stream.write_all(bytes).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    #[test]
    fn keep_alive_follows_the_http_version() {
        for (text, keep) in [
            ("GET / HTTP/1.1\r\n\r\n", true),
            ("GET / HTTP/1.1\r\nConnection: Close\r\n\r\n", false),
            ("GET / HTTP/1.1\r\nConnection: upgrade, close\r\n\r\n", false),
            ("GET / HTTP/1.0\r\n\r\n", false),
            ("GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", true),
        ] {
            assert_eq!(request(text).keep_alive, keep, "{text}");
        }
    }

    #[test]
    fn content_length_is_parsed_strictly() {
        assert_eq!(request("POST / HTTP/1.1\r\nContent-Length: 12\r\n\r\n").body, 12);
        assert_eq!(request("POST / HTTP/1.1\r\ncontent-length: 3\r\nContent-Length: 3\r\n\r\n").body, 3);
        for value in ["", "-1", "+1", "1x", "99999999999999999999999", "3\r\nContent-Length: 4"] {
            let text = format!("POST / HTTP/1.1\r\nContent-Length: {value}\r\n\r\n");
            assert_eq!(parse(text.as_bytes()), Err(Refusal::Bad), "{value}");
        }
        let chunked = b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n";
        assert_eq!(parse(chunked), Err(Refusal::Chunked));
    }

    #[test]
    fn pipelined_requests_with_bodies_are_answered_in_turn() {
        let server = Server::start(options()).unwrap();
        let answer = exchange(
            &server,
            b"POST /a HTTP/1.1\r\nContent-Length: 5\r\n\r\nhelloHEAD /b HTTP/1.1\r\n\r\nGET /c HTTP/1.1\r\n\r\n",
        );
        assert_eq!(answer.matches("HTTP/1.1 200 OK\r\n").count(), 3, "{answer}");
        assert_eq!(answer.matches("\r\n\r\nweb1\n").count(), 2, "HEAD has no body: {answer}");
        assert_eq!(server.served(), 3);
    }

    #[test]
    fn a_body_larger_than_any_buffer_is_skipped() {
        let server = Server::start(options()).unwrap();
        let mut bytes = b"PUT / HTTP/1.1\r\nContent-Length: 300000\r\n\r\n".to_vec();
        bytes.resize(bytes.len() + 300_000, b'x');
        bytes.extend_from_slice(b"GET / HTTP/1.1\r\n\r\n");
        assert_eq!(exchange(&server, &bytes).matches(" 200 OK").count(), 2);
    }

    #[test]
    fn expect_100_continue_is_answered() {
        let server = Server::start(options()).unwrap();
        let mut stream = connect(&server);
        stream.write_all(b"PUT / HTTP/1.0\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n").unwrap();
        let mut leave = [0; 25];
        stream.read_exact(&mut leave).unwrap();
        assert_eq!(&leave, b"HTTP/1.1 100 Continue\r\n\r\n");
        stream.write_all(b"hi").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
    }

    #[test]
    fn malformed_requests_get_an_error_status() {
        let server = Server::start(options()).unwrap();
        for (bytes, status) in [
            (b"\x16\x03\x01 tls\r\n\r\n".to_vec(), 400),
            (b"GET / HT".to_vec(), 400),
            (b"GET / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n".to_vec(), 501),
            ([b"GET / HTTP/1.1\r\nA: ".to_vec(), vec![b'a'; 20_000]].concat(), 431),
            ([b"GET / HTTP/1.1\r\n".to_vec(), b"A: b\r\n".repeat(65)].concat(), 431),
        ] {
            let answer = exchange(&server, &bytes);
            assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{status}: {answer}");
            assert!(answer.contains("Connection: close"), "{answer}");
        }
        assert_eq!(server.served(), 0);
    }

    #[test]
    fn latency_and_work_come_before_each_answer() {
        for (latency, work) in [(30, 0), (0, 30), (20, 20)] {
            let (latency, work) = (Duration::from_millis(latency), Duration::from_millis(work));
            let server = Server::start(Options { latency, work, ..options() }).unwrap();
            let begun = Instant::now();
            exchange(&server, b"GET / HTTP/1.1\r\n\r\nGET / HTTP/1.1\r\n\r\n");
            assert!(begun.elapsed() >= 2 * (latency + work), "{:?}", begun.elapsed());
        }
    }

    proptest! {
        #[test]
        fn parsing_never_panics_nor_reads_beyond_the_buffer(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(Some(request)) = parse(&bytes) {
                prop_assert!(request.head <= bytes.len());
            }
        }

        #[test]
        fn parsing_never_panics_on_almost_right_heads(
            lines in proptest::collection::vec("(Content-Length|Connection|Expect|X)?(: ?)[0-9a-z, -]{0,12}", 0..5)
        ) {
            let _ = parse(format!("GET / HTTP/1.1\r\n{}\r\n\r\n", lines.join("\r\n")).as_bytes());
        }
    }
}
