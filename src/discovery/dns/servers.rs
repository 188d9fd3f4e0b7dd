//! The exchange with name servers: UDP, TCP for answers that were cut, one server after the other.

use super::message::{ALIASES_MAX, Answer, Query, Reading, Wanted, normal};
use rustix::rand::{GetRandomFlags, getrandom};
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

/// The largest message.
const MESSAGE_MAX: usize = u16::MAX as usize;

/// Name servers, and how long each is waited for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Servers {
    /// In the order in which they are asked. The one that answered last comes first.
    pub at: Vec<SocketAddr>,
    /// How long one exchange with one server may take.
    pub timeout: Duration,
    /// How often each server is asked before the query fails.
    pub attempts: u32,
    /// When the query fails in any case.
    pub until: Instant,
}

/// Why an exchange has no answer.
enum Failure {
    /// The server does not answer, or its answer can't be used.
    Server(String),
    /// The server takes no options.
    NoOptions,
}

impl Servers {
    /// The records of a name, its aliases followed. Fails with the reason of each server.
    pub fn ask(&mut self, name: &str, wanted: Wanted) -> Result<Answer, String> {
        let (mut name, mut ttl) = (normal(name), None::<Duration>);
        for _ in 0..=ALIASES_MAX {
            let mut answer = self.ask_once(&name, wanted)?;
            ttl = answer.ttl.into_iter().chain(ttl).min();
            match answer.alias.take() {
                Some(alias) => name = alias,
                None => return Ok(Answer { ttl, ..answer }),
            }
        }
        Err(format!("{name}: more than {ALIASES_MAX} aliases lead to each other"))
    }

    fn ask_once(&mut self, name: &str, wanted: Wanted) -> Result<Answer, String> {
        let mut reasons: Vec<String> = Vec::new();
        for _ in 0..self.attempts {
            for server in 0..self.at.len() {
                let at = self.at[server];
                let mut outcome = self.exchange(at, name, wanted, true);
                if let Err(Failure::NoOptions) = outcome {
                    outcome = self.exchange(at, name, wanted, false);
                }
                let why = match outcome {
                    Ok(answer) => {
                        self.at[..=server].rotate_right(1);
                        return Ok(answer);
                    }
                    Err(Failure::Server(why)) => format!("name server {at}: {why}"),
                    Err(Failure::NoOptions) => format!("name server {at}: does not understand the query"),
                };
                if !reasons.contains(&why) {
                    reasons.push(why);
                }
                if self.until <= Instant::now() {
                    break;
                }
            }
        }
        match reasons.is_empty() {
            true => Err("there is no name server".to_owned()),
            false => Err(reasons.join("; ")),
        }
    }

    /// One query, one server.
    fn exchange(&self, at: SocketAddr, name: &str, wanted: Wanted, options: bool) -> Result<Answer, Failure> {
        let end = self.until.min(Instant::now() + self.timeout);
        let id = random().map_err(|error| Failure::Server(format!("no random number: {error}")))?;
        let query = Query::new(name, wanted, id, options).map_err(Failure::Server)?;
        let reading = match by_udp(at, &query, end).map_err(|error| Failure::Server(cause(&error)))? {
            Reading::Truncated => {
                let end = self.until.min(Instant::now() + self.timeout);
                by_tcp(at, &query, end).map_err(|error| Failure::Server(format!("by TCP: {}", cause(&error))))?
            }
            reading => reading,
        };
        match reading {
            Reading::Answer(answer) => Ok(answer),
            Reading::NoOptions => Err(Failure::NoOptions),
            Reading::Failed(why) => Err(Failure::Server(why)),
            Reading::NotOurs => Err(Failure::Server("answered another question".to_owned())),
            Reading::Truncated => Err(Failure::Server("cut its answer by TCP too".to_owned())),
        }
    }
}

/// A number from the kernel's generator, which has no state that another process could guess (RFC 5452, section 4.3).
fn random() -> io::Result<u16> {
    let mut bytes = [0; 2];
    // The kernel fills so few bytes whole.
    getrandom(&mut bytes, GetRandomFlags::empty())?;
    Ok(u16::from_ne_bytes(bytes))
}

/// A new socket for each query, so that its port is another one (RFC 5452). It is connected: the kernel drops what others send.
fn by_udp(at: SocketAddr, query: &Query, end: Instant) -> io::Result<Reading> {
    let local: SocketAddr = match at {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let socket = UdpSocket::bind(local)?;
    socket.connect(at)?;
    socket.send(query.bytes())?;
    let mut message = vec![0; MESSAGE_MAX];
    loop {
        socket.set_read_timeout(Some(left(end)?))?;
        let count = match socket.recv(&mut message) {
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        match query.read(message.get(..count).unwrap_or_default()) {
            Reading::NotOurs => {}
            reading => return Ok(reading),
        }
    }
}

/// RFC 7766: a length of two bytes before each message.
fn by_tcp(at: SocketAddr, query: &Query, end: Instant) -> io::Result<Reading> {
    let mut stream = TcpStream::connect_timeout(&at, left(end)?)?;
    let length = u16::try_from(query.bytes().len()).map_err(io::Error::other)?;
    stream.set_write_timeout(Some(left(end)?))?;
    stream.write_all(&[&length.to_be_bytes(), query.bytes()].concat())?;
    let mut length = [0; 2];
    fill(&mut stream, &mut length, end)?;
    let mut message = vec![0; u16::from_be_bytes(length).into()];
    fill(&mut stream, &mut message, end)?;
    Ok(query.read(&message))
}

/// Reads as many bytes as there is room. A peer that sends slowly has no more time than others.
fn fill(stream: &mut TcpStream, mut room: &mut [u8], end: Instant) -> io::Result<()> {
    while !room.is_empty() {
        stream.set_read_timeout(Some(left(end)?))?;
        match stream.read(room) {
            Ok(0) => return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the answer ends early")),
            Ok(count) => room = room.get_mut(count..).unwrap_or_default(),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// The time that is left, which is never zero.
fn left(end: Instant) -> io::Result<Duration> {
    let left = end.saturating_duration_since(Instant::now());
    if left.is_zero() { Err(io::ErrorKind::TimedOut.into()) } else { Ok(left) }
}

fn cause(error: &io::Error) -> String {
    match error.kind() {
        // A read that times out is one of both.
        io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock => "no answer".to_owned(),
        io::ErrorKind::ConnectionRefused => "connection refused".to_owned(),
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests;
