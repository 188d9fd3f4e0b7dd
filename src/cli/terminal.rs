//! Lines on stdout and stderr. `println!` and `eprintln!` panic once the reader has gone (`tcplb demo | head`); these
//! do not.

use super::FLUSH;
use crate::logger;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::termios::tcgetwinsize;
use std::fmt::Display;
use std::io::{self, IsTerminal, Write};

/// Writes an error, a warning or a hint to stderr, in order with the log's lines.
pub fn report(line: impl Display) {
    logger::plain(line);
}

/// Writes a line to stdout. Fails once stdout has no reader.
pub fn show(line: impl Display) -> io::Result<()> {
    write(format!("{line}\n").as_bytes())
}

/// Writes bytes to stdout. It fails once the reader is gone.
pub fn write(bytes: &[u8]) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(bytes)?;
    out.flush()
}

/// Waits until stdout has no reader any more. Where stdout is a file, this waits for ever.
pub fn wait_until_unread() -> io::Result<()> {
    let out = io::stdout();
    loop {
        // Errors are reported whatever is asked for.
        let mut polled = [PollFd::new(&out, PollFlags::empty())];
        match poll(&mut polled, None) {
            Ok(_) if polled[0].revents().intersects(PollFlags::ERR | PollFlags::HUP) => return Ok(()),
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// The height of the terminal that stdout is; `None` if it is none.
pub fn rows() -> Option<u16> {
    let size = tcgetwinsize(io::stdout()).ok()?;
    Some(size.ws_row).filter(|rows| *rows > 0)
}

/// Asks on stderr and reads the answer from stdin: only `y` and `yes` are consent.
pub fn consents(question: &str) -> bool {
    logger::flush(FLUSH);
    let mut out = io::stderr().lock();
    let asked = out.write_all(question.as_bytes()).and_then(|()| out.flush());
    let mut answer = String::new();
    asked.and_then(|()| io::stdin().read_line(&mut answer)).is_ok()
        && matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes")
}

/// Whether lines to stdout are coloured: on a terminal, unless NO_COLOR is set (no-color.org).
pub fn colours() -> bool {
    let refused = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    io::stdout().is_terminal() && !refused
}
