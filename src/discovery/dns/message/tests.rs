use super::*;
use proptest::prelude::*;
use simple_dns::ResourceRecord;
use simple_dns::rdata::{A, AAAA, CNAME, NULL, SOA, SRV};

const ID: u16 = 0x1234;

fn record<'a>(name: &'a str, ttl: u32, rdata: RData<'a>) -> ResourceRecord<'a> {
    ResourceRecord::new(Name::new(name).unwrap(), CLASS::IN, ttl, rdata)
}

fn alias<'a>(name: &'a str, ttl: u32, target: &'a str) -> ResourceRecord<'a> {
    record(name, ttl, RData::CNAME(CNAME(Name::new(target).unwrap())))
}

fn address(name: &str, ttl: u32, last: u8) -> ResourceRecord<'_> {
    record(name, ttl, RData::A(A { address: u32::from_be_bytes([10, 0, 0, last]) }))
}

fn soa(ttl: u32, minimum: u32) -> ResourceRecord<'static> {
    let (mname, rname) = (Name::new("ns.example").unwrap(), Name::new("root.example").unwrap());
    let soa = SOA { mname, rname, serial: 1, refresh: 1, retry: 1, expire: 1, minimum };
    record("example", ttl, RData::SOA(soa))
}

fn query(wanted: Wanted) -> Query {
    Query::new("Web.Example.", wanted, ID, true).unwrap()
}

/// An answer to a query, changed before it is written.
fn message<'a>(query: &'a Query, change: impl FnOnce(&mut Packet<'a>)) -> Vec<u8> {
    let mut packet = Packet::parse(query.bytes()).unwrap().into_reply();
    change(&mut packet);
    packet.build_bytes_vec_compressed().unwrap()
}

fn answered(wanted: Wanted, change: impl for<'a> FnOnce(&mut Packet<'a>)) -> Reading {
    let query = query(wanted);
    query.read(&message(&query, change))
}

fn answer(wanted: Wanted, change: impl for<'a> FnOnce(&mut Packet<'a>)) -> Answer {
    match answered(wanted, change) {
        Reading::Answer(answer) => answer,
        other => panic!("{other:?}"),
    }
}

fn seconds(seconds: u64) -> Option<Duration> {
    Some(Duration::from_secs(seconds))
}

#[test]
fn aliases_are_followed_and_the_shortest_time_holds() {
    let found = answer(Wanted::A, |packet| {
        packet.answers.push(address("c.example", 60, 1));
        packet.answers.push(alias("b.example", 7, "C.Example"));
        packet.answers.push(alias("web.example", 300, "b.example"));
        packet.answers.push(address("c.example", 50, 2));
        packet.answers.push(address("other.example", 1, 3));
    });
    let shown: Vec<String> = found.addresses.iter().map(ToString::to_string).collect();
    assert_eq!((shown, found.ttl, found.alias), (vec!["10.0.0.1".into(), "10.0.0.2".into()], seconds(7), None));
}

#[test]
fn aliases_that_lead_to_each_other_are_an_error() {
    let reading = answered(Wanted::A, |packet| {
        packet.answers.push(alias("web.example", 1, "b.example"));
        packet.answers.push(alias("b.example", 1, "web.example"));
    });
    let Reading::Failed(why) = reading else { panic!("{reading:?}") };
    assert_eq!(why, "web.example: more than 16 aliases lead to each other");
}

#[test]
fn an_alias_without_records_is_asked_for_unless_the_answer_denies_them() {
    let found = answer(Wanted::A, |packet| packet.answers.push(alias("web.example", 9, "b.example")));
    assert_eq!((found.alias.as_deref(), found.ttl), (Some("b.example"), seconds(9)));
    let found = answer(Wanted::A, |packet| {
        packet.answers.push(alias("web.example", 9, "b.example"));
        packet.name_servers.push(soa(60, 5));
    });
    assert_eq!((found.alias, found.ttl), (None, seconds(5)));
    let found = answer(Wanted::A, |packet| {
        packet.answers.push(alias("web.example", 9, "b.example"));
        *packet.rcode_mut() = RCODE::NameError;
    });
    assert_eq!((found.alias, found.ttl, found.addresses.len()), (None, seconds(9), 0));
}

#[test]
fn an_empty_answer_holds_as_long_as_its_soa_record_says() {
    for (ttl, minimum, want) in [(60, 5, 5), (5, 60, 5), (u32::MAX, 60, 0)] {
        let found = answer(Wanted::Aaaa, |packet| packet.name_servers.push(soa(ttl, minimum)));
        assert_eq!(found, Answer { ttl: seconds(want), ..Answer::default() });
    }
    assert_eq!(answer(Wanted::A, |packet| *packet.rcode_mut() = RCODE::NameError), Answer::default());
}

#[test]
fn services_and_ipv6_addresses_are_read() {
    let found = answer(Wanted::Srv, |packet| {
        let target = Name::new("A.Example").unwrap();
        packet.answers.push(record("web.example", 4, RData::SRV(SRV { priority: 1, weight: 2, port: 3, target })));
    });
    assert_eq!(found.services, [Service { priority: 1, weight: 2, port: 3, target: "a.example".to_owned() }]);
    let found = answer(Wanted::Aaaa, |packet| {
        packet.answers.push(record("web.example", 4, RData::AAAA(AAAA { address: 1 })));
        packet.answers.push(address("web.example", 1, 1));
    });
    assert_eq!((found.addresses, found.ttl), (vec!["::1".parse().unwrap()], seconds(4)));
}

#[test]
fn an_answer_with_another_id_or_question_is_not_ours() {
    let query = query(Wanted::A);
    let right = message(&query, |packet| packet.answers.push(address("web.example", 1, 1)));
    assert!(matches!(query.read(&right), Reading::Answer(_)));
    let mut wrong = right.clone();
    wrong[1] ^= 1;
    assert_eq!(query.read(&wrong), Reading::NotOurs);
    for other in [Query::new("web.example2", Wanted::A, ID, true), Query::new("web.example", Wanted::Srv, ID, true)] {
        assert_eq!(query.read(&message(&other.unwrap(), |_| {})), Reading::NotOurs);
    }
    assert_eq!(query.read(query.bytes()), Reading::NotOurs, "a query is no answer");
    assert_eq!(query.read(&message(&query, |packet| packet.questions.clear())), Reading::NotOurs);
    let upper: Vec<u8> = right.iter().map(u8::to_ascii_uppercase).collect();
    assert!(matches!(query.read(&upper), Reading::Answer(_)));
}

#[test]
fn errors_of_the_server_and_cut_answers_are_recognised() {
    for (code, want) in [(RCODE::ServerFailure, "answered SERVFAIL"), (RCODE::Refused, "answered REFUSED")] {
        assert_eq!(answered(Wanted::A, |packet| *packet.rcode_mut() = code), Reading::Failed(want.to_owned()));
    }
    let refusal = answered(Wanted::A, |packet| {
        packet.questions.clear();
        *packet.rcode_mut() = RCODE::Refused;
    });
    assert_eq!(refusal, Reading::Failed("answered REFUSED".to_owned()));
    assert_eq!(answered(Wanted::A, |packet| *packet.rcode_mut() = RCODE::FormatError), Reading::NoOptions);
    assert_eq!(answered(Wanted::A, |packet| packet.set_flags(PacketFlag::TRUNCATION)), Reading::Truncated);
    let query = query(Wanted::A);
    let whole = message(&query, |packet| packet.answers.push(address("web.example", 1, 1)));
    for end in query.question..whole.len() {
        assert!(matches!(query.read(&whole[..end]), Reading::Failed(_)), "cut at {end}");
    }
    for end in 0..query.question {
        assert_eq!(query.read(&whole[..end]), Reading::NotOurs, "cut at {end}");
    }
    assert!(Query::new(&"a".repeat(64), Wanted::A, ID, true).is_err());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4096))]

    /// Records of every type with any content, and any bytes behind the question.
    #[test]
    fn no_bytes_break_it(kind in 0..260u16, data in prop::collection::vec(any::<u8>(), 1..60), raw in any::<bool>(), flags in any::<[u8; 2]>()) {
        for wanted in [Wanted::A, Wanted::Aaaa, Wanted::Srv] {
            let query = query(wanted);
            let mut bytes = message(&query, |packet| {
                if !raw {
                    let null = NULL::new(&data).unwrap().into_owned();
                    packet.answers.push(record("web.example", 1, RData::NULL(kind, null)));
                }
            });
            if raw {
                (bytes[2], bytes[3]) = (flags[0] | 0x80, flags[1]);
                (bytes[7], bytes[11]) = (flags[0], flags[1]);
                bytes.truncate(query.question);
                bytes.extend(&data);
            }
            let _ = query.read(&bytes);
        }
    }
}
