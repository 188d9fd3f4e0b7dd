//! The tables of the pages against the program: every flag and every key, every metric, every call and every event of the
//! admin API.

use super::pages::root;
use std::process::Command;
use std::{env, fs};
use tcplb::admin::metrics::families::{self, About};
use tcplb::config::settings;
use tcplb::events::Kind;
use tcplb::policy::balance::{Algorithm, REGISTRY};

const ADMIN_API: &str = include_str!("../../../docs/admin-api.md");

/// A page with the lines between `<!-- name -->` and `<!-- end -->` replaced.
fn with(page: &str, name: &str, lines: &str) -> String {
    let begin = format!("<!-- {name} -->\n");
    let (before, rest) = page.split_once(&begin).unwrap_or_else(|| panic!("the page lacks {begin}"));
    let (_, after) = rest.split_once("<!-- end -->").expect("an end");
    format!("{before}{begin}{}\n<!-- end -->{after}", lines.trim_end())
}

/// The algorithms as a table.
fn algorithms() -> String {
    let cell = |short: &&str| format!("`{short}`");
    let row = |row: &Algorithm| {
        let short: Vec<String> = row.short.iter().map(cell).collect();
        format!("| `{}` | {} | {} |\n", row.name, short.join(", "), row.picks)
    };
    format!("| name | short | picks |\n|---|---|---|\n{}", REGISTRY.iter().map(row).collect::<String>())
}

/// The families of metrics about one subject as a table.
fn metrics(families: &[About]) -> String {
    let row = |About { name, kind, labels, help, query }: &About| {
        let labels = if labels.is_empty() { String::new() } else { format!("{{{labels}}}") };
        let query = if query.is_empty() { String::new() } else { format!("`{query}`") };
        format!("| `{name}{labels}` | {kind} | {} | {query} |\n", help.trim_end_matches('.'))
    };
    let rows: String = families.iter().map(row).collect();
    format!("| metric | type | meaning | example |\n|---|---|---|---|\n{rows}")
}

/// Pages that the tables of settings, algorithms and metrics make. `TCPLB_WRITE=1 cargo test --test model generated` writes them.
#[test]
fn generated_pages_are_those_of_the_tables() {
    let output = Command::new(env!("CARGO_BIN_EXE_tcplb")).args(["config", "reference"]).output().expect("it runs");
    let reference = String::from_utf8(output.stdout).expect("a text");
    let (flags, keys) = reference.split_at(reference.find("### ").expect("a section"));
    let read = |name: &str| fs::read_to_string(root().join(name)).expect("a text");
    let page = with(&with(&read("docs/configuration.md"), "flags", flags), "keys", keys);
    let example = settings::reference::example(&read("config.example")).expect("a head and a tail");
    let choices = with(&read("docs/algorithms.md"), "registry", &algorithms());
    let families = families::tables()
        .iter()
        .fold(read("docs/metrics.md"), |page, (name, families)| with(&page, name, &metrics(families)));
    for (name, want) in [
        ("docs/configuration.md", page),
        ("config.example", example),
        ("docs/algorithms.md", choices),
        ("docs/metrics.md", families),
    ] {
        if env::var_os("TCPLB_WRITE").is_some() {
            fs::write(root().join(name), want).expect("it is written");
        } else {
            let same = read(name) == want;
            assert!(same, "{name} is not that of the tables: TCPLB_WRITE=1 cargo test --test model generated");
        }
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

#[test]
fn the_page_has_every_kind_of_event() {
    let rows = ADMIN_API.lines().skip_while(|line| !line.starts_with("| `kind` |")).skip(2);
    let cells = rows.take_while(|line| line.starts_with("| ")).filter_map(|line| line.split('|').nth(1));
    let on_page: Vec<&str> = cells.flat_map(|cell| cell.split(',')).map(|word| word.trim().trim_matches('`')).collect();
    assert_eq!(on_page, Kind::ALL.map(Kind::word), "the table of events in docs/admin-api.md");
}
