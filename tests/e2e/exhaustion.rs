//! At a limit, clients wait in the kernel's backlog; clients that are served notice nothing. Out of descriptors: `tests/machine`.

use std::time::Duration;
use testkit::{Conn, Server, Tcplb, eventually, let_pass, peers};

const A_WHILE: Duration = Duration::from_millis(500);

#[test]
fn at_max_connections_the_next_client_waits_and_is_served_when_one_leaves() {
    let server = Server::start(peers::echo);
    let tcplb = Tcplb::new().backend(server.at()).args(["--max-connections", "3"]).start();
    let mut served: Vec<Conn> = (0..3).map(|_| tcplb.connect()).collect();
    for client in &served {
        client.assert_echoes("served");
    }
    let waiting: Vec<Conn> = (0..3).map(|_| tcplb.connect()).collect();
    for client in &waiting {
        client.say("let me in");
    }
    let_pass(A_WHILE);
    assert!(waiting.iter().all(|client| !client.has_something_within(Duration::ZERO)), "a fourth was let in");
    for client in &served {
        client.assert_echoes("not disturbed");
    }
    // Each that leaves lets exactly one in.
    for left in 1..=3 {
        served.pop();
        let let_in = || waiting.iter().filter(|client| client.has_something_within(Duration::ZERO)).count();
        eventually("the next one is served", || let_in() == left);
    }
    for client in &waiting {
        assert_eq!(client.hear(9), b"let me in");
    }
}
