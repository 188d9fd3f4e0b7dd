//! A real Prometheus scrapes tcplb, with the files of `packaging/prometheus`. Every expression finds its series, and an alert fires.

use crate::admin::support::Balancer;
use serde_json::Value;
use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicU16;
use testkit::foreign::Foreign;
use testkit::monitoring::{alerts, dashboards, packaging, without_variables};
use testkit::promql::{self, Selector};
use testkit::{Server, eventually, eventually_some, free_address, need, peers, talk};

/// How often Prometheus scrapes and evaluates here, instead of every 15 s, and how long an alert is pending.
const INTERVAL: &str = "200ms";

/// A limit at each level, so that every series is there.
/// Its source of backends answers, and has none. Another pool has a backend with a name.
fn config(web1: &Server, list: &Path) -> String {
    format!(
        "[global]\nworkers = 1\nadmin = '127.0.0.1:0'\n[[listener]]\nbind = ['127.0.0.1:0']\npool = 'web'\nmax_connections = 100\n\
         [[listener.route]]\nprotocol = 'ssh'\npool = 'web'\n\
         [[pool]]\nname = 'web'\nsource = '127.0.0.1'\nwarm_connections = 1\n[pool.health]\ninterval = '100ms'\nfall = 2\nrise = 1\n\
         [[pool.backend]]\nname = 'web1'\naddress = '{}'\nmax_connections = 50\n\
         [[pool.discover]]\nkind = 'file'\npath = {list:?}\n\
         [[pool]]\nname = 'named'\n[pool.health]\nkind = 'off'\n\
         [[pool.backend]]\nname = 'named1'\naddress = 'localhost:1'\n",
        web1.at()
    )
}

struct Prometheus {
    at: SocketAddr,
    _server: Foreign,
    _rules: tempfile::TempDir,
}

impl Prometheus {
    /// Started with the example of its configuration and the alerts, at a short interval.
    fn start(admin: &str) -> Option<Prometheus> {
        let program = need("prometheus")?;
        let read = |name: &str| fs::read_to_string(packaging("prometheus").join(name)).unwrap();
        let (rules, at) = (tempfile::tempdir().unwrap(), free_address());
        let alerts = rules.path().join("alerts.yml");
        let pending = |line: &str| match line.trim_start().starts_with("for: ") {
            true => format!("{}: {INTERVAL}\n", line.split(':').next().unwrap()),
            false => format!("{line}\n"),
        };
        fs::write(&alerts, read("alerts.yml").lines().map(pending).collect::<String>()).unwrap();
        let config = read("prometheus.yml");
        let config = config.replace("- alerts.yml", &format!("- {}", alerts.display()));
        let config = config.replace("127.0.0.1:9900", admin).replace(": 15s", &format!(": {INTERVAL}"));
        let listen = format!("--web.listen-address={at}");
        let arguments =
            ["--config.file=prometheus.yml", "--storage.tsdb.path=data", "--log.level=warn", listen.as_str()];
        let server = Foreign::start(&program, &arguments, &config, "prometheus.yml", &[at]);
        Some(Prometheus { at, _server: server, _rules: rules })
    }

    /// The data of an answer; `None` before Prometheus is ready.
    fn get(&self, path: &str) -> Option<Value> {
        let request = format!("GET /api/v1/{path} HTTP/1.0\r\nHost: {}\r\n\r\n", self.at);
        let answer = talk(TcpStream::connect(self.at).unwrap(), request.as_bytes());
        if answer.status == 503 {
            return None;
        }
        let value: Value = serde_json::from_str(&answer.body).unwrap();
        assert_eq!(value["status"], "success", "{path}: {value}");
        Some(value["data"].clone())
    }

    /// How many series an expression has now.
    fn query(&self, expression: &str) -> usize {
        let mut path = b"query?query=".to_vec();
        expression.bytes().for_each(|byte| write!(path, "%{byte:02X}").unwrap());
        let data = self.get(&String::from_utf8(path).unwrap()).unwrap_or_default();
        match data["resultType"].as_str() {
            Some("scalar") => 1,
            _ => data["result"].as_array().map_or(0, Vec::len),
        }
    }

    /// An alert that fires, or is pending.
    fn alert(&self, name: &str) -> Option<Value> {
        let data = self.get("alerts")?;
        data["alerts"].as_array().unwrap().iter().find(|alert| alert["labels"]["alertname"] == name).cloned()
    }
}

#[test]
fn prometheus_finds_every_series_and_an_alert_fires_when_the_backend_dies() {
    let mut web1 = Server::start(peers::http("web1", Arc::new(AtomicU16::new(200))));
    let list = tempfile::NamedTempFile::new().unwrap();
    fs::write(list.path(), "backend = []").unwrap();
    let balancer = Balancer::from_text(config(&web1, list.path()));
    let Some(prometheus) = Prometheus::start(&balancer.admin) else { return };
    balancer.request().unwrap();

    let rules = alerts(&fs::read_to_string(packaging("prometheus/alerts.yml")).unwrap());
    eventually("every rule was evaluated without an error", || {
        let groups = prometheus.get("rules").unwrap_or_default();
        let groups = groups["groups"].as_array().cloned().unwrap_or_default();
        let evaluated: Vec<&Value> = groups.iter().flat_map(|group| group["rules"].as_array().unwrap()).collect();
        evaluated.iter().for_each(|rule| assert_ne!(rule["health"], "err", "{rule}"));
        evaluated.len() == rules.len() && evaluated.iter().all(|rule| rule["health"] == "ok")
    });

    let mut expressions: BTreeSet<String> = rules.into_iter().map(|alert| alert.expression).collect();
    for dashboard in dashboards() {
        expressions.extend(dashboard.expressions().iter().map(|expression| without_variables(expression)));
    }
    let selectors = expressions.iter().flat_map(|expression| promql::parse(expression).selectors);
    // A backend with one address has no series of it.
    let selectors = selectors.filter(|selector| selector.metric != "tcplb_backend_address_up");
    let selectors: BTreeSet<String> = selectors.map(|selector: Selector| selector.instant()).collect();
    assert!(selectors.len() > 50, "only {} selectors", selectors.len());
    for selector in selectors {
        eventually(&format!("there is a series {selector}"), || prometheus.query(&selector) > 0);
    }
    // An answer with an error ends the test.
    for expression in &expressions {
        prometheus.query(expression);
    }

    let alert = || prometheus.alert("TcplbPoolWithoutBackend");
    eventually("the alert is silent", || alert().is_none());
    web1.stop();
    let firing = eventually_some("the alert fires", || alert().filter(|alert| alert["state"] == "firing"));
    assert_eq!((&firing["labels"]["pool"], &firing["labels"]["severity"]), (&"web".into(), &"critical".into()));
    let summary = firing["annotations"]["summary"].as_str().unwrap();
    assert_eq!(summary, format!("Pool web of {} has no backend that takes connections.", balancer.admin));
    web1.start_again();
    eventually("the alert is over", || alert().is_none());
}
