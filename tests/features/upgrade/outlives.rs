//! A process that goes on after a hand-over for the connections that it has: what it does to the sockets of the other one.

use super::Upgradable;
use super::between::{Act, wait_at};
use rustix::process::{Pid, Signal, kill_process};
use std::collections::HashSet;
use std::fmt::Display;
use std::fs;
use std::path::Path;
use std::process::Command;
use testkit::{ConfigFile, Ending, Server, Tcplb, eventually, eventually_some, need, peers};

/// An upgrade that waits at its last message but two. The new process has all connections.
pub(super) struct Waiting {
    new: Pid,
    /// Passes the messages on.
    between: Pid,
}

impl Waiting {
    pub(super) fn start(tcplb: &Upgradable) -> Waiting {
        let (new, _) = wait_at(tcplb, "Farewell");
        let child = |of: i32| -> i32 {
            let children = fs::read_to_string(format!("/proc/{of}/task/{of}/children")).unwrap();
            children.trim().parse().unwrap_or_else(|_| panic!("not one child: {children}"))
        };
        let between = child(child(tcplb.process.pid().try_into().unwrap()));
        Waiting { new, between: Pid::from_raw(between).unwrap() }
    }

    /// The channel closes, and both processes live.
    pub(super) fn cut(&self, tcplb: &Upgradable) {
        kill_process(self.between, Signal::KILL).unwrap();
        tcplb.process.wait_for_line("ended before it could take over");
        eventually("the failure is counted", || tcplb.results() == (0, 1));
    }
}

/// Whether it has ended. Its parent may not have looked yet.
pub(super) fn has_ended(pid: Pid) -> bool {
    let state = fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero()));
    state.map_or(true, |state| state.contains(") Z "))
}

/// How many listening sockets a process has.
pub(super) fn listening(pid: impl Display) -> usize {
    let table = |name: &str| fs::read_to_string(format!("/proc/{pid}/net/{name}")).unwrap_or_default();
    let columns = |name: &str, column: usize, value: &str, inode: usize| -> Vec<String> {
        let table = table(name);
        let lines = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
        let listens = lines.filter(|line| line.get(column) == Some(&value));
        listens.map(|line| format!("socket:[{}]", line[inode])).collect()
    };
    let tcp = ["tcp", "tcp6"].into_iter().flat_map(|name| columns(name, 3, "0A", 9));
    let all: HashSet<String> = tcp.chain(columns("unix", 3, "00010000", 6)).collect();
    let open = fs::read_dir(format!("/proc/{pid}/fd")).unwrap().flatten();
    let open: HashSet<String> =
        open.filter_map(|file| Some(fs::read_link(file.path()).ok()?.display().to_string())).collect();
    open.intersection(&all).count()
}

/// The most clients that may wait to be accepted.
fn queue_limit(tcplb: &Upgradable, ss: &Path) -> String {
    let filter = format!("sport = :{}", tcplb.at.port());
    let shown = Command::new(ss).args(["-tlnH", &filter]).output().unwrap();
    let shown = String::from_utf8(shown.stdout).unwrap();
    shown.split_whitespace().nth(2).unwrap_or_else(|| panic!("nothing listens: {shown}")).to_owned()
}

#[test]
fn a_successor_that_drains_without_room_keeps_the_shared_accept_queue_as_long_as_it_was() {
    let (Some(ss), Some(_)) = (need("ss"), need("python3")) else { return };
    let echo = Server::start(peers::echo);
    let tcplb = Upgradable::start(Tcplb::new().backend(echo.at()).args(["-w", "1", "--max-connections", "1"]));
    let before = queue_limit(&tcplb, &ss);
    let client = tcplb.connect().patient();
    client.assert_echoes("before");
    let waiting = Waiting::start(&tcplb);
    // The client that it has takes its only place.
    kill_process(waiting.new, Signal::TERM).unwrap();
    tcplb.process.wait_for_line("draining: no new connections");
    waiting.cut(&tcplb);
    drop(client);
    eventually("the new process has ended", || has_ended(waiting.new));
    assert_eq!(queue_limit(&tcplb, &ss), before);
    tcplb.connect().patient().assert_echoes("at the old process");
}

/// A process with a listener, an admin API and a socket of `take_over`.
fn with_three_sockets(server: &Server, directory: &tempfile::TempDir) -> Upgradable {
    let socket = directory.path().join("take-over.sock");
    let asked = Tcplb::new().backend(server.at()).args(["-w", "1", "--take-over", socket.to_str().unwrap()]);
    let tcplb = Upgradable::start(asked);
    assert_eq!(listening(tcplb.process.pid()), 3, "of the start");
    tcplb
}

#[test]
fn a_predecessor_that_keeps_a_connection_closes_its_listening_sockets() {
    if need("python3").is_none() {
        return;
    }
    let (echo, directory) = (Server::start(peers::echo), tempfile::tempdir().unwrap());
    let mut tcplb = with_three_sockets(&echo, &directory);
    let client = tcplb.connect().patient();
    client.assert_echoes("before");
    tcplb.stand_between("Prepare", &Act::Lose);
    let figures = tcplb.upgrade();
    assert_eq!((&figures["connections"], &figures["left"]), (&0.into(), &1.into()), "{figures}");
    eventually("the old process listens nowhere", || listening(tcplb.process.pid()) == 0);
    client.assert_echoes("at the old process");
    assert_eq!(tcplb.results(), (1, 0), "the new process has the admin API");
    assert!(tcplb.process.exited().is_none());
    drop(client);
    eventually("the old process ends", || tcplb.process.exited().is_some());
}

#[test]
fn a_successor_that_has_failed_closes_its_listening_sockets_and_keeps_its_connections() {
    if need("python3").is_none() {
        return;
    }
    let (echo, directory) = (Server::start(peers::echo), tempfile::tempdir().unwrap());
    let tcplb = with_three_sockets(&echo, &directory);
    let client = tcplb.connect().patient();
    client.assert_echoes("before");
    let waiting = Waiting::start(&tcplb);
    waiting.cut(&tcplb);
    eventually("the new process listens nowhere", || listening(waiting.new.as_raw_nonzero()) == 0);
    client.assert_echoes("at the new process");
    assert_eq!(listening(tcplb.process.pid()), 3);
    tcplb.connect().patient().assert_echoes("at the old process");
    drop(client);
    eventually("the new process has ended", || has_ended(waiting.new));
    assert!(directory.path().join("take-over.sock").exists());
}

#[test]
fn a_successor_that_has_failed_closes_its_listening_sockets_before_its_shutdown_delay_is_over() {
    if need("python3").is_none() {
        return;
    }
    let echo = Server::start(peers::echo);
    let file = ConfigFile::over([echo.at()]).global("admin = '127.0.0.1:0'").global("shutdown_delay = '1h'");
    let tcplb = Upgradable::start_from(&Tcplb::from_file(&file.write()));
    let client = tcplb.connect().patient();
    client.assert_echoes("before");
    let (new, fifo) = wait_at(&tcplb, "Farewell");
    kill_process(new, Signal::TERM).unwrap();
    tcplb.process.wait_for_line("not ready any more");
    fs::write(&fifo, "go\n").unwrap();
    eventually("the failure is counted", || tcplb.results() == (0, 1));
    eventually("the new process listens nowhere", || listening(new.as_raw_nonzero()) == 0);
    client.assert_echoes("at the new process");
    tcplb.connect().patient().assert_echoes("at the old process");
    drop(client);
    eventually("the new process has ended", || has_ended(new));
}

#[test]
fn the_first_stop_of_a_successor_that_has_failed_resets_no_connection_and_the_second_does() {
    if need("python3").is_none() {
        return;
    }
    let echo = Server::start(peers::echo);
    let tcplb = Upgradable::start(Tcplb::new().backend(echo.at()).args(["-w", "1"]));
    let client = tcplb.connect().patient();
    client.assert_echoes("before");
    let waiting = Waiting::start(&tcplb);
    waiting.cut(&tcplb);
    tcplb.process.wait_for_line("another process serves");
    kill_process(waiting.new, Signal::TERM).unwrap();
    tcplb.process.wait_for_line("drains already");
    client.assert_echoes("after the first stop");
    kill_process(waiting.new, Signal::TERM).unwrap();
    assert_eq!(client.ending(), Ending::Reset);
    eventually("the new process has ended", || has_ended(waiting.new));
    tcplb.connect().patient().assert_echoes("at the old process");
}

/// An upgrade that a stop of the old process ends once all connections have moved. The new process.
fn stopped_late(tcplb: &Upgradable) -> Pid {
    let (new, fifo) = wait_at(tcplb, "Done");
    tcplb.process.signal(Signal::TERM);
    tcplb.process.wait_for_line("a stop waits");
    fs::write(&fifo, "go\n").unwrap();
    tcplb.process.wait_for_line("waits for process");
    new
}

#[test]
fn a_predecessor_that_stops_outlasts_the_connections_that_have_moved() {
    if need("python3").is_none() {
        return;
    }
    let echo = Server::start(peers::echo);
    let mut tcplb = Upgradable::start(Tcplb::new().backend(echo.at()).args(["-w", "1"]));
    let client = tcplb.connect().patient();
    client.assert_echoes("before");
    let new = stopped_late(&tcplb);
    client.assert_echoes("at the new process");
    // As soon as it ends, systemd would kill the new process.
    assert!(tcplb.process.exited().is_none());
    drop(client);
    let status = eventually_some("the old process ends", || tcplb.process.exited());
    assert!(status.success() && has_ended(new), "{status}");
}

#[test]
fn a_second_stop_ends_a_predecessor_that_outlasts_what_has_moved() {
    if need("python3").is_none() {
        return;
    }
    let echo = Server::start(peers::echo);
    let mut tcplb = Upgradable::start(Tcplb::new().backend(echo.at()).args(["-w", "1"]));
    let client = tcplb.connect().patient();
    client.assert_echoes("before");
    let new = stopped_late(&tcplb);
    tcplb.process.signal(Signal::TERM);
    let status = eventually_some("the old process ends", || tcplb.process.exited());
    assert!(status.success() && !has_ended(new), "{status}");
    client.assert_echoes("at the new process");
}
