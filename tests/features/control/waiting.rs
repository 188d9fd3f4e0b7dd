//! Clients that wait for a backend while their pool or their listener changes.

use crate::control::support::*;
use std::time::Duration;
use tcplb::config::model::{self, Model, NoBackend};

/// Longer than a test takes, so that nothing ends by it.
const WAIT: NoBackend = NoBackend::Wait(Duration::from_secs(60));

/// Pools and listeners of the same name; a backend of `empty` takes no client.
fn waiting_in(empty: &str, pools: &[Wanted<'_>]) -> Model {
    let mut model = model(pools);
    for pool in &mut model.pools {
        pool.no_backend = WAIT;
        if pool.name == empty {
            pool.backends.iter_mut().for_each(|backend| backend.weight = 0);
        }
    }
    model
}

/// A client that has been accepted and waits.
fn waits(balancer: &Balancer, listener: &str) -> Conn {
    let active = || balancer.published.snapshot().listener(listener).expect("its listener").totals.active();
    let before = active();
    let client = Conn::to(&balancer.at_listener(listener));
    eventually("it is accepted", || active() == before + 1);
    client
}

#[test]
fn a_client_that_waits_goes_to_the_other_pool_that_its_listener_gets() {
    let (one, two) = (named("1"), named("2"));
    for keeps_pool in [false, true] {
        let balancer = Balancer::start(waiting_in("a", &[("a", &[("1", &one)]), ("b", &[("2", &two)])]));
        let clients = [waits(&balancer, "a"), waits(&balancer, "a")];
        balancer.reload(|model| {
            model.listeners[0].pool = "b".into();
            if !keeps_pool {
                model.pools.remove(0);
            }
        });
        for client in clients {
            assert_eq!(client.hear_line(), "2");
        }
    }
}

#[test]
fn a_client_of_a_listener_that_keeps_its_pool_waits_on() {
    let (one, two) = (named("1"), named("2"));
    let mut model = waiting_in("a", &[("a", &[("1", &one)]), ("b", &[("2", &two)])]);
    let bind = vec![any_port()];
    model.listeners.push(model::Listener { name: "stays".into(), bind, ..model.listeners[0].clone() });
    let balancer = Balancer::start(model);
    let (goes, stays) = (waits(&balancer, "a"), waits(&balancer, "stays"));
    balancer.reload(|model| model.listeners[0].pool = "b".into());
    assert_eq!(goes.hear_line(), "2");
    balancer.remote.change_backend("a", "1", Some(1), None).unwrap();
    assert_eq!(stays.hear_line(), "1");
}

#[test]
fn a_smaller_queue_resets_no_client_that_waits() {
    let one = named("1");
    let balancer = Balancer::start(waiting_in("a", &[("a", &[("1", &one)])]));
    let clients = [0; 3].map(|_| waits(&balancer, "a"));
    balancer.reload(|model| model.pools[0].max_queue = 1);
    balancer.remote.change_backend("a", "1", Some(1), None).unwrap();
    for client in clients {
        assert_eq!(client.hear_line(), "1");
    }
}

#[test]
fn a_client_that_waits_for_a_pool_that_is_gone_with_its_listener_is_reset() {
    let (one, two) = (named("1"), named("2"));
    let balancer = Balancer::start(waiting_in("a", &[("a", &[("1", &one)]), ("b", &[("2", &two)])]));
    let client = waits(&balancer, "a");
    balancer.reload(|model| {
        model.listeners.remove(0);
        model.pools.remove(0);
    });
    client.assert_reset();
}
