//! `POST /v1/pools/P/backends/B/probe`: one probe of each address now, with what was sent and received.
//!
//! The probe is the prober's own, on the thread of the call. Its result is only shown: it does not reach the prober, so the
//! health state stays. At most [`PROBES_MAX`] of these calls run at once, so that silent backends leave threads to other
//! calls. An address takes at most the pool's time-out, all of them together at most [`TIME_MAX`].

use super::alive::NO_PORT;
use super::api::{self, ProbeStepKind};
use super::http::Response;
use super::routes::Call;
use super::status::in_millis;
use super::{State, changes};
use crate::base::Endpoint;
use crate::base::bytes::escaped;
use crate::clock;
use crate::config::model::{self, HealthKind, ProxyVersion};
use crate::config::words::{self, Words};
use crate::control::Refused;
use crate::net::probe_socket::{self, EndedProbe};
use crate::policy::health::Outcome;
use crate::pool::{AdminState, Member, Pool, Transition};
use crate::probe::{ProbeTarget, Said};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// The most calls of this kind at once.
pub const PROBES_MAX: usize = 4;
/// The most time of a call.
const TIME_MAX: Duration = Duration::from_secs(30);

/// The number of calls that run.
#[derive(Debug, Default)]
pub struct Running(AtomicUsize);

struct RunningGuard<'a>(&'a AtomicUsize);

impl Running {
    fn enter(&self) -> Option<RunningGuard<'_>> {
        let one_more = |running| (running < PROBES_MAX).then_some(running + 1);
        let entered = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more);
        entered.is_ok().then(|| RunningGuard(&self.0))
    }
}

impl Drop for RunningGuard<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The call.
pub fn probe(state: &State, call: &Call<'_>) -> Response {
    let (pool_name, name) = (call.name(0), call.name(1));
    let snapshot = state.published.snapshot();
    let Some(pool) = snapshot.pool(pool_name) else {
        return changes::refusal(&Refused::NoPool(pool_name.to_owned()));
    };
    let both = pool.members.iter().zip(&pool.settings.backends);
    let Some((member, settings)) = both.into_iter().find(|(_, settings)| settings.name == name) else {
        return changes::refusal(&Refused::NoBackend { pool: pool_name.to_owned(), name: name.to_owned() });
    };
    let Some(_running) = state.probes.enter() else {
        return Response::overloaded(&format!("{PROBES_MAX} probes by hand run already: expected fewer at once"));
    };
    let header = snapshot.probe_header(&pool.settings, settings);
    Response::json(200, &probed(pool, member, settings, header))
}

fn probed(pool: &Pool, member: &Member, settings: &model::Backend, header: Option<ProxyVersion>) -> api::Probed {
    let (health, end) = (&pool.settings.health, clock::now() + TIME_MAX);
    let probe = |endpoint: Endpoint| {
        // With health off there is no probe: the backend must at least accept a connection.
        let target = ProbeTarget::of_newcomer(health, header, &settings.address, &endpoint)?;
        let target = target.from(pool.settings.source.of_probe(&endpoint, 0));
        let (address, begun) = (target.endpoint().to_string(), clock::now());
        let timeout = health.timeout.min(end - begun);
        Some((address, probe_socket::run(target, begun + timeout, timeout)))
    };
    let ended: Vec<(String, EndedProbe)> = member.backend.endpoints().into_iter().filter_map(probe).collect();
    let outcomes = || ended.iter().map(|(_, ended)| &ended.outcome);
    let result = if outcomes().any(Outcome::passed) {
        ProbeResult::Passed
    } else if !ended.is_empty() && outcomes().all(|outcome| matches!(outcome, Outcome::Agent(report) if report.down)) {
        ProbeResult::MarksDown
    } else {
        ProbeResult::Failed
    };
    let (transition, is_first) = {
        let report = member.backend.health.lock();
        (report.transition, report.last_result.is_none())
    };
    let circumstances = Circumstances {
        pool: &pool.settings.name,
        backend: &settings.name,
        health,
        state: member.state,
        up: member.backend.is_healthy(),
        is_first,
        transition,
        unresolved: member.backend.unresolved(),
        has_port: settings.address.port_offset().is_none() || health.port.is_some(),
    };
    api::Probed {
        pool: pool.settings.name.clone(),
        backend: settings.name.clone(),
        kind: words::of(&health.kind.probe(), model::Probe::NAMES).to_owned(),
        passed: result == ProbeResult::Passed,
        meaning: circumstances.meaning(result),
        addresses: ended.into_iter().map(|(address, ended)| of_address(address, &ended)).collect(),
    }
}

fn of_address(address: String, ended: &EndedProbe) -> api::ProbedAddress {
    let step = |said: &Said| {
        let (kind, text) = match said {
            Said::Sent(bytes) => (ProbeStepKind::Sent, escaped(bytes)),
            Said::Expected(what) => (ProbeStepKind::Expected, what.clone()),
            Said::Received(bytes) => (ProbeStepKind::Received, escaped(bytes)),
        };
        api::ProbeStep { kind, text }
    };
    api::ProbedAddress {
        address,
        passed: ended.outcome.passed(),
        outcome: ended.outcome.to_string(),
        connect_ms: ended.connected_after.map(in_millis),
        total_ms: in_millis(ended.after),
        steps: ended.transcript.said().iter().map(step).collect(),
        bytes_left_out: ended.transcript.left_out() as u64,
    }
}

/// The result for the backend: one address that passes is enough.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ProbeResult {
    Passed,
    Failed,
    /// Its agent reports it down, which no other failure has to confirm.
    MarksDown,
}

/// What decides on the meaning of a result.
#[derive(Clone)]
struct Circumstances<'a> {
    pool: &'a str,
    backend: &'a str,
    health: &'a model::Health,
    state: AdminState,
    /// Its health state.
    up: bool,
    /// Whether the prober has no result yet.
    is_first: bool,
    transition: Option<Transition>,
    /// Why its name has no address.
    unresolved: Option<String>,
    /// Whether there is a port to probe.
    has_port: bool,
}

impl Circumstances<'_> {
    /// What the prober would make of this result.
    fn meaning(&self, result: ProbeResult) -> String {
        let Circumstances { pool, backend, health, up, .. } = self;
        let passed = result == ProbeResult::Passed;
        if let Some(why) = &self.unresolved {
            return format!("{backend} is down and cannot be probed: {why}");
        }
        if !self.has_port {
            return format!("{backend} in pool {pool} cannot be probed, since {NO_PORT}");
        }
        if health.kind == HealthKind::Off {
            let works = if passed { "works" } else { "fails" };
            return format!("health is off in pool {pool}, so {backend} gets no probes; a TCP connect {works}");
        }
        if self.state == AdminState::Disabled {
            return format!("{backend} is disabled, so it gets no probes");
        }
        let (now, next) = if *up { ("up", "down") } else { ("down", "up") };
        if passed == *up {
            return format!("{backend} is {now}, and this result would keep it {now}");
        }
        let in_a_row = if *up { health.fall } else { health.rise };
        let left = match self.transition {
            _ if self.is_first || result == ProbeResult::MarksDown => 1,
            Some(transition) if transition.up == *up => in_a_row.saturating_sub(transition.count),
            _ => in_a_row,
        };
        match left {
            0 | 1 => format!("{backend} is {now}, and this result would mark it {next}"),
            left => {
                format!("{backend} is {now}; this result and {} more like it in a row would mark it {next}", left - 1)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_meaning_follows_from_the_state_and_the_results_so_far() {
        let (probed, off) = (model::Health::default(), model::Health { kind: HealthKind::Off, ..Default::default() });
        let up = Circumstances {
            pool: "web",
            backend: "web1",
            health: &probed,
            state: AdminState::Enabled,
            up: true,
            is_first: false,
            transition: None,
            unresolved: None,
            has_port: true,
        };
        let down = Circumstances { up: false, ..up.clone() };
        let failed_twice = Some(Transition { up: true, count: 2, of: 3 });
        let passed_once = Some(Transition { up: false, count: 1, of: 2 });
        for (circumstances, result, want) in [
            (up.clone(), ProbeResult::Passed, "web1 is up, and this result would keep it up"),
            (up.clone(), ProbeResult::Failed, "web1 is up; this result and 2 more like it in a row would mark it down"),
            (up.clone(), ProbeResult::MarksDown, "web1 is up, and this result would mark it down"),
            (
                Circumstances { transition: failed_twice, ..up.clone() },
                ProbeResult::Failed,
                "web1 is up, and this result would mark it down",
            ),
            (
                Circumstances { is_first: true, ..up.clone() },
                ProbeResult::Failed,
                "web1 is up, and this result would mark it down",
            ),
            (down.clone(), ProbeResult::Failed, "web1 is down, and this result would keep it down"),
            (
                down.clone(),
                ProbeResult::Passed,
                "web1 is down; this result and 1 more like it in a row would mark it up",
            ),
            (
                Circumstances { transition: passed_once, ..down.clone() },
                ProbeResult::Passed,
                "web1 is down, and this result would mark it up",
            ),
            (
                Circumstances { transition: failed_twice, ..down },
                ProbeResult::Passed,
                "web1 is down; this result and 1 more like it in a row would mark it up",
            ),
            (
                Circumstances { state: AdminState::Disabled, ..up.clone() },
                ProbeResult::Passed,
                "web1 is disabled, so it gets no probes",
            ),
            (
                Circumstances { health: &off, ..up.clone() },
                ProbeResult::Failed,
                "health is off in pool web, so web1 gets no probes; a TCP connect fails",
            ),
            (
                Circumstances { health: &off, has_port: false, ..up.clone() },
                ProbeResult::Failed,
                "web1 in pool web cannot be probed, since its port is the client's: a probe needs health.port, and a health.kind \
                 other than \"off\"",
            ),
            (
                Circumstances { unresolved: Some("no such name".to_owned()), ..up },
                ProbeResult::Failed,
                "web1 is down and cannot be probed: no such name",
            ),
        ] {
            assert_eq!(circumstances.meaning(result), want);
        }
    }

    #[test]
    fn a_place_is_given_back_and_there_are_no_more_than_the_most() {
        let running = Running::default();
        let places: Vec<_> = (0..PROBES_MAX).map(|_| running.enter().expect("a place")).collect();
        assert!(running.enter().is_none());
        drop(places);
        assert!(running.enter().is_some());
    }
}
