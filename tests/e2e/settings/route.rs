//! `[[listener.route]]`, and what a listener does with clients until it knows their route.

use super::{A_WHILE, assert_next_is_reset, named};
use std::fmt::Write;
use testkit::{ConfigFile, Ending, Server, Started};

/// A ClientHello of openssl: it asks for db.example.com and offers postgresql.
const HELLO: &[u8] = include_bytes!("../../data/sniff/openssl_tls13.bin");

/// A StartupMessage of psql.
const STARTUP: &[u8] = include_bytes!("../../data/sniff/psql_startup.bin");

const SSH: &[u8] = b"SSH-2.0-client\r\n";
const HTTP: &[u8] = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";

/// Backends by the names of their pools, which they say first.
struct Pools(Vec<(&'static str, Server)>);

impl Pools {
    fn of<const N: usize>(names: [&'static str; N]) -> Pools {
        Pools(names.into_iter().map(|name| (name, named(name))).collect())
    }

    /// A listener with these lines, whose own pool is the first one.
    fn behind(&self, listener: &str) -> ConfigFile {
        let mut text = format!("[[listener]]\nbind = [\"127.0.0.1:0\"]\npool = \"{}\"\n{listener}\n", self.0[0].0);
        for (name, server) in &self.0 {
            let at = server.at();
            let probes = "[pool.health]\nkind = \"off\"";
            writeln!(text, "[[pool]]\nname = \"{name}\"\n{probes}\n[[pool.backend]]\naddress = \"{at}\"").unwrap();
        }
        ConfigFile::of(text)
    }

    fn route(&self, conditions: &str) -> Started {
        self.behind(&format!("[[listener.route]]\n{conditions}\npool = \"{}\"", self.0[1].0)).start()
    }
}

/// The pool that a client with these first bytes reaches. Its backend gets the bytes unchanged.
#[track_caller]
fn reached(tcplb: &Started, first: &[u8]) -> String {
    let client = tcplb.connect();
    client.say(first);
    let name = client.hear_line();
    assert_eq!(client.hear(first.len()), first);
    name
}

#[test]
fn protocol_is_what_the_first_bytes_are() {
    let pools = Pools::of(["own", "other"]);
    let clients = [("tls", HELLO), ("postgres", STARTUP), ("http", HTTP), ("ssh", SSH)];
    for (protocol, _) in clients {
        let tcplb = pools.route(&format!("protocol = \"{protocol}\""));
        for (of, first) in clients {
            let pool = if of == protocol { "other" } else { "own" };
            assert_eq!(reached(&tcplb, first), pool, "{of} with a route for {protocol}");
        }
    }
}

#[test]
fn sni_is_the_name_that_a_client_asks_for() {
    let pools = Pools::of(["own", "other"]);
    for (names, pool) in [
        ("'db.example.com'", "other"),
        ("'DB.Example.COM.'", "other"),
        ("'*.example.com', 'a.example'", "other"),
        ("'example.com', '*.db.example.com'", "own"),
    ] {
        let tcplb = pools.route(&format!("sni = [{names}]"));
        assert_eq!(reached(&tcplb, HELLO), pool, "{names}");
        assert_eq!(reached(&tcplb, HTTP), "own", "{names}");
    }
}

#[test]
fn alpn_is_one_of_the_protocols_that_a_client_offers() {
    let pools = Pools::of(["own", "other"]);
    for (offered, pool) in [("'h2', 'postgresql'", "other"), ("'h2'", "own")] {
        assert_eq!(reached(&pools.route(&format!("alpn = [{offered}]")), HELLO), pool, "{offered}");
    }
}

#[test]
fn source_of_a_route_is_the_client_s_address_and_needs_no_byte() {
    let pools = Pools::of(["own", "other"]);
    for (prefix, pool) in [("127.0.0.0/8", "other"), ("10.0.0.0/8", "own")] {
        assert_eq!(pools.route(&format!("source = [\"{prefix}\"]")).name_of_next(), pool);
        // With the header of a proxy, its address counts.
        let header = b"PROXY TCP4 10.0.0.7 192.0.2.8 1000 2000\r\n";
        let route = format!("accept_proxy = true\n[[listener.route]]\nsource = [\"{prefix}\"]\npool = \"other\"");
        let tcplb = pools.behind(&route).start();
        let client = tcplb.connect();
        client.say(header);
        assert_ne!(client.hear_line(), pool, "{prefix}");
    }
}

#[test]
fn pool_of_a_route_is_where_its_clients_go() {
    let pools = Pools::of(["own", "one", "two"]);
    for pool in ["one", "two", "own"] {
        let tcplb = pools.behind(&format!("[[listener.route]]\nprotocol = \"ssh\"\npool = \"{pool}\"")).start();
        assert_eq!((reached(&tcplb, SSH), reached(&tcplb, HTTP)), (pool.to_owned(), "own".to_owned()));
    }
}

#[test]
fn name_of_a_route_is_what_a_reload_calls_it() {
    let pools = Pools::of(["own", "other"]);
    for (line, label) in [("name = \"shell\"", "shell"), ("", "1")] {
        let tcplb = pools.route(&format!("{line}\nprotocol = \"ssh\""));
        let text = tcplb.file().text().replace("\"ssh\"", "\"http\"");
        tcplb.reload(&text);
        tcplb.wait_for_line(&format!("listener default: route {label} changed: protocol ssh → http"));
        assert_eq!((reached(&tcplb, HTTP), reached(&tcplb, SSH)), ("other".to_owned(), "own".to_owned()));
    }
}

#[test]
fn sniff_timeout_is_how_long_a_client_may_take_to_say_what_routes_ask_for() {
    let pools = Pools::of(["own", "other"]);
    for (time, ends) in [("200ms", true), ("1h", false)] {
        let tcplb = pools
            .behind(&format!("sniff_timeout = \"{time}\"\n[[listener.route]]\nprotocol = \"tls\"\npool = \"other\""));
        let tcplb = tcplb.start();
        // Nothing, and half a hello.
        for first in [&[][..], &HELLO[..HELLO.len() / 2]] {
            let client = tcplb.connect();
            client.say(first);
            if ends {
                assert_eq!(client.ending(), Ending::Reset);
            } else {
                assert!(!client.has_something_within(A_WHILE));
                // It is not too late.
                client.say(&HELLO[first.len()..]);
                assert_eq!((client.hear_line(), client.hear(HELLO.len())), ("other".to_owned(), HELLO.to_vec()));
            }
        }
    }
}

#[test]
fn silent_pool_takes_clients_that_say_nothing() {
    let pools = Pools::of(["own", "other", "greets"]);
    let with = |line: &str| {
        let route = "[[listener.route]]\nprotocol = \"tls\"\npool = \"other\"";
        pools.behind(&format!("sniff_timeout = \"200ms\"\n{line}\n{route}")).start()
    };
    let tcplb = with("silent_pool = \"greets\"");
    let client = tcplb.connect();
    assert_eq!(client.hear_line(), "greets");
    client.assert_echoes("hello");
    assert_eq!(reached(&tcplb, HELLO), "other");
    let begun = tcplb.connect();
    begun.say(&HELLO[..9]);
    assert_eq!(begun.ending(), Ending::Reset, "its hello has begun");
    assert_next_is_reset(&with(""));
}
