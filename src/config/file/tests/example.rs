//! `config.example` is true: it can be loaded, what it calls a default is the default, and no key is missing from it.

use super::super::*;
use crate::discovery;

const EXAMPLE: &str = include_str!("../../../../config.example");

/// The example with the lines behind this mark in force.
fn with(mark: &str) -> (String, usize) {
    let mut count = 0;
    let mut text = String::new();
    for line in EXAMPLE.lines() {
        let setting = line.trim_start().strip_prefix(mark).filter(|rest| is_setting(rest) && !of_others(rest));
        count += usize::from(setting.is_some());
        text.push_str(setting.unwrap_or(line));
        text.push('\n');
    }
    (text, count)
}

/// `key = value`, not prose.
fn is_setting(line: &str) -> bool {
    let key = line.split(" = ").next().filter(|key| *key != line);
    key.is_some_and(|key| key.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_'))
}

/// Whether only a listener at a socket file, or a script, has such a setting. The example has neither.
fn of_others(line: &str) -> bool {
    ["mode = ", "owner = ", "group = \"www", "steps = "].iter().any(|start| line.starts_with(start))
}

#[test]
fn it_can_be_loaded() {
    let model = parse(EXAMPLE, "config.example").unwrap_or_else(|mistakes| panic!("{mistakes}")).model;
    assert_eq!((model.listeners.len(), model.pools.len()), (2, 2));
}

#[test]
fn the_defaults_it_states_are_the_defaults() {
    let (stated, count) = with("#");
    assert!(count >= 20, "only {count} defaults found");
    let stated = parse(&stated, "config.example").unwrap_or_else(|mistakes| panic!("{mistakes}"));
    assert_eq!(Ok(stated), parse(EXAMPLE, "config.example"));
}

#[test]
fn its_examples_of_settings_without_a_default_are_valid() {
    let (shown, count) = with("#: ");
    assert!(count >= 10, "only {count} examples found");
    let shown = parse(&shown, "config.example").unwrap_or_else(|mistakes| panic!("{mistakes}"));
    assert_ne!(Ok(shown), parse(EXAMPLE, "config.example"));
}

/// Some keys of a kind exclude each other, and some need each other. So each is valid beside those that the kind requires,
/// or beside all of them.
#[test]
fn each_key_of_its_sources_is_valid() {
    let used = |line: &str| line.trim_start().strip_prefix("#- ").map(str::to_owned);
    let lines: Vec<(usize, String)> =
        EXAMPLE.lines().enumerate().filter_map(|(at, line)| Some((at, used(line)?))).collect();
    let (mut kind, mut count) = (None, 0);
    for (at, line) in &lines {
        if let Some(name) = line.strip_prefix("kind = ") {
            kind = discovery::KINDS.iter().find(|kind| name.trim_matches('"') == kind.name).map(|kind| (*at, kind));
        }
        let Some((from, kind)) = kind.filter(|_| is_setting(line)) else { continue };
        let end =
            lines.iter().find(|(here, line)| *here > from && line.starts_with("[[")).map_or(usize::MAX, |end| end.0);
        let is_wrong = |beside: &dyn Fn(&str) -> bool| {
            let text = EXAMPLE.lines().enumerate().map(|(here, line)| match used(line) {
                Some(used) if [from - 1, from, *at].contains(&here) => used,
                Some(used) if (from..end).contains(&here) && beside(&used) => used,
                _ => line.to_owned(),
            });
            let text: Vec<String> = text.collect();
            let mistakes = parse(&text.join("\n"), "f").map_or_else(|mistakes| mistakes.0, |_| Vec::new());
            mistakes.into_iter().find(|mistake| mistake.starts_with(&format!("f:{}: ", at + 1)))
        };
        let required = |line: &str| kind.required().any(|key| line.starts_with(&format!("{} = ", key.name)));
        if let Some(mistake) = is_wrong(&required) {
            assert_eq!(is_wrong(&|_| true), None, "{mistake}");
        }
        count += 1;
    }
    assert!(count > discovery::KINDS.len(), "{count}");
}

#[test]
fn its_route_is_valid() {
    let mut section = String::new();
    let lines = EXAMPLE.lines().map(|line| match line.trim_start().strip_prefix("#- ") {
        Some(used) if used.starts_with('[') => {
            section = used.to_owned();
            if used == "[[listener.route]]" { used } else { line }
        }
        Some(used) if section == "[[listener.route]]" => used,
        _ => line,
    });
    let text = lines.collect::<Vec<_>>().join("\n");
    let model = parse(&text, "f").unwrap_or_else(|mistakes| panic!("{mistakes}")).model;
    let routes = &model.listeners[0].routes;
    assert!(routes.len() == 1 && routes[0].name.is_some() && !routes[0].conditions.sni.is_empty(), "{routes:?}");
}

#[test]
fn every_key_stands_in_its_section() {
    let mut section = String::new();
    let mut found: Vec<(String, String)> = Vec::new();
    for line in EXAMPLE.lines() {
        let line = line.trim_start();
        let line = line.strip_prefix('#').map_or(line, |rest| rest.trim_start_matches([':', '-']).trim_start());
        if let Some(header) = line.strip_prefix('[') {
            section = header.trim_matches(['[', ']']).to_owned();
        } else if is_setting(line) {
            let key = line.split(" = ").next().unwrap_or_default();
            found.push((section.clone(), key.to_owned()));
        }
    }
    let mut count = 0;
    for section in settings::sections() {
        for row in &section.rows {
            // Each kind of source has further keys of one section.
            let name = if section.source_kind().is_some() { "pool.discover" } else { section.name.as_str() };
            let key = (name.to_owned(), row.about.key.to_owned());
            assert!(found.contains(&key), "{key:?} is not explained");
            count += 1;
        }
    }
    assert!(count > 40, "{count}");
}
