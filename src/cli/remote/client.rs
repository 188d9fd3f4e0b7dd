//! An HTTP client for the admin API: one request per connection, bounded in time and size, no TLS.

use super::args::Reach;
use crate::admin::http::Deadline;
use crate::config::check::TOKEN_MAX;
use crate::net::listen::unix_address;
use crate::small_file;
use socket2::{Domain, SockAddr, Socket, Type};
use std::io::{self, Read, Write};
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::PathBuf;
use std::time::Duration;

/// The time limit for connecting.
const CONNECT: Duration = Duration::from_secs(5);
/// The time limit for a whole call. A reload may wait for name servers and workers.
const CALL: Duration = Duration::from_secs(60);
/// The longest answer, in bytes: the status of ten thousand backends is about 5 MiB.
const ANSWER_MAX: u64 = 64 << 20;

/// Why a call got no answer.
#[derive(Debug)]
pub enum Failure {
    /// The user's options are wrong.
    Wrong(String),
    /// No tcplb answers at the address.
    Unreachable(String),
}

/// The address of one tcplb, and its token.
#[derive(Debug)]
pub struct Client {
    to: To,
    shown: String,
    token: Option<String>,
    limit: Duration,
}

#[derive(Debug)]
enum To {
    Inet(String),
    Unix(PathBuf),
}

impl Client {
    /// Reads the token; does not connect yet. Fails if an option is wrong.
    pub fn new(reach: &Reach) -> Result<Client, Failure> {
        let shown = reach.admin.clone();
        let to = place(&reach.admin).map_err(|why| Failure::Wrong(format!("--admin: {why}")))?;
        let token = match &reach.token_file {
            Some(path) => {
                let cannot = |error| Failure::Wrong(format!("--token-file: can't read {}: {error}", path.display()));
                let text = small_file::read(path, TOKEN_MAX).map_err(cannot)?;
                Some(String::from_utf8_lossy(&text).into_owned())
            }
            None => std::env::var("TCPLB_TOKEN").ok(),
        };
        let token = token.map(|token| token.trim().to_owned()).filter(|token| !token.is_empty());
        if token.as_ref().is_some_and(|token| !token.bytes().all(|byte| byte.is_ascii_graphic())) {
            return Err(Failure::Wrong("the token: expected one word of visible ASCII".to_owned()));
        }
        Ok(Client { to, shown, token, limit: CALL })
    }

    /// The same with another time limit for a whole call.
    pub fn within(self, limit: Duration) -> Client {
        Client { limit, ..self }
    }

    /// Makes one call and returns the answer's status and body.
    pub fn ask(&self, method: &str, path: &str, body: Option<&[u8]>) -> Result<(u16, Vec<u8>), Failure> {
        let unreachable =
            |error: io::Error| Failure::Unreachable(format!("can't reach tcplb at {}: {error}", self.shown));
        self.call(method, path, body.unwrap_or_default()).map_err(unreachable)
    }

    fn call(&self, method: &str, path: &str, body: &[u8]) -> io::Result<(u16, Vec<u8>)> {
        let deadline = Deadline::after(self.limit);
        let mut socket = self.connect()?;
        let host = match &self.to {
            To::Inet(host) => host.as_str(),
            To::Unix(_) => "localhost",
        };
        let mut request = format!("{method} {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n");
        request.push_str(&format!("User-Agent: tcplb/{}\r\n", env!("CARGO_PKG_VERSION")));
        if let Some(token) = &self.token {
            request.push_str(&format!("Authorization: Bearer {token}\r\n"));
        }
        if method != "GET" {
            request.push_str(&format!("Content-Type: application/json\r\nContent-Length: {}\r\n", body.len()));
        }
        request.push_str("\r\n");
        socket.set_write_timeout(Some(deadline.left()?))?;
        // The answer may come before the whole request is sent; reading it shows an error.
        let _ = socket.write_all(&[request.as_bytes(), body].concat());
        let mut answer = Vec::new();
        let mut chunk = [0; 16 * 1024];
        loop {
            socket.set_read_timeout(Some(deadline.left()?))?;
            match socket.read(&mut chunk) {
                Ok(0) => break,
                Ok(count) => answer.extend_from_slice(&chunk[..count]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Err(io::ErrorKind::TimedOut.into()),
                Err(error) => return Err(error),
            }
            if answer.len() as u64 > ANSWER_MAX {
                return Err(io::Error::other("the answer does not end"));
            }
        }
        parse(answer)
    }

    fn connect(&self) -> io::Result<Socket> {
        let endpoints: Vec<(Domain, SockAddr)> = match &self.to {
            To::Unix(path) => vec![(Domain::UNIX, unix_address(path)?)],
            To::Inet(host) => {
                host.to_socket_addrs()?.map(|at: SocketAddr| (Domain::for_address(at), SockAddr::from(at))).collect()
            }
        };
        let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
        for (domain, to) in endpoints {
            let socket = Socket::new(domain, Type::STREAM.cloexec(), None)?;
            match socket.connect_timeout(&to, CONNECT) {
                Ok(()) => return Ok(socket),
                Err(error) => last = error,
            }
        }
        Err(last)
    }
}

/// Parses the value of `--admin`: an address, a URL or a socket's path.
fn place(text: &str) -> Result<To, String> {
    let wanted = "127.0.0.1:9900, http://host:9900 or unix:/path";
    if let Some(path) = text.strip_prefix("unix:").filter(|path| !path.is_empty()) {
        return Ok(To::Unix(path.into()));
    }
    if text.starts_with("https://") {
        return Err(format!("expected {wanted}, got `{text}`: the admin API speaks no TLS"));
    }
    let host = text.strip_prefix("http://").unwrap_or(text);
    let host = host.strip_suffix('/').unwrap_or(host);
    let (name, port) =
        host.rsplit_once(':').ok_or_else(|| format!("expected {wanted}, got `{text}`: the port is missing"))?;
    let clean = host.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'/');
    if !clean || port.parse::<u16>().is_err() {
        return Err(format!("expected {wanted}, got `{text}`"));
    }
    // An address without a host is every interface, which includes localhost.
    Ok(To::Inet(if name.is_empty() { format!("localhost:{port}") } else { host.to_owned() }))
}

fn parse(answer: Vec<u8>) -> io::Result<(u16, Vec<u8>)> {
    let strange = |why: &str| io::Error::new(io::ErrorKind::InvalidData, why.to_owned());
    let mut rest = answer.as_slice();
    loop {
        let mut headers = [httparse::EMPTY_HEADER; 64];
        let mut parsed = httparse::Response::new(&mut headers);
        let end = match parsed.parse(rest) {
            Ok(httparse::Status::Complete(end)) => end,
            Ok(httparse::Status::Partial) => return Err(strange("the connection closed in the middle of the answer")),
            Err(_) => return Err(strange("the answer is not HTTP")),
        };
        let status = parsed.code.unwrap_or_default();
        let length = parsed.headers.iter().find(|header| header.name.eq_ignore_ascii_case("content-length"));
        let length = length.and_then(|header| std::str::from_utf8(header.value).ok()?.trim().parse::<usize>().ok());
        rest = rest.get(end..).unwrap_or_default();
        if (100..200).contains(&status) {
            continue;
        }
        if length.is_some_and(|length| length > rest.len()) {
            return Err(strange("the connection closed in the middle of the answer"));
        }
        return Ok((status, rest.get(..length.unwrap_or(rest.len())).unwrap_or_default().to_vec()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn addresses_and_urls_are_parsed() {
        for (text, want) in [
            ("127.0.0.1:9900", "127.0.0.1:9900"),
            ("http://localhost:1/", "localhost:1"),
            ("[::1]:9900", "[::1]:9900"),
            (":9900", "localhost:9900"),
        ] {
            assert!(matches!(place(text), Ok(To::Inet(host)) if host == want), "{text}");
        }
        assert!(matches!(place("unix:/run/a"), Ok(To::Unix(path)) if path == std::path::Path::new("/run/a")));
        for text in ["https://a:1", "localhost", "a:x", "http://a:1/path", "unix:", "a b:1", ""] {
            assert!(place(text).is_err(), "{text}");
        }
    }

    #[test]
    fn an_incomplete_answer_is_an_error() {
        let parsed = |text: &str| parse(text.as_bytes().to_vec()).ok();
        assert_eq!(parsed("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nabc"), Some((200, b"ab".to_vec())));
        assert_eq!(parsed("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 404 x\r\n\r\nabc"), Some((404, b"abc".to_vec())));
        assert_eq!(parsed("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nab"), None);
        assert_eq!(parsed("HTTP/1.1 200 OK\r\n"), None);
        assert_eq!(parsed("SSH-2.0-x\r\n"), None);
    }

    proptest! {
        #[test]
        fn no_answer_makes_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200), text in ".{0,30}") {
            let _ = (parse(bytes), place(&text));
        }
    }
}
