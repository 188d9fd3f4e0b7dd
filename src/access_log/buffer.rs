//! The lines that a worker has not handed over yet.

use super::{BUFFER, LINGER, Lines, LogHandle, count, line, lose};
use crate::base::Tick;
use crate::session::Record;
use std::time::{Duration, SystemTime};

/// The reserve for one line; most lines fit, so that the buffer does not grow.
const MARGIN: usize = 1024;

/// A worker's buffer. Dropping it hands over its lines.
#[derive(Debug)]
pub struct LogBuffer {
    handle: LogHandle,
    lines: Lines,
    /// When it is to be handed over; `None` while it is empty.
    due: Option<Tick>,
}

impl LogBuffer {
    pub(super) fn new(handle: LogHandle) -> LogBuffer {
        LogBuffer { handle, lines: Lines::new(), due: None }
    }

    /// Writes the line of a connection that has just ended.
    pub fn write(&mut self, record: &Record, now: Tick) {
        if self.lines.is_empty() {
            self.lines.reserve(BUFFER + MARGIN);
        }
        line::write(self.handle.format, record, SystemTime::now(), &mut self.lines);
        self.due.get_or_insert(now + LINGER);
        if self.lines.len() >= BUFFER {
            self.hand_over(now);
        }
    }

    /// Hands the buffer over when it is due.
    pub fn tend(&mut self, now: Tick) {
        if self.due.is_some_and(|due| due <= now) {
            self.hand_over(now);
        }
    }

    /// The time until [`LogBuffer::tend`] has work.
    pub fn sleep(&self, now: Tick) -> Option<Duration> {
        self.due.map(|due| due - now)
    }

    fn hand_over(&mut self, now: Tick) {
        match self.handle.offer(std::mem::take(&mut self.lines)) {
            Ok(()) => self.due = None,
            Err(lines) if lines.len() < BUFFER => {
                self.lines = lines;
                self.due = Some(now + LINGER);
            }
            Err(mut lines) => {
                lose(&self.handle.totals, count(&lines));
                lines.clear();
                self.lines = lines;
                self.due = None;
            }
        }
    }
}

impl Drop for LogBuffer {
    fn drop(&mut self) {
        if !self.lines.is_empty() {
            self.handle.deliver(std::mem::take(&mut self.lines));
        }
    }
}
