//! Connections whose header never comes whole, or should not have come.

use super::corpus;
use super::support::*;
use std::time::{Duration, Instant};
use tcplb::session::PREAMBLE_TIMEOUT;

#[test]
fn a_client_without_a_header_is_reset_at_once_and_reaches_no_backend() {
    let backend = ManualServer::start();
    let tcplb = Balancer::of(&accepting(sending("v2", ConfigFile::over([backend.at()]))));
    let begun = Instant::now();
    for bytes in [
        &b"GET / HTTP/1.1\r\n\r\n"[..],
        b"\x16\x03\x01",
        b"PROXY TCP4 1.1.1.1 2.2.2.2 1 99999\r\nhello",
        b"\r\n\r\n\0\r\nQUIT\n\x23",
    ] {
        let client = tcplb.connect();
        client.say(bytes);
        client.assert_reset();
    }
    assert!(begun.elapsed() < PREAMBLE_TIMEOUT, "they were judged, not waited for");
    assert!(backend.is_alone());
}

#[test]
fn a_header_that_is_not_whole_in_time_is_reset() {
    let backend = ManualServer::start();
    let tcplb = Balancer::of(&accepting(ConfigFile::over([backend.at()])));
    let silent = tcplb.connect();
    let halfway = tcplb.connect();
    halfway.say(&corpus::header("v1_tcp4")[..20]);
    let begun = Instant::now();
    silent.assert_reset();
    halfway.assert_reset();
    let waited = begun.elapsed();
    assert!(waited > PREAMBLE_TIMEOUT - Duration::from_millis(500), "{waited:?}");
    assert!(backend.is_alone());
}

#[test]
fn a_fin_in_the_middle_is_answered_with_a_reset_and_a_bare_one_with_a_fin() {
    let backend = ManualServer::start();
    let tcplb = Balancer::of(&accepting(ConfigFile::over([backend.at()])));
    let client = tcplb.connect();
    client.say(&corpus::header("v2_inet")[..20]);
    client.finish();
    client.assert_reset();
    let client = tcplb.connect();
    client.finish();
    assert_eq!(client.hear_all(), b"");
    assert!(backend.is_alone());
}

#[test]
fn a_client_that_is_not_trusted_is_reset_before_a_byte_and_a_trusted_one_is_served() {
    let backend = ManualServer::start();
    let trusting = |prefixes: &str| {
        let file = ConfigFile::over([backend.at()]).listener(&format!("trusted_proxies = {prefixes}"));
        Balancer::of(&accepting(file))
    };
    let strict = trusting("['192.0.2.0/24', '::1/128']");
    // The reset may come before the client has noticed that it is connected.
    Conn::attempt(&strict.at()).assert_reset();
    let tcplb = trusting("['192.0.2.0/24', '127.0.0.0/8']");
    let client = tcplb.connect();
    client.say([corpus::header("v1_tcp4"), b"hello".to_vec()].concat());
    assert_eq!(backend.accept().hear(5), b"hello");
}
