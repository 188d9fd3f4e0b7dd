//! Which pool serves a client: its listener's, until a pool is chosen.

use super::expiry::Expiry;
use super::{Fact, First, Ledger, Next, Session, State};
use crate::base::{Endpoint, Tick};
use crate::pool::{Listener, Pool, Snapshot};
use crate::proto::sniff::Protocols;
use crate::telemetry::RouteTotals;
use std::sync::Arc;

/// Leads a session to its pool.
#[derive(Clone, Debug)]
pub enum Route {
    /// No pool is chosen yet: the listener decides once the client is admitted, and its first bytes are known if routes need them.
    Listener(Arc<Listener>),
    /// The chosen pool.
    Pool(Arc<Pool>),
}

impl Route {
    /// The chosen pool, or the one that is chosen unless a route or a new snapshot says otherwise.
    pub fn pool(&self) -> &Arc<Pool> {
        match self {
            Route::Listener(listener) => &listener.pool,
            Route::Pool(pool) => pool,
        }
    }

    /// The listener, until a pool is chosen.
    pub(super) fn listener(&self) -> Option<&Arc<Listener>> {
        if let Route::Listener(listener) = self { Some(listener) } else { None }
    }

    /// The protocols to look for in the client's first bytes.
    pub(super) fn wanted(&self) -> Protocols {
        self.listener().map(|listener| listener.wanted()).unwrap_or_default()
    }
}

impl Session {
    /// Chooses the pool, by what is known of the client.
    pub(super) fn choose_pool(&mut self, now: Tick, ledger: &mut dyn Ledger) {
        match &self.route {
            // Most listeners have no routes, and most clients nothing to choose by.
            Route::Listener(listener) if !listener.has_routes() && self.first.is_none() => {
                self.route = Route::Pool(listener.pool.clone());
            }
            Route::Listener(listener) => {
                let listener = listener.clone();
                let sniffed_for =
                    if let State::Sniffing(sniffing) = &self.state { Some(now - sniffing.since) } else { None };
                let route = self.choose_from(&listener);
                if listener.has_routes() {
                    ledger.record(Fact::Routed { listener: &self.listener, route, sniffed_for }, now);
                }
            }
            Route::Pool(_) => {}
        }
        self.set_expiry();
    }

    fn choose_from<'a>(&mut self, listener: &'a Listener) -> &'a RouteTotals {
        let source = self.client.as_ref().and_then(Endpoint::ip);
        let nothing = First::default();
        let target = self.first.as_deref().unwrap_or(&nothing).target(listener, source);
        if target.route.is_some() || self.first.is_some() {
            self.first.get_or_insert_default().route = target.route.cloned();
        }
        self.route = Route::Pool(target.pool.clone());
        target.totals
    }

    /// The lifetime is that of the pool that the session is going to relay for.
    fn set_expiry(&mut self) {
        let lifetime = self.route.pool().settings.max_lifetime;
        self.expires = lifetime.map(|lifetime| Box::new(Expiry::new(lifetime, self.jitter, self.started)));
    }

    /// Takes what `snapshot` has for clients of this listener: its routes there. If the listener is gone, what it led to goes on
    /// with the successors of the pools. False if there is none.
    fn follow(&mut self, snapshot: &Snapshot) -> bool {
        let next = match (&self.route, snapshot.listener(&self.listener.name)) {
            (Route::Listener(_), Some(listener)) => Some(Route::Listener(listener.clone())),
            (Route::Pool(_), Some(listener)) => {
                self.choose_from(listener);
                return true;
            }
            (Route::Listener(listener), None) if listener.has_routes() => {
                Some(Route::Listener(listener.removed_in(snapshot)))
            }
            (_, None) => snapshot.pool(&self.route.pool().settings.name).cloned().map(Route::Pool),
        };
        next.map(|next| self.route = next).is_some()
    }

    /// Takes the routes that `snapshot` has for clients of its listener, if there are any. For a client whose listener belongs
    /// to another snapshot, before [`super::Input::Begin`].
    pub fn update_route(&mut self, snapshot: &Snapshot) {
        self.follow(snapshot);
    }

    /// A new snapshot. A session without a backend looks for one there from now on, for as long as it may still wait. A relay
    /// goes on under the settings that it began with, and keeps the old pool only if its successor has other settings.
    pub(super) fn snapshot_adopted(&mut self, snapshot: &Snapshot, now: Tick) -> Next {
        match self.state {
            State::Closed { .. } => Next::Wait,
            State::Relaying(_) => {
                let pool = self.route.pool();
                let successor = snapshot.pool(&pool.settings.name).filter(|next| next.has_settings_of(pool));
                if let Some(successor) = successor {
                    self.route = Route::Pool(successor.clone());
                }
                Next::Wait
            }
            _ => {
                let wanted = self.route.wanted();
                self.orphaned = !self.follow(snapshot);
                if matches!(self.route, Route::Pool(_)) {
                    self.set_expiry();
                }
                match self.state {
                    State::Waiting { .. } if self.orphaned => self.give_up(now),
                    // Its place is in the queue of that pool.
                    State::Waiting { .. } => Next::Enter,
                    // Its first bytes may now be those of another protocol, or needed no more.
                    State::Sniffing(_) if self.route.wanted() != wanted => Next::Enter,
                    _ => Next::Wait,
                }
            }
        }
    }
}
