//! A probe on its socket: the only place where probes read and write, for every thread that sends one.
//!
//! Each call of [`ProbeSocket::drive`] sends and reads until the kernel has no more or the probe has an outcome. The
//! probe bounds what is read, so a backend that sends without end delays nothing. The prober drives many probes from
//! its poll loop; [`run`] drives one on the calling thread.
//!
//! A probe that only connects ends with a reset, before the handshake completes if possible ([`DialOptions::quietly`]),
//! as HAProxy's checks do. So the backend's process sees no empty connection, and neither side keeps a TIME_WAIT. With
//! a FIN instead, the backend would accept the connection, read an end of file, and often log an error. An HTTP probe
//! closes like a client; so does a probe that sends a PROXY header.

use super::{DialOptions, Socket};
use crate::base::{Endpoint, Tick};
use crate::clock;
use crate::policy::health::{ConnectFailure, Outcome};
use crate::pool::DialSource;
use crate::probe::{Probe, ProbeTarget, Transcript};
use mio::{Interest, Registry, Token};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use std::io;
use std::net::IpAddr;
use std::time::Duration;

/// A probe in progress.
#[derive(Debug)]
pub struct ProbeSocket {
    probe: Probe,
    socket: Socket,
    connected: bool,
}

/// The readiness of a probe's socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Readiness {
    /// It is writable or closed.
    Writable,
    /// Any other event.
    Other,
}

impl ProbeSocket {
    /// Starts to connect. [`ProbeSocket::register`] requests events. Fails with local errors (descriptors, ports) and
    /// those known at once.
    pub fn dial(target: ProbeTarget) -> io::Result<ProbeSocket> {
        let (to, from) = (target.endpoint().clone(), target.source());
        ProbeSocket::dial_for(target.probe(), &to, from)
    }

    fn dial_for(probe: Probe, to: &Endpoint, from: Option<IpAddr>) -> io::Result<ProbeSocket> {
        let from = from.map_or(DialSource::System, DialSource::Local);
        let how = DialOptions { from, quietly: probe.is_bare(), ..DialOptions::PLAIN };
        let socket = Socket::dial_with(to, &how)?.socket;
        Ok(ProbeSocket { probe, socket, connected: false })
    }

    /// Registers the socket. An event comes even if the connection is complete already.
    pub fn register(&mut self, registry: &Registry, token: Token) -> io::Result<()> {
        let bare = self.probe.is_bare();
        let interest = if bare { Interest::WRITABLE } else { Interest::WRITABLE | Interest::READABLE };
        registry.register(&mut self.socket, token, interest)
    }

    /// Sends and reads as far as possible. Returns the outcome, once there is one.
    pub fn drive(&mut self, readiness: Readiness) -> Option<Outcome> {
        if !self.connected {
            if let Some(error) = self.socket.outcome() {
                return Some(Outcome::NoConnection(ConnectFailure::Os(error.raw_os_error().unwrap_or_default())));
            }
            if readiness != Readiness::Writable {
                return None;
            }
            self.connected = true;
            if let Some(outcome) = self.probe.connected() {
                return Some(outcome);
            }
        }
        loop {
            let outcome = self.send();
            let is_full = !self.probe.unsent().is_empty();
            let outcome = outcome.or_else(|| self.receive());
            // A script may have more to send, once bytes have come.
            if outcome.is_some() || is_full || self.probe.unsent().is_empty() {
                return outcome;
            }
        }
    }

    /// The outcome when its time is over, which was this long.
    pub fn timed_out(&self, after: Duration) -> Outcome {
        self.probe.timed_out(self.connected, after)
    }

    /// Closes the connection as the module describes. Returns what was sent and received, if the probe was recorded.
    pub fn close(self) -> Transcript {
        if self.probe.is_bare() {
            self.socket.reset();
        }
        self.probe.into_transcript()
    }

    fn send(&mut self) -> Option<Outcome> {
        while !self.probe.unsent().is_empty() {
            match self.socket.send(self.probe.unsent(), false) {
                Ok(count) => {
                    if let Some(outcome) = self.probe.sent(count) {
                        return Some(outcome);
                    }
                }
                // No room, or the peer is gone; reading reports the better reason.
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
                Err(error) => return Some(self.probe.broken(error.raw_os_error().unwrap_or_default())),
            }
        }
    }

    /// Waits for an event; `None` if none comes in time.
    fn wait(&self, until: Tick) -> Result<Option<Readiness>, Errno> {
        let writes = !self.connected || !self.probe.unsent().is_empty();
        let flags = if writes { PollFlags::OUT | PollFlags::IN } else { PollFlags::IN };
        let mut fds = [PollFd::new(&self.socket, flags)];
        loop {
            // A time-out is at most a year, so it fits.
            let left = Timespec::try_from(until - clock::now()).unwrap_or_default();
            match poll(&mut fds, Some(&left)) {
                Ok(0) => return Ok(None),
                Err(Errno::INTR) => {}
                Ok(_) => break,
                Err(error) => return Err(error),
            }
        }
        let writable = fds[0].revents().contains(PollFlags::OUT);
        Ok(Some(if writable { Readiness::Writable } else { Readiness::Other }))
    }
}

/// A probe that has ended.
#[derive(Debug)]
pub struct EndedProbe {
    /// Its result.
    pub outcome: Outcome,
    /// How long the connect took; `None` if there is no connection.
    pub connected_after: Option<Duration>,
    /// How long all of it took.
    pub after: Duration,
    /// What was sent, expected and received.
    pub transcript: Transcript,
}

/// Runs one probe on the calling thread, until `until` on [`crate::clock`]. `timeout` is what a late one is reported with.
pub fn run(target: ProbeTarget, until: Tick, timeout: Duration) -> EndedProbe {
    let no_connection = |code: Option<i32>| Outcome::NoConnection(ConnectFailure::Os(code.unwrap_or_default()));
    let (to, from, begun) = (target.endpoint().clone(), target.source(), clock::now());
    let mut connected_after = None;
    let (outcome, transcript) = match ProbeSocket::dial_for(target.probe().recorded(), &to, from) {
        Err(error) => (no_connection(error.raw_os_error()), Transcript::default()),
        Ok(mut probe) => {
            let outcome = loop {
                match probe.wait(until) {
                    Ok(Some(readiness)) => {
                        let outcome = probe.drive(readiness);
                        if probe.connected {
                            connected_after.get_or_insert_with(|| clock::now() - begun);
                        }
                        if let Some(outcome) = outcome {
                            break outcome;
                        }
                    }
                    Ok(None) => break probe.timed_out(timeout),
                    Err(error) => break no_connection(Some(error.raw_os_error())),
                }
            };
            (outcome, probe.close())
        }
    };
    EndedProbe { outcome, connected_after, after: clock::now() - begun, transcript }
}
