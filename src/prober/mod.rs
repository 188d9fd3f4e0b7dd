//! The prober thread: probes backends, and decides on their health bits.
//!
//! | file        | what                                                                    |
//! |-------------|-------------------------------------------------------------------------|
//! | `watch`     | the state of one backend: health, bits, report, log line                  |
//! | `probe_loop` | the thread: poll, messages, timers, the order of probes                  |
//!
//! [`crate::probe`] has the bytes of a probe, and [`crate::net::probe_socket`] moves them.
//!
//! It probes every backend of the newest snapshot, all concurrently on one poll loop, and counts the failed connects
//! that workers report. It writes `Pool::up`, [`crate::pool::HealthReport`] and one log line and one event per change.
//! It does not decide (`policy::health` does), choose a backend, touch a client's connection, or resolve a name.
//!
//! # Invariants
//!
//! * While it runs, one other thread writes health bits: control, for a backend that it adds or takes out. It does so before
//!   the prober has the snapshot. All generations of a pool share the bits: a worker with an older snapshot sees every change.
//! * A backend that stays in the pool keeps its health state over any number of snapshots ([`Note::Adopt`]).
//! * An address has at most one probe at a time, and there are at most [`OPEN_MAX`] in all. Further ones wait in a
//!   queue, first come first served, in which a backend is at most once. Waiting does not count as probe time: with
//!   more unresponsive backends than [`OPEN_MAX`], all intervals grow. A backend is up while one of its addresses is.
//! * A lack of descriptors or memory is not the backend's failure: the probe is postponed.
//! * The mailbox holds [`NOTES_MAX`] messages; workers drop theirs when it is full, control retries.

mod probe_loop;
mod watch;

use crate::events::Events;
use crate::mailbox::Mailbox;
use crate::pool::{Note, ResetOrder, Snapshot};
use crate::watchdog::{Heartbeat, Watched};
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use probe_loop::ProbeLoop;
use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

/// Probes in progress at once; a quarter of the process's descriptor limit, if that is less.
pub const OPEN_MAX: usize = 1024;

/// Messages that may wait.
pub const NOTES_MAX: usize = 1024;

/// How long [`Prober::adopt`] waits.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long dropping it waits for the thread.
const FAREWELL: Duration = Duration::from_secs(2);

/// The running thread; dropping it stops it.
#[derive(Debug)]
pub struct Prober {
    mailbox: Mailbox<Note>,
    heartbeat: Heartbeat,
    ended: Receiver<()>,
    thread: Option<JoinHandle<()>>,
}

/// What other threads must do after a change of health.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HealthEffect {
    /// Reset these connections: their backend went down, and its pool says so (`on_down`). The health bit is cleared.
    Reset(ResetOrder),
    /// Backends may be used that might not be before, or the reverse. Their bits are set.
    Usable,
    /// Build a snapshot: an agent has changed the weight of its backend.
    Weights,
}

/// Called on the prober's thread.
pub type OnEffect = Box<dyn Fn(HealthEffect) + Send>;

/// Starts the thread with the first snapshot. The first probes go out at once.
pub fn spawn(snapshot: Arc<Snapshot>, events: Arc<Events>, on_effect: OnEffect) -> io::Result<Prober> {
    let descriptors = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    let quarter = descriptors.map_or(OPEN_MAX, |limit| usize::try_from(limit / 4).unwrap_or(OPEN_MAX));
    spawn_with(snapshot, events, on_effect, quarter.clamp(1, OPEN_MAX))
}

/// As [`spawn`], with another limit on probes in progress.
pub fn spawn_with(
    snapshot: Arc<Snapshot>,
    events: Arc<Events>,
    on_effect: OnEffect,
    open_max: usize,
) -> io::Result<Prober> {
    let (mailbox, probe_loop) = ProbeLoop::new(snapshot, events, on_effect, open_max)?;
    let heartbeat = probe_loop.heartbeat();
    let (end, ended) = bounded(0);
    let work = move || {
        let _end: Sender<()> = end;
        probe_loop.run();
    };
    let thread = std::thread::Builder::new().name("prober".to_owned()).spawn(work)?;
    Ok(Prober { mailbox, heartbeat, ended, thread: Some(thread) })
}

impl Prober {
    /// The mailbox for messages to the prober.
    pub fn mailbox(&self) -> Mailbox<Note> {
        self.mailbox.clone()
    }

    /// The heartbeat that the watchdog checks.
    pub fn watched(&self) -> Watched {
        let (mailbox, heartbeat) = (self.mailbox.clone(), self.heartbeat.clone());
        Watched { name: "prober".to_owned(), heartbeat, wake: Box::new(move || mailbox.wake()) }
    }

    /// Sends the next snapshot and waits until its health bits are set. False if the prober has ended or is stuck.
    pub fn adopt(&self, snapshot: Arc<Snapshot>) -> bool {
        let (note, answer) = Note::adopt(snapshot);
        self.mailbox.send_within(note, PATIENCE) && answer.recv_timeout(PATIENCE).is_ok()
    }

    /// Stops the thread and waits for it.
    pub fn stop(self) {
        // Dropping does it.
    }
}

impl Drop for Prober {
    fn drop(&mut self) {
        self.mailbox.send_within(Note::Stop, FAREWELL);
        // Nothing is ever sent: the channel disconnects when the thread ends.
        if self.ended.recv_timeout(FAREWELL) == Err(RecvTimeoutError::Timeout) {
            return log::error!("the prober did not end within {FAREWELL:?}");
        }
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            log::error!("the prober thread panicked");
        }
    }
}
