//! Every time-out against the kernel: peers that are alive in odd ways, and peers that are gone in odd ways. Two cables are
//! pulled, one with clients behind it and one with backends, while other clients and backends stay reachable.
//!
//! All cases run at once against one tcplb. Each is a row of a table that says what happened and when; docs/timeouts.md has
//! it, and `--nocapture` prints it.

mod networks;
mod rows;

use networks::{Backends, Networks};
use rows::{Cable, Fate, Row, rows};
use std::thread;
use std::time::{Duration, Instant};
use testkit::{Ending, MIB, PATIENCE, let_pass, receive, send};

/// When the cables are pulled. Windows that are closed by then have been closed for long enough that the kernel on its own
/// probes them only every few seconds.
const PULLED: Duration = Duration::from_secs(7);

/// Rows with time-outs that would be over by then begin so much earlier than the cables are pulled.
const JUST_BEFORE: Duration = Duration::from_millis(500);

/// What is still there then stays.
const OVER: Duration = Duration::from_secs(14);

/// More than all buffers on the way take, so that the relay itself is stalled too.
const MUCH: usize = 32 * MIB;

/// How long a busy machine may take longer than a time-out says.
const SLACK: Duration = Duration::from_secs(2);

#[test]
fn time_outs_end_what_is_gone_and_leave_what_is_alive() {
    let Some(networks) = &Networks::new() else { return };
    let begun = Instant::now();
    let rows = rows();
    let outcomes: Vec<Result<String, String>> = thread::scope(|scope| {
        scope.spawn(|| {
            let_pass(PULLED.saturating_sub(begun.elapsed()));
            networks.pull();
        });
        let pauses = scope.spawn(|| downloads_after_a_pause(networks, begun));
        let late = scope.spawn(|| uploads_to_a_late_reader(networks, begun));
        let running: Vec<_> =
            rows.iter().enumerate().map(|(id, row)| scope.spawn(move || play(networks, row, id, begun))).collect();
        let outcomes = running.into_iter().map(|row| row.join().expect("a row does not panic")).collect();
        for whole in [pauses, late] {
            whole.join().expect("everything arrives after a pause");
        }
        outcomes
    });
    println!("| time-out | peer | what it does | what happens |\n|---|---|---|---|");
    for (row, outcome) in rows.iter().zip(&outcomes) {
        let what = outcome.as_ref().unwrap_or_else(|wrong| wrong);
        println!("| {} | {} | {} | {what} |", row.time_out, row.peer, row.does);
    }
    let wrong: Vec<&String> = outcomes.iter().filter_map(|outcome| outcome.as_ref().err()).collect();
    assert!(wrong.is_empty(), "{wrong:#?}\n{}", networks.tcplb.process.output());
}

/// Plays one row: what happened, as an error if something else was expected.
fn play(networks: &Networks, row: &Row, id: usize, begun: Instant) -> Result<String, String> {
    let is_cut = row.cable != Cable::Stays;
    if is_cut && !row.begins_early {
        let_pass((PULLED - JUST_BEFORE).saturating_sub(begun.elapsed()));
    }
    let started = Instant::now();
    let client = networks.connect(row);
    let name = networks::name(&client);
    let acting = thread::scope(|scope| {
        let acting = scope.spawn(|| row.client.act(&client, &format!("{id} {}\n", row.backend)));
        let observed = match row.fate {
            Fate::Stays => {
                let_pass(OVER.saturating_sub(begun.elapsed()));
                match networks.close_of(&name) {
                    None => Ok("stays".to_owned()),
                    Some((reason, after)) => Err(format!("{reason} after {after:?}, expected to stay")),
                }
            }
            Fate::Ends(reason, from, to) => {
                let (seen, after) = networks.wait_for_close(&name);
                let since = if is_cut && row.begins_early { started + after - networks.pulled() } else { after };
                let place = if is_cut && row.begins_early { "after the cable is pulled" } else { "after its begin" };
                let text = format!("`{seen}` {:.1} s {place}", since.as_secs_f64());
                let right = seen == reason && (from..=to + SLACK).contains(&since);
                if right { Ok(text) } else { Err(format!("{text}, expected {reason} within {from:?} to {to:?}")) }
            }
        };
        networks::let_go(&client);
        acting.join().expect("a client does not panic");
        observed
    });
    acting.map_err(|wrong| format!("{} / {} / {}: {wrong}", row.time_out, row.peer, row.does))
}

/// A client that reads nothing for twice the time-out, then everything: all of it is there.
fn downloads_after_a_pause(networks: &Networks, begun: Instant) {
    let client = networks.connect_to(networks.dead_peer(Backends::Stay), Cable::Stays);
    client.say("1000 sends\n");
    let_pass(2 * networks::DEAD_PEER);
    let (length, digest) = receive(&client).expect("all of it comes");
    println!("a client that pauses a download: {length} bytes, done after {:?}", begun.elapsed());
    assert_eq!((length, Some(digest)), (MUCH, networks.digest_of(1000)));
}

/// The same with a backend.
fn uploads_to_a_late_reader(networks: &Networks, begun: Instant) {
    let client = networks.connect_to(networks.dead_peer(Backends::Stay), Cable::Stays).patient();
    client.say("1001 reads late\n");
    let digest = send(&client, 1, MUCH).expect("all of it is taken");
    client.finish();
    assert_eq!(client.ending(), Ending::Fin);
    println!("a backend that reads late: {MUCH} bytes, done after {:?}", begun.elapsed());
    assert_eq!(Some(digest), networks.digest_of(1001));
    assert!(begun.elapsed() < OVER + PATIENCE);
}
