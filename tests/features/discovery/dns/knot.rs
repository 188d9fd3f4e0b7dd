//! A real Knot DNS with the zone `w.test`, which the test rewrites. The zone `broken.test` can't be loaded, so it answers SERVFAIL.

use rustix::process::Signal;
use std::fs;
use std::net::{SocketAddr, UdpSocket};
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;
use tcplb::discovery::Value;
use tempfile::TempDir;
use testkit::{Process, eventually, free_address, need};

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
        let folder = tempfile::Builder::new().prefix("knot-").tempdir().unwrap();
        let mut knot = Knot { program: need("knotd")?, folder, at: free_address(), serial: 0, process: None };
        let here = knot.folder.path().display();
        let zone = |name: &str| {
            format!(
                "  - domain: {name}.test\n    file: {here}/{name}\n    zonefile-sync: -1\n    journal-content: none\n"
            )
        };
        let settings = format!(
            "server:\n    listen: {}@{}\n    rundir: {here}\ndatabase:\n    storage: {here}/db\nzone:\n{}{}\
             log:\n  - target: stderr\n    any: info\n",
            knot.at.ip(),
            knot.at.port(),
            zone("w"),
            zone("broken"),
        );
        fs::write(knot.folder.path().join("knot.conf"), settings).unwrap();
        knot.start_again(records);
        Some(knot)
    }

    /// Starts it, with these records.
    #[track_caller]
    pub fn start_again(&mut self, records: &str) {
        self.write(records);
        let mut command = Command::new(&self.program);
        self.process = Some(Process::spawn(command.arg("-c").arg(self.folder.path().join("knot.conf"))));
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

    /// The value of `resolvers` for it.
    pub fn resolvers(&self) -> (&'static str, Value) {
        ("resolvers", Value::Texts(vec![self.at.to_string()]))
    }

    fn write(&mut self, records: &str) {
        self.serial += 1;
        let head =
            format!("$ORIGIN w.test.\n$TTL 0\n@ SOA ns admin {} 60 60 3600 1\n@ NS ns\nns A 127.0.0.1\n", self.serial);
        fs::write(self.folder.path().join("w"), head + records + "\n").unwrap();
    }

    /// Waits until it answers with the newest serial.
    #[track_caller]
    fn wait(&self) {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.connect(self.at).unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
        // SOA of w.test.
        let query = b"\x77\x77\x00\x00\x00\x01\x00\x00\x00\x00\x00\x00\x01w\x04test\x00\x00\x06\x00\x01";
        let serial = self.serial.to_be_bytes();
        eventually("Knot has the zone", || {
            let mut answer = [0; 512];
            let count = socket.send(query).and_then(|_| socket.recv(&mut answer)).unwrap_or(0);
            // The serial is followed by the time to refresh.
            let wanted = [&serial[..], &60_u32.to_be_bytes()].concat();
            answer[..count].windows(wanted.len()).any(|bytes| bytes == wanted)
        });
    }
}
