//! Settings that take one of a few words: the words, and the message about any other.

use crate::base::nearest;
use crate::policy::balance::{self, Algorithm};

/// What users call the values of a type.
pub trait Words: Copy + PartialEq + 'static {
    /// Each value, behind its word.
    const NAMES: &'static [(&'static str, Self)];
}

/// The value that goes with a word; case is ignored.
pub fn one_of<T: Copy>(text: &str, words: &[(&str, T)]) -> Result<T, String> {
    let found = words.iter().find(|(word, _)| word.eq_ignore_ascii_case(text));
    found.map(|(_, value)| *value).ok_or_else(|| {
        let words: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
        let hint = nearest::hint(text, words.iter().copied());
        format!("expected {}, got `{text}`{hint}", alternatives(&words))
    })
}

/// The word for a value, of the same list.
pub fn of<T: PartialEq>(value: &T, words: &[(&'static str, T)]) -> &'static str {
    words.iter().find(|(_, other)| other == value).map_or("", |(word, _)| word)
}

/// An algorithm by its long or short name.
pub fn algorithm(text: &str) -> Result<&'static Algorithm, String> {
    balance::find(text).ok_or_else(|| {
        let names = balance::REGISTRY.iter().flat_map(|row| [row.name].into_iter().chain(row.short.iter().copied()));
        let listed: Vec<&str> = balance::REGISTRY.iter().map(|row| row.name).collect();
        let hint = nearest::hint(text, names);
        format!("expected {}, got `{text}`{hint}", alternatives(&listed))
    })
}

/// `a`, `a or b`, `a, b or c`.
pub fn alternatives(words: &[&str]) -> String {
    match words {
        [] => String::new(),
        [only] => (*only).to_owned(),
        [init @ .., last] => format!("{} or {last}", init.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn algorithms_are_found_in_any_case_and_a_mistyped_one_is_answered_with_the_nearest() {
        assert_eq!(algorithm("Round-Robin").unwrap().name, "round-robin");
        assert_eq!(algorithm("RR").unwrap().name, "round-robin");
        let message = algorithm("roundrobin").unwrap_err();
        assert!(message.contains("got `roundrobin`, did you mean `round-robin`?"), "{message}");
        for row in balance::REGISTRY {
            assert!(message.contains(row.name), "{message}");
        }
    }

    #[test]
    fn a_word_is_one_of_those_there_are() {
        let words = [("keep", 1), ("reset", 2)];
        assert_eq!(one_of("RESET", &words), Ok(2));
        assert_eq!(one_of("rest", &words), Err("expected keep or reset, got `rest`, did you mean `reset`?".to_owned()));
        assert_eq!(one_of("", &words), Err("expected keep or reset, got ``".to_owned()));
    }
}
