//! The file's reader from outside: what is right reaches the model, what is wrong is reported with its line.

mod corpus;
mod example;
mod generated;

use super::*;
use crate::base::{Address, Listen};
use crate::config::model::{
    Backend, Global, HealthKind, InitialHealth, Listener, LogTo, NoBackend, OnRemove, Pool, PrefixFile, ProxyVersion,
    Rate, Route, SendProxy, SocketFile, Step,
};
use crate::config::settings::Row;
use crate::config::settings::kinds::Values;
use crate::config::text;
use crate::discovery::KINDS;
use crate::policy::limit::Enforcement;
use crate::policy::routes::{Conditions, NamePattern};
use crate::proto::sniff::Protocol;
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

/// What a key needs beside it.
fn beside(key: &str) -> String {
    if let Some(rest) = key.strip_prefix("pool.discover.") {
        return beside_in_source(rest);
    }
    let line = match key {
        "global.group" => "user = 'u'",
        "global.admin_read_token_file" => "admin_token_file = '/t'",
        "global.log_events" => "log_format = 'json'",
        "listener.mode" | "listener.owner" | "listener.group" => "bind = ['unix:/run/web.sock']",
        "pool.health.path" | "pool.health.host" | "pool.health.expect_status" => "kind = 'http'",
        "pool.health.timeout" => "interval = '9s'",
        "listener.bind" | "pool.backend.address" => "",
        "listener.route.pool" => "source = ['10.0.0.0/8']",
        _ if key.starts_with("listener.route.") => "source = ['10.0.0.0/8']\npool = 'default'",
        _ if key.starts_with("listener.") => "bind = [':8080']",
        _ if key.starts_with("pool.backend.") => "address = 'a:1'",
        _ => "",
    };
    line.to_owned()
}

/// A source with what it must have, for `key`, or for `kind.key`.
fn beside_in_source(key: &str) -> String {
    let Some((name, of_kind)) = key.split_once('.') else { return beside_in_source("file.") };
    let kind = KINDS.iter().find(|kind| kind.name == name).unwrap();
    // Some keys go together.
    let together: &[&str] = match (name, of_kind) {
        ("etcd", "user" | "password_file") => &["user", "password_file"],
        ("etcd", "cert_file" | "key_file") => &["cert_file", "key_file"],
        ("kubernetes", "api") => &["namespace"],
        ("dns", "srv") => &["srv"],
        ("dns", _) => &["name"],
        _ => &[],
    };
    let keys = kind.keys.iter().filter(|key| key.is_required() || together.contains(&key.name));
    let lines = keys.map(|key| format!("{} = {}", key.name, key.example));
    [format!("kind = '{name}'")].into_iter().chain(lines).collect::<Vec<_>>().join("\n")
}

/// A file with these lines in this section.
fn file_with(section: &str, lines: &str) -> String {
    let section = if section.starts_with("pool.discover.") { "pool.discover" } else { section };
    let of = |name: &str, other: &'static str| if section == name { lines.to_owned() } else { other.to_owned() };
    let route = if section == "listener.route" { format!("[[listener.route]]\n{lines}\n") } else { String::new() };
    format!(
        "[global]\n{}\n[[listener]]\n{}\n{route}[[pool]]\n{}\n[pool.health]\n{}\n[[pool.backend]]\n{}\n[[pool.discover]]\n{}\n",
        of("global", ""),
        of("listener", "bind = [':8080']"),
        of("pool", ""),
        of("pool.health", ""),
        of("pool.backend", "address = 'a:1'"),
        of("pool.discover", "kind = 'file'\npath = '/b'"),
    )
}

/// Values of a key, as TOML.
fn values(row: &Row) -> Vec<String> {
    match row.values {
        Values::Words(words) => words().iter().map(|word| format!("\"{word}\"")).collect(),
        Values::Number(min, max) => vec![min.to_string(), max.to_string()],
        Values::Switch => vec!["true".to_owned(), "false".to_owned()],
        Values::Other { .. } => vec![row.example().to_owned()],
    }
}

#[test]
fn events_of_open_connections_need_json_and_each_event_stands_once() {
    let log = |lines: &str| mistakes(&with(&format!("access_log = '-'\n{lines}"), "", ""));
    let only_json = |format: &str| {
        [format!(
            "f:3: log_events: only JSON has lines of open connections: expected log_format = \"json\" beside it, got `{format}`"
        )]
    };
    assert_eq!(log("log_events = ['open', 'close']"), only_json("text"));
    assert_eq!(log("log_events = ['interval 60s']\nlog_format = 'haproxy'"), only_json("haproxy"));
    assert_eq!(log("log_events = ['close']\nlog_format = 'haproxy'"), [""; 0]);
    assert_eq!(log("log_events = ['open', 'interval 1s']\nlog_format = 'json'"), [""; 0]);
    let once = ["f:3: log_events: expected each event once"];
    assert_eq!(log("log_events = ['close', 'close']"), once);
    assert_eq!(log("log_events = ['interval 60s', 'interval 5m']\nlog_format = 'json'"), once);
    let none = ["f:3: log_events: expected at least one of open, interval 60s or close, got an empty list"];
    assert_eq!(log("log_events = []"), none);
}

/// Every value of every key is read, and printed as it was; no other setting changes.
#[test]
fn each_key_is_read_and_printed_and_sets_nothing_else() {
    let mut seen = 0;
    for section in settings::sections() {
        for row in &section.rows {
            let (name, key) = (row.about.key, format!("{}.{}", section.name, row.about.key));
            // Another pool would have to exist for the first three, and a listener of the kernel for the next one. A preset sets
            // other keys; each kind of source needs other keys.
            let others = [
                "listener.pool",
                "listener.silent_pool",
                "listener.route.pool",
                "pool.approximate",
                "pool.preset",
                "pool.discover.kind",
            ];
            if others.contains(&key.as_str()) {
                continue;
            }
            let base = match key.as_str() {
                "listener.bind" => "bind = [':1']".to_owned(),
                "pool.backend.address" => "address = 'b:2'".to_owned(),
                _ => beside(&key),
            };
            let printed = |lines: &str| {
                let text = file_with(&section.name, lines);
                text::print(&parse(&text, "f").unwrap_or_else(|mistakes| panic!("{mistakes}\n{text}")).on(7))
            };
            // Two kinds of probes need another key.
            for value in values(row).into_iter().filter(|value| !["\"agent\"", "\"script\""].contains(&value.as_str()))
            {
                let line = format!("{name} = {value}");
                let before = printed(&base);
                let of_key = |line: &&str| line.starts_with(&format!("{name} = "));
                let base: Vec<&str> = base.lines().filter(|line| !of_key(line)).chain([line.as_str()]).collect();
                let after = printed(&base.join("\n"));
                assert!(after.lines().any(|other| other == line), "{key}: {line} is not in\n{after}");
                // A kind brings what an HTTP probe has, and a name is used elsewhere.
                let mine: &[&str] = match key.as_str() {
                    "pool.health.kind" => &["kind", "path", "expect_status"],
                    "pool.health.steps" => &["kind", "steps"],
                    "pool.name" => &["name", "pool"],
                    "pool.backend.address" => &["address", "name"],
                    _ => &[name],
                };
                let others = |text: &str| {
                    let lines =
                        text.lines().filter(|line| !mine.iter().any(|key| line.starts_with(&format!("{key} = "))));
                    lines.map(str::to_owned).collect::<Vec<_>>()
                };
                assert_eq!(others(&before), others(&after), "{key} = {value}");
                seen += 1;
            }
        }
    }
    assert!(seen > 80, "{seen}");
}

/// Values that the model holds in another form.
#[test]
fn what_is_written_is_what_the_model_holds() {
    let text = include_str!("../../../../tests/data/config/valid/every-key.toml");
    let Model { global, listeners, pools } = parse(text, "f").unwrap().model;
    assert_eq!((global.workers, global.max_connections), (2, Some(10_000)));
    assert_eq!(global.access_log, Some(LogTo::File("/var/log/tcplb/access.log".into())));
    let listener = &listeners[0];
    assert_eq!(listener.bind, [":8080", "unix:/run/web.sock"].map(|at| Listen::parse(at).unwrap()));
    assert_eq!(listener.deny, ["192.0.2.0/24", "198.51.100.7/32"].map(|prefix| prefix.parse().unwrap()));
    assert_eq!(listener.allow_file, Some(PrefixFile { path: "/etc/tcplb/allow".into(), prefixes: Arc::default() }));
    assert_eq!(
        (listener.connection_rate_per_source, listener.limits),
        (Some(Rate { per_second: 50 }), Enforcement::DryRun)
    );
    let account = |name: &str| Some(name.to_owned());
    let file = SocketFile { mode: Some(0o640), owner: account("root"), group: account("33") };
    assert_eq!(listener.socket_file, file);
    let (pool, seconds) = (&pools[0], Duration::from_secs);
    assert_eq!((pool.send_proxy, pool.max_lifetime), (Some(ProxyVersion::V2), Some(seconds(86_400))));
    assert_eq!((pool.on_remove, pool.no_backend), (OnRemove::Drain(seconds(30)), NoBackend::Wait(seconds(3))));
    let (path, host, expect) = ("/healthz".to_owned(), Some("web.internal".to_owned()), vec![(200, 299), (304, 304)]);
    assert_eq!(pool.health.kind, HealthKind::Http { path, host, expect });
    assert_eq!((pool.health.port, pool.health.initial), (Some(8081), InitialHealth::Down));
    assert_eq!((pool.backends[0].weight, pool.backends[0].send_proxy), (5, Some(SendProxy::Off)));
}

#[test]
fn a_script_sends_and_expects_bytes_whatever_quotes_its_escapes_stand_in() {
    let steps = |lines: &str| {
        let text = with("", "", &format!("[pool.health]\n{lines}"));
        let HealthKind::Script { steps } = parse(&text, "f").unwrap().model.pools[0].health.kind.clone() else {
            panic!("{lines}")
        };
        steps
    };
    let want = [Step::Send(b"PING\r\n".to_vec()), Step::Expect(b"+PONG\0".to_vec())];
    assert_eq!(steps(r#"steps = [{ send = "PING\r\n" }, { expect = "+PONG\u0000" }]"#), want);
    assert_eq!(steps(r#"steps = [{ send = 'PING\r\n' }, { expect = '+PONG\x00' }]"#), want);
    assert_eq!(steps(r#"steps = [{ send = "PING\\r\\n" }, { expect = "+PONG\\x00" }]"#), want);
    let [Step::ExpectRegex(pattern)] = &steps(r#"steps = [{ expect_regex = '(?i)role:MASTER\r\n|\xff' }]"#)[..] else {
        panic!()
    };
    assert_eq!(pattern.shortest_in(b"a\nrole:master\r\nb"), Some(15));
    assert_eq!((pattern.shortest_in(b"\x00\xff"), pattern.shortest_in(b"role:slave")), (Some(2), None));
}

#[test]
fn words_of_other_balancers_lead_to_routes() {
    for (listener, ours) in [
        ("use_backend = 'db'", "route"),
        ("inspect-delay = '5s'", "sniff_timeout"),
        ("[[listener.route]]\npool = 'default'\nHostSNI = ['a']\nsni = ['a']", "sni"),
    ] {
        let text = format!("[[listener]]\nbind = [':1']\n{listener}\n[[pool]]\n");
        let text = mistakes(&text).join("\n");
        assert!(text.contains(&format!("did you mean `{ours}`?")), "{listener}: {text}");
    }
}

#[test]
fn words_of_other_balancers_lead_to_sources_and_probes() {
    for (pool, ours) in [
        ("server-template = 'srv 3'", "discover"),
        ("resolvers = ['a']", "discover"),
        ("resolver = 'a'", "discover"),
        ("agent-check = true", "health"),
        ("[pool.health]\nagent-port = 80", "port"),
        ("[pool.health]\nkind = 'agent-check'", "agent"),
        ("[pool.health]\nkind = 'tcp-check'", "script"),
        ("[pool.health]\nkind = 'httpchk'", "http"),
    ] {
        let text = mistakes(&with("", "", pool)).join("\n");
        assert!(text.contains(&format!("did you mean `{ours}`?")), "{pool}: {text}");
    }
}

#[test]
fn routes_are_read_in_their_order() {
    let routes = "[[listener.route]]\nname = 'db'\nprotocol = 'TLS'\nsni = ['DB.example.com.', '*.api.example.com']\n\
                  alpn = ['h2', 'http/1.1']\nsource = ['10.0.0.7/8', '::ffff:192.0.2.1']\npool = 'db'\n\
                  [[listener.route]]\nprotocol = 'ssh'\npool = 'web'\n";
    let text = format!(
        "[[listener]]\nbind = [':1']\npool = 'web'\nsniff_timeout = '1s'\nsilent_pool = 'db'\n{routes}[[pool]]\nname = 'web'\n\
         [[pool]]\nname = 'db'\n"
    );
    let model = parse(&text, "f").unwrap_or_else(|mistakes| panic!("{mistakes}")).model;
    let listener = &model.listeners[0];
    assert_eq!((listener.sniff_timeout, listener.silent_pool.as_deref()), (Duration::from_secs(1), Some("db")));
    assert_eq!(listener.pools().collect::<Vec<_>>(), ["web", "db", "db", "web"]);
    let conditions = Conditions {
        protocol: Some(Protocol::Tls),
        sni: vec![NamePattern::Exact("db.example.com".into()), NamePattern::Below("api.example.com".into())],
        alpn: vec!["h2".to_owned(), "http/1.1".to_owned()],
        source: ["10.0.0.0/8", "192.0.2.1/32"].map(|net| net.parse().unwrap()).to_vec(),
    };
    let ssh = Conditions { protocol: Some(Protocol::Ssh), ..Conditions::default() };
    let route = |name: Option<&str>, conditions, pool: &str| Route {
        name: name.map(str::to_owned),
        conditions,
        pool: pool.to_owned(),
    };
    assert_eq!(listener.routes, [route(Some("db"), conditions, "db"), route(None, ssh, "web")]);
    assert_eq!(parse(&text::print(&model), "printed").map(|parsed| parsed.model), Ok(model));
}

#[test]
fn the_second_source_of_a_kind_has_a_number() {
    let source = "[[pool.discover]]\nkind = 'file'\npath = '/b'\n";
    let model = parse(&with("", "", &source.repeat(3)), "f").unwrap().model;
    let labels: Vec<String> = model.pools[0].sources().into_iter().map(|(label, _)| label).collect();
    assert_eq!(labels, ["file", "file-2", "file-3"]);
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
    assert_eq!(
        (health("kind = 'agent'\nport = 9").kind, health("kind = 'agent'\nport = 9").port),
        (HealthKind::Agent, Some(9))
    );
    assert_eq!(health("interval = '200ms'").timeout, Duration::from_millis(200));
    assert_eq!(health("interval = '10s'").timeout, Duration::from_secs(1));
}

/// A date is never a good value, so a key that is read says so.
#[test]
fn every_key_of_the_tables_is_read() {
    let mut seen = 0;
    for section in settings::sections() {
        for row in &section.rows {
            let key = format!("{}.{}", section.name, row.about.key);
            let beside = beside(&key);
            let others = beside.lines().filter(|line| !line.starts_with(&format!("{} = ", row.about.key)));
            let lines = others.collect::<Vec<_>>().join("\n") + &format!("\n{} = 1979-05-27", row.about.key);
            let text = file_with(&section.name, &lines);
            let lines = mistakes(&text);
            let line = text.lines().position(|line| line.contains("1979")).unwrap() + 1;
            assert_eq!(lines.len(), 1, "{key}: {lines:?}");
            assert!(lines[0].starts_with(&format!("f:{line}: {}: expected ", row.about.key)), "{key}: {lines:?}");
            seen += 1;
        }
    }
    assert!(seen > 50, "{seen}");
}

#[test]
fn ten_mistakes_of_ten_kinds_are_reported_at_once_each_with_its_line() {
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
        let found = lines.iter().filter(|found| found.starts_with(&format!("f:{line}: ")) && found.contains(want));
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
