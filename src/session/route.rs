//! Which pool serves a client: its listener's, until a pool is chosen.

use super::expiry::Expiry;
use super::{Next, Session, State};
use crate::base::Tick;
use crate::pool::{Listener, Pool, Snapshot};
use std::sync::Arc;

/// Leads a session to its pool.
#[derive(Clone, Debug)]
pub enum Route {
    /// No pool is chosen yet: the listener decides once the client is admitted.
    Listener(Arc<Listener>),
    /// The chosen pool.
    Pool(Arc<Pool>),
}

impl Route {
    /// The chosen pool, or the one that is chosen unless a new snapshot says otherwise.
    pub fn pool(&self) -> &Arc<Pool> {
        match self {
            Route::Listener(listener) => &listener.pool,
            Route::Pool(pool) => pool,
        }
    }

    /// Takes what `snapshot` has for clients of this listener: its route there, or the successor of the pool if the
    /// listener is gone. False if both are gone.
    fn update(&mut self, snapshot: &Snapshot, listener: &str) -> bool {
        let next = match (&self, snapshot.listener(listener)) {
            (Route::Listener(_), Some(listener)) => Some(Route::Listener(listener.clone())),
            (Route::Pool(_), Some(listener)) => Some(Route::Pool(listener.pool.clone())),
            (_, None) => snapshot.pool(&self.pool().settings.name).cloned().map(Route::Pool),
        };
        next.map(|next| *self = next).is_some()
    }
}

impl Session {
    /// Chooses the pool, by what is known of the client. Today a listener has one.
    pub(super) fn choose_pool(&mut self) {
        if let Route::Listener(listener) = &self.route {
            self.route = Route::Pool(listener.pool.clone());
        }
        self.set_expiry();
    }

    /// The lifetime is that of the pool that the session is going to relay for.
    fn set_expiry(&mut self) {
        let lifetime = self.route.pool().settings.max_lifetime;
        self.expires = lifetime.map(|lifetime| Expiry::new(lifetime, self.jitter, self.started));
    }

    /// Takes the route that `snapshot` has for clients of its listener, if there is one. For a client whose listener belongs
    /// to another snapshot, before [`super::Input::Begin`].
    pub fn update_route(&mut self, snapshot: &Snapshot) {
        self.route.update(snapshot, &self.listener.name);
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
                self.orphaned = !self.route.update(snapshot, &self.listener.name);
                if matches!(self.route, Route::Pool(_)) {
                    self.set_expiry();
                }
                match self.state {
                    State::Waiting { .. } if self.orphaned => self.give_up(now),
                    // Its place is in the queue of that pool.
                    State::Waiting { .. } => Next::Enter,
                    _ => Next::Wait,
                }
            }
        }
    }
}
