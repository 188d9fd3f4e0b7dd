//! Durations counted in a few fixed buckets: metrics show them, and p50 and p99 are estimated from them.
//!
//! Workers add, every thread reads; all relaxed. Adding costs a search among a few bounds and two atomic additions.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// The most bounds that a histogram has; values above the last have a bucket of their own.
pub const BOUNDS_MAX: usize = 11;

const fn micros<const COUNT: usize>(micros: [u64; COUNT]) -> [Duration; COUNT] {
    let mut bounds = [Duration::ZERO; COUNT];
    let mut at = 0;
    while at < COUNT {
        bounds[at] = Duration::from_micros(micros[at]);
        at += 1;
    }
    bounds
}

/// For connects: from one process to the next, and up to the time-out. Few, since every backend has them.
pub const CONNECTS: &[Duration] = &micros([100, 500, 2_000, 10_000, 50_000, 250_000, 1_000_000, 5_000_000]);

/// For the first byte of a backend, which may compute it for long, and for those of a client.
pub const FIRST_BYTES: &[Duration] =
    &micros([100, 500, 2_000, 5_000, 10_000, 50_000, 100_000, 250_000, 1_000_000, 5_000_000, 30_000_000]);

/// For turns of an event loop.
pub const TURNS: &[Duration] =
    &micros([100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 100_000, 500_000, 2_500_000]);

/// For connections that stand still while another process takes them over.
pub const PAUSES: &[Duration] =
    &micros([100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 250_000, 1_000_000]);

/// For whole connections: from a request to a day.
pub const CONNECTIONS: &[Duration] = &micros([
    10_000,
    100_000,
    500_000,
    1_000_000,
    10_000_000,
    60_000_000,
    300_000_000,
    1_800_000_000,
    3_600_000_000,
    21_600_000_000,
    86_400_000_000,
]);

/// The counts.
#[derive(Debug)]
pub struct Histogram {
    bounds: &'static [Duration],
    counts: [AtomicU64; BOUNDS_MAX + 1],
    sum_us: AtomicU64,
}

/// A histogram as it was at one moment, or nearly so: the counts are read one after the other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reading {
    /// Upper bounds of all buckets but the last, which has none.
    pub bounds: &'static [Duration],
    /// How many samples fell into each bucket (not cumulative): one more than there are bounds, the others are 0.
    pub counts: [u64; BOUNDS_MAX + 1],
    /// All samples together.
    pub sum: Duration,
}

impl Histogram {
    /// Nothing counted yet. `bounds` ascend; those beyond [`BOUNDS_MAX`] are not used.
    pub fn new(bounds: &'static [Duration]) -> Histogram {
        let bounds = bounds.get(..BOUNDS_MAX).unwrap_or(bounds);
        Histogram { bounds, counts: Default::default(), sum_us: AtomicU64::new(0) }
    }

    /// Counts a sample.
    pub fn add(&self, sample: Duration) {
        let bucket = self.bounds.partition_point(|bound| *bound < sample);
        self.counts[bucket.min(BOUNDS_MAX)].fetch_add(1, Ordering::Relaxed);
        self.sum_us.fetch_add(u64::try_from(sample.as_micros()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// Its counters, for a tally: the buckets, and the sum in microseconds.
    pub(super) fn counters(&self) -> (&[AtomicU64], &[AtomicU64]) {
        (&self.counts, std::slice::from_ref(&self.sum_us))
    }

    /// Its present counts.
    pub fn read(&self) -> Reading {
        let counts = std::array::from_fn(|bucket| self.counts[bucket].load(Ordering::Relaxed));
        let sum = Duration::from_micros(self.sum_us.load(Ordering::Relaxed));
        Reading { bounds: self.bounds, counts, sum }
    }
}

impl Reading {
    /// How many samples.
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// The samples after `before`, an earlier reading of the same histogram.
    #[must_use]
    pub fn since(&self, before: &Reading) -> Reading {
        let counts = std::array::from_fn(|bucket| self.counts[bucket].saturating_sub(before.counts[bucket]));
        Reading { bounds: self.bounds, counts, sum: self.sum.saturating_sub(before.sum) }
    }

    /// An estimate of the time that this share of all samples (0–1) stayed within. It takes samples to be spread
    /// evenly over their bucket, and those above the last bound to be at it. `None` without samples.
    pub fn quantile(&self, share: f64) -> Option<Duration> {
        let count = self.count();
        if count == 0 {
            return None;
        }
        let rank = share.clamp(0.0, 1.0) * count as f64;
        let (mut before, mut low) = (0.0, Duration::ZERO);
        for (&bound, &inside) in self.bounds.iter().zip(&self.counts) {
            if inside > 0 && before + inside as f64 >= rank {
                return Some(low + (bound - low).mul_f64(((rank - before) / inside as f64).clamp(0.0, 1.0)));
            }
            (before, low) = (before + inside as f64, bound);
        }
        Some(low)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_fall_into_the_bucket_that_bounds_them() {
        let histogram = Histogram::new(CONNECTS);
        assert_eq!(histogram.read().quantile(0.5), None);
        for micros in [0, 100, 101, 5_000_000, 5_000_001] {
            histogram.add(Duration::from_micros(micros));
        }
        let reading = histogram.read();
        assert_eq!(reading.counts, [2, 1, 0, 0, 0, 0, 0, 1, 1, 0, 0, 0]);
        assert_eq!((reading.count(), reading.sum), (5, Duration::from_micros(10_000_202)));
        histogram.add(Duration::from_micros(300));
        let later = histogram.read().since(&reading);
        assert_eq!((later.count(), later.counts[1], later.sum), (1, 1, Duration::from_micros(300)));
    }

    #[test]
    fn no_histogram_has_more_than_twelve_buckets_and_all_bounds_ascend() {
        for bounds in [CONNECTS, FIRST_BYTES, TURNS, PAUSES, CONNECTIONS] {
            assert!(bounds.len() <= BOUNDS_MAX && bounds.is_sorted(), "{bounds:?}");
        }
        assert_eq!((CONNECTS[0], FIRST_BYTES[0]), (Duration::from_micros(100), Duration::from_micros(100)));
    }

    #[test]
    fn quantiles_lie_within_the_bucket_they_fall_into() {
        let histogram = Histogram::new(CONNECTS);
        (0..99).for_each(|_| histogram.add(Duration::from_millis(3)));
        histogram.add(Duration::from_secs(60));
        let quantile = |share| histogram.read().quantile(share).unwrap();
        assert!((2..10).contains(&quantile(0.5).as_millis()) && quantile(0.5) < quantile(0.9));
        assert!(quantile(0.9) < Duration::from_millis(10), "between the edges, not one of them");
        assert_eq!(quantile(1.0), Duration::from_secs(5), "the last bucket has no upper end");
    }
}
