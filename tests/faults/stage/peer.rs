//! One peer and how far it is in its script.

use super::observation::{Observation, unacknowledged};
use crate::script::Step::{
    Await, Deaf, Finish, Hear, Leave, Narrow, Pause, Reset, Send, Settle, Stall, Trickle, Urgent,
};
use crate::script::{Script, Step};
use crate::voice::Voice;
use rustix::event::PollFlags;
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, recv, send, sockopt};
use std::fmt;
use std::time::{Duration, Instant};
use testkit::{Conn, Ending};

/// The most that is said or heard at once.
const CHUNK: usize = 64 * 1024;

/// So much leaves a peer's kernel as soon as it is said, whatever the other side does.
const SENT_AT_ONCE: u64 = 32 * 1024;

/// What [`Narrow`] asks for.
const WINDOW: usize = 128 * 1024;

/// How long a [`Pause`] lasts once the other side has gone.
const PAUSE: Duration = Duration::from_millis(300);

pub struct Peer {
    /// `None` once it has closed.
    conn: Option<Conn>,
    script: Script,
    /// The step it is at.
    at: usize,
    /// How much of that step has been said.
    part: u64,
    voice: Voice,
    ear: Voice,
    said: u64,
    heard: u64,
    finished: bool,
    saw_fin: bool,
    saw_reset: bool,
    /// What it saw first of these, and when.
    first_end: Option<(Ending, Instant)>,
    /// What its kernel had sent before it cut the connection.
    sent: Option<u64>,
    /// It reads nothing until its next [`Hear`].
    deaf: bool,
    /// Since when it has paused without the other side.
    paused: Option<Instant>,
    /// It could not read in time.
    starved: bool,
    /// It says a random part of what it may say, and the rest in later turns.
    hesitates: Option<fastrand::Rng>,
    /// What it heard that nobody said.
    garbled: Option<String>,
    /// The kernel takes no more of what it says, since then.
    blocked: Option<Instant>,
}

/// What a peer's steps depend on: how the other side is doing.
pub struct Look {
    said: u64,
    heard: u64,
    gone: bool,
    hears: bool,
    /// It can't or won't say more by itself.
    quiet: bool,
    held: bool,
}

impl Look {
    pub fn at(other: &Peer, stuck: Duration, held: bool) -> Look {
        Look {
            said: other.said,
            heard: other.heard,
            gone: other.conn.is_none(),
            hears: matches!(other.step(), Some(Hear(_))),
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
            voice: Voice::new(connection, is_client),
            ear: Voice::new(connection, !is_client),
            said: 0,
            heard: 0,
            finished: false,
            saw_fin: false,
            saw_reset: false,
            first_end: None,
            sent: None,
            deaf: false,
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
        matches!(self.step(), None | Some(Hear(_) | Settle | Stall | Pause | Await | Trickle(_)))
    }

    pub fn blocked_for(&self, time: Duration) -> bool {
        self.blocked.is_some_and(|since| since.elapsed() > time)
    }

    /// What poll is to tell of it.
    pub fn interest(&self) -> PollFlags {
        let reads = !self.saw_fin && !self.deaf && !matches!(self.step(), Some(Stall | Pause));
        let writes = self.blocked.is_some();
        let flag = |wanted, flag| if wanted { flag } else { PollFlags::empty() };
        flag(reads, PollFlags::IN) | flag(writes, PollFlags::OUT)
    }

    /// Grows with everything it does.
    pub fn moved(&self) -> u64 {
        self.said + self.heard + self.at as u64 + u64::from(self.saw_fin) + u64::from(self.conn.is_none())
    }

    /// Takes what poll tells.
    pub fn on(&mut self, ready: PollFlags) {
        if ready.contains(PollFlags::OUT) {
            // `blocked` keeps its time until something has really been taken.
            self.say();
        }
        let broken = ready.intersects(PollFlags::ERR | PollFlags::HUP);
        if broken && self.saw_fin {
            let error = self.conn.as_ref().map(sockopt::socket_error);
            if matches!(error, Some(Ok(Err(_)))) {
                self.broken();
            }
        } else if broken || ready.contains(PollFlags::IN) {
            self.hear();
        }
    }

    /// Goes as far in its script as it can.
    pub fn act(&mut self, other: &Look) {
        while self.conn.is_some() {
            let Some(step) = self.step() else {
                return self.finish();
            };
            let all_heard = other.heard == self.said || other.gone;
            let all_arrived = self.heard == other.said;
            let done = match step {
                Send(_) | Urgent => self.blocked.is_none() && self.say(),
                Trickle(_) => all_heard && self.say(),
                Hear(count) => {
                    self.deaf = false;
                    let deadlock = other.hears && all_heard && all_arrived && !other.held;
                    self.heard >= count || self.saw_fin || deadlock
                }
                Settle => all_heard,
                Stall => other.quiet && !other.held,
                Pause => other.gone && self.paused.get_or_insert_with(Instant::now).elapsed() >= PAUSE,
                Deaf => {
                    self.deaf = true;
                    true
                }
                Await => self.has_unread() || other.gone || (other.quiet && all_arrived && !other.held),
                Narrow => {
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
                Leave => {
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

    /// Says what the step has left and the kernel takes; true: nothing is left.
    fn say(&mut self) -> bool {
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
            self.voice.speak(self.said, bytes);
            match send(conn, bytes, flags | SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
                Ok(count) => {
                    self.said += count as u64;
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
    fn hear(&mut self) {
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

    /// Compares what it has received with what was said there.
    fn take(&mut self, bytes: &[u8]) {
        let (ear, wrong) = (self.ear, self.ear.differs(self.heard, bytes));
        let describe = |at| format!("byte {at} is not what {ear} said there");
        self.garbled = self.garbled.take().or(wrong.map(describe));
        self.heard += bytes.len() as u64;
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
        let held = self.conn.as_ref().filter(|_| self.said > SENT_AT_ONCE).map_or(0, unacknowledged);
        self.sent = Some(self.said.saturating_sub(held));
    }

    /// It has not read since then, for lack of a processor.
    pub fn note_starved(&mut self, since: Instant) {
        self.starved |= self.first_end.is_none_or(|(_, at)| at >= since);
    }

    /// What it has seen, with times counted from `since`.
    pub fn observation(&self, since: Instant) -> Observation {
        Observation {
            said: self.said,
            sent: self.sent.unwrap_or(self.said),
            heard: self.heard,
            garbled: self.garbled.clone(),
            end: self.first_end.map(|(end, _)| end),
            took: self.first_end.map(|(_, at)| at.duration_since(since)),
            cut: self.script.cuts(),
            awaited: self.script.awaits(),
            starved: self.starved,
        }
    }

    /// The oracle: whether what it heard and saw is what the other side said and did; if not, what is wrong.
    ///
    /// A FIN is seen only of one who finishes, after its last byte; a reset only of one who cuts. Who does not cut sees
    /// the other's end for certain, and that in kind; after a FIN *and* a cut, what comes first. A cut drops what the kernel
    /// of the one who cuts has not sent yet; everything else that was said before is heard.
    pub fn judge(&self, other: &Peer) -> Option<String> {
        let (finishes, cuts) = (other.script.finishes(), other.script.cuts());
        let wrong = if let Some(garbled) = &self.garbled {
            garbled
        } else if self.heard > other.said {
            "hears more than was said"
        } else if self.saw_fin && !finishes {
            "sees a FIN that nobody sent"
        } else if self.saw_fin && self.heard < other.said {
            "sees a FIN before the last byte"
        } else if self.saw_reset && !cuts {
            "sees a reset that nobody sent"
        } else if !self.script.cuts() && self.heard < other.said && other.said <= SENT_AT_ONCE {
            "does not hear all that was said before a reset"
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
            "{} {}: at {:?} after {} said, {} heard",
            self.voice,
            self.script.name,
            self.step(),
            self.said,
            self.heard
        )?;
        for (so, what) in [(self.finished, "finished"), (self.saw_fin, "saw a FIN"), (self.saw_reset, "saw a reset")] {
            if so {
                write!(out, ", {what}")?;
            }
        }
        Ok(())
    }
}
