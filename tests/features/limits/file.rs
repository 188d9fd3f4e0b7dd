//! The same from a configuration file, by the program itself: what the file says holds, and a reload changes it.

use super::{WAIT, assert_served, assert_waits, client, named, narrow, stopped};
use crate::balancer::{self, Balancer};
use rustix::process::Signal;
use std::io::Write;
use testkit::{ConfigFile, Conn, eventually};

#[test]
fn limits_in_a_file_hold_and_a_reload_changes_them() {
    let (server, mut later) = (named("a"), stopped("b"));
    let file = ConfigFile::empty();
    let many: String = (0..100_000).map(|at| format!("10.{}.{}.0/24\n", at / 256 % 256, at % 256)).collect();
    let list = file.beside("deny.txt", &format!("{many}127.0.0.5\n"));
    let text = format!(
        r#"
[[listener]]
name = "web"
bind = ["127.0.0.1:0"]
pool = "web"
deny = ["127.0.0.2"]
deny_file = "{}"
connection_rate_per_source = "2/s"

[[listener]]
name = "later"
bind = ["127.0.0.1:0"]
pool = "later"

[[pool]]
name = "web"
health.kind = "off"
backend = [{{ address = "{}" }}]

[[pool]]
name = "later"
no_backend = "wait 20s"
health.kind = "off"
backend = [{{ address = "{}" }}]
"#,
        list.display(),
        server.at(),
        later.at()
    );
    let tcplb = file.whole(text.as_str()).start();
    let connect = |ip: [u8; 4]| Conn::attempt_from(ip, tcplb.at());

    connect([127, 0, 0, 2]).assert_reset();
    let line = tcplb.after("listener web refused 127.0.0.2:");
    assert!(line.ends_with(": denied"), "{line}");
    let served = (0..40).filter(|_| connect([127, 0, 0, 3]).line().is_ok()).count();
    assert!((2..40).contains(&served), "{served} of 40");
    assert_served(&connect([127, 0, 0, 4]));
    connect([127, 0, 0, 5]).assert_reset();

    tcplb.file().beside("deny.txt", "127.0.0.4\n127.0.0.999\n");
    tcplb.signal(Signal::HUP);
    tcplb.after("deny.txt:2: expected a prefix");
    connect([127, 0, 0, 5]).assert_reset();
    assert_served(&connect([127, 0, 0, 4]));
    tcplb.file().beside("deny.txt", "127.0.0.4 # moved there\n");
    tcplb.signal(Signal::HUP);
    let changed = tcplb.after("reload: listener web changed: deny_file ");
    assert!(changed.contains("(100001 prefixes, ") && changed.contains("(1 prefixes, "), "{changed}");
    assert_served(&connect([127, 0, 0, 5]));
    connect([127, 0, 0, 4]).assert_reset();

    let client = Conn::to(&tcplb.listening()[1]);
    assert_waits(&client);
    tcplb.reload(&text.replace("deny = [\"127.0.0.2\"]", "limits = \"count\""));
    let changed = tcplb.after("reload: listener web changed: ");
    assert!(changed.starts_with("deny 127.0.0.2/32 → none, limits enforce → count"), "{changed}");
    assert_served(&connect([127, 0, 0, 2]));
    (0..10).for_each(|_| assert_served(&connect([127, 0, 0, 3])));
    later.start_again();
    assert_eq!(client.hear_line(), "b", "the reload did not make it leave");
}

/// Workers log the first at once; a burst may end before the others are due to be logged.
#[test]
fn the_log_counts_refused_clients_soon_and_at_the_end() {
    let server = named("a");
    let mut tcplb = ConfigFile::over([server.at()]).listener("deny = ['127.0.0.2']").start();
    let refused = |times| (0..times).for_each(|_| Conn::attempt_from([127, 0, 0, 2], tcplb.at()).assert_reset());
    refused(5);
    assert!(tcplb.after("listener default refused ").ends_with(": denied"));
    assert_eq!(tcplb.after("listener default refused "), "4 more clients: denied");
    refused(2);
    tcplb.signal(Signal::TERM);
    let (status, said) = tcplb.end();
    assert_eq!(status.code(), Some(0));
    assert!(said.iter().any(|line| line.ends_with("listener default refused 2 more clients: denied")), "{said:?}");
}

/// In this process, where both sides of a reload can be looked at.
#[test]
fn a_reload_keeps_counts_and_moves_waiting_clients() {
    let (server, other) = (named("a"), named("b"));
    let balancer = Balancer::of(&narrow(&server).listener("max_connections_per_source = 2").pool(WAIT));
    let first = client(&balancer);
    assert_served(&first);
    let second = balancer.client_from([127, 0, 0, 2]);
    assert_waits(&second);
    balancer.reload(|model| {
        model.listeners[0].max_connections_per_source = Some(1);
        model.pools[0].backends.push(balancer::backend("b", other.at()));
    });
    assert_eq!(second.hear_line(), "b", "the backend is in the new pool only");
    client(&balancer).assert_reset();
    eventually("two are left", || balancer.admission().totals.active() == 2);
    assert_eq!(balancer.admission().totals.accepted(), 3);
    drop(first);
    eventually("its place is free again", || client(&balancer).line().is_ok());
}

#[test]
fn an_ipv4_mapped_prefix_means_the_ipv4_prefix_in_every_list() {
    let server = named("a");
    let file = ConfigFile::empty();
    let (allowed, denied) = (file.beside("allow", "::ffff:127.0.2.0/120\n"), file.beside("deny", "::ffff:127.0.2.9\n"));
    let text = format!(
        r#"
[[listener]]
name = "trusting"
bind = ["127.0.0.1:0"]
accept_proxy = true
trusted_proxies = ["::ffff:127.0.1.0/120"]

[[listener]]
name = "listed"
bind = ["127.0.0.1:0"]
allow = ["::ffff:127.0.3.0/120"]
deny = ["::ffff:127.0.3.9"]
allow_file = {allowed:?}
deny_file = {denied:?}

[[pool]]
health.kind = "off"
backend = [{{ address = "{}" }}]
"#,
        server.at()
    );
    let tcplb = file.whole(text).start();
    let [trusting, listed] = tcplb.listening() else { panic!("two listeners") };

    let proxied = |ip: [u8; 4]| {
        let client = Conn::attempt_from(ip, trusting);
        // It may be reset before it can send anything.
        let _ = (&client).write_all(b"PROXY TCP4 192.0.2.7 192.0.2.1 4711 80\r\n");
        client
    };
    assert_served(&proxied([127, 0, 1, 1]));
    assert!(proxied([127, 0, 3, 1]).line().is_err(), "it is not trusted");

    for (ip, served) in
        [([127, 0, 2, 1], true), ([127, 0, 2, 9], false), ([127, 0, 3, 1], true), ([127, 0, 3, 9], false)]
    {
        assert_eq!(Conn::attempt_from(ip, listed).line().is_ok(), served, "{ip:?}");
    }
    Conn::attempt_from([127, 0, 0, 1], listed).assert_reset();
}
