//! What does not work is refused with a reason, before anything is changed; and nothing but the own table is touched.

use super::lab::{AT, Lab, config};
use rustix::process::Signal;
use testkit::eventually;

#[test]
fn a_missing_privilege_a_missing_nft_and_a_foreign_table_are_one_clear_error_each() {
    let Some(lab) = Lab::new() else { return };
    let text = config(&format!("'{AT}'"), "", &[2]);
    let before = lab.nft(&["list", "ruleset"]);
    let without = ["setpriv", "--bounding-set=-net_admin", "--inh-caps=-net_admin"];
    let said = lab.start_in_vain(&without, &text);
    assert!(said.contains("CAP_NET_ADMIN") && said.contains("engine"), "{said}");
    let hidden = ["unshare", "--mount", "sh", "-c", HIDE, "sh"];
    let said = lab.start_in_vain(&hidden, &text);
    assert!(said.contains("nft"), "{said}");
    assert_eq!(lab.nft(&["list", "ruleset"]), before);
    lab.nft(&["add", "table", "inet", "tcplb"]);
    let said = lab.start_in_vain(&[], &text);
    assert!(said.contains("inet tcplb"), "{said}");
    assert_eq!(lab.nft(&["list", "ruleset"]).trim(), "table inet tcplb {\n}");
}

/// Starts a program where there is no nft.
const HIDE: &str = "for nft in /usr/sbin/nft /sbin/nft /usr/bin/nft /bin/nft; do \
                    if [ -e $nft ]; then mount --bind /dev/null $nft; fi; done; exec \"$@\"";

#[test]
fn an_address_where_another_program_listens_is_refused() {
    let Some(lab) = Lab::new() else { return };
    let _server = lab.server(2);
    let listen = |at: &str| lab.balancer.inside(|| std::net::TcpListener::bind(at).unwrap());
    let other = listen(AT);
    let text = config(&format!("'{AT}'"), "", &[2]);
    let said = lab.start_in_vain(&[], &text);
    assert!(said.contains(&format!("can't listen on {AT}: Address already in use")), "{said}");
    drop(other);
    let running = lab.start(&text);
    running.wait_for("up", &["s2"]);
    // No socket of the listener keeps another program from listening there later, but a further address is tried.
    let free = "10.9.1.1:81";
    let other = listen(free);
    lab.write(&config(&format!("'{AT}', '{free}'"), "", &[2]));
    let answer = running.call("POST", "/v1/reload", "");
    assert!(answer.status == 400 && answer.body.contains("Address already in use"), "{answer:?}");
    drop(other);
    assert_eq!(running.call("POST", "/v1/reload", "").status, 200);
}

#[test]
fn a_proxy_listener_becomes_one_of_the_kernel_by_reload_at_its_own_address() {
    let Some(lab) = Lab::new() else { return };
    let _server = lab.server(2);
    let with = |engine: &str| {
        let listener = format!("[[listener]]\nname = 'other'\nbind = ['10.9.1.1:81']\nengine = '{engine}'\n[[pool]]");
        config(&format!("'{AT}'"), "", &[2]).replace("[[pool]]", &listener)
    };
    let running = lab.start(&with("proxy"));
    running.wait_for("up", &["s2"]);
    let of_proxy = lab.connect("10.9.1.1:81");
    assert_eq!(of_proxy.hear_line(), "s2");
    for (engine, rules) in [("kernel", 2), ("proxy", 1), ("kernel", 2)] {
        running.reload(&with(engine));
        eventually("new clients are served", || lab.names("10.9.1.1:81", 4).get("s2") == Some(&4));
        let listed = lab.nft(&["list", "map", "inet", "tcplb", "listeners4"]);
        assert_eq!(listed.matches("goto").count(), rules, "{listed}");
    }
    of_proxy.assert_echoes("a connection of the proxy goes on");
}

#[test]
fn the_rest_of_the_rules_stays_byte_by_byte() {
    let Some(lab) = Lab::new() else { return };
    let _server = lab.server(2);
    lab.nft(&["add", "table", "inet", "other"]);
    lab.nft(&["add", "chain", "inet", "other", "in", "{ type filter hook input priority 0 ; }"]);
    lab.nft(&["add", "rule", "inet", "other", "in", "tcp", "dport", "22", "accept"]);
    lab.nft(&["add", "set", "inet", "other", "some", "{ type ipv4_addr ; }"]);
    lab.nft(&["add", "element", "inet", "other", "some", "{ 192.0.2.1, 192.0.2.2 }"]);
    let others = || lab.nft(&["list", "table", "inet", "other"]);
    let before = others();
    let kernel = lab.start(&config(&format!("'{AT}'"), "", &[2]));
    kernel.wait_for("up", &["s2"]);
    assert_eq!(lab.names(AT, 3).get("s2"), Some(&3));
    assert_eq!(others(), before);
    kernel.end(Signal::TERM);
    lab.run(&["kernel", "flush"]);
    assert_eq!(lab.nft(&["list", "ruleset"]), before);
    let said = lab.run(&["kernel", "flush"]);
    assert!(!said.trim().is_empty(), "it says that there is nothing");
}

#[test]
fn a_reload_that_adds_the_first_listener_of_the_kernel_is_refused_and_an_upgrade_takes_it_over() {
    let Some(lab) = Lab::new() else { return };
    let _server = lab.server(2);
    let kernel = config(&format!("'{AT}'"), "", &[2]);
    let running = lab.start(&kernel.replace("engine = 'kernel'", ""));
    running.wait_for("up", &["s2"]);
    lab.write(&kernel);
    let answer = running.call("POST", "/v1/reload", "");
    assert_eq!(answer.status, 400, "{answer:?}");
    assert!(answer.body.contains("listener web: engine") && answer.body.contains("upgrade"), "{answer:?}");
    assert_eq!(lab.connect(AT).hear_line(), "s2");
    let answer = running.call("POST", "/v1/upgrade", "");
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(running.get("/v1/status")["listeners"][0]["engine"], "kernel");
    eventually("the new process forwards", || lab.names(AT, 1).get("s2") == Some(&1));
}
