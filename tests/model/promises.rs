//! Each promise of SECURITY.md has its place in the source and its tests.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use testkit::sources;

const PAGE: &str = include_str!("../../SECURITY.md");

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The texts of all our sources.
fn texts() -> Vec<(PathBuf, String)> {
    let files = ["src", "tests", "testkit"].into_iter().flat_map(|directory| sources(&root().join(directory)));
    files.map(|path| (path.clone(), fs::read_to_string(&path).expect("a text"))).collect()
}

/// The functions that a text marks as tests.
fn tests(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut marked = false;
    for line in text.lines().map(str::trim) {
        if line == "#[test]" {
            marked = true;
        } else if let Some(rest) = line.strip_prefix("fn ").filter(|_| marked) {
            found.extend(rest.split('(').next().map(str::to_owned));
            marked = false;
        }
    }
    found
}

/// What stands between backticks.
fn quoted(cell: &str) -> Vec<&str> {
    cell.split('`').skip(1).step_by(2).collect()
}

#[test]
fn every_promise_names_a_place_and_tests_that_exist() {
    let there: BTreeSet<String> = texts().iter().flat_map(|(_, text)| tests(text)).collect();
    let (mut promises, mut wrong) = (0, Vec::new());
    for row in PAGE.lines().filter(|line| line.starts_with('|') && !line.starts_with("|---")) {
        let cells: Vec<&str> = row.trim_matches('|').split(" | ").map(str::trim).collect();
        let [promise, places, named] = cells[..] else { continue };
        if promise == "promise" {
            continue;
        }
        promises += 1;
        if quoted(places).is_empty() || quoted(named).is_empty() {
            wrong.push(format!("{promise}: expected a place and a test in backticks"));
        }
        let missing = quoted(places).into_iter().filter(|place| !root().join(place).exists());
        wrong.extend(missing.map(|place| format!("{promise}: there is no {place}")));
        let missing = quoted(named).into_iter().filter(|name| !there.contains(*name));
        wrong.extend(missing.map(|name| format!("{promise}: there is no test called {name}")));
    }
    assert!(promises > 25, "only {promises} promises were found");
    assert!(wrong.is_empty(), "SECURITY.md:\n{}", wrong.join("\n"));
}

#[test]
fn no_unsafe_code_and_no_lint_is_silenced() {
    let manifests = [
        include_str!("../../Cargo.toml"),
        include_str!("../../testkit/Cargo.toml"),
        include_str!("../../bench/tools/Cargo.toml"),
    ];
    assert!(manifests[0].contains("[workspace.lints.rust]\nunsafe_code = \"forbid\"\n"));
    assert!(manifests.iter().all(|manifest| manifest.contains("\n[lints]\nworkspace = true\n")));
    // Put together here, so that this file is not found itself.
    let words = [format!("{} {{", "unsafe"), format!("{} fn", "unsafe"), format!("{} impl", "unsafe")];
    let words = words.into_iter().chain([format!("[{}(", "allow"), format!("#[{}", "ignore")]);
    let words: Vec<String> = words.collect();
    let mut wrong = Vec::new();
    for (path, text) in texts() {
        let code = text.lines().map(|line| line.split("//").next().unwrap_or_default());
        for (number, line) in code.enumerate() {
            let found = words.iter().filter(|word| line.contains(word.as_str()));
            wrong.extend(found.map(|word| format!("{}:{}: {word}", path.display(), number + 1)));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn marked_functions_are_tests_and_others_are_not() {
    let text = "#[test]\nfn one() {}\nfn helper() {}\n    #[test]\n    #[should_panic]\n    fn two(x in 0..3) {}\n";
    assert_eq!(tests(text), ["one", "two"]);
    assert_eq!(quoted("`a`, `b` and c"), ["a", "b"]);
}
