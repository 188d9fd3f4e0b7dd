//! Slow start: a backend that has just come up gets a share that grows, linearly, until it has its whole one.
//!
//! An algorithm chooses as if nothing were the matter; then the choice is thrown away with the probability of what is still
//! missing, and another backend is chosen by the same algorithm. So every algorithm has it without knowing, the share
//! that is given away is spread as that of a dead backend is, and a client that an algorithm ties to a backend by its
//! address is tied to it again once the backend is warm.
//!
//! The shares of backends that start at the same time stay in proportion. If all choices are thrown away, the first one is
//! taken: somebody has to serve.

use std::time::Duration;

/// Does a backend that came up `age` ago take this connection, in a pool whose slow start lasts `whole`?
pub fn takes(age: Duration, whole: Duration, random: &mut fastrand::Rng) -> bool {
    age >= whole || random.u128(..whole.as_nanos()) < age.as_nanos()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn without_a_slow_start_and_after_it_every_connection_is_taken() {
        let mut random = fastrand::Rng::with_seed(1);
        assert!(takes(Duration::ZERO, Duration::ZERO, &mut random));
        assert!((0..1_000).all(|_| takes(Duration::from_secs(10), Duration::from_secs(10), &mut random)));
        assert!((0..1_000).all(|_| !takes(Duration::ZERO, Duration::from_secs(10), &mut random)));
    }

    proptest! {
        #[test]
        fn the_share_grows_linearly(percent in 0u64..=100, seconds in 1u64..100_000, seed: u64) {
            let mut random = fastrand::Rng::with_seed(seed);
            let whole = Duration::from_secs(seconds);
            let age = whole * u32::try_from(percent).unwrap() / 100;
            let taken = (0..10_000).filter(|_| takes(age, whole, &mut random)).count();
            // Six standard deviations of 10 000 draws are at most 300.
            prop_assert!(taken.abs_diff(100 * percent as usize) <= 300, "{} of 10 000 at {} %", taken, percent);
        }
    }
}
