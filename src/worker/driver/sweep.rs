//! Changes that concern every connection: a new snapshot, and orders to reset the connections of backends.
//!
//! There may be a hundred thousand connections, so a sweep goes through the table in slices. The worker relays between two
//! slices.
//!
//! | connection | takes the change |
//! |---|---|
//! | a client that waits for a backend | at once, in the order of its queue. So later clients stand behind it, and `max_queue` bounds the work |
//! | any other one that was there before | when the sweep comes to it |
//! | one that begins meanwhile | has the newest snapshot from its beginning, and no order to reset means it |
//!
//! One sweep goes on, and at most one waits. A further change joins the one that waits. So each sweep ends, however many
//! changes come. What a sweep hands out is always the newest snapshot.

use super::{Driver, Net};
use crate::base::Tick;
use crate::base::slots::Key;
use crate::pool::{ResetOrder, Snapshot};
use crate::session::{CloseReason, Input, Ledger, Stage};
use crossbeam_channel::Sender;
use std::ops::Range;
use std::sync::Arc;

/// A walk through the table.
#[derive(Debug, Default)]
struct Sweep {
    /// The slots that it has not come to.
    slots: Range<u32>,
    /// When its changes came.
    since: Tick,
    /// There is a new snapshot.
    adopts: bool,
    reset: ResetOrder,
    /// Dropped at the end.
    done: Option<Sender<()>>,
}

/// The sweep that goes on, and the one behind it.
#[derive(Debug, Default)]
pub(super) struct Sweeps {
    current: Option<Sweep>,
    next: Option<Sweep>,
}

impl Sweeps {
    /// Whether there is work.
    pub(super) fn is_due(&self) -> bool {
        self.current.is_some()
    }
}

impl<N: Net, L: Ledger> Driver<N, L> {
    /// Takes `snapshot`. Waiting clients go into the queues of their pools there, in their order, and get turns at once: there
    /// may be new backends. [`Driver::sweep`] hands it to the others, and then drops `done`.
    pub fn adopt(&mut self, snapshot: &Snapshot, done: Option<Sender<()>>) {
        let mut waiting = self.queues.take_all();
        while let Some(key) = self.queues.next_moved(&mut waiting) {
            self.step(key, Input::Adopt(snapshot));
        }
        self.queues.hint_all();
        self.begin_sweep(Sweep { adopts: true, done, ..Sweep::default() });
    }

    /// Has [`Driver::sweep`] reset these connections. One that is still being dialled goes to another backend: its client has
    /// lost no byte yet.
    pub fn reset_backends(&mut self, order: ResetOrder) {
        self.begin_sweep(Sweep { reset: order, ..Sweep::default() });
    }

    fn begin_sweep(&mut self, change: Sweep) {
        let mut next = self.sweeps.next.take().unwrap_or_default();
        next.adopts |= change.adopts;
        next.reset.extend(change.reset);
        next.done = change.done.or(next.done);
        (next.slots, next.since) = (0..self.connections.slots(), self.now);
        let free = if self.sweeps.is_due() { &mut self.sweeps.next } else { &mut self.sweeps.current };
        *free = Some(next);
    }

    /// Goes on until all connections have all changes, or the slice `is_over`, which is asked after each connection. `snapshot` is
    /// the newest one.
    pub fn sweep(&mut self, snapshot: &Snapshot, mut is_over: impl FnMut() -> bool) {
        while let Some(mut sweep) = self.sweeps.current.take() {
            while let Some(slot) = sweep.slots.next() {
                let Some(key) = self.connections.key_of(slot) else { continue };
                self.visit_in(&sweep, key, snapshot);
                if is_over() && !sweep.slots.is_empty() {
                    self.sweeps.current = Some(sweep);
                    return;
                }
            }
            self.sweeps.current = self.sweeps.next.take();
        }
    }

    fn visit_in(&mut self, sweep: &Sweep, key: Key, snapshot: &Snapshot) {
        let Some(session) = self.connections.get(key).map(|connection| &connection.session) else { return };
        let (stage, was_there) = (session.stage(), session.started() <= sweep.since);
        if sweep.adopts && stage != Stage::Waiting {
            self.step(key, Input::Adopt(snapshot));
        } else if sweep.adopts {
            self.move_queue(key, snapshot);
        }
        if was_there && !sweep.reset.is_empty() {
            self.step(key, Input::ResetBackends { order: &sweep.reset, reason: CloseReason::Forced });
        }
    }

    /// A client whose dial has failed since the snapshot came may wait for a pool of the one before.
    fn move_queue(&mut self, key: Key, snapshot: &Snapshot) {
        let Some(pool) = self.connections.get(key).map(|connection| connection.session.pool().clone()) else { return };
        if snapshot.pool(&pool.settings.name).is_none_or(|newest| !Arc::ptr_eq(newest, &pool)) {
            self.queues.leave(&pool, key);
            self.step_moved(key, Input::Adopt(snapshot));
        }
    }
}
