//! Many connections: at once, and one after another.

use std::thread;
use testkit::{Conn, Ending, Server, Tcplb, eventually, heavy, peers, raise_descriptor_limit};

#[test]
fn two_thousand_connections_at_once_echo_correctly() {
    let _alone = heavy();
    raise_descriptor_limit();
    let servers = [(); 2].map(|()| Server::start(peers::echo));
    let tcplb = Tcplb::over(&servers);
    let before = tcplb.fds_after_a_crowd();
    let clients: Vec<Conn> = (0..2000).map(|_| tcplb.connect()).collect();
    for round in 0..2 {
        let text = |at: usize| format!("client {at:04} says {round} and means it");
        for (at, client) in clients.iter().enumerate() {
            client.say(text(at));
        }
        for (at, client) in clients.iter().enumerate() {
            assert_eq!(String::from_utf8(client.hear(text(at).len())).unwrap(), text(at));
        }
    }
    drop(clients);
    eventually("every descriptor is given back", || tcplb.open_fds() <= before);
}

#[test]
fn twenty_thousand_short_connections_leave_nothing_behind() {
    let _alone = heavy();
    raise_descriptor_limit();
    let server = Server::start(peers::answers_then_closes("short"));
    let tcplb = Tcplb::new().backend(server.at()).unprobed().start();
    let visit = |count: usize| {
        for turn in 0..count {
            let client = tcplb.connect();
            assert_eq!(client.hear_line(), "short");
            match turn % 2 {
                // In order, the server first, so that the client's port is free again at once.
                0 => assert_eq!(client.ending(), Ending::Fin),
                _ => client.reset(),
            }
        }
    };
    let crowd = |each: usize| {
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| visit(each));
            }
        });
    };
    // What is kept for reuse, if anything, is there after a few hundred.
    crowd(250);
    let settled = || (tcplb.fds_after_a_crowd(), tcplb.threads(), tcplb.rss_kib());
    let (descriptors, threads, memory) = settled();
    crowd(4750);
    eventually("every descriptor is given back", || tcplb.open_fds() <= descriptors);
    let (_, threads_after, memory_after) = settled();
    assert_eq!(threads_after, threads);
    let grown = memory_after.saturating_sub(memory);
    assert!(grown < 2048, "19 000 ended connections left {grown} KiB");
}
