//! Commands that talk to a running tcplb through its admin API.
//!
//! | module     | part                                              |
//! |------------|---------------------------------------------------|
//! | [`args`]   | what can be typed                                 |
//! | `client`   | HTTP over a socket, bounded                       |
//! | `backends` | `tcplb backends …`                                |
//! | `table`    | columns for people                                |
//!
//! Exit codes beside 0: 1 tcplb refused, 2 wrong usage, [`UNREACHABLE`] nobody answers, [`TIMED_OUT`] `--wait` took too long.

pub mod args;
mod backends;
mod client;
mod table;

use super::terminal;
use crate::admin::api;
use args::{Reload, Status};
use client::{Client, Failure};
use serde::de::DeserializeOwned;
use std::process::ExitCode;

pub use backends::run as backends;

/// tcplb refused what was asked for.
pub const REFUSED: u8 = 1;
/// The way to reach it is wrong: address or token file.
pub const WRONG_USAGE: u8 = 2;
/// Nobody answers there.
pub const UNREACHABLE: u8 = 4;
/// `--wait` took longer than `--timeout`.
pub const TIMED_OUT: u8 = 5;

/// Why a command did not do what it should: exit code and message.
#[derive(Debug)]
pub struct Trouble(u8, String);

impl From<Failure> for Trouble {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Wrong(why) => Trouble(WRONG_USAGE, why),
            Failure::Unreachable(why) => Trouble(UNREACHABLE, why),
        }
    }
}

/// `tcplb status`.
pub fn status(status: &Status) -> ExitCode {
    done(|| {
        let client = Client::new(&status.reach)?;
        let body = get(&client, "GET", "/v1/status", None)?;
        if status.json {
            return show(String::from_utf8_lossy(&body).trim_end());
        }
        let state: api::Status = read(&body)?;
        let api::Status { version, state: doing, uptime_seconds, generation, listeners, pools } = &state;
        let uptime = humantime::format_duration(std::time::Duration::from_secs(*uptime_seconds));
        show(format!("tcplb {version} {doing}, up {uptime}, generation {generation}"))?;
        show("")?;
        show(table::listeners(listeners))?;
        for pool in pools {
            show(format!("\npool {}: {}", pool.name, pool.algorithm))?;
            show(table::backends(&pool.backends))?;
        }
        Ok(())
    })
}

/// `tcplb reload`.
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
            "only tried: nothing was changed".to_owned()
        } else {
            format!("generation {generation} is in force")
        })
    })
}

/// Warnings go to stderr: what reads stdout goes by what was done.
fn warn(warnings: &[String]) {
    for warning in warnings {
        terminal::tell(format_args!("warning: {warning}"));
    }
}

fn done(command: impl FnOnce() -> Result<(), Trouble>) -> ExitCode {
    match command() {
        Ok(()) => ExitCode::SUCCESS,
        Err(Trouble(code, why)) => {
            terminal::tell(format_args!("error: {why}"));
            ExitCode::from(code)
        }
    }
}

/// The body of a good answer.
fn get(client: &Client, method: &str, path: &str, body: Option<Vec<u8>>) -> Result<Vec<u8>, Trouble> {
    let (status, answer) = client.ask(method, path, body.as_deref())?;
    if (200..300).contains(&status) {
        return Ok(answer);
    }
    let why = match serde_json::from_slice::<api::Error>(&answer) {
        Ok(api::Error { error }) => error,
        Err(_) => "it does not say why: is that tcplb's admin address?".to_owned(),
    };
    Err(Trouble(REFUSED, format!("tcplb answers {status}: {why}")))
}

fn read<T: DeserializeOwned>(body: &[u8]) -> Result<T, Trouble> {
    let strange = |error| Trouble(REFUSED, format!("what answers there is not tcplb, or of another time: {error}"));
    serde_json::from_slice(body).map_err(strange)
}

fn show(line: impl std::fmt::Display) -> Result<(), Trouble> {
    // Nobody reads any more: what was asked for is done all the same.
    let _ = terminal::show(line);
    Ok(())
}
