//! Ten thousand clients at a process that may have 1024 descriptors.

use crate::lab::{CALM, cpu_percent, limited};
use crate::support::{Conn, Running, Server, Tcplb, eventually, heavy, let_pass, peers, raise_descriptor_limit};
use rustix::process::{Resource, Signal, getrlimit};
use std::time::{Duration, Instant};

const ATTEMPTS: usize = 10_000;

/// Of those, connected and served before the crowd comes.
const ESTABLISHED: usize = 300;

/// Longer than a dial may take: should somebody have been let in for whom there is no second descriptor, it shows.
const LONG: Duration = Duration::from_secs(6);

/// What the process may have.
const DESCRIPTORS: usize = 1024;

/// Each of the two workers holds two descriptors back for clients it has accepted. Whether the crowd finds those spent
/// is chance, so that as many clients more or fewer have room from one time to the next.
const HELD_BACK: usize = 4;

#[test]
fn the_default_limit_fits_the_descriptors() {
    let Some(outcome) = withstand(Tcplb::new(), Duration::from_secs(3)) else { return };
    assert_eq!(outcome.served, 448, "what README says of --max-connections");
    assert_eq!(outcome.complaints, 0);
}

#[test]
fn a_limit_far_too_high_meets_that_of_the_kernel() {
    let Some(outcome) = withstand(Tcplb::new().args(["--max-connections", "1000000"]), LONG) else { return };
    assert!((460..=DESCRIPTORS / 2).contains(&outcome.served), "{} served", outcome.served);
    assert!((1..=10).contains(&outcome.complaints), "{} lines in the log", outcome.complaints);
}

/// What became of the crowd.
struct Outcome {
    /// Clients served at once.
    served: usize,
    /// Lines about descriptors in the log.
    complaints: usize,
}

/// `watched`: for how long the crowd is watched while it waits.
fn withstand(tcplb: Tcplb, watched: Duration) -> Option<Outcome> {
    // Both ends of what is relayed are this process's, the crowd on top.
    if getrlimit(Resource::Nofile).maximum.is_some_and(|limit| limit < ATTEMPTS as u64 + 3000) {
        assert!(std::env::var_os("CI").is_none(), "too few descriptors, and in CI no test may be skipped");
        eprintln!("skipped: this user may not have {ATTEMPTS} connections");
        return None;
    }
    raise_descriptor_limit();
    let _heavy = heavy();
    // It speaks first: whoever has something to read is served.
    let server = Server::start(peers::named("server"));
    // A worker takes some descriptors for itself: with one for each of many cores, fewer clients would be served.
    let tcplb = tcplb.backend(server.at()).args(["--workers", "2"]);
    let mut tcplb = limited(tcplb, &format!("-n {DESCRIPTORS}")).start();
    let at_rest = tcplb.fds_after_a_crowd();
    let established: Vec<Conn> = (0..ESTABLISHED).map(|_| served(&tcplb)).collect();

    let crowd: Vec<Conn> = (ESTABLISHED..ATTEMPTS).map(|_| Conn::attempt(tcplb.at())).collect();
    let count = |crowd: &[Conn]| crowd.iter().filter(|client| has_something(client)).count();
    let mut last = 0;
    eventually("no more are served", || {
        let_pass(Duration::from_millis(300));
        let now = count(&crowd);
        now > 0 && std::mem::replace(&mut last, now) == now
    });

    let mut turn = established.iter().cycle();
    let mut echoes = 0;
    let busy = cpu_percent(&tcplb, watched, || {
        for client in turn.by_ref().take(10) {
            client.assert_echoes("going on");
            echoes += 1;
        }
    });
    println!("CPU while {} clients wait: {busy:.1} % of a core, with {echoes} echoes", crowd.len() - last);
    assert!(busy < CALM, "{busy:.1} % of a core while clients wait");
    for client in &established {
        client.assert_echoes("none was lost");
    }

    // Those that came in leave, and the next come in.
    let (inside, mut waiting): (Vec<Conn>, Vec<Conn>) = crowd.into_iter().partition(has_something);
    for client in &inside {
        assert_eq!(client.hear_line(), "server", "whoever is let in is served");
        client.assert_echoes("and stays");
    }
    let (others, left) = (inside.len(), Instant::now());
    drop(inside);
    eventually("as many others are served", || count(&waiting) + HELD_BACK >= others);
    println!("{} served {:?} after {others} had left", count(&waiting), left.elapsed());
    waiting.retain(|client| !has_something(client));

    // All that wait give up.
    let given_up = Instant::now();
    drop(waiting);
    served(&tcplb).assert_echoes("as before");
    println!("a new client served {:?} after the crowd had gone", given_up.elapsed());
    for client in &established {
        client.assert_echoes("still there");
    }
    drop(established);
    eventually("its descriptors are back", || tcplb.open_fds() <= at_rest);
    let outcome = Outcome {
        served: ESTABLISHED + others,
        complaints: tcplb.count_lines("Too many open files") + tcplb.count_lines("No file descriptors"),
    };
    println!("{} served at once, {} lines in the log", outcome.served, outcome.complaints);
    tcplb.signal(Signal::TERM);
    assert_eq!(tcplb.wait_exit().code(), Some(0));
    Some(outcome)
}

#[track_caller]
fn served(tcplb: &Running) -> Conn {
    let client = tcplb.connect();
    assert_eq!(client.hear_line(), "server");
    client
}

fn has_something(client: &Conn) -> bool {
    client.has_something_within(Duration::ZERO)
}
