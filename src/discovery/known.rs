//! Which addresses of a name are in use, by its answers so far. Pure.
//!
//! A name may have more addresses than an answer holds. Its servers then give a part of them, another one each time (round-robin
//! DNS). So an address that one answer lacks may still be a server of the name. The keys of a source's backends are such addresses
//! too, if its answers may be parts.
//!
//! # What an answer does
//!
//! An address is *known* until [`MEMORY`] answers in a row lack it, and for [`STAY_LEAST`] at least. An answer *turns* if it has a
//! known address that the answer before it lacks, and lacks one that the answer before it had. A name is seen to *rotate* once
//! [`TURNS`] of its last 8 answers turn, and [`RETURNING`] addresses have come back in them. Answers before a move do not count for
//! that.
//!
//! An answer is *strange* if it has no known address. Further ones are strange, too, if they have no others than those of strange
//! answers right before them. The first row that fits holds.
//!
//! | the name | the answer | in use from then on | what that means |
//! |---|---|---|---|
//! | does not rotate, or no address has come back | is strange | the answer; the rotation is over | the name has moved |
//! | rotates | is the [`STRANGE`]th strange one in a row | the answer; the rotation is over | the name has moved |
//! | rotates | is strange | those in use and the answer; not those that leave | a server was added, or the name moves |
//! | does not rotate | has known addresses, and none in use | the answer | the name has moved back |
//! | does not rotate | is a part of the answer before it, and not all of it | the answer | addresses are removed |
//! | does not rotate | any other | those in use and the answer; not those that [`MISSES`] answers in a row lack | addresses join and leave |
//! | is seen to rotate now | turns | all that are known; not those that leave | the answer is a part of them |
//! | rotates | has a known address | those in use and the answer; not those that leave | the answer is a part of them |
//!
//! In a rotation an address leaves after [`MISSES`] answers in a row without it, and [`STAY_LEAST`] since the last one that had it.
//! If addresses have come back after a longer absence in this rotation, it leaves after twice the longest one. It leaves in any
//! case [`STAY_MOST`] after the last answer that had it, once [`MISSES`] answers lack it.
//!
//! A rotation is over once the answer has all addresses in use, and fewer than [`TURNS`] of the last 8 answers turn. A name that
//! comes into use with [`RETURNING`] addresses or more counts as rotating, until an answer shows that it does not. An error, or an
//! answer without addresses, is no answer here.
//!
//! # What a reload finds
//!
//! It is no answer: no address leaves for its lack, however often an operator reloads. Its addresses join, and the next answer without
//! one of them ends that, unless the name rotates. [`Known::heard`] also moves the name as the first and the fourth row do.
//!
//! # What that costs
//!
//! - A move of a name that does not rotate is never delayed. Nor is a fail-over there and back between two addresses, however often
//!   it happens. A rotating name moves with the third answer: until then its old addresses are in use, too.
//! - A server that is added to a rotating name joins it. Three that are added at once move it, where three answers in a row have one
//!   of them each.
//! - A server that was taken out of a name that does not rotate leaves at once. It leaves after 3 answers if others join with the same
//!   answer.
//! - Where each answer has one of N addresses, the name moves N + 1 times before it is seen to rotate. Beyond [`MEMORY`] addresses it
//!   never is, and it moves with each answer. The same holds beyond [`KNOWN_MAX`] addresses in parts.
//! - Two sets of two addresses or more in turn, with each answer another one, count as a rotation.
//! - A rotating name that is reduced to known addresses keeps the others for 2 to 15 minutes.
//!
//! # Bounds
//!
//! At most [`KNOWN_MAX`] addresses of a name are known beside those of its last answer. Beyond that those are forgotten that were
//! absent for longest.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

/// An address that so many answers in a row lack is forgotten.
const MEMORY: u32 = 32;
/// An address leaves after so many answers in a row without it, at least.
const MISSES: u32 = 3;
/// So many turns among the last 8 answers are a rotation.
const TURNS: u32 = 3;
/// So many addresses come back in a rotation. Two that take turns are a fail-over there and back.
const RETURNING: usize = 3;
/// In a rotation so many strange answers in a row are a move.
const STRANGE: u32 = 3;
/// In a rotation an address stays for so long after the last answer that had it, at least.
const STAY_LEAST: Duration = Duration::from_secs(120);
/// The same, at most. It is no shorter than [`MISSES`] of the longest times between two look-ups of a name.
const STAY_MOST: Duration = Duration::from_secs(900);
/// The most addresses that are known beside those of the last answer.
const KNOWN_MAX: usize = 64;

/// The known addresses of a name.
#[derive(Debug)]
pub struct Known<A> {
    addresses: BTreeMap<A, Address>,
    /// Whether each of the last 8 answers turned; the newest is the lowest bit.
    turns: u8,
    /// The longest absence in the rotation, in answers; `None`: the name does not rotate.
    rotation: Option<u32>,
    /// Strange answers in a row.
    strange: u32,
}

#[derive(Debug)]
struct Address {
    is_in_use: bool,
    /// When an answer last had it.
    seen: Instant,
    /// Answers in a row without it.
    missed: u32,
    /// Whether it came back with each of the last 8 answers, as `turns`.
    returns: u8,
    /// It came with the strange answers since the last one that was not.
    is_strange: bool,
}

impl<A: Ord + Clone> Known<A> {
    /// These are in use.
    pub fn in_use_are(addresses: impl IntoIterator<Item = A>, now: Instant) -> Known<A> {
        let address = |at| (at, Address { is_in_use: true, ..Address::new(0, now) });
        let addresses: BTreeMap<A, Address> = addresses.into_iter().map(address).collect();
        // They may be what earlier answers had in parts: before an upgrade, or before a source began anew.
        let rotation = (addresses.len() >= RETURNING).then_some(0);
        Known { addresses, turns: 0, rotation, strange: 0 }
    }

    /// Those in use.
    pub fn in_use(&self) -> BTreeSet<A> {
        self.addresses.iter().filter(|(_, address)| address.is_in_use).map(|(at, _)| at.clone()).collect()
    }

    /// An answer that was due.
    pub fn answered(&mut self, answer: &BTreeSet<A>, now: Instant) {
        if answer.is_empty() {
            return;
        }
        self.strange = if self.has(answer, |address| !address.is_strange) { 0 } else { self.strange + 1 };
        let has_moved = self.strange > 0 && (!self.has_returns() || self.strange == STRANGE);
        let stays = self.has(answer, |address| address.is_in_use);
        let shrinks = self.shrinks_to(answer);
        if has_moved {
            self.strange = 0;
            // A rotation before a move says nothing of the addresses after it.
            self.turns = 0;
            self.addresses.values_mut().for_each(|address| address.returns = 0);
        }
        let absence = self.count(answer, now);
        let rotated = self.rotation.is_some();
        self.rotation = match self.rotation {
            _ if has_moved => None,
            None if !self.is_seen_to_rotate() => None,
            before => Some(before.unwrap_or_default().max(absence)),
        };
        self.forget(answer);
        let (rotation, is_strange) = (self.rotation, self.strange > 0);
        let moves = has_moved || rotation.is_none() && (!stays || shrinks);
        for (at, address) in &mut self.addresses {
            let may_stay = match rotation {
                Some(longest) => (address.is_in_use || !rotated) && !address.leaves(longest, now),
                None => address.is_in_use && address.missed < MISSES,
            };
            address.is_in_use = answer.contains(at) || !moves && may_stay;
            address.is_strange = is_strange && (address.is_strange || answer.contains(at));
        }
        let has_all = self.addresses.iter().all(|(at, address)| !address.is_in_use || answer.contains(at));
        self.rotation = rotation.filter(|_| !has_all || self.turns.count_ones() >= TURNS);
    }

    /// What a reload finds, which moves the name if it shows that.
    pub fn heard(&mut self, found: &BTreeSet<A>, now: Instant) {
        let is_strange = !self.has(found, |_| true) && !self.has_returns();
        if is_strange || self.rotation.is_none() && !self.has(found, |address| address.is_in_use) {
            self.rotation = None;
            self.addresses.values_mut().for_each(|address| address.is_in_use = false);
        }
        self.join(found, now);
    }

    /// What a reload finds, for a name that it does not move.
    pub fn join(&mut self, found: &BTreeSet<A>, now: Instant) {
        for at in found {
            let address = self.addresses.entry(at.clone()).or_insert_with(|| Address::new(MISSES, now));
            if !address.is_in_use {
                // The next answer decides.
                address.missed = address.missed.max(MISSES);
            }
            (address.is_in_use, address.seen) = (true, now);
        }
        self.forget(found);
    }

    /// What the last answer brought into use is refused: these are in use again.
    pub fn refuse(&mut self, present: &BTreeSet<A>, now: Instant) {
        self.strange = 0;
        self.addresses.retain(|at, address| !address.is_in_use || present.contains(at));
        for at in present {
            self.addresses.entry(at.clone()).or_insert_with(|| Address::new(0, now)).is_in_use = true;
        }
    }

    fn has(&self, answer: &BTreeSet<A>, which: impl Fn(&Address) -> bool) -> bool {
        answer.iter().any(|at| self.addresses.get(at).is_some_and(&which))
    }

    /// Whether the answer is a part of the one before it, and not all of it.
    fn shrinks_to(&self, answer: &BTreeSet<A>) -> bool {
        let before = self.addresses.values().filter(|address| address.missed == 0).count();
        let is_part = answer.iter().all(|at| self.addresses.get(at).is_some_and(|address| address.missed == 0));
        is_part && answer.len() < before
    }

    /// Notes which addresses the answer has. Returns the longest absence that it ends.
    fn count(&mut self, answer: &BTreeSet<A>, now: Instant) -> u32 {
        let (mut absence, mut leaves) = (0, false);
        self.addresses.retain(|at, address| {
            if answer.contains(at) {
                absence = absence.max(address.missed);
                address.returns = address.returns << 1 | u8::from(address.missed > 0);
                (address.missed, address.seen) = (0, now);
                return true;
            }
            leaves |= address.missed == 0;
            address.returns <<= 1;
            address.missed = address.missed.saturating_add(1);
            address.missed < MEMORY || address.is_recent(now)
        });
        for at in answer {
            self.addresses.entry(at.clone()).or_insert_with(|| Address::new(0, now));
        }
        self.turns = self.turns << 1 | u8::from(absence > 0 && leaves);
        absence
    }

    /// Whether it rotates, and addresses have come back meanwhile.
    fn has_returns(&self) -> bool {
        self.rotation.is_some_and(|longest| longest > 0)
    }

    fn is_seen_to_rotate(&self) -> bool {
        let returning = self.addresses.values().filter(|address| address.returns > 0).count();
        self.turns & 1 == 1 && self.turns.count_ones() >= TURNS && returning >= RETURNING
    }

    fn forget(&mut self, answer: &BTreeSet<A>) {
        let is_absent = |(at, address): &(&A, &Address)| address.missed > 0 && !answer.contains(at);
        let absent = self.addresses.iter().filter(is_absent).map(|(at, address)| (address.missed, at.clone()));
        let mut absent: Vec<(u32, A)> = absent.collect();
        if absent.len() > KNOWN_MAX {
            absent.sort_unstable();
            for (_, at) in absent.drain(KNOWN_MAX..) {
                self.addresses.remove(&at);
            }
        }
    }
}

impl Address {
    /// One that so many answers in a row lack.
    fn new(missed: u32, now: Instant) -> Address {
        Address { is_in_use: false, seen: now, missed, returns: 0, is_strange: false }
    }

    /// Whether it leaves a rotation with this longest absence.
    fn leaves(&self, longest: u32, now: Instant) -> bool {
        let is_long = self.missed >= longest.saturating_mul(2) || now.saturating_duration_since(self.seen) >= STAY_MOST;
        self.missed >= MISSES && !self.is_recent(now) && is_long
    }

    fn is_recent(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.seen) < STAY_LEAST
    }
}

#[cfg(test)]
mod tests;
