//! How others ask for changes: a handle to the control thread, and what it may answer.
//!
//! Each call but [`Remote::stop`] and [`Remote::reload_soon`] waits until the change is carried out everywhere or refused:
//! on return, clients that connect from now on meet what was asked for. Those two never wait: a stop has a channel of its
//! own, which control reads first, and a reload that is asked for twice before control gets to it is one reload.

use super::command::{Command, Edit};
use crate::config::diff::Changes;
use crate::config::model::{Backend, Model};
use crate::pool::AdminState;
use crossbeam_channel::{Receiver, Sender, bounded};
use std::fmt;
use std::sync::Arc;

/// A handle to the control thread. Clone it freely.
#[derive(Clone, Debug)]
pub struct Remote {
    commands: Sender<Command>,
    stops: Sender<()>,
    reloads: Sender<()>,
    wakes: Sender<()>,
}

/// The receiving side: control's.
pub(super) struct Asked {
    /// Begin to drain; the second time: end now.
    pub stops: Receiver<()>,
    /// Read the file again; the log says what comes of it.
    pub reloads: Receiver<()>,
    /// Come around.
    pub wakes: Receiver<()>,
    /// What is to be answered.
    pub commands: Receiver<Command>,
}

/// Commands that may wait; the sender of one that finds no room waits.
const QUEUE: usize = 64;

pub(super) fn channels() -> (Remote, Asked) {
    let (commands, of_commands) = bounded(QUEUE);
    // A third stop adds nothing to the second, which ends the process.
    let (stops, of_stops) = bounded(2);
    let ((reloads, of_reloads), (wakes, of_wakes)) = (bounded(1), bounded(1));
    let asked = Asked { stops: of_stops, reloads: of_reloads, wakes: of_wakes, commands: of_commands };
    (Remote { commands, stops, reloads, wakes }, asked)
}

/// Why a change of backends was refused; nothing was changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refused {
    /// There is no pool of that name.
    NoPool(String),
    /// The pool has no backend of that name.
    NoBackend {
        /// The pool.
        pool: String,
        /// The name asked for.
        name: String,
    },
    /// The pool has a backend of that name already.
    Exists {
        /// The pool.
        pool: String,
        /// The name asked for.
        name: String,
    },
    /// What was asked for can't be; the text says what, expected, got.
    Invalid(String),
    /// A drain has begun: nothing is changed any more.
    Draining,
    /// tcplb has stopped.
    Gone,
}

/// What a reload did, or would do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reloaded {
    /// What changes.
    pub changes: Changes,
    /// The model as it runs, or would run.
    pub model: Arc<Model>,
}

/// Why a reload was refused; the old configuration goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReloadError {
    /// tcplb was started with flags: there is no file to read again.
    NoFile,
    /// Everything that is wrong with the file, a line each.
    Mistakes(Vec<String>),
    /// An address can't be listened on; the text says which and why.
    CouldNotListen(String),
    /// A drain has begun: nothing is changed any more.
    Draining,
    /// tcplb has stopped.
    Gone,
}

impl Remote {
    /// Begins to drain; the second call ends at once. Does nothing if it is over already.
    pub fn stop(&self) {
        // Full: the second one is on its way already.
        let _ = self.stops.try_send(());
    }

    /// Has the file read again, and the outcome logged.
    pub fn reload_soon(&self) {
        // Full: the file is read later than now in any case.
        let _ = self.reloads.try_send(());
    }

    /// Reads the file again and applies it, all or nothing. `dry_run`: only says what would change.
    pub fn reload(&self, dry_run: bool) -> Result<Changes, ReloadError> {
        self.reload_to_model(dry_run).map(|reloaded| reloaded.changes)
    }

    /// As [`Remote::reload`], with the model that came of it.
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
        self.edit(Edit::Change { pool: pool.to_owned(), name: name.to_owned(), weight, state })
    }

    /// Takes a backend out of its pool. What becomes of its connections is the pool's `on_remove`; with `force` they
    /// are reset at once.
    pub fn remove_backend(&self, pool: &str, name: &str, force: bool) -> Result<(), Refused> {
        self.edit(Edit::Remove { pool: pool.to_owned(), name: name.to_owned(), force })
    }

    /// Makes control come around, without waiting for it.
    pub(super) fn wake(&self) {
        let _ = self.wakes.try_send(());
    }

    fn edit(&self, edit: Edit) -> Result<(), Refused> {
        let (answer, receiver) = bounded(1);
        self.ask(Command::Edit { edit, answer }, &receiver).unwrap_or(Err(Refused::Gone))
    }

    /// `None` if the control thread has ended, before or after it got the command.
    fn ask<T>(&self, command: Command, answer: &Receiver<T>) -> Option<T> {
        self.commands.send(command).ok()?;
        answer.recv().ok()
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Refused::NoPool(name) => write!(out, "there is no pool `{name}`"),
            Refused::NoBackend { pool, name } => write!(out, "pool `{pool}` has no backend `{name}`"),
            Refused::Exists { pool, name } => write!(out, "pool `{pool}` has a backend `{name}` already"),
            Refused::Invalid(why) => out.write_str(why),
            Refused::Draining => out.write_str("tcplb is stopping: nothing is changed any more"),
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
            ReloadError::CouldNotListen(why) => out.write_str(why),
            ReloadError::Draining => Refused::Draining.fmt(out),
            ReloadError::Gone => Refused::Gone.fmt(out),
        }
    }
}

impl std::error::Error for ReloadError {}
