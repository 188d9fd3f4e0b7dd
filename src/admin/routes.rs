//! The one table of calls. Dispatch, 404, 405 with `Allow` and the OpenAPI document all come from it, so they always
//! agree.

use super::access::{Access, Permission};
use super::http::Response;
use super::incoming::Request;
use super::server::Peer;
use super::{State, changes, connections, events, explain, metrics, openapi, page, probe, register, status, target};
use crate::clock;
use crate::config::diff::Change;
use crate::config::text;
use crate::control::{self, Refused};
use crate::handover::Refusal;
use std::time::Duration;

/// A row of the table.
pub struct Route {
    /// The method; `GET` serves HEAD too.
    pub method: &'static str,
    /// The path, with `{name}` for a segment that is data.
    pub path: &'static str,
    /// One line on what the call does.
    pub summary: &'static str,
    /// Switches after `?`: name and meaning. The call takes only these, with `true` or `false`.
    pub switches: &'static [(&'static str, &'static str)],
    /// Values after `?`: name and meaning. A call that takes values refuses other parameters.
    pub values: &'static [(&'static str, &'static str)],
    /// The schema of the body, if the call takes one.
    pub body: Option<&'static str>,
    /// The call's own answers: status, meaning, content.
    pub answers: &'static [(u16, &'static str, Content)],
    /// Whether the call needs no token. An open call shows a caller without [`Call::permission`] no data.
    pub open: bool,
    /// Whether the answer neither waits nor takes long: the accepting thread gives it, however many callers there are.
    pub immediate: bool,
    /// Whether the answer would be short now, so that the accepting thread gives it.
    is_short: fn(&State, &Call<'_>) -> bool,
    /// How long the call waits for news; `None` if it waits for none, or has some already. The request is permitted.
    waits: fn(&State, &Call<'_>) -> Option<Duration>,
    call: fn(&State, &Call<'_>) -> Response,
}

/// What an answer contains.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    /// JSON of this schema.
    Json(&'static str),
    /// A JSON array of this schema.
    Many(&'static str),
    /// JSON of either schema.
    Either(&'static str, &'static str),
    /// Any JSON object.
    Object,
    /// Text of this media type.
    Other(&'static str),
}

/// A request with its route's parameters.
pub struct Call<'a> {
    /// What the caller may do; none without the right token.
    pub permission: Option<Permission>,
    /// The values of the path's `{…}`, decoded, in order.
    pub names: Vec<String>,
    /// The names of the switches that are `true`.
    pub on: Vec<&'static str>,
    /// The values after `?`.
    pub values: Vec<(&'static str, String)>,
    /// The body of the request.
    pub body: &'a [u8],
}

impl Call<'_> {
    /// The value of the path's nth `{…}`.
    pub fn name(&self, index: usize) -> &str {
        self.names.get(index).map_or("", String::as_str)
    }

    /// Whether this switch is `true`.
    pub fn has(&self, switch: &str) -> bool {
        self.on.contains(&switch)
    }

    /// The value after `?` of this name, if the request has it.
    pub fn value(&self, name: &str) -> Option<&str> {
        self.values.iter().find(|(given, _)| *given == name).map(|(_, value)| value.as_str())
    }
}

const NO_POOL: (u16, &str, Content) = (404, "There is no such pool.", Content::Json("Error"));
const NO_BACKEND: (u16, &str, Content) = (404, "There is no such pool or backend.", Content::Json("Error"));
const WRONG: (u16, &str, Content) = (400, "The request is wrong; the error says why.", Content::Json("Error"));
const NO_CONNECTION: (u16, &str, Content) = (404, "There is no such connection.", Content::Json("Error"));
const SILENT: (u16, &str, Content) = (503, "The worker does not respond.", Content::Json("Error"));
const SOME_CONNECTIONS: (u16, &str, Content) =
    (503, "A worker does not respond: what the others have.", Content::Either("SomeConnections", "Error"));
const SOME_CLOSED: (u16, &str, Content) =
    (503, "A worker does not respond: what the others closed.", Content::Either("SomeClosed", "Error"));
const STOPPING: (u16, &str, Content) = (409, "tcplb is stopping and takes no more changes.", Content::Json("Error"));

/// The defaults of a row.
const PLAIN: Route = Route {
    method: "GET",
    path: "/",
    summary: "",
    switches: &[],
    values: &[],
    body: None,
    answers: &[],
    open: false,
    immediate: false,
    is_short: |_, _| false,
    waits: |_, _| None,
    call: |_, _| Response::error(404, "there is nothing here"),
};

/// All calls.
pub static ROUTES: &[Route] = &[
    Route {
        path: "/v1/status",
        summary: "The state of the balancer: listeners, pools, backends.",
        answers: &[(200, "The state.", Content::Json("Status"))],
        call: |state, _| Response::json(200, &status::status(&state.published, clock::now())),
        ..PLAIN
    },
    Route {
        path: "/v1/pools/{pool}/backends",
        summary: "The backends of a pool.",
        answers: &[(200, "The backends.", Content::Many("Backend")), NO_POOL, WRONG],
        call: changes::list,
        ..PLAIN
    },
    Route {
        method: "POST",
        path: "/v1/pools/{pool}/backends",
        summary: "Adds a backend.",
        body: Some("NewBackend"),
        answers: &[
            (201, "The backend is added and takes connections.", Content::Json("Changed")),
            WRONG,
            NO_POOL,
            (409, "The pool has a backend of that name already, or tcplb is stopping.", Content::Json("Error")),
        ],
        call: changes::add,
        ..PLAIN
    },
    Route {
        method: "PATCH",
        path: "/v1/pools/{pool}/backends/{backend}",
        summary: "Changes a backend's weight, its state, or both.",
        body: Some("Change"),
        answers: &[(200, "The backend as it is now.", Content::Json("Changed")), WRONG, NO_BACKEND, STOPPING],
        call: changes::change,
        ..PLAIN
    },
    Route {
        method: "DELETE",
        path: "/v1/pools/{pool}/backends/{backend}",
        summary: "Removes a backend; the pool's `on_remove` decides on its connections.",
        switches: &[("force", "Also close its connections.")],
        answers: &[(200, "The backend as it was.", Content::Json("Backend")), WRONG, NO_BACKEND, STOPPING],
        call: changes::remove,
        ..PLAIN
    },
    Route {
        method: "POST",
        path: "/v1/pools/{pool}/backends/{backend}/probe",
        summary: "Probes a backend now. Its health state stays.",
        answers: &[
            (200, "What was sent and received, passed or not.", Content::Json("Probed")),
            WRONG,
            NO_BACKEND,
            (503, "Too many such calls run.", Content::Json("Error")),
        ],
        call: probe::probe,
        ..PLAIN
    },
    Route {
        path: "/v1/connections",
        summary: "The open connections, the oldest first.",
        values: &connections::OF_LIST,
        answers: &[(200, "The connections.", Content::Many("Connection")), WRONG, SOME_CONNECTIONS],
        call: connections::list,
        ..PLAIN
    },
    Route {
        method: "DELETE",
        path: "/v1/connections",
        summary: "Resets connections on both sides. It needs at least one parameter.",
        values: &connections::FILTERS,
        answers: &[(200, "How many were closed.", Content::Json("Closed")), WRONG, SOME_CLOSED],
        call: connections::close_many,
        ..PLAIN
    },
    Route {
        path: "/v1/connections/{id}",
        summary: "One open connection.",
        answers: &[(200, "The connection.", Content::Json("Connection")), NO_CONNECTION, SILENT],
        call: connections::show,
        ..PLAIN
    },
    Route {
        method: "DELETE",
        path: "/v1/connections/{id}",
        summary: "Resets one connection on both sides.",
        answers: &[(200, "It is closed.", Content::Json("Closed")), WRONG, NO_CONNECTION, SOME_CLOSED],
        call: connections::close,
        ..PLAIN
    },
    Route {
        method: "POST",
        path: "/v1/reload",
        summary: "Reads the configuration file again and applies it, all or nothing.",
        switches: &[("dry_run", "Only report what would change.")],
        answers: &[
            (200, "What changed.", Content::Json("Reloaded")),
            (400, "Nothing changed: every mistake.", Content::Either("NotReloaded", "Error")),
            STOPPING,
        ],
        call: changes::reload,
        ..PLAIN
    },
    Route {
        method: "POST",
        path: "/v1/upgrade",
        summary: "Starts the file at the path of the start, and hands over to it. Answers once it has taken over.",
        answers: &[
            (200, "It has taken over.", Content::Json("Upgraded")),
            (409, "An upgrade is under way.", Content::Json("Error")),
            (500, "It has not taken over, and this process goes on: why.", Content::Json("Error")),
        ],
        call: |state, _| match state.upgrader.upgrade() {
            Ok(figures) => Response::json(200, &figures),
            Err(Refusal::UnderWay) => Response::error(409, "an upgrade is under way"),
            Err(Refusal::Failed(why) | Refusal::Unavailable(why)) => Response::error(500, why),
        },
        ..PLAIN
    },
    Route {
        path: "/v1/config",
        summary: "The configuration in force, as a file.",
        answers: &[(200, "TOML.", Content::Other("application/toml"))],
        call: |state, _| Response::text(200, "application/toml", text::print(&state.published.model())),
        ..PLAIN
    },
    Route {
        path: "/v1/config/diff",
        summary: "What runs and does not stand in the file, one change a line.",
        answers: &[(200, "The changes from the file to what runs.", Content::Many("Line"))],
        call: |state, _| {
            let changes: Vec<String> = control::drift(&state.published).0.iter().map(Change::with_source).collect();
            Response::json(200, &changes)
        },
        ..PLAIN
    },
    Route {
        path: "/v1/explain",
        summary: "Where a client would go now, and why. Nothing changes.",
        values: &[
            ("client", "The client's address; a port behind it plays no part."),
            ("listener", "The listener that it connects to; needed where there are several."),
            ("protocol", "That of its first bytes: tls, postgres, http or ssh; tls if sni or alpn is given."),
            ("sni", "The server name that its ClientHello asks for."),
            ("alpn", "A protocol that its ClientHello offers."),
        ],
        answers: &[
            (200, "The decision.", Content::Json("Explained")),
            WRONG,
            (404, "There is no such listener.", Content::Json("Error")),
        ],
        call: explain::explain,
        ..PLAIN
    },
    Route {
        path: "/v1/events",
        summary: "What changed: the last events, or those after one that was seen.",
        values: &[
            ("since", "The number of the last event that was seen: `next` of the call before."),
            ("last", "Only the last ones, at most so many: 1 to 10000."),
            ("wait", "How long to wait for the next event if there is none, like 30s; at most 5m."),
        ],
        answers: &[(200, "The events, oldest first.", Content::Json("Events")), WRONG],
        is_short: events::is_short,
        waits: events::waits,
        call: events::list,
        ..PLAIN
    },
    Route {
        path: "/v1/openapi.json",
        summary: "This description.",
        answers: &[(200, "OpenAPI 3.1.", Content::Object)],
        call: |_, _| Response::json(200, &openapi::document(ROUTES)),
        ..PLAIN
    },
    Route {
        method: "POST",
        path: "/register",
        summary: "A backend registers itself in the first pool. It is probed before it is added.",
        body: Some("Registration"),
        answers: &[
            (200, "It is registered.", Content::Json("Registered")),
            (400, "Malformed, or not alive.", Content::Either("Registered", "Error")),
            (403, "An unknown field.", Content::Either("Registered", "Error")),
        ],
        call: register::register,
        ..PLAIN
    },
    Route {
        path: "/metrics",
        summary: "Figures for Prometheus.",
        values: &[("pool", "Only the metrics of this pool.")],
        answers: &[(200, "Prometheus text 0.0.4.", Content::Other(metrics::CONTENT_TYPE)), NO_POOL, WRONG],
        call: figures,
        ..PLAIN
    },
    Route {
        path: "/healthz",
        summary: "Is the process alive?",
        answers: &[(200, "Yes.", Content::Other(PLAIN_TEXT))],
        open: true,
        immediate: true,
        call: |_, _| Response::text(200, PLAIN_TEXT, "ok\n"),
        ..PLAIN
    },
    Route {
        path: "/readyz",
        summary: "Should clients be sent here?",
        values: &[("pool", "Only this pool counts.")],
        answers: &[
            (200, "Yes.", Content::Other(PLAIN_TEXT)),
            (
                503,
                "No: no pool, or not this one, has a usable backend, a thread does not respond, or a drain has begun. Or the \
                 kernel keeps older rules than the configuration.",
                Content::Other(PLAIN_TEXT),
            ),
            NO_POOL,
            WRONG,
        ],
        open: true,
        immediate: true,
        call: ready,
        ..PLAIN
    },
    Route {
        path: "/",
        summary: "The status page, for a browser.",
        answers: &[(200, "HTML; without the token it holds no data.", Content::Other(page::CONTENT_TYPE))],
        open: true,
        call: |state, call| {
            page::page(call.permission.map(|_| status::status(&state.published, clock::now())).as_ref())
        },
        ..PLAIN
    },
];

const PLAIN_TEXT: &str = "text/plain; charset=utf-8";

fn figures(state: &State, call: &Call<'_>) -> Response {
    let per_backend = state.published.model().global.metrics_per_backend;
    let detail = if per_backend { metrics::Detail::PerBackend } else { metrics::Detail::PerPool };
    let text = match call.value("pool") {
        None => metrics::text(&state.published, detail, clock::now()),
        Some(name) => match state.published.snapshot().pool(name) {
            Some(pool) => metrics::of_pool(pool, detail, clock::now()),
            None => return changes::refusal(&Refused::NoPool(name.to_owned())),
        },
    };
    Response::text(200, metrics::CONTENT_TYPE, text)
}

fn ready(state: &State, call: &Call<'_>) -> Response {
    let snapshot = state.published.snapshot();
    let usable = match call.value("pool") {
        None => snapshot.pools.iter().any(|pool| pool.has_usable()),
        Some(name) => match snapshot.pool(name) {
            Some(pool) => pool.has_usable(),
            None => return changes::refusal(&Refused::NoPool(name.to_owned())),
        },
    };
    let no = |why: String| Response::text(503, PLAIN_TEXT, why + "\n");
    if state.published.is_draining() {
        return no("draining".to_owned());
    }
    let stuck = state.published.stuck();
    if !stuck.is_empty() {
        return no(format!("does not respond: {}", stuck.join(", ")));
    }
    let mut of_kernel = snapshot.listeners.iter().filter(|listener| listener.settings.is_of_kernel());
    let is_concerned = of_kernel.any(|it| call.value("pool").is_none_or(|pool| it.settings.pool == pool));
    if let Some(why) = state.published.kernel().problem().filter(|_| is_concerned) {
        return no(format!("the kernel keeps its last rules: {why}"));
    }
    match call.value("pool") {
        _ if usable => Response::text(200, PLAIN_TEXT, "ready\n"),
        None => no("no pool has a usable backend".to_owned()),
        Some(_) => no("the pool has no usable backend".to_owned()),
    }
}

/// Whether the answer to this request neither waits nor takes long.
pub(super) fn is_immediate(state: &State, request: &Request) -> bool {
    find(request).is_ok_and(|(route, call)| route.immediate || (route.is_short)(state, &call))
}

/// How long a request waits for news; `None`: it is answered now. A call that is not permitted or malformed never waits.
pub(super) fn waits(state: &State, access: &Access, request: &Request, peer: Peer) -> Option<Duration> {
    let (route, call) = find(request).ok()?;
    access.permission(request, peer == Peer::Inet).ok()?;
    (route.waits)(state, &call)
}

/// Answers a request, whatever it contains.
pub(super) fn answer(state: &State, access: &Access, request: &Request, peer: Peer) -> Response {
    let found = find(request);
    let permission = match access.permission(request, peer == Peer::Inet) {
        Ok(permission) => Some(permission),
        // The page can ask for a token, but it can't change a foreign `Host`.
        Err(refusal) if matches!(found, Ok((route, _)) if route.open && (route.immediate || refusal.status == 401)) => {
            None
        }
        Err(refusal) => return refusal,
    };
    let mut response = match found {
        Ok((route, _)) if permission == Some(Permission::Read) && route.method != "GET" => {
            Response::error(403, "the read token may only read: expected the admin token")
        }
        Ok((route, call)) => (route.call)(state, &Call { permission, ..call }),
        Err(refusal) => refusal,
    };
    if permission == Some(Permission::Read) {
        response = response.with("Tcplb-Access", "read");
    }
    response
}

/// The route of a request, or the refusal.
pub fn find(request: &Request) -> Result<(&'static Route, Call<'_>), Response> {
    let malformed = |_| Response::error(400, "expected UTF-8 in the path, percent-encoded like %2F where needed");
    let segments = target::segments(&request.path).map_err(malformed)?;
    let matching: Vec<(&Route, Vec<String>)> =
        ROUTES.iter().filter_map(|route| Some((route, names(route.path, &segments)?))).collect();
    if matching.is_empty() {
        return Err(Response::error(404, "there is nothing here; GET /v1/openapi.json says what there is"));
    }
    let method = if request.method == "HEAD" { "GET" } else { &request.method };
    let allow = allow(matching.iter().map(|(route, _)| route.method));
    let Some((route, names)) = matching.into_iter().find(|(route, _)| route.method == method) else {
        let error = format!("expected one of these methods: {allow}");
        return Err(Response::error(405, error).with("Allow", allow));
    };
    let (on, values) = query(route, &request.query).map_err(|why| Response::error(400, why))?;
    Ok((route, Call { permission: None, names, on, values, body: &request.body }))
}

/// The values of a pattern's `{…}`, if the path matches.
fn names(pattern: &str, segments: &[String]) -> Option<Vec<String>> {
    let wanted: Vec<&str> = pattern.split('/').skip(1).filter(|segment| !segment.is_empty()).collect();
    if wanted.len() != segments.len() {
        return None;
    }
    let mut names = Vec::new();
    for (wanted, segment) in wanted.iter().zip(segments) {
        if wanted.starts_with('{') {
            names.push(segment.clone());
        } else if wanted != segment {
            return None;
        }
    }
    Some(names)
}

fn allow<'a>(methods: impl Iterator<Item = &'a str>) -> String {
    let mut all = Vec::new();
    for method in methods {
        all.push(method);
        if method == "GET" {
            all.push("HEAD");
        }
    }
    all.join(", ")
}

/// The switches that are `true`, and the values.
type Parameters = (Vec<&'static str>, Vec<(&'static str, String)>);

/// Calls that change something refuse unknown parameters: a misspelt `?dryrun=true` must not reload. So do calls whose
/// parameters decide on the answer. Other reads ignore what monitoring adds to a URL.
fn query(route: &Route, query: &str) -> Result<Parameters, String> {
    let (mut on, mut values) = Parameters::default();
    if route.method == "GET" && route.values.is_empty() {
        return Ok((on, values));
    }
    let pairs =
        target::pairs(query).map_err(|_| "expected UTF-8 in the query, percent-encoded where needed".to_owned())?;
    let named = |list: &'static [(&'static str, &'static str)], key: &str| {
        list.iter().map(|(name, _)| *name).find(|name| *name == key)
    };
    for (key, value) in pairs {
        if let Some(name) = named(route.values, &key) {
            if values.iter().any(|(given, _)| *given == name) {
                return Err(format!("{name}: expected one value, got several"));
            }
            values.push((name, value));
            continue;
        }
        let Some(name) = named(route.switches, &key) else {
            let known: Vec<&str> = route.switches.iter().chain(route.values).map(|(name, _)| *name).collect();
            let known = if known.is_empty() { "nothing".to_owned() } else { known.join(", ") };
            return Err(format!("unknown parameter `{key}`: after ? this call takes {known}"));
        };
        match value.as_str() {
            "true" => on.push(name),
            "false" => {}
            _ => return Err(format!("{name}: expected true or false, got `{value}`")),
        }
    }
    Ok((on, values))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn request(method: &str, path: &str, query: &str) -> Request {
        Request { method: method.into(), path: path.into(), query: query.into(), ..Request::default() }
    }

    fn status(method: &str, path: &str, query: &str) -> u16 {
        find(&request(method, path, query)).map_or_else(|response| response.status, |_| 200)
    }

    #[test]
    fn every_row_is_found_by_its_own_path_and_no_other_method() {
        for route in ROUTES {
            let path = route.path.replace("{pool}", "web").replace("{backend}", "%5B::1%5D:80").replace("{id}", "web");
            let call = request(route.method, &path, "");
            let (found, call) = find(&call).unwrap_or_else(|_| panic!("{path}"));
            assert_eq!((found.method, found.path), (route.method, route.path));
            assert_eq!(call.names.len(), route.path.matches('{').count());
            assert!(call.names.iter().all(|name| name == "web" || name == "[::1]:80"), "{:?}", call.names);
            let refusal = find(&request("BREW", &path, "")).err().unwrap();
            assert_eq!(refusal.status, 405);
            let allowed = refusal.headers.iter().find(|(name, _)| *name == "Allow").map(|(_, value)| value.clone());
            assert!(allowed.unwrap().split(", ").any(|method| method == route.method), "{path}");
        }
        assert_eq!(ROUTES.len(), 22);
    }

    #[test]
    fn requests_that_match_no_route_are_refused() {
        for (method, path, query, want) in [
            ("GET", "/v1", "", 404),
            ("GET", "/v1/status/", "", 404),
            ("GET", "//", "", 404),
            ("GET", "/v1/pools//backends", "", 200),
            ("GET", "/%zz", "", 400),
            ("HEAD", "/v1/status", "", 200),
            ("get", "/v1/status", "", 405),
            ("GET", "/healthz", "verbose=1", 200),
            ("GET", "/metrics", "pool=web", 200),
            ("GET", "/metrics", "collect=all", 400),
            ("GET", "/readyz", "pool=web", 200),
            ("GET", "/readyz", "pol=web", 400),
            ("GET", "/readyz", "pool=web&pool=db", 400),
            ("GET", "/readyz", "pool=%zz", 400),
            ("POST", "/v1/reload", "dry_run=true", 200),
            ("POST", "/v1/reload", "dryrun=true", 400),
            ("POST", "/v1/reload", "dry_run=yes", 400),
            ("DELETE", "/v1/pools/p/backends/b", "force=true&force=false", 200),
            ("DELETE", "/v1/pools/p/backends/b", "force", 400),
        ] {
            assert_eq!(status(method, path, query), want, "{method} {path}?{query}");
        }
    }

    proptest! {
        #[test]
        fn no_target_makes_it_panic(method in "[A-Z]{1,7}", path in "/.{0,30}", query in ".{0,20}") {
            let _ = find(&request(&method, &path, &query));
        }
    }
}
