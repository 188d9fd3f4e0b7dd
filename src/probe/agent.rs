//! The line of an agent, as it arrives in pieces.
//!
//! It ends with a line feed, a carriage return, a NUL or the agent's close. [`LINE_MAX`] bytes without an end fail.

use crate::base::bytes::escaped;
use crate::policy::health::{AgentReport, Class, Outcome};

/// The most bytes of a line. All words of an agent together are shorter.
pub const LINE_MAX: usize = 256;

/// A line that has not ended.
#[derive(Debug, Default)]
pub struct AgentLine {
    /// At most [`LINE_MAX`] bytes.
    bytes: Vec<u8>,
}

impl AgentLine {
    /// Handles received bytes. Returns the outcome once the line has ended.
    pub fn received(&mut self, bytes: &[u8]) -> Option<Outcome> {
        let end = bytes.iter().position(|byte| matches!(byte, b'\n' | b'\r' | 0));
        let room = LINE_MAX - self.bytes.len();
        let part = &bytes[..end.unwrap_or(bytes.len())];
        self.bytes.extend_from_slice(&part[..part.len().min(room)]);
        if part.len() > room {
            return Some(failed(format!("its agent sent more than {LINE_MAX} bytes in a line")));
        }
        end.map(|_| self.outcome())
    }

    /// The outcome when the agent closes first: that ends the line.
    pub fn closed(&self) -> Outcome {
        self.outcome()
    }

    fn outcome(&self) -> Outcome {
        let expected = "expected up, down, drain, ready or N%";
        match std::str::from_utf8(&self.bytes).map(AgentReport::parse) {
            Ok(Ok(report)) => Outcome::Agent(report),
            Ok(Err("")) => failed(format!("its agent sent an empty line: {expected}")),
            Ok(Err(word)) => failed(format!("its agent sent \"{}\": {expected}", escaped(word.as_bytes()))),
            Err(_) => failed(format!("its agent sent \"{}\": {expected}", escaped(&self.bytes))),
        }
    }
}

fn failed(why: String) -> Outcome {
    Outcome::Failed(Class::Answer, why.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn said<'a>(chunks: impl IntoIterator<Item = &'a [u8]>) -> Outcome {
        let mut line = AgentLine::default();
        chunks.into_iter().find_map(|chunk| line.received(chunk)).unwrap_or_else(|| line.closed())
    }

    #[test]
    fn a_line_ends_by_its_end_or_by_the_close() {
        let report = AgentReport { down: false, drains: Some(false), percent: Some(75) };
        for line in ["up 75%\n", "up 75%\r\n", "up 75%\0", "up,75%", "up 75%\nmore"] {
            assert_eq!(said([line.as_bytes()]), Outcome::Agent(report), "{line:?}");
        }
        assert_eq!(AgentLine::default().received(b"up 75%"), None);
    }

    #[test]
    fn a_line_that_is_none_fails_with_what_came() {
        for (line, want) in [
            ("", "its agent sent an empty line: expected up, down, drain, ready or N%"),
            ("\nup\n", "its agent sent an empty line: expected up, down, drain, ready or N%"),
            ("HTTP/1.1 200 OK\r\n", "its agent sent \"HTTP/1.1\": expected up, down, drain, ready or N%"),
            ("up \x07%\n", "its agent sent \"\\x07%\": expected up, down, drain, ready or N%"),
        ] {
            let outcome = said([line.as_bytes()]);
            assert_eq!((outcome.to_string().as_str(), outcome.class()), (want, Class::Answer));
        }
        assert_eq!(
            said([&b"\xff\n"[..]]).to_string(),
            "its agent sent \"\\xff\": expected up, down, drain, ready or N%"
        );
        let endless = said([&[b' '; LINE_MAX][..], b" "]);
        assert_eq!(endless.to_string(), "its agent sent more than 256 bytes in a line");
    }

    proptest! {
        #[test]
        fn any_cut_of_a_line_gives_the_same_outcome(line in "(up|down|drain|7%|,| |x|\r|\n){0,12}", size in 1usize..5) {
            prop_assert_eq!(said(line.as_bytes().chunks(size)), said([line.as_bytes()]));
        }

        #[test]
        fn garbage_never_passes_and_is_bounded(chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..200), 0..6)) {
            let outcome = said(chunks.iter().map(Vec::as_slice));
            // A line of words alone could pass, but not by chance.
            prop_assert!(!outcome.passed());
            prop_assert!(outcome.to_string().len() < 5 * LINE_MAX);
        }
    }
}
