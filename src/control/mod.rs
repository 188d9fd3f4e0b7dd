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
//! | running | `Edit` | one backend is added, once its name is resolved; changed, taken out |
//! | running | a name that could not be resolved can be | its backends get their address |
//! | running | the time of a backend that was taken out is over | its connections are reset, reason `forced` |
//! | running | `Stop` | not ready any more; after `shutdown_delay` the drain begins |
//! | delaying or draining | `Reload`, `Edit` | refused |
//! | delaying | `shutdown_delay` is over | workers drain: they take in who waits, close their listeners, let connections finish |
//! | draining | last worker has ended | over; the log says how many were refused that it has not told of |
//! | delaying or draining | `Stop` again, or `shutdown_timeout` is over | workers reset what is left, reason `shutdown` |
//! | stopping | a worker has not ended after five seconds | over without it, with an error |
//! | any | now and then | the log is told of clients that were refused and that no worker has told of |
//! | any | a worker ended with an error | the others are stopped at once; the error is what [`Control::wait`] gives |
//!
//! It waits for nothing but what is sent to it: files are read and names looked up on threads of their own, each in bounded
//! time, and a change takes its way to prober and workers while control goes on.
//!
//! | file | what |
//! |---|---|
//! | `remote` | how others ask, and what they are told |
//! | `command` | what may be asked |
//! | `change` | a change on its way to prober, workers and readers |
//! | `bind` | listeners' addresses: what is kept, what is opened |
//! | `config_state` | what is, and how the next step is prepared |
//! | `reload` | a reload on its way to a change |
//! | `names` | what waits for names, and is tried again |
//! | `lookup` | threads that ask the resolver |
//! | `resolve` | names into addresses |

mod bind;
mod change;
mod command;
mod config_state;
mod lookup;
mod names;
mod reload;
mod remote;
mod resolve;

pub use crate::config::diff::{Change, Changes};
pub use config_state::{Beginning, ConfigState, NewSockets, remove_files};
pub use lookup::Lookups;
pub use remote::{Refused, ReloadError, Reloaded, Remote};
pub use resolve::names;

use crate::base::duration;
use crate::config::model::Model;
use crate::mailbox::Mailbox;
use crate::pool::{Admission, BackendId, EndCounts, ListenerTotals, Note, Published, Refusal, Snapshot, clock};
use crate::systemd;
use crate::watchdog::{Heartbeat, Watched};
use change::InFlight;
use command::Command;
use crossbeam_channel::{Receiver, after, at, never, select_biased, tick};
use lookup::Found;
use names::{Add, Retries};
use reload::{Read, Reload, Waiting};
use remote::Asked;
use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// How long workers may take to end once they are told to reset what is left.
const FAREWELL: Duration = Duration::from_secs(5);

/// How often it looks whether the log is to be told of refusals.
const LOOK: Duration = Duration::from_secs(2);

/// Reads the file: the model it describes, or everything that is wrong with it, a line each.
pub type Loader = Arc<dyn Fn() -> Result<Model, Vec<String>> + Send + Sync>;

/// The workers, as control sees them. Threads do not know each other: the composition root carries orders to them. No call
/// waits for a worker; one that stands still finds its orders when it goes on.
pub trait DataPlane: Send + 'static {
    /// From now on this is what there is, and these are further sockets to listen on. The channel is cut once all workers
    /// have it.
    fn adopt(&self, snapshot: &Arc<Snapshot>, opened: Vec<NewSockets>) -> Receiver<()>;

    /// Reset the connections of these backends, reason `forced`.
    fn reset(&self, backends: &[BackendId]);

    /// No new connections; end with the last one.
    fn drain(&self);

    /// End now.
    fn stop(&self);
}

/// What the thread needs.
pub struct Parts<C> {
    /// What is at the start.
    pub config_state: ConfigState,
    /// The workers, and how many there are.
    pub data_plane: C,
    /// Where the prober is told of snapshots.
    pub prober: Mailbox<Note>,
    /// How many clients there may be.
    pub admission: Arc<Admission>,
    /// What readers see.
    pub published: Arc<Published>,
    /// How the file is read, if there is one.
    pub loader: Option<Loader>,
    /// Who looks names up, with what the start left under way.
    pub lookups: Lookups,
    /// Receives one message from each worker.
    pub ended: Receiver<Ended>,
}

/// The thread.
#[derive(Debug)]
pub struct Control {
    thread: JoinHandle<Outcome>,
    remote: Remote,
    heartbeat: Heartbeat,
}

/// What a worker thread tells when it ends.
pub type Ended = (usize, io::Result<EndCounts>);

/// How it ended.
#[derive(Debug)]
pub struct Outcome {
    /// What became of connections; the error of a thread that failed.
    pub counts: Result<EndCounts, String>,
    /// Workers that did not end in time.
    pub stuck: Vec<usize>,
}

impl Control {
    /// Starts the thread.
    pub fn spawn<C: DataPlane>(parts: Parts<C>) -> io::Result<Control> {
        let (remote, asked) = remote::channels();
        let heartbeat = Heartbeat::default();
        let of_thread = heartbeat.clone();
        let control = move || ControlLoop::new(parts, of_thread).run(asked);
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

    /// Waits for the end.
    pub fn wait(self) -> Outcome {
        drop(self.remote);
        let panicked = |_| Outcome { counts: Err("the control thread panicked".into()), stuck: Vec::new() };
        self.thread.join().unwrap_or_else(panicked)
    }
}

/// Where commands are worked through, one after the other.
struct ControlLoop<C> {
    parts: Parts<C>,
    /// A stop was asked for: nothing is changed any more.
    draining: bool,
    /// The change that prober and workers are taking up. Commands wait until it has arrived.
    change: Option<InFlight>,
    /// The prober has not been given the newest snapshot.
    prober_lags: bool,
    /// The reload that is on its way to a change, and those that become the next one.
    reload: Option<Reload>,
    next_reload: Vec<Waiting>,
    /// The thread that reads the file, while it does.
    read: Option<Receiver<Read>>,
    /// Backends that are added once their name is resolved.
    adds: Vec<Add>,
    /// Names of backends without an address, and what came of those that can be resolved by now.
    retries: Retries,
    late: Found,
    /// Backends that were taken out and have some time left. As many entries as removals within that time.
    cuts: Vec<(Instant, Arc<[BackendId]>)>,
    heartbeat: Heartbeat,
}

impl<C: DataPlane> ControlLoop<C> {
    fn new(parts: Parts<C>, heartbeat: Heartbeat) -> ControlLoop<C> {
        ControlLoop {
            parts,
            draining: false,
            change: None,
            prober_lags: false,
            reload: None,
            next_reload: Vec::new(),
            read: None,
            adds: Vec::new(),
            retries: Retries::new(),
            late: Found::new(),
            cuts: Vec::new(),
            heartbeat,
        }
    }

    fn run(mut self, asked: Asked) -> Outcome {
        let Asked { mut stops, mut reloads, mut wakes, mut commands } = asked;
        let ended = self.parts.ended.clone();
        let (mut delay, mut deadline, mut farewell, look) = (never(), never(), never(), tick(LOOK));
        let mut left: BTreeSet<usize> = (0..self.parts.config_state.running().global.workers).collect();
        let mut counts = Ok(EndCounts::default());
        let answers = self.parts.lookups.answers().clone();
        self.plan_retries();
        while !left.is_empty() {
            self.heartbeat.beat();
            let cut = self.cuts.iter().map(|cut| cut.0).min().map_or_else(never, at);
            if self.change.is_none() {
                self.go_on();
            }
            let change = self.waits();
            let read = self.read.clone().unwrap_or_else(never);
            let (reading_is_over, retry) = (self.reading_is_over(), self.next_retry());
            let unanswered = self.parts.lookups.deadline().map_or_else(never, at);
            let (next_reload, next_command) = match self.change {
                Some(_) => (never(), never()),
                None => (reloads.clone(), commands.clone()),
            };
            // In this order: a stop goes before all that waits to be changed, and so does a time that is over.
            select_biased! {
                recv(stops) -> stop => match stop {
                    Ok(()) if self.draining => {
                        delay = never();
                        log::info!("stopping now");
                        self.stop(&mut farewell);
                    }
                    Ok(()) => delay = self.begin_to_stop(),
                    // Every remote is gone: nothing can stop us but a worker's failure.
                    Err(_) => stops = never(),
                },
                recv(delay) -> _ => {
                    delay = never();
                    deadline = self.drain();
                }
                recv(deadline) -> _ => {
                    log::warn!("the drain took too long: what is left is reset");
                    deadline = never();
                    self.stop(&mut farewell);
                }
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
                recv(change.answer) -> answer => self.answered(answer.is_ok()),
                recv(change.retry) -> _ => self.retry(),
                recv(change.over) -> _ => self.too_late(),
                recv(cut) -> _ => self.cut(),
                recv(read) -> read => {
                    self.read = None;
                    // Cut without a word: the thread has panicked.
                    let read = read.unwrap_or_else(|_| Err(vec!["the file could not be read".to_owned()]));
                    self.file_is_read(Some(read));
                }
                recv(reading_is_over) -> _ => self.file_is_read(None),
                recv(answers) -> answer => if let Ok((name, outcome)) = answer {
                    self.resolved(&name, &outcome);
                },
                recv(unanswered) -> _ => self.not_resolved(),
                recv(retry) -> _ => self.retry_names(),
                recv(wakes) -> wake => if wake.is_err() {
                    wakes = never();
                },
                recv(look) -> _ => {
                    self.tell_refusals(|totals, why| totals.left_to_tell(why, clock::now()));
                    self.help_prober();
                    systemd::retry();
                }
                recv(next_reload) -> request => match request {
                    Ok(()) => self.reload(Waiting { dry_run: false, answer: None }),
                    Err(_) => reloads = never(),
                },
                recv(next_command) -> command => match command {
                    Ok(Command::Reload { dry_run, answer }) => self.reload(Waiting { dry_run, answer: Some(answer) }),
                    Ok(Command::Edit { edit, answer }) => self.edit(edit, answer),
                    Err(_) => commands = never(),
                },
            }
        }
        self.tell_refusals(ListenerTotals::untold);
        self.heartbeat.end();
        Outcome { counts, stuck: left.into_iter().collect() }
    }

    /// Readiness ends. Gives when the drain begins.
    fn begin_to_stop(&mut self) -> Receiver<Instant> {
        let time = self.parts.config_state.running().global.shutdown_delay;
        self.draining = true;
        self.give_up_reloads();
        self.give_up_adds();
        self.parts.published.drain();
        if !time.is_zero() {
            log::info!("not ready any more: listeners stay open for {}", duration::written(time));
            systemd::stopping("not ready any more: listeners are still open");
        }
        after(time)
    }

    /// Listeners close. Gives when the connections that are left are reset.
    fn drain(&mut self) -> Receiver<Instant> {
        let time = self.parts.config_state.running().global.shutdown_timeout;
        log::info!("draining: no new connections, {time:?} for those that are open");
        systemd::stopping("draining: open connections may finish");
        // No socket is opened after those that are open have closed.
        self.hand_to_workers();
        self.parts.data_plane.drain();
        after(time)
    }

    /// All connections are reset. The workers have until `farewell` to end.
    fn stop(&mut self, farewell: &mut Receiver<Instant>) {
        self.hand_to_workers();
        self.parts.data_plane.stop();
        *farewell = after(FAREWELL);
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

    /// Resets the connections of backends whose time is over.
    fn cut(&mut self) {
        let now = Instant::now();
        for (_, ids) in self.cuts.extract_if(.., |cut| cut.0 <= now) {
            self.parts.data_plane.reset(&ids);
        }
    }
}
