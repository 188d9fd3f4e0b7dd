//! Routes of a listener.

use super::{Listener, defaults};
use crate::config::words::Words;
use crate::policy::routes::Conditions;
use crate::proto::sniff::Protocol;

/// The label of a client that takes no route.
pub const NO_ROUTE: &str = "none";

/// The label of a client that says nothing, and goes to `silent_pool`.
pub const SILENT: &str = "silent";

/// A route: which clients of a listener go to another pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// Its name in logs, metrics and API; unique within the listener. `None`: its number.
    pub name: Option<String>,
    /// What must hold for a client.
    pub conditions: Conditions,
    /// The name of its pool.
    pub pool: String,
}

impl Default for Route {
    /// Without conditions, to the pool that flags create.
    fn default() -> Route {
        Route { name: None, conditions: Conditions::default(), pool: defaults::NAME.to_owned() }
    }
}

impl Words for Protocol {
    const NAMES: &'static [(&'static str, Protocol)] = &[
        (Protocol::Tls.word(), Protocol::Tls),
        (Protocol::Postgres.word(), Protocol::Postgres),
        (Protocol::Http.word(), Protocol::Http),
        (Protocol::Ssh.word(), Protocol::Ssh),
    ];
}

impl Listener {
    /// Its routes with their labels: the name, else the number from 1. No name is a number.
    pub fn labelled_routes(&self) -> impl Iterator<Item = (String, &Route)> {
        (1..).zip(&self.routes).map(|(number, route): (usize, _)| {
            let label = route.name.clone().unwrap_or_else(|| number.to_string());
            (label, route)
        })
    }

    /// Whether a route depends on the client's first bytes.
    pub fn reads_first_bytes(&self) -> bool {
        self.routes.iter().any(|route| route.conditions.need_first_bytes())
    }

    /// Each pool that clients of these listeners may go to, with the listener, by name.
    pub fn pairs(listeners: &[Listener]) -> impl Iterator<Item = (&str, &str)> {
        listeners.iter().flat_map(|listener| listener.pools().map(|pool| (pool, listener.name.as_str())))
    }

    /// The pools that its clients may go to, by name.
    pub fn pools(&self) -> impl Iterator<Item = &str> {
        let of_routes = self.routes.iter().map(|route| route.pool.as_str());
        [self.pool.as_str()].into_iter().chain(self.silent_pool.as_deref()).chain(of_routes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_protocol_has_its_word() {
        assert_eq!(Protocol::NAMES.iter().map(|(_, protocol)| *protocol).collect::<Vec<_>>(), Protocol::ALL);
    }

    #[test]
    fn a_route_is_called_by_its_name_or_else_by_its_number() {
        let named = Route { name: Some("db".to_owned()), ..Route::default() };
        let listener = Listener { routes: vec![Route::default(), named, Route::default()], ..Listener::default() };
        assert_eq!(listener.labelled_routes().map(|(label, _)| label).collect::<Vec<_>>(), ["1", "db", "3"]);
    }
}
