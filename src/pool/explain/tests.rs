//! An explanation is what the next choice gives, for each algorithm.

use super::super::{Lease, build};
use super::*;
use crate::base::{Address, Endpoint};
use crate::config::model;
use crate::policy::balance;
use proptest::prelude::*;
use std::sync::Arc;
use std::time::Duration;

/// A pool of these backends, all of which are up.
fn pool(backends: &[model::Backend], settings: &model::Pool) -> Arc<Pool> {
    let settings = model::Pool { backends: backends.to_vec(), ..settings.clone() };
    let key = |backend: &model::Backend| (settings.name.clone(), backend.name.clone());
    let at = Endpoint::Inet(([127, 0, 0, 1], 1).into());
    let resolved = settings.backends.iter().map(|backend| (key(backend), vec![at.clone()])).collect();
    let model = model::Model { global: model::Global::default(), listeners: Vec::new(), pools: vec![settings] };
    build(&model, &resolved).pools[0].clone()
}

fn backend(port: u16) -> model::Backend {
    model::Backend::at(Address::Inet(([127, 0, 0, 1], 1 + port).into()))
}

fn client(number: u8) -> Client {
    // One of them has no address.
    Client { ip: (number > 0).then(|| [192, 0, 2, number].into()) }
}

/// What happens between two choices.
#[derive(Clone, Debug)]
struct Step {
    client: u8,
    /// A backend that goes up or down.
    flip: usize,
    /// A backend that comes up slowly.
    slow: Option<usize>,
    /// Connections that end.
    ended: usize,
    seconds: u64,
}

fn step() -> impl Strategy<Value = Step> {
    (0u8..6, 0usize..12, prop::option::of(0usize..12), 0usize..3, 0u64..6)
        .prop_map(|(client, flip, slow, ended, seconds)| Step { client, flip, slow, ended, seconds })
}

fn backends() -> impl Strategy<Value = Vec<model::Backend>> {
    let settings = (0u16..4, prop::option::of(1u32..4), prop::bool::weighted(0.3));
    let named = |(port, (weight, max_connections, backup)): (usize, (u16, Option<u32>, bool))| model::Backend {
        weight,
        max_connections,
        backup,
        ..backend(port as u16)
    };
    prop::collection::vec(settings, 1..8).prop_map(move |all| all.into_iter().enumerate().map(named).collect())
}

/// Is this choice the one that was explained?
fn check(explanation: &Explanation<'_>, picked: &Result<Lease, PickError>) -> Result<(), TestCaseError> {
    let share = |candidate: &Candidate<'_>| candidate.share.unwrap_or(0.0);
    let usable = explanation.candidates.iter().filter(|candidate| candidate.usable);
    prop_assert_eq!(usable.count() == 0, explanation.none.is_some(), "{:?}", explanation);
    match (explanation.pick, explanation.none, picked) {
        (None, Some(why), Err(error)) => prop_assert_eq!(why, *error),
        (Some(member), None, Ok(lease)) => {
            prop_assert_eq!(member.backend.id, lease.backend().id);
            let candidate = explanation.candidates.iter().find(|it| it.member.backend.id == member.backend.id).unwrap();
            prop_assert!(candidate.usable && candidate.share.is_none(), "{:?}", candidate);
        }
        (None, None, Ok(lease)) => {
            let sum: f64 = explanation.candidates.iter().map(share).sum();
            prop_assert!((sum - 1.0).abs() < 1e-9, "the shares add up to {}", sum);
            prop_assert!(explanation.candidates.iter().all(|it| it.usable || it.share == Some(0.0)));
            let id = lease.backend().id;
            let candidate = explanation.candidates.iter().find(|it| it.member.backend.id == id).unwrap();
            prop_assert!(share(candidate) > 0.0, "{:?}", candidate);
        }
        other => prop_assert!(false, "{:?}", other),
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn a_connection_goes_where_its_explanation_says(
        backends in backends(),
        steps in prop::collection::vec(step(), 1..30),
        try_all: bool,
        health_off: bool,
        slow_start in prop::bool::ANY,
        seed: u64,
    ) {
        for algorithm in balance::REGISTRY {
            let mut settings = model::Pool { algorithm, ..model::Pool::default() };
            settings.all_down = if try_all { model::AllDown::TryAll } else { model::AllDown::Reset };
            settings.health.kind = if health_off { model::HealthKind::Off } else { model::HealthKind::Tcp };
            settings.slow_start = Duration::from_secs(if slow_start { 10 } else { 0 });
            let pool = pool(&backends, &settings);
            let (mut random, mut now, mut held) = (fastrand::Rng::with_seed(seed), Tick(1), Vec::new());
            for step in &steps {
                now = now + Duration::from_secs(step.seconds);
                if step.flip < pool.members.len() {
                    pool.up.set(step.flip, !pool.up.get(step.flip));
                }
                if let Some(member) = step.slow.and_then(|slow| pool.members.get(slow)) {
                    member.backend.starts_slowly(now);
                }
                pool.members.iter().for_each(|member| pool.grow_share(member.slot, &member.backend, now));
                held.truncate(held.len().saturating_sub(step.ended));
                let client = client(step.client);
                let explanation = pool.explain(client, now);
                // Explanations for other clients change nothing.
                (0..6).for_each(|number| drop(pool.explain(self::client(number), now)));
                let picked = pool.pick(client, &[], now, &mut random);
                check(&explanation, &picked)?;
                held.extend(picked);
            }
        }
    }
}

#[test]
fn the_shares_of_a_slow_start_are_those_of_many_choices() {
    const CHOICES: u32 = 4_000;
    for algorithm in balance::REGISTRY {
        let settings = model::Pool { algorithm, slow_start: Duration::from_secs(10), ..model::Pool::default() };
        let backends: Vec<model::Backend> =
            (0..4).map(|port| model::Backend { weight: 1 + port, ..backend(port) }).collect();
        let fresh = || {
            let pool = pool(&backends, &settings);
            let member = &pool.members[3];
            member.backend.starts_slowly(Tick(1));
            pool.grow_share(member.slot, &member.backend, Tick(1) + Duration::from_secs(3));
            pool
        };
        let explained = fresh();
        let explanation = explained.explain(client(1), Tick(1));
        let shares: Vec<Option<f64>> = explanation.candidates.iter().map(|candidate| candidate.share).collect();
        if shares.iter().all(Option::is_none) {
            // It ties clients to backends, or begins with another one anyway.
            assert!(explanation.pick.is_some(), "{algorithm:?}");
            continue;
        }
        // Each from the same state: a choice changes the turn of the next one.
        let (mut random, mut counts) = (fastrand::Rng::with_seed(7), [0.0; 4]);
        for _ in 0..CHOICES {
            let lease = fresh().pick(client(1), &[], Tick(1), &mut random).unwrap();
            counts[lease.index() as usize] += 1.0;
        }
        for (share, count) in shares.iter().zip(counts) {
            let mean = f64::from(CHOICES) * share.unwrap();
            assert!((count - mean).abs() <= 6.0 * mean.sqrt() + 1.0, "{algorithm:?}: {shares:?}, {counts:?}");
        }
    }
}

#[test]
fn each_reason_is_in_plain_words() {
    let mut backends: Vec<model::Backend> = (0..6).map(backend).collect();
    backends[1].weight = 0;
    backends[2].backup = true;
    backends[3].max_connections = Some(1);
    let pool = pool(&backends, &model::Pool::default());
    let whys =
        || pool.explain(client(1), Tick(1)).candidates.into_iter().map(|it| (it.usable, it.why)).collect::<Vec<_>>();
    pool.up.set(4, false);
    pool.up.set(5, false);
    pool.ejected.set(5, true);
    pool.members[4].backend.health.lock().last_result = Some(crate::policy::health::Outcome::WrongStatus(503));
    let _full = Lease::take(&pool.members[3].backend, 3, 1).unwrap();
    let expected = [
        (true, "up"),
        (false, "weight 0"),
        (false, "backup: a primary is usable"),
        (false, "at its limit of 1 connections"),
        (false, "down: HTTP 503"),
        (false, "down: its last clients failed"),
    ];
    assert_eq!(whys(), expected.map(|(usable, why)| (usable, why.to_owned())));
    // Without the clients' failures the probes keep it down.
    pool.members[5].backend.set_healthy(false);
    pool.members[5].backend.health.lock().last_result = Some(crate::policy::health::Outcome::WrongStatus(500));
    assert_eq!(pool.why_down(&pool.members[5]), "HTTP 500");
    pool.up.set(0, false);
    assert_eq!(whys()[0], (false, "down: no probe has passed yet".to_owned()));
    assert_eq!(whys()[2], (true, "up".to_owned()), "the backup serves");
}
