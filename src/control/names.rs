//! Changes by the API, and those that wait for names: backends that are added, and backends that are down because their name did not
//! resolve. Those names are retried after 1 s, then with doubling pauses up to 30 s.

use super::change::Reply;
use super::command::{Asking, Edit};
use super::lookup::{Found, Outcome, Question};
use super::remote::Refused;
use super::resolve::{self, without_address};
use super::{ControlLoop, DataPlane};
use crate::config::advice;
use crossbeam_channel::{Receiver, Sender, at, never};
use std::collections::{BTreeSet, HashMap};
use std::iter;
use std::time::{Duration, Instant};

/// The first and the longest pause before a name is retried.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

/// Backends whose names may be looked up for additions at once.
const ADDS_MAX: usize = 64;

/// A backend to be added once its name is resolved.
pub struct Add {
    asking: Asking,
    question: Question,
}

/// When a name is retried.
#[derive(Clone, Copy)]
pub struct Retry {
    at: Instant,
    pause: Duration,
}

impl<C: DataPlane> ControlLoop<C> {
    /// Carries changes of weights and states out, as one: the first and all that wait.
    pub(super) fn change_backends(&mut self, first: Asking, waiting: &Receiver<Asking>) {
        let (mut edits, mut answers) = (Vec::new(), Vec::new());
        for Asking { edit, answer } in iter::once(first).chain(waiting.try_iter()) {
            match self.check(&edit) {
                Ok(()) => {
                    edits.push(edit);
                    answers.push(answer);
                }
                Err(refused) => drop(answer.try_send(Err(refused))),
            }
        }
        if !edits.is_empty() {
            self.carry_out(&edits, answers, &Found::new());
        }
    }

    fn check(&self, edit: &Edit) -> Result<(), Refused> {
        match (&self.held, self.draining) {
            (Some(_), _) => Err(Refused::Upgrading),
            (None, true) => Err(Refused::Draining),
            (None, false) => self.parts.config_state.check(edit),
        }
    }

    /// Checks a change of one backend and carries it out, or looks the backend's name up first.
    pub(super) fn edit(&mut self, Asking { edit, answer }: Asking) {
        let name = match &edit {
            Edit::Add { backend, .. } => resolve::name(&backend.address).map(str::to_owned),
            Edit::Change { .. } | Edit::Remove { .. } => None,
        };
        let refused = match (self.check(&edit), &name) {
            (Err(refused), _) => Some(refused),
            (Ok(()), Some(_)) if self.adds.len() >= ADDS_MAX => {
                Some(Refused::Invalid("too many names are being looked up already".to_owned()))
            }
            (Ok(()), _) => None,
        };
        if let Some(refused) = refused {
            let _ = answer.try_send(Err(refused));
        } else if let Some(name) = name {
            self.parts.lookups.ask(&name, Instant::now());
            self.adds.push(Add { asking: Asking { edit, answer }, question: Question::new([name]) });
        } else {
            self.carry_out(&[edit], vec![answer], &Found::new());
        }
    }

    fn carry_out(&mut self, edits: &[Edit], answers: Vec<Sender<Result<(), Refused>>>, found: &Found) {
        // Preparing the change takes a backend out of use already.
        let states_before = self.states_before(edits);
        let transition = match self.parts.config_state.edit(edits, found) {
            Ok(transition) => transition,
            Err(refused) => {
                return answers.iter().for_each(|answer| drop(answer.try_send(Err(refused.clone()))));
            }
        };
        for edit in edits {
            log::info!("{edit}");
            self.record_edit(edit);
        }
        for pool in edits.iter().map(Edit::pool).collect::<BTreeSet<_>>() {
            let before = advice::of_pool_called(self.parts.config_state.running(), pool);
            let now = advice::of_pool_called(&transition.model, pool);
            now.iter().filter(|warning| !before.contains(warning)).for_each(|warning| log::warn!("{warning}"));
        }
        let force = matches!(edits, [Edit::Remove { force: true, .. }]);
        self.begin(transition, force, Reply::Edit(answers, states_before));
    }

    /// Handles an answer of a resolver thread.
    pub(super) fn resolved(&mut self, name: &str, outcome: &Outcome) {
        if self.parts.lookups.received(name, outcome, Instant::now()) {
            self.record(name, outcome);
        }
    }

    /// Handles names whose time is over.
    pub(super) fn not_resolved(&mut self) {
        let overdue = self.parts.lookups.overdue(Instant::now());
        overdue.iter().for_each(|(name, outcome)| self.record(name, outcome));
    }

    fn record(&mut self, name: &str, outcome: &Outcome) {
        self.adds.iter_mut().for_each(|add| add.question.record(name, outcome));
        self.reload.iter_mut().for_each(|reload| reload.record(name, outcome));
        if !self.retries.contains_key(name) || self.draining {
            return;
        }
        match outcome {
            Ok(_) => self.late.extend(self.heard(Found::from([(name.to_owned(), outcome.clone())]))),
            Err(why) => {
                // Looks only at the backends with this name. Looking at all would make many failing names cost the
                // square.
                for (pool, settings, backend) in without_address(self.parts.config_state.snapshot()) {
                    if resolve::name(&settings.address) == Some(name) {
                        resolve::note_one(pool, backend, &resolve::failed(name, why));
                    }
                }
            }
        }
    }

    /// The addresses in use of these names, given what the system has answered. That may be a part of them, or older than the last
    /// answer of a name server. So this is called when the change is made.
    pub(super) fn heard(&self, found: Found) -> Found {
        let now = Instant::now();
        let in_use = |(name, outcome): (String, Outcome)| {
            let outcome = outcome.map(|list| self.renewals.heard(&name, list, now));
            (name, outcome)
        };
        found.into_iter().map(in_use).collect()
    }

    /// Carries out the next pending change, if no other is in flight.
    pub(super) fn go_on(&mut self) {
        while self.change.is_none()
            && let Some(ready) = self.adds.iter().position(|add| add.question.is_answered())
        {
            let Add { asking: Asking { edit, answer }, question } = self.adds.remove(ready);
            let found = self.heard(question.found);
            self.carry_out(&[edit], vec![answer], &found);
        }
        if self.change.is_none() {
            self.apply_reload();
        }
        if self.change.is_none() {
            self.apply_late();
        }
        if self.change.is_none() {
            self.begin_reload();
        }
        if self.change.is_none() {
            self.apply_sets();
        }
    }

    /// Schedules retries for all names without an address. Called for every new snapshot.
    pub(super) fn plan_retries(&mut self) {
        let first = Retry { at: Instant::now() + RETRY.0, pause: RETRY.0 };
        let mut before = std::mem::take(&mut self.retries);
        for (_, settings, _) in without_address(self.parts.config_state.snapshot()) {
            if let Some(name) = resolve::name(&settings.address) {
                let retry = before.remove(name).unwrap_or(first);
                self.retries.entry(name.to_owned()).or_insert(retry);
            }
        }
    }

    /// Fires when the next name is due.
    pub(super) fn next_retry(&self) -> Receiver<Instant> {
        self.retries.values().map(|retry| retry.at).min().filter(|_| !self.draining).map_or_else(never, at)
    }

    /// Looks the names up that are due.
    pub(super) fn retry_names(&mut self) {
        let now = Instant::now();
        for (name, retry) in self.retries.iter_mut().filter(|(_, retry)| retry.at <= now) {
            self.parts.lookups.retry(name, now);
            let pause = (retry.pause * 2).min(RETRY.1);
            *retry = Retry { at: now + pause, pause };
        }
    }

    /// Refuses pending additions, since a drain begins.
    pub(super) fn give_up_adds(&mut self) {
        self.adds.drain(..).for_each(|add| drop(add.asking.answer.try_send(Err(Refused::Draining))));
        self.late.clear();
    }
}

/// Retries by name.
pub type Retries = HashMap<String, Retry>;
