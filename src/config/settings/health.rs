//! `[pool.health]`: how the backends of a pool are watched.

use super::kinds::{self, count, number, word};
use super::{Flag, Section, Source, setting};
use crate::base::duration;
use crate::config::model::{Health, HealthKind, InitialHealth, Probe};
use crate::config::words::{self, Words};

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
            |health, probe| set_kind(health, probe),
            "What a probe does: `tcp` connects, `http` sends a request, `agent` reads a line about load, `script` sends and \
             expects bytes, `off` sends no probes."
        )
        .more(
            "An `agent` needs `port`, where a program beside the backend says how it is, and a `script` needs `steps`. With \
             `off`, a backend that refuses a connection is left out for a moment.",
        )
        .absent("`\"tcp\"`; `\"http\"` beside `path`, `host` or `expect_status`; `\"script\"` beside `steps`")
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
            |health, value| if let HealthKind::Http { path, .. } = of_kind(health, Probe::Http) { *path = value },
            "The path that an HTTP probe requests."
        )
        .flag("health-path", HEADING),
        setting!(
            "host", Health.kind: kinds::PROBE_HOST,
            |health| match &health.kind { HealthKind::Http { host, .. } => host.clone(), _ => None },
            |health, value| if let HealthKind::Http { host, .. } = of_kind(health, Probe::Http) { *host = Some(value) },
            "The Host header of its request."
        )
        .absent("the backend's address"),
        setting!(
            "expect_status", Health.kind: kinds::STATUSES,
            |health| match &health.kind { HealthKind::Http { expect, .. } => Some(expect.clone()), _ => None },
            |health, value| if let HealthKind::Http { expect, .. } = of_kind(health, Probe::Http) { *expect = value },
            "The answers that count as a success: codes and ranges."
        ),
        setting!(
            "steps", Health.kind: kinds::STEPS,
            |health| match &health.kind { HealthKind::Script { steps } => Some(steps.clone()), _ => None },
            |health, value| if let HealthKind::Script { steps } = of_kind(health, Probe::Script) { *steps = value },
            "What a script sends and expects, in this order, over one connection."
        )
        .more(
            "`send` and `expect` take the escapes `\\\\`, `\\r`, `\\n`, `\\t` and `\\xHH`. `expect` is the beginning of what has \
             come since the last expectation, and `expect_regex` is a regular expression that matches somewhere in it.",
        )
        .absent("none")
        .secret(),
        setting!(Health.port: number::<u16, 1, { u16::MAX as u64 }>(), "Probes go to this port of each backend.")
            .more(
                "They carry no PROXY header then, unless the port of the backend is that of its client, and clients come to \
                 this one. A backend with a unix socket has no other port, so such a pool cannot hold one. Not with `off`.",
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

/// The keys that only one kind of probe has. Each implies its kind.
const OF_KINDS: [(&str, Probe); 4] =
    [("path", Probe::Http), ("host", Probe::Http), ("expect_status", Probe::Http), ("steps", Probe::Script)];

/// What a message calls such a probe.
fn called(probe: Probe) -> &'static str {
    if probe == Probe::Script { "a script" } else { "HTTP probes" }
}

/// Gives the probe this kind. One that it has already keeps its parameters.
fn set_kind(health: &mut Health, probe: Probe) {
    if probe == Probe::Off {
        // A preset may have set what only probes have a use for.
        (health.initial, health.port) = (InitialHealth::Up, None);
    }
    if health.kind.probe() != probe {
        health.kind = match probe {
            Probe::Tcp => HealthKind::Tcp,
            Probe::Http => HealthKind::http(),
            Probe::Agent => HealthKind::Agent,
            Probe::Script => HealthKind::Script { steps: Vec::new() },
            Probe::Off => HealthKind::Off,
        };
    }
}

fn of_kind(health: &mut Health, probe: Probe) -> &mut HealthKind {
    set_kind(health, probe);
    &mut health.kind
}

/// Reads the section. What it does not set is as in `health`.
pub fn read(source: &Source<'_>, mut health: Health) -> Health {
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
    if taken.has("kind") || !source.has("kind") {
        beside_kind(source, &health);
    }
    if source.given("expect_status").is_some_and(|given| given.is_empty_list()) {
        source.wrong("expect_status", "the list is empty: no answer would do");
    }
    health
}

/// Notes what a kind of probe has no use for, and what it lacks.
fn beside_kind(source: &Source<'_>, health: &Health) {
    let (name, kind) = (source.name("kind"), source.raw("kind").unwrap_or_default());
    let asked = words::one_of(kind, Probe::NAMES).ok();
    let given = || OF_KINDS.into_iter().filter(|(key, _)| source.has(key));
    // Without a kind, the first of these keys decides.
    let decided = given().next().map(|(key, probe)| (probe, format!("{key} needs {}", called(probe))));
    let decided = asked.map(|asked| (asked, format!("{name} is `{kind}`"))).or(decided);
    for (key, probe) in given() {
        if let Some((_, why)) = decided.as_ref().filter(|(decided, _)| *decided != probe) {
            let value = source.raw(key).map_or_else(|| "it".to_owned(), |text| format!("`{text}`"));
            source.wrong(key, format!("{value} needs {}, but {why}: leave one of the two out", called(probe)));
        }
    }
    if asked == Some(Probe::Off) && source.has("port") {
        source.wrong("port", format!("expected probes, but {name} is `off`: leave one of the two out"));
    }
    if asked == Some(Probe::Off) && health.initial == InitialHealth::Down {
        source.wrong("initial", format!("expected probes, but {name} is `off`: no probe would ever let a client in"));
    }
    if asked == Some(Probe::Agent) && !source.has("port") {
        source.wrong("kind", "an agent needs its port, like port = 8090");
    }
    let no_steps = matches!(&health.kind, HealthKind::Script { steps } if steps.is_empty());
    if no_steps && !source.has("steps") {
        source.wrong(
            "kind",
            "a script needs its steps, like steps = [{ send = \"PING\\r\\n\" }, { expect = \"+PONG\" }]",
        );
    }
}
