//! The thread `kernel`: keeps the rules of the kernel as the newest snapshot and the health bits want them.
//!
//! | order | what follows |
//! |---|---|
//! | another snapshot, other health bits | the difference between the installed table and the wanted one is one transaction of nft |
//! | the same while nft runs, and other health bits in the [`REST`] after it | they are merged, and are the next transaction |
//! | loads were counted | with `approximate`, weights follow them ([`super::approximation`]) |
//! | reset connections | once the rules are right, the entries of their marks are deleted |
//! | keep the rules (`keep`) | what is installed is read, and becomes what is wanted: connections and their marks stay |
//! | the process takes no new clients ([`End::Close`]) | no address leads to a chain any more; all else stays, so that connections go on |
//! | another process serves ([`End::Leave`]) | nothing: the rules are its own |
//!
//! # Failures
//!
//! A transaction that fails changes nothing: the kernel keeps its last rules. The thread then reads what is installed, and tries
//! again after a pause, from [`PAUSE`] on and up to [`PAUSE_MAX`]. The log and the events have the first failure and the end.
//!
//! If nft refuses the rules of a listener, that is a failure like the others. All else is carried out (`rules`), and follows health
//! and configuration meanwhile.
//!
//! Each second, one netlink message asks whether any program has changed rules of nftables, as `nft flush ruleset` does. If so, and
//! `state` is not what it was, that is a failure like the others, and the table is installed again at once.
//!
//! One process keeps the rules of a network namespace: it holds a name there before it reads the table (`rules`).
//!
//! The thread waits for nft, and at the start for probes. Control waits for a transaction as it waits for workers: in bounded time.

use super::approximation::Approximation;
use super::directory::{Directory, states};
use super::entries::{Counter, Desk, GRACE, Which};
use super::helper::{Failure, Helper};
use super::rules::{Brought, First, Ruleset, persist};
use super::table::Table;
use super::{Mark, wanted};
use crate::base::text::counted;
use crate::config::model::OnRemove;
use crate::events::{By, Event, Kind};
use crate::inspect::{Forwards, Inspection};
use crate::mailbox::{Mailbox, Merge, Slot};
use crate::pool::{Published, ResetOrder, Snapshot};
use crate::watchdog::{Heartbeat, Watched};
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded, unbounded};
use mio::{Events, Poll, Token};
use std::io;
use std::mem;
use std::net::IpAddr;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// The pause after a failure; each further one in a row doubles it.
pub const PAUSE: Duration = Duration::from_secs(1);
/// The longest pause.
pub const PAUSE_MAX: Duration = Duration::from_secs(30);

/// How many times as long as nft took no other transaction begins by itself, and the longest such rest. A change that a caller waits
/// for begins at once.
const REST: u32 = 3;
const REST_MAX: Duration = Duration::from_secs(1);

/// The time from one look at the table to the next.
const LOOK: Duration = Duration::from_secs(1);

/// How long the start waits for the first rules, or for the next transaction. nft may take ten seconds, to read and to apply.
const FIRST: Duration = Duration::from_secs(25);

/// How long the first rules wait for the first probes, and the pause between two looks at them.
const PROBES: Duration = Duration::from_secs(3);
const PROBES_PAUSE: Duration = Duration::from_millis(20);

/// How long the end waits for the last rules.
const FAREWELL: Duration = Duration::from_secs(12);

/// How long after the first attempt to let no new connections in another one begins, and the pause before it.
const CLOSING: Duration = Duration::from_secs(6);
const CLOSING_PAUSE: Duration = Duration::from_millis(500);

/// How long the helper may take for each answer then.
const CLOSING_ANSWER: Duration = Duration::from_secs(4);

const ORDERS: Token = Token(0);

/// What the thread is to do next.
#[derive(Debug, Default)]
pub struct Orders {
    /// The rules are to lead to the backends of this snapshot.
    pub adopt: Option<Adopt>,
    /// The connections to reset.
    pub reset: ResetOrder,
    /// Health bits have changed.
    pub usable: bool,
    /// Loads have been counted.
    pub counted: bool,
    /// The marks of backends that have left, and without connections.
    pub unused: Vec<Mark>,
    /// The helper of this number does not answer about connections: another one is to take its place.
    pub renew: Option<u64>,
    /// This process keeps the rules from now on.
    pub keep: bool,
    /// It keeps them no more.
    pub end: Option<End>,
    /// Dropped once that is so.
    pub ended: Option<Sender<()>>,
    /// End the thread.
    pub stop: bool,
}

/// A snapshot for the thread.
#[derive(Debug)]
pub struct Adopt {
    /// The next snapshot.
    pub snapshot: Arc<Snapshot>,
    /// Dropped once the rules are right, or could not be made so.
    pub done: Option<Sender<()>>,
}

/// Why the process keeps the rules no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// It takes no new clients, and no other process does.
    Close,
    /// Another process keeps them.
    Leave,
}

impl Merge for Orders {
    fn merge(&mut self, later: Orders) {
        self.adopt = later.adopt.or(self.adopt.take());
        self.reset.extend(later.reset);
        self.usable |= later.usable;
        self.counted |= later.counted;
        if !later.unused.is_empty() {
            self.unused = later.unused;
        }
        self.renew = later.renew.or(self.renew);
        if later.keep {
            // A hand-over has failed at its end.
            (self.keep, self.end) = (true, None);
        }
        // Nothing follows a process that serves.
        if self.end != Some(End::Leave) {
            self.end = later.end.or(self.end);
        }
        self.ended = later.ended.or(self.ended.take());
        self.stop |= later.stop;
    }
}

/// What other threads need of it. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Access {
    /// Where it takes orders.
    pub orders: Arc<Slot<Orders>>,
    desk: Arc<Desk>,
}

impl Access {
    /// Where the rules lead a client of this listener; `None`: nowhere.
    pub fn forwards(&self, listener: &str, client: IpAddr, port: Option<u16>) -> Option<Forwards> {
        self.desk.directory().forwards(listener, client, port)
    }

    /// Hands over a question about connections. False: it can't be answered.
    pub fn ask(&self, inspection: Inspection) -> bool {
        self.desk.ask(inspection);
        true
    }
}

/// The threads before they start: control and the prober must know them before.
pub struct Prepared {
    poll: Poll,
    access: Access,
    wake: Mailbox<()>,
    helper: Helper,
}

/// The running threads; dropping it stops them.
#[derive(Debug)]
pub struct Engine {
    access: Access,
    wake: Mailbox<()>,
    heartbeat: Heartbeat,
    ended: Receiver<()>,
    threads: Vec<JoinHandle<()>>,
}

/// Prepares the threads.
pub fn prepare(helper: Helper) -> io::Result<Prepared> {
    let poll = Poll::new()?;
    let (wake, _) = Mailbox::new(&poll, ORDERS, 1)?;
    let access = Access { orders: Arc::new(wake.slot()), desk: Arc::default() };
    Ok(Prepared { poll, access, wake, helper })
}

impl Prepared {
    /// For control, the prober and the admin API.
    pub fn access(&self) -> Access {
        self.access.clone()
    }

    /// Starts the threads with the first snapshot. `keeps`: this process keeps the rules, and they are right when this returns.
    /// Fails with the reason why they are not.
    pub fn spawn(self, snapshot: Arc<Snapshot>, published: &Arc<Published>, keeps: bool) -> io::Result<Engine> {
        let Prepared { poll, access, wake, helper } = self;
        let Helper { starter, tables, entries } = helper;
        // The process before may have led clients to any backend.
        states(&snapshot).for_each(|(backend, _)| backend.expect_clients());
        let heartbeat = Heartbeat::default();
        let (end, ended) = bounded(0);
        let (first, is_right) = unbounded();
        let first = keeps.then_some(first);
        let keeper = Keeper {
            poll,
            access: access.clone(),
            rules: Ruleset::new(starter, tables, access.desk.clone(), heartbeat.clone(), first),
            published: published.clone(),
            heartbeat: heartbeat.clone(),
            snapshot,
            directory: Arc::default(),
            approximation: Approximation::default(),
            keeps,
            has_adopted: false,
            done: Vec::new(),
            resets: ResetOrder::default(),
            retry: None,
            look: Instant::now() + LOOK,
            rest: Instant::now(),
            pause: PAUSE,
        };
        let mut counter = Counter::new(access.desk.clone(), entries, published.clone(), access.orders.clone());
        if keeps {
            // Before the first rule leads a client anywhere.
            counter.begin();
        }
        let (of_keeper, of_counter): (Sender<()>, Sender<()>) = (end.clone(), end);
        let keep = move || {
            let _end = of_keeper;
            keeper.run();
        };
        let count = move || {
            let _end = of_counter;
            counter.run();
        };
        let threads = vec![
            thread::Builder::new().name("kernel".to_owned()).spawn(keep)?,
            thread::Builder::new().name("kernel-entries".to_owned()).spawn(count)?,
        ];
        let engine = Engine { access, wake, heartbeat, ended, threads };
        if keeps {
            await_first(&is_right)
                .map_err(|why| io::Error::other(format!("the kernel's rules can't be made: {why}")))?;
        }
        Ok(engine)
    }
}

/// Waits for the outcome of the first rules.
fn await_first(first: &Receiver<First>) -> Result<(), String> {
    let mut patience = FIRST;
    loop {
        match first.recv_timeout(patience) {
            Ok(First::Done(outcome)) => return outcome,
            Ok(First::Takes(more)) => patience = FIRST + more,
            Err(_) => return Err("nft does not respond".to_owned()),
        }
    }
}

impl Engine {
    /// The heartbeat that the watchdog checks.
    pub fn watched(&self) -> Watched {
        let (wake, heartbeat) = (self.wake.clone(), self.heartbeat.clone());
        Watched { name: "kernel".to_owned(), heartbeat, wake: Box::new(move || wake.wake()) }
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.access.orders.put(Orders { stop: true, ..Orders::default() });
        self.access.desk.end();
        // Nothing is ever sent: the channel disconnects when the threads end.
        if self.ended.recv_timeout(FAREWELL) == Err(RecvTimeoutError::Timeout) {
            return log::error!("the threads of the kernel's rules did not end within {FAREWELL:?}");
        }
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                log::error!("a thread of the kernel's rules panicked");
            }
        }
    }
}

/// The state of the thread.
struct Keeper {
    poll: Poll,
    access: Access,
    rules: Ruleset,
    published: Arc<Published>,
    heartbeat: Heartbeat,
    snapshot: Arc<Snapshot>,
    directory: Arc<Directory>,
    approximation: Approximation,
    /// This process keeps the rules.
    keeps: bool,
    /// It has made the rules right once.
    has_adopted: bool,
    /// Dropped with the next transaction.
    done: Vec<Sender<()>>,
    resets: ResetOrder,
    /// When to try again after a failure.
    retry: Option<Instant>,
    /// When to look whether the table is still there.
    look: Instant,
    /// The end of the rest after the last transaction.
    rest: Instant,
    pause: Duration,
}

impl Keeper {
    fn run(mut self) {
        let mut events = Events::with_capacity(1);
        let mut is_due = self.keeps;
        loop {
            self.heartbeat.beat();
            if is_due && (self.rest <= Instant::now() || !self.done.is_empty()) {
                is_due = false;
                self.update();
            }
            let looks = self.keeps && self.rules.is_known();
            let rested = is_due.then_some(self.rest);
            let next = self.retry.into_iter().chain(looks.then_some(self.look)).chain(rested).min();
            let sleep = next.map(|at| at.saturating_duration_since(Instant::now()));
            match self.poll.poll(&mut events, sleep) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    // epoll_wait(2) has no other error that a retry would fix.
                    log::error!("the kernel keeps its last rules from now on: {error}");
                    break;
                }
            }
            is_due |= self.retry.is_some_and(|at| at <= Instant::now());
            if looks && self.look <= Instant::now() {
                is_due |= self.is_lost();
            }
            let Some(orders) = self.access.orders.take() else { continue };
            let Orders { adopt, reset, usable, counted, unused, renew, keep, end, ended, stop } = orders;
            let mut wants_other = usable || keep || renew.is_some() || !reset.is_empty() || !unused.is_empty();
            if let Some(Adopt { snapshot, done }) = adopt {
                // It may be the remedy, and a caller waits for the outcome.
                is_due = true;
                self.approximation.adopt(&snapshot);
                self.snapshot = snapshot;
                self.rules.try_all();
                self.done.extend(done);
            }
            self.resets.extend(reset);
            // Before the next plan: a mark that is wanted again by now is not released.
            if let Some(planner) = self.rules.planner() {
                unused.into_iter().for_each(|mark| planner.release(mark));
            }
            let renew = renew.filter(|_| self.keeps);
            if let Some(failure) = renew.and_then(|number| self.rules.give_up(number)) {
                self.failed(&failure);
            }
            if keep && !mem::replace(&mut self.keeps, true) {
                self.access.desk.begin();
            }
            if let Some(end) = end {
                self.end(end);
            }
            drop(ended);
            if stop {
                break;
            }
            if counted && self.keeps && self.retry.is_none() && self.rules.is_known() {
                wants_other |= self.approximation.follow(&self.snapshot, Instant::now());
            }
            // After a failure, only the pause ends. Rules of listeners that are refused hold up no others.
            let may_change = self.retry.is_none() || self.rules.has_refused() && self.rules.is_known();
            is_due |= wants_other && may_change;
        }
        self.heartbeat.end();
    }

    /// Makes the rules what they should be.
    fn update(&mut self) {
        let done = mem::take(&mut self.done);
        if !self.keeps {
            return;
        }
        // While the rules of listeners are refused, the others follow what is wanted, and the pause goes on.
        let rest = self.retry.take().filter(|at| self.rules.has_refused() && *at > Instant::now());
        if rest.is_none() {
            self.rules.try_all();
        }
        let prepared = if self.rules.first.is_some() { self.await_probes() } else { Ok(()) };
        let outcome = prepared.and_then(|()| self.bring(true));
        let kernel = self.published.kernel();
        match &outcome {
            Ok(()) => {
                self.pause = PAUSE;
                if kernel.is_right() {
                    log::info!("the kernel's rules are as they should be again");
                    self.published.events().record(Event::new(Kind::KernelBack, By::Tcplb));
                }
            }
            Err(failure) => {
                self.failed(failure);
                let rest = rest.filter(|_| self.rules.is_known());
                self.retry = Some(rest.unwrap_or_else(|| Instant::now() + self.pause));
                if rest.is_none() {
                    self.pause = (self.pause * 2).min(PAUSE_MAX);
                }
            }
        }
        if self.rules.is_known() {
            self.reset();
        }
        if let Some(first) = self.rules.first.take() {
            let _ = first.try_send(First::Done(outcome.map_err(|failure| failure.to_string())));
        }
        drop(done);
    }

    /// The process before may have ended without a word, and its rules still serve. Those of a backend that counts as down before
    /// its first probe would refuse clients in between.
    fn await_probes(&mut self) -> Result<(), Failure> {
        let mut waits = self.rules.look_at_first()? && wanted::awaits_probes(&self.snapshot);
        let until = Instant::now() + PROBES;
        while waits && Instant::now() < until {
            self.heartbeat.beat();
            waits = wanted::awaits_probes(&self.snapshot);
            // After the last result, too: the prober writes the health bit after it.
            thread::sleep(PROBES_PAUSE);
        }
        Ok(())
    }

    /// Notes why the rules are not as they should be.
    fn failed(&mut self, failure: &Failure) {
        let why = failure.to_string();
        if !matches!(failure, Failure::Listeners(_)) {
            self.rules.forget();
        }
        // The start reports its own failure.
        if self.published.kernel().failed(&why) && self.rules.first.is_none() {
            match failure {
                Failure::Changed => log::error!("{why}"),
                _ => log::error!("the kernel keeps its last rules: {why}"),
            }
            self.published.events().record(Event::new(Kind::KernelFailed, By::Tcplb).because(&why));
        }
    }

    /// Whether another program has changed the table. It must be read then.
    fn is_lost(&mut self) -> bool {
        self.look = Instant::now() + LOOK;
        let failure = match self.rules.look() {
            Some(Ok(true)) | None => return false,
            Some(Ok(false)) => Failure::Changed,
            Some(Err(failure)) => failure,
        };
        self.failed(&failure);
        true
    }

    /// Makes the rules what is wanted. `open`: new connections are let in.
    fn bring(&mut self, open: bool) -> Result<(), Failure> {
        let began = Instant::now();
        self.expect_clients();
        let wanted = wanted::of(&self.snapshot, open, &self.approximation);
        let Brought { table, changes, took, refused } = self.rules.bring(&wanted)?;
        if changes > 0 {
            self.published.kernel().changed(changes, took);
            self.approximation.took(began.elapsed(), Instant::now());
            self.rest = Instant::now() + (took * REST).min(REST_MAX);
        }
        self.approximation.publish(&self.snapshot);
        self.know(&table);
        refused.map_or(Ok(()), Err)
    }

    /// The rules are these now: what follows for the entries of connections.
    fn know(&mut self, table: &Table) {
        let Some(planner) = self.rules.planner() else { return };
        let directory = Arc::new(Directory::new(&self.snapshot, table, planner, &self.directory));
        if !mem::replace(&mut self.has_adopted, true) {
            self.end_left(table, directory.leaving());
        }
        let lost = self.directory.lost_in(&directory);
        self.access.desk.know(directory.clone());
        // A count of the directory before may just have ended.
        self.expect_clients();
        self.access.desk.delete(lost, Which::Unanswered, Instant::now() + GRACE);
        self.directory = directory;
    }

    /// When the connections of backends end that had left before this process, it does not know: `on_remove` begins anew.
    fn end_left(&self, table: &Table, leaving: &[Mark]) {
        for mark in leaving {
            let Some(target) = table.backends.get(mark) else { continue };
            let pool = self.snapshot.pools.iter().find(|pool| target.label.is_of_pool(&pool.settings.name));
            let time = match pool.map(|pool| pool.settings.on_remove) {
                None | Some(OnRemove::Keep) => continue,
                Some(OnRemove::Reset) => Duration::ZERO,
                Some(OnRemove::Drain(time)) => time,
            };
            // A time that overflows the clock never comes.
            let at = Instant::now().checked_add(time);
            at.into_iter().for_each(|at| self.access.desk.delete([*mark], Which::Left, at));
        }
    }

    /// A drain of a backend that the rules may lead to waits for a count.
    fn expect_clients(&self) {
        states(&self.snapshot).filter(|(_, is_led)| *is_led).for_each(|(backend, _)| backend.expect_clients());
    }

    /// Deletes the entries of connections that are to be reset.
    fn reset(&mut self) {
        let order = mem::take(&mut self.resets);
        if !order.is_empty() {
            self.access.desk.delete(self.directory.meant(&order), Which::All, Instant::now());
        }
    }

    fn end(&mut self, end: End) {
        let kept = mem::replace(&mut self.keeps, false);
        self.retry = None;
        match end {
            End::Leave => self.access.desk.leave(),
            End::Close if kept => {
                let listeners = self.snapshot.listeners.iter().filter(|listener| listener.settings.is_of_kernel());
                let active: usize = listeners.map(|listener| listener.totals.active()).sum();
                // One that hangs is replaced.
                self.rules.set_patience(CLOSING_ANSWER);
                let closed = persist(CLOSING, CLOSING_PAUSE, || {
                    self.heartbeat.beat();
                    match self.bring(false) {
                        // No address leads to their chains either.
                        Err(Failure::Listeners(_)) => Ok(()),
                        outcome => outcome,
                    }
                });
                match closed {
                    Ok(()) => log::info!(
                        "the kernel takes no new connections; {} that it carries go on (`tcplb kernel flush` ends them)",
                        counted(active as u64, "connection")
                    ),
                    Err(failure) => log::error!(
                        "the kernel still takes new connections (`tcplb kernel flush` ends that): {failure}"
                    ),
                }
            }
            End::Close => {}
        }
        self.rules.release();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_follows_a_process_that_serves_but_that_it_does_not() {
        let end = |end| Orders { end: Some(end), ..Orders::default() };
        let mut orders = Orders::default();
        orders.merge(end(End::Leave));
        orders.merge(end(End::Close));
        assert_eq!((orders.end, orders.keep), (Some(End::Leave), false));
        // A hand-over that has failed at its end.
        orders.merge(Orders { keep: true, ..Orders::default() });
        assert_eq!((orders.end, orders.keep), (None, true));
        let (ended, has_ended) = bounded::<()>(0);
        orders.merge(Orders { ended: Some(ended), ..end(End::Leave) });
        orders.merge(Orders::default());
        assert!(orders.ended.is_some() && has_ended.try_recv() == Err(crossbeam_channel::TryRecvError::Empty));
    }
}
