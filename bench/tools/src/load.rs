//! Requests at fixed times, whatever became of those before: an open loop. This is the method of wrk2.
//!
//! Request number `k` is due `k` times the period after the start, and belongs to connection `k` modulo their number. If a connection
//! still waits for an answer, its next request is sent late. Its latency counts from the time at which it was due, so a stall of the server
//! shows in each request that falls into it. One thread sends and receives. It sleeps until the next event or the next due time, by
//! the clock of high resolution.

use crate::answer;
use crate::report::Report;
use rustix::event::{PollFd, PollFlags, Timespec, epoll, poll};
use rustix::fd::OwnedFd;
use rustix::io::Errno;
use rustix::net::{self, AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, sockopt};
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::io::{Read, Write};
use std::net::{SocketAddrV4, TcpStream};
use std::num::NonZeroU64;
use std::time::{Duration, Instant};

/// How long to wait for answers after the last request was due.
const PATIENCE: Duration = Duration::from_secs(10);
/// The most events between two looks at the clock for requests that are due.
const BATCH: usize = 16;
const KEPT: &[u8] = b"GET / HTTP/1.1\r\nHost: bench\r\n\r\n";
const SHORT: &[u8] = b"GET / HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n";

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// One request after the other over kept connections.
    Kept,
    /// A connection per request; connecting counts.
    Short,
    /// Connects and closes, without a request.
    Flood,
}

pub(crate) struct Plan {
    pub(crate) to: SocketAddrV4,
    pub(crate) kind: Kind,
    pub(crate) connections: usize,
    /// Requests per second, of all connections.
    pub(crate) rate: f64,
    pub(crate) seconds: f64,
    /// Seconds before, whose requests do not count.
    pub(crate) warm_up: f64,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    /// Its time has not come.
    Idle,
    Connecting,
    /// The answer has not arrived.
    Waiting,
}

/// A connection with its own schedule; a short one is another socket each time.
struct Line {
    socket: Option<OwnedFd>,
    state: State,
    /// The number of the request that it makes, or makes next.
    request: u64,
    /// When the one before was over.
    free: u64,
    got: Vec<u8>,
    /// Of its sockets: events of an earlier one are not those of this one.
    generation: u32,
}

struct Load<'a> {
    plan: &'a Plan,
    start: Instant,
    epoll: OwnedFd,
    lines: Vec<Line>,
    /// Those that are idle, by when that is.
    next: BinaryHeap<Reverse<(u64, usize)>>,
    busy: usize,
    report: Report,
}

/// Runs the plan.
pub(crate) fn run(plan: &Plan) -> Result<Report, String> {
    let system = |error: Errno| format!("a system call fails: {error}");
    // The kernel may otherwise wake us up to 50 µs late.
    rustix::thread::set_current_timer_slack(NonZeroU64::new(1)).map_err(system)?;
    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).map_err(system)?;
    let mut load = Load {
        plan,
        start: Instant::now(),
        epoll,
        lines: vec![],
        next: BinaryHeap::new(),
        busy: 0,
        report: Report::new()?,
    };
    for index in 0..plan.connections {
        let mut line = Line {
            socket: None,
            state: State::Idle,
            request: index as u64,
            free: 0,
            got: Vec::with_capacity(answer::MOST),
            generation: 0,
        };
        if plan.kind == Kind::Kept {
            let socket = kept(plan.to).map_err(|error| format!("connection {index} to {}: {error}", plan.to))?;
            load.register(&socket, index, 0).map_err(system)?;
            line.socket = Some(socket);
        }
        load.lines.push(line);
    }
    // What prints this line measures the proxy from here on.
    println!("begins");
    load.start = Instant::now();
    (0..plan.connections).for_each(|index| load.schedule(index));
    load.turn_until_all_is_over().map_err(system)?;
    Ok(load.report)
}

/// A connection that has had its first answer, so the proxy has connected to the backend.
fn kept(to: SocketAddrV4) -> std::io::Result<OwnedFd> {
    let mut stream = TcpStream::connect_timeout(&to.into(), PATIENCE)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(KEPT)?;
    let (mut got, mut buffer) = (Vec::new(), [0; answer::MOST]);
    while !answer::is_complete(&got).map_err(std::io::Error::other)? {
        match stream.read(&mut buffer)? {
            0 => return Err(std::io::ErrorKind::UnexpectedEof.into()),
            count => got.extend_from_slice(&buffer[..count]),
        }
    }
    stream.set_nonblocking(true)?;
    Ok(stream.into())
}

impl Load<'_> {
    fn now(&self) -> u64 {
        self.start.elapsed().as_nanos() as u64
    }

    fn due(&self, request: u64) -> u64 {
        (request as f64 * 1e9 / self.plan.rate) as u64
    }

    fn end(&self) -> u64 {
        ((self.plan.warm_up + self.plan.seconds) * 1e9) as u64
    }

    fn is_counted(&self, due: u64) -> bool {
        due as f64 >= self.plan.warm_up * 1e9
    }

    fn turn_until_all_is_over(&mut self) -> rustix::io::Result<()> {
        let give_up = self.end() + PATIENCE.as_nanos() as u64;
        let mut events = Vec::with_capacity(BATCH);
        loop {
            let now = self.now();
            while let Some(Reverse((_, index))) = self.next.pop_if_due(now) {
                self.begin(index);
            }
            if now >= give_up || (self.next.is_empty() && self.busy == 0) {
                self.give_up(now);
                return Ok(());
            }
            events.clear();
            epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut events), Some(&Timespec::default()))?;
            if events.is_empty() {
                self.sleep(self.next.peek().map_or(give_up, |Reverse((due, _))| *due))?;
            }
            for event in &events {
                let data = event.data.u64();
                self.happened((data & u64::from(u32::MAX)) as usize, (data >> 32) as u32, event.flags);
            }
        }
    }

    /// Until an event or this time.
    fn sleep(&self, until: u64) -> rustix::io::Result<()> {
        let left = until.saturating_sub(self.now());
        let timeout = Timespec { tv_sec: (left / 1_000_000_000) as i64, tv_nsec: (left % 1_000_000_000) as i64 };
        // `epoll_wait` has milliseconds.
        match poll(&mut [PollFd::new(&self.epoll, PollFlags::IN)], Some(&timeout)) {
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(error) => Err(error),
        }
    }

    fn register(&self, socket: &OwnedFd, index: usize, generation: u32) -> rustix::io::Result<()> {
        let data = epoll::EventData::new_u64(u64::from(generation) << 32 | index as u64);
        let flags = epoll::EventFlags::IN | epoll::EventFlags::OUT | epoll::EventFlags::RDHUP | epoll::EventFlags::ET;
        epoll::add(&self.epoll, socket, data, flags)
    }

    /// Has the line wait for its next request, if there is one before the end.
    fn schedule(&mut self, index: usize) {
        let due = self.due(self.lines[index].request);
        if due < self.end() {
            self.next.push(Reverse((due, index)));
        }
    }

    /// Sends the line's request, whose time has come.
    fn begin(&mut self, index: usize) {
        let now = self.now();
        let due = self.due(self.lines[index].request);
        if self.is_counted(due) {
            let free = self.lines[index].free;
            self.report.sent += 1;
            self.report.held_up += u64::from(free > due);
            self.report.own_delays.saturating_record(now - due.max(free));
        }
        self.report.made += 1;
        self.busy += 1;
        self.lines[index].got.clear();
        let began = if self.lines[index].socket.is_some() { self.send(index) } else { self.connect(index) };
        if let Err(error) = began {
            self.fail(index, &format!("connect or send: {error}"));
        }
    }

    fn connect(&mut self, index: usize) -> rustix::io::Result<()> {
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let socket = net::socket_with(AddressFamily::INET, SocketType::STREAM, flags, None)?;
        sockopt::set_tcp_nodelay(&socket, true)?;
        match net::connect(&socket, &self.plan.to) {
            Ok(()) | Err(Errno::INPROGRESS) => {}
            Err(error) => return Err(error),
        }
        let generation = self.lines[index].generation.wrapping_add(1);
        self.register(&socket, index, generation)?;
        let line = &mut self.lines[index];
        (line.socket, line.generation, line.state) = (Some(socket), generation, State::Connecting);
        Ok(())
    }

    fn send(&mut self, index: usize) -> rustix::io::Result<()> {
        let line = &mut self.lines[index];
        let request = if self.plan.kind == Kind::Kept { KEPT } else { SHORT };
        let socket = line.socket.as_ref().ok_or(Errno::NOTCONN)?;
        // A fresh socket's buffer has room for a request.
        match net::send(socket, request, SendFlags::NOSIGNAL)? {
            count if count == request.len() => line.state = State::Waiting,
            _ => return Err(Errno::NOBUFS),
        }
        Ok(())
    }

    fn happened(&mut self, index: usize, generation: u32, flags: epoll::EventFlags) {
        let line = &self.lines[index];
        if line.generation != generation || line.socket.is_none() {
            return;
        }
        let bad = epoll::EventFlags::HUP | epoll::EventFlags::ERR;
        match line.state {
            State::Connecting if flags.intersects(bad) => self.connect_ended(index),
            State::Connecting if flags.contains(epoll::EventFlags::OUT) => {
                if self.plan.kind == Kind::Flood {
                    self.answered(index);
                } else if let Err(error) = self.send(index) {
                    self.fail(index, &format!("send: {error}"));
                }
            }
            State::Connecting => {}
            State::Waiting => self.receive(index),
            State::Idle if flags.intersects(bad | epoll::EventFlags::RDHUP) => {
                self.report.closed += 1;
                self.lines[index].socket = None;
            }
            State::Idle => {}
        }
    }

    /// A flood may be reset as soon as it is accepted.
    fn connect_ended(&mut self, index: usize) {
        let error = self.lines[index].socket.as_ref().map_or(Ok(Ok(())), sockopt::socket_error);
        match error {
            Ok(Ok(()) | Err(Errno::CONNRESET)) if self.plan.kind == Kind::Flood => self.answered(index),
            Ok(Ok(())) => self.fail(index, "connect: closed"),
            Ok(Err(error)) | Err(error) => self.fail(index, &format!("connect: {error}")),
        }
    }

    fn receive(&mut self, index: usize) {
        loop {
            let line = &mut self.lines[index];
            let Some(socket) = &line.socket else { return };
            let mut buffer = [0; answer::MOST];
            let why = match net::recv(socket, &mut buffer[..], RecvFlags::empty()) {
                Ok((0, _)) => "FIN before the answer".to_owned(),
                Ok((count, _)) => {
                    line.got.extend_from_slice(&buffer[..count]);
                    match answer::is_complete(&line.got) {
                        Ok(true) => return self.answered(index),
                        Ok(false) => continue,
                        Err(why) => why.to_owned(),
                    }
                }
                Err(Errno::AGAIN) => return,
                Err(error) => format!("receive: {error}"),
            };
            return self.fail(index, &why);
        }
    }

    fn answered(&mut self, index: usize) {
        if self.over(index) {
            self.report.answered += 1;
        }
        if self.plan.kind != Kind::Kept {
            self.lines[index].socket = None;
        }
        self.schedule(index);
    }

    fn fail(&mut self, index: usize, why: &str) {
        if self.over(index) {
            self.report.fail(why);
        }
        self.lines[index].socket = None;
        self.schedule(index);
    }

    /// Ends the line's request; whether it counts.
    fn over(&mut self, index: usize) -> bool {
        let now = self.now();
        let due = self.due(self.lines[index].request);
        let connections = self.lines.len() as u64;
        let line = &mut self.lines[index];
        (line.free, line.state) = (now, State::Idle);
        line.request += connections;
        self.busy -= 1;
        let counted = self.is_counted(due);
        if counted {
            self.report.latencies.saturating_record(now - due);
        }
        counted
    }

    /// What is not over by now has failed: requests without an answer, and those that could not be sent.
    fn give_up(&mut self, now: u64) {
        for index in 0..self.lines.len() {
            let mut why = if self.lines[index].state == State::Idle { "not sent" } else { "no answer" };
            loop {
                let due = self.due(self.lines[index].request);
                if due >= self.end() {
                    break;
                }
                if self.is_counted(due) {
                    self.report.latencies.saturating_record(now - due);
                    self.report.fail(why);
                }
                self.lines[index].request += self.plan.connections as u64;
                why = "not sent";
            }
        }
    }
}

trait PopIfDue {
    fn pop_if_due(&mut self, now: u64) -> Option<Reverse<(u64, usize)>>;
}

impl PopIfDue for BinaryHeap<Reverse<(u64, usize)>> {
    fn pop_if_due(&mut self, now: u64) -> Option<Reverse<(u64, usize)>> {
        if self.peek().is_some_and(|Reverse((due, _))| *due <= now) { self.pop() } else { None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;
    use std::thread;

    const STALL: Duration = Duration::from_millis(200);

    /// Answers each request of one connection, and stalls once before an answer.
    fn serve(listener: &TcpListener, stalls_at: usize) {
        let (mut stream, _) = listener.accept().unwrap();
        let mut buffer = [0; 64 * 1024];
        let mut answers = 0;
        loop {
            let got = stream.read(&mut buffer).unwrap_or(0);
            if got == 0 {
                return;
            }
            for _ in 0..got / KEPT.len() {
                answers += 1;
                if answers == stalls_at {
                    // The stall is what the generator has to show.
                    thread::sleep(STALL);
                }
                stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").unwrap();
            }
        }
    }

    #[test]
    fn a_stall_of_the_server_shows_in_all_requests_that_are_due_meanwhile() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let std::net::SocketAddr::V4(to) = listener.local_addr().unwrap() else { panic!("an IPv4 address") };
        let report = thread::scope(|scope| {
            scope.spawn(|| serve(&listener, 100));
            let plan = Plan { to, kind: Kind::Kept, connections: 1, rate: 500.0, seconds: 1.0, warm_up: 0.0 };
            run(&plan).unwrap()
        });
        assert_eq!((report.sent, report.answered), (500, 500));
        assert!(Duration::from_nanos(report.latencies.max()) >= STALL);
        // 50 requests are due in the first 100 ms of the stall, and wait for its second half. A closed loop would show one.
        let longest = report.latencies.max();
        let late = report.latencies.count_between(100_000_000, longest);
        assert!(late >= 45, "only {late} requests waited");
        assert!(report.held_up >= 90, "only {} requests were held up", report.held_up);
    }

    #[test]
    fn a_request_without_an_answer_fails() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let std::net::SocketAddr::V4(to) = listener.local_addr().unwrap() else { panic!("an IPv4 address") };
        drop(listener);
        let plan = Plan { to, kind: Kind::Short, connections: 2, rate: 100.0, seconds: 0.1, warm_up: 0.0 };
        let report = run(&plan).unwrap();
        assert_eq!((report.sent, report.answered), (10, 0));
        assert_eq!(report.failures.values().sum::<u64>(), 10, "{:?}", report.failures);
    }
}
