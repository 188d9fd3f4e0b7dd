//! Slow-loris on every port at once: clients that never finish what they have begun. A quick client is served all
//! the time.

use crate::lab::Configured;
use std::io::Write;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};
use testkit::{Conn, Ending, Server, eventually, let_pass, peers};

const SLOW: usize = 100;

/// A PROXY header and a request, for clients that take a second for four bytes.
const HEADER: &[u8] = b"PROXY TCP4 192.0.2.100 192.0.2.200 12345 54321\r\n";
const REQUEST: &[u8] =
    b"GET / HTTP/1.1\r\nHost: localhost\r\nX-Many-Words: and no end of them, and no end of them\r\n\r\n";

/// An HTTP server that never gets to the end of its status line.
fn trickles(conn: Conn) -> std::io::Result<()> {
    for byte in b"HTTP/1.1 200 but slowly".iter().cycle() {
        (&conn).write_all(&[*byte])?;
        let_pass(Duration::from_millis(100));
    }
    Ok(())
}

#[test]
fn on_every_port_at_once_the_slow_are_bounded_and_the_quick_are_served() {
    let server = Server::start(peers::named("web1"));
    let slow_server = Server::start(trickles);
    let tcplb = Configured::start(
        &format!(
            "[[listener]]\nname = 'plain'\nbind = ['127.0.0.1:0']\npool = 'p'\n\
             [[listener]]\nname = 'guarded'\nbind = ['127.0.0.1:0']\npool = 'p'\naccept_proxy = true\n\
             [[listener]]\nname = 'other'\nbind = ['127.0.0.1:0']\npool = 'slow'\n\
             [[pool]]\nname = 'p'\n[[pool.backend]]\nname = 'web1'\naddress = '{}'\n\
             [[pool]]\nname = 'slow'\n[pool.health]\nkind = 'http'\ninterval = '1s'\ntimeout = '1s'\n\
             [[pool.backend]]\nname = 'snail'\naddress = '{}'\n",
            server.at(),
            slow_server.at()
        ),
        &[],
    );
    let (plain, guarded) = (&tcplb.at[0], &tcplb.at[1]);
    let idle: Vec<Conn> = (0..SLOW).map(|_| Conn::to(plain)).collect();
    let headers: Vec<Conn> = (0..SLOW).map(|_| Conn::to(guarded)).collect();
    let calls: Vec<Conn> = (0..SLOW).map(|_| tcplb.admin.connect()).collect();
    let begun = Instant::now();
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        // A byte just before any time-out might pass.
        scope.spawn(|| {
            for (byte, of_request) in HEADER.iter().cycle().zip(REQUEST) {
                if over.load(Ordering::Relaxed) {
                    return;
                }
                // Writes to connections that were reset fail, which is checked below.
                headers.iter().for_each(|mut conn| drop(conn.write(&[*byte])));
                calls.iter().for_each(|mut conn| drop(conn.write(&[*of_request])));
                let_pass(Duration::from_millis(250));
            }
        });
        // The quick, all the while.
        let quick = scope.spawn(|| {
            let mut rounds = 0;
            while !over.load(Ordering::Relaxed) {
                let client = Conn::to(plain);
                assert_eq!(client.hear_line(), "web1");
                let client = Conn::to(guarded);
                client.say("PROXY TCP4 192.0.2.1 192.0.2.2 1234 5678\r\nhello");
                assert_eq!(client.hear_line(), "web1");
                assert_eq!(client.hear(5), b"hello");
                assert_eq!(tcplb.admin.get("/healthz").status, 200);
                rounds += 1;
                let_pass(Duration::from_millis(20));
            }
            rounds
        });
        for client in &headers {
            assert_eq!(client.try_ending().unwrap_or(Ending::Reset), Ending::Reset);
        }
        let headers_took = begun.elapsed();
        tcplb.process.wait_for_line("snail is down: timed out after 1s");
        for call in &calls {
            // 408 and an end, or a reset if a byte more came after it.
            drop(call.try_ending());
        }
        let calls_took = begun.elapsed();
        over.store(true, Ordering::Relaxed);
        let rounds = quick.join().unwrap();
        println!("headers ended after {headers_took:?}, calls after {calls_took:?}; {rounds} rounds of the quick");
        assert!(headers_took >= Duration::from_secs(4) && calls_took >= Duration::from_secs(9), "cut off too soon");
        assert!(rounds > 20, "{rounds}");
    });
    let bad = [r#"listener="guarded""#, r#"reason="bad_proxy_header""#];
    assert_eq!(tcplb.admin.metric("tcplb_connections_refused_total", &bad), SLOW as u64);
    // Silence on the plain port is no offence: idle_timeout is the operator's.
    for client in &idle {
        assert_eq!(client.hear_line(), "web1");
        client.assert_echoes("at last");
    }
    drop(idle);
    let active = || tcplb.admin.metric("tcplb_connections_active", &[]);
    eventually("all are gone", || active() == 0);
}
