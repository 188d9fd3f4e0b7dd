//! Decides whether a peer that owes an acknowledgement is still alive.
//!
//! Keepalive covers idle connections, but does not run while bytes are unacknowledged or unsent. TCP_USER_TIMEOUT runs
//! then, but also ends a peer that keeps its window closed and acknowledges every probe. So the worker reads the
//! kernel's state of acknowledgements eight times per `dead_peer_timeout`, and this module judges it.
//!
//! A peer is dead if it owed an acknowledgement at two looks three quarters of the time-out apart and acknowledged
//! nothing in between. Bytes may have been sent just after the previous look; the remaining quarter covers that. So a
//! dead peer is found within the time-out, and a peer that acknowledges anything, however slowly it reads, is alive.
//!
//! The kernel probes a closed window at intervals that double up to two minutes (TCP_RTO_MAX). Where the kernel can
//! (Linux 6.15), the worker shortens them to [`Timing::probe`]. One probe may get lost, so two unanswered ones count.
//!
//! Pure: the worker's driver passes in what [`crate::net`] reads, and acts on the result.

use crate::base::{OptionalTick, Tick};
use std::time::Duration;

/// Looks per time-out.
const LOOKS: u32 = 8;

/// Looks after which a silent peer is dead. One look passes before a debt is seen, and one before a closed window is
/// probed.
const PATIENCE: u32 = LOOKS - 2;

/// Unanswered probes of a closed window after which a peer may be dead.
const PROBES: u8 = 2;

/// The least value that the kernel accepts for TCP_RTO_MAX_MS.
const PROBE_MIN: Duration = Duration::from_secs(1);

/// Ages that differ by less than this are equal: the kernel counts in jiffies, and the worker's clock stands still
/// during a batch.
const BLUR: Duration = Duration::from_millis(20);

/// The least time before the kernel first probes a closed window (TCP_RTO_MIN).
const RTO_MIN: Duration = Duration::from_millis(200);

/// The kernel's state of a peer's acknowledgements (TCP_INFO).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Acknowledgements {
    /// Whether bytes or a FIN were sent and are not acknowledged.
    pub in_flight: bool,
    /// Unanswered probes of a closed window or an idle connection.
    pub probes: u8,
    /// Whether the window is closed and bytes wait for it.
    pub window_closed: bool,
    /// The time since the peer last acknowledged anything.
    pub last: Duration,
    /// The kernel's retransmission time-out, which is also the time before the first probe.
    pub rto: Duration,
}

/// The looks and their limits, for one `dead_peer_timeout`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// The time between two looks.
    pub look: Duration,
    /// The longest interval between two probes of a closed window.
    pub probe: Duration,
    patience: Duration,
}

/// The result of a look at a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PeerState {
    /// Everything is acknowledged: the next look comes after something is sent.
    Settled,
    /// The peer is or may be alive: look again.
    Open,
    /// The peer is dead.
    Dead,
}

/// The state of one peer from earlier samples.
#[derive(Clone, Copy, Debug, Default)]
pub struct Liveness {
    /// The first look since which it owes an acknowledgement.
    owes_since: OptionalTick,
}

impl Timing {
    /// The timing that finds a dead peer within `time`.
    pub fn within(time: Duration) -> Timing {
        let look = time / LOOKS;
        Timing { look, probe: look.max(PROBE_MIN), patience: look * PATIENCE }
    }
}

impl Liveness {
    /// Of a peer that owes an acknowledgement since this look, if it owes one.
    pub fn owing(since: Option<Tick>) -> Liveness {
        Liveness { owes_since: since.into() }
    }

    /// The first look since which it owes an acknowledgement.
    pub fn owes_since(&self) -> Option<Tick> {
        self.owes_since.get()
    }

    /// Judges what a look has seen.
    pub fn judge(&mut self, seen: Acknowledgements, timing: &Timing, now: Tick) -> PeerState {
        if !seen.in_flight && seen.probes == 0 {
            self.owes_since = OptionalTick::NONE;
            // The window may have closed too recently for a probe to show it.
            let probed_by_now = seen.last > 2 * seen.rto.max(RTO_MIN);
            return if probed_by_now && !seen.window_closed { PeerState::Settled } else { PeerState::Open };
        }
        let silent = self.owes_since.get().filter(|since| seen.last > now - *since + BLUR);
        let since = silent.unwrap_or(now);
        self.owes_since = since.into();
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

    /// The second at which a peer is found dead that last acknowledged at 0, and whose state is `seen` from then on.
    fn found_at(seen: fn(Duration) -> Acknowledgements, first_look: u64) -> u64 {
        let mut liveness = Liveness::default();
        let dead = |second: &u64| {
            let age = Duration::from_secs(*second);
            liveness.judge(seen(age), &TIMING(), Tick(second * SECOND)) == PeerState::Dead
        };
        (first_look..100).find(dead).expect("found")
    }

    #[test]
    fn a_peer_that_owes_an_acknowledgement_is_dead_within_the_time_out() {
        assert_eq!(found_at(owing, 1), 7);
        // Silence before the first look proves nothing: the peer owed nothing then.
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
    fn a_window_that_stays_closed_is_looked_at_again() {
        let mut liveness = Liveness::default();
        for second in 1..1_000 {
            let verdict = liveness.judge(closed(0, Duration::from_millis(900)), &TIMING(), Tick(second * SECOND));
            assert_eq!(verdict, PeerState::Open);
        }
    }

    #[test]
    fn an_acknowledged_peer_settles_once_a_closed_window_would_show() {
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
            // Bytes are in flight when it vanishes; looks come at any phase.
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
