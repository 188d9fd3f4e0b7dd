//! Text that people read: counts with their nouns; of text from outside, the characters that are refused, and their escapes.
//!
//! A control character can forge a log line or control a terminal. A direction-changing character makes a line read
//! differently. An invisible character makes two names look the same.

use std::fmt::{self, Display, Write};

/// Characters that a reader can't see, apart from control characters. They are Unicode's general category Cf (format,
/// including the bidirectional controls) and the property Default_Ignorable_Code_Point. The line and paragraph
/// separators and two blank symbols are added. Sorted ranges, both ends included.
const INVISIBLE: [(char, char); 27] = [
    ('\u{ad}', '\u{ad}'),
    ('\u{34f}', '\u{34f}'),
    ('\u{600}', '\u{605}'),
    ('\u{61c}', '\u{61c}'),
    ('\u{6dd}', '\u{6dd}'),
    ('\u{70f}', '\u{70f}'),
    ('\u{890}', '\u{891}'),
    ('\u{8e2}', '\u{8e2}'),
    ('\u{115f}', '\u{1160}'),
    ('\u{17b4}', '\u{17b5}'),
    ('\u{180b}', '\u{180f}'),
    ('\u{200b}', '\u{200f}'),
    ('\u{2028}', '\u{202e}'),
    ('\u{2060}', '\u{206f}'),
    ('\u{2800}', '\u{2800}'),
    ('\u{3164}', '\u{3164}'),
    ('\u{fe00}', '\u{fe0f}'),
    ('\u{feff}', '\u{feff}'),
    ('\u{ffa0}', '\u{ffa0}'),
    ('\u{fff0}', '\u{fffb}'),
    ('\u{110bd}', '\u{110bd}'),
    ('\u{110cd}', '\u{110cd}'),
    ('\u{13430}', '\u{1343f}'),
    ('\u{1bca0}', '\u{1bca3}'),
    ('\u{1d159}', '\u{1d159}'),
    ('\u{1d173}', '\u{1d17a}'),
    ('\u{e0000}', '\u{e0fff}'),
];

/// Whether a reader can't see this character, or misreads the text because of it.
pub fn is_hidden(letter: char) -> bool {
    if letter.is_ascii() {
        return letter.is_ascii_control();
    }
    let after = INVISIBLE.partition_point(|(first, _)| *first <= letter);
    let range = after.checked_sub(1).and_then(|index| INVISIBLE.get(index));
    letter.is_control() || range.is_some_and(|(_, last)| letter <= *last)
}

/// The first hidden character of a text, escaped, for error messages.
pub fn hidden_in(text: &str) -> Option<String> {
    text.chars().find(|letter| is_hidden(*letter)).map(|letter| letter.escape_default().to_string())
}

/// A count with its noun: `1 connection`, `2 connections`.
pub fn counted<N: Display + PartialEq + From<u8>>(count: N, noun: &str) -> String {
    let plural = if count == N::from(1) { "" } else { "s" };
    format!("{count} {noun}{plural}")
}

/// Shows a value on one line: each hidden character as its escape, like `
/// ` or `\u{202e}`, and the rest unchanged.
pub struct Escaped<T>(pub T);

impl<T: Display> Display for Escaped<T> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(Escape(out), "{}", self.0)
    }
}

struct Escape<'a, 'b>(&'a mut fmt::Formatter<'b>);

impl Write for Escape<'_, '_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let mut rest = text;
        while let Some(at) = rest.find(is_hidden) {
            let (clean, hidden) = rest.split_at(at);
            self.0.write_str(clean)?;
            let mut letters = hidden.chars();
            letters.next().into_iter().try_for_each(|letter| write!(self.0, "{}", letter.escape_default()))?;
            rest = letters.as_str();
        }
        self.0.write_str(rest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_table_is_sorted_so_that_it_can_be_searched() {
        assert!(INVISIBLE.iter().all(|(first, last)| first <= last));
        assert!(INVISIBLE.windows(2).all(|pair| pair[0].1 < pair[1].0));
    }

    #[test]
    fn control_format_and_invisible_characters_are_hidden_but_letters_are_not() {
        let hidden = [
            '\0',
            '\t',
            '\n',
            '\r',
            '\u{1b}',
            '\u{7f}',
            '\u{85}',
            '\u{9b}',
            '\u{ad}',
            '\u{61c}',
            '\u{200b}',
            '\u{200d}',
            '\u{200e}',
            '\u{200f}',
            '\u{2028}',
            '\u{2029}',
            '\u{202a}',
            '\u{202e}',
            '\u{2060}',
            '\u{2066}',
            '\u{2069}',
            '\u{3164}',
            '\u{fe0f}',
            '\u{feff}',
            '\u{e0041}',
            '\u{e0100}',
        ];
        for letter in hidden {
            assert!(is_hidden(letter), "{letter:?}");
        }
        for letter in "az09 \\\"/[]:_é\u{301}ßжשع中한ा😀\u{a0}".chars() {
            assert!(!is_hidden(letter), "{letter:?}");
        }
    }

    #[test]
    fn one_is_singular_and_zero_is_plural() {
        assert_eq!([0u64, 1, 2].map(|count| counted(count, "line")), ["0 lines", "1 line", "2 lines"]);
        assert_eq!(counted(1usize, "more client"), "1 more client");
    }

    #[test]
    fn a_forged_log_line_is_escaped() {
        let forged = "unix:/a\n2026-01-01T00:00:00.000Z ERROR x\u{1b}[2K\u{202e}gpj";
        let shown = "unix:/a\\n2026-01-01T00:00:00.000Z ERROR x\\u{1b}[2K\\u{202e}gpj";
        assert_eq!(Escaped(forged).to_string(), shown);
        assert_eq!(hidden_in(forged).as_deref(), Some("\\n"));
        assert_eq!(hidden_in("größe"), None);
    }

    proptest! {
        #[test]
        fn escaping_removes_hidden_characters_and_keeps_the_rest(text in "(?s).{0,40}") {
            let shown = Escaped(&text).to_string();
            prop_assert!(!shown.chars().any(is_hidden), "{:?}", shown);
            let visible: String = text.chars().filter(|letter| !is_hidden(*letter)).collect();
            if visible == text {
                prop_assert_eq!(shown, text);
            }
        }
    }
}
