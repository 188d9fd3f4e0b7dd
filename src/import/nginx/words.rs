//! nginx.conf as directives, some of them with a block.
//!
//! * White space separates words, `;` ends a directive, `{` and `}` enclose a block.
//! * `#` begins a comment where a word may begin.
//! * A word may begin with `"` or `'` and then ends with the same. Elsewhere quotes are letters.
//! * `\` keeps the next character from ending the word. `\"`, `\'` and `\\` lose it; `\t`, `\r` and `\n` are bytes.
//! * `${` in a word is part of a variable, not of a block.

use crate::import::Mistakes;

/// A directive.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Directive {
    /// The line on which it begins, from 1.
    pub line: usize,
    /// Its name and its arguments, without quotes.
    pub words: Vec<String>,
    /// Its block, if it has one.
    pub block: Option<Vec<Directive>>,
}

impl Directive {
    /// Its name.
    pub fn name(&self) -> &str {
        self.word(0)
    }

    /// The word at this position; empty if there is none.
    pub fn word(&self, at: usize) -> &str {
        self.words.get(at).map_or("", String::as_str)
    }

    /// The words behind its name.
    pub fn arguments(&self) -> &[String] {
        self.words.get(1..).unwrap_or_default()
    }

    /// The directives in its block.
    pub fn inner(&self) -> &[Directive] {
        self.block.as_deref().unwrap_or_default()
    }

    /// The words, separated by a space.
    pub fn shown(&self) -> String {
        self.words.join(" ")
    }
}

/// Blocks in blocks, at most: nginx itself has five levels.
const DEPTH_MAX: usize = 50;

/// The directives of the file.
pub fn directives(text: &str) -> Result<Vec<Directive>, Mistakes> {
    let one = |line: usize, why: &str| Err(Mistakes(vec![(line, why.to_owned())]));
    // The innermost block is last; the file is the first.
    let mut open: Vec<Vec<Directive>> = vec![Vec::new()];
    let mut current = Directive::default();
    let mut rest = Letters { rest: text, line: 1 };
    while let Some(letter) = rest.peek() {
        let line = rest.line;
        match letter {
            _ if letter.is_whitespace() => rest.skip(),
            '\u{feff}' if rest.rest.len() == text.len() => rest.skip(),
            '#' => rest.skip_line(),
            ';' if current.words.is_empty() => return one(line, "unexpected ;"),
            '{' if current.words.is_empty() => return one(line, "unexpected {"),
            ';' => {
                rest.skip();
                if let Some(block) = open.last_mut() {
                    block.push(std::mem::take(&mut current));
                }
            }
            '{' => {
                rest.skip();
                if open.len() > DEPTH_MAX {
                    return one(line, "more than 50 blocks in each other");
                }
                if let Some(block) = open.last_mut() {
                    block.push(std::mem::take(&mut current));
                }
                open.push(Vec::new());
            }
            '}' if !current.words.is_empty() => return one(line, "expected ; before }"),
            '}' => {
                rest.skip();
                let block = if open.len() > 1 { open.pop() } else { None };
                match (block, open.last_mut().and_then(|outer| outer.last_mut())) {
                    (Some(block), Some(directive)) => directive.block = Some(block),
                    _ => return one(line, "unexpected }"),
                }
            }
            _ => {
                if current.words.is_empty() {
                    current.line = line;
                }
                match rest.word() {
                    Ok(word) => current.words.push(word),
                    Err(why) => return one(line, why),
                }
            }
        }
    }
    if !current.words.is_empty() {
        return one(current.line, "expected ; or { behind this directive");
    }
    match open.len() {
        1 => Ok(open.pop().unwrap_or_default()),
        _ => one(rest.line, "expected } before the end of the file"),
    }
}

/// The text that is left, and the number of its line.
struct Letters<'a> {
    rest: &'a str,
    line: usize,
}

impl Letters<'_> {
    fn peek(&self) -> Option<char> {
        self.rest.chars().next()
    }

    fn take(&mut self) -> Option<char> {
        let letter = self.peek()?;
        self.rest = &self.rest[letter.len_utf8()..];
        self.line += usize::from(letter == '\n');
        Some(letter)
    }

    fn skip(&mut self) {
        let _ = self.take();
    }

    fn skip_line(&mut self) {
        while self.take().is_some_and(|letter| letter != '\n') {}
    }

    fn word(&mut self) -> Result<String, &'static str> {
        let quote = self.peek().filter(|letter| matches!(letter, '"' | '\''));
        let mut word = String::new();
        if let Some(quote) = quote {
            self.skip();
            loop {
                match self.take() {
                    None => return Err("a quote is not closed"),
                    Some('\\') => self.escape(&mut word),
                    Some(letter) if letter == quote => break,
                    Some(letter) => word.push(letter),
                }
            }
            return match self.peek() {
                Some(letter) if letter.is_whitespace() || matches!(letter, ';' | '{' | ')') => Ok(word),
                None => Ok(word),
                Some(_) => Err("expected white space, ; or { behind a quote"),
            };
        }
        while let Some(letter) = self.peek() {
            match letter {
                _ if letter.is_whitespace() => break,
                ';' => break,
                '{' if !word.ends_with('$') => break,
                '\\' => {
                    self.skip();
                    self.escape(&mut word);
                }
                letter => {
                    word.push(letter);
                    self.skip();
                }
            }
        }
        Ok(word)
    }

    /// Reads what stands behind a `\`.
    fn escape(&mut self, word: &mut String) {
        match self.take() {
            Some(letter @ ('"' | '\'' | '\\')) => word.push(letter),
            Some('t') => word.push('\t'),
            Some('r') => word.push('\r'),
            Some('n') => word.push('\n'),
            Some(letter) => word.extend(['\\', letter]),
            None => word.push('\\'),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn words(text: &str) -> Vec<Vec<String>> {
        directives(text).unwrap().into_iter().map(|directive| directive.words).collect()
    }

    #[test]
    fn words_quotes_and_comments() {
        assert_eq!(
            words("a b\tc; # x ; {\nd 'e f' \"g\\\"h\" i#j k\\ l ~^.*\\.m$;"),
            [vec!["a", "b", "c"], vec!["d", "e f", "g\"h", "i#j", "k\\ l", "~^.*\\.m$"]]
        );
        assert_eq!(words("set $x ${y}z;'' \"\";"), [vec!["set", "$x", "${y}z"], vec!["", ""]]);
    }

    #[test]
    fn blocks_and_lines() {
        let found = directives("stream {\n  server {\n    listen 1;\n  }\n}\n").unwrap();
        assert_eq!(
            found[0].inner()[0].inner()[0],
            Directive { line: 3, words: vec!["listen".to_owned(), "1".to_owned()], block: None }
        );
        assert_eq!(directives("events {}").unwrap()[0].block, Some(Vec::new()));
    }

    #[test]
    fn what_does_not_end_is_a_mistake_with_its_line() {
        for (text, line) in [
            ("a\nb", 1),
            ("\na {", 2),
            ("a;\n}", 2),
            ("\n;", 2),
            ("{", 1),
            ("a {\n b\n}", 3),
            ("a 'b\n;", 1),
            ("a 'b'c;", 1),
            (&"a {".repeat(60), 1),
        ] {
            assert_eq!(directives(text).unwrap_err().0[0].0, line, "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_directives_or_a_mistake(text in "(\\PC|[ \"'\\\\$#{};x\n]){0,80}") {
            if let Ok(found) = directives(&text) {
                prop_assert!(found.iter().all(|directive| !directive.words.is_empty() && directive.line > 0));
            }
        }
    }
}
