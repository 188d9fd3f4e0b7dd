//! Any bytes as the first ones of a client. Any split gets the same answer, which asks for no more bytes than a hello may have. A
//! name that is found has the form in which routes compare it.

use tcplb::policy::routes::{Conditions, NamePattern, Routes};
use tcplb::proto::sniff::name::{NAME_MAX, normalized};
use tcplb::proto::sniff::postgres::Reply;
use tcplb::proto::sniff::{ALPN_MAX, Failure, HELLO_MAX, Protocol, Protocols, Sniff, Sniffed, Sniffer};

/// Fails if a promise is broken.
pub fn check(bytes: &[u8]) {
    let all = Protocols::from_iter(Protocol::ALL);
    let sets = Protocol::ALL.map(|protocol| Protocols::from_iter([protocol]));
    for wanted in sets.into_iter().chain([all]) {
        let whole = run(wanted, bytes, bytes.len().max(1));
        // A client that sends on before it is answered gets another end than one that waits.
        if whole.1 != Sniff::Failed(Failure::BehindRequest) {
            assert_eq!(run(wanted, bytes, 1), whole, "another answer in pieces");
        }
        if let (_, Sniff::Found(sniffed)) = whole {
            assert!(wanted.contains(sniffed.protocol), "{} is not wanted", sniffed.protocol);
            described(&sniffed);
        }
    }
    let reply = Reply::read(bytes);
    assert_eq!(reply == Reply::More, bytes.is_empty());
    assert!(reply != Reply::Tls || bytes == b"S", "bytes behind an answer");
}

/// The answers to a client that sends segments of this length and waits for each answer, and the end.
fn run(wanted: Protocols, bytes: &[u8], segment: usize) -> (Vec<u8>, Sniff) {
    let mut sniffer = Sniffer::new(wanted);
    let (mut answers, mut base, mut end, mut silent_until) = (Vec::new(), 0, 0, 0);
    loop {
        let window = &bytes[base..end];
        match sniffer.sniff(window) {
            Sniff::NeedMore { at_least } => {
                assert!(window.len() < at_least && at_least <= HELLO_MAX);
                if end == bytes.len() {
                    return (answers, Sniff::NeedMore { at_least });
                }
                silent_until = at_least;
                end = (end + segment).min(bytes.len());
            }
            Sniff::Answer(answer) => {
                assert_eq!(answer.consumed, window.len(), "bytes behind a request");
                let next = Sniffer::resume(wanted, sniffer.negotiated());
                assert_eq!(next.negotiated(), sniffer.negotiated());
                answers.push(answer.reply);
                assert!(answers.len() <= 2, "a third answer");
                (base, silent_until) = (end, 0);
            }
            last => {
                assert!(window.len() >= silent_until, "an answer before {silent_until} bytes");
                return (answers, last);
            }
        }
    }
}

/// What was found has its bounds, and a route for its very name takes it.
fn described(sniffed: &Sniffed) {
    let Some(hello) = &sniffed.hello else { return };
    assert!(hello.alpn.len() <= ALPN_MAX && hello.alpn.iter().all(|name| name.len() <= 255));
    let Some(name) = &hello.server_name else { return };
    assert!(name.len() <= NAME_MAX);
    assert_eq!(normalized(name.as_bytes()).as_ref(), Ok(name));
    let pattern: NamePattern = name.parse().expect("a route can have any name that a client can ask for");
    assert_eq!(pattern.to_string(), **name);
    let routes = Routes::new(&[Conditions { sni: vec![pattern], ..Conditions::default() }]);
    assert_eq!(routes.find(Some(sniffed), None), Some(0));
}
