//! A session that relays: how far each direction has come, and since when nothing moved.
//!
//! Counts and measures; [`super`] decides what follows.

use super::dialing::WarmAttempt;
use super::failing::Failure;
use super::{CloseReason, Direction, Fact, Failed, HalfState, Ledger, Moved, Session, Side, State, Unanswered};
use crate::base::{Endpoint, OptionalTick, Tick};
use crate::config::model::Pool as Settings;
use crate::policy::health::outlier::EARLY;
use crate::pool::Lease;
use std::time::Duration;

/// A session while it relays.
#[derive(Debug)]
pub(super) struct Relay {
    pub(super) lease: Lease,
    /// The number of the backend's address; `None`: the process before has connected it, and the backend lacks the address.
    pub(super) address: Option<u32>,
    /// How long the attempt took that succeeded.
    pub(super) attempt: Duration,
    /// The same, with all that failed before it.
    pub(super) connect: Duration,
    pub(super) up: DirectionState,
    pub(super) down: DirectionState,
    /// The side that sent its FIN first.
    pub(super) first_fin: Option<Side>,
    /// The side that has failed, while what it sent before is delivered.
    pub(super) failed: Option<Box<Failure>>,
    pub(super) last_byte: Tick,
    /// Bytes of the preamble for the backend that are still held.
    pub(super) preamble: u64,
    /// From here the backend's first byte is waited for; none once it has come.
    pub(super) asked: OptionalTick,
    /// Set where the connection was a warm one without a preamble.
    pub(super) warm: Option<Box<WarmAttempt>>,
}

/// One direction of it.
#[derive(Clone, Copy, Debug)]
pub(super) struct DirectionState {
    pub(super) half: HalfState,
    pub(super) held: bool,
    /// Written to the sink so far.
    pub(super) bytes: u64,
}

/// How long no byte may move.
pub(super) struct Silence {
    pub(super) limit: Duration,
    /// The reason of an end after that.
    pub(super) close: CloseReason,
}

impl DirectionState {
    pub(super) const NEW: DirectionState = DirectionState { half: HalfState::Open, held: false, bytes: 0 };
}

impl Session {
    /// Is this a warm connection without a byte? The driver then looks for the backend's end before it sends anything.
    pub fn holds_nothing(&self) -> bool {
        if let State::Relaying(relay) = &self.state { relay.holds_nothing() } else { false }
    }
}

impl Relay {
    /// With a backend that was connected by an attempt that took `attempt`, after all of them took `connect`.
    pub(super) fn new(lease: Lease, attempt: Duration, connect: Duration, now: Tick) -> Relay {
        Relay {
            lease,
            address: None,
            attempt,
            connect,
            up: DirectionState::NEW,
            down: DirectionState::NEW,
            first_fin: None,
            failed: None,
            last_byte: now,
            preamble: 0,
            asked: now.into(),
            warm: None,
        }
    }

    /// The backend's address, if it is known.
    pub(super) fn endpoint(&self) -> Option<&Endpoint> {
        Some(&self.lease.backend().addresses.get(self.address? as usize)?.endpoint)
    }

    /// Is this a warm connection on which no byte has moved, and no side has finished or failed?
    fn is_untouched(&self) -> bool {
        let open = |direction: &DirectionState| direction.half == HalfState::Open && direction.bytes == 0;
        self.warm.is_some() && self.failed.is_none() && open(&self.up) && open(&self.down) && !self.down.held
    }

    /// Does the backend's end of a warm connection cost the client nothing? What was read from the client is still held, and may
    /// follow a preamble for another backend.
    pub(super) fn loses_nothing(&self, direction: Direction, moved: &Moved) -> bool {
        let ended = moved.fin || moved.failed == Some(Failed::Source);
        match direction {
            _ if moved.written > 0 || !self.is_untouched() => false,
            Direction::Down => moved.read == 0 && ended && !self.up.held,
            Direction::Up => !ended && moved.held && !moved.piped && moved.failed == Some(Failed::Sink),
        }
    }

    /// The same, where nothing was tried.
    pub(super) fn holds_nothing(&self) -> bool {
        self.is_untouched() && !self.up.held
    }

    pub(super) fn direction(&self, direction: Direction) -> &DirectionState {
        match direction {
            Direction::Up => &self.up,
            Direction::Down => &self.down,
        }
    }

    pub(super) fn direction_mut(&mut self, direction: Direction) -> &mut DirectionState {
        match direction {
            Direction::Up => &mut self.up,
            Direction::Down => &mut self.down,
        }
    }

    /// Counts what was moved. At the backend's first byte, it measures how long that took: from the client's first bytes, or
    /// from the connect where the server speaks first.
    pub(super) fn count_bytes(&mut self, direction: Direction, moved: &Moved, now: Tick, ledger: &mut dyn Ledger) {
        if moved.read == 0 && moved.written == 0 {
            return;
        }
        self.last_byte = now;
        let of_preamble = if direction == Direction::Up { moved.written.min(self.preamble) } else { 0 };
        self.preamble -= of_preamble;
        let written = moved.written - of_preamble;
        let state = self.direction_mut(direction);
        state.bytes += written;
        match direction {
            Direction::Up if state.bytes == written && !self.asked.is_none() => self.asked = now.into(),
            Direction::Up => {}
            Direction::Down => {
                if let Some(asked) = self.asked.take() {
                    let (backend, after) = (self.lease.backend(), self.attempt + (now - asked));
                    ledger.record(Fact::Answered { backend, after }, now);
                }
            }
        }
    }

    /// What this end says of a backend that has not sent a byte. An end without an answer is a bad answer, unless the client
    /// sent no byte or an operator ended the connection.
    pub(super) fn unanswered(&self, close: CloseReason, now: Tick) -> Option<Unanswered> {
        let asked = self.asked.get()?;
        let waited = self.attempt + (now - asked);
        let backend_first = self.first_fin == Some(Side::Backend) || close == CloseReason::BackendReset;
        let client_asked = self.up.bytes > 0;
        match close {
            CloseReason::Shutdown | CloseReason::Forced => None,
            _ if backend_first => Some(Unanswered::ByBackend { waited, early: now - asked < EARLY }),
            CloseReason::IdleTimeout | CloseReason::HalfCloseTimeout if client_asked => {
                Some(Unanswered::ByBackend { waited, early: false })
            }
            CloseReason::ClientFin | CloseReason::ClientReset if client_asked => Some(Unanswered::Abandoned { waited }),
            _ => None,
        }
    }

    /// How long it may be silent now, and the reason of the end after that.
    pub(super) fn silence(&self, settings: &Settings) -> Silence {
        let idle = Silence { limit: settings.idle_timeout, close: CloseReason::IdleTimeout };
        if self.up.half == HalfState::Open && self.down.half == HalfState::Open {
            return idle;
        }
        // A shorter idle time-out applies here too: it promises an end after that much silence.
        let half_close = Silence { limit: settings.half_close_timeout, close: CloseReason::HalfCloseTimeout };
        if half_close.limit <= idle.limit { half_close } else { idle }
    }
}
