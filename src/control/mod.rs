//! The control thread: the only thread that changes what the others do.
//!
//! Every change, whatever its source (file, API, signal), is a command from a [`Remote`]. Control checks it and
//! prepares the next [`Snapshot`] without side effects. Then the change goes to the prober, which sets the health bits;
//! to the workers, which adopt it between two events; and to readers. The command is answered once all of
//! them have it, or soon after if one does not respond.
//!
//! | state | command or event | what follows |
//! |---|---|---|
//! | running | `Reload`, by a command or SIGHUP | the file is read and applied, all or nothing |
//! | running | `Edit` | one backend is removed, or added once its name is resolved |
//! | running | changes of weights and states | those that wait are one change |
//! | running | an agent changes the weight of its backend | the next snapshot has the weight |
//! | running | a source has a new set of backends | it is applied, at the pace of `pace` |
//! | running | a retried name resolves | its backends get their address |
//! | running | a name has other addresses | its backends get them, at the pace of `pace` |
//! | running | the drain time of a removed backend is over | its connections are reset, reason `forced` |
//! | running | `Stop` | readiness ends; after `shutdown_delay` the drain begins |
//! | delaying or draining | `Reload`, `Edit` | refused |
//! | delaying | `shutdown_delay` is over | workers drain: they accept the clients that wait, close their listeners, let connections finish |
//! | draining | no byte moves, under `keep_connections` | connections wait in the service manager's store for the next start, see `keep` |
//! | draining | last worker has ended | control ends; the log reports refusals not reported yet |
//! | running | `Leave`, or a successor has taken over | the same, without a delay: another process accepts the clients that wait |
//! | draining since another process serves | the first `Stop` | nothing: connections finish as before |
//! | delaying or draining | the second `Stop`, or `shutdown_timeout` is over | workers reset the connections that are left, reason `shutdown` |
//! | stopping | a worker has not ended after five seconds | control ends without it, with an error |
//! | any | every 5 s, with an admin API | the sampler notes all counters |
//! | any | every second | the log reports refused clients that no worker has reported, limits that were reached or left, and drained backends |
//! | any | a worker ended with an error | the others are stopped at once; [`Control::wait`] returns the error |
//!
//! Control blocks on nothing but its channels. Short-lived threads read files and look names up, each in bounded time,
//! and control goes on while prober and workers take up a change.
//!
//! | file | what |
//! |---|---|
//! | `remote` | the handle that sends commands, and the answers |
//! | `command` | the commands |
//! | `change` | a change in flight to prober, workers and readers |
//! | `bind` | listeners' addresses: which stay, which are opened |
//! | `config_state` | the current state, and how the next one is prepared |
//! | `drift` | what runs and does not stand in the file |
//! | `reload` | a reload until it becomes a change |
//! | `found` | what sources have found, as a part of the next state |
//! | `history` | what it records as events |
//! | `hold` | stands still while a successor takes over |
//! | `keep` | keeps open connections for the next start |
//! | `limits` | limits that are reached and left, drains that are over |
//! | `names` | changes that wait for names, and retries |
//! | `moves` | names that lead elsewhere |
//! | `own_places` | where tcplb itself listens, for names that lead there |
//! | `pace` | how often sets, weights and names are applied |
//! | `lookup` | threads that ask the resolver |
//! | `resolve` | names into addresses |
//! | `weights` | weights that agents change |
//! | `sources` | what sources find |
//! | `retired` | frees old snapshots, so that no worker does |
//! | `sampler` | notes the counters of each moment, for the last minute of the status |

mod bind;
mod change;
mod command;
mod config_state;
mod drift;
mod found;
mod history;
mod hold;
mod keep;
mod limits;
mod lookup;
mod moves;
mod names;
mod own_places;
mod pace;
mod reload;
mod remote;
mod resolve;
mod retired;
mod sampler;
mod sources;
mod weights;

pub use crate::config::diff::{Change, Changes};
pub use config_state::{BoundState, ConfigState, FirstState, NewSockets};
pub use drift::drift;
pub use hold::Held;
pub use lookup::{Found, Lookups};
pub use remote::{Refused, ReloadError, Reloaded, Remote};
pub use resolve::names_at_start;

use crate::background;
use crate::base::duration;
use crate::base::text::counted;
use crate::clock;
use crate::config::model::Model;
use crate::discovery::{Renewals, Set, SourceId, Sources};
use crate::mailbox::Mailbox;
use crate::pool::{Note, Published, ResetOrder, Snapshot};
use crate::state_file::Saver;
use crate::systemd;
use crate::telemetry::{EndCounts, ListenerTotals, Refusal, recent};
use crate::watchdog::{Heartbeat, Watched};
use change::InFlight;
use command::Command;
use crossbeam_channel::{Receiver, after, at, never, select_biased, tick};
use hold::{Hold, HoldEnd};
use keep::Keeping;
use names::{Add, Retries};
use pace::Pace;
use reload::{Read, Reload, Waiting};
use remote::Asked;
use retired::Retired;
use sampler::Sampler;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// How long workers may take to end after the order to reset all connections.
const FAREWELL: Duration = Duration::from_secs(5);

/// How often control looks for refusals that are not reported yet, for limits that were reached or left, and for drained
/// backends.
const LOOK: Duration = Duration::from_secs(1);

/// Reads the file: the model it describes, or all mistakes, one a line.
pub type Loader = Arc<dyn Fn() -> Result<Model, Vec<String>> + Send + Sync>;

/// The workers, as control sees them. Threads do not know each other: the composition root carries orders to them. A
/// call never waits for a worker; a worker that is stuck finds its orders when it goes on.
pub trait DataPlane: Send + 'static {
    /// Hands out the snapshot, and further sockets to listen on. The channel disconnects once all workers have adopted
    /// it.
    fn adopt(&self, snapshot: &Arc<Snapshot>, opened: Vec<NewSockets>) -> Receiver<()>;

    /// Resets these connections, reason `forced`.
    fn reset(&self, order: &ResetOrder);

    /// Takes no new connections, and ends with the last one.
    fn drain(&self);

    /// A successor accepts the clients, or this process does again.
    fn accept(&self, accept: bool);

    /// A successor has the listening sockets: closes them, and ends with the last connection.
    fn leave(&self);

    /// No byte has moved for a while.
    fn is_quiet(&self) -> bool;

    /// Gives the open connections to the service manager's store, for the next start. The channel disconnects once all are there that
    /// can be.
    fn keep(&self) -> Receiver<()>;

    /// Resets all connections and ends.
    fn stop(&self);
}

/// What the thread needs.
pub struct Parts<C> {
    /// The state at the start.
    pub config_state: ConfigState,
    /// The workers.
    pub data_plane: C,
    /// The prober's mailbox, for snapshots.
    pub prober: Mailbox<Note>,
    /// Receives a message once an agent has changed the weight of a backend.
    pub weights: Receiver<()>,
    /// The snapshot, model and counters that readers see.
    pub published: Arc<Published>,
    /// Writes the state file, if there is one.
    pub saver: Option<Saver>,
    /// Reads the file; `None` if tcplb was started with flags.
    pub loader: Option<Loader>,
    /// Looks names up; some lookups of the start may still run.
    pub lookups: Lookups,
    /// Receives one message from each worker.
    pub ended: Receiver<Ended>,
}

/// A handle to the running thread.
#[derive(Debug)]
pub struct Control {
    thread: JoinHandle<Outcome>,
    remote: Remote,
    heartbeat: Heartbeat,
}

/// The message of a worker thread that ends: its number and its result.
pub type Ended = (usize, io::Result<EndCounts>);

/// The result of the control thread.
#[derive(Debug)]
pub struct Outcome {
    /// How connections ended, or the error of the thread that failed.
    pub counts: Result<EndCounts, String>,
    /// Workers that did not end in time.
    pub stuck: Vec<usize>,
    /// A successor has taken over.
    pub handed_over: bool,
    /// Receives the second stop; `None`: it has come.
    pub next_stop: Option<Receiver<()>>,
}

impl Control {
    /// Starts the thread.
    pub fn spawn<C: DataPlane>(parts: Parts<C>) -> io::Result<Control> {
        let (remote, asked) = remote::channels();
        let heartbeat = Heartbeat::default();
        let of_thread = heartbeat.clone();
        let control = move || {
            background::yield_to_workers();
            ControlLoop::new(parts, of_thread).run(asked)
        };
        let thread = thread::Builder::new().name("control".into()).spawn(control)?;
        Ok(Control { thread, remote, heartbeat })
    }

    /// A handle that sends commands.
    pub fn remote(&self) -> Remote {
        self.remote.clone()
    }

    /// The heartbeat that the watchdog checks.
    pub fn watched(&self) -> Watched {
        let remote = self.remote.clone();
        Watched { name: "control".to_owned(), heartbeat: self.heartbeat.clone(), wake: Box::new(move || remote.wake()) }
    }

    /// Waits for the end of the thread.
    pub fn wait(self) -> Outcome {
        drop(self.remote);
        let panicked = |_| Outcome {
            counts: Err("the control thread panicked".into()),
            stuck: Vec::new(),
            handed_over: false,
            next_stop: None,
        };
        self.thread.join().unwrap_or_else(panicked)
    }
}

/// Works through commands, one after the other.
struct ControlLoop<C> {
    parts: Parts<C>,
    /// The process ends, by a stop or since another one serves: changes are refused.
    draining: bool,
    /// Stops that have come.
    stops: usize,
    /// The change that prober and workers are taking up. Commands wait until all of them have it.
    change: Option<InFlight>,
    /// The prober's mailbox was full when the newest snapshot was offered.
    prober_lags: bool,
    /// The reload in progress, and the requests that form the next one.
    reload: Option<Reload>,
    next_reload: Vec<Waiting>,
    /// The channel of the thread that reads the file.
    read: Option<Receiver<Read>>,
    /// Backends that are added once their name is resolved.
    adds: Vec<Add>,
    /// When to retry the names of backends without an address.
    retries: Retries,
    /// The other names of backends, and when their new addresses may be applied next.
    renewals: Renewals,
    renewals_pace: Pace,
    /// Names that have addresses now, or other ones, which are not applied.
    late: Found,
    /// When to reset the connections of removed backends. One entry per removal within the drain time.
    cuts: Vec<(Instant, ResetOrder)>,
    /// How often changes of weights are taken.
    weights_pace: Pace,
    sampler: Sampler,
    sources: Sources,
    /// Sources have sets that are not applied.
    new_sets: bool,
    /// How often they are applied, and those that could not be applied.
    sets_pace: Pace,
    untaken: BTreeMap<SourceId, Arc<Set>>,
    /// Backends whose drain is over, as the last look found.
    drained: BTreeSet<(String, String)>,
    /// A successor is taking over.
    held: Option<Hold>,
    retired: Retired,
    /// Another process serves.
    handed_over: bool,
    keeping: Keeping,
    heartbeat: Heartbeat,
}

impl<C: DataPlane> ControlLoop<C> {
    fn new(parts: Parts<C>, heartbeat: Heartbeat) -> ControlLoop<C> {
        let sampler = Sampler::new(parts.config_state.running().global.admin.is_some());
        // A backend that the state file restores as draining was reported before the restart.
        let drained = limits::drained(parts.config_state.snapshot());
        let sources = Sources::reporting(sources::record_outages(&parts.published));
        ControlLoop {
            renewals: Renewals::new(parts.published.names().clone()),
            renewals_pace: Pace::new(),
            parts,
            sampler,
            sources,
            new_sets: false,
            sets_pace: Pace::new(),
            untaken: BTreeMap::new(),
            draining: false,
            stops: 0,
            change: None,
            prober_lags: false,
            reload: None,
            next_reload: Vec::new(),
            read: None,
            adds: Vec::new(),
            retries: Retries::new(),
            late: Found::new(),
            cuts: Vec::new(),
            weights_pace: Pace::new(),
            drained,
            held: None,
            retired: Retired::default(),
            handed_over: false,
            keeping: Keeping::Off,
            heartbeat,
        }
    }

    fn run(mut self, asked: Asked) -> Outcome {
        let Asked { mut stops, mut reloads, mut wakes, mut commands, mut changes, alive: _alive } = asked;
        let ended = self.parts.ended.clone();
        let (mut delay, mut deadline, mut farewell, look) = (never(), never(), never(), tick(LOOK));
        let mut left: BTreeSet<usize> = (0..self.parts.config_state.running().global.workers).collect();
        let mut counts = Ok(EndCounts::default());
        let answers = self.parts.lookups.answers().clone();
        self.plan_retries();
        self.plan_renewals();
        self.sampler.begin(&self.parts.published);
        self.parts.published.set_discovered(self.parts.config_state.discovered().clone());
        self.run_sources();
        let sets = self.sources.wakes().clone();
        let sample = if self.sampler.is_on() { tick(recent::EVERY) } else { never() };
        while !left.is_empty() {
            self.heartbeat.beat();
            let cut = self.cuts.iter().map(|cut| cut.0).min().map_or_else(never, at);
            let hold_ends = self.hold_ends();
            let (quiet, kept) = self.keeping();
            if self.change.is_none() && self.held.is_none() {
                self.go_on();
            }
            let change = self.waits();
            let read = self.read.clone().unwrap_or_else(never);
            let (reading_is_over, retry) = (self.reading_is_over(), self.next_retry());
            let sets_are_due = self.sets_are_due();
            let unanswered = self.parts.lookups.deadline().map_or_else(never, at);
            let (weights, weights_due) = self.weights();
            let (renewed, renewals_due) = self.renewed();
            let next_stop = if self.is_stopping_later() { never() } else { stops.clone() };
            let (next_reload, next_command, next_change) = match self.change {
                Some(_) => (never(), never(), never()),
                None => (reloads.clone(), commands.clone(), changes.clone()),
            };
            // Priority order: a stop goes before pending changes, and so does a deadline.
            select_biased! {
                recv(next_stop) -> stop => match stop {
                    Ok(()) if self.held.is_some() => self.stop_later(),
                    Ok(()) => {
                        self.stops += 1;
                        match (self.stops, self.draining) {
                            (1, false) => delay = self.begin_to_stop(),
                            (1, true) => log::info!("drains already: the next stop resets open connections"),
                            _ => {
                                delay = never();
                                log::info!("stopping now");
                                self.stop(&mut farewell);
                            }
                        }
                    }
                    // All remotes are dropped: only a worker's failure can end the loop now.
                    Err(_) => stops = never(),
                },
                recv(delay) -> _ => {
                    delay = never();
                    deadline = self.drain();
                    self.plan_keeping();
                }
                recv(deadline) -> _ => {
                    deadline = never();
                    if !self.keep_at_last() {
                        self.stop_late(&mut farewell);
                    }
                }
                recv(quiet) -> _ => self.keep_if_quiet(),
                recv(kept) -> _ => if self.kept() {
                    self.stop_late(&mut farewell);
                },
                recv(farewell) -> _ => {
                    let names: Vec<String> = left.iter().map(|worker| format!("worker-{worker}")).collect();
                    let failure = format!("did not stop within {FAREWELL:?}: {}", names.join(", "));
                    log::error!("{failure}");
                    counts = counts.and(Err(failure));
                    break;
                }
                recv(ended) -> message => {
                    let failure = match message {
                        Ok((worker, outcome)) => {
                            left.remove(&worker);
                            match outcome {
                                Ok(EndCounts { finished, reset }) => {
                                    if let Ok(all) = &mut counts {
                                        all.finished += finished;
                                        all.reset += reset;
                                    }
                                    continue;
                                }
                                Err(error) => format!("worker {worker} failed: {error}"),
                            }
                        }
                        Err(_) => {
                            left.clear();
                            "a worker panicked".to_owned()
                        }
                    };
                    log::error!("{failure}");
                    counts = Err(failure);
                    self.stop(&mut farewell);
                }
                recv(hold_ends) -> handed_over => match self.end_hold(handed_over.is_ok()) {
                    HoldEnd::GoOn => {}
                    HoldEnd::Stop => delay = self.begin_to_stop(),
                    HoldEnd::Leave => deadline = self.leave(),
                },
                recv(change.answer) -> answer => self.answered(answer.is_ok()),
                recv(change.retry) -> _ => self.retry(),
                recv(change.over) -> _ => self.too_late(),
                recv(cut) -> _ => self.cut(),
                recv(read) -> read => {
                    self.read = None;
                    // Disconnected without a message: the thread panicked.
                    let panicked = |_| Err(ReloadError::NotRead("the file could not be read".to_owned()));
                    self.file_is_read(read.unwrap_or_else(panicked));
                }
                recv(reading_is_over) -> _ => self.reading_timed_out(),
                recv(answers) -> answer => if let Ok((name, outcome)) = answer {
                    self.resolved(&name, &outcome);
                },
                recv(unanswered) -> _ => self.not_resolved(),
                recv(retry) -> _ => self.retry_names(),
                recv(wakes) -> wake => if wake.is_err() {
                    wakes = never();
                },
                recv(sets) -> _ => self.new_sets = true,
                // The loop applies them at its beginning.
                recv(sets_are_due) -> _ => {}
                recv(look) -> _ => {
                    self.sources.start_waiting();
                    self.report_refusals(|totals, why| totals.settled_to_log(why, clock::now()));
                    self.look_at_limits();
                    self.look_at_drains();
                    self.update_prober();
                    self.retired.look();
                    systemd::retry();
                }
                recv(weights) -> message => self.reweighted(message.is_ok()),
                recv(weights_due) -> _ => {}
                recv(renewed) -> _ => self.take_renewed(),
                recv(renewals_due) -> _ => {}
                recv(sample) -> _ => self.sampler.sample(&self.parts.published),
                recv(next_reload) -> request => match request {
                    Ok(()) => self.reload(Waiting { dry_run: false, answer: None }),
                    Err(_) => reloads = never(),
                },
                recv(next_command) -> command => match command {
                    Ok(Command::Reload { dry_run, answer }) => self.reload(Waiting { dry_run, answer: Some(answer) }),
                    Ok(Command::Edit(asking)) => self.edit(asking),
                    Ok(Command::Hold { answer }) => self.hold(&answer),
                    Ok(Command::Leave) => if !self.draining {
                        deadline = self.leave();
                    },
                    Err(_) => commands = never(),
                },
                recv(next_change) -> asking => match asking {
                    Ok(first) => self.change_backends(first, &changes),
                    Err(_) => changes = never(),
                },
            }
        }
        self.report_refusals(ListenerTotals::unlogged);
        if let (true, false, Ok(counts)) = (self.draining, self.handed_over, &counts) {
            self.record_end(*counts);
        }
        self.heartbeat.end();
        let next_stop = (self.stops < 2).then_some(stops);
        Outcome { counts, stuck: left.into_iter().collect(), handed_over: self.handed_over, next_stop }
    }

    /// Ends readiness. The channel fires when the drain begins.
    fn begin_to_stop(&mut self) -> Receiver<Instant> {
        let time = self.parts.config_state.running().global.shutdown_delay;
        self.draining = true;
        self.record_drain();
        self.give_up_reloads();
        self.give_up_adds();
        self.plan_renewals();
        self.parts.published.drain();
        if !time.is_zero() {
            log::info!("not ready any more: listeners stay open for {}", duration::written(time));
            systemd::stopping("not ready any more: listeners are still open");
        }
        after(time)
    }

    /// Closes the listeners. The channel fires when the remaining connections are reset.
    fn drain(&mut self) -> Receiver<Instant> {
        let time = self.parts.config_state.running().global.shutdown_timeout;
        log::info!("draining: no new connections, {time:?} for those that are open");
        systemd::stopping("draining: open connections may finish");
        // Workers get pending sockets first, so that none opens after the drain has closed them.
        self.hand_to_workers();
        self.parts.data_plane.drain();
        after(time)
    }

    /// `shutdown_timeout` is over.
    fn stop_late(&mut self, farewell: &mut Receiver<Instant>) {
        log::warn!("the drain took too long: open connections are reset");
        self.stop(farewell);
    }

    /// Resets all connections. The workers have until `farewell` to end.
    fn stop(&mut self, farewell: &mut Receiver<Instant>) {
        self.keeping = Keeping::Off;
        self.hand_to_workers();
        self.parts.data_plane.stop();
        *farewell = after(FAREWELL);
    }

    /// Logs refusals that no worker has reported. Workers report when they refuse a client: the first one, then at
    /// intervals while refusals go on. This covers those after the last such report.
    fn report_refusals(&self, unreported: impl Fn(&ListenerTotals, Refusal) -> Option<u64>) {
        for listener in &self.parts.published.snapshot().listeners {
            for why in Refusal::ALL {
                if let Some(count) = unreported(&listener.totals, why) {
                    let clients = counted(count, "more client");
                    log::warn!("listener {} refused {clients}: {}", listener.name, why.label());
                }
            }
        }
    }

    /// Resets the connections of removed backends whose drain time is over.
    fn cut(&mut self) {
        let now = Instant::now();
        for (_, order) in self.cuts.extract_if(.., |cut| cut.0 <= now) {
            self.parts.data_plane.reset(&order);
        }
    }
}
