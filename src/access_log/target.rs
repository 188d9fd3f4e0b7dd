//! Where the lines go: a file, which may be opened again, or stdout.
//!
//! A file may be a FIFO or a device too. It is opened without waiting (a FIFO without a reader is an error, not a start
//! that hangs); writing does wait, which is what the thread is for.

use crate::config::model::LogTo;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

/// Clients' addresses are for the user and the group only.
const MODE: Mode = Mode::RUSR.union(Mode::WUSR).union(Mode::RGRP);

/// What a pipe that has room takes without blocking.
const PIPE_BUF: usize = 4096;

/// The time between two calls of `wait`.
const LOOK: Timespec = Timespec { tv_sec: 0, tv_nsec: 50_000_000 };

/// See the module.
#[derive(Debug)]
pub struct Target {
    destination: Destination,
    /// The last byte written was not the end of a line.
    torn: bool,
}

/// What a symbolic link in place of the file means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Links {
    /// The file that it points to.
    Follow,
    /// An error.
    Refuse,
}

/// What the bytes to be written begin with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// A line.
    Line,
    /// The rest of the line that was written last.
    RestOfLine,
}

#[derive(Debug)]
enum Destination {
    Stdout,
    File { path: PathBuf, links: Links, file: OwnedFd },
}

impl Target {
    /// Opens it. A user that can put a symbolic link there could make root write, or give away, the file behind it: see
    /// [`Links`].
    pub fn open(to: &LogTo, links: Links) -> Result<Target, String> {
        let destination = match to {
            LogTo::Stdout => Destination::Stdout,
            LogTo::File(path) => {
                let file = open(path, links)
                    .map_err(|error| format!("can't open the access log {}: {error}{}", path.display(), hint(error)))?;
                Destination::File { path: path.clone(), links, file }
            }
        };
        Ok(Target { destination, torn: false })
    }

    /// Can it be opened again?
    pub fn is_file(&self) -> bool {
        matches!(self.destination, Destination::File { .. })
    }

    /// The file, if it is one.
    pub fn file(&self) -> Option<BorrowedFd<'_>> {
        match &self.destination {
            Destination::Stdout => None,
            Destination::File { file, .. } => Some(file.as_fd()),
        }
    }

    /// Opens the file by its name again; on an error it stays as it was. True if the old one ends with a part of a line.
    pub(super) fn reopen(&mut self) -> Result<bool, String> {
        if let Destination::File { path, links, file } = &mut self.destination {
            *file = open(path, *links).map_err(|error| format!("{error}{}", hint(error)))?;
            return Ok(std::mem::take(&mut self.torn));
        }
        Ok(false)
    }

    /// Writes all of it. An error holds the bytes that were not written, including the rest of a torn line. They may be written later as
    /// [`Start::RestOfLine`]. A new line first ends a torn one. While the target takes nothing, this waits for as long as `wait` says; then the error
    /// is [`Errno::AGAIN`].
    pub(super) fn write<'a>(
        &mut self,
        mut lines: &'a [u8],
        start: Start,
        wait: impl Fn() -> bool,
    ) -> Result<(), (&'a [u8], Errno)> {
        if self.torn && start == Start::Line {
            self.write_some(b"\n", &wait).map_err(|error| (lines, error))?;
            self.torn = false;
        }
        while !lines.is_empty() {
            let count = self.write_some(lines, &wait).map_err(|error| (lines, error))?;
            self.torn = count.checked_sub(1).and_then(|last| lines.get(last)).is_some_and(|last| *last != b'\n');
            lines = lines.get(count..).unwrap_or_default();
        }
        Ok(())
    }

    fn write_some(&self, bytes: &[u8], wait: &impl Fn() -> bool) -> Result<usize, Errno> {
        let stdout = io::stdout();
        let to = self.file().unwrap_or_else(|| stdout.as_fd());
        // Stdout is others' too, so it is not made non-blocking. A pipe with room takes this much at once (pipe(7)).
        let (bytes, mut full) = match self.destination {
            Destination::Stdout => (&bytes[..bytes.len().min(PIPE_BUF)], true),
            Destination::File { .. } => (bytes, false),
        };
        loop {
            if full {
                match poll(&mut [PollFd::from_borrowed_fd(to, PollFlags::OUT)], Some(&LOOK)) {
                    Ok(0) if !wait() => return Err(Errno::AGAIN),
                    Ok(0) | Err(Errno::INTR) => continue,
                    Ok(_) => {}
                    Err(error) => return Err(error),
                }
            }
            match rustix::io::write(to, bytes) {
                Err(Errno::INTR) => {}
                // A FIFO or a terminal that is full.
                Err(Errno::AGAIN) => full = true,
                outcome => return outcome,
            }
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.destination {
            Destination::Stdout => out.write_str("on stdout"),
            Destination::File { path, .. } => path.display().fmt(out),
        }
    }
}

fn open(path: &PathBuf, links: Links) -> Result<OwnedFd, Errno> {
    let flags = OFlags::WRONLY | OFlags::APPEND | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOCTTY | OFlags::NONBLOCK;
    let flags = if links == Links::Follow { flags } else { flags | OFlags::NOFOLLOW };
    rustix::fs::open(path, flags, MODE)
}

fn hint(error: Errno) -> &'static str {
    match error {
        Errno::NXIO => " (no process reads this FIFO)",
        Errno::LOOP => " (it is a symbolic link: name the file itself, or start tcplb as the user that it becomes)",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};

    #[test]
    fn a_file_is_appended_to_and_readable_to_few() {
        let destination = tempfile::tempdir().unwrap();
        let path = destination.path().join("access.log");
        for line in ["one\n", "two\n"] {
            Target::open(&LogTo::File(path.clone()), Links::Follow)
                .unwrap()
                .write(line.as_bytes(), Start::Line, || true)
                .unwrap();
        }
        assert_eq!(fs::read_to_string(&path).unwrap(), "one\ntwo\n");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o137, 0);
    }

    #[test]
    fn after_a_rename_the_next_lines_are_in_a_new_file_and_one_that_can_t_be_opened_changes_nothing() {
        let destination = tempfile::tempdir().unwrap();
        let (path, old) = (destination.path().join("log"), destination.path().join("log.1"));
        let mut target = Target::open(&LogTo::File(path.clone()), Links::Follow).unwrap();
        target.write(b"one\n", Start::Line, || true).unwrap();
        fs::rename(&path, &old).unwrap();
        target.write(b"two\n", Start::Line, || true).unwrap();
        fs::create_dir(&path).unwrap();
        let error = target.reopen().unwrap_err();
        assert!(error.contains("directory"), "{error}");
        target.write(b"three\n", Start::Line, || true).unwrap();
        fs::remove_dir(&path).unwrap();
        target.reopen().unwrap();
        target.write(b"four\n", Start::Line, || true).unwrap();
        assert_eq!(fs::read_to_string(&old).unwrap(), "one\ntwo\nthree\n");
        assert_eq!(fs::read_to_string(&path).unwrap(), "four\n");
    }

    #[test]
    fn a_link_is_followed_only_where_the_caller_allows_it() {
        let destination = tempfile::tempdir().unwrap();
        let (real, link) = (destination.path().join("real"), destination.path().join("link"));
        symlink(&real, &link).unwrap();
        let error = Target::open(&LogTo::File(link.clone()), Links::Refuse).unwrap_err();
        assert!(error.contains("symbolic link") && !real.exists(), "{error}");
        Target::open(&LogTo::File(link), Links::Follow).unwrap().write(b"one\n", Start::Line, || true).unwrap();
        assert_eq!(fs::read_to_string(&real).unwrap(), "one\n");
    }

    #[test]
    fn what_was_not_written_comes_back_with_the_error() {
        // Every write to it fails as on a full disk.
        let mut full = Target::open(&LogTo::File("/dev/full".into()), Links::Follow).unwrap();
        assert_eq!(full.write(b"one\ntwo\n", Start::Line, || true), Err((&b"one\ntwo\n"[..], Errno::NOSPC)));
    }
}
