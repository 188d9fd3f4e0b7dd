//! Lines of prose in Markdown, cut into sentences.

use super::prose::Line;

/// A sentence, a heading, an item of a list or a cell of a table.
#[derive(Debug)]
pub struct Sentence {
    /// The line that it begins on, from 1.
    pub line: usize,
    /// Its words, each with its punctuation. `code` is one word, however many blanks it has.
    pub words: Vec<String>,
}

impl Sentence {
    /// The words that are neither code nor part of a quotation.
    pub fn unquoted(&self) -> Vec<&str> {
        let mut quoted = false;
        let outside = self.words.iter().filter(|word| {
            let before = quoted;
            quoted ^= word.matches('"').count() % 2 == 1;
            !before && !word.contains(['"', '`'])
        });
        outside.map(String::as_str).collect()
    }
}

/// The sentences of these lines. A fenced block holds none.
pub fn sentences(lines: &[Line]) -> Vec<Sentence> {
    let (mut found, mut paragraph, mut fenced) = (Vec::new(), Vec::new(), false);
    for (number, line) in lines {
        let line = line.trim();
        let fence = line.starts_with("```");
        fenced ^= fence;
        let item = line.trim_start_matches(|letter: char| letter.is_ascii_digit() || "-*.>#".contains(letter));
        let begins = item.starts_with(' ') && item.len() < line.len();
        let alone = line.starts_with(['|', '#']);
        if fence || fenced || line.is_empty() || begins || alone {
            cut(&std::mem::take(&mut paragraph), &mut found);
        }
        if alone && !fenced {
            line.split('|').for_each(|cell| cut(&[(*number, cell)], &mut found));
        } else if !fence && !fenced {
            paragraph.push((*number, if begins { item } else { line }));
        }
    }
    cut(&paragraph, &mut found);
    found
}

/// Cuts one paragraph.
fn cut(lines: &[(usize, &str)], found: &mut Vec<Sentence>) {
    let (mut sentence, mut code) = (Sentence { line: 0, words: Vec::new() }, false);
    let words = lines.iter().flat_map(|(line, text)| text.split_whitespace().map(|word| (*line, word)));
    for (line, word) in words {
        match sentence.words.last_mut() {
            Some(last) if code => last.extend([" ", word]),
            _ if !word.contains(|letter: char| letter.is_alphanumeric() || letter == '`') => continue,
            _ => sentence.words.push(word.to_owned()),
        }
        if sentence.words.len() == 1 {
            sentence.line = line;
        }
        code ^= word.matches('`').count() % 2 == 1;
        let ends = word.trim_end_matches(['"', ')', '*', '_', '\'']).ends_with(['.', '!', '?', ';']);
        if ends && !code && !matches!(word, "e.g." | "i.e.") {
            found.push(std::mem::replace(&mut sentence, Sentence { line: 0, words: Vec::new() }));
        }
    }
    if !sentence.words.is_empty() {
        found.push(sentence);
    }
}

#[test]
fn sentences_end_where_a_reader_pauses() {
    let text = "# A heading\nOne two\nthree. Four `a b; c. d` five `-`; — six (seven.)\n- eight: 1.5 nine\n- ten [eleven\n  twelve](a.b)\n\n\
                | thirteen | `a|b` |\n|---|---|\n```\nno prose. none\n```\nfourteen!";
    let lines: Vec<Line> = text.lines().enumerate().map(|(index, line)| (index + 1, line.to_owned())).collect();
    let found = sentences(&lines);
    let shown: Vec<String> =
        found.iter().map(|sentence| format!("{} {}", sentence.line, sentence.words.join("_"))).collect();
    let want = ["1 A_heading", "2 One_two_three.", "3 Four_`a b; c. d`_five_`-`;", "3 six_(seven.)"];
    assert_eq!(shown[..4], want);
    let want = ["4 eight:_1.5_nine", "5 ten_[eleven_twelve](a.b)", "8 thirteen", "8 `a", "8 b`", "13 fourteen!"];
    assert_eq!(shown[4..], want);
}
