//! Calls about connections: which are open, and the order to close some. The workers answer ([`crate::inspect`]).

use super::http::Response;
use super::routes::Call;
use super::{State, api};
use crate::base::Tick;
use crate::base::text::counted;
use crate::clock;
use crate::config::settings::kinds;
use crate::inspect::{self, Action, Filter, Joined, LIMIT_MAX, Question, Row, Sort};
use crate::session::ConnectionId;
use serde::{Serialize, Serializer};

/// The parameters that choose connections, for the table of calls.
pub const FILTERS: [(&str, &str); 4] = [
    ("listener", "Only those of this listener."),
    ("pool", "Only those of this pool."),
    ("backend", "Only those with a backend of this name."),
    ("client", "Only those of this IP address, or of addresses with this prefix."),
];

/// The parameters of a list.
pub const OF_LIST: [(&str, &str); 6] = [
    FILTERS[0],
    FILTERS[1],
    FILTERS[2],
    FILTERS[3],
    ("limit", "The most connections to list, 1 to 100000 (default 1000)."),
    (
        "sort",
        "Which come first: age (the oldest, the default), bytes (those that moved the most), idle (the longest silent).",
    ),
];

/// `GET /v1/connections`.
pub fn list(state: &State, call: &Call<'_>) -> Response {
    let listed = || {
        let sort = sort(call.value("sort"))?;
        let limit = limit(call.value("limit"))?;
        Ok(Question { filter: filter(call)?, action: Action::List { sort, limit } })
    };
    listed().map_or_else(wrong, |question| rows(state, question))
}

/// `GET /v1/connections/ID`.
pub fn show(state: &State, call: &Call<'_>) -> Response {
    let Some(id) = id(call) else { return unknown(call) };
    let action = Action::List { sort: Sort::Age, limit: 1 };
    let joined = ask(state, Question { filter: only(id), action });
    match joined.rows.first() {
        Some(row) => Response::json(200, &connection(row, clock::now())),
        None => silence(&joined, MISSING).map_or_else(|| unknown(call), |why| Response::error(503, why)),
    }
}

/// `DELETE /v1/connections`.
pub fn close_many(state: &State, call: &Call<'_>) -> Response {
    match filter(call) {
        Ok(filter) if filter == Filter::default() => {
            let names = FILTERS.map(|(name, _)| name).join(", ");
            wrong(format!("expected at least one of {names}: without any, every client would be reset"))
        }
        Ok(filter) => closed(&order(state, filter)),
        Err(why) => wrong(why),
    }
}

/// `DELETE /v1/connections/ID`.
pub fn close(state: &State, call: &Call<'_>) -> Response {
    let Some(id) = id(call) else { return unknown(call) };
    let joined = order(state, only(id));
    if joined.closed == 0 && joined.silent.is_empty() { unknown(call) } else { closed(&joined) }
}

/// Closes what the filter means, and logs it: the access log does not say by what a connection was forced to end.
fn order(state: &State, filter: Filter) -> Joined {
    let meant = filter.to_string();
    let joined = ask(state, Question { filter, action: Action::Close });
    if joined.closed > 0 {
        log::info!("{} closed by a call of the admin API: {meant}", counted(joined.closed, "connection"));
    }
    joined
}

fn ask(state: &State, question: Question) -> Joined {
    inspect::ask(&*state.workers, question, clock::now)
}

fn rows(state: &State, question: Question) -> Response {
    let joined = ask(state, question);
    let now = clock::now();
    match silence(&joined, MISSING) {
        None => Response::json(200, &Listed(&joined.rows, now)),
        Some(error) => {
            let connections = joined.rows.iter().map(|row| connection(row, now)).collect();
            Response::json(503, &api::SomeConnections { error, connections })
        }
    }
}

/// A list as JSON. 100 000 connections take much memory, so there is only one [`api::Connection`] at a time.
struct Listed<'a>(&'a [Row], Tick);

impl Serialize for Listed<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.iter().map(|row| connection(row, self.1)))
    }
}

fn closed(joined: &Joined) -> Response {
    let closed = joined.closed;
    match silence(joined, STAY_OPEN) {
        None => Response::json(200, &api::Closed { closed }),
        Some(error) => Response::json(503, &api::SomeClosed { error, closed }),
    }
}

/// What the silence of a worker means for a list,
const MISSING: &str = "its connections are missing here";
/// and for an order to close.
const STAY_OPEN: &str = "its connections may still be open";

/// Names the workers that are silent, if there are any.
fn silence(joined: &Joined, consequence: &str) -> Option<String> {
    let name = |number: &usize| match *number {
        inspect::KERNEL => "the kernel's table".to_owned(),
        number => format!("worker-{number}"),
    };
    let names: Vec<String> = joined.silent.iter().map(name).collect();
    (!names.is_empty()).then(|| format!("does not respond: {} ({consequence})", names.join(", ")))
}

fn wrong(why: String) -> Response {
    Response::error(400, why)
}

fn unknown(call: &Call<'_>) -> Response {
    Response::error(404, format!("no connection has the number `{}`; it may have ended", call.name(0)))
}

fn id(call: &Call<'_>) -> Option<ConnectionId> {
    call.name(0).parse().ok().map(ConnectionId)
}

fn only(id: ConnectionId) -> Filter {
    Filter { id: Some(id), ..Filter::default() }
}

fn filter(call: &Call<'_>) -> Result<Filter, String> {
    let name = |key: &str| match call.value(key) {
        Some("") => Err(format!("{key}: expected a name, got nothing")),
        value => Ok(value.map(str::to_owned)),
    };
    let client = call.value("client").map(kinds::prefix).transpose().map_err(|why| format!("client: {why}"))?;
    Ok(Filter { id: None, listener: name("listener")?, pool: name("pool")?, backend: name("backend")?, client })
}

fn limit(given: Option<&str>) -> Result<usize, String> {
    let Some(text) = given else { return Ok(api::LISTED) };
    let number = text.parse().ok().filter(|number| (1..=LIMIT_MAX).contains(number));
    number.ok_or_else(|| format!("limit: expected a number from 1 to {LIMIT_MAX}, got `{text}`"))
}

fn sort(given: Option<&str>) -> Result<Sort, String> {
    let Some(text) = given else { return Ok(Sort::default()) };
    let found = Sort::NAMES.iter().find(|(name, _)| *name == text).map(|(_, sort)| *sort);
    found.ok_or_else(|| format!("sort: expected {}, got `{text}`", Sort::NAMES.map(|(name, _)| name).join(" or ")))
}

fn connection(row: &Row, now: Tick) -> api::Connection {
    api::Connection {
        id: row.id.0,
        listener: row.listener.name.clone(),
        pool: row.pool.settings.name.clone(),
        backend: row.backend.as_ref().map(|backend| backend.name.clone()),
        backend_port: row.backend_port,
        client: row.client.as_ref().map(ToString::to_string),
        engine: row.engine.word().to_owned(),
        age_seconds: row.since.map(|since| (now - since).as_secs()),
        idle_seconds: row.last_byte.map(|last| (now - last).as_secs()),
        bytes_to_backend: row.bytes_to_backend,
        bytes_to_client: row.bytes_to_client,
        state: row.state.to_owned(),
        protocol: row.protocol.map(|protocol| protocol.word().to_owned()),
        sni: row.server_name.as_deref().map(str::to_owned),
        route: row.route.as_deref().map(str::to_owned),
        rtt_ms: row.round_trip.map(|time| (time.as_secs_f64() * 1e6).round() / 1e3),
    }
}
