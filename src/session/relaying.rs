//! What is known of a session while it relays: how far each way has come, and since when nothing moved.
//!
//! Counts and measures; what follows from it is decided in [`super`].

use super::failing::Failure;
use super::{CloseReason, Direction, HalfState, Moved, Side};
use crate::base::Tick;
use crate::config::model::Pool as Settings;
use crate::policy::health::outlier::EARLY;
use crate::pool::Lease;
use std::time::Duration;

/// A session while it relays.
#[derive(Debug)]
pub(super) struct Relay {
    pub(super) lease: Lease,
    /// How long the attempt took that worked.
    pub(super) attempt: Duration,
    /// The same, with all that failed before it.
    pub(super) connect: Duration,
    pub(super) up: DirectionState,
    pub(super) down: DirectionState,
    /// Whose FIN came first.
    pub(super) first_fin: Option<Side>,
    /// The side that has failed, while what it sent before is delivered.
    pub(super) failed: Option<Failure>,
    pub(super) last_byte: Tick,
    /// Bytes of the header for the backend that are still held.
    pub(super) introduction: u64,
    /// From here the backend's first byte is waited for; `None` once it has come.
    pub(super) asked: Option<Tick>,
}

/// One way of it.
#[derive(Clone, Copy, Debug)]
pub(super) struct DirectionState {
    pub(super) half: HalfState,
    pub(super) held: bool,
    /// Written to the sink so far.
    pub(super) bytes: u64,
}

impl DirectionState {
    pub(super) const NEW: DirectionState = DirectionState { half: HalfState::Open, held: false, bytes: 0 };
}

impl Relay {
    pub(super) fn way(&self, way: Direction) -> &DirectionState {
        match way {
            Direction::Up => &self.up,
            Direction::Down => &self.down,
        }
    }

    pub(super) fn way_mut(&mut self, way: Direction) -> &mut DirectionState {
        match way {
            Direction::Up => &mut self.up,
            Direction::Down => &mut self.down,
        }
    }

    /// Counts what was moved and, at the backend's first byte, measures how long it took: from the client's first bytes,
    /// or from the connect where the server speaks first.
    pub(super) fn count(&mut self, way: Direction, moved: &Moved, now: Tick) {
        if moved.read == 0 && moved.written == 0 {
            return;
        }
        self.last_byte = now;
        let ours = if way == Direction::Up { moved.written.min(self.introduction) } else { 0 };
        self.introduction -= ours;
        let written = moved.written - ours;
        let direction = self.way_mut(way);
        direction.bytes += written;
        match way {
            Direction::Up if direction.bytes == written => self.asked = self.asked.map(|_| now),
            Direction::Up => {}
            Direction::Down => {
                if let Some(asked) = self.asked.take() {
                    self.lease.backend().answered(self.attempt + (now - asked), now);
                }
            }
        }
    }

    /// It is over. What that says of a backend that has not sent a byte: an end without an answer is a bad answer, unless the
    /// client never asked or the end is an operator's.
    pub(super) fn ended(&self, close: CloseReason, now: Tick) {
        let Some(asked) = self.asked else { return };
        let (backend, waited) = (self.lease.backend(), self.attempt + (now - asked));
        let backend_first = self.first_fin == Some(Side::Backend) || close == CloseReason::BackendReset;
        let client_asked = self.up.bytes > 0;
        match close {
            CloseReason::Shutdown | CloseReason::Forced => {}
            _ if backend_first => backend.unanswered(waited, now - asked < EARLY, now),
            CloseReason::IdleTimeout | CloseReason::HalfCloseTimeout if client_asked => {
                backend.unanswered(waited, false, now);
            }
            CloseReason::ClientFin | CloseReason::ClientReset if client_asked => backend.abandoned(waited, now),
            _ => {}
        }
    }

    /// How long it may be silent now, and what it is called when that is over.
    pub(super) fn silence(&self, settings: &Settings) -> (Duration, CloseReason) {
        let idle = (settings.idle_timeout, CloseReason::IdleTimeout);
        if self.up.half == HalfState::Open && self.down.half == HalfState::Open {
            return idle;
        }
        // An idle time-out that is shorter holds here too: it promises an end after that much silence.
        let half_close = (settings.half_close_timeout, CloseReason::HalfCloseTimeout);
        if half_close.0 <= idle.0 { half_close } else { idle }
    }
}
