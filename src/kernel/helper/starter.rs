//! Starts helpers: a launcher ([`crate::launcher`]) that is confined as the helper is.
//!
//! The balancer can start no program once it is confined. A helper may end before it: an operator kills it, or the kernel does for
//! lack of memory. So a small process stays beside it, which starts `kernel-helper` on request, and ends the one before. It has what a
//! helper needs, and nothing more.

use super::wire::Failure;
use super::{COMMAND, Entries, Line, Options, PATIENCE, Tables};
use crate::confine::{NotConfined, check_net_admin, confine_to_net_admin};
use crate::handover::{self, Channel};
use crate::launcher::{self, Launcher};
use crate::watchdog::Heartbeat;
use std::ffi::OsString;
use std::io;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

/// The subcommand that runs it. It is not for users.
pub const STARTER: &str = "kernel-starter";

/// This program, even if another version has taken its path.
const SELF: &str = "/proc/self/exe";

/// The balancer's side.
#[derive(Debug)]
pub struct Starter {
    launcher: Launcher,
    /// The number of the helper that it has started last.
    last: u64,
}

impl Starter {
    /// Starts it. Called before the process gives up privileges, and before it has other threads.
    pub(super) fn start(options: &Options<'_>) -> Result<Starter, Failure> {
        check_net_admin().map_err(Failure::Privilege)?;
        let mut command = Command::new(SELF);
        command.arg(STARTER).args(options.arguments());
        let launcher = Launcher::of(command, PathBuf::from(SELF), "the process that starts helpers").map_err(lost)?;
        Ok(Starter { launcher, last: 0 })
    }

    /// Starts a helper, and waits until it has checked what it needs. One that runs is ended. An answer about the table may take
    /// as long as `patience`, and `heartbeat` shows that the thread waits for it.
    pub fn helper(&mut self, patience: Duration, heartbeat: &Heartbeat) -> Result<(Tables, Entries), Failure> {
        let (ours, theirs) = Channel::pair().map_err(lost)?;
        let (our_second, their_second) = Channel::pair().map_err(lost)?;
        self.launcher.kill();
        let pid = self.launcher.launch(theirs.into_fd()).map_err(Failure::Lost)?;
        ours.send(b"entries", &[their_second.as_fd()], Instant::now() + PATIENCE).map_err(lost)?;
        drop(their_second);
        self.last += 1;
        let mut tables = Tables { line: Line::new(ours), pid, number: self.last };
        tables.await_with(patience, heartbeat);
        tables.line.receive::<()>()?;
        Ok((tables, Entries { line: Line::new(our_second), number: self.last }))
    }
}

fn lost(error: io::Error) -> Failure {
    Failure::Lost(error.to_string())
}

/// Runs it. Returns when the balancer has ended.
pub fn run(options: &Options<'_>) -> Result<(), String> {
    let of_others = |error| format!("it is started by tcplb: {error}");
    let channel = handover::take_stdin().map_err(of_others)?;
    super::process::ignore_signals()?;
    let _ = rustix::thread::set_name(c"tcplb-starter");
    let Options { user, group, sandbox } = *options;
    confine_to_net_admin(user, group, sandbox).map_err(|why| match why {
        NotConfined::Capability(account) => Failure::Privilege(account).to_string(),
        NotConfined::Other(why) => why,
    })?;
    let arguments: Vec<OsString> = options.arguments();
    launcher::serve(&channel, &PathBuf::from(SELF), || {
        let mut command = Command::new(SELF);
        command.arg(COMMAND).args(&arguments);
        command
    })
}
