//! One peer and how far it is in its script.

use super::observation::{Observation, unacknowledged};
use crate::byte_pattern::BytePattern;
use crate::script::Step::{
    AwaitDelivery, AwaitInput, Close, Finish, Pause, Receive, Reset, Send, ShrinkWindow, Stall, StopReading, Trickle,
    Urgent,
};
use crate::script::{Script, Step};
use rustix::event::PollFlags;
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, recv, send, sockopt};
use std::fmt;
use std::time::{Duration, Instant};
use testkit::{Conn, Ending};

/// The most that is written or received at once.
const CHUNK: usize = 64 * 1024;

/// So much leaves a peer's kernel as soon as it is written, whatever the other side does.
const SENT_AT_ONCE: u64 = 32 * 1024;

/// What [`ShrinkWindow`] asks for.
const WINDOW: usize = 128 * 1024;

/// How long a [`Pause`] lasts once the other side has gone.
const PAUSE: Duration = Duration::from_millis(300);

pub struct Peer {
    /// `None` once it has closed.
    conn: Option<Conn>,
    script: Script,
    /// The step it is at.
    at: usize,
    /// How much of that step has been written.
    part: u64,
    pattern: BytePattern,
    expected: BytePattern,
    written: u64,
    received: u64,
    finished: bool,
    saw_fin: bool,
    saw_reset: bool,
    /// What it saw first of these, and when.
    first_end: Option<(Ending, Instant)>,
    /// What its kernel had sent before it cut the connection.
    sent: Option<u64>,
    /// It reads nothing until its next [`Receive`].
    stopped_reading: bool,
    /// Since when it has paused without the other side.
    paused: Option<Instant>,
    /// It could not read in time.
    starved: bool,
    /// It writes a random part of what it may write, and the rest in later turns.
    hesitates: Option<fastrand::Rng>,
    /// What it received that was not written.
    garbled: Option<String>,
    /// The kernel takes no more of what it writes, since then.
    blocked: Option<Instant>,
}

/// What a peer's steps depend on: how the other side is doing.
pub struct Look {
    written: u64,
    received: u64,
    gone: bool,
    receives: bool,
    /// It can't or won't write more by itself.
    quiet: bool,
    held: bool,
}

impl Look {
    pub fn at(other: &Peer, stuck: Duration, held: bool) -> Look {
        Look {
            written: other.written,
            received: other.received,
            gone: other.conn.is_none(),
            receives: matches!(other.step(), Some(Receive(_))),
            quiet: other.waits() || other.blocked_for(stuck) || other.is_over(),
            held,
        }
    }
}

impl Peer {
    pub fn new(conn: Conn, connection: usize, is_client: bool, script: &Script) -> Peer {
        Peer {
            conn: Some(conn),
            script: script.clone(),
            at: 0,
            part: 0,
            pattern: BytePattern::new(connection, is_client),
            expected: BytePattern::new(connection, !is_client),
            written: 0,
            received: 0,
            finished: false,
            saw_fin: false,
            saw_reset: false,
            first_end: None,
            sent: None,
            stopped_reading: false,
            paused: None,
            starved: false,
            hesitates: None,
            garbled: None,
            blocked: None,
        }
    }

    /// From now on speaks as if over a network that delivers little at a time.
    pub fn hesitate(&mut self, random: fastrand::Rng) {
        self.hesitates = Some(random);
    }

    pub fn conn(&self) -> Option<&Conn> {
        self.conn.as_ref()
    }

    fn step(&self) -> Option<Step> {
        self.script.steps.get(self.at).copied()
    }

    /// Has it closed, or finished and seen the other side finish?
    pub fn is_over(&self) -> bool {
        self.conn.is_none() || (self.step().is_none() && self.finished && self.saw_fin)
    }

    /// Does it wait for the other side?
    pub fn waits(&self) -> bool {
        matches!(self.step(), None | Some(Receive(_) | AwaitDelivery | Stall | Pause | AwaitInput | Trickle(_)))
    }

    pub fn blocked_for(&self, time: Duration) -> bool {
        self.blocked.is_some_and(|since| since.elapsed() > time)
    }

    /// What poll is to report of it.
    pub fn interest(&self) -> PollFlags {
        let reads = !self.saw_fin && !self.stopped_reading && !matches!(self.step(), Some(Stall | Pause));
        let writes = self.blocked.is_some();
        let flag = |wanted, flag| if wanted { flag } else { PollFlags::empty() };
        flag(reads, PollFlags::IN) | flag(writes, PollFlags::OUT)
    }

    /// Grows with everything it does.
    pub fn moved(&self) -> u64 {
        self.written + self.received + self.at as u64 + u64::from(self.saw_fin) + u64::from(self.conn.is_none())
    }

    /// Takes what poll reports.
    pub fn on(&mut self, ready: PollFlags) {
        if ready.contains(PollFlags::OUT) {
            // `blocked` keeps its time until something has really been taken.
            self.write();
        }
        let broken = ready.intersects(PollFlags::ERR | PollFlags::HUP);
        if broken && self.saw_fin {
            let error = self.conn.as_ref().map(sockopt::socket_error);
            if matches!(error, Some(Ok(Err(_)))) {
                self.broken();
            }
        } else if broken || ready.contains(PollFlags::IN) {
            self.read();
        }
    }

    /// Goes as far in its script as it can.
    pub fn act(&mut self, other: &Look) {
        while self.conn.is_some() {
            let Some(step) = self.step() else {
                return self.finish();
            };
            let all_received = other.received == self.written || other.gone;
            let all_arrived = self.received == other.written;
            let done = match step {
                Send(_) | Urgent => self.blocked.is_none() && self.write(),
                Trickle(_) => all_received && self.write(),
                Receive(count) => {
                    self.stopped_reading = false;
                    let deadlock = other.receives && all_received && all_arrived && !other.held;
                    self.received >= count || self.saw_fin || deadlock
                }
                AwaitDelivery => all_received,
                Stall => other.quiet && !other.held,
                Pause => other.gone && self.paused.get_or_insert_with(Instant::now).elapsed() >= PAUSE,
                StopReading => {
                    self.stopped_reading = true;
                    true
                }
                AwaitInput => self.has_unread() || other.gone || (other.quiet && all_arrived && !other.held),
                ShrinkWindow => {
                    let set = self.conn.as_ref().map(|conn| sockopt::set_socket_recv_buffer_size(conn, WINDOW));
                    set.is_some_and(|set| set.is_ok())
                }
                Finish => {
                    self.finish();
                    true
                }
                Reset => {
                    self.note_sent();
                    self.conn.take().into_iter().for_each(Conn::reset);
                    true
                }
                Close => {
                    self.note_sent();
                    self.conn = None;
                    true
                }
            };
            if !done {
                return;
            }
            (self.at, self.part) = (self.at + 1, 0);
        }
    }

    fn finish(&mut self) {
        if let Some(conn) = self.conn.as_ref().filter(|_| !self.finished) {
            conn.finish();
            self.finished = true;
        }
    }

    /// Writes what the step has left and the kernel takes; true: nothing is left.
    fn write(&mut self) -> bool {
        let (mut most, total, flags) = match self.step() {
            Some(Send(total)) => (CHUNK, total, SendFlags::empty()),
            Some(Trickle(total)) => (1, total, SendFlags::empty()),
            Some(Urgent) => (1, 1, SendFlags::OOB),
            _ => return true,
        };
        if let Some(random) = &mut self.hesitates {
            most = random.usize(1..=most);
        }
        let mut chunk = [0; CHUNK];
        while let Some(conn) = self.conn.as_ref().filter(|_| self.part < total) {
            let bytes = &mut chunk[..most.min(usize::try_from(total - self.part).unwrap_or(most))];
            self.pattern.fill(self.written, bytes);
            match send(conn, bytes, flags | SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
                Ok(count) => {
                    self.written += count as u64;
                    self.part += count as u64;
                    self.blocked = None;
                }
                Err(Errno::AGAIN) => {
                    self.blocked.get_or_insert_with(Instant::now);
                    return false;
                }
                Err(Errno::CONNRESET | Errno::PIPE) => self.broken(),
                Err(error) => panic!("{self}: send: {error}"),
            }
            if most == 1 || self.hesitates.is_some() {
                break;
            }
        }
        self.part >= total
    }

    /// Takes some of what is there, and compares it.
    fn read(&mut self) {
        let mut chunk = [0; CHUNK];
        for _ in 0..4 {
            let Some(conn) = &self.conn else { return };
            match recv(conn, &mut chunk, RecvFlags::DONTWAIT) {
                Ok((0, _)) => {
                    self.saw_fin = true;
                    self.first_end.get_or_insert((Ending::Fin, Instant::now()));
                    return;
                }
                Ok((count, _)) => self.take(&chunk[..count]),
                Err(Errno::AGAIN) => return,
                Err(Errno::CONNRESET | Errno::PIPE) => return self.broken(),
                Err(error) => panic!("{self}: receive: {error}"),
            }
        }
    }

    /// Compares what it has received with what was written there.
    fn take(&mut self, bytes: &[u8]) {
        let (expected, wrong) = (self.expected, self.expected.first_difference(self.received, bytes));
        let describe = |at| format!("byte {at} is not what {expected} written there");
        self.garbled = self.garbled.take().or(wrong.map(describe));
        self.received += bytes.len() as u64;
    }

    /// The other side, or tcplb, has reset it. What came before the reset can still be read.
    fn broken(&mut self) {
        self.saw_reset = true;
        self.first_end.get_or_insert((Ending::Reset, Instant::now()));
        let mut chunk = [0; CHUNK];
        while let Some(Ok((count @ 1.., _))) =
            self.conn.as_ref().map(|conn| recv(conn, &mut chunk, RecvFlags::DONTWAIT))
        {
            self.take(&chunk[..count]);
        }
        self.conn = None;
    }

    /// Is there something that it has not read?
    fn has_unread(&self) -> bool {
        let peek = |conn| recv(conn, &mut [0; 1], RecvFlags::PEEK | RecvFlags::DONTWAIT);
        self.conn.as_ref().is_none_or(|conn| peek(conn) != Err(Errno::AGAIN))
    }

    /// Its own cut discards what its kernel has not sent by now. Acknowledged bytes have arrived at the next hop for certain.
    fn note_sent(&mut self) {
        let held = self.conn.as_ref().filter(|_| self.written > SENT_AT_ONCE).map_or(0, unacknowledged);
        self.sent = Some(self.written.saturating_sub(held));
    }

    /// It has not read since then, for lack of a processor.
    pub fn note_starved(&mut self, since: Instant) {
        self.starved |= self.first_end.is_none_or(|(_, at)| at >= since);
    }

    /// What it has seen, with times counted from `since`.
    pub fn observation(&self, since: Instant) -> Observation {
        Observation {
            written: self.written,
            sent: self.sent.unwrap_or(self.written),
            received: self.received,
            garbled: self.garbled.clone(),
            end: self.first_end.map(|(end, _)| end),
            took: self.first_end.map(|(_, at)| at.duration_since(since)),
            cut: self.script.cuts(),
            awaited: self.script.awaits(),
            starved: self.starved,
        }
    }

    /// The oracle: whether what it received and saw is what the other side wrote and did; if not, what is wrong.
    ///
    /// A FIN comes only from a peer that finishes, after its last byte; a reset only from a peer that cuts. A peer that does not cut sees
    /// the other's end for certain, and that in kind; after a FIN *and* a cut, what comes first. A cut drops what the kernel
    /// of the peer that cuts has not sent yet; everything else that was written before is received.
    pub fn check(&self, other: &Peer) -> Option<String> {
        let (finishes, cuts) = (other.script.finishes(), other.script.cuts());
        let wrong = if let Some(garbled) = &self.garbled {
            garbled
        } else if self.received > other.written {
            "receives more than was written"
        } else if self.saw_fin && !finishes {
            "sees a FIN that was not sent"
        } else if self.saw_fin && self.received < other.written {
            "sees a FIN before the last byte"
        } else if self.saw_reset && !cuts {
            "sees a reset that was not sent"
        } else if !self.script.cuts() && self.received < other.written && other.written <= SENT_AT_ONCE {
            "does not receive all that was written before a reset"
        } else if !self.script.cuts() && !self.saw_fin && !self.saw_reset {
            "sees no end"
        } else {
            return None;
        };
        Some(format!("{wrong}:\n    {self}\n    {other}"))
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            out,
            "{} {}: at {:?} after {} written, {} received",
            self.pattern,
            self.script.name,
            self.step(),
            self.written,
            self.received
        )?;
        for (so, what) in [(self.finished, "finished"), (self.saw_fin, "saw a FIN"), (self.saw_reset, "saw a reset")] {
            if so {
                write!(out, ", {what}")?;
            }
        }
        Ok(())
    }
}
