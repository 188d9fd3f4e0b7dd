//! HTTP for sources, and for what registers a backend: HTTP and HTTPS, one call at a time, on the thread of the caller.
//!
//! - Everything is bounded: the time of a call and of its connection, the bytes of an answer, the bytes of one streamed value.
//! - An error names the server and the cause: `http://127.0.0.1:2379: connection refused`. No header and no body of a request is in it.
//!   A server may echo what it was sent: a secret of the call is cut out of its text ([`Call::hiding`]).
//! - Redirects are not followed, and the environment's proxies are not used: a source asks the servers that the
//!   configuration names.
//! - HTTPS trusts the authorities of `ca_file`, or those of the system. `cert_file` and `key_file` are what the client shows. They are
//!   read when a client is made, so a new client has new files.

mod cause;
mod tls;

pub use tls::TlsFiles;

use crate::base::text::Escaped;
use serde::de::{DeserializeOwned, Error as _, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::StreamDeserializer;
use serde_json::de::IoRead;
use std::cell::Cell;
use std::fmt;
use std::io::{self, BufReader, Read};
use std::marker::PhantomData;
use std::net::{SocketAddr, ToSocketAddrs};
use std::rc::Rc;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;
use ureq::config::Config;
use ureq::http::{Request, Uri};
use ureq::tls::TlsConfig;
use ureq::unversioned::resolver::{ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::{DefaultConnector, NextTimeout};
use ureq::{Agent, BodyReader};

/// The time limit of a call, its answer included, unless the client has another.
const CALL: Duration = Duration::from_secs(10);
/// The time limit for a connection, TLS included.
const CONNECT: Duration = Duration::from_secs(5);
/// The most bytes of an answer.
const ANSWER_MAX: u64 = 64 << 20;
/// The most bytes of one value of a stream.
const VALUE_MAX: usize = 1 << 20;
/// The most bytes of an answer's text that an error shows.
const SHOWN_MAX: usize = 200;
/// What a refusal has in the place of a secret.
const HIDDEN: &str = "…";
/// How long a connection without a call is kept, for the next page of an answer.
const IDLE: Duration = Duration::from_secs(1);

/// Makes calls.
pub struct Client {
    agent: Agent,
    limit: Duration,
}

/// A call that was not made yet.
pub struct Call<'a> {
    client: &'a Client,
    server: &'a str,
    request: ureq::http::request::Builder,
    body: Option<String>,
    secret: Option<String>,
}

/// An answer whose body was not read yet.
pub struct Answer {
    /// Like 200.
    pub status: u16,
    server: String,
    secret: Option<String>,
    limit: Duration,
    response: ureq::http::Response<ureq::Body>,
}

/// A body that is a stream of JSON values.
pub struct Values<T> {
    server: String,
    limit: Duration,
    values: StreamDeserializer<'static, IoRead<Bounded>, T>,
    state: Rc<StreamState>,
}

/// What comes next in a stream.
#[derive(Debug, PartialEq, Eq)]
pub enum Next<T> {
    /// A value.
    Value(T),
    /// The server has ended the stream.
    Ended,
    /// The call's time is over.
    TimeOver,
}

/// Reads a stream, up to a number of bytes that its owner renews.
struct Bounded {
    body: BufReader<BodyReader<'static>>,
    state: Rc<StreamState>,
}

/// What a stream's reader and its owner share.
struct StreamState {
    /// The bytes that the current value may still have.
    left: Cell<usize>,
    /// The bytes that were received and not read yet, up to the last one that is no white space. Values are read byte by byte,
    /// so they are counted once for each filling of the buffer.
    ahead: Cell<usize>,
}

/// Looks names up on threads of its own, so that a silent name server delays no call beyond its time.
#[derive(Debug)]
struct Names;

/// Checks the URL of a server, and returns it without a slash at its end. It has a scheme, a host and, if it is not the
/// scheme's own, a port; nothing else.
pub fn server(text: &str) -> Result<String, String> {
    let wrong =
        |why: &str| Err(format!("expected http://HOST:PORT or https://HOST:PORT, got `{}`: {why}", Escaped(text)));
    let Ok(uri) = text.parse::<Uri>() else { return wrong("it is no URL") };
    let (Some("http" | "https"), Some(authority)) = (uri.scheme_str(), uri.authority()) else {
        return wrong("it does not begin with http:// or https://");
    };
    if authority.as_str().contains('@') {
        // It may hold a password, so the message leaves the text out.
        return Err("expected http://HOST:PORT or https://HOST:PORT without user and password".to_owned());
    }
    let port = authority.as_str().strip_prefix(authority.host()).unwrap_or_default();
    let is_port =
        |port: &str| port.strip_prefix(':').is_some_and(|port| port.parse::<u16>().is_ok_and(|port| port > 0));
    if authority.host().is_empty() || !(port.is_empty() || is_port(port)) {
        return wrong("the port is not a number from 1 to 65535");
    }
    if uri.query().is_some() || !matches!(uri.path(), "" | "/") {
        return wrong("there is a path behind the host");
    }
    Ok(text.strip_suffix('/').unwrap_or(text).to_owned())
}

impl Client {
    /// Reads the files. Fails if one can't be read or holds something else.
    pub fn new(files: TlsFiles<'_>) -> Result<Client, String> {
        Ok(Client::with(tls::config(files)?, CALL))
    }

    /// The same with another time limit for a whole call, like that of a stream.
    pub fn within(&self, limit: Duration) -> Client {
        Client::with(self.agent.config().tls_config().clone(), limit)
    }

    fn with(tls: TlsConfig, limit: Duration) -> Client {
        let config = Config::builder()
            .tls_config(tls)
            .proxy(None)
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .user_agent(concat!("tcplb/", env!("CARGO_PKG_VERSION")))
            .timeout_connect(Some(CONNECT.min(limit)))
            .timeout_resolve(Some(CONNECT.min(limit)))
            .timeout_global(Some(limit))
            .max_idle_connections(1)
            .max_idle_age(IDLE)
            .build();
        Client { agent: Agent::with_parts(config, DefaultConnector::new(), Names), limit }
    }

    /// A GET of `path` from a [`server`].
    pub fn get<'a>(&'a self, server: &'a str, path: &str) -> Call<'a> {
        Call { client: self, server, request: Request::get(format!("{server}{path}")), body: None, secret: None }
    }

    /// A POST of JSON to `path` of a [`server`].
    pub fn post<'a>(&'a self, server: &'a str, path: &str, body: &serde_json::Value) -> Call<'a> {
        let request = Request::post(format!("{server}{path}")).header("Content-Type", "application/json");
        Call { client: self, server, request, body: Some(body.to_string()), secret: None }
    }
}

impl Call<'_> {
    /// With a header.
    pub fn header(mut self, name: &'static str, value: &str) -> Self {
        self.request = self.request.header(name, value);
        self
    }

    /// This word never stands in the text of a refusal.
    pub fn hiding(self, secret: String) -> Self {
        Call { secret: Some(secret), ..self }
    }

    /// Makes the call, and waits for the head of the answer.
    pub fn send(self) -> Result<Answer, String> {
        let Call { client: Client { agent, limit }, server, request, body, secret } = self;
        let sent = match body {
            Some(body) => request.body(body).map_err(ureq::Error::from).and_then(|request| agent.run(request)),
            None => request.body(()).map_err(ureq::Error::from).and_then(|request| agent.run(request)),
        };
        let response = sent.map_err(|error| cause::of_head(server, *limit, error))?;
        Ok(Answer { status: response.status().as_u16(), server: server.to_owned(), secret, limit: *limit, response })
    }
}

impl Answer {
    /// Whether the status is one of success.
    pub fn is_success(&self) -> bool {
        (200..300).contains(&self.status)
    }

    /// The value of a header.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.response.headers().get(name)?.to_str().ok()
    }

    /// The whole body.
    pub fn bytes(self) -> Result<Vec<u8>, String> {
        let read = self.response.into_body().into_with_config().limit(ANSWER_MAX).read_to_vec();
        read.map_err(|error| cause::text(&self.server, self.limit, error))
    }

    /// The whole body as JSON.
    pub fn json<T: DeserializeOwned>(self) -> Result<T, String> {
        let server = self.server.clone();
        let bytes = self.bytes()?;
        serde_json::from_slice(&bytes).map_err(|error| format!("{server}: the answer is not understood: {error}"))
    }

    /// The error that an answer without success is: the server, the status, and the beginning of the body.
    pub fn failure(self) -> String {
        let (server, status) = (self.server.clone(), self.status);
        failure(&server, status, &String::from_utf8_lossy(&self.refusal()))
    }

    /// The body of an answer without success, without the secret of the call.
    pub fn refusal(mut self) -> Vec<u8> {
        let secret = self.secret.take().filter(|secret| !secret.is_empty());
        let bytes = self.bytes().unwrap_or_default();
        match secret {
            Some(secret) => String::from_utf8_lossy(&bytes).replace(&secret, HIDDEN).into_bytes(),
            None => bytes,
        }
    }

    /// The body as JSON values, one after the other. Their time is that of the call; an endless stream needs no end.
    pub fn values<T: DeserializeOwned>(self) -> Values<T> {
        let state = Rc::new(StreamState { left: Cell::new(VALUE_MAX), ahead: Cell::new(0) });
        let body = BufReader::new(self.response.into_body().into_reader());
        let values = StreamDeserializer::new(IoRead::new(Bounded { body, state: state.clone() }));
        Values { server: self.server, limit: self.limit, values, state }
    }
}

/// A list of at most `MOST` values. A longer one is an error once it is too long: many small values need far more memory than their text.
pub fn list<'de, const MOST: usize, T: Deserialize<'de>, D: Deserializer<'de>>(from: D) -> Result<Vec<T>, D::Error> {
    struct List<const MOST: usize, T>(PhantomData<T>);
    impl<'de, const MOST: usize, T: Deserialize<'de>> Visitor<'de> for List<MOST, T> {
        type Value = Vec<T>;

        fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
            out.write_str("a list")
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut values: A) -> Result<Vec<T>, A::Error> {
            let mut list = Vec::new();
            while let Some(value) = values.next_element()? {
                if list.len() == MOST {
                    return Err(A::Error::custom(format!("more than {MOST} entries")));
                }
                list.push(value);
            }
            Ok(list)
        }
    }
    from.deserialize_seq(List::<MOST, T>(PhantomData))
}

/// A text as a part of a path or as the value of a parameter.
pub fn encoded(text: &str) -> String {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    text.bytes()
        .map(|byte| if is_plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") })
        .collect()
}

/// The error of an answer without success, whose body says why.
pub fn failure(server: &str, status: u16, why: &str) -> String {
    let shown: String = why.trim().chars().take(SHOWN_MAX).collect();
    if shown.is_empty() {
        format!("{server}: HTTP {status}")
    } else {
        format!("{server}: HTTP {status}: {}", Escaped(shown))
    }
}

impl<T: DeserializeOwned> Values<T> {
    /// Waits for the next value. After an error there is none.
    pub fn wait(&mut self) -> Result<Next<T>, String> {
        self.state.left.set(VALUE_MAX);
        match self.values.next() {
            Some(Ok(value)) => Ok(Next::Value(value)),
            None => Ok(Next::Ended),
            Some(Err(error)) if error.is_io() => match ureq::Error::from(io::Error::from(error)) {
                ureq::Error::Timeout(_) => Ok(Next::TimeOver),
                error => Err(cause::text(&self.server, self.limit, error)),
            },
            Some(Err(error)) => Err(format!("{}: the answer is not understood: {error}", self.server)),
        }
    }
}

impl<T> Values<T> {
    /// Whether a part of the next value was received already: its rest follows soon.
    pub fn has_more(&self) -> bool {
        self.state.ahead.get() > 0
    }
}

impl Read for Bounded {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let left = self.state.left.get();
        let most = into.len().min(left);
        if most == 0 && !into.is_empty() {
            return Err(io::Error::other(format!("a value has more than {} MiB", VALUE_MAX >> 20)));
        }
        let is_filled = self.body.buffer().is_empty();
        let count = self.body.read(&mut into[..most])?;
        self.state.left.set(left - count);
        self.state.ahead.set(if is_filled {
            let buffer = self.body.buffer();
            buffer.iter().rposition(|byte| !byte.is_ascii_whitespace()).map_or(0, |place| place + 1)
        } else {
            self.state.ahead.get().saturating_sub(count)
        });
        Ok(count)
    }
}

impl Resolver for Names {
    fn resolve(&self, uri: &Uri, _: &Config, within: NextTimeout) -> Result<ResolvedSocketAddrs, ureq::Error> {
        let host = uri.host().unwrap_or_default();
        let port = uri.port_u16().unwrap_or(if uri.scheme_str() == Some("https") { 443 } else { 80 });
        let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        let found: Vec<SocketAddr> = match bare.parse() {
            Ok(ip) => vec![SocketAddr::new(ip, port)],
            Err(_) => {
                let (name, (found, finding)) = (bare.to_owned(), mpsc::sync_channel(1));
                let look = move || found.send((name.as_str(), port).to_socket_addrs().map(Iterator::collect));
                thread::Builder::new().name("resolver".to_owned()).spawn(look)?;
                finding.recv_timeout(*within.after).map_err(|_| ureq::Error::Timeout(within.reason))??
            }
        };
        let mut addresses = self.empty();
        // Those beyond its room are not tried.
        found.into_iter().for_each(|at| drop(addresses.try_push(at)));
        if addresses.is_empty() { Err(ureq::Error::HostNotFound) } else { Ok(addresses) }
    }
}

#[cfg(test)]
mod tests;
