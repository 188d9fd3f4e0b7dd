//! Least time: the lowest latency × (active + 1) ÷ weight, which is about how long the next client will wait.
//!
//! A backend that nobody has measured yet counts as fast as the fastest measured one that is up, and goes first among
//! equals: it is tried soon, but does not get every client until its first answer is in. Since all unmeasured ones share
//! one latency, the best of them is known before that latency is, and one pass is enough.

use super::lightest::{HEAVIEST, Lightest};
use super::weighted_round_robin::WeightedRoundRobin;
use super::{Balance, Client, Member, View};
use std::ops::ControlFlow;
use std::sync::atomic::Ordering;

struct LeastTime(WeightedRoundRobin);

/// See the module.
pub fn build(members: &[Member], start: u64) -> Box<dyn Balance> {
    Box::new(LeastTime(WeightedRoundRobin::new(members, start)))
}

impl Balance for LeastTime {
    fn pick(&self, _: Client, view: &View<'_>, random: &mut fastrand::Rng) -> Option<usize> {
        let start = self.0.take(view, random)?;
        let (mut measured, mut unmeasured, mut fastest) = (Lightest::new(), Lightest::new(), u64::MAX);
        self.0.candidates().visit(start, view, |lane| {
            let clients = u64::from(lane.block.active(lane.lane).load(Ordering::Relaxed)) + 1;
            let latency = u64::from(lane.block.latency_us(lane.lane).load(Ordering::Relaxed));
            if latency == 0 {
                unmeasured.offer(&lane, clients, view);
            } else {
                fastest = fastest.min(latency);
                // Both factors are below 2^32 or just there: no overflow.
                measured.offer(&lane, (latency * clients).min(HEAVIEST), view);
            }
            ControlFlow::Continue(())
        });
        let (Some(old), Some(new)) = (measured.index, unmeasured.index) else {
            return measured.index.or(unmeasured.index);
        };
        let new_load = fastest.saturating_mul(unmeasured.load).min(HEAVIEST);
        Some(if new_load * measured.weight <= measured.load * unmeasured.weight { new } else { old })
    }
}
