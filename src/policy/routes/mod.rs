//! Routes: which route of a listener a client takes, by what its first bytes say and by its address.
//!
//! A route fits if all its [`Conditions`] hold. [`Routes::find`] tries those whose name is most specific first:
//!
//! | order | routes | found by |
//! |---|---|---|
//! | 1 | with the client's very name | one look-up |
//! | 2 | with a wildcard, the longest first: `*.b.c` and then `*.c` for `a.b.c` | one look-up for each label of the name |
//! | 3 | without a name | each in turn |
//!
//! Routes with the same name, and those without one, are tried in the order of the file. A client without a name, or one whose
//! first bytes are unknown, fits only routes of the third row.
//!
//! # Covered routes
//!
//! [`covered`] finds routes that no client can ever take. For each name of such a route there is an earlier route that is tried
//! before it, and that fits wherever it fits. It compares two routes at a time: a route that several earlier ones cover only
//! together is not found.

mod pattern;
#[cfg(test)]
mod tests;

pub use pattern::NamePattern;

use super::limit::{Access, canonical};
use crate::proto::sniff::{Protocol, Protocols, Sniffed};
use ipnet::IpNet;
use std::collections::{HashMap, HashSet};
use std::iter::successors;
use std::net::IpAddr;

/// What must hold for a route. An empty list, or `None`, is no condition.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Conditions {
    /// The client's protocol.
    pub protocol: Option<Protocol>,
    /// The name that the client asks for is one of these.
    pub sni: Vec<NamePattern>,
    /// The client offers one of these protocols.
    pub alpn: Vec<String>,
    /// The client's address is in one of these prefixes. A client without an address is in none.
    pub source: Vec<IpNet>,
}

/// The routes of one listener, prepared for look-ups. A route is its index in the file's order.
#[derive(Clone, Debug, Default)]
pub struct Routes {
    routes: Vec<Route>,
    exact: HashMap<Box<str>, Vec<usize>>,
    /// By the name behind `*.`.
    below: HashMap<Box<str>, Vec<usize>>,
    unnamed: Vec<usize>,
    wanted: Protocols,
}

/// The conditions of a route besides its names.
#[derive(Clone, Debug)]
struct Route {
    protocol: Option<Protocol>,
    alpn: Vec<String>,
    source: Option<Access>,
}

/// A route that no client can take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Covered {
    /// The route.
    pub route: usize,
    /// Those that take all its clients, for one of its names each.
    pub by: Vec<usize>,
}

impl Conditions {
    /// Why no client can meet them, or every client does.
    pub fn check(&self) -> Result<(), String> {
        let key = if self.sni.is_empty() { "alpn" } else { "sni" };
        match self.protocol {
            None if self.sni.is_empty() && self.alpn.is_empty() && self.source.is_empty() => {
                Err("a route needs a condition: protocol, sni, alpn or source".to_owned())
            }
            Some(protocol) if !(protocol.has_hello() || self.sni.is_empty() && self.alpn.is_empty()) => Err(format!(
                "expected tls or postgres beside {key}, got `{protocol}`, whose clients send no ClientHello"
            )),
            _ => Ok(()),
        }
    }

    /// Whether they depend on the client's first bytes.
    pub fn need_first_bytes(&self) -> bool {
        self.protocol.is_some() || !self.sni.is_empty() || !self.alpn.is_empty()
    }

    /// The protocol that their clients speak. Names and ALPN stand in ClientHellos, so these alone mean TLS. A client of Postgres has
    /// a hello too, but routes see it only if one of them asks for Postgres.
    fn protocol_among(&self, wanted: Protocols) -> Option<Protocol> {
        let says_hello = !self.sni.is_empty() || !self.alpn.is_empty();
        let is_tls = says_hello && !wanted.contains(Protocol::Postgres);
        self.protocol.or(is_tls.then_some(Protocol::Tls))
    }

    /// Its names, or `None` in place of one where it has none.
    fn names(&self) -> impl Iterator<Item = Option<&NamePattern>> {
        let unnamed = self.sni.is_empty().then_some(None);
        self.sni.iter().map(Some).chain(unnamed)
    }
}

impl Routes {
    /// Prepares routes, in the order of the file.
    pub fn new<'a>(routes: impl IntoIterator<Item = &'a Conditions>) -> Routes {
        let mut compiled = Routes::default();
        let routes: Vec<&Conditions> = routes.into_iter().collect();
        compiled.wanted = wanted(routes.iter().copied());
        for (index, conditions) in routes.into_iter().enumerate() {
            let Conditions { protocol, alpn, source, .. } = conditions;
            for name in conditions.names() {
                let list = match name {
                    None => &mut compiled.unnamed,
                    Some(NamePattern::Exact(name)) => compiled.exact.entry(name.clone()).or_default(),
                    Some(NamePattern::Below(name)) => compiled.below.entry(name.clone()).or_default(),
                };
                list.push(index);
            }
            let source = (!source.is_empty()).then(|| Access::new(source, &[]));
            compiled.routes.push(Route { protocol: *protocol, alpn: alpn.clone(), source });
        }
        compiled
    }

    /// The protocols that the first bytes are to be searched for. Without one, no route needs them.
    pub fn wanted(&self) -> Protocols {
        self.wanted
    }

    /// The route that a client takes; `None`: that of its listener. `sniffed` is what its first bytes say, if they are those of a
    /// wanted protocol.
    pub fn find(&self, sniffed: Option<&Sniffed>, source: Option<IpAddr>) -> Option<usize> {
        let name = sniffed.and_then(Sniffed::server_name);
        let exact = name.and_then(|name| self.exact.get(name));
        let below = name.into_iter().flat_map(behind_each_dot).filter_map(|name| self.below.get(name));
        let lists = exact.into_iter().chain(below).chain([&self.unnamed]);
        lists.flatten().copied().find(|route| self.routes.get(*route).is_some_and(|route| route.fits(sniffed, source)))
    }
}

impl Route {
    fn fits(&self, sniffed: Option<&Sniffed>, source: Option<IpAddr>) -> bool {
        let is_it = |protocol| sniffed.is_some_and(|sniffed| sniffed.protocol == protocol);
        let offered = sniffed.and_then(|sniffed| sniffed.hello.as_ref()).map_or(&[][..], |hello| &hello.alpn);
        let is_offered = |alpn: &String| offered.iter().any(|offered| **offered == *alpn.as_bytes());
        self.protocol.is_none_or(is_it)
            && (self.alpn.is_empty() || self.alpn.iter().any(is_offered))
            && self.source.as_ref().is_none_or(|list| source.is_some_and(|ip| list.allows(ip)))
    }
}

/// The conditions of a route besides its names, prepared to be compared.
struct Comparable<'a> {
    protocol: Option<Protocol>,
    alpn: &'a [String],
    /// Two halves of a network are one.
    source: Vec<IpNet>,
}

/// Where an earlier route is found. A name may have ten thousand routes, which differ in their sources.
#[derive(PartialEq, Eq, Hash)]
struct Place<'a> {
    name: Option<&'a NamePattern>,
    protocol: Option<Protocol>,
    alpn: Alpn<'a>,
    /// One of its prefixes, if it has any.
    source: Option<IpNet>,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Alpn<'a> {
    Any,
    One(&'a str),
    OneOfMany,
}

impl<'a> Comparable<'a> {
    fn new(conditions: &'a Conditions, wanted: Protocols, clients: Clients) -> Comparable<'a> {
        let mut source = IpNet::aggregate(&conditions.source.iter().copied().map(canonical).collect());
        let everywhere = |is_v4| source.iter().any(|net| length_of(net) == (is_v4, 0));
        if clients == Clients::HaveAddresses && everywhere(true) && everywhere(false) {
            source.clear();
        }
        Comparable { protocol: conditions.protocol_among(wanted), alpn: &conditions.alpn, source }
    }

    /// Where it is put for one of its names.
    fn places(&self, name: Option<&'a NamePattern>) -> impl Iterator<Item = Place<'a>> {
        let (protocol, alpn) = (self.protocol, self.alpn_at());
        let anywhere = self.source.is_empty().then_some(None);
        let sources = self.source.iter().copied().map(Some).chain(anywhere);
        sources.map(move |source| Place { name, protocol, alpn, source })
    }

    /// Where those are that may hold wherever this one holds. `lengths` says which lengths of prefixes there are.
    fn places_of_wider<'b>(
        &self,
        name: Option<&'a NamePattern>,
        lengths: &'b HashSet<(bool, u8)>,
    ) -> impl Iterator<Item = Place<'a>> + use<'a, 'b> {
        let wider = successors(self.source.first().copied(), IpNet::supernet);
        let wider = wider.filter(|net| lengths.contains(&length_of(net)));
        let sources = wider.map(Some).chain([None]);
        let protocols = [None, self.protocol].into_iter().take(if self.protocol.is_some() { 2 } else { 1 });
        let alpns = [Alpn::Any, Alpn::OneOfMany, self.alpn_at()].into_iter();
        let alpns = alpns.take(match self.alpn_at() {
            Alpn::Any => 1,
            Alpn::OneOfMany => 2,
            Alpn::One(_) => 3,
        });
        sources.flat_map(move |source| {
            let alpns = alpns.clone();
            protocols
                .clone()
                .flat_map(move |protocol| alpns.clone().map(move |alpn| Place { name, protocol, alpn, source }))
        })
    }

    fn alpn_at(&self) -> Alpn<'a> {
        match self.alpn {
            [] => Alpn::Any,
            [one, others @ ..] if others.iter().all(|other| other == one) => Alpn::One(one),
            _ => Alpn::OneOfMany,
        }
    }

    /// Whether these hold wherever `other` holds.
    fn hold_with(&self, other: &Comparable<'_>) -> bool {
        let protocol = self.protocol.is_none() || self.protocol == other.protocol;
        let within = |alpn: &String| self.alpn.contains(alpn);
        let alpn = self.alpn.is_empty() || !other.alpn.is_empty() && other.alpn.iter().all(within);
        let is_inside = |net: &IpNet| self.source.iter().any(|own| own.contains(net));
        protocol && alpn && (self.source.is_empty() || !other.source.is_empty() && other.source.iter().all(is_inside))
    }
}

fn length_of(net: &IpNet) -> (bool, u8) {
    (net.addr().is_ipv4(), net.prefix_len())
}

/// `b.c` and `c` of `a.b.c`.
fn behind_each_dot(name: &str) -> impl Iterator<Item = &str> {
    name.match_indices('.').filter_map(|(at, _)| name.get(at + 1..))
}

/// The protocols that routes ask for.
fn wanted<'a>(routes: impl Iterator<Item = &'a Conditions>) -> Protocols {
    routes.filter_map(|route| route.protocol_among(Protocols::default())).collect()
}

/// What is known of the clients of a listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Clients {
    /// Each of them has an IP address.
    HaveAddresses,
    /// Some may have none: those of a unix socket, also behind a proxy.
    MayHaveNone,
}

/// The routes that no client can take, since earlier ones take all of theirs.
pub fn covered<'a>(routes: impl IntoIterator<Item = &'a Conditions>, clients: Clients) -> Vec<Covered> {
    let routes: Vec<&Conditions> = routes.into_iter().collect();
    let wanted = wanted(routes.iter().copied());
    let comparable: Vec<Comparable<'_>> = routes.iter().map(|route| Comparable::new(route, wanted, clients)).collect();
    let mut earlier: HashMap<Place<'_>, Vec<usize>> = HashMap::new();
    let mut lengths = HashSet::new();
    let mut covered = Vec::new();
    for (route, (conditions, own)) in routes.iter().zip(&comparable).enumerate() {
        let covers = |index: &usize| comparable.get(*index).is_some_and(|earlier| earlier.hold_with(own));
        let by = |name| {
            let wider = own
                .places_of_wider(name, &lengths)
                .filter_map(|place| earlier.get(&place)?.iter().copied().find(covers));
            wider.min()
        };
        if let Some(mut by) = conditions.names().map(by).collect::<Option<Vec<usize>>>() {
            by.sort_unstable();
            by.dedup();
            covered.push(Covered { route, by });
        }
        lengths.extend(own.source.iter().map(length_of));
        for place in conditions.names().flat_map(|name| own.places(name)) {
            earlier.entry(place).or_default().push(route);
        }
    }
    covered
}
