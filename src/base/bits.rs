//! A fixed-size set of indexes that one thread writes and many read, 64 to a word.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Bits in a word.
pub const WORD: usize = 64;

/// A set of indexes. Every operation is one relaxed atomic access: a reader may see a change late.
#[derive(Debug, Default)]
pub struct AtomicBits {
    words: Box<[Arc<AtomicU64>]>,
}

impl AtomicBits {
    /// A set with room for indexes `0..len`, all set (`true`) or all clear.
    pub fn new(len: usize, value: bool) -> AtomicBits {
        let words = (0..len.div_ceil(WORD)).map(|word| {
            let used = (len - word * WORD).min(WORD);
            Arc::new(AtomicU64::new(if value { u64::MAX >> (WORD - used) } else { 0 }))
        });
        AtomicBits { words: words.collect() }
    }

    /// A set with room for indexes `0..len` that shares its words with this one. A write to either is read in both, as
    /// far as both reach. Further words are clear.
    pub fn resized(&self, len: usize) -> AtomicBits {
        let words = (0..len.div_ceil(WORD)).map(|word| self.words.get(word).cloned().unwrap_or_default());
        AtomicBits { words: words.collect() }
    }

    /// Whether `index` is in the set; false beyond the end.
    pub fn get(&self, index: usize) -> bool {
        self.word(index / WORD) & (1 << (index % WORD)) != 0
    }

    /// Adds or removes `index`; ignored beyond the end.
    pub fn set(&self, index: usize, value: bool) {
        let Some(word) = self.words.get(index / WORD) else { return };
        let bit = 1 << (index % WORD);
        if value {
            word.fetch_or(bit, Ordering::Relaxed);
        } else {
            word.fetch_and(!bit, Ordering::Relaxed);
        }
    }

    /// The `index`-th word of 64; zero beyond the end.
    pub fn word(&self, index: usize) -> u64 {
        self.words.get(index).map_or(0, |word| word.load(Ordering::Relaxed))
    }

    /// The number of indexes in the set.
    pub fn count(&self) -> usize {
        self.words.iter().map(|word| word.load(Ordering::Relaxed).count_ones() as usize).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_set_holds_exactly_its_indexes() {
        for len in [0, 1, 63, 64, 65, 128, 1000] {
            let bits = AtomicBits::new(len, true);
            assert_eq!(bits.count(), len);
            assert_eq!((0..len + 200).filter(|&index| bits.get(index)).count(), len);
        }
    }

    #[test]
    fn a_resized_set_shares_its_words() {
        let small = AtomicBits::new(70, false);
        let large = small.resized(200);
        small.set(3, true);
        large.set(69, true);
        large.set(150, true);
        assert_eq!((small.get(69), large.get(3), large.count(), small.count()), (true, true, 3, 2));
        let one = large.resized(1);
        large.set(3, false);
        assert_eq!((one.get(3), one.get(69), one.count(), large.count()), (false, false, 0, 2));
    }

    #[test]
    fn setting_and_clearing_touches_one_index() {
        let bits = AtomicBits::new(130, false);
        bits.set(64, true);
        bits.set(129, true);
        bits.set(5000, true);
        assert_eq!((bits.count(), bits.get(64), bits.get(129), bits.get(65)), (2, true, true, false));
        bits.set(64, false);
        assert_eq!((bits.count(), bits.get(64)), (1, false));
    }
}
