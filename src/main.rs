//! Calls the library, where tests can reach all of it, and returns the exit code.
#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    tcplb::cli::run()
}
