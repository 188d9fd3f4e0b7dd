//! A running tcplb hands over to a new process: connections go on, and every failure leaves things as they were.

mod between;
mod cuts;
mod fails;
mod keeps;
mod lends;
mod moves;
mod outlives;
mod pulls;
mod routes;

use serde_json::Value;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use testkit::Answer;
use testkit::{Admin, At, Conn, Process, Tcplb};

/// A tcplb that is started from a path of its own, so that a test can put another file there.
struct Upgradable {
    process: Process,
    admin: Admin,
    at: At,
    directory: tempfile::TempDir,
    /// The program that cargo built.
    program: PathBuf,
}

/// Whether what a client sends comes back.
fn echoes(mut client: &Conn, text: &str) -> bool {
    let mut heard = vec![0; text.len()];
    client.write_all(text.as_bytes()).and_then(|()| client.read_exact(&mut heard)).is_ok() && heard == text.as_bytes()
}

/// Starts it from a path in this directory. The processes that take over end with it, at the latest.
fn spawn(asked: &Command, directory: &Path) -> Process {
    let path = directory.join("tcplb");
    symlink(asked.get_program(), &path).unwrap();
    let mut command = Command::new(&path);
    command.args(asked.get_args());
    for (name, value) in asked.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    Process::spawn_group(&mut command)
}

impl Upgradable {
    #[track_caller]
    fn start(tcplb: Tcplb) -> Upgradable {
        Upgradable::start_from(&tcplb.args(["--admin", "127.0.0.1:0"]))
    }

    /// Starts one whose file has an admin API.
    #[track_caller]
    fn start_from(tcplb: &Tcplb) -> Upgradable {
        let directory = tempfile::tempdir().unwrap();
        let asked = tcplb.command();
        let program = asked.get_program().into();
        let process = spawn(&asked, directory.path());
        let line = process.wait_for_line("listening on ");
        let at = At::parse(line.split_once("listening on ").unwrap().1.trim());
        let admin = Admin::of(&process);
        Upgradable { process, admin, at, directory, program }
    }

    /// The path that it was started from.
    fn path(&self) -> PathBuf {
        self.directory.path().join("tcplb")
    }

    /// Puts another program in the place of the file.
    fn replace_by(&self, program: impl AsRef<[u8]>) {
        let [content, new] = ["content", "new"].map(|name| self.directory.path().join(name));
        fs::write(&content, program).unwrap();
        // A file that any process has open for writing can't be started (ETXTBSY). A child that another thread starts meanwhile
        // has our descriptors for a moment. So a process of its own writes the program.
        let done = Command::new("install").args(["-m", "755"]).args([&content, &new]).status();
        assert!(done.expect("run install").success());
        fs::rename(&new, self.path()).unwrap();
    }

    fn connect(&self) -> Conn {
        Conn::to(&self.at)
    }

    fn try_upgrade(&self) -> Answer {
        self.admin.call("POST", "/v1/upgrade", "")
    }

    /// Upgrades; the figures.
    #[track_caller]
    fn upgrade(&self) -> Value {
        let answer = self.try_upgrade();
        assert_eq!(answer.status, 200, "{answer:?}; {}", self.process.output());
        serde_json::from_str(&answer.body).unwrap()
    }

    /// Upgrades in vain: the error.
    #[track_caller]
    fn upgrade_in_vain(&self) -> String {
        let answer = self.try_upgrade();
        assert_eq!(answer.status, 500, "{answer:?}");
        let body: Value = serde_json::from_str(&answer.body).unwrap();
        body["error"].as_str().unwrap().to_owned()
    }

    /// Upgrades that succeeded, and those that failed.
    fn results(&self) -> (u64, u64) {
        let count = |result| self.admin.metric("tcplb_upgrade_total", &[result]);
        (count("result=\"success\""), count("result=\"failure\""))
    }

    fn get(&self, path: &str) -> Value {
        serde_json::from_str(&self.admin.get(path).body).unwrap()
    }
}
