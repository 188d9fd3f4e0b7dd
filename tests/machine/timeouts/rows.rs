//! The rows: which time-out, which peer, what it does, and what is expected of it.

use super::networks::{Backends, CONNECT, DEAD_PEER, HALF_CLOSE, IDLE, LIFETIME};
use std::fmt;
use std::io::{Read, Write};
use std::time::Duration;
use testkit::Conn;

/// Between two bytes of a peer that sends a few.
pub const PACE: Duration = Duration::from_millis(400);

/// Which cable is pulled.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Cable {
    Stays,
    /// The one that this row's client is behind.
    OfClients,
    /// The one that its backend is behind.
    OfBackends,
}

/// What the client does once it has said what its backend shall do.
#[derive(Clone, Copy)]
pub enum Client {
    /// Nothing: it does not even read.
    Nothing,
    /// Reads all the time.
    Reads,
    /// Sends a byte now and then, and reads nothing.
    Drips,
    /// Sends as much as is taken, and reads nothing.
    Floods,
    /// Sends its FIN, and reads nothing.
    Finishes,
    /// Sends its FIN, and reads all the time.
    FinishesAndReads,
}

/// What the backend does.
#[derive(Clone, Copy)]
pub enum Backend {
    /// Reads, and says nothing.
    Reads,
    /// Neither reads nor writes.
    Nothing,
    /// Sends a byte now and then.
    Drips,
    /// Sends without end.
    Floods,
}

/// What is expected.
#[derive(Clone, Copy)]
pub enum Fate {
    Stays,
    /// Ends for this reason, in this time: since the cable was pulled where it is, else since it began.
    Ends(&'static str, Duration, Duration),
}

pub struct Row {
    pub time_out: &'static str,
    pub peer: &'static str,
    pub does: &'static str,
    pub cable: Cable,
    pub client: Client,
    pub backend: Backend,
    pub fate: Fate,
    /// Long before the cable is pulled.
    pub begins_early: bool,
}

impl Row {
    /// The backends that it is about.
    pub fn backends(&self) -> Backends {
        if self.cable == Cable::OfBackends { Backends::Vanish } else { Backends::Stay }
    }
}

impl fmt::Display for Backend {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Backend::Reads => "reads",
            Backend::Nothing => "does nothing",
            Backend::Drips => "drips",
            Backend::Floods => "floods",
        })
    }
}

impl Client {
    /// Does it until the connection ends.
    pub fn act(self, client: &Conn, command: &str) {
        // A client that can't be served is reset at once.
        if (&*client).write_all(command.as_bytes()).is_err() {
            return;
        }
        match self {
            Client::Nothing => {}
            Client::Reads => read_all(client),
            Client::Drips => while (&*client).write_all(b".").is_ok() && !client.has_something_within(PACE) {},
            Client::Floods => while (&*client).write_all(&[0; 4096]).is_ok() {},
            Client::Finishes => client.finish(),
            Client::FinishesAndReads => {
                client.finish();
                read_all(client);
            }
        }
    }
}

fn read_all(mut client: &Conn) {
    let mut block = vec![0; 64 * 1024];
    while client.read(&mut block).is_ok_and(|got| got > 0) {}
}

/// All rows.
pub fn rows() -> Vec<Row> {
    let mut rows = vec![];
    dead_peers(&mut rows);
    silence(&mut rows);
    half_closed(&mut rows);
    connects(&mut rows);
    lifetimes(&mut rows);
    rows
}

fn row(time_out: &'static str, peer: &'static str, does: &'static str, acts: (Client, Backend), fate: Fate) -> Row {
    let (client, backend) = acts;
    Row { time_out, peer, does, cable: Cable::Stays, client, backend, fate, begins_early: true }
}

fn dead_peers(rows: &mut Vec<Row>) {
    use {Backend as B, Client as C};
    let row = |peer, does, acts, fate| row("`dead_peer_timeout` 4 s", peer, does, acts, fate);
    for (peer, does, acts) in [
        ("client, alive", "keeps its window closed", (C::Nothing, B::Floods)),
        ("client, alive", "sends a byte now and then", (C::Drips, B::Nothing)),
        ("client, alive", "reads and never sends", (C::Reads, B::Drips)),
        ("client, alive", "only answers keepalive", (C::Nothing, B::Reads)),
        ("backend, alive", "keeps its window closed", (C::Floods, B::Nothing)),
        ("backend, alive", "sends a byte now and then", (C::Nothing, B::Drips)),
        ("backend, alive", "reads and never sends", (C::Drips, B::Reads)),
        ("backend, alive", "only answers keepalive", (C::Nothing, B::Reads)),
    ] {
        rows.push(row(peer, does, acts, Fate::Stays));
    }
    let within = |reason| Fate::Ends(reason, DEAD_PEER / 4, DEAD_PEER);
    for (does, acts) in [
        ("vanishes while idle", (C::Nothing, B::Reads)),
        ("vanishes while it is sent to", (C::Nothing, B::Drips)),
        ("vanishes with its window closed", (C::Nothing, B::Floods)),
    ] {
        let row = row("client, gone", does, acts, within("client_reset"));
        rows.push(Row { cable: Cable::OfClients, ..row });
    }
    for (does, acts) in [
        ("vanishes while idle", (C::Nothing, B::Reads)),
        ("vanishes while it is sent to", (C::Drips, B::Reads)),
        ("vanishes with its window closed", (C::Floods, B::Nothing)),
    ] {
        let row = row("backend, gone", does, acts, within("backend_reset"));
        rows.push(Row { cable: Cable::OfBackends, ..row });
    }
}

fn silence(rows: &mut Vec<Row>) {
    use {Backend as B, Client as C};
    let row = |peer, does, acts, fate| row("`idle_timeout` 3 s", peer, does, acts, fate);
    // Closing a window takes a moment, and its last byte is what silence counts from.
    let ends = Fate::Ends("idle_timeout", IDLE, 2 * IDLE);
    rows.push(row("client, alive", "keeps its window closed", (C::Nothing, B::Floods), ends));
    rows.push(row("client, alive", "sends a byte now and then", (C::Drips, B::Nothing), Fate::Stays));
    rows.push(row("client, alive", "reads and never sends", (C::Reads, B::Drips), Fate::Stays));
    rows.push(row("client, alive", "only answers keepalive", (C::Nothing, B::Reads), ends));
    for (does, acts, fate, begins_early) in [
        ("vanishes while idle", (C::Nothing, B::Reads), ends, false),
        (
            "vanishes while it is sent to",
            (C::Nothing, B::Drips),
            Fate::Ends("client_reset", DEAD_PEER / 4, DEAD_PEER),
            true,
        ),
        ("vanishes with its window closed", (C::Nothing, B::Floods), ends, false),
    ] {
        let row = row("client, gone", does, acts, fate);
        rows.push(Row { cable: Cable::OfClients, begins_early, ..row });
    }
}

fn half_closed(rows: &mut Vec<Row>) {
    use {Backend as B, Client as C};
    let row = |peer, does, acts, fate| row("`half_close_timeout` 3 s", peer, does, acts, fate);
    let ends = Fate::Ends("half_close_timeout", HALF_CLOSE, 2 * HALF_CLOSE);
    rows.push(row("client, finished", "keeps its window closed", (C::Finishes, B::Floods), ends));
    rows.push(row("client, finished", "is sent a byte now and then", (C::Finishes, B::Drips), Fate::Stays));
    rows.push(row("client, finished", "reads what it is sent", (C::FinishesAndReads, B::Drips), Fate::Stays));
    rows.push(row("client, finished", "only answers keepalive", (C::Finishes, B::Nothing), ends));
    for (does, acts, fate, begins_early) in [
        ("vanishes while idle", (C::Finishes, B::Nothing), ends, false),
        (
            "vanishes while it is sent to",
            (C::Finishes, B::Drips),
            Fate::Ends("client_reset", DEAD_PEER / 4, DEAD_PEER),
            true,
        ),
        ("vanishes with its window closed", (C::Finishes, B::Floods), ends, false),
    ] {
        let row = row("client, finished and gone", does, acts, fate);
        rows.push(Row { cable: Cable::OfClients, begins_early, ..row });
    }
}

fn connects(rows: &mut Vec<Row>) {
    use {Backend as B, Client as C};
    let row = |does, fate| row("`connect_timeout` 1 s", "backend", does, (C::Nothing, B::Reads), fate);
    let at_once = Fate::Ends("connect_failed", Duration::ZERO, CONNECT / 2);
    let later = Fate::Ends("connect_failed", CONNECT, CONNECT * 3 / 2);
    rows.push(row("is there, with a full backlog", later));
    rows.push(row("refuses", at_once));
    rows.push(row("was never there", later));
}

fn lifetimes(rows: &mut Vec<Row>) {
    use {Backend as B, Client as C};
    let row = |peer, does, acts, fate| row("`max_lifetime` 3 s", peer, does, acts, fate);
    // Spread by a tenth, and a tenth for a moment in which nothing moves.
    let ends = Fate::Ends("forced", LIFETIME * 9 / 10, LIFETIME * 11 / 10);
    rows.push(row("client, alive", "keeps its window closed", (C::Nothing, B::Floods), ends));
    rows.push(row("client, alive", "sends a byte now and then", (C::Drips, B::Nothing), ends));
    rows.push(row("client, alive", "reads and never sends", (C::Reads, B::Drips), ends));
    rows.push(row("client, alive", "only answers keepalive", (C::Nothing, B::Reads), ends));
    for (does, acts) in [
        ("vanishes while idle", (C::Nothing, B::Reads)),
        ("vanishes while it is sent to", (C::Nothing, B::Drips)),
        ("vanishes with its window closed", (C::Nothing, B::Floods)),
    ] {
        let row = row("client, gone", does, acts, ends);
        rows.push(Row { cable: Cable::OfClients, begins_early: false, ..row });
    }
}
