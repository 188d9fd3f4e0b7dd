//! Sources of backends on the page, and the origin of each backend.

use super::{DESK, assert_sound, open, row, started, wait_for_cell};
use std::fs;
use testkit::{ConfigFile, Server, peers};

#[test]
fn a_source_stands_below_its_pool_and_each_backend_shows_what_added_it() {
    let servers = [Server::start(peers::echo), Server::start(peers::echo)];
    let place = tempfile::tempdir().unwrap();
    let list = place.path().join("list.json");
    let write = |text: &str| {
        let new = place.path().join("new");
        fs::write(&new, text).unwrap();
        fs::rename(&new, &list).unwrap();
    };
    write(&format!("{{\"backend\":[{{\"name\":\"found\",\"address\":\"{}\"}}]}}", servers[1].at()));
    let source = format!("[[pool.discover]]\nkind = \"file\"\npath = \"{}\"\n", list.display());
    let (_tcplb, admin) = started(ConfigFile::over([servers[0].at()]).and(&source));
    let Some(page) = open(admin, "", DESK) else { return };
    wait_for_cell(&page, "found", "name", "discovery:file");
    let origin =
        |backend: &str| page.value(&format!("document.querySelector('{} .name small').textContent", row(backend)));
    assert_eq!(origin("b1"), "", "of the configuration file");
    let text = "document.querySelector('#pools tr.source').textContent";
    page.wait("the source shows", &format!("/1 backend, answered \\d+ s ago$/.test({text})"));
    assert!(page.text("#pools tr.source").starts_with("source file"), "{}", page.text("#pools tr.source"));
    assert_eq!(page.text("#pools tr.source small"), list.display().to_string());
    assert_eq!(page.value("document.querySelectorAll('#pools tr.source .icon.up').length"), 1);
    // It is the row below the pool.
    assert_eq!(page.value("document.querySelector('#pools tr.pool').nextSibling.className"), "source");

    write("no list");
    page.wait("the error shows", &format!("{text}.includes('1 backend, answered') && {text}.includes(', error: ')"));
    page.wait("with its sign", "document.querySelector('#pools tr.source .icon.degraded')");
    wait_for_cell(&page, "found", "state", "up");
    page.click(&format!("{} a", row("found")));
    page.wait("the panel names it", "document.getElementById('panel').textContent.includes('added bydiscovery:file')");
    page.press("Escape");
    page.click("#counts button[data-show=up]");
    page.wait("a filter leaves it out", "!document.querySelector('#pools tr.source')");
    assert_eq!(page.value("document.documentElement.scrollWidth - innerWidth"), 0);
    assert_sound(&page, admin);
}
