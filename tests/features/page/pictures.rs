//! The pictures of the page in docs/images. `TCPLB_PICTURES=1 cargo test --test features page::pictures` makes them anew.

use crate::page::{open, wait_for_cell};
use serde_json::Value;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use std::{env, fs, thread};
use testkit::{Admin, At, Conn, Screen, Server, Tcplb, let_pass};

const WIDE: Screen = Screen { width: 1280, height: 860, dark: false };
const PICTURES: [&str; 5] = ["page-idle", "page-load", "page-down", "page-narrow", "page-dark"];

fn file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/images").join(format!("{name}.png"))
}

#[test]
fn the_pictures_of_the_page_are_there_and_small() {
    if env::var_os("TCPLB_PICTURES").is_some() {
        take();
    }
    for name in PICTURES {
        let picture = fs::read(file(name)).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert!(picture.starts_with(b"\x89PNG") && picture.len() < 250_000, "{name}: {} bytes", picture.len());
    }
}

/// Three pools, idle; under traffic for three minutes, and with one that drains; then one backend dies.
fn take() {
    fs::create_dir_all(file("").parent().unwrap()).unwrap();
    let names = ["web1", "web2", "web3", "web4", "db1", "db2", "db3", "cache1", "cache2"];
    let server = |(number, _)| Server::start(slow_by(Duration::from_millis([1, 2, 3, 30, 2, 3, 4, 1, 1][number])));
    let mut servers: Vec<Server> = names.iter().enumerate().map(server).collect();
    let backend = |number: usize, more: &str| {
        format!("[[pool.backend]]\nname = '{}'\naddress = '{}'\n{more}\n", names[number], servers[number].at())
    };
    let health = "[pool.health]\nkind = 'tcp'\ninterval = '1s'\ntimeout = '1s'\nfall = 1\n";
    let listener = |pool: &str| format!("[[listener]]\nname = '{pool}'\nbind = ['127.0.0.1:0']\npool = '{pool}'\n");
    let web: String = (0..4).map(|number| backend(number, "max_connections = 40")).collect();
    let db = backend(4, "") + &backend(5, "") + &backend(6, "backup = true");
    let cache = backend(7, "") + &backend(8, "");
    let pools = [("web", "least-connections", web), ("db", "round-robin", db), ("cache", "source-hash", cache)];
    let mut text = "[global]\nadmin = '127.0.0.1:0'\nmax_connections = 1000\n".to_owned();
    for (pool, algorithm, backends) in &pools {
        text +=
            &(listener(pool) + &format!("[[pool]]\nname = '{pool}'\nalgorithm = '{algorithm}'\n{health}{backends}"));
    }
    let directory = tempfile::tempdir().unwrap();
    let config = directory.path().join("tcplb.toml");
    fs::write(&config, &text).unwrap();
    let tcplb = Tcplb::from_file(&config).start();
    let admin = Admin::of(&tcplb);
    let Some(page) = open(admin, "", WIDE) else { return };
    wait_for_cell(&page, "cache2", "state", "up");
    page.shot(&file("page-idle"));

    let over = Arc::new(AtomicBool::new(false));
    let clients = [(0, 18, 25), (1, 4, 60), (2, 8, 8)].into_iter().flat_map(|(listener, clients, pause)| {
        (0..clients).map(move |number| (listener, Duration::from_millis(pause + 7 * number)))
    });
    let threads: Vec<_> = clients
        .map(|(listener, pause)| {
            let (at, over) = (tcplb.listening()[listener].clone(), over.clone());
            thread::spawn(move || visit(&at, pause, &over))
        })
        .collect();
    let quiet: Vec<Conn> = [100, 20, 40]
        .into_iter()
        .enumerate()
        .flat_map(|(listener, clients)| (0..clients).map(move |_| listener))
        .map(|listener| Conn::to(&tcplb.listening()[listener]))
        .collect();
    let full = |value: &Value| value["pools"][0]["history"].as_array().is_some_and(|history| history.len() >= 36);
    while !full(&admin.get("/v1/status").json(200)) {
        let_pass(Duration::from_secs(1));
    }
    admin.call("PATCH", "/v1/pools/cache/backends/cache2", "{\"state\":\"draining\"}").json(200);
    wait_for_cell(&page, "cache2", "state", "draining");
    page.shot(&file("page-load"));
    servers[5].stop();
    wait_for_cell(&page, "db2", "state", "down");
    page.wait("the verdict is drawn", "document.querySelector('#verdict .critical, #verdict .warning')");
    page.shot(&file("page-down"));
    for (name, hash, screen) in [
        ("page-narrow", "", Screen { width: 400, height: 860, dark: false }),
        ("page-dark", "#pool=web&backend=web4", Screen { dark: true, ..WIDE }),
    ] {
        let Some(page) = open(admin, hash, screen) else { return };
        wait_for_cell(&page, "db2", "state", "down");
        page.wait(
            "the connections are listed",
            "!location.hash || document.querySelectorAll('#panel tbody tr').length > 9",
        );
        page.shot(&file(name));
    }
    over.store(true, Ordering::Relaxed);
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    drop(quiet);
}

/// Answers each line after a while with a few kilobytes.
fn slow_by(time: Duration) -> impl Fn(Conn) -> io::Result<()> + Send + Sync + 'static {
    move |conn| {
        let conn = conn.patient();
        loop {
            conn.line()?;
            let_pass(time);
            (&conn).write_all(&[b'x'; 6000])?;
            (&conn).write_all(b"\n")?;
        }
    }
}

/// A client that comes, asks, leaves, and comes again.
fn visit(at: &At, pause: Duration, over: &AtomicBool) {
    while !over.load(Ordering::Relaxed) {
        let client = Conn::to(at);
        if (&client).write_all(b"hello\n").is_ok() {
            // A backend that dies takes its connections with it.
            let _ = client.line();
        }
        drop(client);
        let_pass(pause);
    }
}
