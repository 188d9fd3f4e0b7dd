//! The files in `tests/data/config`: each valid one is read, and printed and read again; each invalid one says what is
//! expected beside the line, as `#~ message`, or under it, as `#~^ message`, where a comment can't stand on the line.

use super::super::*;
use crate::config::text;
use crate::config::words::alternatives;
use crate::discovery::KINDS;
use crate::policy::balance::REGISTRY;
use std::fs;
use std::path::PathBuf;

fn files(kind: &str) -> Vec<(PathBuf, String)> {
    let directory = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/data/config").join(kind);
    let entries = fs::read_dir(&directory).expect("a directory").map(|entry| entry.expect("an entry").path());
    let files = entries.filter(|path| path.extension().is_some_and(|extension| extension == "toml"));
    files.map(|path| (path.clone(), fs::read_to_string(path).expect("a text"))).collect()
}

/// The mistakes that the comments of a file expect. `{algorithms}` stands for the names in the registry, `{kinds}` for
/// the kinds of sources.
fn expected(text: &str) -> Vec<String> {
    let algorithms: Vec<&str> = REGISTRY.iter().map(|row| row.name).collect();
    let kinds: Vec<&str> = KINDS.iter().map(|kind| kind.name).collect();
    let text = text.replace("{algorithms}", &alternatives(&algorithms)).replace("{kinds}", &alternatives(&kinds));
    let mut lines = Vec::new();
    for (number, line) in text.lines().enumerate() {
        for message in line.split("#~").skip(1) {
            let (line, message) = match message.strip_prefix('^') {
                Some(message) => (number, message),
                None => (number + 1, message),
            };
            lines.push(format!("f:{line}: {}", message.trim()));
        }
    }
    lines
}

#[test]
fn valid_files_are_read_and_come_back_from_print() {
    let files = files("valid");
    assert!(files.len() >= 3, "{files:?}");
    for (path, text) in files {
        let model = parse(&text, "f").unwrap_or_else(|mistakes| panic!("{}: {mistakes}", path.display())).model;
        let printed = text::print(&model);
        assert_eq!(parse(&printed, "printed").map(|parsed| parsed.model), Ok(model), "{}: {printed}", path.display());
    }
}

#[test]
fn invalid_files_give_the_mistakes_that_their_comments_expect() {
    let files = files("invalid");
    assert!(files.len() >= 5, "{files:?}");
    let mut wrong = Vec::new();
    for (path, text) in files {
        let expected = expected(&text);
        assert!(!expected.is_empty(), "{} expects nothing", path.display());
        let found = parse(&text, "f").map_or_else(|mistakes| mistakes.0, |_| Vec::new());
        if found != expected {
            wrong.push(format!(
                "{}\n  found:\n{}\n  expected:\n{}",
                path.display(),
                found.join("\n"),
                expected.join("\n")
            ));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
