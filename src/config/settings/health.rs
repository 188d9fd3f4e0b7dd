//! `[pool.health]`: how the backends of a pool are watched.

use super::kinds::{self, count, number, word};
use super::{Flag, Section, Source, setting};
use crate::base::duration;
use crate::config::model::{Health, HealthKind, InitialHealth, Probe};

const HEADING: &str = "Health";

/// What the timing of probes has no effect without.
const PROBES: &str = "probes, and kind is \"off\"";

fn probes(health: &Health) -> bool {
    health.kind.probe() != Probe::Off
}

/// The table.
pub static HEALTH: Section<Health> = Section {
    name: "pool.health",
    many: false,
    doc: "How the backends of the pool are watched; see [health.md](health.md).",
    within: &[],
    // Of an HTTP probe, which has them all.
    defaults: || Health { kind: HealthKind::http(), ..Health::default() },
    settings: &[
        setting!(
            "kind", Health.kind: kinds::PROBE,
            |health| Some(health.kind.probe()),
            |health, probe| health.kind = match probe {
                Probe::Tcp => HealthKind::Tcp,
                Probe::Http => HealthKind::http(),
                Probe::Off => HealthKind::Off,
            },
            "What a probe does: `tcp` connects, `http` sends a request, `off` sends no probes."
        )
        .more("With `off`, a backend that refuses a connection is left out for a moment.")
        .absent("`\"tcp\"`, or `\"http\"` beside `path`, `host` or `expect_status`")
        .set("\"http\"")
        .flag("health", HEADING),
        setting!(Health.initial: word(), "What a backend counts as before its first probe.")
            .more(
                "This holds at the start and when the API or a reload adds a backend. `up` takes clients at once. `down` \
                 takes none until a probe has passed, so it cannot stand beside `off`.",
            ),
        setting!(
            "path", Health.kind: kinds::PROBE_PATH,
            |health| match &health.kind { HealthKind::Http { path, .. } => Some(path.clone()), _ => None },
            |health, value| if let HealthKind::Http { path, .. } = as_http(health) { *path = value },
            "The path that an HTTP probe requests."
        )
        .flag("health-path", HEADING),
        setting!(
            "host", Health.kind: kinds::PROBE_HOST,
            |health| match &health.kind { HealthKind::Http { host, .. } => host.clone(), _ => None },
            |health, value| if let HealthKind::Http { host, .. } = as_http(health) { *host = Some(value) },
            "The Host header of its request."
        )
        .absent("the backend's address"),
        setting!(
            "expect_status", Health.kind: kinds::STATUSES,
            |health| match &health.kind { HealthKind::Http { expect, .. } => Some(expect.clone()), _ => None },
            |health, value| if let HealthKind::Http { expect, .. } = as_http(health) { *expect = value },
            "The answers that count as a success: codes and ranges."
        ),
        setting!(Health.port: number::<u16, 1, { u16::MAX as u64 }>(), "Probes go to this port of each backend.")
            .more(
                "They carry no PROXY header then. A backend with a unix socket has no other port, so such a pool cannot hold \
                 one. Not with `off`.",
            )
            .absent("the one that is served")
            .example("8081"),
        setting!(Health.interval: kinds::INTERVAL, "The time from one probe of a backend to the next.")
            .more(
                "Probes are spread over it. A shorter one notices sooner and costs more. After the flag a plain number is \
                 seconds.",
            )
            .needs(PROBES, probes)
            .flag_as(Flag { long: "health-interval", short: Some('t'), alias: None, heading: HEADING }),
        setting!(Health.timeout: kinds::TIME, "How long a probe may take; at most the interval.")
            .more("Without it, and with an interval below 1s: the interval.")
            // One that is the interval may follow from it.
            .needs(PROBES, |health| probes(health) || health.timeout == health.interval)
            .flag("health-timeout", HEADING),
        setting!(Health.rise: count::<u32>(), "Successes in a row that bring a backend back.")
            .more("The first result after the start decides at once.")
            .needs(PROBES, probes)
            .flag("health-rise", HEADING),
        setting!(Health.fall: count::<u32>(), "Failures in a row that take a backend out.")
            .needs(PROBES, probes)
            .flag("health-fall", HEADING),
    ],
};

/// A path, a host or answers imply an HTTP probe.
fn as_http(health: &mut Health) -> &mut HealthKind {
    if health.kind.probe() != Probe::Http {
        health.kind = HealthKind::http();
    }
    &mut health.kind
}

/// Reads the section.
pub fn read(source: &Source<'_>) -> Health {
    let mut health = Health::default();
    let taken = HEALTH.read(source, &mut health);
    if !source.has("timeout") {
        health.timeout = health.timeout.min(health.interval);
    }
    // With a mistaken interval there is nothing to compare with.
    let known = taken.has("interval") || !source.has("interval");
    if taken.has("timeout") && known && health.timeout > health.interval {
        let (name, interval) = (source.name("interval"), duration::written(health.interval));
        let timeout = duration::written(health.timeout);
        source.wrong(
            "timeout",
            format!("expected at most the {name} of {interval}, got `{timeout}`: a probe must end before the next"),
        );
    }
    if taken.has("kind") {
        beside_kind(source, &health);
    }
    if source.given("expect_status").is_some_and(|given| given.is_empty_list()) {
        source.wrong("expect_status", "the list is empty: no answer would do");
    }
    health
}

/// Notes what a kind of probe has no use for.
fn beside_kind(source: &Source<'_>, health: &Health) {
    let (name, kind) = (source.name("kind"), source.raw("kind").unwrap_or_default());
    let is = |other: &str| kind.eq_ignore_ascii_case(other);
    for key in ["path", "host", "expect_status"].into_iter().filter(|key| !is("http") && source.has(key)) {
        let value = source.raw(key).map_or_else(|| "it".to_owned(), |text| format!("`{text}`"));
        source.wrong(key, format!("{value} needs HTTP probes, but {name} is `{kind}`: leave one of the two out"));
    }
    if is("off") && source.has("port") {
        source.wrong("port", format!("expected probes, but {name} is `off`: leave one of the two out"));
    }
    if is("off") && health.initial == InitialHealth::Down {
        source.wrong("initial", format!("expected probes, but {name} is `off`: no probe would ever let a client in"));
    }
}
