//! What the newest snapshot and the health bits of this moment want of the kernel.

use super::approximation::Approximation;
use super::table::{Bind, Limits, Pick};
use super::{Wanted, WantedListener, WantedMember, WantedPool};
use crate::base::Tick;
use crate::clock;
use crate::config::model::{self, HealthKind, InitialHealth};
use crate::policy::balance::Shares;
use crate::pool::{AddressState, AdminState, Listener, Member, Pool, Snapshot};
use std::collections::HashSet;

/// The listeners whose connections the kernel carries, and their pools. `open`: they take new clients.
pub(super) fn of<'a>(snapshot: &'a Snapshot, open: bool, approximation: &Approximation) -> Wanted<'a> {
    let listeners: Vec<_> = snapshot.listeners.iter().filter(|listener| listener.settings.is_of_kernel()).collect();
    let used: HashSet<&str> = listeners.iter().map(|listener| listener.settings.pool.as_str()).collect();
    let now = clock::now();
    let pools = snapshot.pools.iter().filter(|pool| used.contains(pool.settings.name.as_str()));
    let pools = pools.filter_map(|pool| self::pool(pool, approximation, now)).collect();
    Wanted { listeners: listeners.into_iter().map(|it| listener(it, open)).collect(), pools }
}

/// Does a backend of theirs count as down only because it has not been probed yet?
pub(super) fn awaits_probes(snapshot: &Snapshot) -> bool {
    let listeners = snapshot.listeners.iter().filter(|listener| listener.settings.is_of_kernel());
    let mut pools = listeners.map(|listener| &listener.pool).filter(|pool| {
        let health = &pool.settings.health;
        health.kind != HealthKind::Off && health.initial == InitialHealth::Down
    });
    pools.any(|pool| {
        let mut members = pool.members.iter().filter(|member| member.state == AdminState::Enabled);
        members.any(|member| {
            let has_result = member.backend.health.lock().addresses.len() >= member.backend.addresses.len();
            !has_result && !pool.is_usable(member)
        })
    })
}

fn listener(listener: &Listener, open: bool) -> WantedListener<'_> {
    let settings = &listener.settings;
    let addresses = listener.addresses.iter();
    let binds = addresses.filter_map(|address| Some(Bind::of(&address.asked, address.endpoint.inet()?)));
    WantedListener {
        name: &listener.name,
        binds: binds.flatten().collect(),
        pool: &settings.pool,
        open,
        access: listener.admission.access(),
        limits: Limits {
            connections: settings.max_connections_per_source,
            rate: settings.connection_rate_per_source.map(|rate| rate.per_second),
        },
    }
}

/// `None`: the kernel can't do its algorithm, which the check of the configuration refuses.
fn pool<'a>(pool: &'a Pool, approximation: &Approximation, now: Tick) -> Option<WantedPool<'a>> {
    let settings = &pool.settings;
    let weights = approximation.weights(pool);
    let both = pool.members.iter().zip(&settings.backends).zip(weights);
    Some(WantedPool {
        name: &settings.name,
        pick: Pick::of(settings.algorithm)?,
        equal: settings.algorithm.shares == Shares::Equal,
        sources: settings.source.listed(),
        members: both.map(|((member, backend), weight)| self::member(pool, member, backend, weight, now)).collect(),
    })
}

fn member<'a>(pool: &Pool, member: &'a Member, settings: &model::Backend, weight: u16, now: Tick) -> WantedMember<'a> {
    let addresses = member.backend.addresses.iter();
    let addresses = addresses.filter_map(|it| Some((it.endpoint.inet()?, it.state(now) != AddressState::Down)));
    WantedMember {
        name: &member.backend.name,
        key: settings.address.clone(),
        configured: settings.weight,
        weight,
        backup: member.backup,
        usable: pool.is_usable(member),
        last_resort: pool.is_last_resort(member),
        addresses: addresses.collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::{Address, Endpoint};
    use crate::config::model::{Global, ListenerEngine, Model};
    use crate::policy::health::Outcome;
    use crate::pool::build;
    use std::net::SocketAddr;

    fn snapshot(engine: ListenerEngine, initial: InitialHealth) -> Snapshot {
        let at: SocketAddr = ([10, 0, 0, 1], 80).into();
        let backend = model::Backend { name: "a".into(), ..model::Backend::at(Address::Inet(at)) };
        let mut pool = model::Pool { name: "web".into(), backends: vec![backend], ..model::Pool::default() };
        pool.health.initial = initial;
        let listener = model::Listener { pool: "web".into(), engine, ..model::Listener::default() };
        let model = Model { global: Global::default(), listeners: vec![listener], pools: vec![pool] };
        build(&model, &[(("web".into(), "a".into()), vec![Endpoint::Inet(at)])].into())
    }

    #[test]
    fn only_a_backend_that_begins_as_down_awaits_its_first_probe() {
        let down = snapshot(ListenerEngine::Kernel, InitialHealth::Down);
        assert!(awaits_probes(&down));
        down.pools[0].members[0].backend.health.lock().addresses = vec![Some(Outcome::Closed)];
        assert!(!awaits_probes(&down));
        assert!(!awaits_probes(&snapshot(ListenerEngine::Kernel, InitialHealth::Up)));
        assert!(!awaits_probes(&snapshot(ListenerEngine::Proxy, InitialHealth::Down)));
    }
}
