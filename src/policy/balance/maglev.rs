//! Maglev: a table from hashes of client addresses to backends, the same on every instance with the same backends.
//!
//! Eisenbud et al., "Maglev: A Fast and Reliable Software Network Load Balancer" (NSDI 2016), section 3.4. Each backend
//! has its own order of preference over the entries of the table. It is a permutation by offset and step, of a table of
//! prime size. Backends take turns, and each takes its most preferred free entry, until all are taken. Equal weights
//! differ by at most one entry. A heavier backend has more turns: its `k`-th comes at time `k ÷ weight`. That does not
//! depend on other backends, so few entries move when the membership changes.
//!
//! While a backend is down, the table stays unchanged: only its clients hash again, each to another entry, and spread
//! over all other backends. A table rebuilt without it would also move some clients of others.
//!
//! The paper recommends a hundred entries per backend: 65,537 for up to 655 backends, 655,373 above. Crossing that line
//! moves nearly every client, once. `tests/paper.rs` repeats the paper's measurements of both sizes.

use super::rendezvous::Rendezvous;
use super::{Balance, Client, Member, Preview, View, hash};
use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// Table sizes. Prime, so that an order of preference reaches every entry.
pub(super) const SMALL: usize = 65_537;
pub(super) const LARGE: usize = 655_373;
/// The most backends for the small table.
const MOST_IN_SMALL: usize = 655;
/// Hashes of a client of unusable backends before all backends are scanned. With half of the entries unusable, a scan
/// happens once in 65,536 choices.
const REHASHES: u64 = 16;

const FREE: u32 = u32::MAX;

struct Maglev {
    /// Indexes of backends; empty if no backend has weight.
    table: Box<[u32]>,
    rendezvous: Rendezvous,
}

/// Builds the algorithm for these members.
pub fn build(members: &[Member], _: u64) -> Box<dyn Balance> {
    Box::new(Maglev { table: table(members), rendezvous: Rendezvous::new(members) })
}

impl Balance for Maglev {
    fn pick(&self, client: Client, view: &View<'_>, _: &mut fastrand::Rng) -> Option<usize> {
        self.choose(client, view)
    }

    fn preview(&self, client: Client, view: &View<'_>) -> Preview {
        Preview::Certain(self.choose(client, view))
    }

    fn group(&self, client: Client) -> Option<usize> {
        Some(hash::group(client.ip))
    }
}

impl Maglev {
    fn choose(&self, client: Client, view: &View<'_>) -> Option<usize> {
        let client = hash::client(client.ip);
        hashed(&self.table, client, 0, |index| view.usable(index)).or_else(|| self.rendezvous.best(client, view))
    }
}

/// The first usable backend by the hashes of a key, from this attempt on.
pub(super) fn hashed(table: &[u32], key: u64, first: u64, usable: impl Fn(usize) -> bool) -> Option<usize> {
    let entry = |attempt| hash::reduce(hash::nth(key, attempt), table.len());
    let backends = (first..=REHASHES).map_while(|attempt| table.get(entry(attempt)));
    backends.map(|index| *index as usize).find(|index| usable(*index))
}

/// A backend while the table is filled.
struct Taker {
    index: u32,
    /// Its most preferred entry among those that it has not tried.
    preferred: usize,
    /// The step between preferences, modulo the size of the table.
    step: usize,
    /// The time between two of its turns.
    pause: u64,
}

fn table(members: &[Member]) -> Box<[u32]> {
    match members.iter().filter(|member| member.weight > 0).count() {
        0 => Box::default(),
        1..=MOST_IN_SMALL => filled(members, SMALL),
        _ => filled(members, LARGE),
    }
}

/// A table of that size, which is prime, for members of which one has weight.
pub(super) fn filled(members: &[Member], size: usize) -> Box<[u32]> {
    let mut takers = takers(members, size);
    // Backends by the time of their next turn; ties in the order of identities.
    let mut turns: BinaryHeap<Reverse<(u64, usize)>> =
        takers.iter().enumerate().map(|(at, taker)| Reverse((taker.pause, at))).collect();
    let mut table = vec![FREE; size].into_boxed_slice();
    for _ in 0..size {
        let Some(mut turn) = turns.peek_mut() else { break };
        let Reverse((time, at)) = *turn;
        let taker = &mut takers[at];
        // Terminates: an order of preference reaches every entry, and one is free.
        while table[taker.preferred] != FREE {
            taker.advance(size);
        }
        table[taker.preferred] = taker.index;
        taker.advance(size);
        // Dropping the changed top restores the heap's order.
        *turn = Reverse((time + taker.pause, at));
    }
    table
}

/// The members with weight, in the order of their identities, so that the order in the configuration does not matter.
fn takers(members: &[Member], size: usize) -> Vec<Taker> {
    let mut ordered: Vec<(u64, usize)> =
        hash::identities(members).into_iter().enumerate().map(|(index, identity)| (identity, index)).collect();
    ordered.sort_unstable();
    let taker = |(identity, index): (u64, usize)| Taker {
        index: index as u32,
        preferred: hash::reduce(hash::nth(identity, 1), size),
        step: hash::reduce(hash::nth(identity, 2), size - 1) + 1,
        // The largest pause whose sum over all turns does not overflow.
        pause: (1 << 40) / u64::from(members[index].weight),
    };
    ordered.into_iter().filter(|&(_, index)| members[index].weight > 0).map(taker).collect()
}

impl Taker {
    fn advance(&mut self, size: usize) {
        self.preferred += self.step;
        if self.preferred >= size {
            self.preferred -= size;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::members;
    use super::*;

    /// The number of entries of each backend.
    fn entries(weights: &[u16]) -> Vec<usize> {
        let mut entries = vec![0; weights.len()];
        table(&members(weights)).iter().for_each(|&index| entries[index as usize] += 1);
        entries
    }

    #[test]
    fn sizes_are_prime() {
        for size in [SMALL, LARGE] {
            assert!((2..).take_while(|divisor| divisor * divisor <= size).all(|divisor| size % divisor != 0));
        }
    }

    #[test]
    fn equal_weights_differ_by_one_entry_at_most() {
        for len in [1, 2, 100, 655] {
            let entries = entries(&vec![3; len]);
            assert!(entries.iter().all(|count| [SMALL / len, SMALL / len + 1].contains(count)), "{entries:?}");
        }
    }

    #[test]
    fn entries_follow_weights() {
        let weights = [1, 65_535, 0, 30_000, 500, 500, 9];
        let sum: f64 = weights.iter().map(|&weight| f64::from(weight)).sum();
        for (&weight, count) in weights.iter().zip(entries(&weights)) {
            let exact = SMALL as f64 * f64::from(weight) / sum;
            assert!((count as f64 - exact).abs() < 1.5, "{count} for {weight}, not {exact}");
        }
    }

    #[test]
    fn many_backends_get_the_large_table() {
        let entries = entries(&[1; MOST_IN_SMALL + 1]);
        assert_eq!(entries.iter().sum::<usize>(), LARGE);
        assert!(entries.iter().all(|&count| count >= 100));
    }
}
