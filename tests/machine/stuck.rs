//! A thread of tcplb that does not respond while the others go on: strace holds it in a system call.

use rustix::process::Signal;
use std::fs;
use std::io::ErrorKind;
use std::os::unix::net::UnixDatagram;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};
use testkit::{Admin, Ending, PATIENCE, Process, Server, Tcplb, eventually, need, need_root, peers};

/// What the service manager of these tests asks for.
const WATCHDOG: Duration = Duration::from_secs(2);

/// A thread that is held. It goes on when this is dropped.
struct Held {
    strace: Process,
}

/// Holds the thread of this name at its next wait.
fn hold(process: &Process, name: &str) -> Held {
    let is_named = |path: &std::path::Path| fs::read_to_string(path.join("comm")).is_ok_and(|comm| comm.trim() == name);
    let find = || {
        let tasks = fs::read_dir(format!("/proc/{}/task", process.pid())).expect("its threads");
        tasks.flatten().map(|task| task.path()).find(|path| is_named(path))
    };
    // A thread names itself once it runs, which may be after the admin server answers.
    let mut found = None;
    eventually("a thread of that name", || {
        found = find();
        found.is_some()
    });
    let task = found.expect("it was found");
    let id = task.file_name().and_then(|id| id.to_str()).expect("a number").to_owned();
    // Control waits in futex(2). The others must not be held there: a futex wake may happen inside a lock of a channel.
    let calls = if name == "control" { "futex" } else { "epoll_wait" };
    let inject = format!("inject={calls}:delay_exit=1000s");
    let status = |key: &str| -> String {
        let status = fs::read_to_string(task.join("status")).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
        line.unwrap_or_default().trim().to_owned()
    };
    let switches = || status("voluntary_ctxt_switches").parse::<u64>().unwrap_or_default();
    let before = switches();
    let mut strace = Command::new("strace");
    let strace = Process::spawn(strace.args(["-e", &format!("trace={calls}"), "-e", &inject, "-p", &id]));
    strace.wait_for_line("attached");
    // strace holds the thread only in a call whose entry it has seen. The thread stops for strace, at the end of the call that
    // this interrupts and at the entry of the next one; then it sleeps.
    let sleeps = || switches() >= before + 3 && status("State").starts_with('S');
    eventually("the thread waits again", sleeps);
    Held { strace: strace.farewell(Signal::TERM) }
}

impl Held {
    fn let_go(self) {
        drop(self.strace);
    }
}

/// The service manager's side: reads until a beat comes. `None` if none comes within this time.
fn beat(manager: &UnixDatagram, within: Duration) -> Option<()> {
    manager.set_read_timeout(Some(within)).expect("a socket");
    let mut buffer = [0; 1024];
    loop {
        match manager.recv(&mut buffer) {
            Ok(count) if buffer[..count].starts_with(b"WATCHDOG=1") => return Some(()),
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => return None,
            Err(error) => panic!("{error}"),
        }
    }
}

fn start(watched: bool) -> (Process, Admin, UnixDatagram, tempfile::TempDir) {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("notify");
    let manager = UnixDatagram::bind(&path).expect("a socket");
    let flags = ["-l", "127.0.0.1:0", "-b", "127.0.0.1:1", "--health", "off", "-w", "2", "--admin", "127.0.0.1:0"];
    let mut command = testkit::tcplb(&flags);
    if watched {
        command.env("NOTIFY_SOCKET", &path).env("WATCHDOG_USEC", WATCHDOG.as_micros().to_string());
    }
    let process = Process::spawn(&mut command);
    let admin = Admin::of(&process);
    (process, admin, manager, directory)
}

#[test]
fn a_thread_that_stands_still_stops_the_watchdog_and_readiness_until_it_goes_on() {
    if need("strace").is_none() || !need_root() {
        return;
    }
    let try_one = |name: &str| {
        let (process, admin, manager, _directory) = start(true);
        beat(&manager, PATIENCE).expect("beats while all is well");
        eventually("it is ready", || admin.get("/readyz").status == 200);
        let held = hold(&process, name);
        process.wait_for_line(&format!("{name} has not responded for 2s"));
        // What had been sent before is read, and then no more comes.
        while beat(&manager, WATCHDOG / 2).is_some() {}
        assert!(beat(&manager, 2 * WATCHDOG).is_none(), "a beat while {name} stands still");
        if name != "admin" {
            let ready = admin.get("/readyz");
            assert!(ready.status == 503 && ready.body.contains(&format!("does not respond: {name}")), "{ready:?}");
            assert_eq!(admin.get("/healthz").status, 200);
        }
        held.let_go();
        process.wait_for_line(&format!("{name} responds again"));
        beat(&manager, PATIENCE).expect("beats again");
        eventually("it is ready again", || admin.get("/readyz").status == 200);
    };
    thread::scope(|scope| {
        for name in ["worker-0", "worker-1", "prober", "control", "admin"] {
            scope.spawn(move || try_one(name));
        }
    });
}

#[test]
fn without_a_watchdog_of_the_service_manager_readiness_ends_after_ten_seconds() {
    if need("strace").is_none() || !need_root() {
        return;
    }
    let (process, admin, _manager, _directory) = start(false);
    let _held = hold(&process, "worker-0");
    assert_eq!(admin.get("/readyz").status, 200, "it may be at work");
    process.wait_for_line("worker-0 has not responded for 10s");
    eventually("it is not ready", || admin.get("/readyz").status == 503);
}

/// Changes the backend's state: the status line.
fn change(admin: Admin, state: &str) -> String {
    let (conn, body) = (admin.connect(), format!("{{\"state\":\"{state}\"}}"));
    let head = "PATCH /v1/pools/default/backends/web1 HTTP/1.1\r\nHost: localhost";
    conn.say(format!("{head}\r\nContent-Length: {}\r\n\r\n{body}", body.len()));
    String::from_utf8(conn.hear_all()).expect("text").lines().next().unwrap_or_default().to_owned()
}

#[test]
fn control_goes_on_beside_a_worker_that_stands_still_which_has_all_changes_once_it_goes_on() {
    if need("strace").is_none() || !need_root() {
        return;
    }
    let server = Server::start(peers::echo);
    let flags = ["-w", "2", "--admin", "127.0.0.1:0"];
    let tcplb = Tcplb::new().backend_with(server.at(), "name=web1").unprobed().args(flags).start();
    let admin = Admin::of(&tcplb);
    tcplb.connect().assert_echoes("before");
    for (name, states) in [("worker-0", &["draining", "disabled"][..]), ("prober", &["disabled"])] {
        let held = hold(&tcplb, name);
        for state in states {
            let begun = Instant::now();
            let status = change(admin, state);
            assert!(status.contains(" 200 "), "{name}: {state}: {status}");
            let took = begun.elapsed();
            assert!(took < Duration::from_secs(8), "{name}: {state}: the answer took {took:?}");
        }
        let (thread, _) = name.split_once('-').unwrap_or((name, ""));
        tcplb.wait_for_line(&format!("{thread} has not taken up a change within 1s: it does once it responds"));
        tcplb.wait_for_line(&format!("{name} has not responded for 10s"));
        assert_eq!(tcplb.count_lines("control has not responded"), 0);
        held.let_go();
        tcplb.wait_for_line(&format!("{name} responds again"));
        // On both workers.
        for _ in 0..20 {
            assert_eq!(tcplb.ending_of_next(), Ending::Reset);
        }
        assert!(change(admin, "enabled").contains(" 200 "));
        (0..20).for_each(|_| tcplb.connect().assert_echoes("again"));
    }
}

#[test]
fn no_thread_that_stands_still_holds_up_the_end() {
    if need("strace").is_none() || !need_root() {
        return;
    }
    let try_one = |name: &str, code: i32, line: &str| {
        let server = Server::start(peers::echo);
        let flags = ["-w", "2", "--admin", "127.0.0.1:0"];
        let mut tcplb = Tcplb::new().backend(server.at()).unprobed().args(flags).start();
        let _ = Admin::of(&tcplb);
        tcplb.connect().assert_echoes("before");
        let held = hold(&tcplb, name);
        tcplb.signal(Signal::TERM);
        tcplb.wait_for_line("draining");
        tcplb.signal(Signal::TERM);
        tcplb.wait_for_line(line);
        // A process does not end before its tracer lets go.
        held.let_go();
        assert_eq!(tcplb.wait_exit().code(), Some(code), "{name}: {}", tcplb.output());
    };
    thread::scope(|scope| {
        scope.spawn(|| try_one("worker-1", 1, "did not stop within 5s: worker-1"));
        scope.spawn(|| try_one("prober", 0, "stopped: "));
        scope.spawn(|| try_one("admin", 0, "stopped: "));
    });
}

#[test]
fn a_list_names_the_worker_that_stands_still_and_an_order_to_close_is_not_carried_out_later() {
    if need("strace").is_none() || !need_root() {
        return;
    }
    let server = Server::start(peers::echo);
    let tcplb = Tcplb::new().backend(server.at()).unprobed().args(["-w", "2", "--admin", "127.0.0.1:0"]).start();
    let admin = Admin::of(&tcplb);
    let clients: Vec<_> = (0..40).map(|_| tcplb.connect()).collect();
    clients.iter().for_each(|client| client.assert_echoes("before"));
    // Which worker serves each: part of its number.
    let workers = |list: &serde_json::Value| -> Vec<u64> {
        let rows = list.as_array().expect("an array").iter();
        rows.map(|row| row["id"].as_u64().expect("a number") % 1024).collect()
    };
    let all = workers(&admin.get("/v1/connections").json(200));
    let of_first = all.iter().filter(|worker| **worker == 0).count();
    assert!(all.len() == 40 && (1..40).contains(&of_first), "{all:?}");
    let held = hold(&tcplb, "worker-1");
    let begun = Instant::now();
    let list = admin.get("/v1/connections").json(503);
    assert!(list["error"].as_str().is_some_and(|error| error.contains("worker-1") && !error.contains("worker-0")));
    assert_eq!(workers(&list["connections"]), vec![0; of_first]);
    let closed = admin.call("DELETE", "/v1/connections?pool=default", "").json(503);
    assert!(closed["error"].as_str().is_some_and(|error| error.contains("worker-1")), "{closed}");
    assert_eq!(closed["closed"].as_u64(), Some(of_first as u64));
    let took = begun.elapsed();
    assert!(took < Duration::from_secs(16), "the answers took {took:?}");
    held.let_go();
    let left = workers(&admin.get("/v1/connections").json(200));
    assert_eq!(left, vec![1; 40 - of_first]);
}
