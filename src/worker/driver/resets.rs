//! Sides that fail: reads what they sent before, and delivers it to the other side.
//!
//! Before it relays, a client that resets ends its connection. If it has sent something before, the dial goes on instead, and
//! the session learns of the reset once it relays. The kernel hands a socket's error out once, to whichever call asks
//! first, and reports a FIN from then on; so the error is asked for only where nothing is read afterwards, or noted in
//! [`crate::relay::Ready::error_taken`].

use super::sockets::Sockets;
use super::{Driver, Event, Net};
use crate::base::slots::Key;
use crate::relay::RelayResources;
use crate::session::{Input, Ledger, Side, Stage};
use std::io::{self, ErrorKind};

impl<S, P> Sockets<S, P> {
    /// What poll says about a socket that is connecting. A connect that failed is announced as an error (connect(2),
    /// EINPROGRESS), and a hang-up has a cause too; without either it has worked.
    pub(super) fn outcome_of_dial(
        &mut self,
        event: &Event,
        net: &mut impl Net<Socket = S, Pipe = P>,
    ) -> io::Result<()> {
        let Some(backend) = self.backend.as_mut().filter(|_| event.error || event.hung_up) else { return Ok(()) };
        let end = &mut backend.end;
        let Some(error) = net.outcome(&end.socket) else { return Ok(()) };
        let was_connected = matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe);
        if !was_connected || !matches!(net.has_bytes(&end.socket), Ok(true)) {
            return Err(error);
        }
        // It has connected, sent something and failed: the client gets what it sent.
        (end.ready.readable, end.ready.failed) = (true, true);
        end.ready.error_taken = error.kind() != ErrorKind::BrokenPipe;
        Ok(())
    }

    /// Is there anything of the client to be delivered? An error: it has failed.
    pub(super) fn has_client_bytes(&self, net: &mut impl Net<Socket = S, Pipe = P>) -> io::Result<bool> {
        if self.up.holds() || self.has_spoken { Ok(true) } else { net.has_bytes(&self.client.end.socket) }
    }

    /// Drops what is held for that side, and has the rest of what it sent relayed.
    pub(super) fn read_out(&mut self, side: Side, shared: &mut RelayResources<P>) {
        let buffer = if side == Side::Client { &mut self.down } else { &mut self.up };
        buffer.discard(shared);
        if let Some(other) = self.of(side.other()) {
            other.end.ready.ended = true;
        }
        if let Some(failed) = self.of(side) {
            (failed.end.ready.readable, failed.end.ready.failed) = (true, true);
        }
        self.wants_turn = true;
    }

    /// How much that side's kernel has not acknowledged.
    pub(super) fn unsent(&mut self, side: Side, net: &mut impl Net<Socket = S, Pipe = P>) -> u64 {
        self.of(side).map_or(0, |attached| net.unsent(&attached.end.socket))
    }
}

impl<N: Net, L: Ledger> Driver<N, L> {
    /// An error waits on a socket that is not connecting.
    pub(super) fn socket_failed(&mut self, key: Key, side: Side) {
        let Some(connection) = self.connections.get_mut(key) else { return };
        let (stage, sockets) = (connection.session.stage(), &mut connection.sockets);
        if matches!(stage, Stage::Relaying | Stage::Waiting) || side == Side::Backend {
            return self.step(key, Input::Reset(side));
        }
        let ready = &mut sockets.client.end.ready;
        (ready.readable, ready.failed) = (true, true);
        if stage == Stage::Preamble {
            self.read_preamble(key);
        } else if stage == Stage::Sniffing {
            self.sniff(key);
        } else if !matches!(sockets.has_client_bytes(&mut self.net), Ok(true)) {
            self.step(key, Input::Reset(side));
        }
    }

    /// The session relays from now on: reports what happened to its sockets before.
    pub(super) fn report_failures(&mut self, key: Key) {
        for side in [Side::Client, Side::Backend] {
            let attached = self.connections.get_mut(key).and_then(|connection| connection.sockets.of(side));
            if attached.is_some_and(|attached| attached.end.ready.failed) {
                self.step(key, Input::Reset(side));
            }
        }
    }
}
