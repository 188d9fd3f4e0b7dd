//! The accepting side under a flood: other listeners, a drain, a listener that is removed and put back.

use rustix::process::Signal;
use std::io::ErrorKind;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};
use testkit::{
    Admin, At, Conn, Ending, Flood, Server, Tcplb, eventually, free_address, heavy, let_pass, peers,
    raise_descriptor_limit, refusing,
};

/// Clients that wait at one listener when another one gets a client. Less than the kernel's default of net.core.somaxconn.
const BACKLOG: usize = 3000;

#[test]
fn a_flood_at_one_listener_leaves_its_turn_to_another_one_of_the_same_worker() {
    let _alone = heavy();
    let server = Server::start(peers::echo);
    let (first, second) = (At::Tcp(free_address()), At::Tcp(free_address()));
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("tcplb.toml");
    for (flooded, other) in [(0, 1), (1, 0)] {
        // The backend of the flood refuses: it is the accepting side that is under load.
        let pool_of = |number| if number == flooded { "flooded" } else { "other" };
        let text = format!(
            "[global]\nworkers = 1\n{}{}{}{}",
            listener("first", &first, pool_of(0)),
            listener("second", &second, pool_of(1)),
            pool("flooded", &refusing()),
            pool("other", server.at()),
        );
        std::fs::write(&file, text).unwrap();
        let tcplb = Tcplb::from_file(&file).start();
        let flood = Flood::at(&tcplb.listening()[flooded]);
        flood.rises(1000);
        let started = Instant::now();
        for _ in 0..20 {
            Conn::to(&tcplb.listening()[other]).assert_echoes("beside it");
        }
        println!("20 clients beside the flood: {:?}", started.elapsed());
        flood.rises(1000);
    }
}

/// The access log of one worker has connections in the order of their ends: no clock is needed to see which was served first.
#[test]
fn a_client_is_served_before_the_backlog_of_another_listener_is_empty() {
    let _alone = heavy();
    raise_descriptor_limit();
    let server = Server::start(peers::answers_then_closes("beside it"));
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("tcplb.toml");
    let free = || At::Tcp(free_address());
    let (flooded, other) = (listener("flooded", &free(), "flooded"), listener("other", &free(), "other"));
    for first_is_flooded in [true, false] {
        let (first, second) = if first_is_flooded { (&flooded, &other) } else { (&other, &flooded) };
        let pools = pool("flooded", &refusing()) + &pool("other", server.at());
        let global = "[global]\nworkers = 1\naccess_log = \"-\"\n";
        std::fs::write(&file, format!("{global}{first}{second}{pools}")).unwrap();
        let tcplb = Tcplb::from_file(&file).start();
        let numbers = if first_is_flooded { (0, 1) } else { (1, 0) };
        // The kernel completes their handshakes while the process stands still.
        tcplb.freeze();
        let waiting: Vec<Conn> = (0..BACKLOG).map(|_| Conn::attempt(&tcplb.listening()[numbers.0])).collect();
        let client = Conn::to(&tcplb.listening()[numbers.1]);
        tcplb.thaw();
        assert_eq!(client.hear_line(), "beside it");
        drop(client);
        tcplb.wait_for_lines(" connect_failed", BACKLOG);
        drop(waiting);
        let output = tcplb.output();
        let is_end = |line: &&str| line.ends_with(" connect_failed") || line.ends_with("_fin");
        let before = output.lines().filter(is_end).take_while(|line| !line.ends_with("_fin")).count();
        println!("{before} of {BACKLOG} clients of the other listener ended first");
        assert!(before < BACKLOG / 2, "{before} of {BACKLOG} clients of the other listener were served first");
    }
}

#[test]
fn a_drain_serves_the_clients_that_wait_and_ends_while_others_still_come() {
    let _alone = heavy();
    let server = Server::start(peers::echo);
    let mut tcplb = Tcplb::new().backend(server.at()).unprobed().args(["--shutdown-timeout", "1h"]).start();
    // Their handshakes are complete in the kernel, and the process does not run.
    tcplb.freeze();
    let waiting: Vec<Conn> = (0..200).map(|_| tcplb.connect()).collect();
    tcplb.signal(Signal::TERM);
    let at = tcplb.at().clone();
    let flood = Flood::at(&at);
    tcplb.thaw();
    for client in waiting {
        client.assert_echoes("it waited");
        client.finish();
        client.ending();
    }
    assert_eq!(tcplb.wait_exit().code(), Some(0), "{}", tcplb.output());
    flood.rises(1000);
}

#[test]
fn a_drain_at_the_limit_serves_the_clients_that_wait_as_places_become_free() {
    let server = Server::start(peers::echo);
    let mut tcplb = Tcplb::new()
        .backend(server.at())
        .unprobed()
        .args(["--workers", "2", "--max-connections", "2", "--shutdown-timeout", "1h"])
        .start();
    let served = [tcplb.connect(), tcplb.connect()];
    served.iter().for_each(|client| client.assert_echoes("served"));
    let waiting: Vec<Conn> = (0..4).map(|_| tcplb.connect()).collect();
    tcplb.signal(Signal::TERM);
    tcplb.wait_for_line("draining");
    served.iter().for_each(|client| client.assert_echoes("not disturbed"));
    // The kernel ignores further clients. A queue that still took them would not be full before the patience is over.
    eventually("no further client may wait", || {
        let mut late = (0..10).map(|_| Conn::attempt(tcplb.at()));
        let waits = late.any(|late| late.is_writable_within(Duration::from_millis(20)));
        let_pass(Duration::from_millis(10));
        !waits
    });
    drop(served);
    // All at once: each worker has a queue, and a client that has a place keeps it until it leaves.
    thread::scope(|scope| {
        for client in waiting {
            scope.spawn(move || client.assert_echoes("it waited"));
        }
    });
    assert_eq!(tcplb.wait_exit().code(), Some(0), "{}", tcplb.output());
    assert_eq!(Conn::try_to(tcplb.at()).map(drop).map_err(|error| error.kind()), Err(ErrorKind::ConnectionRefused));
}

fn listener(name: &str, at: &At, pool: &str) -> String {
    format!("[[listener]]\nname = \"{name}\"\nbind = [\"{at}\"]\npool = \"{pool}\"\n")
}

fn pool(name: &str, backend: &At) -> String {
    format!("[[pool]]\nname = \"{name}\"\n[pool.health]\nkind = \"off\"\n[[pool.backend]]\naddress = \"{backend}\"\n")
}

/// A file with a listener that stays and one that may be left out, whose lines may say more.
fn write(file: &Path, stays: &At, comes_and_goes: Option<&str>, server: &Server) {
    let extra = comes_and_goes.unwrap_or_default();
    let pools = pool("web", server.at()) + &pool("flooded", &refusing());
    std::fs::write(file, format!("{}{extra}{pools}", listener("stays", stays, "web"))).unwrap();
}

#[test]
fn a_listener_can_be_removed_and_put_back_under_a_flood() {
    let _alone = heavy();
    let server = Server::start(peers::echo);
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("tcplb.toml");
    let (stays, at) = (At::Tcp(free_address()), At::Tcp(free_address()));
    let extra = listener("extra", &at, "flooded");
    write(&file, &stays, Some(&extra), &server);
    let tcplb = Tcplb::from_file(&file).start();
    let flood = Flood::at(&at);
    for round in 1..=3 {
        flood.rises(500);
        write(&file, &stays, None, &server);
        tcplb.signal(Signal::HUP);
        tcplb.wait_for_lines("listener extra removed", round);
        // Once the log says so, at once.
        write(&file, &stays, Some(&extra), &server);
        tcplb.signal(Signal::HUP);
        tcplb.wait_for_lines("listener extra added", round);
        Conn::to(&stays).assert_echoes("the other one");
    }
    assert_eq!(tcplb.count_lines("reload refused"), 0, "{}", tcplb.output());
}

#[test]
fn a_full_listener_can_be_removed_and_put_back_too() {
    let server = Server::start(peers::echo);
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("tcplb.toml");
    let (stays, at) = (At::Tcp(free_address()), At::Tcp(free_address()));
    let extra = listener("extra", &at, "web") + "max_connections = 1\n";
    write(&file, &stays, Some(&extra), &server);
    let tcplb = Tcplb::from_file(&file).start();
    let served = Conn::to(&at);
    served.assert_echoes("served");
    let waiting = [Conn::to(&at), Conn::to(&at)];
    write(&file, &stays, None, &server);
    tcplb.signal(Signal::HUP);
    tcplb.wait_for_line("listener extra removed");
    write(&file, &stays, Some(&extra), &server);
    tcplb.signal(Signal::HUP);
    tcplb.wait_for_line("listener extra added");
    served.assert_echoes("it stays");
    for client in waiting {
        assert_eq!(client.ending(), Ending::Reset, "there was no room for it");
    }
    drop(served);
    Conn::to(&at).assert_echoes("put back");
}

#[test]
fn a_unix_client_that_closes_while_it_waits_leaves_the_queue() {
    let server = Server::start(peers::echo);
    let directory = tempfile::tempdir().unwrap();
    let (file, path) = (directory.path().join("tcplb.toml"), At::Unix(directory.path().join("tcplb.sock")));
    let text = format!(
        "[global]\nadmin = \"127.0.0.1:0\"\n{}{}max_connections = 1\n",
        listener("unix", &path, "web"),
        pool("web", server.at()).replacen("[pool.health]", "no_backend = \"wait 1h\"\n[pool.health]", 1)
    );
    std::fs::write(&file, text).unwrap();
    let tcplb = Tcplb::from_file(&file).start();
    let admin = Admin::of(&tcplb);
    let first = tcplb.connect();
    first.assert_echoes("served");
    let active = || admin.metric("tcplb_connections_active", &[]);
    // A FIN alone leaves it in its place.
    let (finished, gone) = (tcplb.connect(), tcplb.connect());
    finished.say("an answer, please");
    finished.finish();
    gone.say("never mind");
    eventually("both wait", || active() == 3);
    drop(gone);
    eventually("one has left", || active() == 2);
    drop(first);
    assert_eq!(finished.hear_all(), b"an answer, please");
}
