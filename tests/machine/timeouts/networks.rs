//! Where the rows are played: five networks around a tcplb, scripted backends in two of them, and its access log.

use super::rows::{Cable, PACE, Row};
use super::{MUCH, OVER};
use crate::lab::{Configured, Network};
use parking_lot::Mutex;
use rustix::net::getsockname;
use std::collections::HashMap;
use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::OnceLock;
use std::time::{Duration, Instant};
use testkit::{At, BlackHole, Conn, Server, eventually, let_pass, receive, refusing, send};

/// As the configuration below has them.
pub const DEAD_PEER: Duration = Duration::from_secs(4);
pub const IDLE: Duration = Duration::from_secs(3);
pub const HALF_CLOSE: Duration = Duration::from_secs(3);
pub const CONNECT: Duration = Duration::from_secs(1);
pub const LIFETIME: Duration = Duration::from_secs(3);

const BACKENDS: Ipv4Addr = Ipv4Addr::new(10, 4, 0, 1);
const BACKENDS_THAT_VANISH: Ipv4Addr = Ipv4Addr::new(10, 2, 0, 1);
const FOR_CLIENTS: Ipv4Addr = Ipv4Addr::new(10, 3, 0, 2);
const FOR_CLIENTS_THAT_VANISH: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 2);
/// In a network that there is, at an address where there is no machine.
const NOT_THERE: &str = "10.4.0.9:80";

/// Which backends.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Backends {
    Stay,
    Vanish,
}

/// Digests of what scripted backends have sent or received, by the number of the row.
type Digests = Arc<Mutex<HashMap<usize, [u8; 32]>>>;

pub struct Networks {
    clients: Network,
    clients_that_vanish: Network,
    backends_that_vanish: Network,
    pub tcplb: Configured,
    digests: Digests,
    pulled: OnceLock<Instant>,
    _rest: (Network, Network, Server, Server, BlackHole),
}

impl Networks {
    pub fn new() -> Option<Networks> {
        let (clients, clients_that_vanish) = (Network::new()?, Network::new()?);
        let (backends, backends_that_vanish) = (Network::new()?, Network::new()?);
        let middle = Network::new()?;
        for (index, network) in
            [&clients_that_vanish, &backends_that_vanish, &clients, &backends].into_iter().enumerate()
        {
            let (theirs, ours) = (format!("10.{}.0.1/24", index + 1), format!("10.{}.0.2/24", index + 1));
            network.connect(("wire", &theirs), &middle, (&format!("wire{index}"), &ours));
        }
        let digests = Digests::default();
        let server = backends.inside(|| Server::start_on(BACKENDS, script(digests.clone())));
        let vanishing = backends_that_vanish.inside(|| Server::start_on(BACKENDS_THAT_VANISH, script(digests.clone())));
        // On the balancer's own machine, where a SYN reaches a full backlog without a cable.
        let full = middle.inside(BlackHole::start);
        let refusing = middle.inside(refusing);
        let text = configuration(&[
            ("", server.at().to_string()),
            ("", vanishing.at().to_string()),
            ("idle_timeout = '3s'\nhalf_close_timeout = '1h'", server.at().to_string()),
            ("half_close_timeout = '3s'", server.at().to_string()),
            ("max_lifetime = '3s'", server.at().to_string()),
            ("connect_timeout = '1s'\nconnect_attempts = 1", full.at().to_string()),
            ("connect_timeout = '1s'\nconnect_attempts = 1", refusing.to_string()),
            ("connect_timeout = '1s'\nconnect_attempts = 1", NOT_THERE.to_owned()),
        ]);
        let tcplb = middle.inside(|| Configured::start(&text, &[]));
        let pulled = OnceLock::new();
        let rest = (backends, middle, server, vanishing, full);
        Some(Networks { clients, clients_that_vanish, backends_that_vanish, tcplb, digests, pulled, _rest: rest })
    }

    /// Pulls both cables.
    pub fn pull(&self) {
        self.clients_that_vanish.vanish("wire");
        self.backends_that_vanish.vanish("wire");
        self.pulled.set(Instant::now()).expect("once");
    }

    /// When that was.
    pub fn pulled(&self) -> Instant {
        eventually("the cables are pulled", || self.pulled.get().is_some());
        *self.pulled.get().expect("they are pulled")
    }

    /// The listener with `dead_peer_timeout` alone.
    pub fn dead_peer(&self, backends: Backends) -> &At {
        &self.tcplb.at[usize::from(backends == Backends::Vanish)]
    }

    pub fn connect(&self, row: &Row) -> Conn {
        let at = match (row.time_out.split('`').nth(1), row.does) {
            (Some("dead_peer_timeout"), _) => self.dead_peer(row.backends()),
            (Some("idle_timeout"), _) => &self.tcplb.at[2],
            (Some("half_close_timeout"), _) => &self.tcplb.at[3],
            (Some("max_lifetime"), _) => &self.tcplb.at[4],
            (_, "is there, with a full backlog") => &self.tcplb.at[5],
            (_, "refuses") => &self.tcplb.at[6],
            _ => &self.tcplb.at[7],
        };
        self.connect_to(at, row.cable)
    }

    pub fn connect_to(&self, at: &At, cable: Cable) -> Conn {
        let (network, ip) = match cable {
            Cable::OfClients => (&self.clients_that_vanish, FOR_CLIENTS_THAT_VANISH),
            Cable::Stays | Cable::OfBackends => (&self.clients, FOR_CLIENTS),
        };
        // A reset may come before the call that connects returns; reading reports it.
        network.inside(|| Conn::attempt(&at.on(ip))).patient()
    }

    /// What the access log says of the connection of a client, once it is over: why it ended, after how long.
    pub fn close_of(&self, client: &str) -> Option<(String, Duration)> {
        let output = self.tcplb.process.output();
        let line = output.lines().find(|line| line.split(' ').nth(2) == Some(client))?;
        let fields: Vec<&str> = line.split(' ').collect();
        let millis = fields.get(7)?.parse().ok()?;
        Some(((*fields.get(10)?).to_owned(), Duration::from_millis(millis)))
    }

    pub fn wait_for_close(&self, client: &str) -> (String, Duration) {
        eventually(&format!("the connection of {client} has ended"), || self.close_of(client).is_some());
        self.close_of(client).expect("it has ended")
    }

    pub fn digest_of(&self, row: usize) -> Option<[u8; 32]> {
        self.digests.lock().get(&row).copied()
    }
}

/// One listener and pool each, with these settings and this backend.
fn configuration(pools: &[(&str, String)]) -> String {
    let mut listeners = "dead_peer_timeout = '4s'\naccess_log = '-'\n".to_owned();
    let mut text = String::new();
    for (index, (settings, backend)) in pools.iter().enumerate() {
        listeners += &format!("[[listener]]\nname = 'l{index}'\nbind = ['0.0.0.0:0']\npool = 'p{index}'\n");
        text += &format!("[[pool]]\nname = 'p{index}'\n{settings}\n[pool.health]\nkind = 'off'\n");
        text += &format!("[[pool.backend]]\naddress = '{backend}'\n");
    }
    listeners + &text
}

/// A client's address, as the access log has it.
pub fn name(client: &Conn) -> String {
    SocketAddr::try_from(getsockname(client.as_fd()).expect("its address")).expect("an address and a port").to_string()
}

/// Ends whatever still reads or writes there.
pub fn let_go(client: &Conn) {
    // Fails where it is over already.
    let _ = rustix::net::shutdown(client.as_fd(), rustix::net::Shutdown::Both);
}

/// A backend that does what its client's first line says.
fn script(digests: Digests) -> impl Fn(Conn) -> std::io::Result<()> + Send + Sync + 'static {
    move |conn| {
        let conn = conn.patient();
        let line = conn.line()?;
        let (row, what) = line.split_once(' ').expect("a number and what to do");
        let row: usize = row.parse().expect("a number");
        match what {
            "reads" => drop(conn.try_ending()),
            "does nothing" => let_pass(OVER),
            "drips" => {
                while (&conn).write_all(b".").is_ok() {
                    let_pass(PACE / 4);
                }
            }
            "floods" => while (&conn).write_all(&[0; 4096]).is_ok() {},
            "sends" => {
                let digest = send(&conn, 1, MUCH)?;
                digests.lock().insert(row, digest);
            }
            "reads late" => {
                let_pass(2 * DEAD_PEER);
                let (_, digest) = receive(&conn)?;
                digests.lock().insert(row, digest);
            }
            _ => panic!("{what}?"),
        }
        Ok(())
    }
}
