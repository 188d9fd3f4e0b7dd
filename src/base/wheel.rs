//! A hierarchical timer wheel: one deadline per slot number, set and cancelled in constant time.
//!
//! Six levels of 64 buckets, the lowest 1.024 ms (a "grain") wide, as in Varghese & Lauck, "Hashed and Hierarchical
//! Timing Wheels" (1987), scheme 7. A deadline is filed at the level of the highest six-bit digit in which it differs
//! from now. When time reaches its bucket, it fires or moves down. A deadline more than two years away is filed again
//! every two years.
//!
//! Buckets are doubly linked lists through a table indexed by slot number. Nothing is allocated once the table has
//! grown to the number of connections, and a removed deadline leaves nothing behind.
//!
//! A set deadline never fires early; it fires at the first `advance` at or after it.

use super::Tick;
use std::time::Duration;

const LEVELS: usize = 6;
const BITS: u32 = 6;
const BUCKETS: usize = 1 << BITS;
/// log2 of the microseconds in a grain.
const GRAIN: u32 = 10;
/// The furthest that a deadline is filed ahead, in grains: one top bucket less than a full turn. In the current bucket
/// it would be opened again and again.
const HORIZON: u64 = (1 << (BITS * LEVELS as u32)) - (1 << (BITS * (LEVELS as u32 - 1))) - 1;
const NONE: u32 = u32::MAX;

#[derive(Clone, Copy)]
struct Node {
    deadline: Tick,
    bucket: u16,
    prev: u32,
    next: u32,
}

const IDLE: u16 = u16::MAX;
const UNSET: Node = Node { deadline: Tick(0), bucket: IDLE, prev: NONE, next: NONE };

/// A timer wheel. Slot numbers are the caller's, dense from zero.
pub struct Wheel {
    /// The grain that time has reached.
    now: u64,
    nodes: Vec<Node>,
    heads: [[u32; BUCKETS]; LEVELS],
    /// Per level, a bit for each bucket that is not empty.
    occupied: [u64; LEVELS],
}

impl Wheel {
    /// An empty wheel at time `now`.
    pub fn new(now: Tick) -> Wheel {
        Wheel { now: now.0 >> GRAIN, nodes: Vec::new(), heads: [[NONE; BUCKETS]; LEVELS], occupied: [0; LEVELS] }
    }

    /// Sets the slot's deadline and replaces an earlier one.
    pub fn set(&mut self, slot: u32, deadline: Tick) {
        let index = slot as usize;
        if index >= self.nodes.len() {
            self.nodes.resize(index + 1, UNSET);
        }
        self.unlink(slot);
        self.nodes[index].deadline = deadline;
        self.link(slot);
    }

    /// Removes the slot's deadline, if it has one.
    pub fn cancel(&mut self, slot: u32) {
        if (slot as usize) < self.nodes.len() {
            self.unlink(slot);
        }
    }

    /// The slot's deadline.
    pub fn deadline(&self, slot: u32) -> Option<Tick> {
        self.nodes.get(slot as usize).filter(|node| node.bucket != IDLE).map(|node| node.deadline)
    }

    /// How long the caller may sleep from `now` before the next `advance` has work; `None` if nothing is set. For
    /// deadlines more than 64 ms away the caller may wake early, for a bucket that only moves down. It never wakes
    /// later than a grain after the deadline.
    pub fn sleep(&self, now: Tick) -> Option<Duration> {
        let next = self.next_stop()?;
        Some(Tick(next << GRAIN).since(now))
    }

    /// Moves time forward and appends slots whose deadlines have come, in the order of the deadlines' buckets. It touches `most`
    /// slots; false: there are more, for which the caller comes again.
    pub fn advance(&mut self, now: Tick, most: usize, fired: &mut Vec<u32>) -> bool {
        let (now, mut left) = (now.0 >> GRAIN, most);
        while let Some(stop) = self.next_stop().filter(|&stop| stop <= now) {
            self.now = self.now.max(stop);
            if !self.open_bucket(&mut left, fired) {
                return false;
            }
        }
        self.now = self.now.max(now);
        true
    }

    /// The time at which the next non-empty bucket begins, in grains.
    fn next_stop(&self) -> Option<u64> {
        (0..LEVELS)
            .filter(|&level| self.occupied[level] != 0)
            .map(|level| {
                let shift = BITS * level as u32;
                let here = (self.now >> shift) % BUCKETS as u64;
                // Buckets lie ahead of now and wrap once: rotate so that the current bucket is bit 0.
                let ahead = u64::from(self.occupied[level].rotate_right(here as u32).trailing_zeros());
                ((self.now >> shift) + ahead) << shift
            })
            .map(|stop| stop.max(self.now))
            .min()
    }

    /// Fires or moves down the deadlines of the buckets that begin now, the highest level first, until none is `left`. Then the
    /// rest stays in its bucket, and time stands still.
    fn open_bucket(&mut self, left: &mut usize, fired: &mut Vec<u32>) -> bool {
        for level in (0..LEVELS).rev() {
            let shift = BITS * level as u32;
            let bucket = ((self.now >> shift) % BUCKETS as u64) as usize;
            if self.occupied[level] & (1 << bucket) == 0 {
                continue;
            }
            // A slot that moves down never comes back into its bucket while that is the one of now.
            while let slot = self.heads[level][bucket]
                && slot != NONE
            {
                if *left == 0 {
                    return false;
                }
                *left -= 1;
                self.unlink(slot);
                if grain(self.nodes[slot as usize].deadline) <= self.now {
                    fired.push(slot);
                } else {
                    self.link(slot);
                }
            }
        }
        true
    }

    fn link(&mut self, slot: u32) {
        // A deadline beyond the horizon is filed again when its bucket opens; `deadline` itself stays exact.
        let at = grain(self.nodes[slot as usize].deadline).clamp(self.now, self.now + HORIZON);
        let differs = 63 - ((at ^ self.now) | 1).leading_zeros();
        let level = ((differs / BITS) as usize).min(LEVELS - 1);
        let bucket = ((at >> (BITS * level as u32)) % BUCKETS as u64) as usize;
        let head = std::mem::replace(&mut self.heads[level][bucket], slot);
        if head != NONE {
            self.nodes[head as usize].prev = slot;
        }
        self.occupied[level] |= 1 << bucket;
        let node = &mut self.nodes[slot as usize];
        (node.bucket, node.prev, node.next) = ((level * BUCKETS + bucket) as u16, NONE, head);
    }

    fn unlink(&mut self, slot: u32) {
        let Node { bucket, prev, next, deadline } = self.nodes[slot as usize];
        if bucket == IDLE {
            return;
        }
        let (level, index) = (bucket as usize / BUCKETS, bucket as usize % BUCKETS);
        if next != NONE {
            self.nodes[next as usize].prev = prev;
        }
        if prev != NONE {
            self.nodes[prev as usize].next = next;
        } else {
            self.heads[level][index] = next;
            if next == NONE {
                self.occupied[level] &= !(1 << index);
            }
        }
        self.nodes[slot as usize] = Node { deadline, ..UNSET };
    }
}

/// The first grain that begins at or after the deadline.
fn grain(deadline: Tick) -> u64 {
    deadline.0.div_ceil(1 << GRAIN)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    /// A tick from a number of grains.
    fn at(grains: u64) -> Tick {
        Tick(grains.saturating_mul(1 << GRAIN))
    }

    fn fired_at(wheel: &mut Wheel, now: u64) -> Vec<u32> {
        let mut fired = Vec::new();
        while !wheel.advance(at(now), 1, &mut fired) {}
        fired
    }

    #[test]
    fn fires_at_its_time_and_not_before() {
        let mut wheel = Wheel::new(Tick(0));
        for (slot, deadline) in [(0, 1), (1, 63), (2, 64), (3, 4096), (4, 3_600_000)] {
            wheel.set(slot, at(deadline));
            assert!(fired_at(&mut wheel, deadline - 1).is_empty());
            assert_eq!(fired_at(&mut wheel, deadline), [slot]);
        }
        assert_eq!(wheel.sleep(at(0)), None);
    }

    #[test]
    fn a_deadline_within_a_grain_waits_for_the_next() {
        let mut wheel = Wheel::new(Tick(0));
        wheel.set(0, Tick(1025));
        assert!(fired_at(&mut wheel, 1).is_empty());
        assert_eq!(fired_at(&mut wheel, 2), [0]);
    }

    #[test]
    fn a_past_deadline_fires_at_once_and_a_far_one_stays() {
        let mut wheel = Wheel::new(at(1_000));
        wheel.set(0, at(3));
        wheel.set(1, Tick(u64::MAX));
        assert_eq!(wheel.sleep(at(1_000)), Some(Duration::ZERO));
        assert_eq!(fired_at(&mut wheel, 1_000), [0]);
        assert!(fired_at(&mut wheel, 1_000 + 3 * HORIZON).is_empty());
        assert_eq!(wheel.deadline(1), Some(Tick(u64::MAX)));
    }

    #[derive(Clone, Debug)]
    enum Step {
        Set(u32, u64),
        Cancel(u32),
        Advance(u64),
    }

    fn step() -> impl Strategy<Value = Step> {
        let span = prop_oneof![0u64..100, 0u64..10_000, 0u64..5_000_000, 0u64..(1 << 40)];
        prop_oneof![
            (0u32..20, span.clone()).prop_map(|(slot, after)| Step::Set(slot, after)),
            (0u32..20).prop_map(Step::Cancel),
            span.prop_map(Step::Advance),
        ]
    }

    proptest! {
        #[test]
        fn behaves_as_a_sorted_map_of_deadlines(start in 0u64..1 << 40, steps in prop::collection::vec(step(), 1..120)) {
            let mut wheel = Wheel::new(at(start));
            let mut model: BTreeMap<u32, u64> = BTreeMap::new();
            let mut now = start;
            for step in steps {
                match step {
                    Step::Set(slot, after) => {
                        wheel.set(slot, at(now + after));
                        model.insert(slot, now + after);
                    }
                    Step::Cancel(slot) => {
                        wheel.cancel(slot);
                        model.remove(&slot);
                    }
                    Step::Advance(by) => {
                        // Sleeping as the wheel says must never miss a deadline.
                        if let (Some(sleep), Some(first)) = (wheel.sleep(at(now)), model.values().min()) {
                            prop_assert!(at(now) + sleep <= at(*first).max(at(now)));
                        }
                        now += by;
                        let mut fired = fired_at(&mut wheel, now);
                        fired.sort_unstable();
                        let due: Vec<u32> = model.iter().filter(|(_, at)| **at <= now).map(|(slot, _)| *slot).collect();
                        prop_assert_eq!(fired, due);
                        model.retain(|_, at| *at > now);
                    }
                }
                prop_assert_eq!(wheel.sleep(at(now)).is_some(), !model.is_empty());
            }
        }
    }
}
