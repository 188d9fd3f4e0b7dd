//! Outliers: a backend that passes its probes but fails its clients is excluded for a while.
//!
//! A failure is a failed connect, or a reset by the backend within [`EARLY`] and before its first byte.
//! `outlier_failures` in a row eject the backend. A client that gets an answer restarts the count, and so does
//! [`FORGET`] without a failure. The first ejection lasts a second, each further one twice as long, up to a minute.
//! After [`FORGET`] without an ejection it is a second again.
//!
//! An ejection does not change the health state: an ejected backend is not down. A pool keeps at least half of its
//! backends, since a cause that hits all of them is not theirs. Only the prober thread calls this module.

use crate::base::Tick;
use std::time::Duration;

/// A reset before the first byte counts as a failure within this time after the connect.
pub const EARLY: Duration = Duration::from_secs(1);

/// The lengths of the first ejection and of the longest one.
const SHORTEST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(60);

/// After this long without a failure, earlier ones do not count.
pub const FORGET: Duration = Duration::from_secs(60);

/// The state of one backend.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outlier {
    /// Failures in a row.
    failures: u32,
    last: Tick,
    /// Ejections without [`FORGET`] between them.
    times: u32,
    until: Option<Tick>,
    back: Tick,
}

/// Whether one more of `members` backends may be ejected, if `ejected` are already.
pub fn has_room(ejected: usize, members: usize) -> bool {
    (ejected + 1) * 2 <= members
}

/// A failure of a client, with the circumstances that decide on an ejection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClientFailure {
    /// Whether another client got an answer since the last failure.
    pub answered_before: bool,
    /// The failures in a row that eject; 0: never.
    pub limit: u32,
    /// Whether the pool can spare one more backend ([`has_room`]).
    pub has_room: bool,
}

impl Outlier {
    /// Counts a failure. True if it ejects the backend.
    pub fn failed(&mut self, failure: ClientFailure, now: Tick) -> bool {
        let ClientFailure { answered_before, limit, has_room } = failure;
        if limit == 0 || self.until.is_some() {
            return false;
        }
        if answered_before || now - self.last >= FORGET {
            self.failures = 0;
        }
        self.last = now;
        self.failures = self.failures.saturating_add(1);
        if self.failures < limit || !has_room {
            return false;
        }
        if now - self.back >= FORGET {
            self.times = 0;
        }
        let longer = 1u32.checked_shl(self.times).unwrap_or(u32::MAX);
        self.until = Some(now + SHORTEST.saturating_mul(longer).min(LONGEST));
        self.times = self.times.saturating_add(1);
        self.failures = 0;
        true
    }

    /// Time has passed. True if that ends an ejection.
    pub fn elapsed(&mut self, now: Tick) -> bool {
        let back = self.until.take_if(|until| *until <= now).is_some();
        if back {
            self.back = now;
        }
        back
    }

    /// When the ejection ends; `None` if there is none.
    pub fn until(&self) -> Option<Tick> {
        self.until
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(seconds: u64) -> Tick {
        Tick::after_start(Duration::from_secs(seconds))
    }

    fn failure(limit: u32) -> ClientFailure {
        ClientFailure { answered_before: false, limit, has_room: true }
    }

    #[test]
    fn failures_in_a_row_eject_and_an_answer_restarts_the_count() {
        let mut outlier = Outlier::default();
        assert!(!outlier.failed(failure(3), at(100)) && !outlier.failed(failure(3), at(100)));
        assert!(
            !outlier.failed(ClientFailure { answered_before: true, ..failure(3) }, at(100)),
            "a client was answered"
        );
        assert!(!outlier.failed(failure(3), at(100)));
        assert!(!outlier.failed(failure(3), at(161)), "the last ones are forgotten");
        assert!(!outlier.failed(failure(3), at(161)) && outlier.failed(failure(3), at(161)));
        assert_eq!(outlier.until(), Some(at(162)));
        assert!(!outlier.failed(failure(3), at(161)), "it is out already");
    }

    #[test]
    fn a_limit_of_0_or_a_lack_of_room_prevents_an_ejection() {
        let mut outlier = Outlier::default();
        assert!((0..100).all(|_| !outlier.failed(failure(0), at(1))));
        assert!((0..100).all(|_| !outlier.failed(ClientFailure { has_room: false, ..failure(3) }, at(1))));
        assert!(outlier.failed(failure(3), at(1)), "once there is room");
    }

    #[test]
    fn each_ejection_lasts_twice_as_long_up_to_a_minute() {
        let (mut outlier, mut now) = (Outlier::default(), at(1_000));
        let mut lengths = Vec::new();
        for _ in 0..40 {
            assert!(outlier.failed(failure(1), now));
            let until = outlier.until().unwrap();
            lengths.push((until - now).as_secs());
            now = until;
            assert!(outlier.elapsed(now) && !outlier.elapsed(now));
        }
        assert_eq!(lengths[..8], [1, 2, 4, 8, 16, 32, 60, 60]);
        assert_eq!(lengths[39], 60);
        assert!(outlier.failed(failure(1), now + FORGET));
        assert_eq!(outlier.until(), Some(now + FORGET + SHORTEST));
    }

    proptest! {
        #[test]
        fn at_most_half_of_a_pool_is_ejected(members in 0usize..200) {
            let ejected = (0..members).fold(0, |ejected, _| ejected + usize::from(has_room(ejected, members)));
            prop_assert_eq!(ejected, members / 2);
        }
    }
}
