//! Decides whether a peer that owes an acknowledgement is still there.
//!
//! Keepalive covers a connection with nothing under way. It does not run while bytes are unacknowledged or unsent, and
//! TCP_USER_TIMEOUT, which does, also ends a peer that keeps its window closed and acknowledges every probe. So the worker
//! looks at what the kernel knows of a peer's acknowledgements, eight times per `dead_peer_timeout`, and asks here.
//!
//! A peer is dead when it owed an acknowledgement at two looks three quarters of the time-out apart, and acknowledged
//! nothing in between. Bytes that a look sees may have been sent just after the last one; the remaining quarter covers that.
//! So a dead peer is found within the time-out, and a peer that acknowledges anything, however slowly it reads, is alive.
//!
//! A closed window is probed by the kernel at intervals that double up to two minutes (TCP_RTO_MAX). The worker shortens
//! them to [`Timing::probe`] where the kernel can (Linux 6.15). One probe may get lost: two unanswered ones count.
//!
//! Pure: the worker's driver gives it what [`crate::net`] has read, and acts on the verdict.

use crate::base::Tick;
use std::time::Duration;

/// Looks per time-out.
const LOOKS: u32 = 8;

/// Looks after which silence is death. One look passes before a debt is seen, and one before a closed window is probed.
const PATIENCE: u32 = LOOKS - 2;

/// Unanswered window probes from which on a peer with nothing else to acknowledge may be dead.
const PROBES: u8 = 2;

/// The least that the kernel accepts as the longest interval between two probes (TCP_RTO_MAX_MS).
const PROBE_MIN: Duration = Duration::from_secs(1);

/// The kernel measures ages in jiffies, the worker's clock stands still during a batch: ages this close are equal.
const BLUR: Duration = Duration::from_millis(20);

/// The least time that the kernel waits before it first probes a closed window (TCP_RTO_MIN).
const RTO_MIN: Duration = Duration::from_millis(200);

/// What the kernel knows of a peer's acknowledgements (TCP_INFO).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Acknowledgements {
    /// Were bytes, or a FIN, sent that are not acknowledged?
    pub in_flight: bool,
    /// Probes of a closed window, or of an idle connection, that went unanswered.
    pub probes: u8,
    /// Is the window closed, with bytes behind it?
    pub window_closed: bool,
    /// How long ago the peer acknowledged anything.
    pub last: Duration,
    /// How long the kernel waits before it sends again, or probes for the first time.
    pub rto: Duration,
}

/// When a worker looks and what it concludes, for one `dead_peer_timeout`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// Between two looks.
    pub look: Duration,
    /// The longest interval between two probes of a closed window.
    pub probe: Duration,
    patience: Duration,
}

/// What a look at a peer concludes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PeerState {
    /// Everything is acknowledged: no further look is needed until something is sent.
    Settled,
    /// It is alive or may be: look again.
    Open,
    /// It is gone.
    Dead,
}

/// What earlier looks at one peer have seen.
#[derive(Clone, Copy, Debug, Default)]
pub struct Liveness {
    /// The first look at which it owed an acknowledgement and after which none came.
    owes_since: Option<Tick>,
}

impl Timing {
    /// Finds a dead peer within `time`.
    pub fn within(time: Duration) -> Timing {
        let look = time / LOOKS;
        Timing { look, probe: look.max(PROBE_MIN), patience: look * PATIENCE }
    }
}

impl Liveness {
    /// Takes what a look has seen.
    pub fn judge(&mut self, seen: Acknowledgements, timing: &Timing, now: Tick) -> PeerState {
        if !seen.in_flight && seen.probes == 0 {
            self.owes_since = None;
            // A window may have closed too recently for a probe to show it.
            let probed_by_now = seen.last > 2 * seen.rto.max(RTO_MIN);
            return if probed_by_now && !seen.window_closed { PeerState::Settled } else { PeerState::Open };
        }
        let silent = self.owes_since.filter(|since| seen.last > now - *since + BLUR);
        let since = *self.owes_since.insert(silent.unwrap_or(now));
        let is_asked = seen.in_flight || seen.probes >= PROBES;
        if is_asked && now - since >= timing.patience { PeerState::Dead } else { PeerState::Open }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SECOND: u64 = 1_000_000;
    const TIMING: fn() -> Timing = || Timing::within(Duration::from_secs(8));

    fn owing(last: Duration) -> Acknowledgements {
        Acknowledgements { in_flight: true, probes: 0, window_closed: false, last, rto: RTO_MIN }
    }

    fn closed(probes: u8, last: Duration) -> Acknowledgements {
        Acknowledgements { in_flight: false, probes, window_closed: true, last, rto: RTO_MIN }
    }

    /// The second at which a peer is found dead that last acknowledged at 0 and looks like `seen` from then on.
    fn found_at(seen: fn(Duration) -> Acknowledgements, first_look: u64) -> u64 {
        let mut liveness = Liveness::default();
        let dead = |second: &u64| {
            let age = Duration::from_secs(*second);
            liveness.judge(seen(age), &TIMING(), Tick(second * SECOND)) == PeerState::Dead
        };
        (first_look..100).find(dead).expect("found")
    }

    #[test]
    fn a_peer_that_owes_an_acknowledgement_and_gives_none_is_dead_within_the_time_out() {
        assert_eq!(found_at(owing, 1), 7);
        // A long silence before the first look proves nothing: nothing was asked then.
        assert_eq!(found_at(owing, 50), 56);
        assert_eq!(found_at(|age| closed((age.as_secs() + 1) as u8, age), 1), 7);
    }

    #[test]
    fn one_lost_probe_is_not_death() {
        let mut liveness = Liveness::default();
        for second in 1..100 {
            let verdict = liveness.judge(closed(1, Duration::from_secs(second)), &TIMING(), Tick(second * SECOND));
            assert_eq!(verdict, PeerState::Open);
        }
    }

    #[test]
    fn a_window_that_stays_closed_is_looked_at_again_and_again() {
        let mut liveness = Liveness::default();
        for second in 1..1_000 {
            let verdict = liveness.judge(closed(0, Duration::from_millis(900)), &TIMING(), Tick(second * SECOND));
            assert_eq!(verdict, PeerState::Open);
        }
    }

    #[test]
    fn what_is_acknowledged_needs_no_look_once_a_closed_window_would_show() {
        let mut liveness = Liveness::default();
        let quiet = |last| Acknowledgements { in_flight: false, ..owing(last) };
        let mut judge = |seen| liveness.judge(seen, &TIMING(), Tick(SECOND));
        assert_eq!(judge(quiet(Duration::from_millis(100))), PeerState::Open);
        assert_eq!(judge(quiet(Duration::from_secs(1))), PeerState::Settled);
        assert_eq!(judge(owing(Duration::from_secs(1))), PeerState::Open);
    }

    proptest! {
        #[test]
        fn a_peer_that_acknowledges_between_looks_never_dies(gaps in prop::collection::vec(1u64..5_900, 1..60), probes: u8) {
            // Acknowledgements at irregular times, never further apart than the patience; a look each second.
            let mut liveness = Liveness::default();
            let mut acked = Vec::new();
            let mut at = 0;
            for gap in gaps {
                at += gap;
                acked.push(at);
            }
            for second in 1..=at / 1_000 {
                let now = second * 1_000;
                let last = acked.iter().rev().find(|acked| **acked <= now).copied().unwrap_or(0);
                let seen = Acknowledgements { probes, ..owing(Duration::from_millis(now - last)) };
                prop_assert_ne!(liveness.judge(seen, &TIMING(), Tick(now * 1_000)), PeerState::Dead);
            }
        }

        #[test]
        fn a_dead_peer_is_found_within_the_time_out_whenever_it_vanishes(vanished in 0u64..10_000_000, look in 0u64..1_000_000) {
            // Bytes are in flight from the moment on at which it vanishes; looks come at any phase.
            let mut liveness = Liveness::default();
            let mut now = look;
            loop {
                let seen = if now < vanished {
                    owing(Duration::from_millis(1))
                } else {
                    owing(Duration::from_micros(now - vanished))
                };
                if liveness.judge(seen, &TIMING(), Tick(now)) == PeerState::Dead {
                    break;
                }
                now += SECOND;
            }
            prop_assert!(now >= vanished, "alive");
            prop_assert!(now - vanished <= 8 * SECOND, "{}", now - vanished);
        }
    }
}
