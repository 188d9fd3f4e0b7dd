//! Just enough of an HTTP client, which shows everything of an answer.

use crate::PATIENCE;
use serde_json::Value;
use std::io::{Read, Write};
use std::net::TcpStream;

/// An answer, taken apart.
#[derive(Debug)]
pub struct Answer {
    /// Like 200.
    pub status: u16,
    /// The status line and the header lines.
    pub head: String,
    /// What follows the empty line.
    pub body: String,
}

impl Answer {
    /// The body, if the status is as it should be.
    #[track_caller]
    pub fn json(&self, status: u16) -> Value {
        assert_eq!(self.status, status, "{self:?}");
        assert_eq!(self.header("Content-Type"), Some("application/json"), "{self:?}");
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.body))
    }

    /// The text of `{"error": …}`, if that is all there is and the status is as it should be.
    #[track_caller]
    pub fn error(&self, status: u16) -> String {
        let value = self.json(status);
        let fields: Vec<&String> = value.as_object().expect("an object").keys().collect();
        assert_eq!(fields, ["error"]);
        value["error"].as_str().expect("a text").to_owned()
    }

    /// The value of a header line; names are compared to the letter.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
    }

    fn parse(text: &str) -> Option<Answer> {
        let (head, body) = text.split_once("\r\n\r\n")?;
        let status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).expect("a status");
        Some(Answer { status, head: head.to_owned(), body: body.to_owned() })
    }
}

/// One call with further header lines.
#[track_caller]
pub fn ask(address: &str, method: &str, path: &str, headers: &[&str], body: &str) -> Answer {
    let stream = TcpStream::connect(address).expect("it listens");
    talk(stream, &request(address, method, path, headers, body))
}

/// The same; `None` where the connection ends without an answer.
#[track_caller]
pub fn try_ask(address: &str, method: &str, path: &str) -> Option<Answer> {
    let mut stream = TcpStream::connect(address).expect("it listens");
    send(&mut stream, &request(address, method, path, &[], ""));
    Answer::parse(&text(stream))
}

/// Sends bytes and reads the answer.
#[track_caller]
pub fn talk(mut stream: TcpStream, bytes: &[u8]) -> Answer {
    send(&mut stream, bytes);
    answer(stream)
}

/// Reads an answer up to its end.
#[track_caller]
pub fn answer(stream: impl Read) -> Answer {
    let text = text(stream);
    Answer::parse(&text).unwrap_or_else(|| panic!("no answer but {text:?}"))
}

fn request(address: &str, method: &str, path: &str, headers: &[&str], body: &str) -> Vec<u8> {
    let mut head = format!("{method} {path} HTTP/1.1\r\nHost: {address}\r\nContent-Length: {}\r\n", body.len());
    headers.iter().for_each(|header| head.push_str(&format!("{header}\r\n")));
    [head.as_bytes(), b"\r\n", body.as_bytes()].concat()
}

#[track_caller]
fn send(stream: &mut TcpStream, bytes: &[u8]) {
    stream.set_read_timeout(Some(PATIENCE)).expect("a socket");
    stream.write_all(bytes).expect("it takes a request");
}

#[track_caller]
fn text(mut stream: impl Read) -> String {
    let mut text = String::new();
    stream.read_to_string(&mut text).expect("a whole answer");
    text
}
