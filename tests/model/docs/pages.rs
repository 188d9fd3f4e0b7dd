//! The pages as text: their fenced blocks, links and TOML.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// A page for users.
pub struct Page {
    /// From the repository's root, like `docs/health.md`.
    pub name: String,
    /// All of it.
    pub text: String,
}

/// A fenced block.
pub struct Block {
    /// `PAGE:LINE` of its fence.
    pub at: String,
    /// What follows the backticks, like `toml pool`.
    pub kind: String,
    /// What stands between the fences.
    pub text: String,
}

pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Everything that users read.
pub fn pages() -> Vec<Page> {
    let markdown = |path: &PathBuf| path.extension().is_some_and(|extension| extension == "md");
    let directories = ["", "docs", "bench", "fuzz"].into_iter().flat_map(|directory| {
        fs::read_dir(root().join(directory)).expect("a directory").map(|entry| entry.expect("an entry").path())
    });
    let mut pages: Vec<Page> = directories
        .filter(markdown)
        .map(|path| Page {
            name: path.strip_prefix(root()).expect("ours").display().to_string(),
            text: fs::read_to_string(&path).expect("a text"),
        })
        .collect();
    pages.sort_by(|a, b| a.name.cmp(&b.name));
    pages
}

/// The fenced blocks of a page.
pub fn blocks(page: &Page) -> Vec<Block> {
    let (mut blocks, mut open) = (Vec::new(), None::<Block>);
    for (index, line) in page.text.lines().enumerate() {
        let fence = line.trim_start().strip_prefix("```");
        match (fence, &mut open) {
            (Some(kind), None) => {
                let at = format!("{}:{}", page.name, index + 1);
                open = Some(Block { at, kind: kind.trim().to_owned(), text: String::new() });
            }
            (Some(_), Some(_)) => blocks.extend(open.take()),
            (None, Some(block)) => block.text.extend([line, "\n"]),
            (None, None) => {}
        }
    }
    assert!(open.is_none(), "{}: a block has no end", page.name);
    blocks
}

/// A page without its fenced blocks and `code`.
fn prose(page: &Page) -> String {
    let mut fenced = false;
    let lines = page.text.lines().filter(|line| {
        let fence = line.trim_start().starts_with("```");
        fenced ^= fence;
        !fenced && !fence
    });
    lines.map(|line| line.split('`').step_by(2).collect::<Vec<_>>().join(" ") + "\n").collect()
}

/// The anchor that a heading gets.
fn anchor(heading: &str) -> String {
    let kept = heading.trim().to_lowercase();
    let kept = kept.chars().filter(|letter| letter.is_alphanumeric() || matches!(letter, ' ' | '-' | '_'));
    kept.map(|letter| if letter == ' ' { '-' } else { letter }).collect()
}

fn anchors(text: &str) -> BTreeSet<String> {
    text.lines().filter(|line| line.starts_with('#')).map(|line| anchor(line.trim_start_matches('#'))).collect()
}

/// A fragment that says where it belongs, made whole.
fn whole(kind: &str, text: &str) -> Option<String> {
    const LISTENER: &str = "[[listener]]\nbind = [':0']\n";
    const POOL: &str = "[[pool]]\n";
    Some(match kind {
        "toml" => text.to_owned(),
        "toml global" => format!("{text}\n{LISTENER}{POOL}"),
        "toml listener" => format!("{POOL}{LISTENER}{text}"),
        "toml pool" => format!("{LISTENER}{POOL}{text}"),
        _ => return None,
    })
}

#[test]
fn every_toml_block_is_valid() {
    let mut count = 0;
    for block in pages().iter().flat_map(blocks).filter(|block| block.kind.starts_with("toml")) {
        if block.kind == "toml broken" {
            let parsed = tcplb::config::file::parse(&block.text, &block.at);
            assert!(parsed.is_err(), "{}: it is called broken and is valid", block.at);
            continue;
        }
        let text = whole(&block.kind, &block.text).unwrap_or_else(|| {
            panic!(
                "{}: expected toml, toml global, toml listener, toml pool or toml broken, got {}",
                block.at, block.kind
            )
        });
        tcplb::config::file::parse(&text, &block.at).unwrap_or_else(|mistakes| panic!("{mistakes}"));
        count += 1;
    }
    assert!(count >= 5, "only {count} blocks were found");
}

#[test]
fn every_relative_link_leads_somewhere() {
    let (mut count, mut wrong) = (0, Vec::new());
    for page in pages() {
        let here = Path::new(&page.name).parent().expect("a directory");
        let prose = prose(&page);
        let links = prose.split("](").skip(1).filter_map(|rest| rest.split(')').next());
        for link in links.filter(|link| !link.contains("://")) {
            count += 1;
            let (path, fragment) = link.split_once('#').unwrap_or((link, ""));
            let target = if path.is_empty() { root().join(&page.name) } else { root().join(here).join(path) };
            if !target.exists() {
                wrong.push(format!("{}: {link}: there is no such file", page.name));
            } else if !fragment.is_empty() {
                let text = fs::read_to_string(&target).expect("a text");
                if !anchors(&text).contains(fragment) {
                    wrong.push(format!("{}: {link}: there is no such heading", page.name));
                }
            }
        }
    }
    assert!(count > 50, "only {count} links were found");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_page_is_linked_from_readme() {
    let readme = fs::read_to_string(root().join("README.md")).expect("a text");
    for page in pages().iter().filter(|page| page.name.starts_with("docs/")) {
        assert!(readme.contains(&format!("]({})", page.name)), "README does not link {}", page.name);
    }
}

#[test]
fn headings_become_anchors_and_code_is_no_prose() {
    assert_eq!(anchor(" The client's address: PROXY protocol"), "the-clients-address-proxy-protocol");
    assert_eq!(anchor(" `[pool.health]`"), "poolhealth");
    let page = Page { name: "p".to_owned(), text: "a [b](c) `[d](e)`\n```sh\n[f](g)\n```\nh\n".to_owned() };
    assert_eq!(prose(&page), "a [b](c)  \nh\n");
    let blocks = blocks(&page);
    assert_eq!((blocks.len(), &*blocks[0].kind, &*blocks[0].text, &*blocks[0].at), (1, "sh", "[f](g)\n", "p:2"));
}
