//! Silence ends a connection; a byte either way is no silence.

use crossbeam_channel::unbounded;
use std::io::{self, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};
use testkit::{ConfigFile, Ending, Server, Started, Tcplb, eventually, peers};

#[test]
fn a_silent_connection_is_closed_and_a_busy_one_is_not() {
    let server = Server::start(peers::echo);
    // Its client only listens: bytes one way are enough.
    let tcplb = Tcplb::new().backend(server.at()).unprobed().args(["--idle-timeout", "2s"]).start();
    let before = tcplb.fds_after_a_crowd();
    let (silent, busy) = (tcplb.connect(), tcplb.connect());
    silent.assert_echoes("and now nothing");
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            let pace = crossbeam_channel::tick(Duration::from_millis(100));
            for round in 0.. {
                pace.recv().unwrap();
                // Twice the timeout at least, and until the silent one is closed.
                if round > 40 && over.load(Ordering::SeqCst) {
                    break;
                }
                busy.assert_echoes("still here");
            }
        });
        // FIN or reset: the contract leaves it open.
        silent.try_ending().unwrap();
        over.store(true, Ordering::SeqCst);
    });
    busy.assert_echoes("to the last");
    drop((silent, busy));
    eventually("both sides of both are gone", || tcplb.open_fds() <= before);
}

#[test]
fn bytes_one_way_keep_a_connection_open() {
    let server = Server::start(|conn| {
        let pace = crossbeam_channel::tick(Duration::from_millis(100));
        for _ in 0..40 {
            pace.recv().map_err(io::Error::other)?;
            (&conn).write_all(b"news\n")?;
        }
        Ok(())
    });
    let tcplb = Tcplb::new().backend(server.at()).unprobed().args(["--idle-timeout", "2s"]).start();
    assert_eq!(tcplb.connect().hear_all().len(), 200);
}

fn with_lifetime(server: &Server, lifetime: &str) -> Started {
    ConfigFile::over([server.at()]).pool(&format!("max_lifetime = '{lifetime}'")).start()
}

#[test]
fn the_end_of_a_lifetime_cuts_no_busy_answer_with_a_fin() {
    // Sends on and on, and reports the longest time in which it could send nothing.
    let (report, pauses) = unbounded();
    let server = Server::start(move |conn| {
        let (mut longest, mut last) = (Duration::ZERO, Instant::now());
        while (&conn).write_all(&[b'a'; 16 * 1024]).is_ok() {
            longest = longest.max(last.elapsed());
            last = Instant::now();
        }
        report.send(longest.max(last.elapsed())).map_err(io::Error::other)
    });
    let tcplb = with_lifetime(&server, "500ms");
    let mut judged = 0;
    for round in 0..100 {
        let client = tcplb.connect();
        // Every other one reads nothing until it is over, so that bytes are held.
        let stalls = round % 2 == 0;
        let over = stalls.then(|| pauses.recv().unwrap());
        let ending = client.ending();
        let pause = over.unwrap_or_else(|| pauses.recv().unwrap());
        // A machine that stands still for a moment makes a quiet one.
        if stalls || pause < Duration::from_millis(50) {
            assert_eq!(ending, Ending::Reset, "round {round}");
            judged += 1;
        }
        if judged == 20 {
            return;
        }
    }
    panic!("only {judged} of 20 connections were busy all the time");
}

#[test]
fn a_lifetime_that_is_over_in_a_pause_ends_in_order() {
    let server = Server::start(peers::echo);
    let tcplb = with_lifetime(&server, "4s");
    let client = tcplb.connect();
    let begun = Instant::now();
    let pace = crossbeam_channel::tick(Duration::from_millis(20));
    // Nearly until its lifetime may be over: that is spread by a tenth.
    while begun.elapsed() < Duration::from_millis(3_300) {
        pace.recv().unwrap();
        client.assert_echoes("ping");
    }
    assert_eq!(client.ending(), Ending::Fin);
}
