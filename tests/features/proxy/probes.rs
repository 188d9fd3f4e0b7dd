//! Health probes of backends that expect a header.

use super::support::*;
use std::io::Write;
use tcplb::config::model::HealthKind;
use tcplb::proto::proxy::{Announced, Header};

fn nobody() -> [Header; 2] {
    [Header::new(Announced::Unknown), Header::new(Announced::Local)]
}

#[test]
fn a_tcp_probe_sends_a_local_header_and_closes() {
    for (version, header) in [V1, V2].into_iter().zip(nobody()) {
        let backend = FakeBackend::new();
        let mut plan = plan(&[backend.at()]).send(version);
        plan.health = HealthKind::Tcp;
        let _tcplb = plan.start();
        for _ in 0..2 {
            let mut server = backend.accept();
            assert_eq!(hear_header(&mut server).0, header);
            assert_eq!(hear_all(&mut server), b"");
        }
    }
}

#[test]
fn an_http_probe_asks_behind_its_header() {
    for (version, header) in [V1, V2].into_iter().zip(nobody()) {
        let backend = FakeBackend::new();
        let mut plan = plan(&[backend.at()]).send(version);
        plan.health = HealthKind::Http { path: "/up".into(), host: None, expect: vec![(200, 200)] };
        let tcplb = plan.start();
        let mut server = backend.accept();
        assert_eq!(hear_header(&mut server).0, header);
        assert_eq!(hear(&mut server, 8), b"GET /up ");
        server.write_all(b"HTTP/1.1 500 Dead\r\n\r\n").unwrap();
        let pool = tcplb.running().snapshot().pools[0].clone();
        eventually_some("the backend is down", || (!pool.up.get(0)).then_some(()));
    }
}
