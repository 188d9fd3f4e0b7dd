//! The threads of the sources: start, pause after an error, end.
//!
//! A thread whose source is removed ends once its current call returns. At most [`LINGERING_MAX`] such threads are waited for. Beyond that a
//! source starts once one of them has ended, so reloads that follow each other leave a bounded number of threads.

use super::feed::{Feed, HandOver, Set, Standing};
use super::kind::Settings;
use crate::background;
use crossbeam_channel::{Receiver, Sender, bounded};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

/// The first and the longest pause after an error.
const PAUSE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(10));

/// Threads of removed sources that may still run when another one starts.
const LINGERING_MAX: usize = 32;

/// A source of a pool.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SourceId {
    /// The pool.
    pub pool: String,
    /// Its kind; a further source of the same kind in the pool has a number, from 2: `dns`, `dns-2`.
    pub label: String,
}

/// A source as the configuration has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Which it is.
    pub id: SourceId,
    /// What it finds.
    pub settings: Settings,
    /// Whether an empty answer empties the set.
    pub clears: bool,
    /// What it handed over before, if it ran before.
    pub set: Arc<Set>,
}

/// Takes the begin of a source's outage, with its error, or the end.
pub type Report = Arc<dyn Fn(&SourceId, Option<&str>) + Send + Sync>;

/// All sources, for the thread that uses their sets.
pub struct Sources {
    running: BTreeMap<SourceId, Running>,
    newest: Arc<Newest>,
    wakes: Receiver<()>,
    /// Cloned by each thread. So its count is the number of threads, and one.
    threads: Arc<()>,
    report: Report,
    pauses: (Duration, Duration),
}

struct Running {
    settings: Settings,
    clears: bool,
    standing: Arc<Mutex<Standing>>,
    thread: Thread,
    /// Why backends were refused, as it was logged.
    refused: Vec<String>,
}

enum Thread {
    /// It could not start yet.
    Waits(Arc<Set>),
    /// Dropped: the thread ends.
    Runs { _stop: Sender<()> },
}

/// The sets that were not taken yet: at most one of each source.
struct Newest {
    sets: Mutex<BTreeMap<SourceId, Arc<Set>>>,
    wake: Sender<()>,
}

impl Default for Sources {
    fn default() -> Sources {
        Sources::reporting(Arc::new(|_: &SourceId, _: Option<&str>| {}))
    }
}

impl Sources {
    /// No sources yet. Their threads report outages to `report`, which must not wait.
    pub fn reporting(report: Report) -> Sources {
        let (wake, wakes) = bounded(1);
        let newest = Arc::new(Newest { sets: Mutex::default(), wake });
        Sources { running: BTreeMap::new(), newest, wakes, threads: Arc::default(), report, pauses: PAUSE }
    }

    /// Starts the sources that are new or have other settings, and ends those that are not wanted any more. Sets of both
    /// that were not taken are dropped.
    pub fn run(&mut self, wanted: Vec<Wanted>) {
        let mut before = std::mem::take(&mut self.running);
        for Wanted { id, settings, clears, set } in wanted {
            let is_same = |running: &&mut Running| running.settings == settings && running.clears == clears;
            let same = before.get_mut(&id).filter(is_same).is_some().then(|| before.remove(&id)).flatten();
            let running = same.unwrap_or_else(|| {
                let standing = Standing { backends: set.len(), ..Standing::default() };
                let (standing, thread, refused) = (Arc::new(Mutex::new(standing)), Thread::Waits(set), Vec::new());
                Running { settings, clears, standing, thread, refused }
            });
            self.running.insert(id, running);
        }
        // From here on the sources that end can't hand over sets.
        drop(before);
        let runs =
            |id: &SourceId| self.running.get(id).is_some_and(|running| matches!(running.thread, Thread::Runs { .. }));
        self.newest.sets.lock().retain(|id, _| runs(id));
        self.start_waiting();
    }

    /// Starts the sources that could not start yet. Call it now and then.
    pub fn start_waiting(&mut self) {
        let mut started = self.running.values().filter(|it| matches!(it.thread, Thread::Runs { .. })).count();
        for (id, running) in &mut self.running {
            let Thread::Waits(set) = &running.thread else { continue };
            let threads = Arc::strong_count(&self.threads) - 1;
            let outcome = if threads >= started + LINGERING_MAX {
                Err(format!("{LINGERING_MAX} threads of removed sources have not ended: it waits for one of them"))
            } else {
                let (newest, report, pauses) = (&self.newest, &self.report, self.pauses);
                let source = Source { id, running, set: set.clone(), newest, report, pauses };
                source.start(self.threads.clone()).map_err(|error| format!("can't start its thread: {error}"))
            };
            match outcome {
                Ok(stop) => {
                    running.thread = Thread::Runs { _stop: stop };
                    started += 1;
                }
                Err(why) => {
                    let mut standing = running.standing.lock();
                    if !std::mem::replace(&mut standing.failing, true) {
                        log::warn!("{}: {why}", name(id));
                        (self.report)(id, Some(&why));
                        standing.note(why);
                    }
                }
            }
        }
    }

    /// Notes the backends of each source that its pool can't have: how many, and why for some of them. Each reason is logged
    /// once.
    pub fn refuse<'a>(&mut self, refused: impl Fn(&SourceId) -> Option<(usize, &'a [String])>) {
        for (id, running) in &mut self.running {
            let (count, reasons) = refused(id).unwrap_or_default();
            let new: Vec<&String> = reasons.iter().filter(|why| !running.refused.contains(why)).collect();
            let mut standing = running.standing.lock();
            (standing.refused, standing.why_refused) = (count, reasons.to_vec());
            for why in new {
                log::warn!("{}: {why}; it is left out", name(id));
                standing.note(why.clone());
            }
            running.refused = reasons.to_vec();
        }
    }

    /// Receives a message once sets are there to be taken.
    pub fn wakes(&self) -> &Receiver<()> {
        &self.wakes
    }

    /// The sets that are new since the last call.
    pub fn take(&self) -> BTreeMap<SourceId, Arc<Set>> {
        std::mem::take(&mut *self.newest.sets.lock())
    }

    /// What the status shows of each source.
    pub fn standings(&self) -> BTreeMap<SourceId, Arc<Mutex<Standing>>> {
        self.running.iter().map(|(id, running)| (id.clone(), running.standing.clone())).collect()
    }
}

/// A source while it starts.
struct Source<'a> {
    id: &'a SourceId,
    running: &'a Running,
    set: Arc<Set>,
    newest: &'a Arc<Newest>,
    report: &'a Report,
    pauses: (Duration, Duration),
}

impl Source<'_> {
    /// The thread holds `alive` while it runs. The source ends once the result is dropped.
    fn start(self, alive: Arc<()>) -> std::io::Result<Sender<()>> {
        let Source { id, running, set, newest, report, pauses } = self;
        let (stop, stopped) = bounded::<()>(0);
        let place = Place { id: id.clone(), newest: newest.clone(), report: report.clone(), ended: stopped.clone() };
        let settings = running.settings.clone();
        let names = (name(id), settings.watched());
        let feed = Feed::new(names, running.clears, set, running.standing.clone(), stopped, Box::new(place));
        let work = move || {
            background::yield_to_workers();
            follow(&settings, feed, pauses);
            drop(alive);
        };
        thread::Builder::new().name(format!("discover-{}", id.label)).spawn(work)?;
        Ok(stop)
    }
}

/// Where the sets of a source wait to be taken.
struct Place {
    id: SourceId,
    newest: Arc<Newest>,
    report: Report,
    ended: Receiver<()>,
}

impl HandOver for Place {
    fn hand_over(&self, set: &Arc<Set>) {
        let mut sets = self.newest.sets.lock();
        // A source that is removed may still be at work.
        if !is_over(&self.ended) {
            sets.insert(self.id.clone(), set.clone());
            drop(sets);
            let _ = self.newest.wake.try_send(());
        }
    }

    fn take_back(&self) {
        let mut sets = self.newest.sets.lock();
        if !is_over(&self.ended) {
            sets.remove(&self.id);
        }
    }

    fn outage(&self, error: Option<&str>) {
        if !is_over(&self.ended) {
            (self.report)(&self.id, error);
        }
    }
}

/// As the log calls a source.
fn name(id: &SourceId) -> String {
    format!("pool {}: discovery by {}", id.pool, id.label)
}

/// The life of a source's thread.
fn follow(settings: &Settings, mut feed: Feed, pauses: (Duration, Duration)) {
    let mut pause = pauses.0;
    while !feed.is_stopped() {
        let begun = Instant::now();
        let outcome = (settings.kind.run)(settings, &mut feed);
        let ran = begun.elapsed();
        let Err(why) = outcome else {
            // A source whose stay ends at once is not called without a pause.
            if !feed.wait(pauses.0.saturating_sub(ran)) {
                return;
            }
            continue;
        };
        if feed.is_stopped() {
            return;
        }
        // A source that fails soon after each answer is asked as seldom as one that never answers.
        if ran >= pauses.1 {
            pause = pauses.0;
        }
        feed.failed(&why);
        if !feed.wait(pause) {
            return;
        }
        pause = (pause * 2).min(pauses.1);
    }
}

fn is_over(stopped: &Receiver<()>) -> bool {
    matches!(stopped.try_recv(), Err(crossbeam_channel::TryRecvError::Disconnected))
}

#[cfg(test)]
mod tests;
