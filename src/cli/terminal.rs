//! Lines for people. `eprintln!` and `println!` panic when the reader is gone (`tcplb demo | head`); these do not.

use crate::logger;
use std::fmt::Display;
use std::io::{self, IsTerminal, Write};

/// Writes a line to stderr as it is, in its turn among the log's: an error, a hint.
pub fn tell(line: impl Display) {
    logger::plain(line);
}

/// Writes a line to stdout. It fails once the reader is gone.
pub fn show(line: impl Display) -> io::Result<()> {
    write(format!("{line}\n").as_bytes())
}

/// Writes bytes to stdout. It fails once the reader is gone.
pub fn write(bytes: &[u8]) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(bytes)?;
    out.flush()
}

/// May lines to stdout be coloured? Only on a terminal, and not if the user said NO_COLOR (no-color.org).
pub fn colours() -> bool {
    let refused = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    io::stdout().is_terminal() && !refused
}
