//! `tcplb explain`: where a client would go now, and why.

use super::args::Explain;
use super::client::Client;
use super::{Trouble, done, get, read, show, show_json, table};
use crate::admin::api::{Acceptance, Candidate, Explained};
use crate::admin::figures::{Align, CANDIDATES, Column, SHARE};
use crate::admin::target;
use crate::policy::balance;
use std::process::ExitCode;

/// Runs the command.
pub fn run(explain: &Explain) -> ExitCode {
    done(|| {
        let client = Client::new(&explain.reach)?;
        let listener = explain.listener.as_ref().map(|name| format!("&listener={}", target::encode(name)));
        let client_address = target::encode(&explain.client);
        let path = format!("/v1/explain?client={client_address}{}", listener.unwrap_or_default());
        let body = get(&client, "GET", &path, None)?;
        if explain.json {
            return show_json::<Explained>(&body);
        }
        print(&explain.client, &read(&body)?)
    })
}

fn print(client: &str, explained: &Explained) -> Result<(), Trouble> {
    show(outcome(client, explained))?;
    show(choice(explained))?;
    let columns = CANDIDATES.iter().filter(|column| column.head != SHARE || draws(explained));
    let columns: Vec<&Column<Candidate>> = columns.collect();
    let heads: Vec<(String, Align)> = columns.iter().map(|column| (column.head.to_uppercase(), column.align)).collect();
    let cell = |column: &&Column<Candidate>, candidate| (column.cell)(candidate).unwrap_or_else(|| "-".to_owned());
    let row = |candidate| columns.iter().map(|column| cell(column, candidate)).collect();
    show(table::table(&heads, explained.candidates.iter().map(row).collect()))
}

/// Where the client goes.
pub fn outcome(client: &str, explained: &Explained) -> String {
    let Explained { verdict, reason, pick, .. } = explained;
    let reason = reason.as_ref().map(|reason| format!(" ({reason})")).unwrap_or_default();
    match (verdict, pick) {
        (Acceptance::Refuse, _) => format!("{client} is refused{reason}"),
        (Acceptance::Accept, Some(backend)) => format!("{client} goes to {backend}{reason}"),
        (Acceptance::Accept, None) if draws(explained) => {
            format!("{client} goes to one of these, by their shares{reason}")
        }
        (Acceptance::Accept, None) => format!("{client} waits{reason}"),
    }
}

/// What chooses.
pub fn choice(explained: &Explained) -> String {
    let Explained { listener, pool, algorithm, .. } = explained;
    // A newer tcplb may have an algorithm that this one does not know.
    let picks = balance::find(algorithm).map(|row| format!(": {}", row.picks)).unwrap_or_default();
    format!("listener {listener}, pool {pool}, {algorithm}{picks}")
}

/// Whether the algorithm draws.
pub fn draws(explained: &Explained) -> bool {
    explained.candidates.iter().any(|candidate| candidate.share.is_some())
}
