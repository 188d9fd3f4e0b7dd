//! "Did you mean …?": the known word closest to an unknown one, for error messages.

use super::familiar;
use std::collections::HashMap;

/// Longer words are not compared: the cost is the product of the lengths.
const LONGEST: usize = 64;

/// The candidate that `word` most likely stands for. It is the one with the fewest edits, at most one edit per three
/// letters, or one that begins with `word`. Ignores case. `None` if no candidate is close.
pub fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let word: Vec<char> = word.chars().take(LONGEST + 1).flat_map(char::to_lowercase).collect();
    if word.len() > LONGEST {
        return None;
    }
    let allowed = word.len() / 3;
    let distance = |candidate: &str| {
        let candidate: Vec<char> = candidate.chars().flat_map(char::to_lowercase).collect();
        // The word is an abbreviation if it has three letters or more and the candidate begins with it.
        let begun = word.len() >= 3 && candidate.starts_with(&word);
        // Each letter of difference in length is an edit.
        let hopeless = word.len().abs_diff(candidate.len()) > allowed;
        if begun {
            1
        } else if hopeless {
            usize::MAX
        } else {
            edits(&word, &candidate)
        }
    };
    let scored = candidates.into_iter().map(|candidate| (distance(candidate), candidate));
    scored.filter(|(edits, _)| *edits <= allowed).min_by_key(|(edits, _)| *edits).map(|(_, candidate)| candidate)
}

/// `, did you mean X?` or nothing, to append to an error. X is our word for another balancer's, or the nearest
/// candidate.
pub fn hint<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str, IntoIter: Clone>) -> String {
    let candidates = candidates.into_iter();
    let meant = familiar::ours(word, candidates.clone()).or_else(|| nearest(word, candidates));
    meant.map_or_else(String::new, |candidate| format!(", did you mean `{candidate}`?"))
}

/// The Damerau-Levenshtein distance: the least number of insertions, deletions, replacements and swaps of neighbours
/// that turn `from` into `to`. `table[i][j]` is the distance between the first `i` letters of `from` and the first `j`
/// of `to`.
fn edits(from: &[char], to: &[char]) -> usize {
    let mut table = vec![(0..=to.len()).collect::<Vec<usize>>()];
    // Behind each letter of `from` so far, its last position.
    let mut last_in_from: HashMap<char, usize> = HashMap::new();
    for (i, a) in from.iter().enumerate() {
        let mut row = vec![i + 1];
        let mut last_in_to = None;
        for (j, b) in to.iter().enumerate() {
            let replaced = table[i][j] + usize::from(a != b);
            let mut least = replaced.min(table[i][j + 1] + 1).min(row[j] + 1);
            // The letters between the swapped ones are deleted from `from`, and inserted from `to`.
            if let (Some(&k), Some(l)) = (last_in_from.get(b), last_in_to) {
                least = least.min(table[k][l] + (i - k - 1) + 1 + (j - l - 1));
            }
            if a == b {
                last_in_to = Some(j);
            }
            row.push(least);
        }
        table.push(row);
        last_in_from.insert(*a, i);
    }
    table[from.len()][to.len()]
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn distance(from: &str, to: &str) -> usize {
        edits(&from.chars().collect::<Vec<_>>(), &to.chars().collect::<Vec<_>>())
    }

    #[test]
    fn known_distances() {
        for (from, to, want) in [
            ("", "", 0),
            ("", "abc", 3),
            ("abc", "", 3),
            ("kitten", "sitting", 3),
            ("weight", "wieght", 1),
            ("ab", "bca", 2),
            ("ü", "u", 1),
        ] {
            assert_eq!(distance(from, to), want, "{from} {to}");
        }
    }

    #[test]
    fn mistyped_words_find_their_candidate_and_others_do_not() {
        let known = ["weight", "name", "max-connections", "backup", "round-robin", "first"];
        for (word, want) in [
            ("wieght", Some("weight")),
            ("Weigth", Some("weight")),
            ("nam", Some("name")),
            ("frist", Some("first")),
            ("max-conn", Some("max-connections")),
            ("roundrobin", Some("round-robin")),
            ("zone", None),
            ("x", None),
            ("", None),
        ] {
            assert_eq!(nearest(word, known), want, "{word}");
        }
        assert_eq!(hint("bakup", known), ", did you mean `backup`?");
        assert_eq!(hint("zone", known), "");
        assert_eq!(hint("maxconn", known), ", did you mean `max-connections`?");
        assert_eq!(nearest(&"w".repeat(100_000), known), None);
    }

    proptest! {
        #[test]
        fn it_is_a_distance(a in "[ab]{0,6}", b in "[ab]{0,6}", c in "[ab]{0,6}") {
            prop_assert_eq!(distance(&a, &b), distance(&b, &a));
            prop_assert_eq!(distance(&a, &b) == 0, a == b);
            prop_assert!(distance(&a, &c) <= distance(&a, &b) + distance(&b, &c));
        }
    }
}
