//! A script: sends and expects bytes over one connection, step by step.
//!
//! Bytes that came and that no expectation has used are kept, at most [`EXPECT_MAX`]; the next expectation looks at them
//! first. An expectation by a regular expression uses the bytes up to the end of the shortest match. So the outcome depends on
//! the bytes alone, wherever the network cuts them.

use crate::base::bytes::escaped;
use crate::base::text::Escaped;
use crate::config::model::Step;
use crate::config::model::health::EXPECT_MAX;
use crate::policy::health::{Class, ConnectFailure, Outcome};
use std::time::Duration;

/// How much of an answer a failure shows.
const SHOWN_MAX: usize = 80;

/// A script in progress.
#[derive(Debug)]
pub struct Script {
    steps: Vec<Step>,
    /// The number of the first step that is not done.
    next: usize,
    /// Bytes that no expectation has used; at most [`EXPECT_MAX`].
    rest: Vec<u8>,
}

/// Whether an expectation is met by some bytes.
enum Expectation {
    /// By so many of them.
    Met(usize),
    /// It may be, with more bytes.
    Open,
    /// It can't be.
    Failed,
}

impl Script {
    /// A script that has not begun.
    pub fn new(steps: Vec<Step>) -> Script {
        Script { steps, next: 0, rest: Vec::new() }
    }

    /// The number of the first step that is not done.
    pub fn reached(&self) -> usize {
        self.next
    }

    /// What a step expects, if it expects something: `"+PONG"` or `/role:master/`.
    pub fn expectation(&self, step: usize) -> Option<String> {
        match self.steps.get(step)? {
            Step::Expect(bytes) => Some(format!("\"{}\"", escaped(bytes))),
            Step::ExpectRegex(pattern) => Some(format!("/{}/", Escaped(pattern.text()))),
            Step::Send(_) => None,
        }
    }

    /// Goes on as far as possible. Bytes to send are added to `words`. Returns a failure, or success once nothing is left but to
    /// send `words`.
    pub fn advance(&mut self, words: &mut Vec<u8>) -> Option<Outcome> {
        while let Some(step) = self.steps.get(self.next) {
            match (expectation(step, &self.rest), step) {
                (Expectation::Met(used), step) => {
                    if let Step::Send(bytes) = step {
                        words.extend_from_slice(bytes);
                    }
                    self.rest.drain(..used);
                    self.next += 1;
                }
                (Expectation::Open, _) if self.rest.len() < EXPECT_MAX => return None,
                (Expectation::Open, _) => {
                    return Some(self.failed(Class::Answer, &format!("no match in {EXPECT_MAX} bytes")));
                }
                (Expectation::Failed, _) => return Some(self.failed(Class::Answer, "")),
            }
        }
        Some(Outcome::ScriptPassed)
    }

    /// Handles received bytes, like [`Script::advance`].
    pub fn received(&mut self, mut bytes: &[u8], words: &mut Vec<u8>) -> Option<Outcome> {
        loop {
            let (part, later) = bytes.split_at(bytes.len().min(EXPECT_MAX - self.rest.len()));
            self.rest.extend_from_slice(part);
            let outcome = self.advance(words);
            if outcome.is_some() || later.is_empty() {
                return outcome;
            }
            bytes = later;
        }
    }

    /// The outcome when the backend closes.
    pub fn closed(&self) -> Outcome {
        self.failed(Class::Answer, "the backend closed")
    }

    /// The outcome when the connection fails, with this error number.
    pub fn broken(&self, code: i32) -> Outcome {
        self.failed(Class::Answer, &ConnectFailure::Os(code).to_string())
    }

    /// The outcome when the time is over.
    pub fn timed_out(&self, after: Duration) -> Outcome {
        self.failed(Class::Timeout, &ConnectFailure::TimedOut(after).to_string())
    }

    /// `step 2: expected "+PONG", got "-LOADING Redis is loading"`.
    fn failed(&self, class: Class, why: &str) -> Outcome {
        let wanted = self.expectation(self.next).map(|wanted| format!("expected {wanted}"));
        let wanted = wanted.unwrap_or_else(|| "sending".to_owned());
        let (shown, more) = match self.rest.get(..SHOWN_MAX) {
            Some(shown) if shown.len() < self.rest.len() => (shown, "…"),
            _ => (&self.rest[..], ""),
        };
        let got = match (why, shown) {
            ("", shown) => format!("got \"{}{more}\"", escaped(shown)),
            (why, []) => why.to_owned(),
            (why, shown) => format!("{why} after \"{}{more}\"", escaped(shown)),
        };
        Outcome::Failed(class, format!("step {}: {wanted}, {got}", (self.next + 1).min(self.steps.len())).into())
    }
}

fn expectation(step: &Step, bytes: &[u8]) -> Expectation {
    match step {
        Step::Send(_) => Expectation::Met(0),
        Step::Expect(wanted) if bytes.starts_with(wanted) => Expectation::Met(wanted.len()),
        Step::Expect(wanted) if wanted.starts_with(bytes) => Expectation::Open,
        Step::Expect(_) => Expectation::Failed,
        Step::ExpectRegex(pattern) => pattern.shortest_in(bytes).map_or(Expectation::Open, Expectation::Met),
    }
}

#[cfg(test)]
mod tests;
