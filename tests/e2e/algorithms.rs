//! What the algorithms promise beyond turns: load, stickiness, and that each of them serves.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use tcplb::policy::balance::REGISTRY;
use testkit::{At, Conn, Server, Tcplb, eventually, peers, tally};

fn three() -> [Server; 3] {
    ["a", "b", "c"].map(|name| Server::start(peers::named(name)))
}

/// The backend that each of `clients` different client addresses is sent to.
fn homes(tcplb: &At, clients: u8) -> BTreeMap<u8, String> {
    (1..=clients).map(|client| (client, home(tcplb, client))).collect()
}

fn home(tcplb: &At, client: u8) -> String {
    let source = IpAddr::from(Ipv4Addr::new(127, 77, 0, client));
    Conn::from_source(source, tcplb).unwrap().hear_line()
}

#[test]
fn every_algorithm_serves_under_both_of_its_names() {
    let servers = three();
    let names = REGISTRY.iter().flat_map(|row| [row.name].into_iter().chain(row.short.iter().copied()));
    for name in names.chain(["WRR", "Least-Connections"]) {
        let tcplb = servers.iter().fold(Tcplb::new(), |tcplb, server| tcplb.backend(server.at()));
        let tcplb = tcplb.args(["--algo", name]).start();
        for _ in 0..5 {
            let conn = tcplb.connect();
            assert!(["a", "b", "c"].contains(&conn.hear_line().as_str()), "{name}");
            conn.assert_echoes(name);
        }
    }
}

#[test]
fn random_and_power_of_two_use_every_backend() {
    let servers = three();
    for algorithm in ["random", "p2c"] {
        let tcplb = servers.iter().fold(Tcplb::new(), |tcplb, server| tcplb.backend(server.at()));
        let tcplb = tcplb.args(["-a", algorithm]).start();
        // A fair choice leaves one of three out of a hundred with a probability of 1 in 10^17.
        let names = tally((0..100).map(|_| tcplb.name_of_next()));
        assert_eq!(names.len(), 3, "{algorithm}: {names:?}");
    }
}

#[test]
fn least_connections_fills_the_emptiest() {
    let servers = ["a", "b"].map(|name| Server::start(peers::named(name)));
    let [a, b] = &servers;
    let tcplb = Tcplb::new().backend(a.at()).backend(b.at()).args(["-a", "least-connections"]).start();
    let hold = || {
        let conn = tcplb.connect();
        (conn.hear_line(), conn)
    };
    let mut held: Vec<(String, Conn)> = (0..20).map(|_| hold()).collect();
    assert_eq!(tally(held.iter().map(|(name, _)| name.clone())).into_values().collect::<Vec<usize>>(), [10, 10]);
    let full = tcplb.open_fds();
    held.retain(|(name, _)| name == "b");
    // Two descriptors for each of the ten that have left; a throwaway client would be counted itself.
    eventually("they are no longer counted", || tcplb.open_fds() <= full - 20);
    for _ in 0..5 {
        let (name, conn) = hold();
        assert_eq!(name, "a");
        held.push((name, conn));
    }
}

#[test]
fn least_connections_counts_per_unit_of_weight() {
    let servers = ["big", "small"].map(|name| Server::start(peers::named(name)));
    let [big, small] = &servers;
    let tcplb =
        Tcplb::new().backend_with(big.at(), "weight=3").backend_with(small.at(), "weight=1").args(["-a", "lc"]).start();
    let held: Vec<Conn> = (0..40).map(|_| tcplb.connect()).collect();
    let names = tally(held.iter().map(Conn::hear_line));
    assert_eq!((names["big"], names["small"]), (30, 10));
}

#[test]
fn a_client_address_keeps_its_backend() {
    let servers = three();
    for algorithm in ["source-hash", "sticky-round-robin", "maglev"] {
        let tcplb = servers.iter().fold(Tcplb::new(), |tcplb, server| tcplb.backend(server.at()));
        let tcplb = tcplb.args(["-a", algorithm]).start();
        let first = homes(tcplb.at(), 40);
        assert_eq!(tally(first.values().cloned()).len(), 3, "{algorithm} uses all of them: {first:?}");
        assert_eq!(homes(tcplb.at(), 40), first, "{algorithm}");
    }
}

#[test]
fn losing_one_of_three_moves_only_its_own_clients() {
    let mut servers = three();
    let tcplb = servers.iter().fold(Tcplb::new(), |tcplb, server| tcplb.backend(server.at()));
    let tcplb = tcplb.args(["-a", "source-hash"]).start();
    let before = homes(tcplb.at(), 60);
    servers[1].stop();
    for (client, name) in homes(tcplb.at(), 60) {
        match before[&client].as_str() {
            "b" => assert_ne!(name, "b", "client {client}"),
            kept => assert_eq!(name, kept, "client {client}"),
        }
    }
}

#[test]
fn every_instance_with_the_same_backends_agrees_under_maglev() {
    let servers = three();
    let start = || {
        let tcplb = servers.iter().fold(Tcplb::new(), |tcplb, server| tcplb.backend(server.at()));
        tcplb.args(["-a", "maglev"]).start()
    };
    let (one, other) = (start(), start());
    assert_eq!(homes(one.at(), 40), homes(other.at(), 40));
}
