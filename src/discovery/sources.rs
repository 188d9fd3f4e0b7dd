//! The threads of the sources: start, pause after an error, end.

use super::feed::{Feed, Set, Standing};
use super::kind::Settings;
use crossbeam_channel::{Receiver, Sender, bounded};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant, SystemTime};

/// The first and the longest pause after an error.
const PAUSE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(10));

/// A source of a pool.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SourceId {
    /// The pool.
    pub pool: String,
    /// Its kind; a further source of the same kind in the pool has a number, from 2: `dns`, `dns-2`.
    pub label: String,
}

/// A source as the configuration has it.
pub struct Wanted {
    /// Which it is.
    pub id: SourceId,
    /// What it finds.
    pub settings: Settings,
    /// Whether an empty answer empties the set.
    pub clears: bool,
    /// What it handed over before, if it ran before.
    pub set: Set,
}

/// All sources, for the thread that uses their sets.
pub struct Sources {
    running: BTreeMap<SourceId, Running>,
    newest: Arc<Newest>,
    wakes: Receiver<()>,
}

struct Running {
    settings: Settings,
    clears: bool,
    standing: Arc<Mutex<Standing>>,
    /// Dropped: the thread ends.
    _stop: Sender<()>,
}

/// The sets that were not taken yet: at most one of each source.
struct Newest {
    sets: Mutex<BTreeMap<SourceId, Set>>,
    wake: Sender<()>,
}

impl Default for Sources {
    fn default() -> Sources {
        let (wake, wakes) = bounded(1);
        Sources { running: BTreeMap::new(), newest: Arc::new(Newest { sets: Mutex::default(), wake }), wakes }
    }
}

impl Sources {
    /// Starts the sources that are new or have other settings, and ends those that are not wanted any more. Sets of
    /// the latter that were not taken are dropped.
    pub fn run(&mut self, wanted: Vec<Wanted>) -> io::Result<()> {
        let mut before = std::mem::take(&mut self.running);
        for wanted in wanted {
            let running = match before.remove(&wanted.id) {
                Some(same) if same.settings == wanted.settings && same.clears == wanted.clears => same,
                _ => self.start(&wanted)?,
            };
            self.running.insert(wanted.id, running);
        }
        // From here on the sources that are left can't hand over sets.
        drop(before);
        self.newest.sets.lock().retain(|id, _| self.running.contains_key(id));
        Ok(())
    }

    /// Receives a message once sets are there to be taken.
    pub fn wakes(&self) -> &Receiver<()> {
        &self.wakes
    }

    /// The sets that are new since the last call.
    pub fn take(&self) -> BTreeMap<SourceId, Set> {
        std::mem::take(&mut *self.newest.sets.lock())
    }

    /// What the status shows of each source.
    pub fn standings(&self) -> Vec<(SourceId, Arc<Mutex<Standing>>)> {
        self.running.iter().map(|(id, running)| (id.clone(), running.standing.clone())).collect()
    }

    fn start(&self, wanted: &Wanted) -> io::Result<Running> {
        let (stop, stopped) = bounded::<()>(0);
        let standing = Arc::new(Mutex::new(Standing { backends: wanted.set.len(), ..Standing::default() }));
        let (id, newest, ended) = (wanted.id.clone(), self.newest.clone(), stopped.clone());
        let hand_over = move |set: &Set| {
            let mut sets = newest.sets.lock();
            // A source that is removed may still be at work.
            if !is_over(&ended) {
                sets.insert(id.clone(), set.clone());
                drop(sets);
                let _ = newest.wake.try_send(());
            }
        };
        let name = format!("pool {}: discovery by {}", wanted.id.pool, wanted.id.label);
        let feed = Feed::new(name, wanted.clears, wanted.set.clone(), standing.clone(), stopped, Box::new(hand_over));
        let (settings, of_thread) = (wanted.settings.clone(), standing.clone());
        let work = move || follow(&settings, feed, &of_thread);
        thread::Builder::new().name(format!("discover-{}", wanted.id.label)).spawn(work)?;
        Ok(Running { settings: wanted.settings.clone(), clears: wanted.clears, standing, _stop: stop })
    }
}

/// The life of a source's thread.
fn follow(settings: &Settings, mut feed: Feed, standing: &Mutex<Standing>) {
    let (mut pause, mut logged) = (PAUSE.0, None::<String>);
    while !feed.is_stopped() {
        let answered_before = standing.lock().last_success;
        let Err(why) = (settings.kind.run)(settings, &mut feed) else { continue };
        if feed.is_stopped() {
            return;
        }
        let has_answered = {
            let mut standing = standing.lock();
            standing.errors += 1;
            standing.is_well = false;
            standing.last_error = Some((SystemTime::now(), why.clone()));
            standing.last_success != answered_before
        };
        if has_answered {
            (pause, logged) = (PAUSE.0, None);
        }
        // An outage is one line, however long it takes.
        if logged.as_ref() != Some(&why) {
            log::warn!("{}: {why}; its {} backends stay, and it is asked again", feed.name(), feed.set().len());
            logged = Some(why);
        }
        let until = Instant::now() + pause;
        pause = (pause * 2).min(PAUSE.1);
        if !feed.wait(until.saturating_duration_since(Instant::now())) {
            return;
        }
    }
}

fn is_over(stopped: &Receiver<()>) -> bool {
    matches!(stopped.try_recv(), Err(crossbeam_channel::TryRecvError::Disconnected))
}
