//! What the entries of conntrack come to: connections and bytes of each backend and destination, from dumps and ends. Pure.
//!
//! | event | what is counted |
//! |---|---|
//! | a dump shows an entry | the bytes since it was last seen; `opened` once it is established |
//! | an entry ends | the bytes since it was last seen; `opened` if that was not counted yet; `failed` if it never was established |
//! | two dumps are complete, all ends are read, and an entry is in none of them | nothing: its end was lost, and its last bytes with it |
//!
//! The first dump is the base: entries that exist then count as active only, and with the bytes from then on. So a sum never goes
//! back. Ends that arrive during a dump are read after it. Otherwise the dump would show an entry again that has ended.
//!
//! An entry is known by a hash of 64 bits, under a key of the process. At most [`KNOWN_MAX`] entries are known at once; what exceeds them
//! counts as active only.

use super::marks::Mark;
use crate::proto::conntrack::Entry;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::net::{Ipv4Addr, SocketAddr};

/// The most entries that are known at once, of 32 bytes each.
const KNOWN_MAX: usize = 4 * 1024 * 1024;

/// The most pairs of backend and destination. What exceeds them has [`ELSEWHERE`] as its destination.
const PAIRS_MAX: usize = 256 * 1024;

/// The destination of entries beyond the bound.
pub const ELSEWHERE: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);

/// The connections of one backend that came in at one address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Count {
    /// The backend's mark.
    pub mark: Mark,
    /// Where the clients connected to.
    pub to: SocketAddr,
    /// How many are open now.
    pub active: u64,
    /// How many were established since the last round.
    pub opened: u64,
    /// How many ended since the last round without having been established.
    pub failed: u64,
    /// The bytes of clients since the last round, with the headers of their packets.
    pub from_clients: u64,
    /// The bytes of the backend since the last round.
    pub to_clients: u64,
}

/// What was last seen of an entry.
#[derive(Clone, Copy, Debug, Default)]
struct Known {
    from_client: u64,
    to_client: u64,
    round: u32,
    is_opened: bool,
}

/// Counts from the first dump on.
#[derive(Debug, Default)]
pub struct Tally {
    known: HashMap<u64, Known>,
    pairs: HashMap<(Mark, SocketAddr), Count>,
    key: RandomState,
    round: u32,
    has_base: bool,
}

impl Tally {
    /// A dump shows this entry, of one of our backends.
    pub fn seen(&mut self, mark: Mark, entry: &Entry) {
        let (round, has_base) = (self.round, self.has_base);
        let hash = self.hash(entry);
        let found = self.known.get(&hash).copied();
        let is_first = found.is_none_or(|known| known.round != round);
        let before = found.unwrap_or_default();
        if found.is_some() || self.known.len() < KNOWN_MAX {
            let Entry { from_client, to_client, .. } = *entry;
            let is_opened = before.is_opened || entry.assured;
            self.known.insert(hash, Known { from_client, to_client, round, is_opened });
            let count = self.count(mark, entry.to);
            if has_base || found.is_some() {
                count.add(entry, &before);
            }
        }
        // A dump may show an entry twice.
        self.count(mark, entry.to).active += u64::from(is_first && entry.state.is_active());
    }

    /// This entry, of one of our backends, has ended.
    pub fn ended(&mut self, mark: Mark, entry: &Entry) {
        let before = match self.known.remove(&self.hash(entry)) {
            Some(known) => known,
            // It was there before the base.
            None if !self.has_base => return,
            // It came and went between two dumps.
            None => Known::default(),
        };
        let count = self.count(mark, entry.to);
        count.add(entry, &before);
        count.failed += u64::from(!entry.assured && !before.is_opened);
    }

    /// A dump has failed: what it showed is active no longer, as far as is known.
    pub fn abandon(&mut self) {
        self.round = self.round.wrapping_add(1);
        self.pairs.values_mut().for_each(|count| count.active = 0);
    }

    /// A dump is complete. `all_read`: so are the ends up to now. Returns what has come since the last round, and
    /// begins the next one.
    pub fn finish(&mut self, all_read: bool) -> Vec<Count> {
        if all_read {
            let round = self.round;
            // The kernel may pass over an entry while it resizes its table.
            self.known.retain(|_, known| round.wrapping_sub(known.round) < 2);
        }
        self.round = self.round.wrapping_add(1);
        self.has_base = true;
        self.pairs.drain().map(|(_, count)| count).filter(|count| !count.is_empty()).collect()
    }

    fn count(&mut self, mark: Mark, to: SocketAddr) -> &mut Count {
        let has_room = self.pairs.len() < PAIRS_MAX || self.pairs.contains_key(&(mark, to));
        let to = if has_room { to } else { ELSEWHERE };
        let none = Count { mark, to, active: 0, opened: 0, failed: 0, from_clients: 0, to_clients: 0 };
        self.pairs.entry((mark, to)).or_insert(none)
    }

    fn hash(&self, entry: &Entry) -> u64 {
        self.key.hash_one((entry.client, entry.to, entry.zone, entry.id))
    }
}

impl Count {
    /// Adds what has come since `before`.
    fn add(&mut self, entry: &Entry, before: &Known) {
        // The system's counters can be set to zero.
        self.from_clients += entry.from_client.saturating_sub(before.from_client);
        self.to_clients += entry.to_client.saturating_sub(before.to_client);
        self.opened += u64::from(entry.assured && !before.is_opened);
    }

    fn is_empty(&self) -> bool {
        let Count { mark: _, to: _, active, opened, failed, from_clients, to_clients } = *self;
        [active, opened, failed, from_clients, to_clients] == [0; 5]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::conntrack::TcpState;

    const MARK: u32 = 0x7400_0001;

    fn mark() -> Mark {
        Mark::of_value(MARK).unwrap()
    }

    /// The connection from this port, with that many bytes each way.
    fn entry(port: u16, bytes: u64) -> Entry {
        let client = SocketAddr::from(([10, 0, 0, 1], port));
        Entry {
            mark: MARK,
            state: TcpState::Established,
            assured: true,
            client,
            to: SocketAddr::from(([10, 0, 0, 2], 80)),
            backend: SocketAddr::from(([10, 0, 0, 3], 80)),
            reply_to: client,
            from_client: bytes,
            to_client: 2 * bytes,
            id: u32::from(port),
            zone: 0,
            timeout: 100,
        }
    }

    /// A round: a dump of these, then the ends of those. Returns active, opened, failed and the bytes of clients.
    fn round(tally: &mut Tally, dump: &[Entry], ends: &[Entry]) -> [u64; 4] {
        dump.iter().for_each(|entry| tally.seen(mark(), entry));
        ends.iter().for_each(|entry| tally.ended(mark(), entry));
        let counts = tally.finish(true);
        assert!(counts.iter().all(|count| count.to_clients == 2 * count.from_clients), "{counts:?}");
        counts.iter().fold([0; 4], |sum, count| {
            let of = [count.active, count.opened, count.failed, count.from_clients];
            std::array::from_fn(|index| sum[index] + of[index])
        })
    }

    #[test]
    fn what_was_there_before_counts_as_active_only() {
        let mut tally = Tally::default();
        assert_eq!(round(&mut tally, &[entry(1, 1000)], &[entry(2, 500)]), [1, 0, 0, 0]);
        assert_eq!(round(&mut tally, &[entry(1, 1100)], &[]), [1, 0, 0, 100]);
        assert_eq!(round(&mut tally, &[], &[entry(1, 1150)]), [0, 0, 0, 50]);
        assert_eq!(round(&mut tally, &[], &[]), [0; 4]);
    }

    #[test]
    fn a_connection_counts_once_with_all_its_bytes() {
        let mut tally = Tally::default();
        round(&mut tally, &[], &[]);
        let syn = Entry { state: TcpState::SynSent, assured: false, ..entry(1, 60) };
        assert_eq!(round(&mut tally, &[syn], &[]), [1, 0, 0, 60]);
        // A dump may show an entry twice.
        assert_eq!(round(&mut tally, &[entry(1, 100), entry(1, 100)], &[]), [1, 1, 0, 40]);
        let closed = Entry { state: TcpState::TimeWait, ..entry(1, 300) };
        assert_eq!(round(&mut tally, &[closed], &[]), [0, 0, 0, 200]);
        assert_eq!(round(&mut tally, &[], &[closed]), [0; 4]);
        // It came and went between two dumps.
        assert_eq!(round(&mut tally, &[], &[entry(2, 70)]), [0, 1, 0, 70]);
    }

    #[test]
    fn a_connection_without_an_answer_has_failed() {
        let mut tally = Tally::default();
        round(&mut tally, &[], &[]);
        let syn = |port| Entry { state: TcpState::SynSent, assured: false, ..entry(port, 60) };
        assert_eq!(round(&mut tally, &[syn(1)], &[syn(2)]), [1, 0, 1, 120]);
        assert_eq!(round(&mut tally, &[], &[syn(1)]), [0, 0, 1, 0]);
    }

    #[test]
    fn an_end_that_was_lost_is_found_by_the_dumps() {
        let mut tally = Tally::default();
        round(&mut tally, &[], &[]);
        assert_eq!(round(&mut tally, &[entry(1, 100)], &[]), [1, 1, 0, 100]);
        assert_eq!(round(&mut tally, &[], &[]), [0; 4]);
        round(&mut tally, &[], &[]);
        assert!(tally.known.is_empty(), "{tally:?}");
    }

    #[test]
    fn an_entry_that_one_dump_passes_over_is_not_counted_again() {
        let mut tally = Tally::default();
        round(&mut tally, &[], &[]);
        assert_eq!(round(&mut tally, &[entry(1, 100)], &[]), [1, 1, 0, 100]);
        assert_eq!(round(&mut tally, &[], &[]), [0; 4]);
        assert_eq!(round(&mut tally, &[entry(1, 130)], &[]), [1, 0, 0, 30]);
    }

    #[test]
    fn after_a_dump_that_failed_the_next_one_shows_what_is_active() {
        let mut tally = Tally::default();
        round(&mut tally, &[], &[]);
        tally.seen(mark(), &entry(1, 100));
        tally.abandon();
        assert_eq!(round(&mut tally, &[entry(1, 120)], &[]), [1, 1, 0, 120]);
    }

    #[test]
    fn counters_that_were_set_to_zero_never_make_a_sum_go_back() {
        let mut tally = Tally::default();
        round(&mut tally, &[], &[]);
        assert_eq!(round(&mut tally, &[entry(1, 100)], &[]), [1, 1, 0, 100]);
        assert_eq!(round(&mut tally, &[entry(1, 10)], &[]), [1, 0, 0, 0]);
        assert_eq!(round(&mut tally, &[entry(1, 15)], &[]), [1, 0, 0, 5]);
    }
}
