//! A process that goes on after a hand-over for the connections that it has: what it does to the sockets of the other one.

use super::Upgradable;
use super::between::Act;
use rustix::process::{Pid, Signal, kill_process};
use std::fs;
use std::path::Path;
use std::process::Command;
use testkit::{Server, Tcplb, eventually, need, peers};

/// An upgrade that waits at its last message but two. The new process has all connections.
pub(super) struct Waiting {
    new: Pid,
    /// Passes the messages on.
    between: Pid,
}

impl Waiting {
    pub(super) fn start(tcplb: &Upgradable) -> Waiting {
        let fifo = tcplb.stand_between("Farewell", &Act::Wait);
        tcplb.process.signal(Signal::USR2);
        eventually("the message waits", || fs::metadata(format!("{fifo}.reached")).is_ok());
        let child = |of: i32| -> i32 {
            let children = fs::read_to_string(format!("/proc/{of}/task/{of}/children")).unwrap();
            children.trim().parse().unwrap_or_else(|_| panic!("not one child: {children}"))
        };
        let between = child(child(tcplb.process.pid().try_into().unwrap()));
        Waiting { new: Pid::from_raw(child(between)).unwrap(), between: Pid::from_raw(between).unwrap() }
    }

    /// The channel closes, and both processes live.
    pub(super) fn cut(&self, tcplb: &Upgradable) {
        kill_process(self.between, Signal::KILL).unwrap();
        tcplb.process.wait_for_line("ended before it could take over");
        eventually("the failure is counted", || tcplb.results() == (0, 1));
    }
}

/// Whether it has ended. Its parent may not have looked yet.
fn has_ended(pid: Pid) -> bool {
    let state = fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero()));
    state.map_or(true, |state| state.contains(") Z "))
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
