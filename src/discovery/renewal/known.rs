//! Which addresses of a name are in use, by its answers so far. Pure.
//!
//! A name may have more addresses than an answer holds. Its servers then give a part of them, another one each time (round-robin
//! DNS). An address that one answer lacks may still be a server of the name.
//!
//! # What an answer does
//!
//! An address is *known* while one of the last [`MEMORY`] answers had it. An answer *returns* if it has a known address, but none
//! of the answer before it. A name *rotates* while [`RETURNS`] of its last 8 answers return.
//!
//! | the answer has | in use from then on | what that means |
//! |---|---|---|
//! | no known address | the answer | the name has moved |
//! | an address in use | those in use, and the answer; not those that leave | addresses join and leave |
//! | known addresses only from before, and the name does not rotate | the answer | the name has moved back |
//! | the same, and the name rotates | all that are known; not those that leave | the answer is a part of them |
//!
//! An address leaves after [`MISSES`] answers in a row without it. If addresses of this name have come back after a longer
//! absence, it leaves after twice the longest one. An address forgets its absence by as many answers that have it. An error, or
//! an answer without addresses, is no answer here.
//!
//! # What that costs
//!
//! - A move is never delayed: neither to other addresses, nor back and forth with 4 answers between two moves.
//! - A server that was taken out of a name with several addresses is in use for 3 answers more.
//! - Where each answer has one of N addresses, the name moves N times before it is known to rotate, and a few times more. Beyond
//!   [`MEMORY`] addresses it never is, and it moves with each answer. The same holds beyond [`KNOWN_MAX`] addresses in parts.
//! - A rotating name that is reduced to known addresses keeps the others for twice their longest absence.
//!
//! # Bounds
//!
//! At most [`KNOWN_MAX`] addresses of a name are known, besides those of its last answer. Beyond that those are forgotten that were
//! absent for longest.

use super::AddressSet;
use std::collections::BTreeMap;
use std::net::SocketAddr;

/// An address that so many answers in a row lack is forgotten.
const MEMORY: u8 = 32;
/// An address leaves after so many answers in a row without it, at least.
const MISSES: u8 = 3;
/// So many returns among the last 8 answers are a rotation.
const RETURNS: u32 = 3;
/// The most addresses that are known.
const KNOWN_MAX: usize = 64;

/// The known addresses of a name.
#[derive(Debug, Default)]
pub struct Known {
    addresses: BTreeMap<SocketAddr, Address>,
    /// Whether each of the last 8 answers returned; the newest is the lowest bit.
    returns: u8,
}

#[derive(Debug, Default)]
struct Address {
    is_in_use: bool,
    /// Answers in a row without it.
    missed: u8,
    /// How many answers it was absent for before it came back, less those that have it since.
    absence: u8,
}

impl Known {
    /// These are in use.
    pub fn in_use_are(addresses: impl IntoIterator<Item = SocketAddr>) -> Known {
        let address = |at| (at, Address { is_in_use: true, ..Address::default() });
        Known { addresses: addresses.into_iter().map(address).collect(), returns: 0 }
    }

    /// Those in use.
    pub fn in_use(&self) -> AddressSet {
        self.addresses.iter().filter(|(_, address)| address.is_in_use).map(|(at, _)| *at).collect()
    }

    /// An answer that was due.
    pub fn answered(&mut self, answer: &AddressSet) {
        let returns = self.has(answer, |_| true) && !self.has(answer, |address| address.missed == 0);
        self.returns = self.returns << 1 | u8::from(returns);
        self.take(answer, |address| {
            address.missed += 1;
            address.missed < MEMORY
        });
    }

    /// An answer at any time: a reload asks, too. No address leaves for its lack, however often an operator reloads.
    pub fn heard(&mut self, answer: &AddressSet) {
        self.take(answer, |_| true);
    }

    /// `lacks`: what the answer means for an address that it lacks. False: the address is forgotten.
    fn take(&mut self, answer: &AddressSet, lacks: impl Fn(&mut Address) -> bool) {
        let (is_known, stays) = (self.has(answer, |_| true), self.has(answer, |address| address.is_in_use));
        self.addresses.retain(|at, address| answer.contains(at) || lacks(address));
        for at in answer {
            let address = self.addresses.entry(*at).or_default();
            address.absence = match std::mem::take(&mut address.missed) {
                0 => address.absence.saturating_sub(1),
                missed => address.absence.max(missed),
            };
        }
        self.forget(answer);
        let rotates = is_known && self.returns.count_ones() >= RETURNS;
        let longest = self.addresses.values().map(|address| address.absence).max().unwrap_or_default();
        let leaves = MISSES.max(longest.saturating_mul(2));
        for (at, address) in &mut self.addresses {
            let is_kept = if stays { address.is_in_use } else { rotates };
            address.is_in_use = answer.contains(at) || is_kept && address.missed < leaves;
        }
    }

    fn has(&self, answer: &AddressSet, which: impl Fn(&Address) -> bool) -> bool {
        answer.iter().any(|at| self.addresses.get(at).is_some_and(&which))
    }

    fn forget(&mut self, answer: &AddressSet) {
        while self.addresses.len() > KNOWN_MAX.max(answer.len()) {
            let absent = self.addresses.iter().filter(|(at, _)| !answer.contains(at));
            let Some(at) = absent.max_by_key(|(_, address)| address.missed).map(|(at, _)| *at) else { return };
            self.addresses.remove(&at);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn set(numbers: impl IntoIterator<Item = u8>) -> AddressSet {
        numbers.into_iter().map(|last| SocketAddr::from(([10, 0, 0, last], 0))).collect()
    }

    fn known(numbers: impl IntoIterator<Item = u8>) -> Known {
        Known::in_use_are(set(numbers))
    }

    /// What is in use after each of these answers.
    fn after(known: &mut Known, answers: &[&[u8]]) -> Vec<Vec<u8>> {
        let one = |answer: &&[u8]| {
            known.answered(&set(answer.iter().copied()));
            numbers(known)
        };
        answers.iter().map(one).collect()
    }

    fn numbers(known: &Known) -> Vec<u8> {
        let last = |at: SocketAddr| match at.ip() {
            std::net::IpAddr::V4(ip) => ip.octets()[3],
            std::net::IpAddr::V6(_) => 0,
        };
        known.in_use().into_iter().map(last).collect()
    }

    #[test]
    fn an_answer_without_a_known_address_replaces_all_at_once() {
        let mut one = known([1]);
        assert_eq!(after(&mut one, &[&[2], &[3, 4], &[3, 4], &[5]]), [vec![2], vec![3, 4], vec![3, 4], vec![5]]);
        let mut rotates = known([1]);
        let turns: Vec<[u8; 1]> = (0..40).map(|turn| [turn % 4 + 1]).collect();
        turns.iter().for_each(|turn| rotates.answered(&set(*turn)));
        assert_eq!(numbers(&rotates), [1, 2, 3, 4]);
        assert_eq!(after(&mut rotates, &[&[9], &[9], &[9]]), [[9], [9], [9]], "a rotation moves as fast");
    }

    #[test]
    fn an_address_joins_at_once_and_leaves_after_three_answers_without_it() {
        let answers: [&[u8]; 5] = [&[2, 3], &[2, 3], &[3], &[3], &[3]];
        let in_use = [vec![1, 2, 3], vec![1, 2, 3], vec![2, 3], vec![2, 3], vec![3]];
        assert_eq!(after(&mut known([1, 2]), &answers), in_use);
        // One that comes back in time begins anew.
        let answers: [&[u8]; 6] = [&[1], &[1, 2], &[1], &[1], &[1, 2], &[1]];
        assert_eq!(after(&mut known([1, 2]), &answers), vec![[1, 2]; 6]);
    }

    #[test]
    fn a_name_that_moves_back_and_forth_with_pauses_does_so_at_once() {
        let mut name = known([1]);
        for turn in 0..60 {
            let at = 1 + turn / 4 % 2;
            name.answered(&set([at]));
            assert_eq!(numbers(&name), [at], "answer {turn}");
        }
    }

    #[test]
    fn a_rotation_that_is_reduced_to_one_address_keeps_the_others_for_twice_their_absence() {
        let mut name = known([1]);
        (0..80).for_each(|turn| name.answered(&set([turn % 8 + 1])));
        let turns = (1..=32).find(|_| {
            name.answered(&set([8]));
            numbers(&name) == [8]
        });
        assert_eq!(turns, Some(13), "the last one before it had missed one already");
    }

    #[test]
    fn an_answer_out_of_turn_makes_no_address_leave() {
        let mut name = known([1, 2]);
        (0..100).for_each(|_| name.heard(&set([2, 3])));
        assert_eq!(numbers(&name), [1, 2, 3]);
        name.heard(&set([4]));
        assert_eq!(numbers(&name), [4], "but a move is one");
    }

    #[test]
    fn more_addresses_than_fit_are_forgotten_by_their_absence() {
        let mut name = known([1]);
        for turn in 0..200 {
            name.answered(&set([1, 2 + turn]));
            assert!(name.addresses.len() <= KNOWN_MAX);
        }
        name.answered(&set(1..=200));
        assert_eq!((name.addresses.len(), numbers(&name).len()), (200, 200), "an answer is taken as a whole");
    }

    proptest! {
        /// Whatever the answers are: the last one is in use; without a known address it alone is. An address that was in use leaves
        /// by a move, or after three answers without it.
        #[test]
        fn no_answer_is_left_out_and_no_address_leaves_early(
            answers in prop::collection::vec(prop::collection::btree_set(1u8..12, 1..5), 1..120),
        ) {
            let mut name = known([1]);
            let mut past = vec![set([1])];
            for answer in answers {
                let (answer, before) = (set(answer), name.in_use());
                name.answered(&answer);
                let now = name.in_use();
                prop_assert!(answer.is_subset(&now));
                let recent = || past.iter().rev().take(usize::from(MEMORY));
                if recent().all(|other| other.is_disjoint(&answer)) {
                    prop_assert_eq!(&now, &answer);
                }
                if !answer.is_disjoint(&before) {
                    let left = before.difference(&now);
                    for at in left {
                        prop_assert!(past.iter().rev().take(2).all(|other| !other.contains(at)), "{at}");
                    }
                }
                past.push(answer);
                let all: AddressSet = past.iter().rev().take(usize::from(MEMORY)).flatten().copied().collect();
                prop_assert!(now.is_subset(&all), "in use, and not known");
            }
        }

        /// A rotation through parts of any size settles, and then nothing changes any more.
        #[test]
        fn a_rotation_in_turn_settles(count in 2u8..24, part in 1u8..8, first in 0u8..24) {
            let part = part.min(count);
            let answer = |turn: u32| set((0..part).map(|next| ((turn * u32::from(part) + u32::from(next)) % u32::from(count)) as u8));
            let mut name = Known::in_use_are(answer(first.into()));
            for turn in 1..200 {
                name.answered(&answer(u32::from(first) + turn));
                if turn > 2 * u32::from(count) + 8 {
                    prop_assert_eq!(numbers(&name).len(), usize::from(count), "answer {}", turn);
                }
            }
        }

        /// Once the answers stay the same, they alone are in use.
        #[test]
        fn what_is_answered_for_long_is_all_that_is_in_use(
            answers in prop::collection::vec(prop::collection::btree_set(1u8..12, 1..5), 0..80),
            last in prop::collection::btree_set(1u8..12, 1..5),
        ) {
            let mut name = known([1]);
            answers.into_iter().for_each(|answer| name.answered(&set(answer)));
            (0..MEMORY).for_each(|_| name.answered(&set(last.clone())));
            prop_assert_eq!(name.in_use(), set(last));
        }
    }
}
