//! Pages, comments and messages keep the rules for English of CONTRIBUTING.md, as far as a program can check. A sentence has at
//! most 25 words, names its subject, and never says "tell" for a report.

mod prose;
mod sentences;

use sentences::{Sentence, sentences};
use std::fs;
use std::path::Path;
use testkit::sources;

/// The most words in a sentence. `code` counts as one word.
const LONGEST: usize = 25;

/// Subjects that name no component.
const NOT_A_SUBJECT: [&str; 8] = ["who", "whoever", "whom", "whomever", "nobody", "somebody", "anybody", "everybody"];

/// Verbs for a report: the log logs, an answer states, a check reports.
const NOT_A_REPORT: [&str; 4] = ["tell", "tells", "told", "telling"];

/// What a sentence does against the rules.
fn faults(sentence: &Sentence) -> Vec<String> {
    let mut faults = Vec::new();
    if sentence.words.len() > LONGEST {
        faults.push(format!("{} words", sentence.words.len()));
    }
    for (index, word) in sentence.unquoted().into_iter().enumerate() {
        let bare = word.trim_matches(|letter: char| !letter.is_alphanumeric()).to_lowercase();
        let vague = NOT_A_SUBJECT.contains(&bare.as_str()) || (bare == "whose" && index == 0);
        if vague || NOT_A_REPORT.contains(&bare.as_str()) {
            faults.push(format!("`{bare}`"));
        }
    }
    faults
}

/// The files under the rules, from the repository's root, and the prose in each.
fn texts() -> Vec<(String, Vec<prose::Line>)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut texts = Vec::new();
    let mut add = |path: &Path, prose: fn(&str) -> Vec<prose::Line>| {
        let name = path.strip_prefix(root).expect("ours").display().to_string();
        texts.push((name, prose(&fs::read_to_string(path).expect("a text"))));
    };
    let packaging = [
        "packaging",
        "packaging/debian",
        "packaging/docker",
        "packaging/grafana",
        "packaging/ha",
        "packaging/kubernetes",
        "packaging/prometheus",
    ];
    for directory in [
        "",
        "docs",
        "bench",
        "fuzz",
        "bench/lib",
        "bench/lib/disrupt",
        "bench/lib/scale",
        "bench/lib/soak",
        "bench/lib/tail",
        "bench/tools",
    ]
    .into_iter()
    .chain(packaging)
    {
        for entry in fs::read_dir(root.join(directory)).expect("a directory") {
            let path = entry.expect("an entry").path();
            match path.extension().unwrap_or_default().to_str() {
                Some("md") => add(&path, prose::of_markdown),
                Some("example" | "toml" | "conf" | "service" | "socket" | "logrotate" | "py") => {
                    add(&path, prose::of_comments)
                }
                Some("json" | "yml" | "yaml") => add(&path, prose::of_texts),
                _ => {}
            }
        }
    }
    let debian = ["build", "test", "test-inside", "scripts/postinst", "scripts/postrm"]
        .map(|name| format!("packaging/debian/{name}"));
    let scripts = [
        "bench/compare",
        "bench/discovery",
        "bench/disrupt",
        "bench/maglev",
        "bench/scale",
        "bench/soak",
        "packaging/ha/announce",
        "packaging/ha/try",
        ".ci/run",
        "Dockerfile",
        ".dockerignore",
    ]
    .map(str::to_owned);
    for path in scripts.into_iter().chain(debian) {
        add(&root.join(path), prose::of_comments);
    }
    for path in sources(&root.join("src")) {
        let inside = path.strip_prefix(root).expect("ours");
        let tests = inside.components().any(|part| matches!(part.as_os_str().to_str(), Some("tests" | "tests.rs")));
        add(&path, if tests { prose::of_rust_comments } else { prose::of_rust });
    }
    for directory in ["tests", "testkit", "bench", "fuzz"] {
        sources(&root.join(directory)).iter().for_each(|path| add(path, prose::of_rust_comments));
    }
    texts
}

#[test]
fn the_prose_keeps_the_rules() {
    let (mut count, mut wrong) = (0, Vec::new());
    for (name, lines) in texts() {
        for sentence in sentences(&lines) {
            count += 1;
            for fault in faults(&sentence) {
                wrong.push(format!("{name}:{}: {fault}: {}", sentence.line, sentence.words.join(" ")));
            }
        }
    }
    assert!(count > 5000, "only {count} sentences were found");
    assert!(wrong.is_empty(), "{} faults:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn faults_are_found() {
    let long = "word ".repeat(LONGEST + 1);
    for (text, want) in [
        (long.as_str(), "26 words"),
        ("A client who waits.", "`who`"),
        ("Nobody reads it.", "`nobody`"),
        ("Whose bytes come first is served.", "`whose`"),
        ("The log tells the cause.", "`tells`"),
    ] {
        let found: Vec<String> = sentences(&prose::of_markdown(text)).iter().flat_map(faults).collect();
        assert_eq!(found, [want], "{text}");
    }
    for text in ["A backend whose name fails.", "It prints \"who is it\" and `nobody`.", &long[5..]] {
        let found: Vec<String> = sentences(&prose::of_markdown(text)).iter().flat_map(faults).collect();
        assert_eq!(found, [""; 0], "{text}");
    }
}
