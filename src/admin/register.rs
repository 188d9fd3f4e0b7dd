//! `POST /register`: a backend registers itself in the first pool.
//!
//! Answers follow JSend, and an unknown field is 403 here, not 400. The backend is probed before it is added: the
//! prober would mark a dead one down at once.

use super::alive::NotAlive;
use super::http::Response;
use super::routes::Call;
use super::{State, alive, api, changes};
use crate::config::model::Backend;
use crate::control::Refused;
use serde_json::Value;

const FIELDS: [&str; 2] = ["address", "weight"];

/// Why a backend is not registered.
#[derive(Debug)]
pub struct Rejected {
    /// The answer's status.
    pub status: u16,
    /// The message for people.
    pub title: String,
}

impl Rejected {
    /// The caller's mistake.
    fn bad(title: String) -> Rejected {
        Rejected { status: 400, title }
    }
}

/// Answers the call.
pub fn register(state: &State, call: &Call<'_>) -> Response {
    let (status, answer) = match registered(state, call.body) {
        Ok((server, weight)) => (200, ("success", api::RegisteredData::Success { server, weight })),
        Err(Rejected { status, title }) => (status, ("fail", api::RegisteredData::Fail { title })),
    };
    Response::json(status, &api::Registered { status: answer.0.to_owned(), data: answer.1 })
}

fn registered(state: &State, body: &[u8]) -> Result<(String, u16), Rejected> {
    let (backend, weight) = registration(body)?;
    let snapshot = state.published.snapshot();
    let pool = snapshot.pools.first().ok_or_else(|| Rejected::bad("there is no pool".to_owned()))?;
    let server = backend.address.to_string();
    alive::check(&backend.address, &pool.settings, snapshot.probe_header(&pool.settings, &backend)).map_err(|why| {
        let what = if let NotAlive::NoPort = why { "can't be probed" } else { "is not alive" };
        Rejected::bad(format!("{server} {what}: {why}"))
    })?;

    let pool = pool.settings.name.clone();
    let known = |state: &State| {
        let model = state.published.model();
        let pool = model.pools.iter().find(|candidate| candidate.name == pool)?;
        pool.backends
            .iter()
            .find(|known| known.address == backend.address)
            .map(|known| (known.name.clone(), known.weight))
    };
    let changed = match known(state) {
        Some((name, _)) => match weight {
            Some(weight) => state.remote.change_backend(&pool, &name, Some(weight), None),
            None => Ok(()),
        },
        None => match state.remote.add_backend(&pool, backend.clone()) {
            // Two calls registered the same backend at once, and the other one was faster.
            Err(Refused::Exists { name, .. }) if known(state).is_some_and(|(known, _)| known == name) => {
                state.remote.change_backend(&pool, &name, Some(backend.weight), None)
            }
            outcome => outcome,
        },
    };
    changed.map_err(|refused| Rejected { status: changes::refusal(&refused).status, title: refused.to_string() })?;
    let weight = known(state).map_or(backend.weight, |(_, weight)| weight);
    Ok((server, weight))
}

/// The backend that a body registers, and its weight if the body has one.
pub fn registration(body: &[u8]) -> Result<(Backend, Option<u16>), Rejected> {
    let api::Registration { address, weight } = read(body)?;
    let new = api::NewBackend { address, weight, ..api::NewBackend::default() };
    Ok((changes::backend(new).map_err(Rejected::bad)?, weight))
}

fn read(body: &[u8]) -> Result<api::Registration, Rejected> {
    let malformed = |why: &dyn std::fmt::Display| Rejected::bad(format!("the body is not as expected: {why}"));
    let value: Value = serde_json::from_slice(body).map_err(|error| malformed(&error))?;
    let fields = value.as_object().ok_or_else(|| malformed(&"it is no JSON object"))?;
    if let Some(unknown) = fields.keys().find(|key| !FIELDS.contains(&key.as_str())) {
        let title = format!("unknown field `{unknown}`: expected address and weight");
        return Err(Rejected { status: 403, title });
    }
    serde_json::from_value(value).map_err(|error| malformed(&error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_field_is_403_and_other_mistakes_are_400() {
        for (body, want) in [
            (r#"{"address":"a:1"}"#, None),
            (r#"{"address":"a:1","weight":5}"#, None),
            (r#"{"address":"a:1","weight":null}"#, Some(400)),
            (r#"{"address":"a:1","wieght":5}"#, Some(403)),
            (r#"{"wieght":5}"#, Some(403)),
            (r#"{"weight":5}"#, Some(400)),
            (r#"{"address":1}"#, Some(400)),
            (r#"{"address":"a:1","weight":65536}"#, Some(400)),
            (r#"{"address":"a:1","weight":-1}"#, Some(400)),
            (r#"{"address":"a:1","weight":1.5}"#, Some(400)),
            (r#"["a:1"]"#, Some(400)),
            ("", Some(400)),
            ("{", Some(400)),
            ("{} {}", Some(400)),
        ] {
            assert_eq!(read(body.as_bytes()).err().map(|rejected| rejected.status), want, "{body}");
        }
    }
}
