//! Sticky round robin: a client address keeps the backend that its first connection got.
//!
//! If that backend is unusable, round robin picks another one, which the client keeps from then on. Clients without an
//! address (unix sockets) get plain round robin.
//!
//! # When the table is full
//!
//! The table holds at most [`MOST_PINS`] addresses, 8 MiB of entries. Each shard has two generations. New and recently
//! seen addresses are in the young one. When that holds half of the shard's share, it becomes the old one, and the
//! former old one is dropped. So an address expires only after tens of thousands of others, and expiry needs no search.
//! Shards are chosen by a keyed hash, so an attacker can't fill a chosen one.
//!
//! # Across a change of membership
//!
//! A pin names its backend by identity. The successor takes over the table, and both objects may use it while workers
//! change to the successor. A pin to a removed backend acts like a pin to a dead one.

use super::round_robin::RoundRobin;
use super::{Balance, Client, Member, Preview, View, hash};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

/// The most addresses that a pool remembers.
const MOST_PINS: usize = 1 << 18;
/// Locks over the table: many more than workers, so that two workers rarely wait for each other.
const SHARDS: usize = 64;

struct StickyRoundRobin {
    turns: RoundRobin,
    /// The identity of each member.
    identities: Vec<u64>,
    /// The identities, sorted, with their indexes.
    by_identity: Vec<(u64, u32)>,
    pins: Arc<Pins>,
}

/// Builds the algorithm for these members.
pub fn build(members: &[Member], start: u64) -> Box<dyn Balance> {
    Box::new(StickyRoundRobin::new(members, start, Arc::new(Pins::new(MOST_PINS))))
}

impl StickyRoundRobin {
    fn new(members: &[Member], start: u64, pins: Arc<Pins>) -> StickyRoundRobin {
        let identities = hash::identities(members);
        let mut by_identity: Vec<(u64, u32)> = identities.iter().copied().zip(0..).collect();
        by_identity.sort_unstable();
        StickyRoundRobin { turns: RoundRobin::new(members, start), identities, by_identity, pins }
    }

    /// The pinned backend, if it is usable. One of weight 0 takes no new connections, not even of clients that are pinned
    /// to it.
    fn usable(&self, pin: Pin, view: &View<'_>) -> Option<usize> {
        self.index_of(pin).filter(|&index| self.turns.has_weight(index) && view.usable(index))
    }

    /// The index of the pinned backend in this membership.
    fn index_of(&self, pin: Pin) -> Option<usize> {
        let index = pin.index as usize;
        if self.identities.get(index) == Some(&pin.identity) {
            return Some(index);
        }
        let at = self.by_identity.binary_search_by_key(&pin.identity, |entry| entry.0).ok()?;
        Some(self.by_identity[at].1 as usize)
    }
}

impl Balance for StickyRoundRobin {
    fn pick(&self, client: Client, view: &View<'_>, _: &mut fastrand::Rng) -> Option<usize> {
        let Some(ip) = client.ip else { return self.turns.take(view) };
        let address = hash::address(ip);
        // Locked until the pin is set, so that two first connections of one client get the same backend.
        let mut shard = self.pins.shard(address).lock();
        let pin = shard.get(address, self.pins.most_per_generation);
        if let Some(index) = pin.and_then(|pin| self.usable(pin, view)) {
            return Some(index);
        }
        let index = self.turns.take(view)?;
        let pin = Pin { identity: *self.identities.get(index)?, index: index as u32 };
        shard.insert(address, pin, self.pins.most_per_generation);
        Some(index)
    }

    fn preview(&self, client: Client, view: &View<'_>) -> Preview {
        let pin = client.ip.map(hash::address).and_then(|address| self.pins.shard(address).lock().peek(address));
        Preview::Certain(pin.and_then(|pin| self.usable(pin, view)).or_else(|| self.turns.peek(view)))
    }

    fn group(&self, client: Client) -> Option<usize> {
        Some(hash::group(client.ip))
    }

    fn successor(&self, members: &[Member], start: u64) -> Option<Box<dyn Balance>> {
        Some(Box::new(StickyRoundRobin::new(members, start, self.pins.clone())))
    }

    fn clients(&self) -> Vec<(u128, u64)> {
        // The old generation comes first, so that the young one stays young.
        let of_shard = |shard: &Mutex<Shard>| {
            let Shard { young, old } = &*shard.lock();
            let pins = old.iter().chain(young).map(|(address, pin)| (*address, pin.identity));
            pins.collect::<Vec<_>>()
        };
        self.pins.shards.iter().flat_map(of_shard).collect()
    }

    fn remember(&self, clients: &[(u128, u64)]) {
        for &(address, identity) in clients {
            let mut shard = self.pins.shard(address).lock();
            // A client that has come here meanwhile keeps its backend.
            if shard.peek(address).is_none() {
                shard.insert(address, Pin { identity, index: 0 }, self.pins.most_per_generation);
            }
        }
    }
}

/// The backend of a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Pin {
    identity: u64,
    /// Its index in the membership in which it was pinned: a first guess, which is nearly always right.
    index: u32,
}

/// The pins of all clients.
struct Pins {
    shards: Box<[Mutex<Shard>]>,
    state: RandomState,
    most_per_generation: usize,
}

#[derive(Default)]
struct Shard {
    young: HashMap<u128, Pin>,
    old: HashMap<u128, Pin>,
}

impl Pins {
    fn new(most: usize) -> Pins {
        let shards = (0..SHARDS).map(|_| Mutex::default()).collect();
        Pins { shards, state: RandomState::new(), most_per_generation: (most / SHARDS / 2).max(1) }
    }

    fn shard(&self, address: u128) -> &Mutex<Shard> {
        &self.shards[self.state.hash_one(address) as usize % SHARDS]
    }
}

impl Shard {
    /// The pin of an address, which becomes young again.
    fn get(&mut self, address: u128, most: usize) -> Option<Pin> {
        if let Some(&pin) = self.young.get(&address) {
            return Some(pin);
        }
        let pin = self.old.remove(&address)?;
        self.insert(address, pin, most);
        Some(pin)
    }

    /// The pin of an address, which stays as old as it is.
    fn peek(&self, address: u128) -> Option<Pin> {
        self.young.get(&address).or_else(|| self.old.get(&address)).copied()
    }

    fn insert(&mut self, address: u128, pin: Pin, most: usize) {
        if self.young.len() >= most && !self.young.contains_key(&address) {
            std::mem::swap(&mut self.young, &mut self.old);
            self.young.clear();
        }
        self.young.insert(address, pin);
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{World, client, members};
    use super::*;

    fn count(pins: &Pins) -> usize {
        let shards = pins.shards.iter().map(|shard| shard.lock());
        shards.map(|shard| shard.young.len() + shard.old.len()).sum()
    }

    #[test]
    fn the_table_is_bounded_and_drops_old_addresses() {
        let most = 16 * SHARDS;
        let sticky = StickyRoundRobin::new(&members(&[1; 5]), 0, Arc::new(Pins::new(most)));
        let (world, mut random) = (World::new(5), fastrand::Rng::with_seed(1));
        let regular = sticky.pick(client(0), &world.view(), &mut random);
        for number in 1..20_000 {
            sticky.pick(client(number), &world.view(), &mut random);
            // Often enough that a shard does not drop a generation twice in between.
            if number % 100 == 0 {
                assert_eq!(sticky.pick(client(0), &world.view(), &mut random), regular);
            }
        }
        let kept = count(&sticky.pins);
        assert!((most / 2..=most).contains(&kept), "{kept} of {most}");
    }

    #[test]
    fn pins_survive_a_change_of_membership_whatever_the_order() {
        let before = members(&[1; 8]);
        let (world, mut random) = (World::new(8), fastrand::Rng::with_seed(1));
        let old = build(&before, 3);
        let pinned: Vec<usize> =
            (0..100).map(|number| old.pick(client(number), &world.view(), &mut random).unwrap()).collect();
        let mut after: Vec<Member> =
            before.iter().rev().filter(|member| member.key != before[2].key).cloned().collect();
        after[0].weight = 0;
        let new = old.successor(&after, 0).unwrap();
        for (number, &index) in (0..).zip(&pinned) {
            let now = &after[new.pick(client(number), &world.view(), &mut random).unwrap()];
            assert!(now.weight > 0);
            if index != 2 && before[index].key != after[0].key {
                assert_eq!(now.key, before[index].key);
            }
        }
    }
}
