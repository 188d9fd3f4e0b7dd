//! At a limit, clients wait in the kernel's backlog; nobody who is served notices.

use crate::support::{Conn, Server, Tcplb, eventually, let_pass, peers};
use std::time::Duration;

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

#[test]
fn out_of_descriptors_nothing_spins_and_nothing_breaks() {
    // More clients are allowed than descriptors: the limit of the kernel is met, not that of tcplb.
    stays_calm(Tcplb::new().args(["--max-connections", "1000"]));
}

#[test]
fn the_default_limit_fits_the_descriptors() {
    stays_calm(Tcplb::new());
}

/// More clients than fit come; those that fit are served, the others wait and are served when those leave.
fn stays_calm(tcplb: Tcplb) {
    const CLIENTS: usize = 100;
    let server = Server::start(peers::echo);
    let mut tcplb = tcplb.backend(server.at()).descriptor_limit(64).start();
    let clients: Vec<Conn> = (0..CLIENTS).map(|_| tcplb.connect()).collect();
    for client in &clients {
        client.say("x");
    }
    let is_answered = |client: &Conn| client.has_something_within(Duration::ZERO);
    let answered = |clients: &[Conn]| clients.iter().filter(|client| is_answered(client)).count();
    eventually("some are served", || answered(&clients) >= 5);
    let mut last = 0;
    eventually("no more are served", || {
        let_pass(A_WHILE);
        std::mem::replace(&mut last, answered(&clients)) == last
    });

    let before = tcplb.cpu_ticks();
    let_pass(Duration::from_millis(1500));
    let spent = tcplb.cpu_ticks() - before;
    assert!(spent < 30, "{spent} hundredths of a second in 1.5 s of waiting");

    let (served, mut waiting): (Vec<Conn>, Vec<Conn>) = clients.into_iter().partition(is_answered);
    assert!(!waiting.is_empty(), "{CLIENTS} clients fit into 64 descriptors");
    for client in &served {
        assert_eq!(client.hear(1), b"x", "a client that was let in is served, not dropped");
        client.assert_echoes("going on");
    }

    // As they leave, the next come in, in whatever order, until all have been.
    drop(served);
    eventually("everybody has been served", || {
        waiting.retain(|client| {
            let answered = is_answered(client);
            if answered {
                assert_eq!(client.hear(1), b"x");
                client.assert_echoes("at last");
            }
            !answered
        });
        waiting.is_empty()
    });
    tcplb.connect().assert_echoes("as before");
    tcplb.signal(rustix::process::Signal::TERM);
    assert_eq!(tcplb.wait_exit().code(), Some(0));
}
