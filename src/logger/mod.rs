//! The process's log on stderr: `2026-01-02T03:04:05.678Z WARN web1 is down: HTTP 503`.
//!
//! A line is a time, a level and a sentence, without the module that wrote it. Hidden characters in a sentence are escaped
//! (see [`crate::base::text`]), so a name or a message from outside can't forge a line.
//!
//! It is not the access log ([`crate::access_log`]), which has a line per connection and a thread of its own.
//!
//! Other programs may share stderr, so it stays in blocking mode, and a write may wait as long as its reader does. In a
//! process that balances, only the log's own thread waits; the others put their lines into a bounded queue. A line
//! without room is dropped and counted, and the count is logged once there is room.
//!
//! `cli` calls [`init`] or [`init_queued`]. `app` calls [`start`] after the last step of confinement, because a thread
//! keeps the privileges that it starts with. Until then the calling thread writes as much as stderr takes without
//! blocking. [`flush`] comes last.
//!
//! | file | what |
//! |---|---|
//! | `queue` | the queue of lines, bounded |
//! | `stderr` | writes to the descriptor, blocking or not |

mod queue;
mod stderr;

use crate::base::text::{Escaped, counted};
use env_logger::{Builder, Env, Target, WriteStyle};
use log::LevelFilter;
use queue::Queue;
use std::fmt::Display;
use std::io::{self, IsTerminal, Write};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, ThreadId};
use std::time::{Duration, Instant};

/// The log target of lines that are logged at every level: `log::info!(target: ALWAYS, …)`. Scripts wait for such
/// lines, since the kernel may have picked the port.
pub const ALWAYS: &str = "tcplb-always";

/// The process has one stderr, and so one queue.
static QUEUE: Queue = Queue::new();

/// Whether lines go through the queue. If not, the caller writes them and waits for stderr.
static QUEUED: AtomicBool = AtomicBool::new(false);

/// The log's own thread, once it runs.
static THREAD: OnceLock<ThreadId> = OnceLock::new();

/// Starts the log at `level`; the variable RUST_LOG wins unless it is empty. The caller waits for stderr, as suits a
/// command that serves no client. A second call does nothing.
pub fn init(level: LevelFilter) {
    let mut builder = Builder::new();
    if std::env::var("RUST_LOG").is_ok_and(|filter| !filter.trim().is_empty()) {
        builder.parse_env(Env::default());
    } else {
        // Libraries log warnings and errors only, whatever the level.
        builder.filter_level(level.min(LevelFilter::Warn)).filter_module("tcplb", level);
    }
    builder.filter_module(ALWAYS, LevelFilter::Info);
    if std::env::var_os("RUST_LOG_STYLE").is_none() && is_colourful() {
        builder.write_style(WriteStyle::Always);
    }
    builder.format(|out, record| {
        let (time, style) = (out.timestamp_millis(), out.default_level_style(record.level()));
        writeln!(out, "{time} {style}{}{style:#} {}", record.level(), Escaped(record.args()))
    });
    // Fails only if a logger is set already; that one stays.
    let _ = builder.target(Target::Pipe(Box::new(Lines))).try_init();
}

/// As [`init`], for a process that balances: only the thread of [`start`] waits for stderr.
pub fn init_queued(level: LevelFilter) {
    QUEUED.store(true, Ordering::Relaxed);
    init(level);
}

/// Starts the log's thread, unless the log has no queue or the thread runs. Fails if the thread can't start.
pub fn start() -> io::Result<()> {
    if !QUEUED.load(Ordering::Relaxed) || THREAD.get().is_some() {
        return Ok(());
    }
    let thread = thread::Builder::new().name("log".to_owned()).spawn(|| QUEUE.write_for_ever(report_lost))?;
    // Fails only if another call was first; both threads then share the work.
    let _ = THREAD.set(thread.thread().id());
    Ok(())
}

/// Lines dropped since the start, because the queue was full or stderr failed.
pub fn lines_lost() -> u64 {
    QUEUE.lost()
}

/// Writes the queue's lines, for at most this long; true if all are written. A stderr that has taken nothing for that long
/// already gets no more time. For the end of the process, after an exit or a panic.
pub fn flush(within: Duration) -> bool {
    match THREAD.get() {
        // The log's thread can't wait for itself.
        Some(own) if *own == thread::current().id() => false,
        Some(_) => QUEUE.wait_until_written(within),
        None => QUEUE.write_until(Instant::now() + within),
    }
}

/// Writes a line without time and level: an error that ends the process.
pub fn plain(line: impl Display) {
    // A failure to write to stderr can't be reported elsewhere.
    let _ = Lines.write_all(format!("{line}\n").as_bytes());
}

fn report_lost(lines: u64) {
    log::warn!(target: ALWAYS, "log: {} lost: stderr was too slow, or failed", counted(lines, "line"));
}

/// Whether lines are coloured: on a capable terminal, unless NO_COLOR is set (no-color.org).
fn is_colourful() -> bool {
    let refused = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    let dumb = std::env::var_os("TERM").is_none_or(|terminal| terminal == "dumb");
    io::stderr().is_terminal() && !refused && !dumb
}

/// The sink of formatted lines; each `write` gets whole lines.
struct Lines;

impl Write for Lines {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if QUEUED.load(Ordering::Relaxed) {
            let own = || THREAD.get().is_some_and(|own| *own == thread::current().id());
            QUEUE.push(line, own);
            if THREAD.get().is_none() {
                QUEUE.write_until(Instant::now());
            }
        } else {
            stderr::write_all(line)?;
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
