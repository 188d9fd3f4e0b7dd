//! Tests of both versions.

use super::*;
use proptest::prelude::*;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

fn at(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn header(bytes: &[u8]) -> Header {
    match parse(bytes) {
        Parsed::Header { consumed, header } if consumed == bytes.len() => header,
        other => panic!("{other:?} from {}", bytes.escape_ascii()),
    }
}

fn bad(bytes: &[u8]) -> Bad {
    match parse(bytes) {
        Parsed::Bad(bad) => bad,
        other => panic!("{other:?} from {}", bytes.escape_ascii()),
    }
}

/// Builds a v2 header by hand.
fn v2(command: u8, family: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = b"\r\n\r\n\0\r\nQUIT\n".to_vec();
    bytes.extend_from_slice(&[command, family]);
    bytes.extend_from_slice(&(body.len() as u16).to_be_bytes());
    bytes.extend_from_slice(body);
    bytes
}

const FOUR: [u8; 12] = [192, 168, 0, 1, 192, 168, 0, 11, 0xdc, 0x04, 0x01, 0xbb];

#[test]
fn the_specification_s_example_round_trips() {
    let line = b"PROXY TCP4 192.168.0.1 192.168.0.11 56324 443\r\n";
    let announced = Announced::inet(at("192.168.0.1:56324"), at("192.168.0.11:443"));
    assert_eq!(header(line), Header::new(announced.clone()));
    assert_eq!(Header::new(announced.clone()).v1(), line);
    assert_eq!(header(&v2(0x21, 0x11, &FOUR)), Header::new(announced.clone()));
    assert_eq!(Header::new(announced).v2(), v2(0x21, 0x11, &FOUR));
}

#[test]
fn the_longest_lines_of_version_1_have_the_specified_length() {
    let long = "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff";
    let line = format!("PROXY UNKNOWN {long} {long} 65535 65535\r\n");
    assert_eq!(line.len(), V1_MAX);
    assert_eq!(header(line.as_bytes()), Header::new(Announced::Unknown));
    let line = format!("PROXY UNKNOWN {long} {long} 65535 655350\r\n");
    assert_eq!(bad(line.as_bytes()), Bad::LineTooLong);
    assert_eq!(bad(&line.as_bytes()[..107]), Bad::LineTooLong);
    let line = format!("PROXY TCP6 {long} {long} 65535 65535\r\n");
    assert_eq!(line.len(), 104);
    assert_eq!(header(line.as_bytes()).v1(), line.as_bytes());
}

#[test]
fn unknown_ignores_further_fields_but_needs_a_word_boundary() {
    for line in ["PROXY UNKNOWN\r\n", "PROXY UNKNOWN \r\n", "PROXY UNKNOWN anything at all\r\n"] {
        assert_eq!(header(line.as_bytes()), Header::new(Announced::Unknown));
    }
    assert_eq!(header(b"PROXY UNKNOWN \xff\x00\r\n"), Header::new(Announced::Unknown));
    assert_eq!(bad(b"PROXY UNKNOWNS\r\n"), Bad::Fields);
}

#[test]
fn lines_outside_the_grammar_are_bad() {
    for (line, why) in [
        ("GET / HTTP/1.1\r\n", Bad::NoSignature),
        ("proxy TCP4 1.1.1.1 2.2.2.2 1 2\r\n", Bad::NoSignature),
        ("PROXY\r\n", Bad::NoSignature),
        ("PROXY \r\n", Bad::Fields),
        ("PROXY  TCP4 1.1.1.1 2.2.2.2 1 2\r\n", Bad::Fields),
        ("PROXY TCP5 1.1.1.1 2.2.2.2 1 2\r\n", Bad::Fields),
        ("PROXY TCP4\r\n", Bad::Fields),
        ("PROXY TCP4 1.1.1.1 2.2.2.2 1\r\n", Bad::Fields),
        ("PROXY TCP4 1.1.1.1 2.2.2.2 1 2 \r\n", Bad::Fields),
        ("PROXY TCP4 1.1.1.1 2.2.2.2 1 2 3\r\n", Bad::Fields),
        ("PROXY TCP4 1.1.1.1  2.2.2.2 1 2\r\n", Bad::Fields),
        ("PROXY TCP4 1.1.1.1  1 2\r\n", Bad::Address),
        ("PROXY TCP4\t1.1.1.1 2.2.2.2 1 2\r\n", Bad::Fields),
        ("PROXY TCP4 ::1 ::1 1 2\r\n", Bad::Address),
        ("PROXY TCP6 1.1.1.1 2.2.2.2 1 2\r\n", Bad::Address),
        ("PROXY TCP4 01.1.1.1 2.2.2.2 1 2\r\n", Bad::Address),
        ("PROXY TCP4 1.1.1 2.2.2.2 1 2\r\n", Bad::Address),
        ("PROXY TCP4 256.1.1.1 2.2.2.2 1 2\r\n", Bad::Address),
        ("PROXY TCP6 ::1%lo ::1 1 2\r\n", Bad::Address),
        ("PROXY TCP6 [::1] ::1 1 2\r\n", Bad::Address),
        ("PROXY TCP6 :::1 ::1 1 2\r\n", Bad::Address),
        ("PROXY TCP4 1.1.1.1 2.2.2.2 1 65536\r\n", Bad::Port),
        ("PROXY TCP4 1.1.1.1 2.2.2.2 1 02\r\n", Bad::Port),
        ("PROXY TCP4 1.1.1.1 2.2.2.2 +1 2\r\n", Bad::Port),
        ("PROXY TCP4 1.1.1.1 2.2.2.2 1 \r\n", Bad::Port),
        ("PROXY TCP4 1.1.1.1 2.2.2.2 1 2\n", Bad::LineEnd),
        ("PROXY TCP4 1.1.1.1 2.2.2.2 1 2\rX", Bad::LineEnd),
        ("PROXY TCP4 1.1.1.1\r2.2.2.2 1 2\r\n", Bad::LineEnd),
    ] {
        assert_eq!(bad(line.as_bytes()), why, "{line:?}");
    }
    assert_eq!(header(b"PROXY TCP4 0.0.0.0 255.255.255.255 0 65535\r\n").v1().len(), 44);
}

#[test]
fn local_and_unspec_announce_no_address() {
    for (command, family, body, announced) in [
        (0x20, 0x00, &[][..], Announced::Local),
        (0x20, 0x11, &FOUR, Announced::Local),
        (0x20, 0xff, b"whatever", Announced::Local),
        (0x21, 0x00, &[], Announced::Unknown),
        (0x21, 0x00, b"whatever", Announced::Unknown),
        (0x21, 0x10, &FOUR, Announced::Unknown),
        (0x21, 0x01, &FOUR, Announced::Unknown),
        (0x21, 0x12, &FOUR, Announced::Unknown),
        (0x21, 0x22, &[7; 36], Announced::Unknown),
        (0x21, 0x32, &[7; 216], Announced::Unknown),
    ] {
        assert_eq!(header(&v2(command, family, body)), Header::new(announced), "{command:x} {family:x}");
    }
    assert_eq!(Header::new(Announced::Local).v2(), v2(0x20, 0, &[]));
    assert_eq!(Header::new(Announced::Unknown).v2(), v2(0x21, 0, &[]));
    assert_eq!(Header::new(Announced::Local).v1(), b"PROXY UNKNOWN\r\n");
}

#[test]
fn headers_outside_the_binary_format_are_bad() {
    for (bytes, why) in [
        (v2(0x11, 0x11, &FOUR), Bad::Command),
        (v2(0x31, 0x11, &FOUR), Bad::Command),
        (v2(0x22, 0x11, &FOUR), Bad::Command),
        (v2(0x21, 0x41, &FOUR), Bad::Family),
        (v2(0x21, 0x13, &FOUR), Bad::Family),
        (v2(0x21, 0x03, &FOUR), Bad::Family),
        (v2(0x21, 0x11, &FOUR[..11]), Bad::TooShort),
        (v2(0x21, 0x12, &FOUR[..11]), Bad::TooShort),
        (v2(0x21, 0x21, &[0; 35]), Bad::TooShort),
        (v2(0x21, 0x31, &[0; 215]), Bad::TooShort),
        (v2(0x21, 0x00, &[0; 4097]), Bad::TooLong),
        (v2(0x20, 0x00, &[0; 4097]), Bad::TooLong),
        (b"\r\n\r\n\0\r\nQUIT\r".to_vec(), Bad::NoSignature),
    ] {
        assert_eq!(bad(&bytes), why, "{}", bytes.escape_ascii());
    }
    for tlvs in [&[1][..], &[1, 0], &[1, 0, 1], &[1, 0xff, 0xff, 1], &[4, 0, 0, 1], &[3, 0, 3, 1, 2, 3], &[3, 0, 0]] {
        assert_eq!(bad(&v2(0x21, 0x11, &[&FOUR, tlvs].concat())), Bad::Tlv, "{tlvs:?}");
    }
    assert!(matches!(parse(&v2(0x21, 0x00, &[0; 4096])), Parsed::Header { consumed: V2_MAX, .. }));
}

#[test]
fn a_checksum_is_verified_and_recomputed() {
    let tlvs = [5, 0, 2, 0xaa, 0xbb];
    let mut bytes = v2(0x21, 0x11, &[&FOUR[..], &[3, 0, 4, 0, 0, 0, 0], &tlvs].concat());
    assert_eq!(bad(&bytes), Bad::Checksum);
    let sum = crc32c::checksum([bytes.as_slice()]).to_be_bytes();
    bytes[31..35].copy_from_slice(&sum);
    let read = header(&bytes);
    assert_eq!(read.tlvs, Tlvs { bytes: tlvs.to_vec(), checksum: true });
    assert_eq!(header(&read.v2()), read);
    assert_eq!(read.v2().len(), bytes.len());
    for at in 12..bytes.len() {
        let mut broken = bytes.clone();
        broken[at] ^= 0x40;
        assert_ne!(parse(&broken), Parsed::Header { consumed: bytes.len(), header: read.clone() }, "byte {at}");
    }
    // A second checksum: it is undefined which of them is zero for the sum.
    let twice = v2(0x21, 0x11, &[&FOUR[..], &[3, 0, 4, 0, 0, 0, 0], &[3, 0, 4, 0, 0, 0, 0]].concat());
    let mut twice = twice;
    let sum = crc32c::checksum([twice.as_slice()]).to_be_bytes();
    twice[31..35].copy_from_slice(&sum);
    assert_eq!(bad(&twice), Bad::Tlv);
}

#[test]
fn mapped_addresses_become_ipv4_and_mixed_families_ipv6() {
    let mapped = header(b"PROXY TCP6 ::ffff:10.0.0.1 ::ffff:a00:2 1 2\r\n");
    assert_eq!(mapped.v1(), b"PROXY TCP4 10.0.0.1 10.0.0.2 1 2\r\n");
    let mixed = Header::new(Announced::inet(at("10.0.0.1:1"), at("[::1]:2")));
    assert_eq!(mixed.v1(), b"PROXY TCP6 0:0:0:0:0:ffff:a00:1 ::1 1 2\r\n");
    assert_eq!(header(&mixed.v1()), mixed);
    assert_eq!(mixed.v2()[13], 0x21);
    assert_eq!(header(&mixed.v2()), mixed);
}

fn ip() -> impl Strategy<Value = IpAddr> {
    prop_oneof![
        any::<u32>().prop_map(|bits| IpAddr::V4(Ipv4Addr::from_bits(bits))),
        any::<u128>().prop_map(|bits| IpAddr::V6(Ipv6Addr::from_bits(bits))),
        any::<u32>().prop_map(|bits| IpAddr::V6(Ipv4Addr::from_bits(bits).to_ipv6_mapped())),
        (0..4_u128).prop_map(|bits| IpAddr::V6(Ipv6Addr::from_bits(bits))),
    ]
}

fn announced() -> impl Strategy<Value = Announced> {
    prop_oneof![
        Just(Announced::Local),
        Just(Announced::Unknown),
        prop::collection::vec(any::<u8>(), 216).prop_map(|bytes| Announced::Unix(bytes.try_into().unwrap())),
        (ip(), any::<u16>(), ip(), any::<u16>()).prop_map(|(source, from, destination, to)| Announced::inet(
            SocketAddr::new(source, from),
            SocketAddr::new(destination, to)
        )),
    ]
}

fn headers() -> impl Strategy<Value = Header> {
    let tlv = (any::<u8>(), prop::collection::vec(any::<u8>(), 0..80));
    (announced(), prop::collection::vec(tlv, 0..4), any::<bool>()).prop_map(|(announced, list, checksum)| {
        let mut bytes = Vec::new();
        for (kind, value) in list.iter().filter(|(kind, _)| *kind != 3) {
            bytes.extend_from_slice(&[*kind, 0, value.len() as u8]);
            bytes.extend_from_slice(value);
        }
        let known = matches!(announced, Announced::Inet { .. } | Announced::Unix(_));
        Header { tlvs: if known { Tlvs { bytes, checksum } } else { Tlvs::default() }, announced }
    })
}

/// Parses byte by byte: `More` until the result, which further bytes do not change.
fn parsed_bytewise(bytes: &[u8]) -> Parsed {
    let mut last = Parsed::More;
    for end in 0..=bytes.len() {
        let now = parse(&bytes[..end]);
        if last == Parsed::More {
            if let Parsed::Header { consumed, .. } = now {
                assert_eq!(consumed, end, "decided late, or beyond what was given");
            }
            last = now;
        } else {
            assert_eq!(now, last, "after {end} bytes of {}", bytes.escape_ascii());
        }
    }
    last
}

proptest! {
    #[test]
    fn a_written_header_parses_to_the_same_in_any_pieces(header in headers(), behind in prop::collection::vec(any::<u8>(), 0..20)) {
        let written = header.v2();
        let expected = Parsed::Header { consumed: written.len(), header: header.clone() };
        prop_assert_eq!(parsed_bytewise(&[written, behind.clone()].concat()), expected);
        let line = header.v1();
        prop_assert!(line.len() <= V1_MAX);
        let announced = if let Announced::Inet { .. } = header.announced { header.announced } else { Announced::Unknown };
        let expected = Parsed::Header { consumed: line.len(), header: Header::new(announced) };
        prop_assert_eq!(parsed_bytewise(&[line, behind].concat()), expected);
    }

    #[test]
    fn a_serialized_header_round_trips(header in headers()) {
        let text = serde_json::to_string(&header).unwrap();
        prop_assert_eq!(serde_json::from_str::<Header>(&text).unwrap(), header);
    }

    #[test]
    fn no_bytes_make_it_panic_or_change_the_result(bytes in prop::collection::vec(any::<u8>(), 0..300), start in 0..3) {
        let starts: [&[u8]; 3] = [b"", b"PROXY ", b"\r\n\r\n\0\r\nQUIT\n"];
        parsed_bytewise(&[starts[start as usize], &bytes].concat());
    }

    #[test]
    fn a_header_with_a_changed_byte_gets_one_result_in_any_pieces(header in headers(), at in any::<prop::sample::Index>(), with in any::<u8>(), one in any::<bool>()) {
        let mut bytes = if one { header.v1() } else { header.v2() };
        let at = at.index(bytes.len());
        bytes[at] = with;
        let parsed = parsed_bytewise(&bytes);
        if let Parsed::Header { header, .. } = parsed {
            // Whatever it parses to can be written again.
            prop_assert!(header.v2().len() <= V2_MAX);
            let again = matches!(parse(&header.v2()), Parsed::Header { .. });
            prop_assert!(again);
        }
    }

    #[test]
    fn lines_close_to_the_grammar_get_one_result_in_any_pieces(line in "PROXY (TCP4|TCP6|UNKNOWN|TCP)( [0-9a-f:.]{1,12}){0,5}(\r\n|\n|\r|\r\r\n)x?") {
        parsed_bytewise(line.as_bytes());
    }
}
