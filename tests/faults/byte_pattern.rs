//! What a peer sends. Each byte depends on the connection, the side that sends it and its place in the stream. So a byte that is
//! lost, repeated, moved, or of another connection differs from the right one.

use std::fmt;

/// The stream of one side of one connection.
#[derive(Clone, Copy)]
pub struct BytePattern {
    connection: usize,
    from_client: bool,
}

impl BytePattern {
    pub fn new(connection: usize, from_client: bool) -> BytePattern {
        BytePattern { connection, from_client }
    }

    /// The bytes from `start` on.
    pub fn fill(self, start: u64, into: &mut [u8]) {
        let (mut at, mut rest) = (start, into);
        while !rest.is_empty() {
            let word = self.word(at / 8).to_le_bytes();
            let skipped = (at % 8) as usize;
            let count = rest.len().min(8 - skipped);
            let (now, later) = rest.split_at_mut(count);
            now.copy_from_slice(&word[skipped..skipped + count]);
            (at, rest) = (at + count as u64, later);
        }
    }

    /// Where `received`, which begins at `start`, differs from what was written; `None`: nowhere.
    pub fn first_difference(self, start: u64, received: &[u8]) -> Option<u64> {
        let mut written = vec![0; received.len()];
        self.fill(start, &mut written);
        if written == received {
            return None;
        }
        written.iter().zip(received).position(|(written, received)| written != received).map(|at| start + at as u64)
    }

    /// The end of SplitMix64 over all there is to know.
    fn word(self, index: u64) -> u64 {
        let stream = (self.connection as u64) << 1 | u64::from(self.from_client);
        let mut word = index.wrapping_add(stream << 40).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word ^ (word >> 27)
    }
}

impl fmt::Display for BytePattern {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "the {} of connection {}", if self.from_client { "client" } else { "backend" }, self.connection)
    }
}

#[test]
fn a_byte_depends_on_its_connection_side_and_place() {
    let (pattern, mut whole) = (BytePattern::new(3, true), [0; 100]);
    pattern.fill(0, &mut whole);
    for start in [0, 1, 8, 13] {
        assert_eq!(pattern.first_difference(start, &whole[start as usize..]), None);
        assert!(pattern.first_difference(start + 1, &whole[start as usize..]).is_some());
    }
    assert!(
        BytePattern::new(3, false).first_difference(0, &whole).is_some()
            && BytePattern::new(2, true).first_difference(0, &whole).is_some()
    );
    whole[40] ^= 1;
    assert_eq!(pattern.first_difference(0, &whole), Some(40));
}
