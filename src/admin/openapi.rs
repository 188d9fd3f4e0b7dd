//! The OpenAPI document: paths from the table of calls, schemas from this file.
//!
//! A test in `tests/features/admin` compares each schema with the answers of the running process.

use super::routes::{Content, Route};
use crate::config::model::{ListenerEngine, Probe, defaults};
use crate::config::words::Words;
use crate::session::Live;
use crate::telemetry::recent::HISTORY;
use serde_json::{Map, Value, json};

/// The OpenAPI document of these routes.
pub fn document(routes: &[Route]) -> Value {
    let mut paths = Map::new();
    for route in routes {
        let path = paths.entry(route.path).or_insert_with(|| json!({}));
        if let Some(path) = path.as_object_mut() {
            path.insert(route.method.to_ascii_lowercase(), operation(route));
        }
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "tcplb admin API",
            "version": env!("CARGO_PKG_VERSION"),
            "license": { "name": "MIT OR Apache-2.0" },
        },
        "paths": paths,
        "components": {
            "schemas": schemas(),
            "securitySchemes": { "token": { "type": "http", "scheme": "bearer" } },
        },
        // Without --admin-token-file, calls need no token.
        "security": [{}, { "token": [] }],
    })
}

fn operation(route: &Route) -> Value {
    let mut answers = Map::new();
    for (status, meaning, content) in route.answers {
        answers.insert(status.to_string(), json!({ "description": meaning, "content": content_of(*content) }));
    }
    let error = content_of(Content::Json("Error"));
    let mut common = |status: &str, meaning: &str| {
        let answer = json!({ "description": meaning, "content": error });
        answers.entry(status).or_insert(answer);
    };
    if !route.open {
        common("401", "The token is missing or wrong.");
        common("403", "Without a token: the call comes from a web page of another origin.");
    }
    if !route.switches.is_empty() || !route.values.is_empty() || route.body.is_some() {
        common("400", "The request is wrong; the error says why.");
    }
    common("default", "Too large (413, 431), too slow (408), too many at once (503), or malformed HTTP.");
    let switch = |(name, meaning): &(&str, &str)| {
        let schema = json!({ "type": "boolean", "default": false });
        json!({ "name": name, "in": "query", "description": meaning, "required": false, "schema": schema })
    };
    let value = |(name, meaning): &(&str, &str)| {
        let schema = json!({ "type": "string", "minLength": 1 });
        json!({ "name": name, "in": "query", "description": meaning, "required": false, "schema": schema })
    };
    let name = |name: &str| {
        let schema = json!({ "type": "string", "minLength": 1 });
        json!({ "name": name, "in": "path", "description": "Its name.", "required": true, "schema": schema })
    };
    let names = route.path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'));
    let after = route.switches.iter().map(switch).chain(route.values.iter().map(value));
    let parameters: Vec<Value> = names.map(name).chain(after).collect();
    let mut operation = json!({
        "operationId": format!("{} {}", route.method, route.path),
        "summary": route.summary,
        "parameters": parameters,
        "responses": answers,
    });
    if let Some(schema) = route.body {
        operation["requestBody"] = json!({ "required": true, "content": content_of(Content::Json(schema)) });
    }
    if route.open {
        operation["security"] = json!([]);
    }
    operation
}

fn content_of(content: Content) -> Value {
    let schema = match content {
        Content::Json(name) => reference(name),
        Content::Many(name) => json!({ "type": "array", "items": reference(name) }),
        Content::Either(one, other) => json!({ "anyOf": [reference(one), reference(other)] }),
        Content::Object => json!({ "type": "object" }),
        Content::Other(media) => return json!({ media: { "schema": { "type": "string" } } }),
    };
    json!({ "application/json": { "schema": schema } })
}

fn reference(name: &str) -> Value {
    json!({ "$ref": format!("#/components/schemas/{name}") })
}

/// The schema of an object with exactly these fields.
fn object(properties: Value) -> Value {
    let required: Vec<&String> = properties.as_object().map(|all| all.keys().collect()).unwrap_or_default();
    json!({ "type": "object", "required": required, "additionalProperties": false, "properties": properties })
}

/// The schema of a body, of whose fields only some are required.
fn body(required: &[&str], properties: Value) -> Value {
    let mut schema = object(properties);
    schema["required"] = json!(required);
    schema
}

fn schemas() -> Value {
    let text = json!({ "type": "string" });
    let count = json!({ "type": "integer", "minimum": 0 });
    let flag = json!({ "type": "boolean" });
    let weight = json!({ "type": "integer", "minimum": 0, "maximum": 65535 });
    let optional = |mut schema: Value, default: Value| {
        schema["default"] = default;
        schema
    };
    let address = json!({
        "type": "string",
        "description": "127.0.0.1:80, [::1]:80, name:80 or unix:/path",
        "pattern": "^.+:.+$",
        "examples": ["127.0.0.1:8081"],
    });
    let name = json!({
        "type": "string",
        "description": "The default is the address. No white space or invisible characters, at most 128 bytes.",
        "minLength": 1,
        "maxLength": 128,
        "pattern": "^[^\\s\\u0000-\\u001f\\u007f-\\u009f]+$",
    });
    let limit = json!({ "type": "integer", "minimum": 1, "maximum": u32::MAX });
    let states = json!({ "type": "string", "enum": ["enabled", "draining", "disabled"] });
    let mut change = body(&[], json!({ "weight": weight, "state": states }));
    change["minProperties"] = json!(1);
    let many = |name: &str| json!({ "type": "array", "items": reference(name) });
    let lines = json!({ "type": "array", "items": text });
    let seconds = json!({ "type": "number", "minimum": 0 });
    let maybe = |kind: &str| json!({ "type": [kind, "null"], "minimum": 0 });
    let maybe_text = json!({ "type": ["string", "null"] });
    let counts = json!({ "type": "object", "additionalProperties": count });
    let history = json!({ "type": "array", "items": seconds, "maxItems": HISTORY });
    let level = json!({ "type": "string", "enum": ["ok", "warning", "critical"] });
    let backend = object(json!({
        "name": text, "address": text, "origin": text, "weight": weight, "effective_weight": seconds, "backup": flag,
        "state": { "type": "string", "enum": ["up", "down", "draining", "disabled"] }, "reason": maybe_text,
        "summary": text, "urgency": { "type": "string", "enum": [
            "down_with_clients", "down", "failing", "at_limit", "near_limit", "set_aside", "up",
        ] },
        "active_connections": count, "connections_limit": maybe("integer"), "warm_connections": maybe("integer"),
        "connections_total": count, "connect_failures_total": count,
        "bytes_to_backend_total": count, "bytes_to_client_total": count,
        "connect_ms": reference("Millis"), "first_byte_ms": reference("Millis"),
        "rtt_ms": maybe("number"), "retransmits_total": count, "closed": counts,
        "resets": { "anyOf": [{ "type": "null" }, object(json!({ "resets": count, "ended": count }))] },
        "recent": reference("Recent"), "history": history,
        "health": object(json!({
            "last_result": maybe_text, "last_change_seconds": maybe("integer"),
            "since": { "type": ["string", "null"], "format": "date-time" }, "transition": maybe_text,
        })),
        "addresses": many("BackendAddress"),
    }));
    let engine =
        json!({ "type": "string", "enum": ListenerEngine::NAMES.iter().map(|(word, _)| *word).collect::<Vec<_>>() });
    let mut connection = object(json!({
        "id": count, "listener": text, "pool": text, "backend": maybe_text, "client": maybe_text,
        "engine": engine, "age_seconds": maybe("integer"), "idle_seconds": maybe("integer"),
        "bytes_to_backend": count, "bytes_to_client": count,
        "state": { "type": "string", "enum": Live::STATES },
        "sni": maybe_text, "route": maybe_text, "rtt_ms": maybe("number"),
    }));
    // Only where the port of the backend depends on the client's.
    connection["properties"]["backend_port"] = count.clone();
    // Only where a route looks for it.
    connection["properties"]["protocol"] = text.clone();
    let mut changed = backend.clone();
    changed["properties"]["warnings"] = lines.clone();
    let mut process = object(json!({
        "connections": count, "connections_limit": count,
        "descriptors": maybe("integer"), "descriptors_limit": maybe("integer"),
        "ports_used": count, "ports_limit": maybe("integer"), "loop_lag_ms": reference("Millis"),
        "log_lines_lost_total": count, "log_lines_lost_recently": count,
        "access_log_lines_lost_total": count, "access_log_lines_lost_recently": count,
        "stuck_threads": lines,
        "last_reload": { "anyOf": [
            { "type": "null" },
            body(&["success", "age_seconds"], json!({ "success": flag, "age_seconds": count, "error": text })),
        ] },
    }));
    // Only with a listener whose connections the kernel carries.
    let mut kernel = object(json!({
        "entries": count, "table_entries": count, "table_max": count, "changes_total": count, "failures_total": count,
        "lacks": lines,
    }));
    kernel["properties"]["problem"] = text.clone();
    process["properties"]["kernel"] = kernel;
    let mut event = object(json!({
        "seq": { "type": "integer", "minimum": 1 }, "time": text, "kind": text, "pool": text, "backend": text,
        "from": text, "to": text, "reason": text, "by": text,
    }));
    event["required"] = json!(["seq", "time", "kind", "by"]);
    json!({
        "Error": object(json!({ "error": text })),
        "Line": text,
        "Status": object(json!({
            "version": text, "started": text, "uptime_seconds": count, "generation": count,
            "state": { "type": "string", "enum": ["running", "draining"] },
            "verdict": object(json!({ "level": level, "text": text })),
            "findings": many("Finding"), "process": reference("Process"),
            "listeners": many("Listener"), "pools": many("Pool"),
        })),
        "Listener": object(json!({
            "name": text, "engine": engine, "address": text, "pool": text,
            "active_connections": count, "connections_limit": maybe("integer"),
            "accepted_total": count, "refused_total": count, "refused": counts,
            "recent": object(json!({
                "seconds": seconds, "accepted_per_second": seconds, "refused_per_second": seconds,
            })),
            "history": history,
        })),
        "Pool": object(json!({
            "name": text, "algorithm": text, "state": { "type": "string", "enum": ["up", "degraded", "down"] },
            "waiting": count, "speaks_first": flag, "recent": reference("Recent"), "history": history,
            "discovery": many("Source"), "names": many("Name"), "backends": many("Backend"),
        })),
        "Name": object(json!({
            "name": text, "ok": flag, "last_success_seconds": maybe("integer"), "failing_seconds": maybe("integer"),
            "errors_total": count, "last_error": maybe_text,
        })),
        "Source": object(json!({
            "source": text, "watches": text, "ok": flag, "last_success_seconds": maybe("integer"), "backends": count,
            "errors_total": count, "last_error": maybe_text, "entries_left_out": count, "left_out": lines,
            "kept": count, "kept_because": maybe_text,
        })),
        "Finding": body(&["level", "text"], json!({
            "level": level, "pool": text, "backend": text, "listener": text, "text": text,
        })),
        "Process": process,
        "Millis": object(json!({ "p50": maybe("number"), "p99": maybe("number") })),
        "Recent": object(json!({
            "seconds": seconds, "connections_per_second": seconds,
            "bytes_to_backend_per_second": seconds, "bytes_to_client_per_second": seconds,
            "connect_failures": count, "resets_before_byte": count, "ended": count,
            "connect_ms": reference("Millis"), "first_byte_ms": reference("Millis"),
        })),
        "Backend": backend,
        "BackendAddress": object(json!({
            "address": text, "state": { "type": "string", "enum": ["up", "backoff", "down"] },
            "connections_total": count, "last_result": maybe_text,
        })),
        "Explained": body(&["listener", "verdict", "pool", "algorithm", "pick", "candidates"], json!({
            "listener": text, "verdict": { "type": "string", "enum": ["accept", "refuse"] }, "reason": text,
            "route": text, "pool": text, "algorithm": text, "approximate": flag, "pick": maybe_text, "candidates": many("Candidate"),
        })),
        "Candidate": body(&["backend", "usable", "why", "weight", "active"], json!({
            "backend": text, "usable": flag, "why": text, "weight": weight, "active": count,
            "share": { "type": "number", "minimum": 0, "maximum": 1 },
        })),
        "Probed": object(json!({
            "pool": text, "backend": text,
            "kind": { "type": "string", "enum": Probe::NAMES.iter().map(|(word, _)| *word).collect::<Vec<_>>() },
            "passed": flag, "meaning": text, "addresses": many("ProbedAddress"),
        })),
        "ProbedAddress": object(json!({
            "address": text, "passed": flag, "outcome": text, "connect_ms": maybe("number"), "total_ms": seconds,
            "steps": many("ProbeStep"), "bytes_left_out": count,
        })),
        "ProbeStep": object(json!({
            "kind": { "type": "string", "enum": ["sent", "expected", "received"] }, "text": text,
        })),
        "Changed": changed,
        "Connection": connection,
        "SomeConnections": object(json!({ "error": text, "connections": many("Connection") })),
        "Closed": object(json!({ "closed": count })),
        "SomeClosed": object(json!({ "error": text, "closed": count })),
        "NewBackend": body(&["address"], json!({
            "address": address, "weight": optional(weight.clone(), json!(defaults::WEIGHT)),
            "name": name, "max_connections": limit,
            "backup": optional(flag.clone(), json!(false)),
        })),
        "Change": change,
        "Registration": body(&["address"], json!({
            "address": address, "weight": optional(weight.clone(), json!(defaults::WEIGHT)),
        })),
        "Registered": object(json!({
            "status": { "type": "string", "enum": ["success", "fail"] },
            "data": { "oneOf": [
                object(json!({ "server": text, "weight": weight })),
                object(json!({ "title": text })),
            ] },
        })),
        "Reloaded": object(json!({
            "dry_run": flag, "generation": count, "changes": lines, "warnings": lines,
        })),
        "Upgraded": object(json!({ "pid": count, "connections": count, "left": count, "seconds": seconds,
            "pause_ms": object(json!({ "p50": maybe("number"), "p99": maybe("number"), "max": maybe("number") })) })),
        "Events": object(json!({ "started": text, "events": many("Event"), "next": count })),
        "Event": event,
        "NotReloaded": object(json!({ "error": text, "mistakes": lines })),
    })
}
