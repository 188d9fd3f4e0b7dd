//! The end of a process whose connections outlast it (`keep_connections = "restart"`): the service manager's store
//! ([`crate::systemd::store`]) keeps them until the next process starts. [`super::kept`] is that side.
//!
//! | state | event | what follows |
//! |---|---|---|
//! | draining | bytes move | connections go on, as in any drain |
//! | draining | no byte has moved for [`QUIET`], or `shutdown_timeout` is over | storing, once |
//! | draining | the check at the start has shown that the manager keeps no queue | the same as if it had shown it now |
//! | storing | the manager keeps no queue | no connection is touched: all drain until `shutdown_timeout` |
//! | storing | a worker has connections | it gives a batch; the batch stands still |
//! | storing | the batch is in the queue | its descriptors close here, without a FIN or a reset, and its connections count as kept |
//! | storing | the queue is full | another one is opened |
//! | storing | the batch can't be put into the queue | it goes back to its worker, and nothing further is stored |
//! | storing | no connection is left | the process ends |
//! | storing | [`TIME`] is over | the rest drains until `shutdown_timeout` |
//! | any | a second stop | all connections that are not stored are reset |
//!
//! Connections are stored last, since nothing serves a stored one before the next start. All kinds are stored, with the bytes that
//! they hold: those that wait for a backend too. A dial has a moment to end first ([`transit`]).
//!
//! # The queue
//!
//! The store has one end of a socket pair, and nothing else. Batches are sent to the other end, and wait in the kernel's queue between the two,
//! with the descriptors that came with them. So thousands of connections take one place in the store. Each is in the queue
//! or in this process, and never in both: no answer of the manager is needed once it has the queue.
//!
//! A message is a batch. Its first descriptor is a file in memory (memfd) with a [`Batch`] as JSON. The others are those of the
//! connections, in the order of [`descriptors`]. The sockets on their way count against this process's limit on open files.

use super::upgrade::descriptors;
use super::workers::Workers;
use crate::base::text::counted;
use crate::handover::{Channel, channel};
use crate::systemd;
use crate::systemd::store::Store;
use crate::worker::driver::transit::Record;
use crate::worker::transit::{self, Departed};
use rustix::fs::{MemfdFlags, memfd_create};
use rustix::net::sockopt::set_socket_send_buffer_size;
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// The name of the queues in the store.
pub(super) const NAME: &str = "tcplb-kept";

/// That of the queue of the check at the start. A stop may put the others there before the check removes its own.
const CHECK: &str = "tcplb-check";

/// Connections that have relayed no byte for this long are quiet.
pub const QUIET: Duration = Duration::from_secs(1);

/// How long all of it may take.
const TIME: Duration = Duration::from_secs(5);

/// How long a manager has to close a queue that it does not keep. Connections in such a queue would be lost.
const GRACE: Duration = Duration::from_millis(500);

/// The bytes that a queue may hold, so that few are needed: each costs [`GRACE`]. The kernel caps it at net.core.wmem_max, and doubles it.
const QUEUE: usize = 1 << 20;

/// Why nothing can be kept.
const REFUSES: &str = "the service manager keeps no descriptor: its unit needs FileDescriptorStoreMax=";

/// Connections of a batch. Each has up to six descriptors.
const BATCH: usize = (channel::DESCRIPTORS_MAX - 1) / 6;

/// The version of [`Batch`] that this release writes, and the only one that it reads.
pub(super) const VERSION: u32 = 1;

/// What is written of the connections of a batch. Unknown fields are ignored.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Batch {
    pub(super) version: u32,
    /// When they were taken out of their worker, by [`systemd::monotonic`].
    pub(super) at: Duration,
    /// Where the numbers of new connections begin.
    pub(super) next_sequence: u64,
    pub(super) connections: Vec<Record>,
}

/// Puts connections into the store.
#[derive(Debug, Default)]
pub struct Keep {
    /// Connections that are there.
    kept: AtomicUsize,
    /// The check at the start has shown that the manager keeps no queue. Another failure of it may pass.
    refuses: AtomicBool,
}

impl Keep {
    /// How many connections the store has.
    pub fn count(&self) -> usize {
        self.kept.load(Ordering::Relaxed)
    }

    /// Whether connections can be kept at the end; fails with what the log says of the setting. `is_main`: the manager takes messages
    /// of this process.
    pub fn check(&self, is_main: bool) -> Result<(), String> {
        let store = Store::connect().map_err(|why| format!("has no effect: {why}"))?;
        if !is_main {
            return Ok(());
        }
        let until = Instant::now() + TIME;
        let queue = open_queue(&store, CHECK, until);
        // Always: a manager that is late stores it later.
        let removed = store.remove(CHECK, until);
        match queue {
            Ok(None) => {
                self.refuses.store(true, Ordering::Relaxed);
                Err(format!("has no effect: {REFUSES}"))
            }
            Ok(Some(_)) => removed.map_err(|error| format!("may have no effect: {error}")),
            Err(why) => Err(format!("may have no effect: {why}")),
        }
    }

    /// Stores the connections of all workers, as far as possible. The log reports what stays.
    pub fn store_all(&self, workers: &Workers) {
        let until = Instant::now() + TIME;
        let outcome = match self.refuses.load(Ordering::Relaxed) {
            true => Err(REFUSES.to_owned()),
            false => self.empty_workers(workers, until),
        };
        if let Err(why) = outcome {
            let kept = counted(self.count(), "connection");
            log::warn!("{kept} kept for the next start; the others can't be: {why}");
        }
    }

    fn empty_workers(&self, workers: &Workers, until: Instant) -> Result<(), String> {
        let peers = workers.peers();
        let store = Store::connect()?;
        let mut queue = open_queue(&store, NAME, until)?.ok_or(REFUSES)?;
        loop {
            let mut left = 0;
            for worker in 0..peers.len() {
                // One that has ended has no connection, and one that does not respond keeps those that it has.
                while let Some(departed) = transit::take_out(&peers, worker, BATCH) {
                    if departed.connections().is_empty() {
                        left += departed.left();
                        break;
                    }
                    if Instant::now() >= until {
                        return Err(format!("it takes longer than {TIME:?}"));
                    }
                    let file = write(&departed, workers.next_sequence()).map_err(|error| format!("memfd: {error}"))?;
                    let sent = match send(&departed, &file, &queue) {
                        Err(error) if error.kind() == io::ErrorKind::TimedOut => {
                            queue = open_queue(&store, NAME, until)?.ok_or(REFUSES)?;
                            send(&departed, &file, &queue)
                        }
                        outcome => outcome,
                    };
                    sent.map_err(|error| format!("can't pass their sockets: {error}"))?;
                    // Before the worker can end, and the process with it.
                    self.kept.fetch_add(departed.connections().len(), Ordering::Relaxed);
                    departed.commit(&[]);
                }
            }
            if left == 0 || Instant::now() >= until {
                return Ok(());
            }
            // These dial.
            thread::sleep(transit::AGAIN);
        }
    }
}

/// Has the manager keep one end of a new queue; the other one. `None`: it keeps no descriptor.
fn open_queue(store: &Store, name: &str, until: Instant) -> Result<Option<Channel>, String> {
    let (ours, theirs) = Channel::pair().map_err(|error| format!("can't make a socket pair: {error}"))?;
    set_socket_send_buffer_size(&ours, QUEUE).map_err(|error| format!("can't size a socket pair: {error}"))?;
    let kept = store.put(name, theirs.into_fd(), &ours, GRACE, until).map_err(|error| error.to_string())?;
    Ok(kept.then_some(ours))
}

/// The file with the records of a batch.
fn write(departed: &Departed, next_sequence: u64) -> io::Result<File> {
    let connections = departed.connections().iter().map(|detached| detached.record().clone()).collect();
    let batch = Batch { version: VERSION, at: systemd::monotonic()?, next_sequence, connections };
    let mut file = File::from(memfd_create(NAME, MemfdFlags::CLOEXEC)?);
    file.write_all(&serde_json::to_vec(&batch)?)?;
    Ok(file)
}

/// Puts a batch into the queue. `TimedOut`: the queue is full.
fn send(departed: &Departed, file: &File, queue: &Channel) -> io::Result<()> {
    let sockets = departed.connections().iter().flat_map(descriptors);
    let all: Vec<BorrowedFd<'_>> = std::iter::once(file.as_fd()).chain(sockets).collect();
    queue.send(NAME.as_bytes(), &all, Instant::now())
}
