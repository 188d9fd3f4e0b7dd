//! Tests of sniffing: what each protocol begins with, and hellos against another parser of TLS.

mod craft;
mod first;
mod hellos;
mod limits;

use super::*;

/// What a client saw, and how its first bytes ended.
#[derive(Debug, PartialEq, Eq)]
struct Run {
    /// The bytes that it was answered.
    answers: Vec<u8>,
    /// The last answer of the sniffer.
    end: Sniff,
    /// Without the bytes that were consumed: how many the sniffer had at the end.
    at: usize,
}

fn only(protocol: Protocol) -> Protocols {
    [protocol].into_iter().collect()
}

fn all() -> Protocols {
    Protocol::ALL.into_iter().collect()
}

/// Feeds `bytes` in segments of these lengths, over and over. Checks what holds for every sniffer.
fn run(wanted: Protocols, bytes: &[u8], segments: &[usize]) -> Run {
    let mut sniffer = Sniffer::new(wanted);
    let (mut answers, mut base, mut end, mut silent_until) = (Vec::new(), 0, 0, 0);
    let mut segments = segments.iter().cycle();
    loop {
        let window = &bytes[base..end];
        match sniffer.sniff(window) {
            Sniff::NeedMore { at_least } => {
                assert!(at_least > window.len(), "it asks for {at_least} bytes and has {}", window.len());
                assert!(at_least <= HELLO_MAX, "it asks for {at_least} bytes");
                silent_until = at_least.max(silent_until);
                if end == bytes.len() {
                    return Run { answers, end: Sniff::NeedMore { at_least }, at: window.len() };
                }
            }
            Sniff::Answer(answer) => {
                assert_eq!(answer.consumed, window.len(), "bytes behind a request");
                assert_eq!(Sniffer::resume(wanted, sniffer.negotiated()).negotiated(), sniffer.negotiated());
                answers.push(answer.reply);
                base += answer.consumed;
                silent_until = 0;
                continue;
            }
            last => {
                assert!(window.len() >= silent_until, "{last:?} before {silent_until} bytes");
                return Run { answers, end: last, at: window.len() };
            }
        }
        end = (end + segments.next().expect("a length").max(&1)).min(bytes.len());
    }
}

/// The one answer to these bytes, whole and byte by byte.
fn sniff(wanted: Protocols, bytes: &[u8]) -> Sniff {
    let (whole, bytewise) = (run(wanted, bytes, &[bytes.len()]), run(wanted, bytes, &[1]));
    assert_eq!(whole.end, bytewise.end, "{}", bytes.escape_ascii());
    assert_eq!(whole.answers, bytewise.answers, "{}", bytes.escape_ascii());
    assert_eq!(run(wanted, &bytes[..bytewise.at], &[1]).end, whole.end, "decided late");
    whole.end
}

fn hello(name: Option<&str>, alpn: &[&str]) -> Hello {
    Hello {
        server_name: name.map(Box::from),
        alpn: alpn.iter().map(|protocol| protocol.as_bytes().into()).collect(),
        is_encrypted: false,
    }
}
