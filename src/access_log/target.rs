//! Where the lines go: a file, which may be opened again, or stdout.
//!
//! A file may be a FIFO or a device too. It is opened without waiting (a FIFO that nobody reads is an error, not a start
//! that hangs); writing does wait, which is what the thread is for.

use crate::config::model::LogTo;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

/// Clients' addresses are nobody else's business.
const MODE: Mode = Mode::RUSR.union(Mode::WUSR).union(Mode::RGRP);

/// See the module.
#[derive(Debug)]
pub struct Target {
    place: Place,
    /// The last byte written was not the end of a line.
    torn: bool,
}

#[derive(Debug)]
enum Place {
    Stdout,
    File { path: PathBuf, follow: bool, file: OwnedFd },
}

impl Target {
    /// Opens it. Where `follow` is false a symbolic link is refused: whoever could put one there could have root write, and
    /// give away, what it points to.
    pub fn open(to: &LogTo, follow: bool) -> Result<Target, String> {
        let place = match to {
            LogTo::Stdout => Place::Stdout,
            LogTo::File(path) => {
                let file = open(path, follow)
                    .map_err(|error| format!("can't open the access log {}: {error}{}", path.display(), hint(error)))?;
                Place::File { path: path.clone(), follow, file }
            }
        };
        Ok(Target { place, torn: false })
    }

    /// Can it be opened again?
    pub fn is_file(&self) -> bool {
        matches!(self.place, Place::File { .. })
    }

    /// The file, if it is one.
    pub fn file(&self) -> Option<BorrowedFd<'_>> {
        match &self.place {
            Place::Stdout => None,
            Place::File { file, .. } => Some(file.as_fd()),
        }
    }

    /// Opens the file by its name again; on an error it stays as it was.
    pub(super) fn reopen(&mut self) -> Result<(), String> {
        if let Place::File { path, follow, file } = &mut self.place {
            *file = open(path, *follow).map_err(|error| format!("{error}{}", hint(error)))?;
            self.torn = false;
        }
        Ok(())
    }

    /// Writes all of it. An error comes with what was not written, but for the rest of a line that was torn.
    pub(super) fn write<'a>(&mut self, mut lines: &'a [u8]) -> Result<(), (&'a [u8], Errno)> {
        if self.torn {
            self.write_some(b"\n").map_err(|error| (lines, error))?;
            self.torn = false;
        }
        while !lines.is_empty() {
            let count = self.write_some(lines).map_err(|error| (lines, error))?;
            self.torn = count.checked_sub(1).and_then(|last| lines.get(last)).is_some_and(|last| *last != b'\n');
            lines = lines.get(count..).unwrap_or_default();
        }
        Ok(())
    }

    fn write_some(&self, bytes: &[u8]) -> Result<usize, Errno> {
        let stdout = io::stdout();
        let to = self.file().unwrap_or_else(|| stdout.as_fd());
        loop {
            match rustix::io::write(to, bytes) {
                Err(Errno::INTR) => {}
                // A FIFO or a terminal that is full.
                Err(Errno::AGAIN) => match poll(&mut [PollFd::from_borrowed_fd(to, PollFlags::OUT)], None) {
                    Ok(_) | Err(Errno::INTR) => {}
                    Err(error) => return Err(error),
                },
                outcome => return outcome,
            }
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.place {
            Place::Stdout => out.write_str("on stdout"),
            Place::File { path, .. } => path.display().fmt(out),
        }
    }
}

fn open(path: &PathBuf, follow: bool) -> Result<OwnedFd, Errno> {
    let flags = OFlags::WRONLY | OFlags::APPEND | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOCTTY | OFlags::NONBLOCK;
    let flags = if follow { flags } else { flags | OFlags::NOFOLLOW };
    rustix::fs::open(path, flags, MODE)
}

fn hint(error: Errno) -> &'static str {
    match error {
        Errno::NXIO => " (nobody reads this FIFO)",
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
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("access.log");
        for line in ["one\n", "two\n"] {
            Target::open(&LogTo::File(path.clone()), true).unwrap().write(line.as_bytes()).unwrap();
        }
        assert_eq!(fs::read_to_string(&path).unwrap(), "one\ntwo\n");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o137, 0);
    }

    #[test]
    fn after_a_rename_the_next_lines_are_in_a_new_file_and_one_that_can_t_be_opened_changes_nothing() {
        let place = tempfile::tempdir().unwrap();
        let (path, old) = (place.path().join("log"), place.path().join("log.1"));
        let mut target = Target::open(&LogTo::File(path.clone()), true).unwrap();
        target.write(b"one\n").unwrap();
        fs::rename(&path, &old).unwrap();
        target.write(b"two\n").unwrap();
        fs::create_dir(&path).unwrap();
        let told = target.reopen().unwrap_err();
        assert!(told.contains("directory"), "{told}");
        target.write(b"three\n").unwrap();
        fs::remove_dir(&path).unwrap();
        target.reopen().unwrap();
        target.write(b"four\n").unwrap();
        assert_eq!(fs::read_to_string(&old).unwrap(), "one\ntwo\nthree\n");
        assert_eq!(fs::read_to_string(&path).unwrap(), "four\n");
    }

    #[test]
    fn a_link_is_followed_only_where_nobody_is_tricked_by_it() {
        let place = tempfile::tempdir().unwrap();
        let (real, link) = (place.path().join("real"), place.path().join("link"));
        symlink(&real, &link).unwrap();
        let told = Target::open(&LogTo::File(link.clone()), false).unwrap_err();
        assert!(told.contains("symbolic link") && !real.exists(), "{told}");
        Target::open(&LogTo::File(link), true).unwrap().write(b"one\n").unwrap();
        assert_eq!(fs::read_to_string(&real).unwrap(), "one\n");
    }

    #[test]
    fn what_was_not_written_comes_back_with_the_error() {
        // Every write to it fails as on a full disk.
        let mut full = Target::open(&LogTo::File("/dev/full".into()), true).unwrap();
        assert_eq!(full.write(b"one\ntwo\n"), Err((&b"one\ntwo\n"[..], Errno::NOSPC)));
    }
}
