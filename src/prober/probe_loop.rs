//! The prober's loop: waits for sockets, messages and time, and probes every backend in turn.
//!
//! One turn of the loop: events → messages → timers → start due probes, as far as there is room. A backend's slot in
//! `watches` is also its slot in the wheel. It has one deadline at a time: the start of the next round, or the end of
//! the first probe in progress. A round probes all of its addresses, at once as far as there is room.

use super::watch::{Membership, ProbePhase, Watch};
use super::{HealthEffect, NOTES_MAX, OPEN_MAX, OnEffect};
use crate::base::Tick;
use crate::base::slots::{Key, Slots};
use crate::base::wheel::Wheel;
use crate::clock;
use crate::events::{By, Events as History};
use crate::mailbox::Mailbox;
use crate::net::probe_socket::{ProbeSocket, Readiness};
use crate::policy::health::{ConnectFailure, Outcome, schedule};
use crate::policy::slow_start;
use crate::pool::{BackendId, Note, Pool, Snapshot};
use crate::probe::ProbeTarget;
use crate::watchdog::Heartbeat;
use crossbeam_channel::Receiver;
use mio::{Events, Poll, Token};
use std::collections::{HashMap, VecDeque};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

const MESSAGES: Token = Token(usize::MAX);

/// The pause after a lack of descriptors or memory.
const LACK: Duration = Duration::from_millis(100);

/// The resolution of probe times. Ten probes that start in one turn need one wait of the kernel instead of ten.
const GRAIN: Duration = Duration::from_millis(8);

/// A probe in progress.
#[derive(Debug)]
struct Open {
    /// The backend's key.
    watch: Key,
    /// The number of the backend's address.
    address: usize,
    /// When it began, and its deadline.
    began: Tick,
    until: Tick,
    socket: ProbeSocket,
}

/// The state of the thread.
pub struct ProbeLoop {
    poll: Poll,
    messages: Receiver<Note>,
    /// The start of this turn of the loop, on [`clock`].
    now: Tick,
    watches: Slots<Watch>,
    by_id: HashMap<BackendId, Key>,
    wheel: Wheel,
    /// Watches with a due probe, each at most once; a stale key is skipped.
    queue: VecDeque<Key>,
    open: Slots<Open>,
    open_max: usize,
    /// When to retry after a lack of descriptors or memory.
    lacking: Option<Tick>,
    /// When the next ejection ends.
    readmit: Option<Tick>,
    /// When the shares of backends in slow start grow next; `None`: no pool has a slow start.
    grow_at: Option<Tick>,
    random: fastrand::Rng,
    /// Pools whose backends have changed in this turn, with the last change.
    unsettled: Vec<(Arc<Pool>, String)>,
    events: Arc<History>,
    /// Bits of backends have changed in this turn.
    has_shown: Arc<AtomicBool>,
    on_effect: OnEffect,
    heartbeat: Heartbeat,
}

impl ProbeLoop {
    /// Adopts the first snapshot; probes start in [`ProbeLoop::run`].
    pub fn new(
        snapshot: Arc<Snapshot>,
        events: Arc<History>,
        on_effect: OnEffect,
        open_max: usize,
    ) -> io::Result<(Mailbox<Note>, ProbeLoop)> {
        let poll = Poll::new()?;
        let (mailbox, messages) = Mailbox::new(&poll, MESSAGES, NOTES_MAX)?;
        let now = clock::now();
        let mut probe_loop = ProbeLoop {
            poll,
            messages,
            now,
            watches: Slots::default(),
            by_id: HashMap::new(),
            wheel: Wheel::new(now),
            queue: VecDeque::new(),
            open: Slots::default(),
            open_max: open_max.clamp(1, OPEN_MAX),
            lacking: None,
            readmit: None,
            grow_at: None,
            random: fastrand::Rng::new(),
            unsettled: Vec::new(),
            events,
            has_shown: Arc::default(),
            on_effect,
            heartbeat: Heartbeat::default(),
        };
        probe_loop.adopt(&snapshot);
        Ok((mailbox, probe_loop))
    }

    /// The heartbeat of the thread.
    pub fn heartbeat(&self) -> Heartbeat {
        self.heartbeat.clone()
    }

    /// Runs until a stop.
    pub fn run(mut self) {
        let mut events = Events::with_capacity(256);
        let mut fired = Vec::new();
        loop {
            self.heartbeat.beat();
            match self.poll.poll(&mut events, self.sleep()) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => {
                    // epoll_wait(2) has no other error that a retry would fix.
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
            // Bounded by the mailbox's size, so that many messages do not delay probes.
            for _ in 0..NOTES_MAX {
                let Ok(note) = self.messages.try_recv() else { break };
                if let Note::Stop = note {
                    self.heartbeat.end();
                    return;
                }
                self.read(note);
            }
            self.wheel.advance(self.now, usize::MAX, &mut fired);
            for slot in fired.drain(..) {
                self.time_has_come(slot);
            }
            self.readmit_outliers();
            self.grow_shares();
            self.begin_probes();
            if self.has_shown.swap(false, Ordering::Relaxed) {
                (self.on_effect)(HealthEffect::Usable);
            }
            for (pool, why) in self.unsettled.drain(..) {
                pool.report_serving(&self.events, By::Health, why);
            }
        }
    }

    fn sleep(&self) -> Option<Duration> {
        if !self.messages.is_empty() {
            return Some(Duration::ZERO);
        }
        let retry = self.lacking.filter(|_| !self.queue.is_empty()).map(|at| at - self.now);
        let readmit = self.readmit.map(|at| at - self.now);
        let grow = self.grow_at.map(|at| at - self.now);
        [self.wheel.sleep(self.now), retry, readmit, grow].into_iter().flatten().min()
    }

    /// Updates the shares of backends in slow start.
    fn grow_shares(&mut self) {
        if self.grow_at.is_none_or(|at| self.now < at) {
            return;
        }
        self.grow_at = Some(self.now + slow_start::STEP);
        self.by_id.values().filter_map(|key| self.watches.get(*key)).for_each(|watch| watch.grow_share(self.now));
    }

    /// A backend's slot in the wheel is for its probes. Outliers are few, so they are scanned when the first ejection
    /// ends.
    fn readmit_outliers(&mut self) {
        if self.readmit.is_none_or(|at| self.now < at) {
            return;
        }
        self.readmit = None;
        for key in self.by_id.values() {
            let Some(watch) = self.watches.get_mut(*key) else { continue };
            watch.readmit(self.now);
            note_unsettled(&mut self.unsettled, watch);
            self.readmit = [self.readmit, watch.ejected_until()].into_iter().flatten().min();
        }
    }

    fn count_outlier(&mut self, backend: BackendId) {
        let key = self.by_id.get(&backend);
        let Some(watch) = key.and_then(|&key| self.watches.get_mut(key)) else { return };
        let ejected = watch.count_outlier(self.now);
        note_unsettled(&mut self.unsettled, watch);
        if ejected {
            self.readmit = [self.readmit, watch.ejected_until()].into_iter().flatten().min();
        }
    }

    fn read(&mut self, note: Note) {
        match note {
            Note::Adopt { snapshot, done } => {
                self.adopt(&snapshot);
                // The sender may have stopped waiting.
                let _ = done.try_send(());
            }
            Note::ResetEarly(backend) => self.count_outlier(backend),
            Note::ConnectFailed { backend, failure } => {
                // A lack of this process's own resources never counts as a backend failure.
                if !failure.is_ours() {
                    self.count_outlier(backend);
                }
                let Some(&key) = self.by_id.get(&backend) else { return };
                let Some(watch) = self.watches.get_mut(key) else { return };
                if watch.client_failed(failure, self.now) {
                    self.wheel.set(key.slot, watch.next_visit(self.now));
                }
                self.follow_up(key);
            }
            Note::AddressFailed { backend, address, failure } => {
                let Some(&key) = self.by_id.get(&backend) else { return };
                if let Some(watch) = self.watches.get_mut(key) {
                    watch.address_failed(address, failure, self.now);
                }
                self.follow_up(key);
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

    /// Adopts the backends of a snapshot. Those that stay keep their state, new ones are probed soon, and those that
    /// left are dropped with their probes.
    fn adopt(&mut self, snapshot: &Snapshot) {
        let starts_slowly = snapshot.pools.iter().any(|pool| !pool.settings.slow_start.is_zero());
        self.grow_at = starts_slowly.then(|| self.grow_at.unwrap_or(self.now));
        let mut known = std::mem::take(&mut self.by_id);
        let mut new = Vec::new();
        for pool in &snapshot.pools {
            for (index, (member, settings)) in pool.members.iter().zip(&pool.settings.backends).enumerate() {
                let id = member.backend.id;
                let header = snapshot.probe_header(&pool.settings, settings);
                let membership = Membership { pool, index, member, among_several: snapshot.pools.len() > 1, header };
                if self.by_id.contains_key(&id) {
                    debug_assert!(false, "{id:?} is twice in a snapshot");
                    continue;
                }
                let kept = known.remove(&id).and_then(|key| Some((key, self.watches.get_mut(key)?)));
                let key = match kept {
                    Some((key, watch)) => {
                        match (watch.adopt(membership, self.now), watch.phase) {
                            // All of them changed at once, so they are spread like new backends.
                            (true, ProbePhase::Resting) => new.push(key),
                            // Addresses that joined are probed in this round.
                            (_, ProbePhase::Probing) if watch.begun < watch.round() => {
                                watch.phase = ProbePhase::Queued;
                                self.queue.push_back(key);
                            }
                            _ => {}
                        }
                        Some(key)
                    }
                    None => {
                        let key = self.watches.insert_with(|_| {
                            Watch::new(membership, self.events.clone(), self.has_shown.clone(), self.now)
                        });
                        new.extend(key);
                        key
                    }
                };
                // Without a key there are 2^32 watched backends, which do not fit into memory.
                self.by_id.extend(key.map(|key| (id, key)));
            }
        }
        // A backend whose name has other addresses is both gone and new.
        let mut namesakes: HashMap<(String, String), Key> = HashMap::new();
        if !known.is_empty() {
            let named = new.iter().filter_map(|key| Some((self.watches.get(*key)?.names(), *key)));
            namesakes.extend(named);
        }
        for key in known.into_values() {
            self.wheel.cancel(key.slot);
            let Some(watch) = self.watches.remove(key) else { continue };
            let mut succeeded = false;
            if let Some(key) = namesakes.get(&watch.names()).copied()
                && let Some(successor) = self.watches.get_mut(key)
            {
                successor.take_over(&watch, self.now);
                succeeded = successor.backend().continues(watch.backend());
                self.follow_up(key);
            }
            for open in &watch.probing {
                self.open.remove(*open);
            }
            if !succeeded {
                watch.leave();
            }
        }
        for key in &new {
            self.watches.get_mut(*key).into_iter().for_each(|watch| watch.show(self.now));
        }
        // Control reports what the change of the configuration did.
        self.unsettled.clear();
        snapshot.pools.iter().for_each(|pool| pool.begin_serving());
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
                let late = |key: &Key| {
                    let open = self.open.get(*key).filter(|open| open.until <= self.now)?;
                    Some((*key, open.socket.timed_out(timeout)))
                };
                let late: Vec<(Key, Outcome)> = watch.probing.iter().filter_map(late).collect();
                late.into_iter().for_each(|(open, outcome)| self.probe_over(open, outcome));
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

    /// Starts the probe of the next address of a backend's round. An error is a lack of our own resources, not the
    /// backend's failure.
    fn begin_probe(&mut self, key: Key) -> io::Result<()> {
        let Some(watch) = self.watches.get_mut(key) else { return Ok(()) };
        let address = watch.begun;
        if address == 0 {
            watch.started = self.now;
        }
        if !watch.is_probed() {
            // It was disabled, or health was turned off, while it waited.
            watch.begun = watch.round();
        } else if let Some(target) = watch.target(address) {
            let until = self.now + watch.health().timeout;
            // Others may have begun in this turn.
            let began = clock::now();
            match dial(&self.poll, &mut self.open, target, |socket| Open { watch: key, address, began, until, socket })
            {
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
        self.follow_up(key);
        self.arm(key);
        Ok(())
    }

    /// Puts the backend back at the head of the queue; logs once per shortage.
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
            // One that is refused says nothing about the time of an answer.
            if outcome.passed() || matches!(outcome, Outcome::TimedOut(_)) {
                watch.backend().probe_took(self.now - closed.began);
            }
            watch.probing.retain(|other| *other != open);
            watch.probe_ended(address, outcome, self.now);
        }
        self.follow_up(key);
        self.arm(key);
    }

    /// Sets the timer to the first event: the end of a probe or, after the round, the next round.
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

    /// Reports a backend that went down and whose connections are to be reset, and notes its pool.
    fn follow_up(&mut self, key: Key) {
        let Some(watch) = self.watches.get_mut(key) else { return };
        if watch.take_fallen() {
            (self.on_effect)(HealthEffect::Reset(watch.backend().reset_order()));
        }
        if watch.take_reweighted() {
            (self.on_effect)(HealthEffect::Weights);
        }
        note_unsettled(&mut self.unsettled, watch);
    }

    /// The probe of an event; `None` for messages, and for a probe that an earlier event of the batch ended.
    fn key_of(&self, token: Token) -> Option<Key> {
        if token == MESSAGES {
            return None;
        }
        let key = self.open.key_of((token.0 % OPEN_MAX) as u32)?;
        (token_of(key) == token).then_some(key)
    }
}

/// Notes the pool of a backend that has changed. Many may change in a turn, and a look at a pool takes time.
fn note_unsettled(unsettled: &mut Vec<(Arc<Pool>, String)>, watch: &mut Watch) {
    let Some(change) = watch.take_changed() else { return };
    match unsettled.iter_mut().find(|(pool, _)| Arc::ptr_eq(pool, watch.pool())) {
        Some((_, last)) => *last = change,
        None => unsettled.push((watch.pool().clone(), change)),
    }
}

/// Slot and generation in one number. There are at most [`OPEN_MAX`] slots. Where `usize` is too narrow for the whole
/// generation, its lower bits are used.
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
    // The table is bounded by `open_max`, so there is room.
    let key = table.insert_with(|_| open).ok_or(io::ErrorKind::OutOfMemory)?;
    let registered = table.get_mut(key).map_or(Ok(()), |open| open.socket.register(poll.registry(), token_of(key)));
    if let Err(error) = registered {
        table.remove(key);
        return Err(error);
    }
    Ok(key)
}
