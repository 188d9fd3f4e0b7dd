//! Health probes of backends that expect a header.

use super::support::*;
use tcplb::proto::proxy::{Announced, Header};

/// Headers without an address.
fn anonymous() -> [Header; 2] {
    [Header::new(Announced::Unknown), Header::new(Announced::Local)]
}

#[test]
fn a_tcp_probe_sends_a_local_header_and_closes() {
    for (version, header) in VERSIONS.into_iter().zip(anonymous()) {
        let backend = ManualServer::start();
        let file = ConfigFile::over([backend.at()]).health("kind = 'tcp'\ninterval = '50ms'\ntimeout = '50ms'");
        let _tcplb = Balancer::of(&sending(version, file));
        for _ in 0..2 {
            let server = backend.accept();
            assert_eq!(hear_header(&server).0, header);
            assert_eq!(server.hear_all(), b"");
        }
    }
}

#[test]
fn an_http_probe_asks_behind_its_header() {
    for (version, header) in VERSIONS.into_iter().zip(anonymous()) {
        let backend = ManualServer::start();
        let file = ConfigFile::over([backend.at()]).health(PROBES_HTTP).health("path = '/up'");
        let tcplb = Balancer::of(&sending(version, file));
        let server = backend.accept();
        assert_eq!(hear_header(&server).0, header);
        assert_eq!(server.hear(8), b"GET /up ");
        server.say("HTTP/1.1 500 Dead\r\n\r\n");
        eventually("the backend is down", || !tcplb.pool().up.get(0));
    }
}
