//! `tcplb events`: lists, filters, follows, and outlives a restart of the tcplb that it asks.

use crate::admin::support::{Balancer, Process, tcplb};
use rustix::process::Signal;
use serde_json::Value;
use std::io::{BufRead, BufReader};
use std::os::unix::process::ExitStatusExt;
use std::process::{Output, Stdio};
use testkit::eventually;

#[track_caller]
fn printed(output: &Output) -> Vec<String> {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout.clone()).expect("UTF-8").lines().map(str::to_owned).collect()
}

#[test]
fn events_are_lines_or_json_and_can_be_filtered() {
    let balancer = Balancer::idle();
    balancer.call("PATCH", "/v1/pools/default/backends/web1", r#"{"weight":2}"#).json(200);
    let lines = printed(&balancer.client(&["events"]));
    assert_eq!(lines.len(), 2, "{lines:?}");
    assert!(lines[0].contains("Z start         tcplb  tcplb "), "{lines:?}");
    assert!(
        lines[1].ends_with("config        api    default/web1: changed: weight 1 → 2 (0 connections)"),
        "{lines:?}"
    );
    assert_eq!(printed(&balancer.client(&["events", "--since", "1h"])), lines);
    assert_eq!(printed(&balancer.client(&["events", "--pool", "default"])), lines[1..]);
    assert_eq!(printed(&balancer.client(&["events", "--pool", "other"])), [""; 0]);
    let json = printed(&balancer.client(&["events", "--json", "--pool", "default"])).concat();
    let json: Value = serde_json::from_str(&json).unwrap();
    assert_eq!((&json["events"][0]["to"], &json["next"]), (&Value::from("2"), &Value::from(2)));
    let wrong = balancer.client(&["events", "--since", "1"]);
    assert_eq!(wrong.status.code(), Some(2), "{wrong:?}");
}

#[test]
fn following_goes_on_when_tcplb_is_restarted() {
    let place = tempfile::tempdir().unwrap();
    let admin = format!("unix:{}", place.path().join("admin.sock").display());
    let start = || {
        let process =
            Process::start(&["-l", "127.0.0.1:0", "-b", "127.0.0.1:1,name=web1", "--health", "off", "--admin", &admin]);
        process.wait_for_line("admin on ");
        process
    };
    let weigh = |weight: &str| {
        let output = tcplb(&["backends", "weight", "default", "web1", weight, "--admin", &admin]).output().unwrap();
        assert!(output.status.success(), "{output:?}");
    };
    let balancer = start();
    let mut following = Process::start(&["events", "-f", "--json", "--admin", &admin]);
    following.wait_for_line("\"kind\":\"start\"");
    weigh("2");
    following.wait_for_line("\"to\":\"2\"");
    drop(balancer);
    following.wait_for_line("asking again each second");
    let _again = start();
    following.wait_for_line("tcplb was restarted: its events begin anew");
    following.wait_for_lines("\"kind\":\"start\"", 2);
    weigh("3");
    following.wait_for_line("\"to\":\"3\"");
    assert_eq!(following.count_lines("\"kind\":\"config\""), 2, "each event is printed once");
    following.signal(Signal::INT);
    assert_eq!(following.wait_exit().signal(), Some(Signal::INT.as_raw()));
}

#[test]
fn following_ends_when_its_reader_has_gone() {
    let balancer = Balancer::idle();
    let mut command = tcplb(&["events", "--follow", "--admin", &balancer.admin]);
    let mut following = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
    let mut reader = BufReader::new(following.stdout.take().unwrap());
    let mut line = String::new();
    reader.read_line(&mut line).unwrap();
    assert!(line.contains(" start "), "{line}");
    drop(reader);
    // Nothing happens that it could print.
    eventually("it has ended", || following.try_wait().unwrap().is_some_and(|status| status.success()));
}

#[test]
fn no_tcplb_and_a_wrong_token_are_errors_at_once() {
    let unreachable = tcplb(&["events", "-f", "--admin", "unix:/nonexistent/admin.sock"]).output().unwrap();
    assert_eq!(unreachable.status.code(), Some(4), "{unreachable:?}");
    let place = tempfile::tempdir().unwrap();
    let token = place.path().join("token");
    std::fs::write(&token, "s3cret").unwrap();
    let balancer = Balancer::start(&["-b", "127.0.0.1:1", "--admin-token-file", token.to_str().unwrap()]);
    let refused = balancer.client(&["events", "-f"]);
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
}
