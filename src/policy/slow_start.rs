//! Slow start: the share of a backend that has just come up grows linearly to its full share.
//!
//! Choices fall into [`GROUPS`] groups, at random or by the client's address ([`super::balance::Balance::group`]). A
//! backend in slow start takes part in a number of groups that grows with its age, from none to all. For choices of
//! other groups it counts as down. So slow start works with every algorithm, and the share that it leaves is spread as
//! that of a dead backend. A client that is tied to the backend by its address moves to it once.
//!
//! Each backend joins the groups in an order of its own, so backends that start together do not share their groups. A
//! group without any backend is served by all of them.
//!
//! A share grows in steps of a 64th. The prober writes the steps, at most once a second. A choice reads one more bit
//! per backend, however many backends are in slow start.

use std::time::Duration;

/// The number of groups: one bit each in a word.
pub const GROUPS: usize = 64;

/// The time between two updates of the shares.
pub const STEP: Duration = Duration::from_secs(1);

/// The groups that a backend takes part in, as bits. It came up `age` ago, in a pool whose slow start lasts `whole`.
/// `number` is unique to the backend.
pub fn groups(number: u64, age: Duration, whole: Duration) -> u64 {
    if age >= whole {
        return u64::MAX;
    }
    // Rounded up, so that a slow start of hours has a share from the first minute on.
    let count = (GROUPS as u128 * age.as_nanos()).div_ceil(whole.as_nanos().max(1)) as u64;
    let (odd, first) = (mixed(number) | 1, mixed(number) >> 32);
    let place = |group: u64| group.wrapping_mul(odd).wrapping_add(first) % GROUPS as u64;
    (0..GROUPS as u64).filter(|group| place(*group) < count).fold(0, |bits, group| bits | 1 << group)
}

/// The finaliser of SplitMix64, so that consecutive numbers give independent results.
fn mixed(number: u64) -> u64 {
    let number = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ (number >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn outside_slow_start_a_backend_is_in_every_group() {
        assert_eq!(groups(7, Duration::ZERO, Duration::ZERO), u64::MAX);
        assert_eq!(groups(7, Duration::from_secs(10), Duration::from_secs(10)), u64::MAX);
        assert_eq!(groups(7, Duration::MAX, Duration::from_secs(10)), u64::MAX);
        assert_eq!(groups(7, Duration::ZERO, Duration::from_secs(10)), 0);
    }

    #[test]
    fn backends_that_start_together_are_spread_over_the_groups() {
        let mut backends = [0_u32; GROUPS];
        for number in 0..6_400 {
            let groups = groups(number, Duration::from_secs(1), Duration::from_secs(64));
            assert_eq!(groups.count_ones(), 1);
            backends[groups.trailing_zeros() as usize] += 1;
        }
        // A hundred each, and a standard deviation of ten.
        assert!(backends.iter().all(|count| (50..150).contains(count)), "{backends:?}");
    }

    proptest! {
        #[test]
        fn the_share_grows_linearly_and_keeps_its_groups(number: u64, percent in 0u32..100, seconds in 1u64..31_557_600) {
            let whole = Duration::from_secs(seconds);
            let at = |percent| groups(number, whole * percent / 100, whole);
            let (now, later) = (at(percent), at(percent + 1));
            prop_assert_eq!(now & !later, 0);
            prop_assert!(now.count_ones().abs_diff(64 * percent / 100) <= 1);
        }
    }
}
