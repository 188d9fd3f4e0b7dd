//! The launcher: a process of its own that starts the next tcplb. Linux only (pidfd_open(2)).
//!
//! The sandbox forbids the balancer to start a program, and the balancer has given up the privileges that the next one needs.
//! So an unconfined process is started before, which does one thing on request. It starts the file at the path of
//! its own start, with the arguments, environment and working directory of that start. A request names
//! nothing. It carries one descriptor, which becomes the standard input of the new process ([`crate::handover`]).
//!
//! | state | event | what follows |
//! |---|---|---|
//! | idle | [`Request`] with a descriptor | the file is started: [`Report::Started`], busy; if it can't be: [`Report::Failed`] |
//! | busy | the same | [`Report::Failed`], if the process does not end within [`ENDING`] |
//! | busy | the request to kill it | the process is killed |
//! | busy | the new process ends | [`Report::Ended`], idle |
//! | any | the balancer ends, or [`Launcher::end`]: its end of the channel closes | the launcher ends; a process that it has started goes on |
//!
//! A process that it has started then becomes a child of the service manager. systemd waits for the end of its own children
//! only: under `KillMode=mixed` it kills any other main process as soon as it stops the unit.
//!
//! The kernel engine has a launcher of its own for its helper ([`crate::kernel::helper`]), which is confined.
//!
//! The launcher ignores SIGHUP, SIGUSR1 and SIGUSR2, since a service manager or `killall` sends them to all processes of a name.

use crate::handover::{Channel, FLAG};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{Shutdown, shutdown};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use serde::{Deserialize, Serialize};
use std::env;
use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{self, Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

/// The subcommand that runs it. It is not for users.
pub const COMMAND: &str = "launcher";

/// How long a message may take: the other end is a process of this machine that waits for it.
const PATIENCE: Duration = Duration::from_secs(5);

/// How long a process that has failed may take to end before the next one is started.
const ENDING: Duration = Duration::from_secs(2);

/// What the balancer asks for. The descriptor comes with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Request {
    /// Start the file.
    Start,
    /// Kill the process that was started: it has not taken over, and may hang.
    Kill,
}

/// What the launcher reports.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Report {
    /// The new process runs.
    Started {
        /// Its number.
        pid: i32,
    },
    /// It could not be started.
    Failed {
        /// Why, with the path.
        why: String,
    },
    /// It has ended.
    Ended {
        /// Its exit status, in words.
        status: String,
    },
}

/// The balancer's side of a launcher.
#[derive(Debug)]
pub struct Launcher {
    /// What messages call it.
    name: &'static str,
    channel: Channel,
    path: PathBuf,
    /// Kept, so that a launcher that has ended is no zombie as long as this lives; reaped at the next request.
    process: Child,
}

impl Launcher {
    /// Starts a launcher. Called before the process gives up privileges, and before it has other threads.
    pub fn start() -> io::Result<Launcher> {
        if process::id() == 1 {
            return Err(io::Error::other(
                "tcplb is process 1, whose end ends the container; another one can take over with --take-over",
            ));
        }
        let path = own_path()?;
        let mut command = Command::new("/proc/self/exe");
        command.arg0(&path).arg(COMMAND).arg(&path).args(env::args_os().skip(1));
        // The manager expects beats from the main process, which is another one after an upgrade.
        command.env_remove(FLAG).env_remove("WATCHDOG_PID");
        Launcher::of(command, path, "the launcher")
    }

    /// The launcher that this command runs ([`serve`]). It starts the file at `path`. `name` is what messages call it.
    pub fn of(mut command: Command, path: PathBuf, name: &'static str) -> io::Result<Launcher> {
        let (ours, theirs) = Channel::pair()?;
        let process = command.stdin(Stdio::from(theirs.into_fd())).spawn()?;
        Ok(Launcher { name, channel: ours, path, process })
    }

    /// The file that it starts.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Has it started with this descriptor as its standard input: the number of the new process, or why it did not start.
    pub fn launch(&mut self, with: OwnedFd) -> Result<i32, String> {
        let until = Instant::now() + PATIENCE;
        let name = self.name;
        let ended = || format!("{name} has ended: restart tcplb to get another");
        let gone = |error: io::Error| match error.kind() {
            io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => ended(),
            _ => format!("{name} does not respond: {error}"),
        };
        // What it reported of an earlier process.
        while self.ended().is_some() {}
        let request = serde_json::to_vec(&Request::Start).map_err(|error| gone(error.into()))?;
        self.channel.send(&request, &[with.as_fd()], until).map_err(gone)?;
        drop(with);
        loop {
            match self.receive(until).map_err(gone)? {
                Some(Report::Started { pid }) => return Ok(pid),
                Some(Report::Failed { why }) => return Err(why),
                Some(Report::Ended { .. }) => {}
                None => {
                    let _ = self.process.try_wait();
                    return Err(ended());
                }
            }
        }
    }

    /// Kills the process that it started last.
    pub fn kill(&self) {
        if let Ok(request) = serde_json::to_vec(&Request::Kill) {
            // A launcher that has ended has no process.
            let _ = self.channel.send(&request, &[], Instant::now() + PATIENCE);
        }
    }

    /// How the process that it started last has ended, if it has.
    pub fn ended(&mut self) -> Option<String> {
        self.ended_by(Instant::now())
    }

    /// As [`Launcher::ended`]; waits for that.
    pub fn ended_by(&mut self, until: Instant) -> Option<String> {
        match self.receive(until) {
            Ok(Some(Report::Ended { status })) => Some(status),
            Ok(Some(Report::Started { .. } | Report::Failed { .. })) | Ok(None) | Err(_) => None,
        }
    }

    /// Ends the launcher, and waits for that. The process that it started last goes on.
    pub fn end(&mut self) {
        // It has ended already if this fails.
        let _ = shutdown(&self.channel, Shutdown::Both);
        if let Ok(handle) = handle_of(&self.process) {
            let _ = poll(&mut [PollFd::new(&handle, PollFlags::IN)], Timespec::try_from(PATIENCE).ok().as_ref());
        }
        let _ = self.process.try_wait();
    }

    fn receive(&self, until: Instant) -> io::Result<Option<Report>> {
        let Some(parcel) = self.channel.receive(until)? else { return Ok(None) };
        Ok(Some(serde_json::from_slice(&parcel.bytes)?))
    }
}

/// The path that this process was started from: as typed, if the file there is the one that runs. A link, as packages have
/// them, may then lead to another version.
fn own_path() -> io::Result<PathBuf> {
    let real = env::current_exe()?;
    let running = File::open("/proc/self/exe")?.metadata()?;
    let typed = PathBuf::from(env::args_os().next().unwrap_or_default());
    let typed = if typed.components().count() > 1 || typed.is_absolute() {
        // Without the `.` of `./tcplb`.
        Some(env::current_dir()?.join(typed).components().collect())
    } else {
        let path = env::var_os("PATH").unwrap_or_default();
        env::split_paths(&path).map(|directory| directory.join(&typed)).find(|file| file.is_file())
    };
    let same = |path: &PathBuf| {
        path.metadata().is_ok_and(|found| (found.dev(), found.ino()) == (running.dev(), running.ino()))
    };
    Ok(typed.filter(same).unwrap_or(real))
}

/// Runs the launcher; `arguments` are those of the process to start. Returns when the balancer has ended.
pub fn run(path: &Path, arguments: &[OsString]) -> Result<(), String> {
    let channel =
        crate::handover::take_stdin().map_err(|error| format!("the launcher is started by tcplb: {error}"))?;
    let ignored = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGHUP, signal_hook::consts::SIGUSR1, signal_hook::consts::SIGUSR2] {
        // A handler, unlike SIG_IGN, does not outlast exec.
        signal_hook::flag::register(signal, ignored.clone())
            .map_err(|error| format!("can't handle signals: {error}"))?;
    }
    let _ = rustix::thread::set_name(c"tcplb-launcher");
    serve(&channel, path, || {
        let mut command = Command::new(path);
        command.args(arguments).env(FLAG, "1");
        command
    })
}

/// Starts this command on request, one process at a time. Returns when the balancer has ended.
pub fn serve(channel: &Channel, path: &Path, command: impl Fn() -> Command) -> Result<(), String> {
    let mut child: Option<(Child, OwnedFd)> = None;
    loop {
        let mut wanted = vec![PollFd::new(channel, PollFlags::IN)];
        wanted.extend(child.as_ref().map(|(_, process)| PollFd::new(process, PollFlags::IN)));
        match poll(&mut wanted, None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(format!("poll: {error}")),
        }
        let has_ended = wanted.get(1).is_some_and(|process| !process.revents().is_empty());
        let is_asked = !wanted[0].revents().is_empty();
        if has_ended && let Some((mut process, _)) = child.take() {
            let status = process.wait().map_or_else(|error| error.to_string(), |status| status.to_string());
            report(channel, &Report::Ended { status });
        }
        if is_asked {
            let Ok(Some(parcel)) = channel.receive(Instant::now()) else { return Ok(()) };
            let started = match (serde_json::from_slice(&parcel.bytes), parcel.descriptors.into_iter().next()) {
                (Ok(Request::Kill), _) => {
                    child.iter_mut().for_each(|(process, _)| drop(process.kill()));
                    continue;
                }
                (Ok(Request::Start), Some(_)) if !has_gone(&mut child) => Err("it runs already".to_owned()),
                (Ok(Request::Start), Some(with)) => start(command(), with),
                (Ok(_), None) | (Err(_), _) => Err("the request is malformed".to_owned()),
            };
            let answer = match started {
                Ok((process, handle)) => {
                    let pid = i32::try_from(process.id()).unwrap_or(0);
                    child = Some((process, handle));
                    Report::Started { pid }
                }
                Err(why) => Report::Failed { why: format!("can't start {}: {why}", path.display()) },
            };
            report(channel, &answer);
        }
    }
}

/// Whether the last process has ended, or does within [`ENDING`].
fn has_gone(child: &mut Option<(Child, OwnedFd)>) -> bool {
    let Some((process, handle)) = child else { return true };
    let time = Timespec::try_from(ENDING).ok();
    let _ = poll(&mut [PollFd::new(handle, PollFlags::IN)], time.as_ref());
    let gone = process.try_wait().is_ok_and(|status| status.is_some());
    if gone {
        *child = None;
    }
    gone
}

fn start(mut command: Command, with: OwnedFd) -> Result<(Child, OwnedFd), String> {
    let mut process = command.stdin(Stdio::from(with)).spawn().map_err(|error| error.to_string())?;
    match handle_of(&process) {
        Ok(handle) => Ok((process, handle)),
        Err(error) => {
            // Its end could not be seen.
            let _ = process.kill();
            let _ = process.wait();
            Err(format!("pidfd_open: {error}"))
        }
    }
}

fn handle_of(process: &Child) -> Result<OwnedFd, Errno> {
    let pid = i32::try_from(process.id()).ok().and_then(Pid::from_raw);
    pid.ok_or(Errno::INVAL).and_then(|pid| pidfd_open(pid, PidfdFlags::empty()))
}

/// A balancer that does not read is about to end.
fn report(channel: &Channel, report: &Report) {
    if let Ok(bytes) = serde_json::to_vec(report) {
        let _ = channel.send(&bytes, &[], Instant::now() + PATIENCE);
    }
}
