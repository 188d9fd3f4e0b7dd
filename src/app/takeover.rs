//! The successor's side of an upgrade: takes over from the process that runs ([`crate::handover`]).
//!
//! | phase | what holds | ends with |
//! |---|---|---|
//! | [`Predecessor`] | the configuration is read | `ask`: the listening sockets are here, and what was changed at run time |
//! | [`Inheritance`] | nothing is bound yet; the predecessor serves | all threads run |
//! | – | both processes accept clients, for a moment | `finish`: the predecessor has handed over everything, and ends |
//!
//! The launcher of the predecessor has started this process, or it was started with `--take-over` ([`crate::handover::pull`]): the
//! rest is the same.
//!
//! If the predecessor dies before the end, this process goes on. If it gives up and lives, it serves again, and this process ends with
//! the connections that it has. So it does if the predecessor was asked to stop. [`crate::handover`] has the table.

use super::memory::Memory;
use super::upgrade::Word;
use super::workers::Workers;
use crate::base::Endpoint;
use crate::config::runtime::RuntimeChanges;
use crate::events::{By, Event, Kind};
use crate::handover::{Hello, Letter, Link};
use crate::net::{Pipe, Socket, TcpTuning, listen};
use crate::pool::Published;
use crate::worker::driver::transit::{Held, Record};
use crate::worker::transit::{self, Incoming};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::io;
use std::mem;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

/// How long the predecessor may take for a message. It has its own, shorter bounds.
const PATIENCE: Duration = Duration::from_secs(120);

/// The process that runs.
pub struct Predecessor(Link);

/// How long a predecessor that has closed the channel may take to end.
const DEATH: Duration = Duration::from_secs(2);

/// Why this process gives up when it is asked to stop.
const STOPPING: &str = "it is stopping";

/// How long a worker may take to give copies of its listening sockets.
const TUNING: Duration = Duration::from_secs(5);

/// What the predecessor has given before the start.
pub struct Inheritance {
    /// What was changed at run time.
    pub changes: RuntimeChanges,
    /// What was counted and learnt so far.
    pub memory: Box<Memory>,
    predecessor: Predecessor,
    /// Closed once the predecessor has ended ([`crate::handover::Life`]).
    life: OwnedFd,
}

/// Why the rest could not be taken over.
struct Failure {
    why: String,
    predecessor: Fate,
}

/// What the predecessor does after a failure.
#[derive(PartialEq, Eq)]
enum Fate {
    /// It serves.
    GoesOn,
    /// It was asked to stop.
    Stops,
    /// It has died.
    Died,
}

impl From<String> for Failure {
    fn from(why: String) -> Failure {
        Failure { why, predecessor: Fate::GoesOn }
    }
}

/// How a take-over ended.
pub enum End {
    /// The predecessor ends.
    Done {
        /// The file is to be read again.
        reload: bool,
    },
    /// It has died: this process has what it could get.
    Died(String),
    /// It goes on, or was asked to stop: this process must not go on.
    Failed(String),
}

impl Predecessor {
    /// At the other end of this.
    pub fn new(link: Link) -> Predecessor {
        Predecessor(link)
    }

    /// Asks it to hand over. `descriptors` is the limit of this process; `keeps_kernel`: it can keep the kernel's rules.
    pub fn ask(self, descriptors: u64, keeps_kernel: bool) -> Result<Inheritance, String> {
        let sent = self.send(&Word::Hello(Hello::of(descriptors, keeps_kernel)));
        // A predecessor that refuses at once has sent the reason, and closed its end.
        let Letter { message, descriptors, .. } = self.receive().map_err(|why| sent.err().unwrap_or(why))?;
        let (changes, sockets, memory) = match message {
            Word::Welcome { changes, sockets, version, memory } => {
                log::info!("takes over from tcplb {version}");
                (changes, sockets, memory)
            }
            Word::Refused { why, .. } => return Err(refused(&why)),
            _ => return Err(unexpected()),
        };
        let life = descriptors.into_iter().next().ok_or_else(unexpected)?;
        let changes = RuntimeChanges::parse(&changes, "the running process")
            .map_err(|mistakes| format!("can't use what was changed at run time: {}", mistakes.0.join("\n")))?;
        let mut came = 0;
        while came < sockets {
            let (of, descriptors, missing) = match self.receive()? {
                Letter { message: Word::Sockets(of), descriptors, missing } => (of, descriptors, missing),
                Letter { message: Word::Refused { why, .. }, .. } => return Err(refused(&why)),
                _ => return Err(unexpected()),
            };
            if missing > 0 || of.len() != descriptors.len() {
                return Err("listening sockets are missing: the limit on open files is reached".to_owned());
            }
            came += of.len();
            for (of, descriptor) in of.iter().zip(descriptors) {
                let kept = listen::take_over(descriptor, of.giver());
                let at = || Endpoint::from(&of.at);
                kept.map_err(|error| format!("can't use the listening socket of {}: {error}", at()))?;
            }
        }
        Ok(Inheritance { changes, memory, predecessor: self, life })
    }

    fn send(&self, word: &Word) -> Result<(), String> {
        let sent = self.0.post.send(word, &[], Instant::now() + PATIENCE);
        sent.map_err(|error| format!("can't reach the running process: {error}"))
    }

    fn receive(&self) -> Result<Letter<Word>, String> {
        match self.0.post.receive(Instant::now() + PATIENCE) {
            Ok(Some(letter)) => Ok(letter),
            Ok(None) => Err("the running process has given up the hand-over".to_owned()),
            Err(error) if error.kind() == io::ErrorKind::TimedOut => {
                Err(format!("the running process has not responded for {PATIENCE:?}"))
            }
            Err(error) => Err(format!("a message of the running process can't be read: {error}")),
        }
    }
}

impl Inheritance {
    /// All threads run: takes over the rest.
    pub fn finish(self, published: &Published, workers: &Workers) -> End {
        // Those of the last Prepare. No other process touches them if the predecessor dies.
        let mut waiting = Vec::new();
        // A stop of this process must not end a worker whose connections are on their way.
        let stay = transit::stay(&workers.peers());
        let taken = match &stay {
            Some(_) => self.take_the_rest(published, workers, &mut waiting),
            None => Err(STOPPING.to_owned().into()),
        };
        match taken.or_else(|failure| self.give_up(failure, workers, &mut waiting)) {
            Ok(reload) => {
                self.own(published, workers);
                // A puller may have waited for its turn since it has read the file.
                End::Done { reload: reload || self.predecessor.0.pulled }
            }
            Err(Failure { why, predecessor: Fate::Died }) => {
                workers.put_in(waiting);
                self.own(published, workers);
                End::Died(why)
            }
            Err(Failure { why, .. }) => End::Failed(why),
        }
    }

    /// Ends the hand-over. The predecessor may have given up before, or may have sent more than this process has waited for.
    fn give_up(&self, mut failure: Failure, workers: &Workers, waiting: &mut Vec<Incoming>) -> Result<bool, Failure> {
        let post = &self.predecessor.0.post;
        // The predecessor may have ended.
        let _ = post.send_last(&Word::Refused { why: failure.why.clone(), stopping: false });
        if failure.predecessor != Fate::Stops && self.predecessor_ends_within(DEATH) {
            failure.predecessor = Fate::Died;
        }
        // A predecessor that lives sends no Commit and no Released from now on, and goes on with what it could not commit.
        let _ = post.end_receiving();
        while let Ok(Some(Letter { message, .. })) = post.receive::<Word>(Instant::now()) {
            match message {
                Word::Commit => workers.put_in(mem::take(waiting)),
                Word::Refused { stopping, .. } => {
                    waiting.clear();
                    if stopping {
                        failure.predecessor = Fate::Stops;
                    }
                }
                Word::Released { reload } => return Ok(reload),
                _ => {}
            }
        }
        Err(failure)
    }

    /// Whether the predecessor has ended by then. It may have closed the channel a moment before.
    fn predecessor_ends_within(&self, time: Duration) -> bool {
        let Ok(time) = Timespec::try_from(time) else { return false };
        poll(&mut [PollFd::new(&self.life, PollFlags::IN)], Some(&time)).is_ok_and(|count| count > 0)
    }

    /// All listening sockets and socket files are this process's.
    fn own(&self, published: &Published, workers: &Workers) {
        listen::own_lent();
        tune(workers, &TcpTuning::of(&published.model().global));
        published.upgrades().ended(true);
        let event = Event::new(Kind::Upgrade, By::Tcplb);
        let (version, how) =
            (env!("CARGO_PKG_VERSION"), if self.predecessor.0.pulled { ", by --take-over" } else { "" });
        published.events().record(event.because(format_args!("tcplb {version} has taken over{how}")));
    }

    /// Up to the predecessor's end. Whether the file is to be read again.
    fn take_the_rest(
        &self,
        published: &Published,
        workers: &Workers,
        waiting: &mut Vec<Incoming>,
    ) -> Result<bool, Failure> {
        let predecessor = &self.predecessor;
        predecessor.send(&Word::Running)?;
        loop {
            let Letter { message, descriptors, .. } = predecessor.receive()?;
            match message {
                // The predecessor serves on: it must not end for a process that ends.
                Word::Prepare(_) | Word::Farewell(_) if published.is_draining() => {
                    return Err(STOPPING.to_owned().into());
                }
                Word::Prepare(connections) => {
                    let (ready, refused) = assemble(connections, descriptors);
                    *waiting = ready;
                    predecessor.send(&Word::Ready { refused })?;
                }
                Word::Commit => {
                    workers.put_in(mem::take(waiting));
                    predecessor.send(&Word::Resumed)?;
                }
                Word::Farewell(memory) => {
                    memory.add_since(&self.memory, published);
                    predecessor.send(&Word::Done)?;
                }
                Word::Released { reload } => return Ok(reload),
                Word::Refused { why, stopping } => {
                    // They go on there.
                    waiting.clear();
                    let predecessor = if stopping { Fate::Stops } else { Fate::GoesOn };
                    return Err(Failure { why: refused(&why), predecessor });
                }
                _ => return Err(unexpected().into()),
            }
        }
    }
}

/// Gives all listening sockets the options of this process's configuration.
fn tune(workers: &Workers, tuning: &TcpTuning) {
    let warn = |error| log::warn!("a listening socket keeps the options of the process before: {error}");
    let tune = |socket: OwnedFd| listen::tune(socket, tuning).unwrap_or_else(warn);
    match workers.addresses(TUNING) {
        Ok(of_workers) => {
            let lend = |(worker, addresses)| workers.lend(worker, addresses, TUNING);
            of_workers.into_iter().enumerate().flat_map(lend).for_each(|part| match part {
                Ok(sockets) => sockets.into_iter().for_each(|(_, socket)| tune(socket)),
                Err(error) => warn(error),
            });
        }
        Err(error) => warn(error),
    }
    listen::of_service_manager().unwrap_or_default().into_iter().for_each(|(_, socket)| tune(socket));
}

/// Puts connections together from their records and descriptors. Those that can't go on here stay with the predecessor: their
/// places, and why.
pub(super) fn assemble(
    records: Vec<Record>,
    descriptors: impl IntoIterator<Item = OwnedFd>,
) -> (Vec<Incoming>, Vec<(usize, String)>) {
    let mut descriptors = descriptors.into_iter();
    let (mut ready, mut refused) = (Vec::new(), Vec::new());
    for (place, record) in records.into_iter().enumerate() {
        let incoming = take(record, &mut descriptors)
            .ok_or_else(|| "the new process has reached its limit on open files".to_owned());
        match incoming.and_then(|incoming| incoming.check().map(|()| incoming)) {
            Ok(incoming) => ready.push(incoming),
            Err(why) => refused.push((place, why)),
        }
    }
    (ready, refused)
}

/// The descriptors of a connection stand in the order of `upgrade::descriptors`.
fn take(record: Record, descriptors: &mut impl Iterator<Item = OwnedFd>) -> Option<Incoming> {
    let client = Socket::from_fd(descriptors.next()?);
    let backend = match &record.backend {
        Some(_) => Some(Socket::from_fd(descriptors.next()?)),
        None => None,
    };
    let mut pipe = |held: &Held| match held.in_pipe {
        0 => Some(None),
        _ => Some(Some(Pipe::from_ends(descriptors.next()?, descriptors.next()?))),
    };
    let (up, down) = (pipe(&record.up)?, pipe(&record.down)?);
    Some(Incoming { record, client, backend, up, down })
}

fn refused(why: &str) -> String {
    format!("the running process does not hand over: {why}")
}

fn unexpected() -> String {
    "the running process sent an unexpected message".to_owned()
}
