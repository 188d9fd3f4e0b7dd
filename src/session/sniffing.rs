//! A session whose listener has routes: the client's first bytes, and the route that follows from them.
//!
//! A client is looked at once it is admitted. So a client that is denied holds no place here, and the limits of a source hold for
//! clients that say nothing. Where all routes depend on the source alone, no byte is needed, and there is no such state.
//!
//! | state | what happens | held? | effect | reason |
//! |---|---|---|---|---|
//! | Sniffing | the first bytes are those of a wanted protocol, or of none | kept | the pool of the route that fits, else the listener's (Choosing) | |
//! | Sniffing | the first bytes are those of a wanted protocol, and broken | – | reset client | `sniff_failed` |
//! | Sniffing | `sniff_timeout` has passed, no byte has come, the listener has a `silent_pool` | no | that pool (Choosing); no route is tried | |
//! | Sniffing | the same without a `silent_pool` | – | reset client | `sniff_failed` |
//! | Sniffing | `sniff_timeout` has passed after bytes that decide nothing | – | reset client | `sniff_failed` |
//! | Sniffing | FIN from the client before any byte, as a bare probe sends it | – | close client | `client_fin` |
//! | Sniffing | FIN from the client after bytes that decide nothing | – | reset client | `sniff_failed` |
//! | Sniffing | reset from the client | – | reset client | `client_reset` |
//! | Sniffing | a new snapshot | kept | none: its routes choose, once the bytes are there | |
//! | Sniffing | the same, and its routes look for other protocols | kept | all bytes are looked at again, for those | |
//! | Sniffing | the same, and its routes look for none | kept | as for a client that is admitted now (Choosing), unless it was answered `S` or `N` | |
//! | Sniffing | its listener is gone in a new snapshot | kept | none: the routes that the listener had choose among the pools of that snapshot | |
//! | Sniffing | the pool that they choose is gone too | – | reset client | `no_backend` |
//!
//! `sniff_timeout` counts from the entry, which is behind a PROXY header. Bytes do not renew it.

use super::{CloseReason, Ending, Ledger, Next, Session, State};
use crate::base::Tick;
use crate::pool::{Listener, RouteLabel, Target};
use crate::proto::sniff::{Failure, Protocol, Sniffed};
use std::net::IpAddr;

/// What is known of a client of a listener with routes.
#[derive(Clone, Debug, Default)]
pub struct First {
    /// What its first bytes said, if they were those of a wanted protocol.
    pub sniffed: Option<Box<Sniffed>>,
    /// It had said nothing when its time was over.
    pub is_silent: bool,
    /// The route that it takes.
    pub route: Option<RouteLabel>,
    /// Why its first bytes were refused.
    pub failure: Option<Failure>,
}

/// Why first bytes say nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoAnswer {
    /// They are broken.
    Failed(Failure),
    /// The client's FIN came before they said anything.
    Fin,
}

/// The wait for first bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sniffing {
    /// When it began.
    pub(super) since: Tick,
    /// When it ends.
    pub(super) until: Tick,
    /// Bytes have come.
    pub(super) heard: bool,
}

impl First {
    /// The name that the client asks for.
    pub fn server_name(&self) -> Option<&str> {
        self.sniffed.as_ref()?.server_name()
    }

    /// The protocol of its first bytes, if routes look for it.
    pub fn protocol(&self) -> Option<Protocol> {
        Some(self.sniffed.as_ref()?.protocol)
    }

    /// No other route can be needed any more: only what logs show stays.
    pub(super) fn forget_offers(&mut self) {
        if let Some(hello) = self.sniffed.as_mut().and_then(|sniffed| sniffed.hello.as_mut()) {
            hello.alpn = Vec::new();
        }
    }

    /// Where it goes.
    pub(super) fn target<'a>(&self, listener: &'a Listener, source: Option<IpAddr>) -> Target<'a> {
        let silent = if self.is_silent { listener.silent() } else { None };
        silent.unwrap_or_else(|| listener.route(self.sniffed.as_deref(), source))
    }
}

impl Session {
    /// The client is admitted: waits for its first bytes, if a route needs them.
    pub(super) fn sniff_or_choose(&mut self, now: Tick, ledger: &mut dyn Ledger) -> Next {
        match self.route.listener() {
            Some(listener) if !listener.wanted().is_empty() => {
                let until = now + listener.settings.sniff_timeout;
                self.state = State::Sniffing(Sniffing { since: now, until, heard: false });
                Next::Enter
            }
            _ => self.choose_backend(now, ledger),
        }
    }

    /// All that decides is known: a pool, and then a backend.
    fn choose_backend(&mut self, now: Tick, ledger: &mut dyn Ledger) -> Next {
        if self.orphaned {
            return self.give_up(now);
        }
        self.choose_pool(now, ledger);
        self.state = State::Choosing { tried: Vec::new() };
        Next::Enter
    }

    pub(super) fn bytes_heard(&mut self) -> Next {
        let State::Sniffing(sniffing) = &mut self.state else { return Next::Wait };
        sniffing.heard = true;
        Next::Enter
    }

    pub(super) fn sniffed(
        &mut self,
        answer: Result<Option<Box<Sniffed>>, NoAnswer>,
        now: Tick,
        ledger: &mut dyn Ledger,
    ) -> Next {
        let State::Sniffing(sniffing) = &self.state else { return Next::Wait };
        match answer {
            Ok(None) => self.choose_backend(now, ledger),
            Ok(sniffed) => {
                self.first = Some(Box::new(First { sniffed, ..First::default() }));
                self.choose_backend(now, ledger)
            }
            Err(NoAnswer::Fin) if !sniffing.heard => self.end(Ending::Fin, CloseReason::ClientFin, now),
            Err(NoAnswer::Fin) => self.end(Ending::Reset, CloseReason::SniffFailed, now),
            Err(NoAnswer::Failed(failure)) => {
                self.first = Some(Box::new(First { failure: Some(failure), ..First::default() }));
                self.end(Ending::Reset, CloseReason::SniffFailed, now)
            }
        }
    }

    pub(super) fn sniff_deadline_reached(&mut self, now: Tick, ledger: &mut dyn Ledger) -> Next {
        let State::Sniffing(sniffing) = &self.state else { return Next::Wait };
        if sniffing.heard || self.route.listener().is_none_or(|listener| listener.silent().is_none()) {
            return self.end(Ending::Reset, CloseReason::SniffFailed, now);
        }
        self.first = Some(Box::new(First { is_silent: true, ..First::default() }));
        self.choose_backend(now, ledger)
    }
}
