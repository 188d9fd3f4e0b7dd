//! What becomes of a relay as bytes move and sides fail.
//!
//! A side fails when it resets the connection, when writing to it fails, or when it is found dead. What it sent before is
//! still in our kernel's receive queue (tcp(7) drops what is to be sent, and keeps what came), so the other side gets all of
//! it, and the reset after that.

use super::relaying::Relay;
use super::{CloseReason, Direction, Effect, Ending, Failed, HalfState, Moved, Session, Side, State};
use crate::base::Tick;
use std::time::Duration;

/// How long a side may take no byte of what the other one sent before it failed.
pub const RESET_PATIENCE: Duration = Duration::from_secs(1);

/// The kernel's send queue is measured at intervals between these two: each as long as the first measurement is ago.
const MEASURE_AFTER: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(100));

/// A side that has failed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Failure {
    pub(super) side: Side,
    /// What it sent ends without a FIN.
    pub(super) without_fin: bool,
    /// When the other side last took a byte; at first, when the failure was noticed.
    pub(super) taken: Tick,
    pub(super) queue: SendQueue,
}

/// What the kernel still has to deliver to the other side. It may accept nothing more for long while it shrinks.
#[derive(Clone, Copy, Debug)]
pub(super) struct SendQueue {
    /// When everything had been written; before that, when the failure was noticed.
    pub(super) since: Tick,
    /// When to measure it next.
    pub(super) measure: Tick,
    /// What was in it at the last measurement, and what was added since.
    pub(super) filled: u64,
}

impl SendQueue {
    /// One that has not been measured.
    pub(super) fn begin(now: Tick) -> SendQueue {
        SendQueue { since: now, measure: now, filled: u64::MAX }
    }
}

impl Failure {
    pub(super) fn deadline(&self) -> Tick {
        self.queue.measure.min(self.taken + RESET_PATIENCE)
    }
}

impl Relay {
    fn fail(&mut self, side: Side, now: Tick) {
        self.failed = Some(Failure { side, without_fin: false, taken: now, queue: SendQueue::begin(now) });
        let dropped = self.way_mut(Direction::to(side));
        (dropped.half, dropped.held) = (HalfState::Dropped, false);
    }
}

impl Session {
    pub(super) fn moved(&mut self, way: Direction, moved: Moved, now: Tick) -> Effect {
        let State::Relaying(relay) = &mut self.state else { return Effect::Wait };
        if relay.way(way).half == HalfState::Dropped {
            return Effect::Wait;
        }
        relay.count(way, &moved, now);
        let direction = relay.way_mut(way);
        direction.held = moved.held;
        let source_failed = moved.failed == Some(Failed::Source);
        let fin = moved.fin && !source_failed;
        let new_end = direction.half == HalfState::Open && (fin || source_failed);
        if new_end {
            direction.half = HalfState::Draining;
        }
        if new_end && fin {
            relay.first_fin.get_or_insert(way.source());
            relay.last_byte = now;
        }
        if moved.failed == Some(Failed::Sink) {
            return self.side_failed(way.sink(), now);
        }
        let fails_now = source_failed && relay.failed.is_none();
        if fails_now {
            relay.fail(way.source(), now);
        }
        let direction = relay.way_mut(way);
        let delivered = direction.half == HalfState::Draining && !moved.held;
        if delivered {
            direction.half = HalfState::Shut;
        }
        if let Some(failure) = &mut relay.failed {
            failure.without_fin |= new_end && !fin;
            if moved.written > 0 {
                failure.taken = now;
            }
            let fin_follows = delivered && !failure.without_fin;
            failure.queue.filled = failure.queue.filled.saturating_add(moved.written + u64::from(fin_follows));
            if delivered {
                (failure.queue.since, failure.queue.measure) = (now, now);
            }
            return match failure {
                _ if fails_now => Effect::ReadOut(way.source()),
                _ if !delivered => Effect::Wait,
                Failure { without_fin: true, .. } => Effect::Measure(way.sink()),
                Failure { without_fin: false, .. } => Effect::Finish(way.sink()),
            };
        }
        match relay.first_fin {
            Some(first) if relay.up.half == HalfState::Shut && relay.down.half == HalfState::Shut => {
                self.end(Ending::Fin, CloseReason::fin(first), now)
            }
            _ if delivered => Effect::Finish(way.sink()),
            _ => Effect::Wait,
        }
    }

    /// Delivers what it sent before; ends at once where nothing is relayed, or where the other side has failed already.
    pub(super) fn side_failed(&mut self, side: Side, now: Tick) -> Effect {
        let State::Relaying(relay) = &mut self.state else {
            return self.end(Ending::Reset, CloseReason::reset(side), now);
        };
        match relay.failed {
            None => {
                relay.fail(side, now);
                Effect::ReadOut(side)
            }
            Some(failure) if failure.side == side => Effect::Wait,
            Some(failure) => self.end(Ending::Reset, CloseReason::reset(failure.side), now),
        }
    }

    /// So much is in the send queue of the side that has not failed.
    pub(super) fn unsent(&mut self, bytes: u64, now: Tick) -> Effect {
        let State::Relaying(relay) = &mut self.state else { return Effect::Wait };
        let Some(side) = relay.failed.map(|failure| failure.side) else { return Effect::Wait };
        let written_out = relay.way(Direction::from(side)).half == HalfState::Shut;
        let Some(failure) = &mut relay.failed else { return Effect::Wait };
        let queue = &mut failure.queue;
        // The first measurement may come late: what was taken before it is not known.
        if bytes < queue.filled {
            failure.taken = now;
        }
        queue.filled = bytes;
        queue.measure = now + (now - queue.since).clamp(MEASURE_AFTER.0, MEASURE_AFTER.1);
        let delivered = written_out && bytes == 0;
        if delivered || now >= failure.taken + RESET_PATIENCE {
            return self.end(Ending::Reset, CloseReason::reset(side), now);
        }
        Effect::Wait
    }

    /// The deadline of a failure has come. Only a measurement shows what the other side has taken meanwhile.
    pub(super) fn failure_due(&self) -> Effect {
        let State::Relaying(Relay { failed: Some(failure), .. }) = &self.state else { return Effect::Wait };
        Effect::Measure(failure.side.other())
    }
}
