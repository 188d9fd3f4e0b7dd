//! The handle through which other threads change the balancer, and the errors it returns.
//!
//! Each call except [`Remote::stop`], [`Remote::reload_soon`] and [`Remote::leave`] waits until the change is in force everywhere or
//! refused. Clients that connect after it returns meet the new state. The first two never wait. A stop has a channel of
//! its own, which control reads first, and reloads requested before control reads the first one become one.

use super::command::{Asking, Command, Edit};
use super::hold::Held;
use crate::config::diff::Changes;
use crate::config::model::{Backend, Model};
use crate::pool::AdminState;
use crossbeam_channel::{Receiver, Sender, bounded, select};
use std::fmt;
use std::sync::Arc;

/// A handle to the control thread; cheap to clone.
#[derive(Clone, Debug)]
pub struct Remote {
    commands: Sender<Command>,
    changes: Sender<Asking>,
    stops: Sender<()>,
    reloads: Sender<()>,
    wakes: Sender<()>,
    /// Disconnected once control has ended.
    ended: Receiver<()>,
}

/// The receiving ends, for control.
pub(super) struct Asked {
    /// The first message begins a drain, unless there is one; the second ends it.
    pub stops: Receiver<()>,
    /// Reloads without an answer; the log reports the outcome.
    pub reloads: Receiver<()>,
    /// Wakes control, for the watchdog.
    pub wakes: Receiver<()>,
    /// Commands with an answer.
    pub commands: Receiver<Command>,
    /// Changes of weights and states, each with a command that says so. Those that wait become one.
    pub changes: Receiver<Asking>,
    /// Dropped at the end of control. Nothing is ever sent.
    pub alive: Sender<()>,
}

/// Commands that may wait; a sender that finds the queue full waits.
const QUEUE: usize = 64;

pub(super) fn channels() -> (Remote, Asked) {
    let ((commands, of_commands), (changes, of_changes)) = (bounded(QUEUE), bounded(QUEUE));
    // The second stop ends the process, so a third one adds nothing.
    let (stops, of_stops) = bounded(2);
    let ((reloads, of_reloads), (wakes, of_wakes), (alive, ended)) = (bounded(1), bounded(1), bounded(0));
    let asked = Asked {
        stops: of_stops,
        reloads: of_reloads,
        wakes: of_wakes,
        commands: of_commands,
        changes: of_changes,
        alive,
    };
    (Remote { commands, changes, stops, reloads, wakes, ended }, asked)
}

/// Why a change of backends was refused. Nothing has changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refused {
    /// There is no pool of that name.
    NoPool(String),
    /// The pool has no backend of that name.
    NoBackend {
        /// The pool's name.
        pool: String,
        /// The backend's name.
        name: String,
    },
    /// The pool has a backend of that name already.
    Exists {
        /// The pool's name.
        pool: String,
        /// The backend's name.
        name: String,
    },
    /// A source found the backend, and would bring it back.
    Discovered {
        /// The pool's name.
        pool: String,
        /// The backend's name.
        name: String,
        /// The label of the source.
        source: String,
    },
    /// The request is invalid; the text says what is wrong and what was expected.
    Invalid(String),
    /// A successor is taking over, and changes are refused until it has or has failed.
    Upgrading,
    /// A drain has begun, and changes are refused.
    Draining,
    /// tcplb has stopped.
    Gone,
}

/// What a reload changed, or would change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reloaded {
    /// All changes.
    pub changes: Changes,
    /// The model in force, or what would be in force.
    pub model: Arc<Model>,
}

/// Why a reload was refused. The old configuration stays in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReloadError {
    /// tcplb was started with flags, so there is no file.
    NoFile,
    /// All mistakes of the file, one a line.
    Mistakes(Vec<String>),
    /// tcplb has not read the file; the text says why.
    NotRead(String),
    /// tcplb can't bind the listeners of the file: the text names the address, the limit or the backend in the way.
    CouldNotListen(String),
    /// A successor is taking over, and changes are refused until it has or has failed.
    Upgrading,
    /// A drain has begun, and changes are refused.
    Draining,
    /// tcplb has stopped.
    Gone,
}

impl Remote {
    /// Begins to drain; the second call ends at once. Does nothing after the end.
    pub fn stop(&self) {
        // Full: the second stop is queued already.
        let _ = self.stops.try_send(());
    }

    /// Requests a reload without waiting; the log reports the outcome.
    pub fn reload_soon(&self) {
        // Full: a queued reload reads the file later than now.
        let _ = self.reloads.try_send(());
    }

    /// Reads the file again and applies it, all or nothing. With `dry_run` only reports what would change.
    pub fn reload(&self, dry_run: bool) -> Result<Changes, ReloadError> {
        self.reload_to_model(dry_run).map(|reloaded| reloaded.changes)
    }

    /// As [`Remote::reload`], with the resulting model.
    pub fn reload_to_model(&self, dry_run: bool) -> Result<Reloaded, ReloadError> {
        let (answer, receiver) = bounded(1);
        self.ask(Command::Reload { dry_run, answer }, &receiver).unwrap_or(Err(ReloadError::Gone))
    }

    /// Adds a backend to a pool.
    pub fn add_backend(&self, pool: &str, backend: Backend) -> Result<(), Refused> {
        self.edit(Edit::Add { pool: pool.to_owned(), backend })
    }

    /// Changes a backend's weight, its state, or both.
    pub fn change_backend(
        &self,
        pool: &str,
        name: &str,
        weight: Option<u16>,
        state: Option<AdminState>,
    ) -> Result<(), Refused> {
        let edit = Edit::Change { pool: pool.to_owned(), name: name.to_owned(), weight, state };
        let (answer, receiver) = bounded(1);
        self.changes.send(Asking { edit, answer }).map_err(|_| Refused::Gone)?;
        self.wait(&receiver).unwrap_or(Err(Refused::Gone))
    }

    /// Removes a backend from its pool. The pool's `on_remove` decides on its connections; `force` resets them at once.
    pub fn remove_backend(&self, pool: &str, name: &str, force: bool) -> Result<(), Refused> {
        self.edit(Edit::Remove { pool: pool.to_owned(), name: name.to_owned(), force })
    }

    /// Makes control stand still while a successor takes over. Fails while a drain, a reload or another upgrade is under way.
    pub fn hold(&self) -> Result<Held, Refused> {
        let (answer, receiver) = bounded(1);
        self.ask(Command::Hold { answer }, &receiver).unwrap_or(Err(Refused::Gone))
    }

    /// Another process serves: control closes the listeners, and ends with the last connection. A drain goes on as it is.
    pub fn leave(&self) {
        // Fails once control has ended.
        let _ = self.commands.send(Command::Leave);
    }

    /// Wakes control without waiting for it.
    pub(super) fn wake(&self) {
        let _ = self.wakes.try_send(());
    }

    fn edit(&self, edit: Edit) -> Result<(), Refused> {
        let (answer, receiver) = bounded(1);
        self.ask(Command::Edit(Asking { edit, answer }), &receiver).unwrap_or(Err(Refused::Gone))
    }

    /// `None` if the control thread has ended, before or after it received the command.
    fn ask<T>(&self, command: Command, answer: &Receiver<T>) -> Option<T> {
        self.commands.send(command).ok()?;
        self.wait(answer)
    }

    /// Control may end before it reads a command, which then stays in the channel with its sender of the answer.
    fn wait<T>(&self, answer: &Receiver<T>) -> Option<T> {
        select! {
            recv(answer) -> answer => answer.ok(),
            recv(self.ended) -> _ => answer.try_recv().ok(),
        }
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Refused::NoPool(name) => write!(out, "there is no pool `{name}`"),
            Refused::NoBackend { pool, name } => write!(out, "pool `{pool}` has no backend `{name}`"),
            Refused::Exists { pool, name } => write!(out, "pool `{pool}` has a backend `{name}` already"),
            Refused::Invalid(why) => out.write_str(why),
            Refused::Discovered { pool, name, source } => write!(
                out,
                "backend {name} of pool {pool} is from discovery by {source}, which would bring it back: remove it there, \
                 or set its state to disabled"
            ),
            Refused::Upgrading => out.write_str("an upgrade is under way: try again once it is over"),
            Refused::Draining => out.write_str("tcplb is stopping and takes no more changes"),
            Refused::Gone => out.write_str("tcplb has stopped"),
        }
    }
}

impl std::error::Error for Refused {}

impl fmt::Display for ReloadError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ReloadError::NoFile => out.write_str("there is no file to read again: tcplb was started with flags"),
            ReloadError::Mistakes(mistakes) => out.write_str(&mistakes.join("\n")),
            ReloadError::NotRead(why) | ReloadError::CouldNotListen(why) => out.write_str(why),
            ReloadError::Upgrading => Refused::Upgrading.fmt(out),
            ReloadError::Draining => Refused::Draining.fmt(out),
            ReloadError::Gone => Refused::Gone.fmt(out),
        }
    }
}

impl std::error::Error for ReloadError {}

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread;

    #[test]
    fn a_command_that_control_has_not_read_at_its_end_is_refused() {
        let (remote, asked) = channels();
        let asks = thread::spawn(move || (remote.hold(), remote));
        while asked.commands.is_empty() {
            thread::yield_now();
        }
        drop(asked);
        let (refused, remote) = asks.join().unwrap();
        assert_eq!(refused.unwrap_err(), Refused::Gone);
        assert_eq!(remote.hold().unwrap_err(), Refused::Gone);
    }
}
