//! Name servers that do not answer, or say that there is no such name.

use crate::lab::{Network, with_resolv_conf};
use parking_lot::Mutex;
use rustix::process::{Pid, Signal, kill_process};
use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::path::PathBuf;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};
use tempfile::TempDir;
use testkit::{Admin, Conn, Process, Running, Server, Tcplb, eventually, fresh_loopback, need, peers};

/// A name server at 127.0.0.1. Names that begin with `silent` get no answer, those with `gone` do not exist, all others have
/// one address.
struct NameServer {
    address: Mutex<Ipv4Addr>,
    asked: Mutex<BTreeSet<String>>,
    /// Silent no more.
    answers: Mutex<BTreeSet<String>>,
}

impl NameServer {
    fn start(address: Ipv4Addr) -> Arc<NameServer> {
        let address = Mutex::new(address);
        let server = Arc::new(NameServer { address, asked: Mutex::default(), answers: Mutex::default() });
        let answering = server.clone();
        serve(move |query| answering.answer(query));
        server
    }

    fn answer(&self, query: &[u8]) -> Option<Vec<u8>> {
        let Question { name, is_ipv4, .. } = Question::read(query)?;
        self.asked.lock().insert(name.clone());
        if name.starts_with("silent") && !self.answers.lock().contains(&name) {
            return None;
        }
        let addresses = if is_ipv4 { vec![*self.address.lock()] } else { Vec::new() };
        answer(query, (!name.starts_with("gone")).then_some(&addresses))
    }

    #[track_caller]
    fn is_asked_for(&self, name: &str) {
        eventually("the name server is asked", || self.asked.lock().contains(name));
    }
}

/// Answers queries at 127.0.0.1, in a thread. `None`: there is no answer.
pub fn serve(answer: impl Fn(&[u8]) -> Option<Vec<u8>> + Send + 'static) {
    let socket = UdpSocket::bind("127.0.0.1:53").expect("a network of its own has this port free");
    thread::spawn(move || {
        let mut query = [0; 512];
        while let Ok((count, from)) = socket.recv_from(&mut query) {
            if let Some(answer) = answer(&query[..count]) {
                let _ = socket.send_to(&answer, from);
            }
        }
    });
}

/// What a resolver asks: RFC 1035, as far as it asks for addresses.
pub struct Question {
    pub name: String,
    pub is_ipv4: bool,
    end: usize,
}

impl Question {
    pub fn read(query: &[u8]) -> Option<Question> {
        let (mut at, mut labels) = (12, Vec::new());
        while let Some(&length @ 1..) = query.get(at) {
            let label = query.get(at + 1..at + 1 + usize::from(length))?;
            labels.push(String::from_utf8(label.to_vec()).ok()?);
            at += 1 + usize::from(length);
        }
        let is_ipv4 = query.get(at + 1..at + 3)? == [0, 1];
        Some(Question { name: labels.join("."), is_ipv4, end: at + 5 })
    }
}

/// The answer to a query: these addresses, which hold for a second. `None`: there is no such name.
pub fn answer(query: &[u8], addresses: Option<&[Ipv4Addr]>) -> Option<Vec<u8>> {
    let mut answer = query.get(..2)?.to_vec();
    let code = if addresses.is_some() { 0x80 } else { 0x83 };
    let addresses = addresses.unwrap_or_default();
    answer.extend([0x81, code, 0, 1, 0, addresses.len() as u8, 0, 0, 0, 0]);
    answer.extend(query.get(12..Question::read(query)?.end)?);
    for address in addresses {
        answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 1, 0, 4]);
        answer.extend(address.octets());
    }
    Some(answer)
}

/// A tcplb whose only name server is that one.
struct Setup {
    directory: TempDir,
    port: u16,
    names: Arc<NameServer>,
    _server: Server,
}

impl Setup {
    fn new() -> Setup {
        let server = Server::start(peers::echo);
        let at = server.at().to_string();
        let (ip, port) = at.split_once(':').expect("an address");
        let names = NameServer::start(ip.parse().expect("IPv4"));
        let directory = tempfile::tempdir().expect("a directory");
        // Longer than tcplb waits for a name.
        let text = "nameserver 127.0.0.1\noptions timeout:12 attempts:1\n";
        std::fs::write(directory.path().join("resolv.conf"), text).expect("a file");
        Setup { directory, port: port.parse().expect("a port"), names, _server: server }
    }

    fn file(&self, global: &str, names: &[&str]) -> PathBuf {
        let mut text = format!(
            "[global]\nadmin = '127.0.0.1:0'\n{global}\n[[listener]]\nbind = ['127.0.0.1:0']\n[[pool]]\n[pool.health]\nkind = 'off'\n"
        );
        for name in names {
            let (short, port) = (name.split('.').next().unwrap_or_default(), self.port);
            text.push_str(&format!("[[pool.backend]]\nname = '{short}'\naddress = '{name}:{port}'\n"));
        }
        let file = self.directory.path().join("tcplb.toml");
        std::fs::write(&file, text).expect("a file");
        file
    }

    fn tcplb(&self, global: &str, names: &[&str]) -> Tcplb {
        with_resolv_conf(Tcplb::from_file(&self.file(global, names)), &self.directory.path().join("resolv.conf"))
    }
}

/// The process that has taken over, which is no child of the test. Killed when dropped.
struct Successor(Pid);

impl Successor {
    fn of(tcplb: &Running) -> Successor {
        let line = tcplb.wait_for_line("upgrade: process ");
        let number = line.split("upgrade: process ").nth(1).and_then(|rest| rest.split(' ').next()?.parse().ok());
        Successor(number.and_then(Pid::from_raw).expect("a process number"))
    }
}

impl Drop for Successor {
    fn drop(&mut self) {
        let _ = kill_process(self.0, Signal::KILL);
    }
}

/// State and reason of a backend, as the API shows them.
fn shown(admin: Admin, backend: &str) -> (String, String) {
    let all = admin.get("/v1/pools/default/backends").json(200);
    let one = all.as_array().expect("an array").iter().find(|one| one["name"] == backend).expect("the backend");
    let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
    (text(&one["state"]), text(&one["health"]["last_result"]))
}

fn change_weight(admin: Admin, backend: &str, weight: u16) -> String {
    let (conn, body) = (admin.connect(), format!("{{\"weight\":{weight}}}"));
    let head = format!("PATCH /v1/pools/default/backends/{backend} HTTP/1.1\r\nHost: localhost");
    conn.say(format!("{head}\r\nContent-Length: {}\r\n\r\n{body}", body.len()));
    String::from_utf8(conn.hear_all()).expect("text").lines().next().unwrap_or_default().to_owned()
}

#[track_caller]
fn assert_served(tcplb: &Running) {
    (0..10).for_each(|_| tcplb.connect().assert_echoes("served"));
}

#[test]
fn names_later_starts_beside_a_silent_name_server_and_required_does_not() {
    let Some(network) = Network::new() else { return };
    if need("unshare").is_none() {
        return;
    }
    network.inside(|| {
        let setup = Setup::new();
        let backends = ["good1.test", "silent.test", "gone.test", "good2.test"];
        let tcplb = setup.tcplb("", &backends).start();
        let admin = Admin::of(&tcplb);
        assert_served(&tcplb);
        assert_eq!(shown(admin, "silent"), ("down".to_owned(), "silent.test is not resolved yet".to_owned()));
        tcplb.wait_for_line("backend silent is down: silent.test is not resolved yet");
        let (state, why) = shown(admin, "gone");
        assert!(state == "down" && why.starts_with("can't resolve gone.test: "), "{state} {why}");
        assert_eq!([shown(admin, "good1").0, shown(admin, "good2").0], ["up", "up"]);
        tcplb.wait_for_line("backend silent is down: can't resolve silent.test: no answer within 10s");
        assert_eq!(shown(admin, "silent").1, "can't resolve silent.test: no answer within 10s");
        tcplb.wait_for_line("backend gone is down: can't resolve gone.test: ");
        assert_eq!(tcplb.count_lines("can't resolve good"), 0);
        // What an operator says of it holds once it can be resolved.
        assert!(change_weight(admin, "silent", 7).contains(" 200 "));
        setup.names.answers.lock().insert("silent.test".to_owned());
        tcplb.wait_for_line("backend silent is resolved: ");
        // A name that fails says nothing of the others.
        assert_eq!(tcplb.count_lines("gone.test is not resolved yet"), 0);
        eventually("it is up", || shown(admin, "silent").0 == "up");
        assert_served(&tcplb);

        setup.names.answers.lock().clear();
        let (status, said) = setup.tcplb("names = 'required'", &backends).start_in_vain();
        assert_eq!(status.code(), Some(1), "{said}");
        assert!(said.contains("can't resolve silent.test") && said.contains("can't resolve gone.test"), "{said}");
        assert!(!said.contains("can't resolve good"), "{said}");

        let tcplb = setup.tcplb("names = 'required'", &["good1.test"]).start();
        setup.file("names = 'required'", &["good1.test", "gone.test"]);
        tcplb.signal(Signal::HUP);
        tcplb.wait_for_line("reload refused: pool default: backend gone: can't resolve gone.test: ");
        assert_served(&tcplb);
    });
}

#[test]
fn a_reload_that_waits_for_a_name_holds_up_neither_changes_nor_the_end() {
    let Some(network) = Network::new() else { return };
    if need("unshare").is_none() {
        return;
    }
    network.inside(|| {
        let setup = Setup::new();
        let mut tcplb = setup.tcplb("", &["good1.test"]).start();
        let admin = Admin::of(&tcplb);
        // One reload goes through, with the new name as the only culprit.
        setup.file("", &["good1.test", "gone.test", "good2.test"]);
        tcplb.signal(Signal::HUP);
        tcplb.wait_for_line("reload: pool default: backend good2 added");
        assert_eq!([shown(admin, "gone").0, shown(admin, "good2").0], ["down", "up"]);
        // The next one waits for the name server.
        setup.file("", &["good1.test", "good2.test", "silent.test"]);
        tcplb.signal(Signal::HUP);
        setup.names.is_asked_for("silent.test");
        for weight in 2..5 {
            assert!(change_weight(admin, "good1", weight).contains(" 200 "));
        }
        let adding = admin.connect();
        let body = format!("{{\"name\":\"new\",\"address\":\"silent2.test:{}\"}}", setup.port);
        let head = "POST /v1/pools/default/backends HTTP/1.1\r\nHost: localhost";
        adding.say(format!("{head}\r\nContent-Length: {}\r\n\r\n{body}", body.len()));
        setup.names.is_asked_for("silent2.test");
        assert!(change_weight(admin, "good1", 9).contains(" 200 "));
        assert_served(&tcplb);
        assert_eq!(tcplb.count_lines("backend silent"), 0, "the reload still waits");
        tcplb.signal(Signal::TERM);
        assert_eq!(tcplb.wait_exit().code(), Some(0), "{}", tcplb.output());
        assert_eq!(tcplb.count_lines("backend silent"), 0, "it is not carried out");
        assert!(tcplb.count_lines("draining") >= 1);
        let _: &Conn = &adding;
    });
}

#[test]
fn a_reload_that_waits_for_a_name_moves_no_other_backend_back_to_an_older_address() {
    let Some(network) = Network::new() else { return };
    if need("unshare").is_none() {
        return;
    }
    network.inside(|| {
        let setup = Setup::new();
        let tcplb = setup.tcplb("", &["db.test"]).start();
        let admin = Admin::of(&tcplb);
        let moves = || -> Vec<(String, String)> {
            let events = admin.get("/v1/events").json(200);
            let events = events["events"].as_array().expect("an array").iter();
            let moves = events.filter(|event| event["kind"] == "config" && event["backend"] == "db");
            let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
            moves.map(|event| (text(&event["from"]), text(&event["to"]))).collect()
        };
        let old = *setup.names.address.lock();
        let [old, new] = [old.into(), fresh_loopback()].map(|ip| SocketAddr::new(ip, setup.port));
        let name = || admin.get("/v1/status").json(200)["pools"][0]["names"][0]["last_success_seconds"].clone();
        eventually("the name is one of DNS", || name().is_u64());
        setup.names.asked.lock().clear();
        setup.file("", &["db.test", "silent.test"]);
        tcplb.signal(Signal::HUP);
        setup.names.is_asked_for("db.test");
        setup.names.is_asked_for("silent.test");
        let IpAddr::V4(address) = new.ip() else { unreachable!("IPv4") };
        *setup.names.address.lock() = address;
        // Meanwhile the next look-up of the name moves the backend.
        tcplb.wait_for_line("reload: pool default: backend silent added");
        eventually("it is at the new address alone", || moves().last().is_some_and(|(_, to)| *to == new.to_string()));
        let all = moves();
        assert!(all.iter().all(|(_, to)| *to != old.to_string()), "{all:?}");
    });
}

#[test]
fn many_silent_names_delay_neither_the_first_client_nor_other_names_for_long() {
    let Some(network) = Network::new() else { return };
    if need("unshare").is_none() {
        return;
    }
    network.inside(|| {
        let setup = Setup::new();
        let silent: Vec<String> = (0..24).map(|number| format!("silent{number}.test")).collect();
        let (address, mut names) = (setup.names.address.lock().to_string(), vec!["ahead.test"]);
        names.extend(silent.iter().map(String::as_str));
        // So that threads become free within the patience of this test.
        let text = "nameserver 127.0.0.1\nsearch .\noptions timeout:3 attempts:1\n";
        std::fs::write(setup.directory.path().join("resolv.conf"), text).expect("a file");
        // In alphabetical order, the last name is looked up last.
        names.extend([address.as_str(), "zlast.test"]);
        let begun = Instant::now();
        let tcplb = setup.tcplb("", &names).start();
        assert_served(&tcplb);
        let elapsed = begun.elapsed();
        assert!(elapsed < Duration::from_secs(7), "the first client waits for {elapsed:?}");
        let admin = Admin::of(&tcplb);
        assert_eq!(shown(admin, "ahead").0, "up");
        assert_eq!(shown(admin, "silent0").0, "down");
        // The silent names hold all threads for a while. Then the last name has its turn.
        tcplb.wait_for_line("backend zlast is resolved: ");
        eventually("it is up", || shown(admin, "zlast").0 == "up");
        assert_served(&tcplb);
        assert_eq!(tcplb.count_lines("can't resolve zlast"), 0);
    });
}

#[test]
fn a_reload_waits_for_no_name_that_a_source_found() {
    let Some(network) = Network::new() else { return };
    if need("unshare").is_none() {
        return;
    }
    network.inside(|| {
        let setup = Setup::new();
        let list = setup.directory.path().join("backends.toml");
        // More than there are threads.
        let found: Vec<String> = (0..24)
            .map(|number| format!("{{name = 'silent{number}', address = 'silent{number}.test:{}'}}", setup.port))
            .collect();
        std::fs::write(&list, format!("backend = [{}]\n", found.join(", "))).expect("a file");
        let write = |names: &[&str]| {
            let file = setup.file("", names);
            let text = std::fs::read_to_string(&file).expect("the file");
            let source = format!("[[pool.discover]]\nkind = 'file'\npath = '{}'\n", list.display());
            std::fs::write(&file, text + &source).expect("a file");
        };
        let tcplb = setup.tcplb("", &["good1.test"]);
        write(&["good1.test"]);
        let tcplb = tcplb.start();
        let admin = Admin::of(&tcplb);
        setup.names.is_asked_for("silent0.test");
        write(&["good1.test", "good2.test"]);
        tcplb.signal(Signal::HUP);
        tcplb.wait_for_line("reload: pool default: backend good2 added");
        assert_eq!(shown(admin, "good2").0, "up");
        assert_eq!(tcplb.count_lines("can't resolve silent"), 0, "no lookup of these names is over");
        // They go on beside it.
        setup.names.answers.lock().extend((0..24).map(|number| format!("silent{number}.test")));
        eventually("all are up", || (0..24).all(|number| shown(admin, &format!("silent{number}")).0 == "up"));
        assert_served(&tcplb);
    });
}

#[test]
fn an_upgrade_beside_a_silent_name_server_takes_no_backend_down() {
    let Some(network) = Network::new() else { return };
    if need("unshare").is_none() {
        return;
    }
    network.inside(|| {
        let setup = Setup::new();
        setup.names.answers.lock().insert("silent.test".to_owned());
        let tcplb = setup.tcplb("", &["silent.test"]).start();
        assert_served(&tcplb);
        setup.names.answers.lock().clear();
        tcplb.signal(Signal::USR2);
        let _successor = Successor::of(&tcplb);
        tcplb.wait_for_line("has taken over: the process before ends");
        assert_served(&tcplb);
        assert_eq!(shown(Admin::of(&tcplb), "silent").0, "up");
    });
}

#[test]
fn a_stop_ends_a_start_that_waits_for_names() {
    let Some(network) = Network::new() else { return };
    if need("unshare").is_none() {
        return;
    }
    network.inside(|| {
        let setup = Setup::new();
        for signal in [Signal::TERM, Signal::INT] {
            setup.names.asked.lock().clear();
            let tcplb = setup.tcplb("names = 'required'", &["good1.test", "silent.test"]);
            let mut process = Process::spawn(&mut tcplb.command());
            setup.names.is_asked_for("silent.test");
            process.signal(signal);
            assert_eq!(process.wait_exit().code(), Some(0), "{}", process.output());
            process.wait_for_line("stopped before it served: names were still looked up");
            assert_eq!(process.count_lines("listening on"), 0);
        }
    });
}
