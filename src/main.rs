//! Arguments → logger → run → exit code. All of it is in the library, where tests can reach it.
#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    tcplb::cli::run()
}
