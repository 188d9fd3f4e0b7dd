//! Weights that agents change: the next snapshot has them. The running model keeps the configured ones.
//!
//! The prober writes what an agent says to its backend, and `pool/next` reads it. So changes of a moment are one change, and any
//! other change takes them along.

use super::change::Reply;
use super::lookup::Found;
use super::{ControlLoop, DataPlane};
use crate::events::By;
use crate::pool::Resolved;
use crossbeam_channel::{Receiver, at, never};
use std::time::Instant;

impl<C: DataPlane> ControlLoop<C> {
    /// Receives once weights have changed and may be taken, and when the pause after the last change is over.
    pub(super) fn weights(&self) -> (Receiver<()>, Receiver<Instant>) {
        match self.change {
            _ if self.held.is_some() => (never(), never()),
            Some(_) => (never(), never()),
            None if self.weights_pace.due() > Instant::now() => (never(), at(self.weights_pace.due())),
            None => (self.parts.weights.clone(), never()),
        }
    }

    /// Takes the weights that have changed. `runs`: the prober runs.
    pub(super) fn reweighted(&mut self, runs: bool) {
        if !runs {
            self.parts.weights = never();
        }
        if !runs || self.draining {
            return;
        }
        let begun = Instant::now();
        let next = self.parts.config_state.as_it_runs();
        match self.parts.config_state.prepare(next, &Resolved::new(), &Found::new()) {
            Ok(transition) => self.begin(transition, false, Reply::None(By::Health)),
            Err(why) => log::error!("agents have changed weights, which stay as they were: {why}"),
        }
        self.weights_pace.changed(begun);
    }
}
