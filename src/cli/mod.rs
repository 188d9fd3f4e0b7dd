//! What the user types: flags, subcommands, messages and exit codes.
//!
//! | module          | part                                                                     |
//! |-----------------|--------------------------------------------------------------------------|
//! | `args`          | the command line as clap sees it                                         |
//! | `values`        | single values: numbers, algorithm names, log levels                      |
//! | `backend_spec`  | `--backend ADDR[,weight=N]…`                                             |
//! | `flags`         | flags → model, every mistake at once; pure                               |
//! | `config_file`   | `--config FILE` and `tcplb check FILE`                                   |
//! | `serve`         | the balancer in the foreground: start, say so, signals, drain            |
//! | `crash`         | a panic in any thread ends the process                                   |
//! | [`backend`]     | `tcplb backend`, the test server                                         |
//! | `demo`          | `tcplb demo`, the tour                                                   |
//! | `remote`        | `tcplb status`, `backends`, `reload`: clients of the admin API           |
//! | `signals`, `terminal` | the process's signals, its output                                  |
//!
//! Everything a user is told before the balancer runs is written here; what it says while it runs goes through the log.

mod args;
pub mod backend;
mod backend_spec;
mod config_file;
mod crash;
mod demo;
mod flags;
mod remote;
mod serve;
mod signals;
mod terminal;
mod values;

use crate::app::Loader;
use crate::config::advice;
use crate::logger;
use crate::preflight;
use args::{Arguments, Command};
use clap::Parser;
use log::LevelFilter;
use std::fmt::Display;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

/// Could not start or run: a port is taken, a permission is missing.
const COULD_NOT_RUN: u8 = 1;
/// The command line or the configuration file is wrong.
const WRONG_USAGE: u8 = 2;

/// How long the end of the process waits for a stderr that is slow or that has no reader.
const FLUSH: Duration = Duration::from_secs(1);

/// The program: from the process's arguments to its exit code.
pub fn run() -> ExitCode {
    let code = obey();
    logger::flush(FLUSH);
    code
}

fn obey() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            // Help and version are errors to clap too, with exit code 0. Nobody is left to tell if printing fails.
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(WRONG_USAGE));
        }
    };
    match arguments.command {
        None => balance(&arguments.balance),
        Some(Command::Check(check)) => self::check(&check.file),
        Some(Command::Backend(backend)) => {
            logger::init(LevelFilter::Info);
            done(backend::run(backend.options()))
        }
        Some(Command::Status(status)) => remote::status(&status),
        Some(Command::Backends(backends)) => remote::backends(&backends),
        Some(Command::Reload(reload)) => remote::reload(&reload),
        Some(Command::Demo(demo)) => {
            // The demo's output has what the log would repeat.
            logger::init_queued(LevelFilter::Error);
            done(demo::run(&demo.listen, demo.once))
        }
    }
}

fn balance(flags: &args::Balance) -> ExitCode {
    let asked = match &flags.config {
        Some(path) => config_file::read(path, flags, cores()),
        None => flags::read(flags, cores()).and_then(|asked| match preflight::mistakes(&asked.model) {
            mistakes if mistakes.is_empty() => Ok(asked),
            mistakes => Err(flags::Mistakes(mistakes)),
        }),
    };
    match asked {
        Ok(asked) => {
            logger::init_queued(asked.log_level);
            let file = flags.config.clone().map(|path| {
                let file = path.clone();
                let load = move || config_file::load(&file, cores()).map_err(|flags::Mistakes(mistakes)| mistakes);
                (path, Arc::new(load) as Loader)
            });
            done(serve::run(asked.model, file))
        }
        Err(flags::Mistakes(mistakes)) => {
            let code = refuse(&mistakes);
            if flags.config.is_none() {
                terminal::tell("For more information, try '--help'; to see tcplb at work, 'tcplb demo'.");
            }
            code
        }
    }
}

fn check(path: &Path) -> ExitCode {
    match config_file::load(path, cores()) {
        Ok(model) => {
            // The exit code says it too, where stdout is closed.
            let _ = terminal::show(config_file::summary(path, &model));
            let before = preflight::Before::Start { file: path };
            for warning in advice::of(&model).into_iter().chain(preflight::warnings(&model, &before)) {
                terminal::tell(format_args!("warning: {warning}"));
            }
            ExitCode::SUCCESS
        }
        Err(flags::Mistakes(mistakes)) => refuse(&mistakes),
    }
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

fn refuse(mistakes: &[String]) -> ExitCode {
    for mistake in mistakes {
        complain(mistake);
    }
    ExitCode::from(WRONG_USAGE)
}

fn done(result: Result<(), impl Display>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain(error);
            ExitCode::from(COULD_NOT_RUN)
        }
    }
}

fn complain(error: impl Display) {
    terminal::tell(format_args!("error: {error}"));
}
