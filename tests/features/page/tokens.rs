//! The page where the API expects a token.

use crate::page::{DESK, row, started, wait_for_cell};
use testkit::{ConfigFile, Page, Server, peers};

#[test]
fn the_page_logs_in_and_the_read_token_changes_nothing() {
    let server = Server::start(peers::echo);
    let file = ConfigFile::over([server.at()]);
    let (token, read) = (file.beside("token", "all-of-it"), file.beside("read", "only-read"));
    let lines = [format!("admin_token_file = {token:?}"), format!("admin_read_token_file = {read:?}")];
    let (_tcplb, admin) = started(lines.iter().fold(file, |file, line| file.global(line)));
    let Some(page) = Page::open(&format!("http://{}/", admin.0), DESK) else { return };
    let log_in = |token: &str| {
        page.wait("it asks for a token", "document.activeElement.id === 'token'");
        page.enter(token);
        page.press("Enter");
    };
    page.wait("it asks for a token", "!document.getElementById('login').hidden");
    // No data before, and no call that must fail.
    assert!(!page.value("document.documentElement.innerHTML").as_str().unwrap().contains("127."));
    assert!(page.complaints().is_empty(), "{:#?}", page.complaints());
    assert_eq!(page.requests().iter().filter(|url| !url.starts_with("data:")).count(), 1);

    log_in("wrong");
    page.wait("it is refused", "document.getElementById('login-why').textContent.includes('not accept')");
    log_in("only-read");
    wait_for_cell(&page, "b1", "state", "up");
    page.wait("it says read-only", "!document.getElementById('reading').hidden");
    page.click(&format!("{} a", row("b1")));
    page.wait("the panel says why", "document.querySelector('#panel .actions').textContent.includes('reading only')");
    assert_eq!(page.value("document.querySelectorAll('#panel .actions:first-child button').length"), 0);
    page.press("Escape");
    page.press("d");
    assert_eq!(page.value("document.getElementById('ask').open"), false);

    page.click("#log-out");
    page.wait("it asks again", "!document.getElementById('login').hidden");
    let content = page.value("document.documentElement.innerHTML");
    assert!(!content.as_str().unwrap().contains("127."), "nothing of the state is left: {content}");
    log_in("all-of-it");
    wait_for_cell(&page, "b1", "state", "up");
    page.wait("it may change", "document.getElementById('reading').hidden");
    assert_eq!(page.value("sessionStorage.length + localStorage.length + document.cookie.length"), 0);
    page.value("location.reload()");
    page.wait("a reload forgets the token", "document.getElementById('login')?.hidden === false");
}
