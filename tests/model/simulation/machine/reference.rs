//! What the table in `session` says of a relay, written down a second time.

use crate::corpora::session::machine::Asked;
use crate::simulation::{HALF_CLOSE, IDLE};
use std::time::Duration;
use tcplb::base::Tick;
use tcplb::session::{CloseReason, Direction, Ending, Failed, Moved, QUIET, RESET_PATIENCE, Side};

/// What the table says about one direction.
#[derive(Clone, Copy, Default)]
pub struct Expected {
    pub fin: bool,
    pub held: bool,
    pub shut: bool,
    /// Its source has failed without a FIN, or its sink has.
    pub cut: bool,
    pub dropped: bool,
}

/// A side that has failed.
#[derive(Clone, Copy)]
pub struct Failure {
    side: Side,
    taken: Tick,
    queue: Queue,
}

/// The kernel's queue of bytes for the other side.
#[derive(Clone, Copy)]
struct Queue {
    /// Since when all is written, or else the failure.
    since: Tick,
    /// When to measure it.
    measure: Tick,
    /// What is in it if the other side takes nothing.
    expected: u64,
}

/// The end of a lifetime.
#[derive(Clone, Copy)]
pub struct Expiry {
    /// From when on the lifetime is over.
    pub from: Tick,
    /// How long the connection lasts at most.
    pub until: Tick,
    /// When to look next.
    pub look: Tick,
}

/// What the session asks for, and the reason if it ends.
#[derive(Debug, PartialEq)]
pub struct Answer {
    pub asked: Asked,
    pub reason: Option<CloseReason>,
}

pub struct Reference {
    pub directions: [Expected; 2],
    pub first_fin: Option<Side>,
    pub failed: Option<Failure>,
    pub last: Tick,
    pub expires: Option<Expiry>,
    /// Bytes of the preamble for the backend that are still held, and bytes of the client that were delivered.
    pub preamble: u64,
    pub up: u64,
}

const NOTHING: Answer = Answer::of(Asked::Wait);

impl Answer {
    const fn of(asked: Asked) -> Answer {
        Answer { asked, reason: None }
    }

    pub fn end(ending: Ending, reason: CloseReason) -> Answer {
        Answer { asked: Asked::End(ending), reason: Some(reason) }
    }
}

fn reset_by(side: Side) -> Answer {
    let reason = if side == Side::Client { CloseReason::ClientReset } else { CloseReason::BackendReset };
    Answer::end(Ending::Reset, reason)
}

pub fn index_of(direction: Direction) -> usize {
    usize::from(direction == Direction::Down)
}

impl Reference {
    pub fn moved(&mut self, direction: Direction, moved: &Moved, now: Tick) -> Answer {
        if direction == Direction::Up {
            let of_preamble = self.preamble.min(moved.written);
            self.preamble -= of_preamble;
            self.up += moved.written - of_preamble;
        }
        if moved.read > 0 || moved.written > 0 || (moved.fin && !self.directions[index_of(direction)].fin) {
            self.last = now;
        }
        let this = &mut self.directions[index_of(direction)];
        this.held = moved.held;
        this.fin |= moved.fin;
        if this.fin && self.first_fin.is_none() {
            self.first_fin = Some(direction.source());
        }
        if moved.failed == Some(Failed::Sink) {
            return self.fails(direction.sink(), now);
        }
        this.cut |= moved.failed == Some(Failed::Source) && !this.fin;
        let is_over = (this.fin || this.cut) && !this.held && !this.shut;
        this.shut |= is_over;
        let (fin, cut) = (this.fin, this.cut);
        let mut answer = if is_over && !cut { Answer::of(Asked::Finish(direction.sink())) } else { NOTHING };
        if moved.failed == Some(Failed::Source) && self.failed.is_none() {
            answer = self.fails(direction.source(), now);
        } else if is_over && cut {
            answer = Answer::of(Asked::Measure(direction.sink()));
        }
        if let Some(failure) = &mut self.failed {
            if moved.written > 0 {
                failure.taken = now;
            }
            if is_over {
                failure.queue = Queue { since: now, measure: now, ..failure.queue };
            }
            let added = moved.written + u64::from(is_over && !cut);
            failure.queue.expected = failure.queue.expected.saturating_add(added);
        } else if fin && self.directions.iter().all(|direction| direction.shut) {
            let first = self.first_fin.expect("a side has finished");
            let reason = if first == Side::Client { CloseReason::ClientFin } else { CloseReason::BackendFin };
            return Answer::end(Ending::Fin, reason);
        }
        answer
    }

    pub fn fails(&mut self, side: Side, now: Tick) -> Answer {
        if let Some(failure) = self.failed {
            return if failure.side == side { NOTHING } else { reset_by(failure.side) };
        }
        self.failed = Some(Failure { side, taken: now, queue: Queue { since: now, measure: now, expected: u64::MAX } });
        self.directions[index_of(Direction::to(side))] = Expected { dropped: true, ..Expected::default() };
        Answer::of(Asked::ReadOut(side))
    }

    pub fn unsent(&mut self, bytes: u64, now: Tick) -> Answer {
        let failure = self.failed.as_mut().expect("a side has failed");
        let Queue { since, measure, expected } = &mut failure.queue;
        if bytes == 0 && self.directions[index_of(Direction::from(failure.side))].shut {
            return reset_by(failure.side);
        }
        if bytes < *expected {
            failure.taken = now;
        }
        *expected = bytes;
        *measure = now + (now - *since).clamp(Duration::from_millis(1), Duration::from_millis(100));
        if now >= failure.taken + RESET_PATIENCE { reset_by(failure.side) } else { NOTHING }
    }

    pub fn on_deadline(&mut self, now: Tick) -> Answer {
        if now < self.deadline() {
            return NOTHING;
        }
        let held = self.directions.iter().any(|direction| direction.held);
        if let Some(Expiry { from, until, look }) = &mut self.expires {
            if now >= *from && !held && self.failed.is_none() && now - self.last >= QUIET {
                return Answer::end(Ending::Fin, CloseReason::Forced);
            }
            if now >= *until {
                return Answer::end(Ending::Reset, CloseReason::Forced);
            }
            *look = now + QUIET;
        }
        let (due, reason) = self.due();
        match self.failed {
            Some(failure) => Answer::of(Asked::Measure(failure.side.other())),
            None if now < due => NOTHING,
            None => Answer::end(if held { Ending::Reset } else { Ending::Fin }, reason),
        }
    }

    pub fn deadline(&self) -> Tick {
        let due = self.due().0;
        match self.expires {
            Some(expiry) if self.failed.is_some() => expiry.until.min(due),
            Some(Expiry { until, look, .. }) => look.max(self.last + QUIET).min(until).min(due),
            None => due,
        }
    }

    fn due(&self) -> (Tick, CloseReason) {
        if let Some(failure) = self.failed {
            (failure.queue.measure.min(failure.taken + RESET_PATIENCE), CloseReason::BackendReset)
        } else if self.directions.iter().any(|direction| direction.fin) {
            (self.last + HALF_CLOSE, CloseReason::HalfCloseTimeout)
        } else {
            (self.last + IDLE, CloseReason::IdleTimeout)
        }
    }

    /// Another clock, which shows so much more.
    pub fn shift(&mut self, offset: u64, now: Tick) {
        let shifted = |at: Tick| Tick(at.0 + offset);
        self.last = shifted(self.last);
        // What is written down is how much is left: what is over is over now, however long it has been.
        let left = |at| shifted(at).max(now);
        self.expires = self.expires.map(|expiry| Expiry {
            from: left(expiry.from),
            until: left(expiry.until),
            look: left(expiry.look),
        });
        if let Some(failure) = &mut self.failed {
            failure.taken = shifted(failure.taken);
            let Queue { since, measure, expected } = failure.queue;
            failure.queue = Queue { since: shifted(since), measure: shifted(measure).max(now), expected };
        }
    }
}
