//! What a probe sent and received, in order, for an operator.

/// The most bytes of a transcript. Later ones are left out.
const BYTES_MAX: usize = 64 * 1024;

/// Bytes in one direction, until the other side sends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Said {
    /// The probe sent them.
    Sent(Vec<u8>),
    /// The backend sent them.
    Received(Vec<u8>),
}

/// The bytes of a probe.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Transcript {
    said: Vec<Said>,
    length: usize,
}

impl Transcript {
    /// What was sent and received.
    pub fn said(&self) -> &[Said] {
        &self.said
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
        let bytes = &bytes[..bytes.len().min(BYTES_MAX - self.length)];
        self.length += bytes.len();
        bytes
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
    }
}
