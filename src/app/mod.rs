//! The composition root: spawns the threads and connects those that must not know each other.
//!
//! | file | what |
//! |---|---|
//! | `start` | the phases of a start, as types: bound, confined, ready, running |
//! | `keep`, `kept` | connections that outlast a restart by the service manager: the side of the process that ends, that of the next one |
//! | `upgrade`, `takeover`, `memory` | an upgrade: the side of the process that runs, that of the new one, and what is passed on |
//! | `lend` | its listening sockets for the new one |
//! | `pulls`, `successor` | processes that ask for a hand-over; what a predecessor knows of its successor |
//! | `workers` | the workers' threads, and control's orders to them |

mod keep;
mod kept;
mod lend;
mod memory;
mod pulls;
mod start;
mod successor;
mod takeover;
mod upgrade;
mod workers;

use crate::access_log::{AccessLog, Reopener};
use crate::admin::Admin;
use crate::base::Endpoint;
use crate::base::text::counted;
use crate::config::model::{KeepConnections, Model};
use crate::confine::Confinement;
use crate::control::{Control, DataPlane, Outcome};
use crate::handover::Link;
use crate::kernel::engine::Engine;
use crate::kernel::helper::Helper;
use crate::launcher::Launcher;
use crate::net::listen;
use crate::pool::{Published, Snapshot};
use crate::prober::Prober;
use crate::state_file::StateFile;
use crate::telemetry::EndCounts;
use crate::warm::Warm;
use crate::watchdog::Watchdog;
use crossbeam_channel::{Receiver, never};
use kept::Kept;
use pulls::Pulls;
use start::Bound;
use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use takeover::{End, Inheritance};
use workers::Workers;

pub use upgrade::{Upgrades, Word};

pub use crate::control::{Changes, Loader, Refused, ReloadError, Remote};

/// A running balancer.
pub struct Running {
    listeners: Vec<ListenerAddress>,
    published: Arc<Published>,
    admin: Option<Admin>,
    control: Control,
    prober: Prober,
    warm: Warm,
    kernel: Option<Engine>,
    workers: Vec<JoinHandle<()>>,
    log: Option<AccessLog>,
    state_file: Option<StateFile>,
    watchdog: Watchdog,
    upgrades: Upgrades,
    pulls: Option<Pulls>,
    data_plane: Workers,
    /// What the predecessor has given, until the rest is taken over.
    inheritance: Option<Inheritance>,
    /// What the service manager has passed, until it is taken over.
    kept: Kept,
    /// The configuration is from a file.
    has_file: bool,
}

/// The processes before and after this one.
pub struct Succession {
    /// Starts the next one; or why there is none.
    pub launcher: Result<Launcher, String>,
    /// The one that runs and hands over, if there is one.
    pub predecessor: Option<Link>,
    /// What the one before has left in the service manager's store.
    pub stored: Vec<OwnedFd>,
    /// What changes the kernel's rules; there is one if a listener needs it.
    pub kernel: Option<Helper>,
}

/// A listener's bound address.
#[derive(Clone, Debug)]
pub struct ListenerAddress {
    /// The listener's name.
    pub name: String,
    /// The address that it listens on, with the real port.
    pub endpoint: Endpoint,
}

/// Why the start failed: the step, the address, the cause.
#[derive(Debug)]
pub struct StartError(String);

impl fmt::Display for StartError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.0)
    }
}

impl std::error::Error for StartError {}

impl StartError {
    fn thread(error: io::Error) -> StartError {
        StartError(format!("can't start a thread: {error}"))
    }
}

impl From<io::Error> for StartError {
    fn from(error: io::Error) -> StartError {
        StartError::thread(error)
    }
}

/// Starts a balancer whose configuration is not from a file. It serves when this returns.
pub fn start(model: Model) -> Result<Running, StartError> {
    start_with(model, None)
}

/// Starts a balancer. `loader` reads the file of `model` again. It serves when this returns.
pub fn start_with(model: Model, loader: Option<Loader>) -> Result<Running, StartError> {
    let launcher = Err("it was started without a launcher".to_owned());
    let alone = Succession { launcher, predecessor: None, stored: Vec::new(), kernel: None };
    let running = begin(model, loader, None, alone, || Ok(never()))?;
    running.ok_or_else(|| StartError("stopped before it served".to_owned()))
}

/// As [`start_with`]. Once everything is bound, the process gives up the privileges that `confinement` names, for this
/// thread and all later ones. Then `listen` returns the channel of stops. `None`: a stop came while names were looked
/// up.
pub fn start_confined(
    model: Model,
    loader: Option<Loader>,
    confinement: Confinement,
    succession: Succession,
    listen: impl FnOnce() -> io::Result<Receiver<()>>,
) -> Result<Option<Running>, StartError> {
    begin(model, loader, Some(confinement), succession, listen)
}

fn begin(
    model: Model,
    loader: Option<Loader>,
    confinement: Option<Confinement>,
    succession: Succession,
    listen: impl FnOnce() -> io::Result<Receiver<()>>,
) -> Result<Option<Running>, StartError> {
    let Succession { launcher, predecessor, stored, kernel } = succession;
    if let Some(user) = confinement.as_ref().and_then(Confinement::user) {
        listen::leave_files_to(user);
    }
    let confined = Bound::bind(model, predecessor, kernel)?.confine(confinement, listen)?;
    let Some(ready) = confined.resolve()? else { return Ok(None) };
    ready.run(loader, launcher, Kept::read(stored)).map(Some)
}

impl Running {
    /// The addresses at the start, in the order of the configuration.
    pub fn listeners(&self) -> &[ListenerAddress] {
        &self.listeners
    }

    /// The addresses of the admin API, with the real ports; empty without an admin API.
    pub fn admin(&self) -> &[Endpoint] {
        self.admin.as_ref().map_or(&[], Admin::endpoints)
    }

    /// The current pools and backends.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.published.snapshot()
    }

    /// The state that any thread may read.
    pub fn published(&self) -> Arc<Published> {
        self.published.clone()
    }

    /// The current limit on connected clients.
    pub fn max_connections(&self) -> usize {
        self.published.connection_limit().limit()
    }

    /// The handle that changes and stops it.
    pub fn remote(&self) -> Remote {
        self.control.remote()
    }

    /// The handle that reopens the access log, if it is a file.
    pub fn log_file(&self) -> Option<Reopener> {
        self.log.as_ref().and_then(AccessLog::reopener)
    }

    /// What hands over to a successor.
    pub fn upgrades(&self) -> Upgrades {
        self.upgrades.clone()
    }

    /// Takes the connections that the service manager has kept. A stop before that would end the workers without them.
    pub fn take_kept(&mut self) {
        std::mem::take(&mut self.kept).put_in(&self.data_plane);
    }

    /// Takes over what the predecessor still has, if there is one. Fails if the predecessor goes on instead, or was asked to stop; this
    /// process then ends with its last connection.
    pub fn take_over(&mut self) -> Result<(), String> {
        let Some(inheritance) = self.inheritance.take() else { return Ok(()) };
        match inheritance.finish(&self.published, &self.data_plane) {
            End::Done { reload } => {
                log::info!("has taken over: the process before ends");
                if reload && self.has_file {
                    self.control.remote().reload_soon();
                }
            }
            End::Died(why) => {
                log::warn!("the process before has died during the hand-over, and this one goes on: {why}");
                if self.has_file {
                    // It may have been asked for a reload meanwhile.
                    self.control.remote().reload_soon();
                }
            }
            End::Failed(why) => {
                listen::give_files_back();
                self.pulls = None;
                self.upgrades.0.leave_sockets();
                // At once: control may be busy, or in `shutdown_delay`.
                self.data_plane.leave();
                self.control.remote().leave();
                log::warn!("this process ends with its last connection: {why}");
                return Err(why);
            }
        }
        self.upgrades.0.serves.store(true, Ordering::SeqCst);
        self.data_plane.keep_kernel();
        self.admin.iter().for_each(|admin| admin.door().set(true));
        self.state_file.iter().for_each(|file| file.saver().own());
        if let Some(Err(error)) = self.pulls.as_mut().map(|pulls| pulls.serve(self.upgrades.clone())) {
            log::error!("no process can take over by --take-over: can't start a thread: {error}");
        }
        Ok(())
    }

    /// Checks that `keep_connections` can have its effect. `is_main`: the service manager takes messages of this process.
    pub fn check_keeping(&self, is_main: bool) {
        if self.published.model().global.keep_connections == KeepConnections::Restart
            && let Err(why) = self.data_plane.keep.check(is_main)
        {
            log::warn!("keep_connections {why}");
        }
    }

    /// Waits for the end. Fails with the error of the thread that failed.
    pub fn wait(self) -> Result<(), String> {
        let Outcome { counts, stuck, handed_over, next_stop } = self.control.wait();
        if handed_over {
            // Before the end of the admin API, which removes its socket file.
            listen::disown_files();
        } else if let (Some(next_stop), Ok(_)) = (next_stop, &counts) {
            self.upgrades.0.outlast_survivor(&next_stop);
        }
        drop(self.watchdog);
        for (number, worker) in self.workers.into_iter().enumerate() {
            if !stuck.contains(&number) {
                let _ = worker.join();
            }
        }
        self.log.into_iter().for_each(AccessLog::finish);
        self.state_file.into_iter().for_each(StateFile::finish);
        self.prober.stop();
        drop(self.warm);
        drop(self.kernel);
        drop(self.admin);
        drop(self.pulls);
        self.upgrades.0.leave_sockets();
        if handed_over {
            return Ok(());
        }
        let snapshot = self.published.snapshot();
        let addresses = snapshot.listeners.iter().flat_map(|listener| &listener.addresses);
        listen::remove_files(addresses.map(|address| &address.endpoint));
        let EndCounts { finished, reset } = counts?;
        let kept = match self.data_plane.keep.count() {
            0 => String::new(),
            count => format!(", {count} kept for the next start"),
        };
        log::info!("stopped: {} finished, {reset} reset{kept}", counted(finished, "connection"));
        Ok(())
    }
}
