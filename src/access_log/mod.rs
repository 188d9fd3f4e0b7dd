//! The access log: a line for each connection, when it ends.
//!
//! Workers write lines into a [`LogBuffer`] of their own, which takes no lock and no system call but a look at the clock, and
//! hand it over when it is full or [`LINGER`] old. One thread, which may wait as long as a disk does, writes buffers out,
//! opens the file again when it is told to, and ends when the last worker has.
//!
//! It decides nothing about connections ([`crate::session`] does), and it is not the log on stderr, which tells of the
//! process.
//!
//! # The bound
//!
//! [`BUFFERS`] buffers of [`BUFFER`] bytes may wait for the thread. Without room there, a worker goes on with the buffer it has
//! until that is full, and then starts it anew: nobody waits for a log. What is lost that way, or by a write that fails,
//! is counted, and logged on stderr at once and then at most every ten seconds.
//!
//! | file | what |
//! |---|---|
//! | `line` | a connection's line, as text and as JSON |
//! | `buffer` | what a worker has not handed over yet |
//! | `target` | the file, or stdout |
//! | `writer` | the thread |

mod buffer;
mod line;
mod target;
mod writer;

pub use buffer::LogBuffer;
pub use target::{Links, Target};

use crate::base::LogThrottle;
use crate::clock;
use crate::config::model::LogFormat;
use crate::telemetry::AccessLogTotals;
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, TrySendError, bounded};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;
use writer::Writer;

/// Bytes of a buffer that is full: some 150 lines.
const BUFFER: usize = 16 * 1024;

/// Buffers that may wait to be written: 4 MiB, some 40 000 connections.
const BUFFERS: usize = 256;

/// How long a line may stay with a worker.
const LINGER: Duration = Duration::from_millis(250);

/// How long the end of the process waits for a log that takes nothing: a worker for room for its last buffer,
const ROOM: Duration = Duration::from_millis(200);
/// and then the process for the thread, first to write all, and then to count what it could not write.
const FAREWELL: Duration = Duration::from_millis(600);

/// Workers' lines, each with its newline.
type Lines = Vec<u8>;

/// The thread, for whoever waits for the end.
pub struct AccessLog {
    reopener: Option<Reopener>,
    /// What has not been written: only to be counted, at the end.
    left: Receiver<Lines>,
    /// Nobody ever sends: it is cut when the thread ends.
    ended: Receiver<()>,
    ending: Arc<AtomicBool>,
    totals: Arc<AccessLogTotals>,
}

/// Where workers get their buffers.
#[derive(Clone, Debug)]
pub struct LogHandle {
    format: LogFormat,
    sender: Sender<Lines>,
    totals: Arc<AccessLogTotals>,
}

/// Has the file opened again.
#[derive(Clone, Debug)]
pub struct Reopener(Sender<()>);

impl AccessLog {
    /// Starts the thread, which ends when no handle and no buffer is left.
    pub fn start(
        target: Target,
        format: LogFormat,
        totals: Arc<AccessLogTotals>,
    ) -> io::Result<(AccessLog, LogHandle)> {
        let (sender, buffers) = bounded(BUFFERS);
        // Several requests have the effect of one.
        let (reopener, requests) = bounded(1);
        let (end, ended) = bounded(0);
        let left = buffers.clone();
        let kept = target.is_file().then(|| Reopener(reopener.clone()));
        let ending = Arc::new(AtomicBool::new(false));
        let (counts, over) = (totals.clone(), ending.clone());
        let write = move || {
            // Held on to, so that `requests` is never cut.
            let _reopener = reopener;
            let _end: Sender<()> = end;
            let failure = LogThrottle::default();
            Writer { target, reopen: &requests, ending: &over, totals: &counts, failure }.run(&buffers);
        };
        thread::Builder::new().name("access-log".to_owned()).spawn(write)?;
        let handle = LogHandle { format, sender, totals: totals.clone() };
        Ok((AccessLog { reopener: kept, left, ended, ending, totals }, handle))
    }

    /// How the file is opened again; `None` for stdout.
    pub fn reopener(&self) -> Option<Reopener> {
        self.reopener.clone()
    }

    /// Waits until all is written, once nobody can write any more. Where the thread is stuck, not for ever.
    pub fn finish(self) {
        let is_late = |time| self.ended.recv_timeout(time) == Err(RecvTimeoutError::Timeout);
        if is_late(FAREWELL) {
            self.ending.store(true, Ordering::Relaxed);
            log::error!("access log: gave up waiting for it to be written");
            if is_late(ROOM) {
                self.left.try_iter().for_each(|lines| self.totals.lose(count(&lines)));
            }
        }
        self.totals.unlogged().into_iter().for_each(log_loss);
    }
}

impl LogHandle {
    /// A worker's buffer.
    pub fn buffer(&self) -> LogBuffer {
        LogBuffer::new(self.clone())
    }

    /// Hands lines over, or gives them back.
    fn offer(&self, lines: Lines) -> Result<(), Lines> {
        self.sender.try_send(lines).map_err(TrySendError::into_inner)
    }

    /// The same at the end, when there is time.
    fn deliver(&self, lines: Lines) {
        if let Err(error) = self.sender.send_timeout(lines, ROOM) {
            lose(&self.totals, count(&error.into_inner()));
        }
    }
}

impl Reopener {
    /// From soon on lines go to a file that is opened now: the old one may have been renamed.
    pub fn reopen(&self) {
        // Full: it will be opened later than now in any case.
        let _ = self.0.try_send(());
    }
}

fn count(lines: &[u8]) -> u64 {
    lines.iter().filter(|byte| **byte == b'\n').count() as u64
}

/// Counts lines that are lost, and logs it unless that was done lately.
fn lose(totals: &AccessLogTotals, lines: u64) {
    totals.lose(lines);
    totals.to_log(clock::now()).into_iter().for_each(log_loss);
}

fn log_loss(lines: u64) {
    log::warn!("access log: {lines} line{} lost: written too slowly, or not at all", if lines == 1 { "" } else { "s" });
}
