//! Sides that fail: what is still read from them, and what they leave to be delivered to the other side.
//!
//! Before it relays, a client that resets ends its connection, unless it has said something before: then the dial goes on,
//! and the session hears of the reset once it relays. The kernel hands a socket's error out once, to whichever call asks
//! first, and reports a FIN from then on; so the error is asked for only where nothing is read afterwards, or noted in
//! [`relay::Ready::error_taken`].

use super::{Driver, Event, Net, Observer};
use crate::base::slots::Key;
use crate::session::{Input, Side};
use std::io::{self, ErrorKind};

impl<N: Net, O: Observer> Driver<N, O> {
    /// What poll says about a socket that is connecting. A connect that failed is announced as an error (connect(2),
    /// EINPROGRESS), and a hang-up has a cause too; without either it has worked.
    pub(super) fn outcome_of_dial(&mut self, key: Key, event: Event) -> io::Result<()> {
        let end = self.connections.get_mut(key).and_then(|connection| connection.backend.as_mut());
        let Some(end) = end.filter(|_| event.error || event.hung_up) else { return Ok(()) };
        let Some(error) = self.net.outcome(&end.socket) else { return Ok(()) };
        let was_connected = matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe);
        if !was_connected || !matches!(self.net.has_bytes(&end.socket), Ok(true)) {
            return Err(error);
        }
        // It has connected, said something and failed: the client gets what it said.
        (end.ready.readable, end.ready.failed) = (true, true);
        end.ready.error_taken = error.kind() != ErrorKind::BrokenPipe;
        Ok(())
    }

    /// Is there anything of the client to be delivered? An error: it has failed.
    pub(super) fn has_said_something(&mut self, key: Key) -> io::Result<bool> {
        let Some(connection) = self.connections.get(key) else { return Ok(false) };
        if connection.up.holds() { Ok(true) } else { self.net.has_bytes(&connection.client.socket) }
    }

    /// An error waits on a socket that is not connecting.
    pub(super) fn failed(&mut self, key: Key, side: Side) {
        let Some(connection) = self.connections.get_mut(key) else { return };
        let (relays, waits) = (connection.session.is_relaying(), connection.session.is_waiting());
        if relays || waits || side == Side::Backend {
            return self.feed(key, Input::Reset(side));
        }
        (connection.client.ready.readable, connection.client.ready.failed) = (true, true);
        if connection.session.reads_header() {
            self.read_header(key);
        } else if !matches!(self.has_said_something(key), Ok(true)) {
            self.feed(key, Input::Reset(side));
        }
    }

    /// The session relays from now on: it hears what happened to its sockets before.
    pub(super) fn tell_failures(&mut self, key: Key) {
        for side in [Side::Client, Side::Backend] {
            if self.connections.get(key).and_then(|connection| connection.end(side)).is_some_and(|end| end.ready.failed)
            {
                self.feed(key, Input::Reset(side));
            }
        }
    }

    /// Drops what is held for that side, and has the rest of what it sent relayed.
    pub(super) fn read_out(&mut self, key: Key, side: Side) {
        let Some(connection) = self.connections.get_mut(key) else { return };
        let (end, flow) = match side {
            Side::Client => (Some(&mut connection.client), &mut connection.down),
            Side::Backend => (connection.backend.as_mut(), &mut connection.up),
        };
        flow.discard(&mut self.shared);
        if let Some(end) = end {
            (end.ready.readable, end.ready.failed) = (true, true);
        }
        self.enqueue(key);
    }

    /// How much that side's kernel has not acknowledged.
    pub(super) fn unsent(&mut self, key: Key, side: Side) -> u64 {
        let end = self.connections.get(key).and_then(|connection| connection.end(side));
        end.map_or(0, |end| self.net.unsent(&end.socket))
    }
}
