//! Signals that come while a successor takes over.

use super::support::*;
use std::time::Duration;
use testkit::Ending;

#[test]
fn a_second_stop_during_a_hold_resets_what_the_first_one_lets_finish() {
    let one = named("1");
    let mut model = model(&[("web", &[("1", &one)])]);
    model.global.shutdown_timeout = Duration::from_secs(3600);
    let balancer = Balancer::start(model);
    let client = Client::connect(&balancer.at());
    let held = balancer.remote.hold().unwrap();
    balancer.remote.stop();
    eventually("the upgrade knows of the stop", || held.is_over());
    balancer.remote.stop();
    client.exchange();
    drop(held);
    assert_eq!(client.conn.ending(), Ending::Reset);
    balancer.wait();
}

#[test]
fn a_reload_by_a_signal_waits_for_the_end_of_a_hold_or_is_passed_on() {
    let one = named("1");
    let balancer = Balancer::start(model(&[("web", &[("1", &one)])]));
    let held = balancer.remote.hold().unwrap();
    assert!(!held.takes_reload());
    balancer.edit(|model| model.pools[0].backends[0].weight = 7);
    balancer.remote.reload_soon();
    eventually("it can be passed on", || held.takes_reload());
    assert!(!held.takes_reload(), "once");
    assert_eq!(balancer.published.reloads(), (0, 0));
    drop(held);
    eventually("the upgrade has failed, and the file is read here", || balancer.published.reloads() == (1, 0));
    assert_eq!(balancer.published.model().pools[0].backends[0].weight, 7);
}
