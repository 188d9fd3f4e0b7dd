//! The queue of log lines: bounded; a line without room is dropped and counted.

use super::stderr;
use parking_lot::{Condvar, Mutex};
use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// The most bytes that may wait: enough for the start's lines of about 50,000 backends.
const BYTES: usize = 4 << 20;

/// The most lines that may wait, since each one costs an allocation too.
const LINES: usize = 64 << 10;

/// Bytes written at once, unless one line is longer. A pipe takes this number as a whole or not at all (PIPE_BUF,
/// pipe(7)). So a batch shows whether stderr takes anything.
const BATCH: usize = 4 << 10;

/// The capacity in lines that an empty queue keeps.
const KEPT: usize = 256;

/// The queue; see the module.
pub struct Queue {
    held: Mutex<Pending>,
    /// Signalled when there is a line.
    more: Condvar,
    /// Signalled when there is no line, and none is being written.
    written: Condvar,
    /// Lines dropped since the start.
    lost: AtomicU64,
    bytes_max: usize,
    lines_max: usize,
}

struct Pending {
    lines: VecDeque<Box<[u8]>>,
    bytes: usize,
    /// Lines dropped since the log last reported it.
    unreported: u64,
    /// When the thread took lines that are not written yet.
    writing_since: Option<Instant>,
}

impl Pending {
    fn is_busy(&self) -> bool {
        self.writing_since.is_some() || !self.lines.is_empty()
    }
}

impl Queue {
    /// An empty queue with the default bounds.
    pub const fn new() -> Queue {
        Queue::bounded(BYTES, LINES)
    }

    const fn bounded(bytes_max: usize, lines_max: usize) -> Queue {
        let held = Pending { lines: VecDeque::new(), bytes: 0, unreported: 0, writing_since: None };
        Queue {
            held: Mutex::new(held),
            more: Condvar::new(),
            written: Condvar::new(),
            lost: AtomicU64::new(0),
            bytes_max,
            lines_max,
        }
    }

    /// Lines dropped since the start.
    pub fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }

    /// Adds a line, or drops and counts it. The writing thread may exceed the bounds, to report lost lines: that is one
    /// line a batch.
    pub fn push(&self, line: &[u8], is_writer: impl FnOnce() -> bool) {
        let mut held = self.held.lock();
        let fits = held.lines.len() < self.lines_max && held.bytes + line.len() <= self.bytes_max;
        if fits || is_writer() {
            held.bytes += line.len();
            held.lines.push_back(line.into());
            self.more.notify_one();
        } else {
            self.lose(&mut held, 1);
        }
    }

    /// Writes lines as they come, on the calling thread, and reports how many were lost.
    pub fn write_for_ever(&self, report_lost: impl Fn(u64)) {
        loop {
            self.write_batch(stderr::write_all, &report_lost);
        }
    }

    /// Waits for lines and writes some of them.
    fn write_batch<E>(&self, write: impl FnOnce(&[u8]) -> Result<(), E>, report_lost: impl Fn(u64)) {
        let (batch, count) = self.take();
        let outcome = write(&batch);
        let mut held = self.held.lock();
        let lost = match outcome {
            Ok(()) => std::mem::take(&mut held.unreported),
            // A report would fail too. A later batch that succeeds reports the loss.
            Err(_) => {
                self.lose(&mut held, count);
                0
            }
        };
        drop(held);
        if lost > 0 {
            report_lost(lost);
        }
        let mut held = self.held.lock();
        held.writing_since = None;
        if held.lines.is_empty() {
            held.lines.shrink_to(KEPT);
            self.written.notify_all();
        }
    }

    /// Waits for a line, and takes a batch of lines and their number.
    fn take(&self) -> (Vec<u8>, u64) {
        let mut held = self.held.lock();
        self.more.wait_while(&mut held, |held| held.lines.is_empty());
        let (mut batch, mut count) = (Vec::new(), 0);
        while let Some(line) = held.lines.front().filter(|line| count == 0 || batch.len() + line.len() <= BATCH) {
            batch.extend_from_slice(line);
            held.bytes -= line.len();
            held.lines.pop_front();
            count += 1;
        }
        held.writing_since = Some(Instant::now());
        (batch, count)
    }

    /// Waits until the thread has written all lines, for at most this long; false if some are left. A stderr that has taken
    /// nothing for that long already gets no more time.
    pub fn wait_until_written(&self, within: Duration) -> bool {
        let mut held = self.held.lock();
        let deadline = Instant::now() + within;
        while held.is_busy() {
            let end = |held: &Pending| held.writing_since.map_or(deadline, |since| deadline.min(since + within));
            let until = end(&held);
            if self.written.wait_until(&mut held, until).timed_out() && end(&held) <= Instant::now() {
                return !held.is_busy();
            }
        }
        true
    }

    /// Writes until the deadline, where no thread writes; true if no line is left.
    pub fn write_until(&self, deadline: Instant) -> bool {
        self.write_some(|line| stderr::write_until(line, deadline))
    }

    /// `write` returns how many bytes of a line it wrote.
    fn write_some<E>(&self, mut write: impl FnMut(&[u8]) -> Result<usize, E>) -> bool {
        let mut held = self.held.lock();
        while let Some(line) = held.lines.pop_front() {
            held.bytes -= line.len();
            match write(&line) {
                Ok(count) if count >= line.len() => {}
                Ok(count) => {
                    let rest: Box<[u8]> = line.get(count..).unwrap_or_default().into();
                    held.bytes += rest.len();
                    held.lines.push_front(rest);
                    return false;
                }
                Err(_) => self.lose(&mut held, 1),
            }
        }
        true
    }

    fn lose(&self, held: &mut Pending, lines: u64) {
        held.unreported += lines;
        self.lost.fetch_add(lines, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::RefCell;
    use std::thread;
    use std::time::Duration;

    fn push(queue: &Queue, line: &str) {
        queue.push(line.as_bytes(), || false);
    }

    #[test]
    fn lines_without_room_are_dropped_counted_and_reported_later() {
        let queue = Queue::bounded(10, 3);
        ["a\n", "b\n", "c\n", "d\n", "e\n"].iter().for_each(|line| push(&queue, line));
        assert_eq!(queue.lost(), 2, "three lines are the most");
        let (out, reports) = (RefCell::new(String::new()), RefCell::new(Vec::new()));
        let write = |bytes: &[u8]| -> Result<(), ()> {
            out.borrow_mut().push_str(str::from_utf8(bytes).unwrap());
            Ok(())
        };
        let report = |lines| {
            reports.borrow_mut().push(lines);
            queue.push(b"lost\n", || true);
        };
        queue.write_batch(write, report);
        assert_eq!((out.borrow().as_str(), reports.borrow().as_slice()), ("a\nb\nc\n", &[2][..]));
        push(&queue, "0123456789\n");
        assert_eq!(queue.lost(), 3, "with `lost`, ten bytes are too many");
        queue.write_batch(write, report);
        queue.write_batch(write, report);
        assert_eq!((out.borrow().as_str(), reports.borrow().as_slice()), ("a\nb\nc\nlost\nlost\n", &[2, 1][..]));
        assert!(queue.wait_until_written(Duration::ZERO));
    }

    #[test]
    fn the_report_of_lost_lines_always_has_room() {
        let queue = Queue::bounded(4, 1);
        push(&queue, "a\n");
        push(&queue, "b\n");
        queue.push(b"lost\n", || true);
        let (batch, count) = queue.take();
        assert_eq!((batch.as_slice(), count), (&b"a\nlost\n"[..], 2));
    }

    #[test]
    fn a_failed_write_loses_lines_and_the_next_success_reports_them() {
        let queue = Queue::bounded(100, 10);
        push(&queue, "a\n");
        push(&queue, "b\n");
        queue.write_batch(|_| Err(()), |_| panic!("a report would fail as well"));
        assert_eq!(queue.lost(), 2);
        push(&queue, "c\n");
        let reported = RefCell::new(0);
        queue.write_batch(|_| Ok::<_, ()>(()), |lines| *reported.borrow_mut() = lines);
        assert_eq!(*reported.borrow(), 2);
    }

    #[test]
    fn a_flush_waits_for_a_write_in_progress_up_to_its_deadline() {
        let queue = Queue::bounded(100, 10);
        assert!(queue.wait_until_written(Duration::ZERO), "nothing to write");
        push(&queue, "a\n");
        assert!(!queue.wait_until_written(Duration::from_millis(10)));
        thread::scope(|scope| {
            let (begin, begun) = crossbeam_channel::bounded(0);
            let write = move |_: &[u8]| begun.recv();
            scope.spawn(|| queue.write_batch(write, |_| {}));
            assert!(!queue.wait_until_written(Duration::from_millis(10)), "it is not written");
            begin.send(()).unwrap();
            assert!(queue.wait_until_written(Duration::from_secs(20)));
        });
    }

    #[test]
    fn a_flush_does_not_wait_for_a_stderr_that_is_stuck_already() {
        let (queue, long) = (Queue::bounded(100, 10), Duration::from_secs(20));
        push(&queue, "a\n");
        push(&queue, "b\n");
        queue.take();
        queue.held.lock().writing_since =
            Some(Instant::now().checked_sub(long).expect("a machine that is up for so long"));
        let begun = Instant::now();
        assert!(!queue.wait_until_written(long));
        assert!(begun.elapsed() < long / 2);
    }

    #[test]
    fn without_a_thread_a_partly_written_line_continues_later() {
        let queue = Queue::bounded(100, 10);
        push(&queue, "abc\n");
        push(&queue, "d\n");
        assert!(!queue.write_some(|_| Ok::<_, ()>(2)));
        let mut rest = Vec::new();
        assert!(queue.write_some(|line| {
            rest.extend_from_slice(line);
            Ok::<_, ()>(line.len())
        }));
        assert_eq!(rest, b"c\nd\n");
        assert_eq!(queue.held.lock().bytes, 0);
    }
}
