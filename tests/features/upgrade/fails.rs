//! An upgrade that fails at any step leaves every connection where it is, and the old process serves on.

use super::Upgradable;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::thread;
use testkit::{Conn, ManualServer, Server, Tcplb, eventually, eventually_some, need, peers};

/// A connection goes on, and a new client is served.
fn assert_serves(tcplb: &Upgradable, client: &Conn) {
    client.assert_echoes("still here");
    tcplb.connect().patient().assert_echoes("a new one");
}

#[test]
fn a_file_that_cannot_be_started_is_reported_and_nothing_changes() {
    let echo = Server::start(peers::echo);
    let tcplb = Upgradable::start(Tcplb::new().backend(echo.at()));
    let client = tcplb.connect().patient();
    client.assert_echoes("before");
    let path = tcplb.path().display().to_string();
    fs::remove_file(tcplb.path()).unwrap();
    let why = tcplb.upgrade_in_vain();
    assert_eq!(why, format!("can't start {path}: No such file or directory (os error 2)"));
    fs::write(tcplb.path(), "no program").unwrap();
    let why = tcplb.upgrade_in_vain();
    assert_eq!(why, format!("can't start {path}: Permission denied (os error 13)"));
    fs::set_permissions(tcplb.path(), fs::Permissions::from_mode(0o755)).unwrap();
    fs::write(tcplb.path(), b"\x7fELF and nothing more").unwrap();
    let why = tcplb.upgrade_in_vain();
    assert!(why.starts_with(&format!("can't start {path}: ")), "{why}");
    assert_serves(&tcplb, &client);
    assert_eq!(tcplb.admin.metric("tcplb_upgrade_total", &["result=\"failure\""]), 3);
    let events = tcplb.get("/v1/events");
    let failed = events["events"].as_array().unwrap().iter().filter(|event| event["kind"] == "upgrade");
    assert_eq!(failed.count(), 3, "{events}");
}

#[test]
fn a_process_that_crashes_or_refuses_its_configuration_is_reported() {
    let echo = Server::start(peers::echo);
    let tcplb = Upgradable::start(Tcplb::new().backend(echo.at()));
    let client = tcplb.connect().patient();
    client.assert_echoes("before");
    tcplb.replace_by("#!/bin/sh\nexit 3\n");
    let why = tcplb.upgrade_in_vain();
    assert!(why.contains("ended before it could read its configuration: exit status: 3"), "{why}");
    tcplb.replace_by("#!/bin/sh\nkill -9 $$\n");
    let why = tcplb.upgrade_in_vain();
    assert!(why.contains("signal: 9"), "{why}");
    assert_serves(&tcplb, &client);
}

#[test]
fn a_second_upgrade_is_refused_while_one_runs_and_a_change_is_not_lost() {
    let echo = Server::start(peers::echo);
    let tcplb = Upgradable::start(Tcplb::new().backend_with(echo.at(), "name=web1"));
    let client = tcplb.connect().patient();
    client.assert_echoes("before");
    let marker = tcplb.directory.path().join("runs");
    let shown = marker.display();
    // It hangs until the test has seen enough.
    tcplb.replace_by(format!("#!/bin/sh\necho $$ > {shown}.new\nmv {shown}.new {shown}\nread line < {shown}.fifo\n"));
    assert!(std::process::Command::new("mkfifo").arg(format!("{shown}.fifo")).status().unwrap().success());
    thread::scope(|scope| {
        let first = scope.spawn(|| tcplb.upgrade_in_vain());
        eventually("the new process runs", || marker.exists());
        let second = tcplb.try_upgrade();
        assert_eq!(second.status, 409, "{second:?}");
        let changed = tcplb.admin.call("PATCH", "/v1/pools/default/backends/web1", r#"{"weight":7}"#);
        assert_eq!(changed.status, 200, "the configuration stands still only while it is handed over: {changed:?}");
        assert_serves(&tcplb, &client);
        fs::write(format!("{shown}.fifo"), "go\n").unwrap();
        let why = first.join().unwrap();
        assert!(why.contains("before it could read its configuration: exit status: 0"), "{why}");
    });
    assert_eq!(tcplb.get("/v1/pools/default/backends")[0]["weight"], 7);
}

/// Speaks the protocol up to a step, and then ends.
pub const FAKE: &str = r#"#!/usr/bin/env python3
import json, os, signal, socket, struct, sys
step = "STEP"
post = socket.socket(fileno=0)
post.setblocking(True)
def send(message):
    body = json.dumps({"descriptors": 0, "message": message}).encode()
    post.sendall(b"\0" + struct.pack("<I", len(body)) + body)
def receive():
    whole = b""
    while True:
        packet, fds, flags, _ = socket.recv_fds(post, 1 << 20, 200)
        if not packet:
            sys.exit(7)
        whole += packet[1:]
        if packet[0] == 0:
            length, = struct.unpack("<I", whole[:4])
            return json.loads(whole[4:4 + length])["message"]
if step == "garbage":
    post.sendall(b"\0garbage")
    receive()
if step == "major":
    send({"Hello": {"magic": "tcplb", "major": 99, "version": "9.9.9", "descriptors": 100000}})
    print("refused:", receive(), flush=True)
    sys.exit(7)
send({"Hello": {"magic": "tcplb", "major": 1, "version": "9.9.9", "descriptors": 10 if step == "few" else 100000}})
welcome = receive()
if step in ("hello", "few"):
    sys.exit(7)
count = 0
while count < welcome["Welcome"]["sockets"]:
    count += len(receive()["Sockets"])
if step == "sockets":
    sys.exit(7)
send("Running")
prepare = receive()
if step == "prepare":
    sys.exit(7)
everything = [[place, "no"] for place in range(len(prepare["Prepare"]))]
send({"Ready": {"refused": everything + everything + [[10000, "no"]]}})
receive()
if step == "commit":
    sys.exit(7)
send("Resumed")
message = receive()
while "Prepare" in message or message == "Commit":
    if "Prepare" in message:
        send({"Ready": {"refused": [[place, "no"] for place in range(len(message["Prepare"]))]}})
    else:
        send("Resumed")
    message = receive()
assert "Farewell" in message
if step == "alive":
    post.close()
    signal.pause()
sys.exit(7)
"#;

#[test]
fn a_process_that_ends_at_any_step_of_the_protocol_costs_no_connection() {
    if need("python3").is_none() {
        return;
    }
    let echo = Server::start(peers::echo);
    let tcplb = Upgradable::start(Tcplb::new().backend(echo.at()).args(["-w", "2"]));
    let clients: Vec<Conn> = (0..50).map(|_| tcplb.connect().patient()).collect();
    clients.iter().for_each(|client| client.assert_echoes("before"));
    let mut failures = 0;
    for (step, expected) in [
        ("garbage", "can't be read"),
        ("major", "speaks version 99 of the hand-over"),
        ("few", "its limit on open files is 10"),
        ("hello", "before it could bind its addresses: exit status: 7"),
        ("sockets", "before it could bind its addresses: exit status: 7"),
        ("prepare", "before it could take connections: exit status: 7"),
        ("commit", "exit status: 7"),
        ("farewell", "before it could take over: exit status: 7"),
        ("alive", "gave up before it could take over"),
    ] {
        tcplb.replace_by(FAKE.replace("STEP", step));
        let why = tcplb.upgrade_in_vain();
        assert!(why.contains(expected), "{step}: {why}");
        clients.iter().for_each(|client| client.assert_echoes(step));
        tcplb.connect().patient().assert_echoes("a new one");
        failures += 1;
        assert_eq!(tcplb.results(), (0, failures), "{step}");
    }
    let open = || tcplb.get("/v1/connections").as_array().unwrap().len();
    eventually("the short connections have ended, and no other", || open() == 50);
}

#[test]
fn a_file_that_is_wrong_or_cannot_be_applied_is_reported_and_nothing_changes() {
    let echo = Server::start(peers::echo);
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("tcplb.toml");
    let write = |rest: &str| {
        let text = format!(
            "[global]\nadmin = '127.0.0.1:0'\n[[listener]]\nbind = ['127.0.0.1:0']\n[[pool]]\nhealth.kind = 'off'\n\
             [[pool.backend]]\nname = 'b'\naddress = '{}'\n{rest}",
            echo.at()
        );
        fs::write(&file, text).unwrap();
    };
    write("");
    let tcplb = Upgradable::start_from(&Tcplb::from_file(&file));
    let client = tcplb.connect();
    client.assert_echoes("before");
    write("wait = 'what'\n");
    let why = tcplb.upgrade_in_vain();
    assert!(why.contains("ended before it could read its configuration: exit status: 2"), "{why}");
    assert_serves(&tcplb, &client);
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    write(&format!("[[listener]]\nname = 'more'\nbind = ['{}']\n", taken.local_addr().unwrap()));
    let why = tcplb.upgrade_in_vain();
    assert!(why.contains("ended before it could bind its addresses: exit status: 1"), "{why}");
    assert_serves(&tcplb, &client);
    write("weight = 7\n");
    tcplb.upgrade();
    assert_serves(&tcplb, &client);
    assert_eq!(tcplb.get("/v1/pools/default/backends")[0]["weight"], 7);
    assert_eq!(tcplb.results(), (1, 2));
}

#[test]
fn a_stop_goes_before_a_successor_that_hangs() {
    if need("python3").is_none() {
        return;
    }
    let echo = Server::start(peers::echo);
    let mut tcplb = Upgradable::start(Tcplb::new().backend(echo.at()));
    let marker = tcplb.directory.path().join("hangs");
    let hangs =
        format!("if step == \"hangs\":\n    open({marker:?}, \"w\").write(str(os.getpid()))\n    signal.pause()\n");
    let fake = FAKE.replace("STEP", "hangs").replace("count = 0\n", &format!("{hangs}count = 0\n"));
    tcplb.replace_by(&fake);
    tcplb.process.signal(rustix::process::Signal::USR2);
    let pid = eventually_some("it hangs", || fs::read_to_string(&marker).ok().filter(|pid| !pid.is_empty()));
    tcplb.process.signal(rustix::process::Signal::TERM);
    assert!(tcplb.process.wait_exit().success());
    let has_ended = || fs::read_to_string(format!("/proc/{pid}/stat")).map_or(true, |stat| stat.contains(") Z "));
    eventually("it is killed", has_ended);
}

#[test]
fn the_end_of_the_old_process_ends_its_launcher() {
    let server = ManualServer::start();
    let mut tcplb = Upgradable::start(Tcplb::new().backend(server.at()).unprobed());
    let children = format!("/proc/{0}/task/{0}/children", tcplb.process.pid());
    let launcher = fs::read_to_string(children).unwrap().trim().to_owned();
    assert!(Path::new(&format!("/proc/{launcher}")).exists());
    tcplb.process.signal(rustix::process::Signal::KILL);
    tcplb.process.wait_exit();
    let is_gone = || {
        let state = fs::read_to_string(format!("/proc/{launcher}/stat"));
        state.is_err() || state.is_ok_and(|state| state.contains(") Z "))
    };
    eventually("its launcher is gone", is_gone);
}
