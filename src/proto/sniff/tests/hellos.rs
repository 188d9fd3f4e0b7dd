//! ClientHellos of real clients and made by hand, in any segments and any records, against rustls.

use super::craft::{Craft, records};
use super::*;
use proptest::prelude::*;
use rustls::crypto::ring;
use rustls::pki_types::ServerName;
use rustls::server::Acceptor;
use rustls::{ClientConfig, ClientConnection, RootCertStore};
use std::path::Path;
use std::sync::Arc;

/// What rustls reads of the hello. Its errors are not compared: it refuses what it does not support.
fn oracle(bytes: &[u8]) -> Option<(Option<String>, Vec<Vec<u8>>)> {
    let mut acceptor = Acceptor::default();
    let mut rest = bytes;
    loop {
        if let Some(accepted) = acceptor.accept().ok()? {
            let hello = accepted.client_hello();
            let alpn = hello.alpn().into_iter().flatten().map(<[u8]>::to_vec).collect();
            return Some((hello.server_name().map(|name| name.trim_end_matches('.').to_ascii_lowercase()), alpn));
        }
        if acceptor.read_tls(&mut rest).ok()? == 0 {
            return None;
        }
    }
}

fn agrees_with_oracle(bytes: &[u8], hello: &Hello) {
    let (name, alpn) = oracle(bytes).expect("rustls reads it");
    assert_eq!(hello.server_name.as_deref(), name.as_deref());
    let own: Vec<&[u8]> = hello.alpn.iter().map(|name| &**name).collect();
    assert_eq!(own, alpn);
}

/// The hello that a client of rustls sends.
fn of_rustls(name: &str, alpn: &[&str], tls12_only: bool) -> Vec<u8> {
    let versions: &[_] = if tls12_only { &[&rustls::version::TLS12] } else { rustls::ALL_VERSIONS };
    let config = ClientConfig::builder_with_provider(ring::default_provider().into()).with_protocol_versions(versions);
    let mut config = config.unwrap().with_root_certificates(RootCertStore::empty()).with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let mut bytes = Vec::new();
    ClientConnection::new(Arc::new(config), name).unwrap().write_tls(&mut bytes).unwrap();
    bytes
}

/// The message in the records of `bytes`.
fn message_in(bytes: &[u8]) -> Vec<u8> {
    let (mut rest, mut message) = (bytes, Vec::new());
    while let [22, _, _, high, low, behind @ ..] = rest {
        let (fragment, next) = behind.split_at(usize::from(u16::from_be_bytes([*high, *low])));
        message.extend_from_slice(fragment);
        rest = next;
    }
    message
}

fn expect_hello(bytes: &[u8], segments: &[usize]) -> Hello {
    match run(all(), bytes, segments).end {
        Sniff::Found(Sniffed { protocol: Protocol::Tls, hello: Some(hello) }) => hello,
        other => panic!("{other:?}"),
    }
}

/// Files of tests/data/sniff that hold a hello, and what it says.
const CAPTURED: [(&str, Option<&str>, &[&str]); 11] = [
    ("openssl_tls1.bin", Some("db.example.com"), &[]),
    ("openssl_tls12.bin", Some("db.example.com"), &[]),
    ("openssl_tls12_resumed.bin", Some("db.example.com"), &["h2", "http/1.1"]),
    ("openssl_tls13.bin", Some("db.example.com"), &["postgresql"]),
    ("openssl_tls13_resumed.bin", Some("db.example.com"), &["h2", "http/1.1"]),
    ("openssl_tls13_early_data.bin", Some("db.example.com"), &["h2", "http/1.1"]),
    ("openssl_two_records.bin", Some(LONG), &[]),
    ("openssl_no_name.bin", None, &[]),
    ("openssl_upper_case.bin", Some("db.example.com"), &[]),
    ("curl_http2.bin", Some("www.example.com"), &["h2", "http/1.1"]),
    ("curl_address.bin", None, &["h2", "http/1.1"]),
];

/// The name of a hello that its client put into two records.
const LONG: &str = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa.\
                    bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb.\
                    cccccccccccccccccccccccccccccccccccccccccccccccccccccccccccc.db.example.com";

fn captured(name: &str) -> Vec<u8> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/sniff");
    std::fs::read(directory.join(name)).unwrap_or_else(|why| panic!("{name}: {why}"))
}

#[test]
fn captured_hellos_are_read() {
    for (file, name, alpn) in CAPTURED {
        let bytes = captured(file);
        let expected = hello(name, alpn);
        assert_eq!(sniff(all(), &bytes), found(Protocol::Tls, Some(expected.clone())), "{file}");
        // rustls knows no version before 1.2.
        if file != "openssl_tls1.bin" {
            agrees_with_oracle(&bytes, &expected);
        }
    }
}

#[test]
fn captured_first_messages_of_other_protocols_are_read() {
    for (file, protocol) in
        [("psql_startup.bin", Protocol::Postgres), ("ssh.bin", Protocol::Ssh), ("curl_http.bin", Protocol::Http)]
    {
        assert_eq!(sniff(all(), &captured(file)), found(protocol, None), "{file}");
    }
    let requests = captured("psql_ssl_request.bin");
    assert_eq!(requests, postgres::SSL_REQUEST);
    let bytes = [requests, captured("psql_hello.bin")].concat();
    let Run { answers, end, .. } = run(only(Protocol::Postgres), &bytes, &[8, 100]);
    assert_eq!(answers, b"S");
    assert_eq!(end, found(Protocol::Postgres, Some(hello(Some("localhost"), &[]))));
}

#[test]
fn an_encrypted_hello_counts_by_its_outer_name() {
    for outer in [Some("public.example"), None] {
        let mut craft = Craft::new();
        if let Some(name) = outer {
            craft = craft.named(&[name.as_bytes()]);
        }
        let expected = Hello { is_encrypted: true, ..hello(outer, &[]) };
        assert_eq!(sniff(all(), &craft.encrypted().bytes()), found(Protocol::Tls, Some(expected)));
    }
}

/// Parts of a crafted hello.
#[derive(Clone, Debug)]
struct Parts {
    name: Option<String>,
    alpn: Vec<String>,
    greased: bool,
    padding: Option<usize>,
    resumed: bool,
    post_quantum: bool,
    encrypted: bool,
}

impl Parts {
    fn craft(&self) -> Craft {
        let mut craft = Craft::new();
        if let Some(name) = &self.name {
            craft = craft.named(&[name.as_bytes()]);
        }
        if !self.alpn.is_empty() {
            craft = craft.alpn(&self.alpn.iter().map(|name| name.as_bytes()).collect::<Vec<_>>());
        }
        if self.greased {
            craft = craft.greased();
        }
        if self.post_quantum {
            craft = craft.post_quantum();
        }
        if self.encrypted {
            craft = craft.encrypted();
        }
        if let Some(length) = self.padding {
            craft = craft.padded(length);
        }
        if self.resumed { craft.resumed() } else { craft }
    }

    fn hello(&self) -> Hello {
        let name = self.name.as_ref().map(|name| name.trim_end_matches('.').to_ascii_lowercase());
        let alpn: Vec<&str> = self.alpn.iter().map(String::as_str).collect();
        Hello { is_encrypted: self.encrypted, ..hello(name.as_deref(), &alpn) }
    }
}

fn parts() -> impl Strategy<Value = Parts> {
    let name = "[a-zA-Z][a-zA-Z0-9_]{0,12}(\\.[a-z][a-z0-9]{0,10}){0,3}\\.?";
    (
        prop::option::of(name),
        prop::collection::vec("[a-z0-9/.]{1,12}", 0..4),
        any::<bool>(),
        prop::option::of(0usize..20_000),
        any::<bool>(),
        any::<bool>(),
        any::<bool>(),
    )
        .prop_map(|(name, alpn, greased, padding, resumed, post_quantum, encrypted)| Parts {
            name,
            alpn,
            greased,
            padding,
            resumed,
            post_quantum,
            encrypted,
        })
}

/// Lengths of segments or fragments: small ones, and such as networks and clients have.
fn lengths(most: usize) -> impl Strategy<Value = Vec<usize>> {
    prop::collection::vec(prop_oneof![1usize..8, 1usize..600, Just(1460), 1..=most], 1..6)
}

proptest! {
    #[test]
    fn any_hello_in_any_segments_and_records_gets_one_answer(
        parts in parts(), fragments in lengths(1 << 14), segments in lengths(20_000),
    ) {
        let bytes = records(&parts.craft().message(), &fragments);
        prop_assume!(bytes.len() <= HELLO_MAX);
        prop_assert_eq!(expect_hello(&bytes, &segments), parts.hello());
        prop_assert_eq!(expect_hello(&bytes, &[bytes.len()]), parts.hello());
        agrees_with_oracle(&bytes, &parts.hello());
        // And none of its beginnings is enough.
        let cut = bytes.len() - 1;
        let unfinished = matches!(run(all(), &bytes[..cut], &segments).end, Sniff::NeedMore { .. });
        prop_assert!(unfinished);
    }

    #[test]
    fn hellos_of_rustls_get_one_answer(
        name in "[a-zA-Z][a-z0-9]{0,20}(\\.[a-z][a-z0-9]{0,10}){0,3}",
        alpn in prop::collection::vec("[a-z0-9/.]{1,12}", 0..4),
        tls12_only in any::<bool>(),
        fragments in lengths(1 << 14),
        segments in lengths(2_000),
    ) {
        let alpn: Vec<&str> = alpn.iter().map(String::as_str).collect();
        let bytes = of_rustls(&name, &alpn, tls12_only);
        let expected = hello(Some(&name.to_ascii_lowercase()), &alpn);
        prop_assert_eq!(expect_hello(&bytes, &segments), expected.clone());
        agrees_with_oracle(&bytes, &expected);
        let cut = records(&message_in(&bytes), &fragments);
        prop_assert_eq!(expect_hello(&cut, &segments), expected.clone());
        agrees_with_oracle(&cut, &expected);
    }

    /// rustls also refuses names that end in a number, and labels with a hyphen at an end.
    #[test]
    fn a_name_that_rustls_takes_is_taken(
        bytes in prop_oneof![
            "[a-zA-Z0-9_.:*-]{1,40}".prop_map(String::into_bytes),
            "([a-z0-9_-]{1,5}\\.){0,4}[a-zA-Z]{1,70}\\.?".prop_map(String::into_bytes),
            prop::collection::vec(any::<u8>(), 1..40),
        ],
    ) {
        let hello_bytes = Craft::new().named(&[&bytes]).bytes();
        let own = expect_hello(&hello_bytes, &[hello_bytes.len()]).server_name;
        if let Some((Some(name), _)) = oracle(&hello_bytes) {
            prop_assert_eq!(own.as_deref(), Some(name.as_str()));
        }
    }

    #[test]
    fn captured_hellos_get_one_answer_however_they_are_cut(
        captured_hello in prop::sample::select(CAPTURED.to_vec()), fragments in lengths(1 << 14), segments in lengths(2_000),
    ) {
        let (file, name, alpn) = captured_hello;
        let bytes = records(&message_in(&captured(file)), &fragments);
        prop_assert_eq!(expect_hello(&bytes, &segments), hello(name, alpn));
    }
}
