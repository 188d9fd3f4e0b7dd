//! The lines that a worker has not handed over yet.

use super::line::{self, Event};
use super::{BUFFER, LINGER, LineFormat, Lines, LogHandle, count, haproxy, lose};
use crate::admission::ConnectionLimit;
use crate::base::Tick;
use crate::session::{Interval, Live, Record};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// The reserve for one line; most lines fit, so that the buffer does not grow.
const MARGIN: usize = 1024;

/// A worker's buffer. Dropping it hands over its lines.
#[derive(Debug)]
pub struct LogBuffer {
    handle: LogHandle,
    clients: Arc<ConnectionLimit>,
    lines: Lines,
    /// When it is to be handed over; `None` while it is empty.
    due: Option<Tick>,
}

impl LogBuffer {
    pub(super) fn new(handle: LogHandle, clients: Arc<ConnectionLimit>) -> LogBuffer {
        LogBuffer { handle, clients, lines: Lines::new(), due: None }
    }

    /// How often an open connection leaves a line, if it does.
    pub fn interval(&self) -> Option<Duration> {
        self.handle.events.interval
    }

    /// Writes the line of a connection that has just got its backend, if it leaves one.
    pub fn open(&mut self, live: &Live<'_>, now: Tick) {
        if self.handle.events.open {
            self.write(now, |_, lines| line::json(&Event::Open { live, now }, SystemTime::now(), lines));
        }
    }

    /// Writes the line of an open connection, about the time since its last one.
    pub fn during(&mut self, live: &Live<'_>, interval: Interval, now: Tick) {
        self.write(now, |_, lines| line::json(&Event::Interval { live, interval, now }, SystemTime::now(), lines));
    }

    /// Writes the line of a connection that has just ended, if it leaves one.
    pub fn close(&mut self, record: &Record, now: Tick) {
        if self.handle.events.close {
            self.write(now, |buffer, lines| buffer.write_close(record, SystemTime::now(), lines));
        }
    }

    fn write_close(&self, record: &Record, time: SystemTime, lines: &mut Lines) {
        let interval = self.interval().map(|_| record.unreported());
        match &self.handle.format {
            LineFormat::Text => line::text(record, time, lines),
            LineFormat::Json => line::json(&Event::Close { record, interval }, time, lines),
            LineFormat::Haproxy(zone) => haproxy::write(record, time, zone, self.clients.active(), lines),
        }
    }

    fn write(&mut self, now: Tick, line: impl FnOnce(&LogBuffer, &mut Lines)) {
        let mut lines = std::mem::take(&mut self.lines);
        if lines.is_empty() {
            lines.reserve(BUFFER + MARGIN);
        }
        line(self, &mut lines);
        self.lines = lines;
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
