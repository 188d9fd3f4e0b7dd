//! Looks names up on threads of its own, all at once, and gives each a bounded time.
//!
//! The system's resolver can't be interrupted, and may take half a minute for a name that no server answers for. So a
//! thread asks it for one name and ends; control only receives. A name without an answer within [`PATIENCE`] counts as
//! failed. Its thread is left to itself, and an answer that comes later is still of use.
//!
//! | bound | what happens beyond it |
//! |---|---|
//! | [`THREADS`] names at once | further ones wait, and those that failed last time wait behind the others |
//! | [`PATIENCE`] for a name, from when it is asked for | it has failed |
//! | [`QUEUE_PATIENCE`] in the queue | it has failed |

use crossbeam_channel::{Receiver, Sender, bounded};
use std::collections::{HashMap, HashSet, VecDeque};
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::thread;
use std::time::{Duration, Instant};

/// Names looked up at once.
pub const THREADS: usize = 16;

/// How long a name may take.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// How long a name may wait for a thread, where silent names hold all of them.
const QUEUE_PATIENCE: Duration = Duration::from_secs(30);

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
    waiting: VecDeque<String>,
    threads: usize,
    /// Those that failed last time: they may hold a thread for long.
    doubtful: HashSet<String>,
    sender: Sender<(String, Outcome)>,
    answers: Receiver<(String, Outcome)>,
}

struct Asked {
    /// When it has failed; `None` once that is known.
    until: Option<Instant>,
}

/// Names that somebody waits for, and what came of them so far.
#[derive(Debug, Default)]
pub struct Question {
    pending: HashSet<String>,
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
        let (names, waiting, doubtful) = (HashMap::new(), VecDeque::new(), HashSet::new());
        Lookups { resolver, names, waiting, threads: 0, doubtful, sender, answers }
    }

    /// Asks for a name. One that is being looked up already is not asked for twice.
    pub fn ask(&mut self, name: &str, now: Instant) {
        if let Some(asked) = self.names.get_mut(name) {
            asked.until.get_or_insert(now + PATIENCE);
            return;
        }
        self.names.insert(name.to_owned(), Asked { until: Some(now + QUEUE_PATIENCE) });
        if self.doubtful.contains(name) {
            self.waiting.push_back(name.to_owned());
        } else {
            self.waiting.push_front(name.to_owned());
        }
        self.start(now);
    }

    /// Where answers come; each is to be given to [`Lookups::received`].
    pub fn answers(&self) -> &Receiver<(String, Outcome)> {
        &self.answers
    }

    /// A thread has ended with the outcome of this name.
    pub fn received(&mut self, name: &str, outcome: &Outcome, now: Instant) {
        self.threads = self.threads.saturating_sub(1);
        self.names.remove(name);
        self.note(name, outcome.is_ok());
        self.start(now);
    }

    /// When the next name has failed for want of an answer.
    pub fn deadline(&self) -> Option<Instant> {
        self.names.values().filter_map(|asked| asked.until).min()
    }

    /// The names whose time is over.
    pub fn overdue(&mut self, now: Instant) -> Vec<(String, Outcome)> {
        let over = |asked: &Asked| asked.until.is_some_and(|until| until <= now);
        let over: Vec<String> =
            self.names.iter().filter(|(_, asked)| over(asked)).map(|(name, _)| name.clone()).collect();
        for name in &over {
            self.note(name, false);
            if let Some(position) = self.waiting.iter().position(|waiting| waiting == name) {
                self.waiting.remove(position);
                self.names.remove(name);
            } else if let Some(asked) = self.names.get_mut(name) {
                asked.until = None;
            }
        }
        over.into_iter().map(|name| (name, Err(format!("no answer within {PATIENCE:?}")))).collect()
    }

    /// Looks all of these up and waits: for the start, when nothing else is to be done.
    pub fn wait_for(&mut self, names: impl IntoIterator<Item = String>) -> Found {
        let mut question = Question::new(names);
        question.pending().for_each(|name| self.ask(name, Instant::now()));
        while !question.is_answered() {
            let heard = match self.deadline() {
                Some(deadline) => self.answers.recv_deadline(deadline).ok(),
                None => self.answers.recv().ok(),
            };
            let now = Instant::now();
            match heard {
                Some((name, outcome)) => {
                    self.received(&name, &outcome, now);
                    question.hear(&name, &outcome);
                }
                None => self.overdue(now).iter().for_each(|(name, outcome)| question.hear(name, outcome)),
            }
        }
        question.found
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
            let Some(name) = self.waiting.pop_front() else { return };
            let (sender, resolver, asked) = (self.sender.clone(), self.resolver, name.clone());
            let look = move || {
                let outcome = resolver(&asked).map_err(|error| error.to_string());
                // An error means that nobody waits any more.
                let _ = sender.send((asked, outcome));
            };
            match thread::Builder::new().name("resolver".to_owned()).stack_size(STACK).spawn(look) {
                Ok(_) => {
                    self.threads += 1;
                    if let Some(asked) = self.names.get_mut(&name) {
                        asked.until = Some(now + PATIENCE);
                    }
                }
                Err(error) => {
                    log::error!("can't start a thread: {error}");
                    // It is tried again with the next answer, or fails when its time is over.
                    return self.waiting.push_front(name);
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
        assert_eq!((lookups.threads, lookups.waiting.len()), (THREADS, 2));
        assert_eq!(lookups.overdue(now + PATIENCE).len(), THREADS);
        assert_eq!(lookups.overdue(now + QUEUE_PATIENCE).len(), 2);
        assert_eq!((lookups.threads, lookups.waiting.len(), lookups.deadline()), (THREADS, 0, None));
    }
}
