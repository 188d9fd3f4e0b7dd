//! The two sockets of a connection, and the bytes held between them.

use super::liveness::{SavedWatch, Watch};
use super::sniffing::Look;
use super::{Dialed, Event, FirstBytes, Net, Transport};
use crate::base::slots::Key;
use crate::base::{Endpoint, Tick};
use crate::policy::health::ConnectFailure;
use crate::pool::{Backend, DialSource, SourcePort};
use crate::relay::{End, Ready, RelayBuffer};
use crate::session::{DialFailure, Direction, Input, Left, Side};
use crate::worker::token::{Serial, SocketId, Token};
use serde::{Deserialize, Serialize};
use std::io;

/// The two sockets of a connection, and the bytes held between them.
pub(super) struct Sockets<S, P> {
    pub(super) client: Attached<S>,
    /// Exists while a backend is dialled or relayed to.
    pub(super) backend: Option<Attached<S>>,
    /// Counts the backend's socket at its source address, if its pool lists some.
    pub(super) source: Option<SourcePort>,
    pub(super) up: RelayBuffer<P>,
    pub(super) down: RelayBuffer<P>,
    /// How the client left, as far as events said.
    pub(super) left: Option<Left>,
    /// The look at the client's first bytes, while it goes on.
    pub(super) look: Option<Box<Look>>,
    /// A look has found bytes of the client, which are still in its queue.
    pub(super) has_spoken: bool,
    /// Bytes can be moved without another event: the connection needs a turn of the run queue.
    pub(super) wants_turn: bool,
}

/// A socket that poll watches.
pub(super) struct Attached<S> {
    pub(super) end: End<S>,
    /// Which socket of the connection's slot it is: events of any other one do not concern it.
    pub(super) serial: Serial,
    pub(super) watch: Watch,
}

/// What is known of a socket besides its state in the kernel, for another process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SavedSocket {
    /// Its readiness. Poll announces no error a second time that was taken, and room only when there is much.
    pub ready: Ready,
    /// What is known of its peer's acknowledgements.
    #[serde(default)]
    pub watch: SavedWatch,
}

impl<S> Attached<S> {
    fn new(socket: S, ready: Ready, serial: Serial) -> Attached<S> {
        Attached { end: End { socket, ready }, serial, watch: Watch::default() }
    }

    /// One that another process had.
    pub(super) fn restore(socket: S, saved: SavedSocket, serial: Serial, now: Tick) -> Attached<S> {
        Attached { watch: saved.watch.restore(now), ..Attached::new(socket, saved.ready, serial) }
    }

    /// What is known of it.
    pub(super) fn save(&self, now: Tick) -> SavedSocket {
        SavedSocket { ready: self.end.ready, watch: self.watch.save(now) }
    }

    /// What its events are announced by.
    pub(super) fn id(&self, side: Side, key: Key) -> SocketId {
        SocketId { side, slot: key.slot, serial: self.serial }
    }
}

impl<S, P> Sockets<S, P> {
    /// Those of a client without a backend. A read of a unix socket may stop short with more behind.
    pub(super) fn new(client: S, transport: Transport, serial: Serial) -> Sockets<S, P> {
        let short_read_inconclusive = transport == Transport::Unix;
        let ready = Ready { writable: true, short_read_inconclusive, ..Ready::default() };
        Sockets {
            client: Attached::new(client, ready, serial),
            backend: None,
            source: None,
            up: RelayBuffer::default(),
            down: RelayBuffer::default(),
            left: None,
            look: None,
            has_spoken: false,
            wants_turn: false,
        }
    }

    pub(super) fn of(&mut self, side: Side) -> Option<&mut Attached<S>> {
        match side {
            Side::Client => Some(&mut self.client),
            Side::Backend => self.backend.as_mut(),
        }
    }

    /// What moves bytes in this direction: buffer, source, sink.
    pub(super) fn path(&mut self, direction: Direction) -> Option<(&mut RelayBuffer<P>, &mut End<S>, &mut End<S>)> {
        let (client, backend) = (&mut self.client.end, &mut self.backend.as_mut()?.end);
        Some(match direction {
            Direction::Up => (&mut self.up, client, backend),
            Direction::Down => (&mut self.down, backend, client),
        })
    }

    /// Takes what poll announces of a socket; false if that is neither of these two.
    pub(super) fn take_event(&mut self, socket: SocketId, event: &Event) -> bool {
        let attached = self.of(socket.side).filter(|attached| attached.serial == socket.serial);
        let Some(Attached { end: End { ready, .. }, .. }) = attached else { return false };
        ready.readable |= event.readable;
        ready.writable |= event.writable;
        ready.short_read_inconclusive |= event.urgent;
        ready.finished |= event.finished;
        if socket.side == Side::Client && (event.finished || event.hung_up) {
            let left = if event.hung_up { Left::Gone } else { Left::Finished };
            self.left = self.left.max(Some(left));
        }
        true
    }

    /// Has the backend ended a connection that nothing was read from, and the client something for it?
    pub(super) fn backend_has_ended(&self, net: &mut impl Net<Socket = S, Pipe = P>) -> bool {
        self.client.end.ready.readable && self.backend.as_ref().is_some_and(|it| net.has_ended(&it.end.socket))
    }

    /// Takes a warm connection if there is one, else begins to connect; the outcome, if it is known at once.
    pub(super) fn dial(
        &mut self,
        to: &Endpoint,
        from: DialSource<'_>,
        warm: Option<(&Backend, usize)>,
        id: SocketId,
        net: &mut impl Net<Socket = S, Pipe = P>,
    ) -> Option<Input<'static>> {
        let first_bytes = match self.has_client_bytes(net) {
            Ok(true) => FirstBytes::Ready,
            Ok(false) => FirstBytes::NotYet,
            Err(_) => return Some(Input::Reset(Side::Client)),
        };
        let mut take = |(backend, address)| net.take_warm(backend, address, Token::Socket(id));
        if let Some(warm) = warm.and_then(&mut take) {
            self.attach(warm, to, id, net);
            return Some(Input::TookWarm);
        }
        match net.dial(to, from, Token::Socket(id), first_bytes) {
            Ok(dialed) => self.attach(dialed, to, id, net).then_some(Input::Dialed(Ok(()))),
            Err(error) => Some(dialed(Err(error))),
        }
    }

    /// True: it is connected.
    fn attach(&mut self, dialed: Dialed<S>, to: &Endpoint, id: SocketId, net: &impl Net) -> bool {
        let Dialed { socket, is_connected: writable, source } = dialed;
        let ready = Ready { writable, short_read_inconclusive: net.has_urgent_gaps(to), ..Ready::default() };
        (self.backend, self.source) = (Some(Attached::new(socket, ready, id.serial)), source);
        writable
    }

    /// Closes the backend's socket: its attempt is over.
    pub(super) fn leave_backend(&mut self) {
        (self.backend, self.source) = (None, None);
    }
}

/// What the outcome of a dial means to the session.
pub(super) fn dialed(outcome: io::Result<()>) -> Input<'static> {
    Input::Dialed(outcome.map_err(|error| ConnectFailure::of(&error).map_or(DialFailure::Starved, DialFailure::Failed)))
}
