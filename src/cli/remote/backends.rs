//! `tcplb backends …`: each subcommand is one call; with `--wait` it also polls until the last connection has ended.

use super::args::{Backends, Waiting, What, Which};
use super::client::Client;
use super::connections;
use super::{REFUSED, TIMED_OUT, Trouble, done, get, read, show, show_json, table, warn};
use crate::admin::{api, target};
use crate::cli::terminal;
use crate::pool::AdminState;
use serde::Serialize;
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

/// How often a waiting command polls.
const EVERY: Duration = Duration::from_millis(250);

/// How often it lists the connections that it waits for,
const LIST_EVERY: Duration = Duration::from_secs(5);
/// and how many of them.
const LISTED: usize = 10;

/// Runs the subcommand.
pub fn run(backends: &Backends) -> ExitCode {
    done(|| {
        let client = Client::new(&backends.reach)?;
        let Some(what) = &backends.what else { return list(&client, None, false) };
        match what {
            What::List { pool, json } => list(&client, pool.as_deref(), *json),
            What::Add { pool, address, weight, name, max_connections, backup } => {
                let new = api::NewBackend {
                    address: address.clone(),
                    weight: *weight,
                    name: name.clone(),
                    max_connections: *max_connections,
                    backup: backup.then_some(true),
                };
                let api::Changed { backend: added, warnings } =
                    read(&get(&client, "POST", &all(pool), Some(json(&new)))?)?;
                warn(&warnings);
                show(format!("{} added to pool {pool}, weight {}", added.name, added.weight))
            }
            What::Drain { which, waiting } => {
                let left = change(&client, which, set_state(AdminState::Draining))?.active_connections;
                if waiting.wait { wait(&client, which, waiting, left) } else { show(draining(which, left)) }
            }
            What::Enable { which } => said(&change(&client, which, set_state(AdminState::Enabled))?, "enabled"),
            What::Disable { which } => said(&change(&client, which, set_state(AdminState::Disabled))?, "disabled"),
            What::Weight { which, weight } => {
                let changed = api::Change { weight: Some(*weight), state: None };
                let now = change(&client, which, changed)?;
                show(format!("{} has weight {}", now.name, now.weight))
            }
            What::Remove { which, force, waiting } => {
                if waiting.wait {
                    let left = change(&client, which, set_state(AdminState::Draining))?.active_connections;
                    wait(&client, which, waiting, left)?;
                }
                let force = if *force { "?force=true" } else { "" };
                let was: api::BackendView = read(&get(&client, "DELETE", &format!("{}{force}", one(which)), None)?)?;
                show(format!("{} removed from pool {}", was.name, which.pool))
            }
        }
    })
}

fn list(client: &Client, pool: Option<&str>, json: bool) -> Result<(), Trouble> {
    let Some(pool) = pool else {
        let state: api::Status = read(&get(client, "GET", "/v1/status", None)?)?;
        if json {
            let pools = serde_json::to_string_pretty(&state.pools).unwrap_or_default();
            return show(pools);
        }
        for (index, pool) in state.pools.iter().enumerate() {
            show(format!("{}pool {}: {}", if index > 0 { "\n" } else { "" }, pool.name, pool.algorithm))?;
            show(table::backends(&pool.backends))?;
        }
        return Ok(());
    };
    let body = get(client, "GET", &all(pool), None)?;
    if json {
        return show_json::<Vec<api::BackendView>>(&body);
    }
    show(table::backends(&read::<Vec<api::BackendView>>(&body)?))
}

/// Polls until no connection is left. Each change of their number is a line on stderr. The oldest ones are listed there now
/// and then.
fn wait(client: &Client, which: &Which, waiting: &Waiting, mut left: u64) -> Result<(), Trouble> {
    let begun = Instant::now();
    let (mut reported, mut listed) = (None, None);
    while left > 0 {
        if reported != Some(left) {
            terminal::report(draining(which, left));
            reported = Some(left);
        }
        if listed.is_none_or(|at: Instant| at.elapsed() >= LIST_EVERY) {
            // A connection that has ended meanwhile is not missed.
            connections::left(client, &which.pool, &which.backend, LISTED).into_iter().for_each(terminal::report);
            listed = Some(Instant::now());
        }
        let over = waiting.timeout.map(|timeout| timeout.saturating_sub(begun.elapsed()));
        if over == Some(Duration::ZERO) {
            let timeout = humantime::format_duration(waiting.timeout.unwrap_or_default());
            return Err(Trouble(TIMED_OUT, format!("after {timeout} {}", draining(which, left))));
        }
        thread::sleep(over.map_or(EVERY, |over| over.min(EVERY)));
        let all: Vec<api::BackendView> = read(&get(client, "GET", &all(&which.pool), None)?)?;
        let Some(now) = all.iter().find(|backend| backend.name == which.backend) else {
            return show(format!("{} is gone: another API client removed it", which.backend));
        };
        left = now.active_connections;
        if now.state != "draining" && now.state != "disabled" {
            let why = format!("{} takes connections again: another API client changed its state", which.backend);
            return Err(Trouble(REFUSED, why));
        }
    }
    show(draining(which, 0))
}

fn draining(which: &Which, left: u64) -> String {
    let name = &which.backend;
    match left {
        0 => format!("{name} is drained: no connection is left"),
        1 => format!("{name} is draining: 1 connection left"),
        left => format!("{name} is draining: {left} connections left"),
    }
}

fn said(now: &api::BackendView, word: &str) -> Result<(), Trouble> {
    let state = if now.state == word { String::new() } else { format!(", now {}", now.state) };
    show(format!("{} {word}{state}", now.name))
}

fn set_state(state: AdminState) -> api::Change {
    api::Change { weight: None, state: Some(state) }
}

fn change(client: &Client, which: &Which, change: api::Change) -> Result<api::BackendView, Trouble> {
    let changed: api::Changed = read(&get(client, "PATCH", &one(which), Some(json(&change)))?)?;
    warn(&changed.warnings);
    Ok(changed.backend)
}

fn json(value: &impl Serialize) -> Vec<u8> {
    // Plain structs of text and numbers always serialize.
    serde_json::to_vec(value).unwrap_or_default()
}

fn all(pool: &str) -> String {
    format!("/v1/pools/{}/backends", target::encode(pool))
}

pub(super) fn one(which: &Which) -> String {
    format!("{}/{}", all(&which.pool), target::encode(&which.backend))
}
