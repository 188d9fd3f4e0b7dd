//! `GET /v1/events`: what changed, and the wait for the next change.
//!
//! | `since` | the answer |
//! |---|---|
//! | absent, or 0 | all events that are kept |
//! | the number of an event | those after it |
//! | older than those that are kept | those that are kept: their first number shows the gap |
//! | beyond the last event | all that are kept: the number is from an earlier process |
//!
//! With `last=N` the answer has only the last N of these.
//!
//! With `wait`, a call without news waits for the next event. The accepting thread keeps it ([`super::server`]).

use super::http::Response;
use super::routes::Call;
use super::{State, api, status};
use crate::base::duration;
use crate::events::{Event, KEPT, Recorded};
use std::time::Duration;

/// The longest wait.
pub const WAIT_MAX: Duration = Duration::from_secs(300);

/// The most events that the accepting thread turns into an answer.
const SHORT: usize = 8;

/// What a call asks for.
struct Parameters {
    /// The number of the last event that the caller has seen.
    since: u64,
    /// At most so many events.
    last: usize,
    wait: Duration,
}

/// `GET /v1/events`, once it need not wait.
pub fn list(state: &State, call: &Call<'_>) -> Response {
    let asked = match parameters(call) {
        Ok(asked) => asked,
        Err(why) => return Response::error(400, why),
    };
    let (events, next) = state.published.events().since(asked.since, asked.last);
    let (started, events) = (status::started(&state.published), events.iter().map(|event| shown(event)).collect());
    Response::json(200, &api::Events { started, events, next })
}

/// Whether few events are lacking. A caller that waits has the end of the process, too, without a thread.
pub fn is_short(state: &State, call: &Call<'_>) -> bool {
    parameters(call).is_ok_and(|asked| state.published.events().lacking(asked.since).min(asked.last) <= SHORT)
}

/// How long the call waits for the next event.
pub fn waits(state: &State, call: &Call<'_>) -> Option<Duration> {
    let Parameters { since, wait, .. } = parameters(call).ok()?;
    (!wait.is_zero() && state.published.events().awaits(since)).then_some(wait)
}

fn parameters(call: &Call<'_>) -> Result<Parameters, String> {
    let since = match call.value("since") {
        None => 0,
        Some(text) => text.parse().map_err(|_| format!("since: expected the number of an event, got `{text}`"))?,
    };
    let last = match call.value("last") {
        None => KEPT,
        Some(text) => {
            let number = text.parse().ok().filter(|number| (1..=KEPT).contains(number));
            number.ok_or_else(|| format!("last: expected a number from 1 to {KEPT}, got `{text}`"))?
        }
    };
    let wait = match call.value("wait") {
        None => Duration::ZERO,
        Some(text) => duration::parse(text).map_err(|why| format!("wait: {why}"))?,
    };
    if wait > WAIT_MAX {
        return Err(format!("wait: expected at most {}, got {}", duration::written(WAIT_MAX), duration::written(wait)));
    }
    Ok(Parameters { since, last, wait })
}

fn shown(recorded: &Recorded) -> api::Event {
    let Recorded { seq, at, event: Event { kind, by, pool, backend, from, to, reason } } = recorded;
    api::Event {
        seq: *seq,
        time: humantime::format_rfc3339_millis(*at).to_string(),
        kind: kind.word().to_owned(),
        pool: pool.clone(),
        backend: backend.clone(),
        from: from.clone(),
        to: to.clone(),
        reason: reason.clone(),
        by: by.word().into_owned(),
    }
}
