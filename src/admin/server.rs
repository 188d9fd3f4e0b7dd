//! The thread that accepts callers and reads all their requests, without blocking on any.
//!
//! A caller takes a thread only once its request is whole ([`super::calls`]), so a silent caller delays no other. Calls
//! that never wait ([`Handler::is_immediate`]: `/healthz`, `/readyz`) are answered here, whatever the others do.
//!
//! A caller that waits for news ([`Handler::waits`]) holds no thread either. It stays here until there is some, its time is
//! over, or it finishes sending, as a caller that has gone does.
//!
//! | bound | beyond it |
//! |---|---|
//! | [`AdminShare::reading`] callers whose request is not whole, or that wait for news | the caller that has been silent longest is refused; if none is silent, the oldest one |
//! | [`AdminShare::waiting`] callers that wait for news | the caller is answered without a wait |
//! | [`http::PATIENCE`] for a request | 408 |
//! | [`AdminShare::queued`] whole requests that wait for a thread | 503 |
//! | [`AdminShare::closing`] answered callers that have not closed | the caller that was answered first is closed |
//!
//! A refused caller gets an answer. Its connection stays open for a moment: closing it with unread bytes would send a
//! reset, which may overtake the answer.
//!
//! No thread of the balancer waits for this one.

use super::calls::{Call, Calls};
use super::http::{self, Response};
use super::incoming::{Incoming, Progress, Refusal, Request};
use crate::background;
use crate::base::slots::{Key, Slots};
use crate::config::descriptors::AdminShare;
use crate::net::listen::Listening;
use crate::watchdog::{Heartbeat, Watched};
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Registry, Token, Waker};
use socket2::Socket;
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsFd, AsRawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// Callers accepted at once, before callers that are already connected get their turn.
const BATCH: usize = 16;
/// The pause after accept fails, for example for lack of descriptors.
const PAUSE: Duration = Duration::from_millis(100);
/// How long the end waits for requests that are not whole: their callers are accepted, so a successor does not get them.
const REQUESTS: Duration = Duration::from_secs(1);
/// How long the end waits for answers that are under way: those of an upgrade, of a change.
const ANSWERS: Duration = Duration::from_secs(1);
/// How long the end of the process waits for this thread, which has [`REQUESTS`] and [`ANSWERS`] to do.
const FAREWELL: Duration = Duration::from_secs(3);
const WAKER: Token = Token(usize::MAX);
/// A caller's token is its slot; listeners' tokens lie beyond every slot.
const LISTENERS: usize = usize::MAX / 2;

/// Answers requests.
pub trait Handler: Send + Sync {
    /// Whether the answer neither waits nor takes long, and fits into a send buffer. The accepting thread then gives it, however many callers there
    /// are.
    fn is_immediate(&self, request: &Request) -> bool;

    /// How long a request waits for news before it is answered; `None`: it is answered now. The server asks again when it
    /// is woken.
    fn waits(&self, request: &Request, peer: Peer) -> Option<Duration>;

    /// Calls `wake` when there is news for a request that waits.
    fn set_waker(&self, wake: Box<dyn Fn() + Send>);

    /// Answers a whole request.
    fn answer(&self, request: &Request, peer: Peer) -> Response;
}

/// The transport that a caller used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peer {
    /// TCP.
    Inet,
    /// A unix socket.
    Unix,
}

/// Opens and closes the server for new callers.
#[derive(Clone, Debug)]
pub struct Door {
    closed: Arc<AtomicBool>,
    stopping: Arc<AtomicBool>,
    waker: Arc<Waker>,
}

/// The running server. Dropping it closes the listeners; answers under way are finished.
#[derive(Debug)]
pub struct Server {
    stopping: Arc<AtomicBool>,
    door: Door,
    waker: Arc<Waker>,
    heartbeat: Heartbeat,
    ended: Receiver<()>,
    thread: Option<JoinHandle<()>>,
}

struct AcceptLoop {
    poll: Poll,
    registry: Registry,
    listening: Vec<(Socket, Peer)>,
    handler: Arc<dyn Handler>,
    stopping: Arc<AtomicBool>,
    /// Whether a successor accepts the callers, and whether the listeners are out of epoll for that.
    closed: Arc<AtomicBool>,
    unwatched: bool,
    callers: Slots<Caller>,
    share: AdminShare,
    calls: Calls,
    chunk: Box<[u8]>,
    heartbeat: Heartbeat,
}

struct Caller {
    socket: Socket,
    peer: Peer,
    phase: CallerPhase,
    /// When the phase began, and its deadline.
    since: Instant,
    until: Instant,
}

enum CallerPhase {
    /// The request is not whole.
    Reading(Box<Incoming>),
    /// The request waits for news. Up to this many more bytes are read and discarded.
    Waiting(Box<Request>, usize),
    /// The caller has its answer. Up to this many more bytes are read and discarded.
    Closing(usize),
}

/// The result of accepting at one listener.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Accepted {
    /// No caller waits any more.
    All,
    /// A full batch: more may wait.
    Some,
    /// Accepting failed; try again after [`PAUSE`].
    Failed,
}

impl Server {
    /// Serves callers of `listening`, as many at once as the share grants.
    pub fn start(listening: Vec<Listening>, handler: Arc<dyn Handler>, share: AdminShare) -> io::Result<Server> {
        let poll = Poll::new()?;
        let registry = poll.registry().try_clone()?;
        let waker = Arc::new(Waker::new(&registry, WAKER)?);
        let mut sockets = Vec::new();
        for (index, socket) in listening.into_iter().enumerate() {
            let peer = if socket.is_unix() { Peer::Unix } else { Peer::Inet };
            let socket = Socket::from(socket.as_fd().try_clone_to_owned()?);
            registry.register(&mut SourceFd(&socket.as_raw_fd()), Token(LISTENERS + index), Interest::READABLE)?;
            sockets.push((socket, peer));
        }
        let of_news = waker.clone();
        // A failure to wake delays callers until their wait is over.
        handler.set_waker(Box::new(move || drop(of_news.wake())));
        let stopping = Arc::new(AtomicBool::new(false));
        let heartbeat = Heartbeat::default();
        let closed = Arc::new(AtomicBool::new(false));
        let door = Door { closed, stopping: stopping.clone(), waker: waker.clone() };
        let accept = AcceptLoop {
            poll,
            registry,
            listening: sockets,
            calls: Calls::new(handler.clone(), share),
            handler,
            stopping: stopping.clone(),
            closed: door.closed.clone(),
            unwatched: false,
            callers: Slots::default(),
            share,
            chunk: vec![0; super::incoming::HEAD_MAX].into(),
            heartbeat: heartbeat.clone(),
        };
        let (end, ended) = bounded(0);
        let work = move || {
            let _end: Sender<()> = end;
            background::yield_to_workers();
            accept.run();
        };
        let thread = thread::Builder::new().name("admin".to_owned()).spawn(work)?;
        Ok(Server { stopping, door, waker, heartbeat, ended, thread: Some(thread) })
    }

    /// The handle that keeps new callers out.
    pub fn door(&self) -> Door {
        self.door.clone()
    }

    /// The heartbeat that the watchdog checks.
    pub fn watched(&self) -> Watched {
        let (waker, heartbeat) = (self.waker.clone(), self.heartbeat.clone());
        // A failure to wake needs no report: the heartbeat stops.
        Watched { name: "admin".to_owned(), heartbeat, wake: Box::new(move || drop(waker.wake())) }
    }
}

impl Door {
    /// Whether it accepts callers. A successor does while it does not.
    pub fn set(&self, open: bool) {
        self.closed.store(!open, Ordering::Release);
        // A failure to wake delays this until the next event.
        drop(self.waker.wake());
    }

    /// Another process has the callers for good: the server ends, and closes its listeners. Answers under way are finished.
    pub fn leave(&self) {
        self.stopping.store(true, Ordering::Release);
        drop(self.waker.wake());
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stopping.store(true, Ordering::Release);
        // If waking fails or the thread is stuck, this does not wait for it without end. The channel carries no
        // message: it disconnects when the thread ends.
        if self.waker.wake().is_ok()
            && self.ended.recv_timeout(FAREWELL) != Err(RecvTimeoutError::Timeout)
            && let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            log::error!("the admin thread panicked");
        }
    }
}

impl AcceptLoop {
    fn run(mut self) {
        let mut events = Events::with_capacity(self.share.reading);
        let mut accepted = Accepted::All;
        loop {
            self.heartbeat.beat();
            let pause = match accepted {
                Accepted::All => None,
                Accepted::Some => Some(Duration::ZERO),
                Accepted::Failed => Some(PAUSE),
            };
            let now = Instant::now();
            let deadlines = self.callers.keys().into_iter().filter_map(|key| self.callers.get(key));
            let next = deadlines.map(|caller| caller.until.saturating_duration_since(now)).min();
            match self.poll.poll(&mut events, [pause, next].into_iter().flatten().min()) {
                Err(error) if error.kind() != io::ErrorKind::Interrupted => {
                    log::error!("the admin API ends: can't wait for clients: {error}");
                    return;
                }
                _ => {}
            }
            if self.stopping.load(Ordering::Acquire) {
                self.read_last_requests(&mut events, Instant::now() + REQUESTS);
                self.end_waits();
                self.calls.finish(Instant::now() + ANSWERS);
                self.heartbeat.end();
                return;
            }
            if events.iter().any(|event| event.token() == WAKER) {
                self.answer_news();
            }
            self.drive_ready(&events);
            accepted = Accepted::All;
            self.heed_door();
            if self.unwatched {
                self.expire(Instant::now());
                continue;
            }
            // There are few listeners, so trying all is simpler than matching events to them.
            for index in 0..self.listening.len() {
                let now = self.accept(index);
                if now != Accepted::All {
                    accepted = now;
                }
            }
            self.expire(Instant::now());
        }
    }

    /// Reads on from callers until each request is whole, or the time is over.
    fn read_last_requests(&mut self, events: &mut Events, until: Instant) {
        loop {
            self.drive_ready(events);
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() || self.count(CallerPhase::is_reading) == 0 {
                return;
            }
            if self.poll.poll(events, Some(left)).is_err_and(|error| error.kind() != io::ErrorKind::Interrupted) {
                return;
            }
        }
    }

    fn drive_ready(&mut self, events: &Events) {
        for event in events {
            // A stale event of a caller that is gone costs the slot's next caller one spurious read.
            let key = u32::try_from(event.token().0).ok().and_then(|slot| self.callers.key_of(slot));
            if let Some(key) = key {
                self.drive(key);
            }
        }
    }

    /// Watches the listeners exactly while the door is open.
    fn heed_door(&mut self) {
        let closed = self.closed.load(Ordering::Acquire);
        if std::mem::replace(&mut self.unwatched, closed) == closed {
            return;
        }
        for (index, (socket, _)) in self.listening.iter().enumerate() {
            let (descriptor, token) = (socket.as_raw_fd(), Token(LISTENERS + index));
            let outcome = match closed {
                true => self.registry.deregister(&mut SourceFd(&descriptor)),
                false => self.registry.register(&mut SourceFd(&descriptor), token, Interest::READABLE),
            };
            if let Err(error) = outcome {
                log::error!("the admin API can't change what it watches: {error}");
            }
        }
    }

    fn accept(&mut self, index: usize) -> Accepted {
        for _ in 0..BATCH {
            let Some((listening, peer)) = self.listening.get(index) else { return Accepted::All };
            match listening.accept() {
                Ok((socket, _)) => {
                    let peer = *peer;
                    self.add_caller(socket, peer);
                }
                Err(error) => match error.kind() {
                    io::ErrorKind::WouldBlock => return Accepted::All,
                    io::ErrorKind::Interrupted | io::ErrorKind::ConnectionAborted => {}
                    _ => return Accepted::Failed,
                },
            }
        }
        Accepted::Some
    }

    fn add_caller(&mut self, socket: Socket, peer: Peer) {
        if self.count(CallerPhase::is_reading) + self.count(CallerPhase::is_waiting) >= self.share.reading
            && let Some(key) = self.most_idle()
        {
            self.close_with(key, &Response::overloaded("too many requests at once"));
        }
        if socket.set_nonblocking(true).is_err() {
            return;
        }
        let now = Instant::now();
        let phase = CallerPhase::Reading(Box::default());
        let caller = Caller { socket, peer, phase, since: now, until: now + http::PATIENCE };
        let Some(key) = self.callers.insert_with(|_| caller) else { return };
        let Some(caller) = self.callers.get(key) else { return };
        let token = Token(key.slot as usize);
        if self.registry.register(&mut SourceFd(&caller.socket.as_raw_fd()), token, Interest::READABLE).is_err() {
            self.callers.remove(key);
            return;
        }
        // Most requests arrive with the handshake's last packet, or right after it.
        self.drive(key);
    }

    /// Reads until the socket is empty, the request is whole, or the caller is done.
    fn drive(&mut self, key: Key) {
        loop {
            let Some(caller) = self.callers.get_mut(key) else { return };
            let room = match &caller.phase {
                CallerPhase::Reading(incoming) => incoming.room(),
                CallerPhase::Waiting(_, left) | CallerPhase::Closing(left) => *left,
            };
            let room = room.min(self.chunk.len());
            let read = match caller.socket.read(&mut self.chunk[..room]) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                read => read,
            };
            match (&mut caller.phase, read) {
                (CallerPhase::Reading(incoming), Ok(count)) => {
                    let progress = if count > 0 {
                        incoming.take(&self.chunk[..count])
                    } else {
                        Err(std::mem::take(incoming).cut_short())
                    };
                    match progress {
                        Ok(Progress::More) => {}
                        Ok(Progress::MoreOnContinue) => {
                            // An empty send buffer takes it.
                            let _ = caller.socket.write(b"HTTP/1.1 100 Continue\r\n\r\n");
                        }
                        Ok(Progress::Whole(request)) => return self.answer(key, request),
                        Err(Refusal::Answer(status, why)) => {
                            self.close_with(key, &Response::error(status, why));
                        }
                        Err(Refusal::Gone) => return self.forget(key),
                    }
                }
                (CallerPhase::Waiting(request, _), Ok(0)) => {
                    let request = std::mem::take(&mut **request);
                    return self.answer_now(key, request);
                }
                (CallerPhase::Waiting(_, left) | CallerPhase::Closing(left), Ok(count))
                    if count > 0 && *left > count =>
                {
                    *left -= count;
                }
                (CallerPhase::Waiting(..) | CallerPhase::Closing(_), Ok(_)) | (_, Err(_)) => return self.forget(key),
            }
        }
    }

    fn answer(&mut self, key: Key, request: Request) {
        let Some(Caller { peer, .. }) = self.callers.get(key) else { return };
        if self.count(CallerPhase::is_waiting) < self.share.waiting()
            && let Some(time) = self.handler.waits(&request, *peer)
            && let Some(caller) = self.callers.get_mut(key)
        {
            let now = Instant::now();
            let phase = CallerPhase::Waiting(Box::new(request), http::LINGER_BYTES);
            (caller.phase, caller.since, caller.until) = (phase, now, now + time);
            // The caller may have finished sending already.
            return self.drive(key);
        }
        self.answer_now(key, request);
    }

    fn answer_now(&mut self, key: Key, request: Request) {
        let Some(Caller { peer, .. }) = self.callers.get(key) else { return };
        if !self.handler.is_immediate(&request) {
            return self.call(key, request);
        }
        let response = self.handler.answer(&request, *peer);
        self.reply(key, &response, request.method == "HEAD");
        self.drive(key);
    }

    /// Gives a request to a thread that answers it.
    fn call(&mut self, key: Key, request: Request) {
        let Some(Caller { socket, peer, .. }) = self.callers.remove(key) else { return };
        let _ = self.registry.deregister(&mut SourceFd(&socket.as_raw_fd()));
        if socket.set_nonblocking(false).is_err() {
            return;
        }
        if let Err((mut socket, why)) = self.calls.take(Call { socket, peer, request, since: Instant::now() }) {
            // The whole request is read, so closing sends no reset.
            let _ = socket.set_nonblocking(true);
            let _ = socket.write(&Response::overloaded(why).bytes(false));
        }
    }

    fn close_with(&mut self, key: Key, response: &Response) {
        self.reply(key, response, false);
    }

    /// Answers callers that wait, if there is news for them.
    fn answer_news(&mut self) {
        for key in self.callers.keys() {
            let Some(Caller { phase: CallerPhase::Waiting(request, _), peer, .. }) = self.callers.get_mut(key) else {
                continue;
            };
            if self.handler.waits(request, *peer).is_none() {
                let request = std::mem::take(&mut **request);
                self.answer_now(key, request);
            }
        }
    }

    /// Answers all callers that wait, since the API ends.
    fn end_waits(&mut self) {
        for key in self.callers.keys() {
            if let Some(Caller { phase: CallerPhase::Waiting(request, _), peer, .. }) = self.callers.get(key) {
                let response = self.handler.answer(request, *peer);
                let bodiless = request.method == "HEAD";
                self.reply(key, &response, bodiless);
            }
        }
    }

    /// Writes an answer, then lets the caller read it for at most [`http::LINGER`].
    fn reply(&mut self, key: Key, response: &Response, bodiless: bool) {
        if self.count(CallerPhase::is_closing) >= self.share.closing
            && let Some(first) = self.first(CallerPhase::is_closing)
        {
            self.forget(first);
        }
        let Some(caller) = self.callers.get_mut(key) else { return };
        // An empty send buffer takes all of it. The thread does not wait for a client that does not read.
        let written = caller.socket.write(&response.bytes(bodiless));
        if written.and_then(|_| caller.socket.shutdown(Shutdown::Write)).is_err() {
            return self.forget(key);
        }
        let now = Instant::now();
        (caller.phase, caller.since, caller.until) =
            (CallerPhase::Closing(http::LINGER_BYTES), now, now + http::LINGER);
    }

    /// Dropping the socket also removes it from the poll.
    fn forget(&mut self, key: Key) {
        self.callers.remove(key);
    }

    fn expire(&mut self, now: Instant) {
        for key in self.callers.keys() {
            let Some(caller) = self.callers.get_mut(key).filter(|caller| caller.until <= now) else { continue };
            match &mut caller.phase {
                CallerPhase::Reading(_) => {
                    self.reply(key, &Response::error(408, "the request was not whole within 10 seconds"), false);
                }
                CallerPhase::Waiting(request, _) => {
                    let request = std::mem::take(&mut **request);
                    self.answer_now(key, request);
                }
                CallerPhase::Closing(_) => self.forget(key),
            }
        }
    }

    fn count(&self, is: fn(&CallerPhase) -> bool) -> usize {
        self.callers.keys().into_iter().filter_map(|key| self.callers.get(key)).filter(|it| is(&it.phase)).count()
    }

    /// The caller that has been in this phase longest.
    fn first(&self, is: fn(&CallerPhase) -> bool) -> Option<Key> {
        let mut keys = self.callers.keys();
        keys.retain(|key| self.callers.get(*key).is_some_and(|caller| is(&caller.phase)));
        keys.into_iter().min_by_key(|key| self.callers.get(*key).map(|caller| caller.since))
    }

    fn most_idle(&self) -> Option<Key> {
        self.first(CallerPhase::is_silent).or_else(|| self.first(CallerPhase::is_reading))
    }
}

impl CallerPhase {
    fn is_reading(&self) -> bool {
        matches!(self, CallerPhase::Reading(_))
    }

    fn is_silent(&self) -> bool {
        matches!(self, CallerPhase::Reading(incoming) if incoming.is_silent())
    }

    fn is_waiting(&self) -> bool {
        matches!(self, CallerPhase::Waiting(..))
    }

    fn is_closing(&self) -> bool {
        matches!(self, CallerPhase::Closing(_))
    }
}
