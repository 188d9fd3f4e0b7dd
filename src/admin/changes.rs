//! Calls about the backends of a pool, and the reload: JSON in, a command to control, its answer as JSON.

use super::http::Response;
use super::routes::Call;
use super::{State, api, status, target};
use crate::base::Address;
use crate::clock;
use crate::config::file::place::Remark;
use crate::config::{advice, check, model};
use crate::control::{Refused, ReloadError, Reloaded};
use crate::pool::{AdminState, Pool};
use crate::preflight;
use serde::de::DeserializeOwned;
use std::sync::Arc;

/// `GET /v1/pools/P/backends`.
pub fn list(state: &State, call: &Call<'_>) -> Response {
    match pool(state, call.name(0)) {
        Ok(pool) => Response::json(200, &status::backends(&pool, clock::now())),
        Err(refusal) => refusal,
    }
}

/// `POST /v1/pools/P/backends`.
pub fn add(state: &State, call: &Call<'_>) -> Response {
    let name = call.name(0);
    let added = || {
        pool(state, name)?;
        let backend = new_backend(call.body)?;
        let added = backend.name.clone();
        state.remote.add_backend(name, backend).map_err(|refused| refusal(&refused))?;
        let location = format!("/v1/pools/{}/backends/{}", target::encode(name), target::encode(&added));
        Ok(shown(state, 201, name, &added, true).with("Location", location))
    };
    added().unwrap_or_else(|refusal| refusal)
}

/// `PATCH /v1/pools/P/backends/B`.
pub fn change(state: &State, call: &Call<'_>) -> Response {
    let (pool, name) = (call.name(0), call.name(1));
    let changed = || {
        known(state, pool, name)?;
        let (weight, admin_state) = weight_and_state(call.body)?;
        state.remote.change_backend(pool, name, weight, admin_state).map_err(|refused| refusal(&refused))?;
        Ok(shown(state, 200, pool, name, weight.is_some()))
    };
    changed().unwrap_or_else(|refusal| refusal)
}

/// `DELETE /v1/pools/P/backends/B`.
pub fn remove(state: &State, call: &Call<'_>) -> Response {
    let (pool, name) = (call.name(0), call.name(1));
    let removed = || {
        let before = known(state, pool, name)?;
        state.remote.remove_backend(pool, name, call.has("force")).map_err(|refused| refusal(&refused))?;
        Ok(Response::json(200, &before))
    };
    removed().unwrap_or_else(|refusal| refusal)
}

/// `POST /v1/reload`.
pub fn reload(state: &State, call: &Call<'_>) -> Response {
    let dry_run = call.has("dry_run");
    match state.remote.reload_to_model(dry_run) {
        Ok(Reloaded { changes, model }) => {
            let generation = state.published.snapshot().generation;
            let changes = changes.0.iter().map(ToString::to_string).collect();
            let mut warnings: Vec<String> = advice::of(&model).iter().map(Remark::to_string).collect();
            if dry_run {
                let running = state.published.model();
                let of_start = preflight::warnings(&model, &preflight::Before::Reload { running: &running });
                warnings.extend(of_start.iter().map(Remark::to_string));
            }
            if !dry_run {
                warnings.extend(behind(state));
            }
            Response::json(200, &api::Reloaded { dry_run, generation, changes, warnings })
        }
        Err(ReloadError::Draining) => Response::error(409, ReloadError::Draining.to_string()),
        Err(ReloadError::Gone) => Response::error(503, ReloadError::Gone.to_string()),
        Err(error) => {
            let mistakes = match &error {
                ReloadError::Mistakes(mistakes) => mistakes.clone(),
                other => vec![other.to_string()],
            };
            Response::json(400, &api::NotReloaded { error: error.to_string(), mistakes })
        }
    }
}

/// Parses the body of a request that adds a backend.
pub fn new_backend(body: &[u8]) -> Result<model::Backend, Response> {
    backend(read(body)?).map_err(|why| Response::error(400, why))
}

/// Parses the body of a change: a weight, a state, or both.
pub fn weight_and_state(body: &[u8]) -> Result<(Option<u16>, Option<AdminState>), Response> {
    let api::Change { weight, state } = read(body)?;
    if weight.is_none() && state.is_none() {
        return Err(Response::error(400, "expected `weight`, `state` or both"));
    }
    Ok((weight, state))
}

/// Parses a body as a JSON object. serde alone would also accept an array, field by field.
fn read<T: DeserializeOwned>(body: &[u8]) -> Result<T, Response> {
    if body.trim_ascii_start().first().is_some_and(|first| *first != b'{') {
        return Err(Response::error(400, "the body is not as expected: it is no JSON object"));
    }
    serde_json::from_slice(body).map_err(|error| Response::error(400, format!("the body is not as expected: {error}")))
}

/// Converts and checks a backend as the API describes it.
pub fn backend(new: api::NewBackend) -> Result<model::Backend, String> {
    let api::NewBackend { address, weight, name, max_connections, backup } = new;
    let address = Address::parse_backend(&address).map_err(|why| format!("address: {why}"))?;
    let mut backend = model::Backend::at(address);
    if let Some(name) = name {
        check::name(&name).map_err(|why| format!("name: {why}"))?;
        backend.name = name;
    }
    if max_connections == Some(0) {
        return Err("max_connections: expected a number, at least 1, got 0".to_owned());
    }
    backend.weight = weight.unwrap_or(backend.weight);
    backend.max_connections = max_connections;
    backend.backup = backup.unwrap_or(false);
    Ok(backend)
}

fn pool(state: &State, name: &str) -> Result<Arc<Pool>, Response> {
    let found = state.published.snapshot().pool(name).cloned();
    found.ok_or_else(|| refusal(&Refused::NoPool(name.to_owned())))
}

/// The backend's current state, or 404.
fn known(state: &State, pool_name: &str, name: &str) -> Result<api::BackendView, Response> {
    let found = status::find(&*pool(state, pool_name)?, name, clock::now());
    found.ok_or_else(|| refusal(&Refused::NoBackend { pool: pool_name.to_owned(), name: name.to_owned() }))
}

/// The backend's current state, or 404 if another call has removed it since. `warn` adds the warnings about the pool's
/// weights.
fn shown(state: &State, status: u16, pool: &str, name: &str, warn: bool) -> Response {
    let warnings = if warn { advice::of_pool_called(&state.published.model(), pool) } else { Vec::new() };
    let warnings = warnings.iter().map(Remark::to_string).chain(behind(state)).collect();
    let changed = |backend| api::Changed { backend, warnings };
    known(state, pool, name).map_or_else(|refusal| refusal, |backend| Response::json(status, &changed(backend)))
}

/// A warning if the kernel has not taken the last change.
fn behind(state: &State) -> Option<String> {
    let why = state.published.kernel().problem()?;
    Some(format!(
        "listeners with engine = \"kernel\" do not have this change yet; the kernel keeps its last rules: {why}"
    ))
}

/// The answer to a command that control refused.
pub fn refusal(refused: &Refused) -> Response {
    let status = match refused {
        Refused::NoPool(_) | Refused::NoBackend { .. } => 404,
        Refused::Exists { .. } | Refused::Discovered { .. } | Refused::Draining | Refused::Upgrading => 409,
        Refused::Invalid(_) => 400,
        Refused::Gone => 503,
    };
    Response::error(status, refused.to_string())
}
