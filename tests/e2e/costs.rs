//! What work costs in system calls, counted by strace: a figure that no busy machine upsets. ARCHITECTURE.md has the table
//! with the reason for each; a call more than it says fails here.
//!
//! Two runs that differ only in the amount of work are compared, so that starting and stopping cancel out.

use rustix::process::Signal;
use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::path::Path;
use testkit::{ConfigFile, Running, Server, Tcplb, need, peers};

/// Units of work by which the two runs differ.
const UNITS: u32 = 400;

/// Calls of each kind, as `strace -c` sums them up.
type Calls = BTreeMap<String, u32>;

#[test]
fn a_relayed_request_costs_four_calls_and_two_waits() {
    if need("strace").is_none() || splices_everything() {
        return;
    }
    let server = Server::start(peers::echo);
    let requests = |tcplb: &Running, count| {
        let client = tcplb.connect();
        for _ in 0..count {
            client.say("ping");
            client.hear(4);
        }
    };
    let calls = difference(|| over(&server), requests);
    within(&calls, &[("recvfrom", 2.0), ("sendto", 2.0), ("epoll_wait", 2.1)]);
}

#[test]
fn a_short_connection_costs_no_more_than_the_table_says() {
    if need("strace").is_none() || splices_everything() {
        return;
    }
    let server = Server::start(peers::answers_then_closes("server"));
    let connections = |tcplb: &Running, count| {
        for _ in 0..count {
            let client = tcplb.connect();
            client.hear_all();
        }
    };
    let calls = difference(|| over(&server), connections);
    let table = [
        ("accept4", 2.0),
        ("socket", 1.0),
        ("connect", 1.0),
        // One more where the system's congestion control paces: not on loopback. And one where the client speaks at once.
        ("setsockopt", 4.0),
        ("epoll_ctl", 2.0),
        // The path to the backend, for the round-trip time and the retransmits.
        ("getsockopt", 1.0),
        // Has the client spoken? What is there, the other side's FIN, and one more where a FIN comes after its bytes' event.
        ("recvfrom", 4.0),
        ("sendto", 1.0),
        ("shutdown", 1.0),
        ("close", 2.0),
        // Only a debug build asks before it closes whether the descriptor is open.
        ("fcntl", if cfg!(debug_assertions) { 2.0 } else { 0.0 }),
        // One after the other: nothing is there to be taken together with anything else.
        ("epoll_wait", 6.0),
    ];
    within(&calls, &table);
}

#[test]
fn a_client_whose_hello_is_there_costs_at_most_one_call_more_with_routes() {
    if need("strace").is_none() || splices_everything() {
        return;
    }
    const HELLO: &[u8] = include_bytes!("../data/sniff/openssl_tls13.bin");
    let server = Server::start(|conn| {
        let mut hello = [0; HELLO.len()];
        (&conn).read_exact(&mut hello)?;
        peers::answers_then_closes("server")(conn)
    });
    let total = |routes: &str| {
        let pool = "[[pool]]\nname = \"p\"\n[pool.health]\nkind = \"off\"\n[[pool.backend]]\naddress";
        let listener = "[global]\nworkers = 1\n[[listener]]\nbind = [\"127.0.0.1:0\"]\npool = \"p\"";
        let file = ConfigFile::of(format!("{listener}\n{routes}\n{pool} = \"{}\"\n", server.at()));
        let path = file.write();
        let connections = |tcplb: &Running, count| {
            for _ in 0..count {
                let client = tcplb.connect();
                client.say(HELLO);
                client.hear_all();
            }
        };
        let calls = difference(|| Tcplb::from_file(&path), connections);
        println!("{routes:?}: {calls:?}");
        // Traced, the worker finds the hello at its first look, unless the client was not scheduled meanwhile.
        calls.values().sum::<u32>()
    };
    let (without, with) = (total(""), total("[[listener.route]]\nsni = [\"db.example.com\"]\npool = \"p\""));
    assert!(with <= without + UNITS + UNITS / 20, "{with} calls with a route, {without} without");
}

/// The tables are those of the default. With `relay = "splice"`, small messages pay for the pipe too.
fn splices_everything() -> bool {
    std::env::var("TCPLB_TEST_RELAY").is_ok_and(|relay| relay == "splice")
}

/// What `UNITS` more units of `work` cost.
fn difference(tcplb: impl Fn() -> Tcplb, work: impl Fn(&Running, u32)) -> Calls {
    let few = traced(tcplb(), |tcplb| work(tcplb, UNITS / 2));
    let mut many = traced(tcplb(), |tcplb| work(tcplb, UNITS / 2 + UNITS));
    for (name, count) in many.iter_mut() {
        *count = count.saturating_sub(few.get(name).copied().unwrap_or_default());
    }
    many
}

/// One worker: no connection is handed over.
fn over(server: &Server) -> Tcplb {
    Tcplb::new().unprobed().backend(server.at()).args(["--workers", "1"])
}

fn traced(tcplb: Tcplb, work: impl Fn(&Running)) -> Calls {
    let folder = tempfile::tempdir().expect("a folder for the counts");
    let counts = folder.path().join("counts");
    let strace = ["strace", "-f", "-c", "-o", counts.to_str().expect("a path in UTF-8")];
    let mut tcplb = tcplb.wrapped(strace).start();
    work(&tcplb);
    tcplb.signal_child(Signal::TERM);
    tcplb.wait_exit();
    read_counts(&counts)
}

/// tcplb itself: the process that strace runs.
/// Lines of `% time, seconds, usecs/call, calls, [errors,] syscall`.
fn read_counts(file: &Path) -> Calls {
    let text = fs::read_to_string(file).expect("strace has counted");
    let rows = text.lines().filter_map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        Some(((*words.last()?).to_owned(), words.get(3)?.parse().ok()?))
    });
    rows.filter(|(name, _)| name != "total").collect()
}

/// Each kind of call at most as often per unit as the table says, and no other kind at all.
#[track_caller]
fn within(calls: &Calls, table: &[(&str, f64)]) {
    for (name, count) in calls {
        let allowed = table.iter().find(|(known, _)| known == name).map_or(0.0, |(_, most)| *most);
        let per_unit = f64::from(*count) / f64::from(UNITS);
        assert!(per_unit <= allowed + 0.05, "{per_unit:.2} {name} a unit, at most {allowed} allowed: {calls:?}");
    }
    assert!(calls.get("recvfrom").is_some_and(|count| *count >= UNITS), "nothing was relayed: {calls:?}");
}
