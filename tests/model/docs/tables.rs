//! The tables of the pages against the program: every flag and every key, every metric, every call of the admin API.

use super::pages::root;
use std::collections::BTreeSet;
use std::process::Command;
use std::{env, fs};
use tcplb::config::settings;
use tcplb::policy::balance::{Algorithm, REGISTRY};
use testkit::sources;

const METRICS: &str = include_str!("../../../docs/metrics.md");
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

/// Pages that the tables of settings and algorithms make. `TCPLB_WRITE=1 cargo test --test model generated` writes them.
#[test]
fn generated_pages_are_those_of_the_tables() {
    let output = Command::new(env!("CARGO_BIN_EXE_tcplb")).args(["config", "reference"]).output().expect("it runs");
    let reference = String::from_utf8(output.stdout).expect("a text");
    let (flags, keys) = reference.split_at(reference.find("### ").expect("a section"));
    let read = |name: &str| fs::read_to_string(root().join(name)).expect("a text");
    let page = with(&with(&read("docs/configuration.md"), "flags", flags), "keys", keys);
    let example = settings::reference::example(&read("config.example")).expect("a head and a tail");
    let choices = with(&read("docs/algorithms.md"), "registry", &algorithms());
    for (name, want) in [("docs/configuration.md", page), ("config.example", example), ("docs/algorithms.md", choices)]
    {
        if env::var_os("TCPLB_WRITE").is_some() {
            fs::write(root().join(name), want).expect("it is written");
        } else {
            let same = read(name) == want;
            assert!(same, "{name} is not that of the tables: TCPLB_WRITE=1 cargo test --test model generated");
        }
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
