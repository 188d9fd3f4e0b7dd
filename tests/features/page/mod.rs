//! The status page in a headless Chromium, over a real tcplb.

mod crowd;
mod pictures;
mod sources;
mod tokens;

use serde_json::{Value, json};
use testkit::{Admin, ConfigFile, Ending, Page, Screen, Server, Started, eventually, peers};

const DESK: Screen = Screen { width: 1440, height: 900, dark: false };

/// A tcplb over these servers, which are named b1, b2 and so on, with its API.
fn balanced<'a>(servers: impl IntoIterator<Item = &'a Server>) -> (Started, Admin) {
    started(ConfigFile::over(servers.into_iter().map(Server::at)))
}

fn started(file: ConfigFile) -> (Started, Admin) {
    let health = ["kind = \"tcp\"", "interval = \"300ms\"", "timeout = \"300ms\"", "fall = 1", "rise = 1"];
    let file = health.iter().fold(file.global("admin = \"127.0.0.1:0\""), |file, line| file.health(line));
    let tcplb = file.start();
    let admin = Admin::of(&tcplb);
    (tcplb, admin)
}

#[track_caller]
fn open(admin: Admin, hash: &str, screen: Screen) -> Option<Page> {
    let page = Page::open(&format!("http://{}/{hash}", admin.0), screen)?;
    page.wait("the page shows the state", "!document.getElementById('app').hidden");
    Some(page)
}

/// The row of a backend.
fn row(backend: &str) -> String {
    format!("#pools tr[data-backend=\"{backend}\"]")
}

/// Waits until a cell of a backend's row shows this.
#[track_caller]
fn wait_for_cell(page: &Page, backend: &str, column: &str, text: &str) {
    let cell = format!("document.querySelector('{} .{column}')", row(backend));
    page.wait(&format!("{column} of {backend} is {text}"), &format!("{cell}?.textContent.includes({text:?})"));
}

/// Nothing is wrong in the console, and every request goes to tcplb.
#[track_caller]
fn assert_sound(page: &Page, admin: Admin) {
    let complaints = page.complaints();
    assert!(complaints.is_empty(), "{complaints:#?}");
    let own = format!("http://{}/", admin.0);
    let requests = page.requests();
    assert!(!requests.is_empty());
    // The icon is drawn by the page itself.
    let outside: Vec<_> = requests.iter().filter(|url| !url.starts_with(&own) && !url.starts_with("data:")).collect();
    assert!(outside.is_empty(), "{outside:?}");
}

/// A screen reader finds the landmarks and the tables, and a name for everything that can be operated.
#[track_caller]
fn assert_readable(page: &Page) {
    let tree = page.call("Accessibility.getFullAXTree", json!({}));
    let nodes = tree["nodes"].as_array().expect("an array").iter().filter(|node| node["ignored"] == false);
    let text = |node: &Value, field: &str| node[field]["value"].as_str().unwrap_or_default().to_owned();
    let nodes: Vec<_> = nodes.map(|node| (text(node, "role"), text(node, "name"))).collect();
    for role in ["banner", "main", "complementary", "status", "table", "columnheader", "rowheader", "cell"] {
        assert!(nodes.iter().any(|(found, _)| found == role), "no {role} in {nodes:#?}");
    }
    let operated = ["button", "link", "searchbox", "textbox", "combobox", "table", "complementary"];
    let nameless: Vec<_> =
        nodes.iter().filter(|(role, name)| operated.contains(&role.as_str()) && name.trim().is_empty()).collect();
    assert!(nameless.is_empty(), "{nameless:?}");
}

#[test]
fn it_loads_and_follows_traffic_and_a_backend_that_dies() {
    let mut servers = [Server::start(peers::echo), Server::start(peers::echo)];
    let (tcplb, admin) = balanced(&servers);
    let Some(page) = open(admin, "", DESK) else { return };
    for backend in ["b1", "b2"] {
        wait_for_cell(&page, backend, "state", "up");
    }
    assert_eq!(page.value("document.querySelector('tr.backend .reason').textContent"), "");
    let clients: Vec<_> = (0..6).map(|_| tcplb.connect()).collect();
    for backend in ["b1", "b2"] {
        wait_for_cell(&page, backend, "conns", "3");
    }
    assert_eq!(page.text("#counts button[data-show=up] b"), "2");
    assert_eq!(page.text("#limits dt"), "connections");
    page.wait("the limits are drawn", "document.querySelector('#limits dd').textContent.startsWith('6')");

    page.wait("the rate is drawn", "parseFloat(document.querySelector('tr.pool .rate').textContent) > 0");
    page.wait("a line is drawn", "document.querySelector('tr.pool polyline').getAttribute('points').length > 8");

    servers[1].stop();
    wait_for_cell(&page, "b2", "state", "down");
    page.wait("the verdict names it", "document.getElementById('verdict').textContent.includes('1 of 2 down, b2')");
    page.wait("an event says it", "/default\\/b2 *up → down/.test(document.getElementById('events').textContent)");
    page.wait("so does the title", "document.title.includes('b2')");
    let word = format!("document.querySelector('{} .state .down b')", row("b2"));
    let (colour, red) = (format!("getComputedStyle({word}).color"), "rgb(192, 34, 47)");
    assert_eq!(page.value(&colour), red);
    // Colour is not the only signal, and the worst comes first.
    assert_eq!(page.value(&format!("{word}.textContent")), "down");
    assert_eq!(page.value("document.querySelector('#pools tr.backend').dataset.backend"), "b2");
    assert_eq!(page.text("#pools tr.pool .state b"), "degraded");
    page.wait("a count filters", "document.querySelector('#counts button[data-show=down] b').textContent === '1'");
    page.click("#counts button[data-show=down]");
    page.wait("one backend is left", "document.querySelectorAll('#pools tr.backend').length === 1");
    assert_eq!(page.value("location.hash"), "#show=down");
    drop(clients);
    assert_sound(&page, admin);
}

#[test]
fn a_drain_asks_first_and_keys_lead_there() {
    let servers = [Server::start(peers::echo), Server::start(peers::echo)];
    let (tcplb, admin) = balanced(&servers);
    let clients: Vec<_> = (0..2).map(|_| tcplb.connect()).collect();
    let Some(page) = open(admin, "", DESK) else { return };
    wait_for_cell(&page, "b1", "conns", "1");
    // To the first backend; into its panel; out again.
    page.press("j");
    assert_eq!(page.value("document.activeElement.textContent"), "b1");
    page.press("Enter");
    page.wait("its panel opens", "document.getElementById('panel-title').textContent === 'b1'");
    assert_eq!(page.value("location.hash"), "#pool=default&backend=b1");
    page.press("Escape");
    page.wait("the panel closes", "document.getElementById('panel').hidden");
    assert_eq!(page.value("document.activeElement.textContent"), "b1", "the focus is back");

    let state = || admin.get("/v1/pools/default/backends").json(200)[0]["state"].as_str().map(str::to_owned);
    page.press("d");
    page.wait("it asks", "document.getElementById('ask').open");
    assert!(page.text("#ask-text").contains("1 open connection "), "{}", page.text("#ask-text"));
    // Cancel has the focus: a slip changes nothing.
    page.press("Enter");
    page.wait("it is cancelled", "!document.getElementById('ask').open");
    assert_eq!(state().as_deref(), Some("up"));
    page.press("d");
    page.click("#ask-yes");
    wait_for_cell(&page, "b1", "state", "draining");
    wait_for_cell(&page, "b1", "state", "1 connection left");
    assert_eq!(state().as_deref(), Some("draining"));
    page.wait("the dialog is gone", "!document.getElementById('ask').open");

    page.press("w");
    page.wait("it asks for the weight", "document.activeElement.id === 'ask-weight'");
    page.value("document.activeElement.select()");
    page.enter("7");
    page.press("Enter");
    eventually("the weight is changed", || admin.get("/v1/pools/default/backends").json(200)[0]["weight"] == 7);
    page.wait("the dialog is gone", "!document.getElementById('ask').open");
    page.press("e");
    page.click("#ask-yes");
    wait_for_cell(&page, "b1", "state", "up");
    page.press("?");
    page.wait("the keys are listed", "document.getElementById('keys').open");
    assert!(page.text("#keys dl").contains("drain the backend"));
    drop(clients);
    assert_sound(&page, admin);
}

#[test]
fn a_backend_leads_to_its_connections_and_each_can_be_closed() {
    let servers = [Server::start(peers::echo), Server::start(peers::echo)];
    let (tcplb, admin) = balanced(&servers);
    let clients: Vec<_> = (0..6).map(|_| tcplb.connect()).collect();
    let Some(page) = open(admin, "", DESK) else { return };
    wait_for_cell(&page, "b1", "conns", "3");
    page.click(&format!("{} a", row("b1")));
    let rows = "document.querySelectorAll('#panel tbody tr').length";
    page.wait("its connections are listed", &format!("{rows} === 3"));
    let first = page.text("#panel tbody a");
    page.click("#panel tbody a");
    page.wait("it is explained", "document.querySelector('#outcome .outcome')?.textContent.includes(' goes to b')");
    assert_eq!(page.value("location.hash"), "#pool=default&backend=b1&explain=1&client=127.0.0.1&listener=default");
    assert_eq!(page.value("document.querySelectorAll('#outcome tbody tr').length"), 2);
    assert!(page.text("#outcome .facts").contains("weighted-round-robin"));
    page.value("history.back()");
    page.wait("the connections are back", &format!("{rows} === 3"));
    assert_eq!(page.text("#panel tbody a"), first);
    let client = clients.iter().position(|client| client.local().to_string() == first).expect("one of the clients");
    page.click("#panel tbody button");
    page.wait("it asks", "document.getElementById('ask').open");
    let question = page.text("#ask-text");
    assert!(question.contains("1 open connection: ") && question.contains(&first), "{question}");
    page.click("#ask-yes");
    assert_eq!(clients[client].ending(), Ending::Reset);
    page.wait("it has left the list", &format!("{rows} === 2"));
    wait_for_cell(&page, "b1", "conns", "2");

    page.wait("all can be closed", "!document.querySelector('#panel .all').hidden");
    page.click("#panel .all");
    page.wait("it asks", "document.getElementById('ask').open");
    assert!(page.text("#ask-text").contains("2 open connections"), "{}", page.text("#ask-text"));
    page.click("#ask-yes");
    page.wait("the list is empty", "document.getElementById('panel').textContent.includes('No client is connected')");
    wait_for_cell(&page, "b1", "conns", "0");
    wait_for_cell(&page, "b2", "conns", "3");
    assert_sound(&page, admin);
}

#[test]
fn the_address_keeps_the_view() {
    let servers = [Server::start(peers::echo), Server::start(peers::echo)];
    let (_tcplb, admin) = balanced(&servers);
    let hash = "#show=up&find=b2&sort=rate&pool=default&backend=b2";
    let Some(page) = open(admin, hash, DESK) else { return };
    page.wait("one backend is shown", "document.querySelectorAll('#pools tr.backend').length === 1");
    assert_eq!(page.value("document.getElementById('find').value"), "b2");
    assert_eq!(page.text("#panel-title"), "b2");
    assert_eq!(page.value("document.querySelector('#pools th[aria-sort]').textContent"), "conn/s");
    assert_eq!(page.value("document.querySelector('#counts button[aria-pressed=true]').dataset.show"), "up");
    page.click("#close-panel");
    assert_eq!(page.value("location.hash"), "#show=up&find=b2&sort=rate");
    page.value("history.back()");
    page.wait("the panel is back", "!document.getElementById('panel').hidden");
    // A name is data.
    page.value("go({ find: '<img src=x onerror=alert(1)>', backend: '', pool: '<b>' })");
    page.wait("nothing matches", "!document.getElementById('nothing').hidden");
    assert_eq!(page.value("document.querySelectorAll('img').length"), 0);
    assert_sound(&page, admin);
}

#[test]
fn no_head_of_a_column_is_cut_off() {
    let server = Server::start(peers::echo);
    let (_tcplb, admin) = balanced([&server]);
    for width in [1440, 1200, 800] {
        let Some(page) = open(admin, "", Screen { width, ..DESK }) else { return };
        wait_for_cell(&page, "b1", "state", "up");
        let cut = "[...document.querySelectorAll('thead th *')].filter((one) => one.scrollWidth > one.clientWidth).map((one) => one.textContent).join()";
        assert_eq!(page.value(cut), "", "at {width} pixels");
    }
}

#[test]
fn a_narrow_screen_has_no_horizontal_scroll() {
    let servers = [Server::start(peers::echo), Server::start(peers::echo)];
    let long = "a-name-of-a-backend-that-is-much-longer-than-the-narrow-screen-has-room-for";
    let file = ConfigFile::over([servers[0].at()]).backend(servers[1].at(), &format!("name = \"{long}\""));
    let (_tcplb, admin) = started(file);
    let Some(page) = open(admin, "", Screen { width: 400, height: 800, dark: true }) else { return };
    wait_for_cell(&page, long, "state", "up");
    let overflow = "document.documentElement.scrollWidth - innerWidth";
    assert_eq!(page.value(overflow), 0);
    page.click(&format!("{} a", row(long)));
    page.wait("the panel is open", "!document.getElementById('panel').hidden");
    assert_eq!(page.value(overflow), 0);
    assert_eq!(page.value("getComputedStyle(document.body).backgroundColor"), "rgb(14, 17, 22)", "it is dark");
    assert_readable(&page);
    assert_sound(&page, admin);
}

#[test]
fn it_says_so_when_tcplb_does_not_answer() {
    let server = Server::start(peers::echo);
    let (tcplb, admin) = balanced([&server]);
    let Some(page) = open(admin, "", DESK) else { return };
    drop(tcplb);
    page.wait("the page says so", "!document.getElementById('silent').hidden");
    page.wait("it counts", "/has not answered for [1-9]/.test(document.getElementById('silent').textContent)");
    assert_eq!(page.value("document.body.classList.contains('stale')"), true);
}
