//! The immutable picture of all pools that workers and prober work from.

use super::{Backend, BackendId, Lease};
use crate::base::bits::WORD;
use crate::base::{AtomicBits, Endpoint};
use crate::config::model;
use crate::policy::balance::{self, Balance, Client, LoadBlock, View};
use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

/// All pools and listeners of one generation.
#[derive(Debug)]
pub struct Snapshot {
    /// Counts the snapshots published so far.
    pub generation: u64,
    /// Where clients come in. The index names a listener to the workers.
    pub listeners: Vec<Listener>,
    /// Every pool.
    pub pools: Vec<Arc<Pool>>,
}

/// A listener and the pool it serves.
#[derive(Debug)]
pub struct Listener {
    /// Its name.
    pub name: String,
    /// Its pool.
    pub pool: Arc<Pool>,
}

/// A backend with the settings it has in this snapshot.
#[derive(Debug)]
pub struct Member {
    /// The backend.
    pub backend: Arc<Backend>,
    /// Its share.
    pub weight: u16,
    /// Serves only when no primary can.
    pub backup: bool,
}

/// A pool of one snapshot.
pub struct Pool {
    /// What the operator asked for.
    pub settings: model::Pool,
    /// Its backends; an index in here is what algorithms, bits and leases speak of.
    pub members: Vec<Member>,
    /// Which of them are up. The prober is the only writer.
    pub up: AtomicBits,
    /// Where health is `off`: everybody, for when all are backed off. There is nobody then who could say that they are
    /// down, so the last resort is to try.
    regardless: Option<AtomicBits>,
    loads: Vec<Arc<LoadBlock>>,
    limits: Vec<u32>,
    primary: Box<dyn Balance>,
    backup: Option<Box<dyn Balance>>,
}

/// Why there is no backend for a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoBackend {
    /// None is up and enabled that was not tried before.
    AllDown,
    /// Some are up, but each has reached its `max_connections`.
    AllFull,
}

impl Pool {
    /// Chooses a backend for a client and counts the connection there. `tried` holds the indexes of those that this
    /// connection tried in vain.
    pub fn pick(&self, client: Client, tried: &[u32], random: &mut fastrand::Rng) -> Result<Lease, NoBackend> {
        // A backend that fills up between choice and lease counts as tried, for this choice only.
        let mut lost = Vec::new();
        loop {
            let excluded = if lost.is_empty() { tried } else { &lost };
            let choice = self.choose(&self.up, excluded, client, random);
            let choice = choice.or_else(|| self.choose(self.regardless.as_ref()?, excluded, client, random));
            let Some(index) = choice else { return Err(self.why_none(tried)) };
            let (Some(member), Some(&limit)) = (self.members.get(index), self.limits.get(index)) else {
                debug_assert!(false, "{:?} chose {index} of {}", self.settings.algorithm, self.members.len());
                return Err(NoBackend::AllDown);
            };
            if let Some(lease) = Lease::take(&member.backend, index, limit) {
                return Ok(lease);
            }
            if lost.is_empty() {
                lost.extend_from_slice(tried);
            }
            lost.push(index as u32);
        }
    }

    /// A primary out of `up`, or else a backup.
    fn choose(&self, up: &AtomicBits, tried: &[u32], client: Client, random: &mut fastrand::Rng) -> Option<usize> {
        let view = View { up, loads: &self.loads, limits: &self.limits, tried };
        let choice = self.primary.pick(client, &view, random);
        choice.or_else(|| self.backup.as_ref()?.pick(client, &view, random))
    }

    fn why_none(&self, tried: &[u32]) -> NoBackend {
        let up = self.regardless.as_ref().unwrap_or(&self.up);
        let open =
            |(index, member): (usize, &Member)| member.weight > 0 && up.get(index) && !tried.contains(&(index as u32));
        if self.members.iter().enumerate().any(open) { NoBackend::AllFull } else { NoBackend::AllDown }
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

/// Builds the first snapshot of a model. `resolved` gives each backend's endpoints, by pool and backend name.
pub fn build(model: &model::Model, resolved: &HashMap<(String, String), Vec<Endpoint>>) -> Snapshot {
    let mut ids = 0..;
    let pools: Vec<Arc<Pool>> = model.pools.iter().map(|pool| Arc::new(build_pool(pool, resolved, &mut ids))).collect();
    let listeners = model.listeners.iter().filter_map(|listener| {
        let pool = pools.iter().find(|pool| pool.settings.name == listener.pool)?;
        Some(Listener { name: listener.name.clone(), pool: pool.clone() })
    });
    Snapshot { generation: 1, listeners: listeners.collect(), pools: pools.clone() }
}

fn build_pool(
    settings: &model::Pool,
    resolved: &HashMap<(String, String), Vec<Endpoint>>,
    ids: &mut impl Iterator<Item = u64>,
) -> Pool {
    let backends = &settings.backends;
    let loads: Vec<Arc<LoadBlock>> = (0..backends.len().div_ceil(WORD)).map(|_| Arc::default()).collect();
    let members = backends.iter().zip(ids).enumerate().map(|(index, (backend, id))| {
        let endpoints = resolved.get(&(settings.name.clone(), backend.name.clone())).cloned().unwrap_or_default();
        let block = loads[index / WORD].clone();
        Member {
            backend: Arc::new(Backend::new(BackendId(id), backend.name.clone(), endpoints, block, index)),
            weight: backend.weight,
            backup: backend.backup,
        }
    });
    // Both tiers share one index space; to each, the other's members have no weight.
    let tier = |backup: bool| -> Vec<balance::Member> {
        let weight = |backend: &model::Backend| if backend.backup == backup { backend.weight } else { 0 };
        let member =
            |backend: &model::Backend| balance::Member { key: backend.address.to_string(), weight: weight(backend) };
        backends.iter().map(member).collect()
    };
    let build = settings.algorithm.build;
    Pool {
        members: members.collect(),
        // Up until the first result says otherwise.
        up: AtomicBits::new(backends.len(), true),
        regardless: (settings.health.kind == model::HealthKind::Off).then(|| AtomicBits::new(backends.len(), true)),
        limits: backends.iter().map(|backend| backend.max_connections.unwrap_or(u32::MAX)).collect(),
        primary: build(&tier(false), 0),
        backup: backends.iter().any(|backend| backend.backup).then(|| build(&tier(true), 0)),
        loads,
        settings: settings.clone(),
    }
}
