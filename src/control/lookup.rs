//! Looks names up on threads of its own, [`THREADS`] at once, and gives each a bounded time.
//!
//! The system's resolver can't be interrupted, and may take half a minute for a name that no server answers for. So a
//! thread asks it for one name and ends; control only receives. A name without an answer within [`PATIENCE`] counts as
//! failed. Its thread is left to itself, and an answer that comes later is still of use.
//!
//! | bound | what happens beyond it |
//! |---|---|
//! | [`THREADS`] names at once | further ones wait in the order of their requests |
//! | `THREADS` less [`SPARE`] names that failed last time | they wait behind the others |
//! | [`PATIENCE`] for a name, from when its thread starts | it has failed |
//! | [`QUEUE_PATIENCE`] in the queue | it has failed for the caller that waits, and keeps its place |
//! | [`QUEUE`] names in the queue | a name that has failed loses its place |
//!
//! The order is fair: a name keeps its place until its thread starts. So silent names delay the others, and never for good.

use crossbeam_channel::{Receiver, Sender, at, bounded, never, select_biased};
use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::thread;
use std::time::{Duration, Instant};

/// Names looked up at once.
pub const THREADS: usize = 16;

/// Threads that a name which failed last time never takes: a silent name holds its thread for long.
const SPARE: usize = 4;

/// How long a name may take.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// How long a name may wait for a thread, where silent names hold all of them.
const QUEUE_PATIENCE: Duration = Duration::from_secs(30);

/// Names in the queue that keep their places without a caller.
const QUEUE: usize = 10_000;

/// Enough for the C library's resolver.
const STACK: usize = 256 * 1024;

/// A name's addresses, without a port, or why there are none.
pub type Outcome = Result<Vec<SocketAddr>, String>;

/// What came of names.
pub type Found = HashMap<String, Outcome>;

/// The system's resolver, or what a test puts in its place.
type Resolver = fn(&str) -> io::Result<Vec<SocketAddr>>;

/// All names that are being looked up.
pub struct Lookups {
    resolver: Resolver,
    names: HashMap<String, Asked>,
    /// Names without a thread, the oldest request first.
    fresh: VecDeque<String>,
    /// The same, of those that failed last time.
    again: VecDeque<String>,
    threads: usize,
    /// Those that failed last time: they may hold a thread for long.
    doubtful: HashSet<String>,
    sender: Sender<(String, Outcome)>,
    answers: Receiver<(String, Outcome)>,
}

struct Asked {
    /// When it has failed; `None` once that is known, or if no caller waits.
    until: Option<Instant>,
    /// It has a thread.
    running: bool,
}

/// Names that somebody waits for, and what came of them so far.
#[derive(Debug, Default)]
pub struct Question {
    pending: BTreeSet<String>,
    /// What is known.
    pub found: Found,
}

impl Question {
    /// About these names.
    pub fn new(names: impl IntoIterator<Item = String>) -> Question {
        Question { pending: names.into_iter().collect(), found: Found::new() }
    }

    /// The names that nothing is known of yet.
    pub fn pending(&self) -> impl Iterator<Item = &String> {
        self.pending.iter()
    }

    /// Takes the outcome of a name, if it is one of these.
    pub fn hear(&mut self, name: &str, outcome: &Outcome) {
        if self.pending.remove(name) {
            self.found.insert(name.to_owned(), outcome.clone());
        }
    }

    /// Is everything known?
    pub fn is_answered(&self) -> bool {
        self.pending.is_empty()
    }
}

impl Default for Lookups {
    /// None yet; by the system's resolver.
    fn default() -> Lookups {
        Lookups::with(system)
    }
}

impl Lookups {
    fn with(resolver: Resolver) -> Lookups {
        // A thread sends one answer and ends, so that none finds the channel full.
        let (sender, answers) = bounded(THREADS);
        let (names, doubtful) = (HashMap::new(), HashSet::new());
        let (fresh, again) = (VecDeque::new(), VecDeque::new());
        Lookups { resolver, names, fresh, again, threads: 0, doubtful, sender, answers }
    }

    /// Asks for a name, for a caller that waits for it. One that is being looked up already is not asked for twice.
    pub fn ask(&mut self, name: &str, now: Instant) {
        self.retry(name, now);
        if let Some(asked) = self.names.get_mut(name) {
            asked.until.get_or_insert(now + if asked.running { PATIENCE } else { QUEUE_PATIENCE });
        }
    }

    /// Asks for a name that no caller waits for: it may stay in the queue for any time.
    pub fn retry(&mut self, name: &str, now: Instant) {
        if !self.names.contains_key(name) {
            self.names.insert(name.to_owned(), Asked { until: None, running: false });
            let queue = if self.doubtful.contains(name) { &mut self.again } else { &mut self.fresh };
            queue.push_back(name.to_owned());
        }
        self.start(now);
    }

    /// Where answers come; each is to be given to [`Lookups::received`].
    pub fn answers(&self) -> &Receiver<(String, Outcome)> {
        &self.answers
    }

    /// A thread has ended with the outcome of this name. Is that news? A failure is not, if the name has failed by time.
    pub fn received(&mut self, name: &str, outcome: &Outcome, now: Instant) -> bool {
        self.threads = self.threads.saturating_sub(1);
        let waited_for = self.names.remove(name).is_some_and(|asked| asked.until.is_some());
        self.note(name, outcome.is_ok());
        self.start(now);
        waited_for || outcome.is_ok()
    }

    /// When the next name has failed for want of an answer.
    pub fn deadline(&self) -> Option<Instant> {
        self.names.values().filter_map(|asked| asked.until).min()
    }

    /// The names whose time is over.
    pub fn overdue(&mut self, now: Instant) -> Vec<(String, Outcome)> {
        let (mut over, mut lost) = (Vec::new(), HashSet::new());
        let keeps_places = self.fresh.len() + self.again.len() <= QUEUE;
        for (name, asked) in &mut self.names {
            if asked.until.take_if(|until| *until <= now).is_none() {
                continue;
            }
            let why = match asked.running {
                true => format!("no answer within {PATIENCE:?}"),
                false => format!("other names without an answer held it up for {QUEUE_PATIENCE:?}"),
            };
            over.push((name.clone(), Err(why)));
            if !asked.running && !keeps_places {
                lost.insert(name.clone());
            }
        }
        for (name, _) in &over {
            // A name without a thread has not failed: its server may well answer.
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

    /// Looks all of these up and waits for their outcomes, at most until `end`: for the start, when nothing else is to be
    /// done. What is unknown by then goes on. `None` means that a stop came first.
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
                Some(_) => self.retry(name, now),
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
                    question.hear(&name, &outcome);
                },
                recv(end) -> _ => break,
                recv(deadline) -> _ => {
                    self.overdue(Instant::now()).iter().for_each(|(name, outcome)| question.hear(name, outcome));
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

    /// Starts threads for the names that wait, as long as there may be more.
    fn start(&mut self, now: Instant) {
        while self.threads < THREADS {
            let may_retry = self.threads < THREADS - SPARE;
            let next = self.fresh.pop_front();
            let Some(name) = next.or_else(|| may_retry.then(|| self.again.pop_front()).flatten()) else { return };
            let (sender, resolver, asked) = (self.sender.clone(), self.resolver, name.clone());
            let look = move || {
                let outcome = resolver(&asked).map_err(|error| error.to_string());
                // An error means that control has ended.
                let _ = sender.send((asked, outcome));
            };
            match thread::Builder::new().name("resolver".to_owned()).stack_size(STACK).spawn(look) {
                Ok(_) => {
                    self.threads += 1;
                    self.names.insert(name, Asked { until: Some(now + PATIENCE), running: true });
                }
                Err(error) => {
                    log::error!("can't start a thread: {error}");
                    // It is tried again with the next answer or request.
                    return self.fresh.push_front(name);
                }
            }
        }
    }
}

fn system(name: &str) -> io::Result<Vec<SocketAddr>> {
    let mut addresses: Vec<SocketAddr> = (name, 0).to_socket_addrs()?.collect();
    addresses.dedup();
    if addresses.is_empty() {
        return Err(io::Error::new(io::ErrorKind::NotFound, "the name has no address"));
    }
    Ok(addresses)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Names that begin with `silent` are never answered, those with `gone` do not exist.
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
    fn silent_names_hold_up_no_other_and_only_they_fail() {
        let mut lookups = Lookups::with(fake);
        let now = Instant::now();
        let asked = [names("silent", THREADS - 1), names("good", 100), names("gone", 3)].concat();
        let mut question = Question::new(asked.clone());
        asked.iter().for_each(|name| lookups.ask(name, now));
        asked.iter().for_each(|name| lookups.ask(name, now));
        for _ in 0..103 {
            let (name, outcome) = lookups.answers().recv_timeout(Duration::from_secs(20)).unwrap();
            lookups.received(&name, &outcome, now);
            question.hear(&name, &outcome);
        }
        assert_eq!(question.pending().count(), THREADS - 1);
        assert!(question.found.iter().all(|(name, outcome)| outcome.is_ok() == name.starts_with("good")));
        assert_eq!(lookups.deadline(), Some(now + PATIENCE));
        assert!(lookups.overdue(now).is_empty());
        let over = lookups.overdue(now + PATIENCE);
        assert_eq!(over.len(), THREADS - 1);
        over.iter().for_each(|(name, outcome)| question.hear(name, outcome));
        assert!(question.is_answered());
        assert_eq!(question.found["silent0"], Err("no answer within 10s".to_owned()));
        assert_eq!((lookups.deadline(), lookups.threads), (None, THREADS - 1));
    }

    #[test]
    fn a_name_that_finds_no_thread_fails_in_bounded_time_and_no_thread_is_too_many() {
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
    fn names_keep_their_order_and_retries_leave_threads_to_other_names() {
        let mut lookups = Lookups::with(fake);
        let now = Instant::now();
        let silent = names("silent", 3 * THREADS);
        silent.iter().for_each(|name| lookups.note(name, false));
        silent.iter().for_each(|name| lookups.retry(name, now));
        assert_eq!((lookups.threads, lookups.again.len()), (THREADS - SPARE, 2 * THREADS + SPARE));
        // A request does not lose its place when it is repeated or has waited for long.
        silent.iter().rev().for_each(|name| lookups.ask(name, now));
        lookups.overdue(now + QUEUE_PATIENCE);
        silent.iter().rev().for_each(|name| lookups.retry(name, now));
        assert!(lookups.again.iter().eq(silent.iter().skip(THREADS - SPARE)));
        lookups.ask("good", now);
        let (name, outcome) = lookups.answers().recv_timeout(Duration::from_secs(20)).unwrap();
        assert_eq!((name.as_str(), outcome.is_ok()), ("good", true));
        assert!(lookups.received(&name, &outcome, now));
        // The thread of a silent name ends: the oldest request takes it. The failure was known.
        assert!(!lookups.received(&silent[0], &Err("no answer".to_owned()), now));
        assert!(lookups.names[&silent[THREADS - SPARE]].running);
        assert!(!lookups.names[&silent[THREADS - SPARE + 1]].running);
    }

    #[test]
    fn the_start_waits_no_longer_than_it_should_and_a_stop_ends_the_wait() {
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
