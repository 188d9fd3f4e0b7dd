//! The prose of a file: its lines, or those of its comments and messages. An empty line ends a paragraph.

/// A line of prose, and the number of its line in the file.
pub type Line = (usize, String);

pub fn of_markdown(text: &str) -> Vec<Line> {
    text.lines().enumerate().map(|(index, line)| (index + 1, line.to_owned())).collect()
}

/// The comments behind `#`, and Python's `"""`. A line `#   …` shows a command, and `#key = …` a setting.
pub fn of_comments(text: &str) -> Vec<Line> {
    let mut documented = false;
    let prose = text.lines().map(|line| {
        let (before, after) = (documented, line.matches("\"\"\"").count());
        documented ^= after == 1;
        let comment = line.trim_start().strip_prefix("# ").or(line.split_once("  # ").map(|(_, comment)| comment));
        match comment.unwrap_or_default() {
            comment if !before && after == 0 => comment.to_owned(),
            "" => line.trim().replace("\"\"\"", ""),
            _ => String::new(),
        }
    });
    let prose = prose.map(|line| if line.starts_with("  ") { String::new() } else { line });
    prose.enumerate().map(|(index, line)| (index + 1, line)).collect()
}

/// The comments of YAML, and the texts in YAML or JSON that a person reads: `summary`, `description` and `title`.
pub fn of_texts(text: &str) -> Vec<Line> {
    let mut lines = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let (line, number) = (line.trim(), index + 1);
        let (key, value) = line.split_once(": ").unwrap_or_default();
        if ["summary", "description", "title"].contains(&key.trim_matches('"')) {
            let value = value.trim_end_matches(',').trim_matches('"').replace("\\\"", "\"");
            lines.extend([(number, String::new()), (number, value), (number, String::new())]);
        } else {
            lines.push((number, line.strip_prefix("# ").unwrap_or_default().to_owned()));
        }
    }
    lines
}

/// The comments and string literals of Rust. A raw string is data.
pub fn of_rust(source: &str) -> Vec<Line> {
    scan(source, true)
}

/// The comments of Rust.
pub fn of_rust_comments(source: &str) -> Vec<Line> {
    scan(source, false)
}

/// Reads code up to each comment and string. By the rules of the house tests stand last; strings there are data.
fn scan(source: &str, strings: bool) -> Vec<Line> {
    let tests = source.find("#[cfg(test)]").unwrap_or(source.len());
    let (mut lines, mut rest, mut last) = (Vec::new(), source, 0);
    while let Some(at) = rest.find(['/', '"', '\'']) {
        let place = source.len() - rest.len() + at;
        let number = 1 + source[..place].matches('\n').count();
        rest = &rest[at..];
        if rest.starts_with("//") {
            let (comment, after) = rest.split_once('\n').unwrap_or((rest, ""));
            let trails = !source[..place].rsplit('\n').next().unwrap_or_default().trim().is_empty();
            if trails || number != last + 1 {
                lines.push((number, String::new()));
            }
            lines.push((number, comment.trim_start_matches(['/', '!']).to_owned()));
            (rest, last) = (after, number);
        } else if rest.starts_with('"') {
            let hashes = source[..place].chars().rev().take_while(|letter| *letter == '#').count();
            let raw = source[..place - hashes].ends_with('r');
            let end = end_of_string(&rest[1..], raw.then_some(hashes));
            if strings && !raw && place < tests {
                let text = rest[1..=end].replace("\\\"", "\"").replace("\\n", "\n\n");
                lines.push((number, String::new()));
                lines.extend(text.lines().map(|line| (number, line.trim_end_matches('\\').to_owned())));
                lines.push((number, String::new()));
            }
            rest = &rest[end + 2..];
        } else {
            // A quote that another follows two characters later is a character; any other one begins a lifetime.
            let escaped = rest.starts_with("'\\") || rest.chars().nth(2) == Some('\'');
            let length = rest.char_indices().skip(3).map(|(at, _)| at).next().unwrap_or(rest.len());
            rest = &rest[if escaped { length } else { 1 }..];
        }
    }
    lines
}

/// Where a string ends whose opening quote is gone; `raw`: the number of its `#`.
fn end_of_string(text: &str, raw: Option<usize>) -> usize {
    if let Some(hashes) = raw {
        return text.find(&format!("\"{}", "#".repeat(hashes))).expect("an end");
    }
    let mut escaped = false;
    let end = text.find(|letter| {
        let ends = letter == '"' && !escaped;
        escaped = letter == '\\' && !escaped;
        ends
    });
    end.expect("an end")
}

#[test]
fn comments_and_strings_are_found() {
    let source = "//! One\n//! two\n\nlet a: &'static str = '\"'; // three\n// four\nf(\"a\\\"b \\\n  c\", r#\"d\"e\"#, '\\'', \"g\");\n\
                  #[cfg(test)]\n\"h\" // i";
    let found = |strings| -> String { scan(source, strings).iter().map(|(at, line)| format!("{at}{line}/")).collect() };
    assert_eq!(found(false), "1 One/2 two/4/4 three/5 four/9/9 i/");
    assert_eq!(found(true), "1 One/2 two/4/4 three/5 four/6/6a\"b /6  c/6/7/7g/7/9/9 i/");
    let lines = of_comments("# a\nb  # c\n#key = d\n#   tcplb e\n\"\"\"f\n# g\"\"\"");
    let shown: String = lines.iter().map(|(at, line)| format!("{at}{line}/")).collect();
    assert_eq!(shown, "1a/2c/3/4/5f/6/");
}
