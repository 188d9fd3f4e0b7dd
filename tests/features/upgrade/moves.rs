//! What moves to the new process.

use super::{Upgradable, spawn};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use testkit::{
    At, ConfigFile, Conn, Ending, ManualServer, QUICK_PROBES, Server, Tcplb, eventually, eventually_some, peers,
};

/// A client, and the backend's end of its connection.
pub(super) fn pair(tcplb: &Upgradable, server: &ManualServer) -> (Conn, Conn) {
    let client = tcplb.connect();
    let backend = server.accept();
    (client.patient(), backend.patient())
}

fn ids(tcplb: &Upgradable) -> BTreeSet<u64> {
    let connections = tcplb.get("/v1/connections");
    connections.as_array().unwrap().iter().map(|connection| connection["id"].as_u64().unwrap()).collect()
}

/// The byte at this place of a stream.
fn byte(place: usize) -> u8 {
    (place.wrapping_mul(2_654_435_761) >> 13) as u8
}

/// Ends what goes on until it is set, also if the test fails.
struct AtEnd<'a>(&'a AtomicBool);

impl Drop for AtEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// Sends a stream from each of these to its other end while `act` runs. Nothing is lost.
pub fn streams_go_on(streams: [(&Conn, &Conn); 2], act: impl FnOnce()) {
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let at_end = AtEnd(&over);
        let sent = streams.map(|(from, _)| scope.spawn(|| send_stream(from, &over)));
        let came = streams.map(|(_, to)| scope.spawn(|| receive_stream(to)));
        act();
        drop(at_end);
        let sent = sent.map(|thread| thread.join().unwrap());
        assert_eq!(sent, came.map(|thread| thread.join().unwrap()));
    });
}

/// Clients at these places come and go, and `act` runs so many times between them. None fails.
pub fn clients_go_on(places: &[&At], times: usize, mut act: impl FnMut()) {
    let (over, served) = (AtomicBool::new(false), AtomicUsize::new(0));
    thread::scope(|scope| {
        let _at_end = AtEnd(&over);
        let client = |at: &At| {
            while !over.load(Ordering::SeqCst) {
                let conn = Conn::to(at).patient();
                conn.assert_echoes("a request");
                conn.finish();
                assert_eq!(conn.ending(), Ending::Fin);
                served.fetch_add(1, Ordering::SeqCst);
            }
        };
        let clients: Vec<_> = places.iter().map(|at| scope.spawn(move || client(at))).collect();
        for _ in 0..times {
            let before = served.load(Ordering::SeqCst);
            eventually("clients are served", || served.load(Ordering::SeqCst) >= before + 20);
            act();
            assert!(clients.iter().all(|client| !client.is_finished()), "a client failed");
        }
    });
}

/// Ends a connection in order, the client first.
pub fn end_in_order(client: &Conn, backend: &Conn) {
    client.finish();
    assert_eq!(backend.ending(), Ending::Fin);
    backend.finish();
    assert_eq!(client.ending(), Ending::Fin);
}

/// Sends a stream until `over`, then a FIN. How much that was.
fn send_stream(to: &Conn, over: &AtomicBool) -> usize {
    let (mut stream, mut sent) = (to, 0);
    while !over.load(Ordering::SeqCst) {
        let chunk: Vec<u8> = (sent..sent + 40_000).map(byte).collect();
        stream.write_all(&chunk).unwrap();
        sent += chunk.len();
    }
    to.finish();
    sent
}

/// Receives a stream to its FIN. How much that was.
fn receive_stream(from: &Conn) -> usize {
    let (mut stream, mut came, mut chunk) = (from, 0, vec![0; 50_000]);
    loop {
        let count = stream.read(&mut chunk).unwrap();
        if count == 0 {
            return came;
        }
        let wrong = chunk[..count].iter().zip(came..).find(|(got, place)| **got != byte(*place));
        assert_eq!(wrong, None, "the stream is mixed up");
        came += count;
    }
}

#[test]
fn connections_of_every_kind_go_on_through_three_upgrades() {
    let server = ManualServer::start();
    let mut tcplb = Upgradable::start(Tcplb::new().backend_with(server.at(), "name=web1").unprobed().args(["-w", "2"]));
    let quiet: Vec<(Conn, Conn)> = (0..20).map(|_| pair(&tcplb, &server)).collect();
    let (half, half_backend) = pair(&tcplb, &server);
    half.say("the whole request");
    half.finish();
    let (stalled, stalled_backend) = pair(&tcplb, &server);
    let held = stalled.fill();
    let (up, up_backend) = pair(&tcplb, &server);
    let (down, down_backend) = pair(&tcplb, &server);
    let before = ids(&tcplb);
    streams_go_on([(&up, &up_backend), (&down_backend, &down)], || {
        for round in 0..3 {
            let figures = tcplb.upgrade();
            assert_eq!((&figures["connections"], &figures["left"]), (&Value::from(24), &Value::from(0)), "{figures}");
            for (client, backend) in &quiet {
                client.say(format!("request {round}"));
                assert_eq!(backend.hear(9), format!("request {round}").as_bytes());
                backend.say("ok");
                assert_eq!(client.hear(2), b"ok");
            }
            assert_eq!(ids(&tcplb), before);
            let (client, backend) = pair(&tcplb, &server);
            client.say("new");
            assert_eq!(backend.hear(3), b"new");
            end_in_order(&client, &backend);
            eventually("the short connection has ended", || ids(&tcplb) == before);
        }
    });
    assert_eq!(half_backend.hear_all(), b"the whole request");
    half_backend.say("the answer");
    half_backend.finish();
    assert_eq!(half.hear_all(), b"the answer");
    assert_eq!(stalled_backend.hear(held).len(), held);
    let first = eventually_some("the first process has ended", || tcplb.process.exited());
    assert!(first.success());
    assert_eq!(tcplb.admin.metric("tcplb_connections_accepted_total", &[]), 27);
    assert_eq!(tcplb.admin.metric("tcplb_upgrade_total", &["result=\"success\""]), 3);
    assert_eq!(tcplb.admin.metric("tcplb_upgrade_pause_seconds_count", &[]), 72);
    drop((quiet, up, up_backend, down, down_backend));
    eventually("all but the stalled one have ended", || ids(&tcplb).len() == 1);
    assert_eq!(tcplb.admin.metric("tcplb_backend_connections_active", &["backend=\"web1\""]), 1);
}

/// The old process gives a stalled connection a second after the reset, so on a busy machine it may end before it moves.
#[test]
fn a_reset_behind_bytes_stays_a_reset_over_an_upgrade() {
    let server = ManualServer::start();
    let tcplb = Upgradable::start(Tcplb::new().backend_with(server.at(), "name=web1").unprobed());
    let (gone, gone_backend) = pair(&tcplb, &server);
    let left = gone.fill();
    gone.reset();
    let figures = tcplb.upgrade();
    assert_eq!(figures["left"], 0, "{figures}");
    // What had left the client's kernel before its reset arrives, and then the reset.
    let mut rest = &gone_backend;
    let mut bytes = Vec::new();
    let ending = rest.read_to_end(&mut bytes).map_err(|error| error.kind());
    assert_eq!(ending.err(), Some(std::io::ErrorKind::ConnectionReset));
    assert!((1..=left).contains(&bytes.len()), "{} of {left}", bytes.len());
    eventually("the connection has ended", || ids(&tcplb).is_empty());
}

#[test]
fn clients_are_accepted_all_the_while_at_tcp_and_at_unix_sockets() {
    let echo = Server::start(peers::echo);
    let directory = tempfile::tempdir().unwrap();
    let socket = format!("unix:{}", directory.path().join("clients.sock").display());
    let tcplb =
        Upgradable::start(Tcplb::new().listen("127.0.0.1:0").listen(&socket).backend(echo.at()).args(["-w", "2"]));
    let unix = At::parse(&socket);
    clients_go_on(&[&tcplb.at, &tcplb.at, &unix], 4, || drop(tcplb.upgrade()));
    assert!(directory.path().join("clients.sock").exists(), "the old process leaves the socket file");
}

#[test]
fn what_was_changed_and_learnt_moves_too() {
    let (up, mut down) = (Server::start(peers::echo), Server::start(peers::echo));
    let tcplb = Upgradable::start(
        Tcplb::new()
            .backend_with(up.at(), "name=up")
            .backend_with(down.at(), "name=down")
            .args(["--algorithm", "sticky-round-robin"])
            .args(QUICK_PROBES),
    );
    let client = tcplb.connect();
    client.assert_echoes("a request");
    down.stop();
    let state = |name: &str| {
        let backends = tcplb.get("/v1/pools/default/backends");
        let backend = backends.as_array().unwrap().iter().find(|backend| backend["name"] == name).cloned();
        backend.map(|backend| backend["state"].as_str().unwrap().to_owned())
    };
    eventually("it is down", || state("down").as_deref() == Some("down"));
    let call = |method, path: &str, body: &str| tcplb.admin.call(method, path, body).status;
    assert_eq!(call("POST", "/v1/pools/default/backends", r#"{"address":"127.0.0.1:9","name":"added"}"#), 201);
    assert_eq!(call("PATCH", "/v1/pools/default/backends/added", r#"{"state":"disabled"}"#), 200);
    let events = tcplb.get("/v1/events");
    let started = tcplb.get("/v1/status")["started"].clone();
    // A service manager sends this signal.
    tcplb.process.signal(Signal::USR2);
    tcplb.process.wait_for_line("has taken over: the process before ends");
    assert_eq!(state("down").as_deref(), Some("down"));
    assert_eq!(state("added").as_deref(), Some("disabled"));
    let later = tcplb.get("/v1/events");
    let number = |events: &Value| events["events"].as_array().unwrap().len();
    let (before, after) = (number(&events), number(&later));
    assert_eq!(events["events"], Value::from(later["events"].as_array().unwrap()[..before].to_vec()));
    assert!(later["events"].as_array().unwrap()[before..].iter().any(|event| event["kind"] == "upgrade"), "{after}");
    assert_eq!(tcplb.get("/v1/status")["started"], started, "a caller that follows events goes on");
    client.assert_echoes("another one");
    assert_eq!(tcplb.admin.metric("tcplb_connections_accepted_total", &[]), 1);
}

#[test]
fn upgrade_off_keeps_no_second_process() {
    let echo = Server::start(peers::echo);
    let tcplb = Upgradable::start(Tcplb::new().backend(echo.at()).args(["--upgrade", "off"]));
    assert_eq!(tcplb.upgrade_in_vain(), "upgrade is off");
    tcplb.process.signal(Signal::USR2);
    tcplb.process.wait_for_line("SIGUSR2 ignored: upgrade is off");
    let children = format!("/proc/{0}/task/{0}/children", tcplb.process.pid());
    assert_eq!(std::fs::read_to_string(children).unwrap(), "");
    tcplb.connect().assert_echoes("served");
}

#[test]
fn the_socket_file_of_the_admin_api_stays_and_the_last_process_removes_it() {
    let echo = Server::start(peers::echo);
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("admin.sock");
    let admin = format!("unix:{}", socket.display());
    let command = Tcplb::new().backend(echo.at()).args(["--admin", &admin]).command();
    let process = spawn(&command, directory.path());
    process.wait_for_line("admin on ");
    let ask = |arguments: &[&str]| {
        let asked = testkit::tcplb(arguments).args(["--admin", &admin]).output().unwrap();
        assert!(asked.status.success(), "{asked:?}; {}", process.output());
        String::from_utf8(asked.stdout).unwrap()
    };
    let taken = [ask(&["upgrade"]), ask(&["upgrade"])];
    assert!(taken.iter().all(|text| text.contains(" has taken over ")), "{taken:?}");
    assert!(ask(&["status"]).contains("default"));
    let last = taken[1].split_whitespace().nth(1).and_then(|pid| pid.parse().ok()).and_then(Pid::from_raw);
    kill_process(last.unwrap(), Signal::TERM).unwrap();
    eventually("the last process has removed the file", || !socket.exists());
}

#[test]
fn the_drain_time_of_a_removed_backend_goes_on_in_the_new_process() {
    let (one, two) = (ManualServer::start(), Server::start(peers::echo));
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("tcplb.toml");
    let text = format!(
        "[global]\nadmin = '127.0.0.1:0'\n[[listener]]\nbind = ['127.0.0.1:0']\n[[pool]]\non_remove = 'drain 4s'\n\
         health.kind = 'off'\n[[pool.backend]]\nname = 'one'\naddress = '{}'\n[[pool.backend]]\nname = 'two'\n\
         address = '{}'\nbackup = true\n",
        one.at(),
        two.at()
    );
    std::fs::write(&file, text).unwrap();
    let tcplb = Upgradable::start_from(&Tcplb::from_file(&file));
    let (client, backend) = pair(&tcplb, &one);
    assert_eq!(tcplb.admin.call("DELETE", "/v1/pools/default/backends/one", "").status, 200);
    // Twice: the second process has it from a record, too.
    (0..2).for_each(|_| drop(tcplb.upgrade()));
    client.say("still");
    assert_eq!(backend.hear(5), b"still");
    assert_eq!((client.ending(), backend.ending()), (Ending::Reset, Ending::Reset));
    tcplb.connect().assert_echoes("by the other one");
}

#[test]
fn totals_of_routes_go_on_in_the_new_process() {
    let server = Server::start(peers::echo);
    let route = "[[listener.route]]\nname = \"shell\"\nprotocol = \"ssh\"\npool = \"default\"";
    let file = ConfigFile::over([server.at()]).global("admin = \"127.0.0.1:0\"").listener(route);
    let tcplb = Upgradable::start_from(&Tcplb::from_file(&file.write()));
    for round in 0..3 {
        let (shell, other) = (tcplb.connect(), tcplb.connect());
        shell.assert_echoes("SSH-2.0-client\r\n");
        other.assert_echoes("something else\n");
        let took = ["shell", "none"]
            .map(|route| tcplb.admin.metric("tcplb_route_connections_total", &[&format!("route=\"{route}\"")]));
        assert_eq!(took, [round + 1, round + 1]);
        assert_eq!(tcplb.admin.metric("tcplb_sniff_duration_seconds_count", &[]), 2 * (round + 1));
        tcplb.upgrade();
    }
}
