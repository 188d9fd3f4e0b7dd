//! `tcplb probe`: one probe of a backend now, with what was sent and received.

use super::args::Probe;
use super::client::Client;
use super::{REFUSED, Trouble, backends, done, get, read, show, show_json};
use crate::admin::api::{ProbeStep, ProbeStepKind, Probed, ProbedAddress};
use crate::base::bytes::{escaped, unescaped};
use crate::base::text::Escaped;
use std::process::ExitCode;

/// Runs the command.
pub fn run(probe: &Probe) -> ExitCode {
    let mut failed = false;
    let code = done(|| {
        let client = Client::new(&probe.reach)?;
        let body = get(&client, "POST", &format!("{}/probe", backends::one(&probe.which)), None)?;
        let probed: Probed = read(&body)?;
        failed = !probed.passed;
        if probe.json { show_json::<Probed>(&body) } else { print(&probed) }
    });
    if failed { ExitCode::from(REFUSED) } else { code }
}

fn print(probed: &Probed) -> Result<(), Trouble> {
    probed.addresses.iter().flat_map(of_address).try_for_each(show)?;
    let has_state = probed.kind != "off" && !probed.addresses.is_empty();
    let stays = if has_state { ". This probe does not change the health state." } else { "" };
    show(format!("{}{stays}", Escaped(&probed.meaning)))
}

fn of_address(probed: &ProbedAddress) -> Vec<String> {
    let ProbedAddress { address, passed, outcome, connect_ms, total_ms, steps, bytes_left_out } = probed;
    let mut lines = vec![address.clone()];
    lines.extend(connect_ms.map(|after| format!("  connected after {after:.2} ms")));
    for step in steps {
        let word = match step.kind {
            ProbeStepKind::Sent => "sent",
            ProbeStepKind::Expected => "expected",
            ProbeStepKind::Received => "received",
        };
        let mut word = Some(word).into_iter();
        lines.extend(text(step).iter().map(|line| format!("  {:<9} {line}", word.next().unwrap_or_default())));
    }
    if *bytes_left_out > 0 {
        lines.push(format!("  and {bytes_left_out} bytes more"));
    }
    let word = if *passed { "passed" } else { "failed" };
    lines.push(format!("  {word} after {total_ms:.2} ms: {}", Escaped(outcome)));
    lines
}

/// A line of a terminal for each line of the bytes.
fn text(step: &ProbeStep) -> Vec<String> {
    match (step.kind, unescaped(&step.text)) {
        (ProbeStepKind::Sent | ProbeStepKind::Received, Ok(bytes)) => {
            bytes.split_inclusive(|byte| *byte == b'\n').map(escaped).collect()
        }
        _ => vec![Escaped(&step.text).to_string()],
    }
}
