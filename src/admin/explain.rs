//! `GET /v1/explain`: where a client would go now, and why. Nothing changes.
//!
//! The code that decides answers: limits, health and the algorithm. No worker is asked. So an answer leaves out that a client
//! would stand behind others in a worker's queue. It briefly locks a shard of sources and one of sticky clients.

use super::State;
use super::api::{self, Acceptance};
use super::figures;
use super::http::Response;
use super::routes::Call;
use crate::admission::{AdmissionPreview, ConnectionLimit, NoRoom};
use crate::base::{Endpoint, Tick, duration};
use crate::clock;
use crate::config::model::NoBackend;
use crate::inspect::Forwards;
use crate::policy::balance::Client;
use crate::policy::balance::approximation::compares_times;
use crate::policy::limit::Reason;
use crate::pool::{Explanation, Listener, PickError, Pool, Snapshot, Target};
use crate::proto::sniff::{Hello, Protocol, Protocols, Sniffed, name};
use crate::telemetry::Refusal;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

/// What the answer holds for, where first bytes matter and none are given.
const WITHOUT_PROTOCOL: &str =
    "without protocol, sni and alpn: for a client whose first bytes are of no protocol that the routes ask for";

/// What the answer holds for, where clients of Postgres have server names too.
const AS_TLS: &str = "without protocol: for a client of tls; one of postgres may take another route";

/// The call.
pub fn explain(state: &State, call: &Call<'_>) -> Response {
    let explained = || {
        let (client, port) = client(call.value("client"))?;
        let listener = listener(&state.published.snapshot(), call.value("listener"))?;
        let sniffed = sniffed(call)?;
        let is_assumed = call.value("protocol").is_none();
        let assumption = is_assumed.then(|| assumption(listener.wanted(), sniffed.as_ref())).flatten();
        // A listener sees nothing in first bytes that its routes do not look for.
        let sniffed = sniffed.filter(|sniffed| listener.wanted().contains(sniffed.protocol));
        let draining = state.published.is_draining();
        let now = clock::now();
        let mut explained = of(&listener, client, sniffed.as_ref(), state.published.connection_limit(), draining, now);
        if listener.settings.is_of_kernel() {
            in_kernel(&mut explained, state.workers.forwards(&listener.name, client, port));
            if listener.pool.settings.approximate {
                approximate(&mut explained, &listener.pool);
            }
        }
        let reasons: Vec<&str> = explained.reason.as_deref().into_iter().chain(assumption).collect();
        explained.reason = (!reasons.is_empty()).then(|| reasons.join("; "));
        Ok(explained)
    };
    explained().map_or_else(|refusal| refusal, |explained| Response::json(200, &explained))
}

/// The kernel's rules decide for a client that they know a backend for.
fn in_kernel(explained: &mut api::Explained, forwards: Option<Forwards>) {
    let Some(Forwards { backend, shares }) = forwards else {
        if explained.verdict == Acceptance::Accept {
            let text = "the kernel has no backend of the client's family that takes connections";
            (explained.verdict, explained.reason) = (Acceptance::Refuse, Some(text.to_owned()));
        }
        explained.pick = None;
        explained.candidates.iter_mut().for_each(|candidate| candidate.share = None);
        return;
    };
    let served = explained.verdict == Acceptance::Accept;
    explained.candidates.iter_mut().for_each(|candidate| {
        let share = shares.get(&candidate.backend).copied().unwrap_or(0.0);
        candidate.share = (served && !shares.is_empty()).then_some(share);
    });
    explained.pick = backend.filter(|_| served);
}

/// Weights that follow load stand for the algorithm: adds those that the kernel's rules have.
fn approximate(explained: &mut api::Explained, pool: &Pool) {
    explained.approximate = true;
    for candidate in explained.candidates.iter_mut().filter(|candidate| candidate.usable) {
        let Some(member) = pool.named(&candidate.backend) else { continue };
        let weight = figures::weight(pool.effective_weight(member));
        candidate.why.push_str(&format!(", its weight for the kernel is {weight}"));
        if let Some(time) = member.backend.probe_us().filter(|_| compares_times(pool.settings.algorithm)) {
            candidate.why.push_str(&format!(", its probes take {:.1} ms", f64::from(time) / 1e3));
        }
    }
}

/// The client's address, with or without a port.
fn client(text: Option<&str>) -> Result<(IpAddr, Option<u16>), Response> {
    let wanted =
        "client: expected an address with or without a port, like 192.0.2.7, 192.0.2.7:51000 or [2001:db8::7]:51000";
    let Some(text) = text else { return Err(Response::error(400, format!("{wanted}, got none"))) };
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    let with_port = || text.parse::<SocketAddr>().ok().map(|at| (at.ip(), Some(at.port())));
    let parsed = bare.parse().ok().map(|ip| (ip, None)).or_else(with_port);
    parsed.ok_or_else(|| Response::error(400, format!("{wanted}, got `{text}`")))
}

/// What the first bytes of the client say, of which the call gives parts; `None` if it gives none.
fn sniffed(call: &Call<'_>) -> Result<Option<Sniffed>, Response> {
    let (protocol, server_name, alpn) = (call.value("protocol"), call.value("sni"), call.value("alpn"));
    let wrong = |text: &str, why| format!("sni: expected a name like db.example.com, got `{text}`: {why}");
    let normal = |text: &str| name::normalized(text.as_bytes()).map_err(|why| Response::error(400, wrong(text, why)));
    let server_name = server_name.map(normal).transpose()?;
    if alpn == Some("") {
        return Err(Response::error(400, "alpn: expected the name of a protocol like h2 or postgresql, got nothing"));
    }
    let of_hello = server_name.as_ref().map(|_| "sni").or(alpn.map(|_| "alpn"));
    let protocol = match (protocol, of_hello) {
        (None, None) => return Ok(None),
        (None, Some(_)) => Protocol::Tls,
        (Some(text), _) => this_protocol(text, of_hello).map_err(|why| Response::error(400, why))?,
    };
    let alpn = alpn.into_iter().map(|name| name.as_bytes().into()).collect();
    // A client of Postgres without either is one without TLS.
    let hello =
        (of_hello.is_some() || protocol == Protocol::Tls).then_some(Hello { server_name, alpn, is_encrypted: false });
    Ok(Some(Sniffed { protocol, hello }))
}

/// The protocol of this word. `of_hello` is a parameter that says something of a ClientHello.
fn this_protocol(text: &str, of_hello: Option<&str>) -> Result<Protocol, String> {
    let found = Protocol::ALL.into_iter().find(|protocol| protocol.word() == text);
    let wrong = || format!("protocol: expected {}, got `{text}`", Protocol::ALL.map(Protocol::word).join(" or "));
    let protocol = found.ok_or_else(wrong)?;
    match of_hello {
        Some(key) if !protocol.has_hello() => Err(format!(
            "protocol: expected tls or postgres beside {key}, got `{text}`, whose clients send no ClientHello"
        )),
        _ => Ok(protocol),
    }
}

/// What an answer holds for that was asked for without a protocol.
fn assumption(wanted: Protocols, sniffed: Option<&Sniffed>) -> Option<&'static str> {
    match sniffed {
        None => (!wanted.is_empty()).then_some(WITHOUT_PROTOCOL),
        Some(_) => wanted.contains(Protocol::Postgres).then_some(AS_TLS),
    }
}

/// The listener of this name; without a name, the only one.
fn listener(snapshot: &Snapshot, name: Option<&str>) -> Result<Arc<Listener>, Response> {
    let known = || {
        let names: Vec<&str> = snapshot.listeners.iter().map(|listener| listener.name.as_str()).collect();
        names.join(", ")
    };
    match (name, snapshot.listeners.as_slice()) {
        (None, [only]) => Ok(only.clone()),
        (None, []) => Err(Response::error(400, "there is no listener")),
        (None, _) => Err(Response::error(400, format!("listener: expected one of {}, got none", known()))),
        (Some(name), _) => snapshot
            .listener(name)
            .cloned()
            .ok_or_else(|| Response::error(404, format!("there is no listener `{name}`; there are {}", known()))),
    }
}

fn of(
    listener: &Listener,
    ip: IpAddr,
    sniffed: Option<&Sniffed>,
    process: &ConnectionLimit,
    draining: bool,
    now: Tick,
) -> api::Explained {
    // A client of a unix socket has no address, unless a PROXY header announces one.
    let has_address = listener.settings.accept_proxy
        || listener.addresses.iter().any(|address| matches!(address.endpoint, Endpoint::Inet(_)));
    let ip = has_address.then_some(ip);
    let Target { route, pool, .. } = listener.route(sniffed, ip);
    let explanation = pool.explain(Client { ip }, now);
    let admission = listener.admission.preview(ip, process, now);
    let refused = refusal(listener, &admission);
    let (verdict, reason) = match (refused, without_backend(pool, &explanation)) {
        (Some(reason), _) if admission.enforced => (Acceptance::Refuse, Some(reason)),
        (_, Some((verdict, reason))) => match waits(listener, &admission, process) {
            // The client is not accepted yet, so there may be a backend once it is.
            Some(waits) => (Acceptance::Accept, Some(format!("{waits}; now {reason}"))),
            None => (verdict, Some(reason)),
        },
        (Some(reason), None) => (Acceptance::Accept, Some(format!("only because of limits = \"count\"; {reason}"))),
        (None, None) if draining => (Acceptance::Accept, Some("tcplb is stopping: its listeners close".to_owned())),
        (None, None) => (Acceptance::Accept, waits(listener, &admission, process)),
    };
    let served = verdict == Acceptance::Accept;
    let Explanation { pick, candidates, .. } = explanation;
    let candidates = candidates.into_iter().map(|it| api::Candidate {
        backend: it.member.backend.name.clone(),
        usable: it.usable,
        why: it.why,
        weight: it.member.weight,
        active: it.member.backend.active(),
        share: it.share.filter(|_| served),
    });
    api::Explained {
        listener: listener.name.clone(),
        verdict,
        reason,
        route: route.map(|label| label.to_string()),
        pool: pool.settings.name.clone(),
        algorithm: pool.settings.algorithm.name.to_owned(),
        approximate: false,
        pick: pick.filter(|_| served).map(|member| member.backend.name.clone()),
        candidates: candidates.collect(),
    }
}

/// What the listener's access lists and limits of a source say. The reason begins with its word in log and metrics.
fn refusal(listener: &Listener, admission: &AdmissionPreview) -> Option<String> {
    let settings = &listener.settings;
    let word = Refusal::from(admission.refusal?).label();
    let text = match admission.refusal? {
        Reason::Denied => "the access lists deny this address".to_owned(),
        Reason::SourceLimit => {
            let most = settings.max_connections_per_source.unwrap_or_default();
            format!("its source has {most} of {most} connections")
        }
        Reason::SourceRate => {
            let most = settings.connection_rate_per_source.map_or(0, |rate| rate.per_second);
            format!("its source has opened {most} connections within a second")
        }
    };
    Some(format!("{word}: {text}"))
}

/// What becomes of a client for which there is no backend.
fn without_backend(pool: &Pool, explanation: &Explanation<'_>) -> Option<(Acceptance, String)> {
    let text = match explanation.none? {
        PickError::AllDown => "no backend with weight is up and enabled",
        PickError::AllFull => "each backend that is up is at its limit",
        PickError::OthersWait => "other clients wait for a backend",
    };
    let text = format!("{}: {text}", Refusal::NoBackend.label());
    Some(match pool.settings.no_backend {
        NoBackend::Reset => (Acceptance::Refuse, text),
        NoBackend::Wait(time) => {
            let time = duration::written(time);
            (
                Acceptance::Accept,
                format!("{text}; the client would wait for one, up to {time}, unless the queue is full"),
            )
        }
    })
}

/// Whether the client would wait for its accept.
fn waits(listener: &Listener, admission: &AdmissionPreview, process: &ConnectionLimit) -> Option<String> {
    let (what, limit) = match admission.no_room? {
        NoRoom::Process => ("tcplb", process.limit() as u64),
        NoRoom::Listener => ("the listener", listener.settings.max_connections.unwrap_or_default().into()),
    };
    Some(format!("{what} is at its limit of {limit} clients: the client would wait in the kernel's backlog"))
}
