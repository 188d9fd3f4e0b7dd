//! Connections whose header never comes whole, or should not have come.

use super::corpus;
use super::support::*;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::{Duration, Instant};
use tcplb::session::PREAMBLE_TIMEOUT;

/// The client's next event is a reset.
#[track_caller]
fn is_reset(mut client: &TcpStream) {
    let heard = client.read(&mut [0; 64]).map_err(|error| error.kind());
    assert_eq!(heard, Err(ErrorKind::ConnectionReset));
}

#[test]
fn what_is_no_header_is_reset_at_once_and_reaches_no_backend() {
    let backend = FakeBackend::new();
    let tcplb = plan(&[backend.at()]).accept().send(V2).start();
    let begun = Instant::now();
    for bytes in [
        &b"GET / HTTP/1.1\r\n\r\n"[..],
        b"\x16\x03\x01",
        b"PROXY TCP4 1.1.1.1 2.2.2.2 1 99999\r\nhello",
        b"\r\n\r\n\0\r\nQUIT\n\x23",
    ] {
        let mut client = connect(tcplb.at());
        client.write_all(bytes).unwrap();
        is_reset(&client);
    }
    assert!(begun.elapsed() < PREAMBLE_TIMEOUT, "they were judged, not waited for");
    assert!(backend.is_alone());
}

#[test]
fn a_header_that_is_not_whole_in_time_is_reset() {
    let backend = FakeBackend::new();
    let tcplb = plan(&[backend.at()]).accept().start();
    let silent = connect(tcplb.at());
    let mut halfway = connect(tcplb.at());
    halfway.write_all(&corpus::header("v1_tcp4")[..20]).unwrap();
    let begun = Instant::now();
    is_reset(&silent);
    is_reset(&halfway);
    let waited = begun.elapsed();
    assert!(waited > PREAMBLE_TIMEOUT - Duration::from_millis(500), "{waited:?}");
    assert!(backend.is_alone());
}

#[test]
fn a_fin_in_the_middle_is_answered_with_a_reset_and_a_bare_one_with_a_fin() {
    let backend = FakeBackend::new();
    let tcplb = plan(&[backend.at()]).accept().start();
    let mut client = connect(tcplb.at());
    client.write_all(&corpus::header("v2_inet")[..20]).unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    is_reset(&client);
    let mut client = connect(tcplb.at());
    client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(hear_all(&mut client), b"");
    assert!(backend.is_alone());
}

#[test]
fn a_client_that_is_not_trusted_is_reset_before_a_byte_and_a_trusted_one_is_served() {
    let backend = FakeBackend::new();
    let mut strict = plan(&[backend.at()]).accept();
    strict.trusted = vec!["192.0.2.0/24", "::1/128"];
    let strict = strict.start();
    // The reset may come before connect(2) has returned.
    match TcpStream::connect(strict.at()) {
        Ok(client) => is_reset(&client),
        Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionReset),
    }
    let mut trusting = plan(&[backend.at()]).accept();
    trusting.trusted = vec!["192.0.2.0/24", "127.0.0.0/8"];
    let trusting = trusting.start();
    let mut client = connect(trusting.at());
    client.write_all(&[corpus::header("v1_tcp4"), b"hello".to_vec()].concat()).unwrap();
    assert_eq!(hear(&mut backend.accept(), 5), b"hello");
}
