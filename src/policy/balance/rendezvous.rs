//! Weighted rendezvous hashing: for every key all backends run a race, and the first to arrive serves the key.
//!
//! Thaler and Ravishankar ("Using Name-Based Mappings to Increase Hit Rates", 1998) let a hash of key and backend
//! decide. Schindelhauer and Schomaker's logarithmic method ("Weighted Distributed Hash Tables", 2005) adds weights.
//! With the hash as a number `h` between 0 and 1, the highest score `−w ÷ ln h` wins. That is the lowest `−ln h ÷ w`,
//! the first event of an exponential clock of rate `w`. Each clock is the first with the probability of its weight. So
//! without one backend only its own keys move, to all others in proportion.
//!
//! A race scans every backend; callers that need speed cache its results.
//!
//! Two instances agree as far as their `ln` does. C libraries differ in the last digit, which two arrival times almost
//! never share.

use super::{Member, View, hash};

/// The race of the members.
pub struct Rendezvous {
    racers: Box<[Racer]>,
}

#[derive(Clone, Copy)]
struct Racer {
    identity: u64,
    weight: f64,
    index: u32,
}

impl Rendezvous {
    /// A race of the members with weight.
    pub fn new(members: &[Member]) -> Rendezvous {
        let racers = hash::identities(members).into_iter().zip(members).enumerate();
        let racers = racers.filter(|(_, (_, member))| member.weight > 0);
        let racers = racers.map(|(index, (identity, member))| Racer {
            identity,
            weight: member.weight.into(),
            index: index as u32,
        });
        Rendezvous { racers: racers.collect() }
    }

    /// The race of some of its members. Their arrival times stay.
    pub fn among(&self, allowed: impl Fn(usize) -> bool) -> Rendezvous {
        Rendezvous { racers: self.racers.iter().filter(|racer| allowed(racer.index as usize)).copied().collect() }
    }

    /// Whether no member has weight.
    pub fn is_empty(&self) -> bool {
        self.racers.is_empty()
    }

    /// The first of all for this key.
    pub fn winner(&self, key: u64) -> Option<usize> {
        let [first] = self.first(key, |_| true);
        first
    }

    /// The first usable backend for this key.
    pub fn best(&self, key: u64, view: &View<'_>) -> Option<usize> {
        let [first] = self.first(key, |index| view.usable(index));
        first
    }

    /// The first `N` allowed backends for this key.
    pub fn first<const N: usize>(&self, key: u64, allowed: impl Fn(usize) -> bool) -> [Option<usize>; N] {
        let mut first = [(f64::INFINITY, None); N];
        for racer in &self.racers {
            let lacks = 1.0 - fraction(hash::mix(key ^ racer.identity));
            let last = first.last().map_or(0.0, |place| place.0);
            // −ln h is never below 1 − h, so most backends are out before the logarithm and before `allowed`.
            if lacks >= last * racer.weight || !allowed(racer.index as usize) {
                continue;
            }
            let mut arrival = (-(1.0 - lacks).ln() / racer.weight, Some(racer.index as usize));
            for place in &mut first {
                if arrival.0 < place.0 {
                    std::mem::swap(place, &mut arrival);
                }
            }
        }
        first.map(|place| place.1)
    }
}

/// The hash as a number between 0 and 1, both excluded. An `f64` holds its 52 bits and a half exactly.
fn fraction(hash: u64) -> f64 {
    ((hash >> 12) as f64 + 0.5) / (1u64 << 52) as f64
}

#[cfg(test)]
mod tests {
    use super::super::tests::{World, members};
    use super::*;
    use proptest::prelude::*;

    /// The definition: the highest score.
    fn naive(members: &[Member], key: u64, allowed: impl Fn(usize) -> bool) -> Option<usize> {
        let score = |identity, weight: u16| -f64::from(weight) / fraction(hash::mix(key ^ identity)).ln();
        let scores = hash::identities(members).into_iter().zip(members).map(|(id, member)| score(id, member.weight));
        let scores = scores.enumerate().filter(|&(index, _)| members[index].weight > 0 && allowed(index));
        scores.max_by(|a, b| a.1.total_cmp(&b.1)).map(|(index, _)| index)
    }

    #[test]
    fn fractions_are_inside() {
        assert!(fraction(0) > 0.0 && fraction(u64::MAX) < 1.0);
    }

    proptest! {
        #[test]
        fn races_match_the_definition(
            weights in prop::collection::vec(prop_oneof![Just(0), Just(1), any::<u16>()], 0..40),
            down in prop::collection::vec(0usize..40, 0..20),
            key in any::<u64>(),
        ) {
            let (members, world) = (members(&weights), World::new(weights.len()));
            let rendezvous = Rendezvous::new(&members);
            let [first, second, third] = rendezvous.first(key, |_| true);
            prop_assert_eq!(first, naive(&members, key, |_| true));
            prop_assert_eq!(second, naive(&members, key, |index| Some(index) != first));
            prop_assert_eq!(third, naive(&members, key, |index| Some(index) != first && Some(index) != second));
            world.take_down(&down);
            prop_assert_eq!(rendezvous.best(key, &world.view()), naive(&members, key, |index| world.up.get(index)));
        }
    }
}
