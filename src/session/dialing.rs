//! A session that dials: its backend, the address that it tries, and the addresses that failed.

use super::relaying::Relay;
use super::{
    AttemptError, CloseReason, DialFailure, Ending, Fact, FailedAttempt, Ledger, Next, STARVED_RETRY, Session, State,
};
use crate::base::{Endpoint, Tick};
use crate::config::model::{Pool as Settings, ProxyVersion, SourceAddress};
use crate::policy::health::ConnectFailure;
use crate::pool::{Backend, Lease, PickError, ResetOrder, Tried};
use std::time::Duration;

/// A trial of an address keeps other clients away from it for this long beyond the connect time-out.
const GRACE: Duration = Duration::from_secs(1);

/// The error of an attempt at a backend whose name has no address: EIO.
const NO_ADDRESS: ConnectFailure = ConnectFailure::Os(5);

/// The error of an attempt at a backend where the client's port leads to none: EADDRNOTAVAIL, which is no fault of the backend.
const NO_PORT: ConnectFailure = ConnectFailure::Os(99);

/// What a dial in place of a warm connection needs of the attempt that took it.
#[derive(Debug)]
pub(super) struct WarmAttempt {
    address: Option<usize>,
    failed_addresses: Vec<usize>,
    tried: Vec<Tried>,
}

/// Where a connection comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Origin {
    /// It was dialled for this client.
    Dialled,
    /// It was established before.
    Warm,
}

#[derive(Debug)]
pub(super) struct Dial {
    pub(super) lease: Lease,
    /// It is connected, and has been asked for TLS.
    pub(super) is_requesting: bool,
    /// The preamble that the backend expects. From the pool that the lease was taken in: the next one may lack the backend.
    pub(super) preamble: Option<ProxyVersion>,
    /// The number of the address that is tried; `None`: the backend has none.
    address: Option<usize>,
    /// Addresses that failed before this one.
    failed_addresses: Vec<usize>,
    /// When this attempt began.
    pub(super) since: Tick,
    /// Set while the process has no descriptor for the socket: when to try again.
    pub(super) retry_at: Option<Tick>,
    /// Backends that failed before this one.
    tried: Vec<Tried>,
    /// A warm connection to it has ended before its first byte: this attempt takes none.
    replaces_warm: bool,
    /// The address that is tried, where its port depends on the client's; `None`, too, if there is no such port.
    mapped: Option<Box<Endpoint>>,
}

impl Dial {
    /// To the address of this backend whose turn it is.
    pub(super) fn new(
        lease: Lease,
        preamble: Option<ProxyVersion>,
        tried: Vec<Tried>,
        settings: &Settings,
        port: u16,
        now: Tick,
    ) -> Dial {
        let mapped = mapped(lease.backend(), port).map(Box::new);
        let address = lease.backend().addresses.choose(&[], now, settings.connect_timeout.saturating_add(GRACE));
        Dial {
            lease,
            is_requesting: false,
            preamble,
            address,
            failed_addresses: Vec::new(),
            since: now,
            retry_at: None,
            tried,
            replaces_warm: false,
            mapped,
        }
    }

    /// Where a warm connection may be taken from.
    pub(super) fn warm(&self) -> Option<(&Backend, usize)> {
        self.address.filter(|_| !self.replaces_warm).map(|address| (&**self.lease.backend(), address))
    }

    /// The address that is tried.
    pub(super) fn endpoint(&self) -> Option<&Endpoint> {
        let backend = self.lease.backend();
        match backend.port_offset {
            Some(_) => self.mapped.as_deref(),
            None => Some(&backend.addresses.get(self.address?)?.endpoint),
        }
    }

    /// Whether an address of this backend has failed.
    pub(super) fn has_failed_address(&self) -> bool {
        !self.failed_addresses.is_empty()
    }

    /// Backends that failed before this one.
    pub(super) fn tried(&self) -> &[Tried] {
        &self.tried
    }

    /// Notes the failure at the address; the fact to be counted.
    fn note_failure(&self, settings: &Settings, failure: ConnectFailure, now: Tick) -> Fact<'_> {
        let backend = self.lease.backend();
        let addresses = &backend.addresses;
        let is_evidence = backend.port_offset.is_none() && settings.source != SourceAddress::Client;
        // A lack of resources in this process says nothing about any address.
        let address = self.address.filter(|_| addresses.len() > 1 && is_evidence && !failure.is_ours());
        if let Some(address) = address {
            addresses.failed(address, now);
        }
        let is_last = self.failed_addresses.len() + 1 >= addresses.len();
        Fact::AttemptFailed { backend, address, failure, is_evidence, is_last }
    }

    /// Goes on to the backend's next address. False if there is none.
    fn next_address(&mut self, settings: &Settings, now: Tick) -> bool {
        self.failed_addresses.extend(self.address);
        let trial = settings.connect_timeout.saturating_add(GRACE);
        self.address = self.lease.backend().addresses.choose(&self.failed_addresses, now, trial);
        (self.retry_at, self.is_requesting) = (None, false);
        self.address.is_some()
    }
}

/// Where a client that connected to `port` reaches a backend whose port depends on that.
fn mapped(backend: &Backend, port: u16) -> Option<Endpoint> {
    let to = port_at(backend, port)?;
    match &backend.addresses.get(0)?.endpoint {
        Endpoint::Inet(at) => Some(Endpoint::Inet((at.ip(), to).into())),
        Endpoint::Unix(_) => None,
    }
}

fn port_at(backend: &Backend, port: u16) -> Option<u16> {
    port.checked_add(backend.port_offset?).filter(|_| port > 0)
}

impl Session {
    /// The backend that it dials or relays to, and the number of its address there, if that is known.
    pub fn connected_to(&self) -> Option<(&Backend, Option<usize>)> {
        match &self.state {
            State::Dialing(Dial { lease, address, .. }) => Some((lease.backend(), *address)),
            State::Relaying(Relay { lease, address, .. }) => {
                Some((lease.backend(), address.map(|address| address as usize)))
            }
            _ => None,
        }
    }

    /// The client connected to this port. To be called before [`super::Input::Begin`].
    pub fn came_to(&mut self, port: u16) {
        self.port = port;
    }

    /// The port of the backend that is dialled or relayed to, if it depends on the client's.
    pub(super) fn backend_port(&self) -> Option<u16> {
        port_at(self.backend()?, self.port)
    }

    /// Since when it dials the address that it dials now.
    pub fn dials_since(&self) -> Option<Tick> {
        if let State::Dialing(dial) = &self.state { Some(dial.since) } else { None }
    }

    pub(super) fn backend_picked(
        &mut self,
        choice: Result<Lease, PickError>,
        now: Tick,
        ledger: &mut dyn Ledger,
    ) -> Next {
        let State::Choosing { tried } = &mut self.state else { return Next::Wait };
        let Ok(lease) = choice else { return self.wait_for_backend(now) };
        let (tried, pool) = (std::mem::take(tried), self.route.pool());
        if !tried.is_empty() {
            ledger.record(Fact::Retried(pool), now);
        }
        self.attempts += 1;
        let preamble = pool.member(lease.index() as usize).and_then(|member| member.send_proxy);
        let dial = Dial::new(lease, preamble, tried, &pool.settings, self.port, now);
        let lacks = if dial.address.is_some() { NO_PORT } else { NO_ADDRESS };
        let has_address = dial.endpoint().is_some();
        self.state = State::Dialing(dial);
        if has_address { Next::Enter } else { self.attempt_failed(lacks, now, ledger) }
    }

    pub(super) fn dial_ended(&mut self, outcome: Result<(), DialFailure>, now: Tick, ledger: &mut dyn Ledger) -> Next {
        let needs_request = self.needs_request();
        match (outcome, &mut self.state) {
            (Ok(()), State::Dialing(dial)) if dial.is_requesting => Next::Wait,
            (Ok(()), State::Dialing(_)) if needs_request => self.begin_request(),
            (Ok(()), State::Dialing(_)) => self.dialed(now, ledger),
            (Err(DialFailure::Starved), State::Dialing(dial)) => {
                dial.retry_at = Some(now + STARVED_RETRY);
                Next::Wait
            }
            (Err(DialFailure::Failed(failure)), State::Dialing(_)) => self.attempt_failed(failure, now, ledger),
            _ => Next::Wait,
        }
    }

    pub(super) fn took_warm(&mut self, now: Tick, ledger: &mut dyn Ledger) -> Next {
        self.connected(Origin::Warm, now, ledger)
    }

    /// The backend is connected, and agrees.
    pub(super) fn dialed(&mut self, now: Tick, ledger: &mut dyn Ledger) -> Next {
        self.connected(Origin::Dialled, now, ledger)
    }

    fn connected(&mut self, origin: Origin, now: Tick, ledger: &mut dyn Ledger) -> Next {
        // The lease moves from one state to the next; meanwhile the session is in a state that owns nothing.
        let dial = match std::mem::replace(&mut self.state, State::Choosing { tried: Vec::new() }) {
            State::Dialing(dial) => dial,
            other => {
                self.state = other;
                return Next::Wait;
            }
        };
        let after = now - dial.since;
        // One that replaces a warm connection has been counted.
        if !dial.replaces_warm {
            let addresses = &dial.lease.backend().addresses;
            dial.address.into_iter().for_each(|address| match origin {
                Origin::Dialled => addresses.reached(address),
                Origin::Warm => addresses.used(address),
            });
            ledger.record(Fact::Connected { pool: self.route.pool(), lease: &dial.lease, after }, now);
        }
        // A preamble is the first thing that leaves, so there is no moment without a byte.
        let warm = (origin == Origin::Warm && dial.preamble.is_none()).then(|| {
            Box::new(WarmAttempt { address: dial.address, failed_addresses: dial.failed_addresses, tried: dial.tried })
        });
        if dial.preamble.is_none() && warm.is_none() {
            self.announced = None;
        }
        if warm.is_none() {
            self.first.iter_mut().for_each(|first| first.forget_offers());
        }
        let address = dial.address.and_then(|address| u32::try_from(address).ok());
        self.state =
            State::Relaying(Relay { warm, address, ..Relay::new(dial.lease, after, self.spent() + after, now) });
        dial.preamble.map_or(Next::Enter, Next::Announce)
    }

    /// The warm connection has ended, and no byte has moved. The same address is dialled for the client. If an operator drains
    /// the backend, or it is down, the session chooses another one.
    pub(super) fn replace_warm(&mut self, now: Tick) -> Next {
        match std::mem::replace(&mut self.state, State::Choosing { tried: Vec::new() }) {
            State::Relaying(Relay { lease, warm: Some(attempt), .. }) => {
                let WarmAttempt { address, failed_addresses, mut tried } = *attempt;
                if !self.route.pool().is_up(&lease) {
                    tried.push(lease.tried());
                    self.state = State::Choosing { tried };
                    return Next::Enter;
                }
                let (since, retry_at) = (now, None);
                let dial = Dial {
                    lease,
                    is_requesting: false,
                    preamble: None,
                    address,
                    failed_addresses,
                    since,
                    retry_at,
                    tried,
                    replaces_warm: true,
                    // A backend with the client's port has no warm connections.
                    mapped: None,
                };
                self.state = State::Dialing(dial);
                Next::Enter
            }
            other => {
                self.state = other;
                Next::Wait
            }
        }
    }

    /// Notes the failure and goes on.
    pub(super) fn attempt_failed(&mut self, failure: ConnectFailure, now: Tick, ledger: &mut dyn Ledger) -> Next {
        let State::Dialing(dial) = &mut self.state else { return Next::Wait };
        ledger.record(dial.note_failure(&self.route.pool().settings, failure, now), now);
        let error = if dial.address.is_some() { AttemptError::Connect(failure) } else { AttemptError::NoAddress };
        self.remember_failure(error, now);
        self.dial_next(now)
    }

    /// For the logs.
    fn remember_failure(&mut self, error: AttemptError, now: Tick) {
        let State::Dialing(dial) = &self.state else { return };
        let (backend, tried) = (dial.lease.backend().name.clone(), Some(dial.lease.tried()));
        let (address, after) = (dial.endpoint().cloned(), now - dial.since);
        self.history().attempt_failed(FailedAttempt { backend, tried, address, error, after });
    }

    /// Counts the time of a failed attempt. The next one begins now.
    fn spend_attempt(&mut self, now: Tick) {
        let State::Dialing(dial) = &mut self.state else { return };
        self.history.get_or_insert_default().spent += now - dial.since;
        dial.since = now;
    }

    /// The backend's next address, or another backend, or the end.
    fn dial_next(&mut self, now: Tick) -> Next {
        self.spend_attempt(now);
        let State::Dialing(dial) = &mut self.state else { return Next::Wait };
        if !self.orphaned && dial.next_address(&self.route.pool().settings, now) {
            return Next::Enter;
        }
        self.dial_another_backend(now)
    }

    /// Another backend, or the end.
    fn dial_another_backend(&mut self, now: Tick) -> Next {
        self.spend_attempt(now);
        let State::Dialing(dial) = &mut self.state else { return Next::Wait };
        let mut tried = std::mem::take(&mut dial.tried);
        tried.push(dial.lease.tried());
        if self.orphaned || tried.len() >= self.route.pool().settings.connect_attempts as usize {
            return self.wait_for_backend(now);
        }
        self.state = State::Choosing { tried };
        Next::Enter
    }

    pub(super) fn dial_deadline_reached(&mut self, now: Tick, ledger: &mut dyn Ledger) -> Next {
        let timeout = self.route.pool().settings.connect_timeout;
        let State::Dialing(dial) = &mut self.state else { return Next::Wait };
        match dial.retry_at.take() {
            None => self.attempt_failed(ConnectFailure::TimedOut(timeout), now, ledger),
            Some(_) if now < dial.since + timeout => Next::Enter,
            // This process had no descriptor all the time, which says nothing about the backend.
            Some(_) => {
                self.remember_failure(AttemptError::NoDescriptor, now);
                self.dial_next(now)
            }
        }
    }

    /// These connections are reset. A client that is still being connected has lost no byte yet.
    pub(super) fn backends_reset(&mut self, order: &ResetOrder, reason: CloseReason, now: Tick) -> Next {
        if !self.connected_to().is_some_and(|(backend, address)| order.includes(backend.id, address)) {
            return Next::Wait;
        }
        if let State::Dialing(_) = self.state {
            self.remember_failure(AttemptError::Withdrawn, now);
            self.dial_another_backend(now)
        } else {
            self.end(Ending::Reset, reason, now)
        }
    }
}
