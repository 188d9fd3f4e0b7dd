//! Writes to the descriptor of stderr. std's writes hold a lock, so one thread that waits would block all others.

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use std::io;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

/// The bytes that a pipe which poll reports writable takes without blocking (PIPE_BUF, pipe(7)).
const AT_ONCE: usize = 4096;

/// Writes all bytes, however long that takes. Fails with the error of write(2).
pub fn write_all(mut bytes: &[u8]) -> rustix::io::Result<()> {
    while !bytes.is_empty() {
        match rustix::io::write(io::stderr(), bytes) {
            Ok(count) => bytes = bytes.get(count..).unwrap_or_default(),
            Err(Errno::INTR) => {}
            // A process that shares the descriptor may have made it non-blocking.
            Err(Errno::AGAIN) => wait(None)?,
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Writes until the deadline, and returns the count of written bytes.
pub fn write_until(bytes: &[u8], deadline: Instant) -> rustix::io::Result<usize> {
    let mut written = 0;
    while let Some(rest) = bytes.get(written..).filter(|rest| !rest.is_empty()) {
        let left = deadline.saturating_duration_since(Instant::now());
        if !is_writable(Some(left))? {
            if left.is_zero() {
                break;
            }
            continue;
        }
        match rustix::io::write(io::stderr(), rest.get(..AT_ONCE).unwrap_or(rest)) {
            Ok(count) => written += count,
            Err(Errno::INTR | Errno::AGAIN) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(written)
}

fn wait(time: Option<Duration>) -> rustix::io::Result<()> {
    is_writable(time).map(drop)
}

/// Waits for at most this long. A descriptor with an error counts as writable: the write returns the error.
fn is_writable(time: Option<Duration>) -> rustix::io::Result<bool> {
    let time = time.map(|time| Timespec { tv_sec: time.as_secs() as i64, tv_nsec: i64::from(time.subsec_nanos()) });
    let stderr = io::stderr();
    match poll(&mut [PollFd::from_borrowed_fd(stderr.as_fd(), PollFlags::OUT)], time.as_ref()) {
        Ok(ready) => Ok(ready > 0),
        Err(Errno::INTR) => Ok(false),
        Err(error) => Err(error),
    }
}
