//! Limits and what becomes of clients without a backend, over real sockets: a whole balancer in this process, clients from
//! several addresses of 127.0.0.0/8.

mod file;
mod queue;

use crate::balancer::Balancer;
use std::io::{Read, Write};
use std::time::{Duration, Instant};
use tcplb::telemetry::Refusal;
use testkit::{ConfigFile, Conn, PATIENCE, Server, eventually, let_pass, peers, tally};

/// Longer than a test takes.
const WAIT: &str = "no_backend = 'wait 1h'";

/// Probes often enough for a test to wait for them.
const QUICK: &str = "interval = '50ms'\ntimeout = '50ms'\nrise = 1";

/// A backend that sends its name and then echoes.
fn named(name: &str) -> Server {
    Server::start(peers::named(name))
}

/// One that refuses until it is started again.
fn stopped(name: &str) -> Server {
    let mut server = named(name);
    server.stop();
    server
}

/// A backend with a place for one client.
fn narrow(server: &Server) -> ConfigFile {
    ConfigFile::empty().backend(server.at(), "max_connections = 1")
}

fn refused(balancer: &Balancer, why: Refusal) -> u64 {
    balancer.admission().totals.refused(why)
}

/// A client from 127.0.0.1.
fn client(balancer: &Balancer) -> Conn {
    balancer.client_from([127, 0, 0, 1])
}

#[track_caller]
fn assert_served(client: &Conn) {
    client.hear_line();
}

/// No byte and no end comes for a while.
#[track_caller]
fn assert_waits(client: &Conn) {
    assert!(!client.has_something_within(Duration::from_millis(200)), "it does not wait");
}

#[test]
fn lists_decide_by_the_most_specific_prefix() {
    let server = named("a");
    let lists = "allow = ['127.0.0.0/24']\ndeny = ['127.0.0.8/29']";
    let balancer = Balancer::of(&ConfigFile::over([server.at()]).listener(lists));
    assert_served(&balancer.client_from([127, 0, 0, 1]));
    balancer.client_from([127, 0, 0, 9]).assert_reset();
    balancer.client_from([127, 0, 1, 1]).assert_reset();
    assert_served(&balancer.client_from([127, 0, 0, 16]));
    eventually("counted", || refused(&balancer, Refusal::Denied) == 2);
    assert_eq!(balancer.admission().totals.accepted(), 4, "refused ones count as accepted");
}

#[test]
fn a_limit_on_connections_holds_for_each_source() {
    let server = named("a");
    let balancer = Balancer::of(&ConfigFile::over([server.at()]).listener("max_connections_per_source = 2"));
    let mut held = Vec::new();
    for ip in [[127, 0, 0, 2], [127, 0, 0, 2], [127, 0, 0, 3]] {
        let client = balancer.client_from(ip);
        assert_served(&client);
        held.push(client);
    }
    balancer.client_from([127, 0, 0, 2]).assert_reset();
    assert_eq!(refused(&balancer, Refusal::SourceLimit), 1);
    drop(held.remove(0));
    eventually("its place is free again", || balancer.client_from([127, 0, 0, 2]).line().is_ok());
}

#[test]
fn behind_a_proxy_the_lists_apply_to_the_announced_client() {
    let server = named("a");
    let listener =
        "accept_proxy = true\nmax_connections_per_source = 1\nallow = ['203.0.113.0/24']\ndeny = ['203.0.113.7']";
    let balancer = Balancer::of(&ConfigFile::over([server.at()]).listener(listener));
    let announced = |client: &str| {
        let proxy = balancer.connect();
        proxy.say(format!("PROXY TCP4 {client} 198.51.100.1 1000 443\r\n"));
        proxy
    };
    // All from one socket address, which no list names.
    let first = announced("203.0.113.1");
    assert_served(&first);
    assert_served(&announced("203.0.113.2"));
    announced("203.0.113.1").assert_reset();
    announced("203.0.113.7").assert_reset();
    announced("127.0.0.1").assert_reset();
    assert_eq!(refused(&balancer, Refusal::SourceLimit), 1);
    eventually("counted", || refused(&balancer, Refusal::Denied) == 2);
    drop(first);
    eventually("its place is free again", || announced("203.0.113.1").line().is_ok());
}

#[test]
fn connections_beyond_the_rate_of_a_source_are_reset() {
    let server = named("a");
    let balancer = Balancer::of(&ConfigFile::over([server.at()]).listener("connection_rate_per_source = '3/s'"));
    let started = Instant::now();
    let attempts = (0..40).map(|_| client(&balancer).line().is_ok()).filter(|served| *served).count() as u64;
    let most = 4 + 3 * started.elapsed().as_millis() as u64 / 1000;
    assert!((3..=most).contains(&attempts), "{attempts} of 40 in {:?}", started.elapsed());
    eventually("counted", || refused(&balancer, Refusal::SourceRate) == 40 - attempts);
    assert_served(&balancer.client_from([127, 0, 0, 2]));
    eventually("a token has come", || client(&balancer).line().is_ok());
}

#[test]
fn limits_that_only_count_refuse_no_client() {
    let server = named("a");
    let listener = "deny = ['127.0.0.2']\nmax_connections_per_source = 1\nlimits = 'count'";
    let balancer = Balancer::of(&ConfigFile::over([server.at()]).listener(listener));
    let clients = [client(&balancer), client(&balancer), balancer.client_from([127, 0, 0, 2])];
    clients.iter().for_each(assert_served);
    let admission = balancer.admission();
    assert_eq!((admission.would_refuse(Refusal::SourceLimit), admission.would_refuse(Refusal::Denied)), (1, 1));
    assert_eq!(admission.totals.refused_total(), 0);
}

#[test]
fn a_full_listener_lets_clients_wait_in_the_backlog() {
    let server = named("a");
    let balancer = Balancer::of(&ConfigFile::over([server.at()]).listener("max_connections = 2"));
    let mut held: Vec<_> = (0..2).map(|_| client(&balancer)).collect();
    held.iter().for_each(assert_served);
    let third = client(&balancer);
    assert_waits(&third);
    assert_eq!(balancer.admission().totals.accepted(), 2);
    held.pop();
    assert_served(&third);
    held.push(third);
    // Many more than there is room for: all are served in the end, never more than two at once.
    let mut crowd: Vec<_> = (0..20).map(|_| client(&balancer)).collect();
    held.clear();
    while let Some(client) = crowd.pop() {
        // The kernel spreads them over the workers' backlogs, so their order is unknown.
        if client.has_something_within(Duration::from_millis(1)) {
            assert_served(&client);
            assert!(balancer.admission().totals.active() <= 2);
        } else {
            crowd.insert(0, client);
        }
    }
    assert_eq!(balancer.admission().totals.accepted(), 23);
}

#[test]
fn a_client_without_a_backend_is_reset_at_once_or_when_the_wait_is_over() {
    let server = named("a");
    for (no_backend, least) in [("reset", Duration::ZERO), ("wait 300ms", Duration::from_millis(300))] {
        let balancer = Balancer::of(&narrow(&server).pool(&format!("no_backend = '{no_backend}'")));
        let first = client(&balancer);
        assert_served(&first);
        let started = Instant::now();
        client(&balancer).assert_reset();
        assert!(started.elapsed() >= least && started.elapsed() < PATIENCE);
        assert_eq!(refused(&balancer, Refusal::NoBackend), 1);
    }
}

#[test]
fn a_waiting_client_is_served_when_a_place_becomes_free() {
    let server = named("a");
    let balancer = Balancer::of(&narrow(&server).pool(WAIT));
    let first = client(&balancer);
    assert_served(&first);
    let second = client(&balancer);
    second.say("!\n");
    assert_waits(&second);
    drop(first);
    assert_served(&second);
    assert_eq!(second.hear_line(), "!", "what it sent while it waited is not lost");
}

#[test]
fn a_waiting_client_is_served_when_a_backend_comes_back() {
    for health in ["kind = 'off'", QUICK] {
        let mut server = stopped("b");
        let balancer = Balancer::of(&ConfigFile::over([server.at()]).pool(WAIT).health(health));
        if health == QUICK {
            eventually("it is down", || !balancer.pool().up.get(0));
        }
        let client = client(&balancer);
        assert_waits(&client);
        server.start_again();
        assert_served(&client);
    }
}

#[test]
fn a_waiting_client_that_is_gone_takes_no_turn() {
    let server = named("a");
    let balancer = Balancer::of(&narrow(&server).pool(WAIT));
    let first = client(&balancer);
    assert_served(&first);
    let second = client(&balancer);
    assert_waits(&second);
    second.reset();
    eventually("its reset is noticed", || balancer.admission().totals.active() == 1);
    let third = client(&balancer);
    assert_waits(&third);
    drop(first);
    assert_served(&third);
}

#[test]
fn a_lifetime_ends_a_connection_that_is_in_use() {
    let server = named("a");
    let balancer = Balancer::of(&ConfigFile::over([server.at()]).pool("max_lifetime = '400ms'"));
    let started = Instant::now();
    let client = client(&balancer);
    assert_served(&client);
    // Each byte comes back at once, so that it is never idle.
    while (&client).write_all(b"x").is_ok() && (&client).read(&mut [0]).is_ok_and(|count| count == 1) {
        let_pass(Duration::from_millis(5));
    }
    assert!(started.elapsed() >= Duration::from_millis(360), "{:?}", started.elapsed());
    eventually("nothing is left of it", || balancer.admission().totals.active() == 0);
}

#[test]
fn a_backend_that_came_up_gets_a_small_share_at_first() {
    let (server, mut late) = (named("a"), stopped("b"));
    let file = ConfigFile::over([server.at(), late.at()]).pool("slow_start = '10m'").health(QUICK).health("fall = 1");
    let balancer = Balancer::of(&file);
    let pool = balancer.pool();
    eventually("it is down", || !pool.up.get(1));
    late.start_again();
    eventually("it is up", || pool.up.get(1));
    let tally = tally((0..200).map(|_| balancer.connect().hear_line()));
    // Half a minute would be a twentieth of the slow start, and a share of a fortieth.
    assert!(tally.get("b").is_none_or(|count| *count <= 25), "{tally:?}");
}

#[test]
fn try_all_serves_by_a_backend_that_is_marked_down() {
    let mut server = stopped("b");
    let file = ConfigFile::over([server.at()]).pool("all_down = 'try-all'").health("interval = '1h'\ntimeout = '50ms'");
    let balancer = Balancer::of(&file);
    let pool = balancer.pool();
    eventually("it is down", || !pool.up.get(0));
    server.start_again();
    assert_served(&client(&balancer));
    assert!(!pool.up.get(0), "and no probe has followed");
}

#[test]
fn a_backend_that_resets_its_clients_is_ejected_for_a_while() {
    let (bad, good) = (Server::start(peers::resets), named("b"));
    let balancer = Balancer::of(&ConfigFile::over([bad.at(), good.at()]).pool("outlier_failures = 3"));
    let pool = balancer.pool();
    let ejected = || pool.ejected.get(0);
    eventually("it is left out", || {
        let _ = client(&balancer).line();
        ejected()
    });
    assert!(!pool.up.get(0) && pool.up.get(1));
    eventually("it is let in again", || !ejected());
    // A reset may come so early that it counts as a failed connect too, which has a back-off of its own.
    eventually("it is up", || pool.up.get(0));
}
