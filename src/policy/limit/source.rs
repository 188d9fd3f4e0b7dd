//! Limits per source: connections at once, and new connections per second.
//!
//! A source is an IPv4 address or an IPv6 /64, the least that a network gives to one customer. All workers share a
//! listener's table. It is used once per accepted connection, so a mutex per shard is cheap enough.
//!
//! # The rate
//!
//! A token bucket that holds one second's worth and starts full. Its level is counted in millionths of a token: a rate
//! of N/s adds exactly N of them per microsecond, so nothing is rounded. A refused attempt takes none.
//!
//! # The bound
//!
//! The table holds at most [`SOURCES_MAX`] sources, in [`SHARDS`] equal shards. A keyed hash chooses the shard, so that
//! an attacker can't fill a chosen one.
//!
//! * A source with connections is never removed: its count would be lost.
//! * A source without connections is kept for the level of its bucket. After an idle second the bucket is full, as a
//!   new source's is, so it is removed when others arrive.
//! * A full shard removes an idle source even earlier, about the one that is idle longest. That source gains the rest
//!   of one bucket.
//! * If all sources of a full shard have connections, a new one is **admitted and not counted**; [`Sources::untracked`]
//!   counts these. Refusing instead would let an attacker that fills the table (a quarter of a million connections) lock
//!   out all others. `max_connections` bounds them.
//!
//! # Invariants
//!
//! * A source's `active` is the number of its [`SourceId`]s that were not returned.
//! * `idle` has a source at most once, and has each one without connections. So it is no longer than the table.

use super::{Admitted, Enforcement, Reason};
use crate::base::Tick;
use parking_lot::Mutex;
use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// The most sources in a listener's table.
pub const SOURCES_MAX: usize = 262_144;

/// Shards, each with a lock.
pub const SHARDS: usize = 64;

/// Parts of a token in which the level is counted.
const PARTS: u64 = 1_000_000;

/// The time in which an empty bucket fills, whatever the rate.
const REFILL: Duration = Duration::from_secs(1);

/// Idle sources that are checked when a connection arrives: more than one, so that the table shrinks.
const FORGET: usize = 2;

/// The limits of a source.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rules {
    /// The most connections at once.
    pub connections: Option<u32>,
    /// The most new connections per second, and at once.
    pub per_second: Option<u32>,
}

/// The table of one listener.
#[derive(Debug)]
pub struct Sources {
    rules: Rules,
    table: Arc<Table>,
}

/// The state that survives a change of the rules.
#[derive(Debug)]
struct Table {
    shards: Box<[Mutex<Shard>]>,
    /// The most sources in a shard.
    room: usize,
    hasher: RandomState,
    untracked: AtomicU64,
}

/// A source for which one connection is counted. Return it with [`Sources::leave`].
#[derive(Debug, PartialEq, Eq)]
#[must_use]
pub struct SourceId(Source);

/// A source of connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Source {
    V4(u32),
    /// The upper half of an IPv6 address.
    V6(u64),
}

#[derive(Debug, Default)]
struct Shard {
    known: HashMap<Source, Entry>,
    /// Sources without connections, the longest unchecked first. One that has connections again stays until it is
    /// checked.
    idle: VecDeque<Source>,
}

#[derive(Debug)]
struct Entry {
    active: u32,
    /// The level in millionths of a token, at time `at`.
    level: u64,
    at: Tick,
    /// Whether it is in `idle`.
    listed: bool,
}

impl Sources {
    /// An empty table.
    pub fn new(rules: Rules) -> Arc<Sources> {
        Sources::with_room(rules, SHARDS, SOURCES_MAX / SHARDS)
    }

    fn with_room(rules: Rules, shards: usize, room: usize) -> Arc<Sources> {
        let shards = (0..shards).map(|_| Mutex::default()).collect();
        let table = Table { shards, room, hasher: RandomState::new(), untracked: AtomicU64::new(0) };
        Arc::new(Sources { rules, table: Arc::new(table) })
    }

    /// The same table with other rules. Connections that a worker still admits by the old rules count too.
    pub fn successor(&self, rules: Rules) -> Arc<Sources> {
        Arc::new(Sources { rules, table: self.table.clone() })
    }

    /// The limits in force.
    pub fn rules(&self) -> Rules {
        self.rules
    }

    /// The number of sources in the table.
    pub fn len(&self) -> usize {
        self.table.shards.iter().map(|shard| shard.lock().known.len()).sum()
    }

    /// Whether the table is empty.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Clients that were admitted uncounted, because the table was full of sources with connections.
    pub fn untracked(&self) -> u64 {
        self.table.untracked.load(Ordering::Relaxed)
    }

    /// Counts one more connection from `ip`, unless its source exceeds a limit. In a dry run it is counted even then,
    /// with the reason. A result without source and reason: admitted, not counted.
    pub fn enter(&self, ip: IpAddr, now: Tick, enforcement: Enforcement) -> Result<Admitted, Reason> {
        let source = Source::of(ip);
        let mut shard = self.shard(source).lock();
        shard.forget(now);
        if !shard.known.contains_key(&source) && shard.known.len() >= self.table.room && !shard.make_room() {
            self.table.untracked.fetch_add(1, Ordering::Relaxed);
            return Ok(Admitted::default());
        }
        let entry = shard.known.entry(source).or_insert_with(|| Entry::new(self.rules, now));
        match entry.take(self.rules, now) {
            Some(reason) if enforcement == Enforcement::Enforced => {
                if entry.active == 0 && !entry.listed {
                    // Only a limit of zero refuses an unknown source.
                    shard.known.remove(&source);
                }
                Err(reason)
            }
            would_refuse => {
                entry.active += 1;
                Ok(Admitted { source: Some(SourceId(source)), would_refuse })
            }
        }
    }

    /// Counts a connection from `ip` that was admitted by another process. It takes no token. `None`: the table is full.
    pub fn enter_anyway(&self, ip: IpAddr, now: Tick) -> Option<SourceId> {
        let source = Source::of(ip);
        let mut shard = self.shard(source).lock();
        if !shard.known.contains_key(&source) && shard.known.len() >= self.table.room && !shard.make_room() {
            self.table.untracked.fetch_add(1, Ordering::Relaxed);
            return None;
        }
        shard.known.entry(source).or_insert_with(|| Entry::new(self.rules, now)).active += 1;
        Some(SourceId(source))
    }

    /// The reason for which [`Sources::enter`] would refuse a connection from `ip`. Nothing is counted.
    pub fn preview(&self, ip: IpAddr, now: Tick) -> Option<Reason> {
        let source = Source::of(ip);
        let shard = self.shard(source).lock();
        match shard.known.get(&source) {
            Some(entry) => entry.check(self.rules, now).1,
            None if shard.is_full(self.table.room) => None,
            None => Entry::new(self.rules, now).check(self.rules, now).1,
        }
    }

    /// Ends a connection that [`Sources::enter`] counted, in this table or a predecessor.
    pub fn leave(&self, SourceId(source): SourceId) {
        let rated = self.rules.per_second.is_some();
        let mut shard = self.shard(source).lock();
        let Shard { known, idle } = &mut *shard;
        let Some(entry) = known.get_mut(&source) else {
            debug_assert!(false, "a source with connections was removed");
            return;
        };
        entry.active = entry.active.saturating_sub(1);
        if entry.active > 0 {
            return;
        }
        if !rated && !entry.listed {
            known.remove(&source);
        } else if !std::mem::replace(&mut entry.listed, true) {
            idle.push_back(source);
        }
    }

    fn shard(&self, source: Source) -> &Mutex<Shard> {
        let hash = self.table.hasher.hash_one(source) as usize;
        &self.table.shards[hash % self.table.shards.len()]
    }
}

impl Source {
    fn of(ip: IpAddr) -> Source {
        match ip.to_canonical() {
            IpAddr::V4(ip) => Source::V4(ip.into()),
            IpAddr::V6(ip) => Source::V6((u128::from(ip) >> 64) as u64),
        }
    }
}

impl Entry {
    /// A source without connections, and with a full bucket.
    fn new(rules: Rules, now: Tick) -> Entry {
        let full = rules.per_second.map_or(0, |rate| u64::from(rate) * PARTS);
        Entry { active: 0, level: full, at: now, listed: false }
    }

    /// Takes a token, if the rules allow one more connection.
    fn take(&mut self, rules: Rules, now: Tick) -> Option<Reason> {
        let (level, reason) = self.check(rules, now);
        if let Some(level) = level {
            self.at = self.at.max(now);
            self.level = level;
        }
        reason
    }

    /// The reason to refuse one more connection, and the level after it where there is a rate and it was looked at.
    fn check(&self, rules: Rules, now: Tick) -> (Option<u64>, Option<Reason>) {
        if rules.connections.is_some_and(|most| self.active >= most) {
            return (None, Some(Reason::SourceLimit));
        }
        let Some(rate) = rules.per_second.map(u64::from) else { return (None, None) };
        // Workers read their clocks independently, so time may go back a little; the level then stays.
        let elapsed = (now - self.at).min(REFILL).as_micros() as u64;
        let level = (self.level + elapsed * rate).min(rate * PARTS);
        match level.checked_sub(PARTS) {
            Some(left) => (Some(left), None),
            None => (Some(level), Some(Reason::SourceRate)),
        }
    }

    fn is_refilled(&self, now: Tick) -> bool {
        now - self.at >= REFILL
    }
}

impl Shard {
    /// Checks a few idle sources, and removes those with a full bucket.
    fn forget(&mut self, now: Tick) {
        for _ in 0..FORGET {
            let Some(source) = self.idle.pop_front() else { return };
            match self.known.get_mut(&source) {
                Some(entry) if entry.active > 0 => entry.listed = false,
                Some(entry) if entry.is_refilled(now) => {
                    self.known.remove(&source);
                }
                // Not full yet; it goes to the end, so that those behind it are checked.
                Some(_) => self.idle.push_back(source),
                None => {}
            }
        }
    }

    /// Whether a new source finds no room: all sources have connections.
    fn is_full(&self, room: usize) -> bool {
        self.known.len() >= room && self.known.values().all(|entry| entry.active > 0)
    }

    /// Removes an idle source, whatever its level. False if there is none.
    fn make_room(&mut self) -> bool {
        while let Some(source) = self.idle.pop_front() {
            match self.known.get_mut(&source) {
                Some(entry) if entry.active > 0 => entry.listed = false,
                Some(_) => {
                    self.known.remove(&source);
                    return true;
                }
                None => {}
            }
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(millis: u64) -> Tick {
        Tick::after_start(Duration::from_millis(millis))
    }

    fn v4(number: u32) -> IpAddr {
        IpAddr::V4(number.into())
    }

    /// A connection that is counted until it is dropped.
    #[derive(Debug)]
    struct Held(Arc<Sources>, Option<SourceId>);

    impl Drop for Held {
        fn drop(&mut self) {
            self.1.take().into_iter().for_each(|source| self.0.leave(source));
        }
    }

    fn enter(sources: &Arc<Sources>, ip: IpAddr, now: Tick) -> Result<Option<Held>, Reason> {
        let admitted = sources.enter(ip, now, Enforcement::Enforced)?;
        assert_eq!(admitted.would_refuse, None);
        Ok(admitted.source.map(|source| Held(sources.clone(), Some(source))))
    }

    fn both(connections: u32, per_second: u32) -> Rules {
        Rules { connections: Some(connections), per_second: Some(per_second) }
    }

    #[test]
    fn connections_at_once_are_counted_per_source_until_they_end() {
        let sources = Sources::new(Rules { connections: Some(2), per_second: None });
        let first = enter(&sources, v4(1), at(0)).unwrap();
        let _second = enter(&sources, v4(1), at(0)).unwrap();
        let _other = enter(&sources, v4(2), at(0)).unwrap();
        assert_eq!(enter(&sources, v4(1), at(0)).unwrap_err(), Reason::SourceLimit);
        drop(first);
        let _third = enter(&sources, v4(1), at(0)).unwrap();
        assert_eq!(enter(&sources, v4(1), at(0)).unwrap_err(), Reason::SourceLimit);
    }

    #[test]
    fn connections_of_another_process_count_whatever_the_limits_and_take_no_token() {
        let sources = Sources::new(both(2, 1));
        let others: Vec<SourceId> = (0..3).filter_map(|_| sources.enter_anyway(v4(1), at(0))).collect();
        assert_eq!(enter(&sources, v4(1), at(0)).unwrap_err(), Reason::SourceLimit);
        others.into_iter().for_each(|source| sources.leave(source));
        assert!(enter(&sources, v4(1), at(0)).unwrap().is_some(), "its token is still there");
        let full = Sources::with_room(both(2, 1), 1, 1);
        let _other = full.enter_anyway(v4(1), at(0)).unwrap();
        assert_eq!((full.enter_anyway(v4(2), at(0)), full.untracked()), (None, 1));
    }

    #[test]
    fn without_a_rate_only_sources_with_connections_are_remembered() {
        let sources = Sources::new(Rules { connections: Some(1), per_second: None });
        for number in 0..1_000 {
            drop(enter(&sources, v4(number), at(0)).unwrap());
        }
        assert!(sources.is_empty());
    }

    #[test]
    fn a_rate_allows_a_second_s_worth_at_once_and_then_one_by_one() {
        let sources = Sources::new(Rules { connections: None, per_second: Some(3) });
        let mut kept = Vec::new();
        for _ in 0..3 {
            kept.push(enter(&sources, v4(1), at(5_000)).unwrap());
        }
        assert_eq!(enter(&sources, v4(1), at(5_000)).unwrap_err(), Reason::SourceRate);
        assert_eq!(enter(&sources, v4(1), at(5_333)).unwrap_err(), Reason::SourceRate);
        kept.push(enter(&sources, v4(1), at(5_334)).unwrap());
        assert_eq!(enter(&sources, v4(1), at(5_334)).unwrap_err(), Reason::SourceRate);
        // After any silence, one second's worth is the most.
        for _ in 0..3 {
            kept.push(enter(&sources, v4(1), at(600_000)).unwrap());
        }
        assert_eq!(enter(&sources, v4(1), at(600_000)).unwrap_err(), Reason::SourceRate);
    }

    #[test]
    fn other_rules_apply_to_the_existing_counts() {
        let sources = Sources::with_room(both(2, 2), 1, 9);
        let first = enter(&sources, v4(1), at(0)).unwrap();
        drop(enter(&sources, v4(2), at(0)).unwrap());
        let unrated = sources.successor(Rules { connections: Some(1), per_second: None });
        assert_eq!(enter(&unrated, v4(1), at(0)).unwrap_err(), Reason::SourceLimit);
        drop(first);
        // A source in the idle list must not be added twice.
        drop(enter(&unrated, v4(2), at(0)).unwrap());
        let rated = unrated.successor(both(1, 5));
        drop(enter(&rated, v4(2), at(5_000)).unwrap());
        drop(enter(&rated, v4(3), at(9_000)).unwrap());
        drop(enter(&rated, v4(3), at(9_001)).unwrap());
        assert_eq!(rated.len(), 1, "all others are forgotten");
    }

    #[test]
    fn leaving_does_not_give_the_token_back() {
        let sources = Sources::new(Rules { connections: None, per_second: Some(2) });
        drop(enter(&sources, v4(1), at(0)).unwrap());
        drop(enter(&sources, v4(1), at(0)).unwrap());
        assert_eq!(enter(&sources, v4(1), at(0)).unwrap_err(), Reason::SourceRate);
    }

    #[test]
    fn an_ipv6_network_is_one_source_and_a_mapped_address_is_ipv4() {
        let sources = Sources::new(Rules { connections: Some(1), per_second: None });
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        let _one = enter(&sources, ip("2001:db8:0:1::1"), at(0)).unwrap();
        assert!(enter(&sources, ip("2001:db8:0:1:ffff::2"), at(0)).is_err());
        let _other = enter(&sources, ip("2001:db8:0:2::1"), at(0)).unwrap();
        let _four = enter(&sources, ip("::ffff:192.0.2.1"), at(0)).unwrap();
        assert!(enter(&sources, ip("192.0.2.1"), at(0)).is_err());
    }

    #[test]
    fn idle_sources_are_removed_as_others_arrive() {
        let sources = Sources::with_room(both(9, 9), 1, 1_000);
        for number in 0..500 {
            drop(enter(&sources, v4(number), at(0)).unwrap());
        }
        assert_eq!(sources.len(), 500);
        for number in 0..500 {
            drop(enter(&sources, v4(1_000_000 + number), at(2_000)).unwrap());
        }
        assert!(sources.len() <= 501, "{} are left", sources.len());
    }

    #[test]
    fn a_full_table_removes_idle_sources_and_admits_others_uncounted() {
        let sources = Sources::with_room(both(1, 9), 1, 4);
        let mut kept: Vec<_> = (0..3).map(|number| enter(&sources, v4(number), at(0)).unwrap()).collect();
        drop(enter(&sources, v4(3), at(0)).unwrap());
        kept.push(enter(&sources, v4(4), at(1)).unwrap());
        assert_eq!((sources.len(), sources.untracked()), (4, 0), "the idle one made room");
        for _ in 0..5 {
            assert_eq!(sources.preview(v4(5), at(2)), None);
            assert!(enter(&sources, v4(5), at(2)).unwrap().is_none());
        }
        assert_eq!((sources.len(), sources.untracked()), (4, 5));
        assert!(enter(&sources, v4(0), at(2)).is_err(), "existing sources are still counted");
        kept.pop();
        assert!(enter(&sources, v4(5), at(2)).unwrap().is_some());
    }

    proptest! {
        /// Compares with an unbounded table, and with the counts that must remain at the end.
        #[test]
        fn it_does_what_a_plain_count_and_an_exact_bucket_do(
            steps in prop::collection::vec((0u32..6, 0u64..400, 0u8..4), 1..200),
            connections in 1u32..4,
            rate in 1u32..6,
        ) {
            let sources = Sources::with_room(both(connections, rate), 2, 1_000);
            let mut now = 0;
            let mut held: Vec<(u32, Held)> = Vec::new();
            // The level in millionths, and its time.
            let mut buckets: HashMap<u32, (u64, u64)> = HashMap::new();
            for (source, pause, leave) in steps {
                now += pause;
                if leave == 0 && !held.is_empty() {
                    held.swap_remove(source as usize % held.len());
                    continue;
                }
                let rate = u64::from(rate);
                let (level, since) = *buckets.entry(source).or_insert((rate * PARTS, now));
                let level = (level + (now - since) * 1_000 * rate).min(rate * PARTS);
                let active = held.iter().filter(|(of, _)| *of == source).count();
                let expected = match () {
                    () if active >= connections as usize => Some(Reason::SourceLimit),
                    () if level < PARTS => Some(Reason::SourceRate),
                    () => None,
                };
                let taken = if expected.is_none() { PARTS } else { 0 };
                buckets.insert(source, (level - taken, now));
                // A preview, of any source, changes nothing.
                prop_assert!((0..6).map(|other| sources.preview(v4(other), at(now))).all(|reason| reason != Some(Reason::Denied)));
                prop_assert_eq!(sources.preview(v4(source), at(now)), expected);
                let entered = enter(&sources, v4(source), at(now));
                prop_assert_eq!(entered.as_ref().err().copied(), expected);
                let place = entered.ok().flatten();
                prop_assert_eq!(place.is_some(), expected.is_none());
                held.extend(place.map(|place| (source, place)));
            }
            drop(held);
            for shard in &sources.table.shards {
                let shard = shard.lock();
                prop_assert!(shard.known.values().all(|entry| entry.active == 0 && entry.listed));
                prop_assert_eq!(shard.known.len(), shard.idle.len());
            }
        }
    }
}
