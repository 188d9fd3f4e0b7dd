//! Headers and non-headers on file, each with what it must be read as. What was once misread is added here for good.

use std::collections::BTreeSet;
use std::path::Path;
use tcplb::proto::proxy::{Announced, Bad, HEADER_MAX, Parsed, parse};

enum Want {
    /// TCP, from source to destination.
    Inet(&'static str, &'static str),
    Unix,
    Unknown,
    Local,
    Bad(Bad),
    More,
}

use Want::{Inet, Local, More, Unix, Unknown};

const FOUR: Want = Inet("192.168.0.1:56324", "192.168.0.11:443");
const SIX: Want = Inet("[2001:db8::1]:56324", "[2001:db8::2]:443");

#[rustfmt::skip]
const CORPUS: &[(&str, Want)] = &[
    ("v1_tcp4", FOUR),
    ("v1_tcp4_and_request", FOUR),
    ("v1_tcp6", SIX),
    ("v1_tcp6_mapped", FOUR),
    ("v1_unknown", Unknown),
    ("v1_unknown_longest", Unknown),
    ("v2_inet", FOUR),
    ("v2_inet_and_request", FOUR),
    ("v2_inet6", SIX),
    ("v2_inet6_mapped", FOUR),
    ("v2_unix", Unix),
    ("v2_dgram", Unknown),
    ("v2_unspec", Unknown),
    ("v2_unspec_with_block", Unknown),
    ("v2_local", Local),
    ("v2_local_with_block", Local),
    ("v2_tlv_aws", FOUR),
    ("v2_tlv_ssl_crc32c", FOUR),
    ("v2_crc32c_in_the_middle", FOUR),
    ("v2_longest", FOUR),
    ("bad_http", Want::Bad(Bad::NoSignature)),
    ("bad_tls", Want::Bad(Bad::NoSignature)),
    ("bad_v1_lower_case", Want::Bad(Bad::NoSignature)),
    ("bad_v1_two_spaces", Want::Bad(Bad::Fields)),
    ("bad_v1_udp4", Want::Bad(Bad::Fields)),
    ("bad_v1_address", Want::Bad(Bad::Address)),
    ("bad_v1_octal", Want::Bad(Bad::Address)),
    ("bad_v1_family", Want::Bad(Bad::Address)),
    ("bad_v1_port", Want::Bad(Bad::Port)),
    ("bad_v1_port_zeros", Want::Bad(Bad::Port)),
    ("bad_v1_lf", Want::Bad(Bad::LineEnd)),
    ("bad_v1_too_long", Want::Bad(Bad::LineTooLong)),
    ("bad_v1_not_utf8", Want::Bad(Bad::Fields)),
    ("bad_v2_signature", Want::Bad(Bad::NoSignature)),
    ("bad_v2_version", Want::Bad(Bad::Command)),
    ("bad_v2_command", Want::Bad(Bad::Command)),
    ("bad_v2_family", Want::Bad(Bad::Family)),
    ("bad_v2_transport", Want::Bad(Bad::Family)),
    ("bad_v2_too_short", Want::Bad(Bad::TooShort)),
    ("bad_v2_too_long", Want::Bad(Bad::TooLong)),
    ("bad_v2_tlv_beyond", Want::Bad(Bad::Tlv)),
    ("bad_v2_tlv_cut", Want::Bad(Bad::Tlv)),
    ("bad_v2_crc32c", Want::Bad(Bad::Checksum)),
    ("bad_v2_crc32c_short", Want::Bad(Bad::Tlv)),
    ("more_empty", More),
    ("more_v1", More),
    ("more_v2_signature", More),
    ("more_v2_tlvs", More),
];

fn folder() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/proxy"))
}

fn on_file(name: &str) -> Vec<u8> {
    std::fs::read(folder().join(name).with_extension("bin")).unwrap()
}

/// The header at the beginning of a valid file.
pub fn header(name: &str) -> Vec<u8> {
    let mut bytes = on_file(name);
    let Parsed::Header { consumed, .. } = parse(&bytes) else { panic!("{name} is no header") };
    bytes.truncate(consumed);
    bytes
}

#[test]
fn every_file_is_read_as_what_it_is_and_no_file_is_forgotten() {
    for (name, want) in CORPUS {
        let bytes = on_file(name);
        let got = parse(&bytes);
        match (&got, want) {
            (Parsed::More, More) => {}
            (Parsed::Bad(got), Want::Bad(want)) => assert_eq!(got, want, "{name}"),
            (Parsed::Header { consumed, header }, want) => {
                let matches = match (&header.announced, want) {
                    (Announced::Local, Local) | (Announced::Unknown, Unknown) | (Announced::Unix(_), Unix) => true,
                    (Announced::Inet { source, destination }, Inet(from, to)) => {
                        (source.to_string().as_str(), destination.to_string().as_str()) == (*from, *to)
                    }
                    _ => false,
                };
                assert!(matches, "{name}: {header:?}");
                let request = if name.ends_with("_and_request") { b"GET / ".as_slice() } else { &[] };
                assert!(bytes[*consumed..].starts_with(request) && request.is_empty() == (*consumed == bytes.len()));
                let again = header.v2();
                assert!(again.len() <= HEADER_MAX);
                let expected = Parsed::Header { consumed: again.len(), header: header.clone() };
                assert_eq!(parse(&again), expected, "{name} does not survive being passed on");
            }
            _ => panic!("{name}: {got:?}"),
        }
        // However it is cut.
        let decided = (0..=bytes.len()).map(|end| parse(&bytes[..end])).find(|so_far| *so_far != Parsed::More);
        assert_eq!(decided.unwrap_or(Parsed::More), got, "{name}");
    }
    let listed: BTreeSet<String> = CORPUS.iter().map(|(name, _)| format!("{name}.bin")).collect();
    let there = std::fs::read_dir(folder()).unwrap();
    let there: BTreeSet<String> = there.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    assert_eq!(there, listed);
}
