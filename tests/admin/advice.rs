//! What an operator may not have meant is done and warned of.

use crate::support::Balancer;
use serde_json::{Value, json};

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
