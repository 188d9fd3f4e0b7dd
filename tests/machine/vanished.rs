//! A peer that vanishes: its link is cut, and no FIN or reset comes. Keepalive finds it where
//! nothing is sent, a look at its acknowledgements elsewhere; for clients and backends alike. [`super::timeouts`] has more cases.

use crate::lab::{Configured, Network};
use std::io::{ErrorKind, Write};
use std::net::Ipv4Addr;
use std::sync::mpsc::{Receiver, Sender, channel};
use testkit::{Conn, Ending, MIB, Server};

const BACKEND: Ipv4Addr = Ipv4Addr::new(10, 2, 0, 1);
/// tcplb's side of the cable to the client.
const BALANCER: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 2);

/// Three machines in a row, and a tcplb on the middle one.
struct Row {
    clients: Network,
    backends: Network,
    tcplb: Configured,
    /// What became of each connection, as the backend has seen it.
    endings: Receiver<std::io::Result<Ending>>,
    _middle: Network,
    _server: Server,
}

impl Row {
    fn new() -> Option<Row> {
        let (clients, middle, backends) = (Network::new()?, Network::new()?, Network::new()?);
        clients.connect(("wire", "10.1.0.1/24"), &middle, ("left", "10.1.0.2/24"));
        backends.connect(("wire", "10.2.0.1/24"), &middle, ("right", "10.2.0.2/24"));
        let (sender, endings) = channel();
        let server = backends.inside(|| Server::start_on(BACKEND, script(sender)));
        let text = format!(
            "dead_peer_timeout = '4s'\n[[listener]]\nbind = ['{BALANCER}:0']\n\
             [[pool]]\n[pool.health]\nkind = 'off'\n[[pool.backend]]\naddress = '{}'\n",
            server.at()
        );
        let tcplb = middle.inside(|| Configured::start(&text, &["--log-level", "debug"]));
        Some(Row { clients, backends, tcplb, endings, _middle: middle, _server: server })
    }

    fn connect(&self) -> Conn {
        let at = &self.tcplb.at[0];
        self.clients.inside(|| Conn::to(at))
    }

    /// Waits until each of so many connections has ended for that reason.
    fn wait(&self, reason: &str, connections: usize) {
        let lines = self.tcplb.process.wait_for_lines(&format!(": {reason} after"), connections);
        lines.iter().for_each(|line| println!("{line}"));
    }
}

/// Answers `hello`; after `more` it sends without end. In the end it reports.
fn script(report: Sender<std::io::Result<Ending>>) -> impl Fn(Conn) -> std::io::Result<()> + Send + Sync + 'static {
    move |conn| {
        let line = conn.line()?;
        (&conn).write_all(b"hello\n")?;
        let ending = loop {
            if line != "more" {
                break conn.try_ending();
            }
            match (&conn).write_all(&[0; 4096]) {
                Err(error) if matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe) => {
                    break Ok(Ending::Reset);
                }
                written => written?,
            }
        };
        // No server listens where the backend has vanished.
        let _ = report.send(ending);
        Ok(())
    }
}

#[test]
fn clients_that_vanish_are_found_idle_or_not() {
    let Some(row) = Row::new() else { return };
    let (idle, reading) = (row.connect(), row.connect());
    idle.say("idle\n");
    reading.say("more\n");
    assert_eq!(idle.hear_line(), "hello");
    assert_eq!(reading.hear_line(), "hello");
    reading.hear(MIB);
    row.clients.unplug("wire");
    row.wait("client_reset", 2);
    for _ in 0..2 {
        let ending = row.endings.recv().expect("two reports").expect("an ending");
        assert_eq!(ending, Ending::Reset, "the backend gets a reset at once");
    }
}

#[test]
fn backends_that_vanish_are_found_idle_or_not() {
    let Some(row) = Row::new() else { return };
    let (idle, writing) = (row.connect(), row.connect());
    idle.say("idle\n");
    writing.say("idle\n");
    assert_eq!(idle.hear_line(), "hello");
    assert_eq!(writing.hear_line(), "hello");
    row.backends.unplug("wire");
    writing.say("is anybody there?");
    row.wait("backend_reset", 2);
    assert_eq!(idle.ending(), Ending::Reset);
    assert_eq!(writing.ending(), Ending::Reset);
}
