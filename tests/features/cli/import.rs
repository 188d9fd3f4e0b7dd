//! `tcplb import`: what it prints where, its exit codes, and that `tcplb check` accepts what it prints.

use super::*;
use std::path::{Path, PathBuf};

/// The examples, and what `src/import/tests.rs` expects of them.
fn data() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/import")
}

/// The exit code, stdout and the lines on stderr.
fn import(arguments: &[&str]) -> (Option<i32>, String, Vec<String>) {
    let output = output(&[&["import"], arguments].concat());
    let errors = String::from_utf8(output.stderr).unwrap();
    (output.status.code(), String::from_utf8(output.stdout).unwrap(), errors.lines().map(str::to_owned).collect())
}

#[test]
fn every_example_becomes_a_file_that_check_accepts() {
    let place = tempfile::tempdir().unwrap();
    let mut count = 0;
    for entry in std::fs::read_dir(data()).unwrap() {
        let path = entry.unwrap().path();
        if !path.extension().is_some_and(|end| end == "cfg" || end == "conf") {
            continue;
        }
        let name = path.to_str().unwrap();
        let lost = name.contains("lost");
        let (code, printed, messages) = import(&[name]);
        assert_eq!((code, printed.is_empty()), if lost { (Some(1), true) } else { (Some(0), false) }, "{messages:?}");
        assert!(messages.iter().all(|line| line.starts_with(&format!("{name}:")) || line.starts_with("error: ")));
        let (code, printed, messages) = import(&["--force", name]);
        assert_eq!(code, Some(0), "{messages:?}");
        assert_eq!(messages.iter().any(|line| line.ends_with(" (by --force)")), lost, "{messages:?}");
        assert!(!messages.iter().any(|line| line.contains(": error: ")), "{messages:?}");
        // The list that the example names does not exist here.
        let list = place.path().join("deny.lst");
        std::fs::write(&list, "192.0.2.0/24\n").unwrap();
        let file = place.path().join("tcplb.toml");
        std::fs::write(&file, printed.replace("/etc/haproxy/deny.lst", list.to_str().unwrap())).unwrap();
        let checked = output(&["check", file.to_str().unwrap()]);
        assert_eq!(checked.status.code(), Some(0), "{name}: {}", String::from_utf8_lossy(&checked.stderr));
        count += 1;
    }
    assert!(count > 10, "only {count} examples");
}

#[test]
fn a_text_of_another_kind_is_refused() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let path = file.path().to_str().unwrap();
    let write = |text: &str| std::fs::write(file.path(), text).unwrap();
    for (text, arguments, code, why) in [
        ("hello\n", &[][..], 2, "--from haproxy or --from nginx"),
        ("listen a\n bind \"\n", &[], 2, ":2: a quote is not closed on its line"),
        ("stream {\n", &["--from", "nginx"], 2, "expected } before the end of the file"),
        ("stream { }\n", &["--from", "nginx"], 1, "no listener of TCP came out"),
        (
            "listen a\n bind 127.0.0.1:1\n server s 127.0.0.1:2\nlisten b\n bind 127.0.0.1:1\n server s 127.0.0.1:2\n",
            &[],
            2,
            "is given already",
        ),
    ] {
        write(text);
        let (found, printed, messages) = import(&[&[path], arguments].concat());
        assert_eq!((found, printed.as_str()), (Some(code), ""), "{text}: {messages:?}");
        assert!(
            messages.last().unwrap().starts_with("error: ") && messages.iter().any(|line| line.contains(why)),
            "{messages:?}"
        );
    }
    let missing = import(&["/nonexistent/haproxy.cfg"]);
    assert_eq!(missing.0, Some(2));
}
