//! Reads a file that holds a setting: a configuration, a list, a token. Bounded in size and in time.
//!
//! The path may be mistaken: a disk must not fill the memory, and a pipe without a writer must not hang the process.

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::OFlags;
use rustix::io::Errno;
use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;
use std::time::{Duration, Instant};

/// How long a pipe in place of a file (`/dev/stdin`, `<(…)`) may take to be written and closed.
const PIPE_TIME: Duration = Duration::from_secs(10);

/// Why a file was not read.
#[derive(Debug)]
pub enum ReadError {
    /// The system's error, or a pipe that was not written and closed in time.
    Io(io::Error),
    /// It is neither a file nor a pipe, but this.
    WrongKind(&'static str),
    /// It has more than this many bytes.
    TooLarge(u64),
}

/// Checks that a file can be opened, and reads none of it.
pub fn check(path: &Path) -> Result<(), ReadError> {
    open(path).map(drop)
}

/// The token in the text of a file: its only word.
pub fn token(text: &[u8]) -> Result<&[u8], &'static str> {
    let token = text.trim_ascii();
    if token.is_empty() {
        return Err("the file is empty");
    }
    if !token.iter().all(u8::is_ascii_graphic) {
        return Err("expected one word of visible ASCII");
    }
    Ok(token)
}

/// Reads the token in a file of at most `most` bytes. The error names the file, and never has the token.
pub fn read_token(path: &Path, most: u64) -> Result<String, String> {
    let wrong = |why: &dyn fmt::Display| format!("{}: {why}", path.display());
    let text = read(path, most).map_err(|error| wrong(&error))?;
    let token = token(&text).map_err(|why| wrong(&why))?;
    Ok(String::from_utf8_lossy(token).into_owned())
}

/// Reads a file or a pipe to its end. It may have at most `most` bytes.
pub fn read(path: &Path, most: u64) -> Result<Vec<u8>, ReadError> {
    read_within(path, most, PIPE_TIME)
}

fn read_within(path: &Path, most: u64, time: Duration) -> Result<Vec<u8>, ReadError> {
    let file = open(path)?;
    let mut bytes = Vec::new();
    Patient { file, time, until: Instant::now() + time }.take(most + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > most {
        return Err(ReadError::TooLarge(most));
    }
    Ok(bytes)
}

fn open(path: &Path) -> Result<File, ReadError> {
    // Opening a pipe that has no writer would wait for one.
    let flags = OFlags::NONBLOCK.bits().cast_signed();
    let file = File::options().read(true).custom_flags(flags).open(path)?;
    let kind = file.metadata()?.file_type();
    if !kind.is_file() && !kind.is_fifo() {
        return Err(ReadError::WrongKind(if kind.is_dir() { "a directory" } else { "a device" }));
    }
    Ok(file)
}

/// A file, or a pipe that is read to its end in bounded time.
struct Patient {
    file: File,
    time: Duration,
    until: Instant,
}

impl Read for Patient {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let left = self.until.saturating_duration_since(Instant::now());
            let left = Timespec { tv_sec: left.as_secs().cast_signed(), tv_nsec: left.subsec_nanos().into() };
            match poll(&mut [PollFd::new(&self.file, PollFlags::IN)], Some(&left)) {
                Ok(0) => {
                    let why = format!("its writer did not write and close it within {:?}", self.time);
                    return Err(io::Error::new(io::ErrorKind::TimedOut, why));
                }
                Ok(_) => match self.file.read(buffer) {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    outcome => return outcome,
                },
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

impl From<io::Error> for ReadError {
    fn from(error: io::Error) -> ReadError {
        ReadError::Io(error)
    }
}

impl fmt::Display for ReadError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ReadError::Io(error) => error.fmt(out),
            ReadError::WrongKind(kind) => write!(out, "expected a file or a pipe, but it is {kind}"),
            ReadError::TooLarge(most) => {
                let (most, unit) = if *most < 1 << 20 { (most >> 10, "KiB") } else { (most >> 20, "MiB") };
                write!(out, "expected at most {most} {unit}, but it has more")
            }
        }
    }
}

impl std::error::Error for ReadError {}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::{CWD, FileType, Mode, mknodat};
    use std::io::Write;

    const MOST: u64 = 4 << 10;

    fn why(path: &Path, time: Duration) -> String {
        read_within(path, MOST, time).unwrap_err().to_string()
    }

    #[test]
    fn the_size_is_bounded_and_the_error_names_the_bound() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(&[b'x'; MOST as usize]).unwrap();
        assert_eq!(read(file.path(), MOST).unwrap(), [b'x'; MOST as usize]);
        file.write_all(b"x").unwrap();
        assert_eq!(why(file.path(), PIPE_TIME), "expected at most 4 KiB, but it has more");
        assert_eq!(why(Path::new("/dev/zero"), PIPE_TIME), "expected a file or a pipe, but it is a device");
        assert_eq!(why(Path::new("/"), PIPE_TIME), "expected a file or a pipe, but it is a directory");
    }

    #[test]
    fn a_pipe_is_read_to_its_end_and_one_that_stays_silent_is_given_up() {
        let place = tempfile::tempdir().unwrap();
        let fifo = place.path().join("fifo");
        mknodat(CWD, &fifo, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
        let time = Duration::from_millis(50);
        let silent = "its writer did not write and close it within 50ms";
        assert_eq!(why(&fifo, time), silent, "no writer");
        // Read and write, so that the open does not wait for a reader.
        let mut writer = File::options().read(true).write(true).open(&fifo).unwrap();
        writer.write_all(b"begun").unwrap();
        assert_eq!(why(&fifo, time), silent, "a writer that does not close");
        drop(writer);
        let text = std::thread::scope(|scope| {
            let reader = scope.spawn(|| read(&fifo, MOST));
            File::options().write(true).open(&fifo).unwrap().write_all(b"whole").unwrap();
            reader.join().unwrap()
        });
        assert_eq!(text.unwrap(), b"whole");
    }
}
