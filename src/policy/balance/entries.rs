//! A table of entries for a data plane that looks its entries up itself, as the kernel does.
//!
//! Each entry has a backend. A hash of the client, or the client's turn, gives the entry. So a backend's share is its number
//! of entries. With equal weights it is exact to one entry.
//!
//! * Hashed: Maglev's table. Few entries move when the membership changes.
//! * In turn: the smooth weighted order, again and again, in small pools. Any change of the membership moves nearly every
//!   entry, which is no matter to clients in turn.
//!
//! An entry whose backend is unusable goes to another backend, as Maglev's clients do: it is hashed again and again. So only
//! the entries of a backend move when it becomes unusable, and they come back. The other backends get them in proportion
//! to their weights.

use super::maglev::{self, LARGE, SMALL};
use super::rendezvous::Rendezvous;
use super::{Member, hash, smooth};

/// The smallest size, which is prime.
const LEAST: usize = 4_099;
/// The fewest entries of the lightest backend, from Maglev's paper: then shares are exact to a hundredth.
const FEWEST: u64 = 100;
/// The most backends that have that in the size in the middle, if their weights are equal.
const MOST_IN_SMALL: usize = SMALL / FEWEST as usize;

/// How the entries follow each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// At random, the same for every instance with the same members.
    Hashed,
    /// In the smooth weighted order, if the pool is small enough for the smallest size.
    InTurn,
}

/// The entries of a pool.
pub struct Entries {
    /// Indexes of members; at least one entry.
    table: Box<[u32]>,
    rendezvous: Rendezvous,
}

impl Entries {
    /// The entries of these members; `None` if none has weight. `configured` are their weights as the operator wrote them:
    /// they decide the size, so that it does not follow weights that change by themselves.
    pub fn new(members: &[Member], configured: &[u16], order: Order) -> Option<Entries> {
        members.iter().any(|member| member.weight > 0).then_some(())?;
        let size = size(configured);
        let in_turn = (order == Order::InTurn && size == LEAST).then(|| in_turn(members)).flatten();
        let table = in_turn.unwrap_or_else(|| maglev::filled(members, size));
        Some(Entries { table, rendezvous: Rendezvous::new(members) })
    }

    /// Gives the index of the usable backend of each entry whose own backend is `selected`. False: none with weight is usable.
    pub fn each_usable(
        &self,
        usable: impl Fn(usize) -> bool,
        selected: impl Fn(usize) -> bool,
        mut give: impl FnMut(usize, usize),
    ) -> bool {
        let rendezvous = self.rendezvous.among(&usable);
        if rendezvous.is_empty() {
            return false;
        }
        for (entry, own) in self.table.iter().map(|own| *own as usize).enumerate().filter(|(_, own)| selected(*own)) {
            if usable(own) {
                give(entry, own);
                continue;
            }
            // Mixed, so that consecutive entries have independent keys.
            let key = hash::nth(0, entry as u64);
            let other = maglev::hashed(&self.table, key, 1, &usable);
            give(entry, other.or_else(|| rendezvous.winner(key)).unwrap_or(own));
        }
        true
    }
}

/// The size for these weights: the smallest one in which the lightest member has a hundred entries, of the smaller two.
/// Only the number of members calls for the largest, whose change takes seconds.
fn size(weights: &[u16]) -> usize {
    let weights = || weights.iter().filter(|weight| **weight > 0).map(|weight| u64::from(*weight));
    let (sum, lightest) = (weights().sum::<u64>(), weights().min().unwrap_or(0));
    match weights().count() {
        _ if lightest * LEAST as u64 >= FEWEST * sum => LEAST,
        0..=MOST_IN_SMALL => SMALL,
        _ => LARGE,
    }
}

/// Whole periods of the smooth order; `None` if one is too long.
fn in_turn(members: &[Member]) -> Option<Box<[u32]>> {
    let weights: Vec<u16> = members.iter().map(|member| member.weight).collect();
    let period = smooth::order(&weights);
    let times = LEAST.checked_div(period.len())?;
    (times > 0).then(|| period.repeat(times).into())
}

#[cfg(test)]
mod tests {
    use super::super::tests::members;
    use super::*;
    use proptest::prelude::*;

    fn counts(entries: &[usize], members: usize) -> Vec<usize> {
        let mut counts = vec![0; members];
        entries.iter().for_each(|index| counts[*index] += 1);
        counts
    }

    /// The index of the usable backend of each entry, in order.
    fn among(entries: &Entries, usable: impl Fn(usize) -> bool) -> Vec<usize> {
        let mut all = Vec::new();
        entries.each_usable(
            usable,
            |_| true,
            |entry, index| {
                assert_eq!(entry, all.len());
                all.push(index);
            },
        );
        all
    }

    fn entries(weights: &[u16], order: Order) -> Entries {
        Entries::new(&members(weights), weights, order).unwrap()
    }

    #[test]
    fn the_lightest_member_has_a_hundred_entries_as_far_as_a_change_takes_no_seconds() {
        for (weights, want) in [
            (vec![1], LEAST),
            (vec![1; 40], LEAST),
            (vec![1; 41], SMALL),
            (vec![1, 500], SMALL),
            (vec![1, 65_535], SMALL),
            (vec![1; MOST_IN_SMALL], SMALL),
            (vec![1; MOST_IN_SMALL + 1], LARGE),
            (vec![0, 5, 5, 0], LEAST),
        ] {
            assert_eq!(size(&weights), want, "{} weights", weights.len());
        }
        assert!((2..65).all(|divisor: usize| !LEAST.is_multiple_of(divisor)), "prime");
    }

    #[test]
    fn in_turn_is_the_smooth_order_in_small_pools() {
        let small = among(&entries(&[5, 1, 1], Order::InTurn), |_| true);
        assert_eq!((&small[..7], small.len() % 7), (&[0, 0, 1, 0, 2, 0, 0][..], 0));
        assert_eq!(entries(&[1; 41], Order::InTurn).table, entries(&[1; 41], Order::Hashed).table);
        // A period above the smallest size.
        let weights = [60_000, 59_999, 59_998];
        assert_eq!(entries(&weights, Order::InTurn).table, entries(&weights, Order::Hashed).table);
    }

    #[test]
    fn few_usable_members_share_the_entries_evenly() {
        let entries = among(&entries(&[1; 40], Order::Hashed), |index| index < 2);
        let counts = counts(&entries, 40);
        assert!((1_900..2_200).contains(&counts[0]) && counts[0] + counts[1] == LEAST, "{counts:?}");
    }

    proptest! {
        /// Of any members, some of them unusable.
        #[test]
        fn shares_follow_weights_and_only_entries_of_unusable_members_move(
            weights in prop::collection::vec(prop_oneof![Just(0), 1u16..5, 1u16..500], 1..12),
            down in prop::collection::vec(0usize..12, 0..6),
            another in 0usize..12,
            in_turn in any::<bool>(),
        ) {
            let order = if in_turn { Order::InTurn } else { Order::Hashed };
            let Some(all) = Entries::new(&members(&weights), &weights, order) else { return Ok(()) };
            let whole = among(&all, |_| true);
            let sum: f64 = weights.iter().map(|&weight| f64::from(weight)).sum();
            for (count, &weight) in counts(&whole, weights.len()).into_iter().zip(&weights) {
                let share = f64::from(weight) / sum;
                // The others lack less than an entry each, and what they lack is shared by weight.
                let (exact, off) = (whole.len() as f64 * share, 1.0 + weights.len() as f64 * share);
                prop_assert!((count as f64 - exact).abs() < off, "{} instead of {}", count, exact);
            }
            let part = among(&all, |index| !down.contains(&index));
            let has_usable = (0..weights.len()).any(|index| weights[index] > 0 && !down.contains(&index));
            prop_assert_eq!(part.len(), if has_usable { whole.len() } else { 0 });
            for (now, before) in part.iter().zip(&whole) {
                prop_assert!(!down.contains(now));
                prop_assert!(now == before || down.contains(before));
            }
            // One more that is unusable moves only its own.
            let less = among(&all, |index| !down.contains(&index) && index != another);
            for (now, before) in less.iter().zip(&part) {
                prop_assert!(now == before || *before == another);
            }
        }

        #[test]
        fn the_order_of_members_does_not_matter_where_clients_are_hashed(
            weights in prop::collection::vec(1u16..9, 2..30), turn in 1usize..30, down in 0usize..30,
        ) {
            let mine = members(&weights);
            let turn = turn % mine.len();
            let mut theirs = mine.clone();
            theirs.rotate_left(turn);
            let configured: Vec<u16> = theirs.iter().map(|member| member.weight).collect();
            let down = down % mine.len();
            let keys = |members: &[Member], configured: &[u16]| {
                let entries = Entries::new(members, configured, Order::Hashed).unwrap();
                let entries = among(&entries, |index| members[index].key != mine[down].key);
                entries.iter().map(|index| members[*index].key.clone()).collect::<Vec<_>>()
            };
            prop_assert!(keys(&mine, &weights) == keys(&theirs, &configured));
        }
    }
}
