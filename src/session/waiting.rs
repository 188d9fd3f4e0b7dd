//! A client without a backend: how long it waits for one, and what ends that.

use super::{CloseReason, Effect, Ending, Left, Session, State};
use crate::base::Tick;
use crate::config::model::{Abandoned, NoBackend};

impl Session {
    /// The pool is gone, and there is no other one for this client. It is not connected to one of its backends any more,
    /// unless it is just being dialled; a relay goes on.
    pub fn orphan(&mut self, now: Tick) -> Effect {
        self.orphaned = true;
        if self.is_waiting() { self.give_up(now) } else { Effect::Wait }
    }

    /// There is no backend: waits for one, as long as the pool's settings say.
    pub(super) fn wait(&mut self, now: Tick) -> Effect {
        let NoBackend::Wait(time) = self.pool.settings.no_backend else { return self.give_up(now) };
        if self.orphaned {
            return self.give_up(now);
        }
        let until = *self.patience.get_or_insert(now + time);
        if now >= until {
            return self.give_up(now);
        }
        self.state = State::Waiting { until };
        Effect::Queue
    }

    pub(super) fn turn(&mut self) -> Effect {
        let State::Waiting { .. } = self.state else { return Effect::Wait };
        self.state = State::Choosing { tried: Vec::new() };
        Effect::Pick
    }

    /// Its client left while it waits.
    pub(super) fn left(&mut self, how: Left, now: Tick) -> Effect {
        let State::Waiting { .. } = self.state else { return Effect::Wait };
        match (how, self.pool.settings.abandoned) {
            (Left::Gone, _) => self.end(Ending::Reset, CloseReason::ClientReset, now),
            (Left::Finished, Abandoned::Drop) => self.end(Ending::Reset, CloseReason::ClientFin, now),
            (Left::Finished, Abandoned::Serve) => Effect::Wait,
        }
    }

    /// No backend, and no more waiting for one.
    pub(super) fn give_up(&mut self, now: Tick) -> Effect {
        let reason = if self.attempts > 0 { CloseReason::ConnectFailed } else { CloseReason::NoBackend };
        self.end(Ending::Reset, reason, now)
    }
}
