//! Weights that follow load, for a data plane that chooses by weight alone, as the kernel does.
//!
//! An algorithm that follows load compares a cost of each backend, for each connection. Here the costs change weights instead,
//! step by step. Between two steps the weights are constant.
//!
//! # The rule
//!
//! A backend's cost is what its algorithm compares: (connections per weight + 1), for least-time multiplied by the time of its
//! probes. Its weight aims at the configured one × mean cost ÷ cost. This is the rule of Envoy's least request where weights differ:
//! weight ÷ (active requests + 1). Connections count per weight here, as for wlc of LVS, so that equal servers have shares
//! by weight under any load.
//!
//! A step goes an eighth of the way to the aim, in orders of magnitude, and changes a weight by at most a quarter. The aim lies
//! between a sixteenth of the configured weight and four times it. So an idle backend that joins busy ones is not flooded.
//!
//! New weights are used once a share would change by more than [`THRESHOLD`] and what chance explains. The number of short
//! connections varies by its square root, also where loads are equal. Times of probes vary with the load of this machine.
//!
//! # Why it is stable
//!
//! The aim depends on the loads of this moment. A rule that adds up differences of load would go on while old connections
//! last, and swing. By Little's law the connections of a backend are its rate × their duration. For short connections a step
//! takes off a quarter of a difference. Long ones make it a second-order system, with a damping of 0.7 or more.
//! `shares_settle_however_long_connections_last` simulates both.
//!
//! It does not make loads equal. If the connections of one backend last `T` times as long, it has √T times as many of
//! them, not `T` times.

use super::Algorithm;

/// The part of the way to its aim that a weight goes in a step.
const GAIN: f64 = 0.125;
/// The most that a weight grows in a step.
const STEP_MAX: f64 = 1.25;
/// The least and the highest aim, of the configured weight.
const LEAST: f64 = 1.0 / 16.0;
const MOST: f64 = 4.0;
/// A change of a share that matters.
const THRESHOLD: f64 = 0.05;
/// The standard deviations that chance may explain, of a count after the steps have averaged it: three times √(GAIN ÷ (2 − GAIN)).
const CHANCE: f64 = 0.75;
/// What is added to the times of probes: smaller differences are those of the prober's own thread.
const NOISE_US: f64 = 1_000.0;
/// A change by less than this part of a share may be noise of times.
const NOISE: f64 = 0.2;
/// The part of the way that the average of these times goes with each probe, in orders of magnitude: as that of clients' times.
const PROBE_GAIN: f64 = 0.125;

/// The algorithms that it comes close to.
pub const ALGORITHMS: [&str; 3] = ["least-connections", "power-of-two", TIMED];

/// The one of them that compares times.
const TIMED: &str = "least-time";

/// Does this algorithm compare the times of backends?
pub fn compares_times(algorithm: &Algorithm) -> bool {
    algorithm.name == TIMED
}

/// What is known of a backend.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Load {
    /// Its configured weight, which is not 0.
    pub weight: u16,
    /// Its open connections.
    pub active: u32,
    /// How long a probe of it takes, in microseconds. `None`: it is unknown, or nothing to the algorithm.
    pub probe_us: Option<u32>,
}

/// A backend's weight, as a factor of the configured one.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Factor {
    /// After the last step.
    pub now: f64,
    /// The one that is in use.
    pub used: f64,
}

impl Default for Factor {
    fn default() -> Factor {
        Factor { now: 1.0, used: 1.0 }
    }
}

/// A step of all usable backends with weight that serve together. True: [`Factor::used`] has changed.
pub fn step(loads: &[Load], factors: &mut [Factor]) -> bool {
    let weights: f64 = loads.iter().map(|load| f64::from(load.weight)).sum();
    let mean_weight = weights / loads.len().max(1) as f64;
    // An unmeasured one counts as fast as the fastest, as in the proxy.
    let fastest = loads.iter().filter_map(|load| load.probe_us).min().unwrap_or(0);
    let cost = |load: &Load| {
        let time = f64::from(load.probe_us.unwrap_or(fastest)) + NOISE_US;
        time * (f64::from(load.active) * mean_weight / f64::from(load.weight) + 1.0)
    };
    let mean = loads.iter().map(|load| f64::from(load.weight) * cost(load)).sum::<f64>() / weights;
    for (load, factor) in loads.iter().zip(factors.iter_mut()) {
        let aim = (mean / cost(load)).clamp(LEAST, MOST);
        factor.now *= (aim / factor.now).powf(GAIN).clamp(1.0 / STEP_MAX, STEP_MAX);
    }
    let (now, used) = (normal(loads, factors, |factor| factor.now), normal(loads, factors, |factor| factor.used));
    // By chance: the deviation of (connections per weight + 1) from its mean, where loads are equal.
    let mean = loads.iter().map(|load| f64::from(load.active)).sum::<f64>() / loads.len().max(1) as f64;
    let chance = |load: &Load| CHANCE * (mean * mean_weight / f64::from(load.weight)).sqrt() / (mean + 1.0);
    let noise = if loads.iter().any(|load| load.probe_us.is_some()) { NOISE } else { 0.0 };
    let moves = loads.iter().zip(factors.iter()).any(|(load, factor)| {
        let change = (factor.now * now / (factor.used * used)).ln().abs();
        change > (1.0 + THRESHOLD + noise + chance(load)).ln()
    });
    if moves {
        factors.iter_mut().for_each(|factor| factor.used = factor.now);
    }
    moves
}

/// What these factors are multiplied by, so that the weights have the sum of the configured ones.
pub fn normal(loads: &[Load], factors: &[Factor], of: impl Fn(&Factor) -> f64) -> f64 {
    let weights = || loads.iter().map(|load| f64::from(load.weight));
    let sum: f64 = weights().zip(factors).map(|(weight, factor)| weight * of(factor)).sum();
    if sum > 0.0 { weights().sum::<f64>() / sum } else { 1.0 }
}

/// A weight times a factor, as a whole number that is not 0 if the weight is not. `heaviest` is the highest weight of the pool:
/// all are scaled by it, so that a change of one weight changes no other.
pub fn scaled(weight: u16, factor: f64, heaviest: u16) -> u16 {
    if weight == 0 {
        return 0;
    }
    let scale = f64::from(u16::MAX) / (MOST * f64::from(heaviest.max(1)));
    (f64::from(weight) * factor * scale).round().clamp(1.0, f64::from(u16::MAX)) as u16
}

/// The average time of probes after one that took `time`. Being geometric, it tolerates one slow probe.
pub fn smooth(before: Option<u32>, time: u32) -> u32 {
    let Some(before) = before else { return time };
    let (before, time) = (f64::from(before).ln(), f64::from(time).ln());
    ((before + (time - before) * PROBE_GAIN).exp().round() as u32).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn load(weight: u16, active: u32) -> Load {
        Load { weight, active, probe_us: None }
    }

    /// How many of so many steps change weights.
    fn steps(count: usize, loads: &[Load], factors: &mut [Factor]) -> usize {
        (0..count).filter(|_| step(loads, factors)).count()
    }

    fn shares(loads: &[Load], factors: &[Factor]) -> Vec<f64> {
        let weights: Vec<f64> =
            loads.iter().zip(factors).map(|(load, factor)| f64::from(load.weight) * factor.used).collect();
        weights.iter().map(|weight| weight / weights.iter().sum::<f64>()).collect()
    }

    /// Backends with these weights, whose connections last so many seconds on average.
    struct World {
        weights: Vec<u16>,
        durations: Vec<f64>,
        /// Connections a second.
        rate: f64,
        active: Vec<f64>,
        factors: Vec<Factor>,
    }

    impl World {
        fn new(weights: &[u16], durations: &[f64], rate: f64) -> World {
            let (active, factors) = (vec![0.0; weights.len()], vec![Factor::default(); weights.len()]);
            World { weights: weights.to_vec(), durations: durations.to_vec(), rate, active, factors }
        }

        /// A second, and a step at its end; the step gets what `seen` makes of the connections. Returns the shares before the step,
        /// and whether weights have changed.
        fn second(&mut self, mut seen: impl FnMut(f64) -> u32) -> (Vec<f64>, bool) {
            let loads = |of: &mut dyn FnMut(f64) -> u32, active: &[f64]| -> Vec<Load> {
                self.weights.iter().zip(active).map(|(weight, active)| load(*weight, of(*active))).collect()
            };
            let shares = shares(&loads(&mut |_| 0, &self.active), &self.factors);
            for ((active, share), duration) in self.active.iter_mut().zip(&shares).zip(&self.durations) {
                let target = self.rate * share * duration;
                *active = target + (*active - target) * (-1.0 / duration).exp();
            }
            let loads = loads(&mut seen, &self.active);
            let changed = step(&loads, &mut self.factors);
            (shares, changed)
        }
    }

    /// A count whose variance is its mean, as that of connections which come by chance.
    fn by_chance(random: &mut fastrand::Rng) -> impl FnMut(f64) -> u32 {
        move |mean| {
            // The sum of twelve uniform numbers is nearly normal.
            let normal = (0..12).map(|_| random.f64()).sum::<f64>() - 6.0;
            (mean + normal * mean.sqrt()).round().max(0.0) as u32
        }
    }

    #[test]
    fn equal_loads_and_idle_backends_keep_the_configured_weights() {
        for loads in [vec![load(1, 0); 5], vec![load(1, 1_000); 5], vec![load(1, 10), load(5, 50), load(9, 90)]] {
            let mut factors = vec![Factor::default(); loads.len()];
            assert_eq!(steps(100, &loads, &mut factors), 0);
            assert!(factors.iter().all(|factor| (factor.now - 1.0).abs() < 1e-9), "{factors:?}");
        }
        assert!(!step(&[], &mut []));
    }

    #[test]
    fn a_backend_with_many_connections_gets_fewer_and_its_share_comes_back() {
        let (busy, idle) = ([load(1, 60), load(1, 0), load(1, 0)], [load(1, 0); 3]);
        let mut factors = [Factor::default(); 3];
        steps(30, &busy, &mut factors);
        let share = shares(&busy, &factors)[0];
        assert!((0.02..0.06).contains(&share), "{share}");
        assert_eq!(steps(30, &busy, &mut factors), 0, "it has settled");
        steps(60, &idle, &mut factors);
        let share = shares(&idle, &factors)[0];
        assert!((0.30..0.35).contains(&share), "{share}");
    }

    #[test]
    fn an_idle_backend_that_joins_busy_ones_gets_at_most_four_shares() {
        let mut loads = vec![load(1, 10_000); 99];
        loads.push(load(1, 0));
        let mut factors = vec![Factor::default(); 100];
        steps(100, &loads, &mut factors);
        let share = shares(&loads, &factors)[99];
        assert!((0.035..0.041).contains(&share), "{share}");
    }

    #[test]
    fn slow_probes_lower_a_weight_and_an_unmeasured_backend_counts_as_fast() {
        let timed = |probe_us| Load { probe_us, ..load(1, 0) };
        let loads = [timed(Some(1_000)), timed(Some(9_000)), timed(None)];
        let mut factors = [Factor::default(); 3];
        steps(60, &loads, &mut factors);
        let shares = shares(&loads, &factors);
        assert!((3.5..5.5).contains(&(shares[0] / shares[1])) && (shares[0] - shares[2]).abs() < 1e-9, "{shares:?}");
        assert_eq!((smooth(None, 500), smooth(Some(500), 500)), (500, 500));
        assert_eq!((smooth(Some(1_000), 256_000), smooth(Some(1), 1)), (2_000, 1));
    }

    #[test]
    fn chance_alone_changes_weights_seldom_and_little() {
        for (mean, backends) in [(1.0, 3), (1.0, 10), (10.0, 3), (10.0, 10), (10.0, 40), (100.0, 10), (1_000.0, 10)] {
            let mut random = fastrand::Rng::with_seed(7);
            let mut world = World::new(&vec![1; backends], &vec![0.1; backends], mean * backends as f64 * 10.0);
            let (mut changes, mut worst) = (0, 0f64);
            for _ in 0..600 {
                let (shares, changed) = world.second(by_chance(&mut random));
                changes += u32::from(changed);
                let off = shares.iter().map(|share| (share * backends as f64).ln().abs()).fold(0.0, f64::max);
                worst = worst.max(off);
            }
            assert!(changes < 150 && worst < 0.8, "{mean} of {backends}: {changes} changes, {worst}");
        }
    }

    #[test]
    fn weights_fit_their_type_and_none_becomes_0() {
        assert_eq!((scaled(0, 4.0, 9), scaled(1, LEAST, u16::MAX), scaled(u16::MAX, MOST, u16::MAX)), (0, 1, u16::MAX));
        let (one, three) = (scaled(1, 1.0, 3), scaled(3, 1.0, 3));
        assert!((f64::from(three) / f64::from(one) - 3.0).abs() < 1e-3, "{one} {three}");
        assert_eq!(scaled(1, 0.5, 0), 8_192);
    }

    proptest! {
        /// Of any weights, durations and rates: no share swings, and slower servers get less.
        #[test]
        fn shares_settle_however_long_connections_last(
            backends in prop::collection::vec((1u16..20, 0u32..14), 2..8),
            rate in 10f64..10_000.0,
            scale in 0u32..7,
        ) {
            // From milliseconds to hours, and up to a factor of a hundred within a pool.
            let durations: Vec<f64> = backends.iter().map(|(_, power)| {
                0.01 * 10f64.powi(scale as i32) * 2f64.powf(f64::from(*power) / 2.0)
            }).collect();
            let weights: Vec<u16> = backends.iter().map(|(weight, _)| *weight).collect();
            let longest = durations.iter().copied().fold(0.0, f64::max);
            let mut world = World::new(&weights, &durations, rate);
            let seconds = ((12.0 * longest) as usize + 100).min(5_000);
            let mut history = Vec::new();
            for _ in 0..seconds {
                let (shares, _) = world.second(|active| active.round() as u32);
                for (now, before) in shares.iter().zip(history.last().unwrap_or(&shares)) {
                    // Steps that chance might explain come together.
                    prop_assert!((now / before).max(before / now) < 4.0, "{} after {}", now, before);
                }
                history.push(shares);
            }
            let late = &history[history.len() - history.len() / 10..];
            let settled = late.last().unwrap();
            for backend in 0..weights.len() {
                let of = |shares: &Vec<f64>| shares[backend];
                let low = late.iter().map(of).fold(1.0, f64::min);
                let high = late.iter().map(of).fold(0.0, f64::max);
                // A count of one or two is a rough one.
                let rough = durations.iter().zip(settled).any(|(duration, share)| rate * share * duration < 5.0);
                let most = if rough { 4.0 } else { 1.3 };
                prop_assert!(high / low < most, "swings between {} and {}", low, high);
            }
            let per_weight = |backend: usize| settled[backend] / f64::from(weights[backend]);
            for (one, slow) in durations.iter().enumerate() {
                for (other, fast) in durations.iter().enumerate() {
                    // Counts below one say little.
                    let counts = rate * settled[one] * slow > 20.0 && longest < 400.0;
                    prop_assert!(!counts || slow < fast || per_weight(one) < per_weight(other) * 1.3);
                }
            }
        }

        #[test]
        fn a_step_is_bounded_whatever_the_loads(
            loads in prop::collection::vec((1u16.., any::<u32>(), prop::option::of(1u32..)), 1..20), count in 1usize..60,
        ) {
            let loads: Vec<Load> =
                loads.into_iter().map(|(weight, active, probe_us)| Load { weight, active, probe_us }).collect();
            let mut factors = vec![Factor::default(); loads.len()];
            for _ in 0..count {
                let before = factors.clone();
                let changed = step(&loads, &mut factors);
                for (factor, before) in factors.iter().zip(&before) {
                    prop_assert!((LEAST..=MOST).contains(&factor.now));
                    prop_assert!((factor.now / before.now).max(before.now / factor.now) <= STEP_MAX + 1e-9);
                    prop_assert_eq!(factor.used, if changed { factor.now } else { before.used });
                }
            }
            // Loads that stay as they are have an end of changes.
            steps(150, &loads, &mut factors);
            prop_assert_eq!(steps(30, &loads, &mut factors), 0);
        }
    }
}
