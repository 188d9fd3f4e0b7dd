//! Clients that wait for a backend, at several workers.

use std::time::Duration;
use testkit::{Admin, ConfigFile, Conn, Server, eventually, let_pass, peers};

/// Longer than the difference in arrivals that workers may pass over.
const APART: Duration = Duration::from_millis(15);

/// The kernel's hash and the hand-overs put these clients into the queues of all workers. A place that becomes free at one worker
/// goes to the client that waits longest at any.
#[test]
fn clients_at_all_workers_are_served_in_the_order_of_their_arrival() {
    const CLIENTS: usize = 16;
    let server = Server::start(peers::named("server"));
    let file = ConfigFile::empty().pool("no_backend = \"wait 60s\"").backend(server.at(), "max_connections = 1");
    let tcplb = file.global("workers = 4\nadmin = \"127.0.0.1:0\"").health("kind = \"off\"").start();
    let admin = Admin::of(&tcplb);
    let mut first = tcplb.connect();
    assert_eq!(first.hear_line(), "server");
    let mut waiting: Vec<Conn> = Vec::new();
    while waiting.len() < CLIENTS {
        waiting.push(tcplb.connect());
        let so_many = waiting.len() as f64;
        eventually("it waits", || admin.metric("tcplb_pool_waiting", &[]) as f64 == so_many);
        let_pass(APART);
    }
    while !waiting.is_empty() {
        drop(first);
        let served = || waiting.iter().position(|client| client.has_something_within(Duration::ZERO));
        eventually("one is served", || served().is_some());
        assert_eq!(served(), Some(0), "of those that wait, the first one");
        first = waiting.remove(0);
        assert_eq!(first.hear_line(), "server");
    }
}
