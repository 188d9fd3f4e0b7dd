//! nginx behind tcplb and before it.

use super::support::*;
use std::io::Write;
use std::net::SocketAddr;
use std::path::Path;
use tcplb::config::model::HealthKind;
use tcplb::proto::proxy::{Announced, Header};

/// An nginx that expects a header and answers with its addresses.
fn mirror() -> Option<(Foreign, SocketAddr)> {
    let at = free_address_on("127.0.0.1");
    let config = format!(
        "http {{
            access_log off;
            client_body_temp_path tmp; proxy_temp_path tmp; fastcgi_temp_path tmp; uwsgi_temp_path tmp; scgi_temp_path tmp;
            server {{
                listen {at} proxy_protocol;
                return 200 \"src=$proxy_protocol_addr sport=$proxy_protocol_port dst=$proxy_protocol_server_addr dport=$proxy_protocol_server_port\";
            }}
        }}"
    );
    Some((nginx(&[], &config, &[at])?, at))
}

#[test]
fn nginx_as_a_backend_understands_both_versions() {
    let Some((_server, at)) = mirror() else { return };
    learns_both_ends(at);
}

#[test]
fn nginx_as_a_backend_takes_a_unix_client_and_probes() {
    let Some((_server, at)) = mirror() else { return };
    let folder = tempfile::tempdir().unwrap();
    for (number, version) in [V1, V2].into_iter().enumerate() {
        let path = folder.path().join(format!("{number}.sock"));
        let mut plan = plan(&[at]).listen(&format!("unix:{}", path.display())).send(version);
        plan.health = HealthKind::Http { path: "/".into(), host: None, expect: vec![(200, 200)] };
        let tcplb = plan.start();
        assert_eq!(words(&get(&mut connect_unix(&path)))["src"], "");
        let pool = tcplb.running().snapshot().pools[0].clone();
        let result = || pool.members[0].backend.health.lock().last_result;
        assert!(eventually_some("a probe's result", result).passed());
    }
}

#[test]
fn headers_from_nginx_are_understood() {
    let Some(module) = need("ngx_stream_module.so") else { return };
    let folder = tempfile::tempdir().unwrap();
    let backend = FakeBackend::new();
    let tcplb = plan(&[backend.at()]).accept().send(V2).start();
    for ip in ["127.0.0.1", "::1"] {
        let (at, path) = (free_address_on(ip), folder.path().join(format!("{}.sock", ip.len())));
        let Some(_server) = nginx(&[&module], &before(at, &path, tcplb.at()), &[]) else { return };
        let mut client = eventually_some("nginx listens", || std::net::TcpStream::connect(at).ok());
        client.write_all(b"hello").unwrap();
        let mut server = backend.accept();
        let (header, _) = hear_header(&mut server);
        assert_eq!(header, Header::new(Announced::inet(client.local_addr().unwrap(), at)));
        assert_eq!(hear(&mut server, 5), b"hello");

        // Of its unix clients nginx says UNKNOWN: the client is nginx then.
        let mut client = connect_unix(&path);
        client.write_all(b"hello").unwrap();
        let mut server = backend.accept();
        assert_eq!(hear_ends(&mut server).1, tcplb.at());
        assert_eq!(hear(&mut server, 5), b"hello");
    }
}

/// nginx as a TCP proxy that announces its clients.
fn before(at: SocketAddr, path: &Path, to: SocketAddr) -> String {
    let path = path.display();
    format!("stream {{ server {{ listen {at}; listen unix:{path}; proxy_pass {to}; proxy_protocol on; }} }}")
}
