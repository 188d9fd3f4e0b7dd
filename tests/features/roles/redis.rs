//! Two Redis, of which one replicates the other. They swap their roles under writers.

use std::collections::HashSet;
use std::io::{self, Write};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};
use testkit::{At, ConfigFile, Conn, Redis, eventually, heavy, let_pass};

/// What became of the writes of all clients.
#[derive(Default)]
struct Writes {
    taken: AtomicUsize,
    /// By a replica.
    refused: AtomicUsize,
    over: AtomicBool,
}

/// Ends the writers, also when the test fails.
struct Over<'a>(&'a Writes);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.over.store(true, Ordering::SeqCst);
    }
}

/// A client that appends values to a list until it is over. It connects again when it loses its connection.
struct Writer<'a> {
    at: &'a At,
    name: usize,
    writes: &'a Writes,
    begun: usize,
    acknowledged: Vec<String>,
}

impl Writer<'_> {
    /// Returns what was acknowledged.
    fn run(mut self) -> Vec<String> {
        while !self.writes.over.load(Ordering::SeqCst) {
            // An error is a lost connection. What was written last may have been taken or not.
            let _ = self.session();
        }
        self.acknowledged
    }

    fn session(&mut self) -> io::Result<()> {
        let conn = Conn::try_to(self.at)?;
        (&conn).write_all(b"CLIENT SETNAME writer\r\n")?;
        conn.line()?;
        while !self.writes.over.load(Ordering::SeqCst) {
            self.begun += 1;
            let value = format!("{}-{}", self.name, self.begun);
            (&conn).write_all(format!("RPUSH writes {value}\r\n").as_bytes())?;
            let answer = conn.line()?;
            if answer.starts_with(':') {
                self.acknowledged.push(value);
                self.writes.taken.fetch_add(1, Ordering::SeqCst);
            } else {
                assert!(answer.starts_with("-READONLY"), "{answer}");
                self.writes.refused.fetch_add(1, Ordering::SeqCst);
            }
            let_pass(Duration::from_millis(2));
        }
        Ok(())
    }
}

/// Writers that are connected to it.
#[track_caller]
fn sessions(node: &Redis) -> usize {
    node.call(&["CLIENT", "LIST"]).matches("name=writer ").count()
}

/// Has `to` become the primary in place of `from`, which becomes its replica. No write is lost meanwhile.
#[track_caller]
fn swap(from: &Redis, to: &Redis) {
    let to = [to.at.ip().to_string(), to.at.port().to_string()];
    eventually("the replica is in step", || from.call(&["FAILOVER", "TO", &to[0], &to[1]]).contains("OK"));
    eventually("the roles are swapped", || from.call(&["ROLE"]).starts_with("slave"));
}

#[test]
fn the_role_of_the_primary_moves_under_writers() {
    let _alone = heavy();
    let (Some(a), Some(b)) = (Redis::start(), Redis::start()) else { return };
    b.call(&["REPLICAOF", &a.at.ip().to_string(), &a.at.port().to_string()]);
    let file = ConfigFile::empty().pool("preset = \"redis-primary\"").health("interval = \"1s\"");
    let tcplb = file.backend(&At::Tcp(a.at), "name = \"a\"").backend(&At::Tcp(b.at), "name = \"b\"").start();
    // At once, not when the time of the probe is over.
    let refused = tcplb.wait_for_line("b is down");
    assert!(refused.contains("b is down: step 4: expected \"master\", got \"slave\\r\\n"), "{refused}");

    let writes = Writes::default();
    let [taken, refused] = [&writes.taken, &writes.refused].map(|count| || count.load(Ordering::SeqCst));
    let acknowledged: Vec<String> = thread::scope(|scope| {
        let over = Over(&writes);
        let writer = |name| Writer { at: tcplb.at(), name, writes: &writes, begun: 0, acknowledged: Vec::new() };
        let writers = [0, 1, 2, 3].map(writer).map(|writer| scope.spawn(|| writer.run()));
        for [old, new] in [[&a, &b], [&b, &a]] {
            eventually("the writers are at the primary", || sessions(old) == 4);
            assert_eq!(sessions(new), 0);
            let (before, already) = (taken(), refused());
            eventually("it takes writes", || taken() > before + 100);
            swap(old, new);
            let swapped = Instant::now();
            eventually("the last writer has left the old primary", || sessions(old) == 0);
            let left = swapped.elapsed();
            eventually("all of them are at the new one", || sessions(new) == 4);
            let refused = refused() - already;
            println!("the last writer left the old primary after {left:.1?}, which refused {refused} writes");
        }
        drop(over);
        writers.into_iter().flat_map(|writer| writer.join().unwrap()).collect()
    });

    // What a replica takes is gone once it has its copy.
    let kept = a.call(&["LRANGE", "writes", "0", "-1"]);
    let kept: HashSet<&str> = kept.lines().collect();
    let wrong = acknowledged.iter().filter(|value| !kept.contains(value.as_str())).count();
    println!("of {} acknowledged writes {wrong} reached the wrong node", acknowledged.len());
    assert_eq!(wrong, 0);
}
