//! haproxy.cfg as lines of words: sections 2.2 and 2.3 of HAProxy's configuration manual.
//!
//! * White space separates words. `#` begins a comment, also within a word.
//! * `\` escapes the next character; `\n`, `\r`, `\t` and `\xHH` are bytes.
//! * In `"…"` only `\` and `$` mean something. In `'…'` nothing does. Quotes may begin within a word.
//! * A line ends a statement: neither quotes nor a `\` continue it (HAProxy 2.6 refuses both).
//! * `$NAME`, `${NAME}`, `${NAME-default}` and `${NAME[*]}` in `"…"` are environment variables. Their values are not known here.

use crate::import::Mistakes;

/// A word.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Word {
    /// Without quotes and escapes. A variable stands as it is written, or as its default.
    pub bytes: Vec<u8>,
    /// The same, where it is text.
    pub text: String,
    /// Variables without a default.
    pub variables: Vec<String>,
    /// Variables that count as their default.
    pub defaults: Vec<String>,
}

/// A line with at least one word.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Line {
    /// Its number, from 1.
    pub number: usize,
    pub words: Vec<Word>,
}

impl Line {
    /// The word at this position; empty if there is none.
    pub fn word(&self, at: usize) -> &str {
        self.words.get(at).map_or("", |word| &word.text)
    }

    /// The words from this position on.
    pub fn from(&self, at: usize) -> impl Iterator<Item = &str> {
        self.words.iter().skip(at).map(|word| word.text.as_str())
    }

    /// The words, separated by a space.
    pub fn shown(&self) -> String {
        self.from(0).collect::<Vec<_>>().join(" ")
    }
}

/// The lines that hold words.
pub fn lines(text: &str) -> Result<Vec<Line>, Mistakes> {
    let (mut lines, mut mistakes) = (Vec::new(), Vec::new());
    for (index, line) in text.lines().enumerate() {
        match words(line) {
            Ok(words) if words.is_empty() => {}
            Ok(words) => lines.push(Line { number: index + 1, words }),
            Err(why) => mistakes.push((index + 1, why.to_owned())),
        }
    }
    if mistakes.is_empty() { Ok(lines) } else { Err(Mistakes(mistakes)) }
}

fn words(line: &str) -> Result<Vec<Word>, &'static str> {
    let mut words = Vec::new();
    let mut word: Option<Word> = None;
    let (mut weak, mut strong) = (false, false);
    let mut rest = line;
    while let Some(letter) = rest.chars().next() {
        rest = &rest[letter.len_utf8()..];
        let quoted = weak || strong;
        match letter {
            ' ' | '\t' | '\r' if !quoted => words.extend(word.take()),
            '#' if !quoted => break,
            '"' if !strong => {
                weak = !weak;
                word.get_or_insert_default();
            }
            '\'' if !weak => {
                strong = !strong;
                word.get_or_insert_default();
            }
            '\\' if !strong => {
                let (byte, length) = escape(rest)?;
                let word = word.get_or_insert_default();
                match byte {
                    Some(byte) => word.bytes.push(byte),
                    None => word.bytes.extend_from_slice(&rest.as_bytes()[..length]),
                }
                rest = &rest[length..];
            }
            '$' if weak => {
                let (variable, behind) = variable(rest)?;
                variable.add_to(word.get_or_insert_default());
                rest = behind;
            }
            letter => {
                let mut buffer = [0; 4];
                word.get_or_insert_default().bytes.extend_from_slice(letter.encode_utf8(&mut buffer).as_bytes());
            }
        }
    }
    if weak || strong {
        return Err("a quote is not closed on its line");
    }
    words.extend(word);
    for word in &mut words {
        word.text = String::from_utf8_lossy(&word.bytes).into_owned();
    }
    Ok(words)
}

/// What stands behind a `\`: the byte that it means, or `None` for the character itself; and its length.
fn escape(rest: &str) -> Result<(Option<u8>, usize), &'static str> {
    let Some(letter) = rest.chars().next() else {
        return Err("a \\ at the end of a line does not continue it");
    };
    match letter {
        'n' => Ok((Some(b'\n'), 1)),
        'r' => Ok((Some(b'\r'), 1)),
        't' => Ok((Some(b'\t'), 1)),
        'x' => {
            let byte = rest.get(1..3).and_then(|digits| u8::from_str_radix(digits, 16).ok());
            byte.map(|byte| (Some(byte), 3)).ok_or("expected two hexadecimal digits behind \\x")
        }
        letter @ (' ' | '\t' | '#' | '\\' | '\'' | '"' | '$') => Ok((None, letter.len_utf8())),
        // Before any other character the backslash stays.
        _ => Ok((Some(b'\\'), 0)),
    }
}

/// A reference to an environment variable.
#[derive(Debug)]
struct Variable<'a> {
    name: &'a str,
    default: Option<&'a str>,
}

impl Variable<'_> {
    fn add_to(&self, word: &mut Word) {
        match self.default {
            Some(default) => {
                word.bytes.extend_from_slice(default.as_bytes());
                word.defaults.push(self.name.to_owned());
            }
            None => {
                word.bytes.extend_from_slice(format!("${{{}}}", self.name).as_bytes());
                word.variables.push(self.name.to_owned());
            }
        }
    }
}

/// The variable whose `$` was read, and what stands behind it.
fn variable(rest: &str) -> Result<(Variable<'_>, &str), &'static str> {
    let (inner, behind) = match rest.strip_prefix('{') {
        Some(braced) => braced.split_once('}').ok_or("the brace of a variable is not closed")?,
        None => {
            let end = rest.find(|letter: char| !is_of_name(letter)).unwrap_or(rest.len());
            rest.split_at(end)
        }
    };
    let (name, default) = match inner.split_once('-') {
        Some((name, default)) => (name, Some(default)),
        None => (inner, None),
    };
    let name = name.strip_suffix("[*]").unwrap_or(name);
    let default = default.map(|default| default.strip_suffix("[*]").unwrap_or(default));
    if name.is_empty() || !name.trim_start_matches('.').chars().all(is_of_name) {
        return Err("expected the name of a variable behind $, or \\$ for the character itself");
    }
    Ok((Variable { name, default }, behind))
}

fn is_of_name(letter: char) -> bool {
    letter.is_ascii_alphanumeric() || letter == '_'
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn texts(line: &str) -> Vec<String> {
        words(line).unwrap().into_iter().map(|word| word.text).collect()
    }

    /// The equivalent forms of the manual.
    #[test]
    fn quotes_and_escapes_of_the_manual() {
        let want = ["log-format", "%{+Q}o %t %s %{-Q}r"];
        for line in [
            r"log-format %{+Q}o\ %t\ %s\ %{-Q}r",
            r#"log-format "%{+Q}o %t %s %{-Q}r""#,
            r"log-format '%{+Q}o %t %s %{-Q}r'",
            r#"log-format "%{+Q}o %t"' %s %{-Q}r'"#,
            r#"log-format "%{+Q}o %t"' %s'\ %{-Q}r"#,
        ] {
            assert_eq!(texts(line), want, "{line}");
        }
        assert_eq!(texts("global#this is the global section"), ["global"]);
        assert_eq!(
            texts(r#"a\#b "c#d" '$X' $X e\\f "g\"h" "i\$j" k\x41l \d+"#),
            ["a#b", "c#d", "$X", "$X", r"e\f", "g\"h", "i$j", "kAl", r"\d+"]
        );
        assert_eq!(texts(r#"server '' """#), ["server", "", ""]);
        assert_eq!(words(r"send \x00\xff\r\n").unwrap()[1].bytes, [0, 0xff, b'\r', b'\n']);
    }

    #[test]
    fn variables_are_found_and_defaults_taken() {
        let line = words(r#"bind "${HOST}:$PORT" "${LOG-127.0.0.1}:514" "${ARGS[*]}""#).unwrap();
        assert_eq!(line[1].text, "${HOST}:${PORT}");
        assert_eq!(line[1].variables, ["HOST", "PORT"]);
        assert_eq!((line[2].text.as_str(), &line[2].defaults[..]), ("127.0.0.1:514", &["LOG".to_owned()][..]));
        assert_eq!(line[3].variables, ["ARGS"]);
    }

    #[test]
    fn what_does_not_end_is_a_mistake_with_its_line() {
        let Mistakes(found) = lines("a\nb 'c\nd \"e\nf \\\n\"${g\"\nh \\x4\n").unwrap_err();
        assert_eq!(found.iter().map(|(line, _)| *line).collect::<Vec<_>>(), [2, 3, 4, 5, 6]);
    }

    proptest! {
        #[test]
        fn any_text_is_words_or_a_mistake(text in "(\\PC|[ \"'\\\\$#{}x\n\t]){0,80}") {
            if let Ok(lines) = lines(&text) {
                prop_assert!(lines.iter().all(|line| !line.words.is_empty() && line.number > 0));
            }
        }
    }
}
