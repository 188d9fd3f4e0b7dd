//! `kind = "dns"`: backends that name servers know.
//!
//! | file | what |
//! |---|---|
//! | `message` | a query and its answer as bytes; pure |
//! | `servers` | UDP and TCP; one server after the other |
//! | `system` | `/etc/resolv.conf`, `/etc/hosts` |
//! | `resolver` | names into addresses and services |
//! | `mod` | the source |
//!
//! # Rules of the resolver
//!
//! | rule | from |
//! |---|---|
//! | Each query has a random id and a socket of its own. An answer from elsewhere, with another id or another question is ignored. | RFC 5452 |
//! | An answer over UDP has at most 1232 bytes; a server that does not understand this option is asked without it. | RFC 6891 |
//! | A truncated answer is asked for by TCP. | RFC 7766 |
//! | Aliases (CNAME) are followed, at most 16. The answer holds for the shortest time to live of its path. | RFC 1034, 2181 |
//! | NXDOMAIN and an answer without records are empty answers. They hold as long as their SOA record says. | RFC 2308 |
//! | SERVFAIL, REFUSED, any other code, silence and garbage are errors: the next server is asked. | RFC 1035 |
//! | Names of the system are complete by its search domains; the hosts file goes first. | resolv.conf(5) |
//! | A service with the target `.` does not exist. | RFC 2782 |
//! | Unspecified, multicast and broadcast addresses are left out. An answer that has no others is an error. | RFC 6890 |
//!
//! The library has no DNSSEC: the name servers are trusted, and so is the way to them.
//!
//! # Rules of the source
//!
//! An empty answer is a fact, and `on_empty` decides on it. An error keeps all backends. If one family of addresses fails, its backends
//! stay and the status has the error. A service whose target has no address at the moment stays as it was.
//!
//! An answer may have a part of the addresses or services only. [`super::known`] decides which backends stay beside those of an
//! answer. A source with other settings goes on from the set of the old one, as if that were its last answer.

pub mod message;
mod resolver;
mod servers;
mod system;

pub use resolver::{Addresses, Resolver, in_order, is_for_dns, of_servers};
pub use system::resolve as of_system;

use super::{Feed, Found, Item, Key, Kind, Settings, Takes, Wrong};
use crate::base::Address;
use message::{Service, normal};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

/// How long one look may take.
const LOOK: Duration = Duration::from_secs(25);
/// The time after which a name is looked up again: the bounds of the time to live.
const INTERVAL: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));
/// The shortest interval that the configuration can ask for.
const INTERVAL_MIN: Duration = Duration::from_millis(100);
/// As errors call them.
const FAMILIES: [&str; 2] = ["IPv4", "IPv6"];
/// How long an empty answer holds whose server does not say.
const NEGATIVE: Duration = Duration::from_secs(5);

/// The kind.
pub static DNS: Kind = Kind {
    name: "dns",
    doc: "The addresses (A, AAAA) or services (SRV) of a name; looked up again once its time to live is over.",
    keys: &[
        Key {
            name: "name",
            takes: Takes::Text,
            doc: "A name with the port of the backends. Each address is a backend, called `IP:PORT`.",
            absent: "`srv` is there",
            example: "\"web.internal:8081\"",
        },
        Key {
            name: "srv",
            takes: Takes::Text,
            doc: "The name of SRV records. Each one is a backend, called `target:port`, with the weight of the record. Weight 0 counts as 1. All but the lowest priority number are backups.",
            absent: "`name` is there",
            example: "\"_pg._tcp.example.com\"",
        },
        Key {
            name: "resolvers",
            takes: Takes::Texts,
            doc: "Name servers, as `IP` or `IP:PORT`; each is asked at most twice, for 2 s.",
            absent: "those of the system, with its search domains and its hosts file",
            example: "[\"10.0.0.2\", \"10.0.0.3:5353\"]",
        },
        Key {
            name: "min_interval",
            takes: Takes::Time,
            doc: "The shortest time between two look-ups, whatever the time to live; at least 100ms.",
            absent: "1s, or `max_interval` if that is shorter",
            example: "\"5s\"",
        },
        Key {
            name: "max_interval",
            takes: Takes::Time,
            doc: "The longest time between two look-ups.",
            absent: "30s, or `min_interval` if that is longer",
            example: "\"5m\"",
        },
    ],
    watches: &["name", "srv", "resolvers"],
    reads: |_| Vec::new(),
    check,
    run,
};

/// What is looked up.
enum Target {
    /// Addresses of a host, and the port.
    Host(String, u16),
    /// Services.
    Services(String),
}

/// The priorities of services, by their keys.
type Priorities = HashMap<String, u16>;

/// Addresses of the targets of services, and until when they hold.
type Targets = HashMap<String, (Result<Addresses, String>, Instant)>;

fn check(settings: &Settings) -> Result<(), Wrong> {
    target(settings)?;
    resolvers(settings)?;
    intervals(settings).map(drop)
}

fn target(settings: &Settings) -> Result<Target, Wrong> {
    match (settings.text("name"), settings.text("srv")) {
        (Some(name), None) => match Address::parse_backend(name) {
            Ok(Address::Name(host, port)) if is_for_dns(&host) => Ok(Target::Host(host, port)),
            Ok(_) => {
                Err(Wrong::new("name", format!("expected a name and a port, like web.internal:8081, got `{name}`")))
            }
            Err(why) => Err(Wrong::new("name", why)),
        },
        (None, Some(name)) if is_service_name(name) => Ok(Target::Services(name.to_owned())),
        (None, Some(name)) => {
            Err(Wrong::new("srv", format!("expected the name of SRV records, like _pg._tcp.example.com, got `{name}`")))
        }
        (Some(_), Some(_)) => Err(Wrong::new("srv", "expected either `name` or `srv`, got both")),
        (None, None) => Err(Wrong::new("", "expected `name` or `srv`, got neither")),
    }
}

fn is_service_name(name: &str) -> bool {
    let letter = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    let mut labels = name.strip_suffix('.').unwrap_or(name).split('.');
    name.len() <= 253
        && name.starts_with('_')
        && labels.clone().nth(1).is_some_and(|label| label.starts_with('_'))
        && labels.all(|label| (1..=63).contains(&label.len()) && label.bytes().all(letter))
}

fn resolvers(settings: &Settings) -> Result<Vec<SocketAddr>, Wrong> {
    let read = |text: &String| {
        let with_port = || Some(SocketAddr::new(text.parse().ok()?, system::PORT));
        let at = text.parse::<SocketAddr>().ok().or_else(with_port).filter(|at| at.port() != 0);
        at.ok_or_else(|| {
            let why = format!("expected the address of a name server, like 10.0.0.2 or [fd00::2]:5353, got `{text}`");
            Wrong::new("resolvers", why)
        })
    };
    settings.texts("resolvers").iter().map(read).collect()
}

fn intervals(settings: &Settings) -> Result<(Duration, Duration), Wrong> {
    // The default of one gives way to the value of the other.
    let (least, most) = match (settings.time("min_interval"), settings.time("max_interval")) {
        (Some(least), Some(most)) => (least, most),
        (Some(least), None) => (least, least.max(INTERVAL.1)),
        (None, Some(most)) => (most.min(INTERVAL.0), most),
        (None, None) => INTERVAL,
    };
    if least < INTERVAL_MIN {
        return Err(Wrong::new("min_interval", format!("expected at least {INTERVAL_MIN:?}, got {least:?}")));
    }
    if most < least {
        let why = format!("expected at least min_interval, which is {least:?}, got {most:?}");
        return Err(Wrong::new("max_interval", why));
    }
    Ok((least, most))
}

fn run(settings: &Settings, feed: &mut Feed) -> Result<(), String> {
    let why = |wrong: Wrong| wrong.why;
    let (target, servers) = (target(settings).map_err(why)?, resolvers(settings).map_err(why)?);
    let (least, most) = intervals(settings).map_err(why)?;
    let (mut targets, mut priorities) = (Targets::new(), Priorities::new());
    loop {
        let until = Instant::now() + LOOK;
        let mut resolver = match servers.is_empty() {
            true => Resolver::of_system(until),
            false => Resolver::of_servers(servers.clone(), until),
        };
        let ttl = match &target {
            Target::Host(host, port) => {
                let found = resolver.addresses(host)?;
                hand_over_hosts(host, &found, *port, feed)?;
                found.ttl
            }
            Target::Services(name) => {
                let (services, ttl) = resolver.services(name)?;
                targets.retain(|_, (_, until)| *until > Instant::now());
                let hold = |ttl: Option<Duration>| ttl.unwrap_or(NEGATIVE).clamp(least, most);
                let (services, extra) = (distinct(services), &mut targets);
                for service in services.iter().filter(|service| !extra_has(extra, service)).collect::<Vec<_>>() {
                    if feed.is_stopped() {
                        return Ok(());
                    }
                    // The target is a complete name (RFC 2782), which the dot says: no search domain is appended.
                    let found = resolver.addresses(&format!("{}.", service.target));
                    let until = Instant::now() + hold(found.as_ref().ok().and_then(|found| found.ttl));
                    extra.insert(service.target.clone(), (found, until));
                }
                let answer = services.iter().map(service_key).collect();
                let mut all = with_those_that_stay(items(&services, &targets, feed.set()), &answer, feed);
                rank(&mut all, &services, feed.set(), &mut priorities);
                feed.replace(all)?;
                let now = Instant::now();
                let of_targets = targets.values().map(|(_, until)| until.saturating_duration_since(now));
                of_targets.chain(ttl).min()
            }
        };
        if !feed.wait(ttl.unwrap_or(NEGATIVE).clamp(least, most)) {
            return Ok(());
        }
    }
}

fn extra_has(targets: &Targets, service: &Service) -> bool {
    service.port == 0 || targets.contains_key(&service.target)
}

fn hand_over_hosts(host: &str, found: &Addresses, port: u16, feed: &mut Feed) -> Result<(), String> {
    let mut items: Vec<Item> = found.list.iter().map(|ip| backend_at(SocketAddr::new(*ip, port))).collect();
    let mut answer: BTreeSet<String> = items.iter().map(|item| item.key.clone()).collect();
    let Some(unknown) = unknown(host, found) else {
        let items = with_those_that_stay(items, &answer, feed);
        return feed.replace(items);
    };
    // The backends of the other family stay.
    let of_known = |key: &str| key.parse::<SocketAddr>().is_ok_and(|at| is_known(found, at.ip()));
    answer.extend(feed.set().keys().filter(|key| !of_known(key)).cloned());
    answer.extend(feed.stay_beside(&answer));
    let mut gone: Vec<String> = feed.set().keys().filter(|key| !answer.contains(*key)).cloned().collect();
    // An earlier failure of this family is over.
    gone.extend(FAMILIES.map(|family| unknown_key(host, family)).into_iter().filter(|key| *key != unknown.key));
    items.push(unknown);
    feed.change(items, &gone)
}

/// The items of an answer with these keys, and the backends that stay beside them: an answer may be a part.
fn with_those_that_stay(mut items: Vec<Item>, answer: &BTreeSet<String>, feed: &mut Feed) -> Vec<Item> {
    // Without a backend it is a fact or an error, and no part.
    if items.iter().any(|item| item.found.is_ok()) {
        let stay = feed.stay_beside(answer);
        let of_set = |key: String| feed.set().get(&key).cloned().map(|found| Item::new(key, Ok(found)));
        items.extend(stay.into_iter().filter_map(of_set));
    }
    items
}

/// The family of addresses of a host that is not known, as an item that has an error. So the status shows it, and no backend ends.
fn unknown(host: &str, found: &Addresses) -> Option<Item> {
    let why = found.incomplete.clone()?;
    let [ipv4, ipv6] = FAMILIES;
    let family = if found.list.iter().any(IpAddr::is_ipv4) { ipv6 } else { ipv4 };
    Some(Item::new(unknown_key(host, family), Err(why)))
}

fn unknown_key(host: &str, family: &str) -> String {
    format!("{family} addresses of {host}")
}

/// Whether the family of this address is known.
fn is_known(found: &Addresses, ip: IpAddr) -> bool {
    found.incomplete.is_none() || found.list.iter().any(|known| known.is_ipv4() == ip.is_ipv4())
}

/// The backend at an address.
fn backend_at(at: SocketAddr) -> Item {
    let name = at.to_string();
    Item::new(name.clone(), Ok(backend(name, at)))
}

fn backend(name: String, at: SocketAddr) -> Found {
    Found::at(name, Address::Inet(at))
}

/// One service for each target and port: that of the lowest priority, and then of the highest weight.
fn distinct(services: Vec<Service>) -> Vec<Service> {
    let mut distinct: BTreeMap<(String, u16), Service> = BTreeMap::new();
    for service in services.into_iter().filter(|service| !service.target.is_empty()) {
        let key = (normal(&service.target), service.port);
        let better =
            |old: &Service| (service.priority, u16::MAX - service.weight) < (old.priority, u16::MAX - old.weight);
        if distinct.get(&key).is_none_or(better) {
            distinct.insert(key, service);
        }
    }
    distinct.into_values().collect()
}

fn service_key(service: &Service) -> String {
    format!("{}:{}", service.target, service.port)
}

/// The backends of services. One whose target has several addresses keeps the one that it has.
fn items(services: &[Service], targets: &Targets, before: &super::Set) -> Vec<Item> {
    let item = |service: &Service| {
        let key = service_key(service);
        let found = address(service, targets, before.get(&key))
            .map(|at| Found { weight: Some(service.weight.max(1)), ..backend(key.clone(), at) });
        Item::new(key, found)
    };
    let hosts: BTreeSet<&String> = services.iter().map(|service| &service.target).collect();
    let unknown = hosts.into_iter().filter_map(|host| unknown(host, targets.get(host)?.0.as_ref().ok()?));
    services.iter().map(item).chain(unknown).collect()
}

/// Services of the lowest priority number are primaries and all others are backups, also among those that stay beside the answer.
/// Keeps the priorities of these: the next answer may lack them.
fn rank(items: &mut [Item], services: &[Service], before: &super::Set, priorities: &mut Priorities) {
    priorities.retain(|key, _| before.contains_key(key));
    priorities.extend(services.iter().map(|service| (service_key(service), service.priority)));
    let lowest = items.iter().filter_map(|item| priorities.get(&item.key)).min().copied();
    for item in items {
        if let (Ok(found), Some(priority)) = (&mut item.found, priorities.get(&item.key)) {
            found.backup = Some(Some(*priority) != lowest);
        }
    }
}

fn address(service: &Service, targets: &Targets, before: Option<&Found>) -> Result<SocketAddr, String> {
    if service.port == 0 {
        return Err("expected a port from 1 to 65535, got 0".to_owned());
    }
    let found = match targets.get(&service.target) {
        Some((Ok(found), _)) => found,
        Some((Err(why), _)) => return Err(why.clone()),
        None => return Err("was not looked up".to_owned()),
    };
    let first = *found.list.first().ok_or_else(|| format!("{} has no address", service.target))?;
    let had = match before {
        Some(Found { address: Address::Inet(at), .. }) => Some(at.ip()),
        _ => None,
    };
    let stays = had.filter(|ip| found.list.contains(ip) || !is_known(found, *ip));
    Ok(SocketAddr::new(stays.unwrap_or(first), service.port))
}

#[cfg(test)]
mod tests;
