//! A change in flight. The prober gets it first and sets the health bits; then the workers, which adopt it between two
//! events; then readers. Then the command is answered.
//!
//! Control waits for none of them. Meanwhile it handles stops, time-outs and heartbeats, and takes the next command
//! when the change has arrived. A thread that does not take the change up within [`ADOPTION`] gets it when it runs
//! again. The others have it by then, and the command is answered: nothing can undo the change any more.
//!
//! A backend that leaves is withdrawn when the change has arrived, not before: the workers may have no other one until
//! they adopt the change. A worker that is late does not use it any more.

use super::config_state::{Leaving, NewSockets, Transition};
use super::history::StateBefore;
use super::reload::Waiting;
use super::remote::{Refused, Reloaded};
use super::{ControlLoop, DataPlane};
use crate::config::descriptors;
use crate::config::model::{Model, OnRemove};
use crate::events::By;
use crate::logger;
use crate::net::listen;
use crate::pool::{Note, ResetOrder, Snapshot};
use crate::state_file::Saver;
use crossbeam_channel::{Receiver, Sender, after, at, never};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long prober and workers may take for a change before control goes on. A turn of their loop is enough.
pub const ADOPTION: Duration = Duration::from_secs(1);

/// The pause before a full mailbox of the prober is tried again.
const RETRY: Duration = Duration::from_millis(50);

/// The receivers of the answer. A caller may have stopped waiting.
pub enum Reply {
    /// The callers of changes of backends, and the states before that change.
    Edit(Vec<Sender<Result<(), Refused>>>, Vec<StateBefore>),
    /// The callers of a reload, and the log.
    Reload(Vec<Waiting>, Reloaded),
    /// None: the change comes from a source, from names or from agents.
    None(By),
}

/// A change that prober and workers are taking up.
pub struct InFlight {
    phase: ChangePhase,
    until: Instant,
    pub(super) snapshot: Arc<Snapshot>,
    model: Arc<Model>,
    opened: Vec<NewSockets>,
    leaving: Vec<Leaving>,
    /// Reset the connections of backends that leave, whatever the pool's `on_remove` says.
    force: bool,
    pub(super) reply: Reply,
}

enum ChangePhase {
    /// The note, if the mailbox had no room yet, and the channel of the prober's answer.
    Prober(Option<Note>, Receiver<()>),
    /// Disconnects once every worker has the change.
    Workers(Receiver<()>),
}

/// The events that a change in flight waits for.
pub struct Waits {
    /// The thread whose turn it is answers, or its channel disconnects.
    pub answer: Receiver<()>,
    /// A full mailbox is tried again.
    pub retry: Receiver<Instant>,
    /// The time for this phase is over.
    pub over: Receiver<Instant>,
}

impl<C: DataPlane> ControlLoop<C> {
    /// Starts to hand out a prepared change.
    pub(super) fn begin(&mut self, transition: Transition, force: bool, reply: Reply) {
        self.retired.add(self.parts.config_state.snapshot(), &transition.snapshot);
        self.parts.config_state.commit(&transition);
        self.plan_retries();
        self.plan_renewals();
        self.note_refused();
        let Transition { model, snapshot, opened, leaving, closing, share, .. } = transition;
        for NewSockets { address, listener, .. } in &opened {
            let endpoints = listener.addresses.iter().filter(|other| other.id == *address);
            endpoints.for_each(|address| log::info!(target: logger::ALWAYS, "listening on {}", address.endpoint));
        }
        // From here on, new clients find no listener at the old addresses. Workers accept the clients that wait there
        // already.
        listen::remove_files(&closing);
        let connection_limit = self.parts.published.connection_limit();
        if connection_limit.limit() != share.connections {
            match descriptors::capped(share, &model) {
                Some(warning) => log::warn!("{warning}"),
                None => log::info!("serves at most {} clients at once from now on", share.connections),
            }
            connection_limit.set_limit(share.connections);
        }
        let (note, answer) = Note::adopt(snapshot.clone());
        let note = self.parts.prober.offer(note).err();
        let (phase, until) = (ChangePhase::Prober(note, answer), Instant::now() + ADOPTION);
        self.change = Some(InFlight { phase, until, snapshot, model, opened, leaving, force, reply });
    }

    /// The events that the change in flight waits for.
    pub(super) fn waits(&self) -> Waits {
        let Some(change) = &self.change else { return Waits { answer: never(), retry: never(), over: never() } };
        let (answer, retry) = match &change.phase {
            ChangePhase::Prober(Some(_), _) => (never(), after(RETRY)),
            ChangePhase::Prober(None, answer) | ChangePhase::Workers(answer) => (answer.clone(), never()),
        };
        Waits { answer, retry, over: at(change.until) }
    }

    /// Offers the prober its note again.
    pub(super) fn retry(&mut self) {
        if let Some(InFlight { phase: ChangePhase::Prober(note, _), .. }) = &mut self.change {
            *note = note.take().and_then(|note| self.parts.prober.offer(note).err());
        }
    }

    /// Handles the prober's answer, or the disconnect of the channel of the thread whose turn it is.
    pub(super) fn answered(&mut self, answered: bool) {
        match &self.change {
            Some(InFlight { phase: ChangePhase::Prober(..), .. }) => {
                if !answered {
                    log::error!("the prober has ended: health checks stop, and backends keep their state");
                }
                self.hand_to_workers();
            }
            Some(InFlight { phase: ChangePhase::Workers(_), .. }) => self.arrived(),
            None => {}
        }
    }

    /// Handles a thread that has not taken the change up in time.
    pub(super) fn too_late(&mut self) {
        match &self.change {
            Some(InFlight { phase: ChangePhase::Prober(note, _), .. }) => {
                log::warn!("the prober has not taken up a change within {ADOPTION:?}: it does once it responds");
                self.prober_lags |= note.is_some();
                self.hand_to_workers();
            }
            Some(InFlight { phase: ChangePhase::Workers(_), .. }) => {
                log::warn!("a worker has not taken up a change within {ADOPTION:?}: it does once it responds");
                self.arrived();
            }
            None => {}
        }
    }

    /// Gives the change to the workers, whether or not the prober has it.
    pub(super) fn hand_to_workers(&mut self) {
        if let Some(change) = &mut self.change
            && let ChangePhase::Prober(..) = change.phase
        {
            let adopted = self.parts.data_plane.adopt(&change.snapshot, std::mem::take(&mut change.opened));
            (change.phase, change.until) = (ChangePhase::Workers(adopted), Instant::now() + ADOPTION);
        }
    }

    /// Offers the prober the newest snapshot again, if its mailbox was full before.
    pub(super) fn update_prober(&mut self) {
        if self.prober_lags && self.change.is_none() {
            let (note, _) = Note::adopt(self.parts.config_state.snapshot().clone());
            self.prober_lags = self.parts.prober.offer(note).is_err();
        }
    }

    /// Publishes the change and answers: all threads that run have it.
    fn arrived(&mut self) {
        let Some(change) = self.change.take() else { return };
        self.retired.look();
        let file = self.parts.config_state.file().clone();
        self.parts.published.set_discovered(self.parts.config_state.discovered().clone());
        self.parts.published.publish(change.snapshot.clone(), change.model.clone(), file);
        let save = match change.reply {
            // The state file holds neither what agents say nor addresses of names.
            Reply::None(By::Health | By::Names) => |_: &Saver| {},
            Reply::None(By::Discovery(_)) => Saver::save_later,
            _ => Saver::save_soon,
        };
        self.parts.saver.iter().for_each(save);
        self.sampler.begin(&self.parts.published);
        self.record_effects(&change);
        let InFlight { leaving, force, reply, .. } = change;
        let mut now = ResetOrder::default();
        let mut later: Vec<(Duration, ResetOrder)> = Vec::new();
        for Leaving { pool, slot, backend, successor, on_remove } in leaving {
            let left = match successor {
                Some(successor) => backend.reset_order_for(&successor),
                None => {
                    pool.withdraw(slot);
                    backend.reset_order()
                }
            };
            match on_remove {
                _ if force => now.extend(left),
                OnRemove::Keep => {}
                OnRemove::Reset => now.extend(left),
                OnRemove::Drain(time) => match later.iter_mut().find(|(other, _)| *other == time) {
                    Some((_, order)) => order.extend(left),
                    None => later.push((time, left)),
                },
            }
        }
        if !now.is_empty() {
            self.parts.data_plane.reset(&now);
        }
        let started = Instant::now();
        // A time that overflows the clock never comes.
        let timed = |(time, order)| Some((started.checked_add(time)?, order));
        self.cuts.extend(later.into_iter().filter_map(timed));
        match reply {
            Reply::Edit(answers, _) => answers.iter().for_each(|answer| drop(answer.try_send(Ok(())))),
            Reply::Reload(waiting, reloaded) => self.reload_is_over(waiting, Ok(reloaded)),
            Reply::None(_) => {}
        }
    }
}
