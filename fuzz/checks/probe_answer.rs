//! Any bytes as the answer to a probe: the same outcome wherever the network cuts them, and none that the bytes do not justify.
//!
//! The first line names the probe.

use tcplb::base::Endpoint;
use tcplb::config::model::{Health, HealthKind, Pattern, Step};
use tcplb::policy::health::{AgentReport, Outcome};
use tcplb::probe::ProbeTarget;

/// Fails if a promise is broken.
pub fn check(bytes: &[u8]) {
    let Some(end) = bytes.iter().position(|byte| *byte == b'\n') else { return };
    let answer = &bytes[end + 1..];
    let [expect, regex] = [step as fn(&str) -> Step, pattern];
    let kind = match &bytes[..end] {
        b"agent" => HealthKind::Agent,
        b"http" => HealthKind::http(),
        b"redis" => script([send("INFO replication\r\n"), expect("$"), regex("role:"), expect("master")]),
        b"smtp" => script([expect("220"), regex("^ .*\r\n|\n220 .*\r\n"), send("QUIT\r\n"), expect("221")]),
        b"mysql" => script([regex("(?s)^...\\x00\\x0a.*_password\\x00"), send("login"), regex("(?s)^...\\x02\\x00")]),
        _ => return,
    };
    let whole = outcome(&kind, [answer]);
    for cut in 0..=answer.len() {
        let (first, rest) = answer.split_at(cut);
        assert_eq!(verdict(&outcome(&kind, [first, rest])), verdict(&whole), "cut at {cut}");
    }
    assert_eq!(verdict(&outcome(&kind, answer.chunks(1))), verdict(&whole), "byte by byte");
    assert!(whole.to_string().len() < 2048, "{whole}");
    match (&kind, &whole) {
        (HealthKind::Agent, Outcome::Agent(report)) => agent(answer, *report),
        (HealthKind::Http { .. }, Outcome::Status(200)) => assert!(answer.windows(4).any(|part| part == b" 200")),
        (HealthKind::Script { .. }, Outcome::ScriptPassed) => assert!(!answer.is_empty()),
        _ => assert!(!whole.passed(), "{whole}"),
    }
}

/// Neither the order of the words nor their case matters for a state.
fn agent(answer: &[u8], report: AgentReport) {
    let line = answer.split(|byte| b"\n\r\0".contains(byte)).next().unwrap_or_default();
    let line = std::str::from_utf8(line).expect("it was understood");
    let turned: Vec<&str> = line.split([' ', '\t', ',']).rev().collect();
    let turned = turned.join(",").to_ascii_uppercase();
    let again = AgentReport::parse(&turned).expect("it was understood");
    assert_eq!((again.down, again.drains), (report.down, report.drains), "{turned}");
    assert_eq!(again.percent.is_some(), report.percent.is_some());
}

/// The outcome of a probe that gets these bytes, and then the close. All that it has to send is sent at once.
fn outcome<'a>(kind: &HealthKind, chunks: impl IntoIterator<Item = &'a [u8]>) -> Outcome {
    let health = Health { kind: kind.clone(), port: Some(80), ..Health::default() };
    let at = Endpoint::Inet(([127, 0, 0, 1], 80).into());
    let mut probe = ProbeTarget::new(&health, None, None, &at).expect("it probes").probe();
    let mut chunks = chunks.into_iter();
    let begun = probe.connected().or_else(|| probe.sent(probe.unsent().len()));
    let decided =
        begun.or_else(|| chunks.find_map(|chunk| probe.received(chunk).or_else(|| probe.sent(probe.unsent().len()))));
    decided.unwrap_or_else(|| probe.closed())
}

/// What must not depend on cuts. How much of an answer a failure shows may.
fn verdict(outcome: &Outcome) -> (Option<Outcome>, String) {
    let passed = outcome.passed().then(|| outcome.clone());
    (passed, outcome.to_string().split(", ").next().unwrap_or_default().to_owned())
}

fn script<const N: usize>(steps: [Step; N]) -> HealthKind {
    HealthKind::Script { steps: steps.to_vec() }
}

fn send(text: &str) -> Step {
    Step::Send(text.as_bytes().to_vec())
}

fn step(text: &str) -> Step {
    Step::Expect(text.as_bytes().to_vec())
}

fn pattern(text: &str) -> Step {
    Step::ExpectRegex(Pattern::new(text).expect("a pattern"))
}
