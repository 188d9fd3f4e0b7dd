//! The loads and answer times of backends, 64 in a block.
//!
//! Dense, because least-connections reads all of them for every choice. A block of active counts is four cache lines,
//! against 64 if each backend held its own.
//!
//! Workers write (a connection begins or ends, a time is measured, a client gets no answer); algorithms read. All
//! accesses are relaxed, without a lock. If two workers measure at once, one sample may get lost, which an average
//! tolerates.
//!
//! # The average
//!
//! The connect + first-byte time, as a geometric mean that moves an eighth of the way to each sample (the gain of RFC
//! 6298). Being geometric, it tolerates one answer of two seconds among many of a millisecond, but not sixteen. Its
//! weight falls with age: by half 2.5 s after the last sample, to zero after [`STALE`]. Then the backend is tried again
//! like an unmeasured one, and the next sample replaces the average.
//!
//! A client without an answer is a sample too ([`LoadBlock::unanswered`]): a backend that never answers must not stay
//! unmeasured.
//!
//! # Failures as load
//!
//! A backend that fails its clients at once is idle again at once, which would attract more clients. So each early
//! failure counts as one more connection for a while: they halve every [`HALF_LIFE`], and each answer removes one. A
//! backend that answers more often than it fails keeps its share.

use crate::base::Tick;
use crate::base::bits::WORD;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

/// The time without a sample after which an average is stale.
pub const STALE: Duration = Duration::from_secs(5);

/// The time after which half of the failures expire.
pub const HALF_LIFE: Duration = Duration::from_secs(5);

/// The least sample of a client without an answer.
pub const FAILURE: Duration = Duration::from_secs(1);

/// The loads of 64 backends. Lanes are 0–63.
#[derive(Debug)]
pub struct LoadBlock {
    active: [AtomicU32; WORD],
    latency_us: [AtomicU32; WORD],
    /// When the average took its last sample, in milliseconds. When the counter wraps, a stale average counts as fresh
    /// once.
    measured_ms: [AtomicU32; WORD],
    /// The lanes with failures, so that reading is free for all others.
    failing: AtomicU64,
    /// Lower half: failures. Upper half: when they were last halved, in milliseconds.
    failures: [AtomicU64; WORD],
}

/// The state of a backend's average answer time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Latency {
    /// No sample yet.
    Unknown,
    /// A stale average, in microseconds.
    Stale(u32),
    /// The average, in microseconds.
    Known(u32),
}

impl Default for LoadBlock {
    fn default() -> Self {
        LoadBlock {
            active: [const { AtomicU32::new(0) }; WORD],
            latency_us: [const { AtomicU32::new(0) }; WORD],
            measured_ms: [const { AtomicU32::new(0) }; WORD],
            failing: AtomicU64::new(0),
            failures: [const { AtomicU64::new(0) }; WORD],
        }
    }
}

impl LoadBlock {
    /// Connections that are open or being dialled.
    pub fn active(&self, lane: usize) -> &AtomicU32 {
        &self.active[lane % WORD]
    }

    /// The load for a choice: active connections plus recent failures.
    #[inline]
    pub fn load(&self, lane: usize, now: Tick) -> u32 {
        let active = self.active(lane).load(Ordering::Relaxed);
        if self.failing.load(Ordering::Relaxed) & bit(lane) == 0 {
            return active;
        }
        active.saturating_add(self.recent_failures(lane, now))
    }

    /// The average answer time.
    #[inline]
    pub fn latency(&self, lane: usize, now: Tick) -> Latency {
        match self.latency_us[lane % WORD].load(Ordering::Relaxed) {
            0 => Latency::Unknown,
            average if self.age(lane, now) < STALE => Latency::Known(average),
            average => Latency::Stale(average),
        }
    }

    /// Adds a measured connect + first-byte time to the average.
    pub fn answered(&self, lane: usize, sample: Duration, now: Tick) {
        self.sample(lane, sample, now);
        if self.failing.load(Ordering::Relaxed) & bit(lane) != 0 {
            self.count(lane, now, |failures| failures.saturating_sub(1));
        }
    }

    /// Adds a sample for a client that the backend failed after `waited`, without a byte.
    pub fn unanswered(&self, lane: usize, waited: Duration, now: Tick) {
        self.sample(lane, waited.max(FAILURE), now);
    }

    /// Adds a sample for a client that left after `waited`, before the first byte. The answer would have taken longer,
    /// so it counts only if it exceeds the average.
    pub fn abandoned(&self, lane: usize, waited: Duration, now: Tick) {
        let known = match self.latency(lane, now) {
            Latency::Known(average) => Duration::from_micros(average.into()),
            Latency::Unknown | Latency::Stale(_) => Duration::ZERO,
        };
        if waited > known {
            self.sample(lane, waited, now);
        }
    }

    /// Counts an early failure as load, for a while.
    pub fn failed(&self, lane: usize, now: Tick) {
        self.count(lane, now, |failures| failures.saturating_add(1));
    }

    /// Resets a lane for a new backend: the samples of its predecessor do not apply.
    pub fn clear(&self, lane: usize) {
        self.latency_us[lane % WORD].store(0, Ordering::Relaxed);
        self.failing.fetch_and(!bit(lane), Ordering::Relaxed);
        self.failures[lane % WORD].store(0, Ordering::Relaxed);
    }

    fn sample(&self, lane: usize, sample: Duration, now: Tick) {
        let sample = u32::try_from(sample.as_micros()).unwrap_or(u32::MAX).max(1);
        let average = &self.latency_us[lane % WORD];
        let old = average.load(Ordering::Relaxed);
        average.store(smooth(old, sample, self.age(lane, now)), Ordering::Relaxed);
        self.measured_ms[lane % WORD].store(millis(now), Ordering::Relaxed);
    }

    fn age(&self, lane: usize, now: Tick) -> Duration {
        Duration::from_millis(since(self.measured_ms[lane % WORD].load(Ordering::Relaxed), now).into())
    }

    fn recent_failures(&self, lane: usize, now: Tick) -> u32 {
        let failures = halved(self.failures[lane % WORD].load(Ordering::Relaxed), now).1;
        if failures == 0 {
            // A concurrent failure may lose its bit; the next failure sets it again.
            self.failing.fetch_and(!bit(lane), Ordering::Relaxed);
        }
        failures
    }

    fn count(&self, lane: usize, now: Tick, change: impl Fn(u32) -> u32) {
        let update = |packed| {
            let (begun, failures) = halved(packed, now);
            Some(u64::from(begun) << 32 | u64::from(change(failures)))
        };
        let _ = self.failures[lane % WORD].fetch_update(Ordering::Relaxed, Ordering::Relaxed, update);
        self.failing.fetch_or(bit(lane), Ordering::Relaxed);
    }
}

fn bit(lane: usize) -> u64 {
    1 << (lane % WORD)
}

/// The counter wraps after 49 days.
fn millis(now: Tick) -> u32 {
    (now.0 / 1_000) as u32
}

/// Milliseconds since `then`. Another worker's clock may be slightly ahead.
fn since(then: u32, now: Tick) -> u32 {
    let since = millis(now).wrapping_sub(then);
    if since > u32::MAX - 1_000 { 0 } else { since }
}

/// When the last halving was due, and the failures that are left. Halving keeps its own rhythm, so that new failures do
/// not delay it.
fn halved(packed: u64, now: Tick) -> (u32, u32) {
    let (begun, failures) = ((packed >> 32) as u32, packed as u32);
    if failures == 0 {
        return (millis(now), 0);
    }
    let step = HALF_LIFE.as_millis() as u32;
    let steps = since(begun, now) / step;
    (begun.wrapping_add(steps.wrapping_mul(step)), failures.checked_shr(steps).unwrap_or(0))
}

/// The average after a sample, if the previous sample was `age` ago. Neither is ever 0.
fn smooth(old: u32, sample: u32, age: Duration) -> u32 {
    if old == 0 || age >= STALE {
        return sample;
    }
    let gain = (age.as_secs_f64() / STALE.as_secs_f64()).max(0.125);
    let (old, sample) = (f64::from(old).ln(), f64::from(sample).ln());
    ((old + (sample - old) * gain).exp().round() as u32).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(millis: u64) -> Tick {
        Tick::after_start(Duration::from_millis(millis))
    }

    fn known(block: &LoadBlock, now: Tick) -> u32 {
        let Latency::Known(average) = block.latency(3, now) else { panic!("{:?}", block.latency(3, now)) };
        average
    }

    const FAST: Duration = Duration::from_millis(1);
    const SLOW: Duration = Duration::from_secs(2);

    #[test]
    fn one_slow_answer_weighs_little_and_many_weigh_fully() {
        let block = LoadBlock::default();
        assert_eq!(block.latency(3, at(0)), Latency::Unknown);
        (0..100).for_each(|step| block.answered(3, FAST, at(step)));
        assert_eq!(known(&block, at(100)), 1_000);
        block.answered(3, SLOW, at(101));
        assert!((2_000..4_000).contains(&known(&block, at(101))), "{}", known(&block, at(101)));
        (0..16).for_each(|step| block.answered(3, SLOW, at(102 + step)));
        assert!(known(&block, at(120)) > 500_000, "{}", known(&block, at(120)));
    }

    #[test]
    fn an_average_weighs_less_as_it_ages_and_is_replaced_once_it_is_stale() {
        let block = LoadBlock::default();
        block.answered(3, SLOW, at(0));
        block.answered(3, FAST, at(2_500));
        assert!((40_000..50_000).contains(&known(&block, at(2_500))), "half way, in orders of magnitude");
        assert_eq!(known(&block, at(7_499)), known(&block, at(2_500)));
        assert!(matches!(block.latency(3, at(7_500)), Latency::Stale(_)));
        block.answered(3, FAST, at(7_600));
        assert_eq!(known(&block, at(7_600)), 1_000);
    }

    #[test]
    fn a_client_without_an_answer_is_a_slow_sample() {
        let block = LoadBlock::default();
        block.unanswered(3, FAST, at(1));
        assert_eq!(known(&block, at(1)), 1_000_000);
        block.clear(3);
        assert_eq!(block.latency(3, at(1)), Latency::Unknown);
        block.answered(3, FAST, at(2));
        block.abandoned(3, FAST / 2, at(3));
        assert_eq!(known(&block, at(3)), 1_000);
        block.abandoned(3, SLOW, at(3));
        assert!(known(&block, at(3)) > 2_000);
    }

    #[test]
    fn failures_count_as_load_until_they_expire_or_answers_offset_them() {
        let block = LoadBlock::default();
        block.active(3).store(2, Ordering::Relaxed);
        (0..8).for_each(|step| block.failed(3, at(10_000 + step)));
        assert_eq!(block.load(3, at(10_010)), 10);
        // Further failures do not delay the halving.
        block.failed(3, at(14_000));
        assert_eq!(block.load(3, at(14_999)), 11);
        assert_eq!(block.load(3, at(15_000)), 6);
        assert_eq!(block.load(3, at(20_000)), 4);
        block.answered(3, FAST, at(20_000));
        assert_eq!(block.load(3, at(20_000)), 3);
        assert_eq!(block.load(3, at(25_001)), 2);
        assert_eq!(block.failing.load(Ordering::Relaxed), 0, "nothing is left to look at");
        block.failed(3, at(900_000_000));
        assert_eq!((block.load(3, at(900_000_000)), block.load(4, at(900_000_000))), (3, 0));
        block.clear(3);
        assert_eq!(block.load(3, at(900_000_000)), 2);
    }

    #[test]
    fn milliseconds_may_wrap() {
        let (block, wrap) = (LoadBlock::default(), 1 << 32);
        block.answered(3, FAST, at(wrap - 10));
        (0..4).for_each(|_| block.failed(3, at(wrap - 10)));
        assert_eq!((known(&block, at(wrap + 10)), block.load(3, at(wrap + 10))), (1_000, 4));
        assert_eq!(block.load(3, at(wrap + 5_000)), 2);
        assert_eq!(block.load(3, at(wrap - 200)), 4, "a clock that is behind");
        assert!(matches!(block.latency(3, at(wrap + 5_000)), Latency::Stale(_)));
    }

    proptest! {
        #[test]
        fn an_average_lies_between_its_samples(samples in prop::collection::vec((1u32.., 0u64..6_000), 1..40)) {
            let (block, mut now) = (LoadBlock::default(), 0);
            for &(sample, pause) in &samples {
                now += pause;
                block.answered(3, Duration::from_micros(sample.into()), at(now));
            }
            let (low, high) = samples.iter().fold((u32::MAX, 0), |(low, high), sample| (low.min(sample.0), high.max(sample.0)));
            let average = known(&block, at(now));
            prop_assert!(low.saturating_sub(1 + low / 1_000) <= average && average <= high.saturating_add(1 + high / 1_000));
        }

        /// A backend that fails at most half of its clients, in turn, has at most one failure as load.
        #[test]
        fn answers_offset_failures(rounds in 1u64..200) {
            let block = LoadBlock::default();
            for round in 0..rounds {
                block.failed(0, at(round));
                prop_assert_eq!(block.load(0, at(round)), 1);
                block.answered(0, FAST, at(round));
                prop_assert_eq!(block.load(0, at(round)), 0);
            }
        }
    }
}
