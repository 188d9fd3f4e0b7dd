//! CRC-32C (Castagnoli), RFC 4960 Appendix B.
//!
//! A table of our own, because crates for it use unsafe code for special instructions. Here it covers at most 4 KiB,
//! once per connection, and only for headers with a checksum.

/// The reversed polynomial.
const POLYNOMIAL: u32 = 0x82f6_3b78;

const TABLE: [u32; 256] = {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let mut value = byte as u32;
        let mut bit = 0;
        while bit < 8 {
            value = if value & 1 == 1 { (value >> 1) ^ POLYNOMIAL } else { value >> 1 };
            bit += 1;
        }
        table[byte] = value;
        byte += 1;
    }
    table
};

/// The checksum of the concatenated pieces.
pub(super) fn checksum<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> u32 {
    let bytes = pieces.into_iter().flatten();
    !bytes.fold(!0, |sum, byte| (sum >> 8) ^ TABLE[usize::from(sum as u8 ^ byte)])
}

#[cfg(test)]
mod tests {
    use super::checksum;

    /// Test vectors of RFC 3720, B.4.
    #[test]
    fn known_checksums() {
        let up: Vec<u8> = (0..32).collect();
        let down: Vec<u8> = (0..32).rev().collect();
        let sums =
            [([0; 32].as_slice(), 0x8a91_36aa), (&[0xff; 32], 0x62a8_ab43), (&up, 0x46dd_794e), (&down, 0x113f_db5c)];
        for (bytes, sum) in sums {
            assert_eq!(checksum([bytes]), sum);
            assert_eq!(checksum([&bytes[..5], &[], &bytes[5..]]), sum);
        }
        assert_eq!(checksum([b"123456789".as_slice()]), 0xe306_9283);
    }
}
