//! Sticky round robin: a client address keeps the backend that its first connection got.
//!
//! If that one is unusable, round robin picks another, which the client keeps from then on. Clients without an address
//! (unix sockets) get plain round robin.
//!
//! # When the table is full
//!
//! It holds at most [`MOST_PINS`] addresses, 8 MiB of entries. Each of its shards has two generations: new and recently
//! seen addresses are in the young one; when that has half of the shard's share, it becomes the old one, and what was
//! old is forgotten. So an address is forgotten only after tens of thousands of others came since it was last
//! seen, and it costs nothing to find out which. Shards are chosen by a keyed hash, so that nobody can flood a chosen one.
//!
//! # Across a change of membership
//!
//! A pin names its backend by identity. The successor of this object takes over the table as it is, and both may use it
//! while workers go over from one to the other; a pin to a backend that is gone is like one to a dead backend.

use super::round_robin::RoundRobin;
use super::{Balance, Client, Member, View, hash};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

/// Addresses that a pool remembers at most.
const MOST_PINS: usize = 1 << 18;
/// Locks they are spread over: many more than workers, so that two rarely meet.
const SHARDS: usize = 64;

struct StickyRoundRobin {
    turns: RoundRobin,
    /// Of each member.
    identities: Vec<u64>,
    /// The same, sorted, with their indexes.
    by_identity: Vec<(u64, u32)>,
    pins: Arc<Pins>,
}

/// See the module.
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

    /// Where the pinned backend stands in this membership.
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
        // Locked until the pin is made, so that two first connections of one client get the same backend.
        let mut shard = self.pins.shard(address).lock();
        let pinned = shard.get(address, self.pins.most_per_generation).and_then(|pin| self.index_of(pin));
        // A backend whose weight became 0 takes no new connections, not even of its own clients.
        if let Some(index) = pinned.filter(|&index| self.turns.has_weight(index) && view.usable(index)) {
            return Some(index);
        }
        let index = self.turns.take(view)?;
        let pin = Pin { identity: *self.identities.get(index)?, index: index as u32 };
        shard.insert(address, pin, self.pins.most_per_generation);
        Some(index)
    }

    fn group(&self, client: Client, _: &mut fastrand::Rng) -> usize {
        hash::group(client.ip)
    }

    fn successor(&self, members: &[Member], start: u64) -> Option<Box<dyn Balance>> {
        Some(Box::new(StickyRoundRobin::new(members, start, self.pins.clone())))
    }
}

/// A client's backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Pin {
    identity: u64,
    /// Where it stood in the membership in which it was pinned: a first guess that nearly always holds.
    index: u32,
}

/// Who is pinned where.
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
    /// The pin of an address, which is young again from now on.
    fn get(&mut self, address: u128, most: usize) -> Option<Pin> {
        if let Some(&pin) = self.young.get(&address) {
            return Some(pin);
        }
        let pin = self.old.remove(&address)?;
        self.insert(address, pin, most);
        Some(pin)
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
    fn the_table_is_bounded_and_forgets_who_was_not_seen_for_long() {
        let most = 16 * SHARDS;
        let sticky = StickyRoundRobin::new(&members(&[1; 5]), 0, Arc::new(Pins::new(most)));
        let (world, mut random) = (World::new(5), fastrand::Rng::with_seed(1));
        let regular = sticky.pick(client(0), &world.view(), &mut random);
        for number in 1..20_000 {
            sticky.pick(client(number), &world.view(), &mut random);
            // Often enough that a shard does not turn over twice in between.
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
