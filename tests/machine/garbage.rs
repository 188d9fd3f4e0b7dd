//! Fifty thousand connections of nonsense, on every port, half of them reset; and every one accounted for.

use crate::lab::Configured;
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use testkit::{At, Conn, Ending, Server, eventually, heavy, peers};

const THREADS: usize = 8;
const PLAIN: usize = 18_000;
const GUARDED: usize = 24_000;
const ADMIN: usize = 8_000;

/// A client of nonsense, one of many threads with addresses of their own.
struct Vandal {
    random: fastrand::Rng,
    source: IpAddr,
}

impl Vandal {
    fn new(number: usize) -> Vandal {
        let source = IpAddr::V4(Ipv4Addr::new(127, 66, fastrand::u8(..), 10 + number as u8));
        Vandal { random: fastrand::Rng::with_seed(number as u64), source }
    }

    /// Connects and says some nonsense; none at all if it resets the connection at once. The rest is up to the caller.
    fn begin(&mut self, at: &At) -> Option<(Conn, Vec<u8>)> {
        let conn = Conn::from_source(self.source, at).expect("the kernel takes it in");
        if self.random.u8(..) < 64 {
            conn.reset();
            return None;
        }
        let mut nonsense = vec![0; self.random.usize(16..600)];
        self.random.fill(&mut nonsense);
        // The other side may have had enough already.
        let _ = (&conn).write_all(&nonsense);
        if self.random.u8(..) < 85 {
            conn.reset();
            return None;
        }
        Some((conn, nonsense))
    }
}

#[test]
fn fifty_thousand_garbage_connections_leave_no_trace_but_in_the_counters() {
    let _heavy = heavy();
    let server = Server::start(peers::echo);
    let tcplb = Configured::start(
        &format!(
            "[[listener]]\nname = 'plain'\nbind = ['127.0.0.1:0']\npool = 'p'\n\
             [[listener]]\nname = 'guarded'\nbind = ['127.0.0.1:0']\npool = 'p'\naccept_proxy = true\n\
             [[pool]]\nname = 'p'\n[[pool.backend]]\naddress = '{}'\n",
            server.at()
        ),
        // Its debug log has a line for each connection's end.
        &["--log-level", "debug"],
    );
    let (plain, guarded) = (&tcplb.at[0], &tcplb.at[1]);
    // What it keeps for reuse, it has after these.
    for number in 0..200 {
        let mut vandal = Vandal::new(number % THREADS);
        vandal.begin(plain);
        vandal.begin(guarded);
        vandal.begin(&At::Tcp(tcplb.admin.0));
    }
    let active = || tcplb.admin.metric("tcplb_connections_active", &[]);
    eventually("all is quiet", || active() == 0);
    let accepted =
        |listener: &str| tcplb.admin.metric("tcplb_connections_accepted_total", &[&format!("listener=\"{listener}\"")]);
    let bad = || {
        let labels = [r#"listener="guarded""#, r#"reason="bad_proxy_header""#];
        tcplb.admin.metric("tcplb_connections_refused_total", &labels)
    };
    let before = (accepted("plain"), accepted("guarded"), bad());
    let (descriptors, memory, threads) = (tcplb.process.open_fds(), tcplb.process.rss_kib(), tcplb.process.threads());

    let over = AtomicBool::new(false);
    let (witnessed, good) = thread::scope(|scope| {
        let vandals: Vec<_> = (0..THREADS)
            .map(|number| {
                let tcplb = &tcplb;
                scope.spawn(move || {
                    let mut vandal = Vandal::new(number);
                    let mut witnessed = 0;
                    for _ in 0..PLAIN / THREADS {
                        if let Some((conn, nonsense)) = vandal.begin(plain) {
                            conn.finish();
                            assert_eq!(conn.hear_all(), nonsense, "nonsense is passed on like anything else");
                        }
                    }
                    for _ in 0..GUARDED / THREADS {
                        if let Some((conn, _)) = vandal.begin(guarded) {
                            assert_eq!(conn.try_ending().unwrap_or(Ending::Reset), Ending::Reset);
                            witnessed += 1;
                        }
                    }
                    for _ in 0..ADMIN / THREADS {
                        if let Some((conn, _)) = vandal.begin(&At::Tcp(tcplb.admin.0)) {
                            conn.finish();
                            // 400, or 503 in the crowd; cut off if it is too big a crowd.
                            let mut answer = Vec::new();
                            drop((&conn).read_to_end(&mut answer));
                            assert!(answer.is_empty() || answer.starts_with(b"HTTP/1.1 "), "{answer:?}");
                        }
                    }
                    witnessed
                })
            })
            .collect();
        // A client that speaks the protocol.
        let good = scope.spawn(|| {
            let resident = Conn::to(plain);
            let mut served = 1;
            while !over.load(Ordering::Relaxed) {
                resident.assert_echoes("still here");
                Conn::to(plain).assert_echoes("just come");
                served += 1;
            }
            served
        });
        let witnessed: u64 = vandals.into_iter().map(|vandal| vandal.join().unwrap()).sum();
        over.store(true, Ordering::Relaxed);
        (witnessed, good.join().unwrap())
    });
    println!("{good} good clients were served beside them");
    assert!(good > 10, "{good} good clients");

    eventually("all connections are gone", || active() == 0);
    assert_eq!(accepted("plain") - before.0, PLAIN as u64 + good);
    assert_eq!(accepted("guarded") - before.1, GUARDED as u64);
    // Every connection has ended for one reason, and the log has it.
    let total = accepted("plain") + accepted("guarded");
    let reasons = || reasons(&tcplb.process.output());
    eventually("the log has all endings", || reasons().values().sum::<u64>() == total);
    let reasons = reasons();
    println!("{reasons:?}");
    assert_eq!(reasons["bad_proxy_header"], bad());
    let refused = bad() - before.2;
    assert!((witnessed..=GUARDED as u64).contains(&refused), "{refused} refused, {witnessed} of them saw it");
    let known = ["bad_proxy_header", "client_fin", "client_reset"];
    assert!(reasons.keys().all(|reason| known.contains(&reason.as_str())), "{reasons:?}");

    eventually("its descriptors are back", || tcplb.process.open_fds() <= descriptors);
    eventually("its threads are back", || tcplb.process.threads() <= threads);
    let grown = tcplb.process.rss_kib().saturating_sub(memory);
    println!("{grown} KiB more memory");
    assert!(grown < 8 * 1024, "{grown} KiB more than before");
    assert_eq!(tcplb.process.count_lines("panicked"), 0);
    assert_eq!(tcplb.admin.get("/healthz").status, 200);
}

/// How often each reason ended a connection.
fn reasons(log: &str) -> BTreeMap<String, u64> {
    let mut counts = BTreeMap::new();
    for line in log.lines().filter(|line| line.contains(" attempts")) {
        let Some((before, _)) = line.split_once(" after ") else { continue };
        *counts.entry(before.rsplit(' ').next().unwrap_or_default().to_owned()).or_default() += 1;
    }
    counts
}
