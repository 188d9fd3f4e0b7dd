//! A tcplb under test with its admin API.

use serde_json::Value;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::process::Output;
use std::thread;
use std::time::Instant;
pub use testkit::{Answer, PATIENCE, Process, answer, ask, talk, tcplb};
use testkit::{ConfigFile, Started, Tcplb};

/// A test server and where it is.
pub fn backend(name: &str, flags: &[&str]) -> (Process, String) {
    let process = Process::start(&[&["backend", "--listen", "127.0.0.1:0", "--name", name], flags].concat());
    let address = process.after("listening on ");
    (process, address)
}

/// A balancer with an admin API.
pub struct Balancer {
    pub process: Started,
    pub listen: String,
    pub admin: String,
}

impl Balancer {
    /// With these flags beside `--listen` and `--admin`.
    pub fn start(flags: &[&str]) -> Balancer {
        let tcplb = Tcplb::new().args(["-w", "1", "--admin", "127.0.0.1:0"]).args(flags.iter().copied());
        Balancer::of(tcplb.start().into())
    }

    /// With a file of this text, which has an admin API.
    pub fn from_text(text: impl Into<String>) -> Balancer {
        Balancer::of(ConfigFile::of(text).start())
    }

    /// One that was started.
    pub fn of(process: Started) -> Balancer {
        let listen = process.after("listening on ");
        let admin = process.after("admin on http://");
        Balancer { process, listen, admin }
    }

    /// Without any backend that lives.
    pub fn idle() -> Balancer {
        Balancer::start(&["-b", "127.0.0.1:1,name=web1", "--health", "off", "--upgrade", "off"])
    }

    /// Writes another text into its file and has it read again.
    #[track_caller]
    pub fn reload(&self, text: &str) -> Answer {
        self.process.file().rewrite(text);
        self.call("POST", "/v1/reload", "")
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

    /// `tcplb ARGUMENTS`, with the address of this one.
    pub fn client(&self, arguments: &[&str]) -> Output {
        tcplb(arguments).env("TCPLB_ADMIN", &self.admin).output().expect("it runs")
    }
}
