//! What each protocol begins with, and the negotiation of Postgres.

use super::craft::{Craft, name_list};
use super::postgres::{Reply, SSL_REQUEST};
use super::*;
use proptest::prelude::*;

const GSS_REQUEST: [u8; 8] = [0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x30];

fn is_found(protocol: Protocol, bytes: &[u8]) {
    let expected = found(protocol, None);
    assert_eq!(sniff(only(protocol), bytes), expected, "{}", bytes.escape_ascii());
    assert_eq!(sniff(all(), bytes), expected, "{}", bytes.escape_ascii());
    let others = Protocol::ALL.into_iter().filter(|other| *other != protocol).collect();
    assert_eq!(sniff(others, bytes), Sniff::Unknown, "{}", bytes.escape_ascii());
}

#[test]
fn text_protocols_are_found_by_their_first_word() {
    for line in [
        "GET / HTTP/1.1\r\n",
        "POST /x HTTP/1.0\r\n",
        "HEAD http://example.com/ HTTP/1.1\r\n",
        "OPTIONS * HTTP/1.1\r\n",
        "CONNECT example.com:443 HTTP/1.1\r\n",
        "PATCH /",
        "PUT x",
        "DELETE ",
        "TRACE ",
        "PROPFIND /calendar HTTP/1.1\r\n",
        "M-SEARCH / HTTP/1.1\r\n",
        "X!#$%&'*+.^_`|~ /",
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        "PRI /",
        "GETS /",
    ] {
        is_found(Protocol::Http, line.as_bytes());
    }
    for line in ["SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n", "SSH-1.99-x", "SSH-"] {
        is_found(Protocol::Ssh, line.as_bytes());
    }
}

#[test]
fn bytes_of_other_protocols_are_unknown_as_soon_as_they_differ() {
    for (bytes, at) in [
        (&b"*1\r\n$4\r\nPING\r\n"[..], 3),
        (b"PING\r\n", 5),
        (b"EHLO x", 6),
        (b"get key\r\n", 5),
        (b"SSH 2", 5),
        (b"SSL-2.0 x", 9),
        (b"PRI * HTTP/1.1", 12),
        (b" GET /", 1),
        (b"GET\t/", 4),
        (b"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA", 33),
        (b"\x10\x2a\x00\x04MQTT", 1),
        (b"\x15\x03\x03\x00\x02\x02\x28", 1),
        (b"\x14\x03\x03\x00\x01\x01", 1),
        (b"\x17\x03\x03\x00\x20", 1),
        (b"\x16\x02\x00", 2),
        (b"\x16\x03\x05", 3),
        (b"\x16\xfe\xff", 2),
        (b"\x80\x08\x01", 2),
        (b"\x80\x2e\x02\x00", 3),
        (b"\x80\x2e\x01\x00\x03", 5),
        (b"\x80\x2e\x01\x04\x00", 4),
        (b"\x00\x00\x00\x07\x00\x03\x00\x00", 4),
        (b"\x00\x00\x27\x11\x00\x03\x00\x00", 4),
        (b"\x00\x00\x00\x08\x00\x03\x00\x00", 5),
        (b"\x00\x01", 2),
        (b"\x00\x00\x00\x29\x00\x02\x00\x00", 6),
        (b"\x00\x00\x00\x29\x00\x12\x00\x0a", 6),
        (b"\x00\x00\x00\x08\x04\xd2\x16\x2e", 8),
        (b"\x00\x00\x00\x08\x04\xd2\x16\x31", 8),
        (b"\x00\x00\x00\x10\x04\xd2\x16\x2f", 8),
        (b"\x00\x00\x01\x0d\x04\xd2\x16\x2e", 5),
    ] {
        let shown = bytes.escape_ascii();
        assert_eq!(run(all(), bytes, &[1]), Run { answers: Vec::new(), end: Sniff::Unknown, at }, "{shown}");
        assert_eq!(sniff(all(), bytes), Sniff::Unknown, "{shown}");
    }
}

#[test]
fn the_beginning_of_a_protocol_needs_more() {
    for bytes in
        [&b""[..], b"G", b"GET", b"SS", b"PRI *", b"\x16", b"\x16\x03", b"\x80", b"\x80\x2e\x01", b"\0\0\0\x08\x04"]
    {
        let more = Sniff::NeedMore { at_least: bytes.len() + 1 };
        assert_eq!(sniff(all(), bytes), more, "{}", bytes.escape_ascii());
    }
    assert_eq!(sniff(Protocols::default(), b""), Sniff::Unknown, "nothing is wanted");
}

#[test]
fn a_hello_of_sslv2_has_no_name() {
    let without_name = found(Protocol::Tls, Some(Hello::default()));
    for version in [[0, 2], [3, 0], [3, 1], [3, 3]] {
        let mut bytes = vec![0x80, 0x2e, 1, version[0], version[1], 0, 0x15, 0, 0, 0, 0x10];
        bytes.extend([0x5c; 37]);
        assert_eq!(sniff(only(Protocol::Tls), &bytes), without_name);
        assert_eq!(run(all(), &bytes, &[1]).at, 5);
        assert_eq!(sniff(only(Protocol::Http), &bytes), Sniff::Unknown);
    }
}

fn message(code: u32, body: &[u8]) -> Vec<u8> {
    [&(8 + body.len() as u32).to_be_bytes()[..], &code.to_be_bytes(), body].concat()
}

fn startup(version: u16) -> Vec<u8> {
    message(3 << 16 | u32::from(version), b"user\0me\0database\0db\0\0")
}

#[test]
fn a_startup_message_and_a_cancel_request_are_postgres() {
    for version in [0, 2, 9999] {
        is_found(Protocol::Postgres, &startup(version));
        assert_eq!(run(all(), &startup(version), &[1]).at, 8, "its head decides");
    }
    for key in [4, 32, 256] {
        is_found(Protocol::Postgres, &message(80_877_102, &[&[0, 0, 1, 2][..], &vec![1; key]].concat()));
    }
    is_found(Protocol::Postgres, &message(3 << 16, &[b'x'; 9_992]));
    assert_eq!(sniff(all(), &message(3 << 16, &[b'x'; 9_993])), Sniff::Unknown);
}

#[test]
fn an_ssl_request_is_answered_and_the_hello_behind_it_counts() {
    let hello_bytes = Craft::new().named(&[b"DB.example.com"]).alpn(&[b"postgresql"]).bytes();
    let sniffed = Sniffed { protocol: Protocol::Postgres, hello: Some(hello(Some("db.example.com"), &["postgresql"])) };
    assert!(sniffed.needs_ssl_request());
    assert!(!Sniffed { hello: None, ..sniffed.clone() }.needs_ssl_request());
    assert!(!Sniffed { protocol: Protocol::Tls, ..sniffed.clone() }.needs_ssl_request());
    for (requests, answers) in [(vec![SSL_REQUEST], "S"), (vec![GSS_REQUEST, SSL_REQUEST], "NS")] {
        let bytes = [&requests.concat()[..], &hello_bytes].concat();
        for segments in [&[8][..], &[1], &[8, 8, 3], &[4]] {
            let run = run(only(Protocol::Postgres), &bytes, segments);
            assert_eq!(run.answers, answers.as_bytes());
            assert_eq!(run.end, Sniff::Found(sniffed.clone()));
        }
    }
    let direct = sniff(all(), &hello_bytes);
    assert_eq!(direct, found(Protocol::Tls, sniffed.hello), "from the first byte on it is TLS");
    assert_eq!(sniff(only(Protocol::Postgres), &hello_bytes), Sniff::Unknown);
}

#[test]
fn after_the_answer_no_clear_text_may_follow() {
    let after_no = |bytes: &[u8]| run(all(), &[&GSS_REQUEST, bytes].concat(), &[8]);
    let after_yes = |bytes: &[u8]| run(all(), &[&SSL_REQUEST, bytes].concat(), &[8]);
    for bytes in [startup(0), message(80_877_102, &[1; 8])] {
        assert_eq!(after_no(&bytes).end, found(Protocol::Postgres, None));
        assert_eq!(after_yes(&bytes).end, Sniff::Failed(Failure::NoTls));
    }
    for bytes in [&b"GET / HTTP/1.1\r\n"[..], b"SSH-2.0-x", &GSS_REQUEST, &Craft::new().bytes()] {
        assert_eq!(after_no(bytes).end, Sniff::Failed(Failure::Postgres));
    }
    for bytes in [&b"GET / HTTP/1.1\r\n"[..], &SSL_REQUEST, &GSS_REQUEST, b"\x80\x2e\x01\x03\x01", b"\x15\x03"] {
        assert_eq!(after_yes(bytes).end, Sniff::Failed(Failure::NoTls));
    }
    assert!(matches!(after_yes(b"").end, Sniff::NeedMore { at_least: 1 }));
}

#[test]
fn bytes_that_come_together_with_a_request_are_refused() {
    let hello = Craft::new().bytes();
    for behind in [&b"Q"[..], &startup(0), &hello, &SSL_REQUEST] {
        for request in [SSL_REQUEST, GSS_REQUEST] {
            let bytes = [&request, behind].concat();
            let end = run(all(), &bytes, &[bytes.len()]).end;
            assert_eq!(end, Sniff::Failed(Failure::BehindRequest));
        }
        let bytes = [&GSS_REQUEST[..], &SSL_REQUEST, behind].concat();
        assert_eq!(run(all(), &bytes, &[8, bytes.len()]).end, Sniff::Failed(Failure::BehindRequest));
    }
}

#[test]
fn another_process_goes_on_behind_an_answer() {
    let hello_bytes = Craft::new().named(&[b"a.b"]).bytes();
    let mut sniffer = Sniffer::new(only(Protocol::Postgres));
    assert_eq!(sniffer.sniff(&SSL_REQUEST), Sniff::Answer(Answer { consumed: 8, reply: b'S' }));
    assert!(matches!(sniffer.sniff(&hello_bytes[..20]), Sniff::NeedMore { .. }));
    let text = serde_json::to_string(&sniffer.negotiated()).unwrap();
    let mut next = Sniffer::resume(only(Protocol::Postgres), serde_json::from_str(&text).unwrap());
    assert_eq!(next.sniff(&hello_bytes), found(Protocol::Postgres, Some(hello(Some("a.b"), &[]))));
}

#[test]
fn a_backend_answers_an_ssl_request_with_one_byte() {
    for (bytes, reply) in [
        (&b""[..], Reply::More),
        (b"S", Reply::Tls),
        (b"N", Reply::NoTls),
        (b"E\0\0\0\x20SFATAL", Reply::Error),
        (b"E", Reply::Error),
        (b"SS", Reply::Invalid),
        (b"NE", Reply::Invalid),
        (b"G", Reply::Invalid),
        (b"HTTP/1.1 400", Reply::Invalid),
    ] {
        assert_eq!(Reply::read(bytes), reply, "{}", bytes.escape_ascii());
    }
}

#[test]
fn names_are_normalized() {
    for (bytes, name) in [
        (&b"a"[..], Some("a")),
        (b"WWW.Example.COM.", Some("www.example.com")),
        (b"_x-1.a", Some("_x-1.a")),
        (b"xn--bcher-kva.example", Some("xn--bcher-kva.example")),
        (b"1.2.3", Some("1.2.3")),
        (b"192.0.2.1", None),
        (b"192.0.2.1.", None),
        (b"2001:db8::1", None),
        (b"[2001:db8::1]", None),
        (b"", None),
        (b".", None),
        (b"a..", None),
        (b"a..b", None),
        (b".a", None),
        (b"a b", None),
        (b"a\0.b", None),
        (b"*.b", None),
        (b"b\xc3\xbccher.example", None),
        (b"a/b", None),
    ] {
        assert_eq!(name::normalized(bytes).ok().as_deref(), name, "{}", bytes.escape_ascii());
    }
    let label = "a".repeat(63);
    let name = [&label[..], &label, &label, &label[..61]].join(".");
    assert_eq!(name::normalized(format!("{name}.").as_bytes()).unwrap().len(), 253);
    assert!(name::normalized(format!("{name}a").as_bytes()).is_err());
    assert!(name::normalized(format!("{label}a.b").as_bytes()).is_err());
}

#[test]
fn of_several_names_the_first_host_name_counts() {
    for (entries, expected) in [
        (vec![(0, &b"a.b"[..]), (0, b"c.d")], Some("a.b")),
        (vec![(1, &b"x"[..]), (0, b"a.b")], Some("a.b")),
        (vec![(1, &b"x"[..])], None),
        (vec![(0, &b"10.0.0.1"[..]), (0, b"a.b")], None),
        (vec![], None),
    ] {
        let bytes = Craft::new().with(0, name_list(&entries)).bytes();
        assert_eq!(sniff(all(), &bytes), found(Protocol::Tls, Some(hello(expected, &[]))), "{entries:?}");
    }
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic_and_all_pieces_get_one_answer(
        start in prop::sample::select(vec![
            &b""[..], b"\x16\x03\x01", b"\x16\x03\x01\x00\x05\x01\x00", b"\x80\x2e\x01\x03", b"\0\0\0\x08", b"\0\0\0\x29\0\x03",
            b"SSH-", b"GET ", b"PRI ",
        ]),
        bytes in prop::collection::vec(any::<u8>(), 0..400),
        wanted in prop::collection::vec(prop::sample::select(Protocol::ALL.to_vec()), 0..4),
    ) {
        let bytes = [start, &bytes].concat();
        // A client of Postgres would wait for its answer.
        prop_assume!(!bytes.starts_with(&SSL_REQUEST) && !bytes.starts_with(&GSS_REQUEST));
        sniff(wanted.into_iter().collect(), &bytes);
    }
}
