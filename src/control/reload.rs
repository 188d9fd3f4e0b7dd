//! A reload on its way to a step: the file is read on a thread of its own, then its names are looked up, then all of it is
//! applied to what runs by then, or nothing. Control does other things meanwhile: changes, a drain, a stop.
//!
//! One reload is on its way at a time. Those that are asked for meanwhile become the next one.

use super::change::Reply;
use super::config_state::Transition;
use super::lookup::{Found, Question};
use super::remote::{ReloadError, Reloaded};
use super::resolve::{self, Endpoints};
use super::{ControlLoop, DataPlane};
use crate::config::model::{Model, Names};
use crate::config::{advice, descriptors};
use crate::systemd;
use crossbeam_channel::{Receiver, Sender, at, bounded, never};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

/// How long the file may take to be read: it may stand on a network, or be a pipe that nothing is written to.
const READING: Duration = Duration::from_secs(30);

/// Reloads that may wait for the one that is on its way.
const WAITING_MAX: usize = 64;

/// A reload that was asked for.
pub struct Waiting {
    /// Only say what would change.
    pub dry_run: bool,
    /// Where the outcome goes; without it only to the log. The caller may have given up waiting.
    pub answer: Option<Sender<Result<Reloaded, ReloadError>>>,
}

/// What was read: a model, or everything that is wrong with the file.
pub type Read = Result<Model, Vec<String>>;

/// A reload that is on its way.
pub struct Reload {
    waiting: Vec<Waiting>,
    phase: ReloadPhase,
}

enum ReloadPhase {
    /// The file is read.
    Reading { until: Instant },
    /// Its names are looked up.
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
    /// Takes what came of a name.
    pub fn hear(&mut self, name: &str, outcome: &super::lookup::Outcome) {
        if let ReloadPhase::Asking { question, .. } = &mut self.phase {
            question.hear(name, outcome);
        }
    }

    /// Is all known that is needed to apply it?
    pub fn is_ready(&self) -> bool {
        matches!(&self.phase, ReloadPhase::Asking { question, .. } if question.is_answered())
    }
}

impl<C: DataPlane> ControlLoop<C> {
    /// A reload is asked for.
    pub(super) fn reload(&mut self, waiting: Waiting) {
        if self.parts.loader.is_none() {
            if waiting.answer.is_none() {
                log::info!("SIGHUP ignored: there is no file to read again");
            }
            waiting.answer(Err(ReloadError::NoFile));
        } else if self.draining {
            waiting.answer(Err(ReloadError::Draining));
        } else if self.next_reload.len() < WAITING_MAX {
            self.next_reload.push(waiting);
        } else {
            waiting.answer(Err(ReloadError::Mistakes(vec!["too many reloads wait already".to_owned()])));
        }
    }

    /// Begins the next reload, if one is asked for and none is on its way.
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
            return self.reload_is_over(waiting, Err(ReloadError::Mistakes(vec![why])));
        }
        let (sender, read) = bounded(1);
        let work = move || drop(sender.try_send(loader()));
        match thread::Builder::new().name("reload".to_owned()).spawn(work) {
            Ok(_) => {
                self.read = Some(read);
                self.reload = Some(Reload { waiting, phase: ReloadPhase::Reading { until: Instant::now() + READING } });
            }
            Err(error) => {
                let why = format!("can't start a thread: {error}");
                self.reload_is_over(waiting, Err(ReloadError::Mistakes(vec![why])));
            }
        }
    }

    /// When the file has taken too long to be read.
    pub(super) fn reading_is_over(&self) -> Receiver<Instant> {
        match &self.reload {
            Some(Reload { phase: ReloadPhase::Reading { until }, .. }) => at(*until),
            _ => never(),
        }
    }

    /// The file has been read, or the thread has ended without a word; or it has taken too long, and is given up.
    pub(super) fn file_is_read(&mut self, read: Option<Read>) {
        let given_up = read.is_none();
        let Some(Reload { waiting, .. }) =
            self.reload.take_if(|reload| matches!(reload.phase, ReloadPhase::Reading { .. }))
        else {
            return;
        };
        let read = read.unwrap_or_else(|| Err(vec![format!("the file was not read within {READING:?}")]));
        if given_up {
            log::warn!("the file takes long to be read");
        }
        let file = match read {
            Ok(file) => file,
            Err(mistakes) => return self.reload_is_over(waiting, Err(ReloadError::Mistakes(mistakes))),
        };
        let (model, changes) = self.parts.config_state.merge(&file);
        let reloaded = Reloaded { changes, model: Arc::new(model) };
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

    /// Applies a reload that is ready.
    pub(super) fn apply_reload(&mut self) {
        let Some(Reload { waiting, phase }) = self.reload.take_if(|reload| reload.is_ready()) else { return };
        let ReloadPhase::Asking { file, question } = phase else { return };
        match self.prepare(*file, &question.found) {
            Ok((step, reloaded)) => self.begin(step, false, Reply::Reload(waiting, reloaded)),
            Err(error) => self.reload_is_over(waiting, Err(error)),
        }
    }

    fn prepare(&mut self, file: Model, found: &Found) -> Result<(Transition, Reloaded), ReloadError> {
        let config_state = &mut self.parts.config_state;
        let (model, mut changes) = config_state.merge(&file);
        let Endpoints { resolved, unresolved, kept } = resolve::model(&model, found, Some(config_state.snapshot()));
        if model.global.names == Names::Required && !unresolved.is_empty() {
            let mistake = |it: resolve::Unresolved| format!("pool {}: backend {}: {}", it.pool, it.backend, it.why);
            return Err(ReloadError::Mistakes(unresolved.into_iter().map(mistake).collect()));
        }
        config_state.note_moved(&model, &resolved, &mut changes);
        let step = config_state.step(model, &resolved, found, None).map_err(ReloadError::CouldNotListen)?;
        config_state.filed(file);
        kept.iter().for_each(|line| log::warn!("{line}"));
        resolve::note(&step.snapshot, &unresolved);
        let model = step.model.clone();
        Ok((step, Reloaded { changes, model }))
    }

    /// Says how a reload ended: to the service manager, the log and the callers.
    pub(super) fn reload_is_over(&mut self, waiting: Vec<Waiting>, outcome: Result<Reloaded, ReloadError>) {
        if waiting.iter().any(|waiting| !waiting.dry_run) {
            self.report_reload(&outcome);
        }
        waiting.into_iter().for_each(|waiting| waiting.answer(outcome.clone()));
    }

    fn report_reload(&self, outcome: &Result<Reloaded, ReloadError>) {
        // A drain that has begun meanwhile is what the service manager knows.
        if !self.draining {
            systemd::ready(match outcome {
                Ok(_) => "running",
                Err(_) => "running with the old configuration: the new one is wrong",
            });
        }
        self.parts.published.reloaded(outcome.is_ok());
        match outcome {
            Ok(Reloaded { changes, model }) => {
                changes.to_string().lines().for_each(|line| log::info!("reload: {line}"));
                let beyond = descriptors::listeners_beyond(self.parts.config_state.share(), model);
                advice::of(model).iter().chain(&beyond).for_each(|warning| log::warn!("reload: {warning}"));
            }
            Err(error) => error.to_string().lines().for_each(|line| log::error!("reload refused: {line}")),
        }
    }

    /// A drain begins: nothing that is on its way to a step is carried out.
    pub(super) fn give_up_reloads(&mut self) {
        let waiting = self.reload.take().into_iter().flat_map(|reload| reload.waiting);
        let waiting: Vec<Waiting> = waiting.chain(std::mem::take(&mut self.next_reload)).collect();
        waiting.into_iter().for_each(|waiting| waiting.answer(Err(ReloadError::Draining)));
    }
}
