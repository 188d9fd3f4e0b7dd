//! Lines of words → sections.

use super::words::Line;
use crate::base::text::Escaped;
use crate::import::Mistakes;
use crate::import::note::Notes;

/// The keywords that begin a section.
const KINDS: [&str; 17] = [
    "global",
    "defaults",
    "frontend",
    "backend",
    "listen",
    "resolvers",
    "peers",
    "userlist",
    "mailers",
    "program",
    "http-errors",
    "ring",
    "log-forward",
    "cache",
    "fcgi-app",
    "crt-store",
    "namespace_list",
];

/// A section.
#[derive(Debug, Default)]
pub struct Section {
    /// One of [`KINDS`].
    pub kind: String,
    pub name: String,
    /// The defaults that it names.
    pub from: Option<String>,
    /// What stands behind the name on its first line.
    pub extra: Option<String>,
    /// The number of its first line.
    pub line: usize,
    /// The lines behind that.
    pub lines: Vec<Line>,
}

/// Whether a line with this first word begins a section.
pub fn begins_section(word: &str) -> bool {
    KINDS.contains(&word)
}

/// The sections, in the order of the file. Conditional blocks (`.if`) are left out: their conditions are about HAProxy.
pub fn sections(lines: Vec<Line>, notes: &mut Notes) -> Result<Vec<Section>, Mistakes> {
    let mut sections: Vec<Section> = Vec::new();
    let mut mistakes = Vec::new();
    let mut open: Vec<usize> = Vec::new();
    for line in lines {
        let first = line.word(0);
        match first {
            ".if" => {
                if open.is_empty() {
                    notes.refused(
                        line.number,
                        "the block from .if to .endif: its condition is about HAProxy".to_owned(),
                    );
                }
                open.push(line.number);
            }
            ".endif" => {
                if open.pop().is_none() {
                    mistakes.push((line.number, "there is no .if before this .endif".to_owned()));
                }
            }
            _ if !open.is_empty() => {}
            ".diag" | ".notice" | ".warning" | ".alert" => {
                notes.dropped(line.number, format!("{first}: a file for tcplb prints nothing"));
            }
            _ if begins_section(first) => sections.push(begin(&line)),
            _ => match sections.last_mut() {
                Some(section) => section.lines.push(line),
                None => {
                    mistakes.push((line.number, format!("expected a section like frontend, got `{}`", Escaped(first))))
                }
            },
        }
    }
    mistakes.extend(open.into_iter().map(|line| (line, "there is no .endif behind this .if".to_owned())));
    if mistakes.is_empty() { Ok(sections) } else { Err(Mistakes(mistakes)) }
}

fn begin(line: &Line) -> Section {
    let mut words: Vec<&str> = line.from(1).collect();
    let from =
        words.iter().position(|word| *word == "from").map(|at| words.drain(at..(at + 2).min(words.len())).nth(1));
    let word = |at: usize| words.get(at).map(|word| (*word).to_owned());
    Section {
        kind: line.word(0).to_owned(),
        name: word(0).unwrap_or_default(),
        from: from.map(|name| name.unwrap_or_default().to_owned()),
        extra: word(1),
        line: line.number,
        lines: Vec::new(),
    }
}
