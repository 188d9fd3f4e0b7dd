//! Carries out one effect of a session, and gives the input that answers it.

use super::sockets::Sockets;
use super::{Flushed, Net};
use crate::admission::AdmissionGuard;
use crate::base::slots::Key;
use crate::base::{Endpoint, OptionalTick, Tick};
use crate::policy::liveness::Timing;
use crate::pool::{Backend, DialSource, PickError, Pool};
use crate::relay::RelayResources;
use crate::session::{Effect, Ending, Fact, Input, Ledger, Record, Side};
use crate::worker::queue::Queues;
use crate::worker::token::{Serials, SocketId};
use std::sync::Arc;
use std::time::Duration;

/// When keepalive is turned on for a backend's socket. It costs five system calls, which a shorter connection saves. Clients'
/// sockets inherit it from their listener at no cost. A short `dead_peer_timeout` needs it sooner.
const KEEP_ALIVE_AFTER: Duration = Duration::from_secs(5);

/// All that an effect may act on: of the worker, and of the connection whose session the effect borrows from.
pub(super) struct Executor<'a, N: Net, L: Ledger> {
    pub(super) key: Key,
    pub(super) now: Tick,
    pub(super) net: &'a mut N,
    pub(super) ledger: &'a mut L,
    pub(super) queues: &'a mut Queues,
    pub(super) serials: &'a mut Serials,
    pub(super) relay_resources: &'a mut RelayResources<N::Pipe>,
    pub(super) random: &'a mut fastrand::Rng,
    pub(super) sockets: &'a mut Sockets<N::Socket, N::Pipe>,
    pub(super) guard: &'a mut AdmissionGuard,
    pub(super) flushed: &'a mut Flushed,
    pub(super) keep_alive_at: &'a mut OptionalTick,
    pub(super) look_at: &'a mut OptionalTick,
}

/// What follows an effect.
pub(super) enum Answer {
    /// The session gets this input at once.
    Input(Input<'static>),
    /// The session asks for nothing more now.
    Last(Then),
}

/// What the driver does after the last effect.
pub(super) enum Then {
    /// It waits for an event, a deadline or a turn.
    Wait,
    /// It relays what has come already.
    Relay,
    /// It closes the connection.
    Close(Ending),
}

impl<N: Net, L: Ledger> Executor<'_, N, L> {
    /// Carries out an effect.
    pub(super) fn answer(&mut self, effect: Effect<'_>) -> Answer {
        if effect.leaves_attempt() {
            self.sockets.leave_backend();
            *self.keep_alive_at = OptionalTick::NONE;
            self.sockets.look = None;
        }
        match effect {
            Effect::Wait => Answer::Last(Then::Wait),
            Effect::ReadPreamble => self.sockets.read_preamble(self.net, self.relay_resources).into(),
            Effect::Admit(client) => Answer::Input(Input::Admitted(self.guard.admit(client.ip, self.now))),
            Effect::Sniff { wanted } => self.sockets.begin_sniffing(wanted, self.net, self.relay_resources).into(),
            Effect::Pick { pool, client, tried } if self.queues.may_choose(pool, self.key) => {
                Answer::Input(Input::Picked(pool.pick(client, tried, self.now, self.random)))
            }
            Effect::Pick { .. } => Answer::Input(Input::Picked(Err(PickError::OthersWait))),
            Effect::Queue { pool } => Answer::Input(self.join_queue(pool)),
            Effect::Dial { to, from, warm } => self.dial(to, from, warm).into(),
            Effect::Request { preamble } => self.sockets.request(preamble, self.net, self.relay_resources).into(),
            Effect::Announce(preamble) => {
                Answer::Input(self.sockets.hold_preamble(&preamble, self.net, self.relay_resources))
            }
            Effect::Relay { pool } => {
                self.queues.hint(pool, self.now);
                let after = KEEP_ALIVE_AFTER.min(self.net.dead_peer_timeout() / 2);
                *self.keep_alive_at = (self.now + after).into();
                Answer::Last(Then::Relay)
            }
            Effect::Finish(side) => {
                self.finish(side);
                Answer::Last(Then::Wait)
            }
            Effect::ReadOut(side) => {
                self.sockets.read_out(side, self.relay_resources);
                Answer::Last(Then::Wait)
            }
            Effect::Measure(side) => Answer::Input(Input::Unsent(self.sockets.unsent(side, self.net))),
            Effect::End { ending, record } => {
                self.record_end(record);
                Answer::Last(Then::Close(ending))
            }
        }
    }

    fn join_queue(&mut self, pool: &Arc<Pool>) -> Input<'static> {
        // A client that has reset has hung up, too.
        let left = self.sockets.left;
        self.queues.join(pool, self.key, self.now).map_or(Input::NoPlace, |ahead| Input::Queued { ahead, left })
    }

    fn dial(&mut self, to: &Endpoint, from: DialSource<'_>, warm: Option<(&Backend, usize)>) -> Option<Input<'static>> {
        let id = SocketId { side: Side::Backend, slot: self.key.slot, serial: self.serials.give() };
        self.sockets.dial(to, from, warm, id, self.net)
    }

    /// Sends a FIN. The peer must acknowledge it as it must acknowledge bytes.
    fn finish(&mut self, side: Side) {
        if let Some(attached) = self.sockets.of(side) {
            self.net.finish(&attached.end.socket);
            attached.watch.sent_fin();
        }
        if self.look_at.is_none() {
            *self.look_at = (self.now + Timing::within(self.net.dead_peer_timeout()).look).into();
        }
    }

    fn record_end(&mut self, record: &Record) {
        if let Some(backend) = &record.backend {
            // A socket that was never connected has no path.
            let attached = self.sockets.backend.as_ref().filter(|_| record.connect.is_some());
            if let Some(path) = attached.and_then(|attached| self.net.path_info(&attached.end.socket)) {
                self.ledger.record(Fact::Measured { backend, path }, self.now);
            }
            let (to_backend, to_client) = self.flushed.add(record.bytes_to_backend, record.bytes_to_client);
            self.ledger.record(Fact::Relayed { backend, to_backend, to_client }, self.now);
        }
        self.ledger.record(Fact::Closed(record), self.now);
        self.queues.leave(&record.pool, self.key);
        self.queues.hint(&record.pool, self.now);
    }
}

/// Without an input yet, the session waits for it.
impl From<Option<Input<'static>>> for Answer {
    fn from(input: Option<Input<'static>>) -> Answer {
        input.map_or(Answer::Last(Then::Wait), Answer::Input)
    }
}
