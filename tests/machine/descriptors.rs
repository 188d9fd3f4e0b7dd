//! Ten thousand clients at a process that may have 1024 descriptors, and a division of these that does not fit.

use crate::lab::{CALM, cpu_percent, limited};
use rustix::process::{Pid, Resource, Rlimit, Signal, getrlimit, prlimit};
use std::time::{Duration, Instant};
use tcplb::config::descriptors::AdminShare;
use testkit::{
    Admin, At, ConfigFile, Conn, QUICK_PROBES, Running, Server, Tcplb, eventually, heavy, let_pass, peers,
    raise_descriptor_limit, refusing,
};

const ATTEMPTS: usize = 10_000;

/// Of those, connected and served before the crowd comes.
const ESTABLISHED: usize = 300;

/// Longer than a dial may take: it shows a client that was accepted without a second descriptor for its backend.
const LONG: Duration = Duration::from_secs(6);

/// What the process may have.
const DESCRIPTORS: usize = 1024;

/// Each of the two workers holds two descriptors back for clients it has accepted. Whether the crowd finds those spent
/// is chance, so that as many clients more or fewer have room from one time to the next.
const HELD_BACK: usize = 4;

#[test]
fn the_default_limit_fits_the_descriptors() {
    let Some(outcome) = withstand(Tcplb::new(), Limited::FromTheStart, Duration::from_secs(3)) else { return };
    assert_eq!(outcome.served, 448, "an eighth is kept, and each client takes two");
    assert_eq!(outcome.complaints, 0);
}

#[test]
fn a_limit_that_is_lowered_meanwhile_is_met_without_harm() {
    let Some(outcome) = withstand(Tcplb::new(), Limited::Meanwhile, LONG) else { return };
    assert!((460..=DESCRIPTORS / 2).contains(&outcome.served), "{} served", outcome.served);
    assert!((1..=10).contains(&outcome.complaints), "{} lines in the log", outcome.complaints);
}

/// 16 workers with ten listeners each take 160 descriptors before the first client comes.
#[test]
fn many_workers_and_listeners_leave_descriptors_for_probes_and_the_admin_api() {
    raise_descriptor_limit();
    let _heavy = heavy();
    let server = Server::start(peers::named("server"));
    let listeners = (0..10).fold(Tcplb::new(), |tcplb, _| tcplb.listen("127.0.0.1:0"));
    let tcplb = listeners.backend(server.at()).args(["--workers", "16", "--admin", "127.0.0.1:0"]).args(QUICK_PROBES);
    let tcplb = limited(tcplb, &format!("-n {DESCRIPTORS}")).start();
    let line = tcplb.wait_for_line("serves at most ");
    let admin = Admin::of(&tcplb);
    let crowd: Vec<Conn> = (0..1500).map(|number| Conn::attempt(&tcplb.listening()[number % 10])).collect();
    let served = || crowd.iter().filter(|client| has_something(client)).count();
    let most: usize = line.split("serves at most ").nth(1).unwrap().split(' ').next().unwrap().parse().unwrap();
    eventually("as many are served as the log says", || served() == most);
    let probes = || admin.metric("tcplb_health_probes_total", &["result=\"success\""]);
    let before = probes();
    eventually("probes go on", || probes() > before + 3);
    assert_eq!(tcplb.count_lines("is down"), 0, "no probe failed without a descriptor");
    assert_eq!(admin.get("/healthz").status, 200);
    assert_eq!(served(), most);
    assert_eq!(tcplb.count_lines("Too many open files") + tcplb.count_lines("No file descriptors"), 0);
}

/// A source may find more backends than there are descriptors for their warm connections.
#[test]
fn warm_connections_of_many_backends_leave_descriptors_for_clients() {
    raise_descriptor_limit();
    let server = Server::start(peers::echo);
    let place = tempfile::tempdir().unwrap();
    let list = place.path().join("list.json");
    let backends: Vec<String> =
        (0..100).map(|number| format!("{{\"name\":\"b{number}\",\"address\":\"{}\"}}", server.at())).collect();
    std::fs::write(&list, format!("{{\"backend\":[{}]}}", backends.join(","))).unwrap();
    let source = format!("[[pool.discover]]\nkind = \"file\"\npath = \"{}\"\n", list.display());
    let file =
        ConfigFile::empty().global("admin = \"127.0.0.1:0\"\nworkers = 2").pool("warm_connections = 4").and(&source);
    let tcplb = limited(Tcplb::from_file(&file.write()), "-n 512").start();
    let admin = Admin::of(&tcplb);
    let warm = || {
        let status = admin.get("/v1/status").json(200);
        let backends = status["pools"][0]["backends"].as_array().unwrap().clone();
        backends.iter().map(|backend| backend["warm_connections"].as_u64().unwrap()).sum::<u64>()
    };
    eventually("an eighth of the limit is used", || warm() == 64);
    for client in (0..50).map(|_| tcplb.connect()).collect::<Vec<_>>() {
        client.assert_echoes("it is served");
    }
    let_pass(Duration::from_millis(200));
    assert_eq!(warm(), 64);
    assert_eq!(tcplb.count_lines("Too many open files") + tcplb.count_lines("No file descriptors"), 0);
}

/// Silent callers of the admin API stay within what is kept for it, so probes find their descriptors.
#[test]
fn silent_callers_of_the_admin_api_leave_descriptors_for_probes() {
    raise_descriptor_limit();
    let server = Server::start(peers::named("server"));
    let tcplb = Tcplb::new().backend(server.at()).args(["--workers", "2", "--admin", "127.0.0.1:0"]).args(QUICK_PROBES);
    let tcplb = limited(tcplb, "-n 256").start();
    let admin = Admin::of(&tcplb);
    let probes = || admin.metric("tcplb_health_probes_total", &["result=\"success\""]);
    eventually("probes begin", || probes() > 0);
    let at_rest = tcplb.open_fds();
    let silent: Vec<Conn> = (0..200).map(|_| Conn::attempt(&At::Tcp(admin.0))).collect();
    let refused = || silent.iter().filter(|caller| has_something(caller)).count();
    let share = AdminShare::of(256);
    eventually("the oldest silent callers are refused", || refused() >= 200 - share.reading);
    let before = probes();
    eventually("probes go on", || probes() > before + 3);
    assert_eq!(admin.get("/healthz").status, 200);
    let (open, granted) = (tcplb.open_fds(), share.descriptors() as usize);
    assert!(open <= at_rest + granted, "{open} descriptors are open, {at_rest} before, and {granted} are granted");
    assert_eq!(tcplb.count_lines("is down"), 0, "no probe failed without a descriptor");
    assert_eq!(tcplb.count_lines("Too many open files") + tcplb.count_lines("No file descriptors"), 0);
}

#[test]
fn listeners_that_a_reload_adds_count_too() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("tcplb.toml");
    let write = |global: &str, listeners: usize| {
        let listener = |number| format!("[[listener]]\nname = \"l{number}\"\nbind = [\"127.0.0.1:0\"]\n");
        let listeners: String = (0..listeners).map(listener).collect();
        let pool = format!("[[pool]]\n[[pool.backend]]\naddress = \"{}\"\n", refusing());
        std::fs::write(&file, format!("[global]\nworkers = 16\n{global}\n{listeners}{pool}")).unwrap();
    };
    let start = || limited(Tcplb::from_file(&file), &format!("-n {DESCRIPTORS}")).start();
    write("", 1);
    let tcplb = start();
    tcplb.wait_for_line("serves at most 385 clients at once: of 1024");
    write("", 11);
    tcplb.signal(Signal::HUP);
    tcplb.wait_for_line("serves at most 305 clients at once from now on");
    write("", 1);
    tcplb.signal(Signal::HUP);
    tcplb.wait_for_line("serves at most 385 clients at once from now on");
    write("max_connections = 350", 1);
    let tcplb = start();
    write("max_connections = 350", 11);
    tcplb.signal(Signal::HUP);
    tcplb.wait_for_line("reload refused: max_connections: 350 connections need 700");
}

#[test]
fn what_does_not_fit_the_limit_is_refused_at_the_start() {
    let start = |args: &[&str], limit: &str| {
        let tcplb = Tcplb::new().backend(&refusing()).args(args.iter().copied());
        limited(tcplb, &format!("-n {limit}")).start_in_vain()
    };
    for (args, limit, parts) in [
        (
            &["--workers", "40"][..],
            "256",
            &["open files is 256", "40 workers, 40 listening sockets", "raise it to"][..],
        ),
        (&["--workers", "2", "--max-connections", "449"], "1024", &["449 connections need 898", "448 at most"]),
    ] {
        let (status, said) = start(args, limit);
        assert_eq!(status.code(), Some(1), "{said}");
        parts.iter().for_each(|part| assert!(said.contains(part), "no `{part}`: {said}"));
        assert!(!said.contains("listening on"), "{said}");
    }
}

/// What became of the crowd.
struct Outcome {
    /// Clients served at once.
    served: usize,
    /// Lines about descriptors in the log.
    complaints: usize,
}

/// When the process gets its limit.
#[derive(PartialEq)]
enum Limited {
    FromTheStart,
    Meanwhile,
}

/// `watched`: for how long the crowd is watched while it waits.
fn withstand(tcplb: Tcplb, limit: Limited, watched: Duration) -> Option<Outcome> {
    // Both ends of what is relayed are this process's, the crowd on top.
    if getrlimit(Resource::Nofile).maximum.is_some_and(|limit| limit < ATTEMPTS as u64 + 3000) {
        assert!(std::env::var_os("CI").is_none(), "too few descriptors, and in CI no test may be skipped");
        eprintln!("skipped: this user may not have {ATTEMPTS} connections");
        return None;
    }
    raise_descriptor_limit();
    let _heavy = heavy();
    // The backend speaks first: a client that gets a byte is served.
    let server = Server::start(peers::named("server"));
    // A worker takes some descriptors for itself: with one for each of many cores, fewer clients would be served.
    let tcplb = tcplb.backend(server.at()).args(["--workers", "2"]);
    let tcplb = if limit == Limited::FromTheStart { limited(tcplb, &format!("-n {DESCRIPTORS}")) } else { tcplb };
    let mut tcplb = tcplb.start();
    if limit == Limited::Meanwhile {
        let limit = Rlimit { current: Some(DESCRIPTORS as u64), maximum: Some(DESCRIPTORS as u64) };
        prlimit(Pid::from_raw(tcplb.pid() as i32), Resource::Nofile, limit).expect("its limit is set");
    }
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
        assert_eq!(client.hear_line(), "server", "every accepted client is served");
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
