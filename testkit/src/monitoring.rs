//! What `packaging/` has for Prometheus and Grafana, read for tests.

use serde_json::Value;
use std::fs;
use std::path::PathBuf;

/// An alert of `packaging/prometheus/alerts.yml`.
#[derive(Debug, Default)]
pub struct Alert {
    /// Like `TcplbBackendDown`.
    pub name: String,
    /// When it fires.
    pub expression: String,
    /// The label of that name.
    pub severity: String,
    /// The annotation of that name.
    pub summary: String,
    /// The annotation of that name.
    pub description: String,
    /// The annotation of that name.
    pub runbook: String,
}

/// A dashboard of `packaging/grafana`.
pub struct Dashboard {
    /// The name of its file.
    pub file: String,
    /// All of it.
    pub value: Value,
}

/// A file or folder of `packaging/`.
pub fn packaging(name: &str) -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "..", "packaging", name].iter().collect()
}

/// The alerts in a file of rules. It reads the YAML that `alerts.yml` needs: a key on each line, and blocks behind `|`.
pub fn alerts(yaml: &str) -> Vec<Alert> {
    let indent = |line: &str| line.len() - line.trim_start().len();
    let mut alerts: Vec<Alert> = Vec::new();
    let mut lines = yaml.lines().filter(|line| !line.trim_start().starts_with('#')).peekable();
    while let Some(line) = lines.next() {
        let Some((key, value)) = line.trim_start_matches([' ', '-']).split_once(':') else { continue };
        let mut value = value.trim().trim_matches('"').to_owned();
        if value == "|" {
            value.clear();
            while let Some(more) = lines.next_if(|next| indent(next) > indent(line)) {
                value.push_str(more.trim());
                value.push(' ');
            }
        }
        if key == "alert" {
            alerts.push(Alert { name: value, ..Alert::default() });
            continue;
        }
        let Some(alert) = alerts.last_mut() else { continue };
        match key {
            "expr" => alert.expression = value,
            "severity" => alert.severity = value,
            "summary" => alert.summary = value,
            "description" => alert.description = value,
            "runbook" => alert.runbook = value,
            _ => {}
        }
    }
    alerts
}

/// All dashboards.
pub fn dashboards() -> Vec<Dashboard> {
    let folder = fs::read_dir(packaging("grafana")).expect("a folder").map(|entry| entry.expect("an entry").path());
    let mut paths: Vec<PathBuf> = folder.collect();
    paths.sort();
    let read = |path: &PathBuf| Dashboard {
        file: path.file_name().expect("a name").to_string_lossy().into_owned(),
        value: serde_json::from_str(&fs::read_to_string(path).expect("a text")).expect("JSON"),
    };
    paths.iter().map(read).collect()
}

impl Dashboard {
    /// Its panels, those that only group others too.
    pub fn panels(&self) -> &[Value] {
        self.value["panels"].as_array().expect("panels")
    }

    /// Its variables.
    pub fn variables(&self) -> &[Value] {
        self.value["templating"]["list"].as_array().expect("variables")
    }

    /// The expressions of its panels and annotations.
    pub fn expressions(&self) -> Vec<String> {
        let targets = self.panels().iter().filter_map(|panel| panel["targets"].as_array()).flatten();
        let annotations = self.value["annotations"]["list"].as_array().into_iter().flatten();
        let text = |query: &Value| query["expr"].as_str().expect("an expression").to_owned();
        targets.chain(annotations).map(text).collect()
    }
}

/// An expression of a dashboard as Prometheus gets it, where every variable of the reader stands for all values.
pub fn without_variables(expression: &str) -> String {
    let intervals =
        ["$__rate_interval", "$__interval"].iter().fold(expression.to_owned(), |text, name| text.replace(name, "1m"));
    let variables = ["$job", "$instance", "$listener", "$pool", "$backend"];
    variables.iter().fold(intervals, |text, name| text.replace(name, ".+"))
}
