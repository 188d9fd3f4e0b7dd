//! What a source hands over: sets of backends, without what it does not understand.

use super::{BACKENDS_MAX, entry};
use crate::base::text::counted;
use crate::base::{Address, AdminState};
use crossbeam_channel::{Receiver, RecvTimeoutError};
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// Items that were not understood and have a line in the log each, of one answer. One more line counts the others.
const LOGGED: usize = 5;

/// A backend as a source describes it. What it does not say is left to the defaults of the source in the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Its name, unique within the source.
    pub name: String,
    /// Where it listens. A host name is resolved as that of any backend.
    pub address: Address,
    /// Its weight, if the source has one.
    pub weight: Option<u16>,
    /// Its limit, if the source has one.
    pub max_connections: Option<u32>,
    /// Whether it is a backup, if the source says so.
    pub backup: Option<bool>,
    /// What the source allows it to do.
    pub state: AdminState,
}

impl Found {
    /// A backend of which the source says no more.
    pub fn at(name: String, address: Address) -> Found {
        Found { name, address, weight: None, max_connections: None, backup: None, state: AdminState::Enabled }
    }
}

/// One entry of a source's answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    /// What the source calls it: an entry with the same key replaces it.
    pub key: String,
    /// The backend, or why it was not understood.
    pub found: Result<Found, String>,
}

/// The backends of a source, by their keys.
pub type Set = BTreeMap<String, Found>;

/// What the status shows of a source.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// When it last answered; `None`: it has not answered yet.
    pub last_success: Option<SystemTime>,
    /// The backends of its newest set.
    pub backends: usize,
    /// How often it failed, items that were not understood and backends that were refused included.
    pub errors: u64,
    /// The last error, and when.
    pub last_error: Option<(SystemTime, String)>,
    /// It has failed since its last answer.
    pub failing: bool,
    /// Items of its newest answer that were not understood.
    pub misunderstood: usize,
    /// Backends of its newest set that its pool can't have.
    pub refused: usize,
}

impl Standing {
    /// Whether every error is over.
    pub fn is_well(&self) -> bool {
        !self.failing && self.misunderstood == 0 && self.refused == 0
    }

    /// Counts an error.
    pub fn note(&mut self, why: String) {
        self.errors += 1;
        self.last_error = Some((SystemTime::now(), why));
    }
}

/// Takes the sets of a source.
pub trait HandOver: Send {
    /// Hands over a set.
    fn hand_over(&self, set: &Arc<Set>);

    /// Gives up the set that was handed over last, if it was not taken. So a change need not copy it: another one follows.
    fn take_back(&self) {}
}

impl<F: Fn(&Arc<Set>) + Send> HandOver for F {
    fn hand_over(&self, set: &Arc<Set>) {
        self(set);
    }
}

/// What a source hands its answers to.
pub struct Feed {
    /// Pool and label, for the log.
    name: String,
    /// Whether an empty answer empties the set.
    clears: bool,
    set: Arc<Set>,
    /// Keys whose last items were not understood, with the reason that was logged.
    misunderstood: BTreeMap<String, String>,
    /// The source has no backend that is understood, and the set stays as it was.
    keeps: bool,
    standing: Arc<Mutex<Standing>>,
    hand_over: Box<dyn HandOver>,
    /// Disconnected: the source is removed.
    stopped: Receiver<()>,
}

impl Feed {
    /// A feed that hands sets to `hand_over`. `set` is what was handed over before; `stopped` disconnects at the end.
    pub fn new(
        name: String,
        clears: bool,
        set: Arc<Set>,
        standing: Arc<Mutex<Standing>>,
        stopped: Receiver<()>,
        hand_over: Box<dyn HandOver>,
    ) -> Feed {
        Feed { name, clears, set, misunderstood: BTreeMap::new(), keeps: false, standing, hand_over, stopped }
    }

    /// The source has answered with all that it has.
    pub fn replace(&mut self, items: Vec<Item>) -> Result<(), String> {
        if items.len() > BACKENDS_MAX {
            return Err(format!("answered with {} backends; at most {BACKENDS_MAX} are taken", items.len()));
        }
        let gone: Vec<String> = {
            let keys: BTreeSet<&String> = items.iter().map(|item| &item.key).collect();
            self.misunderstood.retain(|key, _| keys.contains(key));
            self.set.keys().filter(|key| !keys.contains(key)).cloned().collect()
        };
        self.apply(items, &gone);
        Ok(())
    }

    /// Some entries have changed, others are gone; all others are as they were.
    pub fn change(&mut self, changed: Vec<Item>, gone: &[String]) -> Result<(), String> {
        let mut gone = gone.to_vec();
        if self.keeps {
            // The source has none of them any more.
            gone.extend(self.set.keys().cloned());
        }
        let known = |key: &String| self.set.contains_key(key) || self.misunderstood.contains_key(key);
        let new = changed.iter().filter(|item| !known(&item.key)).count();
        let lost = gone.iter().filter(|key| known(key)).count();
        if self.set.len() + self.misunderstood.len() + new > BACKENDS_MAX + lost {
            return Err(format!("has more than {BACKENDS_MAX} backends"));
        }
        self.apply(changed, &gone);
        Ok(())
    }

    /// The source has answered that nothing has changed.
    pub fn answered(&mut self) {
        let mut standing = self.standing.lock();
        standing.last_success = Some(SystemTime::now());
        standing.misunderstood = self.misunderstood.len();
        if std::mem::take(&mut standing.failing) {
            drop(standing);
            log::info!("{}: answers again", self.name);
        }
    }

    /// Whether the source is removed: its function returns soon.
    pub fn is_stopped(&self) -> bool {
        !self.wait(Duration::ZERO)
    }

    /// Waits this long; false as soon as the source is removed.
    pub fn wait(&self, time: Duration) -> bool {
        matches!(self.stopped.recv_timeout(time), Err(RecvTimeoutError::Timeout))
    }

    /// Disconnects when the source is removed: for sources that wait for several things.
    pub fn stopped(&self) -> &Receiver<()> {
        &self.stopped
    }

    /// For the log: `pool web: discovery by etcd`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The backends as they were last handed over.
    pub fn set(&self) -> &Set {
        &self.set
    }

    /// Takes changed items and removes keys. Keys that are in both stay.
    fn apply(&mut self, changed: Vec<Item>, gone: &[String]) {
        let mut edits: BTreeMap<String, Option<Found>> = gone.iter().map(|key| (key.clone(), None)).collect();
        gone.iter().for_each(|key| drop(self.misunderstood.remove(key)));
        let mut reasons = Vec::new();
        for Item { key, found } in changed {
            match found {
                Ok(found) => {
                    self.misunderstood.remove(&key);
                    edits.insert(key, Some(found));
                }
                Err(why) => {
                    // Its key keeps what it had, or what this same answer said before.
                    if edits.get(&key).is_some_and(Option::is_none) {
                        edits.remove(&key);
                    }
                    if self.misunderstood.get(&key) != Some(&why) {
                        reasons.push((key.clone(), why.clone()));
                        self.misunderstood.insert(key, why);
                    }
                }
            }
        }
        edits.retain(|key, found| self.set.get(key) != found.as_ref());
        let stays = edits.values().any(Option::is_some) || self.set.keys().any(|key| !edits.contains_key(key));
        self.report(reasons);
        // Items that are not understood are no empty answer: they never remove a backend.
        let may_empty = self.set.is_empty() || self.clears && self.misunderstood.is_empty();
        if !stays && !may_empty {
            return self.keep();
        }
        self.keeps = false;
        if !edits.is_empty() {
            self.hand_over.take_back();
            let set = Arc::make_mut(&mut self.set);
            for (key, found) in edits {
                match found {
                    Some(found) => drop(set.insert(key, found)),
                    None => drop(set.remove(&key)),
                }
            }
            self.standing.lock().backends = self.set.len();
            self.answered();
            self.hand_over.hand_over(&self.set);
        } else {
            self.answered();
        }
    }

    /// The source has no backend now, and its set stays.
    fn keep(&mut self) {
        if !std::mem::replace(&mut self.keeps, true) {
            let why = match self.clears {
                true => "no entry of the answer is understood",
                false => "the answer is empty, and on_empty is keep",
            };
            log::warn!("{}: it keeps its {}: {why}", self.name, counted(self.set.len(), "backend"));
        }
        self.answered();
    }

    fn report(&self, reasons: Vec<(String, String)>) {
        let Some((key, why)) = reasons.last() else { return };
        {
            let mut standing = self.standing.lock();
            standing.note(format!("{}: {why}", entry::shown(key)));
            standing.errors += reasons.len() as u64 - 1;
        }
        for (key, why) in reasons.iter().take(LOGGED) {
            let stays = if self.set.contains_key(key) { "it stays as it was" } else { "it is left out" };
            log::warn!("{}: {}: {why}; {stays}", self.name, entry::shown(key));
        }
        if reasons.len() > LOGGED {
            log::warn!("{}: {} more entries are not understood", self.name, reasons.len() - LOGGED);
        }
    }
}

#[cfg(test)]
mod tests;
