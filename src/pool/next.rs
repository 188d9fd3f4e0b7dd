//! Builds the next snapshot from the last one and a model. Only control calls it.
//!
//! # What stays
//!
//! A backend stays if its pool's name, its own name and its address are the same, and no resolved endpoint has left. It keeps its
//! `Arc<Backend>`: counters, averages, health, open connections. A new weight, limit or tier changes none of these. Further
//! endpoints join it at once, also for workers with an older snapshot. Where some have left, its successor has its slot, and so
//! counts its connections.
//! An unchanged pool is the same `Arc<Pool>`, with its turn and tables. In a changed one the algorithm takes over the state of
//! its predecessor that clients rely on. A new backend is in slow start, unless it takes the place of one whose name lost an address.
//!
//! A listener stays if its name does: it keeps its totals and its admission counts.
//!
//! # Slots
//!
//! Loads are in dense arrays, 64 backends a block, since algorithms scan them; bits and limits use the same index, the
//! *slot*. Counts must stay exact while leases of an older snapshot are open. So a backend keeps its slot for its
//! lifetime, and all generations of a pool share the blocks. A new backend gets the first slot whose last backend is
//! dropped, as a `Weak` shows. A lease or an older pool that could still count there holds that backend. (New arrays
//! per snapshot would need leases that find a moved count: one more indirection per choice, and a moment with two
//! counts.)
//!
//! Health bits use the slot too, and all generations of a pool share them: a worker with an older snapshot must not use
//! outdated bits.
//!
//! A slot without a member is a hole: its weight is 0, so no algorithm sees it. The order of
//! `members` is the operator's.

use super::occupancy::Occupancy;
use super::snapshot::{BoundAddress, Index, Listener, Member, Pool, Snapshot, agent_percent};
use super::source_addresses::SourceAddresses;
use super::{Backend, BackendId, Routing, Standing};
use crate::admission::ListenerAdmission;
use crate::base::bits::WORD;
use crate::base::{AdminState, AtomicBits, Endpoint, Tick};
use crate::config::model::{self, HealthKind, InitialHealth};
use crate::policy::balance::{self, Balance, LoadBlock};
use crate::policy::health::agent::effective_weight;
use crate::policy::slow_start;
use crate::telemetry::{ListenerTotals, PoolTotals};
use std::collections::HashMap;
use std::sync::{Arc, Weak};

/// The endpoints of backends with names, by pool and backend name. One without an entry keeps its endpoints.
pub type Resolved = HashMap<(String, String), Vec<Endpoint>>;

/// What the next snapshot is made from.
pub struct SnapshotPlan<'a> {
    /// The model.
    pub model: &'a model::Model,
    /// Where its backends are.
    pub resolved: &'a Resolved,
    /// The bound addresses, per listener of the model.
    pub addresses: &'a [Vec<BoundAddress>],
    /// Backends (pool, name) whose states change; all others keep theirs.
    pub states: &'a [(&'a str, &'a str, AdminState)],
    /// When it is made, by [`crate::clock`]: backends that are new in a pool start slowly from here on.
    pub now: Tick,
}

/// The first snapshot of a model, bound nowhere. `resolved` gives each backend's endpoints, by pool and backend name.
pub fn build(model: &model::Model, resolved: &Resolved) -> Snapshot {
    // In the first snapshot no backend starts slowly.
    next(None, &SnapshotPlan { model, resolved, addresses: &[], states: &[], now: Tick(0) })
}

/// The snapshot that follows `old`.
pub fn next(old: Option<&Snapshot>, plan: &SnapshotPlan<'_>) -> Snapshot {
    let generation = old.map_or(0, |old| old.generation) + 1;
    let mut unused_id = old.map_or(0, |old| old.unused_id);
    let pools: Vec<Arc<Pool>> = (plan.model.pools.iter())
        .map(|settings| {
            let old = old.and_then(|old| old.pool(&settings.name));
            let totals = old.map(|old| old.totals.clone()).unwrap_or_default();
            let states = plan.states.iter().filter(|(pool, ..)| *pool == settings.name);
            let states = states.map(|(_, name, state)| (*name, *state)).collect();
            Successor { settings, old, plan, states, generation, totals }.build(&mut unused_id)
        })
        .collect();
    let index = Index::of_pools(&pools);
    let listeners = plan.model.listeners.iter().enumerate().filter_map(|(position, settings)| {
        let pool = index.pool(&pools, &settings.pool)?.clone();
        let same = old.and_then(|old| old.listener(&settings.name));
        let routing = Routing::next(settings, same.map(|same| &**same), |name| index.pool(&pools, name).cloned())?;
        let totals =
            same.map_or_else(|| ListenerTotals::new(settings.name.clone()), |listener| listener.totals.clone());
        let before = same.map(|listener| (&listener.admission, &listener.settings));
        let admission = ListenerAdmission::next(before, settings, &totals);
        let addresses = plan.addresses.get(position).cloned().unwrap_or_default();
        let (name, settings) = (settings.name.clone(), settings.clone());
        Some(Arc::new(Listener { name, settings, pool, routing, addresses, totals, admission }))
    });
    let listeners: Vec<Arc<Listener>> = listeners.collect();
    let index = index.with_listeners(&listeners);
    Snapshot { generation, listeners, pools, unused_id, index }
}

/// A pool of this name that has no backend: for connections whose own pool is gone.
pub fn without_backends(name: String) -> Arc<Pool> {
    let settings = &model::Pool { name, ..model::Pool::default() };
    let model = &model::Model { global: model::Global::default(), listeners: Vec::new(), pools: Vec::new() };
    let plan = &SnapshotPlan { model, resolved: &Resolved::new(), addresses: &[], states: &[], now: Tick(0) };
    let (old, states, totals) = (None, HashMap::new(), Arc::default());
    Successor { settings, old, plan, states, generation: 1, totals }.build(&mut 0)
}

/// The same addresses? A name server may give the same ones in another order.
pub fn same_endpoints(one: &[Endpoint], other: &[Endpoint]) -> bool {
    one.len() == other.len() && one.iter().all(|endpoint| other.contains(endpoint))
}

/// Does this backend go on where its name leads now? It is another one once an address has left, and when its first one comes.
fn goes_on_at(now: &[Endpoint], backend: &Backend) -> bool {
    let before = backend.endpoints();
    before.is_empty() == now.is_empty() && before.iter().all(|at| now.contains(at))
}

/// A pool while it is built.
struct Successor<'a> {
    settings: &'a model::Pool,
    old: Option<&'a Arc<Pool>>,
    plan: &'a SnapshotPlan<'a>,
    /// The states of its backends that change.
    states: HashMap<&'a str, AdminState>,
    generation: u64,
    totals: Arc<PoolTotals>,
}

/// A backend of the pool before.
struct Known<'a> {
    settings: &'a model::Backend,
    member: &'a Member,
}

impl Known<'_> {
    /// An operator's state holds for a name wherever that leads. With another address in the settings the backend is another
    /// server, unless it had none yet.
    fn keeps_its_state(&self, new: &model::Backend) -> bool {
        self.settings.address == new.address || self.member.backend.addresses.is_empty()
    }
}

impl<'a> Successor<'a> {
    fn build(&self, unused_id: &mut u64) -> Arc<Pool> {
        let known = self.known();
        let survivors = self.survivors(&known);
        self.join(&survivors);
        if let Some(old) = self.old.filter(|old| self.is_unchanged(old, &survivors)) {
            return old.clone();
        }
        let (mut tenants, mut loads) = match self.old {
            Some(old) => (old.tenants.clone(), old.loads.clone()),
            None => Default::default(),
        };
        let mut members = Vec::with_capacity(survivors.len());
        let mut looked_at = 0;
        for (backend, survivor) in self.settings.backends.iter().zip(&survivors) {
            let before = known.get(backend.name.as_str()).filter(|known| known.keeps_its_state(backend));
            let (kept, slot) = match survivor {
                Some(member) => (member.backend.clone(), member.slot),
                None => {
                    let old = known.get(backend.name.as_str()).and_then(|known| self.replaced(known, backend));
                    let slot = old.map_or_else(|| free_slot(&tenants, &mut looked_at), |old| old.slot);
                    let occupancy = match old {
                        Some(old) => old.backend.occupancy.clone(),
                        None => {
                            loads.resize_with(loads.len().max(slot / WORD + 1), Arc::default);
                            Arc::new(Occupancy::new(loads[slot / WORD].clone(), slot % WORD))
                        }
                    };
                    let new = self.new_backend(backend, old, occupancy, unused_id);
                    if let Some(before) = before.filter(|_| self.settings.health.kind == HealthKind::Agent) {
                        // Until the prober has asked the agent at the new addresses.
                        new.set_agent(before.member.backend.agent());
                    }
                    tenants.resize_with(tenants.len().max(slot + 1), Weak::new);
                    tenants[slot] = Arc::downgrade(&new.occupancy);
                    (new, slot)
                }
            };
            let state = self.state(&backend.name, before.map(|known| known.member.state));
            let send_proxy = self.settings.header_for(backend);
            let (weight, backup) = (self.weight(backend, &kept), backend.backup);
            members.push(Member { backend: kept, slot, weight, backup, send_proxy, state });
        }
        // Unused slots at the end are dropped.
        tenants.truncate(tenants.iter().rposition(|tenant| tenant.strong_count() > 0).map_or(0, |last| last + 1));
        loads.truncate(tenants.len().div_ceil(WORD));
        self.assemble(members, tenants, loads)
    }

    /// The backends of the pool before, by name.
    fn known(&self) -> HashMap<&'a str, Known<'a>> {
        let both = self.old.into_iter().flat_map(|old| old.settings.backends.iter().zip(&old.members));
        both.map(|(settings, member)| (settings.name.as_str(), Known { settings, member })).collect()
    }

    /// Per backend of the new settings, its predecessor.
    fn survivors(&self, known: &HashMap<&str, Known<'a>>) -> Vec<Option<&'a Member>> {
        let survivor = |backend: &model::Backend| {
            let Known { settings, member } = known.get(backend.name.as_str())?;
            let same = settings.address == backend.address
                && self.endpoints(backend).is_none_or(|now| goes_on_at(now, &member.backend));
            same.then_some(*member)
        };
        self.settings.backends.iter().map(survivor).collect()
    }

    /// The member whose slot a new backend gets: the same name leads to some of its endpoints still.
    fn replaced(&self, before: &Known<'a>, backend: &model::Backend) -> Option<&'a Member> {
        let now = self.endpoints(backend).filter(|_| before.settings.address == backend.address)?;
        let stays = before.member.backend.addresses.iter().any(|at| now.contains(&at.endpoint));
        stays.then_some(before.member)
    }

    /// Gives the survivors the endpoints that their names have in addition.
    fn join(&self, survivors: &[Option<&Member>]) {
        for (settings, survivor) in self.settings.backends.iter().zip(survivors) {
            if let (Some(member), Some(now)) = (survivor, self.endpoints(settings)) {
                let before = member.backend.endpoints();
                let new: Vec<Endpoint> = now.iter().filter(|at| !before.contains(at)).cloned().collect();
                if !new.is_empty() {
                    member.backend.join(new, self.settings.health.initial == InitialHealth::Up);
                }
            }
        }
    }

    fn is_unchanged(&self, old: &Pool, survivors: &[Option<&Member>]) -> bool {
        old.settings == *self.settings
            && survivors.iter().all(|survivor| {
                survivor.is_some_and(|member| self.state(&member.backend.name, Some(member.state)) == member.state)
            })
            && (survivors.iter().flatten().zip(&self.settings.backends))
                .all(|(member, backend)| self.weight(backend, &member.backend) == member.weight)
    }

    /// The weight that choices use.
    fn weight(&self, settings: &model::Backend, backend: &Backend) -> u16 {
        effective_weight(settings.weight, agent_percent(self.settings, backend))
    }

    /// The endpoints of a backend; `None`: they are unchanged.
    fn endpoints(&self, backend: &model::Backend) -> Option<&'a Vec<Endpoint>> {
        let resolved = Some(self.plan.resolved).filter(|resolved| !resolved.is_empty())?;
        resolved.get(&(self.settings.name.clone(), backend.name.clone()))
    }

    fn state(&self, backend: &str, before: Option<AdminState>) -> AdminState {
        self.states.get(backend).copied().or(before).unwrap_or_default()
    }

    /// `replaced`: the one whose slot it has.
    fn new_backend(
        &self,
        backend: &model::Backend,
        replaced: Option<&Member>,
        occupancy: Arc<Occupancy>,
        unused_id: &mut u64,
    ) -> Arc<Backend> {
        let endpoints = self.endpoints(backend).cloned().unwrap_or_else(|| Vec::from_iter(backend.address.endpoint()));
        let id = BackendId(*unused_id);
        *unused_id += 1;
        let new = Backend::in_slot(id, backend.name.clone(), endpoints, occupancy);
        let new = new.with_port_offset(backend.address.port_offset()).counted_in(&self.totals);
        match replaced {
            Some(old) => new.takes_place_of(&old.backend),
            // The others have clients already; where the pool is new all have an equal start.
            None if self.old.is_some() => new.starts_slowly(self.plan.now),
            None => {}
        }
        let new = Arc::new(new);
        new.occupancy.enter(&new);
        new
    }

    fn assemble(&self, members: Vec<Member>, tenants: Vec<Weak<Occupancy>>, loads: Vec<Arc<LoadBlock>>) -> Arc<Pool> {
        let slots = tenants.len();
        let (mut positions, mut limits) = (vec![None; slots], vec![0; slots]);
        let bits = |of: fn(&Pool) -> &AtomicBits| {
            self.old.map_or_else(|| AtomicBits::new(slots, false), |old| of(old).resized(slots))
        };
        for (position, (member, backend)) in members.iter().zip(&self.settings.backends).enumerate() {
            let slot = member.slot;
            positions[slot] = Some(position as u32);
            limits[slot] = backend.max_connections.unwrap_or(u32::MAX);
        }
        // Both tiers share one index space; to each, the other's members have no weight.
        let tier = |backup: bool| {
            let mut tier = vec![balance::Member { key: String::new(), weight: 0 }; slots];
            for (member, backend) in members.iter().zip(&self.settings.backends) {
                let weight = if member.backup == backup { member.weight } else { 0 };
                tier[member.slot] = balance::Member { key: backend.address.to_string(), weight };
            }
            tier
        };
        let pool = Pool {
            up: bits(|old| &old.up),
            ejected: bits(|old| &old.ejected),
            last_resort_mask: bits(|old| &old.last_resort_mask),
            serving: self.old.map(|old| old.serving.clone()).unwrap_or_default(),
            totals: self.totals.clone(),
            queue_order: self.old.map(|old| old.queue_order.clone()).unwrap_or_default(),
            sources: SourceAddresses::next(self.old.map(|old| &old.sources), self.settings.source.listed()),
            settings_generation: self.settings_generation(),
            primary: self.balance(self.old.map(|old| &*old.primary), &tier(false)),
            backup: members.iter().any(|member| member.backup).then(|| {
                let old = self.old.and_then(|old| old.backup.as_deref());
                self.balance(old, &tier(true))
            }),
            settings: self.settings.clone(),
            members,
            positions,
            tenants,
            loads,
            limits,
            groups: self.groups(slots),
        };
        pool.members.iter().for_each(|member| self.show(&pool, member));
        Arc::new(pool)
    }

    /// The bits are those of the snapshot before, and in use. A slot that is reused has no backend there, so a new backend gets
    /// its own bits. Those of the others stay. Here a bit is only cleared, where an operator takes a backend out of use: that
    /// must hold before the prober takes the snapshot. The prober, which knows the health, sets bits.
    fn show(&self, pool: &Pool, member: &Member) {
        if !self.is_known(member) {
            let resolved = !member.backend.addresses.is_empty();
            let initial = self.settings.health.initial == InitialHealth::Up;
            let state = member.state;
            let standing =
                Standing { state, resolved, healthy: initial, ejected: false, drained: false, admitted: initial };
            pool.show(member.slot, standing);
            let whole = member.backend.came_up().is_none();
            pool.groups.iter().for_each(|members| members.set(member.slot, whole));
        } else if member.state != AdminState::Enabled {
            pool.withdraw(member.slot);
        }
    }

    /// The groups that each backend takes part in, unchanged. Where slow start is new, the prober sets them.
    fn groups(&self, slots: usize) -> Vec<AtomicBits> {
        if self.settings.slow_start.is_zero() {
            return Vec::new();
        }
        let old = |group: usize| self.old.and_then(|old| old.groups.get(group));
        let group = |group| old(group).map_or_else(|| AtomicBits::new(slots, true), |old| old.resized(slots));
        (0..slow_start::GROUPS).map(group).collect()
    }

    /// Was this backend in the snapshot before, or one whose place it takes?
    fn is_known(&self, member: &Member) -> bool {
        let before = self.old.and_then(|old| old.member(member.slot));
        before.is_some_and(|before| member.backend.continues(&before.backend))
    }

    fn settings_generation(&self) -> u64 {
        let same = |old: &&Arc<Pool>| old.settings.with_backends(Vec::new()) == self.settings.with_backends(Vec::new());
        self.old.filter(same).map_or(self.generation, |old| old.settings_generation)
    }

    fn balance(&self, old: Option<&dyn Balance>, members: &[balance::Member]) -> Box<dyn Balance> {
        let algorithm = self.settings.algorithm;
        // Anywhere in the round: Fibonacci hashing of the generation.
        let start = self.generation.wrapping_sub(1).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 16;
        let same = self.old.is_some_and(|old| *old.settings.algorithm == *algorithm);
        match old.filter(|_| same) {
            Some(old) => algorithm.rebuild(old, members, start),
            None => (algorithm.build)(members, start),
        }
    }
}

/// The first slot from `from` on without a tenant, or one behind the end. Only control makes tenants, so an empty slot
/// stays empty meanwhile.
fn free_slot(tenants: &[Weak<Occupancy>], from: &mut usize) -> usize {
    let free = |tenant: &Weak<Occupancy>| tenant.upgrade().is_none();
    let slot = tenants.iter().skip(*from).position(free).map_or(tenants.len(), |found| *from + found);
    *from = slot + 1;
    slot
}

#[cfg(test)]
mod tests;
