//! A probe with its socket: the only place of the prober that reads and writes.
//!
//! Driven by edge-triggered events: each call sends and reads until the kernel has no more or the probe is decided.
//! The probe itself bounds what is read, so a backend that never stops talking holds up nobody.
//!
//! How a probe hangs up: one that only connects resets, before the handshake is complete if the kernel can be told so
//! ([`Socket::dial_quietly`]). The backend's process never learns of it, so there is no empty connection in its log, no
//! thread woken, and no TIME_WAIT on either side. (HAProxy's checks do the same.) A plain FIN instead is a connection that
//! the backend accepts, reads an end of file from, and often complains about. An HTTP probe has been a proper exchange and
//! closes like any client; so does one that had to send a PROXY header, which says of itself that it is no client's.

use crate::base::Tick;
use crate::base::slots::Key;
use crate::net::Socket;
use crate::policy::health::{ConnectFailure, Outcome};
use crate::probe::{Probe, ProbeTarget};
use mio::{Interest, Registry, Token};
use std::io;

/// A probe under way on a socket.
#[derive(Debug)]
pub struct Open {
    /// Whose it is.
    pub watch: Key,
    /// The number of the backend's address that it tries.
    pub address: usize,
    /// When its time is over.
    pub until: Tick,
    probe: Probe,
    socket: Socket,
    connected: bool,
}

impl Open {
    /// Begins to connect. Events have to be asked for with [`Open::register`].
    pub fn dial((watch, address): (Key, usize), until: Tick, target: ProbeTarget) -> io::Result<Open> {
        let to = target.endpoint().clone();
        let probe = target.probe();
        let (socket, _) = if probe.is_bare() { Socket::dial_quietly(&to)? } else { Socket::dial(&to)? };
        Ok(Open { watch, address, until, probe, socket, connected: false })
    }

    /// Asks for events. One comes in any case, even if the connection is there already.
    pub fn register(&mut self, registry: &Registry, token: Token) -> io::Result<()> {
        let bare = self.probe.is_bare();
        let interest = if bare { Interest::WRITABLE } else { Interest::WRITABLE | Interest::READABLE };
        registry.register(&mut self.socket, token, interest)
    }

    /// Does what can be done now. An outcome once there is one.
    pub fn drive(&mut self, writable: bool) -> Option<Outcome> {
        if !self.connected {
            if let Some(error) = self.socket.outcome() {
                return Some(Outcome::NoConnection(ConnectFailure::Os(error.raw_os_error().unwrap_or_default())));
            }
            if !writable {
                return None;
            }
            self.connected = true;
            if let Some(outcome) = self.probe.connected() {
                return Some(outcome);
            }
        }
        self.send().or_else(|| self.receive())
    }

    /// Hangs up, as described above.
    pub fn close(self) {
        if self.probe.is_bare() {
            self.socket.reset();
        }
    }

    fn send(&mut self) -> Option<Outcome> {
        while !self.probe.unsent().is_empty() {
            match self.socket.send(self.probe.unsent(), false) {
                Ok(count) => {
                    if let Some(outcome) = self.probe.sent(count) {
                        return Some(outcome);
                    }
                }
                // No room now, or the peer is gone, which reading tells with the better reason.
                Err(_) => return None,
            }
        }
        None
    }

    fn receive(&mut self) -> Option<Outcome> {
        let mut buffer = [0; 2048];
        loop {
            match self.socket.recv(&mut buffer) {
                Ok(0) => return Some(self.probe.closed()),
                Ok(count) => {
                    if let Some(outcome) = self.probe.received(&buffer[..count]) {
                        return Some(outcome);
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return None,
                Err(error) => return Some(Outcome::Broken(error.raw_os_error().unwrap_or_default())),
            }
        }
    }
}
