//! The plan of the house, enforced: imports point down the layers, and the pure layers stay pure.
//!
//! Reads the source as text: every path that begins with `crate::` (or, in main.rs, `tcplb::`) counts as an import,
//! wherever it stands. Comments do not count. ARCHITECTURE.md draws the same list.

use std::collections::BTreeSet;
use std::path::Path;
use testkit::sources;

/// Top to bottom. A module may use what stands on a later line; modules on one line don't know each other.
const LAYERS: &[&[&str]] = &[
    &["main"],
    &["cli"],
    &["app"],
    &["admin"],
    &["control", "prober", "worker"],
    &["access_log"],
    &["relay"],
    &["session", "systemd"],
    &["preflight"],
    &["net", "mailbox", "confine", "logger", "watchdog"],
    &["clock"],
    &["pool"],
    &["admission"],
    &["telemetry"],
    &["probe"],
    &["config"],
    &["policy"],
    &["proto"],
    &["base"],
];

/// Modules that open no socket, start no thread and read no clock. In their tests they may.
const PURE: &[&str] = &["session", "probe", "policy", "proto", "config", "base"];

/// What a pure module would do it with.
const IMPURE: &[&str] = &[
    "crate::net",
    "crate::confine",
    "crate::mailbox",
    "TcpStream",
    "TcpListener",
    "UdpSocket",
    "UnixStream",
    "UnixListener",
    "ToSocketAddrs",
    "std::thread",
    "thread::spawn",
    "Instant::now",
    "SystemTime::now",
    "mio::",
    "rustix::",
    "socket2::",
    "crossbeam_channel::",
];

/// What is wrong with a file, a line each. `tests_only`: all of it is tests, which need not be pure.
fn offences(module: &str, source: &str, tests_only: bool) -> Vec<String> {
    let code = without_comments(source);
    let Some(own) = layer(module) else {
        return vec![format!("{module} has no place in the layers: give it a line in tests/model/layers.rs")];
    };
    let mut offences = Vec::new();
    for import in imports(&code) {
        match layer(&import) {
            _ if import == module => {}
            Some(other) if other > own => {}
            Some(_) => offences.push(format!("{module} uses {import}, which is not below it")),
            None => offences.push(format!("{module} uses {import}, which has no place in the layers")),
        }
    }
    if PURE.contains(&module) && !tests_only {
        // By the rules of the house tests stand last in a file.
        let code = code.split("#[cfg(test)]").next().unwrap_or_default();
        let found = IMPURE.iter().filter(|word| code.contains(**word));
        offences.extend(found.map(|word| format!("{module} is pure, but uses {word}")));
    }
    offences
}

fn layer(module: &str) -> Option<usize> {
    LAYERS.iter().position(|modules| modules.contains(&module))
}

fn without_comments(source: &str) -> String {
    // Cutting a string at `http://` loses the rest of a line, where no import can follow.
    source.lines().map(|line| line.split("//").next().unwrap_or_default()).collect::<Vec<_>>().join("\n")
}

/// The top-level modules that a source text names: `crate::a::b` and `crate::{a, b::{c, d}}`.
fn imports(code: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for root in ["crate::", "tcplb::"] {
        for (at, _) in code.match_indices(root) {
            let before = code[..at].chars().next_back();
            if before.is_some_and(|letter| letter.is_alphanumeric() || letter == '_') {
                continue;
            }
            let rest = &code[at + root.len()..];
            match rest.strip_prefix('{') {
                Some(group) => found.extend(heads(group)),
                None => found.extend(word(rest)),
            }
        }
    }
    found
}

/// The first word of each item of a `{…}` group, whose `{` is gone already.
fn heads(group: &str) -> Vec<String> {
    let (mut depth, mut at_head, mut heads) = (0, true, Vec::new());
    for (at, letter) in group.char_indices() {
        match letter {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => at_head = true,
            _ if letter.is_whitespace() => {}
            _ if at_head => {
                heads.extend(word(&group[at..]));
                at_head = false;
            }
            _ => {}
        }
    }
    heads
}

fn word(text: &str) -> Option<String> {
    let word: String = text.chars().take_while(|letter| letter.is_alphanumeric() || *letter == '_').collect();
    (!word.is_empty()).then_some(word)
}

#[test]
fn imports_point_down_and_pure_layers_are_pure() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let (mut files, mut seen, mut wrong) = (0, 0, Vec::new());
    for path in sources(&root) {
        let inside = path.strip_prefix(&root).unwrap();
        let first = inside.components().next().unwrap().as_os_str().to_str().unwrap();
        let module = first.trim_end_matches(".rs");
        if module == "lib" {
            continue;
        }
        let source = std::fs::read_to_string(&path).unwrap();
        files += 1;
        seen += imports(&without_comments(&source)).len();
        let tests_only = inside.iter().any(|part| part == "tests" || part == "tests.rs");
        wrong.extend(
            offences(module, &source, tests_only).into_iter().map(|offence| format!("{}: {offence}", inside.display())),
        );
    }
    assert!(files > 30 && seen > 30, "only {files} files and {seen} imports were looked at");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn an_offending_line_is_found() {
    for (module, line, want) in [
        ("policy", "use crate::pool::Backend;", "policy uses pool"),
        ("pool", "use crate::{base::{bits, tick}, app::Running};", "pool uses app"),
        ("pool", "fn f() { crate::cli::run(); }", "pool uses cli"),
        ("prober", "use crate::worker::Worker;", "prober uses worker"),
        ("worker", "use crate::control::{Command};", "worker uses control"),
        ("app", "use tcplb::cli;", "app uses cli"),
        ("session", "use crate::net::Socket;", "session is pure, but uses crate::net"),
        ("base", "let now = std::time::Instant::now();", "base is pure, but uses Instant::now"),
        ("config", "use std::net::ToSocketAddrs;", "config is pure, but uses ToSocketAddrs"),
        ("newcomer", "", "newcomer has no place"),
        ("app", "use crate::newcomer;", "app uses newcomer, which has no place"),
    ] {
        let found = offences(module, line, false);
        assert!(found.iter().any(|offence| offence.contains(want)), "{module}: {line}: {found:?}");
    }
}

#[test]
fn a_lawful_file_passes() {
    let source = "//! See [`crate::cli`].\nuse crate::{base::{Tick, bits}, policy};\n// crate::app\n\
                  let a = crate::base::nearest::hint;\n#[cfg(test)]\nmod tests { use std::thread; }\n";
    assert_eq!(offences("config", source, false), Vec::<String>::new());
    let found: Vec<_> = imports(&without_comments(source)).into_iter().collect();
    assert_eq!(found, ["base", "policy"]);
}

/// Every dependency has its reason in ARCHITECTURE.md.
#[test]
fn no_dependency_without_a_reason() {
    let manifests = [include_str!("../../Cargo.toml"), include_str!("../../testkit/Cargo.toml")];
    let page = include_str!("../../ARCHITECTURE.md");
    let mut names = 0;
    let mut inside = false;
    for line in manifests.into_iter().flat_map(str::lines) {
        if line.starts_with('[') {
            inside = line.ends_with("dependencies]");
        } else if let Some((name, _)) = line.split_once(" = ").filter(|_| inside) {
            assert!(page.contains(&format!("| `{name}` |")), "ARCHITECTURE.md does not say why {name} is needed");
            names += 1;
        }
    }
    assert!(names > 10, "only {names} dependencies found");
}
