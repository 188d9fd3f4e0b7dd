//! The state that readers may see at any time: the newest snapshot, its model, and the state of the process.
//!
//! Control writes, and the watchdog its part; admin and the command line read. Workers and the prober get snapshots by message
//! instead.

use super::Snapshot;
use crate::admission::ConnectionLimit;
use crate::base::Tick;
use crate::config::model::Model;
use crate::telemetry::AccessLogTotals;
use parking_lot::RwLock;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// See the module.
#[derive(Debug)]
pub struct Published {
    current: RwLock<(Arc<Snapshot>, Arc<Model>)>,
    connection_limit: Arc<ConnectionLimit>,
    draining: AtomicBool,
    stuck: RwLock<Vec<String>>,
    started: Tick,
    reloads: AtomicU64,
    failed_reloads: AtomicU64,
    log: Arc<AccessLogTotals>,
}

impl Published {
    /// The first snapshot, its model and the limit on clients. The process counts as started at `now`, by [`crate::clock`].
    pub fn new(
        snapshot: Arc<Snapshot>,
        model: Arc<Model>,
        connection_limit: Arc<ConnectionLimit>,
        now: Tick,
    ) -> Published {
        Published {
            current: RwLock::new((snapshot, model)),
            connection_limit,
            draining: AtomicBool::new(false),
            stuck: RwLock::default(),
            started: now,
            reloads: AtomicU64::new(0),
            failed_reloads: AtomicU64::new(0),
            log: Arc::default(),
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

    /// Reloads that were carried out, and those that were refused.
    pub fn reloads(&self) -> (u64, u64) {
        (self.reloads.load(Ordering::Relaxed), self.failed_reloads.load(Ordering::Relaxed))
    }

    /// Lines that the access log lost.
    pub fn log(&self) -> &Arc<AccessLogTotals> {
        &self.log
    }

    /// Publishes a snapshot once the workers have it; called by control.
    pub fn publish(&self, snapshot: Arc<Snapshot>, model: Arc<Model>) {
        *self.current.write() = (snapshot, model);
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

    /// Control's: counts a reload.
    pub fn reloaded(&self, worked: bool) {
        let count = if worked { &self.reloads } else { &self.failed_reloads };
        count.fetch_add(1, Ordering::Relaxed);
    }
}
