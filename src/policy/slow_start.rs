//! Slow start: a backend that has just come up gets a share that grows, linearly, until it has its whole one.
//!
//! There are [`GROUPS`] groups of choices. Each choice belongs to one of them, drawn at random or by the client's address
//! ([`super::balance::Balance::group`]), and a backend that starts slowly takes part in so many of the groups as its age
//! allows: in none at first, in all of them at the end. For a choice of a group that it is not in, a backend counts as down.
//! So every algorithm has slow start without knowing, the share that is given away is spread as that of a dead backend is,
//! and a client that an algorithm ties to a backend by its address is tied to it again once, and then stays.
//!
//! Which groups come first is another order for each backend: of several that start at the same time each has its share,
//! whoever else starts. A group that no backend is in yet is served by all of them.
//!
//! A share steps by a 64th. The prober writes the steps, at most once a second; a choice reads one bit more per backend, and
//! costs the same however many backends start at once.

use std::time::Duration;

/// How many groups there are: a bit each in a word.
pub const GROUPS: usize = 64;

/// Between two looks at the age of backends.
pub const STEP: Duration = Duration::from_secs(1);

/// The groups that a backend takes part in, a bit each, which came up `age` ago in a pool whose slow start lasts `whole`.
/// `number` is any that it alone has.
pub fn groups(number: u64, age: Duration, whole: Duration) -> u64 {
    if age >= whole {
        return u64::MAX;
    }
    // Rounded up: in a slow start of hours it is to have a little from the first minute on.
    let count = (GROUPS as u128 * age.as_nanos()).div_ceil(whole.as_nanos().max(1)) as u64;
    let (odd, first) = (mixed(number) | 1, mixed(number) >> 32);
    let place = |group: u64| group.wrapping_mul(odd).wrapping_add(first) % GROUPS as u64;
    (0..GROUPS as u64).filter(|group| place(*group) < count).fold(0, |bits, group| bits | 1 << group)
}

/// The finaliser of SplitMix64: neighbouring numbers have nothing in common afterwards.
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
    fn without_a_slow_start_and_after_it_a_backend_is_in_every_group() {
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
        fn the_share_grows_linearly_and_no_group_is_left_again(number: u64, percent in 0u32..100, seconds in 1u64..31_557_600) {
            let whole = Duration::from_secs(seconds);
            let at = |percent| groups(number, whole * percent / 100, whole);
            let (now, later) = (at(percent), at(percent + 1));
            prop_assert_eq!(now & !later, 0);
            prop_assert!(now.count_ones().abs_diff(64 * percent / 100) <= 1);
        }
    }
}
