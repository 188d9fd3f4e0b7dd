//! Lines on stdout and stderr. `println!` and `eprintln!` panic once the reader has gone (`tcplb demo | head`); these
//! do not.

use crate::logger;
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

/// Whether lines to stdout are coloured: on a terminal, unless NO_COLOR is set (no-color.org).
pub fn colours() -> bool {
    let refused = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    io::stdout().is_terminal() && !refused
}
