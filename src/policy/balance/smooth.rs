//! The smooth weighted order: each stretch of it gives every backend its share, as nearly as whole turns allow.
//!
//! It is nginx's algorithm. At each step every backend earns its weight. The richest one (the first among equals) is
//! taken and pays the sum of all weights. The state repeats after that many steps, so one period is computed in
//! advance; 5, 1, 1 gives a a b a c a a. After `k` steps, a backend taken `c` times owns `k·w − W·c`. Backends of equal
//! weight differ only in `c`, so they are taken in the order of their indexes and share one account. So a step costs as
//! much as there are different weights.
//!
//! # The length of a period
//!
//! Weights are divided by their greatest common divisor. If the sum still exceeds [`LEAST_LIMIT`] and [`PER_MEMBER`]
//! turns a member, they are scaled down to that many turns by largest remainder. Then a backend's turns are off its exact
//! share by less than one (with equal weights or nearly so, a 32nd of its share). A backend whose share is below one turn
//! gets one all the same. For each such backend the period may grow by a turn.
//!
//! `d` different weights sum to at least `d²/2`, so a bounded period also bounds `d`: 10 000 backends cost at most
//! 330 000 steps of 800 accounts (a fifth of a second), and a tenth of that for weights drawn at random.

use std::collections::BTreeMap;

/// A period may always have this many turns.
const LEAST_LIMIT: usize = 65_536;
/// A period may also have this many turns per member.
const PER_MEMBER: usize = 32;

/// One period, as indexes into `weights`. Empty if no weight is above 0.
pub fn order(weights: &[u16]) -> Vec<u32> {
    let turns = turns(weights);
    let period: u64 = turns.iter().sum();
    let mut by_turns: BTreeMap<u64, Vec<u32>> = BTreeMap::new();
    for (index, &turns) in turns.iter().enumerate().filter(|(_, turns)| **turns > 0) {
        by_turns.entry(turns).or_default().push(index as u32);
    }
    let mut accounts: Vec<Account> = by_turns
        .into_iter()
        .map(|(earns, members)| Account { earns: earns as i64, owns: 0, first: members[0], next: 0, members })
        .collect();
    let mut order = Vec::with_capacity(period as usize);
    order.extend((0..period).filter_map(|_| step(&mut accounts, period as i64)));
    order
}

/// The account of all backends of one weight.
struct Account {
    /// The turns that they earn per step.
    earns: i64,
    /// What the next backend owns; those taken before it in this round own a period less.
    owns: i64,
    /// The index of the next backend, here because every step reads it.
    first: u32,
    /// Its position in `members`.
    next: usize,
    members: Vec<u32>,
}

fn step(accounts: &mut [Account], period: i64) -> Option<u32> {
    let mut richest: Option<(i64, u32, usize)> = None;
    for (at, account) in accounts.iter_mut().enumerate() {
        account.owns += account.earns;
        if richest.is_none_or(|(owns, first, _)| account.owns > owns || account.owns == owns && account.first < first) {
            richest = Some((account.owns, account.first, at));
        }
    }
    let (_, taken, at) = richest?;
    let account = &mut accounts[at];
    account.next += 1;
    if account.next == account.members.len() {
        account.next = 0;
        account.owns -= period;
    }
    account.first = account.members[account.next];
    Some(taken)
}

/// The turns of each backend in a period.
fn turns(weights: &[u16]) -> Vec<u64> {
    let limit = LEAST_LIMIT.max(PER_MEMBER * weights.len()) as u64;
    let turns = reduced(weights.iter().map(|&weight| weight.into()).collect());
    let sum = turns.iter().sum();
    if sum <= limit { turns } else { reduced(scaled(&turns, sum, limit)) }
}

/// Divides all by their greatest common divisor.
fn reduced(mut turns: Vec<u64>) -> Vec<u64> {
    let divisor = turns.iter().fold(0, |divisor, &turns| gcd(divisor, turns)).max(1);
    turns.iter_mut().for_each(|turns| *turns /= divisor);
    turns
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// Scales down to a sum of `limit` by largest remainder; every backend with a turn keeps at least one.
fn scaled(turns: &[u64], sum: u64, limit: u64) -> Vec<u64> {
    let mut scaled: Vec<u64> = turns.iter().map(|turns| (turns * limit / sum).max(u64::from(*turns > 0))).collect();
    let spare = limit.saturating_sub(scaled.iter().sum()) as usize;
    // Backends that were raised to one turn exceed their share already.
    let mut claims: Vec<usize> = (0..turns.len()).filter(|&index| turns[index] * limit >= sum).collect();
    claims.sort_by_key(|&index| (std::cmp::Reverse(turns[index] * limit % sum), index));
    claims.iter().take(spare).for_each(|&index| scaled[index] += 1);
    scaled
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// nginx's form: a pass over all backends for every choice.
    fn naive(weights: &[u16]) -> Vec<u32> {
        let sum: i64 = weights.iter().map(|&weight| i64::from(weight)).sum();
        let mut current = vec![0i64; weights.len()];
        let mut order = Vec::new();
        for _ in 0..sum {
            let mut best: Option<usize> = None;
            for index in 0..weights.len() {
                current[index] += i64::from(weights[index]);
                if weights[index] > 0 && best.is_none_or(|best| current[index] > current[best]) {
                    best = Some(index);
                }
            }
            let best = best.unwrap();
            current[best] -= sum;
            order.push(best as u32);
        }
        order
    }

    #[test]
    fn five_one_one_is_smooth() {
        assert_eq!(order(&[5, 1, 1]), [0, 0, 1, 0, 2, 0, 0]);
        assert_eq!(order(&[50, 0, 10, 10]), [0, 0, 2, 0, 3, 0, 0]);
        assert_eq!(order(&[7, 7, 7]), [0, 1, 2]);
        assert!(order(&[0, 0]).is_empty() && order(&[]).is_empty());
    }

    #[test]
    fn a_shortened_period_keeps_shares_within_a_turn() {
        let weights = [65_535, 65_534, 30_011, 7, 1, 0];
        let turns = turns(&weights);
        let (sum, period) = (weights.iter().map(|&weight| f64::from(weight)).sum::<f64>(), turns.iter().sum::<u64>());
        assert!(period <= (LEAST_LIMIT + weights.len()) as u64);
        for (&weight, &turns) in weights.iter().zip(&turns) {
            let exact = f64::from(weight) * period as f64 / sum;
            assert!((turns as f64 - exact).abs() < 1.01, "{weight} has {turns} of {period}, not {exact}");
            assert_eq!(turns > 0, weight > 0);
        }
        assert_eq!(order(&weights).len() as u64, period);
        assert_eq!(order(&[65_535, 65_534]), [0, 1]);
    }

    proptest! {
        #[test]
        fn grouping_equal_weights_changes_nothing(weights in prop::collection::vec(0u16..12, 0..24)) {
            let all = naive(&weights);
            let period = order(&weights);
            if period.is_empty() {
                prop_assert!(all.is_empty());
            } else {
                // With a common divisor the naive order is the period several times over.
                prop_assert_eq!(all.len() % period.len(), 0);
                prop_assert!(all.chunks(period.len()).all(|part| part == period));
            }
        }
    }
}
