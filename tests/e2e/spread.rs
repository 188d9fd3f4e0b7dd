//! Which backend gets the next connection: turns, weights, backups, limits.

use std::thread;
use testkit::{Conn, Ending, QUICK_PROBES, Server, Tcplb, eventually, peers, refusing, tally};

fn named(name: &str) -> Server {
    Server::start(peers::named(name))
}

#[test]
fn three_backends_take_exact_turns() {
    let servers = ["a", "b", "c"].map(named);
    let tcplb = Tcplb::over(&servers);
    let names: Vec<String> = (0..90).map(|_| tcplb.name_of_next()).collect();
    assert_eq!(tally(names[..3].to_vec()).len(), 3, "{names:?}");
    for (turn, name) in names.iter().enumerate() {
        assert_eq!(name, &names[turn % 3], "out of turn at {turn}: {names:?}");
    }
}

#[test]
fn turns_stay_exact_when_clients_come_all_at_once() {
    let servers = ["a", "b", "c"].map(named);
    let tcplb = Tcplb::over(&servers);
    let names: Vec<String> = thread::scope(|scope| {
        let client = || (0..30).map(|_| tcplb.name_of_next()).collect::<Vec<String>>();
        let clients: Vec<_> = (0..10).map(|_| scope.spawn(client)).collect();
        clients.into_iter().flat_map(|client| client.join().unwrap()).collect()
    });
    assert_eq!(tally(names).into_values().collect::<Vec<usize>>(), [100, 100, 100]);
}

#[test]
fn weights_interleave_smoothly() {
    let servers = ["a", "b", "c"].map(named);
    let [a, b, c] = &servers;
    // It is the default.
    for algorithm in [&["--algorithm", "weighted-round-robin"][..], &[]] {
        let tcplb = Tcplb::new()
            .backend_with(a.at(), "weight=5")
            .backend_with(b.at(), "weight=1")
            .backend_with(c.at(), "weight=1")
            .args(algorithm.iter().copied())
            .start();
        let turns: String = (0..21).map(|_| tcplb.name_of_next()).collect();
        assert_eq!(turns, "aabacaaaabacaaaabacaa", "{algorithm:?}");
    }
}

#[test]
fn weight_zero_takes_no_new_connection() {
    let servers = ["a", "b"].map(named);
    let [a, b] = &servers;
    for algorithm in ["rr", "wrr", "srr", "lc", "p2c", "sih", "maglev", "lt", "random"] {
        let tcplb = Tcplb::new().backend_with(a.at(), "weight=0").backend(b.at()).args(["-a", algorithm]).start();
        let names = tally((0..10).map(|_| tcplb.name_of_next()));
        assert_eq!(names.get("b"), Some(&10), "{algorithm}: {names:?}");
    }
}

#[test]
fn a_backup_serves_only_while_no_primary_can() {
    let mut servers = ["primary", "backup"].map(named);
    let tcplb =
        Tcplb::new().backend(servers[0].at()).backend_with(servers[1].at(), "backup").args(QUICK_PROBES).start();
    for _ in 0..10 {
        assert_eq!(tcplb.name_of_next(), "primary");
    }
    servers[0].stop();
    for _ in 0..10 {
        assert_eq!(tcplb.name_of_next(), "backup");
    }
    servers[0].start_again();
    eventually("the primary serves again", || tcplb.name_of_next() == "primary");
    for _ in 0..10 {
        assert_eq!(tcplb.name_of_next(), "primary");
    }
}

#[test]
fn a_full_backend_is_passed_over_until_a_client_leaves() {
    let servers = ["small", "big"].map(named);
    let [small, big] = &servers;
    let tcplb = Tcplb::new().backend_with(small.at(), "max-connections=2").backend(big.at()).start();
    let mut held: Vec<(String, Conn)> = Vec::new();
    for _ in 0..10 {
        let conn = tcplb.connect();
        held.push((conn.hear_line(), conn));
    }
    let names = tally(held.iter().map(|(name, _)| name.clone()));
    assert_eq!((names["small"], names["big"]), (2, 8));
    held.retain(|(name, _)| name == "big");
    eventually("the small one has room again", || tcplb.name_of_next() == "small");
}

#[test]
fn with_all_backends_full_the_client_is_reset_at_once() {
    let server = named("only");
    let tcplb = Tcplb::new().backend_with(server.at(), "max-connections=1").start();
    let first = tcplb.connect();
    assert_eq!(first.hear_line(), "only");
    assert_eq!(tcplb.ending_of_next(), Ending::Reset);
    first.assert_echoes("the one that has a place keeps it");
    drop(first);
    eventually("there is room again", || Conn::try_to(tcplb.at()).and_then(|client| client.line()).is_ok());
}

#[test]
fn a_dead_backends_share_is_spread_over_all_the_others() {
    let servers = ["a", "b", "c"].map(named);
    let dead = refusing();
    let mut tcplb = Tcplb::new().backend(servers[0].at()).backend_with(&dead, "name=dead");
    for server in &servers[1..] {
        tcplb = tcplb.backend(server.at());
    }
    let tcplb = tcplb.start();
    tcplb.wait_for_line("dead is down");
    let names = tally((0..90).map(|_| tcplb.name_of_next()));
    assert_eq!(names.into_values().collect::<Vec<usize>>(), [30, 30, 30]);
}
