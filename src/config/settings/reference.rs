//! The tables as pages: what `tcplb config reference` prints, the tables of docs/configuration.md, and config.example.

use super::kinds::Values;
use super::{DISCOVER, Listed, ROUTE, Reload, Row, presets, sections};
use crate::config::words::alternatives;
use std::fmt::Write;

/// The widest line of config.example.
const WIDTH: usize = 120;

/// Every key, in Markdown.
pub fn keys() -> String {
    let mut page = String::new();
    for section in sections() {
        let gap = if page.is_empty() { "" } else { "\n" };
        let of_kind = section.source_kind().map_or_else(String::new, |kind| format!(" of kind `{kind}`"));
        // Writing to a string can't fail.
        let _ = writeln!(page, "{gap}### `{}`{of_kind}\n\n{}\n", section.header, section.doc);
        page += "| key | meaning | value | default | reload |\n|---|---|---|---|---|\n";
        for Row { about, values, default } in &section.rows {
            let default = match (default, about.absent) {
                (Some(default), "") => format!("`{default}`"),
                (_, absent) => absent.to_owned(),
            };
            let reload = match about.reload {
                Reload::Live => "yes",
                Reload::Restart => "restart",
                Reload::New => "new",
            };
            let meaning = seen(about.doc, about.see);
            let _ = writeln!(page, "| `{}` | {meaning} | {} | {default} | {reload} |", about.key, values.describe());
        }
    }
    page + "\n" + &presets::table()
}

/// A sentence in a cell, and the page that has more.
pub fn seen(doc: &str, see: &str) -> String {
    let doc = doc.trim_end_matches('.');
    let page = see.split('#').next().unwrap_or_default();
    if see.is_empty() { doc.to_owned() } else { format!("{doc}; see [{page}]({see})") }
}

/// config.example, with the keys of this version in the place of those that it had. Its head and its tail are written by hand.
pub fn example(before: &str) -> Option<String> {
    let (head, rest) = before.split_once("# What concerns the process.\n")?;
    let (_, tail) = rest.split_once("  # A second backend")?;
    let mut page = head.trim_end().to_owned() + "\n";
    let (sources, sections): (Vec<_>, Vec<_>) =
        sections().into_iter().partition(|section| section.name.starts_with(DISCOVER.name));
    for section in &sections {
        if section.name == ROUTE.name {
            page.push('\n');
            unused(&mut page, section, "", &section.rows.iter().collect::<Vec<_>>());
        } else {
            of_section(&mut page, section);
        }
    }
    of_sources(&mut page, &sources);
    Some(format!("{page}\n  # A second backend{tail}"))
}

fn of_section(page: &mut String, section: &Listed) {
    let inner = section.name.contains('.');
    let (indent, gap) = if inner { ("  ", "\n") } else { ("", "\n\n") };
    page.push_str(if section.name == "global" { "\n" } else { gap });
    comment(page, indent, section.doc);
    let _ = writeln!(page, "{indent}{}", section.header);
    for (index, row) in section.rows.iter().enumerate() {
        let Row { about, default, .. } = row;
        if index > 0 {
            page.push('\n');
        }
        meaning(page, indent, row);
        let (mark, value) = match (about.set, default) {
            ("", Some(default)) if about.absent.is_empty() => ("#", default.as_str()),
            ("", _) => ("#: ", row.example()),
            (set, _) => ("", set),
        };
        let _ = writeln!(page, "{indent}{mark}{} = {value}", about.key);
    }
}

/// A source of each kind, which the file does not use. The first one has the keys that every source has, too.
fn of_sources(page: &mut String, sources: &[Listed]) {
    let Some((every, kinds)) = sources.split_first() else { return };
    page.push('\n');
    comment(page, "  ", every.doc);
    for (index, section) in kinds.iter().enumerate() {
        if index > 0 {
            page.push('\n');
        }
        let kind = format!("  #- kind = \"{}\"\n", section.source_kind().unwrap_or_default());
        let of_every = every.rows.iter().filter(|row| index == 0 && row.about.key != "kind");
        unused(page, section, &kind, &section.rows.iter().chain(of_every).collect::<Vec<_>>());
    }
}

/// A section that the file does not use: `first` comes in front of its keys.
fn unused(page: &mut String, section: &Listed, first: &str, rows: &[&Row]) {
    comment(page, "  ", section.doc);
    let _ = write!(page, "  #- {}\n{first}", section.header);
    for row in rows {
        page.push('\n');
        meaning(page, "  ", row);
        let value = row.default.as_deref().filter(|_| row.about.absent.is_empty()).unwrap_or(row.example());
        let _ = writeln!(page, "  #- {} = {value}", row.about.key);
    }
}

/// What a key means, as a comment.
fn meaning(page: &mut String, indent: &str, row: &Row) {
    let Row { about, values, default } = row;
    let absent = match (default, about.absent) {
        (None, absent) if !matches!(absent, "" | "required") => format!(" Without it: {absent}."),
        _ => String::new(),
    };
    let said = format!("{} {}", about.doc, about.more);
    comment(page, indent, &format!("{said}{}{absent}", values.sentence(&said)));
}

/// A text as lines of a comment.
fn comment(page: &mut String, indent: &str, text: &str) {
    let mut line = format!("{indent}#");
    for word in plain(text).split_whitespace() {
        if line.chars().count() + 1 + word.chars().count() > WIDTH {
            let _ = writeln!(page, "{line}");
            line = format!("{indent}#");
        }
        let _ = write!(line, " {word}");
    }
    let _ = writeln!(page, "{line}");
}

/// A text without Markdown.
pub fn plain(text: &str) -> String {
    let mut plain = String::new();
    for (index, part) in text.split('`').enumerate() {
        match index % 2 {
            1 if part.contains('"') => plain.push_str(part),
            1 => plain.extend(["\"", part, "\""]),
            _ => {
                let mut rest = part;
                while let Some((before, after)) = rest.split_once("](") {
                    let (before, shown) = before.rsplit_once('[').unwrap_or(("", before));
                    plain.extend([before, shown]);
                    // Where the link leads.
                    rest = after.split_once(')').map_or("", |(_, rest)| rest);
                }
                plain.push_str(rest);
            }
        }
    }
    plain
}

impl Values {
    /// What may be given, in a cell.
    pub fn describe(&self) -> String {
        const MANY: u64 = u32::MAX as u64;
        match self {
            Values::Words(words) => {
                let words: Vec<String> = words().iter().map(|word| format!("`\"{word}\"`")).collect();
                alternatives(&words.iter().map(String::as_str).collect::<Vec<_>>())
            }
            Values::Number(min, MANY) => format!("number, at least {min}"),
            Values::Number(min, max) => format!("number from {min} to {max}"),
            Values::Switch => "`true` or `false`".to_owned(),
            Values::Other { name, .. } => (*name).to_owned(),
        }
    }

    /// What help puts behind a flag.
    pub fn placeholder(&self) -> &'static str {
        match self {
            Values::Words(_) => "NAME",
            Values::Number(..) => "N",
            Values::Switch => "",
            Values::Other { placeholder, .. } => placeholder,
        }
    }

    /// The words there are, for a line of help; empty: the text names them, or they are too many.
    pub fn few_words(&self, said: &str) -> String {
        match self {
            Values::Words(words) if words().len() < 5 && !words().iter().all(|word| said.contains(word)) => {
                format!(": {}", alternatives(&words()))
            }
            _ => String::new(),
        }
    }

    /// What a comment adds to a text about the key, if the text does not say it.
    fn sentence(&self, said: &str) -> String {
        match self {
            Values::Words(words) if words().iter().all(|word| said.contains(word)) => String::new(),
            Values::Words(_) => format!(" One of {}.", self.describe()),
            Values::Number(_, max) if *max < u64::from(u32::MAX) => format!(" A {}.", self.describe()),
            Values::Other { name, .. } if name.contains(" from ") => format!(" A {name}."),
            _ => String::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn markdown_becomes_plain_text() {
        assert_eq!(plain("`a` is `\"1\"`, see [b.md](b.md#c); [::1]:80."), "\"a\" is \"1\", see b.md; [::1]:80.");
    }

    #[test]
    fn a_row_says_what_a_reader_asks_for() {
        let page = keys();
        for row in [
            "### `[pool.health]`\n",
            "| `half_close_timeout` | The same, once one of the two sides has sent its FIN | time | `\"5m\"` | yes |\n",
            "| `on_down` | What becomes of the connections of a backend that goes down | `\"keep\"` or `\"reset\"` | `\"keep\"` | yes |\n",
            "| number from 1 to 1024 | one per core | restart |\n",
        ] {
            assert!(page.contains(row), "{row} is not in\n{page}");
        }
    }
}
