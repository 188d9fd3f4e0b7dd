//! What `packaging/` has for systemd, Debian, Docker and Kubernetes, against the built program. Each configuration is valid, and each
//! command is one that the binary takes. The time for a stop is enough.

use crate::docs::commands::{FILE, check};
use std::fs;
use std::path::Path;
use std::time::Duration;
use tcplb::config::file;
use tcplb::config::model::Model;
use testkit::monitoring::packaging;

const MANIFESTS: [&str; 2] = ["kubernetes/deployment.yaml", "kubernetes/daemonset.yaml"];

fn text(name: &str) -> String {
    fs::read_to_string(packaging(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// The values of `key` in a text of lines like `KEY=VALUE` or `KEY: VALUE`.
fn values<'a>(text: &'a str, key: &str) -> Vec<&'a str> {
    text.lines().filter_map(|line| line.trim().strip_prefix(key)).map(str::trim).collect()
}

/// The words of a list like `["a", "b"]`.
fn list(text: &str) -> Vec<String> {
    text.split('"').skip(1).step_by(2).map(str::to_owned).collect()
}

/// The value of the ConfigMap's key `tcplb.toml`.
fn config_map() -> String {
    let manifest = text("kubernetes/common.yaml");
    let (_, block) = manifest.split_once("  tcplb.toml: |\n").expect("the file in the ConfigMap");
    let lines = block.lines().take_while(|line| line.is_empty() || line.starts_with("    "));
    lines.map(|line| line.strip_prefix("    ").unwrap_or(line).to_owned() + "\n").collect()
}

fn model(name: &str, text: &str) -> Model {
    let parsed = file::parse(text, name).unwrap_or_else(|mistakes| panic!("{name}: {mistakes}"));
    parsed.model
}

#[test]
fn every_configuration_is_valid() {
    for name in ["debian/tcplb.toml", "docker/tcplb.toml"] {
        model(name, &text(name));
    }
    model("the ConfigMap", &config_map());
    // The edit that the file proposes.
    let edited = text("debian/tcplb.toml")
        .replace("\nbind = ", "\n#bind = ")
        .replace("\n#bind = [\":80\"]", "\nbind = [\":80\"]");
    let edited = model("the edited file", &edited.replace("\n#  {", "\n  {"));
    assert_eq!(edited.listeners[0].bind.len() + edited.pools[0].backends.len(), 3, "{edited:?}");
}

#[test]
fn every_command_is_one_that_the_binary_takes() {
    let unit = text("tcplb.service");
    let starts = values(&unit, "ExecStart=").into_iter().chain(values(&unit, "ExecReload="));
    let mut commands: Vec<Vec<String>> = starts
        .filter(|line| line.contains("tcplb "))
        .map(|line| line.split_whitespace().map(str::to_owned).collect())
        .collect();
    assert_eq!(commands.len(), 2, "{commands:?}");
    let dockerfile = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("Dockerfile")).expect("a text");
    let entry = list(values(&dockerfile, "ENTRYPOINT ")[0]);
    let health = dockerfile.split("CMD ").find(|rest| rest.contains("status")).expect("a health check");
    commands.push(list(health.lines().next().expect("a line")));
    commands.push([entry.clone(), list(values(&dockerfile, "CMD ")[0])].concat());
    let compose = text("docker/compose.yaml");
    commands.extend(values(&compose, "command:").into_iter().map(|words| [entry.clone(), list(words)].concat()));
    assert_eq!(commands.len(), 7, "{commands:?}");
    let directory = tempfile::tempdir().expect("a directory");
    fs::write(directory.path().join("tcplb.toml"), FILE).expect("it is written");
    for command in commands {
        check(&command, directory.path()).unwrap_or_else(|why| panic!("{why}"));
    }
}

#[test]
fn a_stop_has_time_for_the_drain() {
    let needed = |model: &Model| model.global.shutdown_delay + model.global.shutdown_timeout;
    let seconds = |text: &str| Duration::from_secs(text.trim_end_matches('s').parse().expect("a number of seconds"));
    let pod = model("the ConfigMap", &config_map());
    for name in MANIFESTS {
        let granted = seconds(values(&text(name), "terminationGracePeriodSeconds:")[0]);
        assert!(granted > needed(&pod), "{name}: {granted:?}");
    }
    let debian = needed(&model("debian/tcplb.toml", &text("debian/tcplb.toml")));
    assert!(seconds(values(&text("tcplb.service"), "TimeoutStopSec=")[0]) > debian);
    let compose = needed(&model("docker/tcplb.toml", &text("docker/tcplb.toml")));
    assert!(seconds(values(&text("docker/compose.yaml"), "stop_grace_period:")[0]) > compose);
}

/// Both have the same pod, but for the port on the node.
#[test]
fn the_two_manifests_have_the_same_pod_and_its_ports() {
    let [deployment, daemon_set] = MANIFESTS.map(|name| {
        let manifest = text(name);
        let (_, pod) = manifest.split_once("      serviceAccountName:").expect("a pod");
        let pod = pod.split("---").next().unwrap_or_default().replace("              hostPort: 80\n", "");
        pod.to_owned()
    });
    assert_eq!(deployment, daemon_set);
    let pod = model("the ConfigMap", &config_map());
    let ports = values(&deployment, "containerPort:");
    let listens = [pod.listeners[0].bind[0].to_string(), pod.global.admin.expect("an admin API").to_string()];
    for (port, listens) in ports.into_iter().zip(listens) {
        assert!(listens.ends_with(&format!(":{port}")), "{listens}, and the manifest has {port}");
    }
    assert!(deployment.contains("path: /healthz, port: admin") && deployment.contains("path: /readyz, port: admin"));
}
