//! What an operator should know, worst first: one pure function over the status.

use super::api::{FINDINGS_MAX, Finding, Level, PoolView, Status, Verdict};
use std::cmp::Reverse;

/// Fills in the findings and the verdict of a status that is otherwise complete.
pub fn judge(status: &mut Status) {
    let mut findings: Vec<Finding> = status.pools.iter().filter_map(down).collect();
    findings.sort_by_key(|finding| Reverse(finding.level));
    status.verdict = verdict(&findings);
    findings.truncate(FINDINGS_MAX);
    status.findings = findings;
}

fn verdict(findings: &[Finding]) -> Verdict {
    match findings {
        [] => Verdict { level: Level::Ok, text: "nothing is wrong".to_owned() },
        [only] => Verdict { level: only.level, text: only.text.clone() },
        [worst, others @ ..] => {
            Verdict { level: worst.level, text: format!("{} (and {} more)", worst.text, others.len()) }
        }
    }
}

fn down(pool: &PoolView) -> Option<Finding> {
    (pool.state == "down").then(|| Finding {
        level: Level::Critical,
        pool: Some(pool.name.clone()),
        text: format!("{}: no backend takes connections", pool.name),
        ..Finding::default()
    })
}
