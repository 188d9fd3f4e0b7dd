//! Source hash: the client's address decides, by weighted rendezvous. Losing one of N backends moves only its own
//! clients.
//!
//! A race scans every backend, so results are cached. To bound the cache, clients are hashed into [`BUCKETS`] buckets,
//! and each bucket has one race. The number is the same for every pool; otherwise, growing a pool would move nearly
//! every client. The price: a backend's share is a whole number of buckets. With 10 backends it is off by 0.6 % (one
//! standard deviation), with 1,000 by 6 %, with 10,000 by a fifth.
//!
//! The cache holds the first three of the race with every backend up. It never becomes stale, since the object lives as
//! long as its membership. The first usable one of the three serves, as a race without the unusable ones would decide.
//! Only if all three are unusable is the race run again; with a tenth of the backends down, once in a thousand choices.

use super::rendezvous::Rendezvous;
use super::{Balance, Client, Member, Preview, View, hash};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

/// Buckets of clients; at most 2 MiB of memory.
pub(super) const BUCKETS: usize = 1 << 18;
/// Buckets that are allocated at a time, so that a pool with few clients uses little memory.
const PAGE: usize = 1 << 10;

struct SourceHash {
    rendezvous: Rendezvous,
    /// Per bucket the first three, [`pack`]ed; 0 if they are not known yet.
    known: Box<[OnceLock<Box<[AtomicU64]>>]>,
}

/// Builds the algorithm for these members.
pub fn build(members: &[Member], _: u64) -> Box<dyn Balance> {
    let known = (0..BUCKETS / PAGE).map(|_| OnceLock::new()).collect();
    Box::new(SourceHash { rendezvous: Rendezvous::new(members), known })
}

impl Balance for SourceHash {
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

impl SourceHash {
    fn choose(&self, client: Client, view: &View<'_>) -> Option<usize> {
        let bucket = hash::reduce(hash::client(client.ip), BUCKETS);
        // Mixed, so that consecutive buckets have independent keys.
        let key = hash::nth(0, bucket as u64);
        let usable = self.first(bucket, key).into_iter().flatten().find(|&index| view.usable(index));
        usable.or_else(|| self.rendezvous.best(key, view))
    }

    fn first(&self, bucket: usize, key: u64) -> [Option<usize>; 3] {
        let new_page = || (0..PAGE).map(|_| AtomicU64::new(0)).collect();
        let known = &self.known[bucket / PAGE].get_or_init(new_page)[bucket % PAGE];
        let packed = known.load(Ordering::Relaxed);
        if packed != 0 {
            return unpack(packed);
        }
        // Two workers may race for a bucket at once; both get the same result.
        let first = self.rendezvous.first(key, |_| true);
        known.store(pack(first), Ordering::Relaxed);
        first
    }
}

/// Bits per index: two million backends. Results with higher indexes are not cached.
const BITS: u32 = 21;
const MASK: u64 = (1 << BITS) - 1;

/// Packs three indexes into one word, for one atomic access: each plus one, 0 for none.
fn pack(first: [Option<usize>; 3]) -> u64 {
    let field =
        |index: Option<usize>| index.map_or(Some(0), |index| Some(index as u64 + 1).filter(|&field| field <= MASK));
    let [a, b, c] = first.map(field);
    a.zip(b).zip(c).map_or(0, |((a, b), c)| a | b << BITS | c << (2 * BITS))
}

fn unpack(packed: u64) -> [Option<usize>; 3] {
    [0, 1, 2].map(|field| (packed >> (field * BITS) & MASK).checked_sub(1).map(|index| index as usize))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packed_indexes_round_trip_or_are_not_cached() {
        let most = MASK as usize - 1;
        for first in [[Some(0), None, None], [Some(7), Some(most), Some(0)], [Some(most), Some(1), Some(most)]] {
            assert_eq!(unpack(pack(first)), first);
        }
        assert_eq!(pack([Some(1), Some(most + 1), None]), 0);
    }
}
