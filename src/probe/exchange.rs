//! One probe of one endpoint, as a state machine without a socket: bytes to send, bytes received, an outcome.
//!
//! | kind   | after the connect   | ends with                                                                      |
//! |--------|---------------------|--------------------------------------------------------------------------------|
//! | tcp    | nothing             | `Connected`                                                                    |
//! | http   | `GET path HTTP/1.1` | the status line, the backend's FIN, [`STATUS_LINE_MAX`] bytes that are neither |
//! | agent  | nothing             | the end of a line, the agent's FIN                                             |
//! | script | its first steps     | its last step, or an answer that a step does not expect                        |
//!
//! Where the backend expects a PROXY header, the probe starts with one without addresses; a tcp probe ends after
//! sending it.
//!
//! It does not know time: the caller ends it at the time-out. Another kind of probe is another state here; the callers
//! stay unchanged.

use super::agent::AgentLine;
use super::script::Script;
use super::transcript::Transcript;
use crate::policy::health::Outcome;
use std::time::Duration;

/// The most bytes of an answer that are parsed. Only the status line matters, and servers send shorter ones.
pub const STATUS_LINE_MAX: usize = 1024;

/// A probe in progress.
#[derive(Debug)]
pub struct Probe {
    /// The bytes to send: a PROXY header where one is expected, then those of its kind. A script adds more.
    words: Vec<u8>,
    /// The number of bytes sent. `sent <= words.len()`.
    sent: usize,
    state: State,
    /// The success that is reported once all is sent.
    passes: Option<Outcome>,
    transcript: Option<Transcript>,
    /// The number of steps whose expectation is in the transcript.
    noted: usize,
}

/// The kind of a probe, with what it has received.
#[derive(Debug)]
pub(super) enum State {
    Tcp,
    Http(Exchange),
    Agent(AgentLine),
    Script(Script),
}

/// A request that waits for its status line.
#[derive(Debug)]
pub(super) struct Exchange {
    /// The beginning of the answer. `answer.len() <= STATUS_LINE_MAX`.
    answer: Vec<u8>,
    expect: Vec<(u16, u16)>,
}

impl Probe {
    /// A probe that sends `words`, and then does what its kind does.
    pub(super) fn new(words: Vec<u8>, state: State) -> Probe {
        let passes = matches!(state, State::Tcp).then_some(Outcome::Connected);
        Probe { words, sent: 0, state, passes, transcript: None, noted: 0 }
    }

    /// The same, with a transcript.
    #[must_use]
    pub fn recorded(self) -> Probe {
        Probe { transcript: Some(Transcript::default()), ..self }
    }

    /// What it has sent and received, if it was recorded.
    pub fn into_transcript(self) -> Transcript {
        self.transcript.unwrap_or_default()
    }

    /// Whether it ends with the connect, so that the backend's process need not see it.
    pub fn is_bare(&self) -> bool {
        matches!(self.state, State::Tcp) && self.words.is_empty()
    }

    /// Handles the connect. Returns the outcome, if that is all it needs.
    pub fn connected(&mut self) -> Option<Outcome> {
        let outcome = match &mut self.state {
            State::Script(script) => script.advance(&mut self.words),
            State::Tcp | State::Http(_) | State::Agent(_) => None,
        };
        self.decided(outcome)
    }

    /// The bytes that are not sent yet.
    pub fn unsent(&self) -> &[u8] {
        &self.words[self.sent..]
    }

    /// Handles that `count` bytes of [`Probe::unsent`] were sent. Returns the outcome, if that is all it needs.
    pub fn sent(&mut self, count: usize) -> Option<Outcome> {
        let end = (self.sent + count).min(self.words.len());
        if let Some(transcript) = &mut self.transcript {
            transcript.sent(&self.words[self.sent..end]);
        }
        self.sent = end;
        self.decided(None)
    }

    /// Handles received bytes. Returns the outcome once they decide it.
    pub fn received(&mut self, bytes: &[u8]) -> Option<Outcome> {
        if let Some(transcript) = &mut self.transcript {
            transcript.received(bytes);
        }
        let outcome = match &mut self.state {
            State::Tcp => return Some(Outcome::Connected),
            State::Http(exchange) => return exchange.received(bytes),
            State::Agent(line) => return line.received(bytes),
            State::Script(script) => script.received(bytes, &mut self.words),
        };
        self.decided(outcome)
    }

    /// A failure is an outcome at once, a success once all is sent.
    fn decided(&mut self, outcome: Option<Outcome>) -> Option<Outcome> {
        self.note_expectations();
        if outcome.as_ref().is_some_and(Outcome::passed) {
            self.passes = outcome;
        } else if outcome.is_some() {
            return outcome;
        }
        self.passes.take_if(|_| self.sent == self.words.len())
    }

    /// Notes what the steps so far expect. An expectation stands behind what is sent before it.
    fn note_expectations(&mut self) {
        let Some(transcript) = &mut self.transcript else { return };
        let reached = self.state.reached();
        let end = if self.sent == self.words.len() { reached + 1 } else { reached };
        (self.noted..end).filter_map(|step| self.state.expectation(step)).for_each(|text| transcript.expected(text));
        self.noted = self.noted.max(end);
    }

    /// The outcome when the backend closes first.
    pub fn closed(&self) -> Outcome {
        match &self.state {
            State::Tcp | State::Http(_) => Outcome::Closed,
            State::Agent(line) => line.closed(),
            State::Script(script) => script.closed(),
        }
    }

    /// The outcome when the connection fails first, with this error number.
    pub fn broken(&self, code: i32) -> Outcome {
        match &self.state {
            State::Script(script) => script.broken(code),
            State::Tcp | State::Http(_) | State::Agent(_) => Outcome::Broken(code),
        }
    }

    /// The outcome when its time is over, which was this long. `connected`: it is not the connection that is late.
    pub fn timed_out(&self, connected: bool, after: Duration) -> Outcome {
        match &self.state {
            State::Script(script) if connected => script.timed_out(after),
            _ => Outcome::TimedOut(after),
        }
    }
}

impl State {
    /// The number of the first step that is not done. Only a script has several.
    fn reached(&self) -> usize {
        if let State::Script(script) = self { script.reached() } else { 0 }
    }

    /// What a step expects, in words.
    fn expectation(&self, step: usize) -> Option<String> {
        match self {
            State::Tcp => None,
            State::Http(exchange) => (step == 0).then(|| exchange.expectation()),
            State::Agent(_) => (step == 0).then(|| "a line of up, down, drain, ready or N%".to_owned()),
            State::Script(script) => script.expectation(step),
        }
    }
}

impl Exchange {
    pub(super) fn new(expect: Vec<(u16, u16)>) -> Exchange {
        Exchange { answer: Vec::new(), expect }
    }

    fn received(&mut self, bytes: &[u8]) -> Option<Outcome> {
        let room = STATUS_LINE_MAX - self.answer.len();
        self.answer.extend_from_slice(&bytes[..bytes.len().min(room)]);
        // With no room for headers the parser stops with an error after the status line, which it has read by then.
        let mut response = httparse::Response::new(&mut []);
        let parsed = response.parse(&self.answer);
        // The reason phrase, be it empty, is there once the line has ended. A code alone may be half of one.
        match (response.code, response.reason, parsed) {
            (Some(code), Some(_), _) if self.expects(code) => Some(Outcome::Status(code)),
            (Some(code), Some(_), _) => Some(Outcome::WrongStatus(code)),
            (_, _, Err(_)) => Some(Outcome::NotHttp),
            _ if self.answer.len() == STATUS_LINE_MAX => Some(Outcome::TooLong(STATUS_LINE_MAX)),
            _ => None,
        }
    }

    fn expectation(&self) -> String {
        let range = |&(first, last): &(u16, u16)| match first {
            _ if first == last => first.to_string(),
            _ => format!("{first}-{last}"),
        };
        format!("an HTTP status of {}", self.expect.iter().map(range).collect::<Vec<_>>().join(", "))
    }

    fn expects(&self, code: u16) -> bool {
        self.expect.iter().any(|&(first, last)| (first..=last).contains(&code))
    }
}

#[cfg(test)]
mod tests {
    use super::super::{ProbeTarget, Said};
    use super::*;
    use crate::base::Endpoint;
    use crate::config::model::{Health, HealthKind};
    use proptest::prelude::*;

    fn probe() -> Probe {
        let health = Health {
            kind: HealthKind::Http { path: "/healthz".into(), host: None, expect: vec![(200, 200), (301, 399)] },
            ..Health::default()
        };
        let at = Endpoint::Inet("127.0.0.1:80".parse().unwrap());
        ProbeTarget::new(&health, None, None, &at).unwrap().probe()
    }

    fn answered(bytes: &[u8]) -> Option<Outcome> {
        probe().received(bytes)
    }

    #[test]
    fn the_request_is_what_it_should_be_and_goes_out_in_pieces() {
        let mut probe = probe();
        assert_eq!(probe.connected(), None);
        let mut text = Vec::new();
        while !probe.unsent().is_empty() {
            text.extend_from_slice(&probe.unsent()[..7.min(probe.unsent().len())]);
            probe.sent(7);
        }
        let want = format!(
            "GET /healthz HTTP/1.1\r\nHost: 127.0.0.1:80\r\nUser-Agent: tcplb/{}\r\nConnection: close\r\n\r\n",
            env!("CARGO_PKG_VERSION")
        );
        assert_eq!(String::from_utf8(text).unwrap(), want);
    }

    #[test]
    fn a_transcript_has_what_is_expected_behind_what_is_sent() {
        let mut probe = probe().recorded();
        assert_eq!(probe.connected(), None);
        let request = probe.unsent().to_vec();
        probe.sent(3);
        probe.sent(request.len() - 3);
        assert_eq!(probe.received(b"HTTP/1.1 20"), None);
        assert_eq!(probe.received(b"0 OK\r\n\r\n"), Some(Outcome::Status(200)));
        let want = [
            Said::Sent(request),
            Said::Expected("an HTTP status of 200, 301-399".to_owned()),
            Said::Received(b"HTTP/1.1 200 OK\r\n\r\n".to_vec()),
        ];
        assert_eq!(probe.into_transcript().said(), want);
    }

    #[test]
    fn the_status_line_decides_as_soon_as_it_is_whole() {
        for (bytes, want) in [
            ("HTTP/1.1 200 OK\r\n", Some(Outcome::Status(200))),
            ("HTTP/1.0 200 OK\n", Some(Outcome::Status(200))),
            ("HTTP/1.1 200\r\n", Some(Outcome::Status(200))),
            ("HTTP/1.1 302 Found\r\nLocation: /x\r\n\r\nbody", Some(Outcome::Status(302))),
            ("HTTP/1.1 503 Service Unavailable\r\nServer: x\r\n", Some(Outcome::WrongStatus(503))),
            ("HTTP/1.1 300 \r\nbroken header\r\n", Some(Outcome::WrongStatus(300))),
            ("", None),
            ("HTTP/1.1 20", None),
            ("HTTP/1.1 200", None),
            ("HTTP/1.1 200 O", None),
            ("SSH-2.0-OpenSSH_9.9\r\n", Some(Outcome::NotHttp)),
            ("HTTP/2 200\r\n", Some(Outcome::NotHttp)),
            ("HTTP/1.1 2x0 OK\r\n", Some(Outcome::NotHttp)),
            ("HTTP/1.1 2000 OK\r\n", Some(Outcome::NotHttp)),
        ] {
            assert_eq!(answered(bytes.as_bytes()), want, "{bytes:?}");
        }
        assert_eq!(answered(b"\0\0\0\x4a\x0a"), Some(Outcome::NotHttp));
    }

    #[test]
    fn a_line_that_does_not_end_is_given_up() {
        let mut probe = probe();
        assert_eq!(probe.received(b"HTTP/1.1 200 "), None);
        assert_eq!(probe.received(&[b'x'; 900]), None);
        assert_eq!(probe.received(&[b'x'; 4096]), Some(Outcome::TooLong(STATUS_LINE_MAX)));
    }

    proptest! {
        #[test]
        fn any_cut_of_an_answer_gives_the_same_outcome(cut in 0usize..38, code in 100u16..1000) {
            let text = format!("HTTP/1.1 {code} Some Reason\r\nServer: x\r\n\r\n");
            let mut probe = probe();
            let (head, tail) = text.as_bytes().split_at(cut);
            let outcome = probe.received(head).or_else(|| probe.received(tail));
            prop_assert_eq!(&outcome, &answered(text.as_bytes()));
            prop_assert_eq!(outcome.unwrap().passed(), code == 200 || (301..=399).contains(&code));
        }

        #[test]
        fn garbage_never_panics_and_never_passes(chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..600), 0..8)) {
            let mut probe = probe();
            for chunk in chunks {
                if let Some(outcome) = probe.received(&chunk) {
                    prop_assert!(!outcome.passed());
                    break;
                }
            }
        }
    }
}
