//! A tcplb under test with its admin API, and an HTTP client that shows everything.

pub use crate::process::{PATIENCE, Process, tcplb};
use serde_json::Value;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::Output;
use std::thread;
use std::time::Instant;

/// A test server and where it is.
pub fn backend(name: &str, flags: &[&str]) -> (Process, String) {
    let process = Process::start(&[&["backend", "--listen", "127.0.0.1:0", "--name", name], flags].concat());
    let address = process.after("listening on ");
    (process, address)
}

/// A balancer with an admin API.
pub struct Balancer {
    pub process: Process,
    pub listen: String,
    pub admin: String,
}

impl Balancer {
    /// With these flags beside `--listen` and `--admin`.
    pub fn start(flags: &[&str]) -> Balancer {
        let process = Process::start(&[&["-l", "127.0.0.1:0", "-w", "1", "--admin", "127.0.0.1:0"], flags].concat());
        let listen = process.after("listening on ");
        let admin = process.after("admin on http://");
        Balancer { process, listen, admin }
    }

    /// From a file, whose one listener and admin API are on free ports.
    pub fn from_file(path: &Path) -> Balancer {
        let process = Process::start(&["--config", path.to_str().expect("a path in UTF-8")]);
        let listen = process.after("listening on ");
        let admin = process.after("admin on http://");
        Balancer { process, listen, admin }
    }

    /// Without any backend that lives.
    pub fn idle() -> Balancer {
        Balancer::start(&["-b", "127.0.0.1:1,name=web1", "--health", "off"])
    }

    #[track_caller]
    pub fn get(&self, path: &str) -> Answer {
        self.call("GET", path, "")
    }

    #[track_caller]
    pub fn call(&self, method: &str, path: &str, body: &str) -> Answer {
        ask(&self.admin, method, path, &[], body)
    }

    #[track_caller]
    pub fn status(&self) -> Value {
        self.get("/v1/status").json(200)
    }

    /// Asks `/v1/status` until it is as wanted.
    #[track_caller]
    pub fn wait(&self, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let end = Instant::now() + PATIENCE;
        loop {
            let status = self.status();
            if wanted(&status) {
                return status;
            }
            assert!(Instant::now() < end, "never {what}: {status:#}");
            thread::yield_now();
        }
    }

    /// A request through the balancer: what the backend answers.
    pub fn request(&self) -> io::Result<String> {
        let mut stream = TcpStream::connect(&self.listen)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.write_all(b"GET / HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer.lines().last().unwrap_or_default().to_owned())
    }

    /// `tcplb ARGUMENTS`, told where this one is.
    pub fn client(&self, arguments: &[&str]) -> Output {
        tcplb(arguments).env("TCPLB_ADMIN", &self.admin).output().expect("it runs")
    }
}

/// An answer, taken apart.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub head: String,
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

    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
    }
}

/// One call with further header lines.
#[track_caller]
pub fn ask(address: &str, method: &str, path: &str, headers: &[&str], body: &str) -> Answer {
    let mut request = format!("{method} {path} HTTP/1.1\r\nHost: {address}\r\nContent-Length: {}\r\n", body.len());
    headers.iter().for_each(|header| request.push_str(&format!("{header}\r\n")));
    let stream = TcpStream::connect(address).expect("it listens");
    talk(stream, &[request.as_bytes(), b"\r\n", body.as_bytes()].concat())
}

/// Sends bytes and reads the answer.
#[track_caller]
pub fn talk(mut stream: TcpStream, bytes: &[u8]) -> Answer {
    stream.set_read_timeout(Some(PATIENCE)).expect("a socket");
    stream.write_all(bytes).expect("it takes a request");
    answer(stream)
}

/// Reads an answer up to its end.
#[track_caller]
pub fn answer(mut stream: impl Read) -> Answer {
    let mut text = String::new();
    stream.read_to_string(&mut text).expect("a whole answer");
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer but {text:?}"));
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).expect("a status");
    Answer { status, head: head.to_owned(), body: body.to_owned() }
}
