//! The bounds of a hello, and what is not one.

use super::craft::{Craft, message_of, name_list, records};
use super::*;
use proptest::prelude::*;

fn fails(bytes: &[u8], with: Failure) {
    assert_eq!(sniff(all(), bytes), Sniff::Failed(with), "{} bytes", bytes.len());
}

/// A hello with a name whose message has this length.
fn of_length(length: usize) -> Vec<u8> {
    let named = Craft::new().named(&[b"a.b"]);
    let padding = length - named.clone().padded(0).message().len();
    let message = named.padded(padding).message();
    assert_eq!(message.len(), length);
    message
}

/// Without the headers of its records, in fragments of this length.
fn message_length(total: usize, fragment: usize) -> usize {
    (0..total).rev().find(|length| length + 5 * length.div_ceil(fragment) <= total).expect("a length")
}

#[test]
fn a_hello_of_64_kib_is_read_and_one_byte_more_is_refused() {
    let named = found(Protocol::Tls, Some(hello(Some("a.b"), &[])));
    for fragment in [1 << 14, (1 << 14) + 256, 4_000, 100] {
        let longest = message_length(HELLO_MAX, fragment);
        for (length, expected) in
            [(longest - 1, &named), (longest, &named), (longest + 1, &Sniff::Failed(Failure::HelloTooLong))]
        {
            let bytes = records(&of_length(length), &[fragment]);
            assert_eq!(bytes.len() > HELLO_MAX, length > longest);
            for segments in [&[bytes.len()][..], &[1], &[1460]] {
                assert_eq!(run(all(), &bytes, segments).end, *expected, "{length} in fragments of {fragment}");
            }
        }
    }
    let exact = records(&of_length(HELLO_MAX - 4 * 5), &[1 << 14]);
    assert_eq!((exact.len(), sniff(all(), &exact)), (HELLO_MAX, named));
}

/// One byte of the message is missing where a record ends, and the header before it needs five more.
#[test]
fn the_header_of_the_last_record_counts() {
    for before_end in 1..10 {
        let in_four_records = HELLO_MAX - before_end - 4 * 5;
        let fragments = [1 << 14, 1 << 14, 1 << 14, in_four_records - 3 * (1 << 14)];
        let bytes = records(&of_length(in_four_records + 1), &fragments);
        assert_eq!(bytes.len(), HELLO_MAX - before_end + 6);
        let fits = bytes.len() <= HELLO_MAX;
        for segments in [&[bytes.len()][..], &[HELLO_MAX - before_end, 1], &[1]] {
            let end = run(all(), &bytes, segments).end;
            assert_eq!(end == Sniff::Failed(Failure::HelloTooLong), !fits, "{before_end}");
            assert_eq!(matches!(end, Sniff::Found(_)), fits, "{before_end}");
        }
    }
}

#[test]
fn a_hello_that_announces_too_much_is_refused_by_its_head() {
    let bytes = [&[22, 3, 1, 0x40, 0][..], &[1, 0, 0xff, 0xff]].concat();
    assert_eq!(run(all(), &bytes, &[1]).end, Sniff::Failed(Failure::HelloTooLong));
    let bytes = [&[22, 3, 1, 0, 4][..], &[1, 0xff, 0xff, 0xff]].concat();
    assert_eq!(run(all(), &bytes, &[1]), Run { answers: Vec::new(), end: Sniff::Failed(Failure::HelloTooLong), at: 9 });
}

#[test]
fn records_outside_the_specification_are_refused() {
    let message = Craft::new().message();
    let half = records(&message[..20], &[20]);
    let then = |bytes: &[u8]| [&half, bytes].concat();
    fails(&then(&[22, 3, 1, 0x41, 1]), Failure::RecordTooLong);
    assert!(matches!(sniff(all(), &then(&[22, 3, 1, 0x41, 0])), Sniff::NeedMore { .. }));
    fails(&[22, 3, 1, 0xff, 0xff], Failure::RecordTooLong);
    fails(&then(&[22, 3, 1, 0, 0]), Failure::RecordEmpty);
    fails(&[22, 3, 1, 0, 0], Failure::RecordEmpty);
    for kind in [20, 21, 23, 24, 0] {
        fails(&then(&[kind, 3, 3, 0, 2]), Failure::RecordKind);
    }
    fails(&then(&[22, 2, 1, 0, 2]), Failure::RecordKind);
    for kind in [0, 2, 4, 16, 20, 255] {
        fails(&records(&message_of(kind, &message[4..]), &[1 << 14]), Failure::NoHello);
        fails(&records(&message_of(kind, &message[4..]), &[1]), Failure::NoHello);
    }
}

#[test]
fn hellos_whose_lengths_disagree_are_refused() {
    let malformed = |message: &[u8]| fails(&records(message, &[1 << 14]), Failure::HelloMalformed);
    malformed(&message_of(1, &[]));
    malformed(&message_of(1, &[3, 3]));
    let whole = Craft::new().named(&[b"a.b"]).message();
    for cut in [1, 2, 7] {
        malformed(&message_of(1, &whole[4..whole.len() - cut]));
    }
    malformed(&message_of(1, &[&whole[4..], &[0]].concat()));
    malformed(&Craft { session_id: vec![1; 33], ..Craft::new() }.message());
    for (kind, contents) in [
        (0, vec![&[0, 9, 0, 0, 1, b'a'][..], &[0, 4, 0, 0, 1, b'a', 0], &[0], &[0, 0, 0]]),
        (16, vec![&[][..], &[0, 9, 1, b'x'], &[0, 2, 1, b'x', 0], &[0]]),
    ] {
        for content in contents {
            malformed(&Craft::new().with(kind, content).message());
        }
        let once = Craft::new().with(kind, name_list(&[]));
        malformed(&once.with(kind, name_list(&[])).message());
    }
    let cut_extension = message_of(1, &[&whole[4..38], &[0, 0, 2, 0x13, 1, 1, 0, 0, 3, 0, 9, 0]].concat());
    malformed(&cut_extension);
}

/// The list's own length is right.
#[test]
fn lists_with_a_broken_entry_are_refused() {
    for (kind, content) in [
        (0, &[][..]),
        (0, &[0, 5, 0, 0, 9, b'a', b'b']),
        (0, &[0, 6, 0, 0, 1, b'a', 0, 0]),
        (0, &[0, 8, 0, 0, 1, b'a', 0, 0, 9, b'b']),
        (16, &[0, 3, 9, b'x', b'y']),
        (16, &[0, 4, 1, b'x', 9, b'y']),
    ] {
        fails(&Craft::new().with(kind, content).bytes(), Failure::HelloMalformed);
    }
}

#[test]
fn a_hello_without_extensions_has_no_name() {
    let random = [0x3c; 32];
    for version in [0, 1, 3] {
        let body = [&[3, version][..], &random, &[0, 0, 4, 0, 0x2f, 0, 5, 1, 0]].concat();
        let bytes = records(&message_of(1, &body), &[1 << 14]);
        assert_eq!(sniff(all(), &bytes), found(Protocol::Tls, Some(Hello::default())));
    }
}

#[test]
fn what_follows_the_hello_changes_nothing() {
    let bytes = Craft::new().named(&[b"a.b"]).bytes();
    let named = found(Protocol::Tls, Some(hello(Some("a.b"), &[])));
    // Early data, and another message in the same record.
    let behind = [&bytes[..], &[20, 3, 3, 0, 1, 1, 23, 3, 3, 0, 9, 0, 0]].concat();
    assert_eq!(sniff(all(), &behind), named);
    let message = [Craft::new().named(&[b"a.b"]).message(), message_of(4, &[0; 9])].concat();
    assert_eq!(sniff(all(), &records(&message, &[1 << 14])), named);
}

#[test]
fn the_list_of_protocols_is_bounded() {
    let names: Vec<String> = (0..200).map(|index| format!("p{index}")).collect();
    let protocols: Vec<&[u8]> = names.iter().map(|name| name.as_bytes()).collect();
    let Sniff::Found(sniffed) = sniff(all(), &Craft::new().alpn(&protocols).bytes()) else { panic!("a hello") };
    let alpn = sniffed.hello.unwrap().alpn;
    assert_eq!((alpn.len(), &*alpn[ALPN_MAX - 1]), (ALPN_MAX, &b"p31"[..]));
}

proptest! {
    #[test]
    fn a_hello_with_a_changed_byte_gets_one_answer_in_any_pieces(
        at in any::<prop::sample::Index>(),
        with in any::<u8>(),
        fragment in 1usize..300,
        cut in any::<prop::sample::Index>(),
    ) {
        let craft = Craft::new().greased().named(&[b"db.example.com"]).alpn(&[b"h2", b"http/1.1"]).resumed();
        let mut bytes = records(&craft.message(), &[fragment]);
        let at = at.index(bytes.len());
        bytes[at] = with;
        sniff(all(), &bytes);
        sniff(all(), &bytes[..cut.index(bytes.len())]);
    }
}
