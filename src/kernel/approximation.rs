//! Weights that follow the loads of backends, for pools with `approximate`: what [`approximation`] does, over time.
//!
//! A step follows each count of the kernel's connections, so a second after the last one, or later where a count takes long. A
//! change of the map of a large pool takes long too. The next step of such a pool waits for [`REST`] times as long. So changes
//! take at most a twentieth of the time.
//!
//! A backend that is not usable keeps its factor, so that its return moves only its own entries. After a start all factors are 1.

use crate::policy::balance::approximation::{self, Factor, Load};
use crate::pool::{BackendId, Member, Pool, Snapshot};
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A change that takes a while is followed by a rest of so many times as long.
const REST: u32 = 20;

/// The factors of all pools with `approximate` that the kernel's rules lead to.
#[derive(Debug, Default)]
pub(super) struct Approximation {
    pools: HashMap<String, Approximated>,
}

/// Those of a pool.
#[derive(Debug, Default)]
struct Approximated {
    factors: HashMap<BackendId, Factor>,
    /// They have changed, and the rules have not yet.
    is_pending: bool,
    /// When the next step may come.
    next: Option<Instant>,
}

/// The pools with `approximate` that the kernel's rules lead to.
pub(super) fn pools(snapshot: &Snapshot) -> impl Iterator<Item = &Arc<Pool>> {
    let listeners = snapshot.listeners.iter().filter(|listener| listener.settings.is_of_kernel());
    let used: HashSet<&str> = listeners.map(|listener| listener.settings.pool.as_str()).collect();
    snapshot.pools.iter().filter(move |pool| pool.settings.approximate && used.contains(pool.settings.name.as_str()))
}

impl Approximation {
    /// Forgets pools that it is not for any more.
    pub(super) fn adopt(&mut self, snapshot: &Snapshot) {
        let names: HashSet<&str> = pools(snapshot).map(|pool| pool.settings.name.as_str()).collect();
        self.pools.retain(|name, _| names.contains(name.as_str()));
    }

    /// Loads were counted: a step of each pool. True: the rules are to have other weights.
    pub(super) fn follow(&mut self, snapshot: &Snapshot, now: Instant) -> bool {
        let mut is_changed = false;
        for pool in pools(snapshot) {
            is_changed |= self.pools.entry(pool.settings.name.clone()).or_default().follow(pool, now);
        }
        is_changed
    }

    /// A transaction with the weights of now took so long.
    pub(super) fn took(&mut self, took: Duration, now: Instant) {
        for pool in self.pools.values_mut().filter(|pool| pool.is_pending) {
            (pool.is_pending, pool.next) = (false, Some(now + took * REST));
        }
    }

    /// The weights of a pool's members in the rules. Without `approximate`, their own.
    pub(super) fn weights(&self, pool: &Pool) -> Vec<u16> {
        let own = || pool.members.iter().map(|member| member.weight);
        if !pool.settings.approximate {
            return own().collect();
        }
        let factors = self.pools.get(&pool.settings.name).map(|pool| &pool.factors);
        let heaviest = own().max().unwrap_or(0);
        let weight = |member: &Member| {
            let factor = factors.and_then(|factors| factors.get(&member.backend.id)).copied().unwrap_or_default();
            approximation::scaled(member.weight, factor.used, heaviest)
        };
        pool.members.iter().map(weight).collect()
    }

    /// The rules have the weights of now: the status shows them.
    pub(super) fn publish(&self, snapshot: &Snapshot) {
        let none = Approximated::default();
        for pool in pools(snapshot) {
            let approximated = self.pools.get(&pool.settings.name).unwrap_or(&none);
            let idle = pool.members.iter().filter(|member| !serves(pool, member));
            idle.for_each(|member| member.backend.set_approximated(1.0));
            for backup in [false, true] {
                let (members, loads, factors) = approximated.serving(pool, backup);
                let normal = approximation::normal(&loads, &factors, |factor| factor.used);
                let both = members.iter().zip(&factors);
                both.for_each(|(member, factor)| member.backend.set_approximated(factor.used * normal));
            }
        }
    }
}

impl Approximated {
    /// A step, if it is time. True: the rules are to have other weights.
    fn follow(&mut self, pool: &Pool, now: Instant) -> bool {
        if self.next.is_some_and(|next| now < next) {
            return false;
        }
        let known: HashSet<BackendId> = pool.members.iter().map(|member| member.backend.id).collect();
        self.factors.retain(|id, _| known.contains(id));
        let mut is_changed = false;
        for backup in [false, true] {
            let (members, loads, mut factors) = self.serving(pool, backup);
            is_changed |= approximation::step(&loads, &mut factors);
            self.factors.extend(members.iter().map(|member| member.backend.id).zip(factors));
        }
        self.is_pending |= is_changed;
        is_changed
    }

    /// The primaries or the backups that serve, their loads and their factors.
    fn serving<'p>(&self, pool: &'p Pool, backup: bool) -> (Vec<&'p Member>, Vec<Load>, Vec<Factor>) {
        let compares_times = approximation::compares_times(pool.settings.algorithm);
        let members = pool.members.iter().filter(|member| member.backup == backup && serves(pool, member));
        let members: Vec<&Member> = members.collect();
        let load = |member: &&Member| Load {
            weight: member.weight,
            active: member.backend.active(),
            probe_us: member.backend.probe_us().filter(|_| compares_times),
        };
        let loads = members.iter().map(load).collect();
        let factor = |member: &&Member| self.factors.get(&member.backend.id).copied().unwrap_or_default();
        let factors = members.iter().map(factor).collect();
        (members, loads, factors)
    }
}

/// Does a member take new connections?
fn serves(pool: &Pool, member: &Member) -> bool {
    member.weight > 0 && pool.is_usable(member)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::Address;
    use crate::config::model::{self, Global, ListenerEngine, Model};
    use crate::kernel::{Family, Planner, wanted};
    use crate::policy::balance;
    use crate::pool::{Forwarded, build};
    use std::collections::BTreeMap;
    use std::net::SocketAddr;

    /// A listener of the kernel over backends with these weights; they are called by their numbers.
    fn snapshot(algorithm: &str, weights: &[u16]) -> Snapshot {
        let at = |port: u16| SocketAddr::from(([10, 0, 0, 1], port));
        let backend = |(port, weight): (u16, &u16)| model::Backend {
            name: port.to_string(),
            weight: *weight,
            ..model::Backend::at(Address::Inet(at(port)))
        };
        let backends = (1..).zip(weights).map(backend).collect();
        let pool = model::Pool {
            name: "web".into(),
            algorithm: balance::find(algorithm).unwrap(),
            approximate: true,
            backends,
            ..model::Pool::default()
        };
        let engine = ListenerEngine::Kernel;
        let bind = vec![crate::base::Listen::parse("192.0.2.1:80").unwrap()];
        let listener = model::Listener { pool: "web".into(), engine, bind, ..model::Listener::default() };
        let model = Model { global: Global::default(), listeners: vec![listener], pools: vec![pool] };
        build(&model, &crate::pool::Resolved::new())
    }

    /// The entries of each backend in the table that would be installed.
    fn entries(planner: &mut Planner, snapshot: &Snapshot, approximation: &Approximation) -> BTreeMap<String, usize> {
        let mut wanted = wanted::of(snapshot, true, approximation);
        wanted.listeners[0].binds = vec![crate::kernel::Bind::Port(Family::V4, 80)];
        let table = planner.plan(&wanted);
        let marks = table.choices.values().flat_map(|choice| choice.entries.iter());
        marks.fold(BTreeMap::new(), |mut counts, mark| {
            *counts.entry(table.backends[mark].label.as_str().to_owned()).or_default() += 1;
            counts
        })
    }

    fn hold(snapshot: &Snapshot, backend: usize, connections: u32) -> Forwarded {
        let mut forwarded = Forwarded::new(snapshot.pools[0].members[backend].backend.clone());
        forwarded.set(connections);
        forwarded
    }

    /// How many of so many counts at this time change the weights.
    fn changes(approximation: &mut Approximation, snapshot: &Snapshot, counts: usize, now: Instant) -> usize {
        (0..counts).filter(|_| approximation.follow(snapshot, now)).count()
    }

    #[test]
    fn entries_follow_connections_and_weight_0_stays_0() {
        let snapshot = snapshot("least-connections", &[1, 1, 2, 0]);
        let (mut planner, mut approximation) = (Planner::default(), Approximation::default());
        let now = Instant::now();
        assert!(!approximation.follow(&snapshot, now), "idle backends have the configured weights");
        let even = entries(&mut planner, &snapshot, &approximation);
        assert!(even.len() == 3 && even["web/1"].abs_diff(1025) < 3 && even["web/3"].abs_diff(2050) < 3, "{even:?}");
        let held = hold(&snapshot, 0, 60);
        let count = changes(&mut approximation, &snapshot, 40, now);
        assert!((3..25).contains(&count), "{count}");
        let busy = entries(&mut planner, &snapshot, &approximation);
        assert!(busy.len() == 3 && (50..400).contains(&busy["web/1"]), "{busy:?}");
        assert!(busy["web/3"].abs_diff(2 * busy["web/2"]) < 20, "{busy:?}");
        approximation.publish(&snapshot);
        let pool = &snapshot.pools[0];
        let weights: Vec<f64> = pool.members.iter().map(|member| pool.effective_weight(member)).collect();
        assert!(
            (weights.iter().sum::<f64>() - 4.0).abs() < 1e-3 && weights[0] < 0.4 && weights[3] == 0.0,
            "{weights:?}"
        );
        drop(held);
        changes(&mut approximation, &snapshot, 80, now);
        let after = entries(&mut planner, &snapshot, &approximation);
        assert!(after["web/1"] > 900, "{after:?}");
    }

    #[test]
    fn a_backend_that_is_down_stays_out_and_its_return_moves_only_its_own_entries() {
        let snapshot = snapshot("power-of-two", &[1, 1, 1]);
        let (mut planner, mut approximation) = (Planner::default(), Approximation::default());
        let now = Instant::now();
        let _held = [hold(&snapshot, 0, 30), hold(&snapshot, 1, 3)];
        changes(&mut approximation, &snapshot, 40, now);
        let before = entries(&mut planner, &snapshot, &approximation);
        let pool = &snapshot.pools[0];
        pool.up.set(pool.members[2].slot, false);
        approximation.publish(&snapshot);
        assert_eq!(pool.effective_weight(&pool.members[2]), 1.0);
        let down = entries(&mut planner, &snapshot, &approximation);
        assert!(down.len() == 2 && down["web/1"] >= before["web/1"] && down["web/2"] >= before["web/2"], "{down:?}");
        pool.up.set(pool.members[2].slot, true);
        assert_eq!(entries(&mut planner, &snapshot, &approximation), before);
    }

    #[test]
    fn least_time_follows_probes_and_the_others_do_not() {
        for (algorithm, follows) in [("least-time", true), ("least-connections", false)] {
            let snapshot = snapshot(algorithm, &[1, 1]);
            let members = &snapshot.pools[0].members;
            members[0].backend.probe_took(Duration::from_millis(1));
            members[1].backend.probe_took(Duration::from_millis(19));
            let (mut planner, mut approximation) = (Planner::default(), Approximation::default());
            changes(&mut approximation, &snapshot, 60, Instant::now());
            let entries = entries(&mut planner, &snapshot, &approximation);
            assert_eq!(entries["web/1"] > 5 * entries["web/2"], follows, "{entries:?}");
        }
    }

    #[test]
    fn a_change_that_takes_long_is_followed_by_a_long_rest() {
        let snapshot = snapshot("least-connections", &[1, 1]);
        let mut approximation = Approximation::default();
        let (now, took) = (Instant::now(), Duration::from_secs(2));
        let _held = hold(&snapshot, 0, 1_000);
        approximation.took(took, now);
        assert!(changes(&mut approximation, &snapshot, 5, now) > 0, "other changes of the rules cause no rest");
        approximation.took(took, now);
        assert_eq!(changes(&mut approximation, &snapshot, 5, now + Duration::from_secs(39)), 0);
        assert!(changes(&mut approximation, &snapshot, 5, now + Duration::from_secs(40)) > 0);
    }
}
