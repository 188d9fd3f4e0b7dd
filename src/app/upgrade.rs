//! The predecessor's side of an upgrade: hands everything over to a successor ([`crate::handover`]).
//!
//! The launcher starts the successor here, or it was started by others and asks for the hand-over (`pulls`). The hand-over runs on the
//! thread of its caller, which waits: a call of the admin API, a thread that SIGUSR2 starts, or `pulls`. One hand-over runs at a
//! time. Control stands still meanwhile ([`Held`]); workers and prober go on.
//!
//! A failure at any step leaves things as they were: [`Attempt`] undoes in its `drop` what was done. Before, the successor gets a
//! Refused, so that it does not go on with anything that this process has back.

use super::lend::Lending;
use super::memory::Memory;
use super::successor::{Successor, Survivor};
use super::workers::Workers;
use crate::admin::{self, Door};
use crate::base::text::counted;
use crate::clock;
use crate::control::{DataPlane, Held, Remote};
use crate::events::{By, Event, Kind};
use crate::handover::channel::DESCRIPTORS_MAX;
use crate::handover::message::SocketOf;
use crate::handover::{Channel, Figures, Letter, Life, Message, Pause, Post, Refusal, Upgrader};
use crate::launcher::Launcher;
use crate::net::{Pipe, listen};
use crate::pool::Published;
use crate::session::Direction;
use crate::worker::Peer;
use crate::worker::driver::transit::Record;
use crate::worker::transit::{self, Departed, Detached};
use crossbeam_channel::Receiver;
use parking_lot::Mutex;
use std::io::{self, PipeWriter};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// How long the successor may take to read its configuration, to bind, and to look up names.
const START: Duration = Duration::from_secs(60);

/// What a successor does with the listening sockets.
const BIND: &str = "bind its addresses";

/// How long a message may take, and a worker that is asked for something.
const STEP: Duration = Duration::from_secs(5);

/// What a successor does with connections.
const TAKE: &str = "take connections";

/// What a successor does at the end.
const TAKE_OVER: &str = "take over";

/// How long the successor may take to answer: it waits for its workers, which have [`STEP`].
const READY: Duration = Duration::from_secs(30);

/// Descriptors that a successor needs beside as many as this process has open.
const SPARE: u64 = 256;

/// Why a hand-over ends when a stop comes.
const STOPPING: &str = "tcplb is stopping";

/// How often a wait looks whether the successor has ended, or a stop has come.
const LOOK: Duration = Duration::from_millis(100);

/// Connections in a message. Each has up to six descriptors: two sockets, and two pipes with two ends each.
const BATCH: usize = DESCRIPTORS_MAX / 6;

/// How long connections that are being dialled may keep a worker from being empty.
const DIALS: Duration = Duration::from_secs(1);

/// How often all workers are asked, at most.
const ROUNDS: usize = 3;

/// The messages between two processes of this version.
pub type Word = Message<Record, Memory>;

/// Hands over to a successor, on demand.
#[derive(Clone)]
pub struct Upgrades(pub(super) Arc<Shared>);

/// What an upgrade needs.
pub struct Shared {
    /// Starts the successor; or why there is none. Locked during a hand-over of any kind.
    pub launcher: Mutex<Result<Launcher, String>>,
    /// Holds control.
    pub remote: Remote,
    /// The workers.
    pub workers: Workers,
    /// What is counted.
    pub published: Arc<Published>,
    /// Copies of the listening sockets beside those of workers: of the admin API, and the one that `pulls` serves.
    pub lent: Mutex<Vec<(SocketOf, OwnedFd)>>,
    /// Closing it ends the thread of `pulls`.
    pub pulling: Mutex<Option<PipeWriter>>,
    /// Shows the successor that this process has ended.
    pub life: Life,
    /// This process takes over from no other any more: until then there is no other upgrade.
    pub serves: AtomicBool,
    /// A successor has taken over.
    pub handed_over: AtomicBool,
    /// Keeps callers of the admin API out.
    pub door: Mutex<Option<Door>>,
    /// The successor of a hand-over that has failed late.
    pub survivor: Mutex<Option<Survivor>>,
}

impl Upgrades {
    /// With these parts.
    pub fn new(shared: Shared) -> Upgrades {
        Upgrades(Arc::new(shared))
    }

    /// The admin API runs.
    pub fn set_door(&self, door: Door) {
        *self.0.door.lock() = Some(door);
    }
}

impl Shared {
    /// Callers of the admin API reach this process, or the successor.
    fn open_door(&self, open: bool) {
        if let Some(door) = &*self.door.lock() {
            door.set(open);
        }
    }

    /// Another process serves: closes what this one has of its sockets. Workers close theirs themselves. This process may go on
    /// for long, until its last connection ends.
    pub fn leave_sockets(&self) {
        if let Some(door) = self.door.lock().take() {
            door.leave();
        }
        drop(self.pulling.lock().take());
        self.lent.lock().clear();
        listen::leave_inherited();
    }

    /// Waits for the end of a successor that has failed. A stop ends the wait.
    pub fn outlast_survivor(&self, stop: &Receiver<()>) {
        if let Some(survivor) = self.survivor.lock().take() {
            survivor.outlast(stop);
        }
    }

    /// Reports a hand-over that has failed.
    pub fn failed(&self, what: &str, why: &str) {
        log::error!("{what} failed, and this process goes on: {why}");
        self.published.upgrades().ended(false);
        let event = Event::new(Kind::Upgrade, By::Tcplb);
        self.published.events().record(event.because(format_args!("{what} failed: {why}")));
    }
}

impl Upgrader for Upgrades {
    fn upgrade(&self) -> Result<Figures, Refusal> {
        let Some(mut launcher) = self.0.launcher.try_lock() else { return Err(Refusal::UnderWay) };
        if !self.0.serves.load(Ordering::SeqCst) {
            return Err(Refusal::UnderWay);
        }
        let launcher = launcher.as_mut().map_err(|why| Refusal::Unavailable(why.clone()))?;
        let begun = Instant::now();
        log::info!("upgrade: starts {}", launcher.path().display());
        let launched = launch(launcher).inspect_err(|why| self.0.failed("upgrade", why));
        let figures = launched.and_then(|(post, pid)| {
            let moved = hand_over(&self.0, begun, post, Successor::Launched { launcher, pid }, None)?;
            Ok(moved.figures(pid, begun.elapsed()))
        });
        figures.map_err(Refusal::Failed)
    }
}

/// The connections that were handed over.
#[derive(Default)]
pub struct Moved {
    /// How long each stood still.
    pauses: Vec<Duration>,
    /// Those that stay here until they end.
    left: usize,
}

impl Moved {
    fn figures(mut self, pid: i32, took: Duration) -> Figures {
        self.pauses.sort_unstable();
        let millis = |share: f64| {
            let last = self.pauses.len().checked_sub(1)?;
            let rank = (share * last as f64).round() as usize;
            Some(self.pauses[rank.min(last)].as_secs_f64() * 1e3)
        };
        Figures {
            pid,
            connections: self.pauses.len(),
            left: self.left,
            seconds: took.as_secs_f64(),
            pause_ms: Pause { p50: millis(0.5), p99: millis(0.99), max: millis(1.0) },
        }
    }
}

/// The descriptors of a connection in the order of a message: client, backend, and the two ends of each pipe.
pub(super) fn descriptors(detached: &Detached) -> Vec<BorrowedFd<'_>> {
    let pipes = Direction::BOTH.into_iter().filter_map(|direction| detached.pipe(direction)).flat_map(Pipe::ends);
    let backend = detached.backend().map(|backend| backend.as_fd());
    std::iter::once(detached.client().as_fd()).chain(backend).chain(pipes).collect()
}

/// An upgrade under way. Dropping it before its end undoes what was done.
struct Attempt<'a> {
    shared: &'a Shared,
    begun: Instant,
    post: Post,
    successor: Successor<'a>,
    /// Clients are accepted by the successor.
    paused: bool,
    /// The successor has all that it needs to end by itself.
    running: bool,
    /// This process does not keep the kernel's rules any more.
    left: bool,
}

impl Drop for Attempt<'_> {
    fn drop(&mut self) {
        if self.paused {
            self.accept(true);
        }
        if self.left {
            self.shared.workers.keep_kernel();
        }
        if !self.running {
            self.successor.kill();
        }
    }
}

/// Has the launcher start a successor.
fn launch(launcher: &mut Launcher) -> Result<(Post, i32), String> {
    let (ours, theirs) = Channel::pair().map_err(|error| format!("can't make a socket pair: {error}"))?;
    let pid = launcher.launch(theirs.into_fd())?;
    Ok((Post::new(ours), pid))
}

/// Hands over to this successor, and reports a failure. `first` is its first message, if that has come.
pub fn hand_over(
    shared: &Shared,
    begun: Instant,
    post: Post,
    successor: Successor<'_>,
    first: Option<Word>,
) -> Result<Moved, String> {
    // Control goes on once the attempt has undone what it did, and the log has the failure: a stop may wait for that.
    let mut held = None;
    let way = successor.way();
    let mut attempt = Attempt { shared, begun, post, successor, paused: false, running: false, left: false };
    let outcome = attempt.carry_out(first, &mut held).inspect_err(|why| attempt.refuse(why, held.as_ref()));
    if outcome.is_err() && attempt.running {
        let drain = shared.published.model().global.shutdown_timeout;
        *shared.survivor.lock() = attempt.successor.survivor(drain);
    }
    drop(attempt);
    outcome.inspect_err(|why| shared.failed(way, why))
}

impl Attempt<'_> {
    /// All steps, in their order.
    fn carry_out(&mut self, first: Option<Word>, held: &mut Option<Held>) -> Result<Moved, String> {
        let shared = self.shared;
        // The successor reads the file about now.
        let reloads = shared.published.reloads();
        self.greet(first)?;
        let held = &*held.insert(shared.remote.hold().map_err(|refused| refused.to_string())?);
        let last_event = self.give_sockets(held)?;
        self.expect(BIND, START, held, |word| matches!(word, Word::Running))?;
        self.running = true;
        self.accept(false);
        let moved = self.move_connections(held)?;
        shared.open_door(false);
        self.send(&Word::Farewell(Box::new(Memory::of(&shared.published, last_event, 0))), TAKE_OVER)?;
        self.expect(TAKE_OVER, READY, held, |word| matches!(word, Word::Done))?;
        if held.is_over() {
            return Err(STOPPING.to_owned());
        }
        let reload = held.takes_reload() || shared.published.reloads() != reloads;
        self.left = true;
        shared.workers.leave_kernel(STEP);
        self.send(&Word::Released { reload }, TAKE_OVER)?;
        (self.paused, self.left) = (false, false);
        self.successor.announce();
        // The successor has the event and the count. This process may end as soon as control goes on.
        let (connections, seconds) = (counted(moved.pauses.len(), "connection"), self.begun.elapsed().as_secs_f64());
        let (way, successor) = (self.successor.way(), &self.successor);
        log::info!("{way}: {successor} has taken over, with {connections}, in {seconds:.1} s");
        shared.handed_over.store(true, Ordering::SeqCst);
        shared.leave_sockets();
        held.handed_over();
        Ok(moved)
    }

    /// Waits for the successor's first message, if that has not come yet.
    fn greet(&mut self, first: Option<Word>) -> Result<(), String> {
        let first = first.map_or_else(|| self.receive("read its configuration", START, None), Ok)?;
        let hello = match first {
            Word::Hello(hello) => hello,
            Word::Refused { why, .. } => return Err(format!("{}: {why}", self.successor)),
            _ => return Err(self.unexpected("read its configuration")),
        };
        // With the same limit it has room for what this process has.
        let (open, limit) = admin::descriptors();
        let open = open.unwrap_or_else(|| 2 * self.shared.published.connection_limit().active() as u64);
        let needed = limit.map_or(open + SPARE, |limit| limit.min(open + SPARE));
        let too_few = || {
            let allowed = hello.descriptors;
            format!("its limit on open files is {allowed}: expected at least {needed}, since {open} are open here")
        };
        self.shared.workers.set_successor_keeps_kernel(hello.keeps_kernel != Some(false));
        let mistake = hello.mistake().or_else(|| (hello.descriptors < needed).then(too_few));
        mistake.map_or(Ok(()), Err)
    }

    /// Gives the listening sockets, and what was changed, counted and learnt. The number of the last event.
    fn give_sockets(&mut self, held: &Held) -> Result<u64, String> {
        let sockets = Lending::new(self.shared, &held.snapshot, STEP)
            .map_err(|error| format!("can't copy the listening sockets: {error}"))?;
        let (version, changes) = (env!("CARGO_PKG_VERSION").to_owned(), held.changes.clone());
        let memory = Memory::of(&self.shared.published, 0, self.shared.workers.next_sequence());
        let last_event = memory.last_event();
        let welcome = Word::Welcome { version, changes, sockets: sockets.count(), memory: Box::new(memory) };
        let sent = self.post.send(&welcome, &[self.shared.life.as_fd()], Instant::now() + STEP);
        sent.map_err(|error| self.unsent(BIND, &error))?;
        sockets.give(|some| {
            let (of, descriptors): (Vec<_>, Vec<_>) = some.iter().map(|(of, fd)| (of.clone(), fd.as_fd())).unzip();
            let sent = self.post.send(&Word::Sockets(of), &descriptors, Instant::now() + STEP);
            sent.map_err(|error| self.unsent(BIND, &error))
        })?;
        Ok(last_event)
    }

    /// Hands over the connections of all workers, one worker after the other.
    fn move_connections(&mut self, held: &Held) -> Result<Moved, String> {
        let peers = self.shared.workers.peers();
        let mut moved = Moved::default();
        // A worker may get a client from another one, whose turn is over.
        for _ in 0..ROUNDS {
            let before = moved.pauses.len();
            moved.left = 0;
            for worker in 0..peers.len() {
                moved.left += self.empty_worker(worker, &peers, &mut moved.pauses, held)?;
            }
            if moved.left == 0 && moved.pauses.len() == before {
                break;
            }
        }
        moved.pauses.iter().for_each(|pause| self.shared.published.upgrades().pauses.add(*pause));
        Ok(moved)
    }

    /// Hands over all connections of a worker. How many it keeps.
    fn empty_worker(
        &mut self,
        worker: usize,
        peers: &Arc<[Peer]>,
        pauses: &mut Vec<Duration>,
        held: &Held,
    ) -> Result<usize, String> {
        let until = Instant::now() + DIALS;
        loop {
            let Some(departed) = transit::take_out(peers, worker, BATCH) else {
                return if peers[worker].heartbeat.has_ended() {
                    Ok(0)
                } else {
                    Err(format!("worker-{worker} does not respond"))
                };
            };
            let left = departed.left();
            let count = departed.connections().len();
            if count == 0 {
                // The rest dials, and comes out a little later.
                if left == 0 || Instant::now() >= until {
                    return Ok(left);
                }
                drop(departed);
                thread::sleep(transit::AGAIN);
                continue;
            }
            let taken_at = departed.taken_at();
            let refused = self.move_batch(departed, held)?;
            pauses.extend(std::iter::repeat_n(clock::now() - taken_at, count - refused));
            if refused == count {
                return Ok(left + refused);
            }
        }
    }

    /// Hands over some connections of a worker. How many the successor can't take: they are back at their worker.
    fn move_batch(&mut self, departed: Departed, held: &Held) -> Result<usize, String> {
        // Before they go on here. A successor that sees this process die without a Refused would go on with them.
        let places = self.commit(&departed, held).inspect_err(|why| self.refuse(why, Some(held)))?;
        departed.commit(&places);
        self.expect(TAKE, READY, held, |word| matches!(word, Word::Resumed))?;
        Ok(places.len())
    }

    /// Offers these connections to the successor, up to the message that it has them. The places of those that it can't take.
    fn commit(&mut self, departed: &Departed, held: &Held) -> Result<Vec<usize>, String> {
        let record = |detached: &Detached| {
            let mut record = detached.record().clone();
            if let Some(cut) = detached.relays_to().and_then(|(backend, address)| held.cuts.at(backend, address)) {
                record.session.end_within(cut.saturating_duration_since(Instant::now()));
            }
            record
        };
        let records = departed.connections().iter().map(record).collect();
        let descriptors: Vec<BorrowedFd<'_>> = departed.connections().iter().flat_map(descriptors).collect();
        let sent = self.post.send(&Word::Prepare(records), &descriptors, Instant::now() + STEP);
        sent.map_err(|error| self.unsent(TAKE, &error))?;
        let mut refused = match self.receive(TAKE, READY, Some(held))? {
            Word::Ready { refused } => refused,
            Word::Refused { why, .. } => return Err(format!("{}: {why}", self.successor)),
            _ => return Err(self.unexpected(TAKE)),
        };
        refused.retain(|(place, _)| *place < departed.connections().len());
        refused.sort_unstable();
        refused.dedup_by_key(|(place, _)| *place);
        for (place, why) in &refused {
            log::warn!("upgrade: a connection stays in this process: {why} (number {place} of a batch)");
        }
        self.send(&Word::Commit, TAKE)?;
        Ok(refused.into_iter().map(|(place, _)| place).collect())
    }

    /// The successor accepts clients, or this process does again. Callers of the admin API reach this process up to its last count.
    fn accept(&mut self, accept: bool) {
        self.paused = !accept;
        self.shared.workers.accept(accept);
        if accept {
            self.shared.open_door(true);
        }
    }

    /// Gives up. The successor may have ended, or may not read: nothing waits for it.
    fn refuse(&self, why: &str, held: Option<&Held>) {
        let _ = self.post.send_last(&Word::Refused { why: why.to_owned(), stopping: held.is_some_and(Held::is_over) });
    }

    fn send(&mut self, word: &Word, to: &str) -> Result<(), String> {
        let sent = self.post.send(word, &[], Instant::now() + STEP);
        sent.map_err(|error| self.unsent(to, &error))
    }

    /// Why a message was not sent.
    fn unsent(&mut self, to: &str, error: &io::Error) -> String {
        match error.kind() {
            io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => self.ended(to),
            _ => format!("{} does not {to}: {error}", self.successor),
        }
    }

    /// Waits for a message of this kind.
    fn expect(&mut self, to: &str, time: Duration, held: &Held, is: impl Fn(&Word) -> bool) -> Result<(), String> {
        match self.receive(to, time, Some(held))? {
            Word::Refused { why, .. } => Err(format!("{}: {why}", self.successor)),
            word if is(&word) => Ok(()),
            _ => Err(self.unexpected(to)),
        }
    }

    /// Waits for the next message. `to` is what the successor is about to do.
    fn receive(&mut self, to: &str, time: Duration, held: Option<&Held>) -> Result<Word, String> {
        let until = Instant::now() + time;
        loop {
            if held.is_some_and(Held::is_over) {
                return Err(STOPPING.to_owned());
            }
            let slice = until.min(Instant::now() + LOOK);
            match self.post.receive::<Word>(slice) {
                Ok(Some(Letter { message, .. })) => return Ok(message),
                Ok(None) => return Err(self.ended(to)),
                Err(error) if error.kind() == io::ErrorKind::TimedOut => {
                    if let Some(status) = self.successor.status_within(Duration::ZERO) {
                        return Err(self.ended_with(&status, to));
                    }
                    if Instant::now() >= until {
                        return Err(format!("{} did not {to} within {time:?}", self.successor));
                    }
                }
                Err(error) => return Err(format!("a message of {} can't be read: {error}", self.successor)),
            }
        }
    }

    /// The channel is closed: the process has ended, or is about to.
    fn ended(&mut self, to: &str) -> String {
        match self.successor.status_within(STEP) {
            Some(status) => self.ended_with(&status, to),
            None => format!("{} gave up before it could {to}; its log says why", self.successor),
        }
    }

    fn ended_with(&self, status: &str, to: &str) -> String {
        format!("{} ended before it could {to}: {status}; its log says why", self.successor)
    }

    fn unexpected(&self, to: &str) -> String {
        format!("{} sent another message than that it could {to}", self.successor)
    }
}
