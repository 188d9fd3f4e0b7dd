//! What stands for an etcd and answers as none does. A fake plays it.

use super::super::fake::{Call, respond, serve};
use super::settings;
use crate::discovery::source::Source;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tcplb::discovery::Value;
use testkit::{Process, Server, eventually, let_pass, tcplb};

/// An answer to a range with one key, `/w/a`.
const RANGE: &str = r#"{"header": {"revision": "7"}, "kvs": [{"key": "L3cvYQ==", "value": "MTAuMC4wLjE6ODA="}]}"#;

#[test]
fn a_watch_that_always_needs_another_look_makes_no_busy_loop() {
    for answer in
        [r#"{"result": {"canceled": true, "compact_revision": "99999999"}}"#, r#"{"result": {"canceled": true}}"#, ""]
    {
        let calls = Arc::new(AtomicUsize::new(0));
        let counted = calls.clone();
        let server = serve(move |call: &Call, conn| {
            counted.fetch_add(1, Ordering::Relaxed);
            respond(conn, "200 OK", "", if call.path == "/v3/watch" { answer } else { RANGE })
        });
        let mut source = Source::start("etcd", &settings(&[format!("http://{}", server.at())]));
        source.wait_for(&["a"]);
        let_pass(Duration::from_secs(2));
        let calls = calls.load(Ordering::Relaxed);
        assert!(calls < 40, "{calls} calls, {answer}");
        assert_eq!(source.names(), ["a"]);
    }
}

#[test]
fn a_password_or_a_token_that_etcd_echoes_is_never_shown() {
    let place = tempfile::tempdir().unwrap();
    let password = place.path().join("password");
    std::fs::write(&password, "hunter2\n").unwrap();
    let with = |at: String| {
        let mut settings = settings(&[at]);
        settings.push(("user", Value::Text("tcplb".to_owned())));
        settings.push(("password_file", Value::File(password.clone())));
        Source::start("etcd", &settings)
    };
    for (status, echo) in [
        (
            "400 Bad Request",
            r#"{"error": "bad", "message": "bad {\"name\":\"tcplb\",\"password\":\"hunter2\"}", "code": 3}"#,
        ),
        ("502 Bad Gateway", "can't pass on {\"name\":\"tcplb\",\"password\":\"hunter2\"}"),
        ("200 OK", "\"hunter2\""),
    ] {
        let server = serve(move |_: &Call, conn| respond(conn, status, "", echo));
        let source = with(format!("http://{}", server.at()));
        eventually("it fails", || source.standing().last_error.is_some());
        let error = source.standing().last_error.unwrap().1;
        assert!(!error.contains("hunter2") && error.contains(&server.at().to_string()), "{error}");
    }
    let server = serve(|call: &Call, conn| match call.path.as_str() {
        "/v3/auth/authenticate" => respond(conn, "200 OK", "", r#"{"token": "t0ken.7"}"#),
        _ => respond(conn, "403 Forbidden", "", &format!("bad header {}", call.headers["authorization"])),
    });
    let source = with(format!("http://{}", server.at()));
    source.wait_for_error("bad header …");
    assert!(!source.standing().last_error.unwrap().1.contains("t0ken"));
}

/// Answers the calls of a server that registers itself; counts its calls by path.
fn registry(grant: &'static str, put: &'static str) -> (Server, Arc<[AtomicUsize; 2]>) {
    let counts = Arc::new([const { AtomicUsize::new(0) }; 2]);
    let counted = counts.clone();
    let server = serve(move |call: &Call, conn| match call.path.as_str() {
        "/v3/lease/grant" => {
            counted[0].fetch_add(1, Ordering::Relaxed);
            respond(conn, "200 OK", "", grant)
        }
        "/v3/lease/keepalive" => respond(conn, "200 OK", "", r#"{"result": {"ID": "7", "TTL": "2"}}"#),
        _ => {
            counted[1].fetch_add(1, Ordering::Relaxed);
            respond(conn, put, "", "{}")
        }
    });
    (server, counts)
}

fn register(registry: &Server) -> Process {
    let target = format!("etcd://{}/w/a", registry.at());
    Process::spawn(&mut tcplb(&["backend", "--listen", "127.0.0.1:0", "--ttl", "2s", "--register", &target]))
}

#[test]
fn a_put_that_is_refused_is_tried_again_with_the_same_lease() {
    let (registry, counts) = registry(r#"{"ID": "7", "TTL": "2"}"#, "400 Bad Request");
    let server = register(&registry);
    server.wait_for_line("can't keep /w/a registered");
    eventually("it tries again", || counts[1].load(Ordering::Relaxed) > 3);
    assert_eq!(counts[0].load(Ordering::Relaxed), 1, "leases");
}

#[test]
fn a_key_without_a_lease_is_never_written() {
    let (registry, counts) = registry("{}", "200 OK");
    let server = register(&registry);
    server.wait_for_line("granted no lease");
    eventually("it tries again", || counts[0].load(Ordering::Relaxed) > 2);
    assert_eq!(counts[1].load(Ordering::Relaxed), 0, "keys written");
}
