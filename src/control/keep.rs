//! The end of a drain under `keep_connections = "restart"`: open connections wait in the service manager's store for the next start,
//! see [`DataPlane::keep`].
//!
//! | state | event | what follows |
//! |---|---|---|
//! | due | no byte moves any more | under way |
//! | due | `shutdown_timeout` is over | under way, overdue |
//! | under way | `shutdown_timeout` is over | overdue |
//! | under way | all are stored that can be | off: the others drain on |
//! | under way, overdue | all are stored that can be | off: the workers reset the others |
//! | any | a second stop | off: the workers reset all that they have |

use super::{ControlLoop, DataPlane};
use crate::config::model::KeepConnections;
use crate::systemd;
use crossbeam_channel::{Receiver, never, tick};
use std::time::{Duration, Instant};

/// How often control looks whether bytes still move.
const LOOK: Duration = Duration::from_millis(50);

/// How far it has come.
#[derive(Default)]
pub(super) enum Keeping {
    /// Connections are not kept, or all that can be are.
    #[default]
    Off,
    /// They are kept once no byte moves.
    Due(Receiver<Instant>),
    /// A thread stores them.
    UnderWay {
        /// Disconnects at the end.
        done: Receiver<()>,
        /// Then the others are reset.
        is_overdue: bool,
    },
}

impl<C: DataPlane> ControlLoop<C> {
    /// The drain begins.
    pub(super) fn plan_keeping(&mut self) {
        let setting = self.parts.config_state.running().global.keep_connections;
        if setting == KeepConnections::Restart && systemd::is_there() {
            self.keeping = Keeping::Due(tick(LOOK));
        }
    }

    /// When to look whether bytes still move, and the end of the thread that stores.
    pub(super) fn keeping(&self) -> (Receiver<Instant>, Receiver<()>) {
        match &self.keeping {
            Keeping::Off => (never(), never()),
            Keeping::Due(look) => (look.clone(), never()),
            Keeping::UnderWay { done, .. } => (never(), done.clone()),
        }
    }

    pub(super) fn keep_if_quiet(&mut self) {
        if self.parts.data_plane.is_quiet() {
            self.keeping = Keeping::UnderWay { done: self.parts.data_plane.keep(), is_overdue: false };
        }
    }

    /// `shutdown_timeout` is over. True: connections are still to be kept.
    pub(super) fn keep_at_last(&mut self) -> bool {
        let done = match std::mem::take(&mut self.keeping) {
            Keeping::Off => return false,
            Keeping::Due(_) => self.parts.data_plane.keep(),
            Keeping::UnderWay { done, .. } => done,
        };
        self.keeping = Keeping::UnderWay { done, is_overdue: true };
        true
    }

    /// All are stored that can be. True: `shutdown_timeout` is over.
    pub(super) fn kept(&mut self) -> bool {
        matches!(std::mem::take(&mut self.keeping), Keeping::UnderWay { is_overdue: true, .. })
    }
}
