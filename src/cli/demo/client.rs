//! The demo's client: sends requests at a steady rate, each on a new connection, and counts the answers of each
//! backend.
//!
//! It sends one request at a time: a slow answer delays the next request.

use crate::base::Endpoint;
use crate::net::listen::unix_address;
use crossbeam_channel::{Receiver, Sender, bounded};
use parking_lot::{Mutex, MutexGuard};
use socket2::{Domain, SockAddr, Socket, Type};
use std::io::{self, Read, Write};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// How long a request may take before it counts as failed.
const PATIENCE: Duration = Duration::from_secs(3);
/// The longest answer, in bytes; far more than a test server sends.
const ANSWER_MAX: u64 = 4096;

/// The running client; dropping it stops it.
pub struct Client {
    shared: Arc<Shared>,
    running: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// Answers and failures so far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Answers by backend, in the order of the given names.
    pub answered: Vec<u64>,
    /// Requests without a good answer.
    pub failed: u64,
    /// The error of the last request that failed.
    pub why: Option<String>,
}

struct Shared {
    target: Endpoint,
    names: Vec<&'static str>,
    interval: Duration,
    /// Locked during a request.
    asking: Mutex<()>,
    counts: Mutex<Counts>,
}

impl Client {
    /// Starts to send `rate` requests a second to `target`.
    pub fn start(target: Endpoint, names: Vec<&'static str>, rate: u32) -> io::Result<Client> {
        let counts = Mutex::new(Counts { answered: vec![0; names.len()], ..Counts::default() });
        let interval = Duration::from_secs(1) / rate.max(1);
        let shared = Arc::new(Shared { target, names, interval, asking: Mutex::new(()), counts });
        let (running, stopping) = bounded(0);
        let work = shared.clone();
        let thread = thread::Builder::new().name("client".to_owned()).spawn(move || work.run(&stopping))?;
        Ok(Client { shared, running: Some(running), thread: Some(thread) })
    }

    /// The counts so far.
    pub fn counts(&self) -> Counts {
        self.shared.counts.lock().clone()
    }

    /// While the guard is held, no request is in progress.
    pub fn between_requests(&self) -> MutexGuard<'_, ()> {
        self.shared.asking.lock()
    }

    /// Stops, and returns the final counts.
    pub fn stop(mut self) -> Counts {
        self.end();
        self.counts()
    }

    fn end(&mut self) {
        self.running.take();
        if let Some(thread) = self.thread.take() {
            // A panic has been reported already.
            let _ = thread.join();
        }
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.end();
    }
}

impl Shared {
    fn run(&self, stopping: &Receiver<()>) {
        let mut due = Instant::now();
        loop {
            let result = {
                let _asking = self.asking.lock();
                self.ask()
            };
            self.note(result);
            // When late, it continues from now: catching up would send a burst.
            due = (due + self.interval).max(Instant::now());
            let stopped = stopping.recv_deadline(due).is_err_and(|error| error.is_disconnected());
            if stopped {
                return;
            }
        }
    }

    fn note(&self, result: io::Result<String>) {
        let answered = result.map_err(|error| error.to_string()).and_then(|body| {
            let index = self.names.iter().position(|name| *name == body.trim_end());
            index.ok_or_else(|| format!("got `{}`", body.escape_debug()))
        });
        let mut counts = self.counts.lock();
        match answered {
            Ok(index) => counts.answered[index] += 1,
            Err(why) => {
                counts.failed += 1;
                counts.why = Some(why);
            }
        }
    }

    /// Sends one request and returns the body of a good answer.
    fn ask(&self) -> io::Result<String> {
        let (domain, address) = match &self.target {
            Endpoint::Inet(at) => (Domain::for_address(*at), SockAddr::from(*at)),
            Endpoint::Unix(path) => (Domain::UNIX, unix_address(path)?),
        };
        let mut socket = Socket::new(domain, Type::STREAM.cloexec(), None)?;
        socket.connect_timeout(&address, PATIENCE)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        socket.set_write_timeout(Some(PATIENCE))?;
        socket.write_all(b"GET / HTTP/1.1\r\nHost: demo\r\nConnection: close\r\n\r\n")?;
        let mut answer = String::new();
        socket.take(ANSWER_MAX).read_to_string(&mut answer)?;
        match answer.split_once("\r\n\r\n") {
            Some((head, body)) if head.starts_with("HTTP/1.1 200 ") => Ok(body.to_owned()),
            _ => Err(io::Error::other(format!("got `{}`", answer.lines().next().unwrap_or_default()))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::start_backend;
    use super::*;
    use crate::base::Listen;

    fn wait_until(client: &Client, so: impl Fn(&Counts) -> bool) {
        let end = Instant::now() + Duration::from_secs(10);
        while !so(&client.counts()) {
            assert!(Instant::now() < end, "{:?}", client.counts());
            thread::yield_now();
        }
    }

    #[test]
    fn it_counts_answers_per_backend_and_failures() {
        let server = start_backend("web2", Listen::parse("127.0.0.1:0").unwrap()).unwrap();
        let client = Client::start(server.addr().unwrap().clone(), vec!["web1", "web2"], 1000).unwrap();
        wait_until(&client, |counts| counts.answered[1] >= 3);
        assert_eq!((client.counts().answered[0], client.counts().failed), (0, 0));
        server.set_failing(true);
        wait_until(&client, |counts| counts.failed >= 1);
        assert!(client.counts().why.unwrap().contains("503"));
        {
            let _quiet = client.between_requests();
            server.stop();
        }
        wait_until(&client, |counts| counts.why.as_ref().is_some_and(|why| why.contains("refused")));
        assert!(client.stop().failed >= 2);
    }
}
