//! The program's own log, on stderr: `2026-01-02T03:04:05.678Z WARN web1 is down: HTTP 503`.
//!
//! A line is a time, a level and a sentence; which module wrote it is nobody's business in production.

use env_logger::{Builder, Env};
use log::LevelFilter;
use std::io::Write;

/// Starts the log at `level`; the variable RUST_LOG, if it says anything, wins. A second call does nothing.
pub fn init(level: LevelFilter) {
    let mut builder = Builder::new();
    if std::env::var("RUST_LOG").is_ok_and(|filter| !filter.trim().is_empty()) {
        builder.parse_env(Env::default());
    } else {
        // Libraries speak up only when something is wrong, whatever the level.
        builder.filter_level(level.min(LevelFilter::Warn)).filter_module("tcplb", level);
    }
    builder.format(|out, record| {
        let (time, style) = (out.timestamp_millis(), out.default_level_style(record.level()));
        writeln!(out, "{time} {style}{}{style:#} {}", record.level(), record.args())
    });
    // Fails only if a logger is set already, which then does as well.
    let _ = builder.try_init();
}
