//! What a source hands over: sets of backends, without what it does not understand.

use super::known::Known;
use super::{BACKENDS_MAX, entry};
use crate::base::text::counted;
use crate::base::{Address, AdminState};
use crossbeam_channel::{Receiver, RecvTimeoutError};
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

/// Items that were not understood and have a line in the log each, of one answer. One more line counts the others. The status
/// shows as many, and an outage has as many lines.
const LOGGED: usize = 5;
/// A source that fails sooner than this after the end of an outage is in the same one until it has answered for so long.
const STEADY: Duration = Duration::from_secs(60);

/// Why backends stay that the newest answer lacks.
const EMPTY: &str = "the answer is empty, and on_empty is keep";
const NOT_UNDERSTOOD: &str = "no entry of the answer is understood";
const UNNAMED: &str = "an entry that names no backend may be any of those that the answer lacks";

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
    /// What the source calls it: an entry with the same key replaces it. An unnamed one has its place in the answer.
    pub key: String,
    /// The backend, or why it was not understood.
    pub found: Result<Found, String>,
    /// What it is called can't be read. It may be any backend, so an answer with it removes none.
    pub is_unnamed: bool,
}

impl Item {
    /// An entry of this key.
    pub fn new(key: impl Into<String>, found: Result<Found, String>) -> Item {
        Item { key: key.into(), found, is_unnamed: false }
    }

    /// An entry that names no backend, at this place in the answer.
    pub fn unnamed(place: impl Into<String>, why: String) -> Item {
        Item { key: place.into(), found: Err(why), is_unnamed: true }
    }
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
    /// Why, for the first of each, with their keys.
    pub why_misunderstood: Vec<String>,
    /// See `why_misunderstood`.
    pub why_refused: Vec<String>,
    /// How many backends stay that its newest answer lacks, and why.
    pub kept: Option<(usize, &'static str)>,
}

impl Standing {
    /// Whether every error is over.
    pub fn is_well(&self) -> bool {
        !self.failing && self.misunderstood == 0 && self.refused == 0
    }

    /// Why entries were left out, for the first of them.
    pub fn left_out(&self) -> impl Iterator<Item = &String> {
        self.why_misunderstood.iter().chain(&self.why_refused).take(LOGGED)
    }

    /// Counts an error.
    pub fn note(&mut self, why: String) {
        self.errors += 1;
        self.last_error = Some((SystemTime::now(), why));
    }
}

/// Takes what a source reports.
pub trait HandOver: Send {
    /// Hands over a set.
    fn hand_over(&self, set: &Arc<Set>);

    /// Gives up the set that was handed over last, if it was not taken. So a change need not copy it: another one follows.
    fn take_back(&self) {}

    /// Reports that an outage begins, with its error, or that it is over.
    fn outage(&self, _error: Option<&str>) {}
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
    /// What it watches, for the log.
    watched: String,
    /// Whether an empty answer empties the set.
    clears: bool,
    set: Arc<Set>,
    /// Keys whose last items were not understood, with the reason that was logged.
    misunderstood: BTreeMap<String, String>,
    /// Keys of the set that the source has no more, and that stay.
    kept: BTreeSet<String>,
    /// Why they stay, as it was logged; `None`: none do.
    why_kept: Option<&'static str>,
    /// The keys in use by answers that may be parts; `None`: there was no such answer.
    known: Option<Known<String>>,
    outage: Outage,
    standing: Arc<Mutex<Standing>>,
    hand_over: Box<dyn HandOver>,
    /// Disconnected: the source is removed.
    stopped: Receiver<()>,
}

/// What was reported of failures.
#[derive(Default)]
struct Outage {
    /// The errors that were logged since its begin; empty: there is no outage.
    logged: Vec<String>,
    /// It began soon after the end of another one.
    recurs: bool,
    failed_at: Option<Instant>,
    ended_at: Option<Instant>,
}

impl Feed {
    /// A feed that hands sets to `hand_over`. `set` is what was handed over before; `stopped` disconnects at the end.
    pub fn new(
        (name, watched): (String, String),
        clears: bool,
        set: Arc<Set>,
        standing: Arc<Mutex<Standing>>,
        stopped: Receiver<()>,
        hand_over: Box<dyn HandOver>,
    ) -> Feed {
        // A thread that could not start is an outage already.
        let logged = {
            let standing = standing.lock();
            standing.last_error.iter().filter(|_| standing.failing).map(|(_, why)| why.clone()).collect()
        };
        Feed {
            name,
            watched,
            clears,
            set,
            misunderstood: BTreeMap::new(),
            kept: BTreeSet::new(),
            why_kept: None,
            known: None,
            outage: Outage { logged, ..Outage::default() },
            standing,
            hand_over,
            stopped,
        }
    }

    /// The source has answered with all that it has.
    pub fn replace(&mut self, items: Vec<Item>) -> Result<(), String> {
        if items.len() > BACKENDS_MAX {
            return Err(format!("answered with {} backends; at most {BACKENDS_MAX} are taken", items.len()));
        }
        let keys: BTreeSet<&String> = items.iter().map(|item| &item.key).collect();
        let lacking: Vec<String> = self.set.keys().filter(|key| !keys.contains(key)).cloned().collect();
        let why = if items.iter().any(|item| item.is_unnamed) {
            Some(UNNAMED)
        } else if !items.is_empty() && items.iter().all(|item| item.found.is_err()) {
            Some(NOT_UNDERSTOOD)
        } else {
            None
        };
        if let Some(why) = why.filter(|_| items.len() + lacking.len() > BACKENDS_MAX) {
            return Err(format!("has more than {BACKENDS_MAX} backends, with those that stay: {why}"));
        }
        self.misunderstood.retain(|key, _| keys.contains(key));
        self.kept.clear();
        match why {
            Some(why) => {
                self.keep(lacking.into_iter().collect(), why);
                self.apply(items, &[]);
            }
            None => self.apply(items, &lacking),
        }
        Ok(())
    }

    /// Some entries have changed, others are gone; all others are as they were.
    pub fn change(&mut self, changed: Vec<Item>, gone: &[String]) -> Result<(), String> {
        let mut gone: Vec<String> = gone.iter().filter(|key| !self.kept.contains(*key)).cloned().collect();
        // The source has none of those that were kept, as an entry that is understood shows.
        let ends_keeping = changed.iter().any(|item| item.found.is_ok());
        if ends_keeping {
            gone.extend(self.kept.iter().cloned());
        }
        let known = |key: &String| self.set.contains_key(key) || self.misunderstood.contains_key(key);
        let new = changed.iter().filter(|item| !known(&item.key)).count();
        let lost = gone.iter().filter(|key| known(key)).count();
        if self.set.len() + self.misunderstood.len() + new > BACKENDS_MAX + lost {
            return Err(format!("has more than {BACKENDS_MAX} backends"));
        }
        if ends_keeping {
            self.kept.clear();
        } else if !changed.is_empty() {
            for item in &changed {
                self.kept.remove(&item.key);
            }
            self.why_kept = self.why_kept.map(|_| NOT_UNDERSTOOD);
        }
        self.apply(changed, &gone);
        Ok(())
    }

    /// The source has answered that nothing has changed.
    pub fn answered(&mut self) {
        let mut standing = self.standing.lock();
        let is_first = standing.last_success.replace(SystemTime::now()).is_none();
        standing.misunderstood = self.misunderstood.len();
        let reasons = self.misunderstood.iter().take(LOGGED);
        standing.why_misunderstood = reasons.map(|(key, why)| format!("{}: {why}", entry::shown(key))).collect();
        standing.kept = self.why_kept.map(|why| (self.kept.len(), why));
        standing.failing = false;
        drop(standing);
        if is_first && self.set.is_empty() {
            log::warn!("{}: it answers without a backend; it looks at {}", self.name, self.watched);
        }
        let Outage { logged, recurs, failed_at, ended_at } = &mut self.outage;
        let is_steady = failed_at.is_none_or(|at| at.elapsed() >= STEADY);
        if !logged.is_empty() && (!*recurs || is_steady) {
            logged.clear();
            *ended_at = Some(Instant::now());
            log::info!("{}: answers again", self.name);
            self.hand_over.outage(None);
        }
    }

    /// The source has failed: its set stays. An outage is a line for each error that is new, and a source that fails soon after
    /// each answer is in one outage.
    pub fn failed(&mut self, why: &str) {
        {
            let mut standing = self.standing.lock();
            standing.note(why.to_owned());
            standing.failing = true;
        }
        let Outage { logged, recurs, failed_at, ended_at } = &mut self.outage;
        *failed_at = Some(Instant::now());
        let begins = logged.is_empty();
        if begins {
            *recurs = ended_at.is_some_and(|at| at.elapsed() < STEADY);
            self.hand_over.outage(Some(why));
        }
        if logged.len() < LOGGED && !logged.iter().any(|known| known == why) {
            let kept = counted(self.set.len(), "backend");
            let again = if begins && *recurs { ", as soon after its last answers" } else { "" };
            log::warn!("{}: {why}{again}; it keeps its {kept} and is asked again", self.name);
            logged.push(why.to_owned());
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

    /// The source has answered with these keys, which may be a part of what it has. Those of the set that stay beside them, by the
    /// answers so far: see [`known`](super::known).
    pub fn stay_beside(&mut self, answer: &BTreeSet<String>) -> BTreeSet<String> {
        if self.set.is_empty() {
            self.known = None;
        }
        let now = Instant::now();
        let known = self.known.get_or_insert_with(|| Known::in_use_are(self.set.keys().cloned(), now));
        known.answered(answer, now);
        let is_beside = |key: &String| self.set.contains_key(key) && !answer.contains(key);
        known.in_use().into_iter().filter(is_beside).collect()
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
        for Item { key, found, is_unnamed } in changed {
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
                        reasons.push((key.clone(), why.clone(), is_unnamed));
                        self.misunderstood.insert(key, why);
                    }
                }
            }
        }
        edits.retain(|key, found| self.set.get(key) != found.as_ref());
        let is_there = |key: &String| !edits.contains_key(key) && !self.kept.contains(key);
        let is_empty = !edits.values().any(Option::is_some) && !self.set.keys().any(is_there);
        self.report(&reasons);
        if is_empty {
            // Items that are not understood are no empty answer: they never remove a backend.
            let may_empty = self.set.is_empty() || self.clears && self.misunderstood.is_empty();
            if !may_empty {
                let why = match self.why_kept {
                    _ if self.misunderstood.is_empty() => EMPTY,
                    Some(UNNAMED) => UNNAMED,
                    _ => NOT_UNDERSTOOD,
                };
                self.keep(self.set.keys().cloned().collect(), why);
                return self.answered();
            }
            edits.extend(std::mem::take(&mut self.kept).into_iter().map(|key| (key, None)));
        }
        if self.kept.is_empty() {
            self.why_kept = None;
        }
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

    /// These backends stay, though the source has them no more. It is logged once for each reason.
    fn keep(&mut self, kept: BTreeSet<String>, why: &'static str) {
        self.kept = kept;
        if !self.kept.is_empty() && self.why_kept.replace(why) != Some(why) {
            log::warn!("{}: it keeps its {}: {why}", self.name, counted(self.kept.len(), "backend"));
        }
    }

    fn report(&self, reasons: &[(String, String, bool)]) {
        let Some((key, why, _)) = reasons.last() else { return };
        {
            let mut standing = self.standing.lock();
            standing.note(format!("{}: {why}", entry::shown(key)));
            standing.errors += reasons.len() as u64 - 1;
        }
        for (key, why, is_unnamed) in reasons.iter().take(LOGGED) {
            let fate = match (is_unnamed, self.set.contains_key(key)) {
                (true, _) => "it names no backend, so this answer removes none",
                (false, true) => "it stays as it was",
                (false, false) => "it is left out",
            };
            log::warn!("{}: {}: {why}; {fate}", self.name, entry::shown(key));
        }
        if reasons.len() > LOGGED {
            log::warn!("{}: {} more entries are not understood", self.name, reasons.len() - LOGGED);
        }
    }
}

#[cfg(test)]
mod tests;
