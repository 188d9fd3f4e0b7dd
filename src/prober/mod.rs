//! The prober thread: finds out which backends are up, and is the only one that says so.
//!
//! | file        | what                                                                    |
//! |-------------|-------------------------------------------------------------------------|
//! | `watch`     | what is known of one backend: health state, bits, report, log line       |
//! | `probe_loop` | the thread: poll, messages, timers, whose turn it is                    |
//!
//! [`crate::net::probe`] moves the bytes of a probe.
//!
//! What it does: probes every backend of the newest snapshot, all concurrently on one poll loop; counts the failed
//! connects that workers report; writes `Pool::up`, [`crate::pool::HealthReport`] and one log line per change.
//! What it does not: decide (`policy::health` does), choose a backend, touch a client's connection, resolve a name.
//!
//! # Invariants
//!
//! * No other thread writes health bits while it runs. All generations of a pool share them, so that a worker which still
//!   works from an older snapshot sees every change.
//! * A backend that stays in the pool keeps its verdict over any number of snapshots ([`Note::Adopt`]).
//! * At most one probe of an address at a time, and at most [`OPEN_MAX`] in all; more wait in a queue, first come first
//!   served, in which a backend stands once. A backend is up while one of its addresses is. Waiting is not part of a probe's time. With more black holes than that the
//!   interval grows for everyone, which is what can be done with a bounded number of sockets.
//! * Lacking descriptors or memory is not the backend's failure: the probe waits for better times.
//! * The box holds [`NOTES_MAX`] letters; workers drop theirs when it is full, control tries again.

mod probe_loop;
mod watch;

use crate::mailbox::Mailbox;
use crate::pool::{BackendId, Note, Snapshot};
use crate::watchdog::{Heartbeat, Watched};
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use probe_loop::ProbeLoop;
use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

/// Probes under way at once; a quarter of the descriptors that the process may have, if that is less.
pub const OPEN_MAX: usize = 1024;

/// Letters that wait to be read.
pub const NOTES_MAX: usize = 1024;

/// How long [`Prober::adopt`] waits.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long dropping it waits for the thread to end.
const FAREWELL: Duration = Duration::from_secs(2);

/// The running thread. Dropping it stops it.
#[derive(Debug)]
pub struct Prober {
    mailbox: Mailbox<Note>,
    heartbeat: Heartbeat,
    ended: Receiver<()>,
    thread: Option<JoinHandle<()>>,
}

/// Who is told that a backend has gone down whose connections are to be reset (`on_down`). Called on the prober's
/// thread, once its health bit is cleared.
pub type OnDown = Box<dyn Fn(BackendId) + Send>;

/// Starts the thread on the first snapshot. The first probes go out at once.
pub fn spawn(snapshot: Arc<Snapshot>, on_down: OnDown) -> io::Result<Prober> {
    let descriptors = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    let quarter = descriptors.map_or(OPEN_MAX, |limit| usize::try_from(limit / 4).unwrap_or(OPEN_MAX));
    spawn_with(snapshot, on_down, quarter.clamp(1, OPEN_MAX))
}

/// As [`spawn`], with another limit on probes under way at once.
pub fn spawn_with(snapshot: Arc<Snapshot>, on_down: OnDown, open_max: usize) -> io::Result<Prober> {
    let (mailbox, rounds) = ProbeLoop::new(snapshot, on_down, open_max)?;
    let heartbeat = rounds.heartbeat();
    let (end, ended) = bounded(0);
    let work = move || {
        let _end: Sender<()> = end;
        rounds.run();
    };
    let thread = std::thread::Builder::new().name("prober".to_owned()).spawn(work)?;
    Ok(Prober { mailbox, heartbeat, ended, thread: Some(thread) })
}

impl Prober {
    /// Where letters to the prober go.
    pub fn mailbox(&self) -> Mailbox<Note> {
        self.mailbox.clone()
    }

    /// For the watchdog.
    pub fn watched(&self) -> Watched {
        let (mailbox, heartbeat) = (self.mailbox.clone(), self.heartbeat.clone());
        Watched { name: "prober".to_owned(), heartbeat, wake: Box::new(move || mailbox.wake()) }
    }

    /// Gives it the next snapshot and waits until that one's bits say what is known. False if the prober is gone, or stands
    /// still.
    pub fn adopt(&self, snapshot: Arc<Snapshot>) -> bool {
        let (note, answer) = Note::adopt(snapshot);
        self.mailbox.send_within(note, PATIENCE) && answer.recv_timeout(PATIENCE).is_ok()
    }

    /// Ends the thread and waits for it.
    pub fn stop(self) {
        // Drop does it.
    }
}

impl Drop for Prober {
    fn drop(&mut self) {
        self.mailbox.send_within(Note::Stop, FAREWELL);
        // Nothing is ever sent: the channel is cut when the thread ends.
        if self.ended.recv_timeout(FAREWELL) == Err(RecvTimeoutError::Timeout) {
            return log::error!("the prober did not end within {FAREWELL:?}");
        }
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            log::error!("the prober thread had panicked");
        }
    }
}
