//! The built program with a source in its file: settings, calls, and a restart without the source.

use crate::admin::support::{Balancer, Process};
use rustix::process::Signal;
use serde_json::{Value, json};
use std::fs;
use std::path::PathBuf;
use tempfile::TempDir;
use testkit::{ConfigFile, Tcplb};

/// A configuration, and the list that its source reads. Both outlive the processes that use them.
struct Place {
    directory: TempDir,
    file: ConfigFile,
}

impl Place {
    fn new(global: &str, keys: &str) -> Place {
        let place = Place { directory: tempfile::tempdir().unwrap(), file: ConfigFile::of("") };
        let text = format!(
            "[global]\nworkers = 1\nadmin = \"127.0.0.1:0\"\n{global}\n[[listener]]\nbind = [\"127.0.0.1:0\"]\n[[pool]]\nname = \
             \"web\"\n[pool.health]\nkind = \"off\"\n[[pool.discover]]\n{keys}\npath = \"{}\"\n",
            place.list().display()
        );
        place.file.rewrite(&text.replace("STATE", &place.directory.path().join("state.toml").display().to_string()));
        place
    }

    fn list(&self) -> PathBuf {
        self.directory.path().join("backends.json")
    }

    /// Replaces the list.
    fn write(&self, backends: Value) {
        let new = self.directory.path().join("new");
        fs::write(&new, json!({ "backend": backends }).to_string()).unwrap();
        fs::rename(&new, self.list()).unwrap();
    }

    fn start(&self) -> Balancer {
        Balancer::of(Tcplb::from_file(&self.file.path("tcplb.toml")).start().into())
    }
}

/// Name, weight and state of each backend.
fn shown(status: &Value) -> Vec<String> {
    let backends = status["pools"][0]["backends"].as_array().unwrap();
    let text = |it: &Value, key: &str| it[key].as_str().unwrap().to_owned();
    backends.iter().map(|it| format!("{} {} {}", text(it, "name"), it["weight"], text(it, "state"))).collect()
}

#[track_caller]
fn wait_for(balancer: &Balancer, want: &[&str]) {
    balancer.wait("the backends are there", |status| shown(status) == want);
}

#[test]
fn what_a_source_finds_has_the_defaults_of_the_source() {
    let place = Place::new("", "kind = \"file\"\nweight = 7\nmax_connections = 9\nbackup = true");
    place.write(json!([
        { "name": "a", "address": "10.0.0.1:80" },
        { "name": "b", "address": "10.0.0.2:80", "weight": 2, "max_connections": 3, "backup": false },
    ]));
    let balancer = place.start();
    wait_for(&balancer, &["a 7 up", "b 2 up"]);
    let status = balancer.get("/v1/status").json(200);
    let of = |number: usize, key: &str| status["pools"][0]["backends"][number][key].clone();
    assert_eq!([of(0, "connections_limit"), of(1, "connections_limit")], [json!(9), json!(3)]);
    assert_eq!([of(0, "backup"), of(1, "backup")], [json!(true), json!(false)]);
    assert_eq!(of(0, "origin"), "discovery:file");
    let source = &status["pools"][0]["discovery"][0];
    assert_eq!((&source["source"], &source["ok"], &source["backends"]), (&json!("file"), &json!(true), &json!(2)));
    let path = place.list().display().to_string();
    assert_eq!(source["watches"], path);

    let output = balancer.client(&["status", "web"]);
    let text = String::from_utf8(output.stdout).unwrap();
    let line = text.lines().last().unwrap();
    assert!(line.starts_with(&format!("source file ({path}): 2 backends, answered ")), "{text}");
    let rows: Vec<&str> = text.lines().filter(|line| line.ends_with("discovery:file")).collect();
    assert_eq!(rows.len(), 2, "{text}");
    let listed = String::from_utf8(balancer.client(&["backends"]).stdout).unwrap();
    assert_eq!(listed.matches("discovery:file").count(), 2, "{listed}");
    place.write(json!("no list"));
    balancer.wait("the error shows", |status| status["pools"][0]["discovery"][0]["ok"] == false);
    let text = String::from_utf8(balancer.client(&["status"]).stdout).unwrap();
    let line = text.lines().find(|line| line.starts_with("source file (")).unwrap();
    assert!(line.contains(": 2 backends, answered ") && line.contains(" ago, error: "), "{text}");
}

#[test]
fn on_empty_decides_whether_the_last_backend_leaves() {
    let lists = |name: &str| json!([{ "name": name, "address": "10.0.0.1:80" }]);
    let keeps = Place::new("", "kind = \"file\"");
    keeps.write(lists("a"));
    let balancer = keeps.start();
    wait_for(&balancer, &["a 1 up"]);
    keeps.write(json!([]));
    balancer.process.wait_for_line("it keeps its 1 backend: the answer is empty");
    wait_for(&balancer, &["a 1 up"]);
    let clears = Place::new("", "kind = \"file\"\non_empty = \"clear\"");
    clears.write(lists("a"));
    let balancer = clears.start();
    wait_for(&balancer, &["a 1 up"]);
    clears.write(json!([]));
    wait_for(&balancer, &[]);
}

#[test]
fn the_status_and_the_events_show_what_a_source_has_left_out_and_when_it_fails() {
    let place = Place::new("", "kind = \"file\"");
    place.write(json!([]));
    let balancer = place.start();
    let path = place.list().display().to_string();
    balancer
        .process
        .wait_for_line(&format!("pool web: discovery by file: it answers without a backend; it looks at {path}"));
    let finding = format!("source file of pool web finds no backend: it looks at {path}");
    let has = |status: &Value, text: &str| {
        status["findings"].as_array().unwrap().iter().any(|finding| finding["text"].as_str().unwrap().contains(text))
    };
    balancer.wait("the finding shows", |status| has(status, &finding));
    let bad = (1..8).map(|number| json!({ "name": format!("bad{number}"), "address": "nowhere" }));
    place.write(json!([json!({ "name": "a", "address": "10.0.0.1:80" })].into_iter().chain(bad).collect::<Vec<_>>()));
    wait_for(&balancer, &["a 1 up"]);
    let source = |status: &Value| status["pools"][0]["discovery"][0].clone();
    balancer.wait("all are counted", |status| source(status)["entries_left_out"] == 7);
    let left_out = source(&balancer.get("/v1/status").json(200))["left_out"].clone();
    assert_eq!(left_out.as_array().unwrap().len(), 5, "{left_out}");
    assert!(left_out[4].as_str().unwrap().starts_with("bad5: "), "{left_out}");
    let text = String::from_utf8(balancer.client(&["status", "web"]).stdout).unwrap();
    assert!(text.contains(", 7 entries left out\n  bad1: ") && text.ends_with("\n  and 2 more\n"), "{text}");

    place.write(json!([]));
    balancer.wait("what it keeps shows", |status| source(status)["kept"] == 1);
    let status = balancer.get("/v1/status").json(200);
    assert_eq!(source(&status)["kept_because"], "the answer is empty, and on_empty is keep");
    assert!(has(&status, "source file of pool web keeps 1 of its 1 backends: the answer is empty"), "{status}");

    let mut following = Process::start(&["events", "-f", "--json", "--admin", &balancer.admin]);
    place.write(json!("no list"));
    let failed = following.wait_for_line("\"kind\":\"source_failed\"");
    assert!(failed.contains("\"by\":\"discovery:file\"") && failed.contains("to be a list"), "{failed}");
    place.write(json!([json!({ "name": "a", "address": "10.0.0.1:80" })]));
    following.wait_for_line("\"kind\":\"source_back\"");
    following.signal(Signal::TERM);
    following.wait_exit();
}

#[test]
fn a_start_without_its_source_serves_what_it_found_last_with_what_operators_changed() {
    let place = Place::new("state_file = \"STATE\"", "kind = \"file\"");
    place.write(json!([{ "name": "a", "address": "10.0.0.1:80" }, { "name": "b", "address": "10.0.0.2:80" }]));
    let mut balancer = place.start();
    wait_for(&balancer, &["a 1 up", "b 1 up"]);
    let path = "/v1/pools/web/backends/a";
    balancer.call("PATCH", path, r#"{"weight":5,"state":"draining"}"#).json(200);
    let refused = balancer.call("DELETE", path, "").json(409);
    assert!(refused["error"].as_str().unwrap().contains("from discovery by file"), "{refused}");
    let diff = balancer.get("/v1/config/diff").json(200);
    let lines: Vec<&str> = diff.as_array().unwrap().iter().map(|line| line.as_str().unwrap()).collect();
    assert!(lines.contains(&"pool web: backend b added (0 connections), by discovery:file"), "{lines:?}");
    assert!(lines.contains(&"pool web: backend a changed: weight 1 → 5 (0 connections)"), "{lines:?}");
    // The operator's, not the source's.
    assert!(lines.contains(&"pool web: backend a changed: state enabled → draining (0 connections)"), "{lines:?}");
    let events = balancer.get("/v1/events").json(200);
    let of_operator = events["events"].as_array().unwrap().iter().filter(|event| event["by"] == "api");
    let kinds: Vec<&str> = of_operator.map(|event| event["kind"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["config", "backend_state"], "{events}");
    let config = balancer.get("/v1/config").body;
    assert!(config.contains("[[pool.discover]]") && !config.contains("10.0.0.1"), "{config}");
    balancer.process.signal(Signal::TERM);
    assert!(balancer.process.wait_exit().success());

    fs::remove_file(place.list()).unwrap();
    let balancer = place.start();
    assert_eq!(shown(&balancer.get("/v1/status").json(200)), ["a 5 draining", "b 1 up"]);
    balancer.wait("the error shows", |status| status["pools"][0]["discovery"][0]["ok"] == false);
    wait_for(&balancer, &["a 5 draining", "b 1 up"]);
    place.write(json!([{ "name": "a", "address": "10.0.0.1:80", "weight": 2 }]));
    wait_for(&balancer, &["a 5 draining"]);
}
