//! A backend that is stopped as a whole (SIGSTOP, a swapping or frozen machine): its kernel still accepts connections.

use std::io::Read;
use testkit::{Admin, At, Conn, Process, QUICK_PROBES, Running, Tcplb, eventually, tally};

/// A test server of our own that can be stopped.
struct Stoppable {
    process: Process,
    at: At,
}

impl Stoppable {
    fn start(name: &str) -> Stoppable {
        let process = Process::start(&["backend", "--listen", "127.0.0.1:0", "--name", name]);
        let line = process.wait_for_line("listening on ");
        let (_, at) = line.split_once("listening on ").expect("it was waited for");
        let at = At::parse(at.split_whitespace().next().expect("an address"));
        Stoppable { process, at }
    }
}

/// Sends `count` requests at once.
fn ask(client: &Conn, count: usize) {
    client.say("GET / HTTP/1.1\r\nHost: test\r\n\r\n".repeat(count));
}

/// Reads that many answers, which are all of the same server: its name.
fn answers(client: &Conn, count: usize) -> String {
    let (mut text, mut block) = (String::new(), [0; 4096]);
    let mut stream = client;
    while text.matches("HTTP/1.1 200").count() < count || !text.ends_with('\n') {
        let got = stream.read(&mut block).unwrap_or_else(|error| panic!("after `{text}`: {error}"));
        assert!(got > 0, "an end after `{text}`");
        text.push_str(std::str::from_utf8(&block[..got]).expect("text"));
    }
    text.lines().last().unwrap_or_default().to_owned()
}

fn name_of_next(tcplb: &Running) -> String {
    let client = tcplb.connect();
    ask(&client, 1);
    answers(&client, 1)
}

#[test]
fn http_probes_mark_a_stopped_backend_down_and_no_byte_is_lost_when_it_goes_on() {
    let (web1, web2) = (Stoppable::start("web1"), Stoppable::start("web2"));
    let tcplb = Tcplb::new()
        .backend_with(&web1.at, "name=web1")
        .backend_with(&web2.at, "name=web2")
        .args(["--health", "http"])
        .args(QUICK_PROBES)
        .start();
    let clients: Vec<(Conn, String)> = (0..20)
        .map(|_| {
            let client = tcplb.connect();
            ask(&client, 1);
            let name = answers(&client, 1);
            (client, name)
        })
        .collect();
    assert_eq!(tally(clients.iter().map(|(_, name)| name.clone())), [("web1".into(), 10), ("web2".into(), 10)].into());

    web1.process.freeze();
    for (client, name) in &clients {
        ask(client, 50);
        if name == "web2" {
            assert_eq!(answers(client, 50), "web2", "connections to others go on");
        }
    }
    tcplb.wait_for_line("web1 is down: timed out after 300ms");
    for _ in 0..10 {
        assert_eq!(name_of_next(&tcplb), "web2");
    }

    web1.process.thaw();
    tcplb.wait_for_line("web1 is up");
    // What was asked while it stood still is answered, all of it.
    for (client, name) in clients.iter().filter(|(_, name)| name == "web1") {
        assert_eq!(&answers(client, 50), name);
    }
    eventually("it gets its share again", || name_of_next(&tcplb) == "web1");
}

#[test]
fn tcp_probes_pass_at_a_stopped_backend_and_its_connections_wait() {
    let (web1, web2) = (Stoppable::start("web1"), Stoppable::start("web2"));
    let tcplb = Tcplb::new()
        .backend_with(&web1.at, "name=web1")
        .backend_with(&web2.at, "name=web2")
        .args(QUICK_PROBES)
        .args(["--admin", "127.0.0.1:0"])
        .start();
    let admin = Admin::of(&tcplb);
    web1.process.freeze();
    let passed = || admin.metric("tcplb_health_probes_total", &[r#"backend="web1""#, r#"result="success""#]);
    let before = passed();
    let clients: Vec<Conn> = (0..10).map(|_| tcplb.connect()).collect();
    clients.iter().for_each(|client| ask(client, 1));
    eventually("probes succeed all the same, as docs/health.md says", || passed() >= before + 5);
    assert_eq!(tcplb.count_lines("is down"), 0);
    web1.process.thaw();
    let names = tally(clients.iter().map(|client| answers(client, 1)));
    assert_eq!(names, [("web1".into(), 5), ("web2".into(), 5)].into());
}
