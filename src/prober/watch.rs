//! What the prober knows of one backend, and what it tells the world: the health bit, the report, the log line.
//!
//! A watch outlives snapshots, as its backend does. No socket and no timer in here.

use crate::base::slots::Key;
use crate::base::{Address, Seldom, Tick};
use crate::config::model::{Health, HealthKind, InitialHealth, OnDown};
use crate::policy::health::backoff::{BACK_OFF, Backoff};
use crate::policy::health::{ConnectFailure, Outcome, Outlier, Rules, Verdict, outlier, schedule};
use crate::pool::{AdminState, Backend, Member, Pool, clock};
use crate::probe::ProbeTarget;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// One backend under watch.
pub struct Watch {
    /// Where it stands in the newest snapshot.
    pool: Arc<Pool>,
    /// Its position in `pool.members`.
    index: usize,
    slot: usize,
    state: AdminState,
    /// It went down, and its connections are to be reset; nobody has been told yet.
    fallen: bool,
    backend: Arc<Backend>,
    judge: Judge,
    outlier: Outlier,
    /// `Backend::answers` when a client last failed.
    answers: u64,
    /// What is going on.
    pub stage: Stage,
    /// When the last probe began.
    pub started: Tick,
    /// Has a probe ended yet?
    probed: bool,
    /// May it be tried as a last resort? A newcomer of a pool with `initial = "down"` must pass a probe first.
    admitted: bool,
    /// `counters.connections` when a client last failed: if it has grown by the next failure, others got through.
    reached: u64,
    /// That no port is left to connect to it from.
    lack_of_ports: Seldom,
}

/// What is going on with a backend. Its slot in the wheel holds the end of it, except while it is queued.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Nothing, until the next probe is due (or, where health is `off`, the back-off is over).
    Resting,
    /// A probe is due and waits for its turn.
    Queued,
    /// A probe is under way.
    Open(Key),
}

enum Judge {
    Probed(Verdict),
    Off(Backoff),
}

impl Judge {
    fn of(health: &Health) -> Judge {
        match health.kind {
            HealthKind::Off => Judge::Off(Backoff::default()),
            HealthKind::Tcp | HealthKind::Http { .. } => {
                Judge::Probed(Verdict::unknown(health.initial == InitialHealth::Up))
            }
        }
    }

    fn is_up(&self) -> bool {
        match self {
            Judge::Probed(verdict) => verdict.is_up(),
            Judge::Off(backoff) => backoff.until().is_none(),
        }
    }
}

impl Watch {
    /// A backend that nothing is known of: up or down until the first result, as its pool says.
    pub fn new(pool: &Arc<Pool>, index: usize, member: &Member) -> Watch {
        let backend = member.backend.clone();
        let judge = Judge::of(&pool.settings.health);
        let (pool, stage, reached) = (pool.clone(), Stage::Resting, connections(&backend));
        let (outlier, answers, started) = (Outlier::default(), backend.answers(), Tick(0));
        let (slot, state, fallen, probed, admitted) = (member.slot, member.state, false, false, judge.is_up());
        let watch = Watch {
            pool,
            index,
            slot,
            state,
            fallen,
            backend,
            judge,
            outlier,
            answers,
            stage,
            started,
            probed,
            admitted,
            reached,
            lack_of_ports: Seldom::default(),
        };
        watch.show();
        watch
    }

    /// The backend's place in a new snapshot. What is known stays known, and the new snapshot's bit says so. True if the
    /// next probe should come soon, as a new backend's does: the interval is another one now, or it is another judge, who
    /// knows nothing yet.
    pub fn adopt(&mut self, pool: &Arc<Pool>, index: usize, member: &Member) -> bool {
        let old = std::mem::replace(&mut self.pool, pool.clone());
        (self.index, self.slot) = (index, member.slot);
        let before = std::mem::replace(&mut self.state, member.state);
        let (old, new) = (&old.settings.health, &self.pool.settings.health);
        let other_judge = (old.kind == HealthKind::Off) != (new.kind == HealthKind::Off);
        let back = before == AdminState::Disabled && self.state != AdminState::Disabled;
        let anew = other_judge || back || old.interval != new.interval;
        // What was known before an operator disabled it is old, and a pool that wants to know first wants it here too.
        let unknown = other_judge || (back && new.initial == InitialHealth::Down);
        if unknown || (!self.probed && old.initial != new.initial) {
            (self.judge, self.probed) = (Judge::of(new), false);
            self.admitted = self.judge.is_up();
        }
        if before != AdminState::Enabled && self.state == AdminState::Enabled && self.judge.is_up() {
            self.backend.starts_slowly(clock::now());
        }
        self.show();
        anew
    }

    /// The backend has left its pool, and its slot may go to another. No generation that knows it may use it any more.
    pub fn forget(self) {
        for bits in [&self.pool.up, &self.pool.ejected, &self.pool.last_resort_mask] {
            bits.set(self.slot, false);
        }
    }

    /// How it is watched.
    pub fn health(&self) -> &Health {
        &self.pool.settings.health
    }

    /// The backend.
    pub fn backend(&self) -> &Arc<Backend> {
        &self.backend
    }

    /// What a probe of its `endpoint`-th address is; `None` if it has no such address, or nothing is probed.
    pub fn target(&self, endpoint: usize) -> Option<ProbeTarget> {
        let endpoint = self.backend.endpoints.get(endpoint)?;
        let send_proxy = self.pool.members.get(self.index).and_then(|member| member.send_proxy);
        ProbeTarget::new(self.health(), send_proxy, self.address(), endpoint)
    }

    /// Its address as configured, if this membership was built from it.
    fn address(&self) -> Option<&Address> {
        let configured = self.pool.settings.backends.get(self.index)?;
        (configured.name == self.backend.name).then_some(&configured.address)
    }

    /// Is it probed at all? Neither where health is `off` nor while an operator has disabled it.
    pub fn is_probed(&self) -> bool {
        matches!(self.judge, Judge::Probed(_)) && self.state != AdminState::Disabled
    }

    /// Has it gone down since the last call, in a pool where that resets its connections?
    pub fn take_fallen(&mut self) -> bool {
        std::mem::take(&mut self.fallen)
    }

    /// How long after the start of the last probe the next one is due.
    pub fn delay(&self, random: &mut fastrand::Rng) -> Duration {
        let interval = self.health().interval;
        if self.probed { schedule::next(interval, random) } else { schedule::second(interval, random) }
    }

    /// When there is something to do again where nothing is probed.
    pub fn next_visit(&self, now: Tick) -> Tick {
        let visit = now + self.health().interval;
        match &self.judge {
            Judge::Off(backoff) => backoff.until().map_or(visit, |until| until.min(visit)),
            Judge::Probed(_) => visit,
        }
    }

    /// A probe ended. `many`: there are several pools, so that a name needs its pool to be unambiguous.
    pub fn probe_ended(&mut self, outcome: Outcome, many: bool) {
        if let Outcome::NoConnection(failure) = outcome
            && failure.is_ours()
        {
            return self.tell_of_ports(failure, many);
        }
        let first = !std::mem::replace(&mut self.probed, true);
        let rules = self.rules();
        let Judge::Probed(verdict) = &mut self.judge else {
            // Health was turned off while the probe was under way.
            return;
        };
        let changed = verdict.probed(outcome.passed(), rules);
        self.backend.counters.probed(outcome.class());
        self.backend.health.lock().last_result = Some(outcome);
        self.admitted |= outcome.passed();
        if changed {
            self.changed(outcome, many);
        } else if first {
            let (name, suffix) = (&self.backend.name, self.suffix(many));
            if outcome.passed() {
                log::debug!("{name} is up: {outcome}{suffix}");
            } else {
                // It began as down, so that nothing changes; the reason is news all the same.
                log::warn!("{name} is down: {outcome}{suffix}");
            }
        }
    }

    /// A client could not connect. True if that began or prolonged a back-off, whose end has to be waited for.
    pub fn client_failed(&mut self, failure: ConnectFailure, now: Tick, many: bool) -> bool {
        if failure.is_ours() {
            self.tell_of_ports(failure, many);
            return false;
        }
        let outcome = Outcome::NoConnection(failure);
        self.backend.health.lock().last_result = Some(outcome);
        let reached = connections(&self.backend);
        let others_reached = std::mem::replace(&mut self.reached, reached) != reached;
        let rules = self.rules();
        match &mut self.judge {
            Judge::Probed(verdict) => {
                if verdict.client_failed(others_reached, rules) {
                    self.changed(outcome, many);
                }
                false
            }
            Judge::Off(backoff) => {
                if backoff.failed(now) {
                    let name = &self.backend.name;
                    log::debug!("{name} is left out for {BACK_OFF:?}: {outcome}{}", self.suffix(many));
                    self.note_change();
                }
                true
            }
        }
    }

    /// A client could not connect, or was reset early. True if that makes the backend an outlier, whose return has to be
    /// waited for.
    pub fn count_outlier(&mut self, now: Tick, many: bool) -> bool {
        let answers = self.backend.answers();
        let answered = std::mem::replace(&mut self.answers, answers) != answers;
        let room = outlier::has_room(self.pool.ejected.count(), self.pool.members.len());
        let limit = self.pool.settings.outlier_failures;
        let ejected = self.outlier.failed(answered, limit, room, now);
        if let Some(until) = self.outlier.until().filter(|_| ejected) {
            let (name, time) = (&self.backend.name, until - now);
            log::warn!("{name} is left out for {time:?}: {limit} clients in a row failed{}", self.suffix(many));
            self.note_change();
        }
        ejected
    }

    /// When it comes back, if it is left out as an outlier.
    pub fn ejected_until(&self) -> Option<Tick> {
        self.outlier.until()
    }

    /// Time has passed: an outlier may come back.
    pub fn readmit(&mut self, now: Tick, many: bool) {
        if self.outlier.elapsed(now) {
            log::info!("{} is let in again{}", self.backend.name, self.suffix(many));
            self.backend.starts_slowly(clock::now());
            self.note_change();
        }
    }

    /// A client got through to a backend that was thought unusable.
    pub fn client_connected(&mut self) {
        if let Judge::Off(backoff) = &mut self.judge
            && backoff.succeeded()
        {
            self.note_change();
        }
    }

    /// The visit of a backend that is not probed.
    pub fn visit(&mut self, now: Tick) {
        if let Judge::Off(backoff) = &mut self.judge
            && backoff.elapsed(now)
        {
            self.note_change();
        }
    }

    /// Nothing was learned about the backend, whose state stays; but somebody must do something.
    fn tell_of_ports(&mut self, failure: ConnectFailure, many: bool) {
        if !self.lack_of_ports.is_due(clock::now()) {
            return;
        }
        let (name, suffix) = (&self.backend.name, self.suffix(many));
        log::warn!("{name} gets no new connections: {failure} (net.ipv4.ip_local_port_range){suffix}");
    }

    fn rules(&self) -> Rules {
        let Health { rise, fall, .. } = *self.health();
        Rules { rise, fall }
    }

    /// The one log line of a change.
    fn changed(&mut self, outcome: Outcome, many: bool) {
        self.note_change();
        let (name, suffix) = (&self.backend.name, self.suffix(many));
        if self.judge.is_up() {
            self.backend.starts_slowly(clock::now());
            log::info!("{name} is up: {outcome}{suffix}");
        } else {
            log::warn!("{name} is down: {outcome}{suffix}");
            self.fallen = self.pool.settings.on_down == OnDown::Reset;
        }
    }

    fn note_change(&self) {
        self.backend.health.lock().last_change = Some(Instant::now());
        self.show();
    }

    /// Writes the bits. One that an operator has taken out of use is not usable, whatever its health.
    fn show(&self) {
        let ejected = self.outlier.until().is_some();
        let usable = self.judge.is_up() && !ejected && self.state == AdminState::Enabled;
        // Whoever sees the reason sees what follows from it.
        self.pool.up.set(self.slot, usable);
        self.pool.ejected.set(self.slot, ejected);
        self.pool.last_resort_mask.set(self.slot, self.admitted && self.state == AdminState::Enabled);
    }

    fn suffix(&self, many: bool) -> String {
        if many { format!(" (pool {})", self.pool.settings.name) } else { String::new() }
    }
}

fn connections(backend: &Backend) -> u64 {
    backend.counters.connections.load(Ordering::Relaxed)
}
