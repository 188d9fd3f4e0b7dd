//! When to probe: soon, evenly, and never all at once.
//!
//! * First probes are five milliseconds apart, all within the first second (or the interval, if that is shorter). So a
//!   few backends are known within milliseconds, and thousands are not probed together.
//! * The second probe comes after a random part of an interval. That spreads the backends over the whole interval, even
//!   if it is longer than a second.
//! * Later probes come an interval after the previous one, plus or minus a tenth. Without that, backends or balancers
//!   whose probes coincide once would stay in step.
//!
//! All delays count from the start of the previous probe; a probe that takes longer is followed at once.

use std::time::Duration;

/// The time between two first probes, if there are few.
const STEP: Duration = Duration::from_millis(5);

/// The latest time of a first probe.
const FIRST: Duration = Duration::from_secs(1);

/// The delay of the first probe of backend `index` of `count` new ones.
pub fn first(index: usize, count: usize, interval: Duration) -> Duration {
    let window = interval.min(FIRST).as_secs_f64();
    let step = (window / count.max(1) as f64).min(STEP.as_secs_f64());
    Duration::from_secs_f64((step * index as f64).min(window))
}

/// The delay from the first probe to the second: from a tenth of an interval to a whole one.
pub fn second(interval: Duration, random: &mut fastrand::Rng) -> Duration {
    interval.mul_f64(0.1 + 0.9 * random.f64())
}

/// The delay between later probes.
pub fn next(interval: Duration, random: &mut fastrand::Rng) -> Duration {
    // Divides first, so that the largest interval does not overflow.
    (interval / 10).saturating_mul(9).saturating_add((interval / 5).mul_f64(random.f64()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn seconds(count: f64) -> Duration {
        Duration::from_secs_f64(count)
    }

    #[test]
    fn a_single_backend_is_probed_at_once_and_a_few_within_milliseconds() {
        assert_eq!(first(0, 1, seconds(3600.0)), Duration::ZERO);
        assert_eq!(first(2, 3, seconds(2.0)), Duration::from_millis(10));
    }

    #[test]
    fn a_thousand_backends_start_evenly_over_the_first_second() {
        let mut per_tenth = [0; 10];
        for index in 0..1_000 {
            per_tenth[(first(index, 1_000, seconds(10.0)).as_millis() / 100) as usize] += 1;
        }
        assert_eq!(per_tenth, [100; 10]);
    }

    #[test]
    fn a_thousand_backends_are_spread_over_the_interval_after_two_probes() {
        let random = &mut fastrand::Rng::with_seed(7);
        let interval = seconds(10.0);
        // Counts the probes of the fourth interval, per tenth of it.
        let mut per_tenth = [0u32; 10];
        for index in 0..1_000 {
            let mut at = first(index, 1_000, interval) + second(interval, random);
            while at < 4 * interval {
                if at >= 3 * interval {
                    per_tenth[(at - 3 * interval).as_secs() as usize] += 1;
                }
                at += next(interval, random);
            }
        }
        assert!(per_tenth.iter().all(|count| (70..140).contains(count)), "{per_tenth:?}");
    }

    proptest! {
        #[test]
        fn first_probes_come_in_order_and_within_a_second(count in 1usize..5_000, millis in 1u64..100_000) {
            let interval = Duration::from_millis(millis);
            let delays: Vec<Duration> = (0..count).map(|index| first(index, count, interval)).collect();
            prop_assert!(delays.is_sorted());
            prop_assert_eq!(delays[0], Duration::ZERO);
            prop_assert!(delays[count - 1] <= interval.min(FIRST));
        }

        #[test]
        fn later_probes_come_about_an_interval_apart(seed: u64, millis in 1u64..100_000_000) {
            let random = &mut fastrand::Rng::with_seed(seed);
            let interval = Duration::from_millis(millis);
            let second = second(interval, random);
            prop_assert!(second >= interval / 10 - Duration::from_nanos(10) && second <= interval);
            let next = next(interval, random).as_secs_f64() / interval.as_secs_f64();
            prop_assert!((0.899..1.101).contains(&next), "{next}");
        }

        #[test]
        fn no_interval_overflows(seed: u64) {
            let random = &mut fastrand::Rng::with_seed(seed);
            next(Duration::MAX, random);
            second(Duration::MAX, random);
            first(3, 4, Duration::MAX);
        }
    }
}
