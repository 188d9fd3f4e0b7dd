//! A process that others start with `--take-over` takes over: connections go on, and every failure leaves things as they were.

use super::fails::FAKE;
use super::moves::{clients_go_on, end_in_order, streams_go_on};
use super::spawn;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use std::fs;
use std::mem;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use tcplb::handover::pull;
use testkit::{
    Admin, At, ConfigFile, Conn, ManualServer, Process, Server, Tcplb, account, eventually, need, need_root, peers, run,
};

/// What the log of a process says that has taken over.
pub const TAKEN: &str = "has taken over: the process before ends";

/// The process that serves now.
pub struct Pulled {
    pub process: Process,
    admin: Admin,
    at: At,
    pub socket: PathBuf,
    _directory: tempfile::TempDir,
}

/// The command line of each process: the first one finds nothing to take over.
pub fn asked(tcplb: Tcplb, socket: &Path) -> Command {
    tcplb.args(["--admin", "127.0.0.1:0", "--take-over", socket.to_str().unwrap()]).command()
}

impl Pulled {
    #[track_caller]
    pub fn start(tcplb: Tcplb) -> Pulled {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("take-over.sock");
        let process = Process::spawn(&mut asked(tcplb, &socket));
        process.wait_for_line(&format!("nothing to take over at {}: starts anew", socket.display()));
        let line = process.wait_for_line("listening on ");
        let at = At::parse(line.split_once("listening on ").unwrap().1.trim());
        let admin = Admin::of(&process);
        Pulled { process, admin, at, socket, _directory: directory }
    }

    /// Another process takes over, and this one ends. Returns this one.
    #[track_caller]
    fn pull(&mut self, tcplb: Tcplb) -> Process {
        let next = Process::spawn(&mut asked(tcplb, &self.socket));
        next.wait_for_line(TAKEN);
        let mut last = mem::replace(&mut self.process, next);
        assert!(last.wait_exit().success(), "{}", last.output());
        last
    }

    pub fn connect(&self) -> Conn {
        Conn::to(&self.at).patient()
    }

    fn get(&self, path: &str) -> Value {
        serde_json::from_str(&self.admin.get(path).body).unwrap()
    }
}

/// A client, and the backend's end of its connection.
fn pair(tcplb: &Pulled, server: &ManualServer) -> (Conn, Conn) {
    let client = tcplb.connect();
    (client, server.accept().patient())
}

fn assert_passes(from: &Conn, to: &Conn, text: &str) {
    from.say(text);
    assert_eq!(to.hear(text.len()), text.as_bytes());
}

#[test]
fn connections_of_every_kind_go_on_through_two_take_overs_from_outside() {
    let server = ManualServer::start();
    let asked = || Tcplb::new().backend_with(server.at(), "name=web1").unprobed().args(["-w", "2"]);
    let mut tcplb = Pulled::start(asked());
    let quiet: Vec<(Conn, Conn)> = (0..20).map(|_| pair(&tcplb, &server)).collect();
    let (half, half_backend) = pair(&tcplb, &server);
    half.say("the whole request");
    half.finish();
    let (up, up_backend) = pair(&tcplb, &server);
    let (down, down_backend) = pair(&tcplb, &server);
    let changed = tcplb.admin.call("PATCH", "/v1/pools/default/backends/web1", r#"{"weight":7}"#);
    assert_eq!(changed.status, 200, "{changed:?}");
    streams_go_on([(&up, &up_backend), (&down_backend, &down)], || {
        for round in 1..=2 {
            tcplb.pull(asked());
            for (client, backend) in &quiet {
                assert_passes(client, backend, &format!("request {round}"));
                assert_passes(backend, client, "answer");
            }
            let (client, backend) = pair(&tcplb, &server);
            assert_passes(&client, &backend, "new");
            end_in_order(&client, &backend);
            assert_eq!(tcplb.admin.metric("tcplb_connections_accepted_total", &[]), 23 + round);
            assert_eq!(tcplb.admin.metric("tcplb_upgrade_total", &["result=\"success\""]), round);
        }
    });
    assert_eq!(half_backend.hear_all(), b"the whole request");
    half_backend.say("the answer");
    half_backend.finish();
    assert_eq!(half.hear_all(), b"the answer");
    assert_eq!(tcplb.get("/v1/pools/default/backends")[0]["weight"], 7);
    let events = tcplb.get("/v1/events");
    let reasons = events["events"].as_array().unwrap().iter().filter(|event| event["kind"] == "upgrade");
    let reasons: Vec<&str> = reasons.filter_map(|event| event["reason"].as_str()).collect();
    assert!(reasons.len() == 2 && reasons.iter().all(|reason| reason.ends_with(", by --take-over")), "{reasons:?}");
    drop((quiet, up, up_backend, down, down_backend));
    tcplb.process.signal(Signal::TERM);
    assert!(tcplb.process.wait_exit().success());
    assert!(!tcplb.socket.exists(), "the last process removes the socket file");
}

#[test]
fn clients_are_accepted_all_the_while_a_process_takes_over_from_outside() {
    let echo = Server::start(peers::echo);
    let directory = tempfile::tempdir().unwrap();
    let unix = format!("unix:{}", directory.path().join("clients.sock").display());
    let asked = || Tcplb::new().listen("127.0.0.1:0").listen(&unix).backend(echo.at()).args(["-w", "2"]);
    let mut tcplb = Pulled::start(asked());
    let places = [tcplb.at.clone(), tcplb.at.clone(), At::parse(&unix)];
    clients_go_on(&places.each_ref(), 3, || drop(tcplb.pull(asked())));
}

/// Starts one whose launcher starts others, from a new directory.
fn start_in(directory: &Path, asked: &Command) -> Process {
    fs::create_dir(directory).unwrap();
    spawn(asked, directory)
}

#[test]
fn an_upgrade_and_a_take_over_from_outside_follow_each_other() {
    let echo = Server::start(peers::echo);
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("take-over.sock");
    let asked = || asked(Tcplb::new().backend(echo.at()), &socket);
    let mut first = start_in(&directory.path().join("first"), &asked());
    let line = first.wait_for_line("listening on ");
    let client = Conn::to(&At::parse(line.split_once("listening on ").unwrap().1.trim())).patient();
    client.assert_echoes("before");
    let admin = Admin::of(&first);
    // The launched process has the same arguments, and does not pull.
    let upgraded = admin.call("POST", "/v1/upgrade", "");
    assert_eq!(upgraded.status, 200, "{upgraded:?}; {}", first.output());
    client.assert_echoes("after an upgrade");
    eventually("the first process has ended", || first.exited().is_some());
    let mut puller = start_in(&directory.path().join("puller"), &asked());
    puller.wait_for_line(TAKEN);
    client.assert_echoes("after a take-over");
    assert_eq!(admin.metric("tcplb_upgrade_total", &["result=\"success\""]), 2);
    first.wait_for_lines("take-over: process", 2);
    // Its launcher is its own.
    let launched = admin.call("POST", "/v1/upgrade", "");
    assert_eq!(launched.status, 200, "{launched:?}; {}", puller.output());
    client.assert_echoes("after another upgrade");
    let figures: Value = serde_json::from_str(&launched.body).unwrap();
    let last = figures["pid"].as_i64().and_then(|pid| i32::try_from(pid).ok()).and_then(Pid::from_raw);
    eventually("the puller has ended", || puller.exited().is_some());
    drop(client);
    kill_process(last.unwrap(), Signal::TERM).unwrap();
    eventually("the last process has removed the file", || !socket.exists());
}

#[test]
fn with_a_user_and_the_sandbox_it_hands_over_twice() {
    if !need_root() {
        return;
    }
    let echo = Server::start(peers::echo);
    let asked = || Tcplb::new().backend(echo.at()).args(["--user", "nobody"]);
    let mut tcplb = Pulled::start(asked());
    let client = tcplb.connect();
    for round in ["before", "after one", "after two"] {
        client.assert_echoes(round);
        tcplb.connect().assert_echoes("a new one");
        tcplb.pull(asked());
    }
    client.assert_echoes("after three");
}

#[test]
fn a_process_of_another_user_is_refused_and_traffic_goes_on() {
    let Some((user, group)) = account("nobody").filter(|_| need_root()) else { return };
    let echo = Server::start(peers::echo);
    let tcplb = Pulled::start(Tcplb::new().backend(echo.at()));
    let client = tcplb.connect();
    client.assert_echoes("before");
    // The other user can run it and reach the socket.
    let directory = tcplb.socket.parent().unwrap();
    let open_to_all = |path: &Path| fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    let asked = asked(Tcplb::new().backend(echo.at()), &tcplb.socket);
    let program = directory.join("tcplb");
    run(Command::new("cp").arg(asked.get_program()).arg(&program));
    open_to_all(directory);
    open_to_all(&program);
    let mut command = Command::new(&program);
    command.args(asked.get_args()).uid(user).gid(group);
    for (variable, _) in asked.get_envs() {
        command.env_remove(variable);
    }
    let mut refused = |expected: &str| {
        let mut stranger = Process::spawn(&mut command);
        assert_eq!(stranger.wait_exit().code(), Some(1), "{}", stranger.output());
        assert_eq!(stranger.count_lines(expected), 1, "{}", stranger.output());
        assert_eq!(stranger.count_lines("listening on "), 0);
        client.assert_echoes("goes on");
        tcplb.connect().assert_echoes("a new one");
    };
    refused(&format!("can't take over at {}: Permission denied", tcplb.socket.display()));
    fs::set_permissions(&tcplb.socket, fs::Permissions::from_mode(0o666)).unwrap();
    refused(&format!("the running process does not hand over: user {user} may not take over"));
    tcplb.process.wait_for_line(&format!("runs as user {user}: expected root, or the user of this process"));
    assert_eq!(tcplb.admin.metric("tcplb_upgrade_total", &["result=\"failure\""]), 0);
}

#[test]
fn a_process_that_ends_at_any_step_of_a_take_over_costs_no_connection() {
    if need("python3").is_none() {
        return;
    }
    let echo = Server::start(peers::echo);
    let tcplb = Pulled::start(Tcplb::new().backend(echo.at()).args(["-w", "2"]));
    let clients: Vec<Conn> = (0..20).map(|_| tcplb.connect()).collect();
    let failed = "take-over failed, and this process goes on: ";
    let connect = format!(
        "post = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)\npost.connect({:?})",
        tcplb.socket.to_str().unwrap()
    );
    let fake = FAKE.replace("post = socket.socket(fileno=0)", &connect);
    for (number, (step, expected)) in [
        ("garbage", "can't be read"),
        ("major", "speaks version 99 of the hand-over"),
        ("few", "its limit on open files is 10"),
        ("hello", "gave up before it could bind its addresses"),
        ("sockets", "gave up before it could bind its addresses"),
        ("prepare", "gave up before it could take connections"),
        ("commit", "gave up before it could take connections"),
        ("farewell", "gave up before it could take over"),
    ]
    .into_iter()
    .enumerate()
    {
        let mut puller = Process::spawn(Command::new("python3").args(["-c", &fake.replace("STEP", step)]));
        assert_eq!(puller.wait_exit().code(), Some(7), "{step}: {}", puller.output());
        let why = tcplb.process.wait_for_lines(failed, number + 1).pop().unwrap();
        assert!(why.contains(expected), "{step}: {why}");
        clients.iter().for_each(|client| client.assert_echoes(step));
        tcplb.connect().assert_echoes("a new one");
    }
    assert_eq!(tcplb.admin.metric("tcplb_upgrade_total", &["result=\"failure\""]), 8);
    let events = tcplb.get("/v1/events");
    let failures = events["events"].as_array().unwrap().iter().filter(|event| event["kind"] == "upgrade");
    assert!(failures.clone().all(|event| event["reason"].as_str().unwrap().starts_with("take-over failed: ")));
    assert_eq!(failures.count(), 8, "{events}");
    let open = || tcplb.get("/v1/connections").as_array().unwrap().len();
    eventually("the short connections have ended, and no other", || open() == 20);
}

#[test]
fn the_same_command_starts_anew_after_a_kill() {
    let echo = Server::start(peers::echo);
    let mut tcplb = Pulled::start(Tcplb::new().backend(echo.at()));
    tcplb.process.signal(Signal::KILL);
    tcplb.process.wait_exit();
    assert!(tcplb.socket.exists());
    let next = Process::spawn(&mut asked(Tcplb::new().backend(echo.at()), &tcplb.socket));
    next.wait_for_line("starts anew (Connection refused");
    let line = next.wait_for_line("listening on ");
    Conn::to(&At::parse(line.split_once("listening on ").unwrap().1.trim())).patient().assert_echoes("served");
}

#[test]
fn a_path_without_a_socket_that_can_be_used_is_one_error() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
    let (file, stream) = (path("file"), path("stream"));
    fs::write(&file, "").unwrap();
    let _stream = std::os::unix::net::UnixListener::bind(&stream).unwrap();
    let admin = format!("unix:{}", path("admin"));
    for (at, code, expected) in [
        (file.as_str(), 1, "expected a unix socket, but the file is none"),
        (&stream, 1, "expected the socket of take_over, but a socket of another kind is there"),
        ("@tcplb", 2, "got `@tcplb`: an abstract socket has no permissions"),
        (&admin, 2, "write the path without `unix:`"),
        (&path("admin"), 2, "is given already, as an address to listen on"),
        (&path(&"x".repeat(107)), 2, "it has more than 107 bytes"),
    ] {
        let flags = ["--backend", "127.0.0.1:1", "--admin", &admin, "--take-over", at];
        let (status, output) = Tcplb::new().args(flags).start_in_vain();
        assert_eq!(status.code(), Some(code), "{at}: {output}");
        assert!(output.contains("take") && output.contains(expected), "{at}: {output}");
        assert!(!output.contains("listening on "), "{output}");
    }
}

#[test]
fn take_over_is_where_a_process_with_the_flag_takes_over() {
    let echo = Server::start(peers::echo);
    for listens in [true, false] {
        let file = ConfigFile::over([echo.at()]);
        let socket = file.path("take-over.sock").to_str().unwrap().to_owned();
        let file = if listens { file.global(&format!("take_over = \"{socket}\"")) } else { file };
        let path = file.write();
        let mut first = Tcplb::from_file(&path).start();
        let client = first.connect().patient();
        client.assert_echoes("before");
        let second = Tcplb::from_file(&path).args(["--take-over", &socket]).start();
        if listens {
            second.wait_for_line(TAKEN);
            assert!(first.wait_exit().success(), "{}", first.output());
            assert_eq!(first.at(), second.at());
        } else {
            second.wait_for_line("nothing to take over at ");
            assert!(first.exited().is_none());
        }
        client.assert_echoes("after");
    }
}

/// How many processes have connected to this socket, and how many of them are accepted.
fn connected(socket: &Path) -> (usize, usize) {
    let table = fs::read_to_string("/proc/net/unix").unwrap();
    let lines = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let of_socket = lines.filter(|line| line.get(7).is_some_and(|path| Path::new(path) == socket));
    // The listening one is among them. The kernel gives a socket its inode once it is accepted.
    let inodes: Vec<bool> = of_socket.map(|line| line[6] != "0").collect();
    (inodes.len() - 1, inodes.iter().filter(|is_accepted| **is_accepted).count() - 1)
}

#[test]
fn a_process_that_waits_for_its_turn_to_take_over_gets_the_newest_file() {
    let (one, two) = (Server::start(peers::named("one")), Server::start(peers::named("two")));
    let file = ConfigFile::over([one.at()]);
    let socket = file.path("take-over.sock");
    let text = file.text();
    let path = file.write();
    let asked = || Tcplb::from_file(&path).args(["--take-over", socket.to_str().unwrap()]);
    let first = asked().start();
    // It is accepted, and says nothing.
    let silent = pull::connect(&socket).unwrap().unwrap();
    eventually("it has its turn", || connected(&socket) == (1, 1));
    let second = Process::spawn(&mut asked().command());
    eventually("the next one has read its file, and waits", || connected(&socket) == (2, 1));
    file.rewrite(&text.replace(&one.at().to_string(), &two.at().to_string()));
    first.signal(Signal::HUP);
    eventually("the first process has the new file", || first.connect().hear_line() == "two");
    drop(silent);
    second.wait_for_line(TAKEN);
    eventually("the second process has the new file", || first.connect().hear_line() == "two");
}

#[test]
fn a_silent_process_at_the_socket_holds_up_no_upgrade() {
    let echo = Server::start(peers::echo);
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("take-over.sock");
    let process = start_in(&directory.path().join("first"), &asked(Tcplb::new().backend(echo.at()), &socket));
    process.wait_for_line("admin on ");
    let silent = pull::connect(&socket).unwrap().unwrap();
    eventually("it is accepted", || connected(&socket) == (1, 1));
    let upgraded = Admin::of(&process).call("POST", "/v1/upgrade", "");
    assert_eq!(upgraded.status, 200, "{upgraded:?}; {}", process.output());
    drop(silent);
}

#[test]
fn processes_of_different_pid_namespaces_hand_over() {
    let apart = ["unshare", "--pid", "--fork", "--kill-child"];
    if !need_root() || need("unshare").is_none() {
        return;
    }
    if !Command::new(apart[0]).args(&apart[1..]).arg("true").status().is_ok_and(|status| status.success()) {
        eprintln!("skipped: a process can't have a PID namespace of its own on this system");
        return;
    }
    let echo = Server::start(peers::echo);
    let asked = || Tcplb::new().backend(echo.at());
    // It is process 1 of its namespace, like that of a container.
    let mut tcplb = Pulled::start(asked().wrapped(apart));
    tcplb.process.wait_for_line("there is no launcher: tcplb is process 1");
    let client = tcplb.connect();
    for (next, is_called) in [
        (asked(), "a process of another PID namespace"),
        // A process of a namespace within has a number here.
        (asked().wrapped(apart), "process "),
        (asked().wrapped(apart), "a process of another PID namespace"),
    ] {
        client.assert_echoes("goes on");
        tcplb.connect().assert_echoes("a new one");
        let last = tcplb.pull(next);
        assert_eq!(last.count_lines(&format!("take-over: {is_called}")), 2, "{}", last.output());
    }
    client.assert_echoes("after three");
}
