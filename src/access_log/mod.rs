//! The access log: a line for each connection, when it ends; on request also when it begins, and meanwhile.
//!
//! Workers write lines into a [`LogBuffer`] of their own, without a lock and with no system call except reading the
//! clock. They hand it over when it is full or [`LINGER`] old. One thread writes the buffers, may wait for the disk,
//! reopens the file on request, and ends after the last worker.
//!
//! It decides nothing about connections ([`crate::session`] does). The log on stderr is separate.
//!
//! # The bound
//!
//! [`BUFFERS`] buffers of [`BUFFER`] bytes may wait for the thread. Without room there, a worker fills its buffer and
//! then discards it: no thread waits for the log. Lines lost that way, or by a failed write, are counted, and reported
//! on stderr at once and then at most every ten seconds.
//!
//! | file | what |
//! |---|---|
//! | `format` | the format of lines, with what it needs from the start on |
//! | `line` | a connection's line, as text and as JSON |
//! | `haproxy` | a connection's line, as HAProxy's `option tcplog` writes it |
//! | `buffer` | lines that a worker has not handed over |
//! | `target` | the file, or stdout |
//! | `writer` | the thread |

mod buffer;
mod format;
mod haproxy;
mod line;
#[cfg(test)]
mod sample;
mod target;
mod writer;

pub use buffer::LogBuffer;
pub use format::LineFormat;
pub use target::{Links, Target};

use crate::admission::ConnectionLimit;
use crate::base::LogThrottle;
use crate::base::text::counted;
use crate::clock;
use crate::config::model::LogEvents;
use crate::telemetry::AccessLogTotals;
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, TrySendError, bounded};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;
use writer::Writer;

/// The size of a full buffer in bytes: about 150 lines.
const BUFFER: usize = 16 * 1024;

/// Buffers that may wait to be written: 4 MiB, about 40,000 connections.
const BUFFERS: usize = 256;

/// How long a line may stay with a worker.
const LINGER: Duration = Duration::from_millis(250);

/// How long the end of the process waits for a log that takes nothing: a worker for room for its last buffer,
const ROOM: Duration = Duration::from_millis(200);
/// and then the process for the thread, first to write all, and then to count what it could not write.
const FAREWELL: Duration = Duration::from_millis(600);

/// Lines of a worker, each with its newline.
type Lines = Vec<u8>;

/// The access log's thread, for the end of the process.
pub struct AccessLog {
    reopener: Option<Reopener>,
    /// What has not been written: only to be counted, at the end.
    left: Receiver<Lines>,
    /// Nothing is ever sent: the channel disconnects when the thread ends.
    ended: Receiver<()>,
    ending: Arc<AtomicBool>,
    totals: Arc<AccessLogTotals>,
}

/// Creates workers' buffers; cheap to clone.
#[derive(Clone, Debug)]
pub struct LogHandle {
    format: LineFormat,
    events: LogEvents,
    sender: Sender<Lines>,
    totals: Arc<AccessLogTotals>,
}

/// Requests that the file is reopened.
#[derive(Clone, Debug)]
pub struct Reopener(Sender<()>);

impl AccessLog {
    /// Starts the thread, which ends when no handle and no buffer is left.
    pub fn start(
        target: Target,
        format: LineFormat,
        events: LogEvents,
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
            // Kept, so that `requests` never disconnects.
            let _reopener = reopener;
            let _end: Sender<()> = end;
            let failure = LogThrottle::default();
            Writer { target, reopen: &requests, ending: &over, totals: &counts, failure }.run(&buffers);
        };
        thread::Builder::new().name("access-log".to_owned()).spawn(write)?;
        let handle = LogHandle { format, events, sender, totals: totals.clone() };
        Ok((AccessLog { reopener: kept, left, ended, ending, totals }, handle))
    }

    /// The handle that reopens the file; `None` for stdout.
    pub fn reopener(&self) -> Option<Reopener> {
        self.reopener.clone()
    }

    /// Waits until all lines are written, after the last worker has ended; for a bounded time if the thread is stuck.
    pub fn finish(self) {
        let is_late = |time| self.ended.recv_timeout(time) == Err(RecvTimeoutError::Timeout);
        if is_late(FAREWELL) {
            self.ending.store(true, Ordering::Relaxed);
            log::error!("access log: the end does not wait any longer for it to be written");
            if is_late(ROOM) {
                self.left.try_iter().for_each(|lines| self.totals.lose(count(&lines)));
            }
        }
        self.totals.unlogged().into_iter().for_each(log_loss);
    }
}

impl LogHandle {
    /// A new buffer for a worker. Lines may show how many clients the process has.
    pub fn buffer(&self, clients: Arc<ConnectionLimit>) -> LogBuffer {
        LogBuffer::new(self.clone(), clients)
    }

    /// Hands lines over, or returns them if there is no room.
    fn offer(&self, lines: Lines) -> Result<(), Lines> {
        self.sender.try_send(lines).map_err(TrySendError::into_inner)
    }

    /// As `offer` at the end of a worker, with a wait for room.
    fn deliver(&self, lines: Lines) {
        if let Err(error) = self.sender.send_timeout(lines, ROOM) {
            lose(&self.totals, count(&error.into_inner()));
        }
    }
}

impl Reopener {
    /// Requests that the file is reopened by its path: the old one may have been renamed.
    pub fn reopen(&self) {
        // Full: a queued request opens the file later than now.
        let _ = self.0.try_send(());
    }
}

fn count(lines: &[u8]) -> u64 {
    lines.iter().filter(|byte| **byte == b'\n').count() as u64
}

/// Counts lost lines, and logs them unless that was done recently.
fn lose(totals: &AccessLogTotals, lines: u64) {
    totals.lose(lines);
    totals.to_log(clock::now()).into_iter().for_each(log_loss);
}

fn log_loss(lines: u64) {
    log::warn!("access log: {} lost: written too slowly, or not at all", counted(lines, "line"));
}
