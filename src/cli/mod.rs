//! The command line: flags, subcommands, messages and exit codes.
//!
//! | module          | part                                                                     |
//! |-----------------|--------------------------------------------------------------------------|
//! | `args`          | the command line, as clap parses it                                      |
//! | `backend_spec`  | `--backend ADDR[,weight=N]…`                                             |
//! | `flags`         | flags → model, all mistakes at once; pure                                 |
//! | `config_file`   | `--config FILE` and `tcplb check FILE`                                   |
//! | `serve`         | the balancer in the foreground: start, log, signals, drain                |
//! | `crash`         | a panic in any thread ends the process                                   |
//! | [`backend`]     | `tcplb backend`, the test server                                         |
//! | `demo`          | `tcplb demo`                                                             |
//! | `import`        | `tcplb import FILE`                                                      |
//! | `kernel`        | `tcplb kernel flush`, and the helper process of the kernel engine           |
//! | `pages`         | `tcplb man` and `tcplb completions`                                      |
//! | `remote`        | `tcplb status`, `explain`, `probe`, `backends`, `connections`, `events`, `config`, `reload`: clients of the admin API |
//! | `top`           | `tcplb top`: the same live, in the terminal; behind the feature of this name |
//! | `signals`, `terminal` | the process's signals, its output                                  |
//!
//! Messages before the balancer runs are written here; later ones go through the log.

mod args;
pub mod backend;
mod backend_spec;
mod config_file;
mod crash;
mod demo;
mod flags;
mod import;
mod kernel;
mod pages;
mod remote;
mod serve;
mod signals;
mod terminal;
#[cfg(feature = "top")]
mod top;

use crate::app::Loader;
use crate::base::familiar;
use crate::config::advice;
use crate::config::file::place::{Lines, Remark};
use crate::config::settings::reference;
use crate::handover;
use crate::launcher;
use crate::logger;
use crate::preflight;
use args::{Arguments, Command};
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{CommandFactory, Parser};
use log::LevelFilter;
use std::fmt::Display;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

/// Exit code: tcplb could not start or run, for example because a port is taken or a permission is missing.
const COULD_NOT_RUN: u8 = 1;
/// Exit code: the command line or the configuration file is wrong.
const WRONG_USAGE: u8 = 2;

/// How long the end of the process waits for a stderr that is slow or has no reader.
const FLUSH: Duration = Duration::from_secs(1);

/// Runs the program: from the process's arguments to its exit code.
pub fn run() -> ExitCode {
    let code = dispatch();
    logger::flush(FLUSH);
    code
}

fn dispatch() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(mut error) => {
            suggest(&mut error);
            hide_user(&mut error);
            // Help and version are errors to clap too, with exit code 0. A failure to print can't be reported.
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(WRONG_USAGE));
        }
    };
    match arguments.command {
        None => balance(&arguments.balance),
        Some(Command::Launcher { path, arguments }) => done(launcher::run(&path, &arguments)),
        Some(Command::KernelHelper(helper)) => {
            crash::end_process_on_panic();
            done(kernel::help(&helper))
        }
        Some(Command::KernelStarter(helper)) => {
            crash::end_process_on_panic();
            done(kernel::start_helpers(&helper))
        }
        Some(Command::Kernel(command)) => done(kernel::run(&command)),
        Some(Command::Check(check)) => self::check(&check.file),
        Some(Command::Config(args::Config::Reference)) => {
            let text = format!("{}\n{}", args::reference(), reference::keys());
            done(terminal::show(text.trim_end()).map_err(|error| format!("can't print: {error}")))
        }
        Some(Command::Config(args::Config::Show(show))) => remote::config_show(&show),
        Some(Command::Config(args::Config::Diff(diff))) => remote::config_diff(&diff),
        Some(Command::Import(import)) => import::run(&import),
        Some(Command::Backend(backend)) => {
            logger::init(LevelFilter::Info);
            done(backend::run(backend.options(), backend.registration()))
        }
        Some(Command::Status(status)) => remote::status(&status),
        #[cfg(feature = "top")]
        Some(Command::Top(top)) => top::run(&top.reach),
        #[cfg(not(feature = "top"))]
        Some(Command::Top(_)) => {
            refuse(&["this tcplb was built without `top`; `tcplb status` prints the same once".to_owned()])
        }
        Some(Command::Explain(explain)) => remote::explain(&explain),
        Some(Command::Probe(probe)) => remote::probe(&probe),
        Some(Command::Backends(backends)) => remote::backends(&backends),
        Some(Command::Connections(connections)) => remote::connections(&connections),
        Some(Command::Events(events)) => remote::events(&events),
        Some(Command::Reload(reload)) => remote::reload(&reload),
        Some(Command::Upgrade(upgrade)) => remote::upgrade(&upgrade),
        Some(Command::Man { command }) => match pages::find(command.as_deref()) {
            Ok(command) => done(pages::man(command)),
            Err(mistake) => refuse(&[mistake]),
        },
        Some(Command::Completions { shell }) => done(pages::completions(shell)),
        Some(Command::Demo(demo)) => {
            // The demo's own output reports the same events.
            logger::init_queued(LevelFilter::Error);
            done(demo::run(&demo.listen, demo.once))
        }
    }
}

/// Adds a suggestion where the unknown flag is one of another balancer's; clap itself suggests for mistyped flags.
fn suggest(error: &mut clap::Error) {
    let Some(ContextValue::String(flag)) = error.get(ContextKind::InvalidArg) else { return };
    let command = Arguments::command();
    let flags = command.get_arguments().filter_map(clap::Arg::get_long);
    if error.kind() == ErrorKind::UnknownArgument
        && let Some(ours) = familiar::ours(flag.trim_start_matches('-'), flags)
    {
        error.insert(ContextKind::SuggestedArg, ContextValue::String(format!("--{ours}")));
    }
}

/// clap shows the value that it refuses. The target of `--register` may hold a password.
fn hide_user(error: &mut clap::Error) {
    if let (Some(ContextValue::String(flag)), Some(ContextValue::String(value))) =
        (error.get(ContextKind::InvalidArg), error.get(ContextKind::InvalidValue))
        && flag.starts_with("--register")
    {
        let shown = backend::register::without_user(value);
        error.insert(ContextKind::InvalidValue, ContextValue::String(shown));
    }
}

fn balance(flags: &args::Balance) -> ExitCode {
    let predecessor = match handover::predecessor() {
        Ok(predecessor) => predecessor,
        Err(error) => return done(Err(format!("{} is set, which tcplb itself sets: {error}", handover::FLAG))),
    };
    let asked = match &flags.config {
        Some(path) => config_file::read(path, flags, cores()),
        None => flags::read(flags, cores()).and_then(|asked| match preflight::mistakes(&asked.model) {
            mistakes if mistakes.is_empty() => Ok(asked),
            mistakes => Err(flags::Mistakes(mistakes.iter().map(Remark::to_string).collect())),
        }),
    };
    match asked {
        Ok(asked) => {
            logger::init_queued(asked.log_level);
            let file = flags.config.clone().map(|path| {
                let file = path.clone();
                let take_over = asked.take_over.clone();
                let load = move || {
                    let loaded = config_file::load(&file, cores(), take_over.as_deref());
                    loaded.map_err(|flags::Mistakes(mistakes)| mistakes)
                };
                (path, Arc::new(load) as Loader)
            });
            done(serve::run(asked.model, file, predecessor, asked.take_over.as_deref()))
        }
        Err(flags::Mistakes(mistakes)) => {
            let code = refuse(&mistakes);
            if flags.config.is_none() {
                terminal::report("For more information, try '--help'; to see tcplb at work, 'tcplb demo'.");
            }
            code
        }
    }
}

fn check(path: &Path) -> ExitCode {
    match config_file::load_with_text(path, cores(), None) {
        Ok((model, text)) => {
            // Where stdout is closed, the exit code is the answer.
            let _ = terminal::show(config_file::summary(path, &model));
            let before = preflight::Before::Start { file: path };
            let name = path.display().to_string();
            let lines = Lines::new(&text, &name);
            for warning in advice::of(&model).iter().chain(&preflight::warnings(&model, &before)) {
                terminal::report(format_args!("warning: {}", lines.located(warning)));
            }
            for warning in lines.loose_prefixes() {
                terminal::report(format_args!("warning: {warning}"));
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
        report_error(mistake);
    }
    ExitCode::from(WRONG_USAGE)
}

fn done(result: Result<(), impl Display>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            report_error(error);
            ExitCode::from(COULD_NOT_RUN)
        }
    }
}

fn report_error(error: impl Display) {
    terminal::report(format_args!("error: {error}"));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::balance;

    #[test]
    fn the_password_of_a_target_is_not_shown() {
        let line = ["tcplb", "backend", "--listen", "127.0.0.1:0", "--register", "etcd://root:hunter2@a:1/w"];
        let mut error = Arguments::try_parse_from(line).unwrap_err();
        hide_user(&mut error);
        let shown = error.to_string();
        assert!(shown.contains("'…@a:1/w' for '--register") && !shown.contains("hunter2"), "{shown}");
    }

    #[test]
    fn every_word_of_another_balancer_maps_to_an_accepted_word() {
        let example = include_str!("../../config.example");
        let is_in_file = |word: &str| {
            let lines = example.lines().map(|line| line.trim_start_matches(['#', ':', ' ', '[']));
            lines.clone().any(|line| line.starts_with(&format!("{word} =")) || line.contains(&format!("{word}]]")))
                || example.contains(&format!(".{word}]"))
                || example.contains(&format!("\"{word}\""))
        };
        let command = Arguments::command();
        for (theirs, ours) in familiar::words() {
            for word in *ours {
                let is_flag = command.get_arguments().any(|flag| flag.get_long() == Some(word));
                assert!(is_flag || is_in_file(word) || balance::find(word).is_some(), "{theirs}: {word}");
            }
        }
    }
}
