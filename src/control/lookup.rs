//! Looks names up on its own threads, [`THREADS`] at once, each in bounded time.
//!
//! The system's resolver can't be interrupted, and takes up to half a minute when no server answers. So a thread
//! resolves one name and ends; control only receives the outcome. A name without an answer within [`PATIENCE`] counts
//! as failed. Its thread runs on, and a later answer is still used.
//!
//! | bound | beyond it |
//! |---|---|
//! | [`THREADS`] names at once | further names wait in the order of their requests |
//! | `THREADS` less [`SPARE`] names that failed last time, or that no caller waits for | they wait behind the others |
//! | [`PATIENCE`] for a name, from when its thread starts | the lookup fails |
//! | [`QUEUE_PATIENCE`] in the queue | the lookup fails for its caller; the name keeps its place |
//! | [`QUEUE`] names in the queue | a failed name loses its place |
//!
//! The order is fair: a name keeps its place until its thread starts. So names without an answer delay others only for
//! a bounded time.

use crate::discovery::dns::of_system;
use crossbeam_channel::{Receiver, Sender, at, bounded, never, select_biased};
use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::io;
use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

/// Names looked up at once.
pub const THREADS: usize = 16;

/// Threads that retries of failed names, and lookups that no caller waits for, never take: such a name may hold its thread for long.
const SPARE: usize = 4;

/// How long the lookup of a name may take.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// How long a name may wait for a thread.
const QUEUE_PATIENCE: Duration = Duration::from_secs(30);

/// Names in the queue that keep their places although no caller waits.
const QUEUE: usize = 10_000;

/// Enough for the C library's resolver.
const STACK: usize = 256 * 1024;

/// A name's addresses (port 0), or the error text.
pub type Outcome = Result<Vec<SocketAddr>, String>;

/// Outcomes by name.
pub type Found = HashMap<String, Outcome>;

/// Resolves a name: the system's resolver, or a fake in tests.
type Resolver = fn(&str) -> io::Result<Vec<SocketAddr>>;

/// All lookups in progress.
pub struct Lookups {
    resolver: Resolver,
    names: HashMap<String, Asked>,
    /// Names that wait for a thread, the oldest request first.
    fresh: VecDeque<String>,
    /// Names that wait for a thread, and failed last time or have no caller.
    again: VecDeque<String>,
    threads: usize,
    /// Names that failed last time: each may hold a thread for long.
    doubtful: HashSet<String>,
    sender: Sender<(String, Outcome)>,
    answers: Receiver<(String, Outcome)>,
}

struct Asked {
    /// When the lookup counts as failed; `None` once it has, or if no caller waits.
    until: Option<Instant>,
    /// Whether a thread resolves it.
    running: bool,
}

/// Names that a caller waits for, and the outcomes so far.
#[derive(Debug, Default)]
pub struct Question {
    pending: BTreeSet<String>,
    /// The outcomes so far.
    pub found: Found,
}

impl Question {
    /// Waits for these names.
    pub fn new(names: impl IntoIterator<Item = String>) -> Question {
        Question { pending: names.into_iter().collect(), found: Found::new() }
    }

    /// The names without an outcome yet.
    pub fn pending(&self) -> impl Iterator<Item = &String> {
        self.pending.iter()
    }

    /// Records the outcome of a name, if the caller waits for it.
    pub fn record(&mut self, name: &str, outcome: &Outcome) {
        if self.pending.remove(name) {
            self.found.insert(name.to_owned(), outcome.clone());
        }
    }

    /// Whether all outcomes are known.
    pub fn is_answered(&self) -> bool {
        self.pending.is_empty()
    }
}

impl Default for Lookups {
    /// No lookups; uses the system's resolver.
    fn default() -> Lookups {
        Lookups::with(of_system)
    }
}

impl Lookups {
    fn with(resolver: Resolver) -> Lookups {
        // A thread sends one answer and ends, so the channel always has room.
        let (sender, answers) = bounded(THREADS);
        let (names, doubtful) = (HashMap::new(), HashSet::new());
        let (fresh, again) = (VecDeque::new(), VecDeque::new());
        Lookups { resolver, names, fresh, again, threads: 0, doubtful, sender, answers }
    }

    /// Starts or queues a lookup that a caller waits for. A name that is being looked up is not looked up twice.
    pub fn ask(&mut self, name: &str, now: Instant) {
        self.enter(name, now, true);
        if let Some(asked) = self.names.get_mut(name) {
            asked.until.get_or_insert(now + if asked.running { PATIENCE } else { QUEUE_PATIENCE });
        }
    }

    /// Starts or queues a lookup that no caller waits for; it may stay in the queue for any time.
    pub fn retry(&mut self, name: &str, now: Instant) {
        self.enter(name, now, false);
    }

    fn enter(&mut self, name: &str, now: Instant, has_caller: bool) {
        if !self.names.contains_key(name) {
            self.names.insert(name.to_owned(), Asked { until: None, running: false });
            let is_fresh = has_caller && !self.doubtful.contains(name);
            let queue = if is_fresh { &mut self.fresh } else { &mut self.again };
            queue.push_back(name.to_owned());
        }
        self.start(now);
    }

    /// The channel of answers; pass each to [`Lookups::received`].
    pub fn answers(&self) -> &Receiver<(String, Outcome)> {
        &self.answers
    }

    /// Handles the end of a lookup's thread. Returns whether the outcome is new: a failure after the time-out is not.
    pub fn received(&mut self, name: &str, outcome: &Outcome, now: Instant) -> bool {
        self.threads = self.threads.saturating_sub(1);
        let waited_for = self.names.remove(name).is_some_and(|asked| asked.until.is_some());
        self.note(name, outcome.is_ok());
        self.start(now);
        waited_for || outcome.is_ok()
    }

    /// When the next lookup times out.
    pub fn deadline(&self) -> Option<Instant> {
        self.names.values().filter_map(|asked| asked.until).min()
    }

    /// The names whose time is over, with their errors.
    pub fn overdue(&mut self, now: Instant) -> Vec<(String, Outcome)> {
        let (mut over, mut lost) = (Vec::new(), HashSet::new());
        let keeps_places = self.fresh.len() + self.again.len() <= QUEUE;
        for (name, asked) in &mut self.names {
            if asked.until.take_if(|until| *until <= now).is_none() {
                continue;
            }
            let why = match asked.running {
                true => format!("no answer within {PATIENCE:?}"),
                false => format!("no thread was free for {QUEUE_PATIENCE:?}: lookups of other names got no answer"),
            };
            over.push((name.clone(), Err(why)));
            if !asked.running && !keeps_places {
                lost.insert(name.clone());
            }
        }
        for (name, _) in &over {
            // A name that never had a thread has not failed: its server may answer.
            if self.names.get(name).is_some_and(|asked| asked.running) {
                self.note(name, false);
            }
        }
        if !lost.is_empty() {
            self.names.retain(|name, _| !lost.contains(name));
            [&mut self.fresh, &mut self.again].into_iter().for_each(|queue| queue.retain(|name| !lost.contains(name)));
        }
        over
    }

    /// Looks these names up and waits for the outcomes, at most until `end`. For the start, when control does not run
    /// yet. Unfinished lookups go on. `None`: a stop came first.
    pub fn wait_for(
        &mut self,
        names: impl IntoIterator<Item = String>,
        end: Option<Instant>,
        stops: &Receiver<()>,
    ) -> Option<Found> {
        let mut question = Question::new(names);
        let now = Instant::now();
        for name in question.pending() {
            match end {
                Some(_) => self.enter(name, now, true),
                None => self.ask(name, now),
            }
        }
        let (answers, end) = (self.answers.clone(), end.map_or_else(never, at));
        while !question.is_answered() {
            let deadline = self.deadline().map_or_else(never, at);
            select_biased! {
                recv(stops) -> _ => return None,
                recv(answers) -> answer => if let Ok((name, outcome)) = answer {
                    self.received(&name, &outcome, Instant::now());
                    question.record(&name, &outcome);
                },
                recv(end) -> _ => break,
                recv(deadline) -> _ => {
                    self.overdue(Instant::now()).iter().for_each(|(name, outcome)| question.record(name, outcome));
                }
            }
        }
        Some(question.found)
    }

    fn note(&mut self, name: &str, worked: bool) {
        if worked {
            self.doubtful.remove(name);
        } else if self.doubtful.len() < 10_000 {
            self.doubtful.insert(name.to_owned());
        }
    }

    /// Starts threads for names in the queue, up to [`THREADS`].
    fn start(&mut self, now: Instant) {
        while self.threads < THREADS {
            let may_retry = self.threads < THREADS - SPARE;
            let next = self.fresh.pop_front();
            let Some(name) = next.or_else(|| may_retry.then(|| self.again.pop_front()).flatten()) else { return };
            let (sender, resolver, asked) = (self.sender.clone(), self.resolver, name.clone());
            let look = move || {
                let outcome = resolver(&asked).map_err(|error| error.to_string());
                // Sending fails when control has ended.
                let _ = sender.send((asked, outcome));
            };
            match thread::Builder::new().name("resolver".to_owned()).stack_size(STACK).spawn(look) {
                Ok(_) => {
                    self.threads += 1;
                    self.names.insert(name, Asked { until: Some(now + PATIENCE), running: true });
                }
                Err(error) => {
                    log::error!("can't start a thread: {error}");
                    // The next answer or request tries again.
                    return self.fresh.push_front(name);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Names that begin with `silent` get no answer; those that begin with `gone` do not exist.
    fn fake(name: &str) -> io::Result<Vec<SocketAddr>> {
        if name.starts_with("silent") {
            loop {
                thread::park();
            }
        }
        if name.starts_with("gone") {
            return Err(io::Error::new(io::ErrorKind::NotFound, "no such name"));
        }
        Ok(vec![([127, 0, 0, 1], 0).into()])
    }

    fn names(prefix: &str, count: usize) -> Vec<String> {
        (0..count).map(|number| format!("{prefix}{number}")).collect()
    }

    #[test]
    fn silent_names_fail_and_delay_no_other_name() {
        let mut lookups = Lookups::with(fake);
        let now = Instant::now();
        let asked = [names("silent", THREADS - 1), names("good", 100), names("gone", 3)].concat();
        let mut question = Question::new(asked.clone());
        asked.iter().for_each(|name| lookups.ask(name, now));
        asked.iter().for_each(|name| lookups.ask(name, now));
        for _ in 0..103 {
            let (name, outcome) = lookups.answers().recv_timeout(Duration::from_secs(20)).unwrap();
            lookups.received(&name, &outcome, now);
            question.record(&name, &outcome);
        }
        assert_eq!(question.pending().count(), THREADS - 1);
        assert!(question.found.iter().all(|(name, outcome)| outcome.is_ok() == name.starts_with("good")));
        assert_eq!(lookups.deadline(), Some(now + PATIENCE));
        assert!(lookups.overdue(now).is_empty());
        let over = lookups.overdue(now + PATIENCE);
        assert_eq!(over.len(), THREADS - 1);
        over.iter().for_each(|(name, outcome)| question.record(name, outcome));
        assert!(question.is_answered());
        assert_eq!(question.found["silent0"], Err("no answer within 10s".to_owned()));
        assert_eq!((lookups.deadline(), lookups.threads), (None, THREADS - 1));
    }

    #[test]
    fn a_name_without_a_free_thread_fails_in_bounded_time() {
        let mut lookups = Lookups::with(fake);
        let now = Instant::now();
        names("silent", THREADS + 1).iter().for_each(|name| lookups.ask(name, now));
        lookups.ask("good", now);
        assert_eq!((lookups.threads, lookups.fresh.len()), (THREADS, 2));
        assert_eq!(lookups.overdue(now + PATIENCE).len(), THREADS);
        assert_eq!(lookups.overdue(now + QUEUE_PATIENCE).len(), 2);
        assert_eq!((lookups.threads, lookups.fresh.len(), lookups.deadline()), (THREADS, 2, None));
    }

    #[test]
    fn names_keep_their_order_and_retries_leave_threads_free() {
        let mut lookups = Lookups::with(fake);
        let now = Instant::now();
        let silent = names("silent", 3 * THREADS);
        silent.iter().for_each(|name| lookups.note(name, false));
        silent.iter().for_each(|name| lookups.retry(name, now));
        assert_eq!((lookups.threads, lookups.again.len()), (THREADS - SPARE, 2 * THREADS + SPARE));
        // A name keeps its place when its request is repeated or has waited for long.
        silent.iter().rev().for_each(|name| lookups.ask(name, now));
        lookups.overdue(now + QUEUE_PATIENCE);
        silent.iter().rev().for_each(|name| lookups.retry(name, now));
        assert!(lookups.again.iter().eq(silent.iter().skip(THREADS - SPARE)));
        lookups.ask("good", now);
        let (name, outcome) = lookups.answers().recv_timeout(Duration::from_secs(20)).unwrap();
        assert_eq!((name.as_str(), outcome.is_ok()), ("good", true));
        assert!(lookups.received(&name, &outcome, now));
        // The thread of a silent name ends, and the oldest request takes it. The failure was reported already.
        assert!(!lookups.received(&silent[0], &Err("no answer".to_owned()), now));
        assert!(lookups.names[&silent[THREADS - SPARE]].running);
        assert!(!lookups.names[&silent[THREADS - SPARE + 1]].running);
    }

    #[test]
    fn names_without_a_caller_leave_threads_free() {
        let mut lookups = Lookups::with(fake);
        let now = Instant::now();
        names("silent", 3 * THREADS).iter().for_each(|name| lookups.retry(name, now));
        assert_eq!((lookups.threads, lookups.fresh.len()), (THREADS - SPARE, 0));
        lookups.ask("good", now);
        let (name, outcome) = lookups.answers().recv_timeout(Duration::from_secs(20)).unwrap();
        assert_eq!((name.as_str(), outcome.is_ok()), ("good", true));
    }

    #[test]
    fn the_start_waits_until_its_deadline_and_a_stop_ends_the_wait() {
        let mut lookups = Lookups::with(fake);
        let all = [names("good", 3), names("silent", 2 * THREADS)].concat();
        let end = Instant::now() + Duration::from_secs(1);
        let found = lookups.wait_for(all.clone(), Some(end), &never()).unwrap();
        assert!(found.len() <= 3 && found.values().all(Result::is_ok), "{found:?}");
        let (stop, stops) = bounded(1);
        stop.send(()).unwrap();
        assert_eq!(Lookups::with(fake).wait_for(all, None, &stops), None);
    }
}
