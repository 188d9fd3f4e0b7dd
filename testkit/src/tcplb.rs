//! tcplb as its users start it: the built program, with flags.

use crate::{At, Conn, Ending, Process, Server, eventually, let_pass};
use std::env;
use std::ffi::OsStr;
use std::io::ErrorKind;
use std::ops::{Deref, DerefMut};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::Duration;

/// Probes often enough for a test to wait for them.
pub const QUICK_PROBES: [&str; 4] = ["-t", "300ms", "--health-timeout", "300ms"];

/// What in the environment of a test would change what tcplb does.
const VARIABLES: [&str; 8] = [
    "RUST_LOG",
    "TCPLB_ADMIN",
    "TCPLB_TOKEN",
    "TCPLB_HAND_OVER",
    "NOTIFY_SOCKET",
    "LISTEN_FDS",
    "LISTEN_PID",
    "WATCHDOG_USEC",
];

/// `tcplb ARGUMENTS`, without the variables of the test's environment that it reads.
pub fn tcplb(arguments: &[&str]) -> Command {
    let mut command = without_variables(binary());
    command.args(arguments).stdin(Stdio::null());
    command
}

fn without_variables(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(program);
    for variable in VARIABLES {
        command.env_remove(variable);
    }
    command
}

/// The program that cargo built for the tests. Cargo names it to the tests that it runs; where another runs them, as before
/// cargo 1.94, it stands above the directory of the test's own program.
fn binary() -> PathBuf {
    let named = env::var_os("CARGO_BIN_EXE_tcplb").map(PathBuf::from);
    let path = named.unwrap_or_else(|| {
        let own = env::current_exe().expect("the path of this program");
        own.ancestors().nth(2).expect("it stands in target/PROFILE/deps").join("tcplb")
    });
    assert!(path.is_file(), "there is no {}: build the tests with `cargo test`", path.display());
    path
}

/// Flags being collected.
#[derive(Default)]
pub struct Tcplb {
    listeners: Vec<String>,
    args: Vec<String>,
    wrapper: Vec<String>,
    /// A file with everything in it.
    file: Option<PathBuf>,
}

/// A tcplb that listens. Killed when dropped.
pub struct Running {
    process: Process,
    listening: Vec<At>,
}

impl Tcplb {
    /// On a free port of 127.0.0.1, unless [`Tcplb::listen`] says otherwise.
    pub fn new() -> Tcplb {
        Tcplb::default()
    }

    /// Started at once with these servers and nothing else.
    pub fn over<'a>(servers: impl IntoIterator<Item = &'a Server>) -> Running {
        servers.into_iter().fold(Tcplb::new(), |tcplb, server| tcplb.backend(server.at())).start()
    }

    /// Adds a listener, in place of the default one.
    pub fn listen(mut self, at: &str) -> Tcplb {
        self.listeners.push(at.to_owned());
        self
    }

    /// With this configuration file.
    pub fn from_file(path: &Path) -> Tcplb {
        Tcplb { file: Some(path.to_owned()), ..Tcplb::default() }
    }

    /// Adds a backend.
    pub fn backend(self, at: &At) -> Tcplb {
        self.args(["--backend", &at.to_string()])
    }

    /// Adds a backend with options: `name=web1,weight=5`.
    pub fn backend_with(self, at: &At, options: &str) -> Tcplb {
        self.args(["--backend", &format!("{at},{options}")])
    }

    /// Adds flags.
    pub fn args<'a>(mut self, args: impl IntoIterator<Item = &'a str>) -> Tcplb {
        self.args.extend(args.into_iter().map(str::to_owned));
        self
    }

    /// Without probes, where a test counts or judges every connection that a backend gets.
    pub fn unprobed(self) -> Tcplb {
        self.args(["--health", "off"])
    }

    /// Lets another program start it; that program must end in `exec` with all of its further arguments.
    pub fn wrapped<'a>(mut self, wrapper: impl IntoIterator<Item = &'a str>) -> Tcplb {
        self.wrapper = wrapper.into_iter().map(str::to_owned).collect();
        self
    }

    /// The one place where tests start tcplb.
    pub fn command(&self) -> Command {
        let mut command = match self.wrapper.split_first() {
            None => tcplb(&[]),
            Some((program, rest)) => {
                let mut command = without_variables(program);
                command.args(rest).arg(binary());
                command
            }
        };
        if let Some(path) = &self.file {
            command.arg("--config").arg(path).args(&self.args);
            return command;
        }
        let default = ["127.0.0.1:0".to_owned()];
        let listeners = if self.listeners.is_empty() { &default } else { &self.listeners[..] };
        for listener in listeners {
            command.args(["--listen", listener]);
        }
        // The same suite runs for each way to move the bytes; a test that names its own way keeps it.
        let own_relay = self.args.iter().any(|arg| arg == "--relay");
        if let (false, Ok(relay)) = (own_relay, env::var("TCPLB_TEST_RELAY")) {
            command.args(["--relay", &relay]);
        }
        command.args(&self.args);
        command
    }

    /// Starts it and waits until it listens.
    #[track_caller]
    pub fn start(self) -> Running {
        let process = Process::spawn(&mut self.command());
        // The pools follow the last address. A probe may have lines about a pool before.
        let introduces = |line: &str| line.split_once(" INFO pool ").is_some_and(|(_, pool)| pool.contains(" over "));
        let lines = process.lines_before("its pools", introduces);
        let addresses = lines.iter().filter_map(|line| line.split_once("listening on "));
        let address = |(_, rest): (&str, &str)| At::parse(rest.split_whitespace().next().expect("an address"));
        Running { listening: addresses.map(address).collect(), process }
    }

    /// Starts it in a way that must fail; returns its exit status and its output.
    #[track_caller]
    pub fn start_in_vain(self) -> (ExitStatus, String) {
        let mut process = Process::spawn(&mut self.command());
        let status = process.wait_exit();
        (status, process.output())
    }
}

impl Running {
    /// Where it listens; the first, if it has several listeners.
    pub fn at(&self) -> &At {
        &self.listening[0]
    }

    /// All places where it listens.
    pub fn listening(&self) -> &[At] {
        &self.listening
    }

    /// Connects a client.
    #[track_caller]
    pub fn connect(&self) -> Conn {
        Conn::to(self.at())
    }

    /// Connects a client that says nothing: how it is ended. A reset may come so soon that connecting reports it.
    #[track_caller]
    pub fn ending_of_next(&self) -> Ending {
        match Conn::try_to(self.at()) {
            Err(error) if error.kind() == ErrorKind::ConnectionReset => Ending::Reset,
            client => client.unwrap_or_else(|error| panic!("connect: {error}")).ending(),
        }
    }

    /// Open descriptors after a small crowd has left. The number must be the same once later clients have left. It
    /// includes what tcplb keeps for reuse, such as a bounded number of pipes.
    #[track_caller]
    pub fn fds_after_a_crowd(&self) -> usize {
        let crowd: Vec<Conn> = (0..100).map(|_| self.connect()).collect();
        for client in &crowd {
            client.say("\n");
        }
        for client in crowd {
            client.hear(1);
        }
        let (mut last, mut looks) = (0, 0);
        eventually("its descriptors are settled", || {
            let_pass(Duration::from_millis(50));
            let now = self.open_fds();
            looks = if now == last { looks + 1 } else { 0 };
            last = now;
            looks == 5
        });
        last
    }

    /// Connects a client and drops it again: the name of the backend it came to.
    #[track_caller]
    pub fn name_of_next(&self) -> String {
        self.connect().hear_line()
    }
}

impl Deref for Running {
    type Target = Process;

    fn deref(&self) -> &Process {
        &self.process
    }
}

impl DerefMut for Running {
    fn deref_mut(&mut self) -> &mut Process {
        &mut self.process
    }
}
