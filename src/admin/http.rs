//! Answers in the subset of HTTP/1.1 that the API needs: one request, one answer, then the connection closes.
//! [`super::incoming`] reads requests.
//!
//! One [`Deadline`] bounds the whole answer, whatever the size of the pieces that the peer takes. A time-out per write
//! alone would let a peer that takes a byte a second stay for a day.
//!
//! Not here: keep-alive, TLS, routes.

use std::io::{self, IoSlice, Read, Write};
use std::time::{Duration, Instant};

/// How long a request may take to be whole, and an answer to be taken.
pub const PATIENCE: Duration = Duration::from_secs(10);
/// The most bytes of one write. A kernel that does not preempt itself copies megabytes for a millisecond, and no worker runs on that
/// core meanwhile.
const PIECE: usize = 64 * 1024;
/// Bytes read and discarded after an answer that precedes the end of the request.
pub const LINGER_BYTES: usize = 1024 * 1024;
/// How long discarding may take; see [`LINGER_BYTES`].
pub const LINGER: Duration = Duration::from_secs(1);

/// A connection whose reads and writes can have a time limit.
pub trait Stream: Read + Write {
    /// Sets the time after which a read fails.
    fn limit_read(&mut self, time: Duration) -> io::Result<()>;
    /// Sets the time after which a write fails.
    fn limit_write(&mut self, time: Duration) -> io::Result<()>;
    /// Ends the stream's output with a FIN.
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

/// A point in time by which an operation must end.
#[derive(Clone, Copy, Debug)]
pub struct Deadline(Instant);

impl Deadline {
    /// The deadline this far from now.
    pub fn after(time: Duration) -> Deadline {
        Deadline(Instant::now() + time)
    }

    /// The time left, at least 1 ms, since zero means no limit to a socket. Fails with `TimedOut` when no time is left.
    pub fn left(self) -> io::Result<Duration> {
        let left = self.0.saturating_duration_since(Instant::now());
        if left.is_zero() { Err(io::ErrorKind::TimedOut.into()) } else { Ok(left.max(Duration::from_millis(1))) }
    }
}

/// An HTTP answer.
#[derive(Debug, PartialEq, Eq)]
pub struct Response {
    /// The status code.
    pub status: u16,
    /// The media type of the body.
    pub content_type: &'static str,
    /// Further headers. Values are ours or checked: they hold no line breaks.
    pub headers: Vec<(&'static str, String)>,
    /// The body.
    pub body: Vec<u8>,
}

impl Response {
    /// A JSON document without spaces: the page and `tcplb top` take the state once a second, and clients of `/register`
    /// compare texts. The command line indents it for people.
    pub fn json(status: u16, value: &impl serde::Serialize) -> Response {
        // Serializing our own types can't fail: none has a map with keys that are not text.
        let body = serde_json::to_vec(value).unwrap_or_default();
        Response { status, content_type: "application/json", headers: Vec::new(), body }
    }

    /// An answer `{"error": why}`.
    pub fn error(status: u16, why: impl Into<String>) -> Response {
        Response::json(status, &super::api::Error { error: why.into() })
    }

    /// 503 with `Retry-After`: the request may succeed soon.
    pub fn overloaded(why: &str) -> Response {
        Response::error(503, why).with("Retry-After", "1")
    }

    /// Text of the given media type.
    pub fn text(status: u16, content_type: &'static str, text: impl Into<Vec<u8>>) -> Response {
        Response { status, content_type, headers: Vec::new(), body: text.into() }
    }

    /// Adds a header.
    #[must_use]
    pub fn with(mut self, name: &'static str, value: impl Into<String>) -> Response {
        self.headers.push((name, value.into()));
        self
    }

    /// The answer's bytes on the wire. `bodiless`: the answer to HEAD.
    pub fn bytes(&self, bodiless: bool) -> Vec<u8> {
        let mut bytes = self.head();
        if !bodiless {
            bytes.extend_from_slice(&self.body);
        }
        bytes
    }

    fn head(&self) -> Vec<u8> {
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
        head.into_bytes()
    }
}

/// Sends an answer and closes, so that the peer can read the whole answer.
pub fn answer(stream: &mut impl Stream, response: &Response, bodiless: bool) -> io::Result<()> {
    // A body may have many megabytes, so it is not copied behind the head.
    let (head, body) = (response.head(), if bodiless { &[][..] } else { &response.body });
    let deadline = Deadline::after(PATIENCE);
    let (first, others) = body.split_at(body.len().min(PIECE));
    write_all(stream, &mut [IoSlice::new(&head), IoSlice::new(first)], deadline)?;
    others.chunks(PIECE).try_for_each(|piece| write_all(stream, &mut [IoSlice::new(piece)], deadline))?;
    stream.finish()?;
    // Closing with unread bytes sends a reset, which may overtake the answer. So the peer finishes first, within
    // limits.
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

fn write_all(stream: &mut impl Stream, mut parts: &mut [IoSlice<'_>], deadline: Deadline) -> io::Result<()> {
    while !parts.is_empty() {
        stream.limit_write(deadline.left()?)?;
        match stream.write_vectored(parts) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(count) => IoSlice::advance_slices(&mut parts, count),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// The reason phrase, for readers of a trace of the connection.
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

    /// A peer that has finished sending and takes every byte.
    #[derive(Default)]
    struct Script {
        written: Vec<u8>,
    }

    impl Read for Script {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            Ok(0)
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

    #[test]
    fn an_answer_has_its_length_and_closes_the_connection() {
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
}
