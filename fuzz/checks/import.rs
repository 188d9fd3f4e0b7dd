//! Any text as an haproxy.cfg and as an nginx.conf: a file in TOML with messages, or mistakes that each name a line.

use tcplb::import::{Dialect, Mistakes, detect, import};

/// Fails if a promise is broken.
pub fn check(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let _ = detect(text);
    let lines = text.lines().count() + 1;
    for dialect in [Dialect::Haproxy, Dialect::Nginx] {
        match import(text, "f", dialect) {
            Ok(imported) => {
                let table =
                    imported.toml.parse::<toml::Table>().unwrap_or_else(|why| panic!("{why}\n{}", imported.toml));
                let listeners = table.get("listener").and_then(toml::Value::as_array).map_or(0, Vec::len);
                assert_eq!(listeners, imported.listeners, "{}", imported.toml);
                for note in &imported.notes {
                    assert!((1..=lines).contains(&note.line) && !note.text.contains('\n'), "{note}");
                }
                assert!(imported.notes.is_sorted_by_key(|note| note.line));
            }
            Err(Mistakes(mistakes)) => {
                assert!(!mistakes.is_empty());
                for (line, why) in &mistakes {
                    assert!((1..=lines).contains(line) && !why.contains('\n'), "{line}: {why}");
                }
            }
        }
    }
}
