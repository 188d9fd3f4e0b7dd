//! Backends from a real etcd: what no outage, restart, compaction, leader or garbage ever removes.

mod between;
mod loaded;
mod registration;
mod secured;
mod server;
mod strange;

use super::source::Source;
use server::Etcd;
use std::sync::atomic::{AtomicBool, Ordering};
use tcplb::discovery::Value;
use testkit::eventually;

/// The settings for these endpoints.
fn settings(endpoints: &[String]) -> Vec<(&'static str, Value)> {
    vec![("endpoints", Value::Texts(endpoints.to_vec())), ("prefix", Value::Text("/w/".to_owned()))]
}

#[track_caller]
fn follow(etcd: &Etcd) -> Source {
    Source::start("etcd", &settings(&[etcd.url()]))
}

#[test]
fn keys_become_backends_and_changes_follow() {
    let Some(etcd) = Etcd::start() else { return };
    etcd.put("/w/a", "10.0.0.1:80");
    etcd.put(
        "/w/b",
        r#"{"address": "10.0.0.2:80", "weight": 5, "max_connections": 9, "backup": true, "state": "draining"}"#,
    );
    etcd.put("/w/", "10.0.0.9:80");
    etcd.put("/w", "10.0.0.9:80");
    etcd.put("/w0", "10.0.0.9:80");
    let (endpoints, prefix) = (Value::Texts(vec![etcd.url()]), Value::Text("/w/".to_owned()));
    let mut source = Source::start("etcd", &[("endpoints", endpoints), ("prefix", prefix)]);
    source.wait_for(&["a", "b"]);
    let b = source.found("b");
    assert_eq!(
        (b.address.to_string().as_str(), b.weight, b.max_connections, b.backup),
        ("10.0.0.2:80", Some(5), Some(9), Some(true))
    );
    assert_eq!(b.state.word(), "draining");
    etcd.put("/w/c/d", "c.internal:80");
    source.wait_for(&["a", "b", "c/d"]);
    etcd.put("/w/a", "10.0.0.3:80");
    eventually("the address of a changes", || source.found("a").address.to_string() == "10.0.0.3:80");
    etcd.delete("/w/b");
    source.wait_for(&["a", "c/d"]);
    assert!(source.standing().is_well());
}

#[test]
fn garbage_keeps_what_its_own_key_had_and_harms_no_other() {
    let Some(etcd) = Etcd::start() else { return };
    etcd.put("/w/a", "10.0.0.1:80");
    etcd.put("/w/b", "");
    etcd.put("/w/c", "10.0.0.3:80");
    let mut source = follow(&etcd);
    source.wait_for(&["a", "c"]);
    source.wait_for_error("b: the value is neither an address nor a JSON object");
    for garbage in [&b"10.0.0.1"[..], b"\xff\xfe", b"{\"address\": 1}", b"{", &[b'x'; 100_000], &[b'{'; 3_000]] {
        etcd.put("/w/a", garbage);
        etcd.put("/w/c", "10.0.0.4:80");
        eventually("c changes", || source.found("c").address.to_string() == "10.0.0.4:80");
        assert_eq!(source.found("a").address.to_string(), "10.0.0.1:80");
        etcd.put("/w/c", "10.0.0.3:80");
        eventually("c changes back", || source.found("c").address.to_string() == "10.0.0.3:80");
    }
    // Too long for a streamed value: the next look reads it, and the watch after that goes on.
    etcd.put("/w/a", vec![b'y'; 1_400_000]);
    etcd.put("/w/d", "10.0.0.5:80");
    source.wait_for(&["a", "c", "d"]);
    assert_eq!(source.standing().misunderstood, 2);
    etcd.put("/w/a", "10.0.0.6:80");
    etcd.delete("/w/b");
    eventually("all is understood", || source.standing().is_well());
    assert_eq!(source.found("a").address.to_string(), "10.0.0.6:80");
}

#[test]
fn more_keys_than_a_page_has_are_all_found() {
    let Some(etcd) = Etcd::start() else { return };
    etcd.put_all(
        (0..2500).map(|number| (format!("/w/{number:05}"), format!("10.0.{}.{}:80", number / 250, number % 250))),
    );
    let mut source = follow(&etcd);
    eventually("all are found", || source.names().len() == 2500);
    etcd.put_all((0..2500).map(|number| (format!("/w/{number:05}"), "10.1.0.0:80".to_owned())));
    eventually("all have changed", || source.set().values().all(|found| found.address.to_string() == "10.1.0.0:80"));
}

#[test]
fn an_empty_prefix_keeps_the_last_backends_unless_it_may_clear_them() {
    let Some(etcd) = Etcd::start() else { return };
    etcd.put("/w/a", "10.0.0.1:80");
    let (mut keeps, mut clears) = (follow(&etcd), Source::clearing("etcd", &settings(&[etcd.url()])));
    keeps.wait_for(&["a"]);
    clears.wait_for(&["a"]);
    etcd.delete("/w/a");
    clears.wait_for(&[]);
    etcd.put("/w/b", "10.0.0.2:80");
    keeps.wait_for(&["b"]);
    clears.wait_for(&["b"]);
}

#[test]
fn a_restart_removes_nothing_and_what_changed_meanwhile_is_found() {
    let Some(mut etcd) = Etcd::start() else { return };
    etcd.put("/w/a", "10.0.0.1:80");
    let mut source = follow(&etcd);
    source.wait_for(&["a"]);
    etcd.kill();
    source.wait_for_error("connection refused");
    assert_eq!(source.names(), ["a"]);
    assert!(!source.standing().is_well());
    etcd.start_again();
    etcd.put("/w/b", "10.0.0.2:80");
    source.wait_for(&["a", "b"]);
    eventually("all is well", || source.standing().is_well());
    // It lost everything, and its revisions begin again.
    etcd.kill();
    etcd.wipe();
    etcd.start_again();
    source.wait_for_an_answer();
    assert_eq!(source.names(), ["a", "b"], "an empty answer keeps them");
    etcd.put("/w/c", "10.0.0.3:80");
    source.wait_for(&["c"]);
    etcd.delete("/w/c");
    etcd.put("/w/d", "10.0.0.4:80");
    source.wait_for(&["d"]);
}

#[test]
fn an_etcd_that_is_absent_at_the_start_is_found_later_and_after_long_outages() {
    let Some(mut etcd) = Etcd::start() else { return };
    etcd.put("/w/a", "10.0.0.1:80");
    etcd.kill();
    let mut source = follow(&etcd);
    // The pauses between two attempts have grown by then.
    eventually("it has tried thrice", || source.standing().errors >= 3);
    assert!(source.standing().last_error.unwrap().1.contains(&format!("{}: connection refused", etcd.url())));
    etcd.start_again();
    source.wait_for(&["a"]);
    etcd.put("/w/b", "10.0.0.2:80");
    source.wait_for(&["a", "b"]);
}

#[test]
fn a_history_that_is_compacted_under_the_watch_leads_to_another_look() {
    let Some(etcd) = Etcd::start() else { return };
    etcd.put("/w/a", "10.0.0.1:80");
    let (client, once) = (etcd.client, AtomicBool::new(false));
    let etcd = std::sync::Arc::new(etcd);
    // The relay outlives the test, and etcd must not.
    let orders = std::sync::Arc::downgrade(&etcd);
    // Between the look and the watch the key goes, another one comes, and the history that says so is compacted.
    let url = between::relay(client, move |request| {
        if request.starts_with("POST /v3/watch")
            && !once.swap(true, Ordering::Relaxed)
            && let Some(orders) = orders.upgrade()
        {
            orders.delete("/w/a");
            orders.put("/w/b", "10.0.0.2:80");
            orders.compact(orders.put("/w/c", "10.0.0.3:80"));
        }
    });
    let mut source = Source::start("etcd", &settings(&[url]));
    source.wait_for(&["b", "c"]);
    etcd.delete("/w/b");
    source.wait_for(&["c"]);
    assert_eq!(source.standing().errors, 0, "{:?}", source.standing());
    // A watch that is up to date does not notice.
    etcd.compact(etcd.put("/w/d", "10.0.0.4:80"));
    etcd.put("/w/e", "10.0.0.5:80");
    source.wait_for(&["c", "d", "e"]);
    assert_eq!(source.standing().errors, 0);
}

#[test]
fn a_cluster_that_loses_leader_and_quorum_loses_no_backend() {
    let Some(mut members) = Etcd::cluster() else { return };
    members[0].put("/w/a", "10.0.0.1:80");
    let urls: Vec<String> = members.iter().map(Etcd::url).collect();
    let mut source = Source::start("etcd", &settings(&urls));
    source.wait_for(&["a"]);
    for round in 0..3 {
        let leader = (0..3).find(|index| members[*index].leads()).unwrap();
        members[leader].kill();
        let follower = (leader + 1) % 3;
        members[follower].wait();
        members[follower].put(&format!("/w/b{round}"), "10.0.0.2:80");
        eventually("the change is found", || source.names().contains(&format!("b{round}")));
        assert!(source.names().contains(&"a".to_owned()));
        members[leader].start_again();
    }
    assert_eq!(source.standing().errors, 0, "another member answered each time: {:?}", source.standing());
    // Without a quorum the last member answers no look, and says so to a watch.
    members[0].kill();
    members[1].kill();
    source.wait_for_error(&format!("{}: connection refused; ", urls[0]));
    assert_eq!(source.names(), ["a", "b0", "b1", "b2"]);
    members[0].run_again();
    members[1].start_again();
    members[1].put("/w/c", "10.0.0.3:80");
    source.wait_for(&["a", "b0", "b1", "b2", "c"]);
    eventually("all is well", || source.standing().is_well());
}
