//! Commands that call a running tcplb's admin API.
//!
//! | module     | part                                              |
//! |------------|---------------------------------------------------|
//! | [`args`]   | the arguments                                      |
//! | `client`   | HTTP over a socket, bounded                       |
//! | `backends` | `tcplb backends …`                                |
//! | `config`   | `tcplb config show`, `tcplb config diff`           |
//! | `explain`  | `tcplb explain`                                   |
//! | `probe`    | `tcplb probe`                                     |
//! | `connections` | `tcplb connections`                            |
//! | `status`   | `tcplb status`: the verdict, then the tables      |
//! | `events`   | `tcplb events`                                    |
//! | `table`    | columns for people                                |
//!
//! Exit codes other than 0: 1 tcplb refused, 2 wrong usage, [`DIFFERS`] from the file, [`UNREACHABLE`] no answer,
//! [`TIMED_OUT`] `--wait` took too long.

pub mod args;
mod backends;
pub mod client;
mod config;
mod connections;
pub mod events;
pub mod explain;
mod probe;
mod status;
mod table;

use super::terminal;
use crate::admin::api;
use crate::base::text::counted;
use crate::handover::Figures;
use args::Reload;
use client::{Client, Failure};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::process::ExitCode;
use std::time::Duration;

pub use backends::run as backends;
pub use config::{diff as config_diff, show_config as config_show};
pub use connections::run as connections;
pub use events::run as events;
pub use explain::run as explain;
pub use probe::run as probe;
pub use status::run as status;

/// Exit code: tcplb refused the request.
pub const REFUSED: u8 = 1;
/// Exit code: the address or the token file is wrong.
pub const WRONG_USAGE: u8 = 2;
/// Exit code: what runs differs from the file.
pub const DIFFERS: u8 = 3;
/// Exit code: no tcplb answers at the address.
pub const UNREACHABLE: u8 = 4;
/// Exit code: `--wait` took longer than `--timeout`.
pub const TIMED_OUT: u8 = 5;

/// Why a command failed: exit code and message.
#[derive(Debug)]
pub struct Trouble(u8, String);

#[cfg(feature = "top")]
impl Trouble {
    /// The command is used where it cannot work.
    pub fn wrong_usage(why: String) -> Trouble {
        Trouble(WRONG_USAGE, why)
    }

    /// The system refuses something.
    pub fn could_not_run(why: String) -> Trouble {
        Trouble(REFUSED, why)
    }

    /// The message.
    pub fn why(self) -> String {
        self.1
    }
}

impl From<Failure> for Trouble {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Wrong(why) => Trouble(WRONG_USAGE, why),
            Failure::Unreachable(why) => Trouble(UNREACHABLE, why),
        }
    }
}

/// Runs `tcplb reload`.
pub fn reload(reload: &Reload) -> ExitCode {
    done(|| {
        let client = Client::new(&reload.reach)?;
        let path = if reload.dry_run { "/v1/reload?dry_run=true" } else { "/v1/reload" };
        let api::Reloaded { dry_run, generation, changes, warnings } = read(&get(&client, "POST", path, None)?)?;
        if changes.is_empty() {
            show("nothing changes")?;
        }
        for change in changes {
            show(change)?;
        }
        warn(&warnings);
        show(if dry_run {
            "dry run: nothing was changed".to_owned()
        } else {
            format!("generation {generation} is in force")
        })
    })
}

/// How long `tcplb upgrade` waits: the new process may look names up, and connections move.
const UPGRADE: Duration = Duration::from_secs(300);

/// `tcplb upgrade`.
pub fn upgrade(upgrade: &args::Upgrade) -> ExitCode {
    done(|| {
        let client = Client::new(&upgrade.reach)?.within(UPGRADE);
        let figures: Figures = read(&get(&client, "POST", "/v1/upgrade", None)?)?;
        let Figures { pid, connections, left, seconds, pause_ms } = figures;
        let moved = counted(connections, "connection");
        show(format!(
            "process {pid} has taken over after {seconds:.1} s: {moved} moved, {left} stay in the old process"
        ))?;
        let (Some(p50), Some(p99), Some(max)) = (pause_ms.p50, pause_ms.p99, pause_ms.max) else { return Ok(()) };
        show(format!("a connection stood still for {p50:.1} ms (median), {p99:.1} ms (p99), {max:.1} ms (longest)"))
    })
}

/// Warnings go to stderr, since scripts read the result on stdout.
fn warn(warnings: &[String]) {
    for warning in warnings {
        terminal::report(format_args!("warning: {warning}"));
    }
}

/// Prints the API's JSON, indented for people.
pub fn show_json<T: DeserializeOwned + Serialize>(body: &[u8]) -> Result<(), Trouble> {
    show(serde_json::to_string_pretty(&read::<T>(body)?).unwrap_or_default())
}

/// Runs a command: reports why it failed, if it did.
pub fn done(command: impl FnOnce() -> Result<(), Trouble>) -> ExitCode {
    match command() {
        Ok(()) => ExitCode::SUCCESS,
        Err(Trouble(code, why)) => {
            terminal::report(format_args!("error: {why}"));
            ExitCode::from(code)
        }
    }
}

/// The body of a successful answer.
pub fn get(client: &Client, method: &str, path: &str, body: Option<Vec<u8>>) -> Result<Vec<u8>, Trouble> {
    let (status, answer) = client.ask(method, path, body.as_deref())?;
    successful(status, answer)
}

/// The body of an answer, if it is a successful one.
fn successful(status: u16, answer: Vec<u8>) -> Result<Vec<u8>, Trouble> {
    if (200..300).contains(&status) {
        return Ok(answer);
    }
    let why = match serde_json::from_slice::<api::Error>(&answer) {
        Ok(api::Error { error }) => error,
        Err(_) => "no reason given; is that tcplb's admin address?".to_owned(),
    };
    Err(Trouble(REFUSED, format!("tcplb answers {status}: {why}")))
}

/// The JSON of an answer.
pub fn read<T: DeserializeOwned>(body: &[u8]) -> Result<T, Trouble> {
    let strange =
        |error| Trouble(REFUSED, format!("the answer is not from tcplb, or from an incompatible version: {error}"));
    serde_json::from_slice(body).map_err(strange)
}

fn show(line: impl std::fmt::Display) -> Result<(), Trouble> {
    // The call has taken effect, even if stdout has no reader any more.
    let _ = terminal::show(line);
    Ok(())
}
