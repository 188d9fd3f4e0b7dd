//! HAProxy, whose protocol it is, behind tcplb and before it.

use super::support::*;
use std::io::Write;
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
    for (number, version) in [V1, V2].into_iter().enumerate() {
        let path = folder.path().join(format!("{number}.sock"));
        let _tcplb = plan(&[at]).listen(&format!("unix:{}", path.display())).send(version).start();
        let said = words(&get(&mut connect_unix(&path)));
        assert_eq!((said["src"].as_str(), said["dport"].as_str()), ("127.0.0.1", at.port().to_string().as_str()));
    }
}

#[test]
fn haproxy_as_a_backend_verifies_the_renewed_checksum() {
    let Some((_server, at)) = mirror() else { return };
    let tcplb = plan(&[at]).accept().send(V2).start();
    let mut client = connect(tcplb.at());
    client.write_all(&super::corpus::header("v2_tlv_ssl_crc32c")).unwrap();
    let said = words(&get(&mut client));
    assert_eq!((said["src"].as_str(), said["dst"].as_str()), ("192.168.0.1", "192.168.0.11"));
}

#[test]
fn headers_from_haproxy_are_understood_with_all_of_its_options() {
    for (number, options) in
        ["send-proxy", "send-proxy-v2", "send-proxy-v2 proxy-v2-options crc32c,unique-id,authority"].iter().enumerate()
    {
        for ip in ["127.0.0.1", "::1"] {
            let backend = FakeBackend::new();
            let tcplb = plan(&[backend.at()]).accept().send(V2).start();
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
            let mut client = eventually_some("HAProxy listens", || std::net::TcpStream::connect(at).ok());
            client.write_all(b"hello").unwrap();
            let mut server = backend.accept();
            let (header, bytes) = hear_header(&mut server);
            let ends = Announced::inet(client.local_addr().unwrap(), at);
            assert_eq!(header.announced, ends, "{options}");
            assert_eq!(hear(&mut server, 5), b"hello");
            if number == 2 {
                assert!(bytes.windows(7).any(|tlv| tlv == b"\x05\0\x04id-2"), "{}", bytes.escape_ascii());
                assert_eq!(bytes.len(), Header::new(ends).v2().len() + 7 + 7, "its id, and a checksum");
            }
        }
    }
}

#[test]
fn haproxy_s_own_checks_are_local_and_go_through() {
    let backend = FakeBackend::new();
    let tcplb = plan(&[backend.at()]).accept().send(V2).start();
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
    let mut server = backend.accept();
    let (source, destination) = hear_ends(&mut server);
    assert_eq!((source.ip().to_string().as_str(), destination), ("127.0.0.1", tcplb.at()));
    assert_eq!(hear(&mut server, 8), b"GET /up ");
}
