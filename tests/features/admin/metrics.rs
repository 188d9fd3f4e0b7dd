//! `/metrics` as a text: which families and series there are. `exact` compares the values.

use crate::admin::exposition::{Parsed, parse};
use crate::admin::support::{Balancer, backend};
use std::collections::{BTreeMap, BTreeSet};
use std::process::{Command, Stdio};
use std::time::SystemTime;
use tcplb::admin::metrics::families;

/// Names that users rely on.
const FAMILIES: [&str; 36] = [
    "tcplb_build_info",
    "tcplb_connections_accepted_total",
    "tcplb_connections_active",
    "tcplb_connections_refused_total",
    "tcplb_connections_would_refuse_total",
    "tcplb_connections_untracked_total",
    "tcplb_route_connections_total",
    "tcplb_sniff_duration_seconds",
    "tcplb_backend_up",
    "tcplb_backend_state",
    "tcplb_backend_weight",
    "tcplb_backend_first_byte_seconds",
    "tcplb_backend_rtt_seconds",
    "tcplb_backend_retransmits_total",
    "tcplb_backend_resets_before_byte_total",
    "tcplb_backend_connections_limit",
    "tcplb_connections_limit",
    "tcplb_connections_closed_total",
    "tcplb_pool_waiting",
    "tcplb_source_ports_used",
    "tcplb_config_last_reload_success",
    "tcplb_config_last_reload_timestamp_seconds",
    "tcplb_worker_loop_lag_seconds",
    "tcplb_process_connections_limit",
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
    for reason in ["denied", "source_limit", "source_rate", "no_backend", "bad_proxy_header", "sniff_failed"] {
        let labels = [("listener", "default"), ("reason", reason)];
        assert_eq!(parsed.value("tcplb_connections_refused_total", &labels), 0.0);
    }
    assert_eq!(parsed.value("tcplb_backend_up", &[("pool", "default"), ("backend", "a\"b\\c")]), 1.0);
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs_f64();
    assert_eq!(parsed.value("tcplb_config_last_reload_success", &[]), 1.0);
    assert!((now - parsed.value("tcplb_config_last_reload_timestamp_seconds", &[])).abs() < 600.0);
    for result in ["success", "failure"] {
        assert_eq!(parsed.value("tcplb_config_reloads_total", &[("result", result)]), 0.0);
    }
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
            "tcplb_connections_closed_total",
            "tcplb_backend_first_byte_seconds_count",
            "tcplb_backend_retransmits_total",
            "tcplb_backend_resets_before_byte_total",
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
    assert_eq!(sums.value("tcplb_backend_state", &[("pool", "b"), ("state", "up")]), 1.0);
    assert_eq!(sums.value("tcplb_backend_weight", &[("pool", "a")]), 2.0);
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
