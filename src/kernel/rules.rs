//! The rules in the kernel, by way of the helper: reads them, and makes them what is wanted.
//!
//! A helper that has ended is replaced before the next reading ([`Starter`]).
//!
//! # What nft refuses
//!
//! The rules of one listener may be more than the kernel can do. nft then refuses the whole transaction. So all listeners whose
//! rules would change are held ([`super::change`]), and the rest is carried out: backends, and the maps of pools. Then each listener's
//! rules are tried alone. Those that are refused stay held, and keep what they had, until all is tried again
//! ([`Ruleset::try_all`]). At the start nothing is tried alone: the start fails.

use super::change::{Difference, difference_but, installed_but};
use super::entries::Desk;
use super::helper::{ANSWER, Failure, Starter, Tables};
use super::plan::{Planner, Wanted};
use super::table::{ChainId, Installed, Table};
use crate::watchdog::Heartbeat;
use crossbeam_channel::Sender;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

/// The most elements of a transaction that can be divided: as many as the largest map has, and half as many again.
const ELEMENTS_MAX: usize = 1_000_000;

/// How long the start waits for a transaction: as long as for an answer, and a second for so many elements. nft has less.
const ELEMENTS_PER_SECOND: usize = 20_000;

/// What the start gets.
pub(super) enum First {
    /// A transaction begins, which may take this much longer than a short one.
    Takes(Duration),
    /// The outcome.
    Done(Result<(), String>),
}

/// The rules, and the helper that changes them.
pub(super) struct Ruleset {
    starter: Starter,
    tables: Tables,
    desk: Arc<Desk>,
    heartbeat: Heartbeat,
    /// How long the helper may take for an answer.
    patience: Duration,
    /// Made of what was installed first.
    planner: Option<Planner>,
    /// What is installed; `None`: that must be read first.
    installed: Option<Installed>,
    /// The chains that are held, and why.
    held: BTreeMap<ChainId, String>,
    /// Where the start waits for the first rules.
    pub(super) first: Option<Sender<First>>,
}

/// What was done.
pub(super) struct Brought {
    /// What the rules are, but for listeners that are refused.
    pub(super) table: Table,
    /// How many changes were carried out, in which time of nft.
    pub(super) changes: usize,
    pub(super) took: Duration,
    /// The rules of some listeners are refused.
    pub(super) refused: Option<Failure>,
}

/// Why a difference was not carried out. `partly`: a part of it was.
struct Broken {
    failure: Failure,
    partly: bool,
}

impl From<Failure> for Broken {
    fn from(failure: Failure) -> Broken {
        Broken { failure, partly: false }
    }
}

impl Ruleset {
    pub(super) fn new(
        starter: Starter,
        mut tables: Tables,
        desk: Arc<Desk>,
        heartbeat: Heartbeat,
        first: Option<Sender<First>>,
    ) -> Ruleset {
        tables.await_with(ANSWER, &heartbeat);
        let (planner, installed, held) = (None, None, BTreeMap::new());
        Ruleset { starter, tables, desk, heartbeat, patience: ANSWER, planner, installed, held, first }
    }

    /// An answer may take this long from now on.
    pub(super) fn set_patience(&mut self, patience: Duration) {
        self.patience = patience;
        self.tables.await_with(patience, &self.heartbeat);
    }

    /// Is known what is installed?
    pub(super) fn is_known(&self) -> bool {
        self.installed.is_some()
    }

    /// What is installed must be read first.
    pub(super) fn forget(&mut self) {
        self.installed = None;
    }

    /// Are rules of listeners refused?
    pub(super) fn has_refused(&self) -> bool {
        !self.held.is_empty()
    }

    /// The rules of listeners that are refused are tried again.
    pub(super) fn try_all(&mut self) {
        self.held.clear();
    }

    /// For the plans.
    pub(super) fn planner(&mut self) -> Option<&mut Planner> {
        self.planner.as_mut()
    }

    /// Reads what is installed. Whether it leads clients anywhere.
    pub(super) fn look_at_first(&mut self) -> Result<bool, Failure> {
        let installed = self.read()?;
        let serves = !installed.binds.is_empty();
        self.installed = Some(installed);
        Ok(serves)
    }

    /// Whether the rules are still the installed ones; `None`: these are not known.
    pub(super) fn look(&mut self) -> Option<Result<bool, Failure>> {
        self.installed.as_ref().map(|installed| self.tables.look(installed))
    }

    /// The helper of this number does not answer about connections. The failure that follows, if it is the present one.
    pub(super) fn give_up(&mut self, number: u64) -> Option<Failure> {
        if number != self.tables.number() || self.tables.is_given_up() {
            return None;
        }
        Some(match self.tables.hold() {
            Err(failure) => failure,
            Ok(()) => self.tables.give_up("it does not answer about connections"),
        })
    }

    /// Another process may keep the rules.
    pub(super) fn release(&mut self) {
        // The name is free in any case once the helper has ended.
        let _ = self.tables.release();
        self.installed = None;
    }

    /// Makes the rules what is wanted.
    pub(super) fn bring(&mut self, wanted: &Wanted<'_>) -> Result<Brought, Failure> {
        let installed = match self.installed.take() {
            Some(installed) => installed,
            None => self.read()?,
        };
        let table = self.planner.get_or_insert_with(|| Planner::adopt(&installed)).plan(wanted);
        let mut brought = Brought { table, changes: 0, took: Duration::ZERO, refused: None };
        self.held.retain(|id, _| brought.table.chains.contains_key(id));
        let held = self.held.keys().copied().collect();
        let installed = match self.carry_out(&installed, &held, &mut brought) {
            Ok(installed) => installed,
            Err(broken) if matches!(broken.failure, Failure::Nft(_)) && self.first.is_none() => {
                self.isolate(installed, broken, &mut brought)?
            }
            Err(broken) => return Err(broken.failure),
        };
        self.installed = Some(installed);
        brought.refused = self.refused(&brought.table);
        Ok(brought)
    }

    /// Carries out what nft does not refuse. Fails if that is not for the rules of listeners.
    fn isolate(&mut self, installed: Installed, broken: Broken, brought: &mut Brought) -> Result<Installed, Failure> {
        let mut installed = if broken.partly { self.tables.read()? } else { installed };
        let chains = brought.table.chains.iter();
        let changed = chains.filter(|(id, chain)| installed.chains.get(id) != Some(&chain.installed(**id)));
        let mut held: BTreeSet<ChainId> = changed.map(|(id, _)| *id).collect();
        if held.is_empty() {
            return Err(broken.failure);
        }
        self.held.clear();
        installed = self.carry_out(&installed, &held, brought).map_err(|broken| broken.failure)?;
        for id in held.clone() {
            held.remove(&id);
            match self.carry_out(&installed, &held, brought) {
                Ok(after) => installed = after,
                Err(Broken { failure: Failure::Nft(why), partly }) => {
                    held.insert(id);
                    self.held.insert(id, why);
                    if partly {
                        installed = self.tables.read()?;
                    }
                }
                Err(broken) => return Err(broken.failure),
            }
        }
        Ok(installed)
    }

    /// Makes of what is installed what is wanted, but for chains that are held. What is installed then.
    fn carry_out(
        &mut self,
        installed: &Installed,
        held: &BTreeSet<ChainId>,
        brought: &mut Brought,
    ) -> Result<Installed, Broken> {
        let difference: Difference = difference_but(installed, &brought.table, held);
        let mut partly = false;
        for transaction in difference.transactions(ELEMENTS_MAX) {
            if let Some(first) = &self.first {
                let elements: usize = transaction.iter().map(super::Change::elements).sum();
                let more = Duration::from_secs((elements / ELEMENTS_PER_SECOND) as u64);
                let _ = first.try_send(First::Takes(more));
            }
            let took = self.tables.apply(&transaction).map_err(|failure| Broken { failure, partly })?;
            partly = true;
            brought.changes += transaction.len();
            brought.took += took;
        }
        Ok(installed_but(installed, &brought.table, held))
    }

    /// The listeners that are held.
    fn refused(&self, table: &Table) -> Option<Failure> {
        let named = |(id, why): (&ChainId, &String)| Some((table.chains.get(id)?.label.to_string(), why.clone()));
        // A listener may have a chain of each family.
        let listeners: BTreeMap<String, String> = self.held.iter().filter_map(named).collect();
        (!listeners.is_empty()).then(|| Failure::Listeners(listeners.into_iter().collect()))
    }

    /// Reads what is installed. A helper that has ended is replaced before.
    fn read(&mut self) -> Result<Installed, Failure> {
        if let Err(failure) = self.tables.hold() {
            let Failure::Gone(_) = failure else { return Err(failure) };
            let (tables, entries) = self.starter.helper(self.patience, &self.heartbeat)?;
            log::info!("another helper of the kernel engine runs: process {}", tables.pid());
            self.tables = tables;
            self.desk.renew(entries);
            self.tables.hold()?;
        }
        self.tables.read()
    }
}

/// Tries until it succeeds. No attempt begins later than `time` after the first one, or once there is no helper.
pub(super) fn persist(
    time: Duration,
    pause: Duration,
    mut attempt: impl FnMut() -> Result<(), Failure>,
) -> Result<(), Failure> {
    let until = Instant::now() + time;
    loop {
        match attempt() {
            Err(failure) if !matches!(failure, Failure::Lost(_)) && Instant::now() + pause < until => {
                thread::sleep(pause);
            }
            outcome => return outcome,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_is_tried_again_until_nft_is_free() {
        let mut outcomes = vec![Ok(()), Err(Failure::TimedOut), Err(Failure::Nft("busy".to_owned()))];
        let closed = persist(Duration::from_secs(60), Duration::ZERO, || outcomes.pop().unwrap());
        assert_eq!((closed, outcomes.len()), (Ok(()), 0));
    }

    #[test]
    fn the_end_is_given_up_in_time_and_without_a_helper() {
        let busy = || Err(Failure::TimedOut);
        assert_eq!(persist(Duration::from_millis(20), Duration::from_millis(1), busy), Err(Failure::TimedOut));
        let (mut attempts, gone) = (0, Failure::Lost("it has ended".to_owned()));
        let closed = persist(Duration::from_secs(60), Duration::ZERO, || {
            attempts += 1;
            Err(gone.clone())
        });
        assert_eq!((closed, attempts), (Err(gone.clone()), 1));
    }
}
