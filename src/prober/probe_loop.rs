//! The thread itself: waits for sockets, letters and time, and gives every backend its turn.
//!
//! One turn of the loop: events → letters → timers → begin what is due, as far as there is room. A backend's slot in
//! `watches` is also its slot in the wheel; it has one deadline at a time: the next round's start, or the end of the
//! first probe under way. A round is a probe of each of its addresses, all at once as far as there is room.

use super::watch::{Membership, ProbePhase, Watch};
use super::{NOTES_MAX, OPEN_MAX, OnDown};
use crate::base::Tick;
use crate::base::slots::{Key, Slots};
use crate::base::wheel::Wheel;
use crate::clock;
use crate::mailbox::Mailbox;
use crate::net::probe::{ProbeSocket, Readiness};
use crate::policy::health::{ConnectFailure, Outcome, schedule};
use crate::policy::slow_start;
use crate::pool::{BackendId, Note, Snapshot};
use crate::probe::ProbeTarget;
use crate::watchdog::Heartbeat;
use crossbeam_channel::Receiver;
use mio::{Events, Poll, Token};
use std::collections::{HashMap, VecDeque};
use std::io;
use std::sync::Arc;
use std::time::Duration;

const LETTERS: Token = Token(usize::MAX);

/// How long to wait when descriptors or memory lacked.
const LACK: Duration = Duration::from_millis(100);

/// Probes are timed to this. Ten probes begun in one turn cost one wait of the kernel's instead of ten.
const GRAIN: Duration = Duration::from_millis(8);

/// A probe under way.
#[derive(Debug)]
struct Open {
    /// Whose it is.
    watch: Key,
    /// The number of the backend's address that it tries.
    address: usize,
    /// When its time is over.
    until: Tick,
    socket: ProbeSocket,
}

/// All that the thread owns.
pub struct ProbeLoop {
    poll: Poll,
    letters: Receiver<Note>,
    /// When this turn of the loop began, by [`clock`].
    now: Tick,
    watches: Slots<Watch>,
    by_id: HashMap<BackendId, Key>,
    wheel: Wheel,
    /// Watches whose probe is due, each at most once; a key of one that is gone is passed over.
    queue: VecDeque<Key>,
    open: Slots<Open>,
    open_max: usize,
    /// Set while descriptors or memory lack: when to try again.
    lacking: Option<Tick>,
    /// When the next outlier comes back.
    readmit: Option<Tick>,
    /// When the shares of backends that start slowly grow next; `None`: no pool has a slow start.
    warm_up: Option<Tick>,
    random: fastrand::Rng,
    on_down: OnDown,
    heartbeat: Heartbeat,
}

impl ProbeLoop {
    /// Takes up the first snapshot; nothing is probed before [`ProbeLoop::run`].
    pub fn new(snapshot: Arc<Snapshot>, on_down: OnDown, open_max: usize) -> io::Result<(Mailbox<Note>, ProbeLoop)> {
        let poll = Poll::new()?;
        let (mailbox, letters) = Mailbox::new(&poll, LETTERS, NOTES_MAX)?;
        let now = clock::now();
        let mut probe_loop = ProbeLoop {
            poll,
            letters,
            now,
            watches: Slots::default(),
            by_id: HashMap::new(),
            wheel: Wheel::new(now),
            queue: VecDeque::new(),
            open: Slots::default(),
            open_max: open_max.clamp(1, OPEN_MAX),
            lacking: None,
            readmit: None,
            warm_up: None,
            random: fastrand::Rng::new(),
            on_down,
            heartbeat: Heartbeat::default(),
        };
        probe_loop.adopt(&snapshot);
        Ok((mailbox, probe_loop))
    }

    /// That the thread comes around.
    pub fn heartbeat(&self) -> Heartbeat {
        self.heartbeat.clone()
    }

    /// The thread's life.
    pub fn run(mut self) {
        let mut events = Events::with_capacity(256);
        let mut fired = Vec::new();
        loop {
            self.heartbeat.beat();
            match self.poll.poll(&mut events, self.sleep()) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => {
                    // epoll_wait(2) knows no other error that trying again would cure.
                    log::error!("health checks stop, all backends keep their state: {error}");
                    return;
                }
            }
            self.now = clock::now();
            for event in &events {
                if let Some(key) = self.key_of(event.token()) {
                    let readiness = if event.is_writable() { Readiness::Writable } else { Readiness::Other };
                    self.drive(key, readiness);
                }
            }
            // As many as fit into the box: a flood of letters does not keep probes waiting.
            for _ in 0..NOTES_MAX {
                let Ok(note) = self.letters.try_recv() else { break };
                if let Note::Stop = note {
                    self.heartbeat.end();
                    return;
                }
                self.read(note);
            }
            self.wheel.advance(self.now, &mut fired);
            for slot in fired.drain(..) {
                self.time_has_come(slot);
            }
            self.readmit_outliers();
            self.warm_up();
            self.begin_probes();
        }
    }

    fn sleep(&self) -> Option<Duration> {
        if !self.letters.is_empty() {
            return Some(Duration::ZERO);
        }
        let retry = self.lacking.filter(|_| !self.queue.is_empty()).map(|at| at - self.now);
        let readmit = self.readmit.map(|at| at - self.now);
        let warm_up = self.warm_up.map(|at| at - self.now);
        [self.wheel.sleep(self.now), retry, readmit, warm_up].into_iter().flatten().min()
    }

    /// Lets shares grow, where a pool has a slow start.
    fn warm_up(&mut self) {
        if self.warm_up.is_none_or(|at| self.now < at) {
            return;
        }
        self.warm_up = Some(self.now + slow_start::STEP);
        self.by_id.values().filter_map(|key| self.watches.get(*key)).for_each(|watch| watch.warm_up(self.now));
    }

    /// A backend's slot in the wheel is for its probes; outliers are few, and looked for when the first of them is due.
    fn readmit_outliers(&mut self) {
        if self.readmit.is_none_or(|at| self.now < at) {
            return;
        }
        self.readmit = None;
        for key in self.by_id.values() {
            let Some(watch) = self.watches.get_mut(*key) else { continue };
            watch.readmit(self.now);
            self.readmit = [self.readmit, watch.ejected_until()].into_iter().flatten().min();
        }
    }

    fn count_outlier(&mut self, backend: BackendId) {
        let key = self.by_id.get(&backend);
        let Some(watch) = key.and_then(|&key| self.watches.get_mut(key)) else { return };
        if watch.count_outlier(self.now) {
            self.readmit = [self.readmit, watch.ejected_until()].into_iter().flatten().min();
        }
    }

    fn read(&mut self, note: Note) {
        match note {
            Note::Adopt { snapshot, done } => {
                self.adopt(&snapshot);
                // Whoever asked may have given up waiting.
                let _ = done.try_send(());
            }
            Note::ResetEarly(backend) => self.count_outlier(backend),
            Note::ConnectFailed { backend, failure } => {
                // What this process lacks makes nobody an outlier.
                if !failure.is_ours() {
                    self.count_outlier(backend);
                }
                let Some(&key) = self.by_id.get(&backend) else { return };
                let Some(watch) = self.watches.get_mut(key) else { return };
                if watch.client_failed(failure, self.now) {
                    self.wheel.set(key.slot, watch.next_visit(self.now));
                }
                self.report_down(key);
            }
            Note::AddressFailed { backend, address, failure } => {
                let Some(&key) = self.by_id.get(&backend) else { return };
                if let Some(watch) = self.watches.get_mut(key) {
                    watch.address_failed(address, failure, self.now);
                }
                self.report_down(key);
            }
            Note::Connected(backend) => {
                let key = self.by_id.get(&backend);
                if let Some(watch) = key.and_then(|&key| self.watches.get_mut(key)) {
                    watch.client_connected(self.now);
                }
            }
            Note::Stop => {}
        }
    }

    /// Takes up the backends of a snapshot: those that stay keep all that is known of them, new ones are probed soon,
    /// those that left are forgotten, probes under way and all.
    fn adopt(&mut self, snapshot: &Snapshot) {
        let starts_slowly = snapshot.pools.iter().any(|pool| !pool.settings.slow_start.is_zero());
        self.warm_up = starts_slowly.then(|| self.warm_up.unwrap_or(self.now));
        let mut known = std::mem::take(&mut self.by_id);
        let mut new = Vec::new();
        for pool in &snapshot.pools {
            for (index, member) in pool.members.iter().enumerate() {
                let id = member.backend.id;
                let membership = Membership { pool, index, member, among_several: snapshot.pools.len() > 1 };
                if self.by_id.contains_key(&id) {
                    debug_assert!(false, "{id:?} is twice in a snapshot");
                    continue;
                }
                let kept = known.remove(&id).and_then(|key| Some((key, self.watches.get_mut(key)?)));
                let key = match kept {
                    Some((key, watch)) => {
                        if watch.adopt(membership, self.now) && watch.phase == ProbePhase::Resting {
                            // All of them changed at once: what spreads new backends spreads these.
                            new.push(key);
                        }
                        Some(key)
                    }
                    None => {
                        let key = self.watches.insert_with(|_| Watch::new(membership, self.now));
                        new.extend(key);
                        key
                    }
                };
                // No key: 2^32 backends are being watched, which no memory holds.
                self.by_id.extend(key.map(|key| (id, key)));
            }
        }
        for key in known.into_values() {
            self.wheel.cancel(key.slot);
            let Some(watch) = self.watches.remove(key) else { continue };
            for open in &watch.probing {
                self.open.remove(*open);
            }
            watch.forget();
        }
        for (index, key) in new.iter().enumerate() {
            let Some(watch) = self.watches.get(*key) else { continue };
            let delay = schedule::first(index, new.len(), watch.health().interval);
            self.wheel.set(key.slot, self.now + delay);
        }
    }

    fn time_has_come(&mut self, slot: u32) {
        let Some(key) = self.watches.key_of(slot) else { return };
        let Some(watch) = self.watches.get_mut(key) else { return };
        match watch.phase {
            ProbePhase::Resting if !watch.is_probed() => {
                watch.visit(self.now);
                self.wheel.set(slot, watch.next_visit(self.now));
            }
            ProbePhase::Resting => {
                watch.phase = ProbePhase::Queued;
                self.queue.push_back(key);
            }
            ProbePhase::Queued | ProbePhase::Probing => {
                let timeout = watch.health().timeout;
                let late = |open: &&Key| self.open.get(**open).is_some_and(|open| open.until <= self.now);
                let late: Vec<Key> = watch.probing.iter().filter(late).copied().collect();
                late.into_iter().for_each(|open| self.probe_over(open, Outcome::TimedOut(timeout)));
                self.arm(key);
            }
        }
    }

    fn begin_probes(&mut self) {
        if self.lacking.is_some_and(|until| self.now < until) {
            return;
        }
        while self.open.len() < self.open_max {
            let Some(key) = self.queue.pop_front() else { return };
            if let Err(error) = self.begin_probe(key) {
                self.postpone(key, &error);
                return;
            }
        }
    }

    /// Begins the probe of the next address of a backend's round. An error is of our own making, not the backend's.
    fn begin_probe(&mut self, key: Key) -> io::Result<()> {
        let Some(watch) = self.watches.get_mut(key) else { return Ok(()) };
        let address = watch.begun;
        if address == 0 {
            watch.started = self.now;
        }
        if !watch.is_probed() {
            // Disabled, or health turned off, while it waited for its turn.
            watch.begun = watch.round();
        } else if let Some(target) = watch.target(address) {
            let until = self.now + watch.health().timeout;
            match dial(&self.poll, &mut self.open, target, |socket| Open { watch: key, address, until, socket }) {
                Ok(open) => {
                    watch.probing.push(open);
                    watch.begun += 1;
                    if self.lacking.take().is_some() {
                        log::info!("health checks go on");
                    }
                }
                Err(error) => {
                    let failure = ConnectFailure::of(&error).ok_or(error)?;
                    watch.begun += 1;
                    watch.probe_ended(address, Outcome::NoConnection(failure), self.now);
                }
            }
        } else {
            watch.begun += 1;
            watch.probe_ended(address, Outcome::NoAddress, self.now);
        }
        if watch.begun < watch.round() {
            self.queue.push_front(key);
        } else {
            watch.phase = ProbePhase::Probing;
        }
        self.report_down(key);
        self.arm(key);
        Ok(())
    }

    /// Back to the head of the queue; one line for as long as it lasts.
    fn postpone(&mut self, key: Key, error: &io::Error) {
        if self.lacking.replace(self.now + LACK).is_none() {
            log::warn!("health checks wait, backends keep their state: {error}");
        }
        self.queue.push_front(key);
    }

    fn drive(&mut self, open: Key, readiness: Readiness) {
        let Some(outcome) = self.open.get_mut(open).and_then(|open| open.socket.drive(readiness)) else { return };
        self.probe_over(open, outcome);
    }

    fn probe_over(&mut self, open: Key, outcome: Outcome) {
        let Some(closed) = self.open.remove(open) else { return };
        let (key, address) = (closed.watch, closed.address);
        closed.socket.close();
        if let Some(watch) = self.watches.get_mut(key) {
            watch.probing.retain(|other| *other != open);
            watch.probe_ended(address, outcome, self.now);
        }
        self.report_down(key);
        self.arm(key);
    }

    /// Sets the timer to what comes first: the end of a probe, or, if all of the round are over, the next round.
    fn arm(&mut self, key: Key) {
        let Some(watch) = self.watches.get_mut(key) else { return };
        let ends = watch.probing.iter().filter_map(|open| Some(self.open.get(*open)?.until));
        if let Some(until) = ends.min() {
            return self.wheel.set(key.slot, until);
        }
        if watch.phase != ProbePhase::Probing {
            return;
        }
        (watch.phase, watch.begun) = (ProbePhase::Resting, 0);
        if !watch.is_probed() {
            return self.wheel.set(key.slot, watch.next_visit(self.now));
        }
        let due = (watch.started + watch.delay(&mut self.random)).max(self.now).0;
        watch.round_ended();
        let grain = GRAIN.as_micros() as u64;
        self.wheel.set(key.slot, Tick(due.checked_next_multiple_of(grain).unwrap_or(due)));
    }

    /// A backend that has gone down may have connections that nobody wants to keep.
    fn report_down(&mut self, key: Key) {
        if let Some(watch) = self.watches.get_mut(key)
            && watch.take_fallen()
        {
            (self.on_down)(watch.backend().id);
        }
    }

    /// Whose event it is; `None` for the letters, and for a probe that an earlier event of the same batch ended.
    fn key_of(&self, token: Token) -> Option<Key> {
        if token == LETTERS {
            return None;
        }
        let key = self.open.key_of((token.0 % OPEN_MAX) as u32)?;
        (token_of(key) == token).then_some(key)
    }
}

/// Slot and generation in one number. There are never more than [`OPEN_MAX`] slots; where `usize` is too narrow for all
/// bits of the generation its lower ones have to do.
fn token_of(key: Key) -> Token {
    Token((key.generation as usize).wrapping_mul(OPEN_MAX) | key.slot as usize)
}

fn dial(
    poll: &Poll,
    table: &mut Slots<Open>,
    target: ProbeTarget,
    open: impl FnOnce(ProbeSocket) -> Open,
) -> io::Result<Key> {
    let open = open(ProbeSocket::dial(target)?);
    // As long as the table is bounded by `open_max` there is room.
    let key = table.insert_with(|_| open).ok_or(io::ErrorKind::OutOfMemory)?;
    let registered = table.get_mut(key).map_or(Ok(()), |open| open.socket.register(poll.registry(), token_of(key)));
    if let Err(error) = registered {
        table.remove(key);
        return Err(error);
    }
    Ok(key)
}
