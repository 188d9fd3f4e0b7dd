//! Every counter against what clients and backends did. A sample that nothing here explains fails the test, and so does a
//! counter that nothing here moves.

use crate::admin::exposition::{Parsed, parse};
use crate::admin::support::Balancer;
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read, Write};
use tcplb::admin::metrics::families;
use testkit::{At, Conn, Ending, Server, eventually, refusing};

/// Counters that the test can't move, each with the reason.
const UNMOVED: [(&str, &str); 10] = [
    ("tcplb_connections_untracked_total", "the table of sources has tens of thousands of places"),
    ("tcplb_access_log_lost_total", "`access_log` tests it with a full disk"),
    ("tcplb_log_lines_lost_total", "`log` tests it with a reader that stalls"),
    ("tcplb_discovery_errors_total", "`discovery::control` tests it: no client moves it"),
    ("tcplb_backend_retransmits_total", "loopback loses nothing"),
    ("tcplb_kernel_changes_total", "tests/machine/kernel tests it, which needs root"),
    ("tcplb_kernel_failures_total", "tests/machine/kernel tests it, which needs root"),
    ("tcplb_kernel_change_seconds", "tests/machine/kernel tests it, which needs root"),
    ("tcplb_upgrade_total", "`upgrade` tests it with a new process"),
    ("tcplb_upgrade_pause_seconds", "`upgrade` tests it with a new process"),
];

/// Turns of the loop are no business of clients.
const UNKNOWN: [&str; 1] = ["tcplb_worker_loop_lag_seconds"];

/// More than a relay buffer or a pipe holds.
const BLOB: usize = 300_000;

/// A name and its labels.
type Series = (String, BTreeMap<String, String>);

fn series(name: &str, labels: &[(&str, &str)]) -> Series {
    (name.to_owned(), labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect())
}

/// What every counter has to show.
#[derive(Default)]
struct Counted {
    /// With a series for each backend that is there.
    each: BTreeMap<Series, f64>,
    /// Without: those of removed backends too.
    sums: BTreeMap<Series, f64>,
}

/// A connection that ended, as its client knows.
struct Ended<'a> {
    /// Listener and pool have the same name.
    pool: &'a str,
    /// Empty without one.
    backend: &'a str,
    reason: &'a str,
    up: usize,
    down: usize,
}

impl Counted {
    fn add(&mut self, name: &str, labels: &[(&str, &str)], count: usize) {
        let each = series(name, labels);
        let (mut sum, count) = (each.clone(), count as f64);
        sum.1.remove("backend");
        *self.each.entry(each).or_default() += count;
        *self.sums.entry(sum).or_default() += count;
    }

    /// A client that a backend got.
    fn served(&mut self, ended: &Ended<'_>) {
        let Ended { pool, backend, reason, up, down } = *ended;
        let of = [("pool", pool), ("backend", backend)];
        self.ended(ended);
        self.add("tcplb_backend_connections_total", &of, 1);
        self.add("tcplb_backend_connect_duration_seconds_count", &of, 1);
        self.add("tcplb_backend_bytes_total", &[&of[..], &[("direction", "to_backend")]].concat(), up);
        self.add("tcplb_backend_bytes_total", &[&of[..], &[("direction", "to_client")]].concat(), down);
        self.add("tcplb_backend_first_byte_seconds_count", &of, usize::from(down > 0));
        self.add("tcplb_backend_resets_before_byte_total", &of, usize::from(reason == "backend_reset" && down == 0));
    }

    /// A client that was refused.
    fn refused(&mut self, pool: &str, reason: &str) {
        self.ended(&Ended { pool, backend: "", reason, up: 0, down: 0 });
        self.add("tcplb_connections_refused_total", &[("listener", pool), ("reason", reason)], 1);
    }

    fn ended(&mut self, &Ended { pool, backend, reason, .. }: &Ended<'_>) {
        self.add("tcplb_connections_accepted_total", &[("listener", pool)], 1);
        self.add("tcplb_connection_duration_seconds_count", &[("pool", pool)], 1);
        let labels = [("pool", pool), ("backend", backend), ("reason", reason)];
        self.add("tcplb_connections_closed_total", &labels, 1);
    }

    fn failed(&mut self, pool: &str, backend: &str, reason: &str) {
        let labels = [("pool", pool), ("backend", backend), ("reason", reason)];
        self.add("tcplb_backend_connect_failures_total", &labels, 1);
    }

    /// Its series are gone, and begin anew if it comes back.
    fn removed(&mut self, pool: &str, backend: &str) {
        let is_of = |labels: &BTreeMap<String, String>, name: &str, value: &str| {
            labels.get(name).is_some_and(|label| label == value)
        };
        self.each.retain(|(_, labels), _| !(is_of(labels, "pool", pool) && is_of(labels, "backend", backend)));
    }

    /// Compares every counter that there is; gives the families that have counted something.
    #[track_caller]
    fn check(&self, parsed: &Parsed, want: &BTreeMap<Series, f64>, what: &str) -> BTreeSet<String> {
        parsed.check_histograms();
        let mut moved = BTreeSet::new();
        let mut wrong = Vec::new();
        for ((name, labels), value) in &parsed.samples {
            let family = name.strip_suffix("_count").unwrap_or(name);
            let is_counter = parsed.kinds.get(name).is_some_and(|kind| kind == "counter");
            let is_count = name.ends_with("_count") && parsed.kinds.get(family).is_some_and(|kind| kind == "histogram");
            let is_ours = name.starts_with("tcplb_") && !UNKNOWN.contains(&family);
            if !is_ours || !(is_counter || is_count) {
                continue;
            }
            let expected = want.get(&(name.clone(), labels.clone())).copied().unwrap_or_default();
            if expected != *value {
                wrong.push(format!("{name}{labels:?} is {value} instead of {expected}"));
            }
            if *value > 0.0 {
                moved.insert(family.to_owned());
            }
        }
        let absent = want.iter().filter(|(key, count)| **count > 0.0 && !parsed.samples.contains_key(*key));
        wrong.extend(absent.map(|(key, count)| format!("{key:?} is absent instead of {count}")));
        assert!(wrong.is_empty(), "{what}:\n{}", wrong.join("\n"));
        moved
    }
}

/// Obeys commands of four bytes. Keeps what it holds.
fn obeys(kept: &Mutex<Vec<Conn>>, conn: Conn) -> io::Result<()> {
    let mut stream = &conn;
    loop {
        let mut command = [0; 4];
        stream.read_exact(&mut command)?;
        match &command {
            b"ping" | b"SSH-" => stream.write_all(b"pong")?,
            b"blob" => {
                let mut blob = vec![0; BLOB];
                stream.read_exact(&mut blob)?;
                stream.write_all(&blob)?;
            }
            b"bye!" => {
                conn.finish();
                return conn.try_ending().map(drop);
            }
            b"rst0" => {
                conn.reset();
                return Ok(());
            }
            b"hold" => {
                kept.lock().push(conn);
                return Ok(());
            }
            other => panic!("no command: {other:?}"),
        }
    }
}

fn obedient() -> Server {
    let kept = Mutex::new(Vec::new());
    Server::start(move |conn| obeys(&kept, conn))
}

/// A listener and its pool, of the same name.
fn section(name: &str, listener: &str, pool: &str, backends: &[(&str, &At, &str)]) -> String {
    let health = if pool.contains("[pool.health]") { "" } else { "[pool.health]\nkind = 'off'\n" };
    let backend =
        |(name, at, more): &(&str, &At, &str)| format!("[[pool.backend]]\nname = '{name}'\naddress = '{at}'\n{more}\n");
    let backends: String = backends.iter().map(backend).collect();
    format!(
        "[[listener]]\nname = '{name}'\nbind = ['127.0.0.1:0']\npool = '{name}'\n{listener}\n\
         [[pool]]\nname = '{name}'\n{pool}\n{health}{backends}"
    )
}

struct Setup {
    balancer: Balancer,
    counted: Counted,
}

impl Setup {
    fn client(&self, listener: &str) -> Conn {
        Conn::to(&self.address(listener))
    }

    fn address(&self, listener: &str) -> At {
        let status = self.balancer.status();
        let listeners = status["listeners"].as_array().expect("listeners");
        let found = listeners.iter().find(|other| other["name"] == listener).expect("a listener");
        At::parse(found["address"].as_str().expect("an address"))
    }

    /// How a client ends that says nothing. A reset may come so soon that connecting reports it.
    fn ending(&self, listener: &str) -> Ending {
        match Conn::try_to(&self.address(listener)) {
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => Ending::Reset,
            client => {
                let client = client.expect("it connects");
                client.finish();
                client.ending()
            }
        }
    }

    /// A client that says this, hears the answer and leaves in order.
    fn asks(&mut self, pool: &str, backend: &str, command: &[u8], answer: usize) {
        let client = self.client(pool);
        client.say(command);
        client.hear(answer);
        client.finish();
        assert_eq!(client.ending(), Ending::Fin);
        self.counted.served(&Ended { pool, backend, reason: "client_fin", up: command.len(), down: answer });
    }

    /// A client that is reset without an answer.
    fn is_refused(&mut self, pool: &str, reason: &str) {
        assert_eq!(self.ending(pool), Ending::Reset);
        self.counted.refused(pool, reason);
    }

    /// Waits until nothing is open, and compares everything.
    #[track_caller]
    fn check(&self, what: &str) -> BTreeSet<String> {
        self.balancer.wait("over", |status| {
            status["listeners"].as_array().expect("listeners").iter().all(|other| other["active_connections"] == 0)
        });
        self.counted.check(&parse(&self.balancer.get("/metrics").body), &self.counted.each, what)
    }

    #[track_caller]
    fn reload(&mut self, text: &str, status: u16) {
        let answer = self.balancer.reload(text);
        assert_eq!(answer.status, status, "{}", answer.body);
        let result = if status == 200 { "success" } else { "failure" };
        self.counted.add("tcplb_config_reloads_total", &[("result", result)], 1);
    }
}

/// All the ways in which connections of the pool `web` end.
fn ends(setup: &mut Setup) {
    setup.asks("web", "e1", b"ping", 4);
    setup.asks("web", "e1", &[&b"blob"[..], &vec![7; BLOB]].concat(), BLOB);
    let mut ended = |reason, up, down| setup.counted.served(&Ended { pool: "web", backend: "e1", reason, up, down });
    ended("backend_fin", 4, 0);
    ended("client_reset", 4, 4);
    ended("backend_reset", 4, 0);
    ended("backend_reset", 8, 4);
    let client = setup.client("web");
    client.say("bye!");
    assert_eq!((client.hear_all(), client.finish()), (Vec::new(), ()));
    let client = setup.client("web");
    client.say("ping");
    client.hear(4);
    client.reset();
    let client = setup.client("web");
    client.say("rst0");
    assert_eq!(client.ending(), Ending::Reset);
    let client = setup.client("web");
    client.say("ping");
    client.hear(4);
    client.say("rst0");
    assert_eq!(client.ending(), Ending::Reset);
}

/// Clients that listeners refuse, or that no backend serves.
fn refusals(setup: &mut Setup) {
    setup.is_refused("denied", "denied");
    let first = setup.client("limit");
    first.say("ping");
    first.hear(4);
    setup.is_refused("limit", "source_limit");
    first.finish();
    assert_eq!(first.ending(), Ending::Fin);
    setup.counted.served(&Ended { pool: "limit", backend: "e1", reason: "client_fin", up: 4, down: 4 });
    // The machine may be so slow that the rate allows several.
    loop {
        if setup.ending("rate") == Ending::Reset {
            setup.counted.refused("rate", "source_rate");
            break;
        }
        setup.counted.served(&Ended { pool: "rate", backend: "e1", reason: "client_fin", up: 0, down: 0 });
    }
    let client = setup.client("proxy");
    client.say("no header at all\r\n");
    assert_eq!(client.ending(), Ending::Reset);
    setup.counted.refused("proxy", "bad_proxy_header");
    let client = setup.client("proxy");
    client.say("PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\nping");
    client.hear(4);
    client.finish();
    assert_eq!(client.ending(), Ending::Fin);
    setup.counted.served(&Ended { pool: "proxy", backend: "e1", reason: "client_fin", up: 4, down: 4 });
    setup.asks("dry", "e1", b"ping", 4);
    setup.counted.add("tcplb_connections_would_refuse_total", &[("listener", "dry"), ("reason", "denied")], 1);
    setup.balancer.call("PATCH", "/v1/pools/none/backends/e1", r#"{"state":"disabled"}"#).json(200);
    setup.is_refused("none", "no_backend");
    for _ in 0..3 {
        assert_eq!(setup.ending("dead"), Ending::Reset);
        setup.counted.ended(&Ended { pool: "dead", backend: "d1", reason: "connect_failed", up: 0, down: 0 });
        setup.counted.failed("dead", "d1", "refused");
    }
    setup.asks("retry", "e1", b"ping", 4);
    setup.counted.failed("retry", "d1", "refused");
    setup.counted.add("tcplb_connect_retries_total", &[("pool", "retry")], 1);
}

/// Clients that wait, and those that are silent for too long.
fn waits(setup: &mut Setup) {
    let first = setup.client("wait");
    first.say("ping");
    first.hear(4);
    let second = setup.client("wait");
    second.say("ping");
    let status = setup.balancer.wait("one waits", |status| {
        let pools = status["pools"].as_array().expect("pools");
        pools.iter().any(|pool| pool["name"] == "wait" && pool["waiting"] == 1)
    });
    assert!(status["findings"].to_string().contains("wait: 1 client waits for a backend"), "{}", status["findings"]);
    let parsed = parse(&setup.balancer.get("/metrics").body);
    assert_eq!(parsed.value("tcplb_pool_waiting", &[("pool", "wait")]), 1.0);
    first.finish();
    assert_eq!(first.ending(), Ending::Fin);
    second.hear(4);
    second.finish();
    assert_eq!(second.ending(), Ending::Fin);
    let ended = Ended { pool: "wait", backend: "e1", reason: "client_fin", up: 4, down: 4 };
    (0..2).for_each(|_| setup.counted.served(&ended));
    let client = setup.client("idle");
    client.say("ping");
    client.hear(4);
    assert_eq!(client.ending(), Ending::Fin);
    setup.counted.served(&Ended { pool: "idle", backend: "e1", reason: "idle_timeout", up: 4, down: 4 });
    let client = setup.client("half");
    client.say("hold");
    client.finish();
    assert_eq!(client.ending(), Ending::Fin);
    setup.counted.served(&Ended { pool: "half", backend: "e1", reason: "half_close_timeout", up: 4, down: 0 });
}

/// Clients of a listener with a route, which all go to its own pool.
fn routes(setup: &mut Setup) {
    let took = |setup: &mut Setup, route: &str| {
        setup.counted.add("tcplb_route_connections_total", &[("listener", "routes"), ("route", route)], 1);
        setup.counted.add("tcplb_sniff_duration_seconds_count", &[("listener", "routes")], 1);
    };
    setup.asks("routes", "e1", b"SSH-", 4);
    took(setup, "shell");
    setup.asks("routes", "e1", b"ping", 4);
    took(setup, "none");
    let client = setup.client("routes");
    client.say("SS");
    client.finish();
    assert_eq!(client.ending(), Ending::Reset);
    setup.counted.refused("routes", "sniff_failed");
    let silent = setup.client("routes");
    eventually("it goes to the pool of silent clients", || {
        let parsed = parse(&setup.balancer.get("/metrics").body);
        parsed.value("tcplb_route_connections_total", &[("listener", "routes"), ("route", "silent")]) == 1.0
    });
    took(setup, "silent");
    silent.say("ping");
    silent.hear(4);
    silent.finish();
    assert_eq!(silent.ending(), Ending::Fin);
    setup.counted.served(&Ended { pool: "routes", backend: "e1", reason: "client_fin", up: 4, down: 4 });
}

/// A backend that is removed with an open connection, and comes back.
fn removal(setup: &mut Setup, at: &At) {
    setup.asks("web", "e1", b"ping", 4);
    let client = setup.client("swap");
    client.say("ping");
    client.hear(4);
    setup.balancer.call("DELETE", "/v1/pools/swap/backends/e1?force=true", "").json(200);
    assert_eq!(client.ending(), Ending::Reset);
    setup.counted.served(&Ended { pool: "swap", backend: "e1", reason: "forced", up: 4, down: 4 });
    setup.counted.removed("swap", "e1");
    setup.is_refused("swap", "no_backend");
    setup.check("a backend was removed");
    let body = format!(r#"{{"address":"{at}","name":"e1"}}"#);
    setup.balancer.call("POST", "/v1/pools/swap/backends", &body).json(201);
    setup.asks("swap", "e1", b"ping", 4);
}

/// More of the listener `routes`.
const ROUTE: &str = "sniff_timeout = '200ms'\nsilent_pool = 'routes'\n[[listener.route]]\nname = 'shell'\nprotocol = 'ssh'\npool = 'routes'";

/// Everything, with this way to move bytes.
fn every_counter(relay: &str) -> BTreeSet<String> {
    let (server, probed, dead) = (obedient(), obedient(), refusing());
    let e1 = [("e1", server.at(), "")];
    let file = |global: &str, web: &str| {
        let probes = "[pool.health]\nkind = 'tcp'\ninterval = '1h'\ntimeout = '10s'\n";
        [
            format!("[global]\nworkers = 2\nadmin = '127.0.0.1:0'\nrelay = '{relay}'\n{global}\n"),
            section("web", "", web, &e1),
            section("denied", "deny = ['0.0.0.0/0']", "", &e1),
            section("limit", "max_connections_per_source = 1", "", &e1),
            section("rate", "connection_rate_per_source = '1/s'", "", &e1),
            section("proxy", "accept_proxy = true", "", &e1),
            section("dry", "limits = 'count'\ndeny = ['0.0.0.0/0']", "", &e1),
            section("none", "", "", &e1),
            section("dead", "", "connect_attempts = 1", &[("d1", &dead, "")]),
            section("retry", "", "algorithm = 'first'", &[("d1", &dead, ""), ("e1", server.at(), "")]),
            section("wait", "", "no_backend = 'wait 1m'", &[("e1", server.at(), "max_connections = 1")]),
            section("idle", "", "idle_timeout = '200ms'", &e1),
            section("half", "", "half_close_timeout = '200ms'", &e1),
            section("swap", "", "", &e1),
            section("routes", ROUTE, "", &e1),
            section("probed", "", probes, &[("p1", probed.at(), "")]),
        ]
        .concat()
    };
    let mut setup = Setup { balancer: Balancer::from_text(file("", "")), counted: Counted::default() };
    setup.balancer.wait("probed", |status| {
        let pools = status["pools"].as_array().expect("pools");
        pools.iter().any(|pool| pool["name"] == "probed" && pool["backends"][0]["health"]["last_result"] == "connected")
    });
    setup.counted.add("tcplb_health_probes_total", &[("pool", "probed"), ("backend", "p1"), ("result", "success")], 1);
    ends(&mut setup);
    setup.check("connections have ended");
    refusals(&mut setup);
    waits(&mut setup);
    routes(&mut setup);
    setup.check("clients were refused, waited and took routes");
    setup.reload(&file("", "weight = 7"), 400);
    assert_eq!(parse(&setup.balancer.get("/metrics").body).value("tcplb_config_last_reload_success", &[]), 0.0);
    setup.reload(&file("", "connect_timeout = '4s'"), 200);
    assert_eq!(parse(&setup.balancer.get("/metrics").body).value("tcplb_config_last_reload_success", &[]), 1.0);
    ends(&mut setup);
    setup.check("the file was read again");
    removal(&mut setup, server.at());
    let moved = setup.check("the backend came back");
    setup.reload(&file("metrics_per_backend = false", "connect_timeout = '4s'"), 200);
    let sums = parse(&setup.balancer.get("/metrics").body);
    setup.counted.check(&sums, &setup.counted.sums, "the sums of each pool");
    moved
}

#[test]
fn every_counter_is_exact_across_reloads_removals_and_both_relays() {
    for relay in ["copy", "splice"] {
        let moved = every_counter(relay);
        for about in families::tables().into_iter().flat_map(|(_, families)| families) {
            let is_counter = about.name.starts_with("tcplb_") && about.kind != "gauge";
            let excused = UNMOVED.iter().any(|(name, _)| *name == about.name) || UNKNOWN.contains(&about.name);
            if is_counter && !excused {
                assert!(moved.contains(about.name), "{} is not compared: let a client move it", about.name);
            }
        }
    }
}
