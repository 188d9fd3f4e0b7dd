//! The file's reader from outside: what is right reaches the model, what is wrong is told with its line.

mod corpus;
mod example;
mod generated;

use super::*;
use crate::base::{Address, Listen};
use crate::config::model::{Abandoned, AllDown, Backend, Engine, Global, Listener};
use crate::config::model::{
    Health, HealthKind, InitialHealth, NoBackend, OnDown, OnRemove, Pool, PrefixFile, ProxyVersion, Rate, SendProxy,
};
use std::sync::Arc;
use std::time::Duration;

/// The mistakes of a text in a file called `f`.
fn mistakes(text: &str) -> Vec<String> {
    parse(text, "f").map_or_else(|mistakes| mistakes.0, |_| Vec::new())
}

/// A listener and a pool, and more lines for each.
fn with(global: &str, listener: &str, pool: &str) -> String {
    format!("[global]\n{global}\n[[listener]]\n{listener}\nbind = ['127.0.0.1:0']\n[[pool]]\n{pool}\n")
}

#[test]
fn every_key_reaches_the_model() {
    let text = include_str!("../../../../tests/data/config/valid/every-key.toml");
    let model = parse(text, "f").unwrap().model;
    let seconds = Duration::from_secs;
    let global = Global {
        workers: 2,
        max_connections: Some(10_000),
        shutdown_delay: seconds(3),
        shutdown_timeout: seconds(7),
        dead_peer_timeout: seconds(45),
        socket_buffer: Some(crate::base::Size::kib(256)),
        relay: Engine::Copy,
        names: crate::config::model::Names::Required,
        admin: Some(Listen::parse("127.0.0.1:9900").unwrap()),
        admin_token_file: Some("/etc/tcplb/token".into()),
        user: Some("tcplb".to_owned()),
        group: Some("33".to_owned()),
        sandbox: crate::config::model::Sandbox::Off,
        access_log: Some(crate::config::model::LogTo::File("/var/log/tcplb/access.log".into())),
        log_format: crate::config::model::LogFormat::Json,
        metrics_per_backend: false,
    };
    assert_eq!(model.global, global);
    let listener = Listener {
        name: "web".to_owned(),
        bind: vec![Listen::parse(":8080").unwrap(), Listen::parse("unix:/run/web.sock").unwrap()],
        pool: "app".to_owned(),
        accept_proxy: true,
        trusted_proxies: vec!["10.0.0.0/8".parse().unwrap()],
        allow: vec!["0.0.0.0/0".parse().unwrap(), "::/0".parse().unwrap()],
        deny: vec!["192.0.2.0/24".parse().unwrap(), "198.51.100.7/32".parse().unwrap()],
        allow_file: Some(PrefixFile { path: "/etc/tcplb/allow".into(), prefixes: Arc::default() }),
        deny_file: Some(PrefixFile { path: "deny.txt".into(), prefixes: Arc::default() }),
        max_connections: Some(5000),
        max_connections_per_source: Some(100),
        connection_rate_per_source: Some(Rate { per_second: 50 }),
        limits_dry_run: true,
        socket_file: crate::config::model::SocketFile {
            mode: Some(0o640),
            owner: Some("root".to_owned()),
            group: Some("33".to_owned()),
        },
    };
    assert_eq!(model.listeners, [listener]);
    let kind = HealthKind::Http {
        path: "/healthz".to_owned(),
        host: Some("web.internal".to_owned()),
        expect: vec![(200, 299), (304, 304)],
    };
    let initial = InitialHealth::Down;
    let health =
        Health { kind, initial, port: Some(8081), interval: seconds(20), timeout: seconds(10), rise: 20, fall: 30 };
    let backend = Backend {
        name: "web1".to_owned(),
        address: Address::parse_backend("127.0.0.1:8081").unwrap(),
        weight: 5,
        max_connections: Some(200),
        backup: true,
        send_proxy: Some(SendProxy::Off),
    };
    let pool = Pool {
        name: "app".to_owned(),
        algorithm: crate::policy::balance::find("lc").unwrap(),
        connect_timeout: seconds(50),
        connect_attempts: 30,
        idle_timeout: seconds(2 * 3600),
        half_close_timeout: seconds(600),
        max_lifetime: Some(seconds(86_400)),
        on_down: OnDown::Reset,
        on_remove: OnRemove::Drain(seconds(30)),
        slow_start: seconds(10),
        no_backend: NoBackend::Wait(seconds(3)),
        abandoned: Abandoned::Drop,
        all_down: AllDown::TryAll,
        outlier_failures: 7,
        send_proxy: Some(ProxyVersion::V2),
        health,
        backends: vec![backend],
    };
    assert_eq!(model.pools, [pool]);
}

#[test]
fn what_a_file_leaves_out_is_the_model_s_default() {
    let parsed = parse("[[listener]]\nbind = [':80']\n[[pool]]\nbackend = [{ address = 'a:1' }]\n", "f").unwrap();
    assert!(parsed.workers_per_core);
    assert_eq!(parsed.model.global, Global::default());
    let bind = vec![Listen::parse(":80").unwrap()];
    assert_eq!(parsed.model.listeners, [Listener { bind, ..Listener::default() }]);
    let backends = vec![Backend::at(Address::parse_backend("a:1").unwrap())];
    assert_eq!(parsed.model.pools, [Pool { backends, ..Pool::default() }]);
    assert_eq!(parsed.clone().on(6).global.workers, 6);
    assert_eq!(parsed.on(1_000_000).global.workers, WORKERS_MAX);
    assert_eq!(parse(&with("workers = 3", "", ""), "f").unwrap().on(6).global.workers, 3);
}

#[test]
fn a_listener_without_a_pool_has_the_only_one() {
    let parsed = parse(&with("", "", "name = 'web'"), "f").unwrap();
    assert_eq!(parsed.model.listeners[0].pool, "web");
    let lines = mistakes(&with("", "", "name = 'web'\n[[pool]]\nname = 'db'"));
    assert_eq!(lines, ["f:3: listener `default` needs a pool: with several pools it must say which is its own"]);
}

#[test]
fn a_health_check_that_names_a_path_is_http_and_its_timeout_fits_its_interval() {
    let health = |lines: &str| {
        parse(&with("", "", &format!("[pool.health]\n{lines}")), "f").unwrap().model.pools[0].health.clone()
    };
    let http = |path: &str, expect| HealthKind::Http { path: path.to_owned(), host: None, expect };
    assert_eq!(health("path = '/up'").kind, http("/up", vec![(200, 200)]));
    assert_eq!(health("expect_status = ['404']").kind, http("/", vec![(404, 404)]));
    assert_eq!(health("kind = 'HTTP'").kind, http("/", vec![(200, 200)]));
    assert_eq!(health("kind = 'off'\ninterval = '9s'").kind, HealthKind::Off);
    assert_eq!(health("interval = '200ms'").timeout, Duration::from_millis(200));
    assert_eq!(health("interval = '10s'").timeout, Duration::from_secs(1));
}

/// A date is never a good value, so a key that is read says so; and whatever the tables name is read.
#[test]
fn every_key_of_the_tables_is_read_and_no_other_is() {
    let mut seen = 0;
    for (section, keys) in KEYS {
        for key in keys {
            let header = match section {
                "global" | "pool.health" => format!("[{section}]"),
                _ => format!("[[{section}]]"),
            };
            let rest = match section {
                "global" => "[[listener]]\nbind = ['127.0.0.1:0']\n[[pool]]\n",
                "listener" if *key == "bind" => "[[pool]]\n",
                "listener" => "bind = ['127.0.0.1:0']\n[[pool]]\n",
                "pool.backend" if *key != "address" => "address = 'a:1'\n[[listener]]\nbind = ['127.0.0.1:0']\n",
                _ => "[[listener]]\nbind = ['127.0.0.1:0']\n",
            };
            let before = if section.starts_with("pool.") { "[[pool]]" } else { "" };
            let lines = mistakes(&format!("{before}\n{header}\n{key} = 1979-05-27\n{rest}"));
            let line = if section == "pool.discover" { "f:2: " } else { "f:3: " };
            assert_eq!(lines.len(), 1, "{section}.{key}: {lines:?}");
            assert!(lines[0].starts_with(line) && !lines[0].contains("unknown key"), "{section}.{key}: {lines:?}");
            seen += 1;
        }
    }
    assert!(seen > 40, "{seen}");
}

#[test]
fn ten_mistakes_of_ten_kinds_are_told_at_once_each_with_its_line() {
    let text = "[global]\nworkers = 0\nshutdown_timeout = 30\n\n[[listener]]\nbind = [':80', '127.0.0.1:80']\npool = 'webs'\n\
                allow = ['10.0.0.0/33']\n[[pool]]\nname = 'web'\nalgorithm = 'leest-connections'\nidle_timout = '1h'\n\
                [pool.health]\nkind = 'http'\ntimeout = '5s'\n[[pool.backend]]\naddress = 'a:1'\nweight = 65536\n\
                [[pool.backend]]\naddress = 'a:1'\n";
    let lines = mistakes(text);
    for (line, want) in [
        (2, "workers: expected a number from 1 to 1024, got `0`"),
        (3, "shutdown_timeout: expected a number with a unit"),
        (6, "`127.0.0.1:80` overlaps `:80` on line 6"),
        (7, "no pool called `webs`, did you mean `web`?"),
        (8, "allow: expected a prefix"),
        (11, "did you mean `least-connections`?"),
        (12, "unknown key `idle_timout`, did you mean `idle_timeout`?"),
        (15, "timeout: expected at most the interval of 2s, got `5s`"),
        (18, "weight: expected a number from 0 to 65535, got `65536`"),
        (20, "a second backend called `a:1`, after the one on line 17"),
    ] {
        let found = lines.iter().filter(|told| told.starts_with(&format!("f:{line}: ")) && told.contains(want));
        assert_eq!(found.count(), 1, "{line}: {want}: {lines:#?}");
    }
    assert_eq!(lines.len(), 10, "{lines:#?}");
    let numbers: Vec<usize> = lines.iter().map(|line| line.split(':').nth(1).unwrap().parse().unwrap()).collect();
    assert!(numbers.is_sorted(), "{numbers:?}");
}

#[test]
fn what_is_lost_in_a_broken_line_is_not_reported_as_missing() {
    let lines = mistakes("[global]\nworkers = 0\n[[listener]]\nbind = [:80]\npool = 'web'\n[[pool]]\nname = web\n");
    assert_eq!(lines.len(), 3, "{lines:#?}");
    for (line, start) in lines.iter().zip(["f:2: workers: ", "f:4: not TOML: ", "f:7: not TOML: "]) {
        assert!(line.starts_with(start), "{lines:#?}");
    }
}

#[test]
fn a_message_stays_on_its_line() {
    let lines = mistakes(&with("", "", "name = \"a\\u001b[31m\\nb\""));
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert!(lines[0].starts_with("f:7: name: ") && lines[0].contains("`a\\u{1b}[31m\\nb`"), "{lines:?}");
}
