//! What reaches which backend.

use super::lab::{AT, AT6, Lab, PORT, backend, backend6, config};
use std::net::SocketAddr;
use testkit::{Conn, Server, eventually};

#[test]
fn engine_kernel_forwards_clients_of_both_families_to_backends_that_see_their_addresses() {
    let Some(lab) = Lab::new() else { return };
    let at: SocketAddr = ([10, 9, 2, 9], PORT).into();
    let says_peer = |conn: Conn| {
        conn.say(format!("{}\n", conn.peer().ip()));
        conn.try_ending().map(drop)
    };
    let _server = lab.servers.inside(|| Server::start_at_address(at, says_peer));
    let _six = lab.server6(2);
    let text = config(&format!("'{AT}', '{AT6}'"), "", &[9]) + &backend6(2);
    let kernel = lab.start(&text);
    kernel.wait_for("up", &["s9", "six2"]);
    let client = lab.connect(AT);
    assert_eq!(client.hear_line(), "10.9.1.2", "the backend sees the client");
    let client = lab.connect(AT6);
    assert_eq!(client.hear_line(), "six2");
    client.assert_echoes("hello");
    assert_eq!(kernel.get("/v1/status")["listeners"][0]["engine"], "kernel");
    // The workers have no socket there.
    assert_eq!(lab.balancer.inside(|| listening(80)), 0);
}

/// How many sockets of this thread's network listen on a port.
fn listening(port: u16) -> usize {
    let tables = ["/proc/thread-self/net/tcp", "/proc/thread-self/net/tcp6"];
    let lines = tables.map(|table| std::fs::read_to_string(table).expect("a table")).concat();
    let is_it = |line: &&str| {
        let mut fields = line.split_whitespace();
        fields.nth(1).is_some_and(|at| at.ends_with(&format!(":{port:04X}"))) && fields.nth(1) == Some("0A")
    };
    lines.lines().filter(is_it).count()
}

#[test]
fn every_address_of_the_machine_and_clients_of_the_machine_itself_are_served() {
    let Some(lab) = Lab::new() else { return };
    let (_server, _six) = (lab.server(2), lab.server6(3));
    let kernel = lab.start(&(config("':80'", "", &[2]) + &backend6(3)));
    kernel.wait_for("up", &["s2", "six3"]);
    for (at, name) in [(AT, "s2"), ("10.9.2.1:80", "s2"), (AT6, "six3")] {
        assert_eq!(lab.connect(at).hear_line(), name, "{at}");
    }
    let own = lab.balancer.inside(|| Conn::to(&testkit::At::parse(AT)));
    assert_eq!(own.hear_line(), "s2");
}

#[test]
fn shares_follow_the_weights_and_a_hash_keeps_a_client_at_its_backend() {
    let Some(lab) = Lab::new() else { return };
    let _servers = [2, 3].map(|last| lab.server(last));
    let two =
        |pool: &str| config(&format!("'{AT}'"), pool, &[]) + &backend(2, "weight = 3") + &backend(3, "weight = 1");
    let kernel = lab.start(&two(""));
    kernel.wait_for("up", &["s2", "s3"]);
    let names = lab.names(AT, 400);
    assert!((298..=302).contains(&names["s2"]) && names.values().sum::<usize>() == 400, "{names:?}");
    let answer = kernel.call("PATCH", "/v1/pools/pool/backends/s3", r#"{"weight":3}"#);
    assert_eq!(answer.status, 200, "{answer:?}");
    let names = lab.names(AT, 400);
    assert!((198..=202).contains(&names["s2"]), "{names:?}");
    kernel.reload(&two("algorithm = 'source-hash'"));
    assert_eq!(lab.names(AT, 50).len(), 1, "one client has one backend");
}

#[test]
fn a_listener_that_changes_its_engine_serves_all_the_time() {
    let Some(lab) = Lab::new() else { return };
    let _server = lab.server(2);
    let kernel = config(&format!("'{AT}'"), "", &[2]);
    let proxy = kernel.replace("engine = 'kernel'", "engine = 'proxy'");
    let running = lab.start(&kernel);
    running.wait_for("up", &["s2"]);
    let of_kernel = lab.connect(AT);
    assert_eq!(of_kernel.hear_line(), "s2");
    running.reload(&proxy);
    let of_proxy = lab.connect(AT);
    assert_eq!(of_proxy.hear_line(), "s2");
    assert!(lab.balancer.inside(|| listening(80)) > 0);
    running.reload(&kernel);
    eventually("the workers have closed their sockets", || lab.balancer.inside(|| listening(80)) == 0);
    assert_eq!(lab.connect(AT).hear_line(), "s2");
    for (engine, client) in [("kernel", of_kernel), ("proxy", of_proxy)] {
        client.assert_echoes(engine);
    }
}
