//! A listener with routes, and clients that abuse the wait for first bytes: slow ones, and fifty thousand with garbage.

use crate::lab::Configured;
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};
use testkit::{At, Conn, Ending, Server, eventually, heavy, let_pass, peers};

/// A ClientHello of openssl, which asks for db.example.com.
const HELLO: &[u8] = include_bytes!("../data/sniff/openssl_tls13.bin");

/// Servers that say their names and echo, and a tcplb that leads clients to them.
struct Lab {
    tcplb: Configured,
    _servers: [Server; 2],
}

impl Lab {
    fn start(listener: &str) -> Lab {
        let servers = ["own", "db"].map(|name| Server::start(peers::named(name)));
        let pool = |name: &str, server: &Server| {
            let backend = format!("[[pool.backend]]\naddress = '{}'\n", server.at());
            format!("[[pool]]\nname = '{name}'\n[pool.health]\nkind = 'off'\n{backend}")
        };
        let listener = format!("[[listener]]\nname = 'edge'\nbind = ['127.0.0.1:0']\npool = 'own'\n{listener}\n");
        let routes = "[[listener.route]]\nsni = ['db.example.com']\npool = 'db'\n\
                      [[listener.route]]\nprotocol = 'http'\npool = 'own'\n";
        let text = [listener, routes.to_owned(), pool("own", &servers[0]), pool("db", &servers[1])].concat();
        Lab { tcplb: Configured::start(&text, &[]), _servers: servers }
    }

    fn at(&self) -> &At {
        &self.tcplb.at[0]
    }

    fn metric(&self, name: &str, labels: &[&str]) -> u64 {
        self.tcplb.admin.metric(name, labels)
    }

    fn failed(&self) -> u64 {
        self.metric("tcplb_connections_refused_total", &["reason=\"sniff_failed\""])
    }

    fn is_quiet(&self) -> bool {
        self.metric("tcplb_connections_active", &[]) == 0
    }

    /// Neighbours of the others: one that stays, and one that comes each time. How many were served until it is over.
    fn serve_until(&self, over: &AtomicBool) -> u64 {
        let resident = self.neighbour();
        let mut served = 1;
        while !over.load(Ordering::Relaxed) {
            resident.assert_echoes("still here");
            self.neighbour();
            served += 1;
        }
        served
    }

    fn neighbour(&self) -> Conn {
        let client = Conn::to(self.at());
        client.say(HELLO);
        assert_eq!(client.hear_line(), "db");
        assert!(client.hear(HELLO.len()) == HELLO);
        client
    }
}

#[test]
fn slow_first_bytes_are_cut_off_in_time_and_quick_clients_are_served() {
    const SLOW: usize = 100;
    let lab = Lab::start("sniff_timeout = '3s'");
    // The first half says nothing at all.
    let slow: Vec<Conn> = (0..SLOW).map(|_| Conn::to(lab.at())).collect();
    let begun = Instant::now();
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            for byte in HELLO {
                if over.load(Ordering::Relaxed) {
                    return;
                }
                // Writes to connections that were reset fail, which is checked below.
                slow[SLOW / 2..].iter().for_each(|mut conn| drop(conn.write(&[*byte])));
                let_pass(Duration::from_millis(100));
            }
        });
        let quick = scope.spawn(|| lab.serve_until(&over));
        for client in &slow {
            assert_eq!(client.try_ending().unwrap_or(Ending::Reset), Ending::Reset);
        }
        let took = begun.elapsed();
        over.store(true, Ordering::Relaxed);
        let served = quick.join().unwrap();
        println!("all ended after {took:?}; {served} quick ones were served meanwhile");
        assert!(took >= Duration::from_secs(2), "cut off too soon: {took:?}");
        assert!(served > 20, "{served}");
    });
    assert_eq!(lab.failed(), SLOW as u64);
    eventually("all are gone", || lab.is_quiet());
}

const THREADS: usize = 8;
const GARBAGE: usize = 50_000;

/// A client of garbage, one of many threads with addresses of their own.
struct Vandal {
    random: fastrand::Rng,
    source: IpAddr,
}

impl Vandal {
    fn new(number: usize) -> Vandal {
        let source = IpAddr::V4(Ipv4Addr::new(127, 67, fastrand::u8(..), 10 + number as u8));
        Vandal { random: fastrand::Rng::with_seed(number as u64), source }
    }

    /// A first message: noise, the beginning of a hello, a hello with a changed byte, or records without end.
    fn message(&mut self) -> Vec<u8> {
        let random = &mut self.random;
        let mut message = HELLO.to_vec();
        match random.u8(0..4) {
            0 => {
                message.truncate(random.usize(16..HELLO.len()));
                random.fill(&mut message);
            }
            1 => message.truncate(random.usize(1..HELLO.len())),
            2 => {
                let place = random.usize(..HELLO.len());
                message[place] ^= 1 << random.u8(0..8);
            }
            _ => {
                // A hello of 16 MiB, in one byte a record.
                message = vec![22, 3, 1, 0, 4, 1, 255, 255, 255];
                (0..random.usize(1..200)).for_each(|_| message.extend([22, 3, 1, 0, 1, 0]));
            }
        }
        message
    }

    /// Connects, says a message in one or two pieces, and ends it or waits for the end.
    fn visit(&mut self, at: &At) {
        let conn = Conn::from_source(self.source, at).expect("the kernel takes it in");
        let message = self.message();
        let (first, rest) = message.split_at(self.random.usize(..=message.len()));
        // The other side may have had enough already.
        let said = (&conn).write_all(first).and_then(|()| (&conn).write_all(rest));
        if said.is_err() || self.random.u8(..) < 85 {
            return conn.reset();
        }
        conn.finish();
        let _ = conn.try_ending();
    }
}

#[test]
fn fifty_thousand_garbage_first_messages_leave_no_trace_but_in_the_counters() {
    let _heavy = heavy();
    let lab = Lab::start("");
    // What it keeps for reuse, it has after these.
    (0..THREADS * 50).for_each(|number| Vandal::new(number % THREADS).visit(lab.at()));
    lab.neighbour();
    eventually("all is quiet", || lab.is_quiet());
    let accepted = || lab.metric("tcplb_connections_accepted_total", &[]);
    let process = &lab.tcplb.process;
    let (before, failed) = (accepted(), lab.failed());
    let (descriptors, memory, threads) = (process.open_fds(), process.rss_kib(), process.threads());
    let over = AtomicBool::new(false);
    let good = thread::scope(|scope| {
        let vandals: Vec<_> = (0..THREADS)
            .map(|number| {
                let lab = &lab;
                scope.spawn(move || {
                    let mut vandal = Vandal::new(number);
                    (0..GARBAGE / THREADS).for_each(|_| vandal.visit(lab.at()));
                })
            })
            .collect();
        let good = scope.spawn(|| lab.serve_until(&over));
        vandals.into_iter().for_each(|vandal| vandal.join().unwrap());
        over.store(true, Ordering::Relaxed);
        good.join().unwrap()
    });
    println!("{good} good clients were served beside them, {} messages were refused", lab.failed() - failed);
    assert!(good > 10, "{good} good clients");
    eventually("all are gone", || lab.is_quiet());
    assert_eq!(accepted() - before, GARBAGE as u64 + good);
    assert!(lab.failed() - failed > GARBAGE as u64 / 8, "{}", lab.failed() - failed);
    eventually("its descriptors are back", || process.open_fds() <= descriptors);
    eventually("its threads are back", || process.threads() <= threads);
    let grown = process.rss_kib().saturating_sub(memory);
    println!("{grown} KiB more memory");
    assert!(grown < 8 * 1024, "{grown} KiB more than before");
    assert_eq!(process.count_lines("panicked"), 0);
    lab.neighbour();
}
