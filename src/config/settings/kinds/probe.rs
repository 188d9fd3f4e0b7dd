//! Kinds of values that only probes have.

use super::super::{Source, given::Given};
use super::{Kind, NAME, Values, Written, quoted, word};
use crate::base::bytes::{escaped, unescaped};
use crate::base::text::counted;
use crate::config::check;
use crate::config::model::health::EXPECT_MAX;
use crate::config::model::{Pattern, Probe, Step};
use crate::config::words::{self, Words};

/// What a probe does. Behind a flag only what needs no key that has no flag.
pub const PROBE: Kind<Probe> = Kind {
    read: |given| {
        let of_file = |probe: &Probe| matches!(probe, Probe::Agent | Probe::Script);
        given.text(|text| match words::one_of(text, Probe::NAMES) {
            Ok(probe) if given.is_flag() && of_file(&probe) => {
                Err(format!("`{text}` needs a file, in which its other keys stand; expected tcp, http or off"))
            }
            Err(_) if given.is_flag() => {
                let words = Probe::NAMES.iter().copied().filter(|(_, probe)| !of_file(probe));
                words::one_of(text, &words.collect::<Vec<_>>())
            }
            read => read,
        })
    },
    ..word()
};

/// The path of an HTTP probe.
pub const PROBE_PATH: Kind<String> = Kind {
    values: Values::other("path", "PATH", "\"/healthz\""),
    read: |given| given.text(|text| check::health_path(text).map(|()| text.to_owned())),
    ..NAME
};

/// The `Host` of an HTTP probe.
pub const PROBE_HOST: Kind<String> = Kind {
    values: Values::other("host", "HOST", "\"web.internal\""),
    read: |given| given.text(|text| check::health_host(text).map(|()| text.to_owned())),
    ..NAME
};

/// Answers of an HTTP server: codes and ranges.
pub const STATUSES: Kind<Vec<(u16, u16)>> = Kind {
    values: Values::other("list of codes and ranges", "STATUS", "[\"200-299\", \"404\"]"),
    read: |given| given.list(status),
    write: |ranges| {
        let range = |(first, last): &(u16, u16)| match first == last {
            true => first.to_string(),
            false => format!("{first}-{last}"),
        };
        Written::List(ranges.iter().map(range).collect())
    },
};

/// `200` or `200-299`.
fn status(text: &str) -> Result<(u16, u16), String> {
    let code = |text: &str| {
        let digits = text.len() == 3 && text.bytes().all(|byte| byte.is_ascii_digit());
        text.parse::<u16>().ok().filter(|code| digits && (100..=599).contains(code))
    };
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    match (code(first.trim()), code(last.trim())) {
        (Some(first), Some(last)) if first <= last => Ok((first, last)),
        _ => Err(format!("expected a status from 100 to 599 or a range, like \"200\" or \"200-299\", got `{text}`")),
    }
}

/// What a script does: tables with one key each.
pub const STEPS: Kind<Vec<Step>> = Kind {
    values: Values::other("list of steps", "STEPS", r#"[{ send = 'PING\r\n' }, { expect = "+PONG" }]"#),
    read: |given| {
        let steps = given.tables(&["send", "expect", "expect_regex"], step)?;
        if given.is_empty_list() {
            given.wrong("the list is empty: a script needs a step");
        }
        if steps.len() > STEPS_MAX {
            given.wrong(&format!("expected at most {STEPS_MAX} steps, got {}", steps.len()));
        }
        Some(steps)
    },
    write: |steps| {
        let step = |step: &Step| match step {
            Step::Send(bytes) => format!("{{ send = {} }}", quoted(escaped(bytes))),
            Step::Expect(bytes) => format!("{{ expect = {} }}", quoted(escaped(bytes))),
            Step::ExpectRegex(pattern) => format!("{{ expect_regex = {} }}", quoted(pattern.text())),
        };
        Written::Bare(format!("[{}]", steps.iter().map(step).collect::<Vec<_>>().join(", ")))
    },
};

/// A probe of more steps would not end before the next one.
const STEPS_MAX: usize = 100;

fn step(source: &Source<'_>) -> Result<Option<Step>, String> {
    let bytes = |given: Given<'_>| given.text(bytes);
    let steps = [
        source.given("send").map(|given| bytes(given).map(Step::Send)),
        source.given("expect").map(|given| bytes(given).map(Step::Expect)),
        source.given("expect_regex").map(|given| given.text(Pattern::new).map(Step::ExpectRegex)),
    ];
    let count = steps.iter().flatten().count();
    match steps.into_iter().flatten().next() {
        Some(step) if count == 1 => Ok(step),
        _ => Err(format!("expected one of send, expect or expect_regex in each step, got {}", counted(count, "key"))),
    }
}

/// What is sent or expected as it is.
fn bytes(text: &str) -> Result<Vec<u8>, String> {
    let bytes = unescaped(text)?;
    match bytes.len() {
        0 => Err("expected at least one byte".to_owned()),
        1..=EXPECT_MAX => Ok(bytes),
        more => Err(format!("expected at most {EXPECT_MAX} bytes, got {more}")),
    }
}
