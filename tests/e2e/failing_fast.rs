//! A backend that fails its clients fast must not attract them, and one slow answer must not shun a backend for long.

use std::io::{self, Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use testkit::{Conn, Running, Server, Tcplb, eventually, let_pass, peers};

const CLIENTS: usize = 300;

/// Accepts and closes without a byte.
fn closes(conn: Conn) -> io::Result<()> {
    conn.finish();
    conn.try_ending().map(drop)
}

/// Takes a line and answers with its name, the first time only after so long.
fn slow_once(name: &str, time: Duration) -> impl Fn(Conn) -> io::Result<()> + Send + Sync + 'static {
    let (name, slow) = (format!("{name}\n"), AtomicBool::new(true));
    move |conn| {
        conn.line()?;
        if slow.swap(false, Ordering::SeqCst) {
            let_pass(time);
        }
        (&conn).write_all(name.as_bytes())?;
        conn.finish();
        conn.try_ending().map(drop)
    }
}

/// A client that asks and reads to the end; what it got.
fn ask(tcplb: &Running) -> Vec<u8> {
    // A backend that is gone already may have reset it, so soon that connecting shows it.
    let Ok(conn) = Conn::try_to(tcplb.at()) else { return Vec::new() };
    let _ = (&conn).write_all(b"hello\n");
    let mut answer = Vec::new();
    let _ = (&conn).read_to_end(&mut answer);
    answer
}

/// How many of so many clients, `at_once` of them at any time, get no answer.
fn unanswered(tcplb: &Arc<Running>, at_once: usize) -> usize {
    let threads: Vec<_> = (0..at_once)
        .map(|_| {
            let tcplb = tcplb.clone();
            std::thread::spawn(move || (0..CLIENTS / at_once).filter(|_| ask(&tcplb).is_empty()).count())
        })
        .collect();
    threads.into_iter().map(|thread| thread.join().unwrap()).sum()
}

#[test]
fn a_backend_that_closes_or_resets_without_a_byte_gets_few_clients() {
    for algorithm in ["least-time", "least-connections", "power-of-two"] {
        for at_once in [1, 10] {
            for script in [closes as fn(Conn) -> io::Result<()>, peers::resets] {
                let good = ["a", "b"].map(|name| Server::start(slow_once(name, Duration::ZERO)));
                let bad = Server::start(script);
                let tcplb = Tcplb::new().backend(good[0].at()).backend(bad.at()).backend(good[1].at());
                let tcplb = Arc::new(tcplb.args(["-a", algorithm]).start());
                let count = unanswered(&tcplb, at_once);
                println!("{algorithm}, {at_once} at once: {count} of {CLIENTS} clients got no answer");
                // A fair share is a hundred. A loaded machine may pause for a half-life in between.
                assert!(count <= CLIENTS / 10, "{algorithm}, {at_once} at once: {count} of {CLIENTS}");
            }
        }
    }
}

#[test]
fn a_backend_with_one_slow_answer_is_tried_again_soon() {
    let good = ["a", "b"].map(|name| Server::start(slow_once(name, Duration::ZERO)));
    let slow = Server::start(slow_once("slow", Duration::from_secs(2)));
    let tcplb = good.iter().fold(Tcplb::new(), |tcplb, server| tcplb.backend(server.at()));
    let tcplb = tcplb.backend_with(slow.at(), "name=slow").args(["-a", "least-time"]).start();
    eventually("its slow answer is in", || ask(&tcplb) == b"slow\n");
    let begun = Instant::now();
    let pace = crossbeam_channel::tick(Duration::from_millis(20));
    while ask(&tcplb) != b"slow\n" {
        assert!(begun.elapsed() < Duration::from_secs(15), "it is shunned for long");
        pace.recv().unwrap();
    }
    println!("tried again after {:?}", begun.elapsed());
}
