//! What the nftables table holds: as it should be ([`Table`]), and as it is installed ([`Installed`]).
//!
//! A choice map and a set of denied addresses may have hundreds of thousands of elements, which takes nft half a minute to
//! list. So the installed table knows them by a digest, which the set `state` keeps beside what they belong to. The
//! contents of a choice map are known as long as the process that filled it runs.
//!
//! Names of chains, maps and sets are made of numbers and digests only. The names of listeners, pools and backends stand in
//! comments, as [`Label`]s.

use super::digest::Digest;
use super::marks::Mark;
use super::nft;
use crate::base::{Address, Listen};
use crate::policy::balance::{Algorithm, jhash};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

/// The name of the table, of family `inet`.
pub const TABLE: &str = "tcplb";

/// The text at the first element of `state`: the table is ours, and this is its format.
pub const FORMAT: &str = "tcplb 1";

/// A version of IP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// Both of them.
    pub const ALL: [Family; 2] = [Family::V4, Family::V6];

    /// That of an address.
    pub fn of(ip: IpAddr) -> Family {
        if ip.is_ipv4() { Family::V4 } else { Family::V6 }
    }

    /// The digit in names of chains, maps and sets.
    pub fn digit(self) -> u32 {
        match self {
            Family::V4 => 4,
            Family::V6 => 6,
        }
    }
}

/// The number of a listener or a pool in names of chains, maps and sets. It stays over restarts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "u32", into = "u32")]
pub struct Number(u32);

impl Number {
    /// The highest number: a key of `state` holds it beside kind and family.
    const MAX: u32 = (1 << 27) - 1;

    /// This number, if it is not too high.
    pub fn new(number: u32) -> Option<Number> {
        (number <= Number::MAX).then_some(Number(number))
    }
}

impl TryFrom<u32> for Number {
    type Error = String;

    fn try_from(number: u32) -> Result<Number, String> {
        Number::new(number).ok_or_else(|| format!("{number} is above {}", Number::MAX))
    }
}

impl From<Number> for u32 {
    fn from(number: Number) -> u32 {
        number.0
    }
}

impl fmt::Display for Number {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(out)
    }
}

/// The chain of a listener, for clients of one family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ChainId {
    /// The listener.
    pub listener: Number,
    /// The family of its clients.
    pub family: Family,
}

/// A pool, for clients of one family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PoolId {
    /// The pool.
    pub pool: Number,
    /// The family of its clients and backends.
    pub family: Family,
}

/// A choice map: of a pool, with this many entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ChoiceId {
    /// The pool.
    pub pool: PoolId,
    /// The number of entries.
    pub size: u32,
}

/// Text in a comment of the table: printable ASCII without `"` and `\`, short enough for nftables.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Label(Arc<str>);

impl Label {
    /// nftables keeps 128 bytes.
    const MAX: usize = 127;
    /// The most of a name, which leaves room for digests and limits before it.
    const NAME_MAX: usize = 64;

    /// The name of a listener or pool.
    pub fn of_name(name: &str) -> Label {
        Label::encode(&[name], Label::NAME_MAX)
    }

    /// The name of a pool, `/`, and that of one of its backends.
    pub fn of_backend(pool: &str, backend: &str) -> Label {
        Label::encode(&[pool, backend], Label::MAX)
    }

    /// Whether a label of [`Label::of_backend`] names this pool. Of a name that is too long for a label, that is not known.
    pub fn is_of_pool(&self, pool: &str) -> bool {
        let pool = Label::encode(&[pool, ""], usize::MAX);
        self.0.starts_with(&*pool.0)
    }

    /// Different names give different labels. What a comment can't hold is written as `%` and two digits. The end of a long
    /// text is replaced by a digest.
    fn encode(names: &[&str], max: usize) -> Label {
        let mut text = String::new();
        for (at, name) in names.iter().enumerate() {
            if at > 0 {
                text.push('/');
            }
            for byte in name.bytes() {
                match byte {
                    b'%' | b'/' | b'~' | b'"' | b'\\' | 0..b' ' | 0x7f.. => text.push_str(&format!("%{byte:02x}")),
                    _ => text.push(byte.into()),
                }
            }
        }
        if text.len() > max {
            let digest = Digest::of_text(&text);
            // All is ASCII, and no other label has a `~`.
            text.truncate(max - 17);
            text = format!("{text}~{digest}");
        }
        Label(text.into())
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for Label {
    type Error = String;

    fn try_from(text: String) -> Result<Label, String> {
        let fits = |byte: u8| matches!(byte, b' '..=b'~') && byte != b'"' && byte != b'\\';
        if text.len() > Label::MAX || !text.bytes().all(fits) {
            return Err("a comment of the table has at most 127 printable characters without \" and \\".to_owned());
        }
        Ok(Label(text.into()))
    }
}

impl From<Label> for String {
    fn from(label: Label) -> String {
        label.0.as_ref().to_owned()
    }
}

impl fmt::Display for Label {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.0)
    }
}

/// What of a packet leads to a listener's chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Bind {
    /// This destination.
    Address(SocketAddr),
    /// This port of any address of the machine.
    Port(Family, u16),
}

impl Bind {
    /// Those of an address as the operator wrote it, which is bound to `at`.
    pub fn of(asked: &Listen, at: SocketAddr) -> Vec<Bind> {
        match (&asked.0, at) {
            (Address::Any(_), _) => Family::ALL.map(|family| Bind::Port(family, at.port())).to_vec(),
            // `[::]:80` has IPv4 clients too, as a socket there has.
            (_, SocketAddr::V6(at)) if at.ip().is_unspecified() => {
                Family::ALL.map(|family| Bind::Port(family, at.port())).to_vec()
            }
            (_, SocketAddr::V4(at)) if at.ip().is_unspecified() => vec![Bind::Port(Family::V4, at.port())],
            _ => vec![Bind::Address(SocketAddr::new(at.ip(), at.port()))],
        }
    }

    /// Those that lead clients of this destination to a chain.
    pub fn all_of(to: SocketAddr) -> [Bind; 2] {
        [Bind::Address(to), Bind::Port(Family::of(to.ip()), to.port())]
    }

    /// The family of its clients.
    pub fn family(self) -> Family {
        match self {
            Bind::Address(at) => Family::of(at.ip()),
            Bind::Port(family, _) => family,
        }
    }
}

/// How a client's entry of a choice map is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Pick {
    /// One entry after the other.
    Turn,
    /// By the hash of the client's address and port.
    Connection,
    /// By the hash of the client's address.
    Source,
}

impl Pick {
    /// That of an algorithm; `None`: the kernel can't do it. Those that follow load are approximated by weights, which
    /// [`super::plan`] gets.
    pub fn of(algorithm: &Algorithm) -> Option<Pick> {
        match algorithm.name {
            "round-robin" | "weighted-round-robin" => Some(Pick::Turn),
            "random" | "least-connections" | "least-time" | "power-of-two" => Some(Pick::Connection),
            "source-hash" | "maglev" => Some(Pick::Source),
            _ => None,
        }
    }
}

/// The limits of each source of a listener.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// The most connections at once.
    pub connections: Option<u32>,
    /// The most new connections per second, and at once.
    pub rate: Option<u32>,
}

/// A limit of each source, as a set whose elements count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum SourceLimit {
    /// The most connections at once.
    Connections(u32),
    /// The most new connections per second.
    Rate(u32),
}

impl Limits {
    /// Each limit.
    pub fn each(self) -> impl Iterator<Item = SourceLimit> {
        let connections = self.connections.map(SourceLimit::Connections);
        connections.into_iter().chain(self.rate.map(SourceLimit::Rate))
    }
}

/// The rules of a listener's chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rules {
    /// The set of its denied addresses.
    pub denied: Option<Digest>,
    /// The limits of each source.
    pub limits: Limits,
    /// How the entry is found.
    pub pick: Pick,
    /// The map with the entries.
    pub choice: ChoiceId,
}

/// Addresses that may not connect: ranges from the first to the last address, in order and apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Denied {
    /// That of the ranges.
    pub digest: Digest,
    /// The ranges.
    pub ranges: Vec<(IpAddr, IpAddr)>,
}

/// A listener's chain as it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chain {
    /// The listener's name.
    pub label: Label,
    /// Its rules.
    pub rules: Rules,
    /// What the rules' set of denied addresses holds.
    pub denied: Option<Arc<Denied>>,
}

impl Chain {
    /// This chain, once it is installed.
    pub fn installed(&self, id: ChainId) -> InstalledChain {
        let Rules { denied, limits, .. } = self.rules;
        InstalledChain { label: self.label.clone(), digest: self.rules.digest(id), denied, limits }
    }
}

/// A choice map as it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice {
    /// The pool's name.
    pub label: Label,
    /// The mark of each entry.
    pub entries: Arc<[Mark]>,
    /// That of the entries.
    pub digest: Digest,
}

impl Choice {
    /// A map of these entries.
    pub fn new(label: Label, entries: Arc<[Mark]>) -> Choice {
        let parts = entries.iter().enumerate().map(|(entry, mark)| Digest::part(entry, *mark));
        let digest = Digest(parts.fold(0, u64::wrapping_add));
        Choice { label, entries, digest }
    }

    /// This map with other marks at these entries.
    pub fn with(&self, changes: &[(usize, Mark)]) -> Choice {
        let mut digest = self.digest.0;
        let mut entries: Arc<[Mark]> = self.entries[..].into();
        for (entry, mark) in changes {
            if let Some(own) = Arc::get_mut(&mut entries).and_then(|entries| entries.get_mut(*entry)) {
                digest = digest.wrapping_sub(Digest::part(*entry, *own)).wrapping_add(Digest::part(*entry, *mark));
                *own = *mark;
            }
        }
        Choice { label: self.label.clone(), entries, digest: Digest(digest) }
    }

    /// The number of entries.
    pub fn size(&self) -> u32 {
        self.entries.len() as u32
    }

    /// This map, once it is installed.
    pub fn installed(&self) -> InstalledChoice {
        let entries = Some(self.entries.clone());
        InstalledChoice { label: self.label.clone(), size: self.size(), digest: self.digest, entries }
    }
}

/// Where a mark leads to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Target {
    /// The backend's address.
    pub address: SocketAddr,
    /// The names of its pool and its own.
    pub label: Label,
    /// The pool whose source addresses its connections come from. `None`: they come from the clients' own addresses.
    pub source: Option<Number>,
}

/// The source addresses of a pool, of one family.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceChain {
    /// The pool's name.
    pub label: Label,
    /// The addresses; at least one.
    pub addresses: Vec<IpAddr>,
}

impl SourceChain {
    /// That of the addresses.
    pub fn digest(&self) -> Digest {
        let octets = |ip: &IpAddr| match ip {
            IpAddr::V4(ip) => ip.to_ipv6_mapped().octets(),
            IpAddr::V6(ip) => ip.octets(),
        };
        Digest::of(self.addresses.iter().flat_map(octets).map(u64::from))
    }

    /// These addresses, once they are installed.
    pub fn installed(&self) -> InstalledSource {
        InstalledSource { label: self.label.clone(), digest: self.digest() }
    }
}

/// The table as it should be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Table {
    /// Where each mark leads to, also those of backends that have left while connections have them.
    pub backends: Arc<BTreeMap<Mark, Target>>,
    /// The choice map of each pool.
    pub choices: BTreeMap<PoolId, Choice>,
    /// The source addresses of each pool that has some.
    pub sources: BTreeMap<PoolId, SourceChain>,
    /// The chain of each listener.
    pub chains: BTreeMap<ChainId, Chain>,
    /// What leads to a chain.
    pub binds: BTreeMap<Bind, ChainId>,
}

/// The table as it is installed. The default is that there is none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Installed {
    /// There is a table of ours.
    pub exists: bool,
    /// Where each mark leads to.
    pub backends: Arc<BTreeMap<Mark, Target>>,
    /// The choice maps.
    pub choices: BTreeMap<PoolId, InstalledChoice>,
    /// The source addresses of each pool that has some.
    pub sources: BTreeMap<PoolId, InstalledSource>,
    /// The chains of listeners.
    pub chains: BTreeMap<ChainId, InstalledChain>,
    /// What leads to a chain.
    pub binds: BTreeMap<Bind, ChainId>,
    /// Choice maps that are to go once no chain is held ([`super::change`]).
    pub unused: BTreeSet<ChoiceId>,
}

impl Installed {
    /// Whether the set `state` of both says the same.
    pub fn has_same_state(&self, other: &Installed) -> bool {
        let choices = |of: &Installed| -> Vec<_> {
            let each = of.choices.iter();
            each.map(|(pool, choice)| (*pool, choice.label.clone(), choice.size, choice.digest)).collect()
        };
        (self.exists, &self.sources, &self.chains) == (other.exists, &other.sources, &other.chains)
            && choices(self) == choices(other)
    }
}

/// A choice map as it is installed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InstalledChoice {
    /// The pool's name.
    pub label: Label,
    /// The number of entries.
    pub size: u32,
    /// That of the entries.
    pub digest: Digest,
    /// The entries, if this process filled them in.
    pub entries: Option<Arc<[Mark]>>,
}

/// A listener's chain as it is installed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InstalledChain {
    /// The listener's name.
    pub label: Label,
    /// That of its rules.
    pub digest: Digest,
    /// The set of its denied addresses.
    pub denied: Option<Digest>,
    /// The limits of each source.
    pub limits: Limits,
}

/// The source addresses of a pool as they are installed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InstalledSource {
    /// The pool's name.
    pub label: Label,
    /// That of the addresses.
    pub digest: Digest,
}

impl Table {
    /// The mark of the backend that a client of a chain gets; `None` if that depends on the turn.
    pub fn mark_for(&self, chain: ChainId, client: SocketAddr) -> Option<Mark> {
        let rules = &self.chains.get(&chain)?.rules;
        let choice = self.choices.get(&rules.choice.pool)?;
        choice.entries.get(rules.entry(client)? as usize).copied()
    }

    /// This table, once it is installed.
    pub fn installed(&self) -> Installed {
        Installed {
            exists: true,
            backends: self.backends.clone(),
            choices: self.choices.iter().map(|(id, one)| (*id, one.installed())).collect(),
            sources: self.sources.iter().map(|(id, one)| (*id, one.installed())).collect(),
            chains: self.chains.iter().map(|(id, one)| (*id, one.installed(*id))).collect(),
            binds: self.binds.clone(),
            unused: BTreeSet::new(),
        }
    }
}

impl Rules {
    /// The entry of the choice map that a client gets; `None` for clients in turn.
    pub fn entry(&self, client: SocketAddr) -> Option<u32> {
        match self.pick {
            Pick::Turn => None,
            Pick::Connection => Some(jhash::of_connection(client, self.choice.size, nft::SEED)),
            Pick::Source => Some(jhash::of_source(client.ip(), self.choice.size, nft::SEED)),
        }
    }

    /// That of the rules as nft gets them.
    pub fn digest(&self, id: ChainId) -> Digest {
        Digest::of_text(&nft::rules(id, self).join("\n"))
    }
}

/// What an element of `state` is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum StateKey {
    /// The table.
    Format,
    /// A listener's chain.
    Chain(ChainId),
    /// A pool's choice map.
    Choice(PoolId),
    /// A pool's source addresses.
    Source(PoolId),
}

impl StateKey {
    /// The element.
    pub fn value(self) -> u32 {
        let (kind, number, family) = match self {
            StateKey::Format => return 0,
            StateKey::Chain(ChainId { listener, family }) => (1, listener, family),
            StateKey::Choice(PoolId { pool, family }) => (2, pool, family),
            StateKey::Source(PoolId { pool, family }) => (3, pool, family),
        };
        kind << 28 | number.0 << 1 | u32::from(family == Family::V6)
    }

    /// What an element is about.
    pub fn of_value(value: u32) -> Option<StateKey> {
        let family = if value & 1 == 0 { Family::V4 } else { Family::V6 };
        let number = Number(value >> 1 & Number::MAX);
        match (value >> 28, value) {
            (0, 0) => Some(StateKey::Format),
            (1, _) => Some(StateKey::Chain(ChainId { listener: number, family })),
            (2, _) => Some(StateKey::Choice(PoolId { pool: number, family })),
            (3, _) => Some(StateKey::Source(PoolId { pool: number, family })),
            _ => None,
        }
    }
}

impl InstalledChoice {
    /// The text in `state`: the label is last, since it may have spaces.
    pub fn text(&self) -> String {
        format!("{} {} {}", self.size, self.digest, self.label)
    }

    pub(super) fn parse(text: &str) -> Option<InstalledChoice> {
        let (size, rest) = text.split_once(' ')?;
        let (digest, label) = rest.split_once(' ')?;
        let label = Label::try_from(label.to_owned()).ok()?;
        Some(InstalledChoice { label, size: size.parse().ok()?, digest: Digest::parse(digest)?, entries: None })
    }
}

impl InstalledSource {
    /// The text in `state`.
    pub fn text(&self) -> String {
        format!("{} {}", self.digest, self.label)
    }

    pub(super) fn parse(text: &str) -> Option<InstalledSource> {
        let (digest, label) = text.split_once(' ')?;
        Some(InstalledSource { digest: Digest::parse(digest)?, label: Label::try_from(label.to_owned()).ok()? })
    }
}

impl InstalledChain {
    /// The text in `state`; `-` stands for what the chain has not.
    pub fn text(&self) -> String {
        let or = |number: Option<u32>| number.map_or_else(|| "-".to_owned(), |number| number.to_string());
        let denied = self.denied.map_or_else(|| "-".to_owned(), |digest| digest.to_string());
        let Limits { connections, rate } = self.limits;
        format!("{} {denied} {} {} {}", self.digest, or(connections), or(rate), self.label)
    }

    pub(super) fn parse(text: &str) -> Option<InstalledChain> {
        let mut words = text.splitn(5, ' ');
        let digest = Digest::parse(words.next()?)?;
        let denied = match words.next()? {
            "-" => None,
            word => Some(Digest::parse(word)?),
        };
        let mut limit = || match words.next()? {
            "-" => Some(None),
            word => Some(Some(word.parse().ok()?)),
        };
        let limits = Limits { connections: limit()?, rate: limit()? };
        let label = Label::try_from(words.next()?.to_owned()).ok()?;
        Some(InstalledChain { label, digest, denied, limits })
    }
}

#[cfg(test)]
mod tests;
