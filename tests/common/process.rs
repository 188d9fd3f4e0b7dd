//! The built program at work, and what it says.

use rustix::process::{Pid, Signal, kill_process};
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

/// For what should happen soon, on a machine that may be busy.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// The program, without what the environment of the test might tell it.
pub fn tcplb(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tcplb"));
    command.args(arguments).stdin(Stdio::null());
    for variable in
        ["RUST_LOG", "TCPLB_ADMIN", "TCPLB_TOKEN", "NOTIFY_SOCKET", "LISTEN_FDS", "LISTEN_PID", "WATCHDOG_USEC"]
    {
        command.env_remove(variable);
    }
    command
}

/// A tcplb whose stderr is read; killed when the test ends.
pub struct Process {
    child: Child,
    lines: Receiver<String>,
}

impl Process {
    pub fn start(arguments: &[&str]) -> Process {
        Process::spawn(&mut tcplb(arguments))
    }

    pub fn spawn(command: &mut Command) -> Process {
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("it runs");
        let stderr = BufReader::new(child.stderr.take().expect("a pipe"));
        let (sender, lines) = channel();
        thread::spawn(move || stderr.lines().map_while(Result::ok).try_for_each(|line| sender.send(line)));
        Process { child, lines }
    }

    /// The next line that contains `part`.
    #[track_caller]
    pub fn line(&self, part: &str) -> String {
        let end = Instant::now() + PATIENCE;
        let mut seen = Vec::new();
        while let Ok(line) = self.lines.recv_timeout(end.saturating_duration_since(Instant::now())) {
            if line.contains(part) {
                return line;
            }
            seen.push(line);
        }
        panic!("`{part}` did not come, but {seen:?}");
    }

    /// What follows `part` in the next line that contains it.
    #[track_caller]
    pub fn after(&self, part: &str) -> String {
        self.line(part).split_once(part).map(|(_, rest)| rest.to_owned()).expect("a line with it")
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).expect("it still runs");
    }

    /// Waits for the end, and gives what was said till then: stderr closes with the process.
    #[track_caller]
    pub fn end(&mut self) -> (ExitStatus, Vec<String>) {
        let end = Instant::now() + PATIENCE;
        let next = || self.lines.recv_timeout(end.saturating_duration_since(Instant::now())).ok();
        let lines = std::iter::from_fn(next).collect();
        assert!(Instant::now() < end, "it did not end");
        (self.child.wait().expect("an exit status"), lines)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
