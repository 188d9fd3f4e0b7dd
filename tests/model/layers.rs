//! Imports point down the layers of ARCHITECTURE.md, and the pure layers stay pure.
//!
//! Reads the source as text: every path that begins with `crate::` (or, in main.rs, `tcplb::`) counts as an import,
//! wherever it stands. Comments do not count.

use std::collections::BTreeSet;
use std::path::Path;
use testkit::sources;

const ARCHITECTURE: &str = include_str!("../../ARCHITECTURE.md");

/// The rules as ARCHITECTURE.md states them.
struct Rules {
    /// Top to bottom. A module may use those of later layers; modules of one layer never import each other.
    layers: Vec<Vec<&'static str>>,
    /// Modules that open no socket, start no thread and read no clock. In their tests they may.
    pure: BTreeSet<&'static str>,
}

impl Rules {
    fn read() -> Rules {
        let (_, list) = ARCHITECTURE.split_once("```\nsrc/\n").expect("the list of layers");
        let mut layers: Vec<Vec<&str>> = Vec::new();
        for line in list.lines().take_while(|line| line.starts_with(' ')) {
            // A bracket of ┌, │ and └ joins the modules of one layer.
            let joined = line.trim_start().starts_with(['│', '└']);
            let name = line.trim_start_matches([' ', '┌', '│', '└']).split(['.', '/']).next().expect("a module");
            match layers.last_mut() {
                Some(layer) if joined => layer.push(name),
                _ => layers.push(vec![name]),
            }
        }
        Rules { layers, pure: pure(ARCHITECTURE) }
    }

    fn layer(&self, module: &str) -> Option<usize> {
        self.layers.iter().position(|modules| modules.contains(&module))
    }

    /// What is wrong with a file, a line each. `tests_only`: all of it is tests, which need not be pure.
    fn offences(&self, module: &str, source: &str, tests_only: bool) -> Vec<String> {
        let code = without_comments(source);
        let Some(own) = self.layer(module) else {
            return vec![format!("{module} has no place in the layers: give it a line in ARCHITECTURE.md")];
        };
        let mut offences = Vec::new();
        for import in imports(&code) {
            match self.layer(&import) {
                _ if import == module => {}
                Some(other) if other > own => {}
                Some(_) => offences.push(format!("{module} uses {import}, which is not below it")),
                None => offences.push(format!("{module} uses {import}, which has no place in the layers")),
            }
        }
        if self.pure.contains(module) && !tests_only {
            // Tests stand last in a file.
            let code = code.split("#[cfg(test)]").next().unwrap_or_default();
            let found = IMPURE.iter().filter(|word| code.contains(**word));
            offences.extend(found.map(|word| format!("{module} is pure, but uses {word}")));
        }
        offences
    }
}

/// The modules that a page declares pure.
fn pure(page: &str) -> BTreeSet<&str> {
    let (before, _) = page.split_once(" open no socket").expect("a sentence that names the pure modules");
    let line = before.lines().next_back().unwrap_or_default();
    line.split('`').skip(1).step_by(2).collect()
}

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
    let rules = Rules::read();
    let (mut files, mut seen, mut wrong, mut modules) = (0, 0, Vec::new(), BTreeSet::new());
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
        let offences = rules.offences(module, &source, tests_only);
        wrong.extend(offences.into_iter().map(|offence| format!("{}: {offence}", inside.display())));
        modules.insert(module.to_owned());
    }
    assert!(files > 30 && seen > 30, "only {files} files and {seen} imports were looked at");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let gone: Vec<&str> = rules.layers.concat().into_iter().filter(|module| !modules.contains(*module)).collect();
    assert!(gone.is_empty(), "ARCHITECTURE.md lists modules that do not exist: {gone:?}");
    assert!(rules.pure.len() > 1 && rules.pure.iter().all(|module| modules.contains(*module)), "{:?}", rules.pure);
    assert_eq!(pure(include_str!("../../CONTRIBUTING.md")), rules.pure, "CONTRIBUTING.md and ARCHITECTURE.md differ");
}

#[test]
fn an_offending_line_is_found() {
    for (module, line, want) in [
        ("policy", "use crate::pool::Backend;", "policy uses pool"),
        ("pool", "use crate::{base::{bits, tick}, app::Running};", "pool uses app"),
        ("pool", "fn f() { crate::cli::run(); }", "pool uses cli"),
        ("prober", "use crate::worker::Worker;", "prober uses worker"),
        ("worker", "use crate::control::{Command};", "worker uses control"),
        ("control", "use crate::worker::Worker;", "control uses worker"),
        ("net", "use crate::logger::Queue;", "net uses logger"),
        ("app", "use tcplb::cli;", "app uses cli"),
        ("session", "use crate::net::Socket;", "session is pure, but uses crate::net"),
        ("base", "let now = std::time::Instant::now();", "base is pure, but uses Instant::now"),
        ("config", "use std::net::ToSocketAddrs;", "config is pure, but uses ToSocketAddrs"),
        ("newcomer", "", "newcomer has no place"),
        ("app", "use crate::newcomer;", "app uses newcomer, which has no place"),
    ] {
        let found = Rules::read().offences(module, line, false);
        assert!(found.iter().any(|offence| offence.contains(want)), "{module}: {line}: {found:?}");
    }
}

#[test]
fn a_lawful_file_passes() {
    let source = "//! See [`crate::cli`].\nuse crate::{base::{Tick, bits}, policy};\n// crate::app\n\
                  let a = crate::base::nearest::hint;\n#[cfg(test)]\nmod tests { use std::thread; }\n";
    assert_eq!(Rules::read().offences("config", source, false), Vec::<String>::new());
    let found: Vec<_> = imports(&without_comments(source)).into_iter().collect();
    assert_eq!(found, ["base", "policy"]);
}

/// Every dependency has its reason in ARCHITECTURE.md.
#[test]
fn no_dependency_without_a_reason() {
    let manifests = [
        include_str!("../../Cargo.toml"),
        include_str!("../../testkit/Cargo.toml"),
        include_str!("../../bench/tools/Cargo.toml"),
    ];
    let mut names = 0;
    let mut inside = false;
    for line in manifests.into_iter().flat_map(str::lines) {
        if line.starts_with('[') {
            inside = line.ends_with("dependencies]");
        } else if let Some((name, _)) = line.split_once(" = ").filter(|_| inside) {
            assert!(
                ARCHITECTURE.contains(&format!("| `{name}` |")),
                "ARCHITECTURE.md does not say why {name} is needed"
            );
            names += 1;
        }
    }
    assert!(names > 10, "only {names} dependencies found");
}
