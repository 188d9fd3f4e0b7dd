//! The dashboards and alerts of `packaging/` against the metrics that tcplb has. An unknown metric or label fails, and so does a
//! query that Prometheus does not take.

use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::process::Command;
use tcplb::admin::metrics::families::{self, About};
use testkit::monitoring::{Alert, Dashboard, alerts, dashboards, packaging, without_variables};
use testkit::promql::{self, Selector};
use testkit::{need, run};

/// Labels that Prometheus gives to every series of a target.
const TARGET: [&str; 2] = ["job", "instance"];

/// What Grafana has without a plugin.
const PANELS: [&str; 5] = ["row", "stat", "state-timeline", "table", "timeseries"];

/// Units of Grafana, all of them base units.
const UNITS: [&str; 7] = ["none", "short", "cps", "Bps", "bytes", "percentunit", "s"];

/// How strictly an expression is read.
#[derive(Clone, Copy, PartialEq)]
enum Rigor {
    /// It is only mentioned: names and labels exist. A histogram may have its own name.
    Mentioned,
    /// It is evaluated: a counter needs a range too, and a gauge has no rate.
    Evaluated,
}

fn families() -> BTreeMap<&'static str, About> {
    families::tables().into_iter().flat_map(|(_, families)| families).map(|about| (about.name, about)).collect()
}

/// The family of a series, and whether the series is a bucket of a histogram.
fn family<'a>(families: &'a BTreeMap<&str, About>, metric: &str) -> Option<(&'a About, bool)> {
    if let Some(about) = families.get(metric).filter(|about| about.kind != "histogram") {
        return Some((about, false));
    }
    let (name, part) =
        ["_bucket", "_sum", "_count"].iter().find_map(|part| Some((metric.strip_suffix(part)?, *part)))?;
    families.get(name).filter(|about| about.kind == "histogram").map(|about| (about, part == "_bucket"))
}

/// What is wrong with an expression, and the labels that its series have.
fn check(expression: &str, rigor: Rigor) -> (BTreeSet<String>, Vec<String>) {
    let families = families();
    let parsed = promql::parse(expression);
    let mut labels: BTreeSet<String> = TARGET.map(str::to_owned).into();
    let mut faults = Vec::new();
    for selector in &parsed.selectors {
        let Selector { metric, matchers, ranged, function } = selector;
        if metric == "up" {
            continue;
        }
        let whole = || families.get(metric.as_str()).filter(|_| rigor == Rigor::Mentioned).map(|about| (about, false));
        let Some((about, bucket)) = family(&families, metric).or_else(whole) else {
            faults.push(format!("there is no metric {metric}"));
            continue;
        };
        let own: Vec<&str> = about.labels.split(',').filter(|label| !label.is_empty()).collect();
        let own = own.into_iter().chain(bucket.then_some("le")).chain(TARGET);
        let own: BTreeSet<String> = own.map(str::to_owned).collect();
        for (label, ..) in matchers.iter().filter(|(label, ..)| !own.contains(label)) {
            faults.push(format!("{metric} has no label {label}"));
        }
        if rigor == Rigor::Evaluated {
            let is_gauge = about.kind == "gauge";
            let rates = function.as_deref().is_some_and(|function| ["rate", "increase"].contains(&function));
            if !is_gauge && !ranged {
                faults.push(format!("{metric} only grows: it needs a rate"));
            }
            if is_gauge && rates {
                faults.push(format!("{metric} is a gauge and has no rate"));
            }
        }
        labels.extend(own);
    }
    if parsed.selectors.is_empty() {
        faults.push("it selects nothing".to_owned());
    }
    let unknown = parsed.grouping.iter().filter(|label| !labels.contains(*label));
    faults.extend(unknown.map(|label| format!("it groups by {label}, which no series has")));
    (labels, faults)
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn our_alerts() -> Vec<Alert> {
    alerts(&fs::read_to_string(packaging("prometheus/alerts.yml")).expect("a text"))
}

/// Every expression that is evaluated somewhere, and where.
fn evaluated() -> Vec<(String, String)> {
    let of_families = families().into_values().filter(|about| !about.query.is_empty());
    let mut all: Vec<_> = of_families.map(|about| (about.name.to_owned(), about.query.to_owned())).collect();
    all.extend(our_alerts().into_iter().map(|alert| (alert.name, alert.expression)));
    for dashboard in dashboards() {
        let expressions = dashboard.expressions().into_iter();
        all.extend(expressions.map(|expression| (dashboard.file.clone(), without_variables(&expression))));
    }
    assert!(all.len() > 150, "only {} expressions were found", all.len());
    all
}

/// The `code` in the pages that names one of our metrics.
fn mentioned() -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let pages = fs::read_dir(root.join("docs")).expect("a folder").map(|entry| entry.expect("an entry").path());
    let mut all = Vec::new();
    for page in pages.filter(|page| page.extension().is_some_and(|extension| extension == "md")) {
        let text = fs::read_to_string(&page).expect("a text");
        let code = text.lines().flat_map(|line| line.split('`').skip(1).step_by(2));
        let ours = code.filter(|code| code.contains("tcplb_"));
        all.extend(ours.map(|code| (page.display().to_string(), code.to_owned())));
    }
    assert!(all.len() > 60, "only {} were found", all.len());
    all
}

#[test]
fn every_expression_uses_metrics_and_labels_that_exist() {
    let evaluated = evaluated().into_iter().map(|place| (place, Rigor::Evaluated));
    let mentioned = mentioned().into_iter().map(|place| (place, Rigor::Mentioned));
    let wrong = evaluated.chain(mentioned).flat_map(|((place, expression), rigor)| {
        let faults = check(&expression, rigor).1.into_iter();
        faults.map(move |fault| format!("{place}: {fault}: {expression}")).collect::<Vec<_>>()
    });
    let wrong: Vec<String> = wrong.collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn promtool_accepts_every_expression() {
    let Some(promtool) = need("promtool") else { return };
    let rule = |(index, (_, expression)): (usize, (String, String))| json!({"record": format!("r:{index}"), "expr": expression});
    let rules: Vec<Value> = evaluated().into_iter().enumerate().map(rule).collect();
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("rules.yml");
    // JSON is YAML too.
    fs::write(&file, json!({"groups": [{"name": "all", "rules": rules}]}).to_string()).expect("it is written");
    run(Command::new(promtool).args(["check", "rules"]).arg(file));
}

#[test]
fn promtool_accepts_the_alerts_and_their_tests() {
    let Some(promtool) = need("promtool") else { return };
    let folder = packaging("prometheus");
    run(Command::new(&promtool).args(["check", "config", "--syntax-only", "prometheus.yml"]).current_dir(&folder));
    run(Command::new(&promtool).args(["check", "rules", "--lint-fatal", "alerts.yml"]).current_dir(&folder));
    run(Command::new(&promtool).args(["test", "rules", "alerts_test.yml"]).current_dir(&folder));
}

/// `TcplbBackendDown` becomes `backend-down`.
fn anchor(name: &str) -> String {
    let words = name.strip_prefix("Tcplb").expect("our prefix");
    let letters = words.char_indices().map(|(at, letter)| match letter {
        'A'..='Z' if at > 0 => format!("-{}", letter.to_ascii_lowercase()),
        letter => letter.to_ascii_lowercase().to_string(),
    });
    letters.collect()
}

#[test]
fn each_alert_names_a_command_and_a_section_and_has_tests_that_fire_it_and_that_do_not() {
    let (alerts, tests) = (our_alerts(), fs::read_to_string(packaging("prometheus/alerts_test.yml")).expect("a text"));
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/troubleshooting.md");
    let sections = fs::read_to_string(page).expect("the page");
    assert!(alerts.len() >= 20, "only {} were found", alerts.len());
    for Alert { name, expression, severity, summary, description, runbook } in &alerts {
        assert!(["critical", "warning", "info"].contains(&severity.as_str()), "{name}: {severity}");
        assert!(description.contains("`tcplb "), "{name}: it names no command");
        assert_eq!(*runbook, format!("docs/troubleshooting.md#{}", anchor(name)), "{name}");
        let heading = format!("### {}", anchor(name));
        let found = sections.lines().filter(|line| *line == heading).count();
        assert_eq!(found, 1, "docs/troubleshooting.md has {found} headings `{heading}`");
        let (labels, _) = check(expression, Rigor::Evaluated);
        for text in [summary, description] {
            let used = text.split("$labels.").skip(1).filter_map(|rest| rest.split_whitespace().next());
            used.for_each(|label| assert!(labels.contains(label), "{name}: no series has a label {label}"));
        }
        let cases = tests.split("- alertname: ").skip(1).filter(|case| case.lines().next() == Some(name));
        let (firing, silent): (Vec<&str>, Vec<&str>) = cases.partition(|case| case.contains("exp_alerts:"));
        assert!(!firing.is_empty() && !silent.is_empty(), "{name}: {} and {}", firing.len(), silent.len());
    }
}

/// What is wrong with a panel.
fn faults_of_panel(panel: &Value, variables: &BTreeSet<&str>) -> Vec<String> {
    let kind = text(&panel["type"]);
    let mut faults = Vec::new();
    let mut need = |is: bool, fault: &str| {
        if !is {
            faults.push(fault.to_owned())
        }
    };
    need(PANELS.contains(&kind), "Grafana has no such panel without a plugin");
    need(!text(&panel["title"]).is_empty(), "it has no title");
    if kind == "row" {
        return faults;
    }
    let defaults = &panel["fieldConfig"]["defaults"];
    need(text(&panel["description"]).ends_with('.'), "its description is no sentence");
    need(UNITS.contains(&text(&defaults["unit"])), "it has no unit");
    need(panel["datasource"]["uid"] == "${datasource}", "its data source is no variable");
    // A state is a word, and a limit a dashed line: colour is not the only signal.
    let mapped = defaults["mappings"][0]["options"].as_object();
    need(kind != "state-timeline" || mapped.is_some(), "its states have no words");
    let words = mapped.into_iter().flatten().all(|(_, option)| !text(&option["text"]).is_empty());
    need(words, "a state has a colour and no word");
    let targets: Vec<&Value> = panel["targets"].as_array().into_iter().flatten().collect();
    need(!targets.is_empty(), "it shows nothing");
    for target in targets {
        let (expression, legend) = (text(&target["expr"]), text(&target["legendFormat"]));
        let parsed = promql::parse(expression);
        for selector in &parsed.selectors {
            for label in TARGET {
                let want = (label.to_owned(), "=~".to_owned(), format!("${label}"));
                need(selector.matchers.contains(&want), &format!("{} is not selected by ${label}", selector.metric));
            }
            let chosen = selector.matchers.iter().filter_map(|(_, _, value)| value.strip_prefix('$'));
            chosen.for_each(|variable| need(variables.contains(variable), &format!("there is no variable {variable}")));
        }
        let (labels, _) = check(&without_variables(expression), Rigor::Evaluated);
        let shown = legend.split("{{").skip(1).filter_map(|rest| rest.split("}}").next());
        shown.for_each(|label| need(labels.contains(label), &format!("no series has the label {label} of its legend")));
        let dashed = panel["fieldConfig"]["overrides"].to_string().contains("\"dash\"");
        need(!legend.ends_with(" limit") || dashed, "its limit is not dashed");
    }
    faults
}

/// What is wrong with a dashboard.
fn faults_of_dashboard(dashboard: &Dashboard, uids: &BTreeSet<String>) -> Vec<String> {
    let Dashboard { value, .. } = dashboard;
    let mut faults = Vec::new();
    let variables: BTreeSet<&str> = dashboard.variables().iter().map(|variable| text(&variable["name"])).collect();
    for variable in dashboard.variables().iter().filter(|variable| variable["type"] == "query") {
        // `label_values(SERIES, LABEL)`
        let query = text(&variable["query"]["query"]);
        let inside = query.strip_prefix("label_values(").and_then(|rest| rest.strip_suffix(')'));
        let (series, label) = inside.and_then(|inside| inside.rsplit_once(", ")).expect("label_values");
        let (labels, wrong) = check(&without_variables(series), Rigor::Evaluated);
        faults.extend(wrong.into_iter().map(|fault| format!("{query}: {fault}")));
        if !labels.contains(label) || label != text(&variable["name"]) {
            faults.push(format!("{query}: no series has this label"));
        }
    }
    let (mut ids, mut places) = (BTreeSet::new(), BTreeSet::new());
    for panel in dashboard.panels() {
        let title = text(&panel["title"]);
        let mut wrong = faults_of_panel(panel, &variables);
        if !ids.insert(panel["id"].as_u64()) {
            wrong.push("another panel has its id".to_owned());
        }
        let [x, y, w, h] = ["x", "y", "w", "h"].map(|key| panel["gridPos"][key].as_u64().expect("a place"));
        let mut cells = (x..x + w).flat_map(|column| (y..y + h).map(move |row| (column, row)));
        if x + w > 24 || !cells.all(|cell| places.insert(cell)) {
            wrong.push("it lies over another panel".to_owned());
        }
        faults.extend(wrong.into_iter().map(|fault| format!("{title}: {fault}")));
    }
    let everything = value.to_string();
    let links = everything.split("/d/").skip(1).map(|rest| rest.split('?').next().unwrap_or_default());
    faults.extend(links.filter(|uid| !uids.contains(*uid)).map(|uid| format!("a link leads to {uid}")));
    let link = &value["links"][0];
    if link["type"] != "dashboards" || link["includeVars"] != true || link["tags"] != value["tags"] {
        faults.push("no link leads to the other dashboards".to_owned());
    }
    faults
}

#[test]
fn the_dashboards_are_whole() {
    let dashboards = dashboards();
    let uids: BTreeSet<String> = dashboards.iter().map(|dashboard| text(&dashboard.value["uid"]).to_owned()).collect();
    let files: Vec<&str> = dashboards.iter().map(|dashboard| dashboard.file.as_str()).collect();
    assert_eq!(files, ["backend.json", "listener.json", "overview.json", "pool.json"]);
    assert_eq!(uids.len(), dashboards.len());
    let faults = dashboards.iter().flat_map(|dashboard| {
        let faults = faults_of_dashboard(dashboard, &uids).into_iter();
        faults.map(|fault| format!("{}: {fault}", dashboard.file)).collect::<Vec<_>>()
    });
    let faults: Vec<String> = faults.collect();
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

/// A metric without any place in the dashboards and alerts has no purpose, or they lack something.
#[test]
fn every_metric_of_tcplb_is_in_a_dashboard_or_an_alert() {
    let families = families();
    let mut used = BTreeSet::new();
    for (_, expression) in evaluated().into_iter().filter(|(place, _)| !families.contains_key(place.as_str())) {
        let selectors = promql::parse(&expression).selectors;
        used.extend(
            selectors.iter().filter_map(|selector| family(&families, &selector.metric)).map(|(about, _)| about.name),
        );
    }
    let ours = families.keys().filter(|name| name.starts_with("tcplb_"));
    let unused: Vec<&&str> = ours.filter(|name| !used.contains(**name)).collect();
    assert!(unused.is_empty(), "they have neither a panel in packaging/grafana nor an alert: {unused:?}");
}

#[test]
fn wrong_expressions_are_found() {
    for (expression, fault) in [
        ("rate(tcplb_connections_acepted_total[5m])", "there is no metric tcplb_connections_acepted_total"),
        ("tcplb_backend_connect_duration_seconds > 1", "there is no metric tcplb_backend_connect_duration_seconds"),
        ("tcplb_pool_waiting_bucket", "there is no metric tcplb_pool_waiting_bucket"),
        ("tcplb_pool_waiting{backend=\"a\"}", "tcplb_pool_waiting has no label backend"),
        ("tcplb_backend_up{le=\"1\"}", "tcplb_backend_up has no label le"),
        ("sum by (pool, listener) (tcplb_pool_waiting)", "it groups by listener, which no series has"),
        ("tcplb_connect_retries_total > 1", "tcplb_connect_retries_total only grows: it needs a rate"),
        ("rate(tcplb_pool_waiting[5m])", "tcplb_pool_waiting is a gauge and has no rate"),
        ("vector(1)", "it selects nothing"),
    ] {
        assert_eq!(check(expression, Rigor::Evaluated).1, [fault], "{expression}");
    }
    for expression in [
        "histogram_quantile(0.99, sum by (le, pool) (rate(tcplb_backend_connect_duration_seconds_bucket{job=~\"a|b\"}[5m])))",
        "changes(tcplb_backend_up[15m]) > 5 unless on (instance) group_left (version) tcplb_build_info offset 5m",
        "topk(5, tcplb_backend_connections_active) or up == 0",
    ] {
        assert_eq!(check(expression, Rigor::Evaluated).1, [""; 0], "{expression}");
    }
    assert_eq!(check("tcplb_connections_refused_total{listener,reason}", Rigor::Mentioned).1, [""; 0]);
}
