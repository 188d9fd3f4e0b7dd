//! What a probe sent, expected and received, in order, for an operator.

/// The most bytes of a transcript. Later ones are counted and left out.
const BYTES_MAX: usize = 8 * 1024;

/// Bytes in one direction, until the other side sends, or what the probe then waits for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Said {
    /// The probe sent them.
    Sent(Vec<u8>),
    /// The probe waits for this; in words.
    Expected(String),
    /// The backend sent them.
    Received(Vec<u8>),
}

/// What happened in a probe.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Transcript {
    said: Vec<Said>,
    length: usize,
    left_out: usize,
}

impl Transcript {
    /// What was sent, expected and received.
    pub fn said(&self) -> &[Said] {
        &self.said
    }

    /// The bytes that came or went after it was full.
    pub fn left_out(&self) -> usize {
        self.left_out
    }

    /// Adds what the probe waits for.
    pub fn expected(&mut self, what: String) {
        self.said.push(Said::Expected(what));
    }

    /// Adds bytes that were sent.
    pub fn sent(&mut self, bytes: &[u8]) {
        let bytes = self.fitting(bytes);
        match self.said.last_mut() {
            Some(Said::Sent(before)) => before.extend_from_slice(bytes),
            _ if bytes.is_empty() => {}
            _ => self.said.push(Said::Sent(bytes.to_vec())),
        }
    }

    /// Adds bytes that were received.
    pub fn received(&mut self, bytes: &[u8]) {
        let bytes = self.fitting(bytes);
        match self.said.last_mut() {
            Some(Said::Received(before)) => before.extend_from_slice(bytes),
            _ if bytes.is_empty() => {}
            _ => self.said.push(Said::Received(bytes.to_vec())),
        }
    }

    fn fitting<'a>(&mut self, bytes: &'a [u8]) -> &'a [u8] {
        let fitting = &bytes[..bytes.len().min(BYTES_MAX - self.length)];
        self.length += fitting.len();
        self.left_out += bytes.len() - fitting.len();
        fitting
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_of_one_direction_are_one_entry_and_the_length_is_bounded() {
        let mut transcript = Transcript::default();
        for piece in ["PI", "NG", ""] {
            transcript.sent(piece.as_bytes());
        }
        transcript.received(b"");
        transcript.received(b"+PONG");
        transcript.sent(b"Q");
        let said = [Said::Sent(b"PING".to_vec()), Said::Received(b"+PONG".to_vec()), Said::Sent(b"Q".to_vec())];
        assert_eq!(transcript.said(), said);
        for _ in 0..10 {
            transcript.received(&[b'x'; BYTES_MAX / 4]);
        }
        assert_eq!(transcript.said()[3], Said::Received(vec![b'x'; BYTES_MAX - 10]));
        assert_eq!(transcript.left_out(), 10 * (BYTES_MAX / 4) - (BYTES_MAX - 10));
    }
}
