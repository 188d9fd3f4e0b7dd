//! The threads: one accepts, at most [`CONNECTIONS_MAX`] short-lived ones talk to a client each.
//!
//! A client too many gets a written 503. Its connection is kept for a moment, because closing it with an unread request
//! would send a reset that may overtake the answer; how many are kept is bounded too.
//!
//! Nothing here can hold up the balancer: no thread of it waits for one of these.

use super::http::{self, Deadline, Refusal, Response};
use crate::net::listen::Listening;
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token, Waker};
use socket2::Socket;
use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// Clients talked to at once.
pub const CONNECTIONS_MAX: usize = 16;
/// Refused clients whose connection is kept for [`KEPT_FOR`]; more are cut off.
const KEPT_MAX: usize = 64;
const KEPT_FOR: Duration = Duration::from_secs(1);
/// Without a descriptor to accept with, look again after this long.
const PAUSE: Duration = Duration::from_millis(100);
/// Answers are built on the heap; this is for parsing and the JSON of small requests.
const STACK: usize = 256 * 1024;
const WAKER: Token = Token(usize::MAX);

/// What answers.
pub type Handler = dyn Fn(&http::Request, Peer) -> Response + Send + Sync;

/// How a client came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peer {
    /// By TCP.
    Inet,
    /// By a unix socket.
    Unix,
}

/// The running server. Dropping it closes the listeners; answers under way are finished.
#[derive(Debug)]
pub struct Server {
    stopping: Arc<AtomicBool>,
    waker: Arc<Waker>,
    thread: Option<JoinHandle<()>>,
}

struct Accept {
    poll: Poll,
    listening: Vec<(Socket, Peer)>,
    handler: Arc<Handler>,
    stopping: Arc<AtomicBool>,
    open: Arc<AtomicUsize>,
    kept: VecDeque<(Instant, Socket)>,
}

/// One of the [`CONNECTIONS_MAX`] places.
struct Place(Arc<AtomicUsize>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Server {
    /// Serves what comes in at `listening`.
    pub fn start(listening: Vec<Listening>, handler: Arc<Handler>) -> io::Result<Server> {
        let poll = Poll::new()?;
        let waker = Arc::new(Waker::new(poll.registry(), WAKER)?);
        let mut sockets = Vec::new();
        for (index, socket) in listening.into_iter().enumerate() {
            let peer = if socket.is_unix() { Peer::Unix } else { Peer::Inet };
            let socket = Socket::from(socket.as_fd().try_clone_to_owned()?);
            poll.registry().register(&mut SourceFd(&socket.as_raw_fd()), Token(index), Interest::READABLE)?;
            sockets.push((socket, peer));
        }
        let stopping = Arc::new(AtomicBool::new(false));
        let (kept, open) = (VecDeque::new(), Arc::new(AtomicUsize::new(0)));
        let accept = Accept { poll, listening: sockets, handler, stopping: stopping.clone(), open, kept };
        let thread = thread::Builder::new().name("admin".to_owned()).spawn(move || accept.run())?;
        Ok(Server { stopping, waker, thread: Some(thread) })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stopping.store(true, Ordering::Release);
        // If waking fails, the thread is left behind: better than waiting for it for ever.
        if self.waker.wake().is_ok()
            && let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            log::error!("the admin thread had panicked");
        }
    }
}

impl Accept {
    fn run(mut self) {
        let mut events = Events::with_capacity(16);
        let mut again = false;
        loop {
            let timeout = if again { Some(PAUSE) } else { (!self.kept.is_empty()).then_some(KEPT_FOR) };
            match self.poll.poll(&mut events, timeout) {
                Err(error) if error.kind() != io::ErrorKind::Interrupted => {
                    log::error!("the admin API ends: can't wait for clients: {error}");
                    return;
                }
                _ => {}
            }
            if self.stopping.load(Ordering::Acquire) {
                return;
            }
            // Few and rarely: asking every listener is simpler than matching events to them.
            again = !(0..self.listening.len()).all(|index| self.accept_all(index));
            let now = Instant::now();
            self.kept.retain(|(since, _)| now.duration_since(*since) < KEPT_FOR);
        }
    }

    /// Accepts until nobody waits; false if it has to be tried again.
    fn accept_all(&mut self, index: usize) -> bool {
        loop {
            let Some((listening, peer)) = self.listening.get(index) else { return true };
            match listening.accept() {
                Ok((socket, _)) => {
                    let peer = *peer;
                    self.take(socket, peer);
                }
                Err(error) => match error.kind() {
                    io::ErrorKind::WouldBlock => return true,
                    io::ErrorKind::Interrupted | io::ErrorKind::ConnectionAborted => {}
                    _ => return false,
                },
            }
        }
    }

    fn take(&mut self, socket: Socket, peer: Peer) {
        let place = Place(self.open.clone());
        // The place counts from here on, whatever becomes of it.
        if self.open.fetch_add(1, Ordering::AcqRel) >= CONNECTIONS_MAX {
            return self.refuse(socket, "too many requests at once");
        }
        let handler = self.handler.clone();
        let Ok(copy) = socket.try_clone() else { return self.refuse(socket, "too many open files") };
        let talk = move || {
            let _place = place;
            // How a connection ends is its client's business.
            let _ = talk(copy, peer, &*handler);
        };
        let spawned = thread::Builder::new().name("admin-call".to_owned()).stack_size(STACK).spawn(talk);
        if spawned.is_err() {
            self.refuse(socket, "no thread can be started");
        }
    }

    fn refuse(&mut self, mut socket: Socket, why: &str) {
        let response = Response::error(503, why).with("Retry-After", "1");
        let mut request = [0; http::HEAD_MAX];
        // An empty send buffer takes all of it; nobody waits for a client that does not take it.
        let _ = socket.set_nonblocking(true);
        let _ = socket.read(&mut request);
        let _ = socket.write(&response.bytes(false)).and_then(|_| socket.shutdown(std::net::Shutdown::Write));
        if self.kept.len() >= KEPT_MAX {
            self.kept.pop_front();
        }
        self.kept.push_back((Instant::now(), socket));
    }
}

fn talk(mut socket: Socket, peer: Peer, handler: &Handler) -> io::Result<()> {
    socket.set_nonblocking(false)?;
    let (response, bodiless) = match http::read(&mut socket, Deadline::after(http::PATIENCE)) {
        Ok(request) => (handler(&request, peer), request.method == "HEAD"),
        Err(Refusal::Answer(status, why)) => (Response::error(status, why), false),
        Err(Refusal::Gone) => return Ok(()),
    };
    http::answer(&mut socket, &response, bodiless)
}
