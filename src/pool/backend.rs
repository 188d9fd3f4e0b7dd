//! A backend as the threads share it: its identity and its counters.
//!
//! Settings that an operator may change (weight, limit) are not here but in the snapshot's [`super::Member`]; this
//! object outlives snapshots, so that counters and averages survive a change of configuration.

use super::addresses::Addresses;
use super::occupancy::Occupancy;
use super::reset_order::{ResetOrder, ResetScope};
use super::warm::WarmConnections;
use crate::admission::LimitReport;
use crate::base::bits::WORD;
use crate::base::{Endpoint, Tick};
use crate::policy::balance::load::Latency;
use crate::policy::balance::{LoadBlock, approximation};
use crate::policy::health::{AgentState, ConnectFailure, Outcome};
use crate::telemetry::{Counters, PoolTotals};
use parking_lot::Mutex;
use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

/// Names a backend for the life of the process; never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BackendId(pub u64);

/// The flags of an agent's report beside its percentage, which has the lower 32 bits.
const DRAINS: u64 = 1 << 32;
const HAS_PERCENT: u64 = 1 << 33;

/// One server.
#[derive(Debug)]
pub struct Backend {
    /// Unique in the process.
    pub id: BackendId,
    /// Unique in the pool.
    pub name: String,
    /// Where to connect: the addresses that its name resolved to, used in turn. Without one it is down; another backend takes
    /// its place once the name is resolved, and when an address leaves.
    pub addresses: Addresses,
    /// How far its port is above the one that the client connected to, if that decides. Its address then has port 0.
    pub port_offset: Option<u16>,
    /// Its counters since it was added.
    pub counters: Counters,
    /// Of its active connections, those that the kernel carries.
    pub(super) forwarded: AtomicU32,
    /// The active connections of its pool, which include its own.
    pub(super) of_pool: Arc<AtomicUsize>,
    /// The prober's findings. Only the prober writes, and only admin and tests read: no connection takes this lock.
    pub health: Mutex<HealthReport>,
    /// Whether it has as many connections as its limit allows.
    pub limit_report: LimitReport,
    /// Connections to it that are established ahead of need.
    pub warm: WarmConnections,
    /// Why its name has no address, where it has none. Control writes, admin reads.
    unresolved: Mutex<String>,
    /// When it came up, by [`crate::clock`]; 0: it has always been up.
    came_up: AtomicU64,
    /// What its agent has reported, packed. The prober writes it.
    agent: AtomicU64,
    /// How long its probes take, in microseconds, smoothed; 0: none has passed yet. The prober writes it.
    probe_us: AtomicU32,
    /// What the kernel's rules multiply its weight by, as the bits of an `f32`. The thread that keeps the rules writes it.
    approximated: AtomicU32,
    /// Its health state is up, whatever an operator has decided. The prober writes it.
    healthy: AtomicBool,
    pub(super) occupancy: Arc<Occupancy>,
}

/// The prober's findings about a backend, for the status and metrics.
#[derive(Clone, Debug, Default)]
pub struct HealthReport {
    /// How the last probe ended, or the last client's connect if that failed later; `None` before the first.
    pub last_result: Option<Outcome>,
    /// When it last went down or came up; `None` if it never did.
    pub last_change: Option<Tick>,
    /// Results that count towards a change; `None` where none do.
    pub transition: Option<Transition>,
    /// How the last probe of each address ended, by its number; shorter where none has been probed yet.
    pub addresses: Vec<Option<Outcome>>,
}

/// Results in a row that count towards a change of the health state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transition {
    /// The state now.
    pub up: bool,
    /// The results so far.
    pub count: u32,
    /// The results that change it.
    pub of: u32,
}

/// `down, 1 of 2 successes`.
impl fmt::Display for Transition {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (state, results) = if self.up { ("up", "failures") } else { ("down", "successes") };
        write!(out, "{state}, {} of {} {results}", self.count, self.of)
    }
}

impl Backend {
    /// A backend whose load is in lane `slot % 64` of `block`. No other backend uses that lane during its lifetime, except those
    /// that take its place.
    pub fn new(id: BackendId, name: String, endpoints: Vec<Endpoint>, block: Arc<LoadBlock>, slot: usize) -> Backend {
        Backend::in_slot(id, name, endpoints, Arc::new(Occupancy::new(block, slot % WORD)))
    }

    /// A backend that uses a slot after others, or as its first one.
    pub(super) fn in_slot(id: BackendId, name: String, endpoints: Vec<Endpoint>, occupancy: Arc<Occupancy>) -> Backend {
        Backend {
            id,
            name,
            addresses: Addresses::new(endpoints),
            port_offset: None,
            counters: Counters::default(),
            forwarded: AtomicU32::new(0),
            of_pool: Arc::default(),
            health: Mutex::default(),
            limit_report: LimitReport::default(),
            warm: WarmConnections::default(),
            unresolved: Mutex::default(),
            came_up: AtomicU64::new(0),
            agent: AtomicU64::new(0),
            probe_us: AtomicU32::new(0),
            approximated: AtomicU32::new(1f32.to_bits()),
            healthy: AtomicBool::new(true),
            occupancy,
        }
    }

    /// Its port is so far above the client's.
    #[must_use]
    pub fn with_port_offset(self, port_offset: Option<u16>) -> Backend {
        Backend { port_offset, ..self }
    }

    /// From now on its counters and its leases count for the pool, too.
    #[must_use]
    pub fn counted_in(mut self, pool: &PoolTotals) -> Backend {
        self.counters = Counters::counted_in(&pool.counters);
        self.of_pool = pool.active.clone();
        self
    }

    /// Does this backend use the slot of `other`, whose name has fewer addresses now?
    pub fn continues(&self, other: &Backend) -> bool {
        Arc::ptr_eq(&self.occupancy, &other.occupancy)
    }

    /// To reset all connections of its slot: it leaves its pool, or is down.
    pub fn reset_order(&self) -> ResetOrder {
        self.occupancy.backends().iter().map(|backend| (backend.id, ResetScope::All)).collect()
    }

    /// To reset those at its addresses that `successor` lacks, which takes its place.
    pub fn reset_order_for(&self, successor: &Backend) -> ResetOrder {
        let (before, now) = (self.endpoints(), successor.endpoints());
        let has_left = |at: &Endpoint| before.contains(at) && !now.contains(at);
        let backends = self.occupancy.backends();
        let others = backends.iter().filter(|backend| backend.id != successor.id);
        let at_those = |backend: &Arc<Backend>| {
            let addresses = backend.addresses.iter().enumerate();
            let left = addresses.filter(|(_, address)| has_left(&address.endpoint));
            let numbers: HashSet<usize> = left.map(|(number, _)| number).collect();
            (!numbers.is_empty()).then_some((backend.id, ResetScope::At(numbers)))
        };
        others.filter_map(at_those).collect()
    }

    /// Its addresses, without their states.
    pub fn endpoints(&self) -> Vec<Endpoint> {
        self.addresses.iter().map(|address| address.endpoint.clone()).collect()
    }

    /// Its name has these addresses, too. They serve at once if they are `up`.
    pub(super) fn join(&self, endpoints: Vec<Endpoint>, up: bool) {
        self.addresses.join(endpoints, up, self.counters.connections.load(Ordering::Relaxed));
    }

    /// Connections that reached its address of this number.
    pub fn connections_at(&self, number: usize) -> u64 {
        match self.addresses.get(number) {
            Some(address) if self.addresses.len() > 1 => address.connections(),
            Some(_) => self.counters.connections.load(Ordering::Relaxed),
            None => 0,
        }
    }

    /// Called when it has come up again, or joins a pool that others serve already. Where the pool has a slow start, its
    /// share grows from now on.
    pub fn starts_slowly(&self, now: Tick) {
        self.came_up.store(now.0, Ordering::Relaxed);
    }

    /// Its name has lost an address of `old`, whose clients it serves on: no slow start begins.
    pub(super) fn takes_place_of(&self, old: &Backend) {
        self.came_up.store(old.came_up.load(Ordering::Relaxed), Ordering::Relaxed);
        self.health.lock().last_change = old.health.lock().last_change;
        self.addresses.keep_back_offs(&old.addresses);
    }

    /// Why its name has no address, if it has none.
    pub fn unresolved(&self) -> Option<String> {
        self.addresses.is_empty().then(|| self.unresolved.lock().clone())
    }

    /// Notes why its name has no address.
    pub fn set_unresolved(&self, why: &str) {
        why.clone_into(&mut self.unresolved.lock());
    }

    /// When it came up; `None`: it has always been up.
    pub fn came_up(&self) -> Option<Tick> {
        let at = self.came_up.load(Ordering::Relaxed);
        (at > 0).then_some(Tick(at))
    }

    /// Is its health state up? An operator may have disabled it all the same.
    pub fn is_healthy(&self) -> bool {
        self.healthy.load(Ordering::Relaxed)
    }

    /// The prober's: notes its health state.
    pub fn set_healthy(&self, healthy: bool) {
        self.healthy.store(healthy, Ordering::Relaxed);
    }

    /// What its agent has reported so far.
    pub fn agent(&self) -> AgentState {
        let packed = self.agent.load(Ordering::Relaxed);
        AgentState { drains: packed & DRAINS != 0, percent: (packed & HAS_PERCENT != 0).then_some(packed as u32) }
    }

    /// The prober's: notes what its agent has reported.
    pub fn set_agent(&self, agent: AgentState) {
        let flags = if agent.drains { DRAINS } else { 0 };
        let percent = agent.percent.map_or(0, |percent| HAS_PERCENT | u64::from(percent));
        self.agent.store(flags | percent, Ordering::Relaxed);
    }

    /// How long its probes take, in microseconds, smoothed; `None`: none has passed yet.
    pub fn probe_us(&self) -> Option<u32> {
        Some(self.probe_us.load(Ordering::Relaxed)).filter(|time| *time > 0)
    }

    /// The prober's: a probe took so long.
    pub fn probe_took(&self, time: Duration) {
        let time = u32::try_from(time.as_micros()).unwrap_or(u32::MAX).max(1);
        self.probe_us.store(approximation::smooth(self.probe_us(), time), Ordering::Relaxed);
    }

    /// What the kernel's rules multiply its weight by, where its pool has `approximate`.
    pub fn approximated(&self) -> f64 {
        f32::from_bits(self.approximated.load(Ordering::Relaxed)).into()
    }

    /// Notes what the kernel's rules multiply its weight by.
    pub fn set_approximated(&self, factor: f64) {
        self.approximated.store((factor as f32).to_bits(), Ordering::Relaxed);
    }

    /// Connections now open or being dialled.
    pub fn active(&self) -> u32 {
        self.load().load(Ordering::Relaxed)
    }

    /// Of these, the ones that take a local port: the kernel carries the others from the clients' own.
    pub fn dialled(&self) -> u32 {
        self.active().saturating_sub(self.forwarded.load(Ordering::Relaxed))
    }

    /// Connections that the end of its drain waits for. While the kernel may have let in some that no count has shown, there is at
    /// least one.
    pub fn left(&self) -> u32 {
        let uncounted = self.occupancy.uncounted.load(Ordering::Acquire);
        self.active().max(u32::from(uncounted))
    }

    /// Whether only another count of the kernel's connections can show that there are fewer.
    pub fn awaits_count(&self) -> bool {
        self.occupancy.uncounted.load(Ordering::Acquire) || self.forwarded.load(Ordering::Relaxed) > 0
    }

    /// The kernel may lead clients to it from now on.
    pub fn expect_clients(&self) {
        // Called for all backends at each change of the rules.
        if !self.occupancy.uncounted.load(Ordering::Acquire) {
            self.occupancy.uncounted.store(true, Ordering::Release);
        }
    }

    /// The kernel leads no client to it any more, and all that it has are counted.
    pub fn all_counted(&self) {
        self.occupancy.uncounted.store(false, Ordering::Release);
    }

    pub(super) fn load(&self) -> &AtomicU32 {
        self.occupancy.block.active(self.occupancy.lane)
    }

    /// Smoothed connect + first-byte time in µs, unless nothing was measured of late.
    pub fn latency_us(&self, now: Tick) -> Option<u32> {
        if let Latency::Known(average) = self.occupancy.block.latency(self.occupancy.lane, now) {
            Some(average)
        } else {
            None
        }
    }

    /// A client got its first byte after this long, connect included.
    pub fn answered(&self, sample: Duration, now: Tick) {
        self.counters.answered(sample);
        self.occupancy.block.answered(self.occupancy.lane, sample, now);
    }

    /// The average that the process before had.
    pub fn remember_latency(&self, average: u32, now: Tick) {
        self.occupancy.block.answered(self.occupancy.lane, Duration::from_micros(average.into()), now);
    }

    /// The backend failed a client after this long, without a byte.
    pub fn unanswered(&self, waited: Duration, now: Tick) {
        self.occupancy.block.unanswered(self.occupancy.lane, waited, now);
    }

    /// It failed a client so soon that it would look idle.
    pub fn failed_early(&self, now: Tick) {
        self.occupancy.block.failed(self.occupancy.lane, now);
    }

    /// A client could not be connected.
    pub fn connect_failed(&self, failure: ConnectFailure, now: Tick) {
        self.counters.connect_failed(failure);
        let waited = if let ConnectFailure::TimedOut(after) = failure { after } else { Duration::ZERO };
        // A lack of resources in this process says nothing about the backend.
        if !failure.is_ours() {
            self.unanswered(waited, now);
            self.failed_early(now);
        }
    }

    /// A client left without an answer, after waiting this long.
    pub fn abandoned(&self, waited: Duration, now: Tick) {
        self.occupancy.block.abandoned(self.occupancy.lane, waited, now);
    }

    /// How many connections it has answered so far: sent a first byte.
    pub fn answers(&self) -> u64 {
        self.counters.first_byte_times.read().count()
    }
}
