//! The commands of the control thread.

use super::hold::Held;
use super::remote::{Refused, ReloadError, Reloaded};
use crate::config::model::Backend;
use crate::pool::AdminState;
use crossbeam_channel::Sender;
use std::fmt;

/// A command and the channel for its answer. The caller may have stopped waiting.
#[derive(Debug)]
pub enum Command {
    /// Read the file again.
    Reload {
        /// Only report what would change.
        dry_run: bool,
        /// Receives what changed.
        answer: Sender<Result<Reloaded, ReloadError>>,
    },
    /// Stand still while a successor takes over.
    Hold {
        /// Receives the state that does not change meanwhile.
        answer: Sender<Result<Held, Refused>>,
    },
    /// Another process serves: close the listeners, and end with the last connection.
    Leave,
    /// Add a backend to a pool, or remove one.
    Edit(Asking),
}

/// A change of one backend that a caller waits for.
#[derive(Debug)]
pub struct Asking {
    /// The change.
    pub edit: Edit,
    /// Receives the result, once every thread has the change.
    pub answer: Sender<Result<(), Refused>>,
}

/// A change of one backend.
#[derive(Clone, Debug)]
pub enum Edit {
    /// Add it.
    Add {
        /// The pool's name.
        pool: String,
        /// The new backend.
        backend: Backend,
    },
    /// Change its weight, its state, or both.
    Change {
        /// The pool's name.
        pool: String,
        /// The backend's name.
        name: String,
        /// The weight, if it changes.
        weight: Option<u16>,
        /// The state, if it changes.
        state: Option<AdminState>,
    },
    /// Remove it.
    Remove {
        /// The pool's name.
        pool: String,
        /// The backend's name.
        name: String,
        /// Reset its connections, whatever the pool's `on_remove` says.
        force: bool,
    },
}

impl Edit {
    /// The name of the pool it changes.
    pub fn pool(&self) -> &str {
        let (Edit::Add { pool, .. } | Edit::Change { pool, .. } | Edit::Remove { pool, .. }) = self;
        pool
    }
}

/// The text of the log line.
impl fmt::Display for Edit {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Edit::Add { pool, backend } => {
                let Backend { name, address, weight, .. } = backend;
                write!(out, "pool {pool}: backend {name} added: {address}, weight {weight}")
            }
            Edit::Change { pool, name, weight, state } => {
                write!(out, "pool {pool}: backend {name} changed:")?;
                if let Some(weight) = weight {
                    write!(out, " weight {weight}")?;
                }
                if let Some(state) = state {
                    write!(out, " {}", state.word())?;
                }
                Ok(())
            }
            Edit::Remove { pool, name, force } => {
                write!(
                    out,
                    "pool {pool}: backend {name} removed{}",
                    if *force { ", its connections reset" } else { "" }
                )
            }
        }
    }
}
