//! The tables against the lists of the manuals, examples with what is expected of them, and any text at all.
//!
//! `tests/data/import/NAME.cfg` and `.conf` are examples of our own. Beside each stands what comes out: `NAME.toml`, and the
//! messages in `NAME.notes`. `TCPLB_WRITE=1 cargo test --lib import` writes both.

use super::haproxy::tables::{BIND, PROXY, SERVER};
use super::keywords::{Fate, Keyword};
use super::nginx::table;
use super::*;
use proptest::prelude::*;
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

fn data() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/import")
}

/// The lines of a list, without comments.
fn listed(file: &str) -> Vec<String> {
    let text = fs::read_to_string(data().join(file)).unwrap();
    text.lines().filter(|line| !line.starts_with('#') && !line.is_empty()).map(str::to_owned).collect()
}

fn names(table: &[Keyword]) -> BTreeSet<String> {
    let names: BTreeSet<String> = table.iter().map(|keyword| keyword.name.to_owned()).collect();
    assert_eq!(names.len(), table.len(), "a keyword stands twice");
    names
}

#[test]
fn every_keyword_of_haproxy_has_its_row_and_reason() {
    for (file, table) in
        [("haproxy-2.6-proxy.txt", PROXY), ("haproxy-2.6-bind.txt", BIND), ("haproxy-2.6-server.txt", SERVER)]
    {
        let listed: BTreeSet<String> = listed(file).into_iter().collect();
        assert!(listed.len() > 60, "{file}");
        assert_eq!(names(table), listed, "{file}");
        assert!(table.iter().all(|keyword| !keyword.why.is_empty()));
    }
}

#[test]
fn every_directive_of_nginx_has_its_row_and_reason() {
    let of = |is_core: bool| -> BTreeSet<String> {
        let listed = listed("nginx-directives.txt");
        let rows = listed.iter().filter_map(|line| line.split_once(' '));
        rows.filter(|(module, _)| (*module == "core") == is_core).map(|(_, name)| name.to_owned()).collect()
    };
    assert!(of(false).len() > 100);
    assert_eq!(names(table::CORE), of(true));
    assert_eq!(names(table::STREAM), of(false));
}

fn examples() -> Vec<PathBuf> {
    let files = fs::read_dir(data()).unwrap().map(|entry| entry.unwrap().path());
    let is_example = |path: &PathBuf| path.extension().is_some_and(|end| end == "cfg" || end == "conf");
    let mut files: Vec<PathBuf> = files.filter(is_example).collect();
    files.sort();
    files
}

#[test]
fn examples_become_what_stands_beside_them() {
    let write = std::env::var_os("TCPLB_WRITE").is_some();
    let mut wrong = Vec::new();
    for path in examples() {
        let text = fs::read_to_string(&path).unwrap();
        let name = path.file_name().unwrap().to_str().unwrap();
        let imported = import(&text, name, detect(&text).expect(name)).expect(name);
        crate::config::file::parse(&imported.toml, name).unwrap_or_else(|mistakes| panic!("{mistakes}"));
        let notes: String = imported.notes.iter().map(|note| format!("{name}:{note}\n")).collect();
        for (end, found) in [("toml", imported.toml), ("notes", notes)] {
            let beside = path.with_extension(end);
            if write {
                fs::write(&beside, &found).unwrap();
            }
            if fs::read_to_string(&beside).unwrap_or_default() != found {
                wrong.push(format!("{}: expected\n{found}", beside.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(examples().len() > 5);
}

/// So no keyword is kept in the table alone.
#[test]
fn every_kept_keyword_stands_in_an_example() {
    let texts: Vec<String> = examples().iter().map(|path| fs::read_to_string(path).unwrap()).collect();
    let of = |end: &str| -> String {
        let ends = examples().into_iter().zip(&texts).filter(|(path, _)| path.extension().is_some_and(|is| is == end));
        ends.map(|(_, text)| text.split_whitespace().collect::<Vec<_>>().join(" ")).collect::<Vec<_>>().join(" ")
    };
    let (haproxy, nginx) = (of("cfg"), of("conf"));
    let tables = [(PROXY, &haproxy), (BIND, &haproxy), (SERVER, &haproxy)];
    let tables = tables.into_iter().chain([(table::CORE, &nginx), (table::STREAM, &nginx), (table::SERVER, &nginx)]);
    let mut missing = Vec::new();
    for (table, text) in tables.chain([(table::LISTEN, &nginx)]) {
        let words = format!(" {text} ").replace(';', " ; ").replace('=', " = ");
        for keyword in table.iter().filter(|keyword| matches!(keyword.fate, Fate::Kept | Fate::Changed)) {
            if !words.contains(&format!(" {} ", keyword.name)) {
                missing.push(keyword.name);
            }
        }
    }
    assert!(missing.is_empty(), "no example has {missing:?}");
}

/// What is lost is reported, wherever it stands.
#[test]
fn every_lost_keyword_is_reported() {
    let lost = |keyword: &&Keyword| matches!(keyword.fate, Fate::Dropped | Fate::Refused);
    let kind = |keyword: &Keyword| if keyword.fate == Fate::Dropped { Kind::Dropped } else { Kind::Refused };
    for keyword in PROXY.iter().filter(lost) {
        let text = format!("listen a\nmode tcp\nbind :1\n{} x\nserver s 10.0.0.1:1 check\n", keyword.name);
        let notes = import(&text, "a", Dialect::Haproxy).unwrap().notes;
        let found = notes
            .iter()
            .any(|note| note.line == 4 && note.kind == kind(keyword) && note.text.starts_with(keyword.name));
        assert!(found, "{}: {notes:?}", keyword.name);
    }
    for (table, line, at) in [(BIND, "bind :1", 2), (SERVER, "bind :1\nserver s 10.0.0.1:1", 3)] {
        for keyword in table.iter().filter(lost) {
            let values = if keyword.values > 0 { " x" } else { "" };
            let text = format!("listen a\n{line} {}{values}\n", keyword.name);
            let notes = import(&text, "a", Dialect::Haproxy).unwrap().notes;
            let found = notes
                .iter()
                .any(|note| note.line == at && note.kind == kind(keyword) && note.text.starts_with(keyword.name));
            assert!(found, "{}: {notes:?}", keyword.name);
        }
    }
    for keyword in table::STREAM.iter().filter(lost) {
        let text = format!("server {{\nlisten 1;\n{} x;\nproxy_pass 10.0.0.1:1;\n}}\n", keyword.name);
        let notes = import(&text, "a", Dialect::Nginx).unwrap().notes;
        let found = notes
            .iter()
            .any(|note| note.line == 3 && note.kind == kind(keyword) && note.text.starts_with(keyword.name));
        assert!(found, "{}: {notes:?}", keyword.name);
    }
}

#[test]
fn a_text_shows_whose_it_is() {
    for (text, want) in [
        ("global\n  daemon\nlisten a\n  bind :1\n", Some(Dialect::Haproxy)),
        ("# stream {\nfrontend a\n  bind :1 # {\n", Some(Dialect::Haproxy)),
        ("stream {\n  server {\n    listen 1;\n    proxy_pass a:1;\n  }\n}\n", Some(Dialect::Nginx)),
        ("server {\n listen 1;\n}\n", Some(Dialect::Nginx)),
        ("upstream a { server b:1; }\nserver { listen 1; proxy_pass a; }\n", Some(Dialect::Nginx)),
        (
            "listen a\n bind :1\n acl b src 10.0.0.1\n tcp-request content reject if { always_true }\n",
            Some(Dialect::Haproxy),
        ),
        ("", None),
        ("hello\nworld\n", None),
        ("listen a\nfoo;\n", None),
    ] {
        assert_eq!(detect(text), want, "{text}");
    }
}

#[test]
fn mistakes_have_their_lines() {
    for (text, dialect, line, why) in [
        ("bind :1\n", Dialect::Haproxy, 1, "expected a section"),
        ("global\n\"\n", Dialect::Haproxy, 2, "a quote"),
        ("global\n.if x\n", Dialect::Haproxy, 2, ".endif"),
        ("global\n.endif\n", Dialect::Haproxy, 2, ".if"),
        ("stream {\n", Dialect::Nginx, 2, "expected }"),
    ] {
        let Mistakes(mistakes) = import(text, "a", dialect).unwrap_err();
        assert!(matches!(&mistakes[..], [(at, found)] if *at == line && found.contains(why)), "{text}: {mistakes:?}");
    }
}

/// Lines of known keywords with values that may or may not fit.
fn line(keywords: Vec<&'static str>) -> impl Strategy<Value = String> {
    let value = prop_oneof![
        Just("10.0.0.1:80"),
        Just(":80"),
        Just("[::]:81"),
        Just("5s"),
        Just("7"),
        Just("src"),
        Just("a"),
        Just("if"),
        Just("{"),
        Just("}"),
        Just("req_ssl_sni"),
        Just("-i"),
        Just("-m"),
        Just("end"),
        Just(".a.com"),
        Just("b.com"),
        Just("10.0.0.0/8"),
        Just("on"),
        Just("!"),
        Just("or"),
        Just("$x"),
        Just("\"${V}\""),
        Just("0"),
        Just("unix:/a"),
        Just("GET"),
        Just("/a"),
        Just("reject"),
        Just("accept"),
        Just("send"),
        Just("expect"),
        Just("string"),
        Just("'a b'"),
        Just("*.c.com"),
        Just("tcp"),
    ];
    (prop::sample::select(keywords), prop::collection::vec(value, 0..6))
        .prop_map(|(keyword, values)| format!("{keyword} {}", values.join(" ")))
}

fn is_toml(text: &str) -> bool {
    text.parse::<toml::Table>().is_ok()
}

proptest! {
    #[test]
    fn any_haproxy_cfg_gives_a_file_or_mistakes(
        sections in prop::collection::vec(
            (prop::sample::select(vec!["listen a", "frontend b", "backend c", "defaults", "defaults d from d", "global", "listen a from d"]),
             prop::collection::vec(line(PROXY.iter().map(|keyword| keyword.name).chain(["server s 10.0.0.1:1", "bind :1", "no"]).collect()), 0..8)),
            0..5)
    ) {
        let text: String = sections.iter().map(|(head, lines)| format!("{head}\n {}\n", lines.join("\n "))).collect();
        if let Ok(imported) = import(&text, "a\nb.cfg", Dialect::Haproxy) {
            prop_assert!(is_toml(&imported.toml), "{}\n{}", text, imported.toml);
        }
    }

    #[test]
    fn any_nginx_conf_gives_a_file_or_mistakes(
        blocks in prop::collection::vec(
            (prop::sample::select(vec!["server", "upstream a", "map $ssl_preread_server_name $x", "geo $x", "match a"]),
             prop::collection::vec(line(table::STREAM.iter().map(|keyword| keyword.name).chain(["listen 80", "default", "proxy_pass a"]).collect()), 0..8)),
            0..5)
    ) {
        let blocks: String = blocks
            .iter()
            .map(|(head, lines)| format!("{head} {{\n {};\n}}\n", lines.join(";\n ").replace(['{', '}'], "x")))
            .collect();
        let text = format!("stream {{\n{blocks}}}\n");
        if let Ok(imported) = import(&text, "a.conf", Dialect::Nginx) {
            prop_assert!(is_toml(&imported.toml), "{}\n{}", text, imported.toml);
        }
    }

    #[test]
    fn any_text_gives_a_file_or_mistakes(text in "(\\PC|[ \"'\\\\$#{};\n\t]|server|listen|frontend|bind|stream){0,60}") {
        let _ = detect(&text);
        for dialect in [Dialect::Haproxy, Dialect::Nginx] {
            if let Ok(imported) = import(&text, "a", dialect) {
                prop_assert!(is_toml(&imported.toml), "{}", imported.toml);
            }
        }
    }
}
