//! The thread: buffers out, the file opened again on request.
//!
//! The thread waits for a target that takes nothing for a while (a FIFO whose reader stalls). A request to open the file
//! again, or the end of the process, ends this wait.

use super::target::Start;
use super::{Lines, Target, count, lose};
use crate::base::LogThrottle;
use crate::clock;
use crate::telemetry::AccessLogTotals;
use crossbeam_channel::{Receiver, select_biased};
use rustix::io::Errno;
use std::sync::atomic::{AtomicBool, Ordering};

/// What the thread works with.
pub struct Writer<'a> {
    pub target: Target,
    /// Requests to open the file again. They must stay connected while it runs.
    pub reopen: &'a Receiver<()>,
    /// Set once nothing more is waited for: what can't be written at once is lost.
    pub ending: &'a AtomicBool,
    pub totals: &'a AccessLogTotals,
    pub failure: LogThrottle,
}

impl Writer<'_> {
    /// Runs until no worker is left that could send a buffer.
    pub fn run(mut self, buffers: &Receiver<Lines>) {
        loop {
            select_biased! {
                recv(self.reopen) -> _ => { self.reopen(); }
                recv(buffers) -> buffer => match buffer {
                    Ok(lines) => self.write(&lines),
                    Err(_) => return,
                },
            }
        }
    }

    fn write(&mut self, lines: &[u8]) {
        let mut rest = lines;
        loop {
            let (reopen, ending) = (self.reopen, self.ending);
            let wait = || reopen.is_empty() && !ending.load(Ordering::Relaxed);
            let start = if rest.len() < lines.len() { Start::RestOfLine } else { Start::Line };
            let Err((left, error)) = self.target.write(rest, start, wait) else { return };
            rest = left;
            if error == Errno::AGAIN && self.reopen.try_recv().is_ok() {
                if self.reopen() && rest.len() < lines.len() {
                    // The rest of a torn line says nothing in another file.
                    let next = rest.iter().position(|byte| *byte == b'\n').map_or(rest.len(), |end| end + 1);
                    lose(self.totals, count(&rest[..next]));
                    rest = &rest[next..];
                }
                continue;
            }
            if error != Errno::AGAIN && self.failure.is_due(clock::now()) {
                log::error!("can't write the access log {}: {error}", self.target);
            }
            return lose(self.totals, count(rest));
        }
    }

    /// True if the last write ended within a line, and the rest is still to be written.
    fn reopen(&mut self) -> bool {
        let target = &mut self.target;
        match target.reopen() {
            Ok(torn) => {
                log::info!("access log {target} reopened");
                self.failure.reset();
                torn
            }
            Err(error) => {
                log::error!("can't reopen the access log {target}: {error}; the file that is open stays in use");
                false
            }
        }
    }
}
