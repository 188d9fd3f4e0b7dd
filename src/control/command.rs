//! What may be asked of the control thread.

use super::remote::{Refused, ReloadError, Reloaded};
use crate::config::model::Backend;
use crate::pool::AdminState;
use crossbeam_channel::Sender;
use std::fmt;

/// A change that somebody wants, and where the answer goes. Whoever asked may have given up waiting.
#[derive(Debug)]
pub enum Command {
    /// Read the file again.
    Reload {
        /// Only say what would change.
        dry_run: bool,
        /// What changed.
        answer: Sender<Result<Reloaded, ReloadError>>,
    },
    /// Change the backends of a pool.
    Edit {
        /// How.
        edit: Edit,
        /// Done?
        answer: Sender<Result<(), Refused>>,
    },
}

/// A change of one backend.
#[derive(Clone, Debug)]
pub enum Edit {
    /// Add it.
    Add {
        /// To this pool.
        pool: String,
        /// The backend.
        backend: Backend,
    },
    /// Give it another weight or state.
    Change {
        /// The pool.
        pool: String,
        /// The backend.
        name: String,
        /// The weight, if it changes.
        weight: Option<u16>,
        /// The state, if it changes.
        state: Option<AdminState>,
    },
    /// Take it out.
    Remove {
        /// The pool.
        pool: String,
        /// The backend.
        name: String,
        /// Reset its connections, whatever the pool's `on_remove`.
        force: bool,
    },
}

impl Edit {
    /// The name of the pool that it concerns.
    pub fn pool(&self) -> &str {
        let (Edit::Add { pool, .. } | Edit::Change { pool, .. } | Edit::Remove { pool, .. }) = self;
        pool
    }
}

/// As the log tells it.
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
