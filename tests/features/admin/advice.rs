//! What an operator may not have meant is done and warned of.

use crate::admin::support::Balancer;
use serde_json::{Value, json};
use std::net::TcpListener;

const BACKENDS: &str = "/v1/pools/default/backends";

#[test]
fn a_weight_that_the_algorithm_ignores_is_set_and_warned_of() {
    let ignored =
        "pool default: round-robin ignores weights, but they differ (from 1 to 5): weighted-round-robin goes by weight";
    let balancer =
        Balancer::start(&["-b", "127.0.0.1:1,name=a", "-b", "127.0.0.1:2,name=b", "--health", "off", "-a", "rr"]);
    let change = |body: Value| balancer.call("PATCH", &format!("{BACKENDS}/a"), &body.to_string()).json(200);
    assert_eq!(change(json!({ "weight": 1 })).get("warnings"), None);
    let changed = change(json!({ "weight": 5 }));
    assert_eq!((&changed["weight"], &changed["warnings"]), (&json!(5), &json!([ignored])));
    assert!(balancer.process.line(" WARN ").ends_with(ignored));
    // A change of state has nothing to do with it.
    assert_eq!(change(json!({ "state": "draining" })).get("warnings"), None);
    let added = json!({ "address": "127.0.0.1:3", "weight": 5 });
    assert_eq!(balancer.call("POST", BACKENDS, &added.to_string()).json(201)["warnings"], json!([ignored]));
    let weight = balancer.client(&["backends", "weight", "default", "a", "5"]);
    assert!(weight.status.success());
    assert_eq!(String::from_utf8(weight.stderr).unwrap(), format!("warning: {ignored}\n"));
    // By the default algorithm it is not ignored.
    let balancer = Balancer::start(&["-b", "127.0.0.1:1,name=a", "-b", "127.0.0.1:2,name=b", "--health", "off"]);
    let changed = balancer.call("PATCH", &format!("{BACKENDS}/a"), "{\"weight\":5}").json(200);
    assert_eq!(changed.get("warnings"), None);
}

#[test]
fn a_dry_run_of_a_reload_reports_what_it_would_meet() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    // No other test takes a port there.
    let own = TcpListener::bind("127.80.1.1:0").unwrap().local_addr().unwrap();
    let text = |more: &str, backend: &str| {
        format!(
            "[global]\nadmin = '127.0.0.1:0'\n[[listener]]\nbind = ['{own}', '127.0.0.1:0'{more}]\n[[pool]]\nhealth.kind = 'off'\n\
             backend = [{{ address = '{backend}' }}]\n"
        )
    };
    let balancer = Balancer::from_text(text("", "127.0.0.1:1"));
    let tried = || balancer.call("POST", "/v1/reload?dry_run=true", "").json(200)["warnings"].clone();
    assert_eq!(tried(), json!([]), "what it has bound itself is not busy");
    let at = taken.local_addr().unwrap();
    balancer.process.file().rewrite(&text(&format!(", '{at}'"), "nowhere.invalid:1"));
    let warnings = tried();
    let lines: Vec<&str> = warnings.as_array().unwrap().iter().filter_map(Value::as_str).collect();
    assert_eq!(lines.len(), 2, "{lines:?}");
    assert!(lines[0].starts_with("pool default: can't resolve nowhere.invalid:1: "), "{lines:?}");
    assert!(lines[1].starts_with(&format!("listener default: can't listen on {at} now: Address already")), "{lines:?}");
    let reload = balancer.client(&["reload", "--dry-run"]);
    assert!(reload.status.success());
    assert_eq!(
        String::from_utf8(reload.stderr).unwrap().lines().filter(|line| line.starts_with("warning: ")).count(),
        2
    );
    // With the port that the kernel picked, a backend can be recognised as the listener.
    let body = json!({ "address": balancer.listen }).to_string();
    let why = balancer.call("POST", "/v1/pools/default/backends", &body).error(400);
    assert!(why.contains("this is where listener default listens"), "{why}");
    let body = json!({ "address": balancer.admin }).to_string();
    let why = balancer.call("POST", "/v1/pools/default/backends", &body).error(400);
    assert!(why.contains("this is where the admin API listens"), "{why}");
}

#[test]
fn a_reload_refuses_a_backend_that_is_a_bound_address_of_a_listener_or_the_admin_api() {
    let text = |bind: &str, backend: &str| {
        format!(
            "[global]\nadmin = '127.0.0.1:0'\nsandbox = 'off'\n[[listener]]\nbind = ['127.0.0.1:0'{bind}]\n[[pool]]\nhealth.kind = 'off'\n\
             backend = [{{ address = '{backend}' }}]\n"
        )
    };
    let balancer = Balancer::from_text(text("", "127.0.0.1:1"));
    let refused = |bind: &str, backend: &str, why: &str| {
        let answer = balancer.reload(&text(bind, backend));
        assert!(answer.status == 400 && answer.body.contains(why), "{answer:?}");
    };
    refused("", &balancer.listen, "this is where listener default listens");
    refused("", &balancer.admin, "this is where the admin API listens");
    // A backend that the API adds, and a listener of the file that comes later.
    let socket = balancer.process.file().path("a.sock");
    let address = format!("unix:{}", socket.display());
    let body = json!({ "address": address, "name": "late" }).to_string();
    balancer.call("POST", "/v1/pools/default/backends", &body).json(201);
    let why = "pool default: backend late: this is where listener default listens";
    refused(&format!(", '{address}'"), "127.0.0.1:1", why);
    assert!(!socket.exists(), "a refused reload leaves no socket file");
    balancer.reload(&text("", "127.0.0.1:2")).json(200);
}
