//! Limits and what becomes of clients without a backend, over real sockets: a whole balancer in this process, clients from
//! several addresses of 127.0.0.0/8.

mod file;
mod support;

use std::io::{Read, Write};
use std::time::{Duration, Instant};
use support::{
    Balancer, Port, SOON, backend, eventually, greeting, is_reset, is_served, resetting_backend, serve, tally,
    unprobed, waits,
};
use tcplb::config::model::{AllDown, Health, Listener, NoBackend, Pool, Rate};
use tcplb::policy::limit::Enforcement;
use tcplb::telemetry::Refusal;

const WAIT: NoBackend = NoBackend::Wait(SOON);

#[test]
fn lists_decide_by_the_most_specific_prefix() {
    let listener = Listener {
        allow: vec!["127.0.0.0/24".parse().unwrap()],
        deny: vec!["127.0.0.8/29".parse().unwrap()],
        ..Listener::default()
    };
    let balancer = Balancer::start(listener, unprobed(), &[backend("a")], None);
    is_served(&mut balancer.client_from([127, 0, 0, 1]));
    is_reset(&mut balancer.client_from([127, 0, 0, 9]));
    is_reset(&mut balancer.client_from([127, 0, 1, 1]));
    is_served(&mut balancer.client_from([127, 0, 0, 16]));
    eventually("counted", || balancer.refused(Refusal::Denied) == 2);
    assert_eq!(balancer.admission().totals.accepted(), 4, "refused ones count as accepted");
}

#[test]
fn a_source_has_so_many_connections_and_others_have_theirs() {
    let listener = Listener { max_connections_per_source: Some(2), ..Listener::default() };
    let balancer = Balancer::start(listener, unprobed(), &[backend("a")], None);
    let mut held = Vec::new();
    for ip in [[127, 0, 0, 2], [127, 0, 0, 2], [127, 0, 0, 3]] {
        let mut client = balancer.client_from(ip);
        is_served(&mut client);
        held.push(client);
    }
    is_reset(&mut balancer.client_from([127, 0, 0, 2]));
    assert_eq!(balancer.refused(Refusal::SourceLimit), 1);
    drop(held.remove(0));
    eventually("its place is free again", || greeting(&mut balancer.client_from([127, 0, 0, 2])).is_ok());
}

#[test]
fn behind_a_proxy_the_lists_apply_to_the_announced_client() {
    let listener = Listener {
        accept_proxy: true,
        allow: vec!["203.0.113.0/24".parse().unwrap()],
        deny: vec!["203.0.113.7/32".parse().unwrap()],
        max_connections_per_source: Some(1),
        ..Listener::default()
    };
    let balancer = Balancer::start(listener, unprobed(), &[backend("a")], None);
    let announced = |client: &str| {
        let mut proxy = balancer.client();
        write!(proxy.stream, "PROXY TCP4 {client} 198.51.100.1 1000 443\r\n").unwrap();
        proxy
    };
    // All from one socket address, which no list names.
    let mut first = announced("203.0.113.1");
    is_served(&mut first);
    is_served(&mut announced("203.0.113.2"));
    is_reset(&mut announced("203.0.113.1"));
    is_reset(&mut announced("203.0.113.7"));
    is_reset(&mut announced("127.0.0.1"));
    assert_eq!(balancer.refused(Refusal::SourceLimit), 1);
    eventually("counted", || balancer.refused(Refusal::Denied) == 2);
    drop(first);
    eventually("its place is free again", || greeting(&mut announced("203.0.113.1")).is_ok());
}

#[test]
fn a_source_connects_so_often() {
    let connection_rate_per_source = Some(Rate { per_second: 3 });
    let listener = Listener { connection_rate_per_source, ..Listener::default() };
    let balancer = Balancer::start(listener, unprobed(), &[backend("a")], None);
    let started = Instant::now();
    let attempts = (0..40).map(|_| greeting(&mut balancer.client()).is_ok()).filter(|served| *served).count() as u64;
    let most = 4 + 3 * started.elapsed().as_millis() as u64 / 1000;
    assert!((3..=most).contains(&attempts), "{attempts} of 40 in {:?}", started.elapsed());
    eventually("counted", || balancer.refused(Refusal::SourceRate) == 40 - attempts);
    is_served(&mut balancer.client_from([127, 0, 0, 2]));
    eventually("a token has come", || greeting(&mut balancer.client()).is_ok());
}

#[test]
fn a_dry_run_only_counts() {
    let listener = Listener {
        deny: vec!["127.0.0.2/32".parse().unwrap()],
        max_connections_per_source: Some(1),
        limits: Enforcement::DryRun,
        ..Listener::default()
    };
    let balancer = Balancer::start(listener, unprobed(), &[backend("a")], None);
    let mut clients = [balancer.client(), balancer.client(), balancer.client_from([127, 0, 0, 2])];
    clients.iter_mut().for_each(is_served);
    let admission = balancer.admission();
    assert_eq!((admission.would_refuse(Refusal::SourceLimit), admission.would_refuse(Refusal::Denied)), (1, 1));
    assert_eq!(admission.totals.refused_total(), 0);
}

#[test]
fn a_full_listener_lets_clients_wait_in_the_backlog() {
    let listener = Listener { max_connections: Some(2), ..Listener::default() };
    let balancer = Balancer::start(listener, unprobed(), &[backend("a")], None);
    let mut held: Vec<_> = (0..2).map(|_| balancer.client()).collect();
    held.iter_mut().for_each(is_served);
    let mut third = balancer.client();
    waits(&mut third);
    assert_eq!(balancer.admission().totals.accepted(), 2);
    held.pop();
    is_served(&mut third);
    held.push(third);
    // Many more than there is room for: all are served in the end, never more than two at once.
    let mut crowd: Vec<_> = (0..20).map(|_| balancer.client()).collect();
    held.clear();
    while let Some(mut client) = crowd.pop() {
        // The kernel spreads them over the workers' backlogs, so their order is unknown.
        client.stream.set_nonblocking(true).unwrap();
        match greeting(&mut client) {
            Ok(_) => assert!(balancer.admission().totals.active() <= 2),
            Err(_) => {
                crowd.insert(0, client);
                std::thread::park_timeout(Duration::from_millis(1));
            }
        }
    }
    assert_eq!(balancer.admission().totals.accepted(), 23);
}

#[test]
fn a_client_without_a_backend_is_reset_at_once_or_when_the_wait_is_over() {
    for (no_backend, least) in
        [(NoBackend::Reset, Duration::ZERO), (NoBackend::Wait(Duration::from_millis(300)), Duration::from_millis(300))]
    {
        let pool = Pool { no_backend, ..unprobed() };
        let balancer = Balancer::start(Listener::default(), pool, &[backend("a")], Some(1));
        let mut first = balancer.client();
        is_served(&mut first);
        let started = Instant::now();
        is_reset(&mut balancer.client());
        assert!(started.elapsed() >= least && started.elapsed() < SOON);
        assert_eq!(balancer.refused(Refusal::NoBackend), 1);
    }
}

#[test]
fn a_waiting_client_is_served_when_a_place_becomes_free() {
    let pool = Pool { no_backend: WAIT, ..unprobed() };
    let balancer = Balancer::start(Listener::default(), pool, &[backend("a")], Some(1));
    let mut first = balancer.client();
    is_served(&mut first);
    let mut second = balancer.client();
    second.stream.write_all(b"!").unwrap();
    waits(&mut second);
    drop(first);
    is_served(&mut second);
    assert_eq!(greeting(&mut second).unwrap(), '!', "what it sent while it waited is not lost");
}

#[test]
fn a_waiting_client_is_served_when_a_backend_comes_back() {
    for health in [unprobed().health, Health { interval: Duration::from_millis(50), rise: 1, ..quick() }] {
        let port = Port::reserve();
        let probed = health != unprobed().health;
        let pool = Pool { no_backend: WAIT, health, ..Pool::default() };
        let balancer = Balancer::start(Listener::default(), pool, &[port.at], None);
        if probed {
            let snapshot = balancer.running.as_ref().unwrap().snapshot();
            eventually("it is down", || !snapshot.pools[0].up.get(0));
        }
        let mut client = balancer.client();
        waits(&mut client);
        serve(port.listen(), "b");
        is_served(&mut client);
    }
}

fn quick() -> Health {
    Health { timeout: Duration::from_millis(50), ..Health::default() }
}

#[test]
fn a_waiting_client_that_is_gone_takes_no_turn() {
    let pool = Pool { no_backend: WAIT, ..unprobed() };
    let balancer = Balancer::start(Listener::default(), pool, &[backend("a")], Some(1));
    let mut first = balancer.client();
    is_served(&mut first);
    let mut second = balancer.client();
    waits(&mut second);
    socket2::SockRef::from(&second.stream).set_linger(Some(Duration::ZERO)).unwrap();
    drop(second);
    eventually("its reset is noticed", || balancer.admission().totals.active() == 1);
    let mut third = balancer.client();
    waits(&mut third);
    drop(first);
    is_served(&mut third);
}

#[test]
fn a_lifetime_ends_a_connection_that_is_in_use() {
    let pool = Pool { max_lifetime: Some(Duration::from_millis(400)), ..unprobed() };
    let balancer = Balancer::start(Listener::default(), pool, &[backend("a")], None);
    let started = Instant::now();
    let mut client = balancer.client();
    is_served(&mut client);
    let mut letter = [0];
    // Each byte comes back at once, so that it is never idle.
    while client.stream.write_all(b"x").is_ok() && client.stream.read(&mut letter).is_ok_and(|count| count == 1) {
        std::thread::park_timeout(Duration::from_millis(5));
    }
    assert!(started.elapsed() >= Duration::from_millis(360), "{:?}", started.elapsed());
    eventually("nothing is left of it", || balancer.admission().totals.active() == 0);
}

#[test]
fn a_backend_that_came_up_gets_a_small_share_at_first() {
    let port = Port::reserve();
    let health = Health { interval: Duration::from_millis(50), rise: 1, fall: 1, ..quick() };
    let pool = Pool { slow_start: Duration::from_secs(600), health, ..Pool::default() };
    let balancer = Balancer::start(Listener::default(), pool, &[backend("a"), port.at], None);
    let snapshot = balancer.running.as_ref().unwrap().snapshot();
    eventually("it is down", || !snapshot.pools[0].up.get(1));
    serve(port.listen(), "b");
    eventually("it is up", || snapshot.pools[0].up.get(1));
    let tally = tally(&balancer, 200);
    // Half a minute would be a twentieth of the slow start, and a share of a fortieth.
    assert!(tally.get(&'b').is_none_or(|count| *count <= 25), "{tally:?}");
}

#[test]
fn all_down_may_mean_try_them_all() {
    let port = Port::reserve();
    let health = Health { interval: Duration::from_secs(3600), ..quick() };
    let pool = Pool { all_down: AllDown::TryAll, health, ..Pool::default() };
    let balancer = Balancer::start(Listener::default(), pool, &[port.at], None);
    let snapshot = balancer.running.as_ref().unwrap().snapshot();
    eventually("it is down", || !snapshot.pools[0].up.get(0));
    serve(port.listen(), "b");
    is_served(&mut balancer.client());
    assert!(!snapshot.pools[0].up.get(0), "and no probe has followed");
}

#[test]
fn a_backend_that_resets_its_clients_is_left_out_for_a_while() {
    let bad = resetting_backend();
    let pool = Pool { outlier_failures: 3, ..unprobed() };
    let balancer = Balancer::start(Listener::default(), pool, &[bad, backend("b")], None);
    let snapshot = balancer.running.as_ref().unwrap().snapshot();
    let ejected = || snapshot.pools[0].ejected.get(0);
    eventually("it is left out", || {
        let _ = greeting(&mut balancer.client());
        ejected()
    });
    assert!(!snapshot.pools[0].up.get(0) && snapshot.pools[0].up.get(1));
    eventually("it is let in again", || !ejected());
    // A reset may come so early that it counts as a failed connect too, which has a back-off of its own.
    eventually("it is up", || snapshot.pools[0].up.get(0));
}
