//! Two real processes, and a script that stands between them. It passes their messages on. At one message it kills one of the two,
//! or waits.

use super::moves::pair;
use super::outlives::{has_ended, listening};
use super::{Upgradable, echoes};
use rustix::process::{Pid, Signal, kill_process};
use std::fs;
use std::path::Path;
use std::thread;
use testkit::{Conn, Ending, ManualServer, Server, Tcplb, eventually, eventually_some, need, peers};

/// The messages of an upgrade in their order, each with its sender.
const STEPS: [(&str, Sender); 11] = [
    ("Hello", Sender::New),
    ("Welcome", Sender::Old),
    ("Sockets", Sender::Old),
    ("Running", Sender::New),
    ("Prepare", Sender::Old),
    ("Ready", Sender::New),
    ("Commit", Sender::Old),
    ("Resumed", Sender::New),
    ("Farewell", Sender::Old),
    ("Done", Sender::New),
    ("Released", Sender::Old),
];

#[derive(Clone, Copy, PartialEq, Eq)]
enum Sender {
    Old,
    New,
}

/// What happens at a message.
pub(super) enum Act {
    /// The old process is killed once the message has passed.
    KillOld,
    /// The new process is killed. A message that it has just sent is lost.
    KillNew,
    /// The message passes 0.4 s later.
    Delay,
    /// The message passes once the test has written to a pipe.
    Wait,
    /// The last descriptor of the message is lost, as the kernel does it where the limit on open files is reached.
    Lose,
}

const BETWEEN: &str = r#"#!/usr/bin/env python3
import ctypes, os, re, select, signal, socket, subprocess, sys
STEP, ACT, FIFO, PROGRAM = "@STEP@", "@ACT@", "@FIFO@", "@PROGRAM@"
old = socket.socket(fileno=os.dup(0))
new, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
# The old process kills a new one that does not run yet. What it kills is this process (PR_SET_PDEATHSIG).
libc, early = ctypes.CDLL(None), STEP in ("Hello", "Welcome", "Sockets", "Running")
child = subprocess.Popen([PROGRAM] + sys.argv[1:], stdin=theirs, preexec_fn=lambda: early and libc.prctl(1, signal.SIGKILL))
theirs.close()
old.setblocking(True)
launcher = re.search(r"PPid:\s(\d+)", open(f"/proc/{os.getppid()}/status").read())
predecessor = os.pidfd_open(int(launcher[1]))

def end():
    old.close()
    new.close()
    open(FIFO + ".closed", "w").close()
    status = child.wait()
    os._exit(status if status > 0 else 7)

def reached(before, sent):
    if ACT == "KillOld" and not before:
        signal.pidfd_send_signal(predecessor, signal.SIGKILL)
        select.select([predecessor], [], [])
        end()
    if ACT == "KillNew" and before == (sent is new):
        child.kill()
        child.wait()
        os._exit(7)
    if ACT == "Delay" and before:
        select.select([], [], [], 0.4)
    if ACT == "Wait" and before:
        with open(FIFO + ".new", "w") as file:
            file.write(str(child.pid))
        os.rename(FIFO + ".new", FIFO + ".reached")
        open(FIFO).read()

inside, name = {old: False, new: False}, {old: "", new: ""}
while True:
    for source in select.select([old, new], [], [])[0]:
        # A peer that has closed may have left messages, and they come behind its error.
        try:
            packet, descriptors, _, _ = socket.recv_fds(source, 1 << 20, 253)
        except ConnectionResetError:
            continue
        if not packet:
            end()
        if not inside[source]:
            name[source] = re.search(rb'"message":\{?"(\w+)"', packet[:200])[1].decode()
        inside[source] = packet[0] == 1
        last = name[source] == STEP and not inside[source]
        if last:
            reached(True, source)
        try:
            sent = descriptors[:-1] if last and ACT == "Lose" else descriptors
            socket.send_fds(new if source is old else old, [packet], sent)
        except OSError:
            pass
        for descriptor in descriptors:
            os.close(descriptor)
        if last:
            reached(False, source)
"#;

impl Upgradable {
    /// Waits until the first process is dead. Its children still have its output.
    #[track_caller]
    fn is_killed(&mut self) {
        eventually("the old process is killed", || self.process.exited().is_some());
    }

    /// Puts the script in the place of the file. The path of its pipe.
    pub(super) fn stand_between(&self, step: &str, act: &Act) -> String {
        let act = match act {
            Act::KillOld => "KillOld",
            Act::KillNew => "KillNew",
            Act::Delay => "Delay",
            Act::Wait => "Wait",
            Act::Lose => "Lose",
        };
        let fifo = self.directory.path().join("pipe").display().to_string();
        if fs::metadata(&fifo).is_err() {
            assert!(std::process::Command::new("mkfifo").arg(&fifo).status().unwrap().success());
        }
        let script = BETWEEN.replace("@STEP@", step).replace("@ACT@", act).replace("@FIFO@", &fifo);
        self.replace_by(script.replace("@PROGRAM@", &self.program.display().to_string()));
        fifo
    }
}

#[test]
fn a_predecessor_that_is_killed_at_any_step_leaves_a_successor_that_goes_on_or_none() {
    if need("python3").is_none() {
        return;
    }
    for (place, (step, _)) in STEPS.into_iter().enumerate() {
        let echo = Server::start(peers::echo);
        let mut tcplb = Upgradable::start(Tcplb::new().backend(echo.at()).args(["-w", "1"]));
        let clients: Vec<Conn> = (0..3).map(|_| tcplb.connect()).collect();
        clients.iter().for_each(|client| client.assert_echoes("before"));
        tcplb.stand_between(step, &Act::KillOld);
        tcplb.process.signal(Signal::USR2);
        tcplb.is_killed();
        if place < 2 {
            // The successor has no socket yet.
            eventually("no process listens", || Conn::try_to(&tcplb.at).is_err());
            continue;
        }
        eventually(&format!("{step}: the successor serves"), || {
            // A client of the last moment waited in a queue of the predecessor.
            Conn::try_to(&tcplb.at).is_ok_and(|client| echoes(&client, "a new one"))
        });
        assert_eq!(tcplb.results(), (1, 0), "{step}");
        for client in &clients {
            // From Prepare on the successor has their descriptors, and no other process touches them.
            assert_eq!(echoes(client, "still here"), place >= 4, "{step}");
        }
    }
}

#[test]
fn a_connection_whose_predecessor_dies_between_prepare_and_commit_loses_no_byte() {
    if need("python3").is_none() {
        return;
    }
    let server = ManualServer::start();
    let mut tcplb = Upgradable::start(Tcplb::new().backend(server.at()).unprobed().args(["-w", "1"]));
    let (stalled, stalled_backend) = pair(&tcplb, &server);
    let held = stalled.fill();
    tcplb.stand_between("Prepare", &Act::KillOld);
    tcplb.process.signal(Signal::USR2);
    tcplb.is_killed();
    assert_eq!(stalled_backend.hear(held).len(), held);
    stalled_backend.say("an answer");
    assert_eq!(stalled.hear(9), b"an answer");
}

#[test]
fn a_successor_that_is_killed_at_any_step_is_counted_once_and_the_predecessor_serves() {
    if need("python3").is_none() {
        return;
    }
    let echo = Server::start(peers::echo);
    let tcplb = Upgradable::start(Tcplb::new().backend(echo.at()).args(["-w", "1"]));
    for (place, (step, _)) in STEPS.into_iter().enumerate().take(10) {
        let clients: Vec<Conn> = (0..3).map(|_| tcplb.connect()).collect();
        clients.iter().for_each(|client| client.assert_echoes("before"));
        tcplb.stand_between(step, &Act::KillNew);
        let why = tcplb.upgrade_in_vain();
        assert!(why.contains("exit status: 7"), "{step}: {why}");
        assert_eq!(tcplb.results(), (0, place as u64 + 1), "{step}");
        for client in &clients {
            // After Commit they are the successor's, and end with it.
            assert_eq!(echoes(client, "still here"), place < 6, "{step}");
        }
        tcplb.connect().patient().assert_echoes("a new one");
    }
}

#[test]
fn the_pause_lasts_until_the_new_process_goes_on() {
    if need("python3").is_none() {
        return;
    }
    let echo = Server::start(peers::echo);
    let tcplb = Upgradable::start(Tcplb::new().backend(echo.at()).args(["-w", "1"]));
    let client = tcplb.connect().patient();
    client.assert_echoes("before");
    // The old process has sent Commit, and its client still waits.
    tcplb.stand_between("Commit", &Act::Delay);
    let figures = tcplb.upgrade();
    let pause = figures["pause_ms"]["max"].as_f64().unwrap();
    assert!(pause >= 400.0, "{figures}");
    client.assert_echoes("after");
    assert_eq!(tcplb.admin.metric("tcplb_upgrade_pause_seconds_count", &[]), 1);
    assert_eq!(tcplb.admin.metric("tcplb_upgrade_pause_seconds_bucket", &["le=\"0.25\""]), 0);
}

/// Writes a file with one listener and one backend.
fn write(file: &Path, backend: &Server) {
    let text = format!(
        "[global]\nadmin = '127.0.0.1:0'\n[[listener]]\nname = 'web'\nbind = ['127.0.0.1:0']\npool = 'web'\n\
         [[pool]]\nname = 'web'\nhealth.kind = 'off'\n[[pool.backend]]\nname = 'b'\naddress = '{}'\n",
        backend.at()
    );
    fs::write(file, text).unwrap();
}

#[test]
fn a_reload_that_is_asked_for_during_an_upgrade_reaches_the_new_process() {
    if need("python3").is_none() {
        return;
    }
    let (one, two) = (Server::start(peers::named("one")), Server::start(peers::named("two")));
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("tcplb.toml");
    write(&file, &one);
    let tcplb = Upgradable::start_from(&Tcplb::from_file(&file));
    assert_eq!(tcplb.connect().hear_line(), "one");
    let fifo = tcplb.stand_between("Farewell", &Act::Wait);
    thread::scope(|scope| {
        let upgrade = scope.spawn(|| tcplb.upgrade());
        eventually("the new process has read the file", || fs::metadata(format!("{fifo}.reached")).is_ok());
        write(&file, &two);
        tcplb.process.signal(Signal::HUP);
        tcplb.process.wait_for_line("SIGHUP waits");
        fs::write(&fifo, "go\n").unwrap();
        upgrade.join().unwrap();
    });
    eventually("the new process has the new file", || {
        Conn::try_to(&tcplb.at).is_ok_and(|client| client.patient().hear_line() == "two")
    });
}

#[test]
fn a_reload_that_the_old_process_can_not_pass_on_reaches_the_new_one_after_its_death() {
    if need("python3").is_none() {
        return;
    }
    let (one, two) = (Server::start(peers::named("one")), Server::start(peers::named("two")));
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("tcplb.toml");
    write(&file, &one);
    let mut tcplb = Upgradable::start_from(&Tcplb::from_file(&file));
    let (_, fifo) = wait_at(&tcplb, "Farewell");
    write(&file, &two);
    tcplb.process.signal(Signal::HUP);
    tcplb.process.wait_for_line("SIGHUP waits");
    tcplb.process.signal(Signal::KILL);
    tcplb.is_killed();
    fs::write(&fifo, "go\n").unwrap();
    eventually("the new process has the new file", || {
        Conn::try_to(&tcplb.at).is_ok_and(|client| client.patient().hear_line() == "two")
    });
}

/// Starts an upgrade that waits at this message. The new process, and the pipe that lets the message pass.
pub(super) fn wait_at(tcplb: &Upgradable, step: &str) -> (Pid, String) {
    let fifo = tcplb.stand_between(step, &Act::Wait);
    let reached = format!("{fifo}.reached");
    let _ = fs::remove_file(&reached);
    tcplb.process.signal(Signal::USR2);
    let pid = eventually_some("the message waits", || fs::read_to_string(&reached).ok()?.parse().ok());
    (Pid::from_raw(pid).unwrap(), fifo)
}

#[test]
fn a_stop_of_the_old_process_ends_both_at_any_message() {
    if need("python3").is_none() {
        return;
    }
    for step in ["Running", "Ready", "Resumed", "Done"] {
        let echo = Server::start(peers::echo);
        let mut tcplb = Upgradable::start(Tcplb::new().backend(echo.at()).args(["-w", "1"]));
        let client = tcplb.connect().patient();
        client.assert_echoes("before");
        let (_, fifo) = wait_at(&tcplb, step);
        tcplb.process.signal(Signal::TERM);
        tcplb.process.wait_for_line("a stop waits");
        fs::write(&fifo, "go\n").unwrap();
        tcplb.process.wait_for_line("tcplb is stopping");
        client.assert_echoes("until its end");
        drop(client);
        let status = eventually_some("the old process ends", || tcplb.process.exited());
        assert!(status.success(), "{step}: {status}");
        eventually(&format!("{step}: no process listens"), || Conn::try_to(&tcplb.at).is_err());
    }
}

#[test]
fn a_stop_of_the_old_process_ends_a_new_one_that_reads_of_it_after_its_death() {
    if need("python3").is_none() {
        return;
    }
    let server = ManualServer::start();
    let asked = Tcplb::new().backend(server.at()).unprobed().args(["-w", "1", "--relay", "copy"]);
    let mut tcplb = Upgradable::start(asked);
    let (client, backend) = pair(&tcplb, &server);
    let held = client.fill();
    let (new, fifo) = wait_at(&tcplb, "Prepare");
    kill_process(new, Signal::STOP).unwrap();
    let stat = format!("/proc/{}/stat", new.as_raw_nonzero());
    eventually("the new process stands still", || fs::read_to_string(&stat).is_ok_and(|stat| stat.contains(") T ")));
    fs::write(&fifo, "go\n").unwrap();
    tcplb.process.signal(Signal::TERM);
    // The connection goes on there, and relays what its record in the new process has.
    assert_eq!(backend.hear(held).len(), held);
    eventually("the channel is closed", || Path::new(&format!("{fifo}.closed")).exists());
    tcplb.process.signal(Signal::KILL);
    tcplb.is_killed();
    kill_process(new, Signal::CONT).unwrap();
    assert_eq!(backend.hear_all(), b"", "no byte twice");
    assert_eq!(client.ending(), Ending::Fin);
    eventually("no process listens", || Conn::try_to(&tcplb.at).is_err());
}

#[test]
fn a_stop_of_the_new_process_between_ready_and_commit_loses_no_connection() {
    if need("python3").is_none() {
        return;
    }
    let echo = Server::start(peers::echo);
    let tcplb = Upgradable::start(Tcplb::new().backend(echo.at()).args(["-w", "1"]));
    let clients: Vec<Conn> = (0..3).map(|_| tcplb.connect().patient()).collect();
    clients.iter().for_each(|client| client.assert_echoes("before"));
    let (new, fifo) = wait_at(&tcplb, "Ready");
    let before = listening(new.as_raw_nonzero());
    kill_process(new, Signal::TERM).unwrap();
    eventually("the new process accepts no client any more", || listening(new.as_raw_nonzero()) < before);
    fs::write(&fifo, "go\n").unwrap();
    eventually("the failure is counted", || tcplb.results() == (0, 1));
    assert_eq!(tcplb.get("/v1/connections").as_array().unwrap().len(), 0, "all have moved");
    tcplb.process.wait_for_line("this process ends with its last connection: it is stopping");
    clients.iter().for_each(|client| client.assert_echoes("by the new process"));
    tcplb.connect().patient().assert_echoes("by the old one");
    drop(clients);
    tcplb.process.wait_for_line("stopped: 3 connections finished, 0 reset");
    eventually("the new process has ended", || has_ended(new));
}

#[test]
fn a_stop_of_the_new_process_leaves_the_old_one_in_charge() {
    if need("python3").is_none() {
        return;
    }
    let echo = Server::start(peers::echo);
    let tcplb = Upgradable::start(Tcplb::new().backend(echo.at()).args(["-w", "1"]));
    // Without connections there is no Prepare.
    let (new, fifo) = wait_at(&tcplb, "Farewell");
    kill_process(new, Signal::TERM).unwrap();
    tcplb.process.wait_for_line("draining: no new connections");
    fs::write(&fifo, "go\n").unwrap();
    tcplb.process.wait_for_line("it is stopping");
    eventually("the failure is counted", || tcplb.results() == (0, 1));
    tcplb.connect().patient().assert_echoes("a new one");
}

#[test]
fn a_process_that_takes_over_starts_no_upgrade_of_its_own() {
    if need("python3").is_none() {
        return;
    }
    let echo = Server::start(peers::echo);
    let tcplb = Upgradable::start(Tcplb::new().backend(echo.at()).args(["-w", "1"]));
    let client = tcplb.connect().patient();
    client.assert_echoes("before");
    let (new, fifo) = wait_at(&tcplb, "Prepare");
    kill_process(new, Signal::USR2).unwrap();
    tcplb.process.wait_for_line("SIGUSR2 ignored: an upgrade is under way");
    fs::write(&fifo, "go\n").unwrap();
    eventually("the upgrade has succeeded", || tcplb.results() == (1, 0));
    client.assert_echoes("after");
}

#[test]
fn another_build_at_the_same_path_takes_over() {
    let server = ManualServer::start();
    let tcplb = Upgradable::start(Tcplb::new().backend(server.at()).unprobed().args(["-w", "2"]));
    let (client, backend) = pair(&tcplb, &server);
    let (stalled, stalled_backend) = pair(&tcplb, &server);
    let held = stalled.fill();
    let mut build = fs::read(&tcplb.program).unwrap();
    build.extend_from_slice(b"another build");
    tcplb.replace_by(&build);
    let figures = tcplb.upgrade();
    assert_eq!(figures["connections"], 2, "{figures}");
    let runs = fs::metadata(format!("/proc/{}/exe", figures["pid"])).unwrap();
    assert_eq!(runs.len(), build.len() as u64);
    client.say("question");
    assert_eq!(backend.hear(8), b"question");
    assert_eq!(stalled_backend.hear(held).len(), held);
    backend.finish();
    assert_eq!(client.ending(), Ending::Fin);
}
