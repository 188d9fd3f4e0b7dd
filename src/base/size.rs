//! Sizes as operators write them: `256KiB`, `4MiB`.
//!
//! A bare number is refused, since its unit is unclear. KB and MB are refused too: some read them as powers of 1000,
//! others of 1024.

use std::fmt;

const KIB: u32 = 1 << 10;
const MIB: u32 = 1 << 20;

/// Units and their bytes; the largest first.
const UNITS: [(&str, u32); 2] = [("MiB", MIB), ("KiB", KIB)];

/// A number of bytes, a multiple of 1024.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size(u32);

impl Size {
    /// A size in KiB.
    pub const fn kib(count: u16) -> Size {
        Size(count as u32 * KIB)
    }

    /// A size in MiB, at most 4095.
    pub const fn mib(count: u16) -> Size {
        Size((count as u32).saturating_mul(MIB))
    }

    /// A size in bytes, rounded down to KiB.
    pub fn of_bytes(bytes: usize) -> Size {
        Size(u32::try_from(bytes).unwrap_or(u32::MAX) / KIB * KIB)
    }

    /// The size in bytes.
    pub fn bytes(self) -> usize {
        self.0 as usize
    }

    /// Parses a size with a unit, from `min` to `max`. The error says what is expected.
    pub fn parse(text: &str, min: Size, max: Size) -> Result<Size, String> {
        let trimmed = text.trim();
        let bytes = UNITS.iter().find_map(|(unit, bytes)| Some((trimmed.strip_suffix(unit)?.trim_end(), *bytes)));
        let digits = bytes.filter(|(digits, _)| !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit()));
        let Some((digits, unit)) = digits else {
            return Err(format!("expected a size with a unit, KiB or MiB, like 256KiB, got `{text}`"));
        };
        // Digits that overflow a u32 are too many.
        let size = digits.parse::<u32>().ok().and_then(|count| count.checked_mul(unit)).map(Size);
        let size = size.filter(|size| (min..=max).contains(size));
        size.ok_or_else(|| format!("expected a size from {min} to {max}, got `{text}`"))
    }
}

impl fmt::Display for Size {
    /// The form that [`Size::parse`] accepts.
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (unit, bytes) = if self.0 >= MIB && self.0.is_multiple_of(MIB) { UNITS[0] } else { UNITS[1] };
        write!(out, "{}{unit}", self.0 / bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MIN: Size = Size::kib(16);
    const MAX: Size = Size::mib(256);

    fn parse(text: &str) -> Result<Size, String> {
        Size::parse(text, MIN, MAX)
    }

    #[test]
    fn sizes_carry_their_unit() {
        assert_eq!(parse("256KiB"), Ok(Size::kib(256)));
        assert_eq!(parse(" 4 MiB "), Ok(Size::mib(4)));
        assert_eq!(parse("256MiB"), Ok(MAX));
        for text in ["", "262144", "256", "KiB", "256KB", "256kib", "1.5MiB", "-1MiB", "+16KiB", "256 B", "1GiB"] {
            let why = parse(text).unwrap_err();
            assert_eq!(why, format!("expected a size with a unit, KiB or MiB, like 256KiB, got `{text}`"));
        }
    }

    #[test]
    fn sizes_have_bounds() {
        for text in ["0KiB", "15KiB", "257MiB", "4294967296KiB", "99999999999999999999MiB"] {
            assert_eq!(parse(text).unwrap_err(), format!("expected a size from 16KiB to 256MiB, got `{text}`"));
        }
    }

    proptest! {
        #[test]
        fn every_size_round_trips(kib in 16_u32..=256 << 10) {
            let size = Size(kib * KIB);
            prop_assert_eq!(parse(&size.to_string()), Ok(size));
        }

        #[test]
        fn no_text_panics(text in "\\PC{0,12}") {
            let _ = parse(&text);
        }
    }
}
