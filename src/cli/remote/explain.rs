//! `tcplb explain`: where a client would go now, and why.

use super::args::Explain;
use super::client::Client;
use super::{Trouble, done, get, read, show, show_json, table};
use crate::admin::api::{Acceptance, Explained};
use crate::admin::figures::{CANDIDATES, SHARE};
use crate::admin::target;
use crate::policy::balance;
use std::process::ExitCode;

/// Runs the command.
pub fn run(explain: &Explain) -> ExitCode {
    done(|| {
        let client = Client::new(&explain.reach)?;
        let Explain { client: address, listener, protocol, sni, alpn, .. } = explain;
        let parameters = [
            ("client", Some(address.as_str())),
            ("listener", listener.as_deref()),
            ("protocol", protocol.as_deref()),
            ("sni", sni.as_deref()),
            ("alpn", alpn.as_deref()),
        ];
        let path = target::query("/v1/explain", parameters);
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
    let shares = draws(explained);
    let columns = CANDIDATES.iter().filter(|column| column.head != SHARE || shares);
    show(table::of(columns, &explained.candidates))
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
    let Explained { listener, route, pool, algorithm, approximate, .. } = explained;
    let route = route.as_ref().map(|route| format!(", route {route}")).unwrap_or_default();
    // A newer tcplb may have an algorithm that this one does not know.
    let picks = balance::find(algorithm).map(|row| format!(": {}", row.picks)).unwrap_or_default();
    let picks = if *approximate { ", approximated: at random by weights that follow load".to_owned() } else { picks };
    format!("listener {listener}{route}, pool {pool}, {algorithm}{picks}")
}

/// Whether the algorithm draws.
pub fn draws(explained: &Explained) -> bool {
    explained.candidates.iter().any(|candidate| candidate.share.is_some())
}
