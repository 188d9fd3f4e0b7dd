//! nginx behind tcplb and before it.

use super::support::*;
use std::net::SocketAddr;
use std::path::Path;
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
    for (number, version) in VERSIONS.into_iter().enumerate() {
        let bind = format!("bind = ['unix:{}/{number}.sock']", folder.path().display());
        let file = ConfigFile::over([&At::Tcp(at)]).listener(&bind).health(PROBES_HTTP);
        let tcplb = Balancer::of(&sending(version, file));
        assert_eq!(mirrored(&tcplb.connect())["src"], "");
        let pool = tcplb.pool();
        let result = || pool.members[0].backend.health.lock().last_result.clone();
        assert!(eventually_some("a probe's result", result).passed());
    }
}

#[test]
fn headers_from_nginx_are_understood() {
    let Some(module) = need("ngx_stream_module.so") else { return };
    let folder = tempfile::tempdir().unwrap();
    let backend = ManualServer::start();
    let tcplb = Balancer::of(&accepting(sending("v2", ConfigFile::over([backend.at()]))));
    for ip in ["127.0.0.1", "::1"] {
        let (at, path) = (free_address_on(ip), folder.path().join(format!("{}.sock", ip.len())));
        let Some(_server) = nginx(&[&module], &before(at, &path, tcplb.at().tcp()), &[]) else { return };
        let client = eventually_some("nginx listens", || Conn::try_to(&At::Tcp(at)).ok());
        client.say("hello");
        let server = backend.accept();
        let (header, _) = hear_header(&server);
        assert_eq!(header, Header::new(Announced::inet(client.local(), at)));
        assert_eq!(server.hear(5), b"hello");

        // Of its unix clients nginx says UNKNOWN: the client is nginx then.
        let client = Conn::to(&At::Unix(path.clone()));
        client.say("hello");
        let server = backend.accept();
        assert_eq!(hear_ends(&server).1, tcplb.at().tcp());
        assert_eq!(server.hear(5), b"hello");
    }
}

/// nginx as a TCP proxy that announces its clients.
fn before(at: SocketAddr, path: &Path, to: SocketAddr) -> String {
    let path = path.display();
    format!("stream {{ server {{ listen {at}; listen unix:{path}; proxy_pass {to}; proxy_protocol on; }} }}")
}
