//! Headers sent, accepted and passed on between tcplb and itself.

use super::corpus;
use super::support::*;
use std::net::IpAddr;
use std::time::Duration;
use tcplb::proto::proxy::{Announced, Header};

#[test]
fn a_backend_gets_the_client_s_address_and_the_one_it_connected_to() {
    for (listen, to, version) in [
        ("127.0.0.1:0", "127.0.0.1", "v1"),
        ("127.0.0.1:0", "127.0.0.1", "v2"),
        ("[::1]:0", "::1", "v1"),
        ("[::1]:0", "::1", "v2"),
        // A dual-stack socket shows its IPv4 clients as IPv6.
        (":0", "127.0.0.1", "v1"),
        (":0", "127.0.0.1", "v2"),
        (":0", "::1", "v2"),
    ] {
        let backend = ManualServer::start();
        let file = ConfigFile::over([backend.at()]).listener(&format!("bind = ['{listen}']"));
        let tcplb = Balancer::of(&sending(version, file));
        let reached = tcplb.at().on(to.parse::<IpAddr>().unwrap());
        let client = Conn::to(&reached);
        client.say("hello");
        let server = backend.accept();
        let expected = Header::new(Announced::inet(client.local(), reached.tcp()));
        let (header, bytes) = hear_header(&server);
        assert_eq!(header, expected);
        assert_eq!(bytes, if version == "v1" { expected.v1() } else { expected.v2() });
        assert_eq!(server.hear(5), b"hello");
        server.say("back");
        assert_eq!(client.hear(4), b"back");
    }
}

#[test]
fn a_server_that_speaks_first_gets_its_header_before_the_client_sends() {
    let backend = ManualServer::start();
    let tcplb = Balancer::of(&sending("v2", ConfigFile::over([backend.at()])));
    let client = tcplb.connect();
    let server = backend.accept();
    assert_eq!(hear_ends(&server).0, client.local());
    server.say("220 ready\r\n");
    assert_eq!(client.hear(11), b"220 ready\r\n");
}

#[test]
fn a_unix_client_is_announced_without_an_address() {
    let folder = tempfile::tempdir().unwrap();
    let no_address = [("v1", Announced::Unknown), ("v2", Announced::Local)];
    for (number, (version, announced)) in no_address.into_iter().enumerate() {
        let backend = ManualServer::start();
        let bind = format!("bind = ['unix:{}/{number}.sock']", folder.path().display());
        let tcplb = Balancer::of(&sending(version, ConfigFile::over([backend.at()]).listener(&bind)));
        let client = tcplb.connect();
        client.say("hello");
        let server = backend.accept();
        assert_eq!(hear_header(&server).0, Header::new(announced));
        assert_eq!(server.hear(5), b"hello");
    }
}

#[test]
fn through_a_chain_the_last_one_knows_the_first_and_no_byte_is_lost() {
    for engine in ["copy", "splice", "adaptive"] {
        for (first, second) in VERSIONS.iter().flat_map(|first| VERSIONS.map(|second| (first, second))) {
            let backend = ManualServer::start();
            let sending_to = |to: &At, version: &str| {
                sending(version, ConfigFile::over([to]).global(&format!("relay = '{engine}'")))
            };
            let third = Balancer::of(&accepting(sending_to(backend.at(), second)));
            let middle = Balancer::of(&accepting(sending_to(&third.at(), second)));
            let edge = Balancer::of(&sending_to(&middle.at(), first));
            let client = edge.connect();
            let (own, local) = (client.local(), edge.at().tcp());
            let data: Vec<u8> = (0..2_000_000_u32).map(|at| (at ^ (at >> 8)) as u8).collect();
            let server = backend.accept();
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    client.say(&data);
                    client.finish();
                });
                scope.spawn(|| {
                    assert_eq!(hear_ends(&server), (own, local));
                    assert!(server.hear_all() == data, "bytes on the way up");
                    server.say(&data);
                    server.finish();
                });
                assert!(client.hear_all() == data, "bytes on the way down");
            });
        }
    }
}

#[test]
fn headers_pass_unchanged_in_any_pieces_with_tlvs_and_checksums() {
    let backend = ManualServer::start();
    let tcplb = Balancer::of(&accepting(sending("v2", ConfigFile::over([backend.at()]))));
    for name in ["v2_inet", "v2_inet6", "v2_unix", "v2_tlv_aws", "v2_tlv_ssl_crc32c", "v2_longest"] {
        let header = corpus::header(name);
        for piece in [1, 7, header.len()] {
            if name == "v2_longest" && piece == 1 {
                continue;
            }
            let client = tcplb.connect();
            for bytes in header.chunks(piece) {
                client.say(bytes);
            }
            client.say("hello");
            let server = backend.accept();
            assert_eq!(server.hear(header.len()), header, "{name} in pieces of {piece}");
            assert_eq!(server.hear(5), b"hello");
        }
    }
}

#[test]
fn either_version_becomes_the_other() {
    let backend = ManualServer::start();
    for (version, from, to) in
        [("v1", "v2_tlv_aws", "v1_tcp4"), ("v2", "v1_tcp4", "v2_inet"), ("v1", "v2_unix", "v1_unknown")]
    {
        let tcplb = Balancer::of(&accepting(sending(version, ConfigFile::over([backend.at()]))));
        let client = tcplb.connect();
        client.say([corpus::header(from), b"hello".to_vec()].concat());
        let server = backend.accept();
        let expected = [corpus::header(to), b"hello".to_vec()].concat();
        assert_eq!(server.hear(expected.len()), expected);
    }
}

#[test]
fn a_header_without_an_address_leaves_the_socket_s_ends() {
    let backend = ManualServer::start();
    let tcplb = Balancer::of(&accepting(sending("v2", ConfigFile::over([backend.at()]))));
    for name in ["v1_unknown", "v2_unspec", "v2_local", "v2_local_with_block", "v2_dgram"] {
        let client = tcplb.connect();
        client.say(corpus::header(name));
        let server = backend.accept();
        assert_eq!(hear_ends(&server), (client.local(), tcplb.at().tcp()), "{name}");
    }
}

#[test]
fn a_backend_s_own_send_proxy_overrides_the_pool_s() {
    let backends = [ManualServer::start(), ManualServer::start(), ManualServer::start()];
    let own = ["send_proxy = 'off'", "send_proxy = 'v1'", ""];
    let file =
        backends.iter().zip(own).fold(ConfigFile::empty(), |file, (backend, own)| file.backend(backend.at(), own));
    let tcplb = Balancer::of(&sending("v2", file));
    let all: Vec<_> = backends
        .iter()
        .map(|backend| {
            let client = tcplb.connect();
            client.say("hello");
            client.finish();
            backend.accept().hear_all()
        })
        .collect();
    assert_eq!(all[0], b"hello");
    assert!(all[1].starts_with(b"PROXY TCP4 127.0.0.1 127.0.0.1 ") && all[1].ends_with(b"\r\nhello"), "{all:?}");
    assert!(all[2].starts_with(b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c") && all[2].ends_with(b"hello"), "{all:?}");
}

#[test]
fn without_send_proxy_the_backend_gets_no_header() {
    let backend = ManualServer::start();
    let tcplb = Balancer::of(&accepting(ConfigFile::over([backend.at()])));
    let client = tcplb.connect();
    client.say([corpus::header("v1_tcp4"), b"hello".to_vec()].concat());
    client.finish();
    let server = backend.accept();
    assert_eq!(server.hear_all(), b"hello");
    server.say("back");
    drop(server);
    assert_eq!(client.hear_all(), b"back");
}

#[test]
fn the_next_backend_gets_the_header_afresh_and_what_came_behind_the_client_s_own() {
    // Bound and not listening: connections are refused, and no other socket gets the port.
    let taken = Port::reserve();
    let backend = ManualServer::start();
    for version in ["v1", "v2"] {
        let file = ConfigFile::over([&At::Tcp(taken.at), backend.at()]);
        let tcplb = Balancer::of(&accepting(sending(version, file)));
        for _ in 0..4 {
            let client = tcplb.connect();
            client.say([corpus::header("v2_inet6"), b"hello".to_vec()].concat());
            let server = backend.accept();
            assert_eq!(hear_ends(&server).0.to_string(), "[2001:db8::1]:56324");
            assert_eq!(server.hear(5), b"hello");
        }
    }
}

#[test]
fn a_unix_listener_takes_headers_too() {
    let folder = tempfile::tempdir().unwrap();
    let backend = ManualServer::start();
    let bind = format!("bind = ['unix:{}/tcplb.sock']", folder.path().display());
    let tcplb = Balancer::of(&accepting(sending("v1", ConfigFile::over([backend.at()]).listener(&bind))));
    let client = tcplb.connect();
    for byte in corpus::header("v2_inet") {
        client.say([byte]);
    }
    client.say("hello");
    let server = backend.accept();
    let expected = [corpus::header("v1_tcp4"), b"hello".to_vec()].concat();
    assert_eq!(server.hear(expected.len()), expected);
    assert!(!server.has_something_within(Duration::ZERO), "nothing else");
}
