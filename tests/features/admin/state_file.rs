//! `[global] state_file`: what the API changes survives a restart, whatever ends the process.

use crate::admin::support::Balancer;
use rustix::process::Signal;
use serde_json::Value;
use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use tempfile::TempDir;
use testkit::{ConfigFile, Tcplb, eventually, need_root};

/// A configuration beside its state file. Both outlive the processes that use them.
struct Place {
    directory: TempDir,
    file: ConfigFile,
}

impl Place {
    fn new() -> Place {
        Place { directory: tempfile::tempdir().unwrap(), file: ConfigFile::of("") }
    }

    fn state(&self) -> PathBuf {
        self.directory.path().join("state.toml")
    }

    /// Writes the configuration: a pool of these backends, each with its weight.
    fn write(&self, backends: &[(&str, u16)]) -> PathBuf {
        self.write_with(&self.state(), "", backends)
    }

    fn write_with(&self, state: &Path, global: &str, backends: &[(&str, u16)]) -> PathBuf {
        let mut text = format!(
            "[global]\nworkers = 1\nadmin = \"127.0.0.1:0\"\nstate_file = \"{}\"\n{global}\n[[listener]]\nbind = \
             [\"127.0.0.1:0\"]\n[[pool]]\nname = \"web\"\n[pool.health]\nkind = \"off\"\n",
            state.display()
        );
        for (number, (name, weight)) in backends.iter().enumerate() {
            let port = number + 1;
            text.push_str(&format!(
                "[[pool.backend]]\nname = \"{name}\"\naddress = \"127.0.0.1:{port}\"\nweight = {weight}\n"
            ));
        }
        self.file.rewrite(&text)
    }

    fn start(&self) -> Balancer {
        Balancer::of(Tcplb::from_file(&self.file.path("tcplb.toml")).start().into())
    }
}

/// Name, weight and state of each backend.
fn backends(balancer: &Balancer) -> Vec<(String, u64, String)> {
    let all = balancer.get("/v1/pools/web/backends").json(200);
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let backend = |it: &Value| (text(&it["name"]), it["weight"].as_u64().unwrap(), text(&it["state"]));
    all.as_array().unwrap().iter().map(backend).collect()
}

fn named(backends: &[(&str, u64, &str)]) -> Vec<(String, u64, String)> {
    backends.iter().map(|(name, weight, state)| ((*name).to_owned(), *weight, (*state).to_owned())).collect()
}

fn patch(balancer: &Balancer, backend: &str, body: &str) {
    balancer.call("PATCH", &format!("/v1/pools/web/backends/{backend}"), body).json(200);
}

fn diff(balancer: &Balancer) -> Vec<String> {
    let changes = balancer.get("/v1/config/diff").json(200);
    changes.as_array().unwrap().iter().map(|change| change.as_str().unwrap().to_owned()).collect()
}

/// Changes the weight of web1. False: the process was killed meanwhile.
fn is_changed(admin: &str, weight: u64) -> bool {
    let body = format!("{{\"weight\":{weight}}}");
    let head = "PATCH /v1/pools/web/backends/web1 HTTP/1.1\r\nHost: localhost\r\nContent-Length:";
    let answer = || {
        let mut stream = TcpStream::connect(admin).ok()?;
        write!(stream, "{head} {}\r\n\r\n{body}", body.len()).ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        answer.starts_with("HTTP/1.1 200").then_some(())
    };
    answer().is_some()
}

#[test]
fn changes_by_the_api_survive_a_stop_and_a_changed_file_wins_as_in_a_reload() {
    let place = Place::new();
    place.write(&[("web1", 1), ("web2", 1), ("web3", 1), ("web4", 1)]);
    let mut balancer = place.start();
    assert_eq!(diff(&balancer), Vec::<String>::new());
    patch(&balancer, "web1", r#"{"weight":5}"#);
    patch(&balancer, "web2", r#"{"state":"draining"}"#);
    balancer.call("DELETE", "/v1/pools/web/backends/web3", "").json(200);
    let added = r#"{"address":"127.0.0.1:9","name":"web9","weight":2,"max_connections":7,"backup":true}"#;
    balancer.call("POST", "/v1/pools/web/backends", added).json(201);
    let (changed, changes) = (backends(&balancer), diff(&balancer));
    assert_eq!(changed, named(&[("web1", 5, "up"), ("web2", 1, "draining"), ("web4", 1, "up"), ("web9", 2, "up")]));
    assert_eq!(
        changes,
        [
            "pool web: backend web1 changed: weight 1 → 5 (0 connections)",
            "pool web: backend web9 added (0 connections)",
            "pool web: backend web3 removed (0 connections)",
            "pool web: backend web2 changed: state enabled → draining (0 connections)",
        ]
    );
    // A stop right after the last change loses nothing.
    balancer.process.signal(Signal::TERM);
    assert!(balancer.process.wait_exit().success());

    let mut balancer = place.start();
    assert_eq!((backends(&balancer), diff(&balancer)), (changed.clone(), changes));
    balancer.process.wait_for_line("from the state file: pool web: backend web1 changed: weight 1 → 5");
    let shown = String::from_utf8(balancer.client(&["config", "show"]).stdout).unwrap();
    assert!(shown.contains("name = \"web9\"") && shown.contains("weight = 5"), "{shown}");
    // A reload of the same file changes nothing.
    balancer.call("POST", "/v1/reload", "").json(200);
    assert_eq!(backends(&balancer), changed);
    balancer.process.signal(Signal::TERM);
    assert!(balancer.process.wait_exit().success());

    // In the file, web1 has another weight now, web2 is gone, and web3, which was removed, has another weight.
    place.write(&[("web1", 3), ("web4", 1), ("web3", 4)]);
    let balancer = place.start();
    let all = named(&[("web1", 3, "up"), ("web4", 1, "up"), ("web3", 4, "up"), ("web9", 2, "up")]);
    assert_eq!(backends(&balancer), all);
}

#[test]
fn a_kill_at_any_time_leaves_a_state_that_a_start_reads() {
    let place = Place::new();
    place.write(&[("web1", 1), ("web2", 1)]);
    let mut last = 1;
    for round in 0..5u64 {
        let mut balancer = place.start();
        let found = backends(&balancer)[0].1;
        assert!((1..=last).contains(&found), "{found} was never set: {last}");
        // Another thread changes it without end, until the process is killed.
        let first = round * 1_000 + 2;
        let (admin, state) = (balancer.admin.clone(), place.state());
        let changes =
            thread::spawn(move || (first..).take_while(|weight| is_changed(&admin, *weight)).last().unwrap_or(first));
        eventually("a change of this round is saved", || {
            let text = fs::read_to_string(&state).unwrap_or_default();
            (first..first + 1_000).any(|weight| text.contains(&format!("weight = {weight},")))
        });
        balancer.process.signal(Signal::KILL);
        balancer.process.wait_exit();
        // The one that was under way may be in force, too.
        last = changes.join().unwrap() + 1;
    }
    let balancer = place.start();
    assert!(backends(&balancer)[0].1 > 4_000, "what the file had when the process was killed");
}

#[test]
fn a_state_file_that_is_wrong_or_unreadable_ends_the_start_with_the_place_of_the_mistake() {
    let place = Place::new();
    let path = place.write(&[("web1", 1)]);
    let refused = || {
        let (status, output) = Tcplb::from_file(&path).start_in_vain();
        assert_eq!(status.code(), Some(1), "{output}");
        output
    };
    fs::write(
        place.state(),
        "version = 1\n[[backend]]\npool = \"web\"\nruns = { address = \"a:1\", weight = 99999 }\n",
    )
    .unwrap();
    let output = refused();
    let want = format!(
        "error: state_file: {}:4: weight: expected a number from 0 to 65535, got `99999`",
        place.state().display()
    );
    assert!(output.contains(&want), "{output}");
    let check = testkit::tcplb(&["check", path.to_str().unwrap()]).output().unwrap();
    assert!(String::from_utf8_lossy(&check.stderr).contains("state.toml:4: weight: expected"), "{check:?}");
    fs::write(place.state(), [0xff, 0xfe]).unwrap();
    assert!(refused().contains("expected a text in UTF-8"));
    fs::remove_file(place.state()).unwrap();
    fs::create_dir(place.state()).unwrap();
    assert!(refused().contains("state_file: can't read"));
    place.write_with(&place.directory.path().join("none/state.toml"), "", &[("web1", 1)]);
    assert!(refused().contains("there is no directory"));
}

#[test]
fn a_change_that_the_file_has_no_place_for_is_dropped_with_a_line_in_the_log() {
    let place = Place::new();
    place.write(&[("web1", 1)]);
    let entry = "version = 1\n[[backend]]\npool = \"gone\"\nruns = { name = \"web2\", address = \"127.0.0.1:1\" }\n";
    fs::write(place.state(), entry).unwrap();
    let balancer = place.start();
    balancer.process.wait_for_line(
        "WARN state_file: pool gone: backend web2: its change at run time is dropped: the file has no such pool",
    );
    assert_eq!(backends(&balancer), named(&[("web1", 1, "up")]));
}

#[test]
fn while_the_file_cannot_be_written_tcplb_serves_and_logs_it_once() {
    let place = Place::new();
    let directory = place.directory.path().join("state");
    fs::create_dir(&directory).unwrap();
    let state = directory.join("state.toml");
    place.write_with(&state, "sandbox = \"off\"", &[("web1", 1)]);
    let balancer = place.start();
    eventually("the file is there", || state.is_file());
    fs::remove_dir_all(&directory).unwrap();
    patch(&balancer, "web1", r#"{"weight":2}"#);
    patch(&balancer, "web1", r#"{"weight":3}"#);
    balancer.process.wait_for_line("state_file: can't write");
    assert_eq!(backends(&balancer), named(&[("web1", 3, "up")]));
    fs::create_dir(&directory).unwrap();
    balancer.process.wait_for_line("is written again");
    assert!(fs::read_to_string(&state).unwrap().contains("weight = 3"));
    assert_eq!(balancer.process.count_lines("state_file: can't write"), 1);
}

#[test]
fn a_full_disk_keeps_the_last_state_that_fitted() {
    if !need_root() {
        return;
    }
    let place = Place::new();
    let disk = place.directory.path().join("disk");
    fs::create_dir(&disk).unwrap();
    let path = place.write_with(&disk.join("state.toml"), "", &[("web1", 1)]);
    // A file system of sixteen pages, in a mount namespace of its own.
    let script = format!("mount -t tmpfs -o size=64k none {} && exec \"$@\"", disk.display());
    let wrapped = Tcplb::from_file(&path).wrapped(["unshare", "--mount", "sh", "-c", &script, "sh"]);
    let balancer = Balancer::of(wrapped.start().into());
    let inside = format!("/proc/{}/root{}", balancer.process.pid(), disk.display());
    let inside = Path::new(&inside);
    patch(&balancer, "web1", r#"{"weight":7}"#);
    let saved = || fs::read_to_string(inside.join("state.toml")).unwrap_or_default();
    eventually("it is saved", || saved().contains("weight = 7"));
    let mut command = Command::new("dd");
    command.arg("if=/dev/zero").arg(format!("of={}", inside.join("ballast").display())).args(["bs=1k", "count=64"]);
    assert!(!command.output().unwrap().status.success(), "the disk is not full");
    patch(&balancer, "web1", r#"{"weight":8}"#);
    balancer.process.wait_for_line("state_file: can't write");
    assert!(saved().contains("weight = 7"), "the file is as it was");
    assert_eq!(backends(&balancer), named(&[("web1", 8, "up")]));
    fs::remove_file(inside.join("ballast")).unwrap();
    eventually("it is saved again", || saved().contains("weight = 8"));
}

#[test]
fn config_diff_exits_with_3_if_something_differs() {
    let balancer = Balancer::from_text(
        "[global]\nworkers = 1\nadmin = \"127.0.0.1:0\"\n[[listener]]\nbind = [\"127.0.0.1:0\"]\n[[pool]]\nname = \"web\"\n\
         [pool.health]\nkind = \"off\"\n[[pool.backend]]\nname = \"web1\"\naddress = \"127.0.0.1:1\"\n",
    );
    let output = balancer.client(&["config", "diff"]);
    assert_eq!((output.status.code(), output.stdout.len()), (Some(0), 0), "{output:?}");
    patch(&balancer, "web1", r#"{"weight":4,"state":"disabled"}"#);
    let output = balancer.client(&["config", "diff"]);
    assert_eq!(output.status.code(), Some(3), "{output:?}");
    assert_eq!(
        String::from_utf8_lossy(&output.stdout),
        "pool web: backend web1 changed: weight 1 → 4 (0 connections)\n\
         pool web: backend web1 changed: state enabled → disabled (0 connections)\n"
    );
    let json = balancer.client(&["config", "diff", "--json"]);
    let lines: Vec<String> = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!((json.status.code(), lines.len()), (Some(3), 2));
    // What takes effect at the start only differs until then.
    balancer.process.file().rewrite(&balancer.process.file().text().replace("workers = 1", "workers = 2"));
    balancer.call("POST", "/v1/reload", "").json(200);
    assert!(diff(&balancer).contains(&"global: workers 2 → 1 needs a restart".to_owned()), "{:?}", diff(&balancer));
    let gone = testkit::tcplb(&["config", "diff", "--admin", "unix:/nowhere/admin.sock"]).output().unwrap();
    assert_eq!(gone.status.code(), Some(4));
}
