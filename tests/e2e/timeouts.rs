//! Silence ends a connection; a byte either way is no silence.

use crate::support::{Server, Tcplb, eventually, peers};
use std::io::Write;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

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
            pace.recv().map_err(std::io::Error::other)?;
            (&conn).write_all(b"news\n")?;
        }
        Ok(())
    });
    let tcplb = Tcplb::new().backend(server.at()).unprobed().args(["--idle-timeout", "2s"]).start();
    assert_eq!(tcplb.connect().hear_all().len(), 200);
}
