//! `/metrics`, read by a parser that is stricter than Prometheus.

use crate::admin::support::{Balancer, backend};
use std::collections::{BTreeMap, BTreeSet};
use std::process::{Command, Stdio};
use tcplb::admin::metrics::families;

/// Families and samples of a text; panics where it is not as the format's specification says.
struct Parsed {
    kinds: BTreeMap<String, String>,
    samples: BTreeMap<(String, BTreeMap<String, String>), f64>,
}

fn is_name(text: &str) -> bool {
    let mut letters = text.chars();
    letters.next().is_some_and(|first| first.is_ascii_alphabetic() || first == '_' || first == ':')
        && letters.all(|letter| letter.is_ascii_alphanumeric() || letter == '_' || letter == ':')
}

fn parse(text: &str) -> Parsed {
    assert!(text.ends_with('\n'));
    let (mut kinds, mut samples, mut helped) = (BTreeMap::new(), BTreeMap::new(), BTreeSet::new());
    let mut current = String::new();
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, help) = rest.split_once(' ').expect("a help text");
            assert!(is_name(name) && !help.is_empty() && helped.insert(name.to_owned()), "{line}");
            current = name.to_owned();
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').expect("a kind");
            assert_eq!(name, current, "TYPE follows HELP");
            assert!(["counter", "gauge", "histogram"].contains(&kind), "{line}");
            assert_eq!(kind == "counter", name.ends_with("_total"), "{line}");
            assert!(kinds.insert(name.to_owned(), kind.to_owned()).is_none(), "{line}");
        } else {
            let (name, labels, value) = sample(line);
            let family = match kinds.get(&current).map(String::as_str) {
                Some("histogram") => ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end)),
                _ => Some(name.as_str()),
            };
            assert_eq!(family, Some(current.as_str()), "a sample outside its family: {line}");
            assert!(samples.insert((name, labels), value).is_none(), "twice: {line}");
        }
    }
    Parsed { kinds, samples }
}

fn sample(line: &str) -> (String, BTreeMap<String, String>, f64) {
    let end = line.find(['{', ' ']).expect("a value");
    let (name, mut rest) = line.split_at(end);
    assert!(is_name(name), "{line}");
    let mut labels = BTreeMap::new();
    if let Some(inside) = rest.strip_prefix('{') {
        rest = inside;
        loop {
            let (key, after) = rest.split_once("=\"").expect("a label");
            assert!(is_name(key) && !key.contains(':'), "{line}");
            let mut value = String::new();
            let mut letters = after.char_indices();
            let close = loop {
                match letters.next().expect("the end of a label") {
                    (at, '"') => break at,
                    (_, '\\') => value.push(match letters.next() {
                        Some((_, 'n')) => '\n',
                        Some((_, other @ ('\\' | '"'))) => other,
                        other => panic!("{line}: {other:?}"),
                    }),
                    (_, letter) => value.push(letter),
                }
            };
            assert!(labels.insert(key.to_owned(), value).is_none(), "{line}");
            rest = &after[close + 1..];
            if let Some(end) = rest.strip_prefix('}') {
                rest = end;
                break;
            }
            rest = rest.strip_prefix(',').expect("a comma");
        }
    }
    let value = rest.strip_prefix(' ').expect("a space").parse().expect("a number");
    (name.to_owned(), labels, value)
}

impl Parsed {
    #[track_caller]
    fn value(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let labels = labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        *self.samples.get(&(name.to_owned(), labels)).unwrap_or_else(|| panic!("no {name}"))
    }

    /// In every histogram buckets ascend, the last one is the count, and there is a sum.
    fn check_histograms(&self) {
        let mut checked = 0;
        for name in self.kinds.iter().filter(|(_, kind)| *kind == "histogram").map(|(name, _)| name) {
            for ((found, labels), count) in &self.samples {
                if *found != format!("{name}_count") {
                    continue;
                }
                let bucket = |((other, all), value): (&(String, BTreeMap<String, String>), &f64)| {
                    let mut all = all.clone();
                    let bound: f64 = all.remove("le")?.parse().ok()?;
                    (*other == format!("{name}_bucket") && all == *labels).then_some((bound, *value))
                };
                let mut buckets: Vec<(f64, f64)> = self.samples.iter().filter_map(bucket).collect();
                buckets.sort_by(|one, other| one.0.total_cmp(&other.0));
                assert!(
                    buckets.len() > 5 && buckets.windows(2).all(|pair| pair[0].1 <= pair[1].1),
                    "{name}: {buckets:?}"
                );
                assert_eq!(buckets.last(), Some(&(f64::INFINITY, *count)), "{name}");
                assert!(self.samples.contains_key(&(format!("{name}_sum"), labels.clone())), "{name}");
                checked += 1;
            }
        }
        assert!(checked >= 2, "only {checked} histograms");
    }
}

/// Names that users rely on.
const FAMILIES: [&str; 19] = [
    "tcplb_build_info",
    "tcplb_connections_accepted_total",
    "tcplb_connections_active",
    "tcplb_connections_refused_total",
    "tcplb_connections_would_refuse_total",
    "tcplb_connections_untracked_total",
    "tcplb_backend_up",
    "tcplb_backend_connections_total",
    "tcplb_backend_connections_active",
    "tcplb_backend_connect_failures_total",
    "tcplb_backend_bytes_total",
    "tcplb_backend_connect_duration_seconds",
    "tcplb_connection_duration_seconds",
    "tcplb_health_probes_total",
    "tcplb_connect_retries_total",
    "tcplb_config_reloads_total",
    "tcplb_config_generation",
    "tcplb_access_log_lost_total",
    "tcplb_log_lines_lost_total",
];

#[test]
fn every_family_is_there_before_anything_happened() {
    let balancer = Balancer::start(&["-b", "127.0.0.1:1,name=a\"b\\c", "--health", "off"]);
    let answer = balancer.get("/metrics");
    assert_eq!((answer.status, answer.header("Content-Type")), (200, Some("text/plain; version=0.0.4; charset=utf-8")));
    let parsed = parse(&answer.body);
    let declared = families::tables().into_iter().flat_map(|(_, families)| families).map(|about| about.name);
    for family in declared.chain(FAMILIES) {
        assert!(parsed.kinds.contains_key(family), "{family}");
    }
    for name in [
        "cpu_seconds_total",
        "open_fds",
        "max_fds",
        "virtual_memory_bytes",
        "resident_memory_bytes",
        "start_time_seconds",
    ] {
        assert!(parsed.value(&format!("process_{name}"), &[]) >= 0.0);
    }
    parsed.check_histograms();
    assert_eq!(parsed.value("tcplb_build_info", &[("version", env!("CARGO_PKG_VERSION"))]), 1.0);
    for reason in ["denied", "source_limit", "source_rate", "no_backend", "bad_proxy_header"] {
        let labels = [("listener", "default"), ("reason", reason)];
        assert_eq!(parsed.value("tcplb_connections_refused_total", &labels), 0.0);
    }
    assert_eq!(parsed.value("tcplb_backend_up", &[("pool", "default"), ("backend", "a\"b\\c")]), 1.0);
    for result in ["success", "failure"] {
        assert_eq!(parsed.value("tcplb_config_reloads_total", &[("result", result)]), 0.0);
    }
}

#[test]
fn counters_and_histograms_count_each_connection() {
    let (_web1, at) = backend("web1", &[]);
    let balancer =
        Balancer::start(&["-b", &format!("{at},name=web1"), "-b", "127.0.0.1:1,name=dead", "--health", "off"]);
    for _ in 0..4 {
        assert_eq!(balancer.request().unwrap(), "web1");
    }
    balancer.wait("over", |status| {
        let done = &status["pools"][0]["backends"][0];
        status["listeners"][0]["active_connections"] == 0 && done["active_connections"] == 0
    });
    let parsed = parse(&balancer.get("/metrics").body);
    parsed.check_histograms();
    let (web1, dead) = ([("pool", "default"), ("backend", "web1")], [("pool", "default"), ("backend", "dead")]);
    assert_eq!(parsed.value("tcplb_connections_accepted_total", &[("listener", "default")]), 4.0);
    assert_eq!(parsed.value("tcplb_backend_connections_total", &web1), 4.0);
    assert_eq!(parsed.value("tcplb_backend_connections_total", &dead), 0.0);
    assert_eq!(parsed.value("tcplb_backend_connect_duration_seconds_count", &web1), 4.0);
    assert_eq!(parsed.value("tcplb_connection_duration_seconds_count", &[("pool", "default")]), 4.0);
    let closed = |reason| parsed.value("tcplb_connections_closed_total", &[("pool", "default"), ("reason", reason)]);
    assert_eq!(closed("client_fin") + closed("backend_fin"), 4.0);
    assert_eq!(closed("backend_reset") + closed("no_backend"), 0.0);
    let refused = parsed.value("tcplb_backend_connect_failures_total", &[&dead[..], &[("reason", "refused")]].concat());
    assert!(refused >= 1.0);
    assert_eq!(parsed.value("tcplb_connect_retries_total", &[("pool", "default")]), refused);
    let bytes =
        |direction| parsed.value("tcplb_backend_bytes_total", &[&web1[..], &[("direction", direction)]].concat());
    assert!(bytes("to_backend") > 100.0 && bytes("to_client") > 100.0);
}

/// Two pools: `a` with two backends, `b` with one.
fn two_pools(at: &str, global: &str) -> String {
    format!(
        "[global]\nworkers = 1\nadmin = '127.0.0.1:0'\n{global}\n[[listener]]\nbind = ['127.0.0.1:0']\npool = 'a'\n\
         [[pool]]\nname = 'a'\n[pool.health]\nkind = 'off'\n[[pool.backend]]\nname = 'web1'\naddress = '{at}'\n\
         [[pool.backend]]\nname = 'dead'\naddress = '127.0.0.1:1'\n\
         [[pool]]\nname = 'b'\n[[pool.backend]]\nname = 'web1'\naddress = '{at}'\n"
    )
}

#[test]
fn the_metrics_of_one_pool_are_about_that_pool_alone() {
    let (_web1, at) = backend("web1", &[]);
    let balancer = Balancer::from_text(two_pools(&at, ""));
    let whole = parse(&balancer.get("/metrics").body);
    let part = balancer.get("/metrics?pool=a");
    promtool(&part.body);
    let part = parse(&part.body);
    part.check_histograms();
    let in_a = |labels: &BTreeMap<String, String>| labels.get("pool").is_some_and(|pool| pool == "a");
    let of_a = |parsed: &Parsed| -> BTreeSet<(String, BTreeMap<String, String>)> {
        parsed.samples.keys().filter(|(_, labels)| in_a(labels)).cloned().collect()
    };
    assert_eq!(of_a(&part).len(), part.samples.len(), "another pool's series");
    assert_eq!(of_a(&part), of_a(&whole));
    assert!(balancer.get("/metrics?pool=c").error(404).contains("`c`"));
    assert!(balancer.get("/metrics?pol=a").error(400).contains("pool"));
}

#[test]
fn without_series_per_backend_the_sums_of_each_pool_remain_and_never_fall() {
    let (_web1, at) = backend("web1", &[]);
    let balancer = Balancer::from_text(two_pools(&at, ""));
    for _ in 0..4 {
        assert_eq!(balancer.request().unwrap(), "web1");
    }
    balancer.wait("over and probed", |status| {
        status["pools"][0]["backends"][0]["active_connections"] == 0
            && status["pools"][1]["backends"][0]["health"]["last_result"] == "connected"
    });
    let each = parse(&balancer.get("/metrics").body);
    let changes = balancer.reload(&two_pools(&at, "metrics_per_backend = false")).json(200)["changes"].to_string();
    assert!(changes.contains("metrics_per_backend true → false"), "{changes}");

    let sums_of = |parsed: &Parsed, name: &str| {
        let of_a = |((other, labels), _): &(&(String, BTreeMap<String, String>), &f64)| {
            other == name && labels.get("pool").is_some_and(|pool| pool == "a")
        };
        parsed.samples.iter().filter(of_a).map(|(_, value)| value).sum::<f64>()
    };
    let check = |parsed: &Parsed| {
        parsed.check_histograms();
        assert!(parsed.samples.keys().all(|(_, labels)| !labels.contains_key("backend")));
        for name in [
            "tcplb_backend_connections_total",
            "tcplb_backend_connections_active",
            "tcplb_backend_connect_failures_total",
            "tcplb_backend_bytes_total",
            "tcplb_backend_connect_duration_seconds_bucket",
            "tcplb_backend_connect_duration_seconds_count",
            "tcplb_connect_retries_total",
        ] {
            assert_eq!(sums_of(parsed, name), sums_of(&each, name), "{name}");
        }
    };
    let answer = balancer.get("/metrics").body;
    promtool(&answer);
    let sums = parse(&answer);
    check(&sums);
    assert_eq!(sums.value("tcplb_backend_connections_total", &[("pool", "a")]), 4.0);
    assert_eq!(sums.value("tcplb_backend_up", &[("pool", "b")]), 1.0);
    let in_b = [("pool", "b"), ("result", "success")];
    assert!(sums.value("tcplb_health_probes_total", &in_b) >= 1.0);
    // A sum over the backends that are left would look like a restart to Prometheus.
    balancer.call("DELETE", "/v1/pools/a/backends/web1", "").json(200);
    check(&parse(&balancer.get("/metrics").body));
}

#[test]
fn promtool_accepts_the_metrics() {
    promtool(&Balancer::idle().get("/metrics").body);
}

/// Has Prometheus's own checker look at a text, where it is installed.
fn promtool(text: &str) {
    use std::io::Write;
    let Ok(mut promtool) = Command::new("promtool").args(["check", "metrics"]).stdin(Stdio::piped()).spawn() else {
        assert!(std::env::var_os("CI").is_none(), "promtool is not installed, and in CI no test may be skipped");
        eprintln!("skipped: there is no promtool here");
        return;
    };
    promtool.stdin.take().expect("a pipe").write_all(text.as_bytes()).expect("it reads");
    assert!(promtool.wait().expect("an exit").success());
}
