use super::*;
use crate::config::model::Pattern;
use crate::config::model::health::{Health, HealthKind};
use crate::probe::{Probe, ProbeTarget, Said};
use proptest::prelude::*;

fn send(text: &str) -> Step {
    Step::Send(text.as_bytes().to_vec())
}

fn expect(text: &str) -> Step {
    Step::Expect(text.as_bytes().to_vec())
}

fn matches(text: &str) -> Step {
    Step::ExpectRegex(Pattern::new(text).unwrap())
}

fn probe(steps: &[Step]) -> Probe {
    let health = Health { kind: HealthKind::Script { steps: steps.to_vec() }, ..Health::default() };
    let at = crate::base::Endpoint::Inet("127.0.0.1:6379".parse().unwrap());
    ProbeTarget::new(&health, None, None, &at).unwrap().probe()
}

/// The outcome of a script, to which `chunks` come, one after the other, and then the backend's close. All that it has to send
/// is sent at once.
fn played<'a>(steps: &[Step], chunks: impl IntoIterator<Item = &'a [u8]>) -> Outcome {
    let mut probe = probe(steps);
    let sent = |probe: &mut Probe| probe.sent(probe.unsent().len());
    let begun = probe.connected().or_else(|| sent(&mut probe));
    let mut chunks = chunks.into_iter();
    let outcome = begun.or_else(|| chunks.find_map(|chunk| probe.received(chunk).or_else(|| sent(&mut probe))));
    outcome.unwrap_or_else(|| probe.closed())
}

fn text(outcome: &Outcome) -> String {
    outcome.to_string()
}

#[test]
fn steps_are_done_in_order_and_what_is_beyond_an_expectation_stays_for_the_next() {
    let smtp = [expect("220"), matches("\r\n"), send("QUIT\r\n"), expect("221 ")];
    let mut probe = probe(&smtp);
    assert_eq!((probe.connected(), probe.unsent()), (None, &b""[..]));
    assert_eq!((probe.received(b"220 mx ESMTP\r"), probe.unsent()), (None, &b""[..]));
    assert_eq!((probe.received(b"\n221"), probe.unsent()), (None, &b"QUIT\r\n"[..]), "the next answer may come early");
    assert_eq!((probe.sent(3), probe.received(b" bye")), (None, None), "it has to send the rest");
    assert_eq!(probe.sent(3), Some(Outcome::ScriptPassed));
}

#[test]
fn a_transcript_has_each_step_in_order() {
    let mut probe = probe(&[expect("220"), matches("\r\n"), send("QUIT\r\n"), expect("221 ")]).recorded();
    probe.connected();
    probe.received(b"220 mx\r\n");
    probe.sent(6);
    assert_eq!(probe.received(b"221 bye"), Some(Outcome::ScriptPassed));
    let expected = |text: &str| Said::Expected(text.to_owned());
    let want = [
        expected("\"220\""),
        Said::Received(b"220 mx\r\n".to_vec()),
        expected("/\\r\\n/"),
        Said::Sent(b"QUIT\r\n".to_vec()),
        expected("\"221 \""),
        Said::Received(b"221 bye".to_vec()),
    ];
    assert_eq!(probe.into_transcript().said(), want);
}

#[test]
fn a_script_that_only_sends_passes_once_all_is_sent() {
    let mut probe = probe(&[send("a"), send("b")]);
    assert_eq!((probe.connected(), probe.unsent()), (None, &b"ab"[..]));
    assert_eq!((probe.sent(1), probe.sent(1)), (None, Some(Outcome::ScriptPassed)));
}

#[test]
fn a_failure_names_the_step_and_shows_what_came() {
    let ping = [send("PING\r\n"), expect("+PONG"), matches("role:(master|slave)")];
    for (answer, want) in [
        ("-LOADING Redis is loading\r\n", "step 2: expected \"+PONG\", got \"-LOADING Redis is loading\\r\\n\""),
        ("+PO", "step 2: expected \"+PONG\", the backend closed after \"+PO\""),
        ("", "step 2: expected \"+PONG\", the backend closed"),
        ("+PONG\0", "step 3: expected /role:(master|slave)/, the backend closed after \"\\x00\""),
    ] {
        let outcome = played(&ping, [answer.as_bytes()]);
        assert_eq!((text(&outcome).as_str(), outcome.class()), (want, Class::Answer));
    }
    let long = played(&ping, [&[b'x'; 100][..]]);
    assert_eq!(text(&long), format!("step 2: expected \"+PONG\", got \"{}…\"", "x".repeat(SHOWN_MAX)));
    let mut late = probe(&ping);
    assert_eq!(late.connected().or_else(|| late.sent(6)), None);
    let outcome = late.timed_out(true, Duration::from_secs(1));
    assert_eq!(
        (text(&outcome).as_str(), outcome.class()),
        ("step 2: expected \"+PONG\", timed out after 1s", Class::Timeout)
    );
    assert_eq!(late.timed_out(false, Duration::from_secs(1)), Outcome::TimedOut(Duration::from_secs(1)));
    assert_eq!(text(&late.broken(104)), "step 2: expected \"+PONG\", connection reset");
}

#[test]
fn an_expectation_that_nothing_meets_ends_at_the_bound() {
    let steps = [matches("never")];
    let chunk = [b'x'; 1000];
    let mut probe = probe(&steps);
    assert_eq!(probe.connected(), None);
    let chunks = (1..).find_map(|count| Some((count, probe.received(&chunk)?)));
    let (count, outcome) = chunks.unwrap();
    assert_eq!(count, EXPECT_MAX.div_ceil(chunk.len()));
    assert!(text(&outcome).starts_with("step 1: expected /never/, no match in 16384 bytes after \"xxx"), "{outcome}");
    // What was used makes room.
    let all = [vec![b'x'; EXPECT_MAX - 1], b"y".to_vec(), vec![b'x'; EXPECT_MAX - 1], b"y".to_vec()].concat();
    assert_eq!(played(&[matches("y"), matches("y")], [&all[..]]), Outcome::ScriptPassed);
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        "[ab]{1,3}".prop_map(|text| send(&text)),
        "[ab]{1,3}".prop_map(|text| expect(&text)),
        prop::sample::select(vec!["a+", "a.*b", "^b|aa", "(?s)a|b", "[ab]{2,}", "x*"]).prop_map(matches),
    ]
}

proptest! {
    /// The step that fails and the reason do not depend on where the network cuts the bytes. What is shown of them may be longer.
    #[test]
    fn any_cut_of_the_bytes_gives_one_outcome(
        steps in prop::collection::vec(step(), 1..5),
        bytes in prop::collection::vec(prop::sample::select(&b"aab\n"[..]), 0..16),
        cuts in prop::collection::vec(1usize..6, 0..16),
    ) {
        let whole = played(&steps, [&bytes[..]]);
        let mut chunks = Vec::new();
        let mut rest = &bytes[..];
        for cut in cuts {
            let (chunk, later) = rest.split_at(cut.min(rest.len()));
            chunks.push(chunk);
            rest = later;
        }
        chunks.push(rest);
        let cut = played(&steps, chunks);
        prop_assert_eq!(cut.class(), whole.class());
        let reason = |outcome: &Outcome| text(outcome).split(", ").next().map(str::to_owned);
        prop_assert_eq!(reason(&cut), reason(&whole));
    }

    #[test]
    fn garbage_never_passes_and_is_bounded(chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..3000), 0..12)) {
        let steps = [send("PING\r\n"), expect("+PONG\r\n"), matches("role:master\r\n")];
        let outcome = played(&steps, chunks.iter().map(Vec::as_slice));
        prop_assert!(!outcome.passed());
        prop_assert!(text(&outcome).len() < 6 * SHOWN_MAX);
    }
}
