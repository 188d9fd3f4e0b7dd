//! What a source hands over: sets of backends, without what it does not understand.

use super::BACKENDS_MAX;
use crate::base::{Address, AdminState};
use crossbeam_channel::{Receiver, RecvTimeoutError};
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

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
    /// How often it failed, items that were not understood included.
    pub errors: u64,
    /// The last error, and when.
    pub last_error: Option<(SystemTime, String)>,
    /// Whether the last error is over.
    pub is_well: bool,
}

/// What a source hands its answers to.
pub struct Feed {
    /// Pool and label, for the log.
    name: String,
    /// Whether an empty answer empties the set.
    clears: bool,
    set: Set,
    /// Keys whose last items were not understood, with the reason that was logged.
    misunderstood: BTreeMap<String, String>,
    /// An empty answer was logged; the next one that is not empty ends that.
    empty: bool,
    standing: Arc<Mutex<Standing>>,
    hand_over: Box<dyn Fn(&Set) + Send>,
    /// Disconnected: the source is removed.
    stopped: Receiver<()>,
}

impl Feed {
    /// A feed that hands sets to `hand_over`. `set` is what was handed over before; `stopped` disconnects at the end.
    pub fn new(
        name: String,
        clears: bool,
        set: Set,
        standing: Arc<Mutex<Standing>>,
        stopped: Receiver<()>,
        hand_over: Box<dyn Fn(&Set) + Send>,
    ) -> Feed {
        Feed { name, clears, set, misunderstood: BTreeMap::new(), empty: false, standing, hand_over, stopped }
    }

    /// The source has answered with all that it has.
    pub fn replace(&mut self, items: Vec<Item>) -> Result<(), String> {
        if items.len() > BACKENDS_MAX {
            return Err(format!("answered with {} backends; at most {BACKENDS_MAX} are taken", items.len()));
        }
        if items.is_empty() && !self.clears {
            self.keep_on_empty();
            return Ok(());
        }
        let keys: BTreeSet<&String> = items.iter().map(|item| &item.key).collect();
        let mut set = self.set.clone();
        set.retain(|key, _| keys.contains(key));
        self.misunderstood.retain(|key, _| keys.contains(key));
        self.take(set, items);
        Ok(())
    }

    /// Some entries have changed, others are gone; all others are as they were.
    pub fn change(&mut self, changed: Vec<Item>, gone: &[String]) -> Result<(), String> {
        let mut set = self.set.clone();
        for key in gone {
            set.remove(key);
            self.misunderstood.remove(key);
        }
        if set.is_empty() && changed.is_empty() && !self.clears {
            self.keep_on_empty();
            return Ok(());
        }
        if set.len() + changed.len() > BACKENDS_MAX {
            return Err(format!("has more than {BACKENDS_MAX} backends"));
        }
        self.take(set, changed);
        Ok(())
    }

    /// The source has answered that nothing has changed.
    pub fn answered(&mut self) {
        let mut standing = self.standing.lock();
        standing.last_success = Some(SystemTime::now());
        standing.is_well = self.misunderstood.is_empty();
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

    fn keep_on_empty(&mut self) {
        if !self.set.is_empty() && !std::mem::replace(&mut self.empty, true) {
            log::warn!("{}: the answer is empty: its {} backends stay, by on_empty", self.name, self.set.len());
        }
        self.answered();
    }

    fn take(&mut self, mut set: Set, items: Vec<Item>) {
        self.empty = false;
        for Item { key, found } in items {
            match found {
                Ok(found) => {
                    self.misunderstood.remove(&key);
                    set.insert(key, found);
                }
                Err(why) => self.misunderstand(key, why, &set),
            }
        }
        self.answered();
        self.standing.lock().backends = set.len();
        if set != self.set {
            self.set = set;
            (self.hand_over)(&self.set);
        }
    }

    fn misunderstand(&mut self, key: String, why: String, set: &Set) {
        if self.misunderstood.get(&key) == Some(&why) {
            return;
        }
        let stays = if set.contains_key(&key) { "it stays as it was" } else { "it is left out" };
        let text = format!("{key}: {why}");
        log::warn!("{}: {text}; {stays}", self.name);
        let mut standing = self.standing.lock();
        standing.errors += 1;
        standing.last_error = Some((SystemTime::now(), text));
        drop(standing);
        self.misunderstood.insert(key, why);
    }
}
