//! Outliers: a backend that passes its probes and fails its clients is left out for a while.
//!
//! A failure is a connection that could not be made, or one that the backend reset within [`EARLY`] without having sent a
//! byte. So many in a row (`outlier_failures`) eject it; a client that is answered in between breaks the row, and so does
//! [`FORGET`] without a failure. The first time it is out for a second, then twice as long each time, up to a minute; after
//! a good [`FORGET`] it starts from a second again.
//!
//! It stands beside the verdict and does not touch it: whoever is ejected is not down. A pool keeps half of its backends
//! whatever they do, since what hits them all is not the backends' doing. The prober thread is the only caller.

use crate::base::Tick;
use std::time::Duration;

/// A reset before the first byte counts if it comes within this.
pub const EARLY: Duration = Duration::from_secs(1);

/// How long the first ejection lasts, and the longest one.
const SHORTEST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(60);

/// After this long without a failure what was before does not count.
pub const FORGET: Duration = Duration::from_secs(60);

/// One backend.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outlier {
    /// In a row.
    failures: u32,
    last: Tick,
    /// Ejections without a good time in between.
    times: u32,
    until: Option<Tick>,
    back: Tick,
}

/// May one more of `members` be ejected, when `ejected` are?
pub fn has_room(ejected: usize, members: usize) -> bool {
    (ejected + 1) * 2 <= members
}

/// A client that failed at a backend, and under which circumstances.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClientFailure {
    /// Another client got an answer since the failure before.
    pub answered_before: bool,
    /// So many failures in a row are too many; 0: none are.
    pub limit: u32,
    /// The pool can do without one more backend ([`has_room`]).
    pub has_room: bool,
}

impl Outlier {
    /// A client failed. True if that ejects the backend.
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

    /// Time has passed. True if that brought it back.
    pub fn elapsed(&mut self, now: Tick) -> bool {
        let back = self.until.take_if(|until| *until <= now).is_some();
        if back {
            self.back = now;
        }
        back
    }

    /// When it comes back; `None` if it is in.
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
    fn so_many_in_a_row_eject_and_an_answer_breaks_the_row() {
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
    fn off_means_never_and_without_room_it_stays() {
        let mut outlier = Outlier::default();
        assert!((0..100).all(|_| !outlier.failed(failure(0), at(1))));
        assert!((0..100).all(|_| !outlier.failed(ClientFailure { has_room: false, ..failure(3) }, at(1))));
        assert!(outlier.failed(failure(3), at(1)), "once there is room");
    }

    #[test]
    fn each_time_it_is_out_for_twice_as_long_up_to_a_minute() {
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
        fn at_most_half_of_a_pool_is_ever_out(members in 0usize..200) {
            let ejected = (0..members).fold(0, |ejected, _| ejected + usize::from(has_room(ejected, members)));
            prop_assert_eq!(ejected, members / 2);
        }
    }
}
