//! `tcplb connections`: lists open connections once or each second, and closes some.

use super::args::Connections;
use super::client::Client;
use super::{REFUSED, Trouble, done, get, read, show, table, warn};
use crate::admin::{api, target};
use crate::base::nearest;
use crate::base::text::counted;
use crate::cli::terminal;
use crossbeam_channel::{RecvTimeoutError, bounded};
use std::io::{self, IsTerminal};
use std::process::ExitCode;
use std::time::Duration;

/// How often `--watch` asks.
const EVERY: Duration = Duration::from_secs(1);

/// Rows that `--kill` shows of what it is about to close.
const SHOWN: usize = 20;

/// Runs the command.
pub fn run(connections: &Connections) -> ExitCode {
    done(|| {
        let client = Client::new(&connections.reach)?;
        if connections.kill {
            kill(&client, connections)
        } else if connections.watch {
            watch(&client, connections)
        } else {
            list(&client, connections)
        }
    })
}

fn list(client: &Client, connections: &Connections) -> Result<(), Trouble> {
    let path = path(connections, connections.limit);
    if connections.json {
        let body = get(client, "GET", &path, None)?;
        if body == b"[]" {
            there_are(client, connections)?;
        }
        return show(String::from_utf8_lossy(&body).trim_end());
    }
    let (rows, missing) = rows(client, &path)?;
    if rows.is_empty() {
        there_are(client, connections)?;
    }
    show(frame(&rows, connections))?;
    missing.map_or(Ok(()), Err)
}

/// Fails if a filter names what is not there. Only an empty list needs it: a backend that was removed may have connections.
fn there_are(client: &Client, connections: &Connections) -> Result<(), Trouble> {
    let Connections { listener, pool, backend, .. } = connections;
    if [listener, pool, backend].into_iter().all(Option::is_none) {
        return Ok(());
    }
    let api::Status { listeners, pools, .. } = read(&get(client, "GET", "/v1/status", None)?)?;
    let backends = || pools.iter().flat_map(|pool| &pool.backends).map(|backend| backend.name.as_str());
    there_is("listener", listener, listeners.iter().map(|listener| listener.name.as_str()))?;
    there_is("pool", pool, pools.iter().map(|pool| pool.name.as_str()))?;
    match pool {
        None => there_is("backend", backend, backends()),
        Some(name) => {
            let of = pools.iter().filter(|pool| pool.name == *name).flat_map(|pool| &pool.backends);
            let what = format!("backend of pool {name}");
            there_is(&what, backend, of.map(|backend| backend.name.as_str()))
        }
    }
}

fn there_is<'a>(
    what: &str,
    name: &Option<String>,
    known: impl Iterator<Item = &'a str> + Clone,
) -> Result<(), Trouble> {
    let Some(name) = name.as_deref().filter(|name| !known.clone().any(|known| known == *name)) else { return Ok(()) };
    Err(Trouble(REFUSED, format!("there is no {what} called `{name}`{}", nearest::hint(name, known))))
}

/// Shows the list each second, until Ctrl-C or until stdout has no reader.
fn watch(client: &Client, connections: &Connections) -> Result<(), Trouble> {
    let (stop, stopped) = bounded(1);
    let cannot = |error| Trouble(REFUSED, format!("can't handle Ctrl-C: {error}"));
    // Full: a stop that has not been taken ends it too.
    ctrlc::set_handler(move || stop.try_send(()).unwrap_or_default()).map_err(cannot)?;
    let clear = if io::stdout().is_terminal() { "\x1b[H\x1b[J" } else { "" };
    loop {
        // Two lines are for the head and what is below the table.
        let height = terminal::rows().map(|rows| usize::from(rows).saturating_sub(3).max(1));
        let limit = connections.limit.or(height.and_then(|rows| u32::try_from(rows).ok()));
        let (rows, missing) = rows(client, &path(connections, limit))?;
        let missing = missing.map(|Trouble(_, why)| format!("{why}\n")).unwrap_or_default();
        let gap = if clear.is_empty() { "\n" } else { "" };
        let frame = format!("{clear}{}\n{missing}{gap}", frame(&rows, connections));
        if terminal::write(frame.as_bytes()).is_err() || stopped.recv_timeout(EVERY) != Err(RecvTimeoutError::Timeout) {
            return Ok(());
        }
    }
}

/// Shows what the filters choose, asks for consent on a terminal, and closes it.
fn kill(client: &Client, connections: &Connections) -> Result<(), Trouble> {
    if !connections.json {
        let (rows, missing) = rows(client, &path(connections, None))?;
        if rows.is_empty() && missing.is_none() {
            there_are(client, connections)?;
            return show("no connection matches");
        }
        show(table::connections(&rows[..rows.len().min(SHOWN)]))?;
        if rows.len() > SHOWN {
            let or_more = if rows.len() >= LIMIT { "or more" } else { "more" };
            show(format!("… and {} {or_more}", rows.len() - SHOWN))?;
        }
        missing.into_iter().for_each(|Trouble(_, why)| warn(&[why]));
    }
    if !connections.yes && io::stdin().is_terminal() && !terminal::consents("Close them? [y/N] ") {
        return show(if connections.json { r#"{"closed":0}"# } else { "nothing is closed" });
    }
    let body = get(client, "DELETE", &path(connections, None), None)?;
    if connections.json {
        return show(String::from_utf8_lossy(&body).trim_end());
    }
    let api::Closed { closed } = read(&body)?;
    show(format!("{} closed", counted(closed, "connection")))
}

/// A table of the oldest connections of a backend: what a drain waits for.
pub(super) fn left(client: &Client, pool: &str, backend: &str, limit: usize) -> Result<String, Trouble> {
    let limit = limit.to_string();
    let parameters = [("pool", Some(pool)), ("backend", Some(backend)), ("limit", Some(&*limit))];
    let (rows, _) = rows(client, &target::query("/v1/connections", parameters))?;
    Ok(table::connections(&rows))
}

/// Rows of a list that names no limit.
const LIMIT: usize = api::LISTED;

fn frame(rows: &[api::Connection], connections: &Connections) -> String {
    let table = table::connections(rows);
    let more = rows.len() >= LIMIT && connections.limit.is_none();
    if more { format!("{table}\nthese are the first {LIMIT}; --limit lists more") } else { table }
}

/// The connections; where a worker does not respond, those of the others, and the error.
fn rows(client: &Client, path: &str) -> Result<(Vec<api::Connection>, Option<Trouble>), Trouble> {
    let (status, body) = client.ask("GET", path, None)?;
    if status == 503
        && let Ok(api::SomeConnections { error, connections }) = serde_json::from_slice(&body)
    {
        return Ok((connections, Some(Trouble(REFUSED, error))));
    }
    let body = super::successful(status, body)?;
    // One connection is an object, several are an array.
    let rows = if body.trim_ascii_start().starts_with(b"{") { vec![read(&body)?] } else { read(&body)? };
    Ok((rows, None))
}

/// The call's path: for a list with `limit` and the order, for an order to close without.
fn path(connections: &Connections, limit: Option<u32>) -> String {
    let Connections { id, listener, pool, backend, client, sort, .. } = connections;
    if let Some(id) = id {
        return format!("/v1/connections/{id}");
    }
    let limit = limit.map(|limit| limit.to_string());
    let parameters = [
        ("listener", listener),
        ("pool", pool),
        ("backend", backend),
        ("client", client),
        ("limit", &limit),
        ("sort", sort),
    ];
    target::query("/v1/connections", parameters.map(|(key, value)| (key, value.as_deref())))
}
