//! What a predecessor knows of its successor, and what it can do about a failure.
//!
//! | successor | its end | if the hand-over fails |
//! |---|---|---|
//! | launched | the launcher reports it, with the exit status | it is killed: it may hang |
//! | pulls | closes the channel | it sees the closed channel |
//!
//! # A successor that outlives a failure
//!
//! It ends with the connections that it has, and this process stays the main one of its service. systemd kills all that is left of a
//! service once its main process has ended (`KillMode=mixed`), and takes no other main process during a stop.
//!
//! | state of this process | event | what follows |
//! |---|---|---|
//! | serves | a hand-over to a launched successor fails after Running | the successor is a [`Survivor`] |
//! | stops, and its own connections have ended | there is no survivor, or it has ended | this process ends |
//! | the same | the survivor lives | this process waits for its end, for `shutdown_timeout` after the failure and [`ENDING`] at most |
//! | the same | a second stop | this process ends at once |
//! | has handed over to a later successor | its own connections have ended | this process ends: it is not the main one any more |
//!
//! A puller belongs to another service.

use crate::launcher::Launcher;
use crate::systemd;
use crossbeam_channel::Receiver;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use std::fmt;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

/// How long the service manager may take to make room for the message that the main process is another one.
const MANAGER: Duration = Duration::from_secs(2);

/// How long a wait for a report of the launcher lasts, at most.
const LOOK: Duration = Duration::from_millis(100);

/// How long a survivor may take to end once it has reset its connections.
pub const ENDING: Duration = Duration::from_secs(5);

/// The process that takes over.
pub enum Successor<'a> {
    /// The launcher has started it.
    Launched {
        /// The launcher.
        launcher: &'a mut Launcher,
        /// The number of the process.
        pid: i32,
    },
    /// It was started by others, and has connected ([`crate::handover::pull`]).
    Puller {
        /// The number of the process; `None` in another PID namespace.
        pid: Option<i32>,
    },
}

impl Successor<'_> {
    /// How it takes over, for the log.
    pub fn way(&self) -> &'static str {
        match self {
            Successor::Launched { .. } => "upgrade",
            Successor::Puller { .. } => "take-over",
        }
    }

    /// How it has ended, if that is known within this time.
    pub fn status_within(&mut self, time: Duration) -> Option<String> {
        let Successor::Launched { launcher, .. } = self else { return None };
        let until = Instant::now() + time;
        loop {
            let status = launcher.ended_by(until.min(Instant::now() + LOOK));
            if status.is_some() || Instant::now() >= until {
                return status;
            }
        }
    }

    /// Ends it, if this process can: it has not taken over, and may hang.
    pub fn kill(&self) {
        if let Successor::Launched { launcher, .. } = self {
            launcher.kill();
        }
    }

    /// It lives on after a failure, until its last connection has ended. `drain`: how long that may take.
    pub fn survivor(&self, drain: Duration) -> Option<Survivor> {
        let Successor::Launched { pid, .. } = self else { return None };
        let until = Instant::now().checked_add(drain.saturating_add(ENDING))?;
        let process = pidfd_open(Pid::from_raw(*pid)?, PidfdFlags::empty()).ok()?;
        Some(Survivor { process, pid: *pid, until })
    }

    /// It is the main process from now on. A puller belongs to what has started it, and reports to that itself.
    pub fn announce(&mut self) {
        if let Successor::Launched { launcher, pid } = self {
            // Before the message: the manager looks then whether the new main process is its child.
            launcher.end();
            systemd::main_process(*pid);
            systemd::flush(MANAGER);
        }
    }
}

/// A successor that lives after a failure.
#[derive(Debug)]
pub struct Survivor {
    process: OwnedFd,
    pid: i32,
    until: Instant,
}

impl Survivor {
    /// Waits for its end. A stop ends the wait.
    pub fn outlast(&self, stop: &Receiver<()>) {
        if self.ends_within(Duration::ZERO) {
            return;
        }
        log::info!("waits for process {}, which ends with its last connection", self.pid);
        while Instant::now() < self.until && stop.try_recv().is_err() && !self.ends_within(LOOK) {}
    }

    fn ends_within(&self, time: Duration) -> bool {
        let Ok(time) = Timespec::try_from(time) else { return true };
        poll(&mut [PollFd::new(&self.process, PollFlags::IN)], Some(&time)).is_ok_and(|count| count > 0)
    }
}

impl fmt::Display for Successor<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Successor::Launched { pid, .. } | Successor::Puller { pid: Some(pid) } => write!(out, "process {pid}"),
            Successor::Puller { pid: None } => out.write_str("a process of another PID namespace"),
        }
    }
}
