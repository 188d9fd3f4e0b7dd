//! Changes as a script for `nft -f -`, and what is installed, from listings of `nft -j`.
//!
//! The script is in nft's own language: the JSON of nft 1.0.6 has no map whose values are addresses and ports. No text of a
//! configuration gets into it but as a [`super::Label`], which can't hold a quote.
//!
//! Only sets and maps are listed, each by its name. To list tables or chains, nft 1.0.6 reads every element of every set.
//! That takes it half a minute for a choice map of 655,373 entries. A map of type `typeof` makes it crash.

use super::change::Change;
use super::digest::Digest;
use super::marks::Mark;
use super::table::{
    Bind, ChainId, ChoiceId, FORMAT, Family, Installed, InstalledChain, InstalledChoice, InstalledSource, Label,
    Number, Pick, PoolId, Rules, SourceLimit, StateKey, TABLE, Target,
};
use serde::Deserialize;
use serde_json::Value;
use std::fmt::{self, Display, Write};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

/// The seed of hashes: the same in every tcplb, so that two balancers agree.
pub const SEED: u32 = 0x7463_706c;

/// The sources that a limit of each source counts at once, as many as those of a listener of the proxy.
const SOURCES_MAX: u32 = 262_144;

/// What is listed to read the table, as `nft -j list KIND inet tcplb NAME`. If the first one fails, there is no table of
/// ours.
pub const LISTINGS: [(&str, &str); 8] = [
    ("set", "state"),
    ("map", "backends4"),
    ("map", "backends6"),
    ("map", "sources"),
    ("map", "listeners4"),
    ("map", "listeners6"),
    ("map", "wild4"),
    ("map", "wild6"),
];

/// The script that removes the table.
pub const REMOVE: &str = "delete table inet tcplb\n";

/// The script of these changes: one transaction.
pub fn render(changes: &[Change]) -> String {
    let mut script = Script::default();
    for change in changes {
        script.change(change);
    }
    script.end();
    script.text
}

/// A script; elements that follow each other join one command.
#[derive(Default)]
struct Script {
    text: String,
    /// The command that the last element belongs to.
    open: String,
}

impl Script {
    /// Writes a command.
    fn line(&mut self, command: impl Display) {
        self.end();
        // Writing to a string can't fail.
        let _ = writeln!(self.text, "{command}");
    }

    /// Writes an element of a set.
    fn element(&mut self, verb: &str, set: impl Display, element: impl Display) {
        let command = format!("{verb} element inet {TABLE} {set}");
        if self.open == command {
            let _ = write!(self.text, ", {element}");
        } else {
            self.end();
            let _ = write!(self.text, "{command} {{ {element}");
            self.open = command;
        }
    }

    /// Ends the command of elements.
    fn end(&mut self) {
        if !self.open.is_empty() {
            self.text.push_str(" }\n");
            self.open.clear();
        }
    }

    fn change(&mut self, change: &Change) {
        match change {
            Change::Create => CREATE.iter().for_each(|command| self.line(command)),
            Change::Note(key, text) => {
                self.element("add", "state", format_args!("{} comment \"{text}\"", key.value()));
            }
            Change::Forget(key) => self.element("delete", "state", key.value()),
            Change::AddSource(id) => self.line(format_args!("add chain inet {TABLE} {}", SourceName(*id))),
            Change::WriteSource(id, addresses) => self.source(*id, addresses),
            Change::RemoveSource(id) => self.line(format_args!("delete chain inet {TABLE} {}", SourceName(*id))),
            Change::AddBackend(mark, target) => self.backend(*mark, target),
            Change::RemoveBackend { mark, family, source } => {
                self.element("delete", format_args!("backends{}", family.digit()), mark);
                if *source {
                    self.element("delete", "sources", mark);
                }
            }
            Change::AddChoice(_)
            | Change::Fill(..)
            | Change::SetEntries(..)
            | Change::ClearChoice(_)
            | Change::RemoveChoice(_) => self.choice(change),
            Change::AddDenied(id, digest, ranges) => self.denied(*id, *digest, ranges),
            Change::RemoveDenied(id, digest) => {
                self.line(format_args!("delete set inet {TABLE} {}", DeniedName(*id, *digest)));
            }
            Change::AddLimit(id, limit) => {
                let key = address_type(id.family);
                let more = match limit {
                    SourceLimit::Connections(_) => "flags dynamic;",
                    // A bucket is full after an idle second.
                    SourceLimit::Rate(_) => "flags dynamic, timeout; timeout 2s;",
                };
                let name = LimitName(*id, *limit);
                self.line(format_args!("add set inet {TABLE} {name} {{ type {key}; size {SOURCES_MAX}; {more} }}"));
            }
            Change::RemoveLimit(id, limit) => {
                self.line(format_args!("delete set inet {TABLE} {}", LimitName(*id, *limit)));
            }
            Change::AddChain(id) => self.line(format_args!("add chain inet {TABLE} {}", ChainName(*id))),
            Change::WriteChain(id, written) => {
                self.line(format_args!("flush chain inet {TABLE} {}", ChainName(*id)));
                rules(*id, written).iter().for_each(|rule| self.line(rule));
            }
            Change::ClearChain(id) => self.line(format_args!("flush chain inet {TABLE} {}", ChainName(*id))),
            Change::RemoveChain(id) => self.line(format_args!("delete chain inet {TABLE} {}", ChainName(*id))),
            Change::AddBind(bind, chain) => {
                self.element("add", bind_map(*bind), format_args!("{} : goto {}", BindKey(*bind), ChainName(*chain)));
            }
            Change::RemoveBind(bind) => self.element("delete", bind_map(*bind), BindKey(*bind)),
        }
    }

    fn backend(&mut self, mark: Mark, target: &Target) {
        let Target { address, label, source } = target;
        let family = Family::of(address.ip());
        let value = format_args!("{mark} comment \"{label}\" : {} . {}", address.ip(), address.port());
        self.element("add", format_args!("backends{}", family.digit()), value);
        if let Some(pool) = source {
            let chain = SourceName(PoolId { pool: *pool, family });
            self.element("add", "sources", format_args!("{mark} : goto {chain}"));
        }
    }

    fn choice(&mut self, change: &Change) {
        match change {
            Change::AddChoice(id) => {
                let (name, size) = (ChoiceName(*id), id.size);
                self.line(format_args!("add map inet {TABLE} {name} {{ type mark : mark; size {size}; }}"));
                // One that a start or a change which failed has left.
                self.line(format_args!("flush map inet {TABLE} {name}"));
            }
            Change::Fill(id, first, marks) => {
                for (entry, mark) in (*first..).zip(marks) {
                    self.element("add", ChoiceName(*id), format_args!("{entry} : {mark}"));
                }
            }
            Change::SetEntries(id, entries) => {
                entries.iter().for_each(|(entry, _)| self.element("delete", ChoiceName(*id), entry));
                for (entry, mark) in entries {
                    self.element("add", ChoiceName(*id), format_args!("{entry} : {mark}"));
                }
            }
            Change::ClearChoice(id) => self.line(format_args!("flush map inet {TABLE} {}", ChoiceName(*id))),
            Change::RemoveChoice(id) => self.line(format_args!("delete map inet {TABLE} {}", ChoiceName(*id))),
            _ => {}
        }
    }

    fn denied(&mut self, id: ChainId, digest: Digest, ranges: &[(IpAddr, IpAddr)]) {
        let (name, key) = (DeniedName(id, digest), address_type(id.family));
        self.line(format_args!("add set inet {TABLE} {name} {{ type {key}; flags interval; }}"));
        for (first, last) in ranges {
            match first == last {
                true => self.element("add", &name, first),
                false => self.element("add", &name, format_args!("{first}-{last}")),
            }
        }
    }

    fn source(&mut self, id: PoolId, addresses: &[IpAddr]) {
        let (chain, ip) = (SourceName(id), header(id.family));
        self.line(format_args!("flush chain inet {TABLE} {chain}"));
        let rule = format!("add rule inet {TABLE} {chain} meta l4proto tcp snat {ip} to");
        match addresses {
            [] => {}
            [one] => self.line(format_args!("{rule} {one}")),
            addresses => {
                let each: Vec<String> = addresses.iter().enumerate().map(|(at, ip)| format!("{at} : {ip}")).collect();
                let count = addresses.len();
                self.line(format_args!("{rule} numgen inc mod {count} map {{ {} }}", each.join(", ")));
            }
        }
    }
}

/// What the table always has. `create` fails if there is a table of that name.
const CREATE: &[&str] = &[
    "create table inet tcplb { comment \"owned by tcplb\"; }",
    "add set inet tcplb state { type mark; }",
    "add map inet tcplb listeners4 { type ipv4_addr . inet_service : verdict; }",
    "add map inet tcplb listeners6 { type ipv6_addr . inet_service : verdict; }",
    "add map inet tcplb wild4 { type inet_service : verdict; }",
    "add map inet tcplb wild6 { type inet_service : verdict; }",
    "add map inet tcplb backends4 { type mark : ipv4_addr . inet_service; }",
    "add map inet tcplb backends6 { type mark : ipv6_addr . inet_service; }",
    "add map inet tcplb sources { type mark : verdict; }",
    "add chain inet tcplb prerouting { type nat hook prerouting priority -100; policy accept; }",
    // A connection whose entry was deleted chooses no other backend: its next packet reaches the local stack, and is reset.
    "add rule inet tcplb prerouting tcp flags & (fin | syn | rst | ack) != syn accept",
    "add rule inet tcplb prerouting ip daddr . tcp dport vmap @listeners4",
    "add rule inet tcplb prerouting ip6 daddr . tcp dport vmap @listeners6",
    "add rule inet tcplb prerouting meta nfproto ipv4 fib daddr type local tcp dport vmap @wild4",
    "add rule inet tcplb prerouting meta nfproto ipv6 fib daddr type local tcp dport vmap @wild6",
    // Clients on the machine itself.
    "add chain inet tcplb output { type nat hook output priority -100; policy accept; }",
    "add rule inet tcplb output tcp flags & (fin | syn | rst | ack) != syn accept",
    "add rule inet tcplb output ip daddr . tcp dport vmap @listeners4",
    "add rule inet tcplb output ip6 daddr . tcp dport vmap @listeners6",
    "add rule inet tcplb output meta nfproto ipv4 fib daddr type local tcp dport vmap @wild4",
    "add rule inet tcplb output meta nfproto ipv6 fib daddr type local tcp dport vmap @wild6",
    "add chain inet tcplb postrouting { type nat hook postrouting priority 100; policy accept; }",
    "add rule inet tcplb postrouting ct mark vmap @sources",
];

/// The commands that add the rules of a listener's chain. Refused clients are reset, as they are by the proxy.
pub fn rules(id: ChainId, rules: &Rules) -> Vec<String> {
    let Rules { denied, limits, pick, choice } = *rules;
    let ip = header(id.family);
    let saddr = format!("{ip} saddr");
    // A source is an address, or an IPv6 network of 64 bits: see `policy::limit::source`.
    let source = match id.family {
        Family::V4 => saddr.clone(),
        Family::V6 => format!("{saddr} & ffff:ffff:ffff:ffff::"),
    };
    let reject = "reject with tcp reset";
    let mut lines: Vec<String> = Vec::new();
    lines.extend(denied.map(|digest| format!("{saddr} @{} {reject}", DeniedName(id, digest))));
    for limit in limits.each() {
        let name = LimitName(id, limit);
        lines.push(match limit {
            SourceLimit::Connections(most) => format!("add @{name} {{ {source} ct count over {most} }} {reject}"),
            SourceLimit::Rate(most) => {
                format!("update @{name} {{ {source} limit rate over {most}/second burst {most} packets }} {reject}")
            }
        });
    }
    let size = choice.size;
    lines.push(match pick {
        Pick::Turn => format!("ct mark set numgen inc mod {size}"),
        Pick::Connection => format!("ct mark set jhash {saddr} . tcp sport mod {size} seed {SEED:#x}"),
        Pick::Source => format!("ct mark set jhash {saddr} mod {size} seed {SEED:#x}"),
    });
    lines.push(format!("ct mark set ct mark map @{}", ChoiceName(choice)));
    lines.push(format!("meta l4proto tcp dnat {ip} to ct mark map @backends{}", id.family.digit()));
    let chain = ChainName(id);
    lines.iter().map(|line| format!("add rule inet {TABLE} {chain} {line}")).collect()
}

fn header(family: Family) -> &'static str {
    match family {
        Family::V4 => "ip",
        Family::V6 => "ip6",
    }
}

fn address_type(family: Family) -> &'static str {
    match family {
        Family::V4 => "ipv4_addr",
        Family::V6 => "ipv6_addr",
    }
}

fn bind_map(bind: Bind) -> String {
    let map = match bind {
        Bind::Address(_) => "listeners",
        Bind::Port(..) => "wild",
    };
    format!("{map}{}", bind.family().digit())
}

/// The element of a bind in its map.
struct BindKey(Bind);

impl Display for BindKey {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Bind::Address(at) => write!(out, "{} . {}", at.ip(), at.port()),
            Bind::Port(_, port) => port.fmt(out),
        }
    }
}

struct ChainName(ChainId);

impl Display for ChainName {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "listener_{}_{}", self.0.listener, self.0.family.digit())
    }
}

struct SourceName(PoolId);

impl Display for SourceName {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "source_{}_{}", self.0.pool, self.0.family.digit())
    }
}

struct ChoiceName(ChoiceId);

impl Display for ChoiceName {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ChoiceId { pool: PoolId { pool, family }, size } = self.0;
        write!(out, "choice_{pool}_{}_{size}", family.digit())
    }
}

struct DeniedName(ChainId, Digest);

impl Display for DeniedName {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "denied_{}_{}_{}", self.0.listener, self.0.family.digit(), self.1)
    }
}

struct LimitName(ChainId, SourceLimit);

impl Display for LimitName {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (kind, most) = match self.1 {
            SourceLimit::Connections(most) => ("connections", most),
            SourceLimit::Rate(most) => ("rate", most),
        };
        write!(out, "{kind}_{}_{}_{most}", self.0.listener, self.0.family.digit())
    }
}

/// Why a table can't be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReadError {
    /// Another program made it.
    Foreign,
    /// It is ours, but not as this tcplb writes it.
    Damaged(String),
}

impl Display for ReadError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ReadError::Foreign => write!(out, "table inet {TABLE} exists, and tcplb did not make it"),
            ReadError::Damaged(what) => write!(
                out,
                "table inet {TABLE} is not as this tcplb writes it ({what}): `tcplb kernel flush` removes it, and ends \
                 the connections in it"
            ),
        }
    }
}

/// Reads what is installed from the output of each of [`LISTINGS`], the first one first.
pub fn read<T: AsRef<str>>(listings: &[T]) -> Result<Installed, ReadError> {
    let mut installed = Installed { exists: true, ..Installed::default() };
    for (listing, (_, name)) in listings.iter().zip(LISTINGS) {
        let broken = |what: &str| ReadError::Damaged(format!("{name}: {what}"));
        let listing: Listing = serde_json::from_str(listing.as_ref()).map_err(|error| broken(&error.to_string()))?;
        let set = listing.nftables.into_iter().find_map(|object| object.set.or(object.map));
        let set = set.filter(|set| set.name == name).ok_or_else(|| broken("not in its listing"))?;
        if name == "state" {
            check_format(&set)?;
        }
        for element in &set.elem {
            let read = match name {
                "state" => read_state(element, &mut installed),
                "sources" => read_source(element, &mut installed),
                "backends4" | "backends6" => read_backend(element, &mut installed),
                _ => read_bind(name, element, &mut installed),
            };
            read.ok_or_else(|| broken(&element.to_string()))?;
        }
    }
    Ok(installed)
}

#[derive(Deserialize)]
struct Listing {
    nftables: Vec<Object>,
}

#[derive(Deserialize)]
struct Object {
    set: Option<Set>,
    map: Option<Set>,
}

#[derive(Deserialize)]
struct Set {
    name: String,
    #[serde(default)]
    elem: Vec<Value>,
}

/// The number and the comment of a key: a bare number if it has no comment.
fn key(key: &Value) -> Option<(u32, &str)> {
    let Some(element) = key.get("elem") else { return Some((number(key)?, "")) };
    let comment = element.get("comment").map_or(Some(""), Value::as_str)?;
    Some((number(element.get("val")?)?, comment))
}

fn number(value: &Value) -> Option<u32> {
    u32::try_from(value.as_u64()?).ok()
}

fn label(text: &str) -> Option<Label> {
    Label::try_from(text.to_owned()).ok()
}

fn check_format(state: &Set) -> Result<(), ReadError> {
    let format = state.elem.iter().filter_map(key).find(|(key, _)| StateKey::of_value(*key) == Some(StateKey::Format));
    match format {
        Some((_, FORMAT)) => Ok(()),
        Some((_, other)) if other.starts_with("tcplb ") => Err(ReadError::Damaged(format!("its format is {other}"))),
        _ => Err(ReadError::Foreign),
    }
}

fn read_state(element: &Value, installed: &mut Installed) -> Option<()> {
    let (value, text) = key(element)?;
    match StateKey::of_value(value)? {
        StateKey::Format => {}
        StateKey::Chain(id) => drop(installed.chains.insert(id, InstalledChain::parse(text)?)),
        StateKey::Choice(id) => drop(installed.choices.insert(id, InstalledChoice::parse(text)?)),
        StateKey::Source(id) => drop(installed.sources.insert(id, InstalledSource::parse(text)?)),
    }
    Some(())
}

fn read_backend(element: &Value, installed: &mut Installed) -> Option<()> {
    let (mark, comment) = key(element.get(0)?)?;
    let address = socket_address(element.get(1)?)?;
    let target = Target { address, label: label(comment)?, source: None };
    Arc::make_mut(&mut installed.backends).insert(Mark::of_value(mark)?, target);
    Some(())
}

fn read_source(element: &Value, installed: &mut Installed) -> Option<()> {
    let (mark, _) = key(element.get(0)?)?;
    let (pool, _) = target(element.get(1)?)?.strip_prefix("source_")?.split_once('_')?;
    let target = Arc::make_mut(&mut installed.backends).get_mut(&Mark::of_value(mark)?)?;
    target.source = Some(Number::new(pool.parse().ok()?)?);
    Some(())
}

fn read_bind(map: &str, element: &Value, installed: &mut Installed) -> Option<()> {
    let family = if map.ends_with('4') { Family::V4 } else { Family::V6 };
    let key = element.get(0)?;
    let bind = match key.as_u64() {
        Some(port) => Bind::Port(family, u16::try_from(port).ok()?),
        None => Bind::Address(socket_address(key)?),
    };
    let (listener, _) = target(element.get(1)?)?.strip_prefix("listener_")?.split_once('_')?;
    installed.binds.insert(bind, ChainId { listener: Number::new(listener.parse().ok()?)?, family });
    Some(())
}

/// The chain that a verdict goes to.
fn target(verdict: &Value) -> Option<&str> {
    verdict.get("goto")?.get("target")?.as_str()
}

fn socket_address(value: &Value) -> Option<SocketAddr> {
    let parts = value.get("concat")?;
    let ip: IpAddr = parts.get(0)?.as_str()?.parse().ok()?;
    Some(SocketAddr::new(ip, u16::try_from(parts.get(1)?.as_u64()?).ok()?))
}

#[cfg(test)]
mod tests;
