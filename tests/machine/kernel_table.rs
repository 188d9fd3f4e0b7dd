//! The kernel engine's table in a kernel. nft accepts every script, and what it lists is read back. The hash is the kernel's, and
//! what the rules are to refuse is refused.

use crate::lab::Network;
use rustix::net::{getpeername, getsockname};
use std::collections::BTreeSet;
use std::io::{ErrorKind, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::process::{Command, Stdio};
use std::sync::Arc;
use tcplb::base::Address;
use tcplb::kernel::{
    Bind, Change, Choice, Family, Installed, Limits, Pick, Planner, Wanted, WantedListener, WantedMember, WantedPool,
    difference, nft,
};
use tcplb::policy::limit::Access;
use testkit::{At, Conn, Server, eventually, need, peers, tally};

/// A network with nft, or `None` where that is not possible.
fn network() -> Option<Network> {
    need("nft")?;
    Network::new()
}

/// The output of nft for a script; the error is what it says.
fn run(arguments: &[&str], script: &str) -> Result<String, String> {
    let mut nft = Command::new("nft");
    let nft = nft.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut nft = nft.spawn().expect("start nft");
    nft.stdin.take().expect("its stdin").write_all(script.as_bytes()).expect("write the script");
    let output = nft.wait_with_output().expect("its output");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("text");
    if output.status.success() { Ok(text(output.stdout)) } else { Err(text(output.stderr)) }
}

fn apply(changes: &[Change]) {
    let script = nft::render(changes);
    run(&["-f", "-"], &script).unwrap_or_else(|error| panic!("{error}\n{script}"));
}

fn read() -> Installed {
    let list = |(kind, name)| run(&["-j", "list", kind, "inet", "tcplb", name], "").expect("a listing");
    nft::read(&nft::LISTINGS.map(list)).expect("a table of ours")
}

/// As it is read: a listing of choice maps takes too long.
fn without_entries(mut installed: Installed) -> Installed {
    installed.choices.values_mut().for_each(|choice| choice.entries = None);
    installed
}

fn member(name: &'static str, address: SocketAddr) -> WantedMember<'static> {
    WantedMember {
        name,
        key: Address::Inet(address),
        configured: 1,
        weight: 1,
        backup: false,
        usable: true,
        last_resort: false,
        addresses: vec![(address, true)],
    }
}

fn pool(name: &'static str, members: Vec<WantedMember<'static>>) -> WantedPool<'static> {
    WantedPool { name, pick: Pick::Turn, equal: false, sources: &[], members }
}

fn listener<'a>(binds: Vec<Bind>, access: &'a Arc<Access>) -> WantedListener<'a> {
    WantedListener { name: "front", binds, pool: "web", open: true, access, limits: Limits::default() }
}

fn at(text: &str) -> SocketAddr {
    text.parse().expect("an address")
}

const SOURCES: [IpAddr; 3] = [
    IpAddr::V4(Ipv4Addr::new(10, 0, 0, 9)),
    IpAddr::V4(Ipv4Addr::new(10, 0, 0, 10)),
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 9)),
];

/// Each stage is a table that the one before is changed to: all that a table can hold, and its removal.
#[test]
fn nft_accepts_every_change_and_what_it_lists_is_what_was_wanted() {
    let Some(network) = network() else { return };
    let net = |text: &str| text.parse().expect("a prefix");
    let all = Arc::new(Access::default());
    let nested = Arc::new(Access::new(&[net("10.0.0.0/8"), net("10.9.0.0/16")], &[net("10.9.1.0/24")]));
    let half = Arc::new(Access::new(&[], &[net("0.0.0.0/0"), net("fd00::/16"), net("255.255.255.255/32")]));
    let stage = |access, limits, pick, sources, weight| {
        let [v4, v6] = ["192.0.2.1:80", "[2001:db8::1]:80"].map(|text| Bind::Address(at(text)));
        let binds = vec![v4, v6, Bind::Port(Family::V4, 81), Bind::Port(Family::V6, 81)];
        let several = ["10.1.0.3:8080", "[fd00::3]:8080", "[fd00::4]:1"].map(|text| (at(text), true));
        let members = vec![
            WantedMember { configured: weight, weight, ..member("a", at("10.1.0.1:8080")) },
            member("a \"b\" \\ \u{e9}/c;{}", at("10.1.0.2:8080")),
            WantedMember { addresses: several.to_vec(), ..member("c", at("10.1.0.3:8080")) },
        ];
        Wanted {
            listeners: vec![WantedListener { limits, ..listener(binds, access) }],
            pools: vec![WantedPool { pick, sources, ..pool("web", members) }],
        }
    };
    let (none, both) = (Limits::default(), Limits { connections: Some(5), rate: Some(7) });
    let other = Limits { connections: Some(6), rate: None };
    let first = || stage(&all, none, Pick::Turn, &[], 1);
    let mut down = first();
    down.pools[0].members[1].usable = false;
    let stages = [
        first(),
        down,
        stage(&nested, both, Pick::Source, &SOURCES, 1),
        stage(&half, other, Pick::Connection, &SOURCES[..1], 1),
        // A choice map of another size, and again of the first one.
        stage(&half, other, Pick::Turn, &[], 500),
        first(),
        Wanted { listeners: Vec::new(), ..first() },
        Wanted::default(),
        first(),
    ];
    network.inside(|| {
        let (mut planner, mut installed) = (Planner::default(), Installed::default());
        for wanted in &stages {
            let table = planner.plan(wanted);
            apply(&difference(&installed, &table).changes());
            installed = table.installed();
            assert_eq!(read(), without_entries(installed.clone()));
            planner.leaving().into_iter().for_each(|mark| planner.release(mark));
        }
        // As after a restart: only what is read is known, so a map whose entries differ is filled again.
        let mut table = Planner::adopt(&read()).plan(&first());
        assert!(difference(&read(), &table).is_empty());
        for choice in table.choices.values_mut() {
            *choice = Choice::new(choice.label.clone(), choice.entries.iter().rev().copied().collect());
        }
        apply(&difference(&read(), &table).changes());
        assert_eq!(read(), without_entries(table.installed()));

        let second = run(&["-f", "-"], &nft::render(&[Change::Create])).expect_err("a second table");
        assert!(second.contains("File exists"), "{second}");
        run(&["-f", "-"], nft::REMOVE).expect("remove the table");
        run(&["-f", "-"], "add table inet tcplb\nadd set inet tcplb state { type mark; }").expect("another's table");
        let listing = run(&["-j", "list", "set", "inet", "tcplb", "state"], "").expect("a listing");
        assert_eq!(nft::read(&[listing]), Err(nft::ReadError::Foreign));
    });
}

/// Servers that say their own addresses.
fn servers(count: usize, ip: IpAddr) -> Vec<Server> {
    let says_own = |conn: Conn| {
        let own = getsockname(&conn)?;
        writeln!(&conn, "{}", SocketAddr::try_from(own).expect("an address"))?;
        peers::echo(conn)
    };
    (0..count).map(|_| Server::start_on(ip, says_own)).collect()
}

#[test]
fn the_kernel_forwards_each_client_to_the_backend_that_is_computed_here() {
    let Some(network) = network() else { return };
    network.inside(|| {
        const NAMES: [&str; 5] = ["a", "b", "c", "d", "e"];
        let clients = 40;
        let script: String =
            (1..=clients).map(|host| format!("ip -6 addr add fd00::{host:x}/128 dev lo nodad;")).collect();
        let added = Command::new("sh").args(["-ec", &script]).status().expect("run a shell");
        assert!(added.success());
        let all = Arc::new(Access::default());
        let (v4, v6) = (servers(5, Ipv4Addr::LOCALHOST.into()), servers(5, Ipv6Addr::LOCALHOST.into()));
        let members = NAMES.iter().zip(v4.iter().zip(&v6)).map(|(name, (v4, v6))| WantedMember {
            addresses: vec![(v4.at().tcp(), true), (v6.at().tcp(), true)],
            ..member(name, v4.at().tcp())
        });
        let members: Vec<_> = members.collect();
        let fronts = [at("127.0.0.1:80"), at("[::1]:80")];
        let (mut planner, mut installed, mut seen) = (Planner::default(), Installed::default(), BTreeSet::new());
        for pick in [Pick::Source, Pick::Connection] {
            let wanted = Wanted {
                listeners: vec![listener(fronts.map(Bind::Address).to_vec(), &all)],
                pools: vec![WantedPool { pick, ..pool("web", members.clone()) }],
            };
            let table = planner.plan(&wanted);
            apply(&difference(&installed, &table).changes());
            installed = table.installed();
            for (front, host) in fronts.iter().flat_map(|front| (1..=clients).map(move |host| (*front, host))) {
                let client = match front {
                    SocketAddr::V4(_) => IpAddr::from([127, 1, 0, host]),
                    SocketAddr::V6(_) => Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, host.into()).into(),
                };
                let conn = Conn::from_source(client, &At::Tcp(front)).expect("a connection");
                let mark = table.mark_for(table.binds[&Bind::Address(front)], conn.local()).expect("a certain backend");
                let expected = table.backends[&mark].address.to_string();
                assert_eq!(conn.hear_line(), expected, "{pick:?}: {}", conn.local());
                conn.assert_echoes("both ways");
                seen.insert(expected);
            }
        }
        assert_eq!(seen.len(), 10, "{seen:?}");
    });
}

#[test]
fn clients_in_turn_get_each_backend_by_its_weight() {
    let Some(network) = network() else { return };
    network.inside(|| {
        let all = Arc::new(Access::default());
        let servers = servers(3, Ipv4Addr::LOCALHOST.into());
        let weights = [5, 1, 1];
        let members = ["a", "b", "c"].into_iter().zip(&servers).zip(weights).map(|((name, server), weight)| {
            WantedMember { configured: weight, weight, ..member(name, server.at().tcp()) }
        });
        let wanted = Wanted {
            listeners: vec![listener(vec![Bind::Port(Family::V4, 80)], &all)],
            pools: vec![pool("web", members.collect())],
        };
        apply(&difference(&Installed::default(), &Planner::default().plan(&wanted)).changes());
        let counts = tally((0..70).map(|_| Conn::to(&At::Tcp(at("127.0.0.9:80"))).hear_line()));
        let counts: Vec<usize> = servers.iter().map(|server| counts[&server.at().to_string()]).collect();
        assert_eq!(counts, [50, 10, 10]);
    });
}

#[test]
fn backends_see_the_client_s_address_or_those_of_the_pool_in_turn() {
    let Some(network) = network() else { return };
    network.inside(|| {
        let all = Arc::new(Access::default());
        let server = Server::start_on(Ipv4Addr::LOCALHOST, |conn: Conn| {
            let peer = getpeername(&conn)?.and_then(|peer| SocketAddr::try_from(peer).ok());
            writeln!(&conn, "{}", peer.map_or_else(String::new, |peer| peer.ip().to_string()))
        });
        let (mut planner, mut installed) = (Planner::default(), Installed::default());
        let own = [Ipv4Addr::new(127, 0, 0, 77), Ipv4Addr::new(127, 0, 0, 99)].map(IpAddr::V4);
        for (sources, seen) in [(&[][..], vec!["127.0.0.5"; 4]), (&own[..1], vec!["127.0.0.77"; 4]), (&own, vec![])] {
            let wanted = Wanted {
                listeners: vec![listener(vec![Bind::Port(Family::V4, 80)], &all)],
                pools: vec![WantedPool { sources, ..pool("web", vec![member("a", server.at().tcp())]) }],
            };
            let table = planner.plan(&wanted);
            apply(&difference(&installed, &table).changes());
            installed = table.installed();
            let client = IpAddr::from([127, 0, 0, 5]);
            let from = |_| Conn::from_source(client, &At::Tcp(at("127.0.0.1:80"))).expect("a connection").hear_line();
            let mut heard: Vec<String> = (0..4).map(from).collect();
            heard.sort();
            let in_turn = vec!["127.0.0.77", "127.0.0.77", "127.0.0.99", "127.0.0.99"];
            assert_eq!(heard, if seen.is_empty() { in_turn } else { seen });
        }
    });
}

#[test]
fn denied_sources_and_those_beyond_their_limits_are_reset() {
    let Some(network) = network() else { return };
    network.inside(|| {
        let script = "ip -6 addr add fd00::1/128 dev lo nodad; ip -6 addr add fd00::2/128 dev lo nodad; \
                      ip -6 addr add fd00:0:0:1::1/128 dev lo nodad";
        let added = Command::new("sh").args(["-ec", script]).status().expect("run a shell");
        assert!(added.success());
        let denied = "127.0.0.64/26".parse().expect("a prefix");
        let access = Arc::new(Access::new(&[], &[denied]));
        let (v4, v6) = (servers(1, Ipv4Addr::LOCALHOST.into()), servers(1, Ipv6Addr::LOCALHOST.into()));
        let addresses = vec![(v4[0].at().tcp(), true), (v6[0].at().tcp(), true)];
        let fronts = [at("127.0.0.1:80"), at("[::1]:80")];
        let (mut planner, mut installed) = (Planner::default(), Installed::default());
        let mut limit = |limits| {
            let wanted = Wanted {
                listeners: vec![WantedListener { limits, ..listener(fronts.map(Bind::Address).to_vec(), &access) }],
                pools: vec![pool(
                    "web",
                    vec![WantedMember { addresses: addresses.clone(), ..member("a", addresses[0].0) }],
                )],
            };
            let table = planner.plan(&wanted);
            apply(&difference(&installed, &table).changes());
            installed = table.installed();
        };
        let open = |client: &str| {
            let client: IpAddr = client.parse().expect("an address");
            let front = fronts[usize::from(client.is_ipv6())];
            let conn = Conn::from_source(client, &At::Tcp(front)).map_err(|error| error.kind())?;
            conn.hear_line();
            Ok::<Conn, ErrorKind>(conn)
        };
        let refused = |client: &str| {
            assert_eq!(open(client).err(), Some(ErrorKind::ConnectionRefused), "{client}");
        };

        limit(Limits { connections: Some(2), rate: None });
        refused("127.0.0.64");
        refused("127.0.0.127");
        let held: Vec<Conn> = ["127.0.0.63", "127.0.0.63", "fd00::1", "fd00::2"].map(|ip| open(ip).expect(ip)).into();
        refused("127.0.0.63");
        // An IPv6 source is a network of 64 bits.
        refused("fd00::1");
        let others = ["127.0.0.128", "fd00:0:0:1::1"].map(|ip| open(ip).expect(ip));
        held.into_iter().chain(others).for_each(Conn::reset);
        eventually("connections that have ended do not count", || {
            open("127.0.0.63").is_ok() && open("fd00::1").is_ok()
        });

        limit(Limits { connections: None, rate: Some(3) });
        let results: Vec<bool> = (0..20).map(|_| open("127.0.0.5").is_ok()).collect();
        assert!(results[..3].iter().all(|is_open| *is_open) && results.contains(&false), "{results:?}");
        assert!(open("127.0.0.6").is_ok(), "another source");
        eventually("a source has its rate again", || open("127.0.0.5").is_ok());
    });
}
