//! A real Knot DNS with the zone `w.test`, which the test rewrites. The zone `broken.test` can't be loaded, so it answers SERVFAIL.
//! Addresses of a name come in another order with each answer.

use crate::{Process, eventually, free_address, need};
use rustix::process::Signal;
use std::fs;
use std::net::{SocketAddr, UdpSocket};
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;
use tempfile::TempDir;

/// A name server.
pub struct Knot {
    program: PathBuf,
    folder: TempDir,
    /// Where it answers.
    pub at: SocketAddr,
    serial: u32,
    process: Option<Process>,
}

impl Knot {
    /// One that has these records; `None` where Knot is not installed.
    #[track_caller]
    pub fn start(records: &str) -> Option<Knot> {
        Knot::start_at(free_address(), records)
    }

    /// As [`Knot::start`], at this address.
    #[track_caller]
    pub fn start_at(at: SocketAddr, records: &str) -> Option<Knot> {
        let folder = tempfile::Builder::new().prefix("knot-").tempdir().expect("a directory");
        let mut knot = Knot { program: need("knotd")?, folder, at, serial: 0, process: None };
        let here = knot.folder.path().display();
        let zone = |name: &str| {
            format!(
                "  - domain: {name}.test\n    file: {here}/{name}\n    zonefile-sync: -1\n    journal-content: none\n"
            )
        };
        let settings = format!(
            "server:\n    listen: {}@{}\n    rundir: {here}\n    answer-rotation: on\ndatabase:\n    storage: {here}/db\nzone:\n{}{}\
             log:\n  - target: stderr\n    any: info\n",
            knot.at.ip(),
            knot.at.port(),
            zone("w"),
            zone("broken"),
        );
        fs::write(knot.folder.path().join("knot.conf"), settings).expect("set Knot up");
        knot.start_again(records);
        Some(knot)
    }

    /// Starts it, with these records.
    #[track_caller]
    pub fn start_again(&mut self, records: &str) {
        self.write(records);
        self.spawn();
        self.wait();
    }

    /// Replaces its records.
    #[track_caller]
    pub fn set(&mut self, records: &str) {
        self.write(records);
        self.signal(Signal::HUP);
        self.wait();
    }

    /// Kills it.
    pub fn kill(&mut self) {
        self.process = None;
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        self.process.as_ref().expect("it runs").signal(signal);
    }

    /// Makes it answer SERVFAIL, until it is started again.
    #[track_caller]
    pub fn fail(&mut self) {
        self.write("broken");
        self.kill();
        self.spawn();
        self.wait_for("Knot answers SERVFAIL", |answer| answer.get(3).is_some_and(|flags| flags & 15 == 2));
    }

    fn write(&mut self, records: &str) {
        self.serial += 1;
        let head =
            format!("$ORIGIN w.test.\n$TTL 0\n@ SOA ns admin {} 60 60 3600 1\n@ NS ns\nns A 127.0.0.1\n", self.serial);
        fs::write(self.folder.path().join("w"), head + records + "\n").expect("set Knot up");
    }

    fn spawn(&mut self) {
        let mut command = Command::new(&self.program);
        self.process = Some(Process::spawn(command.arg("-c").arg(self.folder.path().join("knot.conf"))));
    }

    /// Waits until it answers with the newest serial.
    #[track_caller]
    fn wait(&self) {
        // The serial is followed by the time to refresh.
        let wanted = [self.serial.to_be_bytes(), 60_u32.to_be_bytes()].concat();
        self.wait_for("Knot has the zone", |answer| answer.windows(wanted.len()).any(|bytes| bytes == wanted));
    }

    #[track_caller]
    fn wait_for(&self, what: &str, is_wanted: impl Fn(&[u8]) -> bool) {
        let socket = UdpSocket::bind("127.0.0.1:0").expect("set Knot up");
        socket.connect(self.at).expect("set Knot up");
        socket.set_read_timeout(Some(Duration::from_millis(200))).expect("set Knot up");
        // SOA of w.test.
        let query = b"\x77\x77\x00\x00\x00\x01\x00\x00\x00\x00\x00\x00\x01w\x04test\x00\x00\x06\x00\x01";
        eventually(what, || {
            let mut answer = [0; 512];
            let count = socket.send(query).and_then(|_| socket.recv(&mut answer)).unwrap_or(0);
            is_wanted(&answer[..count])
        });
    }
}
