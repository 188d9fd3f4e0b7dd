//! No local port is left to connect to a backend from: a port may be used once for each destination.

use crate::lab::{CALM, Network, cpu_percent, set_local_ports};
use std::cell::Cell;
use std::io::ErrorKind;
use std::net::Ipv4Addr;
use std::time::Duration;
use testkit::{Admin, Conn, QUICK_PROBES, Running, Server, Tcplb, eventually, peers, tally};

/// Ports that tcplb may use for one backend.
const PORTS: usize = 32;

/// Clients come from ports of their own choice: what they were given would be taken from the few there are.
struct Clients<'a>(&'a Running, Cell<u16>);

impl Clients<'_> {
    /// The next client and the backend it came to; `None` if it was reset.
    fn next(&self) -> Option<(Conn, String)> {
        let port = self.1.replace(self.1.get() + 1);
        // A reset may come so soon that connecting reports it.
        let client = Conn::from_port((Ipv4Addr::LOCALHOST, port).into(), self.0.at()).and_then(|client| {
            let name = client.line()?;
            Ok((client, name))
        });
        match client {
            Ok(served) => Some(served),
            Err(error) if error.kind() == ErrorKind::ConnectionReset => None,
            Err(error) => panic!("neither served nor reset: {error}"),
        }
    }
}

const ADMIN: [&str; 2] = ["--admin", "127.0.0.1:0"];

#[test]
fn without_a_port_left_clients_are_refused_and_the_backend_stays_up() {
    let Some(network) = Network::new() else { return };
    network.inside(|| {
        let server = Server::start(peers::named("web1"));
        let tcplb = Tcplb::new().backend_with(server.at(), "name=web1").args(QUICK_PROBES).args(ADMIN).start();
        let (admin, clients) = (Admin::of(&tcplb), Clients(&tcplb, Cell::new(20_000)));
        set_local_ports(41_000, 41_000 + PORTS as u16 - 1);

        let mut established = Vec::new();
        eventually("no port is left", || {
            let next = clients.next();
            let none = next.is_none();
            established.extend(next.map(|(client, _)| client));
            none
        });
        assert!(established.len() + 2 >= PORTS, "a probe may have had one: {}", established.len());

        let refused = Cell::new(0);
        let busy = cpu_percent(&tcplb, Duration::from_secs(3), || {
            for client in established.iter().take(5) {
                // A port that a probe has just left may be had now and then.
                refused.set(refused.get() + usize::from(clients.next().is_none()));
                client.assert_echoes("going on");
            }
        });
        assert!(busy < CALM, "{busy:.1} % of a core while clients are refused");
        assert!(refused.get() > 20, "{} refused", refused.get());
        println!("{busy:.1} % of a core, {} established, {} refused", established.len(), refused.get());
        let failures = admin.metric("tcplb_backend_connect_failures_total", &[r#"reason="no_port""#]);
        assert!(failures as usize > refused.get(), "{failures}");
        assert_eq!(tcplb.count_lines("web1 gets no new connections: no local address or port"), 1);
        assert_eq!(tcplb.count_lines("is down"), 0, "it is not the backend's fault");

        // A reset leaves no TIME_WAIT, so the port can be had at once.
        established.drain(..10).for_each(Conn::reset);
        eventually("there are ports again", || clients.next().is_some());
        established.iter().for_each(|client| client.assert_echoes("still there"));
        assert_eq!(admin.metric("tcplb_backend_up", &[]), 1);
    });
}

#[test]
fn another_backend_has_ports_of_its_own() {
    let Some(network) = Network::new() else { return };
    network.inside(|| {
        let web1 = Server::start(peers::named("web1"));
        let mut web2 = Server::start(peers::named("web2"));
        let tcplb = Tcplb::new()
            .backend_with(web1.at(), "name=web1,weight=7")
            .backend_with(web2.at(), "name=web2,weight=1")
            .args(["-a", "weighted-round-robin"])
            .args(QUICK_PROBES)
            .start();
        set_local_ports(41_000, 41_000 + PORTS as u16 - 1);

        // The first would have seven of eight.
        let source = Clients(&tcplb, Cell::new(20_000));
        let served = (0..PORTS + PORTS / 2).map(|_| source.next().expect("the other one has a port"));
        let (clients, names): (Vec<Conn>, Vec<String>) = served.unzip();
        let names = tally(names);
        assert!(names["web1"] + 2 >= PORTS && names["web2"] >= PORTS / 2, "{names:?}");

        // Probes that find no port for the one backend do not delay those of the other.
        web2.stop_listening();
        tcplb.wait_for_line("web2 is down");
        web2.start_again();
        tcplb.wait_for_line("web2 is up");
        assert_eq!(tcplb.count_lines("web1 is down"), 0);
        clients.iter().for_each(|client| client.assert_echoes("going on"));
    });
}
