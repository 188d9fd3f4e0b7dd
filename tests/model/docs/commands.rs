//! Every `tcplb …` command line in the pages and alerts is one that the binary takes. None of them listens.
//!
//! A command of the balancer is run with `--workers 0` behind it: the binary reads all flags and then reports this one mistake.
//! `check` and `--config` get a file, commands for a running tcplb get an address where there is none, and the others get
//! `--help`. Where a block shows errors, the command is run as it stands and its output is compared.

use super::pages::{Block, blocks, pages};
use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use testkit::monitoring::{alerts, packaging};

pub const FILE: &str = "[[listener]]\nbind = ['127.0.0.1:0']\n[[pool]]\nbackend = [{ address = '127.0.0.1:1' }]\n";

/// The words of each `tcplb` command in a block, and what the block shows as its output.
fn commands(block: &Block) -> Vec<(Vec<String>, Vec<String>)> {
    let console = match block.kind.as_str() {
        "sh" => false,
        "console" => true,
        _ => return Vec::new(),
    };
    let mut found: Vec<(Vec<String>, Vec<String>)> = Vec::new();
    for line in block.text.lines() {
        let typed = line.strip_prefix("$ ").or_else(|| line.strip_prefix("# "));
        match typed.filter(|_| console).or((!console).then_some(line)) {
            Some(typed) => found.push((words(typed), Vec::new())),
            None => found.last_mut().expect("a command before its output").1.push(line.to_owned()),
        }
    }
    found.retain(|(words, _)| words.first().is_some_and(|word| word == "tcplb"));
    found
}

/// A command line without its comment and its `&`.
fn words(line: &str) -> Vec<String> {
    let line = line.split(" #").next().unwrap_or_default();
    line.split_whitespace().filter(|word| *word != "&").map(str::to_owned).collect()
}

fn run(arguments: &[&str], directory: &Path) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tcplb"));
    command.args(arguments).stdin(Stdio::null()).current_dir(directory);
    // No process listens there.
    command.env("TCPLB_ADMIN", "unix:/nonexistent/admin.sock").env_remove("TCPLB_TOKEN").env_remove("RUST_LOG");
    command.output().expect("it runs")
}

/// What is wrong with a command, if anything.
pub fn check(words: &[String], directory: &Path) -> Result<(), String> {
    let mut arguments: Vec<&str> = words.iter().skip(1).map(String::as_str).collect();
    let file = directory.join("tcplb.toml");
    let file = file.to_str().expect("UTF-8");
    let first = arguments.first().copied().unwrap_or_default();
    let (code, report) = match first {
        "check" => {
            for argument in arguments.iter_mut().filter(|argument| argument.ends_with(".toml")) {
                *argument = file;
            }
            (0, None)
        }
        "top" => (2, Some("top needs a terminal")),
        "status" | "explain" | "probe" | "backends" | "connections" | "events" | "reload" => (4, None),
        "config" if arguments.get(1).is_some_and(|verb| ["show", "diff"].contains(verb)) => (4, None),
        // They are run as they stand, but not into the file that they are redirected to.
        "man" | "completions" => {
            let end = arguments.iter().position(|argument| *argument == ">").unwrap_or(arguments.len());
            arguments.truncate(end);
            (0, None)
        }
        "import" => {
            for argument in arguments.iter_mut().filter(|argument| argument.ends_with(".cfg")) {
                *argument = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/import/haproxy-sni.cfg");
            }
            let end = arguments.iter().position(|argument| *argument == ">").unwrap_or(arguments.len());
            arguments.truncate(end);
            (0, None)
        }
        "backend" | "demo" => {
            arguments.push("--help");
            (0, None)
        }
        _ if arguments.iter().any(|argument| matches!(*argument, "--help" | "-V" | "--version")) => (0, None),
        _ => {
            let from_file = arguments.iter().any(|argument| matches!(*argument, "-c" | "--config"));
            for argument in arguments.iter_mut().filter(|argument| argument.ends_with(".toml")) {
                *argument = file;
            }
            arguments.extend(["--workers", "0"]);
            (2, Some(if from_file { "leave out --workers, or" } else { "--workers: expected a number" }))
        }
    };
    let output = run(&arguments, directory);
    let stderr = String::from_utf8_lossy(&output.stderr);
    let errors: Vec<&str> = stderr.lines().filter(|line| line.starts_with("error: ")).collect();
    let fits = match report {
        None => output.status.code() == Some(code),
        Some(report) => output.status.code() == Some(code) && errors.len() == 1 && errors[0].contains(report),
    };
    if fits { Ok(()) } else { Err(format!("{}: {stderr}", words.join(" "))) }
}

/// Does a line of output look as a page shows it? `…` stands for any text.
fn looks(shown: &str, printed: &str) -> bool {
    let mut rest = printed;
    let parts: Vec<&str> = shown.split('…').collect();
    for (index, part) in parts.iter().enumerate() {
        let Some(at) = rest.find(part).filter(|at| index > 0 || *at == 0) else { return false };
        rest = &rest[at + part.len()..];
    }
    rest.is_empty() || shown.ends_with('…')
}

#[test]
fn every_command_in_the_pages_is_one_that_the_binary_takes() {
    let directory = tempfile::tempdir().expect("a directory");
    fs::write(directory.path().join("tcplb.toml"), FILE).expect("it is written");
    let (mut count, mut wrong) = (0, Vec::new());
    for block in pages().iter().flat_map(blocks) {
        for (words, shown) in commands(&block) {
            count += 1;
            if !shown.iter().any(|line| line.starts_with("error: ")) {
                wrong.extend(check(&words, directory.path()).err().map(|why| format!("{}: {why}", block.at)));
            }
        }
    }
    assert!(count > 25, "only {count} commands were found");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// A label stands for a name, and ADDRESS for a client.
#[test]
fn every_command_in_the_alerts_is_one_that_the_binary_takes() {
    let directory = tempfile::tempdir().expect("a directory");
    fs::write(directory.path().join("tcplb.toml"), FILE).expect("it is written");
    let (mut count, mut wrong) = (0, Vec::new());
    for alert in alerts(&fs::read_to_string(packaging("prometheus/alerts.yml")).expect("a text")) {
        let code = alert.description.split('`').skip(1).step_by(2);
        for line in code.filter(|code| code.starts_with("tcplb ")) {
            count += 1;
            let line = line.replace("{{ $labels.", "").replace(" }}", "").replace("ADDRESS", "192.0.2.7");
            wrong.extend(check(&words(&line), directory.path()).err().map(|why| format!("{}: {why}", alert.name)));
        }
    }
    assert!(count > 20, "only {count} commands were found");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn errors_in_the_pages_are_those_that_the_binary_prints() {
    let mut count = 0;
    for page in pages() {
        let directory = tempfile::tempdir().expect("a directory");
        for block in blocks(&page) {
            if block.kind == "toml broken" {
                fs::write(directory.path().join("tcplb.toml"), &block.text).expect("it is written");
            }
            for (words, shown) in commands(&block) {
                if !shown.iter().any(|line| line.starts_with("error: ")) {
                    continue;
                }
                let arguments: Vec<&str> = words.iter().skip(1).map(String::as_str).collect();
                let output = run(&arguments, directory.path());
                let stderr = String::from_utf8_lossy(&output.stderr);
                let printed: Vec<&str> = stderr.lines().filter(|line| line.starts_with("error: ")).collect();
                let same = printed.len() == shown.len()
                    && shown.iter().zip(&printed).all(|(shown, printed)| looks(shown, printed));
                assert!(same, "{}: it prints {printed:#?}", block.at);
                count += 1;
            }
        }
    }
    assert!(count >= 2, "only {count} blocks with errors were found");
}

#[test]
fn commands_that_do_not_exist_are_found() {
    let directory = tempfile::tempdir().expect("a directory");
    fs::write(directory.path().join("tcplb.toml"), FILE).expect("it is written");
    for (line, good) in [
        ("tcplb -l :1 -b a:1 --send-proxy v2 &   # a comment", true),
        ("tcplb -l :1 -b a:1 --send-proxy v3", false),
        ("tcplb -l :1 -b a:1 --sendproxy v2", false),
        ("tcplb --config tcplb.toml", true),
        ("tcplb --config tcplb.toml --relay copy", false),
        ("tcplb check tcplb.toml", true),
        ("tcplb backends drain web web1 --wait", true),
        ("tcplb backends drain web", false),
        ("tcplb backend --listen :1 --nam web1", false),
        ("tcplb stats", false),
    ] {
        assert_eq!(check(&words(line), directory.path()).is_ok(), good, "{line}");
    }
    assert!(looks("a … c", "a b c") && looks("a …", "a b") && !looks("a … c", "a b d") && !looks("b", "a b"));
}
