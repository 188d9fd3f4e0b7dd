//! One of two balancers dies under load, and the other one serves its clients. keepalived moves their address, or BIRD withdraws
//! one of two equal-cost routes. The files are those of packaging/ha, which docs/scale.md describes.

use serde_json::Value;
use std::process::Command;
use testkit::{need, need_root};

/// What the clients of `packaging/ha/try` saw of a SIGKILL; `None` if it cannot run here.
fn killed(way: &str, daemon: &str) -> Option<Value> {
    need_root().then_some(())?;
    for tool in ["python3", "ip", "unshare", "curl", daemon] {
        need(tool)?;
    }
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/packaging/ha/try");
    let output = Command::new(script)
        .args(["--tcplb", env!("CARGO_BIN_EXE_tcplb"), "--way", way, "--fault", "kill", "--json"])
        // On a busy machine an answer takes long, which is no failure.
        .args(["--patience", "2"])
        .output()
        .expect("run packaging/ha/try");
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{stdout}{stderr}");
    println!("{stdout}");
    Some(serde_json::from_str(&stdout).expect("an object"))
}

/// Every client that connected before and after comes back to its backend.
#[track_caller]
fn assert_kept(row: &Value) {
    let clients = row["clients"].as_u64().expect("a count");
    assert!(clients > 100 && row["kept"] == clients, "{row}");
}

#[test]
fn a_killed_balancers_clients_come_back_to_their_backends_through_the_other_one() {
    let Some(row) = killed("vrrp", "keepalived") else { return };
    assert_kept(&row);
    let (open, returned) = (&row["open"], &row["returned"]);
    assert!(row["lost"] == *open && *open != 0, "open connections end with their balancer: {row}");
    assert_eq!(returned["has_address"], false, "the address stays where it is when the balancer returns: {row}");
    assert_eq!(returned["lost"], 0, "{row}");
}

#[test]
fn a_killed_balancer_behind_equal_cost_routes_is_withdrawn_and_the_others_choose_the_same_backends() {
    let Some(row) = killed("ecmp", "bird") else { return };
    assert_kept(&row);
    let count = |value: &Value| value.as_u64().expect("a count");
    assert!(count(&row["lost"]) < count(&row["open"]), "connections of the other balancer go on: {row}");
    assert_eq!(row["returned"]["has_address"], true, "{row}");
}
