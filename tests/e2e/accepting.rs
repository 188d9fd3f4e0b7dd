//! The accepting side under a flood: other listeners, a drain, a listener that is removed and put back.

use crate::support::{Admin, At, Conn, Ending, Server, Tcplb, eventually, free_address, heavy, peers, refusing};
use rustix::process::Signal;
use std::collections::VecDeque;
use std::io::ErrorKind;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Instant;

/// Clients that connect as fast as they can, and reset their connections a little later; until dropped.
struct Flood {
    over: Arc<AtomicBool>,
    clients: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
}

impl Flood {
    fn at(at: &At) -> Flood {
        let (over, clients) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (at, stop, count) = (at.clone(), over.clone(), clients.clone());
        let connect = move || {
            let mut open = VecDeque::new();
            while !stop.load(Ordering::Relaxed) {
                open.push_back(Conn::attempt(&at));
                count.fetch_add(1, Ordering::Relaxed);
                if open.len() > 50 {
                    open.pop_front().into_iter().for_each(Conn::reset);
                }
            }
            open.into_iter().for_each(Conn::reset);
        };
        Flood { over, clients, thread: Some(thread::spawn(connect)) }
    }

    /// Waits until it has gone on for a while.
    fn rises(&self, by: u64) {
        let before = self.clients.load(Ordering::Relaxed);
        eventually("the flood goes on", || self.clients.load(Ordering::Relaxed) > before + by);
    }
}

impl Drop for Flood {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        self.thread.take().into_iter().for_each(|thread| thread.join().unwrap());
    }
}

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
        let tcplb = Tcplb::from_file(&file, 2).start();
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

#[test]
fn a_drain_serves_the_clients_that_wait_and_ends_while_others_still_come() {
    let _alone = heavy();
    let server = Server::start(peers::echo);
    let mut tcplb = Tcplb::new().backend(server.at()).unprobed().args(["--shutdown-timeout", "1h"]).start();
    // Their handshakes are complete in the kernel, and the process does not run.
    tcplb.signal(Signal::STOP);
    let waiting: Vec<Conn> = (0..200).map(|_| tcplb.connect()).collect();
    tcplb.signal(Signal::TERM);
    let at = tcplb.at().clone();
    let flood = Flood::at(&at);
    tcplb.signal(Signal::CONT);
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
        .args(["--max-connections", "2", "--shutdown-timeout", "1h"])
        .start();
    let served = [tcplb.connect(), tcplb.connect()];
    served.iter().for_each(|client| client.assert_echoes("served"));
    let waiting: Vec<Conn> = (0..4).map(|_| tcplb.connect()).collect();
    tcplb.signal(Signal::TERM);
    tcplb.wait_for_line("draining");
    served.iter().for_each(|client| client.assert_echoes("not disturbed"));
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
    let tcplb = Tcplb::from_file(&file, 2).start();
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
    let tcplb = Tcplb::from_file(&file, 2).start();
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
    let tcplb = Tcplb::from_file(&file, 1).start();
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
