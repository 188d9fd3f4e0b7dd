//! `tcplb explain`: where a client would go now, and why.

use super::args::Explain;
use super::client::Client;
use super::{Trouble, done, get, read, show, table};
use crate::admin::api::{Acceptance, Candidate, Explained};
use crate::admin::figures::Align;
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
            return show(String::from_utf8_lossy(&body).trim_end());
        }
        print(&explain.client, &read(&body)?)
    })
}

fn print(client: &str, explained: &Explained) -> Result<(), Trouble> {
    let Explained { listener, verdict, reason, pool, algorithm, pick, candidates } = explained;
    let draws = candidates.iter().any(|candidate| candidate.share.is_some());
    let reason = reason.as_ref().map(|reason| format!(" ({reason})")).unwrap_or_default();
    show(match (verdict, pick) {
        (Acceptance::Refuse, _) => format!("{client} is refused{reason}"),
        (Acceptance::Accept, Some(backend)) => format!("{client} goes to {backend}{reason}"),
        (Acceptance::Accept, None) if draws => format!("{client} goes to one of these, by their shares{reason}"),
        (Acceptance::Accept, None) => format!("{client} waits{reason}"),
    })?;
    // A newer tcplb may have an algorithm that this one does not know.
    let picks = balance::find(algorithm).map(|row| format!(": {}", row.picks)).unwrap_or_default();
    show(format!("listener {listener}, pool {pool}, {algorithm}{picks}"))?;
    let mut heads = vec![("BACKEND", Align::Left), ("USABLE", Align::Left), ("WEIGHT", Align::Right)];
    heads.push(("ACTIVE", Align::Right));
    if draws {
        heads.push(("SHARE", Align::Right));
    }
    heads.push(("WHY", Align::Left));
    let heads: Vec<(String, Align)> = heads.into_iter().map(|(head, align)| (head.to_owned(), align)).collect();
    show(table::table(&heads, candidates.iter().map(|candidate| row(candidate, draws)).collect()))
}

fn row(candidate: &Candidate, draws: bool) -> Vec<String> {
    let Candidate { backend, usable, why, weight, active, share } = candidate;
    let usable = if *usable { "yes" } else { "no" };
    let mut cells = vec![backend.clone(), usable.to_owned(), weight.to_string(), active.to_string()];
    if draws {
        cells.push(share.map_or_else(|| "-".to_owned(), |share| format!("{:.1} %", share * 100.0)));
    }
    cells.push(why.clone());
    cells
}
