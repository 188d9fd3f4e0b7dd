//! Connections that notice nothing of what becomes of tcplb.

use super::lab::{AT, Lab, config};
use rustix::process::Signal;
use std::io::Write;
use testkit::{Conn, eventually};

const CLIENTS: usize = 100;

fn clients(lab: &Lab) -> Vec<Conn> {
    let clients = (0..CLIENTS).map(|_| lab.connect(AT));
    clients.inspect(|client| assert!(client.hear_line().starts_with('s'))).collect()
}

fn all_go_on(clients: &[Conn], what: &str) {
    for client in clients {
        client.assert_echoes(what);
    }
}

#[test]
fn no_connection_notices_a_reload_a_restart_a_kill_or_an_upgrade() {
    let Some(lab) = Lab::new() else { return };
    let _servers = [2, 3, 4].map(|last| lab.server(last));
    let three = config(&format!("'{AT}'"), "", &[2, 3, 4]).replace("rise = 1", "rise = 1\ninitial = 'down'");
    let kernel = lab.start(&three);
    kernel.wait_for("up", &["s2", "s3", "s4"]);
    let clients = clients(&lab);

    kernel.reload(&config(&format!("'{AT}'"), "algorithm = 'maglev'", &[2, 3]));
    all_go_on(&clients, "a reload that removes a backend");
    assert!(!lab.names(AT, 10).contains_key("s4"));
    kernel.reload(&three);

    kernel.end(Signal::KILL);
    all_go_on(&clients, "a kill");
    assert_eq!(lab.names(AT, 30).values().sum::<usize>(), 30, "new clients are served too");

    let kernel = lab.start_again();
    let names = lab.names(AT, 30);
    assert!(names.keys().all(|name| name.starts_with('s')), "a start that awaits its probes: {names:?}");
    kernel.wait_for("up", &["s2", "s3", "s4"]);
    all_go_on(&clients, "a start after a kill");
    eventually("the connections of before are counted", || {
        kernel.get("/v1/status")["listeners"][0]["active_connections"] == CLIENTS
    });

    let answer = kernel.call("POST", "/v1/upgrade", "");
    assert_eq!(answer.status, 200, "{answer:?} {}", kernel.process.output());
    all_go_on(&clients, "an upgrade");
    assert_eq!(lab.names(AT, 30).values().sum::<usize>(), 30, "the rules stay");
    kernel.wait_for("up", &["s2", "s3", "s4"]);
    assert_eq!(kernel.call("PATCH", "/v1/pools/pool/backends/s2", r#"{"weight":0}"#).status, 200);
    assert!(!lab.names(AT, 10).contains_key("s2"), "the new process keeps the rules");
}

#[test]
fn a_stop_refuses_new_clients_and_a_start_takes_up_the_connections_that_went_on() {
    let Some(lab) = Lab::new() else { return };
    let _servers = [2, 3].map(|last| lab.server(last));
    let kernel = lab.start(&config(&format!("'{AT}'"), "", &[2, 3]));
    kernel.wait_for("up", &["s2", "s3"]);
    let clients = clients(&lab);
    let said = kernel.end(Signal::TERM);
    assert!(said.contains("tcplb kernel flush"), "{said}");
    assert!(lab.try_connect(AT).is_err());
    all_go_on(&clients, "a stop");
    let kernel = lab.start_again();
    kernel.wait_for("up", &["s2", "s3"]);
    all_go_on(&clients, "a start");
    assert_eq!(lab.names(AT, 10).values().sum::<usize>(), 10);
    eventually("they are counted", || kernel.metric("tcplb_connections_active", &[]) == CLIENTS as u64);
    kernel.end(Signal::TERM);
    let said = lab.run(&["kernel", "flush"]);
    assert!(said.contains("removed the table"), "{said}");
    eventually("its connections are gone", || (&clients[0]).write_all(b"x").is_err());
    assert!(!lab.nft(&["list", "tables"]).contains("tcplb"));
}

#[test]
fn a_table_that_another_program_removes_comes_back() {
    let Some(lab) = Lab::new() else { return };
    let _servers = [2, 3].map(|last| lab.server(last));
    let kernel = lab.start(&config(&format!("'{AT}'"), "", &[2, 3]));
    kernel.wait_for("up", &["s2", "s3"]);
    let changes = kernel.metric("tcplb_kernel_changes_total", &[]);
    // Rules of others are none of its business.
    lab.nft(&["add", "table", "inet", "other"]);
    assert_eq!(kernel.metric("tcplb_kernel_changes_total", &[]), changes);
    for _ in 0..2 {
        lab.nft(&["flush", "ruleset"]);
        assert!(lab.try_connect(AT).is_err(), "no rule leads to a server");
        eventually("new clients are served", || {
            let names = lab.names(AT, 10);
            names.get("s2") == Some(&5) && names.get("s3") == Some(&5)
        });
    }
    let said = kernel.end(Signal::TERM);
    let lines = |text: &str| said.matches(text).count();
    assert_eq!(lines("another program changed or removed the nftables table"), 2, "{said}");
    assert_eq!(lines("the kernel's rules are as they should be again"), 2, "{said}");
}

#[test]
fn a_second_tcplb_of_the_network_namespace_is_refused_and_changes_nothing() {
    let Some(lab) = Lab::new() else { return };
    let _servers = [2, 3].map(|last| lab.server(last));
    let text = config(&format!("'{AT}'"), "", &[2, 3]);
    let kernel = lab.start(&text);
    kernel.wait_for("up", &["s2", "s3"]);
    let said = lab.start_in_vain(&[], &config("'10.9.1.1:81'", "", &[2]));
    assert!(said.contains("another tcplb keeps the nftables table"), "{said}");
    assert_eq!(lab.names(AT, 10).values().sum::<usize>(), 10);
    assert!(lab.try_connect("10.9.1.1:81").is_err());
    // The name is free with the end of the process, however that ends.
    kernel.end(Signal::KILL);
    lab.start(&text).wait_for("up", &["s2", "s3"]);
}

#[test]
fn an_upgrade_to_the_proxy_leaves_no_rules_in_force_and_a_start_warns_of_them() {
    let Some(lab) = Lab::new() else { return };
    let _servers = [2, 3].map(|last| lab.server(last));
    let text = config(&format!("'{AT}'"), "", &[2]);
    let of_proxy = config(&format!("'{AT}'"), "", &[3]).replace("engine = 'kernel'", "engine = 'proxy'");
    let kernel = lab.start(&text);
    kernel.wait_for("up", &["s2"]);
    lab.write(&of_proxy);
    let answer = kernel.call("POST", "/v1/upgrade", "");
    assert_eq!(answer.status, 200, "{answer:?} {}", kernel.process.output());
    eventually("the proxy serves", || lab.names(AT, 4).get("s3") == Some(&4));
    drop(kernel);

    let kernel = lab.start(&text.replace(AT, "10.9.1.1:82"));
    kernel.wait_for("up", &["s2"]);
    kernel.end(Signal::KILL);
    let said = lab.start(&of_proxy.replace(AT, "10.9.1.1:82")).end(Signal::TERM);
    assert!(said.contains("flush` removes it"), "{said}");
    lab.run(&["kernel", "flush"]);
    let said = lab.start(&of_proxy.replace(AT, "10.9.1.1:82")).end(Signal::TERM);
    assert!(!said.contains("kernel flush"), "{said}");
}

#[test]
fn connections_of_a_removed_backend_end_after_an_upgrade_as_on_remove_says() {
    let Some(lab) = Lab::new() else { return };
    let _servers = [2, 3].map(|last| lab.server(last));
    let with = |servers: &[u8]| config(&format!("'{AT}'"), "on_remove = 'drain 3s'", servers);
    let kernel = lab.start(&with(&[2, 3]));
    kernel.wait_for("up", &["s2", "s3"]);
    let clients: Vec<_> = (0..4).map(|_| lab.connect(AT)).map(|client| (client.hear_line(), client)).collect();
    kernel.reload(&with(&[3]));
    let answer = kernel.call("POST", "/v1/upgrade", "");
    assert_eq!(answer.status, 200, "{answer:?} {}", kernel.process.output());
    clients.iter().for_each(|(name, client)| client.assert_echoes(name));
    let (gone, stay): (Vec<_>, Vec<_>) = clients.iter().partition(|(name, _)| name == "s2");
    assert_eq!((gone.len(), stay.len()), (2, 2));
    for (_, client) in gone {
        eventually("it is reset", || (&*client).write_all(b"x").is_err());
    }
    stay.iter().for_each(|(name, client)| client.assert_echoes(name));
}

#[test]
fn a_change_that_the_kernel_does_not_take_is_reported_to_its_caller() {
    let Some(lab) = Lab::new() else { return };
    let _servers = [2, 3].map(|last| lab.server(last));
    let text = config(&format!("'{AT}'"), "", &[2, 3]);
    let kernel = lab.start(&text);
    kernel.wait_for("up", &["s2", "s3"]);
    let warns = |answer: testkit::Answer| answer.body.contains("do not have this change yet");
    lab.nft(&["flush", "ruleset"]);
    lab.nft(&["add", "table", "inet", "tcplb"]);
    eventually("a finding says why", || kernel.get("/v1/status")["findings"].to_string().contains("did not make it"));
    lab.write(&config(&format!("'{AT}'"), "", &[2]));
    assert!(warns(kernel.call("POST", "/v1/reload", "")));
    assert!(warns(kernel.call("PATCH", "/v1/pools/pool/backends/s2", r#"{"weight":2}"#)));
    lab.nft(&["delete", "table", "inet", "tcplb"]);
    lab.write(&text);
    assert!(!warns(kernel.call("POST", "/v1/reload", "")));
    assert_eq!(lab.names(AT, 10).values().sum::<usize>(), 10);
}
