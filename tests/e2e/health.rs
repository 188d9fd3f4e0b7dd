//! Probes, and clients' own failures, decide which backends are up; each change is one log line.

use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;
use testkit::{QUICK_PROBES, Running, Server, Tcplb, eventually, let_pass, peers, refusing, tally};

/// A server that is well as long as it runs.
fn well(name: &str) -> Server {
    Server::start(peers::http(name, Arc::new(AtomicU16::new(200))))
}

/// Sends a request: the name of the server that answered.
fn ask(tcplb: &Running) -> String {
    let client = tcplb.connect();
    client.say("GET / HTTP/1.1\r\nHost: test\r\n\r\n");
    let answer = String::from_utf8(client.hear_all()).unwrap();
    answer.rsplit('\n').next().unwrap().to_owned()
}

#[test]
fn probes_mark_a_backend_down_and_up_again_with_one_line_each() {
    let mut servers = ["web1", "web2"].map(|name| Server::start(peers::named(name)));
    let tcplb = Tcplb::new()
        .backend_with(servers[0].at(), "name=web1")
        .backend_with(servers[1].at(), "name=web2")
        .args(QUICK_PROBES)
        .start();
    servers[0].stop();
    tcplb.wait_for_line("web1 is down");
    assert_eq!(tally((0..10).map(|_| tcplb.name_of_next())).get("web2"), Some(&10));

    servers[0].start_again();
    tcplb.wait_for_line("web1 is up");
    let names = tally((0..10).map(|_| tcplb.name_of_next()));
    assert_eq!((names["web1"], names["web2"]), (5, 5));

    // A few more probes change nothing and say nothing.
    let_pass(Duration::from_secs(1));
    assert_eq!((tcplb.count_lines("web1 is down"), tcplb.count_lines("web1 is up")), (1, 1));
    assert_eq!(tcplb.count_lines("web2 is"), 0);
}

#[test]
fn the_first_probe_decides_at_once_whatever_the_interval() {
    let tcplb = Tcplb::new().backend_with(&refusing(), "name=web1").args(["-t", "3600"]).start();
    tcplb.wait_for_line("web1 is down");
}

#[test]
fn http_probes_look_at_the_status() {
    let status = Arc::new(AtomicU16::new(200));
    let sick = Server::start(peers::http("sick", status.clone()));
    let well = well("well");
    let tcplb = Tcplb::new()
        .backend_with(sick.at(), "name=web1")
        .backend_with(well.at(), "name=web2")
        .args(QUICK_PROBES)
        .args(["--health-path", "/healthz"])
        .start();
    let names = tally((0..10).map(|_| ask(&tcplb)));
    assert_eq!((names["sick"], names["well"]), (5, 5));

    status.store(503, Ordering::SeqCst);
    let line = tcplb.wait_for_line("web1 is down");
    assert!(line.contains("HTTP 503"), "the reason is logged: {line}");
    assert_eq!(tally((0..10).map(|_| ask(&tcplb))).get("well"), Some(&10));

    status.store(200, Ordering::SeqCst);
    tcplb.wait_for_line("web1 is up");
    assert_eq!(tally((0..10).map(|_| ask(&tcplb))).len(), 2);
}

#[test]
fn failed_connects_of_clients_mark_a_backend_down() {
    // A server sees an HTTP probe; a TCP probe is over before accept(2) shows it.
    let mut servers = ["web1", "web2"].map(well);
    let tcplb = Tcplb::new()
        .backend_with(servers[0].at(), "name=web1")
        .backend_with(servers[1].at(), "name=web2")
        // After the first one no probe comes for as long as this test may take.
        .args(["--health", "http", "-t", "3600"])
        .start();
    eventually("the first probes are over", || servers.iter().all(|server| server.accepted() > 0));
    servers[0].stop();
    eventually("web1 is down", || {
        assert_eq!(ask(&tcplb), "web2");
        tcplb.count_lines("web1 is down") == 1
    });
}

#[test]
fn a_backend_that_goes_down_keeps_its_connections() {
    let mut server = Server::start(peers::echo);
    let tcplb = Tcplb::new().backend_with(server.at(), "name=web1").args(QUICK_PROBES).start();
    let client = tcplb.connect();
    client.assert_echoes("before");
    server.stop_listening();
    tcplb.wait_for_line("web1 is down");
    client.assert_echoes("after");
}

#[test]
fn without_probes_a_backend_that_comes_back_is_used_again() {
    let mut servers = ["a", "b"].map(|name| Server::start(peers::named(name)));
    let tcplb = Tcplb::new().backend(servers[0].at()).backend(servers[1].at()).unprobed().start();
    servers[0].stop();
    for _ in 0..10 {
        assert_eq!(tcplb.name_of_next(), "b");
    }
    servers[0].start_again();
    // It stays out for a short back-off, and nothing but clients can find that it is back.
    eventually("a serves again", || tcplb.name_of_next() == "a");
}

#[test]
fn probing_does_not_pile_up_descriptors() {
    let mut servers: Vec<Server> = (0..5).map(|_| well("web")).collect();
    let tcplb = servers
        .iter()
        .fold(Tcplb::new(), |tcplb, server| tcplb.backend(server.at()))
        .backend(&refusing())
        .args(["--health", "http", "-t", "50ms", "--health-timeout", "50ms"])
        .start();
    let probed_again = |servers: &[Server], times: usize| {
        let before: Vec<usize> = servers.iter().map(Server::accepted).collect();
        eventually("more probes", || {
            servers.iter().zip(&before).all(|(server, before)| server.accepted() >= before + times)
        });
    };
    probed_again(&servers, 2);
    let before = tcplb.open_fds();
    probed_again(&servers, 20);
    servers.truncate(3);
    probed_again(&servers, 5);
    // One probe of each may be under way.
    eventually("none is left over", || tcplb.open_fds() <= before + 6);
}
