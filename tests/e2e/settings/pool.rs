//! `[[pool]]` and the flags that concern choosing and time-outs.

use super::{A_WHILE, assert_next_is_reset, assert_served, both, call, echo, named};
use crossbeam_channel::bounded;
use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicU16;
use testkit::{BlackHole, ConfigFile, Ending, Server, Started, peers, refusing, tally};

#[test]
fn a_pool_s_name_is_what_status_shows() {
    let server = echo();
    for name in ["web", "db"] {
        let file = ConfigFile::over([server.at()]).global("admin = \"127.0.0.1:0\"");
        let tcplb = file.pool(&format!("name = \"{name}\"")).start();
        assert!(call(&tcplb, &format!("GET /v1/pools/{name}/backends")).starts_with("HTTP/1.1 200 "));
        assert!(call(&tcplb, "GET /v1/pools/other/backends").starts_with("HTTP/1.1 404 "));
    }
}

#[test]
fn algorithm_decides_which_backend_is_next() {
    let servers = [named("a"), named("b")];
    let at = [servers[0].at(), servers[1].at()];
    for (algorithm, different) in [("round-robin", 2), ("source-hash", 1)] {
        for tcplb in both(&at, ConfigFile::pool, &format!("algorithm = \"{algorithm}\""), &["--algorithm", algorithm]) {
            assert_eq!(tally((0..6).map(|_| tcplb.name_of_next())).len(), different, "{algorithm}");
        }
    }
}

#[test]
fn send_proxy_is_the_version_of_the_header() {
    let server = echo();
    for (version, begins) in [("v1", &b"PROXY TCP4 "[..]), ("v2", b"\r\n\r\n\0\r\nQUIT\n")] {
        for tcplb in
            both(&[server.at()], ConfigFile::pool, &format!("send_proxy = \"{version}\""), &["--send-proxy", version])
        {
            assert_eq!(tcplb.connect().hear(begins.len()), begins, "{version}");
        }
    }
    for tcplb in both(&[server.at()], ConfigFile::pool, "send_proxy = \"off\"", &[]) {
        assert_served(&tcplb.connect());
    }
}

#[test]
fn connect_timeout_ends_an_attempt() {
    let hole = BlackHole::start();
    for time in ["200ms", "60s"] {
        for tcplb in
            both(&[hole.at()], ConfigFile::pool, &format!("connect_timeout = \"{time}\""), &["--connect-timeout", time])
        {
            let client = tcplb.connect();
            if time == "60s" {
                assert!(!client.has_something_within(A_WHILE));
            } else {
                assert_eq!(client.ending(), Ending::Reset);
            }
        }
    }
}

#[test]
fn connect_attempts_is_how_many_backends_are_tried() {
    let server = named("last");
    for attempts in [1, 3] {
        let file = ConfigFile::over([&refusing(), &refusing(), server.at()]);
        let tcplb = file.pool(&format!("connect_attempts = {attempts}")).start();
        if attempts == 3 {
            assert_eq!(tcplb.name_of_next(), "last");
        } else {
            assert_next_is_reset(&tcplb);
        }
    }
}

/// The connection ends by itself with a short time, and lasts with a long one.
#[track_caller]
fn assert_silence_ends(tcplb: &Started, soon: bool) {
    let client = tcplb.connect();
    assert_served(&client);
    if soon {
        client.try_ending().expect("an end of either kind");
    } else {
        assert!(!client.has_something_within(A_WHILE));
        assert_served(&client);
    }
}

#[test]
fn idle_timeout_ends_a_silent_connection() {
    let server = echo();
    for (time, soon) in [("200ms", true), ("1h", false)] {
        for tcplb in
            both(&[server.at()], ConfigFile::pool, &format!("idle_timeout = \"{time}\""), &["--idle-timeout", time])
        {
            assert_silence_ends(&tcplb, soon);
        }
    }
}

#[test]
fn max_lifetime_ends_a_connection() {
    let server = echo();
    for (time, soon) in [("300ms", true), ("0s", false)] {
        assert_silence_ends(&ConfigFile::over([server.at()]).pool(&format!("max_lifetime = \"{time}\"")).start(), soon);
    }
}

#[test]
fn half_close_timeout_ends_what_one_side_has_finished() {
    // Reads to the client's FIN and keeps its own side open until the test is over.
    let (over, last) = bounded::<()>(0);
    let server = Server::start(move |conn| {
        conn.try_ending()?;
        last.recv().map_err(io::Error::other)
    });
    for (time, soon) in [("200ms", true), ("5m", false)] {
        let tcplb = ConfigFile::over([server.at()]).pool(&format!("half_close_timeout = \"{time}\"")).start();
        let client = tcplb.connect();
        client.finish();
        if soon {
            client.try_ending().expect("an end of either kind");
        } else {
            assert!(!client.has_something_within(A_WHILE));
        }
    }
    drop(over);
}

#[test]
fn on_down_keeps_connections_or_resets_them() {
    for value in ["keep", "reset"] {
        let mut server = echo();
        let file = ConfigFile::over([server.at()]).pool(&format!("on_down = \"{value}\""));
        let tcplb = file.health("interval = \"200ms\"\ntimeout = \"200ms\"\nfall = 1").start();
        let client = tcplb.connect();
        assert_served(&client);
        server.stop_listening();
        tcplb.wait_for_line("is down");
        if value == "keep" {
            assert_served(&client);
        } else {
            assert_eq!(client.ending(), Ending::Reset);
        }
    }
}

#[test]
fn on_remove_keeps_connections_or_resets_them() {
    let server = echo();
    for value in ["keep", "reset", "drain 200ms", "drain 1h"] {
        let file = ConfigFile::over([server.at()]).pool(&format!("on_remove = \"{value}\""));
        let tcplb = file.global("admin = \"127.0.0.1:0\"").start();
        let client = tcplb.connect();
        assert_served(&client);
        let answer = call(&tcplb, "DELETE /v1/pools/default/backends/b1");
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        if value == "keep" || value == "drain 1h" {
            assert_served(&client);
        } else {
            assert_eq!(client.ending(), Ending::Reset);
        }
    }
}

#[test]
fn slow_start_gives_a_backend_that_came_up_a_growing_share() {
    for (time, slow) in [("10h", true), ("0s", false)] {
        let (old, mut new) = (named("old"), named("new"));
        new.stop();
        let file = ConfigFile::over([old.at(), new.at()]).pool(&format!("slow_start = \"{time}\""));
        let tcplb = file.health("interval = \"200ms\"\ntimeout = \"200ms\"\nrise = 1").start();
        tcplb.wait_for_line("b2 is down");
        new.start_again();
        tcplb.wait_for_line("b2 is up");
        let share = tally((0..40).map(|_| tcplb.name_of_next())).get("new").copied().unwrap_or(0);
        assert!(if slow { share < 10 } else { share == 20 }, "{time}: {share} of 40");
    }
}

#[test]
fn no_backend_resets_clients_or_lets_them_wait() {
    for value in ["reset", "wait 60s"] {
        let tcplb = ConfigFile::empty().pool(&format!("no_backend = \"{value}\"")).start();
        if value == "reset" {
            assert_next_is_reset(&tcplb);
        } else {
            assert!(!tcplb.connect().has_something_within(A_WHILE));
        }
    }
}

#[test]
fn abandoned_serves_a_client_that_has_sent_its_fin_or_drops_it() {
    let server = echo();
    for value in ["serve", "drop"] {
        let file = ConfigFile::empty().pool(&format!("no_backend = \"wait 60s\"\nabandoned = \"{value}\""));
        let tcplb = file.backend(server.at(), "max_connections = 1").global("workers = 1").start();
        let first = tcplb.connect();
        assert_served(&first);
        let left = tcplb.connect();
        left.say("an answer, please");
        left.finish();
        let third = tcplb.connect();
        third.say("next");
        if value == "drop" {
            assert_eq!(left.ending(), Ending::Reset);
            drop(first);
            assert_eq!(third.hear(4), b"next");
        } else {
            assert!(!left.has_something_within(A_WHILE));
            drop(first);
            assert_eq!(left.hear_all(), b"an answer, please");
            assert_eq!(third.hear(4), b"next");
        }
    }
}

#[test]
fn max_queue_is_how_many_clients_wait_at_a_worker() {
    for most in [1, 2] {
        let file = ConfigFile::empty().pool(&format!("no_backend = \"wait 60s\"\nmax_queue = {most}"));
        let tcplb = file.global("workers = 1").start();
        let waiting: Vec<_> = (0..most).map(|_| tcplb.connect()).collect();
        assert_next_is_reset(&tcplb);
        assert!(waiting.iter().all(|client| !client.has_something_within(A_WHILE)));
    }
}

#[test]
fn all_down_resets_clients_or_tries_all() {
    let server = Server::start(peers::http("web", Arc::new(AtomicU16::new(503))));
    for value in ["reset", "try-all"] {
        let file = ConfigFile::over([server.at()]).pool(&format!("all_down = \"{value}\""));
        let tcplb = file.health("kind = \"http\"\ninterval = \"200ms\"\ntimeout = \"200ms\"").start();
        tcplb.wait_for_line("b1 is down");
        if value == "reset" {
            assert_next_is_reset(&tcplb);
        } else {
            let client = tcplb.connect();
            client.say("GET / HTTP/1.0\r\n\r\n");
            assert!(client.hear_line().contains(" 503 "));
        }
    }
}

#[test]
fn outlier_failures_leaves_out_a_backend_that_resets() {
    // Reset only once the client has spoken: a reset during the connect would be a failed attempt, and tried elsewhere.
    let bad = Server::start(|conn| conn.line().map(|_| conn.reset()));
    let good = Server::start(|conn| conn.line().map(|_| conn.finish()));
    for (limit, exact) in [(0, true), (1, false)] {
        let tcplb = ConfigFile::over([good.at(), bad.at()]).pool(&format!("outlier_failures = {limit}")).start();
        let is_reset = |_: &i32| {
            let client = tcplb.connect();
            client.say("hello\n");
            client.ending() == Ending::Reset
        };
        let resets = (0..40).filter(is_reset).count();
        assert!(if exact { resets == 20 } else { resets < 15 }, "{limit}: {resets} of 40 were reset");
    }
}
