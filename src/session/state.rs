//! The states of a session: the effect that each asks for, its deadline, and how far the connection has come.

use super::dialing::Dial;
use super::relaying::Relay;
use super::sniffing::Sniffing;
use super::{Effect, Ending, PREAMBLE_TIMEOUT, Record, Session, Side, Stage};
use crate::base::Tick;
use crate::config::model::ProxyVersion;
use crate::pool::Tried;

#[derive(Debug)]
pub(super) enum State {
    ReadingPreamble { trusted: bool },
    Admitting,
    Sniffing(Sniffing),
    Waiting { since: Tick, until: Tick },
    Choosing { tried: Vec<Tried> },
    Dialing(Dial),
    Relaying(Relay),
    Closed { ending: Ending, record: Record },
}

/// The result of an input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Nothing.
    Wait,
    /// The session entered a state, which asks for its effect.
    Enter,
    /// Connected, to a backend that expects a preamble.
    Announce(ProxyVersion),
    Finish(Side),
    ReadOut(Side),
    Measure(Side),
}

impl Session {
    /// The effect that a state asks for on entry.
    pub(super) fn effect_of_state(&self) -> Effect<'_> {
        let pool = self.route.pool();
        match &self.state {
            State::ReadingPreamble { .. } => Effect::ReadPreamble,
            State::Admitting => Effect::Admit(self.policy_client()),
            State::Sniffing(_) => Effect::Sniff { wanted: self.route.wanted() },
            State::Choosing { tried } => Effect::Pick { pool, client: self.policy_client(), tried },
            State::Waiting { .. } => Effect::Queue { pool },
            State::Dialing(dial) if dial.is_requesting => self.request(),
            State::Dialing(dial) => {
                let from = pool.dial_source(self.client.as_ref());
                let warm = dial.warm().filter(|_| !self.needs_request());
                dial.endpoint().map_or(Effect::Wait, |to| Effect::Dial { to, from, warm })
            }
            State::Relaying(relay) => match &relay.failed {
                Some(failure) => Effect::ReadOut(failure.side),
                None => Effect::Relay { pool },
            },
            State::Closed { ending, record } => Effect::End { ending: *ending, record },
        }
    }

    /// When the session needs [`Input::Deadline`] next; the driver sets its timer by it. Bytes that move push it back without
    /// an effect, so the driver asks again when the timer fires.
    pub fn deadline(&self) -> Option<Tick> {
        let settings = &self.route.pool().settings;
        match &self.state {
            State::ReadingPreamble { .. } => Some(self.started + PREAMBLE_TIMEOUT),
            State::Sniffing(sniffing) => Some(sniffing.until),
            State::Admitting | State::Choosing { .. } | State::Closed { .. } => None,
            State::Waiting { until, .. } => Some(*until),
            State::Dialing(dial) => Some(dial.retry_at.unwrap_or(dial.since + settings.connect_timeout)),
            State::Relaying(relay) => {
                let due = match &relay.failed {
                    Some(failure) => failure.deadline(),
                    None => relay.last_byte + relay.silence(settings).limit,
                };
                Some(self.expires.as_ref().map_or(due, |expiry| expiry.deadline(relay).min(due)))
            }
        }
    }

    /// How far it has come. The meaning of a socket's event depends on it.
    pub fn stage(&self) -> Stage {
        match &self.state {
            State::ReadingPreamble { .. } => Stage::Preamble,
            State::Admitting => Stage::Admitting,
            State::Sniffing(_) => Stage::Sniffing,
            State::Waiting { .. } => Stage::Waiting,
            State::Choosing { .. } => Stage::Choosing,
            State::Dialing(dial) if dial.is_requesting => Stage::Requesting,
            State::Dialing(_) => Stage::Dialing,
            State::Relaying(_) => Stage::Relaying,
            State::Closed { .. } => Stage::Closed,
        }
    }
}
