//! The tables of the pages against the program: every key with its default and what a reload does with it, every metric, every
//! call of the admin API.

use super::pages::root;
use crate::sources::sources;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use tcplb::config::diff::{self, What};
use tcplb::config::file::{self, KEYS};
use tcplb::config::model::Model;

const CONFIGURATION: &str = include_str!("../../../docs/configuration.md");
const EXAMPLE: &str = include_str!("../../../config.example");
const METRICS: &str = include_str!("../../../docs/metrics.md");
const ADMIN_API: &str = include_str!("../../../docs/admin-api.md");

/// What the page says of a key.
struct Row {
    default: String,
    reload: String,
}

/// Section and key, as in `pool.health` and `port`.
type Key = (String, String);

/// The rows of the page's tables of keys.
fn rows() -> BTreeMap<Key, Row> {
    let (mut section, mut rows) = (String::new(), BTreeMap::new());
    for line in CONFIGURATION.lines() {
        if let Some(heading) = line.strip_prefix("### `[") {
            section = heading.trim_matches(['[', ']', '`']).to_owned();
        } else if let Some(row) = line.strip_prefix("| `").filter(|_| !section.is_empty()) {
            let cells: Vec<&str> = row.trim_end_matches('|').split(" | ").map(str::trim).collect();
            let [key, _, default, reload] = cells[..] else { panic!("expected four cells in {line}") };
            let row = Row { default: default.to_owned(), reload: reload.trim_matches('|').trim().to_owned() };
            let twice = rows.insert((section.clone(), key.trim_end_matches('`').to_owned()), row);
            assert!(twice.is_none(), "{section} {key} stands there twice");
        }
    }
    rows
}

/// The keys that `tcplb` reads. A section within a section is no key of its own.
fn keys() -> BTreeSet<Key> {
    let is_section = |section: &str, key: &str| KEYS.iter().any(|(other, _)| *other == format!("{section}.{key}"));
    let all = KEYS.iter().flat_map(|(section, keys)| keys.iter().map(move |key| (*section, *key)));
    all.filter(|(section, key)| !is_section(section, key)).map(|(section, key)| (section.into(), key.into())).collect()
}

/// The settings of config.example behind one of its marks. Where a key stands twice, the first one counts.
fn example(mark: &str) -> BTreeMap<Key, String> {
    let (mut section, mut found) = (String::new(), BTreeMap::new());
    for line in EXAMPLE.lines().map(str::trim_start) {
        if let Some(header) = line.strip_prefix('[') {
            section = header.trim_matches(['[', ']']).to_owned();
        } else if let Some((key, value)) = line.strip_prefix(mark).and_then(|rest| rest.split_once(" = "))
            && key.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_')
        {
            found.entry((section.clone(), key.to_owned())).or_insert_with(|| value.to_owned());
        }
    }
    found
}

#[test]
fn the_page_has_every_key_and_no_other() {
    let (rows, keys) = (rows(), keys());
    let missing: Vec<&Key> = keys.iter().filter(|key| !rows.contains_key(key)).collect();
    let invented: Vec<&Key> = rows.keys().filter(|key| !keys.contains(key)).collect();
    assert!(missing.is_empty() && invented.is_empty(), "docs/configuration.md lacks {missing:?}, invents {invented:?}");
}

#[test]
fn the_page_states_the_defaults() {
    let (rows, defaults) = (rows(), example("#"));
    assert!(defaults.len() >= 20, "only {} defaults were found", defaults.len());
    for (key, default) in defaults {
        let row = rows.get(&key).unwrap_or_else(|| panic!("docs/configuration.md lacks {key:?}"));
        let states = row.default.starts_with(&format!("`{default}`"));
        assert!(states, "{key:?} in docs/configuration.md: expected the default {default}, got {}", row.default);
    }
}

fn with_global(line: &str) -> Option<Model> {
    let rest = "[[listener]]\nbind = [':0']\n[[pool]]\nbackend = [{ address = '127.0.0.1:1' }]\n";
    file::parse(&format!("[global]\n{line}\n{rest}"), "f").ok().map(|parsed| parsed.model)
}

/// `restart` in the table is what a reload reports of that key.
#[test]
fn the_page_states_what_needs_a_restart() {
    const VALUES: [&str; 12] = [
        "7",
        "true",
        "false",
        "'7s'",
        "'copy'",
        "'off'",
        "'json'",
        "'later'",
        "'required'",
        "'64KiB'",
        "'/a'",
        "'127.0.0.1:2'",
    ];
    for ((section, key), row) in rows().iter().filter(|((section, _), _)| section == "global") {
        // A group goes with a user only.
        let beside = if key == "group" { "user = 'u'\n" } else { "" };
        let base = with_global(beside).expect("a file");
        let what = VALUES.iter().find_map(|value| {
            let changes = diff::between(&base, &with_global(&format!("{beside}{key} = {value}"))?);
            changes.0.into_iter().map(|change| change.what).next()
        });
        let reload = match what {
            Some(What::Changed(_)) => "yes",
            Some(What::NeedsRestart(_)) => "restart",
            _ => panic!("none of {VALUES:?} is another value of {section} {key}: add one that is"),
        };
        assert_eq!(row.reload, reload, "what a reload does with {key} of [global] in docs/configuration.md");
    }
    for ((section, key), row) in rows().iter().filter(|((section, _), _)| section != "global") {
        let fits = if key == "name" { ["new", ""] } else { ["yes", ""] };
        assert!(fits.contains(&row.reload.as_str()), "{section} {key}: {}", row.reload);
    }
}

/// The names that begin with a prefix, in a text.
fn names(text: &str, prefix: &str) -> BTreeSet<String> {
    let part = |letter: char| letter.is_ascii_lowercase() || letter.is_ascii_digit() || letter == '_';
    let words = text.split(|letter| !part(letter)).filter(|word| word.starts_with(prefix) && *word != prefix);
    words.map(str::to_owned).collect()
}

#[test]
fn the_page_has_every_metric_and_no_other() {
    let files = sources(&root().join("src/admin")).into_iter();
    let files = files.filter(|path| path.to_str().is_some_and(|path| path.contains("metrics")));
    let code: String = files.map(|path| fs::read_to_string(path).expect("a text")).collect();
    // Only literals: `"tcplb_…"`.
    let literals: String = code.split('"').skip(1).step_by(2).collect::<Vec<_>>().join(" ");
    let table: String =
        METRICS.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next()).collect::<Vec<_>>().join(" ");
    for prefix in ["tcplb_", "process_"] {
        let (exported, shown) = (names(&literals, prefix), names(&table, prefix));
        assert!(exported.len() >= 7, "only {exported:?} were found");
        assert_eq!(exported, shown, "left: exported, right: in docs/metrics.md");
    }
    // The queries use metrics that exist.
    let known = names(&table, "tcplb_");
    for name in names(METRICS, "tcplb_") {
        let name = name.trim_end_matches("_bucket");
        assert!(known.contains(name), "docs/metrics.md queries {name}");
    }
}

#[test]
fn the_page_has_every_call_of_the_admin_api() {
    for route in tcplb::admin::routes::ROUTES {
        let row = ADMIN_API.lines().filter(|line| line.starts_with("| `")).find(|line| {
            let call = line.trim_start_matches("| ").split(" | ").next().unwrap_or_default();
            call.contains(route.method) && call.ends_with(&format!(" {}`", route.path))
        });
        assert!(row.is_some(), "docs/admin-api.md lacks {} {}", route.method, route.path);
    }
}
