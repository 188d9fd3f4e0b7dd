//! Where tcplb may fall short, and why.

use super::cases::Case;
use super::compare::{Finding, Shortfall};

/// Client, backend, the shortfall, the reason.
const ACCEPTED: &[(&str, &str, Shortfall, &str)] = &[];

/// Is it one of them?
pub fn is(finding: &Finding, cases: &[Case]) -> bool {
    let case = &cases[finding.case];
    ACCEPTED.iter().any(|(client, backend, what, _)| {
        (*client, *backend, *what) == (case.client.name.as_str(), case.backend.name.as_str(), finding.what)
    })
}
