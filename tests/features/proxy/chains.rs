//! Headers sent, accepted and passed on between tcplb and itself.

use super::corpus;
use super::support::*;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr};
use tcplb::config::model::{Engine, ProxyVersion, SendProxy};
use tcplb::proto::proxy::{Announced, Header};

#[test]
fn a_backend_gets_the_client_s_address_and_the_one_it_connected_to() {
    for (listen, to, version) in [
        ("127.0.0.1:0", "127.0.0.1", V1),
        ("127.0.0.1:0", "127.0.0.1", V2),
        ("[::1]:0", "::1", V1),
        ("[::1]:0", "::1", V2),
        // A dual-stack socket shows its IPv4 clients as IPv6.
        (":0", "127.0.0.1", V1),
        (":0", "127.0.0.1", V2),
        (":0", "::1", V2),
    ] {
        let backend = FakeBackend::new();
        let tcplb = plan(&[backend.at()]).listen(listen).send(version).start();
        let mut client = connect(SocketAddr::new(to.parse().unwrap(), tcplb.at().port()));
        client.write_all(b"hello").unwrap();
        let mut server = backend.accept();
        let expected = Header::new(Announced::inet(client.local_addr().unwrap(), client.peer_addr().unwrap()));
        let (header, bytes) = hear_header(&mut server);
        assert_eq!(header, expected);
        assert_eq!(bytes, if version == V1 { expected.v1() } else { expected.v2() });
        assert_eq!(hear(&mut server, 5), b"hello");
        server.write_all(b"back").unwrap();
        assert_eq!(hear(&mut client, 4), b"back");
    }
}

#[test]
fn a_server_that_speaks_first_gets_its_header_before_the_client_sends() {
    let backend = FakeBackend::new();
    let tcplb = plan(&[backend.at()]).send(V2).start();
    let mut client = connect(tcplb.at());
    let mut server = backend.accept();
    assert_eq!(hear_ends(&mut server).0, client.local_addr().unwrap());
    server.write_all(b"220 ready\r\n").unwrap();
    assert_eq!(hear(&mut client, 11), b"220 ready\r\n");
}

#[test]
fn a_unix_client_is_announced_without_an_address() {
    let folder = tempfile::tempdir().unwrap();
    let no_address = [(V1, Announced::Unknown), (V2, Announced::Local)];
    for (number, (version, announced)) in no_address.into_iter().enumerate() {
        let path = folder.path().join(format!("{number}.sock"));
        let backend = FakeBackend::new();
        let _tcplb = plan(&[backend.at()]).listen(&format!("unix:{}", path.display())).send(version).start();
        let mut client = connect_unix(&path);
        client.write_all(b"hello").unwrap();
        let mut server = backend.accept();
        assert_eq!(hear_header(&mut server).0, Header::new(announced));
        assert_eq!(hear(&mut server, 5), b"hello");
    }
}

#[test]
fn through_a_chain_the_last_one_knows_the_first_and_no_byte_is_lost() {
    let versions = [V1, V2];
    for engine in [Engine::Copy, Engine::Splice, Engine::Adaptive] {
        for (first, second) in versions.iter().flat_map(|first| versions.map(|second| (*first, second))) {
            let backend = FakeBackend::new();
            let start = |mut plan: Plan| {
                plan.engine = engine;
                plan.start()
            };
            let third = start(plan(&[backend.at()]).accept().send(second));
            let middle = start(plan(&[third.at()]).accept().send(second));
            let edge = start(plan(&[middle.at()]).send(first));
            let client = connect(edge.at());
            let (own, local) = (client.local_addr().unwrap(), client.peer_addr().unwrap());
            let data: Vec<u8> = (0..2_000_000_u32).map(|at| (at ^ (at >> 8)) as u8).collect();
            let mut server = backend.accept();
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    (&client).write_all(&data).unwrap();
                    client.shutdown(Shutdown::Write).unwrap();
                });
                scope.spawn(|| {
                    assert_eq!(hear_ends(&mut server), (own, local));
                    assert!(hear_all(&mut server) == data, "bytes on the way up");
                    server.write_all(&data).unwrap();
                    server.shutdown(Shutdown::Write).unwrap();
                });
                assert!(hear_all(&mut &client) == data, "bytes on the way down");
            });
        }
    }
}

#[test]
fn headers_pass_unchanged_in_any_pieces_with_tlvs_and_checksums() {
    let backend = FakeBackend::new();
    let tcplb = plan(&[backend.at()]).accept().send(V2).start();
    for name in ["v2_inet", "v2_inet6", "v2_unix", "v2_tlv_aws", "v2_tlv_ssl_crc32c", "v2_longest"] {
        let header = corpus::header(name);
        for piece in [1, 7, header.len()] {
            if name == "v2_longest" && piece == 1 {
                continue;
            }
            let mut client = connect(tcplb.at());
            for bytes in header.chunks(piece) {
                client.write_all(bytes).unwrap();
            }
            client.write_all(b"hello").unwrap();
            let mut server = backend.accept();
            assert_eq!(hear(&mut server, header.len()), header, "{name} in pieces of {piece}");
            assert_eq!(hear(&mut server, 5), b"hello");
        }
    }
}

#[test]
fn either_version_becomes_the_other() {
    let backend = FakeBackend::new();
    for (version, from, to) in
        [(V1, "v2_tlv_aws", "v1_tcp4"), (V2, "v1_tcp4", "v2_inet"), (V1, "v2_unix", "v1_unknown")]
    {
        let tcplb = plan(&[backend.at()]).accept().send(version).start();
        let mut client = connect(tcplb.at());
        client.write_all(&[corpus::header(from), b"hello".to_vec()].concat()).unwrap();
        let mut server = backend.accept();
        let expected = [corpus::header(to), b"hello".to_vec()].concat();
        assert_eq!(hear(&mut server, expected.len()), expected);
    }
}

#[test]
fn a_header_without_an_address_leaves_the_socket_s_ends() {
    let backend = FakeBackend::new();
    let tcplb = plan(&[backend.at()]).accept().send(V2).start();
    for name in ["v1_unknown", "v2_unspec", "v2_local", "v2_local_with_block", "v2_dgram"] {
        let mut client = connect(tcplb.at());
        client.write_all(&corpus::header(name)).unwrap();
        let mut server = backend.accept();
        assert_eq!(hear_ends(&mut server), (client.local_addr().unwrap(), tcplb.at()), "{name}");
    }
}

#[test]
fn a_backend_s_own_send_proxy_overrides_the_pool_s() {
    let backends = [FakeBackend::new(), FakeBackend::new(), FakeBackend::new()];
    let mut plan = plan(&backends.each_ref().map(FakeBackend::at)).send(Some(ProxyVersion::V2));
    plan.own = vec![SendProxy::Off, SendProxy::As(ProxyVersion::V1)];
    let tcplb = plan.start();
    let all: Vec<_> = backends
        .iter()
        .map(|backend| {
            let mut client = connect(tcplb.at());
            client.write_all(b"hello").unwrap();
            client.shutdown(Shutdown::Write).unwrap();
            hear_all(&mut backend.accept())
        })
        .collect();
    assert_eq!(all[0], b"hello");
    assert!(all[1].starts_with(b"PROXY TCP4 127.0.0.1 127.0.0.1 ") && all[1].ends_with(b"\r\nhello"), "{all:?}");
    assert!(all[2].starts_with(b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c") && all[2].ends_with(b"hello"), "{all:?}");
}

#[test]
fn without_send_proxy_a_header_ends_here() {
    let backend = FakeBackend::new();
    let tcplb = plan(&[backend.at()]).accept().start();
    let mut client = connect(tcplb.at());
    client.write_all(&[corpus::header("v1_tcp4"), b"hello".to_vec()].concat()).unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    let mut server = backend.accept();
    assert_eq!(hear_all(&mut server), b"hello");
    server.write_all(b"back").unwrap();
    drop(server);
    assert_eq!(hear_all(&mut client), b"back");
}

#[test]
fn the_next_backend_gets_the_header_afresh_and_what_came_behind_the_client_s_own() {
    // Bound and not listening: connections are refused, and no other socket gets the port.
    let taken = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    taken.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    let refuses = taken.local_addr().unwrap().as_socket().unwrap();
    let backend = FakeBackend::new();
    for version in [V1, V2] {
        let tcplb = plan(&[refuses, backend.at()]).accept().send(version).start();
        for _ in 0..4 {
            let mut client = connect(tcplb.at());
            client.write_all(&[corpus::header("v2_inet6"), b"hello".to_vec()].concat()).unwrap();
            let mut server = backend.accept();
            assert_eq!(hear_ends(&mut server).0.to_string(), "[2001:db8::1]:56324");
            assert_eq!(hear(&mut server, 5), b"hello");
        }
    }
}

#[test]
fn a_unix_listener_takes_headers_too() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tcplb.sock");
    let backend = FakeBackend::new();
    let _tcplb = plan(&[backend.at()]).listen(&format!("unix:{}", path.display())).accept().send(V1).start();
    let mut client = connect_unix(&path);
    for byte in corpus::header("v2_inet") {
        client.write_all(&[byte]).unwrap();
    }
    client.write_all(b"hello").unwrap();
    let mut server = backend.accept();
    let expected = [corpus::header("v1_tcp4"), b"hello".to_vec()].concat();
    assert_eq!(hear(&mut server, expected.len()), expected);
    let mut byte = [0];
    server.set_nonblocking(true).unwrap();
    assert!(server.read(&mut byte).is_err(), "nothing else");
}
