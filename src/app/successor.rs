//! What a predecessor knows of its successor, and what it can do about a failure.
//!
//! | successor | its end | if the hand-over fails |
//! |---|---|---|
//! | launched | the launcher reports it, with the exit status | it is killed: it may hang |
//! | pulls | closes the channel | it sees the closed channel |

use crate::launcher::Launcher;
use crate::systemd;
use std::fmt;
use std::time::{Duration, Instant};

/// How long the service manager may take to make room for the message that the main process is another one.
const MANAGER: Duration = Duration::from_secs(2);

/// How long a wait for a report of the launcher lasts, at most.
const LOOK: Duration = Duration::from_millis(100);

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

impl fmt::Display for Successor<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Successor::Launched { pid, .. } | Successor::Puller { pid: Some(pid) } => write!(out, "process {pid}"),
            Successor::Puller { pid: None } => out.write_str("a process of another PID namespace"),
        }
    }
}
