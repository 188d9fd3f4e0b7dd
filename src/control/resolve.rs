//! Turns the addresses of backends into endpoints, given the outcomes of name lookups.
//!
//! Pure: [`super::lookup`] does the lookups.

use super::lookup::Found;
use crate::base::{Address, Endpoint};
use crate::config::check::OwnListeners;
use crate::config::discovered::is_discovered;
use crate::config::model::{self, Model, Names};
use crate::discovery::dns::of_servers;
use crate::pool::{Backend, Resolved, Snapshot};
use crate::preflight;
use std::collections::{BTreeSet, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;

/// The endpoints of a model's backends.
#[derive(Debug, Default)]
pub struct Endpoints {
    /// Endpoints of names, by pool and backend. A backend without endpoints is down until its name is resolved.
    pub resolved: Resolved,
    /// Backends without endpoints.
    pub unresolved: Vec<Unresolved>,
    /// Backends that keep their endpoints because their name does not resolve now, one a line.
    pub kept: Vec<String>,
}

/// A backend whose name can't be resolved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unresolved {
    /// The pool's name.
    pub pool: String,
    /// The backend's name.
    pub backend: String,
    /// The host name.
    pub name: String,
    /// The error text.
    pub why: String,
    /// Whether a source found it.
    pub is_discovered: bool,
}

impl Endpoints {
    /// The backends without endpoints, if the model requires all names; not those that sources found.
    pub fn lacking(&self, model: &Model) -> Vec<&Unresolved> {
        let required = model.global.names == Names::Required;
        self.unresolved.iter().filter(|it| required && !it.is_discovered).collect()
    }
}

/// The host names in the addresses of a model's backends. No change waits for the names of those that sources found: they are
/// looked up beside it.
pub fn names(model: &Model) -> BTreeSet<String> {
    names_of(model, |backend| !is_discovered(backend))
}

/// The same at the start. Where its wait has an end, it looks up all names.
pub fn names_at_start(model: &Model) -> BTreeSet<String> {
    match model.global.names {
        Names::Required => names(model),
        Names::Later => names_of(model, |_| true),
    }
}

fn names_of(model: &Model, which: impl Fn(&model::Backend) -> bool) -> BTreeSet<String> {
    let backends = model.pools.iter().flat_map(|pool| &pool.backends).filter(|backend| which(backend));
    backends.filter_map(|backend| name(&backend.address)).map(str::to_owned).collect()
}

/// The host name in an address.
pub fn name(address: &Address) -> Option<&str> {
    match address {
        Address::Name(host, _) => Some(host),
        Address::Inet(_) | Address::Unix(_) | Address::Any(_) | Address::Mapped(..) => None,
    }
}

/// Resolves the names of a model's backends. A backend of `old` whose name does not resolve keeps its endpoints.
pub fn model(model: &Model, found: &Found, own: &OwnListeners<'_>, old: Option<&Snapshot>) -> Endpoints {
    let mut endpoints = Endpoints::default();
    let mut before = None;
    for pool in &model.pools {
        for backend in &pool.backends {
            let Some(host) = name(&backend.address) else { continue };
            let key = || (pool.name.clone(), backend.name.clone());
            let why = match one(backend, found, own) {
                Ok(at) => {
                    endpoints.resolved.insert(key(), at);
                    continue;
                }
                Err(why) => why,
            };
            let before = before.get_or_insert_with(|| old.map(resolved_before).unwrap_or_default());
            if before.get(&(pool.name.as_str(), backend.name.as_str())) == Some(&&backend.address) {
                // Without an entry, a backend keeps its endpoints. A name that was not looked up is not reported.
                if found.contains_key(host) {
                    endpoints
                        .kept
                        .push(format!("pool {}: backend {} keeps its addresses: {why}", pool.name, backend.name));
                }
                continue;
            }
            endpoints.resolved.insert(key(), Vec::new());
            let is_discovered = is_discovered(backend);
            let (pool, backend) = key();
            endpoints.unresolved.push(Unresolved { pool, backend, name: host.to_owned(), why, is_discovered });
        }
    }
    endpoints
}

/// Resolves one backend. Fails with the reason if its name does not resolve, or leads to where tcplb itself listens.
pub fn one(backend: &model::Backend, found: &Found, own: &OwnListeners<'_>) -> Result<Vec<Endpoint>, String> {
    let Address::Name(host, port) = &backend.address else {
        return Ok(backend.address.endpoint().into_iter().collect());
    };
    let addresses = match found.get(host) {
        Some(Ok(addresses)) => of_servers(addresses.clone(), SocketAddr::ip).map_err(|why| failed(host, &why))?,
        Some(Err(why)) => return Err(failed(host, why)),
        None => return Err(format!("{host} is not resolved yet")),
    };
    let endpoint = |at: &SocketAddr| {
        let at = with_port(*at, *port);
        match own.refuse_at(&Address::Inet(at), preflight::is_ours) {
            Ok(()) => Ok(Endpoint::Inet(at)),
            Err(why) => Err(format!("{host} leads to {at}, and {why}")),
        }
    };
    addresses.iter().map(endpoint).collect()
}

/// The text about a name whose lookup failed.
pub fn failed(host: &str, why: &str) -> String {
    format!("can't resolve {host}: {why}")
}

/// The addresses of a listener with a host name, or the error of the lookup. `None` if it has no host name, or the
/// outcome is unknown.
pub fn known(address: &Address, found: &Found) -> Option<Result<Vec<SocketAddr>, String>> {
    let Address::Name(host, port) = address else { return None };
    let outcome = found.get(host)?;
    Some(outcome.clone().map(|addresses| addresses.into_iter().map(|at| with_port(at, *port)).collect()))
}

fn with_port(mut at: SocketAddr, port: u16) -> SocketAddr {
    at.set_port(port);
    at
}

/// Stores, for the API, why backends have no address, and logs each reason once.
pub fn note(snapshot: &Snapshot, unresolved: &[Unresolved]) {
    let reasons: HashMap<(&str, &str), &str> =
        unresolved.iter().map(|it| ((it.pool.as_str(), it.backend.as_str()), it.why.as_str())).collect();
    if reasons.is_empty() {
        return;
    }
    for (pool, _, backend) in without_address(snapshot) {
        if let Some(why) = reasons.get(&(pool, backend.name.as_str())) {
            note_one(pool, backend, why);
        }
    }
}

/// As [`note`], for one backend.
pub fn note_one(pool: &str, backend: &Backend, why: &str) {
    if backend.unresolved().as_deref() != Some(why) {
        backend.set_unresolved(why);
        log::warn!("pool {pool}: backend {} is down: {why}; the name is tried again", backend.name);
    }
}

/// The backends without an address: the pool's name, the settings, and the backend.
pub fn without_address(snapshot: &Snapshot) -> impl Iterator<Item = (&str, &model::Backend, &Arc<Backend>)> {
    with_settings(snapshot).filter(|(_, _, backend)| backend.addresses.is_empty())
}

/// All backends in the same form.
pub fn with_settings(snapshot: &Snapshot) -> impl Iterator<Item = (&str, &model::Backend, &Arc<Backend>)> {
    snapshot.pools.iter().flat_map(|pool| {
        let both = pool.settings.backends.iter().zip(&pool.members);
        both.map(|(settings, member)| (pool.settings.name.as_str(), settings, &member.backend))
    })
}

/// The backends that had endpoints: their address, by the names of pool and backend.
fn resolved_before(old: &Snapshot) -> HashMap<(&str, &str), &Address> {
    let resolved = with_settings(old).filter(|(_, _, backend)| !backend.addresses.is_empty());
    resolved.map(|(pool, settings, _)| ((pool, settings.name.as_str()), &settings.address)).collect()
}
