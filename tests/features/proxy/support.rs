//! A tcplb in this process, peers that read headers, and what other programs answer.

pub use crate::balancer::Balancer;
use std::collections::HashMap;
use std::net::SocketAddr;
use tcplb::proto::proxy::{Announced, Header, Parsed, parse};
pub use testkit::foreign::{Foreign, haproxy, nginx};
pub use testkit::{At, ConfigFile, Conn, ManualServer, Port, eventually, eventually_some, free_address_on, need};

pub const VERSIONS: [&str; 2] = ["v1", "v2"];

/// Probes by HTTP, often enough for a test to wait for them.
pub const PROBES_HTTP: &str = "kind = 'http'\nexpect_status = ['200']\ninterval = '50ms'\ntimeout = '50ms'";

/// The listener expects a header.
pub fn accepting(file: ConfigFile) -> ConfigFile {
    file.listener("accept_proxy = true")
}

/// The pool announces clients in this version.
pub fn sending(version: &str, file: ConfigFile) -> ConfigFile {
    file.pool(&format!("send_proxy = '{version}'"))
}

/// Reads a header and not a byte more; its bytes too.
#[track_caller]
pub fn hear_header(conn: &Conn) -> (Header, Vec<u8>) {
    let mut bytes = Vec::new();
    loop {
        match parse(&bytes) {
            Parsed::Header { header, .. } => return (header, bytes),
            Parsed::More => bytes.push(conn.hear(1)[0]),
            Parsed::Bad(bad) => panic!("{bad}: {}", bytes.escape_ascii()),
        }
    }
}

/// The two ends that the header announces.
#[track_caller]
pub fn hear_ends(conn: &Conn) -> (SocketAddr, SocketAddr) {
    match hear_header(conn).0.announced {
        Announced::Inet { source, destination } => (source, destination),
        other => panic!("{other:?}"),
    }
}

/// The words of the answer to a GET by their names: `a=1 b=2`.
#[track_caller]
pub fn mirrored(conn: &Conn) -> HashMap<String, String> {
    conn.say("GET / HTTP/1.0\r\n\r\n");
    let answer = testkit::answer(conn);
    assert_eq!(answer.status, 200, "{answer:?}");
    let pairs = answer.body.split_whitespace().filter_map(|word| word.split_once('='));
    pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

/// The server at this address expects a header, and answers with its two ends: those of the client's connection to tcplb.
#[track_caller]
pub fn learns_both_ends(at: SocketAddr) {
    for listen in ["127.0.0.1:0", "[::1]:0"] {
        for version in VERSIONS {
            let file = ConfigFile::over([&At::Tcp(at)]).listener(&format!("bind = ['{listen}']"));
            let tcplb = Balancer::of(&sending(version, file));
            let client = tcplb.connect();
            let (own, local, said) = (client.local(), tcplb.at().tcp(), mirrored(&client));
            assert_eq!((&said["src"], &said["sport"]), (&own.ip().to_string(), &own.port().to_string()));
            assert_eq!((&said["dst"], &said["dport"]), (&local.ip().to_string(), &local.port().to_string()));
        }
    }
}
