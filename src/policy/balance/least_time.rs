//! Least time: the lowest latency × (load + 1) ÷ weight, an estimate of the next client's wait.
//!
//! A backend without a measurement counts as fast as the fastest measured one that is up, and goes first among equals.
//! So it is tried soon, but does not get every client until its first answer. All unmeasured ones share one latency, so
//! the best of them is known before that latency is, and one pass is enough.
//!
//! A backend with a stale average ([`super::load`]) is tried in the same way, but by at most one client in [`TRIALS`].
//! With few clients and many backends most averages are stale, but still separate slow backends from fast ones.

use super::lightest::{HEAVIEST, Lightest};
use super::load::Latency;
use super::weighted_round_robin::WeightedRoundRobin;
use super::{Balance, Client, Member, Preview, View};
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicU32, Ordering};

/// One client in this many may try a backend with a stale average.
const TRIALS: u32 = 8;

struct LeastTime {
    turns: WeightedRoundRobin,
    /// Choices since the last such trial.
    since_trial: AtomicU32,
}

/// Builds the algorithm for these members.
pub fn build(members: &[Member], start: u64) -> Box<dyn Balance> {
    Box::new(LeastTime { turns: WeightedRoundRobin::new(members, start), since_trial: AtomicU32::new(TRIALS) })
}

impl Balance for LeastTime {
    fn pick(&self, _: Client, view: &View<'_>, random: &mut fastrand::Rng) -> Option<usize> {
        let start = self.turns.take(view, random)?;
        let (index, choices) = self.choose(start, view);
        // Two workers may start a trial at once, or lose a count; the limit is approximate.
        self.since_trial.store(choices, Ordering::Relaxed);
        index
    }

    fn preview(&self, _: Client, view: &View<'_>) -> Preview {
        self.turns.peek(view).then(|start| self.choose(start, view).0)
    }
}

impl LeastTime {
    /// The choice in a round from `start`, and the choices since the last trial after it.
    fn choose(&self, start: usize, view: &View<'_>) -> (Option<usize>, u32) {
        let choices = self.since_trial.load(Ordering::Relaxed);
        let trial = choices >= TRIALS;
        let (mut measured, mut unmeasured, mut fastest) = (Lightest::new(), Lightest::new(), u64::MAX);
        self.turns.candidates().visit(start, view, |lane| {
            let clients = u64::from(lane.block.load(lane.lane, view.now)) + 1;
            let latency = match lane.block.latency(lane.lane, view.now) {
                Latency::Unknown => 0,
                Latency::Stale(_) if trial => 0,
                Latency::Stale(average) | Latency::Known(average) => u64::from(average),
            };
            if latency == 0 {
                unmeasured.offer(&lane, clients, view);
            } else {
                fastest = fastest.min(latency);
                // Both factors are below about 2^32, so the product does not overflow.
                measured.offer(&lane, (latency * clients).min(HEAVIEST), view);
            }
            ControlFlow::Continue(())
        });
        let new_goes_first = match (measured.index, unmeasured.index) {
            (Some(_), Some(_)) => {
                let new_load = fastest.saturating_mul(unmeasured.load).min(HEAVIEST);
                new_load * measured.weight <= measured.load * unmeasured.weight
            }
            (_, new) => new.is_some(),
        };
        let choices = if new_goes_first && trial { 0 } else { choices.saturating_add(1) };
        (if new_goes_first { unmeasured.index } else { measured.index }, choices)
    }
}
