//! `config.example` is true: it can be loaded, what it calls a default is the default, and no key is missing from it.

use super::super::*;

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

#[test]
fn what_it_calls_not_yet_is_refused_as_such() {
    let mut count = 0;
    for (at, line) in EXAMPLE.lines().enumerate() {
        let Some(used) = line.trim_start().strip_prefix("#- ") else { continue };
        // The others are inside `[[pool.discover]]`, which is refused as a whole; or they say what the mark means.
        if !used.starts_with("[[pool.discover]]") {
            continue;
        }
        let lines: Vec<&str> =
            EXAMPLE.lines().enumerate().map(|(here, line)| if here == at { used } else { line }).collect();
        let Err(Mistakes(mistakes)) = parse(&lines.join("\n"), "f") else { panic!("{used} is taken for good") };
        let start = format!("f:{}: ", at + 1);
        assert_eq!(mistakes.len(), 1, "{mistakes:?}");
        assert!(mistakes[0].starts_with(&start) && mistakes[0].contains("is not in this version yet"), "{mistakes:?}");
        count += 1;
    }
    assert_eq!(count, 1);
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
            let key = (section.name.to_owned(), row.about.key.to_owned());
            assert!(found.contains(&key), "{key:?} is not explained");
            count += 1;
        }
    }
    assert!(count > 40, "{count}");
}
