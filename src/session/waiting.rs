//! A client without a backend: how long it waits for one, and what ends that.

use super::{CloseReason, Ending, Left, Next, Session, State};
use crate::base::Tick;
use crate::config::model::{Abandoned, NoBackend};

impl Session {
    /// There is no backend: waits for one, if and as long as the pool's settings say.
    pub(super) fn wait_for_backend(&mut self, now: Tick) -> Next {
        let NoBackend::Wait(time) = self.route.pool().settings.no_backend else { return self.give_up(now) };
        if self.orphaned {
            return self.give_up(now);
        }
        let until = *self.history().waits_until.get_or_insert(now + time);
        if now >= until {
            return self.give_up(now);
        }
        self.state = State::Waiting { since: now, until };
        Next::Enter
    }

    /// It has a place in the queue. It keeps its place when its turn finds no backend, so the first one counts.
    pub(super) fn queued(&mut self, ahead: u32, left: Option<Left>, now: Tick) -> Next {
        let State::Waiting { .. } = self.state else { return Next::Wait };
        self.history().ahead.get_or_insert(ahead);
        left.map_or(Next::Wait, |left| self.client_left(left, now))
    }

    /// The queue is full.
    pub(super) fn queue_full(&mut self, now: Tick) -> Next {
        let State::Waiting { .. } = self.state else { return Next::Wait };
        self.give_up(now)
    }

    pub(super) fn turn_came(&mut self, now: Tick) -> Next {
        let State::Waiting { since, .. } = self.state else { return Next::Wait };
        self.history().waited += now - since;
        self.state = State::Choosing { tried: Vec::new() };
        Next::Enter
    }

    /// Its client left while it waits.
    pub(super) fn client_left(&mut self, how: Left, now: Tick) -> Next {
        let State::Waiting { .. } = self.state else { return Next::Wait };
        match (how, self.route.pool().settings.abandoned) {
            (Left::Gone, _) => self.end(Ending::Reset, CloseReason::ClientReset, now),
            (Left::Finished, Abandoned::Drop) => self.end(Ending::Reset, CloseReason::ClientFin, now),
            (Left::Finished, Abandoned::Serve) => Next::Wait,
        }
    }

    /// Ends the session: there is no backend, and its time to wait has passed.
    pub(super) fn give_up(&mut self, now: Tick) -> Next {
        let reason = if self.attempts > 0 { CloseReason::ConnectFailed } else { CloseReason::NoBackend };
        self.end(Ending::Reset, reason, now)
    }
}
