//! Where tcplb itself listens: a name must not lead a backend there, since each connection would come back.

use super::config_state::ConfigState;
use crate::base::{Address, Endpoint, Listen};
use crate::config::check::OwnListeners;
use crate::config::model::Listener;
use crate::pool::BoundAddress;

/// The addresses of the listeners by their names, and those of the admin API.
pub(super) struct OwnPlaces<'a> {
    listens: Vec<(&'a str, Listen)>,
    listeners: &'a [Listener],
    admin: &'a [Listen],
}

impl<'a> OwnPlaces<'a> {
    /// Those of these listeners, where they are bound and as they stand in the configuration.
    pub(super) fn new(
        listeners: &'a [Listener],
        bound: impl IntoIterator<Item = (&'a str, &'a BoundAddress)>,
        admin: &'a [Listen],
    ) -> OwnPlaces<'a> {
        let bound = bound.into_iter().map(|(name, address)| (name, listen_at(&address.endpoint)));
        let asked = asked(listeners).map(|(name, listen)| (name, listen.clone()));
        OwnPlaces { listens: bound.chain(asked).collect(), listeners, admin }
    }

    /// For comparisons with backends.
    pub(super) fn listeners(&self) -> OwnListeners<'_> {
        let own = OwnListeners::new(self.listens.iter().map(|(name, listen)| (*name, listen)));
        own.with_pools(Listener::pairs(self.listeners)).with_admin(self.admin)
    }
}

impl ConfigState {
    /// Those of these listeners, and of what is bound now.
    pub(super) fn own_places<'a>(&'a self, listeners: &'a [Listener]) -> OwnPlaces<'a> {
        let bound =
            self.snapshot.listeners.iter().flat_map(|it| it.addresses.iter().map(|address| (&*it.name, address)));
        OwnPlaces::new(listeners, bound, &self.admin)
    }
}

/// Where listeners are to listen.
pub(super) fn asked(listeners: &[Listener]) -> impl Iterator<Item = (&str, &Listen)> {
    listeners.iter().flat_map(|listener| listener.bind.iter().map(|listen| (listener.name.as_str(), listen)))
}

/// A bound endpoint as an address to listen on.
pub(super) fn listen_at(endpoint: &Endpoint) -> Listen {
    match endpoint {
        Endpoint::Inet(at) => Listen(Address::Inet(*at)),
        Endpoint::Unix(path) => Listen(Address::Unix(path.to_path_buf())),
    }
}
