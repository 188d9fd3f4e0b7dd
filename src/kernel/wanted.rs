//! What the newest snapshot and the health bits of this moment want of the kernel.

use super::table::{Bind, Limits, Pick};
use super::{Wanted, WantedListener, WantedMember, WantedPool};
use crate::base::Tick;
use crate::clock;
use crate::config::model;
use crate::policy::balance::Shares;
use crate::pool::{AddressState, Listener, Member, Pool, Snapshot};
use std::collections::HashSet;

/// The listeners whose connections the kernel carries, and their pools. `open`: they take new clients.
pub(super) fn of(snapshot: &Snapshot, open: bool) -> Wanted<'_> {
    let listeners: Vec<_> = snapshot.listeners.iter().filter(|listener| listener.settings.is_of_kernel()).collect();
    let used: HashSet<&str> = listeners.iter().map(|listener| listener.settings.pool.as_str()).collect();
    let now = clock::now();
    let pools = snapshot.pools.iter().filter(|pool| used.contains(pool.settings.name.as_str()));
    let pools = pools.filter_map(|pool| self::pool(pool, now)).collect();
    Wanted { listeners: listeners.into_iter().map(|it| listener(it, open)).collect(), pools }
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
fn pool(pool: &Pool, now: Tick) -> Option<WantedPool<'_>> {
    let settings = &pool.settings;
    let both = pool.members.iter().zip(&settings.backends);
    Some(WantedPool {
        name: &settings.name,
        pick: Pick::of(settings.algorithm)?,
        equal: settings.algorithm.shares == Shares::Equal,
        sources: settings.source.listed(),
        members: both.map(|(member, backend)| self::member(pool, member, backend, now)).collect(),
    })
}

fn member<'a>(pool: &Pool, member: &'a Member, settings: &model::Backend, now: Tick) -> WantedMember<'a> {
    let addresses = member.backend.addresses.iter();
    let addresses = addresses.filter_map(|it| Some((it.endpoint.inet()?, it.state(now) != AddressState::Down)));
    WantedMember {
        name: &member.backend.name,
        key: settings.address.to_string(),
        configured: settings.weight,
        weight: member.weight,
        backup: member.backup,
        usable: pool.is_usable(member),
        last_resort: pool.is_last_resort(member),
        addresses: addresses.collect(),
    }
}
