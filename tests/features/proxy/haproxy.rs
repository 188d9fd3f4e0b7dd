//! HAProxy, whose protocol it is, behind tcplb and before it.

use super::support::*;
use std::net::SocketAddr;
use tcplb::proto::proxy::{Announced, Header};

/// An HAProxy that expects a header and answers with its addresses.
fn mirror() -> Option<(Foreign, SocketAddr)> {
    let at = free_address_on("127.0.0.1");
    let config = format!(
        "
frontend mirror
    mode http
    bind {at} accept-proxy
    http-request return status 200 content-type text/plain lf-string \"src=%[src] sport=%[src_port] dst=%[dst] dport=%[dst_port]\"
"
    );
    Some((haproxy(&config, &[at])?, at))
}

#[test]
fn haproxy_as_a_backend_understands_both_versions() {
    let Some((_server, at)) = mirror() else { return };
    learns_both_ends(at);
}

#[test]
fn haproxy_as_a_backend_takes_tcplb_for_an_unknown_client() {
    let Some((_server, at)) = mirror() else { return };
    let folder = tempfile::tempdir().unwrap();
    for (number, version) in VERSIONS.into_iter().enumerate() {
        let bind = format!("bind = ['unix:{}/{number}.sock']", folder.path().display());
        let tcplb = Balancer::of(&sending(version, ConfigFile::over([&At::Tcp(at)]).listener(&bind)));
        let said = mirrored(&tcplb.connect());
        assert_eq!((said["src"].as_str(), said["dport"].as_str()), ("127.0.0.1", at.port().to_string().as_str()));
    }
}

#[test]
fn haproxy_as_a_backend_verifies_the_renewed_checksum() {
    let Some((_server, at)) = mirror() else { return };
    let tcplb = Balancer::of(&accepting(sending("v2", ConfigFile::over([&At::Tcp(at)]))));
    let client = tcplb.connect();
    client.say(super::corpus::header("v2_tlv_ssl_crc32c"));
    let said = mirrored(&client);
    assert_eq!((said["src"].as_str(), said["dst"].as_str()), ("192.168.0.1", "192.168.0.11"));
}

#[test]
fn headers_from_haproxy_are_understood_with_all_of_its_options() {
    for (number, options) in
        ["send-proxy", "send-proxy-v2", "send-proxy-v2 proxy-v2-options crc32c,unique-id,authority"].iter().enumerate()
    {
        for ip in ["127.0.0.1", "::1"] {
            let backend = ManualServer::start();
            let tcplb = Balancer::of(&accepting(sending("v2", ConfigFile::over([backend.at()]))));
            let at = free_address_on(ip);
            let config = format!(
                "
listen relay
    mode tcp
    bind {at}
    unique-id-format id-{number}
    server tcplb {} {options}
",
                tcplb.at()
            );
            let Some(_server) = haproxy(&config, &[]) else { return };
            let client = eventually_some("HAProxy listens", || Conn::try_to(&At::Tcp(at)).ok());
            client.say("hello");
            let server = backend.accept();
            let (header, bytes) = hear_header(&server);
            let ends = Announced::inet(client.local(), at);
            assert_eq!(header.announced, ends, "{options}");
            assert_eq!(server.hear(5), b"hello");
            if number == 2 {
                assert!(bytes.windows(7).any(|tlv| tlv == b"\x05\0\x04id-2"), "{}", bytes.escape_ascii());
                assert_eq!(bytes.len(), Header::new(ends).v2().len() + 7 + 7, "its id, and a checksum");
            }
        }
    }
}

#[test]
fn haproxy_s_own_checks_are_local_and_go_through() {
    let backend = ManualServer::start();
    let tcplb = Balancer::of(&accepting(sending("v2", ConfigFile::over([backend.at()]))));
    let at = free_address_on("127.0.0.1");
    let config = format!(
        "
listen relay
    mode tcp
    bind {at}
    option httpchk GET /up
    server tcplb {} send-proxy-v2 check inter 50ms
",
        tcplb.at()
    );
    let Some(_server) = haproxy(&config, &[]) else { return };
    let server = backend.accept();
    let (source, destination) = hear_ends(&server);
    assert_eq!((source.ip().to_string().as_str(), destination), ("127.0.0.1", tcplb.at().tcp()));
    assert_eq!(server.hear(8), b"GET /up ");
}
