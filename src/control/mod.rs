//! The control thread: the only one that changes what the others do.
//!
//! Every change, whatever its source (file, API, signal), is a command from a [`Remote`]. Control checks it, prepares
//! the next [`Snapshot`] without touching anything, and then carries it out: the prober first,
//! so that the health bits say what is known; then the workers, who adopt it between two batches of events; then
//! readers. Only when all of them have it is the command answered.
//!
//! | state | command or event | what follows |
//! |---|---|---|
//! | running | `Reload`, by a command or SIGHUP | the file is read; all of it is applied, or nothing if anything in it is wrong |
//! | running | `Edit` | one backend is added, changed, taken out |
//! | running | the time of a backend that was taken out is over | its connections are reset, reason `forced` |
//! | running | `Stop` | not ready any more; after `shutdown_delay` the drain begins |
//! | delaying or draining | `Reload`, `Edit` | refused |
//! | delaying | `shutdown_delay` is over | workers drain: they take in who waits, close their listeners, let connections finish |
//! | draining | last worker has ended | over; the log says how many were refused that it has not told of |
//! | delaying or draining | `Stop` again, or `shutdown_timeout` is over | workers reset what is left, reason `shutdown` |
//! | any | now and then | the log is told of clients that were refused and that no worker has told of |
//! | any | a worker ended with an error | the others are stopped at once; the error is what [`Control::wait`] gives |
//!
//! It may wait: for the file, for the resolver (a bounded time), for prober and workers, none of which waits for it.
//!
//! | file | what |
//! |---|---|
//! | `remote` | how others ask, and what they are told |
//! | `command` | what may be asked |
//! | `truth` | what is, and how the next step is prepared |
//! | `resolve` | names into addresses |

mod command;
mod remote;
mod resolve;
mod truth;

pub use crate::config::diff::{Change, Changes};
pub use remote::{Refused, ReloadError, Reloaded, Remote};
pub use truth::{NewSockets, Truth, remove_files};

use crate::base::duration;
use crate::config::advice;
use crate::config::model::{Model, OnRemove};
use crate::logger;
use crate::mailbox::Mailbox;
use crate::pool::{Admission, BackendId, ListenerTotals, Note, Published, Refusal, Snapshot, clock};
use crate::systemd;
use crate::watchdog::{Heartbeat, Watched};
use command::{Command, Edit};
use crossbeam_channel::{Receiver, after, at, never, select_biased, tick};
use remote::Asked;
use std::io;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};
use truth::Step;

/// How often it looks whether the log is to be told of refusals.
const LOOK: Duration = Duration::from_secs(2);

/// Reads the file: the model it describes, or everything that is wrong with it, a line each.
pub type Loader = Box<dyn Fn() -> Result<Model, Vec<String>> + Send>;

/// The workers, as control sees them. Threads do not know each other: whoever puts them together carries it there.
pub trait Crew: Send + 'static {
    /// From now on this is what there is, and these are further sockets to listen on; on return all workers know.
    fn adopt(&self, snapshot: &Arc<Snapshot>, opened: Vec<NewSockets>);

    /// Reset the connections of these backends, reason `forced`.
    fn reset(&self, backends: &Arc<[BackendId]>);

    /// No new connections; end with the last one.
    fn drain(&self);

    /// End now.
    fn stop(&self);
}

/// What the thread needs.
pub struct Parts<C> {
    /// What is at the start.
    pub truth: Truth,
    /// The workers, and how many there are.
    pub crew: C,
    /// Where the prober is told of snapshots.
    pub prober: Mailbox<Note>,
    /// How many clients there may be.
    pub admission: Arc<Admission>,
    /// What readers see.
    pub published: Arc<Published>,
    /// How the file is read, if there is one.
    pub loader: Option<Loader>,
    /// Receives one message from each worker.
    pub ended: Receiver<Ended>,
}

/// The thread.
#[derive(Debug)]
pub struct Control {
    thread: JoinHandle<Result<(), String>>,
    remote: Remote,
    heartbeat: Heartbeat,
}

/// What a worker thread tells when it ends.
pub type Ended = (usize, io::Result<()>);

impl Control {
    /// Starts the thread.
    pub fn spawn<C: Crew>(parts: Parts<C>) -> io::Result<Control> {
        let (remote, asked) = remote::channels();
        let heartbeat = Heartbeat::default();
        let of_thread = heartbeat.clone();
        let control = move || Desk { parts, draining: false, cuts: Vec::new(), heartbeat: of_thread }.run(asked);
        let thread = thread::Builder::new().name("control".into()).spawn(control)?;
        Ok(Control { thread, remote, heartbeat })
    }

    /// For those who send commands.
    pub fn remote(&self) -> Remote {
        self.remote.clone()
    }

    /// For the watchdog.
    pub fn watched(&self) -> Watched {
        let remote = self.remote.clone();
        Watched { name: "control".to_owned(), heartbeat: self.heartbeat.clone(), wake: Box::new(move || remote.wake()) }
    }

    /// Waits for the end; the error of a worker that failed.
    pub fn wait(self) -> Result<(), String> {
        drop(self.remote);
        self.thread.join().unwrap_or_else(|_| Err("the control thread panicked".into()))
    }
}

/// Where commands are worked through, one after the other.
struct Desk<C> {
    parts: Parts<C>,
    /// A stop was asked for: nothing is changed any more.
    draining: bool,
    /// Backends that were taken out and have some time left. As many entries as removals within that time.
    cuts: Vec<(Instant, Arc<[BackendId]>)>,
    heartbeat: Heartbeat,
}

impl<C: Crew> Desk<C> {
    fn run(mut self, asked: Asked) -> Result<(), String> {
        let Asked { mut stops, mut reloads, mut wakes, mut commands } = asked;
        let ended = self.parts.ended.clone();
        let (mut delay, mut deadline, look) = (never(), never(), tick(LOOK));
        let mut outcome = Ok(());
        let mut left = self.parts.truth.running().global.workers;
        while left > 0 {
            self.heartbeat.beat();
            let cut = self.cuts.iter().map(|cut| cut.0).min().map_or_else(never, at);
            // In this order: a stop goes before all that waits to be changed, and so does a time that is over.
            select_biased! {
                recv(stops) -> stop => match stop {
                    Ok(()) if self.draining => {
                        delay = never();
                        log::info!("stopping now");
                        self.parts.crew.stop();
                    }
                    Ok(()) => {
                        let time = self.parts.truth.running().global.shutdown_delay;
                        self.draining = true;
                        self.parts.published.drain();
                        if !time.is_zero() {
                            log::info!("not ready any more: listeners stay open for {}", duration::written(time));
                            systemd::stopping("not ready any more: listeners are still open");
                        }
                        delay = after(time);
                    }
                    // Every remote is gone: nothing can stop us but a worker's failure.
                    Err(_) => stops = never(),
                },
                recv(delay) -> _ => {
                    delay = never();
                    let time = self.parts.truth.running().global.shutdown_timeout;
                    log::info!("draining: no new connections, {time:?} for those that are open");
                    deadline = after(time);
                    systemd::stopping("draining: open connections may finish");
                    self.parts.crew.drain();
                }
                recv(deadline) -> _ => {
                    log::warn!("the drain took too long: what is left is reset");
                    deadline = never();
                    self.parts.crew.stop();
                }
                recv(ended) -> message => {
                    left -= 1;
                    let failure = match message {
                        Ok((_, Ok(()))) => continue,
                        Ok((worker, Err(error))) => format!("worker {worker} failed: {error}"),
                        Err(_) => "a worker panicked".to_owned(),
                    };
                    log::error!("{failure}");
                    outcome = Err(failure);
                    self.parts.crew.stop();
                }
                recv(cut) -> _ => self.cut(),
                recv(wakes) -> wake => if wake.is_err() {
                    wakes = never();
                },
                recv(look) -> _ => {
                    self.tell_refusals(|totals, why| totals.left_to_tell(why, clock::now()));
                    systemd::retry();
                }
                recv(reloads) -> wish => match wish {
                    Ok(()) if matches!(self.reload(false), Err(ReloadError::NoFile)) => {
                        log::info!("SIGHUP ignored: there is no file to read again");
                    }
                    Ok(()) => {}
                    Err(_) => reloads = never(),
                },
                recv(commands) -> command => match command {
                    // The caller may have given up waiting.
                    Ok(Command::Reload { dry_run, answer }) => drop(answer.try_send(self.reload(dry_run))),
                    Ok(Command::Edit { edit, answer }) => drop(answer.try_send(self.edit(&edit))),
                    Err(_) => commands = never(),
                },
            }
        }
        self.tell_refusals(ListenerTotals::untold);
        self.heartbeat.end();
        outcome
    }

    /// Workers look whether there is something to tell when they refuse somebody: of the first, and of those who follow as
    /// long as it goes on. How many came after that is told here.
    fn tell_refusals(&self, untold: impl Fn(&ListenerTotals, Refusal) -> Option<u64>) {
        for listener in &self.parts.published.snapshot().listeners {
            for why in Refusal::ALL {
                if let Some(count) = untold(&listener.totals, why) {
                    let plural = if count == 1 { "" } else { "s" };
                    log::warn!("listener {} refused {count} more client{plural}: {}", listener.name, why.label());
                }
            }
        }
    }

    fn reload(&mut self, dry_run: bool) -> Result<Reloaded, ReloadError> {
        if dry_run {
            return self.try_reload(true);
        }
        let told = !self.draining && self.parts.loader.is_some();
        if told {
            systemd::reloading();
        }
        let outcome = self.try_reload(false);
        if told {
            systemd::ready(if outcome.is_ok() {
                "running"
            } else {
                "running with the old configuration: the new one is wrong"
            });
        }
        match &outcome {
            // Not a failure: whoever asked says what he makes of it.
            Err(ReloadError::NoFile) => {}
            Ok(Reloaded { changes, model }) => {
                self.parts.published.reloaded(true);
                changes.to_string().lines().for_each(|line| log::info!("reload: {line}"));
                advice::of(model).iter().for_each(|warning| log::warn!("reload: {warning}"));
            }
            Err(error) => {
                self.parts.published.reloaded(false);
                error.to_string().lines().for_each(|line| log::error!("reload refused: {line}"));
            }
        }
        outcome
    }

    fn try_reload(&mut self, dry_run: bool) -> Result<Reloaded, ReloadError> {
        let loader = self.parts.loader.as_ref().ok_or(ReloadError::NoFile)?;
        if self.draining {
            return Err(ReloadError::Draining);
        }
        let file = loader().map_err(ReloadError::Mistakes)?;
        let truth = &mut self.parts.truth;
        let (model, mut changes) = truth.merge(&file);
        if dry_run {
            return Ok(Reloaded { changes, model: Arc::new(model) });
        }
        let resolved = resolve::model(&model, Some(truth.snapshot())).map_err(ReloadError::Mistakes)?;
        truth.note_moved(&model, &resolved, &mut changes);
        let step = truth.step(model, &resolved, None).map_err(ReloadError::CouldNotListen)?;
        truth.filed(file);
        let model = step.model.clone();
        self.carry_out(step, false);
        Ok(Reloaded { changes, model })
    }

    fn edit(&mut self, edit: &Edit) -> Result<(), Refused> {
        if self.draining {
            return Err(Refused::Draining);
        }
        let step = self.parts.truth.edit(edit)?;
        log::info!("{edit}");
        let before = advice::of_pool_called(self.parts.truth.running(), edit.pool());
        let now = advice::of_pool_called(&step.model, edit.pool());
        now.iter().filter(|warning| !before.contains(warning)).for_each(|warning| log::warn!("{warning}"));
        self.carry_out(step, matches!(edit, Edit::Remove { force: true, .. }));
        Ok(())
    }

    /// Gives a step to everybody, in order. `force`: connections of backends that leave are reset, whatever the pool
    /// says.
    fn carry_out(&mut self, step: Step, force: bool) {
        self.parts.truth.take(&step);
        let Step { model, snapshot, opened, leaving, closing, share } = step;
        let (note, answer) = Note::adopt(snapshot.clone());
        if !(self.parts.prober.send(note) && answer.recv().is_ok()) {
            log::error!("there are no health checks any more: backends keep their state");
        }
        for NewSockets { address, listener, .. } in &opened {
            let endpoints = listener.addresses.iter().filter(|other| other.id == *address);
            endpoints.for_each(|address| log::info!(target: logger::ALWAYS, "listening on {}", address.endpoint));
        }
        // New clients find nobody at the old addresses from here on; workers take in those who wait there already.
        remove_files(&closing);
        if self.parts.admission.limit() != share.connections {
            log::info!("serves at most {} clients at once from now on", share.connections);
            self.parts.admission.set_limit(share.connections);
        }
        self.parts.crew.adopt(&snapshot, opened);
        self.parts.published.publish(snapshot, model);
        let mut now = Vec::new();
        let mut later: Vec<(Duration, Vec<BackendId>)> = Vec::new();
        for (id, on_remove) in leaving {
            match on_remove {
                _ if force => now.push(id),
                OnRemove::Keep => {}
                OnRemove::Reset => now.push(id),
                OnRemove::Drain(time) => match later.iter_mut().find(|(other, _)| *other == time) {
                    Some((_, ids)) => ids.push(id),
                    None => later.push((time, vec![id])),
                },
            }
        }
        if !now.is_empty() {
            self.parts.crew.reset(&now.into());
        }
        let started = Instant::now();
        // A time that no clock can count is for ever.
        let timed = |(time, ids): (Duration, Vec<BackendId>)| Some((started.checked_add(time)?, ids.into()));
        self.cuts.extend(later.into_iter().filter_map(timed));
    }

    /// Resets the connections of backends whose time is over.
    fn cut(&mut self) {
        let now = Instant::now();
        for (_, ids) in self.cuts.extract_if(.., |cut| cut.0 <= now) {
            self.parts.crew.reset(&ids);
        }
    }
}
