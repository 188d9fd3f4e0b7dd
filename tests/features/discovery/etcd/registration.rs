//! `tcplb backend --register`: its key lives as long as the server does.

use super::follow;
use super::server::Etcd;
use rustix::process::Signal;
use testkit::{Process, eventually, tcplb};

/// A server that registers as this key; its address too.
#[track_caller]
pub fn serve(etcd: &Etcd, key: &str, further: &[&str]) -> (Process, String) {
    let target = format!("etcd://{}{key}", etcd.client);
    let arguments = ["backend", "--listen", "127.0.0.1:0", "--ttl", "2s", "--register", &target];
    let process = Process::spawn(&mut tcplb(&[&arguments, further].concat()));
    let at = process.after("listening on ");
    (process, at)
}

#[test]
fn a_server_is_registered_while_it_runs_and_withdrawn_by_its_end() {
    let Some(etcd) = Etcd::start() else { return };
    let mut source = follow(&etcd);
    let (mut plain, at) = serve(&etcd, "/w/a", &[]);
    plain.wait_for_line(&format!("registered {at} as /w/a at {}", etcd.url()));
    let (crashing, other) = serve(&etcd, "/w/b", &["--weight", "7"]);
    source.wait_for(&["a", "b"]);
    assert_eq!(etcd.value("/w/a"), Some(at.clone()));
    let b = source.found("b");
    assert_eq!((b.address.to_string(), b.weight), (other, Some(7)));
    plain.signal(Signal::TERM);
    source.wait_for(&["b"]);
    // Those that have not noticed yet are still served.
    assert!(std::net::TcpStream::connect(&at).is_ok());
    assert!(plain.wait_exit().success());
    drop(crashing);
    eventually("etcd removes the key of a server that was killed", || etcd.value("/w/b").is_none());
}

#[test]
fn a_server_registers_again_once_etcd_is_back_even_without_its_data() {
    let Some(mut etcd) = Etcd::start() else { return };
    etcd.kill();
    let (server, at) = serve(&etcd, "/w/a", &[]);
    server.wait_for_line("can't keep /w/a registered");
    etcd.start_again();
    eventually("it registers", || etcd.value("/w/a") == Some(at.clone()));
    // It has the answer: without it the next failure belongs to the same outage.
    server.wait_for_lines("registered", 2);
    etcd.kill();
    server.wait_for_lines("can't keep /w/a registered", 2);
    etcd.wipe();
    etcd.start_again();
    eventually("it registers again", || etcd.value("/w/a") == Some(at.clone()));
    server.wait_for_lines("registered", 4);
}

#[test]
fn a_server_without_an_address_of_its_own_is_refused() {
    let arguments = ["backend", "--listen", ":0", "--register", "etcd://127.0.0.1:1/w/a"];
    let mut process = Process::spawn(&mut tcplb(&arguments));
    assert!(!process.wait_exit().success());
    assert!(process.output().contains("--register needs an address that balancers reach"), "{}", process.output());
}

#[test]
fn a_key_that_another_client_removes_is_registered_again() {
    let Some(etcd) = Etcd::start() else { return };
    let (server, at) = serve(&etcd, "/w/a", &[]);
    server.wait_for_line("registered");
    etcd.delete("/w/a");
    eventually("it registers again", || etcd.value("/w/a") == Some(at.clone()));
    // A second server of the same key has it while it runs.
    let (second, other) = serve(&etcd, "/w/a", &[]);
    eventually("the second server has the key", || etcd.value("/w/a") == Some(other.clone()));
    drop(second);
    eventually("the first server has it again", || etcd.value("/w/a") == Some(at.clone()));
}
