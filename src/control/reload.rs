//! A reload: a thread reads the file, then its names are looked up, then all of it is applied to the running model, or
//! nothing. Control handles changes, drains and stops meanwhile.
//!
//! One reload is in progress at a time. Requests that come meanwhile form the next one.

use super::change::Reply;
use super::config_state::Transition;
use super::hold;
use super::lookup::{Found, Question};
use super::remote::{ReloadError, Reloaded};
use super::resolve::{self, Endpoints};
use super::{ControlLoop, DataPlane};
use crate::clock;
use crate::config::model::Model;
use crate::config::{advice, descriptors};
use crate::preflight;
use crate::systemd;
use crossbeam_channel::{Receiver, Sender, at, bounded, never};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

/// How long reading the file may take: it may be on a network file system, or a pipe that never gets data.
const READING: Duration = Duration::from_secs(30);

/// Requests that may wait for the reload in progress.
const WAITING_MAX: usize = 64;

/// A request for a reload.
pub struct Waiting {
    /// Only report what would change.
    pub dry_run: bool,
    /// Receives the outcome; `None`: only the log does. The caller may have stopped waiting.
    pub answer: Option<Sender<Result<Reloaded, ReloadError>>>,
}

/// The result of reading the file.
pub type Read = Result<Model, ReloadError>;

/// The reload in progress.
pub struct Reload {
    waiting: Vec<Waiting>,
    phase: ReloadPhase,
}

enum ReloadPhase {
    /// A thread reads the file.
    Reading { until: Instant },
    /// The file's names are looked up.
    Asking { file: Box<Model>, question: Question },
}

impl Waiting {
    fn answer(self, outcome: Result<Reloaded, ReloadError>) {
        if let Some(answer) = self.answer {
            let _ = answer.try_send(outcome);
        }
    }
}

impl Reload {
    /// Records the outcome of a name.
    pub fn record(&mut self, name: &str, outcome: &super::lookup::Outcome) {
        if let ReloadPhase::Asking { question, .. } = &mut self.phase {
            question.record(name, outcome);
        }
    }

    /// Whether all names have an outcome.
    pub fn is_ready(&self) -> bool {
        matches!(&self.phase, ReloadPhase::Asking { question, .. } if question.is_answered())
    }
}

impl<C: DataPlane> ControlLoop<C> {
    /// Queues a request, or refuses it.
    pub(super) fn reload(&mut self, waiting: Waiting) {
        if self.parts.loader.is_none() {
            if waiting.answer.is_none() {
                log::info!("SIGHUP ignored: there is no file to read again");
            }
            waiting.answer(Err(ReloadError::NoFile));
        } else if self.draining {
            if self.handed_over && waiting.answer.is_none() {
                hold::reload_is_late();
            }
            waiting.answer(Err(ReloadError::Draining));
        } else if self.held.is_some() && waiting.answer.is_some() {
            waiting.answer(Err(ReloadError::Upgrading));
        } else if self.next_reload.len() < WAITING_MAX {
            self.note_reload();
            self.next_reload.push(waiting);
        } else {
            waiting.answer(Err(ReloadError::NotRead("too many reloads wait already".to_owned())));
        }
    }

    /// Starts the next reload, if there is a request and none is in progress.
    pub(super) fn begin_reload(&mut self) {
        let Some(loader) = self.parts.loader.clone() else { return };
        if self.reload.is_some() || self.next_reload.is_empty() {
            return;
        }
        let waiting = std::mem::take(&mut self.next_reload);
        if waiting.iter().any(|waiting| !waiting.dry_run) {
            systemd::reloading();
        }
        if self.read.is_some() {
            let why = "the file is still being read for an earlier reload".to_owned();
            return self.reload_is_over(waiting, Err(ReloadError::NotRead(why)));
        }
        let (sender, read) = bounded(1);
        let work = move || drop(sender.try_send(loader().map_err(ReloadError::Mistakes)));
        match thread::Builder::new().name("reload".to_owned()).spawn(work) {
            Ok(_) => {
                self.read = Some(read);
                self.reload = Some(Reload { waiting, phase: ReloadPhase::Reading { until: Instant::now() + READING } });
            }
            Err(error) => {
                let why = format!("can't start a thread: {error}");
                self.reload_is_over(waiting, Err(ReloadError::NotRead(why)));
            }
        }
    }

    /// Fires when reading the file times out.
    pub(super) fn reading_is_over(&self) -> Receiver<Instant> {
        match &self.reload {
            Some(Reload { phase: ReloadPhase::Reading { until }, .. }) => at(*until),
            _ => never(),
        }
    }

    /// Ends a reload whose file was not read in time.
    pub(super) fn reading_timed_out(&mut self) {
        log::warn!("reading the file takes more than {READING:?}");
        self.file_is_read(Err(ReloadError::NotRead(format!("the file was not read within {READING:?}"))));
    }

    /// Handles the file's model or mistakes.
    pub(super) fn file_is_read(&mut self, read: Read) {
        let Some(Reload { waiting, .. }) =
            self.reload.take_if(|reload| matches!(reload.phase, ReloadPhase::Reading { .. }))
        else {
            return;
        };
        let file = match read {
            Ok(file) => file,
            Err(error) => return self.reload_is_over(waiting, Err(error)),
        };
        let (next, changes) = match self.parts.config_state.merge(&file) {
            Ok(merged) => merged,
            Err(mistakes) => return self.reload_is_over(waiting, Err(ReloadError::Mistakes(mistakes))),
        };
        let reloaded = Reloaded { changes, model: Arc::new(next.model) };
        let mut real = Vec::new();
        for waiting in waiting {
            if waiting.dry_run {
                waiting.answer(Ok(reloaded.clone()));
            } else {
                real.push(waiting);
            }
        }
        if real.is_empty() {
            return;
        }
        let question = Question::new(self.parts.config_state.names(&reloaded.model));
        let now = Instant::now();
        question.pending().for_each(|name| self.parts.lookups.ask(name, now));
        self.reload = Some(Reload { waiting: real, phase: ReloadPhase::Asking { file: Box::new(file), question } });
    }

    /// Applies a reload whose names are resolved.
    pub(super) fn apply_reload(&mut self) {
        let Some(Reload { waiting, phase }) = self.reload.take_if(|reload| reload.is_ready()) else { return };
        let ReloadPhase::Asking { file, question } = phase else { return };
        let found = self.heard(question.found);
        match self.prepare(*file, &found) {
            Ok((transition, reloaded)) => {
                self.record_changes(&reloaded.changes);
                self.begin(transition, false, Reply::Reload(waiting, reloaded));
                self.run_sources();
            }
            Err(error) => self.reload_is_over(waiting, Err(error)),
        }
    }

    fn prepare(&mut self, file: Model, found: &Found) -> Result<(Transition, Reloaded), ReloadError> {
        let config_state = &mut self.parts.config_state;
        let (next, mut changes) = config_state.merge(&file).map_err(ReloadError::Mistakes)?;
        let own = config_state.own_places(&next.model.listeners);
        let endpoints = resolve::model(&next.model, found, &own.listeners(), Some(config_state.snapshot()));
        let mistake = |it: &resolve::Unresolved| format!("pool {}: backend {}: {}", it.pool, it.backend, it.why);
        let lacking: Vec<String> = endpoints.lacking(&next.model).into_iter().map(mistake).collect();
        if !lacking.is_empty() {
            return Err(ReloadError::Mistakes(lacking));
        }
        let Endpoints { resolved, unresolved, kept } = endpoints;
        config_state.note_moved(&next.model, &resolved, &mut changes);
        let transition = config_state.prepare(next, &resolved, found).map_err(ReloadError::CouldNotListen)?;
        config_state.set_file(file);
        kept.iter().for_each(|line| log::warn!("{line}"));
        // The names that nothing waited for: those that have failed before have their own pace.
        let (asked, others): (Vec<_>, Vec<_>) = unresolved.into_iter().partition(|it| found.contains_key(&it.name));
        resolve::note(&transition.snapshot, &asked);
        let new = others.iter().filter(|it| !self.retries.contains_key(&it.name));
        new.for_each(|it| self.parts.lookups.retry(&it.name, Instant::now()));
        let model = transition.model.clone();
        Ok((transition, Reloaded { changes, model }))
    }

    /// Reports the end of a reload to the service manager, the log and the callers.
    pub(super) fn reload_is_over(&mut self, waiting: Vec<Waiting>, outcome: Result<Reloaded, ReloadError>) {
        if waiting.iter().any(|waiting| !waiting.dry_run) {
            self.report_reload(&outcome);
        }
        waiting.into_iter().for_each(|waiting| waiting.answer(outcome.clone()));
    }

    fn report_reload(&self, outcome: &Result<Reloaded, ReloadError>) {
        // A drain has begun meanwhile: its status stands.
        if !self.draining {
            systemd::ready(match outcome {
                Ok(_) => "running",
                Err(_) => "running with the old configuration: the new one was refused",
            });
        }
        let first = |error: &ReloadError| error.to_string().lines().next().unwrap_or_default().to_owned();
        self.parts.published.reloaded(outcome.as_ref().map(|_| ()).map_err(first), clock::now());
        match outcome {
            Ok(Reloaded { changes, model }) => {
                changes.to_string().lines().for_each(|line| log::info!("reload: {line}"));
                let beyond = descriptors::beyond(self.parts.config_state.share(), model);
                let warnings = advice::of(model).into_iter().chain(beyond).chain(preflight::of_this_machine(model));
                warnings.for_each(|warning| log::warn!("reload: {warning}"));
            }
            Err(error) => {
                self.record_refused(error);
                error.to_string().lines().for_each(|line| log::error!("reload refused: {line}"));
            }
        }
    }

    /// Refuses the reload in progress and all waiting requests, since a drain begins.
    pub(super) fn give_up_reloads(&mut self) {
        let waiting = self.reload.take().into_iter().flat_map(|reload| reload.waiting);
        let waiting: Vec<Waiting> = waiting.chain(std::mem::take(&mut self.next_reload)).collect();
        waiting.into_iter().for_each(|waiting| waiting.answer(Err(ReloadError::Draining)));
    }
}
