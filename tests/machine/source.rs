//! Where connections to backends come from: the clients' own addresses, with the routes of docs/operations.md, or the addresses
//! of a list.

use crate::lab::{Configured, Network, set_local_ports};
use rustix::net::getpeername;
use std::collections::BTreeMap;
use std::io::{self, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::process::Command;
use testkit::{Admin, At, ConfigFile, Conn, Server, Tcplb, eventually, need, need_root, peers, tally};

/// Says the address that a connection comes from, then echoes.
fn says_source(conn: Conn) -> io::Result<()> {
    let peer = getpeername(&conn)?.and_then(|peer| SocketAddr::try_from(peer).ok());
    writeln!(&conn, "{}", peer.map_or_else(String::new, |peer| peer.ip().to_string()))?;
    peers::echo(conn)
}

fn run(command: &str) {
    let output = Command::new("sh").args(["-ec", command]).output().expect("run a shell");
    assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
}

/// What docs/operations.md has a machine do so that answers to clients' addresses come to tcplb.
const ROUTES: &str = "nft add table inet transparent\n\
     nft 'add chain inet transparent prerouting { type filter hook prerouting priority mangle; }'\n\
     nft add rule inet transparent prerouting socket transparent 1 meta mark set 1\n\
     ip rule add fwmark 1 lookup 100\n\
     ip route add local default dev lo table 100\n\
     ip -6 rule add fwmark 1 lookup 100\n\
     ip -6 route add local default dev lo table 100";

#[test]
fn with_source_client_backends_see_the_client_s_address() {
    if need("nft").is_none() {
        return;
    }
    let (Some(clients), Some(middle), Some(backends)) = (Network::new(), Network::new(), Network::new()) else {
        return;
    };
    clients.connect(("wire", "10.1.0.1/24"), &middle, ("left", "10.1.0.2/24"));
    backends.connect(("wire", "10.2.0.1/24"), &middle, ("right", "10.2.0.2/24"));
    let six = [(&clients, "wire", "fd01::1"), (&middle, "left", "fd01::2"), (&backends, "wire", "fd02::1")];
    for (network, interface, address) in six.into_iter().chain([(&middle, "right", "fd02::2")]) {
        network.inside(|| run(&format!("ip addr add {address}/64 dev {interface} nodad")));
    }
    backends.inside(|| run("ip route add default via 10.2.0.2; ip -6 route add default via fd02::2"));
    middle.inside(|| run(ROUTES));

    let server = |ip: IpAddr| backends.inside(|| Server::start_on(ip, says_source));
    let [four, six] = ["10.2.0.1", "fd02::1"].map(|ip| server(ip.parse().expect("an address")));
    let section = |name: &str, bind: &str, more: &str| {
        format!("[[listener]]\nname = '{name}'\nbind = ['{bind}']\npool = '{name}'\n{more}\n")
    };
    let pool = |name: &str, at: &At| {
        format!(
            "[[pool]]\nname = '{name}'\nsource = 'client'\n\
             [[pool.backend]]\nname = '{name}'\naddress = '{at}'\n"
        )
    };
    let text = [
        "user = 'nobody'\n".to_owned(),
        section("four", "10.1.0.2:7001", ""),
        section("six", "[fd01::2]:7002", ""),
        section("behind", "10.1.0.2:7003", "accept_proxy = true").replace("pool = 'behind'", "pool = 'four'"),
        pool("four", four.at()),
        pool("six", six.at()),
    ];
    let tcplb = middle.inside(|| Configured::start(&text.concat(), &[]));
    tcplb.process.wait_for_line("with CAP_NET_BIND_SERVICE and CAP_NET_ADMIN only");
    // Probes come from the balancer's own address, so they pass. At first IPv6 neighbours may not be known yet.
    let metric = |name: &str, labels: &[&str]| middle.inside(|| tcplb.admin.metric(name, labels));
    let up = || metric("tcplb_backend_up", &[]);
    let passed = |pool: &str| metric("tcplb_health_probes_total", &[&format!("pool=\"{pool}\""), "result=\"success\""]);
    eventually("both are up by a probe", || up() == 2 && passed("four") > 0 && passed("six") > 0);
    let falls = tcplb.process.count_lines("is down");
    let at = |ip: &str, port: u16| At::Tcp((ip.parse::<IpAddr>().expect("an address"), port).into());
    clients.inside(|| {
        for (to, client) in [(at("10.1.0.2", 7001), "10.1.0.1"), (at("fd01::2", 7002), "fd01::1")] {
            let conn = Conn::to(&to);
            assert_eq!(conn.hear_line(), client);
            conn.assert_echoes("both ways");
        }
        let behind = Conn::to(&at("10.1.0.2", 7003));
        behind.say("PROXY TCP4 192.0.2.77 10.1.0.2 4711 7003\r\n");
        assert_eq!(behind.hear_line(), "192.0.2.77", "the announced address");
        // An IPv6 client can't be the source of a connection to an IPv4 backend, which is not the backend's fault.
        let other = Conn::to(&at("10.1.0.2", 7003));
        other.say("PROXY TCP6 2001:db8::77 2001:db8::1 4711 7003\r\n");
        other.assert_reset();
        // Nor can loopback be the source of a connection to another machine.
        for _ in 0..4 {
            let local = Conn::to(&at("10.1.0.2", 7003));
            local.say("PROXY TCP4 127.0.0.9 10.1.0.2 4711 7003\r\n");
            local.assert_reset();
        }
        let unknown = Conn::to(&at("10.1.0.2", 7003));
        unknown.say("PROXY UNKNOWN\r\n");
        assert_eq!(unknown.hear_line(), "10.1.0.1", "without an announced address it is the socket's");
    });
    assert_eq!((up(), tcplb.process.count_lines("is down")), (2, falls));
}

/// As root without the capabilities that permit the addresses of other machines.
const WITHOUT: [&str; 3] = ["setpriv", "--bounding-set", "-net_admin,-net_raw"];

#[test]
fn without_the_capability_source_client_is_one_error_at_the_start_and_at_a_reload() {
    if !need_root() || need("setpriv").is_none() {
        return;
    }
    let server = Server::start(peers::echo);
    let file = ConfigFile::over([server.at()]);
    let (without, with) = (file.text(), file.text().replace("[[pool]]\n", "[[pool]]\nsource = \"client\"\n"));
    file.rewrite(&with);
    let (status, said) = Tcplb::from_file(&file.path("tcplb.toml")).wrapped(WITHOUT).start_in_vain();
    assert_eq!(status.code(), Some(1));
    let want = "pool default: source = \"client\" needs CAP_NET_ADMIN, which root:root lacks: AmbientCapabilities=";
    assert_eq!(said.lines().filter(|line| line.contains(want)).count(), 1, "{said}");
    assert!(!said.contains("listening on"), "{said}");

    file.rewrite(&without);
    let tcplb = Tcplb::from_file(&file.path("tcplb.toml")).wrapped(WITHOUT).start();
    file.rewrite(&with);
    tcplb.signal(rustix::process::Signal::HUP);
    let refused = tcplb.wait_for_line("reload refused: pool default: source = \"client\" needs CAP_NET_ADMIN");
    assert!(refused.contains("an upgrade or a restart takes this over"), "{refused}");
    tcplb.connect().assert_echoes("as before");
}

/// Ports that a connection may come from.
const PORTS: usize = 32;

#[test]
fn two_source_addresses_reach_beyond_the_ports_of_one() {
    let Some(network) = Network::new() else { return };
    network.inside(|| {
        let server = Server::start(says_source);
        let file = ConfigFile::over([server.at()])
            .global("admin = \"127.0.0.1:0\"")
            .pool("source = [\"127.0.0.5\", \"127.0.0.6\"]")
            .pool("connect_attempts = 1");
        let tcplb = file.start();
        let admin = Admin::of(&tcplb);
        let used = || {
            ["127.0.0.5", "127.0.0.6"]
                .map(|ip| admin.metric("tcplb_source_ports_used", &["pool=\"default\"", &format!("source=\"{ip}\"")]))
        };
        assert_eq!(used(), [0, 0]);
        set_local_ports(41_000, 41_000 + PORTS as u16 - 1);
        // Clients have ports of their own choice, and the admin API's callers come and go.
        let client = |port: usize| {
            let conn = Conn::from_port((Ipv4Addr::LOCALHOST, 20_000 + port as u16).into(), tcplb.at())?;
            Ok((conn.line()?, conn))
        };
        let open: Vec<(String, Conn)> = (0..PORTS * 2)
            .map(|port| client(port).unwrap_or_else(|error: io::Error| panic!("{port}: {error}")))
            .collect();
        let each = BTreeMap::from(["127.0.0.5", "127.0.0.6"].map(|ip| (ip.to_owned(), PORTS)));
        assert_eq!(tally(open.iter().map(|(source, _)| source.clone())), each);
        assert_eq!(used(), [PORTS as u64; 2]);
        assert!(client(PORTS * 2).is_err(), "all ports of both are in use");

        // One address has ports again: the other one is passed over, whatever the turn.
        let (kept, ended): (Vec<_>, Vec<_>) = open.into_iter().partition(|(source, _)| source == "127.0.0.5");
        ended.into_iter().for_each(|(_, conn)| conn.reset());
        eventually("the ports of one are free", || used() == [PORTS as u64, 0]);
        let again: Vec<_> = (0..3).map(|port| client(PORTS * 2 + 1 + port).expect("it has a port")).collect();
        assert!(again.iter().all(|(source, _)| source == "127.0.0.6"), "{again:?}");
        kept.iter().for_each(|(_, conn)| conn.assert_echoes("going on"));
        drop((kept, again));
        eventually("nothing is counted at the end", || used() == [0, 0]);
    });
}

#[test]
fn probes_come_from_the_next_source_address_while_one_is_missing() {
    let server = Server::start(peers::echo);
    let file = ConfigFile::over([server.at()])
        .global("admin = \"127.0.0.1:0\"")
        .pool("source = [\"192.0.2.5\", \"127.0.0.6\"]")
        .health("kind = \"tcp\"\ninitial = \"down\"\ninterval = \"50ms\"");
    let tcplb = file.start();
    let admin = Admin::of(&tcplb);
    eventually("the backend is up", || admin.metric("tcplb_backend_up", &[]) == 1);
    tcplb.connect().assert_echoes("from the second address");
}
