//! A name with several addresses: all of them are used, and one that does not answer costs few clients a wait.

use crate::addresses::with_hosts;
use std::net::IpAddr;
use testkit::{Admin, BlackHole, QUICK_PROBES, Running, Server, eventually, fresh_loopback, peers, tally};

/// How long a client waits for an address that does not answer.
const CONNECT: [&str; 2] = ["--connect-timeout", "500ms"];

/// Two servers of one name, on one port, and a black hole that is the name's third address.
struct Name {
    hosts: String,
    servers: [Server; 2],
    hole: IpAddr,
    _hole: BlackHole,
}

impl Name {
    fn new() -> Name {
        let one = Server::start(peers::named("one"));
        let port = one.at().port();
        let other = Server::start_at_address((fresh_loopback(), port).into(), peers::named("other"));
        let hole = fresh_loopback();
        let _hole = BlackHole::start_on((hole, port).into());
        let ips = [hole.to_string(), ip(&one), ip(&other)];
        let hosts = ips.iter().map(|ip| format!("{ip} three.test\n")).collect();
        Name { hosts, servers: [one, other], hole, _hole }
    }

    fn backend(&self) -> String {
        format!("three.test:{},name=web1", self.servers[0].at().port())
    }
}

fn ip(server: &Server) -> String {
    server.at().to_string().rsplit_once(':').unwrap().0.to_owned()
}

/// The state of each address, by the API.
fn states(tcplb: &Running) -> Vec<(String, String)> {
    let backends = Admin::of(tcplb).get("/v1/pools/default/backends").json(200);
    let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
    let addresses = backends[0]["addresses"].as_array().unwrap();
    addresses.iter().map(|address| (text(&address["address"]), text(&address["state"]))).collect()
}

/// How many of the last so many connections took longer to connect than to an address that does not answer.
fn slow(tcplb: &Running, connections: usize) -> usize {
    let lines = tcplb.wait_for_lines(" client_fin", connections);
    let connect = |line: &String| line.split(' ').nth(6).unwrap().parse::<f64>().unwrap();
    lines.iter().filter(|line| connect(line) >= 500.0).count()
}

#[test]
fn without_probes_an_address_that_fails_clients_is_left_out_for_a_while() {
    let name = Name::new();
    let Some((_folder, tcplb)) = with_hosts(&name.hosts) else { return };
    let tcplb = tcplb
        .unprobed()
        .args(["--backend", &name.backend(), "--admin", "127.0.0.1:0", "--access-log", "-"])
        .args(CONNECT)
        .start();
    let hole = format!("{}:{}", name.hole, name.servers[0].at().port());
    let state = |tcplb: &Running| states(tcplb).into_iter().find(|(address, _)| *address == hole).unwrap().1;
    assert_eq!((states(&tcplb).len(), state(&tcplb).as_str()), (3, "up"));
    let names = tally((0..60).map(|_| tcplb.name_of_next()));
    assert_eq!(names.keys().collect::<Vec<_>>(), ["one", "other"]);
    assert!(names.values().all(|&count| count >= 20), "in turn: {names:?}");
    // The first one waits; later one client for each time that the back-off is over. It was a third of all.
    let waited = slow(&tcplb, 60);
    println!("{waited} of 60 clients waited for the address that does not answer");
    assert!((1..=6).contains(&waited), "{waited} of 60 waited, and the log says so");
    assert_eq!(tcplb.count_lines("connect_failed"), 0);
    eventually("a client has just found out again", || {
        tcplb.name_of_next();
        state(&tcplb) == "backoff"
    });
    let up = |at: &str| Admin::of(&tcplb).metric("tcplb_backend_address_up", &[&format!("address=\"{at}\"")]);
    eventually("the metric says so", || {
        tcplb.name_of_next();
        up(&hole) == 0
    });
    assert_eq!(up(&name.servers[0].at().to_string()), 1);
}

#[test]
fn probes_look_at_every_address_and_clients_wait_for_none_that_fails() {
    let mut name = Name::new();
    let Some((_folder, tcplb)) = with_hosts(&name.hosts) else { return };
    let tcplb = tcplb
        .args(["--backend", &name.backend(), "--admin", "127.0.0.1:0", "--access-log", "-"])
        .args(QUICK_PROBES)
        .args(CONNECT)
        .start();
    let hole = format!("{}:{}", name.hole, name.servers[0].at().port());
    let line = tcplb.wait_for_line(&format!("web1: address {hole} is down"));
    assert!(line.contains("timed out after 300ms"), "{line}");
    let names = tally((0..30).map(|_| tcplb.name_of_next()));
    assert!(names["one"] >= 10 && names["other"] >= 10, "in turn: {names:?}");
    assert_eq!(slow(&tcplb, 30), 0);
    assert!(states(&tcplb).contains(&(hole.clone(), "down".to_owned())));

    // The command line shows it, below the backend.
    let admin = Admin::of(&tcplb).0.to_string();
    let shown = testkit::tcplb(&["status"]).env("TCPLB_ADMIN", &admin).output().unwrap();
    let shown = String::from_utf8(shown.stdout).unwrap();
    let row = shown.lines().find(|line| line.trim_start().starts_with(&hole)).unwrap_or_else(|| panic!("{shown}"));
    assert!(row.contains("down") && row.contains("timed out after 300ms"), "{shown}");

    // So does a probe by hand, which one address that passes is enough for.
    let probed = testkit::tcplb(&["probe", "default", "web1"]).env("TCPLB_ADMIN", admin).output().unwrap();
    let lines = String::from_utf8(probed.stdout).unwrap();
    assert_eq!(probed.status.code(), Some(0), "{lines}");
    assert!(lines.contains(&format!("{hole}\n  failed after ")), "{lines}");
    let results = |word: &str| lines.lines().filter(|line| line.starts_with(&format!("  {word} after "))).count();
    assert_eq!((results("failed"), results("passed")), (1, 2), "{lines}");

    // A second address goes, the backend stays; the third goes, and it goes too.
    name.servers[0].stop();
    tcplb.wait_for_line(&format!("web1: address {} is down", name.servers[0].at()));
    assert!((0..10).all(|_| tcplb.name_of_next() == "other"));
    assert_eq!(tcplb.count_lines("web1 is down"), 0);
    name.servers[1].stop();
    tcplb.wait_for_line("web1 is down");
    name.servers[0].start_again();
    tcplb.wait_for_line("web1 is up");
    tcplb.wait_for_line(&format!("web1: address {} is up", name.servers[0].at()));
    assert_eq!(tcplb.name_of_next(), "one");
}
