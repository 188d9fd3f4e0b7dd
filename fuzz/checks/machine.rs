//! A session with a driver that moves nothing. The driver keeps the session's last effect, and the facts that it reported.
//! So a check can look at both while the session goes on.

use std::ops::Deref;
use std::sync::Arc;
use tcplb::base::{Endpoint, Tick};
use tcplb::policy::balance::Client;
use tcplb::pool::{Pool, Tried};
use tcplb::session::{CloseReason, Effect, Ending, Fact, Input, Ledger, Session, Side};

/// The effects, without their operands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    Wait,
    ReadPreamble,
    Admit,
    Sniff,
    Pick,
    Queue,
    Dial,
    Request,
    Announce,
    Relay,
    Finish(Side),
    ReadOut(Side),
    Measure(Side),
    End(Ending),
}

/// What is left of a session that is over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Over {
    pub close: CloseReason,
    pub attempts: u32,
    pub client: Option<Endpoint>,
    pub answered: bool,
    /// To the backend, to the client.
    pub bytes: [u64; 2],
}

/// How often each fact was reported.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    pub failed: u32,
    pub retried: u32,
    pub connected: u32,
    pub answered: u32,
}

impl Ledger for Facts {
    fn record(&mut self, fact: Fact<'_>, _: Tick) {
        match fact {
            Fact::AttemptFailed { .. } => self.failed += 1,
            Fact::Retried(_) => self.retried += 1,
            Fact::Connected { .. } => self.connected += 1,
            Fact::Answered { .. } => self.answered += 1,
            Fact::Routed { .. } => {}
            Fact::Accepted { .. }
            | Fact::Measured { .. }
            | Fact::Relayed { .. }
            | Fact::Opened(_)
            | Fact::Ongoing { .. }
            | Fact::Closed(_) => {
                panic!("the driver's to report: {fact:?}")
            }
        }
    }
}

pub struct Machine {
    pub session: Session,
    /// Of the last effect that named one.
    pub client: Client,
    pub tried: Vec<Tried>,
    pub pool: Option<Arc<Pool>>,
    pub address: Option<Endpoint>,
    /// The last dial might have been a warm connection.
    pub may_be_warm: bool,
    /// What the backend gets before the client's bytes, where the client connected to `local`.
    pub preamble: Vec<u8>,
    pub local: Option<Endpoint>,
    pub facts: Facts,
    pub over: Option<Over>,
}

impl Machine {
    pub fn new(session: Session) -> Machine {
        let (client, tried, address, preamble) = (Client { ip: None }, Vec::new(), None, Vec::new());
        let facts = Facts::default();
        Machine {
            session,
            client,
            tried,
            pool: None,
            address,
            may_be_warm: false,
            preamble,
            local: None,
            facts,
            over: None,
        }
    }

    pub fn handle(&mut self, input: Input<'_>, now: Tick) -> Asked {
        match self.session.handle(input, now, &mut self.facts) {
            Effect::Wait => Asked::Wait,
            Effect::ReadPreamble => Asked::ReadPreamble,
            Effect::Admit(client) => {
                self.client = client;
                Asked::Admit
            }
            Effect::Sniff { .. } => Asked::Sniff,
            Effect::Pick { pool, client, tried } => {
                (self.client, self.tried, self.pool) = (client, tried.to_vec(), Some(pool.clone()));
                Asked::Pick
            }
            Effect::Queue { .. } => Asked::Queue,
            Effect::Dial { to, warm, .. } => {
                (self.address, self.may_be_warm) = (Some(to.clone()), warm.is_some());
                Asked::Dial
            }
            Effect::Request { preamble } => {
                self.preamble = preamble.map_or_else(Vec::new, |preamble| preamble.bytes(|| self.local.clone()));
                Asked::Request
            }
            Effect::Announce(preamble) => {
                self.preamble = preamble.bytes(|| self.local.clone());
                Asked::Announce
            }
            Effect::Relay { .. } => Asked::Relay,
            Effect::Finish(side) => Asked::Finish(side),
            Effect::ReadOut(side) => Asked::ReadOut(side),
            Effect::Measure(side) => Asked::Measure(side),
            Effect::End { ending, record } => {
                assert!(self.over.is_none(), "it ends twice");
                self.over = Some(Over {
                    close: record.close,
                    attempts: record.attempts,
                    client: record.client.clone(),
                    answered: record.answered,
                    bytes: [record.bytes_to_backend, record.bytes_to_client],
                });
                Asked::End(ending)
            }
        }
    }

    /// Why it ended, and after how many backends.
    pub fn closed(&self) -> Option<(CloseReason, u32)> {
        self.over.as_ref().map(|over| (over.close, over.attempts))
    }
}

impl Deref for Machine {
    type Target = Session;

    fn deref(&self) -> &Session {
        &self.session
    }
}
