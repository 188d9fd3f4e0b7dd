//! What a peer says: every byte follows from who says it and from its place in the stream, so that one that is lost, said
//! twice, moved, or another connection's, is told from the right one.

use std::fmt;

/// The stream of one side of one connection.
#[derive(Clone, Copy)]
pub struct Voice {
    connection: usize,
    from_client: bool,
}

impl Voice {
    pub fn new(connection: usize, from_client: bool) -> Voice {
        Voice { connection, from_client }
    }

    /// The bytes from `start` on.
    pub fn speak(self, start: u64, into: &mut [u8]) {
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

    /// Where `heard`, which begins at `start`, differs from what was said; `None`: nowhere.
    pub fn differs(self, start: u64, heard: &[u8]) -> Option<u64> {
        let mut said = vec![0; heard.len()];
        self.speak(start, &mut said);
        if said == heard {
            return None;
        }
        said.iter().zip(heard).position(|(said, heard)| said != heard).map(|at| start + at as u64)
    }

    /// The end of SplitMix64 over all there is to know.
    fn word(self, index: u64) -> u64 {
        let who = (self.connection as u64) << 1 | u64::from(self.from_client);
        let mut word = index.wrapping_add(who << 40).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word ^ (word >> 27)
    }
}

impl fmt::Display for Voice {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "the {} of connection {}", if self.from_client { "client" } else { "backend" }, self.connection)
    }
}

#[test]
fn a_byte_is_known_by_who_says_it_and_where() {
    let (voice, mut whole) = (Voice::new(3, true), [0; 100]);
    voice.speak(0, &mut whole);
    for start in [0, 1, 8, 13] {
        assert_eq!(voice.differs(start, &whole[start as usize..]), None);
        assert!(voice.differs(start + 1, &whole[start as usize..]).is_some());
    }
    assert!(Voice::new(3, false).differs(0, &whole).is_some() && Voice::new(2, true).differs(0, &whole).is_some());
    whole[40] ^= 1;
    assert_eq!(voice.differs(0, &whole), Some(40));
}
