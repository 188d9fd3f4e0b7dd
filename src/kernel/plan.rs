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
//!
//! # What a change costs
//!
//! Of thousands of backends mostly one goes or comes back. So what names and addresses come to is kept from plan to plan. Only the
//! entries of backends that serve otherwise than before are chosen again. Another set of backends, or other weights, are made anew.

use super::digest::Digest;
use super::marks::{Mark, Marks};
use super::table::{
    Bind, Chain, ChainId, Choice, ChoiceId, Denied, Family, Installed, Label, Limits, Number, Pick, PoolId, Rules,
    SourceChain, Table, Target,
};
use crate::base::Address;
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
    pub key: Address,
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
    targets: Arc<BTreeMap<Mark, Target>>,
    /// The source addresses of its pools.
    sources: BTreeMap<PoolId, SourceChain>,
    /// The marks of its backends that are wanted.
    wanted: BTreeSet<Mark>,
    /// What its pools were; `None`: there was no table yet.
    marked: Option<Vec<MarkedPool>>,
    choices: HashMap<(Label, Family), PoolCache>,
    denied: HashMap<Label, DeniedCache>,
}

/// What the access lists of a listener deny, for IPv4 and for IPv6.
struct DeniedCache {
    access: Arc<Access>,
    sets: [Option<Arc<Denied>>; 2],
}

/// A pool, and the marks of its backends.
struct MarkedPool {
    name: Box<str>,
    number: Option<Number>,
    sources: Vec<IpAddr>,
    members: Vec<MarkedMember>,
}

/// A backend, and the marks of its addresses. `None`: all marks are in use.
pub(super) struct MarkedMember {
    name: Box<str>,
    pub(super) addresses: Vec<(SocketAddr, Option<Mark>)>,
}

/// What a pool's last choice map was made from.
#[derive(Default)]
struct PoolCache {
    /// The entries of primaries, and of backups.
    tiers: [Option<Tier>; 2],
    /// Whether the last map is over the entries of backups, and the addresses that serve. `None`: those entries are gone.
    last: Option<(bool, AllServing)>,
    choice: Option<Choice>,
}

/// A wanted backend, and its marks.
#[derive(Clone, Copy)]
struct Candidate<'a> {
    member: &'a WantedMember<'a>,
    marks: &'a MarkedMember,
}

/// An address that serves: its mark, and what the hash of an entry is compared by.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Serving {
    mark: Mark,
    salt: u64,
}

/// The addresses that serve, of each member.
#[derive(Default, PartialEq, Eq)]
struct AllServing {
    all: Vec<Serving>,
    /// Where those of each member end.
    ends: Vec<usize>,
}

/// The entries of primaries or backups.
struct Tier {
    /// Address, weight and configured weight of each.
    members: Vec<(Address, u16, u16)>,
    order: Order,
    entries: Option<Entries>,
}

impl Planner {
    /// One that keeps the numbers and marks of an installed table.
    pub fn adopt(installed: &Installed) -> Planner {
        let mut planner = Planner { targets: installed.backends.clone(), ..Planner::default() };
        for (mark, target) in installed.backends.iter() {
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
        let marked = self.mark(wanted);
        (table.backends, table.sources) = (self.targets.clone(), self.sources.clone());

        let both = wanted.pools.iter().zip(&marked);
        let pools: HashMap<&str, _> =
            both.map(|(pool, marked)| (pool.name, (pool, candidates(pool, marked)))).collect();
        let mut serving: HashMap<PoolId, bool> = HashMap::new();
        for listener in &wanted.listeners {
            let Some((pool, members)) = pools.get(listener.pool) else { continue };
            self.listener(listener, pool, members, &mut serving, &mut table);
        }
        self.marked = Some(marked);
        table
    }

    /// The marks of backends that are no longer wanted, and still in the table.
    pub fn leaving(&self) -> Vec<Mark> {
        if self.wanted.len() == self.targets.len() {
            return Vec::new();
        }
        self.targets.keys().filter(|mark| !self.wanted.contains(mark)).copied().collect()
    }

    /// No connection has this mark of a backend that has left: the next table is without it.
    pub fn release(&mut self, mark: Mark) {
        if !self.wanted.contains(&mark) {
            Arc::make_mut(&mut self.targets).remove(&mark);
            self.marks.release(mark);
        }
    }

    /// The backends of each pool of the last table, by the pool's name, in the order in which they were wanted.
    pub(super) fn marked(&self) -> HashMap<&str, &[MarkedMember]> {
        self.marked.iter().flatten().map(|pool| (&*pool.name, &*pool.members)).collect()
    }

    /// Gives each address of a wanted backend its mark.
    fn mark(&mut self, wanted: &Wanted<'_>) -> Vec<MarkedPool> {
        let number = |pool: &WantedPool<'_>| self.pools.get(&Label::of_name(pool.name)).copied();
        if let Some(marked) = self.marked.take()
            && marked.len() == wanted.pools.len()
            && wanted.pools.iter().zip(&marked).all(|(pool, marked)| marked.is(pool, number(pool)))
        {
            return marked;
        }
        let numbers: Vec<_> = wanted.pools.iter().map(number).collect();
        let mut targets = BTreeMap::new();
        self.sources.clear();
        self.wanted.clear();
        let mut marked = Vec::with_capacity(wanted.pools.len());
        for (pool, number) in wanted.pools.iter().zip(numbers) {
            let members = number.map(|number| self.mark_pool(pool, number, &mut targets)).unwrap_or_default();
            marked.push(MarkedPool { name: pool.name.into(), number, sources: pool.sources.to_vec(), members });
        }
        self.wanted.extend(targets.keys());
        for (mark, target) in self.targets.iter() {
            // Only a connection's first packet asks for a source address.
            targets.entry(*mark).or_insert_with(|| Target { source: None, ..target.clone() });
        }
        if *self.targets != targets {
            self.targets = Arc::new(targets);
        }
        marked
    }

    /// Gives those of a pool their marks, and notes where these and its source addresses lead to.
    fn mark_pool(
        &mut self,
        pool: &WantedPool<'_>,
        number: Number,
        targets: &mut BTreeMap<Mark, Target>,
    ) -> Vec<MarkedMember> {
        let label = Label::of_name(pool.name);
        for family in Family::ALL {
            let addresses: Vec<IpAddr> = pool.sources.iter().copied().filter(|ip| Family::of(*ip) == family).collect();
            if !addresses.is_empty() {
                let id = PoolId { pool: number, family };
                self.sources.insert(id, SourceChain { label: label.clone(), addresses });
            }
        }
        let marked = |member: &WantedMember<'_>| {
            let label = Label::of_backend(pool.name, member.name);
            let marked = |&(address, _): &(SocketAddr, bool)| {
                let mark = self.marks.of(label.as_str(), address);
                if let Some(mark) = mark {
                    let id = PoolId { pool: number, family: Family::of(address.ip()) };
                    let source = self.sources.contains_key(&id).then_some(number);
                    targets.insert(mark, Target { address, label: label.clone(), source });
                }
                (address, mark)
            };
            MarkedMember { name: member.name.into(), addresses: member.addresses.iter().map(marked).collect() }
        };
        pool.members.iter().map(marked).collect()
    }

    fn listener(
        &mut self,
        listener: &WantedListener<'_>,
        pool: &WantedPool<'_>,
        members: &[Candidate<'_>],
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
        members: &[Candidate<'_>],
        family: Family,
    ) -> (Option<Choice>, bool) {
        let cache = self.choices.entry((label.clone(), family)).or_default();
        let Some((stage, members)) = stage(members, family) else { return (cache.choice.clone(), false) };
        cache.update(pool, &members, stage.backup);
        let serves = cache.serve(label, stage.backup, AllServing::of(stage, &members, family));
        (cache.choice.clone(), serves)
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

impl MarkedPool {
    /// Whether the marks of this pool, which has this number, would be the same.
    fn is(&self, pool: &WantedPool<'_>, number: Option<Number>) -> bool {
        let is_same = |(marked, member): (&MarkedMember, &WantedMember<'_>)| {
            let mut both = marked.addresses.iter().zip(&member.addresses);
            *marked.name == *member.name
                && marked.addresses.len() == member.addresses.len()
                && both.all(|((own, _), (address, _))| own == address)
        };
        *self.name == *pool.name
            && self.number == number
            && self.sources == pool.sources
            && self.members.len() == pool.members.len()
            && self.members.iter().zip(&pool.members).all(is_same)
    }
}

impl PoolCache {
    /// Builds the entries of a tier, unless its members are those of the last table.
    fn update(&mut self, pool: &WantedPool<'_>, members: &[Candidate<'_>], backup: bool) {
        let weight = |weight: u16| if pool.equal { weight.min(1) } else { weight };
        let order = if pool.pick == Pick::Turn { Order::InTurn } else { Order::Hashed };
        let is_same = |(Candidate { member, .. }, (key, now, configured)): (&Candidate<'_>, &(Address, u16, u16))| {
            (*now, *configured) == (weight(member.weight), weight(member.configured)) && member.key == *key
        };
        let are_same = |tier: &Tier| {
            let mut both = members.iter().zip(&tier.members);
            tier.order == order && tier.members.len() == members.len() && both.all(is_same)
        };
        let tier = &mut self.tiers[usize::from(backup)];
        if tier.as_ref().is_some_and(are_same) {
            return;
        }
        let configured: Vec<u16> = members.iter().map(|it| weight(it.member.configured)).collect();
        let balanced = |it: &Candidate<'_>| Member { key: it.member.key.to_string(), weight: weight(it.member.weight) };
        let entries = Entries::new(&members.iter().map(balanced).collect::<Vec<_>>(), &configured, order);
        let known = |it: &Candidate<'_>| {
            let WantedMember { key, weight: now, configured, .. } = it.member;
            (key.clone(), weight(*now), weight(*configured))
        };
        *tier = Some(Tier { members: members.iter().map(known).collect(), order, entries });
        self.last = None;
    }

    /// Makes the map of those that serve. False: none does, and the map stays.
    fn serve(&mut self, label: &Label, backup: bool, serving: AllServing) -> bool {
        let tier = self.tiers[usize::from(backup)].as_ref();
        let Some(entries) = tier.and_then(|tier| tier.entries.as_ref()) else { return false };
        let usable = |index| !serving.of_member(index).is_empty();
        let last = self.last.as_ref().filter(|(was_backup, _)| *was_backup == backup);
        let made = match (last, &self.choice) {
            (Some((_, before)), Some(_)) if *before == serving => return true,
            (Some((_, before)), Some(choice)) => {
                // An unusable backend's entry may have got another one by now.
                let is_changed = |index| !usable(index) || serving.of_member(index) != before.of_member(index);
                let mut changes = Vec::new();
                let put = |entry, index| changes.extend(serving.mark(entry, index).map(|mark| (entry, mark)));
                entries.each_usable(usable, is_changed, put).then(|| choice.with(&changes))
            }
            _ => {
                let mut marks = Vec::new();
                let put = |entry, index| marks.extend(serving.mark(entry, index));
                entries.each_usable(usable, |_| true, put).then(|| Choice::new(label.clone(), marks.into()))
            }
        };
        let serves = made.is_some();
        if serves {
            (self.last, self.choice) = (Some((backup, serving)), made);
        }
        serves
    }
}

impl AllServing {
    /// The addresses of these members that serve: those that are up, or all of a member if none is.
    fn of(stage: Stage, members: &[Candidate<'_>], family: Family) -> AllServing {
        let mut serving =
            AllServing { all: Vec::with_capacity(members.len()), ends: Vec::with_capacity(members.len()) };
        for Candidate { member, marks } in members {
            let both = || member.addresses.iter().zip(&marks.addresses);
            let mut here = both().filter(|((address, _), _)| Family::of(address.ip()) == family);
            let has_up = here.any(|((_, up), _)| *up);
            let several = member.addresses.len() > 1;
            for ((address, up), (_, mark)) in both().filter(|_| stage.allows(member)) {
                if Family::of(address.ip()) == family && (*up || !has_up) {
                    // The salt of an only address is compared with none.
                    let salt = if several { Digest::of_text(&address.to_string()).0 } else { 0 };
                    serving.all.extend(mark.map(|mark| Serving { mark, salt }));
                }
            }
            serving.ends.push(serving.all.len());
        }
        serving
    }

    /// Those of a member.
    fn of_member(&self, index: usize) -> &[Serving] {
        let begin = index.checked_sub(1).and_then(|before| self.ends.get(before)).copied().unwrap_or(0);
        let end = self.ends.get(index).copied().unwrap_or(begin);
        self.all.get(begin..end).unwrap_or_default()
    }

    /// The mark of an entry of this member.
    fn mark(&self, entry: usize, index: usize) -> Option<Mark> {
        match self.of_member(index) {
            [one] => Some(one.mark),
            several => several.iter().max_by_key(|one| Digest::of([one.salt, entry as u64])).map(|one| one.mark),
        }
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
}

/// The first stage with a backend that serves, and all backends of its tier.
fn stage<'a>(members: &[Candidate<'a>], family: Family) -> Option<(Stage, Vec<Candidate<'a>>)> {
    let stages = [(false, false), (true, false), (false, true), (true, true)];
    stages.into_iter().find_map(|(backup, last_resort)| {
        let stage = Stage { backup, last_resort };
        let fits = |it: &&Candidate<'_>| {
            let is_here = |(address, _): &(SocketAddr, bool)| Family::of(address.ip()) == family;
            it.member.backup == backup && it.member.weight > 0 && it.member.addresses.iter().any(is_here)
        };
        let members: Vec<_> = members.iter().filter(fits).copied().collect();
        members.iter().any(|it| stage.allows(it.member)).then_some((stage, members))
    })
}

fn candidates<'a>(pool: &'a WantedPool<'a>, marked: &'a MarkedPool) -> Vec<Candidate<'a>> {
    let both = pool.members.iter().zip(&marked.members);
    both.map(|(member, marks)| Candidate { member, marks }).collect()
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
