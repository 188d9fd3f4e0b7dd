//! The state that readers may see at any time: the newest snapshot, its model, and the state of the process.
//!
//! Control writes, and the watchdog its part; admin and the command line read. Workers and the prober get snapshots by message
//! instead.

use super::Snapshot;
use crate::admission::ConnectionLimit;
use crate::base::Tick;
use crate::config::discovered::Discovered;
use crate::config::model::Model;
use crate::discovery::{NameTable, SourceId, Standing};
use crate::events::Events;
use crate::telemetry::recent::Series;
use crate::telemetry::{AccessLogTotals, KernelTotals, LostLines, UpgradeTotals, WorkerTotals};
use parking_lot::{Mutex, RwLock};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::SystemTime;

/// See the module.
#[derive(Debug)]
pub struct Published {
    current: RwLock<Current>,
    connection_limit: Arc<ConnectionLimit>,
    draining: AtomicBool,
    stuck: RwLock<Vec<String>>,
    started: Tick,
    started_at: SystemTime,
    reloads: AtomicU64,
    failed_reloads: AtomicU64,
    last_reload: RwLock<Option<LastReload>>,
    configured: RwLock<SystemTime>,
    workers: Arc<[WorkerTotals]>,
    log: Arc<AccessLogTotals>,
    /// Lines that both logs have lost. Control samples them.
    pub lost_lines: Series<LostLines>,
    discovered: RwLock<Arc<Discovered>>,
    sources: RwLock<Standings>,
    names: Arc<NameTable>,
    events: Arc<Events>,
    upgrades: UpgradeTotals,
    kernel: Arc<KernelTotals>,
}

/// The snapshot in force, the running model, and the model of the file, or of the flags if there is no file.
type Current = (Arc<Snapshot>, Arc<Model>, Arc<Model>);

/// What the status shows of each source.
pub type Standings = BTreeMap<SourceId, Arc<Mutex<Standing>>>;

/// The last attempt to reload the configuration.
#[derive(Clone, Debug)]
pub struct LastReload {
    /// When it ended, by [`crate::clock`].
    pub at: Tick,
    /// The first mistake, where it was refused.
    pub error: Option<String>,
}

impl Published {
    /// The first snapshot, its model, the file's model, the limit on clients, and when the balancer started, by
    /// [`crate::clock`] and by the system's clock.
    pub fn new(
        snapshot: Arc<Snapshot>,
        model: Arc<Model>,
        file: Arc<Model>,
        connection_limit: Arc<ConnectionLimit>,
        (started, started_at): (Tick, SystemTime),
    ) -> Published {
        Published {
            workers: (0..model.global.workers).map(|_| WorkerTotals::default()).collect(),
            current: RwLock::new((snapshot, model, file)),
            connection_limit,
            draining: AtomicBool::new(false),
            stuck: RwLock::default(),
            started,
            started_at,
            reloads: AtomicU64::new(0),
            failed_reloads: AtomicU64::new(0),
            last_reload: RwLock::default(),
            configured: RwLock::new(started_at),
            log: Arc::default(),
            lost_lines: Series::default(),
            discovered: RwLock::default(),
            sources: RwLock::default(),
            names: Arc::default(),
            events: Arc::default(),
            upgrades: UpgradeTotals::default(),
            kernel: Arc::default(),
        }
    }

    /// The snapshot that is in force.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.current.read().0.clone()
    }

    /// The model in force: the file's, with the changes at run time.
    pub fn model(&self) -> Arc<Model> {
        self.current.read().1.clone()
    }

    /// The snapshot, its model, and the model of the file when it was last read and applied.
    pub fn current(&self) -> Current {
        self.current.read().clone()
    }

    /// The limit on connected clients, which control changes and workers keep.
    pub fn connection_limit(&self) -> &Arc<ConnectionLimit> {
        &self.connection_limit
    }

    /// Has a drain begun?
    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    /// The threads that have not responded for too long, by name.
    pub fn stuck(&self) -> Vec<String> {
        self.stuck.read().clone()
    }

    /// When it started.
    pub fn started(&self) -> Tick {
        self.started
    }

    /// The same by the system's clock. Two processes that answer at one address have different times.
    pub fn started_at(&self) -> SystemTime {
        self.started_at
    }

    /// The upgrades so far.
    pub fn upgrades(&self) -> &UpgradeTotals {
        &self.upgrades
    }

    /// What the kernel's engine does.
    pub fn kernel(&self) -> &Arc<KernelTotals> {
        &self.kernel
    }

    /// Adds reloads of the process before: carried out, and refused.
    pub fn add_reloads(&self, done: u64, refused: u64) {
        self.reloads.fetch_add(done, Ordering::Relaxed);
        self.failed_reloads.fetch_add(refused, Ordering::Relaxed);
    }

    /// Reloads that were carried out, and those that were refused.
    pub fn reloads(&self) -> (u64, u64) {
        (self.reloads.load(Ordering::Relaxed), self.failed_reloads.load(Ordering::Relaxed))
    }

    /// The last attempt to reload; `None` before the first.
    pub fn last_reload(&self) -> Option<LastReload> {
        self.last_reload.read().clone()
    }

    /// When a configuration was last read and applied: by a reload, else at the start.
    pub fn configured(&self) -> SystemTime {
        *self.configured.read()
    }

    /// The totals of each worker, by its number.
    pub fn workers(&self) -> &Arc<[WorkerTotals]> {
        &self.workers
    }

    /// Lines that the access log lost.
    pub fn log(&self) -> &Arc<AccessLogTotals> {
        &self.log
    }

    /// What has changed since the start.
    pub fn events(&self) -> &Arc<Events> {
        &self.events
    }

    /// Publishes a snapshot once the workers have it; called by control.
    pub fn publish(&self, snapshot: Arc<Snapshot>, model: Arc<Model>, file: Arc<Model>) {
        *self.current.write() = (snapshot, model, file);
    }

    /// What sources have found, for the state file.
    pub fn discovered(&self) -> Arc<Discovered> {
        self.discovered.read().clone()
    }

    /// Control's: sources have found this.
    pub fn set_discovered(&self, discovered: Arc<Discovered>) {
        *self.discovered.write() = discovered;
    }

    /// What the status shows of each source.
    pub fn sources(&self) -> Standings {
        self.sources.read().clone()
    }

    /// Control's: these sources run.
    pub fn set_sources(&self, sources: Standings) {
        *self.sources.write() = sources;
    }

    /// The names of backends that are looked up again.
    pub fn names(&self) -> &Arc<NameTable> {
        &self.names
    }

    /// Control's: a drain begins.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    /// The watchdog's: the threads that have not responded for too long.
    pub fn set_stuck(&self, threads: Vec<String>) {
        if *self.stuck.read() != threads {
            *self.stuck.write() = threads;
        }
    }

    /// Control's: counts a reload. The error is the first mistake.
    pub fn reloaded(&self, outcome: Result<(), String>, now: Tick) {
        let count = if outcome.is_ok() { &self.reloads } else { &self.failed_reloads };
        count.fetch_add(1, Ordering::Relaxed);
        if outcome.is_ok() {
            *self.configured.write() = SystemTime::now();
        }
        *self.last_reload.write() = Some(LastReload { at: now, error: outcome.err() });
    }
}
