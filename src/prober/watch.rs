//! The prober's state of one backend, and its output: the health bit, the report, the log line.
//!
//! A watch outlives snapshots, as its backend does. It has no socket and no timer.

mod addresses;
mod agent;

use crate::base::slots::Key;
use crate::base::{Address, LogThrottle, Tick};
use crate::config::model::{Health, HealthKind, InitialHealth, OnDown, ProxyVersion};
use crate::events::{By, Event, Events, Kind};
use crate::policy::health::backoff::{BACK_OFF, Backoff};
use crate::policy::health::outlier::{self, ClientFailure, Outlier};
use crate::policy::health::{AgentState, ConnectFailure, HealthState, Outcome, Rules, schedule};
use crate::pool::{AdminState, Backend, Member, Pool, Standing, Transition};
use crate::probe::ProbeTarget;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// The position of a backend in a snapshot.
#[derive(Clone, Copy, Debug)]
pub struct Membership<'a> {
    /// The pool.
    pub pool: &'a Arc<Pool>,
    /// The index in `pool.members`.
    pub index: usize,
    /// The member at this index.
    pub member: &'a Member,
    /// Whether there are several pools: a log line then names the backend's pool, since names are unique per pool only.
    pub among_several: bool,
    /// The PROXY header that its probes begin with.
    pub header: Option<ProxyVersion>,
}

/// A watched backend.
pub struct Watch {
    /// The pool in the newest snapshot.
    pool: Arc<Pool>,
    /// The index in `pool.members`.
    index: usize,
    /// Whether log lines name the pool.
    names_pool: bool,
    slot: usize,
    header: Option<ProxyVersion>,
    state: AdminState,
    /// It went down, and its connections are to be reset; this is not reported yet.
    fallen: bool,
    /// Whether it is up according to the last event, or was at the beginning.
    recorded_up: bool,
    /// Its health has changed since [`Watch::take_changed`]: how, as a sentence.
    changed: Option<String>,
    events: Arc<Events>,
    backend: Arc<Backend>,
    policy: HealthPolicy,
    /// What the agent of each address has reported.
    agents: Vec<AgentState>,
    /// The agent has changed the weight, which is not reported yet.
    reweighted: bool,
    outlier: Outlier,
    /// `Backend::answers` when a client last failed.
    answers: u64,
    /// The current phase.
    pub phase: ProbePhase,
    /// When the last round of probes (one per address) began.
    pub started: Tick,
    /// The addresses of the round whose probes have started, and the probes in progress.
    pub begun: usize,
    pub probing: Vec<Key>,
    /// Whether a round has ended.
    probed: bool,
    /// Whether it counted as up before the first result.
    began_up: bool,
    /// Whether it may serve as a last resort. A new backend of a pool with `initial = "down"` must pass a probe first.
    admitted: bool,
    /// Per address, its connections at the last failure of a client there. More connections at the next failure mean
    /// that others succeeded.
    reached: Vec<u64>,
    /// When a lack of local ports was last logged.
    lack_of_ports: LogThrottle,
    /// What the bits were last set to.
    shown: Option<Standing>,
    /// Set when the bits change.
    has_shown: Arc<AtomicBool>,
    /// Which of the pool's source addresses probes come from. The next one follows one that is not there or has no port left.
    source_turn: usize,
}

/// The phase of a backend. Its slot in the wheel holds the next deadline: the next round, or the end of a probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProbePhase {
    /// Idle until the next probe is due or, where health is `off`, the back-off is over.
    Resting,
    /// A round is due, and an address of it waits for its turn; others may be in progress.
    Queued,
    /// All probes of the round have started.
    Probing,
}

enum HealthPolicy {
    /// A health state per address. The backend is up while one of them is.
    Probed(Vec<HealthState>),
    Off(Backoff),
}

impl HealthPolicy {
    /// A backend without an address has one state too.
    fn of(health: &Health, addresses: usize) -> HealthPolicy {
        match health.kind {
            HealthKind::Off => HealthPolicy::Off(Backoff::default()),
            HealthKind::Tcp | HealthKind::Http { .. } | HealthKind::Agent | HealthKind::Script { .. } => {
                HealthPolicy::Probed(vec![HealthState::unknown(health.initial == InitialHealth::Up); addresses.max(1)])
            }
        }
    }

    /// The results that count towards a change of the backend: an address that comes up is enough, but all have to go down.
    fn transition(&self, rules: Rules) -> Option<Transition> {
        let HealthPolicy::Probed(states) = self else { return None };
        let up = self.is_up();
        let progress = states.iter().filter(|state| state.is_up() == up).map(HealthState::progress);
        let (count, of) = if up { (progress.min(), rules.fall) } else { (progress.max(), rules.rise) };
        count.filter(|count| *count > 0).map(|count| Transition { up, count, of })
    }

    fn mark_down(&mut self) {
        if let HealthPolicy::Probed(states) = self {
            for state in states {
                state.marked_down();
            }
        }
    }

    fn is_up(&self) -> bool {
        match self {
            HealthPolicy::Probed(states) => states.iter().any(HealthState::is_up),
            HealthPolicy::Off(backoff) => backoff.until().is_none(),
        }
    }
}

impl Watch {
    /// A backend without results: up or down until the first one, as its pool says. Its bits are shown later, once it has taken
    /// over what is known: a backend that clients use may have had the slot before.
    pub fn new(membership: Membership<'_>, events: Arc<Events>, has_shown: Arc<AtomicBool>, now: Tick) -> Watch {
        let Membership { pool, index, member, among_several, header } = membership;
        let backend = member.backend.clone();
        let mut policy = HealthPolicy::of(&pool.settings.health, backend.addresses.len());
        if !backend.is_healthy() {
            // The process before has found it down.
            policy.mark_down();
        }
        let up = policy.is_up();
        let watch = Watch {
            pool: pool.clone(),
            index,
            names_pool: among_several,
            slot: member.slot,
            header,
            state: member.state,
            fallen: false,
            recorded_up: up,
            changed: None,
            events,
            answers: backend.answers(),
            reached: vec![0; backend.addresses.len().max(1)],
            agents: vec![AgentState::default(); backend.addresses.len().max(1)],
            reweighted: false,
            backend,
            policy,
            outlier: Outlier::default(),
            phase: ProbePhase::Resting,
            started: now,
            begun: 0,
            probing: Vec::new(),
            probed: false,
            began_up: up,
            admitted: up,
            lack_of_ports: LogThrottle::default(),
            shown: None,
            has_shown,
            source_turn: 0,
        };
        watch.show_addresses();
        watch
    }

    /// The backend's position in a new snapshot. It keeps its state, and sets the new snapshot's bit. True if the next
    /// probe should come soon, as for a new backend. That is so if the interval changed, if addresses joined, or if the health
    /// policy is a new one without results.
    pub fn adopt(&mut self, membership: Membership<'_>, now: Tick) -> bool {
        let Membership { pool, index, member, among_several, header } = membership;
        let old = std::mem::replace(&mut self.pool, pool.clone());
        (self.index, self.slot, self.names_pool, self.header) = (index, member.slot, among_several, header);
        let before = std::mem::replace(&mut self.state, member.state);
        let (old, new) = (&old.settings.health, &self.pool.settings.health);
        let other_policy = (old.kind == HealthKind::Off) != (new.kind == HealthKind::Off);
        let back = before == AdminState::Disabled && self.state != AdminState::Disabled;
        let restart = other_policy || back || old.interval != new.interval;
        // Results from before an operator disabled it are old. A pool with `initial = "down"` requires a new result.
        let unknown = other_policy || (back && new.initial == InitialHealth::Down);
        if unknown || (!self.probed && old.initial != new.initial) {
            (self.policy, self.probed) = (HealthPolicy::of(new, self.backend.addresses.len()), false);
            (self.admitted, self.began_up) = (self.policy.is_up(), self.policy.is_up());
            self.show_addresses();
            self.record("its health settings are new".to_owned());
        }
        if before != AdminState::Enabled && self.state == AdminState::Enabled && self.policy.is_up() {
            self.backend.starts_slowly(now);
        }
        let joined = self.round() > self.agents.len();
        self.join_addresses(now);
        self.forget_agent(now);
        self.show(now);
        restart || joined
    }

    /// The names of its pool and of its backend.
    pub fn names(&self) -> (String, String) {
        (self.pool.settings.name.clone(), self.backend.name.clone())
    }

    /// The backend has left its pool. An ejected one no longer counts there. Control withdraws it once the workers have the
    /// change.
    pub fn leave(self) {
        self.pool.ejected.set(self.slot, false);
    }

    /// The health settings.
    pub fn health(&self) -> &Health {
        &self.pool.settings.health
    }

    /// The backend.
    pub fn backend(&self) -> &Arc<Backend> {
        &self.backend
    }

    /// The probe target of this address; `None` if there is no such address, or nothing is probed.
    pub fn target(&self, number: usize) -> Option<ProbeTarget> {
        let endpoint = &self.backend.addresses.get(number)?.endpoint;
        let target = ProbeTarget::new(self.health(), self.header, self.address(), endpoint)?;
        Some(target.from(self.pool.settings.source.of_probe(endpoint, self.source_turn)))
    }

    /// The number of probes in a round. A name without an address counts as one that fails.
    pub fn round(&self) -> usize {
        self.backend.addresses.len().max(1)
    }

    /// The address as configured, if the member was built from it.
    fn address(&self) -> Option<&Address> {
        let configured = self.pool.settings.backends.get(self.index)?;
        (configured.name == self.backend.name).then_some(&configured.address)
    }

    /// Whether its name is resolved. If not, it is down, and control retries the name.
    fn has_address(&self) -> bool {
        !self.backend.addresses.is_empty()
    }

    /// Whether it is probed: not where health is `off`, while it is disabled, or without an address.
    pub fn is_probed(&self) -> bool {
        matches!(self.policy, HealthPolicy::Probed(_)) && self.state != AdminState::Disabled && self.has_address()
    }

    /// Whether it went down since the last call, in a pool that then resets connections.
    pub fn take_fallen(&mut self) -> bool {
        std::mem::take(&mut self.fallen)
    }

    /// How its health has changed since the last call, if it has.
    pub fn take_changed(&mut self) -> Option<String> {
        self.changed.take()
    }

    /// Its pool in the newest snapshot.
    pub fn pool(&self) -> &Arc<Pool> {
        &self.pool
    }

    /// The time from the start of the last probe to the next.
    pub fn delay(&self, random: &mut fastrand::Rng) -> Duration {
        let interval = self.health().interval;
        if self.probed { schedule::next(interval, random) } else { schedule::second(interval, random) }
    }

    /// The next deadline of a backend that is not probed.
    pub fn next_visit(&self, now: Tick) -> Tick {
        let visit = now + self.health().interval;
        match &self.policy {
            HealthPolicy::Off(backoff) => backoff.until().map_or(visit, |until| until.min(visit)),
            HealthPolicy::Probed(_) => visit,
        }
    }

    /// Handles the end of a probe of one address.
    pub fn probe_ended(&mut self, address: usize, outcome: Outcome, now: Tick) {
        if let Outcome::NoConnection(failure) = outcome
            && failure.is_ours()
        {
            self.source_turn = self.source_turn.wrapping_add(1);
            return self.log_lack_of_ports(failure, now);
        }
        if let Outcome::Agent(report) = outcome {
            // A line ends a drain or begins one before its backend comes up.
            self.agent_said(address, report, now);
        }
        if let HealthPolicy::Off(_) = self.policy {
            // Health was turned off during the probe.
            return;
        }
        self.admitted |= outcome.passed();
        self.report(address, &outcome);
        let (rules, passed) = (self.rules(), outcome.passed());
        let down = matches!(outcome, Outcome::Agent(report) if report.down);
        let update = |state: &mut HealthState| if down { state.marked_down() } else { state.probed(passed, rules) };
        self.update_address(address, &outcome, now, update);
    }

    /// Handles the end of a round.
    pub fn round_ended(&mut self) {
        if std::mem::replace(&mut self.probed, true) {
            return;
        }
        let Some(outcome) = self.backend.health.lock().last_result.clone() else { return };
        let (name, suffix) = (&self.backend.name, self.suffix());
        if self.policy.is_up() {
            log::debug!("{name} is up: {outcome}{suffix}");
        } else if !self.began_up {
            // It started as down, so the state does not change; the reason is logged all the same.
            log::warn!("{name} is down: {outcome}{suffix}");
        }
    }

    /// Handles a client that could not connect at any address. True if that starts or extends a back-off, whose end
    /// needs a timer.
    pub fn client_failed(&mut self, failure: ConnectFailure, now: Tick) -> bool {
        if failure.is_ours() {
            self.log_lack_of_ports(failure, now);
            return false;
        }
        let outcome = Outcome::NoConnection(failure);
        self.backend.health.lock().last_result = Some(outcome.clone());
        match &mut self.policy {
            // With several addresses, each failure was reported by address.
            HealthPolicy::Probed(states) if states.len() > 1 => false,
            HealthPolicy::Probed(_) => {
                self.address_failed(0, failure, now);
                false
            }
            HealthPolicy::Off(backoff) => {
                if backoff.failed(now) {
                    let name = &self.backend.name;
                    log::debug!("{name} is left out for {BACK_OFF:?}: {outcome}{}", self.suffix());
                    self.note_change(now);
                }
                true
            }
        }
    }

    /// Handles a client that could not connect to one address.
    pub fn address_failed(&mut self, address: usize, failure: ConnectFailure, now: Tick) {
        let reached = self.backend.connections_at(address);
        let Some(last) = self.reached.get_mut(address) else { return };
        let others_reached = std::mem::replace(last, reached) != reached;
        let rules = self.rules();
        let outcome = Outcome::NoConnection(failure);
        self.update_address(address, &outcome, now, |state| state.client_failed(others_reached, rules));
    }

    /// Applies `update` to the state of an address, which returns whether it changed, and reports a change.
    fn update_address(
        &mut self,
        address: usize,
        outcome: &Outcome,
        now: Tick,
        update: impl FnOnce(&mut HealthState) -> bool,
    ) {
        let was_up = self.policy.is_up();
        let HealthPolicy::Probed(states) = &mut self.policy else { return };
        let Some(state) = states.get_mut(address) else { return };
        if update(state) {
            let up = state.is_up();
            if let Some(address) = self.backend.addresses.get(address) {
                address.set_up(up);
                self.has_shown.store(true, Ordering::Relaxed);
                if self.backend.addresses.len() > 1 {
                    let (name, endpoint, suffix) = (&self.backend.name, &address.endpoint, self.suffix());
                    let (level, word) = if up { (log::Level::Info, "up") } else { (log::Level::Warn, "down") };
                    log::log!(level, "{name}: address {endpoint} is {word}: {outcome}{suffix}");
                }
            }
        }
        if self.policy.is_up() != was_up {
            self.changed(outcome.to_string(), now);
        } else {
            self.show(now);
        }
    }

    /// Of several addresses, the report prefers one that passes.
    fn report(&self, address: usize, outcome: &Outcome) {
        self.backend.counters.probed(outcome.class());
        let mut report = self.backend.health.lock();
        if report.addresses.len() <= address {
            report.addresses.resize(address + 1, None);
        }
        report.addresses[address] = Some(outcome.clone());
        if outcome.passed() || !report.addresses.iter().flatten().any(Outcome::passed) {
            report.last_result = Some(outcome.clone());
        }
    }

    fn show_addresses(&self) {
        for (number, address) in self.backend.addresses.iter().enumerate() {
            address.set_up(match &self.policy {
                HealthPolicy::Probed(states) => states.get(number).is_none_or(HealthState::is_up),
                HealthPolicy::Off(_) => true,
            });
        }
    }

    /// Counts a client that could not connect or was reset early. True if that ejects the backend, so that the end
    /// needs a timer.
    pub fn count_outlier(&mut self, now: Tick) -> bool {
        let answers = self.backend.answers();
        let limit = self.pool.settings.outlier_failures;
        let failure = ClientFailure {
            answered_before: std::mem::replace(&mut self.answers, answers) != answers,
            limit,
            has_room: outlier::has_room(self.pool.ejected.count(), self.pool.members.len()),
        };
        let ejected = self.outlier.failed(failure, now);
        if let Some(until) = self.outlier.until().filter(|_| ejected) {
            let (name, time) = (&self.backend.name, until - now);
            let why = format!("left out for {time:?}: {limit} clients in a row failed");
            log::warn!("{name} is {why}{}", self.suffix());
            self.note_change(now);
            self.record(why);
        }
        ejected
    }

    /// When the ejection ends, if it is ejected.
    pub fn ejected_until(&self) -> Option<Tick> {
        self.outlier.until()
    }

    /// Ends an ejection whose time is over.
    pub fn readmit(&mut self, now: Tick) {
        if self.outlier.elapsed(now) {
            log::info!("{} is let in again{}", self.backend.name, self.suffix());
            self.backend.starts_slowly(now);
            self.note_change(now);
            self.record("let in again".to_owned());
        }
    }

    /// Handles a client that connected to a backend that counted as unusable.
    pub fn client_connected(&mut self, now: Tick) {
        if let HealthPolicy::Off(backoff) = &mut self.policy
            && backoff.succeeded()
        {
            self.note_change(now);
        }
    }

    /// Handles the deadline of a backend that is not probed.
    pub fn visit(&mut self, now: Tick) {
        if let HealthPolicy::Off(backoff) = &mut self.policy
            && backoff.elapsed(now)
        {
            self.note_change(now);
        }
    }

    /// A lack of ports says nothing about the backend, whose state stays; but the operator has to act.
    fn log_lack_of_ports(&mut self, failure: ConnectFailure, now: Tick) {
        if !self.lack_of_ports.is_due(now) {
            return;
        }
        let (name, suffix) = (&self.backend.name, self.suffix());
        log::warn!("{name} gets no new connections: {failure} (net.ipv4.ip_local_port_range){suffix}");
    }

    fn rules(&self) -> Rules {
        let Health { rise, fall, .. } = *self.health();
        Rules { rise, fall }
    }

    /// Logs and shows a change of the state.
    fn changed(&mut self, why: String, now: Tick) {
        if self.policy.is_up() {
            self.backend.starts_slowly(now);
        }
        self.note_change(now);
        let (name, suffix) = (&self.backend.name, self.suffix());
        if self.policy.is_up() {
            log::info!("{name} is up: {why}{suffix}");
        } else {
            log::warn!("{name} is down: {why}{suffix}");
            self.fallen = self.pool.settings.on_down == OnDown::Reset;
        }
        self.record(why);
    }

    /// Records an event if the backend is now up and was down, or the reverse. A back-off is too short to count.
    fn record(&mut self, why: String) {
        let up = self.outlier.until().is_none() && (matches!(self.policy, HealthPolicy::Off(_)) || self.policy.is_up());
        if std::mem::replace(&mut self.recorded_up, up) == up {
            return;
        }
        let (from, to) = if up { ("down", "up") } else { ("up", "down") };
        let event = Event::new(Kind::BackendState, By::Health).of_backend(&self.pool.settings.name, &self.backend.name);
        self.events.record(event.changed(from, to).because(&why));
        self.changed = Some(format!("{} is {to}: {why}", self.backend.name));
    }

    fn note_change(&mut self, now: Tick) {
        self.backend.health.lock().last_change = Some(now);
        self.show(now);
    }

    /// Writes the bits.
    pub fn show(&mut self, now: Tick) {
        // This precedes the up bit, since the backend may be in slow start.
        self.grow_share(now);
        let standing = Standing {
            state: self.state,
            resolved: self.has_address(),
            healthy: self.policy.is_up(),
            ejected: self.outlier.until().is_some(),
            drained: self.backend.agent().drains,
            admitted: self.admitted,
        };
        self.backend.set_healthy(standing.healthy && standing.resolved);
        self.backend.health.lock().transition = self.policy.transition(self.rules());
        self.pool.show(self.slot, standing);
        if self.shown.replace(standing) != Some(standing) {
            self.has_shown.store(true, Ordering::Relaxed);
        }
    }

    /// Updates the share during slow start.
    pub fn grow_share(&self, now: Tick) {
        self.pool.grow_share(self.slot, &self.backend, now);
    }

    fn suffix(&self) -> String {
        if self.names_pool { format!(" (pool {})", self.pool.settings.name) } else { String::new() }
    }
}
