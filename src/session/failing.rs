//! How a relay goes on as bytes move and sides fail.
//!
//! A side fails when it resets the connection, when writing to it fails, or when it is found dead. What it sent before is
//! still in our kernel's receive queue: a reset drops the send queue, and keeps the receive queue (tcp(7)). So the other
//! side gets all of it, and the reset after that.

use super::relaying::Relay;
use super::{CloseReason, Direction, Ending, Failed, HalfState, Ledger, Moved, Next, Session, Side, State};
use crate::base::Tick;
use std::time::Duration;

/// How long a side may take no byte of what the other one sent before it failed.
pub const RESET_PATIENCE: Duration = Duration::from_secs(1);

/// The shortest and the longest interval between measurements of the kernel's send queue. Each interval is as long as the time
/// since the first measurement.
const MEASURE_SOONEST: Duration = Duration::from_millis(1);
const MEASURE_LATEST: Duration = Duration::from_millis(100);

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

/// The kernel's send queue to the other side. It may accept no byte for long while it shrinks.
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
    pub(super) fn unmeasured(now: Tick) -> SendQueue {
        SendQueue { since: now, measure: now, filled: u64::MAX }
    }
}

impl Failure {
    pub(super) fn deadline(&self) -> Tick {
        self.queue.measure.min(self.taken + RESET_PATIENCE)
    }
}

/// How a source ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum SourceEnd {
    Fin,
    WithoutFin,
}

impl Relay {
    /// Notes what is held in this direction. If its source has ended just now, returns how.
    fn note_source(&mut self, direction: Direction, moved: &Moved, now: Tick) -> Option<SourceEnd> {
        let state = self.direction_mut(direction);
        state.held = moved.held;
        let end = match moved.failed {
            Some(Failed::Source) => SourceEnd::WithoutFin,
            _ if moved.fin => SourceEnd::Fin,
            _ => return None,
        };
        if state.half != HalfState::Open {
            return None;
        }
        state.half = HalfState::Draining;
        if end == SourceEnd::Fin {
            self.first_fin.get_or_insert(direction.source());
            self.last_byte = now;
        }
        Some(end)
    }

    fn note_failure(&mut self, side: Side, now: Tick) {
        let queue = SendQueue::unmeasured(now);
        self.failed = Some(Box::new(Failure { side, without_fin: false, taken: now, queue }));
        let dropped = self.direction_mut(Direction::to(side));
        (dropped.half, dropped.held) = (HalfState::Dropped, false);
    }
}

impl Session {
    pub(super) fn bytes_moved(
        &mut self,
        direction: Direction,
        moved: Moved,
        now: Tick,
        ledger: &mut dyn Ledger,
    ) -> Next {
        let State::Relaying(relay) = &mut self.state else { return Next::Wait };
        if relay.direction(direction).half == HalfState::Dropped {
            return Next::Wait;
        }
        if relay.loses_nothing(direction, &moved) {
            return self.replace_warm(now);
        }
        relay.count_bytes(direction, &moved, now, ledger);
        if relay.warm.is_some() && moved.written > 0 {
            // No other backend can take its place any more.
            relay.warm = None;
            self.first.iter_mut().for_each(|first| first.forget_offers());
        }
        let source_end = relay.note_source(direction, &moved, now);
        if moved.failed == Some(Failed::Sink) {
            return self.side_failed(direction.sink(), now);
        }
        let fails_now = moved.failed == Some(Failed::Source) && relay.failed.is_none();
        if fails_now {
            relay.note_failure(direction.source(), now);
        }
        let state = relay.direction_mut(direction);
        let delivered = state.half == HalfState::Draining && !moved.held;
        if delivered {
            state.half = HalfState::Shut;
        }
        if let Some(failure) = &mut relay.failed {
            failure.without_fin |= source_end == Some(SourceEnd::WithoutFin);
            if moved.written > 0 {
                failure.taken = now;
            }
            let fin_follows = delivered && !failure.without_fin;
            failure.queue.filled = failure.queue.filled.saturating_add(moved.written + u64::from(fin_follows));
            if delivered {
                (failure.queue.since, failure.queue.measure) = (now, now);
            }
            return match **failure {
                _ if fails_now => Next::ReadOut(direction.source()),
                _ if !delivered => Next::Wait,
                Failure { without_fin: true, .. } => Next::Measure(direction.sink()),
                Failure { without_fin: false, .. } => Next::Finish(direction.sink()),
            };
        }
        match relay.first_fin {
            Some(first) if relay.up.half == HalfState::Shut && relay.down.half == HalfState::Shut => {
                self.end(Ending::Fin, CloseReason::fin(first), now)
            }
            _ if delivered => Next::Finish(direction.sink()),
            _ => Next::Wait,
        }
    }

    /// An event says that this side has failed.
    pub(super) fn side_reset(&mut self, side: Side, now: Tick) -> Next {
        match &self.state {
            State::Relaying(relay) if side == Side::Backend && relay.holds_nothing() => self.replace_warm(now),
            _ => self.side_failed(side, now),
        }
    }

    /// Delivers what it sent before; ends at once where nothing is relayed, or where the other side has failed already.
    pub(super) fn side_failed(&mut self, side: Side, now: Tick) -> Next {
        let State::Relaying(relay) = &mut self.state else {
            return self.end(Ending::Reset, CloseReason::reset(side), now);
        };
        match relay.failed.as_ref().map(|failure| failure.side) {
            None => {
                relay.note_failure(side, now);
                Next::ReadOut(side)
            }
            Some(failed) if failed == side => Next::Wait,
            Some(failed) => self.end(Ending::Reset, CloseReason::reset(failed), now),
        }
    }

    /// The send queue of the side that has not failed holds this much.
    pub(super) fn queue_measured(&mut self, bytes: u64, now: Tick) -> Next {
        let State::Relaying(relay) = &mut self.state else { return Next::Wait };
        let Some(side) = relay.failed.as_ref().map(|failure| failure.side) else { return Next::Wait };
        let written_out = relay.direction(Direction::from(side)).half == HalfState::Shut;
        let Some(failure) = &mut relay.failed else { return Next::Wait };
        let queue = &mut failure.queue;
        // The first measurement may come late: what was taken before it is not known.
        if bytes < queue.filled {
            failure.taken = now;
        }
        queue.filled = bytes;
        queue.measure = now + (now - queue.since).clamp(MEASURE_SOONEST, MEASURE_LATEST);
        let delivered = written_out && bytes == 0;
        if delivered || now >= failure.taken + RESET_PATIENCE {
            return self.end(Ending::Reset, CloseReason::reset(side), now);
        }
        Next::Wait
    }

    /// The deadline of a failure has come. Only a measurement shows what the other side has taken meanwhile.
    pub(super) fn failure_deadline_reached(&self) -> Next {
        let State::Relaying(Relay { failed: Some(failure), .. }) = &self.state else { return Next::Wait };
        Next::Measure(failure.side.other())
    }
}
