use super::super::build;
use super::*;
use crate::base::{Address, Endpoint};
use crate::policy::balance;
use std::sync::Arc;
use std::time::Duration;

fn pool(backends: u16, settings: model::Pool) -> Arc<Pool> {
    let backend = |port| model::Backend::at(Address::Inet(([127, 0, 0, 1], 1 + port).into()));
    let settings = model::Pool { backends: (0..backends).map(backend).collect(), ..settings };
    let at = |backend: &model::Backend| match backend.address {
        Address::Inet(at) => Endpoint::Inet(at),
        _ => unreachable!("all of them are"),
    };
    let key = |backend: &model::Backend| (settings.name.clone(), backend.name.clone());
    let resolved = settings.backends.iter().map(|backend| (key(backend), vec![at(backend)])).collect();
    let model = model::Model { global: model::Global::default(), listeners: Vec::new(), pools: vec![settings] };
    build(&model, &resolved).pools[0].clone()
}

fn pick(pool: &Pool, now: Tick, random: &mut fastrand::Rng) -> Result<u32, PickError> {
    pool.pick(Client { ip: None }, &[], now, random).map(|lease| lease.index())
}

#[test]
fn every_algorithm_gives_a_backend_that_starts_slowly_a_share_that_grows() {
    for algorithm in balance::REGISTRY {
        let settings = model::Pool { algorithm, slow_start: Duration::from_secs(10), ..model::Pool::default() };
        let pool = pool(4, settings);
        let mut random = fastrand::Rng::with_seed(7);
        let mut share = |seconds| {
            let now = Tick(1) + Duration::from_secs(seconds);
            pool.grow_share(2, &pool.members[2].backend, now);
            let mut picked = 0;
            for number in 0..8_000u32 {
                let client = Client { ip: Some(std::net::IpAddr::V4(number.into())) };
                picked += u32::from(pool.pick(client, &[], now, &mut random).unwrap().index() == 2);
            }
            f64::from(picked) / 2_000.0
        };
        let before = share(0);
        pool.members[2].backend.starts_slowly(Tick(1));
        // Least-time has no measurements, and the sticky algorithm keeps its clients; what they share is tested below.
        let shares = [share(0), share(3), share(20)];
        let name = algorithm.name;
        assert!(shares[0] <= before && shares[1] <= before + 0.1, "{name}: {before} then {shares:?}");
        if !["sticky-round-robin"].contains(&name) {
            assert_eq!(shares[0], 0.0, "{name}");
            assert!((shares[1] - 0.3 * before).abs() < 0.15, "{name}: {before} then {shares:?}");
            assert!((shares[2] - before).abs() < 0.2, "{name}: {before} then {shares:?}");
        }
    }
}

#[test]
fn a_slow_start_leaves_no_client_without_a_backend() {
    let pool = pool(2, model::Pool { slow_start: Duration::from_secs(10), ..model::Pool::default() });
    let mut random = fastrand::Rng::with_seed(7);
    start_slowly(&pool);
    let first = (0..100).filter(|_| pick(&pool, Tick(1), &mut random).unwrap() == 0).count();
    assert!((40..=60).contains(&first), "{first} of 100");
}

/// All backends have just come up.
fn start_slowly(pool: &Pool) {
    for member in &pool.members {
        member.backend.starts_slowly(Tick(1));
        pool.grow_share(member.slot, &member.backend, Tick(1) + Duration::from_secs(1));
    }
}

#[test]
fn a_choice_costs_little_however_many_backends_start_slowly() {
    for algorithm in balance::REGISTRY {
        let (slow_start, name) = (Duration::from_secs(36_000), algorithm.name);
        let pool = pool(2_000, model::Pool { algorithm, slow_start, ..model::Pool::default() });
        start_slowly(&pool);
        let (mut random, begun) = (fastrand::Rng::with_seed(7), std::time::Instant::now());
        for number in 0..500u32 {
            let client = Client { ip: Some(std::net::IpAddr::V4(number.into())) };
            assert!(pool.pick(client, &[], Tick(1), &mut random).is_ok());
        }
        // Asking one backend after the other took half a second and more for each choice.
        let took = begun.elapsed();
        assert!(took < Duration::from_secs(20), "{name}: {took:?}");
    }
}

#[test]
fn a_client_that_is_tied_to_a_backend_moves_once_as_it_warms_up_and_others_stay() {
    for name in ["source-hash", "maglev"] {
        let settings = model::Pool {
            algorithm: balance::find(name).unwrap(),
            slow_start: Duration::from_secs(100),
            ..model::Pool::default()
        };
        let pool = pool(5, settings);
        let mut random = fastrand::Rng::with_seed(7);
        let mut served = |now: Tick| -> Vec<u32> {
            pool.grow_share(2, &pool.members[2].backend, now);
            let client = |number: u32| Client { ip: Some(std::net::IpAddr::V4(number.into())) };
            (0..500).map(|number| pool.pick(client(number), &[], now, &mut random).unwrap().index()).collect()
        };
        let warm = served(Tick(1));
        pool.members[2].backend.starts_slowly(Tick(1));
        let mut back = vec![false; warm.len()];
        for seconds in 0..=100 {
            for (client, index) in served(Tick(1) + Duration::from_secs(seconds)).into_iter().enumerate() {
                assert!(index == warm[client] || warm[client] == 2, "{name}: a client of another backend moved");
                assert!(!back[client] || index == 2, "{name}: a client moved twice");
                back[client] |= index == 2;
            }
        }
        assert_eq!(served(Tick(1) + Duration::from_secs(100)), warm, "{name}");
    }
}

#[test]
fn try_all_tries_those_that_are_down_only_when_all_are() {
    let all = pool(2, model::Pool { all_down: model::AllDown::TryAll, ..model::Pool::default() });
    let mut random = fastrand::Rng::with_seed(7);
    all.up.set(0, false);
    assert!((0..10).all(|_| pick(&all, Tick(1), &mut random) == Ok(1)));
    assert!(
        all.pick(Client { ip: None }, &[all.members[1].tried()], Tick(1), &mut random).is_err(),
        "one is up, though tried in vain"
    );
    all.up.set(1, false);
    let picked: Vec<u32> = (0..10).map(|_| pick(&all, Tick(1), &mut random).unwrap()).collect();
    assert!(picked.contains(&0) && picked.contains(&1));
    let reset = pool(1, model::Pool::default());
    reset.up.set(0, false);
    assert_eq!(pick(&reset, Tick(1), &mut random), Err(PickError::AllDown));
}
