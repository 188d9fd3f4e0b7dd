//! The immutable picture of all pools that workers and prober use.

use super::occupancy::Occupancy;
use super::queue_order::QueueOrder;
use super::serving::Serving;
use super::source_addresses::SourceAddresses;
use super::{Backend, Lease, Routing, Standing, Tried};
use crate::admission::ListenerAdmission;
use crate::base::{AdminState, AtomicBits, Endpoint, Listen, Tick};
use crate::config::model;
use crate::policy::balance::{Balance, LoadBlock};
use crate::policy::slow_start;
use crate::telemetry::{ListenerTotals, PoolTotals};
use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Weak};
use std::time::Duration;

/// All pools and listeners of one generation.
#[derive(Debug)]
pub struct Snapshot {
    /// Counts the snapshots published so far.
    pub generation: u64,
    /// The listeners.
    pub listeners: Vec<Arc<Listener>>,
    /// Every pool.
    pub pools: Vec<Arc<Pool>>,
    /// The next unused [`super::BackendId`].
    pub(super) unused_id: u64,
    pub(super) index: Index,
}

/// Where a snapshot's pools, listeners and bound addresses stand in its lists. There may be tens of thousands of each.
#[derive(Debug, Default)]
pub(super) struct Index {
    pools: HashMap<String, usize>,
    listeners: HashMap<String, usize>,
    addresses: HashMap<BoundAddressId, usize>,
}

impl Index {
    pub(super) fn of_pools(pools: &[Arc<Pool>]) -> Index {
        let pools = pools.iter().enumerate().map(|(position, pool)| (pool.settings.name.clone(), position));
        Index { pools: pools.collect(), ..Index::default() }
    }

    pub(super) fn pool<'a>(&self, pools: &'a [Arc<Pool>], name: &str) -> Option<&'a Arc<Pool>> {
        pools.get(*self.pools.get(name)?)
    }

    #[must_use]
    pub(super) fn with_listeners(mut self, listeners: &[Arc<Listener>]) -> Index {
        for (position, listener) in listeners.iter().enumerate() {
            self.listeners.insert(listener.name.clone(), position);
            self.addresses.extend(listener.addresses.iter().map(|address| (address.id, position)));
        }
        self
    }
}

/// A listener and the pools that it leads to.
#[derive(Debug)]
pub struct Listener {
    /// Its name.
    pub name: String,
    /// The operator's settings.
    pub settings: model::Listener,
    /// Its pool: that of the clients that take no route.
    pub pool: Arc<Pool>,
    /// Its routes.
    pub routing: Routing,
    /// The addresses it is bound to.
    pub addresses: Vec<BoundAddress>,
    /// Its counters; they survive snapshots that keep the name.
    pub totals: Arc<ListenerTotals>,
    /// Which clients its settings admit; counts in `totals`.
    pub admission: Arc<ListenerAdmission>,
}

/// One bound address of a listener. Every worker has its own socket there (for a unix socket one of them).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BoundAddress {
    /// Identifies it to the workers.
    pub id: BoundAddressId,
    /// The first of those that were bound together: a name may have several addresses.
    pub group: BoundAddressId,
    /// The address as the operator wrote it. A next snapshot with the same address keeps the sockets.
    pub asked: Listen,
    /// The address that it is bound to, with the real port.
    pub endpoint: Endpoint,
}

/// Names a bound address for the life of the process; never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BoundAddressId(pub u32);

/// A backend with the settings it has in this snapshot.
#[derive(Debug)]
pub struct Member {
    /// The backend.
    pub backend: Arc<Backend>,
    /// Its index in bits, loads, leases and algorithms; see `next`.
    pub slot: usize,
    /// Its share: the configured weight, or the part of it that its agent gives it.
    pub weight: u16,
    /// Serves only when no primary can.
    pub backup: bool,
    /// The PROXY header that it expects before a client's first byte.
    pub send_proxy: Option<model::ProxyVersion>,
    /// The operator's state of it, whatever its health.
    pub state: AdminState,
}

impl Member {
    /// What a connection remembers of it after a failed attempt.
    pub fn tried(&self) -> Tried {
        Tried { id: self.backend.id, slot: self.slot }
    }
}

/// A pool of one snapshot.
pub struct Pool {
    /// The operator's settings.
    pub settings: model::Pool,
    /// Its backends, in the order of `settings.backends`.
    pub members: Vec<Member>,
    /// Which slots may be used: the backend there is up and enabled. All generations of a pool share these bits, so that a
    /// worker reads what is known now even while it holds an older snapshot. The prober is the only writer, but for what
    /// `next` does.
    pub up: AtomicBits,
    /// Which of them are left out as outliers, and for that reason not up. Shared and written as `up` is.
    pub ejected: AtomicBits,
    /// Which slots may be used as a last resort, whatever probes say now. The backend there is enabled, and has passed a probe
    /// where `initial = "down"` requires one. Shared and written as `up` is.
    pub last_resort_mask: AtomicBits,
    /// Its counters; they survive snapshots that keep the name.
    pub totals: Arc<PoolTotals>,
    /// Which of the clients that wait for a backend has its turn.
    pub queue_order: Arc<QueueOrder>,
    /// The local addresses that `source` lists.
    pub sources: SourceAddresses,
    /// The generation since which all settings but the backends are as they are now.
    pub(super) settings_generation: u64,
    /// Per slot the position in `members`, if there is one in this snapshot.
    pub(super) positions: Vec<Option<u32>>,
    /// Per slot the backends that use it; the slot is free once all of them are dropped.
    pub(super) tenants: Vec<Weak<Occupancy>>,
    pub(super) loads: Vec<Arc<LoadBlock>>,
    pub(super) limits: Vec<u32>,
    /// Per group of choices the slots that take part in it; empty without a slow start. See [`slow_start`].
    pub(super) groups: Vec<AtomicBits>,
    pub(super) primary: Box<dyn Balance>,
    pub(super) backup: Option<Box<dyn Balance>>,
    pub(super) serving: Arc<Serving>,
}

impl Snapshot {
    /// The pool of this name.
    pub fn pool(&self, name: &str) -> Option<&Arc<Pool>> {
        self.index.pool(&self.pools, name)
    }

    /// The listener of this name.
    pub fn listener(&self, name: &str) -> Option<&Arc<Listener>> {
        self.listeners.get(*self.index.listeners.get(name)?)
    }

    /// The PROXY header that a probe of this backend of a pool begins with. Another port than that of clients is another service,
    /// which expects no header (HAProxy's "check-send-proxy" has the same default). A backend with the client's port has as many
    /// ports as its listeners.
    pub fn probe_header(&self, pool: &model::Pool, backend: &model::Backend) -> Option<model::ProxyVersion> {
        let is_served = |port: u16| {
            let Some(offset) = backend.address.port_offset() else { return false };
            let from = port.checked_sub(offset);
            let listeners = self.listeners.iter().filter(|it| it.settings.pools().any(|name| name == pool.name));
            from.is_some() && listeners.flat_map(|it| &it.addresses).any(|address| address.endpoint.port() == from)
        };
        pool.header_for(backend).filter(|_| pool.health.port.is_none_or(is_served))
    }

    /// The listener that a bound address belongs to.
    pub fn listener_of(&self, address: BoundAddressId) -> Option<&Arc<Listener>> {
        self.listeners.get(*self.index.addresses.get(&address)?)
    }
}

/// The part of a backend's configured weight that its agent gives it. A pool that asks no agents has none.
pub(super) fn agent_percent(settings: &model::Pool, backend: &Backend) -> Option<u32> {
    backend.agent().percent.filter(|_| settings.health.kind == model::HealthKind::Agent)
}

impl Pool {
    /// The tables of clients, for the next process: of primary backends, and of backups.
    pub fn clients(&self) -> [Vec<(u128, u64)>; 2] {
        [self.primary.clients(), self.backup.as_ref().map(|backup| backup.clients()).unwrap_or_default()]
    }

    /// Takes the tables of the process before.
    pub fn remember(&self, [primary, backup]: &[Vec<(u128, u64)>; 2]) {
        self.primary.remember(primary);
        if let Some(own) = &self.backup {
            own.remember(backup);
        }
    }

    /// Is this backend up? False, too, for one of another pool.
    pub fn is_up(&self, lease: &Lease) -> bool {
        let slot = lease.index() as usize;
        let is_here = self.member(slot).is_some_and(|member| member.backend.id == lease.backend().id);
        is_here && self.up.get(slot)
    }

    /// Sets the bits of the backend in a slot. Called by the prober, and by `next` for a new backend.
    pub fn show(&self, slot: usize, standing: Standing) {
        // A thread that sees the reason also sees its effect.
        self.up.set(slot, standing.is_usable());
        self.ejected.set(slot, standing.ejected);
        self.last_resort_mask.set(slot, standing.is_last_resort());
    }

    /// The backend in a slot gets no new connections: an operator decided so, or it has left. Its outlier bit stays.
    pub fn withdraw(&self, slot: usize) {
        self.up.set(slot, false);
        self.last_resort_mask.set(slot, false);
    }

    /// Does a member take new connections?
    pub fn is_usable(&self, member: &Member) -> bool {
        // The bit is that of the newest snapshot, where the member's state may differ.
        member.state == AdminState::Enabled && self.up.get(member.slot)
    }

    /// The prober's: gives a member the share that it has by now in a slow start, `now` being of [`crate::clock`].
    pub fn grow_share(&self, slot: usize, backend: &Backend, now: Tick) {
        if self.groups.is_empty() {
            return;
        }
        let age = backend.came_up().map_or(Duration::MAX, |since| now - since);
        let own = slow_start::groups(backend.id.0, age, self.settings.slow_start);
        for (group, members) in self.groups.iter().enumerate() {
            let takes_part = own & (1 << group) != 0;
            if members.get(slot) != takes_part {
                members.set(slot, takes_part);
            }
        }
    }

    /// The part of its weight that a member's agent gives it.
    pub(super) fn agent_percent(&self, member: &Member) -> Option<u32> {
        agent_percent(&self.settings, &member.backend)
    }

    /// The weight that choices give a member now: its agent may change it, and a slow start leaves it a part of its own. With
    /// `approximate` it is that of the kernel's rules.
    pub fn effective_weight(&self, member: &Member) -> f64 {
        let factor = if self.settings.approximate { member.backend.approximated() } else { self.share(member) };
        f64::from(member.weight) * factor
    }

    /// The part of a member's weight that a slow start leaves it.
    pub fn share(&self, member: &Member) -> f64 {
        if self.groups.is_empty() {
            return 1.0;
        }
        let groups = self.groups.iter().filter(|members| members.get(member.slot)).count();
        groups as f64 / self.groups.len() as f64
    }

    /// The backend of this slot.
    pub fn member(&self, slot: usize) -> Option<&Member> {
        let position = (*self.positions.get(slot)?)?;
        self.members.get(position as usize)
    }

    /// The backend of this name.
    pub fn named(&self, name: &str) -> Option<&Member> {
        self.members.iter().find(|member| member.backend.name == name)
    }

    /// Do connections that began under `other`, an earlier pool of this name, have the same settings as new ones?
    /// Backends may differ.
    pub fn has_settings_of(&self, other: &Pool) -> bool {
        self.settings_generation == other.settings_generation && self.settings.name == other.settings.name
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Pool")
            .field("settings", &self.settings)
            .field("members", &self.members)
            .finish_non_exhaustive()
    }
}
