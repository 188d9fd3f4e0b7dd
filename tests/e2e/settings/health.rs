//! `[pool.health]` and its flags.

use super::{A_WHILE, both};
use parking_lot::Mutex;
use std::io::{self, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicUsize, Ordering};
use std::time::Duration;
use testkit::{
    Admin, At, ConfigFile, Conn, Ending, Running, Server, Started, Tcplb, eventually, fresh_loopback, let_pass, peers,
    refusing,
};

/// An HTTP server that hands each request's head to `status`, and answers with what it says.
fn http(status: impl Fn(&str) -> u16 + Send + Sync + 'static) -> Server {
    Server::start(answering(status))
}

fn answering(
    status: impl Fn(&str) -> u16 + Send + Sync + 'static,
) -> impl Fn(Conn) -> io::Result<()> + Send + Sync + 'static {
    move |conn| {
        let mut head = String::new();
        loop {
            match conn.line()? {
                line if line.is_empty() => break,
                line => head.push_str(&(line + "\n")),
            }
        }
        (&conn).write_all(format!("HTTP/1.1 {} Whatever\r\nContent-Length: 0\r\n\r\n", status(&head)).as_bytes())?;
        conn.finish();
        conn.try_ending().map(drop)
    }
}

const QUICK: &str = "interval = \"150ms\"\ntimeout = \"150ms\"";
const QUICK_FLAGS: [&str; 4] = ["-t", "150ms", "--health-timeout", "150ms"];

/// With the same probes by the file and by flags, and the admin API.
#[track_caller]
fn probed(server: &Server, lines: &str, flags: &[&str]) -> [Started; 2] {
    let add = |file: ConfigFile, lines: &str| file.health(lines).global("admin = \"127.0.0.1:0\"");
    both(&[server.at()], add, lines, &[&["--admin", "127.0.0.1:0"], flags].concat())
}

/// The first result decides: wait for it.
#[track_caller]
fn assert_first_result(tcplb: &Running, up: bool) {
    if up {
        let admin = Admin::of(tcplb);
        eventually("a probe has passed", || admin.metric("tcplb_health_probes_total", &["result=\"success\""]) > 0);
        assert_eq!(tcplb.count_lines("is down"), 0, "{}", tcplb.output());
    } else {
        tcplb.wait_for_line("is down");
    }
}

#[test]
fn kind_decides_what_a_probe_does() {
    let server = Server::start(peers::http("web", Arc::new(AtomicU16::new(503))));
    for (kind, up) in [("tcp", true), ("http", false)] {
        let lines = format!("kind = \"{kind}\"\n{QUICK}");
        for tcplb in probed(&server, &lines, &[&["--health", kind][..], &QUICK_FLAGS].concat()) {
            assert_first_result(&tcplb, up);
        }
    }
    for tcplb in probed(&server, "kind = \"off\"", &["--health", "off"]) {
        let seen = server.accepted();
        let_pass(A_WHILE);
        assert_eq!((server.accepted(), tcplb.count_lines("is down")), (seen, 0));
    }
}

#[test]
fn steps_are_what_a_script_sends_and_expects() {
    let loads = Arc::new(AtomicBool::new(false));
    let answer = loads.clone();
    let server = Server::start(move |conn: Conn| -> io::Result<()> {
        (&conn).write_all(b"220 mx")?;
        (&conn).write_all(b" ESMTP\r\n")?;
        assert_eq!(conn.line()?, "PING");
        (&conn).write_all(if answer.load(Ordering::Relaxed) { b"-LOADING\r\n" } else { b"+PONG\r\n+" })?;
        conn.try_ending().map(drop)
    });
    let steps = r#"steps = [{ expect_regex = '^220 .*\r\n' }, { send = "PING\r\n" }, { expect = "+PONG" }]"#;
    let file = ConfigFile::over([server.at()]).health(&format!("{steps}\nfall = 1\nrise = 1\n{QUICK}"));
    let tcplb = Tcplb::from_file(&file.global("admin = \"127.0.0.1:0\"").write()).start();
    assert_first_result(&tcplb, true);
    loads.store(true, Ordering::Relaxed);
    tcplb.wait_for_line("is down: step 3: expected \"+PONG\", got \"-LOADING\\r\\n\"");
    loads.store(false, Ordering::Relaxed);
    tcplb.wait_for_line("is up: every step of the script passed");
}

#[test]
fn an_agent_gives_its_backend_a_weight_drains_it_and_marks_it_down() {
    let line = Arc::new(Mutex::new("up"));
    let answer = line.clone();
    let agent = Server::start(move |conn: Conn| -> io::Result<()> {
        let line = *answer.lock();
        (&conn).write_all(format!("{line}\n").as_bytes())?;
        conn.finish();
        conn.try_ending().map(drop)
    });
    let At::Tcp(at) = agent.at() else { panic!() };
    // No client comes, so the backend's own port needs no server.
    let backend = At::Tcp(SocketAddr::new(at.ip(), 1));
    let lines = format!("kind = \"agent\"\nport = {}\nrise = 1\n{QUICK}", at.port());
    let file = ConfigFile::over([&backend]).health(&lines).global("admin = \"127.0.0.1:0\"");
    let tcplb = Tcplb::from_file(&file.write()).start();
    let admin = Admin::of(&tcplb);
    let weighs = |weight: u64| admin.metric("tcplb_backend_weight", &["backend="]) == weight;
    assert_first_result(&tcplb, true);
    let say = |words| *line.lock() = words;
    say("300%");
    eventually("the weight is three times the configured one", || weighs(3));
    say("0%");
    eventually("no client comes", || weighs(0));
    say("up 100%");
    eventually("the weight is the configured one", || weighs(1));
    say("drain");
    tcplb.wait_for_line("is draining: its agent says drain");
    say("ready");
    tcplb.wait_for_line("is draining no longer: its agent says up");
    say("down");
    tcplb.wait_for_line("is down: its agent says down");
    say("up");
    tcplb.wait_for_line("is up: its agent says up");
    say("fine");
    tcplb.wait_for_line("is down: its agent sent \"fine\": expected up, down, drain, ready or N%");
}

#[test]
fn path_is_what_a_probe_asks_for() {
    let server = http(|head| if head.starts_with("GET /good ") { 200 } else { 404 });
    for (path, up) in [("/good", true), ("/bad", false)] {
        let lines = format!("path = \"{path}\"\n{QUICK}");
        for tcplb in probed(&server, &lines, &[&["--health-path", path][..], &QUICK_FLAGS].concat()) {
            assert_first_result(&tcplb, up);
        }
    }
}

/// One server answers for the Patroni of both backends. It knows them by the address that a probe asks.
#[test]
fn preset_leads_clients_to_the_server_with_the_role() {
    let ips = [fresh_loopback(), fresh_loopback()];
    let primary = Arc::new(AtomicUsize::new(0));
    let now = primary.clone();
    let patroni = Server::start_on(
        Ipv4Addr::UNSPECIFIED,
        answering(move |head| {
            let host = format!("host: {}:", ips[now.load(Ordering::Relaxed)]);
            let asked = head.starts_with("GET /primary ");
            if asked && head.to_ascii_lowercase().contains(&host) { 200 } else { 503 }
        }),
    );
    let servers = [Server::start_on(ips[0], peers::named("a")), Server::start_on(ips[1], peers::named("b"))];
    let health = format!("port = {}\n{QUICK}", patroni.at().port());
    let file = ConfigFile::empty().pool("preset = \"patroni-primary\"").health(&health);
    let file = file.backend(servers[0].at(), "name = \"a\"").backend(servers[1].at(), "name = \"b\"");
    let tcplb = file.start();
    let client = tcplb.connect();
    assert_eq!(client.hear_line(), "a");
    tcplb.wait_for_line("b is down");

    primary.store(1, Ordering::Relaxed);
    assert_eq!(client.ending(), Ending::Reset);
    tcplb.wait_for_line("a is down");
    assert_eq!(tcplb.name_of_next(), "b");
}

#[test]
fn an_unknown_preset_is_refused_with_the_nearest() {
    let file = ConfigFile::over([&refusing()]).pool("preset = \"patroni\"");
    let (status, said) = Tcplb::from_file(&file.write()).start_in_vain();
    assert_eq!(status.code(), Some(2));
    assert!(said.contains("galera or mqtt, got `patroni`, did you mean `patroni-primary`?"), "{said}");
}

#[test]
fn host_is_the_header_of_a_probe() {
    let server = http(|head| if head.to_ascii_lowercase().contains("host: good.test\n") { 200 } else { 404 });
    for (host, up) in [("good.test", true), ("bad.test", false)] {
        let file = ConfigFile::over([server.at()]).global("admin = \"127.0.0.1:0\"");
        assert_first_result(&file.health(&format!("host = \"{host}\"\n{QUICK}")).start(), up);
    }
}

#[test]
fn expect_status_decides_which_answers_are_good() {
    let server = http(|_| 503);
    for (list, up) in [("[\"503\"]", true), ("[\"200-299\"]", false)] {
        let file = ConfigFile::over([server.at()]).global("admin = \"127.0.0.1:0\"");
        assert_first_result(&file.health(&format!("expect_status = {list}\n{QUICK}")).start(), up);
    }
}

#[test]
fn interval_is_the_time_between_probes() {
    for (interval, often) in [("150ms", true), ("1h", false)] {
        let lines = format!("kind = \"http\"\ninterval = \"{interval}\"");
        let server = http(|_| 200);
        let both = probed(&server, &lines, &["--health", "http", "-t", interval]);
        // Each of the two has sent its first probe.
        both.iter().for_each(|tcplb| assert_first_result(tcplb, true));
        for _running in both {
            let seen = server.accepted();
            if often {
                eventually("probes go on", || server.accepted() > seen + 3);
            } else {
                let_pass(A_WHILE);
                assert_eq!(server.accepted(), seen, "one probe an hour");
            }
        }
    }
}

#[test]
fn timeout_is_how_long_a_probe_may_take() {
    let server = Server::start(|conn| {
        let_pass(Duration::from_millis(500));
        (&conn).write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")?;
        conn.try_ending().map(drop)
    });
    for (timeout, up) in [("10s", true), ("100ms", false)] {
        let lines = format!("kind = \"http\"\ninterval = \"10s\"\ntimeout = \"{timeout}\"");
        let flags = ["--health", "http", "-t", "10s", "--health-timeout", timeout];
        for tcplb in probed(&server, &lines, &flags) {
            assert_first_result(&tcplb, up);
        }
    }
}

/// Answers the first probe with one status, three with another, and the rest as the first.
fn three_different(first: u16, then: u16) -> (Server, Arc<AtomicUsize>) {
    let count = Arc::new(AtomicUsize::new(0));
    let counted = count.clone();
    let server = http(move |_| if (1..=3).contains(&counted.fetch_add(1, Ordering::SeqCst)) { then } else { first });
    (server, count)
}

/// Does the log have this line with so many in a row, by the file and by the flag? The first probe is answered with one
/// status, three with another.
#[track_caller]
fn assert_in_a_row((key, flag): (&str, &str), count: &str, (first, then): (u16, u16), line: &str, expected: bool) {
    let lines = format!("kind = \"http\"\n{QUICK}\n{key} = {count}");
    for flagged in [false, true] {
        let (server, probes) = three_different(first, then);
        let flags = [&["--health", "http", flag, count][..], &QUICK_FLAGS].concat();
        let tcplb =
            if flagged { by_flags(&server, &flags) } else { ConfigFile::over([server.at()]).health(&lines).start() };
        eventually("all of them have been answered", || probes.load(Ordering::SeqCst) > 5);
        assert_eq!(tcplb.count_lines(line) > 0, expected, "{key} {count}: {}", tcplb.output());
    }
}

#[test]
fn fall_is_how_many_failures_take_a_backend_out() {
    for (fall, falls) in [("2", true), ("4", false)] {
        assert_in_a_row(("fall", "--health-fall"), fall, (200, 503), "is down", falls);
    }
}

#[test]
fn rise_is_how_many_successes_bring_a_backend_back() {
    for (rise, rises) in [("2", true), ("4", false)] {
        assert_in_a_row(("rise", "--health-rise"), rise, (503, 200), "is up", rises);
    }
}

#[track_caller]
fn by_flags(server: &Server, flags: &[&str]) -> Started {
    let running = Tcplb::new().backend(server.at()).args(flags.iter().copied()).start();
    running.into()
}
