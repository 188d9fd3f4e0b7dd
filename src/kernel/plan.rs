//! Makes the wanted table from listeners and pools.
//!
//! # Which backends get entries
//!
//! The stages are those of the proxy's choice: the usable primaries, then the usable backups. Where the pool has a last
//! resort, its primaries follow, and then its backups. The first stage with a backend serves all clients. A pool without one has no
//! bind, so that its clients are refused, and keeps its choice map for the backends to come back.
//!
//! A backend has entries in the choice map of each family that it has an address of. If it has several, a hash of the entry
//! chooses among those that are up.
//!
//! # Numbers
//!
//! A listener, a pool and an address of a backend keep their number as long as they are in the table, also over a restart.
//! The mark of a backend that has left stays in the table until [`Planner::release`]: connections may have it.

use super::marks::{Mark, Marks};
use super::table::{
    Bind, Chain, ChainId, Choice, ChoiceId, Denied, Digest, Family, Installed, Label, Limits, Number, Pick, PoolId,
    Rules, SourceChain, Table, Target,
};
use crate::policy::balance::{Entries, Member, Order};
use crate::policy::limit::Access;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

/// What the table is made from.
#[derive(Clone, Debug, Default)]
pub struct Wanted<'a> {
    /// The listeners of the kernel engine.
    pub listeners: Vec<WantedListener<'a>>,
    /// Their pools.
    pub pools: Vec<WantedPool<'a>>,
}

/// A listener.
#[derive(Clone, Debug)]
pub struct WantedListener<'a> {
    /// Its name.
    pub name: &'a str,
    /// What leads to it.
    pub binds: Vec<Bind>,
    /// The name of its pool.
    pub pool: &'a str,
    /// Whether it takes new clients.
    pub open: bool,
    /// Which addresses may connect.
    pub access: &'a Arc<Access>,
    /// The limits of each source.
    pub limits: Limits,
}

/// A pool.
#[derive(Clone, Debug)]
pub struct WantedPool<'a> {
    /// Its name.
    pub name: &'a str,
    /// How its clients find their entries.
    pub pick: Pick,
    /// Whether all weights above 0 count the same.
    pub equal: bool,
    /// The addresses that connections to its backends come from; none: the clients' own.
    pub sources: &'a [IpAddr],
    /// Its backends.
    pub members: Vec<WantedMember<'a>>,
}

/// A backend of a pool.
#[derive(Clone, Debug)]
pub struct WantedMember<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its address as written, by which all tcplb know it.
    pub key: String,
    /// Its weight as the operator wrote it.
    pub configured: u16,
    /// Its weight now.
    pub weight: u16,
    /// Serves only when no primary can.
    pub backup: bool,
    /// Takes new connections.
    pub usable: bool,
    /// Takes them if no other does; false where the pool has no last resort now.
    pub last_resort: bool,
    /// Its addresses, and which of them are up.
    pub addresses: Vec<(SocketAddr, bool)>,
}

/// Makes tables, one after the other.
#[derive(Default)]
pub struct Planner {
    marks: Marks,
    pools: BTreeMap<Label, Number>,
    listeners: BTreeMap<Label, Number>,
    /// Where the marks of the last table lead to.
    targets: BTreeMap<Mark, Target>,
    /// The marks of the last table whose backends are wanted.
    wanted: BTreeSet<Mark>,
    /// The marks of each backend.
    by_label: HashMap<Label, Vec<Mark>>,
    choices: HashMap<(Label, Family), PoolCache>,
    denied: HashMap<Label, DeniedCache>,
}

/// What the access lists of a listener deny, for IPv4 and for IPv6.
struct DeniedCache {
    access: Arc<Access>,
    sets: [Option<Arc<Denied>>; 2],
}

/// What a pool's last choice map was made from.
#[derive(Default)]
struct PoolCache {
    /// The entries of primaries, and of backups.
    tiers: [Option<Tier>; 2],
    /// Whether it is over the backups, the addresses of each of its members that serve, and the map.
    last: Option<(bool, Vec<Vec<Serving>>, Choice)>,
}

/// A backend, and its addresses with their marks; `true`: the address is up.
struct MarkedMember<'a> {
    member: &'a WantedMember<'a>,
    marks: Vec<(SocketAddr, bool, Mark)>,
}

/// An address that serves: its mark, and what the hash of an entry is compared by.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Serving {
    mark: Mark,
    salt: u64,
}

/// The entries of primaries or backups.
struct Tier {
    members: Vec<Member>,
    configured: Vec<u16>,
    order: Order,
    entries: Option<Entries>,
}

impl Planner {
    /// One that keeps the numbers and marks of an installed table.
    pub fn adopt(installed: &Installed) -> Planner {
        let mut planner = Planner { targets: installed.backends.clone(), ..Planner::default() };
        for (mark, target) in &installed.backends {
            planner.marks.adopt(*mark, target);
        }
        let choices = installed.choices.iter().map(|(id, choice)| (id.pool, &choice.label));
        let sources = installed.sources.iter().map(|(id, source)| (id.pool, &source.label));
        for (number, label) in choices.chain(sources) {
            planner.pools.entry(label.clone()).or_insert(number);
        }
        for (id, chain) in &installed.chains {
            planner.listeners.entry(chain.label.clone()).or_insert(id.listener);
        }
        planner
    }

    /// The table for these listeners and pools.
    pub fn plan(&mut self, wanted: &Wanted<'_>) -> Table {
        let mut table = Table::default();
        let pool_labels: BTreeSet<Label> = wanted.pools.iter().map(|pool| Label::of_name(pool.name)).collect();
        let labels: BTreeSet<Label> = wanted.listeners.iter().map(|one| Label::of_name(one.name)).collect();
        renumber(&mut self.pools, &pool_labels);
        renumber(&mut self.listeners, &labels);
        self.choices.retain(|(label, _), _| pool_labels.contains(label));
        self.denied.retain(|label, _| labels.contains(label));
        self.wanted.clear();
        self.by_label.clear();

        let mut pools: HashMap<&str, (&WantedPool<'_>, Vec<MarkedMember<'_>>)> = HashMap::new();
        for pool in &wanted.pools {
            pools.insert(pool.name, (pool, self.targets_of(pool, &mut table)));
        }
        let mut serving: HashMap<PoolId, bool> = HashMap::new();
        for listener in &wanted.listeners {
            let Some((pool, members)) = pools.get(listener.pool) else { continue };
            self.listener(listener, pool, members, &mut serving, &mut table);
        }
        for (mark, target) in &self.targets {
            // Only a connection's first packet asks for a source address.
            table.backends.entry(*mark).or_insert_with(|| Target { source: None, ..target.clone() });
        }
        self.targets.clone_from(&table.backends);
        table
    }

    /// The marks of backends that are no longer wanted, and still in the table.
    pub fn leaving(&self) -> Vec<Mark> {
        self.targets.keys().filter(|mark| !self.wanted.contains(mark)).copied().collect()
    }

    /// No connection has this mark of a backend that has left: the next table is without it.
    pub fn release(&mut self, mark: Mark) {
        if !self.wanted.contains(&mark) {
            self.targets.remove(&mark);
            self.marks.release(mark);
        }
    }

    /// The marks of a wanted backend, one for each address.
    pub fn marks_of(&self, pool: &str, backend: &str) -> &[Mark] {
        self.by_label.get(&Label::of_backend(pool, backend)).map_or(&[], Vec::as_slice)
    }

    /// Where a mark leads to.
    pub fn target(&self, mark: Mark) -> Option<&Target> {
        self.targets.get(&mark)
    }

    /// Puts the marks of a pool's backends and its source addresses into the table.
    fn targets_of<'p>(&mut self, pool: &'p WantedPool<'_>, table: &mut Table) -> Vec<MarkedMember<'p>> {
        let label = Label::of_name(pool.name);
        let Some(number) = self.pools.get(&label).copied() else { return Vec::new() };
        for family in Family::ALL {
            let addresses: Vec<IpAddr> = pool.sources.iter().copied().filter(|ip| Family::of(*ip) == family).collect();
            if !addresses.is_empty() {
                let id = PoolId { pool: number, family };
                table.sources.insert(id, SourceChain { label: label.clone(), addresses });
            }
        }
        let marked = |member: &'p WantedMember<'_>| {
            let label = Label::of_backend(pool.name, member.name);
            let mut marks = Vec::with_capacity(member.addresses.len());
            for &(address, up) in &member.addresses {
                let Some(mark) = self.marks.of(label.as_str(), address) else { continue };
                let id = PoolId { pool: number, family: Family::of(address.ip()) };
                let source = table.sources.contains_key(&id).then_some(number);
                table.backends.insert(mark, Target { address, label: label.clone(), source });
                self.wanted.insert(mark);
                marks.push((address, up, mark));
            }
            self.by_label.insert(label, marks.iter().map(|(.., mark)| *mark).collect());
            MarkedMember { member, marks }
        };
        pool.members.iter().map(marked).collect()
    }

    fn listener(
        &mut self,
        listener: &WantedListener<'_>,
        pool: &WantedPool<'_>,
        members: &[MarkedMember<'_>],
        serving: &mut HashMap<PoolId, bool>,
        table: &mut Table,
    ) {
        let (label, pool_label) = (Label::of_name(listener.name), Label::of_name(pool.name));
        let numbers = self.listeners.get(&label).copied().zip(self.pools.get(&pool_label).copied());
        let Some((number, pool_number)) = numbers else { return };
        let families: BTreeSet<Family> = listener.binds.iter().map(|bind| bind.family()).collect();
        for family in families {
            let pool_id = PoolId { pool: pool_number, family };
            let serves = *serving.entry(pool_id).or_insert_with(|| {
                let (choice, serves) = self.choice(pool, &pool_label, members, family);
                table.choices.extend(choice.map(|choice| (pool_id, choice)));
                serves
            });
            let Some(choice) = table.choices.get(&pool_id) else { continue };
            let id = ChainId { listener: number, family };
            let denied = self.denied(&label, listener.access, family);
            let rules = Rules {
                denied: denied.as_ref().map(|denied| denied.digest),
                limits: listener.limits,
                pick: pool.pick,
                choice: ChoiceId { pool: pool_id, size: choice.size() },
            };
            table.chains.insert(id, Chain { label: label.clone(), rules, denied });
            if listener.open && serves {
                let binds = listener.binds.iter().filter(|bind| bind.family() == family);
                table.binds.extend(binds.map(|bind| (*bind, id)));
            }
        }
    }

    /// The choice map of a pool, and whether any backend serves. Without one it is the last map.
    fn choice(
        &mut self,
        pool: &WantedPool<'_>,
        label: &Label,
        members: &[MarkedMember<'_>],
        family: Family,
    ) -> (Option<Choice>, bool) {
        let cache = self.choices.entry((label.clone(), family)).or_default();
        let Some((stage, members)) = stage(members, family) else { return (cache.last(), false) };
        let serving: Vec<Vec<Serving>> = members.iter().map(|member| stage.serving(member, family)).collect();
        let rebuilt = cache.update(pool, &members, stage.backup);
        let same =
            |(backup, before, _): &(bool, Vec<Vec<Serving>>, Choice)| *backup == stage.backup && *before == serving;
        if rebuilt || !cache.last.as_ref().is_some_and(same) {
            let entries = cache.entries(stage.backup, &serving);
            if entries.is_empty() {
                return (cache.last(), false);
            }
            cache.last = Some((stage.backup, serving, Choice::new(label.clone(), entries)));
        }
        (cache.last(), true)
    }

    /// What the rules deny clients of a family; `None`: nothing.
    fn denied(&mut self, label: &Label, access: &Arc<Access>, family: Family) -> Option<Arc<Denied>> {
        let known = self.denied.get(label).filter(|known| Arc::ptr_eq(&known.access, access));
        let sets = match known {
            Some(known) => known.sets.clone(),
            None => {
                let v4 = access.denied_v4().into_iter().map(|(first, last)| (first.into(), last.into()));
                let v6 = access.denied_v6().into_iter().map(|(first, last)| (first.into(), last.into()));
                let sets = [v4.collect(), v6.collect()].map(denied_set);
                self.denied.insert(label.clone(), DeniedCache { access: access.clone(), sets: sets.clone() });
                sets
            }
        };
        let [v4, v6] = sets;
        match family {
            Family::V4 => v4,
            Family::V6 => v6,
        }
    }
}

impl PoolCache {
    fn last(&self) -> Option<Choice> {
        self.last.as_ref().map(|(.., choice)| choice.clone())
    }

    /// Builds the entries of a tier, unless its members are those of the last table. Whether it did.
    fn update(&mut self, pool: &WantedPool<'_>, members: &[&MarkedMember<'_>], backup: bool) -> bool {
        let weight = |weight: u16| if pool.equal { weight.min(1) } else { weight };
        let order = if pool.pick == Pick::Turn { Order::InTurn } else { Order::Hashed };
        let is_same = |((new, old), configured): ((&&MarkedMember<'_>, &Member), &u16)| {
            let new = new.member;
            new.key == old.key && weight(new.weight) == old.weight && weight(new.configured) == *configured
        };
        let are_same = |tier: &Tier| {
            let both = || members.iter().zip(&tier.members).zip(&tier.configured);
            tier.order == order && tier.members.len() == members.len() && both().all(is_same)
        };
        let tier = &mut self.tiers[usize::from(backup)];
        if tier.as_ref().is_some_and(are_same) {
            return false;
        }
        let configured: Vec<u16> = members.iter().map(|it| weight(it.member.configured)).collect();
        let balanced = |it: &&MarkedMember<'_>| Member { key: it.member.key.clone(), weight: weight(it.member.weight) };
        let members: Vec<Member> = members.iter().map(balanced).collect();
        let entries = Entries::new(&members, &configured, order);
        *tier = Some(Tier { members, configured, order, entries });
        true
    }

    /// The mark of each entry.
    fn entries(&self, backup: bool, serving: &[Vec<Serving>]) -> Arc<[Mark]> {
        let tier = self.tiers[usize::from(backup)].as_ref();
        let Some(entries) = tier.and_then(|tier| tier.entries.as_ref()) else { return Arc::default() };
        let indexes = entries.usable(|index| serving.get(index).is_some_and(|addresses| !addresses.is_empty()));
        let mark = |(entry, index): (usize, &u32)| match serving.get(*index as usize)?.as_slice() {
            [one] => Some(one.mark),
            several => several.iter().max_by_key(|one| Digest::of([one.salt, entry as u64])).map(|one| one.mark),
        };
        indexes.iter().enumerate().filter_map(mark).collect()
    }
}

/// Which backends serve all clients of a pool.
#[derive(Clone, Copy)]
struct Stage {
    backup: bool,
    last_resort: bool,
}

impl Stage {
    fn allows(self, member: &WantedMember<'_>) -> bool {
        if self.last_resort { member.last_resort } else { member.usable }
    }

    /// The addresses of a member that serve: those that are up, or all if none is.
    fn serving(self, it: &MarkedMember<'_>, family: Family) -> Vec<Serving> {
        if !self.allows(it.member) {
            return Vec::new();
        }
        let here = || it.marks.iter().filter(move |(address, ..)| Family::of(address.ip()) == family);
        let has_up = here().any(|(_, up, _)| *up);
        let several = it.marks.len() > 1;
        let serving = here().filter(|(_, up, _)| *up || !has_up);
        let one = |(address, _, mark): &(SocketAddr, bool, Mark)| {
            // The salt of an only address is compared with none.
            let salt = if several { Digest::of_text(&address.to_string()).0 } else { 0 };
            Serving { mark: *mark, salt }
        };
        serving.map(one).collect()
    }
}

/// The first stage with a backend that serves, and all backends of its tier.
fn stage<'m, 'p>(members: &'m [MarkedMember<'p>], family: Family) -> Option<(Stage, Vec<&'m MarkedMember<'p>>)> {
    let stages = [(false, false), (true, false), (false, true), (true, true)];
    stages.into_iter().find_map(|(backup, last_resort)| {
        let stage = Stage { backup, last_resort };
        let fits = |it: &&MarkedMember<'_>| {
            let is_here = || it.marks.iter().any(|(address, ..)| Family::of(address.ip()) == family);
            it.member.backup == backup && it.member.weight > 0 && is_here()
        };
        let members: Vec<_> = members.iter().filter(fits).collect();
        members.iter().any(|it| stage.allows(it.member)).then_some((stage, members))
    })
}

fn denied_set(ranges: Vec<(IpAddr, IpAddr)>) -> Option<Arc<Denied>> {
    let digest = Digest::of_text(&format!("{ranges:?}"));
    (!ranges.is_empty()).then(|| Arc::new(Denied { digest, ranges }))
}

/// Drops the numbers of names that are not wanted, and gives new names the lowest free ones from 1.
fn renumber(numbers: &mut BTreeMap<Label, Number>, names: &BTreeSet<Label>) {
    numbers.retain(|name, _| names.contains(name));
    let mut used: BTreeSet<Number> = BTreeSet::new();
    // An edited table may have given one number to two names.
    numbers.retain(|_, number| used.insert(*number));
    let mut free = (1..).map_while(Number::new);
    for name in names {
        if numbers.contains_key(name) {
            continue;
        }
        if let Some(number) = free.find(|number| !used.contains(number)) {
            numbers.insert(name.clone(), number);
        }
    }
}

#[cfg(test)]
mod tests;
