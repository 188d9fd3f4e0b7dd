//! What the numbers in the kernel's table of connections stand for: which backend a mark is, and which listener has an address.

use super::approximation;
use super::marks::Mark;
use super::plan::Planner;
use super::table::{Bind, ChainId, Family, Label, Pick, Rules, Table, Target};
use crate::base::Tick;
use crate::clock;
use crate::inspect::Forwards;
use crate::pool::{AddressState, AdminState, Backend, BackendId, Listener, Member, Pool, ResetOrder, Snapshot};
use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

/// A directory of one snapshot and its table.
#[derive(Debug, Default)]
pub(super) struct Directory {
    /// In the order of the marks.
    marks: Vec<(Mark, Marked)>,
    /// Those of backends that are no longer wanted, whether their backends are known or not.
    leaving: Vec<Mark>,
    listeners: HashMap<Bind, Arc<Listener>>,
    /// By the listener's label and the family of its clients.
    choices: HashMap<(Label, Family), Choosing>,
    /// The backends to which the rules lead no client, whatever their health, and whose connections must be counted.
    unled: Vec<Arc<Backend>>,
    /// The weights of a pool follow loads.
    follows_load: bool,
}

/// How a client of a listener is led to a mark.
#[derive(Debug)]
struct Choosing {
    rules: Rules,
    entries: Arc<[Mark]>,
}

/// A backend that connections of a mark lead to.
#[derive(Clone, Debug)]
pub(super) struct Marked {
    /// Its pool; the last one, if the backend has left.
    pub(super) pool: Arc<Pool>,
    /// The backend.
    pub(super) backend: Arc<Backend>,
    /// Its address.
    pub(super) address: SocketAddr,
    /// A new connection may get it.
    pub(super) is_usable: bool,
}

impl Directory {
    /// That of a snapshot and its table, which was the planner's last one. A backend that has left is the one that it was `before`.
    pub(super) fn new(snapshot: &Snapshot, table: &Table, planner: &Planner, before: &Directory) -> Directory {
        let (now, of_pools) = (clock::now(), planner.marked());
        let mut marks: Vec<(Mark, Marked)> = Vec::with_capacity(table.backends.len());
        for pool in &snapshot.pools {
            let marked = of_pools.get(pool.settings.name.as_str()).into_iter().flat_map(|members| members.iter());
            for (member, marked) in pool.members.iter().zip(marked) {
                let own = marked.addresses.iter().filter_map(|(address, mark)| Some(((*mark)?, *address)));
                marks.extend(own.map(|(mark, address)| (mark, Marked::new(pool, member, address, now))));
            }
        }
        let leaving = planner.leaving();
        if !leaving.is_empty() {
            marks.extend(left(snapshot, table, &leaving, before, now));
        }
        marks.sort_unstable_by_key(|(mark, _)| *mark);
        marks.dedup_by_key(|(mark, _)| *mark);
        let listeners = snapshot.listeners.iter().filter(|listener| listener.settings.is_of_kernel());
        let binds = listeners.flat_map(|listener| {
            let addresses = listener.addresses.iter();
            let binds = addresses.filter_map(|it| Some(Bind::of(&it.asked, it.endpoint.inet()?)));
            binds.flatten().map(move |bind| (bind, listener.clone()))
        });
        let open: HashSet<ChainId> = table.binds.values().copied().collect();
        let chains = table.chains.iter().filter(|(id, _)| open.contains(id));
        let choices = chains.filter_map(|(id, chain)| {
            let choice = table.choices.get(&chain.rules.choice.pool)?;
            let choosing = Choosing { rules: chain.rules, entries: choice.entries.clone() };
            Some(((chain.label.clone(), id.family), choosing))
        });
        let unled = states(snapshot).filter(|(backend, is_led)| !is_led && backend.awaits_count());
        let unled = unled.map(|(backend, _)| backend.clone()).collect();
        let follows_load = approximation::pools(snapshot).next().is_some();
        let (listeners, choices) = (binds.collect(), choices.collect());
        Directory { marks, leaving, listeners, choices, unled, follows_load }
    }

    /// The backends to which the rules lead no client, whatever their health, and whose connections must be counted.
    pub(super) fn unled(&self) -> &[Arc<Backend>] {
        &self.unled
    }

    /// Do the weights of a pool follow loads? Then these are counted each second, as far as that is possible.
    pub(super) fn follows_load(&self) -> bool {
        self.follows_load
    }

    /// Is there no mark?
    pub(super) fn is_empty(&self) -> bool {
        self.marks.is_empty() && self.leaving.is_empty()
    }

    /// The marks of backends that are no longer wanted.
    pub(super) fn leaving(&self) -> &[Mark] {
        &self.leaving
    }

    /// The backend of a mark.
    pub(super) fn marked(&self, mark: Mark) -> Option<&Marked> {
        let at = self.marks.binary_search_by_key(&mark, |(mark, _)| *mark).ok()?;
        self.marks.get(at).map(|(_, marked)| marked)
    }

    /// The listener that a client has connected to.
    pub(super) fn listener(&self, to: SocketAddr) -> Option<&Arc<Listener>> {
        Bind::all_of(to).iter().find_map(|bind| self.listeners.get(bind))
    }

    /// What leads clients to the listener of this name.
    pub(super) fn binds_of(&self, listener: &str) -> impl Iterator<Item = Bind> {
        self.listeners.iter().filter(move |(_, it)| it.name == listener).map(|(bind, _)| *bind)
    }

    /// Where a client of this listener goes; `None`: nowhere.
    pub(super) fn forwards(&self, listener: &str, client: IpAddr, port: Option<u16>) -> Option<Forwards> {
        let client = client.to_canonical();
        let Choosing { rules, entries } = self.choices.get(&(Label::of_name(listener), Family::of(client)))?;
        let backend = |mark: Mark| self.marked(mark).map(|marked| marked.backend.name.clone());
        let is_certain = rules.pick == Pick::Source || port.is_some();
        let entry = rules.entry(SocketAddr::new(client, port.unwrap_or(0))).filter(|_| is_certain);
        if let Some(entry) = entry {
            let mark = entries.get(entry as usize)?;
            return Some(Forwards { backend: backend(*mark), shares: HashMap::new() });
        }
        let mut counts: HashMap<Mark, usize> = HashMap::new();
        entries.iter().for_each(|mark| *counts.entry(*mark).or_default() += 1);
        let mut shares: HashMap<String, f64> = HashMap::new();
        for (mark, count) in counts {
            *shares.entry(backend(mark)?).or_default() += count as f64 / entries.len() as f64;
        }
        Some(Forwards { backend: None, shares })
    }

    /// The marks of the connections that an order resets.
    pub(super) fn meant(&self, order: &ResetOrder) -> Vec<Mark> {
        let meant = self.marks.iter().filter(|(_, marked)| {
            let addresses = marked.backend.addresses.iter();
            let mut own = addresses.enumerate().filter(|(_, own)| own.endpoint.inet() == Some(marked.address));
            let id: BackendId = marked.backend.id;
            order.includes(id, own.next().map(|(number, _)| number))
        });
        meant.map(|(mark, _)| *mark).collect()
    }

    /// The marks that a new connection may get here and not in a later directory.
    pub(super) fn lost_in(&self, later: &Directory) -> Vec<Mark> {
        let is_usable = |mark: &Mark| later.marked(*mark).is_some_and(|marked| marked.is_usable);
        let usable = self.marks().filter(|(_, marked)| marked.is_usable).map(|(mark, _)| mark);
        usable.filter(|mark| !is_usable(mark)).collect()
    }

    /// All marks.
    pub(super) fn marks(&self) -> impl Iterator<Item = (Mark, &Marked)> {
        self.marks.iter().map(|(mark, marked)| (*mark, marked))
    }
}

impl Marked {
    fn new(pool: &Arc<Pool>, member: &Member, address: SocketAddr, now: Tick) -> Marked {
        let mut addresses = member.backend.addresses.iter();
        let own = addresses.find(|own| own.endpoint.inet() == Some(address));
        let is_up = own.is_some_and(|own| own.state(now) != AddressState::Down);
        let is_usable = is_up && member.weight > 0 && pool.is_usable(member);
        Marked { pool: pool.clone(), backend: member.backend.clone(), address, is_usable }
    }
}

/// The backends of marks that are no longer wanted.
fn left(snapshot: &Snapshot, table: &Table, marks: &[Mark], before: &Directory, now: Tick) -> Vec<(Mark, Marked)> {
    let pools = snapshot.pools.iter();
    let members = pools.flat_map(|pool| pool.members.iter().map(move |member| (pool, member)));
    let known: HashMap<Label, _> = (members)
        .map(|(pool, member)| (Label::of_backend(&pool.settings.name, &member.backend.name), (pool, member)))
        .collect();
    let marked = |mark: &Mark| {
        let Target { address, label, .. } = table.backends.get(mark)?;
        let known = known.get(label).map(|(pool, member)| {
            let mut addresses = member.backend.addresses.iter();
            (pool, member, addresses.any(|own| own.endpoint.inet() == Some(*address)))
        });
        let marked = match (known, before.marked(*mark)) {
            (Some((pool, member, true)), _) => Marked::new(pool, member, *address, now),
            // An address that has left its backend's name belongs to the backend that had it.
            (_, Some(marked)) => Marked { is_usable: false, ..marked.clone() },
            // The process before has left it.
            (Some((pool, member, false)), None) => Marked::new(pool, member, *address, now),
            (None, None) => return None,
        };
        Some((*mark, marked))
    };
    marks.iter().filter_map(marked).collect()
}

/// Each backend, and whether rules of this snapshot may lead clients to it, whatever its health.
pub(super) fn states(snapshot: &Snapshot) -> impl Iterator<Item = (&Arc<Backend>, bool)> {
    let listeners = snapshot.listeners.iter().filter(|listener| listener.settings.is_of_kernel());
    let used: HashSet<&str> = listeners.map(|listener| listener.settings.pool.as_str()).collect();
    snapshot.pools.iter().flat_map(move |pool| {
        let is_used = used.contains(pool.settings.name.as_str());
        pool.members.iter().map(move |it| (&it.backend, is_used && it.state == AdminState::Enabled))
    })
}
