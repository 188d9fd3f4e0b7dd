//! A helper that is killed or hangs, and a nft that takes long or refuses.

use super::lab::{AT, Lab, config};
use rustix::process::{Signal, kill_process};
use std::fs;
use std::time::{Duration, Instant};
use testkit::eventually;

#[test]
fn a_helper_that_is_killed_or_stopped_is_replaced_and_the_rules_follow_health_again() {
    let Some(lab) = Lab::new() else { return };
    let (mut gone, _stays) = (lab.server(2), lab.server(3));
    let kernel = lab.start(&config(&format!("'{AT}'"), "", &[2, 3]));
    kernel.wait_for("up", &["s2", "s3"]);
    let clients: Vec<_> = (0..10).map(|_| lab.connect(AT)).collect();
    clients.iter().for_each(|client| drop(client.hear_line()));
    let (starter, first) = kernel.helper();
    let first = first.unwrap();
    kill_process(first, Signal::KILL).unwrap();
    assert_eq!(lab.names(AT, 10).values().sum::<usize>(), 10, "the last rules serve");
    eventually("another helper runs", || kernel.helper().1.is_some_and(|pid| pid != first));
    gone.stop_listening();
    eventually("new clients avoid a backend that is down", || lab.names(AT, 10).get("s3") == Some(&10));
    clients.iter().for_each(|client| client.assert_echoes("with another helper"));
    eventually("they are counted again", || kernel.metric("tcplb_connections_active", &[]) == 10);
    eventually("it is ready", || kernel.call("GET", "/readyz", "").status == 200);
    let kinds = || {
        let events = kernel.get("/v1/events")["events"].as_array().unwrap().clone();
        let of = |kind: &str| events.iter().filter(|event| event["kind"] == kind).count();
        (of("kernel_failed"), of("kernel_back"))
    };
    assert_eq!((kinds(), kernel.helper().0), ((1, 1), starter));
    let second = kernel.helper().1.unwrap();
    for pid in [starter, second] {
        let status = fs::read_to_string(format!("/proc/{}/status", pid.as_raw_nonzero())).unwrap();
        for line in ["CapPrm:\t", "CapEff:\t", "CapBnd:\t", "CapAmb:\t"].map(|set| format!("{set}0000000000001000")) {
            assert!(status.contains(&line) && status.contains("NoNewPrivs:\t1"), "{status}");
        }
    }

    // The end does not wait for one that hangs.
    kill_process(second, Signal::STOP).unwrap();
    let begun = Instant::now();
    let said = kernel.end(Signal::TERM);
    assert!(
        said.contains("the kernel takes no new connections") && begun.elapsed() < Duration::from_secs(12),
        "{said}"
    );
    assert!(lab.try_connect(AT).is_err());
    clients.iter().for_each(|client| client.assert_echoes("after the end"));
}

#[test]
fn without_any_helper_it_is_not_ready_and_the_last_rules_serve() {
    let Some(lab) = Lab::new() else { return };
    let _servers = [2, 3].map(|last| lab.server(last));
    let kernel = lab.start(&config(&format!("'{AT}'"), "", &[2, 3]));
    kernel.wait_for("up", &["s2", "s3"]);
    assert_eq!(kernel.call("GET", "/readyz", "").status, 200);
    let (starter, helper) = kernel.helper();
    for pid in [starter, helper.unwrap()] {
        kill_process(pid, Signal::KILL).unwrap();
    }
    for call in ["/readyz", "/readyz?pool=pool"] {
        eventually("it is not ready", || {
            let answer = kernel.call("GET", call, "");
            answer.status == 503 && answer.body.contains("no helper of the kernel engine can be started")
        });
    }
    assert_eq!(lab.names(AT, 10).values().sum::<usize>(), 10);
    // The next process has helpers again, and the rules are its own.
    let answer = kernel.call("POST", "/v1/upgrade", "");
    assert_eq!(answer.status, 200, "{answer:?} {}", kernel.process.output());
    eventually("the new process is ready", || kernel.call("GET", "/readyz", "").status == 200);
    assert_eq!(kernel.call("PATCH", "/v1/pools/pool/backends/s2", r#"{"weight":0}"#).status, 200);
    eventually("the rules follow again", || lab.names(AT, 10).get("s3") == Some(&10));
}

#[test]
fn a_nft_that_takes_long_stops_no_other_thread_and_is_not_taken_for_a_thread_that_hangs() {
    let Some(lab) = Lab::new() else { return };
    let _servers = [2, 3].map(|last| lab.server(last));
    // As a service manager sets it.
    let kernel = lab.start_with_nft(&config(&format!("'{AT}'"), "", &[2, 3]), &[("WATCHDOG_USEC", "2000000")]);
    kernel.wait_for("up", &["s2", "s3"]);
    lab.hold_nft(true);
    let begun = Instant::now();
    let answer = kernel.call("PATCH", "/v1/pools/pool/backends/s2", r#"{"weight":0}"#);
    assert_eq!(answer.status, 200, "{answer:?}");
    while begun.elapsed() < Duration::from_secs(5) {
        assert_eq!(kernel.call("GET", "/readyz", "").status, 200);
        lab.names(AT, 1);
    }
    lab.hold_nft(false);
    eventually("the change is there", || lab.names(AT, 10).get("s3") == Some(&10));
    let said = kernel.end(Signal::TERM);
    assert!(!said.contains("has not responded"), "{said}");
}

#[test]
fn rules_of_a_listener_that_nft_refuses_hold_up_no_others() {
    let Some(lab) = Lab::new() else { return };
    let (mut gone, _stays) = (lab.server(2), lab.server(3));
    let other = "10.9.1.1:81";
    let with = |limit: &str| {
        let listener =
            format!("[[listener]]\nname = 'other'\nbind = ['{other}']\nengine = 'kernel'\n{limit}\n[[pool]]");
        config(&format!("'{AT}'"), "", &[2, 3]).replace("[[pool]]", &listener)
    };
    let kernel = lab.start_with_nft(&with(""), &[]);
    kernel.wait_for("up", &["s2", "s3"]);
    // As a kernel without nft_connlimit does.
    lab.refuse(Some("ct count"));
    lab.write(&with("max_connections_per_source = 1").replace(AT, "10.9.1.1:82"));
    assert_eq!(kernel.call("POST", "/v1/reload", "").status, 200);
    let problem = "nft refused the new ones of listener other: Could not process rule: Not supported";
    eventually("it is not ready", || kernel.call("GET", "/readyz", "").body.contains(problem));
    // The first listener has its new address, and the refused one serves by its old rules.
    assert_eq!(lab.names("10.9.1.1:82", 10).values().sum::<usize>(), 10);
    assert!(lab.try_connect(AT).is_err());
    let clients: Vec<_> = (0..4).map(|_| lab.connect(other)).collect();
    clients.iter().for_each(|client| drop(client.hear_line()));
    gone.stop_listening();
    kernel.wait_for("down", &["s2"]);
    for at in ["10.9.1.1:82", other] {
        eventually("new clients avoid a backend that is down", || lab.names(at, 10).get("s3") == Some(&10));
    }
    let ready = kernel.call("GET", "/readyz", "");
    assert!(ready.status == 503 && ready.body.contains(problem), "{ready:?}");
    clients.iter().for_each(|client| client.assert_echoes("meanwhile"));
    drop(clients);
    // All is tried again, and then a client has one connection.
    lab.refuse(None);
    eventually("all rules are there", || kernel.call("GET", "/readyz", "").status == 200);
    let _client = lab.connect(other);
    assert!(lab.try_connect(other).is_err());
    assert_eq!(lab.nft(&["list", "map", "inet", "tcplb", "listeners4"]).matches("goto").count(), 2);
    // An end while rules are refused closes them all.
    lab.refuse(Some("ct count"));
    lab.write(&with("max_connections_per_source = 2"));
    kernel.call("POST", "/v1/reload", "");
    let said = kernel.end(Signal::TERM);
    assert!(said.contains("the kernel takes no new connections"), "{said}");
    assert!(lab.try_connect(other).is_err() && lab.try_connect(AT).is_err());
}

#[test]
fn a_table_that_changes_while_it_is_read_is_read_again() {
    let Some(lab) = Lab::new() else { return };
    let _server = lab.server(2);
    let text = config(&format!("'{AT}'"), "", &[2]);
    lab.start_with_nft(&text, &[]).end(Signal::KILL);
    lab.tear();
    let kernel = lab.start_with_nft(&text, &[]);
    kernel.wait_for("up", &["s2"]);
    assert_eq!(lab.names(AT, 10).get("s2"), Some(&10));
}

#[test]
fn large_maps_are_filled_in_several_transactions() {
    let Some(lab) = Lab::new() else { return };
    let _server = lab.server(2);
    let small = config(&format!("'{AT}'"), "", &[2]);
    let kernel = lab.start(&small);
    kernel.wait_for("up", &["s2"]);
    // A pool of more than 655 backends has a map of 655,373 entries. Two are more than a transaction has.
    let pool = |number: u32| {
        let backends = (0..700).map(|port| format!("[[pool.backend]]\naddress = '10.9.2.2:{}'\n", 10_000 + port));
        format!(
            "[[listener]]\nname = 'l{number}'\nbind = ['10.9.1.1:{}']\nengine = 'kernel'\npool = 'p{number}'\n\
             [[pool]]\nname = 'p{number}'\nhealth.kind = 'off'\n{}",
            8000 + number,
            backends.collect::<String>()
        )
    };
    lab.write(&format!("{}{}", small.replace("engine =", "pool = 'pool'\nengine ="), [1, 2].map(pool).concat()));
    assert_eq!(kernel.call("POST", "/v1/reload", "").status, 200);
    // nft takes its time.
    let until = Instant::now() + Duration::from_secs(120);
    while kernel.call("GET", "/readyz", "").status != 200
        || !lab.nft(&["list", "map", "inet", "tcplb", "listeners4"]).contains("8002")
    {
        assert!(Instant::now() < until, "{}", kernel.process.output());
    }
    let state = lab.nft(&["list", "set", "inet", "tcplb", "state"]);
    assert_eq!(
        (state.matches("\"655373 ").count(), kernel.metric("tcplb_kernel_failures_total", &[])),
        (2, 0),
        "{state}"
    );
    assert_eq!(lab.names(AT, 10).get("s2"), Some(&10));
    // The way back removes them.
    kernel.reload(&small);
    eventually("the maps are gone", || !lab.nft(&["list", "set", "inet", "tcplb", "state"]).contains("655373"));
}
