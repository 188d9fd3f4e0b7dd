//! The immutable picture of all pools that workers and prober work from.

use super::{Backend, BackendId, Gate, Lease};
use crate::base::bits::WORD;
use crate::base::{AtomicBits, Endpoint, Tick};
use crate::config::model;
use crate::policy::balance::{self, Balance, Client, LoadBlock, View};
use crate::policy::slow_start;
use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

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
    /// Who may come in, and what is counted of it. It outlives snapshots.
    pub gate: Arc<Gate>,
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
    /// Which of them are left out as outliers, and for that reason not up. The prober is the only writer.
    pub ejected: AtomicBits,
    /// Everybody, for when there is nobody else. Where health is `off`, nobody can say that those who are backed off are
    /// down; where `all_down` is `try-all`, nobody is believed who says it of all. So the last resort is to try.
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
    /// connection tried in vain; `now` is of [`super::clock`].
    pub fn pick(
        &self,
        client: Client,
        tried: &[u32],
        now: Tick,
        random: &mut fastrand::Rng,
    ) -> Result<Lease, NoBackend> {
        let whole = self.settings.slow_start;
        if !whole.is_zero() {
            let takes = |member: &Member, random: &mut fastrand::Rng| {
                let age = member.backend.came_up().map_or(Duration::MAX, |since| now - since);
                slow_start::takes(age, whole, random)
            };
            // Backups are not asked: a primary that starts slowly is better than they are.
            let choose = |excluded: &[u32], random: &mut fastrand::Rng| {
                self.primary.pick(client, &self.view(&self.up, excluded), random)
            };
            if let Some(lease) = self.lease(tried, choose, takes, random) {
                return Ok(lease);
            }
        }
        let choose = |excluded: &[u32], random: &mut fastrand::Rng| {
            let choice = self.choose(&self.up, excluded, client, random);
            choice.or_else(|| self.choose(self.last_resort()?, excluded, client, random))
        };
        self.lease(tried, choose, |_, _| true, random).ok_or_else(|| self.why_none(tried))
    }

    /// The first lease that can be had of those that `choose` gives, one after the other.
    fn lease(
        &self,
        tried: &[u32],
        choose: impl Fn(&[u32], &mut fastrand::Rng) -> Option<usize>,
        takes: impl Fn(&Member, &mut fastrand::Rng) -> bool,
        random: &mut fastrand::Rng,
    ) -> Option<Lease> {
        // A backend that fills up between choice and lease, or does not take it, counts as tried, for this choice only.
        let mut lost = Vec::new();
        loop {
            let index = choose(if lost.is_empty() { tried } else { &lost }, random)?;
            let (Some(member), Some(&limit)) = (self.members.get(index), self.limits.get(index)) else {
                debug_assert!(false, "{:?} chose {index} of {}", self.settings.algorithm, self.members.len());
                return None;
            };
            if takes(member, random)
                && let Some(lease) = Lease::take(&member.backend, index, limit)
            {
                return Some(lease);
            }
            if lost.is_empty() {
                lost.extend_from_slice(tried);
            }
            lost.push(index as u32);
        }
    }

    /// Everybody, if that is whom to try now.
    fn last_resort(&self) -> Option<&AtomicBits> {
        let everybody = self.regardless.as_ref()?;
        let is_up = |(index, member): (usize, &Member)| member.weight > 0 && self.up.get(index);
        let off = self.settings.health.kind == model::HealthKind::Off;
        (off || !self.members.iter().enumerate().any(is_up)).then_some(everybody)
    }

    /// A primary out of `up`, or else a backup.
    fn choose(&self, up: &AtomicBits, tried: &[u32], client: Client, random: &mut fastrand::Rng) -> Option<usize> {
        let view = self.view(up, tried);
        let choice = self.primary.pick(client, &view, random);
        choice.or_else(|| self.backup.as_ref()?.pick(client, &view, random))
    }

    fn view<'a>(&'a self, up: &'a AtomicBits, tried: &'a [u32]) -> View<'a> {
        View { up, loads: &self.loads, limits: &self.limits, tried }
    }

    fn why_none(&self, tried: &[u32]) -> NoBackend {
        let up = self.last_resort().unwrap_or(&self.up);
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
        Some(Listener { name: listener.name.clone(), pool: pool.clone(), gate: Gate::new(listener) })
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
        ejected: AtomicBits::new(backends.len(), false),
        regardless: (settings.health.kind == model::HealthKind::Off || settings.all_down == model::AllDown::TryAll)
            .then(|| AtomicBits::new(backends.len(), true)),
        limits: backends.iter().map(|backend| backend.max_connections.unwrap_or(u32::MAX)).collect(),
        primary: build(&tier(false), 0),
        backup: backends.iter().any(|backend| backend.backup).then(|| build(&tier(true), 0)),
        loads,
        settings: settings.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::Address;

    fn pool(backends: u16, settings: model::Pool) -> Arc<Pool> {
        let backend = |port| model::Backend::at(Address::Inet(([127, 0, 0, 1], 1 + port).into()));
        let settings = model::Pool { backends: (0..backends).map(backend).collect(), ..settings };
        let model = model::Model { global: model::Global::default(), listeners: Vec::new(), pools: vec![settings] };
        build(&model, &HashMap::new()).pools[0].clone()
    }

    fn pick(pool: &Pool, now: Tick, random: &mut fastrand::Rng) -> Result<u32, NoBackend> {
        pool.pick(Client { ip: None }, &[], now, random).map(|lease| lease.index())
    }

    #[test]
    fn every_algorithm_gives_a_backend_that_starts_slowly_a_share_that_grows() {
        for algorithm in balance::REGISTRY {
            let settings = model::Pool { algorithm, slow_start: Duration::from_secs(10), ..model::Pool::default() };
            let pool = pool(4, settings);
            let mut random = fastrand::Rng::with_seed(7);
            let mut share = |seconds| {
                let now = Tick(1) + Duration::from_secs(seconds);
                let mut picked = 0;
                for number in 0..8_000u32 {
                    let client = Client { ip: Some(std::net::IpAddr::V4(number.into())) };
                    picked += u32::from(pool.pick(client, &[], now, &mut random).unwrap().index() == 2);
                }
                f64::from(picked) / 2_000.0
            };
            let before = share(0);
            pool.members[2].backend.starts_slowly(Tick(1));
            // Least-time has nothing measured, and the sticky one keeps whom it has; what they share is tested below.
            let shares = [share(0), share(3), share(20)];
            let name = algorithm.name;
            assert!(shares[0] <= before && shares[1] <= before + 0.1, "{name}: {before} then {shares:?}");
            if !["sticky-round-robin"].contains(&name) {
                assert_eq!(shares[0], 0.0, "{name}");
                assert!((shares[1] - 0.3 * before).abs() < 0.15, "{name}: {before} then {shares:?}");
                assert!((shares[2] - before).abs() < 0.2, "{name}: {before} then {shares:?}");
            }
        }
    }

    #[test]
    fn a_slow_start_leaves_nobody_without_a_backend() {
        let pool = pool(2, model::Pool { slow_start: Duration::from_secs(10), ..model::Pool::default() });
        let mut random = fastrand::Rng::with_seed(7);
        pool.members.iter().for_each(|member| member.backend.starts_slowly(Tick(1)));
        let first = (0..100).filter(|_| pick(&pool, Tick(1), &mut random).unwrap() == 0).count();
        assert!((40..=60).contains(&first), "{first} of 100");
    }

    #[test]
    fn try_all_tries_those_that_are_down_only_when_all_are() {
        let all = pool(2, model::Pool { all_down: model::AllDown::TryAll, ..model::Pool::default() });
        let mut random = fastrand::Rng::with_seed(7);
        all.up.set(0, false);
        assert!((0..10).all(|_| pick(&all, Tick(1), &mut random) == Ok(1)));
        assert!(all.pick(Client { ip: None }, &[1], Tick(1), &mut random).is_err(), "one is up, though tried in vain");
        all.up.set(1, false);
        let picked: Vec<u32> = (0..10).map(|_| pick(&all, Tick(1), &mut random).unwrap()).collect();
        assert!(picked.contains(&0) && picked.contains(&1));
        let reset = pool(1, model::Pool::default());
        reset.up.set(0, false);
        assert_eq!(pick(&reset, Tick(1), &mut random), Err(NoBackend::AllDown));
    }
}
