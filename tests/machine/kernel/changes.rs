//! Backends that go, come, drain and are removed, and clients meanwhile.

use super::lab::{AT, Lab, backend, config};
use std::process::Command;
use std::time::{Duration, Instant};
use testkit::{Ending, Process, eventually, tcplb};

#[test]
fn a_backend_that_goes_down_gets_no_new_connection_and_keeps_those_it_has() {
    let Some(lab) = Lab::new() else { return };
    let (mut gone, _stays) = (lab.server(2), lab.server(3));
    let kernel = lab.start(&config(&format!("'{AT}'"), "", &[2, 3]));
    kernel.wait_for("up", &["s2", "s3"]);
    let clients: Vec<_> = (0..10).map(|_| lab.connect(AT)).collect();
    let names: Vec<_> = clients.iter().map(|client| client.hear_line()).collect();
    assert!(names.contains(&"s2".to_owned()) && names.contains(&"s3".to_owned()), "{names:?}");
    gone.stop_listening();
    kernel.wait_for("down", &["s2"]);
    eventually("new clients avoid it", || lab.names(AT, 10).get("s3") == Some(&10));
    for (client, name) in clients.iter().zip(&names) {
        client.assert_echoes(name);
    }
    lab.servers.inside(|| gone.start_again());
    kernel.wait_for("up", &["s2"]);
    eventually("it has its share again", || lab.names(AT, 10).get("s2") == Some(&5));
}

#[test]
fn without_a_backend_clients_are_refused_at_once() {
    let Some(lab) = Lab::new() else { return };
    let mut server = lab.server(2);
    let kernel = lab.start(&config(&format!("'{AT}'"), "", &[2]));
    kernel.wait_for("up", &["s2"]);
    server.stop();
    kernel.wait_for("down", &["s2"]);
    eventually("a client is refused", || {
        lab.try_connect(AT).is_err_and(|error| error.kind() == std::io::ErrorKind::ConnectionRefused)
    });
}

#[test]
fn a_syn_without_an_answer_chooses_anew_once_its_backend_is_down() {
    // One by one, and many at once.
    for gone in [vec![3], vec![3, 4, 5, 6, 7, 8]] {
        let Some(lab) = Lab::new() else { return };
        let all: Vec<u8> = std::iter::once(2).chain(gone.iter().copied()).collect();
        let _servers: Vec<_> = all.iter().map(|last| lab.server(*last)).collect();
        let text = config(&format!("'{AT}'"), "", &all).replace("fall = 1", "fall = 1\ntimeout = '100ms'");
        let kernel = lab.start(&text);
        kernel.wait_for("up", &all.iter().map(|last| format!("s{last}")).collect::<Vec<_>>());
        // Nothing answers at these addresses any more, and no packet says so.
        lab.servers.inside(|| {
            for last in &gone {
                super::lab::ip(&["addr", "del", &format!("10.9.2.{last}/24"), "dev", "wire"]);
            }
        });
        let begun = Instant::now();
        let names = lab.names(AT, 6);
        assert_eq!(names.get("s2"), Some(&6), "{names:?}");
        // A SYN is sent again after 1 s, 3 s and 7 s; without a new choice none of them would be answered.
        assert!(begun.elapsed() < Duration::from_secs(30), "{:?}", begun.elapsed());
        kernel.wait_for("down", &gone.iter().map(|last| format!("s{last}")).collect::<Vec<_>>());
    }
}

#[test]
fn on_down_reset_ends_the_connections_of_a_backend() {
    let Some(lab) = Lab::new() else { return };
    let mut server = lab.server(2);
    let kernel = lab.start(&config(&format!("'{AT}'"), "on_down = 'reset'", &[2]));
    kernel.wait_for("up", &["s2"]);
    let client = lab.connect(AT);
    assert_eq!(client.hear_line(), "s2");
    server.stop_listening();
    kernel.wait_for("down", &["s2"]);
    eventually("its next bytes are answered with a reset", || {
        use std::io::Write;
        (&client).write_all(b"x").is_err()
    });
}

#[test]
fn a_drain_cuts_nothing_and_its_wait_ends_with_the_last_connection() {
    let Some(lab) = Lab::new() else { return };
    let _servers = [lab.server(2), lab.server(3)];
    let kernel = lab.start(&config(&format!("'{AT}'"), "", &[2, 3]));
    kernel.wait_for("up", &["s2", "s3"]);
    let clients: Vec<_> = (0..4).map(|_| lab.connect(AT)).map(|client| (client.hear_line(), client)).collect();
    let (drained, others): (Vec<_>, Vec<_>) = clients.into_iter().partition(|(name, _)| name == "s2");
    assert_eq!((drained.len(), others.len()), (2, 2));
    eventually("they are counted", || kernel.backend("s2")["active_connections"] == 2);
    let admin = kernel.admin.0.to_string();
    let mut waits = lab.balancer.inside(|| {
        let command = tcplb(&["backends", "drain", "pool", "s2", "--wait", "--admin", &admin]);
        let mut wrapped = Command::new(command.get_program());
        Process::spawn(wrapped.args(command.get_args()))
    });
    kernel.wait_for("draining", &["s2"]);
    eventually("new clients avoid it", || lab.names(AT, 4).get("s3") == Some(&4));
    assert!(waits.exited().is_none());
    for (name, client) in &drained {
        client.assert_echoes(name);
    }
    drained.into_iter().for_each(|(_, client)| {
        client.finish();
        assert_eq!(client.ending(), Ending::Fin);
    });
    assert!(waits.wait_exit().success(), "{}", waits.output());
    others.iter().for_each(|(name, client)| client.assert_echoes(name));
}

#[test]
fn a_drain_waits_for_connections_that_were_opened_just_before() {
    let Some(lab) = Lab::new() else { return };
    let _servers = [lab.server(2), lab.server(3)];
    let kernel = lab.start(&config(&format!("'{AT}'"), "", &[2, 3]));
    kernel.wait_for("up", &["s2", "s3"]);
    let clients: Vec<_> = (0..4).map(|_| lab.connect(AT)).map(|client| (client.hear_line(), client)).collect();
    let answer = kernel.call("PATCH", "/v1/pools/pool/backends/s2", r#"{"state":"draining"}"#);
    assert_eq!(answer.status, 200, "{answer:?}");
    // No answer says that it has none, whether a count has seen them or not.
    let mut shown = Vec::new();
    eventually("they are counted", || {
        let now = kernel.backend("s2")["active_connections"].as_u64().unwrap();
        shown.push(now);
        now == 2
    });
    assert!(!shown.contains(&0), "{shown:?}");
    clients.into_iter().for_each(|(_, client)| client.finish());
    eventually("none is left", || kernel.backend("s2")["active_connections"] == 0);
}

#[test]
fn a_drained_backend_without_connections_is_drained_after_a_count() {
    let Some(lab) = Lab::new() else { return };
    let _servers = [lab.server(2), lab.server(3)];
    let kernel = lab.start(&config(&format!("'{AT}'"), "", &[2, 3]));
    kernel.wait_for("up", &["s2", "s3"]);
    let answer = kernel.call("PATCH", "/v1/pools/pool/backends/s2", r#"{"state":"disabled"}"#);
    assert!(answer.status == 200 && answer.body.contains("\"active_connections\":1"), "{answer:?}");
    eventually("none is left", || kernel.backend("s2")["active_connections"] == 0);
}

#[test]
fn connections_of_a_removed_backend_stay_or_are_reset_as_on_remove_says() {
    let Some(lab) = Lab::new() else { return };
    let _servers = [lab.server(2), lab.server(3)];
    for (on_remove, stays) in [("keep", true), ("reset", false)] {
        let kernel = lab.start(&config(&format!("'{AT}'"), &format!("on_remove = '{on_remove}'"), &[3]));
        kernel.wait_for("up", &["s3"]);
        let body = format!(r#"{{"name":"s2","address":"10.9.2.2:{}"}}"#, super::lab::PORT);
        let answer = kernel.call("POST", "/v1/pools/pool/backends", &body);
        assert_eq!(answer.status, 201, "{answer:?}");
        kernel.wait_for("up", &["s2"]);
        let client = loop {
            let client = lab.connect(AT);
            if client.hear_line() == "s2" {
                break client;
            }
        };
        assert_eq!(kernel.call("DELETE", "/v1/pools/pool/backends/s2", "").status, 200);
        assert_eq!(lab.names(AT, 4).get("s3"), Some(&4));
        if stays {
            client.assert_echoes("still there");
        } else {
            use std::io::Write;
            eventually("its next bytes are answered with a reset", || (&client).write_all(b"x").is_err());
        }
        kernel.end(rustix::process::Signal::TERM);
    }
}

#[test]
fn a_backup_serves_while_no_primary_can() {
    let Some(lab) = Lab::new() else { return };
    let (mut primary, _backup) = (lab.server(2), lab.server(3));
    let text = config(&format!("'{AT}'"), "", &[2]) + &backend(3, "backup = true");
    let kernel = lab.start(&text);
    kernel.wait_for("up", &["s2", "s3"]);
    assert_eq!(lab.names(AT, 4).get("s2"), Some(&4));
    primary.stop();
    eventually("the backup serves", || {
        lab.try_connect(AT).is_ok_and(|client| client.line().is_ok_and(|it| it == "s3"))
    });
}

#[test]
fn rules_that_can_t_be_changed_stay_and_are_changed_once_they_can() {
    let Some(lab) = Lab::new() else { return };
    let _servers = [lab.server(2), lab.server(3)];
    let kernel = lab.start(&config(&format!("'{AT}'"), "", &[2, 3]));
    kernel.wait_for("up", &["s2", "s3"]);
    assert!(
        kernel.metric("tcplb_kernel_changes_total", &[]) > 0
            && kernel.metric("tcplb_kernel_change_seconds_count", &[]) > 0
    );
    assert_eq!(kernel.metric("tcplb_kernel_failures_total", &[]), 0);
    // Another program takes the table away, and makes one of its own.
    lab.nft(&["delete", "table", "inet", "tcplb"]);
    lab.nft(&["add", "table", "inet", "tcplb"]);
    assert_eq!(kernel.call("PATCH", "/v1/pools/pool/backends/s2", r#"{"weight":0}"#).status, 200);
    eventually("the failure is found", || {
        let status = kernel.get("/v1/status");
        status["process"]["kernel"]["problem"].is_string() && status["verdict"]["level"] == "critical"
    });
    let ready = || kernel.call("GET", "/readyz", "");
    assert!(ready().status == 503 && ready().body.contains("keeps its last rules"), "{:?}", ready());
    let events = kernel.get("/v1/events");
    assert!(events["events"].as_array().unwrap().iter().any(|event| event["kind"] == "kernel_failed"), "{events}");
    lab.nft(&["delete", "table", "inet", "tcplb"]);
    eventually("the rules are there again", || lab.names(AT, 4).get("s3") == Some(&4));
    eventually("the end is an event", || {
        kernel.get("/v1/events")["events"].as_array().unwrap().iter().any(|event| event["kind"] == "kernel_back")
    });
    assert!(kernel.get("/v1/status")["process"]["kernel"]["problem"].is_null());
    assert_eq!(ready().status, 200);
}

#[test]
fn allow_deny_and_limits_of_a_source_hold() {
    let Some(lab) = Lab::new() else { return };
    let _server = lab.server(2);
    let with = |line: &str| {
        config(&format!("'{AT}'"), "", &[2]).replace("engine = 'kernel'", &format!("engine = 'kernel'\n{line}"))
    };
    let kernel = lab.start(&with("deny = ['10.9.1.0/24']"));
    kernel.wait_for("up", &["s2"]);
    assert!(lab.try_connect(AT).is_err(), "the client is denied");
    kernel.reload(&with("max_connections_per_source = 2"));
    let clients: Vec<_> = (0..2).map(|_| lab.connect(AT)).collect();
    clients.iter().for_each(|client| assert_eq!(client.hear_line(), "s2"));
    assert!(lab.try_connect(AT).is_err(), "its source has two connections");
    kernel.reload(&with(""));
    assert_eq!(lab.connect(AT).hear_line(), "s2");
}
